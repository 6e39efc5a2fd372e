"""What the handler promises over every pipe: delivery on arrival, one status, resends, pause, bounded stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.eventually import eventually
from tests.pipe.pairs import Pairs
from zcell.abort import Abort
from zcell.pipe import Message, Mode, PeerState, Pipe, PipeHandler, Topic

Start = Callable[..., PipeHandler]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a handler over a pipe; it is stopped at the end of the test."""
    with ExitStack() as stack:

        def run(pipe: Pipe, **settings: float | None) -> PipeHandler:
            handler = PipeHandler(pipe, **settings)  # type: ignore[arg-type]
            stack.callback(handler.stop)
            handler.start()
            return handler

        yield run


def _both(pairs: Pairs, start: Start, **settings: float | None) -> tuple[PipeHandler, PipeHandler]:
    active, passive = pairs.both()
    return start(active, **settings), start(passive, **settings)


def test_a_message_comes_out_of_get_next_as_soon_as_it_arrives(pairs: Pairs, start: Start) -> None:
    active, passive = _both(pairs, start, read_interval=30.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(active.get_next, 20.0)
        assert passive.send_to_peer(Message.new_request("t", 1), 5.0)
        got = waiting.result(5.0)
    assert got is not None
    assert got.data == 1
    assert active.get_next() is None


def test_both_know_of_each_other_at_once(pairs: Pairs, start: Start) -> None:
    active, passive = _both(pairs, start)
    assert active.wait_for_peer(5.0)
    assert passive.wait_for_peer(5.0)
    assert passive.peer_state is PeerState.LIVE


def test_waiting_for_a_peer_ends_in_time_by_abort_and_by_stop(pairs: Pairs, start: Start) -> None:
    handler = start(pairs.end(Mode.PASSIVE))
    assert not handler.wait_for_peer(0.01)
    abort = Abort()
    abort.trigger()
    assert not handler.wait_for_peer(30.0, abort)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handler.wait_for_peer, 30.0)
        handler.stop()
        assert not waiting.result(5.0)


def test_messages_go_to_the_callback_in_order(pairs: Pairs, start: Start) -> None:
    active, passive = pairs.both()
    got: list[tuple[int, str]] = []
    receiver = PipeHandler(active)
    receiver.set_message_cb(lambda m, tag: got.append((m.data, tag)), "x")
    receiver.start()
    try:
        sender = start(passive)
        for number in range(20):
            assert sender.send_to_peer(Message.new_request("t", number), 5.0)
        eventually(lambda: len(got) == 20)
        assert got == [(n, "x") for n in range(20)]
        assert receiver.get_next() is None
    finally:
        receiver.stop()


def test_a_callback_that_raises_does_not_end_the_conversation(pairs: Pairs, start: Start) -> None:
    active, passive = pairs.both()
    seen: list[int] = []

    def careless(message: Message) -> None:
        seen.append(message.data)
        raise ValueError("the user's mistake")

    receiver = PipeHandler(active)
    receiver.set_message_cb(careless)
    receiver.start()
    try:
        sender = start(passive)
        for number in (1, 2):
            assert sender.send_to_peer(Message.new_request("t", number), 5.0)
        eventually(lambda: seen == [1, 2])
    finally:
        receiver.stop()


@pytest.mark.parametrize(("notify", "topic"), [("notify_end", Topic.END), ("notify_abort", Topic.ABORT)])
def test_the_peers_status_reaches_the_callback_once(pairs: Pairs, start: Start, notify: str, topic: str) -> None:
    active, passive = pairs.both()
    got: list[Message] = []
    receiver = PipeHandler(active)
    receiver.set_status_cb(got.append)
    receiver.start()
    try:
        sender = start(passive)
        assert sender.send_to_peer(Message.new_request("t", 1), 5.0)
        assert getattr(sender, notify)("enough")
        eventually(lambda: got)
        first = receiver.get_next(1.0)
        assert first is not None
        assert first.data == 1
        sender.stop()
        assert [(m.topic, m.data) for m in got] == [(topic, "enough")]
    finally:
        receiver.stop()


def test_without_a_callback_the_status_comes_out_of_get_next(pairs: Pairs, start: Start) -> None:
    active, passive = _both(pairs, start)
    assert passive.notify_abort("stop")
    got = active.get_next(5.0)
    assert got is not None
    assert (got.topic, got.data) == (Topic.ABORT, "stop")
    assert active.peer_state is PeerState.ABORTED


def test_a_silent_peer_is_gone(pairs: Pairs, start: Start) -> None:
    token = "silent"
    handler = start(pairs.end(Mode.PASSIVE, token), heartbeat_interval=0.05, heartbeat_timeout=0.3, connect_timeout=30.0)
    other = PipeHandler(pairs.end(Mode.ACTIVE, token), heartbeat_interval=0.05)
    other.start()
    assert handler.wait_for_peer(5.0)
    other.stop()
    got = handler.get_next(5.0)
    assert got is not None
    assert got.topic == Topic.PEER_GONE
    assert "silent" in got.data
    assert handler.get_next(0.05) is None


