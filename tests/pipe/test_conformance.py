"""What every pipe promises, over each of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from tests.eventually import eventually
from tests.pipe.pairs import Pairs
from zcell.abort import Abort
from zcell.pipe import CellPipe, Message, Mode, MsgType, Pipe, Topic, rebuild


def _next(pipe: Pipe, timeout: float = 5.0) -> Message:
    """The next message that is not a heartbeat."""
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        message = pipe.receive(left)
        if message is not None and message.topic != Topic.HEARTBEAT:
            return message
    raise AssertionError("no message arrived")


def _nothing(pipe: Pipe, within: float = 0.05) -> bool:
    end = time.monotonic() + within
    while (left := end - time.monotonic()) > 0:
        message = pipe.receive(left)
        if message is not None and message.topic != Topic.HEARTBEAT:
            return False
    return True


def test_a_request_and_its_reply_arrive_as_they_were_sent(pairs: Pairs) -> None:
    active, passive = pairs.both()
    request = Message.new_request("train", {"lr": 0.1})
    assert passive.send(request, 5.0)
    got = _next(active)
    assert (got.msg_type, got.topic, got.data) == (MsgType.REQUEST, "train", {"lr": 0.1})
    assert (got.msg_id, got.req_id, got.error) == (request.msg_id, None, "")
    assert active.send(Message.new_reply("train", 7, req_msg_id=got.msg_id), 5.0)
    back = _next(passive)
    assert (back.msg_type, back.req_id, back.data) == (MsgType.REPLY, request.msg_id, 7)


@pytest.mark.parametrize(
    "data",
    [None, True, 2**62, "näme", b"\0\xff", (1, [2, (3,)]), {"a": {"b": []}}, datetime(2024, 2, 29, tzinfo=UTC), b"x" * 200_000],
    ids=["none", "bool", "int", "str", "bytes", "tuple", "dict", "datetime", "long bytes"],
)
def test_data_survives(pairs: Pairs, data: Any) -> None:
    active, passive = pairs.both()
    assert active.send(Message.new_request("t", data), 5.0)
    assert _next(passive).data == data


def test_arrays_survive(pairs: Pairs) -> None:
    active, passive = pairs.both()
    arrays: dict[str, Any] = {
        "weights": np.arange(300_000, dtype=np.float64).reshape(300, 1000),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert active.send(Message.new_request("t", arrays), 10.0)
    back = _next(passive).data
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_data_that_cannot_travel_is_refused_at_the_sender(pairs: Pairs) -> None:
    active, _ = pairs.both()
    with pytest.raises(ValueError, match="not supported"):
        active.send(Message.new_request("t", {"f": object()}), 5.0)


def test_messages_keep_their_order_both_ways_at_once(pairs: Pairs) -> None:
    active, passive = pairs.both()

    def send(pipe: Pipe) -> None:
        for number in range(100):
            assert pipe.send(Message.new_request("t", number), 10.0)

    with ThreadPoolExecutor(4) as pool:
        sends = [pool.submit(send, p) for p in (active, passive)]
        received = [pool.submit(lambda p: [_next(p).data for _ in range(100)], p) for p in (active, passive)]
        assert [r.result(20) for r in received] == [list(range(100))] * 2
        for done in sends:
            done.result(20)


def test_many_senders_lose_nothing(pairs: Pairs) -> None:
    active, passive = pairs.both()
    with ThreadPoolExecutor(8) as pool:
        sends = [pool.submit(active.send, Message.new_request("t", n), 10.0) for n in range(200)]
        got = {_next(passive).data for _ in range(200)}
        assert all(s.result(10) for s in sends)
    assert got == set(range(200))


def test_receive_returns_when_a_message_arrives_not_at_an_interval(pairs: Pairs) -> None:
    active, passive = pairs.both()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_next, active, 30.0)
        assert passive.send(Message.new_request("t"), 5.0)
        assert waiting.result(2.0).topic == "t"


def test_receive_without_a_message_returns_none_in_time(pairs: Pairs) -> None:
    active, _ = pairs.both()
    started = time.monotonic()
    assert _nothing(active, 0.1)
    assert active.receive() is None or time.monotonic() - started < 2
    assert time.monotonic() - started < 2


def test_a_message_sent_again_is_delivered_once(pairs: Pairs) -> None:
    active, passive = pairs.both()
    message = Message.new_request("t", 1)
    assert active.send(message, 5.0)
    assert active.send(message, 5.0)
    active.release_send_cache(message)
    assert active.send(message, 5.0)
    assert active.send(Message.new_request("t", 2), 5.0)
    assert [_next(passive).data for _ in range(2)] == [1, 2]
    assert _nothing(passive)


def test_a_send_to_nobody_is_false_in_time_and_says_why(pairs: Pairs) -> None:
    passive = pairs.end(Mode.PASSIVE)
    started = time.monotonic()
    assert passive.send(Message.new_request("t"), 0.2) is False
    assert time.monotonic() - started < 5
    assert passive.last_error


def test_a_send_that_succeeds_leaves_no_error(pairs: Pairs) -> None:
    passive = pairs.end(Mode.PASSIVE)
    assert not passive.send(Message.new_request("t"), 0.1)
    assert passive.last_error
    pairs.end(Mode.ACTIVE)
    eventually(lambda: passive.send(Message.new_request("t"), 1.0))
    assert passive.last_error == ""


def test_a_peer_that_opens_its_end_in_time_gets_what_was_sent_before(pairs: Pairs) -> None:
    passive, active = pairs.end(Mode.PASSIVE), pairs.build(Mode.ACTIVE, "pair")
    if isinstance(active, CellPipe):
        active.cell.wait_ready(10)  # it can be reached; only its end is not open
    with active, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(passive.send, Message.new_request("t", 1), 20.0)
        with pytest.raises(TimeoutError):
            sent.result(0.3)
        active.open("task")
        assert _next(active).data == 1
        assert sent.result(5)


def test_a_message_that_was_not_taken_never_arrives(pairs: Pairs) -> None:
    passive = pairs.end(Mode.PASSIVE)
    assert not passive.send(Message.new_request("t", "late"), 0.1)
    active = pairs.end(Mode.ACTIVE)
    assert _nothing(active, 0.3)


def test_an_abort_ends_a_waiting_send(pairs: Pairs) -> None:
    passive = pairs.end(Mode.PASSIVE)
    abort = Abort()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(passive.send, Message.new_request("t"), 60.0, abort)
        abort.trigger("enough")
        assert waiting.result(5.0) is False


def test_clear_drops_what_was_not_received(pairs: Pairs) -> None:
    active, passive = pairs.both()
    for number in range(3):
        assert passive.send(Message.new_request("t", number), 5.0)
    active.clear()
    assert passive.send(Message.new_request("t", "new"), 5.0)
    assert _next(active).data == "new"


def test_channels_do_not_mix(pairs: Pairs) -> None:
    ends = {c: (pairs.end(Mode.ACTIVE, "x", c), pairs.end(Mode.PASSIVE, "x", c)) for c in ("task", "metric")}
    for channel, (active, _) in ends.items():
        assert active.send(Message.new_request(channel, channel), 5.0)
    for channel, (_, passive) in ends.items():
        assert _next(passive).data == channel
        assert _nothing(passive)


def test_a_heartbeat_does_not_wait_and_shows_life(pairs: Pairs) -> None:
    active, passive = pairs.both()
    assert active.send(Message.new_request("t"), 5.0)
    _next(passive)
    before = passive.last_peer_active_time
    for number in (1, 2, 3):
        assert active.send(Message.new_request(Topic.HEARTBEAT, number))
    end = time.monotonic() + 5
    while passive.last_peer_active_time <= before:
        assert time.monotonic() < end
        passive.receive(0.05)


def test_a_closed_pipe_says_so(pairs: Pairs) -> None:
    active, _ = pairs.both()
    active.close()
    active.close()
    with pytest.raises(BrokenPipeError, match="closed"):
        active.send(Message.new_request("t"), 1.0)
    with pytest.raises(BrokenPipeError, match="closed"):
        active.receive(1.0)
    with pytest.raises(BrokenPipeError, match="closed"):
        active.clear()
    with pytest.raises(BrokenPipeError, match="closed"):
        active.open("task")


def test_a_pipe_that_was_never_open_says_so(pairs: Pairs) -> None:
    pipe = pairs.build(Mode.ACTIVE, "never")
    with pytest.raises(BrokenPipeError, match="not open"):
        pipe.send(Message.new_request("t"), 1.0)
    pipe.close()


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 64])
def test_a_name_that_is_no_label_is_refused(pairs: Pairs, name: str) -> None:
    pipe = pairs.build(Mode.ACTIVE, "name")
    with pytest.raises(ValueError, match="name"):
        pipe.open(name)
    pipe.close()


def test_closing_ends_every_wait(pairs: Pairs) -> None:
    passive = pairs.end(Mode.PASSIVE)
    started = threading.Barrier(3)

    def wait(call: Any, *arguments: Any) -> str:
        started.wait(5)
        try:
            return "" if call(*arguments) in (None, False) else "something"
        except BrokenPipeError as e:
            return str(e)

    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(wait, passive.receive, 60.0), pool.submit(wait, passive.send, Message.new_request("t"), 60.0)]
        started.wait(5)
        passive.close()
        assert "closed" in waits[0].result(5)
        waits[1].result(5)


def test_the_other_end_can_be_built_from_a_configuration(pairs: Pairs) -> None:
    passive = pairs.end(Mode.PASSIVE)
    path, kwargs = passive.export(Mode.ACTIVE)
    assert all(isinstance(v, str | bool | int | type(None)) for v in kwargs.values())
    with rebuild(path, kwargs) as active:
        assert active.mode is Mode.ACTIVE
        active.open("task")
        assert active.send(Message.new_request("t", 1), 5.0)
        assert _next(passive).data == 1


def test_a_peer_that_was_started_again_is_gone_until_clear(pairs: Pairs) -> None:
    token = "again"
    passive, active = pairs.end(Mode.PASSIVE, token), pairs.end(Mode.ACTIVE, token)
    assert active.send(Message.new_request("t", 1), 5.0)
    assert _next(passive).data == 1
    active.close()
    second = pairs.end(Mode.ACTIVE, token)
    second.send(Message.new_request(Topic.HEARTBEAT, 1))
    gone = _next(passive)
    assert gone.topic == Topic.PEER_GONE
    assert "started again" in gone.data
    passive.clear()
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(second.send, Message.new_request("t", 2), 5.0)
        assert _next(passive).data == 2
        assert sent.result(5)
    assert passive.send(Message.new_request("t", 3), 5.0)
    assert _next(second).data == 3
