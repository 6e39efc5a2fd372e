"""Events and broadcasts: each target has its own outcome, order is kept, and nothing accepted is lost."""

from __future__ import annotations

import threading
import time

import pytest

from tests.eventually import eventually
from tests.trees import TreeFactory
from zcell.abort import Abort
from zcell.limits import KIB, Limits
from zcell.message import Request, ReturnCode


def test_send_reports_each_target(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    got: list[str] = []
    for name in cells:
        cells[name].register("c", "t", lambda r: got.append(r.target))
    outcome = cells["server"].send(["site-1", "nobody", "site-2", "server"], "c", "t", {"x": 1})
    assert outcome == {
        "site-1": ReturnCode.OK,
        "nobody": ReturnCode.TARGET_UNREACHABLE,
        "site-2": ReturnCode.OK,
        "server": ReturnCode.OK,
    }
    eventually(lambda: sorted(got) == ["server", "site-1", "site-2"], what=lambda: got)


def test_send_takes_one_name_any_iterable_or_none_at_all(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    assert cells["server"].send("site-1", "c", "t") == {"site-1": ReturnCode.OK}
    assert cells["server"].send(iter(["site-1", "site-1"]), "c", "t") == {"site-1": ReturnCode.OK}
    assert cells["server"].send([], "c", "t") == {}
    with pytest.raises(TypeError, match="target"):
        cells["server"].send(7, "c", "t")  # type: ignore[arg-type]


def test_send_without_a_link_is_an_error_and_no_silent_drop(tree: TreeFactory) -> None:
    cells = tree()
    site = cells.start("site-1", parent={"tcp": "tcp://127.0.0.1:9"}.get(cells.transport, cells.listen_url("x")), listen=[])
    began = time.monotonic()
    assert site.send("server", "c", "t", timeout=0.2)["server"] is not ReturnCode.OK
    assert time.monotonic() - began < 2
    reply = site.request("server", "c", "t", timeout=0.3)
    assert reply.rc in (ReturnCode.TARGET_UNREACHABLE, ReturnCode.COMM_ERROR)
    assert "server" in reply.error


def test_events_of_one_source_on_one_channel_are_handled_in_order(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1", "site-2")
    seen: dict[tuple[str, str], list[int]] = {}
    lock = threading.Lock()

    def handle(request: Request) -> None:
        with lock:
            seen.setdefault((request.origin, request.channel), []).append(request.payload)

    for channel in ("a", "b"):
        cells["server"].register(channel, "*", handle)

    def emit(source: str, channel: str) -> None:
        for number in range(300):
            assert cells[source].send("server", channel, f"t{number % 3}", number)["server"] is ReturnCode.OK

    threads = [
        threading.Thread(target=emit, args=(source, channel))
        for source in ("site-1", "site-1.job-1", "site-2")
        for channel in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: sum(map(len, seen.values())) == 1800, 20, what=lambda: {k: len(v) for k, v in seen.items()})
    assert all(numbers == list(range(300)) for numbers in seen.values())


def test_events_are_handled_one_after_the_other(tree: TreeFactory) -> None:
    """Order of handling, not only of starting: two events of one source and channel never overlap."""
    cells = tree("server", "site-1")
    inside, overlaps, done = [0], [0], threading.Semaphore(0)

    def handle(_: Request) -> None:
        inside[0] += 1
        overlaps[0] += inside[0] > 1
        threading.Event().wait(0.001)
        inside[0] -= 1
        done.release()

    cells["server"].register("c", "t", handle)
    for number in range(30):
        cells["site-1"].send("server", "c", "t", number)
    for _ in range(30):
        assert done.acquire(timeout=10)
    assert overlaps == [0]


def test_an_event_handler_that_raises_does_not_stop_the_following(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    seen: list[int] = []

    def handle(request: Request) -> None:
        seen.append(request.payload)
        if request.payload % 2:
            raise RuntimeError("odd")

    cells["server"].register("c", "t", handle)
    for number in range(10):
        cells["site-1"].send("server", "c", "t", number)
    eventually(lambda: len(seen) == 10)
    assert seen == list(range(10))


SMALL = Limits(link_work_bytes=64 * KIB, link_queue_bytes=64 * KIB, handler_threads=2)


@pytest.mark.parametrize("names", [("server", "site-1"), ("server", "site-1", "site-1.job-1")])
def test_a_full_queue_is_reported_and_what_was_accepted_is_delivered(tree: TreeFactory, names: tuple[str, ...]) -> None:
    cells = tree(*names, limits=SMALL)
    source = cells[names[-1]]
    release = threading.Event()
    handled: list[int] = []

    def handle(request: Request) -> None:
        release.wait(30)
        handled.append(request.payload[0])

    cells["server"].register("c", "t", handle)
    accepted: list[int] = []
    refused: list[int] = []
    data = bytes(8 * KIB)
    for number in range(200):
        outcome = source.send("server", "c", "t", [number, data], timeout=0.02)["server"]
        (accepted if outcome is ReturnCode.OK else refused).append(number)
        if len(refused) > 3:
            break
    assert len(refused) > 3, "the queue never filled up: memory is not bounded"
    assert len(accepted) <= 128
    release.set()
    eventually(lambda: len(handled) == len(accepted), 10, what=lambda: (len(handled), len(accepted)))
    assert handled == accepted
    eventually(lambda: source.send("server", "c", "t", [-1, b""], timeout=1)["server"] is ReturnCode.OK)


def test_send_waits_for_room_at_most_as_long_as_it_was_told(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=SMALL)
    release, entered = threading.Event(), threading.Event()

    def handle(_: Request) -> None:
        entered.set()
        release.wait(30)

    cells["server"].register("c", "t", handle)
    data = bytes(16 * KIB)
    while cells["site-1"].send("server", "c", "t", data, timeout=0.05)["server"] is ReturnCode.OK:
        pass
    assert entered.wait(5)
    began = time.monotonic()
    assert cells["site-1"].send("server", "c", "t", data, timeout=0.3)["server"] is not ReturnCode.OK
    assert 0.2 < time.monotonic() - began < 1
    results: list[ReturnCode] = []
    waiting = threading.Thread(
        target=lambda: results.append(cells["site-1"].send("server", "c", "t", data, timeout=20)["server"])
    )
    waiting.start()
    release.set()
    waiting.join(20)
    assert results == [ReturnCode.OK]


def test_a_full_queue_holds_up_requests_but_never_replies_and_builtins(tree: TreeFactory) -> None:
    """Work waits for credit; control does not wait behind work."""
    cells = tree("server", "site-1", limits=SMALL)
    release = threading.Event()
    cells["server"].register("c", "t", lambda _: release.wait(30))
    cells["site-1"].register("echo", "t", lambda r: r.payload)
    data = bytes(16 * KIB)
    while cells["site-1"].send("server", "c", "t", data, timeout=0.05)["server"] is ReturnCode.OK:
        pass
    assert cells["server"].request("site-1", "echo", "t", 5, timeout=5).payload == 5
    reply = cells["site-1"].request("server", "c", "t", data, timeout=0.5)
    assert reply.rc in (ReturnCode.TIMEOUT, ReturnCode.COMM_ERROR, ReturnCode.SERVICE_UNAVAILABLE)
    release.set()


def test_broadcast_gives_each_target_its_own_outcome_in_parallel(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", "site-3", "site-4", "site-1.job-1")
    release = threading.Event()

    def fail(_: Request) -> None:
        raise ValueError("no")

    cells["site-1"].register("c", "t", lambda r: r.payload + 1)
    cells["site-1.job-1"].register("c", "t", lambda r: r.payload + 2)
    cells["site-2"].register("c", "t", fail)
    cells["site-3"].register("c", "t", lambda _: release.wait(20))
    targets = ["site-1", "site-2", "site-3", "site-4", "nobody", "site-1.job-1"]
    began = time.monotonic()
    replies = cells["server"].broadcast(targets, "c", "t", 1, timeout=0.5)
    assert time.monotonic() - began < 1.5
    release.set()
    assert list(replies) == targets
    assert {name: reply.rc for name, reply in replies.items()} == {
        "site-1": ReturnCode.OK,
        "site-2": ReturnCode.PROCESS_EXCEPTION,
        "site-3": ReturnCode.TIMEOUT,
        "site-4": ReturnCode.INVALID_REQUEST,
        "nobody": ReturnCode.TARGET_UNREACHABLE,
        "site-1.job-1": ReturnCode.OK,
    }
    assert replies["site-1"].payload == 2
    assert replies["site-1.job-1"].payload == 3


def test_broadcast_waits_for_the_slowest_not_for_the_sum(tree: TreeFactory) -> None:
    sites = [f"site-{n}" for n in range(6)]
    cells = tree("server", *sites)
    barrier = threading.Barrier(len(sites))
    for site in sites:
        cells[site].register("meet", "t", lambda _: barrier.wait(10) >= 0)
    replies = cells["server"].broadcast(sites, "meet", "t", timeout=15)
    assert all(reply.payload is True for reply in replies.values())


def test_a_broadcast_can_be_aborted(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    release, entered, abort = threading.Event(), threading.Semaphore(0), Abort()

    def wait(_: Request) -> None:
        entered.release()
        release.wait(20)

    for name in ("site-1", "site-2"):
        cells[name].register("c", "t", wait)

    def trigger() -> None:
        entered.acquire(timeout=5)
        entered.acquire(timeout=5)
        abort.trigger()

    thread = threading.Thread(target=trigger)
    thread.start()
    replies = cells["server"].broadcast(["site-1", "site-2"], "c", "t", timeout=30, abort=abort)
    thread.join()
    release.set()
    assert {r.rc for r in replies.values()} == {ReturnCode.ABORTED}


def test_the_payload_of_a_broadcast_is_encoded_for_all_even_when_it_is_changed_afterwards(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    got: list[object] = []
    for name in ("site-1", "site-2"):
        cells[name].register("c", "t", lambda r: got.append(r.payload))
    payload = {"n": [1]}
    cells["server"].send(["site-1", "site-2"], "c", "t", payload)
    payload["n"].append(2)
    eventually(lambda: len(got) == 2)
    assert got == [{"n": [1]}] * 2


def test_control_events_are_never_held_up_by_work(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=SMALL)
    release, seen = threading.Event(), threading.Event()
    cells["server"].register("c", "t", lambda _: release.wait(30))
    cells["server"].register("control", "t", lambda _: seen.set(), inline=True)
    data = bytes(16 * KIB)
    while cells["site-1"].send("server", "c", "t", data, timeout=0.05)["server"] is ReturnCode.OK:
        pass
    cells["site-1"].post_event("server", "control", "t", {"credit": 1})
    assert seen.wait(2)
    release.set()


def test_a_control_event_without_a_way_is_counted(tree: TreeFactory) -> None:
    cell = tree("server")["server"]
    before = cell.statistics().dropped_total
    cell.post_event("nobody", "c", "t", 1)
    eventually(lambda: cell.statistics().dropped_total == before + 1)


def test_a_request_is_handled_after_the_events_sent_before_it(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    seen: list[int] = []
    release = threading.Event()

    def on_event(request: Request) -> None:
        release.wait(10)
        seen.append(request.payload)

    cells["server"].register("metrics", "point", on_event)
    cells["server"].register("metrics", "finish", lambda request: len(seen))
    cells["server"].register("other", "finish", lambda request: len(seen))
    for number in range(20):
        assert cells["site-1"].send("server", "metrics", "point", number) == {"server": ReturnCode.OK}
    waiting = cells["site-1"].request_future("server", "metrics", "finish", timeout=10)
    assert cells["site-1"].request("server", "other", "finish", timeout=5).payload == 0, "another channel does not wait"
    assert not waiting.done()
    release.set()
    assert waiting.result(10).payload == 20
    assert seen == list(range(20))
