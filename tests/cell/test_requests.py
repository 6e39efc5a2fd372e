"""Waiting for an answer: it ends by the answer, by the deadline, by abort or by a lost way, and says which."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from tests.eventually import eventually
from tests.trees import Tree, TreeFactory
from zcell.abort import Abort
from zcell.errors import CodecError, RequestError
from zcell.limits import Limits
from zcell.message import Request, ReturnCode


class Gate:
    """A handler that answers when it is told to."""

    def __init__(self, cells: Tree, name: str) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        cells[name].register("gate", "t", self._wait)

    def _wait(self, request: Request) -> Any:
        self.entered.release()
        self.open.wait(30)
        return request.payload


def test_a_request_without_an_answer_ends_at_its_timeout(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    gate = Gate(cells, "server")
    began = time.monotonic()
    reply = cells["site-1"].request("server", "gate", "t", timeout=0.2)
    assert 0.19 < time.monotonic() - began < 1
    assert reply.rc is ReturnCode.TIMEOUT
    assert reply.origin == ""
    for part in ("server", "gate", "0.2"):
        assert part in reply.error
    gate.open.set()


def test_a_late_reply_is_counted_and_not_mistaken_for_another(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    gate = Gate(cells, "server")
    assert cells["site-1"].request("server", "gate", "t", "late", timeout=0.1).rc is ReturnCode.TIMEOUT
    before = cells["site-1"].statistics()
    assert before.pending_requests == 0
    gate.open.set()
    eventually(lambda: cells["site-1"].statistics().late_replies == before.late_replies + 1, what="the late reply is counted")
    assert cells["site-1"].request("server", "gate", "t", "in time", timeout=5).payload == "in time"


def test_late_replies_are_no_warning(tree: TreeFactory, caplog: pytest.LogCaptureFixture) -> None:
    cells = tree("server", "site-1")
    gate = Gate(cells, "server")
    with caplog.at_level(logging.INFO, "zcell"):
        cells["site-1"].request("server", "gate", "t", timeout=0.05, optional=True)
        gate.open.set()
        eventually(lambda: cells["site-1"].statistics().late_replies == 1)
    assert caplog.records == []


def test_failures_are_logged_once_and_only_at_debug_when_optional(tree: TreeFactory, caplog: pytest.LogCaptureFixture) -> None:
    cells = tree("server", "site-1")
    with caplog.at_level(logging.DEBUG, "zcell"):
        for optional in (True, False):
            caplog.clear()
            assert (
                cells["site-1"].request("nobody", "c", "t", {"secret": "payload"}, timeout=5, optional=optional).rc is not None
            )
            told = [r for r in caplog.records if "nobody" in r.getMessage()]
            assert all((r.levelno <= logging.DEBUG) is optional for r in told)
            assert "payload" not in caplog.text
            if not optional:
                assert len(told) == 1


def test_the_same_failure_is_not_logged_for_every_message(tree: TreeFactory, caplog: pytest.LogCaptureFixture) -> None:
    cells = tree("server", "site-1")

    def warnings() -> int:
        return len([r for r in caplog.records if r.levelno >= logging.WARNING])

    with caplog.at_level(logging.INFO, "zcell"):
        for _ in range(20):
            cells["site-1"].send("nobody", "c", "t")
            cells["site-1"].request("nobody", "c", "t", timeout=5)
        assert warnings() == 1
        cells["site-1"].request("nobody-else", "c", "t", timeout=5)
        assert warnings() == 2


@pytest.mark.parametrize("depth", [1, 3])
def test_abort_ends_the_wait_within_100_ms(tree: TreeFactory, depth: int) -> None:
    cells = tree("server", "site-1", "site-1.job-1", "site-1.job-1.a")
    gate = Gate(cells, "server")
    abort = Abort()
    source = "site-1" if depth == 1 else "site-1.job-1.a"
    future = cells[source].request_future("server", "gate", "t", timeout=30, abort=abort)
    assert gate.entered.acquire(timeout=5)
    began = time.monotonic()
    abort.trigger("the user said so")
    reply = future.result(5)
    assert time.monotonic() - began < 0.1
    assert reply.rc is ReturnCode.ABORTED
    assert "the user said so" in reply.error
    assert cells[source].statistics().pending_requests == 0
    gate.open.set()


def test_one_abort_ends_many_waits_in_many_cells(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    gate = Gate(cells, "server")
    abort = Abort()
    futures = [
        cells[name].request_future("server", "gate", "t", timeout=30, abort=abort)
        for name in ("site-1", "site-2")
        for _ in range(5)
    ]
    assert gate.entered.acquire(timeout=5)
    began = time.monotonic()
    abort.trigger()
    assert {f.result(5).rc for f in futures} == {ReturnCode.ABORTED}
    assert time.monotonic() - began < 0.3
    gate.open.set()


def test_an_abort_that_happened_before_sends_nothing(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    called: list[int] = []
    cells["server"].register("c", "t", lambda _: called.append(1))
    abort = Abort()
    abort.trigger()
    assert cells["site-1"].request("server", "c", "t", timeout=5, abort=abort).rc is ReturnCode.ABORTED
    assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok
    assert called == []


def test_an_abort_is_let_go_when_the_request_is_over(tree: TreeFactory) -> None:
    """One Abort for a whole run must not collect a callback for each request of it."""
    cells = tree("server", "site-1")
    abort = Abort()
    for _ in range(20):
        assert cells["site-1"].request("server", "zcell", "ping", timeout=5, abort=abort).ok
    assert vars(abort)["_callbacks"] == {}


def test_a_target_that_leaves_while_it_works_ends_the_wait(tree: TreeFactory) -> None:
    """The neighbour knows that no answer can come any more: nobody waits for the deadline."""
    cells = tree("server", "site-1")
    gate = Gate(cells, "site-1")
    future = cells["server"].request_future("site-1", "gate", "t", timeout=60)
    assert gate.entered.acquire(timeout=5)
    gate.open.set()
    cells.stop("site-1")
    reply = future.result(10)
    assert reply.rc in (ReturnCode.OK, ReturnCode.COMM_ERROR, ReturnCode.TARGET_UNREACHABLE, ReturnCode.SERVICE_UNAVAILABLE)


def test_timeouts_of_many_waits_end_in_their_order(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    gate = Gate(cells, "server")
    ended: list[float] = []
    lock = threading.Lock()
    futures = []
    for wait in (0.4, 0.1, 0.3, 0.2):
        future = cells["site-1"].request_future("server", "gate", "t", timeout=wait)

        def record(_: object, wait: float = wait) -> None:
            with lock:
                ended.append(wait)

        future.add_done_callback(record)
        futures.append(future)
    assert {f.result(5).rc for f in futures} == {ReturnCode.TIMEOUT}
    eventually(lambda: len(ended) == 4)
    assert ended == [0.1, 0.2, 0.3, 0.4]
    gate.open.set()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": None}, TypeError),
        ({"channel": ""}, ValueError),
        ({"channel": "c" * 256}, ValueError),
        ({"topic": ""}, ValueError),
        ({"topic": 7}, TypeError),
        ({"channel": None}, TypeError),
        ({"target": None}, TypeError),
        ({"headers": "no"}, (TypeError, ValueError)),
        ({"headers": {"x": object()}}, (TypeError, ValueError)),
        ({"headers": {7: "x"}}, (TypeError, ValueError)),
        ({"headers": {"x": "y" * 1_000_000}}, ValueError),
        ({"abort": threading.Event()}, TypeError),
        ({"payload": object()}, CodecError),
        ({"payload": {"a": [object()]}}, CodecError),
    ],
)
def test_wrong_arguments_are_errors_at_the_caller(tcp_tree: TreeFactory, change: dict[str, Any], error: Any) -> None:
    cells = tcp_tree("server", "site-1")
    arguments = {"target": "server", "channel": "c", "topic": "t", "payload": None, "timeout": 1.0, **change}
    with pytest.raises(error) as caught:
        cells["site-1"].request(**arguments)
    (name,) = change
    if name != "target":
        assert name in str(caught.value)
    assert cells["site-1"].statistics().pending_requests == 0
    assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok


def test_replies_find_their_requests_among_many(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", "site-1.job-1")
    for name in cells:
        cells[name].register("echo", "t", lambda r: (r.target, r.payload), allow="any")
    wrong: list[Any] = []

    def call(source: str, seed: int) -> None:
        targets = [name for name in cells if name != source]
        for number in range(40):
            target = targets[(number + seed) % len(targets)]
            reply = cells[source].request(target, "echo", "t", seed * 1000 + number, timeout=20)
            if reply.payload != (target, seed * 1000 + number) or reply.origin != target:
                wrong.append((source, target, reply))

    threads = [threading.Thread(target=call, args=(name, seed)) for seed, name in enumerate(list(cells) * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_thousand_requests_need_no_thousand_threads(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("echo", "t", lambda r: r.payload)
    for number in range(64):
        assert cells["site-1"].request("server", "echo", "t", number, timeout=10).payload == number
    before = threading.active_count()
    most = 0
    futures = []
    for number in range(1000):
        futures.append(cells["site-1"].request_future("server", "echo", "t", number, timeout=30))
        most = max(most, threading.active_count())
    assert [f.result(30).payload for f in futures] == list(range(1000))
    most = max(most, threading.active_count())
    assert most - before <= 2 * cells["server"].limits.handler_threads
    again = threading.active_count()
    for number in range(200):
        assert cells["site-1"].request("server", "echo", "t", number, timeout=10).payload == number
    assert threading.active_count() <= again


def test_two_cells_called_from_many_threads(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    cells["server"].register("echo", "t", lambda r: r.payload)
    failures: list[Any] = []

    def call(name: str, number: int) -> None:
        for turn in range(25):
            reply = cells[name].request("server", "echo", "t", [number, turn], timeout=20)
            if reply.payload != [number, turn]:
                failures.append(reply)

    threads = [threading.Thread(target=call, args=(f"site-{1 + n % 2}", n)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_future_can_be_cancelled_and_is_then_forgotten(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    gate = Gate(cells, "server")
    future = cells["site-1"].request_future("server", "gate", "t", timeout=30)
    assert gate.entered.acquire(timeout=5)
    assert future.cancel()
    eventually(lambda: cells["site-1"].statistics().pending_requests == 0)
    gate.open.set()
    eventually(lambda: cells["site-1"].statistics().late_replies == 1)
    assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok


def test_stopping_ends_futures_even_when_the_pool_is_blocked(tree: TreeFactory) -> None:
    """Every wait ends: the pool that would deliver the outcome may never get to it."""
    cells = tree()
    cells.add("server", limits=Limits(handler_threads=1))
    cells.add("site-1")
    gate = Gate(cells, "server")
    far = Gate(cells, "site-1")
    stuck = cells["site-1"].request_future("server", "gate", "t", timeout=60)
    assert gate.entered.acquire(timeout=5)
    future = cells["server"].request_future("site-1", "gate", "t", timeout=60)
    submitted = cells["server"].submit(lambda: None)
    assert far.entered.acquire(timeout=5)
    cells["server"].stop(0.2)
    assert future.result(1).rc is ReturnCode.ABORTED
    assert submitted.cancelled()
    gate.open.set()
    far.open.set()
    assert stuck.result(5).rc is not ReturnCode.OK


def test_raise_for_rc_names_what_failed(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    with pytest.raises(RequestError, match="TARGET_UNREACHABLE"):
        cells["site-1"].request("nobody", "c", "t", timeout=5).raise_for_rc()


def test_time_spent_on_the_way_is_taken_from_what_the_handler_is_told(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    gate = Gate(cells, "server")
    remaining: list[float | None] = []
    cells["server"].register("c", "t", lambda r: remaining.append(r.remaining), allow="any")
    assert cells["site-1.job-1"].request("server", "c", "t", timeout=0.5).ok
    assert remaining[0] is not None
    assert 0 < remaining[0] <= 0.5
    gate.open.set()
