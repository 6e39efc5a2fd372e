"""Starting and stopping: bounded, idempotent, leaving nothing, and the name is free again."""

from __future__ import annotations

import logging
import socket
import threading
import time
from pathlib import Path

import pytest
import zmq

from tests.eventually import eventually
from tests.trees import SECRET, TreeFactory
from zcell import Cell
from zcell.errors import CellClosedError
from zcell.limits import Limits
from zcell.message import ReturnCode


def test_a_cell_is_a_context_manager_and_is_ready_without_a_parent(tree: TreeFactory) -> None:
    cells = tree()
    cell = cells.make("server")
    assert cell.fqcn == "server"
    ready = [cell.is_ready]
    with cell as entered:
        assert entered is cell
        cell.wait_ready(1)
        ready.append(cell.is_ready)
    ready.append(cell.is_ready)
    assert ready == [False, True, False]


def test_start_and_stop_twice_are_the_same_as_once(tree: TreeFactory) -> None:
    cell = tree().make("server")
    assert cell.start() is cell
    endpoints = cell.endpoints
    assert cell.start() is cell
    assert cell.endpoints == endpoints
    cell.stop()
    cell.stop()


def test_stopping_a_cell_that_was_never_started_is_fine(tree: TreeFactory) -> None:
    tree().make("server").stop()


def test_using_a_cell_that_is_not_running_is_an_error_that_says_so(tree: TreeFactory) -> None:
    cell = tree().make("server")
    for when in ("not started", "stopped"):
        with pytest.raises(CellClosedError, match="server"):
            cell.request("server", "c", "t", timeout=1)
        with pytest.raises(CellClosedError):
            cell.send("server", "c", "t")
        with pytest.raises(CellClosedError):
            cell.wait_ready(1)
        if when == "not started":
            cell.start()
            cell.stop()


def test_a_stopped_cell_is_not_started_again(tree: TreeFactory) -> None:
    cell = tree().make("server")
    cell.start()
    cell.stop()
    with pytest.raises(CellClosedError, match="stopped"):
        cell.start()


def test_ports_are_resolved_and_several_endpoints_work(tcp_tree: TreeFactory, short_path: Path) -> None:
    cells = tcp_tree()
    server = cells.start("server", listen=["tcp://127.0.0.1:0", f"ipc://{short_path}/two", "tcp://127.0.0.1:*"])
    first, second, third = server.endpoints
    assert first.startswith("tcp://127.0.0.1:")
    assert int(first.rpartition(":")[2]) > 0
    assert int(third.rpartition(":")[2]) > 0
    assert second == f"ipc://{short_path}/two"
    for number, endpoint in enumerate(server.endpoints):
        assert cells.add(f"site-{number}", parent=endpoint, listen=[]).request("server", "zcell", "ping", timeout=5).ok


def test_an_endpoint_in_use_is_a_named_error_and_leaves_nothing(tcp_tree: TreeFactory) -> None:
    cells = tcp_tree("server")
    endpoint = cells["server"].endpoints[0]
    second = cells.make("site-1", listen=[endpoint], parent=endpoint)
    with pytest.raises(OSError, match=endpoint.rpartition(":")[2]):
        second.start()
    second.stop()
    assert cells["server"].request("server", "zcell", "ping", timeout=5).ok


def test_an_ipc_address_in_use_is_not_taken_over(short_path: Path) -> None:
    url = f"ipc://{short_path}/s"
    with Cell("server", listen=[url], secret=SECRET) as server:
        with pytest.raises(OSError, match=str(short_path)):
            Cell("server", listen=[url], secret=SECRET).start()
        with Cell("site-1", parent=url, secret=SECRET) as site:
            site.wait_ready(10)
            assert site.request("server", "zcell", "ping", timeout=5).payload["instance"] == server.instance


def test_a_socket_that_a_dead_cell_left_is_replaced_and_a_file_is_not(short_path: Path) -> None:
    left = short_path / "left"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    with Cell("server", listen=[f"ipc://{left}"], secret=SECRET) as server:
        assert server.is_ready
    assert not left.exists()
    file = short_path / "thesis.txt"
    file.write_text("three years")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        Cell("server", listen=[f"ipc://{file}"], secret=SECRET).start()
    assert file.read_text() == "three years"


def test_a_port_in_a_shared_context_can_be_used_again_at_once() -> None:
    """Closing is asynchronous where the context goes on: the next cell of that address waits for it."""
    with zmq.Context() as context:
        url = "tcp://127.0.0.1:0"
        for _ in range(30):
            with Cell("server", listen=[url], secret=SECRET, context=context) as server:
                url = server.endpoints[0]