def test_heartbeats_keep_an_idle_conversation_alive(pairs: Pairs, start: Start) -> None:
    active, passive = _both(pairs, start, heartbeat_interval=0.05, heartbeat_timeout=0.5, connect_timeout=30.0)
    assert active.wait_for_peer(5.0)
    assert passive.wait_for_peer(5.0)
    assert active.get_next(1.2) is None
    assert (active.peer_state, passive.peer_state) == (PeerState.LIVE, PeerState.LIVE)


def test_a_paused_handler_hands_out_nothing_and_then_everything(pairs: Pairs, start: Start) -> None:
    active, passive = _both(pairs, start)
    active.pause()
    for number in range(3):
        assert passive.send_to_peer(Message.new_request("t", number), 5.0)
    assert active.get_next(0.1) is None
    active.resume()
    got = [active.get_next(1.0) for _ in range(3)]
    assert [m.data for m in got if m is not None] == [0, 1, 2]


def test_a_paused_callback_gets_what_came_meanwhile_on_resume(pairs: Pairs, start: Start) -> None:
    active, passive = pairs.both()
    got: list[int] = []
    receiver = PipeHandler(active)
    receiver.set_message_cb(lambda m: got.append(m.data))
    receiver.pause()
    receiver.start()
    try:
        sender = start(passive)
        assert sender.send_to_peer(Message.new_request("t", 1), 5.0)
        assert got == []
        receiver.resume()
        eventually(lambda: got == [1])
    finally:
        receiver.stop()


def test_a_send_is_tried_again_until_the_peer_is_there(pairs: Pairs, start: Start) -> None:
    token = "later"
    sender = start(pairs.end(Mode.PASSIVE, token), resend_interval=0.05, max_resends=None)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender.send_to_peer, Message.new_request("t", 1), 20.0)
        receiver = start(pairs.end(Mode.ACTIVE, token))
        got = receiver.get_next(10.0)
        assert got is not None
        assert got.data == 1
        assert sent.result(5.0)
    assert receiver.get_next(0.2) is None


def test_a_send_ends_with_its_timeout(pairs: Pairs, start: Start) -> None:
    sender = start(pairs.end(Mode.PASSIVE), resend_interval=0.05, max_resends=None)
    started = time.monotonic()
    assert not sender.send_to_peer(Message.new_request("t"), 0.3)
    assert time.monotonic() - started < 5
    with pytest.raises(ValueError, match="timeout"):
        sender.send_to_peer(Message.new_request("t"), 0)


@pytest.mark.parametrize("how", ["abort", "stop", "gone"])
def test_a_waiting_send_ends_at_once(pairs: Pairs, start: Start, how: str) -> None:
    timeout = 0.4 if how == "gone" else 60.0
    sender = start(pairs.end(Mode.PASSIVE), resend_interval=30.0, heartbeat_interval=0.1, heartbeat_timeout=timeout)
    abort = Abort()
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender.send_to_peer, Message.new_request("t"), 60.0, abort)
        if how == "abort":
            abort.trigger()
        if how == "stop":
            sender.stop()
        assert sent.result(5.0) is False


def test_sending_into_a_closed_pipe_is_a_peer_gone(pairs: Pairs, start: Start) -> None:
    pipe = pairs.end(Mode.PASSIVE)
    handler = start(pipe)
    pipe.close()
    assert not handler.send_to_peer(Message.new_request("t"), 5.0)
    eventually(lambda: handler.peer_state is PeerState.GONE)


def test_stop_is_idempotent_and_works_from_the_status_callback(pairs: Pairs) -> None:
    active, passive = pairs.both()
    done = threading.Event()
    receiver = PipeHandler(active)

    def stop(message: Message) -> None:
        receiver.stop()
        done.set()

    receiver.set_status_cb(stop)
    receiver.start()
    sender = PipeHandler(passive)
    sender.start()
    assert sender.notify_end()
    assert done.wait(5.0)
    receiver.stop()
    sender.stop()
    sender.stop()
    with pytest.raises(RuntimeError, match="once"):
        sender.start()


def test_stop_can_leave_the_pipe_open_for_the_next_conversation(pairs: Pairs, start: Start) -> None:
    active, passive = pairs.both()
    first = start(active)
    first.stop(close_pipe=False)
    second, other = start(active), start(passive)
    assert other.send_to_peer(Message.new_request("t", 2), 5.0)
    got = second.get_next(5.0)
    assert got is not None
    assert got.data == 2


@pytest.mark.parametrize("settings", [{"heartbeat_interval": 60.0}, {"read_interval": 0.0}, {"resend_interval": 0.0}])
def test_settings_that_make_no_sense_are_refused(pairs: Pairs, settings: dict[str, float]) -> None:
    pipe = pairs.build(Mode.ACTIVE, "settings")
    with pytest.raises(ValueError, match=next(iter(settings))):
        PipeHandler(pipe, **settings)  # type: ignore[arg-type]
    pipe.close()
