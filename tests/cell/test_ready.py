"""Coming up: what `wait_ready` says when the parent is absent, refuses, or is not who it should be."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.trees import SECRET, TreeFactory
from zcell import Abort, Cell
from zcell.errors import LinkError, LinkRefusedError
from zcell.limits import Limits


def test_a_parent_that_is_not_there_is_named_when_the_time_is_over(tree: TreeFactory) -> None:
    cells = tree()
    url = {"tcp": "tcp://127.0.0.1:9", "ipc": f"{cells.listen_url('server')}", "inproc": "inproc://nobody"}[cells.transport]
    site = cells.start("site-1", parent=url, listen=[])
    began = time.monotonic()
    with pytest.raises(LinkError, match=r"server") as caught:
        site.wait_ready(0.3)
    assert 0.2 < time.monotonic() - began < 1.5
    assert url in str(caught.value)
    assert not isinstance(caught.value, LinkRefusedError)
    assert not site.is_ready


def test_an_abort_ends_the_wait_at_once(tree: TreeFactory) -> None:
    cells = tree()
    cells.start("server")
    url = cells["server"].endpoints[0]
    cells.stop("server")
    site = cells.start("site-1", parent=url, listen=[])
    abort = Abort()
    threading.Timer(0.05, abort.trigger, ["changed my mind"]).start()
    began = time.monotonic()
    with pytest.raises(LinkError, match=r"no longer waits for server at .*: changed my mind"):
        site.wait_ready(60, abort)
    assert time.monotonic() - began < 10
    with pytest.raises(LinkError, match="changed my mind"):
        site.wait_ready(60, abort)


def test_a_parent_that_comes_later_is_found(tree: TreeFactory) -> None:
    cells = tree()
    cells.start("server")
    url = cells["server"].endpoints[0]
    cells.stop("server")
    site = cells.start("site-1", parent=url, listen=[], limits=Limits(reconnect_max=0.2))
    with pytest.raises(LinkError):
        site.wait_ready(0.2)
    cells.add("server", listen=[url])
    site.wait_ready(10)
    assert site.request("server", "zcell", "ping", timeout=5).ok


def test_waiting_threads_are_woken_when_the_link_comes_up(tree: TreeFactory) -> None:
    cells = tree()
    cells.start("server")
    url = cells["server"].endpoints[0]
    cells.stop("server")
    site = cells.start("site-1", parent=url, listen=[], limits=Limits(reconnect_max=0.1))
    ready: list[float] = []

    def wait() -> None:
        site.wait_ready(20)
        ready.append(time.monotonic())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    cells.add("server", listen=[url])
    for thread in threads:
        thread.join(20)
    assert len(ready) == 3
    assert max(ready) - min(ready) < 0.5


def test_a_wrong_secret_is_refused_at_once(tree: TreeFactory) -> None:
    cells = tree("server")
    site = cells.start("site-1", secret=b"another secret of 32 bytes here!", listen=[])
    began = time.monotonic()
    with pytest.raises(LinkRefusedError, match=r"secret") as caught:
        site.wait_ready(30)
    assert time.monotonic() - began < 5
    assert cells["server"].endpoints[0] in str(caught.value)
    assert "another secret" not in str(caught.value)
    assert cells["server"].statistics().links == ()


def test_a_name_that_is_alive_is_refused_at_once(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    other = tree_cell(cells, "site-1")
    try:
        with pytest.raises(LinkRefusedError, match=r"site-1"):
            other.wait_ready(30)
    finally:
        other.stop()
    assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok
    assert cells["server"].statistics().links == ("site-1",)


def tree_cell(cells: object, name: str) -> Cell:
    """A second cell of a name that the tree has already; not managed by the tree."""
    cell: Cell = cells.make(name, listen=[])  # type: ignore[attr-defined]
    return cell.start()


@pytest.mark.parametrize("name", ["site-2.job", "server", "site-1"])
def test_a_child_goes_to_its_own_parent_only(tree: TreeFactory, name: str) -> None:
    """site-1 is no place for a child of site-2, for its own double, nor for its parent."""
    cells = tree("server", "site-1")
    if name == "server":
        with pytest.raises(ValueError, match="server"):
            cells.make(name, parent=cells["site-1"].endpoints[0])
    else:
        stranger = cells.make(name, parent=cells["site-1"].endpoints[0], listen=[])
        with stranger, pytest.raises(LinkRefusedError, match=name):
            stranger.wait_ready(10)
    assert cells["site-1"].is_ready


def test_the_root_has_no_parent(tree: TreeFactory) -> None:
    cells = tree("server")
    with (
        pytest.raises(ValueError, match="server"),
        cells.make("server", parent=cells["server"].endpoints[0], listen=[]) as root,
    ):
        root.wait_ready(5)


def test_a_cell_below_the_root_without_a_parent_is_ready_and_alone(tree: TreeFactory) -> None:
    site = tree().add("site-1", parent=None)
    site.wait_ready(1)
    assert site.is_ready


def test_a_refused_cell_does_not_hammer_its_parent(tree: TreeFactory) -> None:
    """Trying again will not help: so it is not tried again and again."""
    cells = tree("server")
    site = cells.start("site-1", secret=b"another secret of 32 bytes here!", listen=[])
    with pytest.raises(LinkRefusedError):
        site.wait_ready(10)
    refused = dict(cells["server"].statistics().dropped)
    with pytest.raises(LinkRefusedError):
        site.wait_ready(0.5)
    after = cells["server"].statistics().dropped
    assert sum(after.values()) - sum(refused.values()) <= 2


def test_a_time_to_wait_must_be_positive(tree: TreeFactory) -> None:
    cell = tree("server")["server"]
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            cell.wait_ready(timeout)


def test_stopping_ends_a_wait_for_the_link(tree: TreeFactory) -> None:
    cells = tree()
    site = cells.start("site-1", parent={"tcp": "tcp://127.0.0.1:9"}.get(cells.transport, cells.listen_url("x")), listen=[])
    raised: list[BaseException] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            site.wait_ready(60)
        except Exception as error:  # noqa: BLE001  whatever it is, the test looks at it
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(5)
    cells.stop("site-1")
    thread.join(5)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_secrets_may_come_from_a_file(tree: TreeFactory, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text(SECRET.hex())
    cells = tree()
    cells.add("server", secret=path)
    cells.add("site-1", secret=path)
    eventually(lambda: cells["server"].is_connected("site-1"))
