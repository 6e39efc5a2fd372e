"""Transactions: who is expected, how they end, what their refs answer then."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.download.conftest import CHUNK, SMALL_CHUNKS, Pair
from tests.eventually import eventually
from tests.trees import TreeFactory
from zcell import Cell
from zcell.download import DownloadStatus, TransactionStatus
from zcell.errors import DownloadError
from zcell.limits import Limits


class Done:
    """Counts what on_done is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, TransactionStatus, list[Any]]] = []

    def __call__(self, tx_id: str, status: TransactionStatus, objs: list[Any]) -> None:
        self.calls.append((tx_id, status, objs))

    def only(self) -> TransactionStatus:
        eventually(lambda: self.calls)
        assert len(self.calls) == 1
        return self.calls[0][1]


def reason_of(cell: Cell, owner: str, ref_id: str, **options: Any) -> str:
    with pytest.raises(DownloadError) as failure:
        cell.downloads.fetch_bytes(owner, ref_id, **{"idle_timeout": 5, **options})
    return failure.value.reason


def test_a_number_of_receivers_finishes_when_that_many_confirmed_every_ref(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", "site-3")
    done = Done()
    with cells["server"].downloads.transaction(receivers=2, on_done=done) as tx:
        refs = [tx.add_bytes(b"a"), tx.add_bytes(b"b")]
    cells["site-1"].downloads.fetch_bytes("server", refs[0])
    cells["site-2"].downloads.fetch_bytes("server", refs[0])
    cells["site-3"].downloads.fetch_bytes("server", refs[1])
    assert tx.status is TransactionStatus.ACTIVE, "nobody has both"
    cells["site-1"].downloads.fetch_bytes("server", refs[1])
    cells["site-2"].downloads.fetch_bytes("server", refs[1])
    assert tx.wait(5) is TransactionStatus.FINISHED
    assert done.only() is TransactionStatus.FINISHED


def test_a_ref_added_later_is_waited_for(tcp_pair: Pair) -> None:
    with tcp_pair.owner.downloads.transaction(receivers=1) as tx:
        first = tx.add_bytes(b"a")
        tcp_pair.receiver.downloads.fetch_bytes("server", first)
        second = tx.add_bytes(b"b")
    assert tx.status is TransactionStatus.ACTIVE
    tcp_pair.receiver.downloads.fetch_bytes("server", second)
    assert tx.wait(5) is TransactionStatus.FINISHED


def test_a_second_download_by_one_receiver_does_not_count_twice(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    delivered: list[Any] = []
    tx = cells["server"].downloads.transaction(receivers=2)
    ref = tx.add_bytes(b"a", on_delivered=lambda *report: delivered.append(report))
    for _ in range(3):
        cells["site-1"].downloads.fetch_bytes("server", ref)
    assert tx.status is TransactionStatus.ACTIVE
    assert tx.statistics().confirmed == {(ref.id, "site-1")}
    tx.delete()
    eventually(lambda: delivered)
    assert len(delivered) == 1


def test_a_stranger_to_a_restricted_ref_gets_the_answer_of_an_unknown_one(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    tx = cells["server"].downloads.transaction(receivers=["site-1"])
    ref = tx.add_bytes(b"a")
    unknown = _error(cells["site-2"], "x" * len(ref.id))
    assert _error(cells["site-2"], ref.id) == unknown
    assert cells["site-1"].downloads.fetch_bytes("server", ref) == b"a"
    assert tx.wait(5) is TransactionStatus.FINISHED
    assert _error(cells["site-2"], ref.id) == unknown, "nor does a stranger learn that it existed"
    assert reason_of(cells["site-1"], "server", ref.id) == "gone"


def _error(cell: Cell, ref_id: str) -> str:
    with pytest.raises(DownloadError) as failure:
        cell.downloads.fetch_bytes("server", ref_id)
    assert failure.value.reason == "unknown_ref"
    return str(failure.value).partition("failed: ")[2]


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_stranger_cannot_confirm_or_step_a_restricted_ref(tree: TreeFactory, by_steps: bool) -> None:
    cells = tree("server", "site-1", "site-2")
    tx = cells["server"].downloads.transaction(receivers=["site-1"])
    ref = tx.add_bytes(b"a")
    stream = bytes(16)
    if by_steps:
        message = {"ref_id": ref.id, "stream": stream, "step": 0, "state": None}
        reply = cells["site-2"].request("server", "zcell.steps", "step", message, timeout=5)
        assert reply.payload["failure"] == "unknown_ref"
    else:
        message = {"ref_id": ref.id, "stream": stream, "sequence": 1, "bytes_done": 1, "items_done": 1}
        cells["site-2"].request("server", "zcell.transfer", "done", message, timeout=5)
    assert tx.statistics().confirmed == frozenset()


def test_nobody_active_for_the_idle_timeout_ends_it(tcp_pair: Pair) -> None:
    done = Done()
    tx = tcp_pair.owner.downloads.transaction(receivers=2, idle_timeout=0.3, on_done=done)
    ref = tx.add_bytes(b"a")
    tcp_pair.receiver.downloads.fetch_bytes("server", ref)
    assert tx.wait(5) is TransactionStatus.TIMEOUT
    assert done.only() is TransactionStatus.TIMEOUT
    assert reason_of(tcp_pair.receiver, "server", ref.id) == "gone"


def test_a_quorum_finishes_once_the_rest_is_silent(tcp_pair: Pair) -> None:
    tx = tcp_pair.owner.downloads.transaction(receivers=3, min_receivers=1, idle_timeout=0.3)
    ref = tx.add_bytes(b"a")
    began = time.monotonic()
    tcp_pair.receiver.downloads.fetch_bytes("server", ref)
    assert tx.wait(5) is TransactionStatus.FINISHED
    assert time.monotonic() - began >= 0.3


def test_too_few_for_the_quorum_is_a_timeout(tcp_pair: Pair) -> None:
    tx = tcp_pair.owner.downloads.transaction(receivers=3, min_receivers=2, idle_timeout=0.3)
    tcp_pair.receiver.downloads.fetch_bytes("server", tx.add_bytes(b"a"))
    assert tx.wait(5) is TransactionStatus.TIMEOUT


def test_a_receiver_that_works_after_the_last_byte_keeps_the_transaction_alive(tcp_pair: Pair) -> None:
    tx = tcp_pair.owner.downloads.transaction(receivers=1, idle_timeout=1.5)
    ref = tx.add_bytes(b"x" * 3 * CHUNK)
    release = threading.Event()

    class Unzipping:
        def consume(self, ref_id: str, state: dict[Any, Any], data: Any) -> dict[Any, Any]:
            return state

        def download_completed(self, ref_id: str) -> None:
            assert release.wait(20)

        def download_failed(self, ref_id: str, reason: str) -> None: ...

    future = tcp_pair.receiver.downloads.fetch_future("server", ref, Unzipping(), idle_timeout=1.0)
    assert tx.wait(3.5) is TransactionStatus.ACTIVE
    assert not future.done()
    release.set()
    future.result(5)
    assert tx.wait(5) is TransactionStatus.FINISHED


@pytest.mark.parametrize("how", ["delete", "abort", "shutdown"])
def test_ending_it_ends_running_downloads_with_gone(tcp_pair: Pair, how: str) -> None:
    done = Done()
    tx = tcp_pair.owner.downloads.transaction(receivers=1, on_done=done)
    hold = threading.Event()
    ref = tx.add_stream(_blocked(hold))
    future = tcp_pair.receiver.downloads.fetch_bytes_future("server", ref, idle_timeout=10)
    eventually(lambda: tx.statistics().active_transfers)
    if how == "shutdown":
        hold.set()
        tcp_pair.owner.downloads.shutdown()
        tcp_pair.owner.downloads.shutdown()
    else:
        getattr(tx, how)()
        getattr(tx, how)()
    expected = {"delete": TransactionStatus.DELETED, "abort": TransactionStatus.ABORTED, "shutdown": TransactionStatus.ABORTED}
    assert done.only() is expected[how]
    error = future.exception(5)
    hold.set()
    assert isinstance(error, DownloadError)
    assert error.reason == "gone"
    if how != "shutdown":
        assert reason_of(tcp_pair.receiver, "server", ref.id) == "gone"
        with pytest.raises(RuntimeError, match="has ended"):
            tx.add_bytes(b"late")


def _blocked(hold: threading.Event) -> Any:
    yield b"x" * 3 * CHUNK
    hold.wait(20)


def test_an_exception_in_the_block_aborts_and_a_normal_exit_does_not(tcp_pair: Pair) -> None:
    downloads = tcp_pair.owner.downloads
    aborted = downloads.transaction()
    aborted.add_bytes(b"a")
    with pytest.raises(KeyError), aborted:
        raise KeyError("the user's own")
    assert aborted.status is TransactionStatus.ABORTED
    with downloads.transaction() as kept:
        kept.add_bytes(b"a")
    assert kept.status is TransactionStatus.ACTIVE


def test_gone_becomes_unknown_after_its_time(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=Limits(finished_ttl=0.2))
    tx = cells["server"].downloads.transaction()
    ref = tx.add_bytes(b"a")
    tx.delete()
    assert reason_of(cells["site-1"], "server", ref.id) == "gone"
    eventually(lambda: reason_of(cells["site-1"], "server", ref.id) == "unknown_ref")


def test_a_callback_that_raises_harms_nothing(tcp_pair: Pair) -> None:
    done = Done()

    def broken(*_: Any) -> None:
        raise RuntimeError("the user's callback is broken")

    tx = tcp_pair.owner.downloads.transaction(receivers=1, on_done=done, progress=broken)
    ref = tx.add_bytes(b"a", on_delivered=broken)
    assert tcp_pair.receiver.downloads.fetch_bytes("server", ref, progress=broken) == b"a"
    assert done.only() is TransactionStatus.FINISHED


def test_a_failed_receiver_is_reported_at_the_end_and_one_that_came_back_is_not(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    delivered: list[tuple[str, DownloadStatus]] = []
    tx = cells["server"].downloads.transaction(receivers=["site-1", "site-2"])
    ref = tx.add_bytes(b"abc", on_delivered=lambda _ref, receiver, status, _obj: delivered.append((receiver, status)))
    for name in ("site-1", "site-2"):
        assert reason_of(cells[name], "server", ref.id, max_bytes=1) == "sink_failed"
    eventually(lambda: len(tx.statistics().failed) == 2)
    cells["site-1"].downloads.fetch_bytes("server", ref)
    assert tx.statistics().failed == {(ref.id, "site-2")}
    tx.delete()
    eventually(lambda: len(delivered) == 2)
    assert delivered == [("site-1", DownloadStatus.SUCCESS), ("site-2", DownloadStatus.FAILED)]


def test_ref_ids_are_unguessable_url_safe_and_may_be_chosen(tcp_pair: Pair) -> None:
    tx = tcp_pair.owner.downloads.transaction()
    ids = {tx.add_bytes(b"").id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) >= 22 and i.replace("-", "").replace("_", "").isalnum() for i in ids)
    assert tx.add_bytes(b"chosen", ref_id="my.ref").id == "my.ref"
    assert tcp_pair.receiver.downloads.fetch_bytes("server", "my.ref") == b"chosen"
    with pytest.raises(ValueError, match="already on offer"):
        tx.add_bytes(b"again", ref_id="my.ref")
    with pytest.raises(ValueError, match="ref id"):
        tx.add_bytes(b"", ref_id="no spaces")


def test_wrong_arguments_are_named(tcp_pair: Pair, tmp_path: Any) -> None:
    downloads = tcp_pair.owner.downloads
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"receivers": 0}, ValueError, "receivers"),
        ({"receivers": "site-1"}, TypeError, "receivers"),
        ({"receivers": []}, ValueError, "receivers"),
        ({"receivers": ["bad name"]}, ValueError, "label"),
        ({"receivers": 2, "min_receivers": 3}, ValueError, "min_receivers"),
        ({"min_receivers": 0}, ValueError, "min_receivers"),
        ({"min_receivers": "all"}, TypeError, "min_receivers"),
        ({"idle_timeout": 0}, ValueError, "idle_timeout"),
    ]
    for arguments, kind, match in cases:
        with pytest.raises(kind, match=match):
            downloads.transaction(**arguments)
    tx = downloads.transaction(tx_id="one")
    with pytest.raises(ValueError, match="in use"):
        downloads.transaction(tx_id="one")
    with pytest.raises(FileNotFoundError):
        tx.add_file(tmp_path / "missing")
    with pytest.raises(ValueError, match="not a regular file"):
        tx.add_file(tmp_path)
    with pytest.raises(TypeError, match="add_bytes"):
        tx.add_stream(b"bytes are no stream")
    with pytest.raises(TypeError, match="producer"):
        tx.add({}, object())
    with pytest.raises(ValueError, match="spool_bytes"):
        tx.add_stream(iter([]), spool_bytes=1)


