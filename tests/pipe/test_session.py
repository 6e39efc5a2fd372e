"""The conversation in virtual time: heartbeats, silence, status once, pause, and when to send again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.pipe.message import Message, MsgType, Topic
from zcell.pipe.session import PeerState, PipeSession, ResendPlan


def _session(timeout: float = 60.0, connect: float | None = None) -> PipeSession:
    session = PipeSession(heartbeat_interval=5.0, heartbeat_timeout=timeout, connect_timeout=connect)
    session.start(0.0)
    return session


def _run(session: PipeSession, until: float) -> tuple[list[float], Message | None]:
    """Tick exactly when asked to; the times of the heartbeats and the status that ended it."""
    beats = []
    while (at := session.next_tick()) is not None and at <= until:
        due = session.tick(at)
        if due.heartbeat is not None:
            beats.append(at)
        if due.status is not None:
            return beats, due.status
    return beats, None


def _heartbeat(number: int) -> Message:
    return Message.new_request(Topic.HEARTBEAT, number)


def test_a_heartbeat_is_sent_at_once_and_then_at_every_interval() -> None:
    beats, status = _run(_session(), until=21.0)
    assert beats == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert status is None


def test_a_peer_that_was_heard_and_falls_silent_is_gone_after_the_timeout_once() -> None:
    session = _session()
    session.receive(Message.new_request("task"), 7.0)
    _, status = _run(session, until=1000.0)
    assert status is not None
    assert status.topic == Topic.PEER_GONE
    assert "silent for 60 s" in status.data
    assert session.state is PeerState.GONE
    assert session.next_tick() is None
    assert session.tick(2000.0).status is None
    assert session.receive(Message.new_request(Topic.END), 2001.0) is None


def test_a_peer_that_never_shows_up_is_gone_after_the_connect_timeout() -> None:
    session = _session(connect=600.0)
    _, status = _run(session, until=599.0)
    assert status is None
    _, status = _run(session, until=601.0)
    assert status is not None
    assert "never showed up" in status.data


def test_with_timeout_0_silence_never_ends_the_conversation() -> None:
    session = _session(timeout=0.0)
    beats, status = _run(session, until=10_000.0)
    assert status is None
    assert len(beats) == 2001


@pytest.mark.parametrize("message", [Message.new_request("x"), _heartbeat(1), Message.new_reply("x", req_msg_id="1")])
def test_any_message_counts_as_life(message: Message) -> None:
    session = _session()
    _run(session, until=50.0)
    session.receive(message, 50.0)
    assert session.state is PeerState.LIVE
    assert _run(session, until=109.0)[1] is None
    assert _run(session, until=111.0)[1] is not None


def test_a_heartbeat_that_is_not_newer_is_no_life() -> None:
    session = _session()
    session.receive(_heartbeat(3), 1.0)
    for at in (20.0, 40.0):
        session.receive(_heartbeat(3), at)
        session.receive(_heartbeat(2), at)
    assert _run(session, until=62.0)[1] is not None


def test_heartbeats_are_not_handed_out() -> None:
    session = _session()
    session.receive(_heartbeat(1), 1.0)
    assert session.take() is None


@pytest.mark.parametrize(("topic", "state"), [(Topic.END, PeerState.ENDED), (Topic.ABORT, PeerState.ABORTED)])
def test_the_peers_status_is_reported_once_and_what_came_before_it_is_still_handed_out(topic: str, state: PeerState) -> None:
    session = _session()
    session.receive(Message.new_request("task", 1), 1.0)
    status = session.receive(Message.new_request(topic, "why"), 2.0)
    assert status is not None
    assert status.data == "why"
    assert session.state is state
    assert session.receive(Message.new_request(topic, "again"), 3.0) is None
    assert session.tick(1000.0).status is None
    waiting = session.take()
    assert waiting is not None
    assert waiting.data == 1
    assert session.take() is None


def test_this_side_can_end_it_once() -> None:
    session = _session()
    assert session.end(Topic.PEER_GONE, "send failed") is not None
    assert session.end(Topic.PEER_GONE, "send failed") is None


def test_paused_nothing_is_handed_out_and_heartbeats_go_on() -> None:
    session = _session()
    session.pause()
    for number in range(3):
        session.receive(Message.new_request("task", number), 1.0)
    assert session.take() is None
    assert _run(session, until=11.0)[0] == [0.0, 5.0, 10.0]
    session.resume()
    assert [m.data for m in iter(session.take, None)] == [0, 1, 2]


def test_a_process_that_was_stopped_does_not_blame_its_peer_for_the_time_it_missed() -> None:
    session = _session()
    session.receive(_heartbeat(1), 1.0)
    _run(session, until=6.0)
    due = session.tick(306.0)  # SIGSTOP for five minutes
    assert due.status is None
    assert due.heartbeat is not None
    assert _run(session, until=340.0)[1] is None
    assert _run(session, until=400.0)[1] is not None


@given(st.lists(st.floats(0.01, 4.9), max_size=200))
def test_a_peer_that_is_heard_from_in_time_is_never_gone(gaps: list[float]) -> None:
    session = PipeSession(heartbeat_interval=1.0, heartbeat_timeout=5.0)
    session.start(0.0)
    now = 0.0
    for number, gap in enumerate(gaps, 1):
        assert _run(session, until=now + gap)[1] is None
        now += gap
        session.receive(_heartbeat(number), now)


@pytest.mark.parametrize("values", [{"heartbeat_interval": 0.0}, {"heartbeat_interval": 60.0}, {"heartbeat_timeout": -1.0}])
def test_settings_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        PipeSession(**{"heartbeat_interval": 5.0, "heartbeat_timeout": 60.0, **values})


def _plan(**changes: object) -> ResendPlan:
    values: dict[str, object] = {"interval": 2.0, "max_resends": 3, "allowed": True, "deadline": None, **changes}
    return ResendPlan(**values)  # type: ignore[arg-type]


def test_resends_end_with_their_number() -> None:
    plan = _plan()
    assert [plan.failed(t) for t in (0.0, 3.0, 6.0, 9.0)] == [2.0, 2.0, 2.0, None]


def test_resends_without_a_number_end_with_the_deadline() -> None:
    plan = _plan(max_resends=None, deadline=10.0)
    assert plan.remaining(4.0) == 6.0
    assert plan.remaining(11.0) == 0.0
    assert plan.failed(7.0) == 2.0
    assert plan.failed(8.0) is None


@pytest.mark.parametrize("changes", [{"interval": None}, {"allowed": False}, {"max_resends": 0}])
def test_no_resends_where_they_are_not_wanted(changes: dict[str, object]) -> None:
    assert _plan(**changes).failed(0.0) is None
    assert _plan(**changes).remaining(5.0) is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((MsgType.REQUEST, ""), "topic"),
        ((MsgType.REQUEST, "x", None, ""), "msg_id"),
        ((MsgType.REPLY, "x"), "req_id"),
        (("QUESTION", "x"), "QUESTION"),
    ],
)
def test_a_malformed_message_names_its_field(arguments: tuple[object, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Message(*arguments)  # type: ignore[arg-type]