@pytest.mark.parametrize("url", ["tcp://", "127.0.0.1:80", "udp://127.0.0.1:1", "tcp://127.0.0.1", "ipc://", "", "http://x/"])
def test_a_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="listen"):
        Cell("server", listen=[url], secret=SECRET)
    with pytest.raises(ValueError, match="parent"):
        Cell("site-1", parent=url, secret=SECRET)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fqcn": "a b"}, ValueError),
        ({"fqcn": ""}, ValueError),
        ({"fqcn": 7}, TypeError),
        ({"secret": b"short"}, ValueError),
        ({"secret": 7}, TypeError),
        ({"listen": 7}, TypeError),
        ({"kit": "/nowhere"}, ValueError),
        ({"limits": 5}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Cell(**{"fqcn": "server", "secret": SECRET, **options})  # type: ignore[arg-type]


def test_an_open_endpoint_must_be_asked_for_explicitly(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="insecure"), Cell("server", listen=["tcp://0.0.0.0:0"], secret=SECRET):
        pass
    with caplog.at_level(logging.WARNING, "zcell"), Cell("server", listen=["tcp://0.0.0.0:0"], secret=SECRET, insecure=True):
        pass
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "0.0.0.0" in warnings[0].getMessage()


def test_a_loopback_cell_warns_of_nothing(tree: TreeFactory, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zcell"):
        cells = tree("server", "site-1")
        assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok
        cells.close()
    assert caplog.records == []


def test_the_same_name_can_be_used_again_and_again(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    instances = set()
    for _ in range(4):
        site = cells.restart("site-1")
        instances.add(site.instance)
        assert site.request("server", "zcell", "ping", timeout=5).ok
    assert len(instances) == 4


def test_stopping_ends_requests_that_wait(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    release, entered = threading.Event(), threading.Event()

    @cells["server"].handler("slow", "t")
    def slow(_: object) -> None:
        entered.set()
        release.wait(20)

    future = cells["site-1"].request_future("server", "slow", "t", timeout=60)
    assert entered.wait(5)
    began = time.monotonic()
    cells.stop("site-1")
    reply = future.result(1)
    assert time.monotonic() - began < 5
    assert reply.rc in (ReturnCode.ABORTED, ReturnCode.COMM_ERROR, ReturnCode.SERVICE_UNAVAILABLE)
    assert "site-1" in reply.error or "stop" in reply.error
    release.set()


def test_stopping_does_not_wait_for_a_handler_longer_than_it_was_told(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    release = threading.Event()
    entered = threading.Event()

    @cells["server"].handler("stuck", "t")
    def stuck(_: object) -> None:
        entered.set()
        release.wait(30)

    cells["site-1"].request_future("server", "stuck", "t", timeout=60)
    assert entered.wait(5)
    server = cells["server"]
    began = time.monotonic()
    server.stop(timeout=0.3)
    assert time.monotonic() - began < 2
    release.set()
    cells.stop("server")


def test_stop_called_from_a_handler_does_not_deadlock(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    done = threading.Event()

    def stop(_: object) -> None:
        cells["server"].stop(1.0)
        done.set()

    cells["server"].register("life", "stop", stop)
    cells["site-1"].request_future("server", "life", "stop", timeout=10)
    assert done.wait(10)


def test_many_threads_may_stop_at_once(tree: TreeFactory) -> None:
    cell = tree("server")["server"]
    threads = [threading.Thread(target=cell.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_cell_that_was_never_started_holds_nothing(tree: TreeFactory) -> None:
    """The leak check sees what is left."""
    for _ in range(20):
        tree().make("server")


def test_a_secret_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET.hex())
    path.chmod(0o644)
    with pytest.raises((ValueError, PermissionError), match="chmod 600") as caught:
        Cell("server", secret=path).start()
    assert str(path) in str(caught.value)
    assert SECRET.decode() not in str(caught.value)


def test_without_a_secret_the_cells_of_one_user_share_one_made_on_first_use() -> None:
    with Cell("server", listen=["tcp://127.0.0.1:0"]) as server, Cell("site-1", parent=server.endpoints[0]) as site:
        site.wait_ready(10)
        assert site.request("server", "zcell", "ping", timeout=5).ok


def test_no_secret_shows_in_a_repr(tree: TreeFactory) -> None:
    cell = tree("server")["server"]
    assert SECRET.decode() not in repr(cell)
    assert "server" in repr(cell)
    assert SECRET.hex() not in repr(vars(cell)) if hasattr(cell, "__dict__") else True


def test_every_limit_reaches_the_cell(tree: TreeFactory) -> None:
    limits = Limits(handler_threads=3)
    assert tree("server", limits=limits)["server"].limits is limits


def test_the_number_of_handler_threads_is_bounded(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=Limits(handler_threads=3))
    running, most = [0], [0]
    lock, release = threading.Lock(), threading.Event()

    @cells["server"].handler("work", "t")
    def work(_: object) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        release.wait(10)
        with lock:
            running[0] -= 1

    cells["server"].register("work too", "t", work)
    futures = [cells["site-1"].request_future("server", c, "t", timeout=20) for c in ("work", "work too") for _ in range(5)]
    eventually(lambda: running[0] == 3, what="the pool is full")
    release.set()
    assert all(f.result(20).ok for f in futures)
    assert most[0] == 3