def test_finished_transactions_leave_nothing_but_their_tombstones(tcp_pair: Pair) -> None:
    downloads = tcp_pair.owner.downloads
    for _ in range(50):
        tx = downloads.transaction(receivers=1)
        tcp_pair.receiver.downloads.fetch_bytes("server", tx.add_bytes(b"a"))
        assert tx.wait(5) is TransactionStatus.FINISHED
    assert not downloads._transactions
    assert not downloads._answering._offers
    assert not downloads._answering._outgoing
    assert not tcp_pair.receiver.downloads._running


def test_one_file_for_four_receivers_is_read_once(tree: TreeFactory, tmp_path: Any) -> None:
    names = [f"site-{i}" for i in range(4)]
    cells = tree("server", *names, limits=SMALL_CHUNKS)
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 256 * 64)
    tx = cells["server"].downloads.transaction(receivers=4)
    ref = tx.add_file(source)
    futures = [cells[name].downloads.fetch_bytes_future("server", ref, idle_timeout=10) for name in names]
    assert all(future.result(20) == source.read_bytes() for future in futures)
    assert tx.wait(5) is TransactionStatus.FINISHED
    chunks = 64 * 65536 // CHUNK
    assert tx.statistics().chunks_loaded <= 2 * chunks, "shared, not read anew for each of the four"
