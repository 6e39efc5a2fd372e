"""Moments between one job and the next, made to happen: whatever falls into them is neither lost nor blamed on the wrong job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.agent.conftest import Place, serve
from zcell.agent import Agent, Cause, Result, TaskExchange
from zcell.agent.assignment import Assignment
from zcell.agent.conversation import Conversation
from zcell.pipe import PeerState


def _assign(exchange: TaskExchange, data: Any, timeout: float | None = None) -> Assignment:
    """As `TaskExchange.run` begins: what is left is to submit it, and to wait."""
    return exchange._assign("t", data, None, {}, timeout, None)


def _agent(place: Place) -> Agent:
    """One that has heard the exchange."""
    agent = place.agent().start()
    assert agent._handler is not None
    assert agent._handler.wait_for_peer(10)
    return agent


def _current(exchange: TaskExchange) -> Conversation:
    conversation = exchange._dispatcher._current
    assert conversation is not None
    return conversation


def _when_the_last_word_was_read(exchange: TaskExchange, call: Callable[[], None]) -> threading.Event:
    """Have `call` made once, on the reader's thread, after the job's last word was read and before it is acted upon."""
    pipe, called = _current(exchange).handler.pipe, threading.Event()
    forward = pipe.peer_is_gone

    def peer_is_gone() -> None:
        if not called.is_set():
            assert _current(exchange).is_ending
            call()
            called.set()
        forward()

    pipe.peer_is_gone = peer_is_gone  # type: ignore[method-assign]
    return called


@pytest.mark.parametrize("timeout", [20.0, None])
def test_a_task_given_while_a_job_leaves_goes_to_the_next_one(place: Place, timeout: float | None) -> None:
    exchange = place.exchange(peer_timeout=30)
    first = _agent(place)
    assert exchange.wait_for_peer(10)
    assignment = _assign(exchange, "kept", timeout)
    called = _when_the_last_word_was_read(exchange, lambda: exchange._dispatcher.submit(assignment, here=True))
    first.stop()
    assert called.wait(10)
    place.meanwhile(serve, place.agent().start())
    got = assignment.future.result(10)
    assert (got.ok, got.data, got.attempts) == (True, "kept", 1), got


def test_who_waits_for_a_job_while_one_leaves_gets_the_next_one(place: Place) -> None:
    exchange = place.exchange()
    first = _agent(place)
    assert exchange.wait_for_peer(10)
    waiting: list[Future[bool]] = []
    begun = threading.Event()
    wait = _current(exchange).handler.wait_for_peer

    def wait_for_peer(*arguments: Any) -> bool:
        found = wait(*arguments)
        begun.set()
        return found

    _current(exchange).handler.wait_for_peer = wait_for_peer  # type: ignore[assignment,method-assign]

    def ask() -> None:
        waiting.append(place.meanwhile(exchange.wait_for_peer, 20))
        assert begun.wait(10)

    called = _when_the_last_word_was_read(exchange, ask)
    first.stop()
    assert called.wait(10)
    place.agent().start()
    assert waiting[0].result(10)


def test_a_task_whose_job_is_given_up_just_before_it_is_sent_goes_to_whoever_comes_next(place: Place) -> None:
    exchange, agent = place.both(heartbeat_interval=0.1)
    assert exchange.wait_for_peer(10)
    dispatcher = exchange._dispatcher
    wait = dispatcher._wait

    def wait_and_lose(conversation: Conversation, assignment: Assignment) -> bool:
        is_there = wait(conversation, assignment)
        dispatcher._wait = wait  # type: ignore[method-assign]
        exchange.peer_is_gone("exit code 137")
        return is_there

    dispatcher._wait = wait_and_lose  # type: ignore[method-assign]
    place.meanwhile(serve, agent)
    got = exchange.run("t", "kept", timeout=20)
    assert (got.ok, got.data, got.attempts) == (True, "kept", 1), got


def test_the_end_of_one_job_decides_nothing_of_the_next(place: Place) -> None:
    exchange = place.exchange(peer_timeout=30)
    first = place.agent().start()
    lost = place.meanwhile(exchange.run, "t", "lost")
    assert first.get_task(10)
    results: list[Result] = []

    def next_job_works() -> None:
        first.stop()
        place.meanwhile(serve, place.agent().start())
        results.append(exchange.run("t", "next", timeout=20))
        results.append(exchange.run("t", "one more", timeout=20))

    # this thread knows that the job is over, and is held up before it says so; meanwhile another one begins the next conversation
    over = _current(exchange).handler._over
    over.add_callback(lambda: place.meanwhile(next_job_works).result(30))
    exchange.peer_is_gone("exit code 137")
    assert [r.data for r in results] == ["next", "one more"]
    assert lost.result(10).cause is Cause.PEER_GONE
    assert exchange.run("t", "after", timeout=20).ok


def test_a_task_given_while_the_exchange_stops_ends_as_closed(place: Place) -> None:
    exchange = place.exchange()
    place.agent().start()
    assert exchange.wait_for_peer(10)
    dispatcher = exchange._dispatcher
    wait = dispatcher._wait
    stopping: list[Future[None]] = []

    def wait_and_stop(conversation: Conversation, assignment: Assignment) -> bool:
        is_there = wait(conversation, assignment)
        stopping.append(place.meanwhile(exchange.stop))
        assert dispatcher._stopping.wait(10)
        return is_there

    dispatcher._wait = wait_and_stop  # type: ignore[method-assign]
    begun = time.monotonic()
    got = exchange.run("t")
    assert (got.cause, got.attempts) == (Cause.CLOSED, 0)
    stopping[0].result(10)
    assert time.monotonic() - begun < 10


def test_who_waits_for_a_peer_learns_of_one_that_only_showed_life(place: Place) -> None:
    """A sign of life that is no message (`last_peer_active_time` moved) ends the wait as well."""
    exchange = place.exchange(heartbeat_interval=0.05)
    waiting = place.meanwhile(exchange.wait_for_peer, 20)
    assert exchange.peer_state is PeerState.WAITING
    pipe = _current(exchange).handler.pipe
    kind = type(pipe)
    quiet = type("Quiet", (kind,), {"last_peer_active_time": property(lambda self: time.monotonic())})
    pipe.__class__ = quiet
    assert waiting.result(5)


def test_jobs_that_leave_at_once_say_so_and_harm_nobody(place: Place) -> None:
    exchange = place.exchange(peer_timeout=30)
    for _ in range(3):
        place.agent().start().stop()
    place.meanwhile(serve, place.agent().start())
    assert exchange.run("t", 1, timeout=20).ok


def test_a_task_sent_to_a_job_that_had_just_left_goes_to_the_next_one(place: Place) -> None:
    """The goodbye has arrived and was not read yet: the job still looks alive, and takes nothing any more."""
    exchange = place.exchange(peer_timeout=30)
    first = _agent(place)
    assert exchange.wait_for_peer(10)
    pipe, left, sent = _current(exchange).handler.pipe, threading.Event(), threading.Event()
    reading = threading.Event()
    receive, send = pipe.receive, pipe.send

    def receive_late(timeout: float | None = None) -> Any:
        reading.set()
        message = receive(timeout)
        if message is not None and message.is_status:
            left.set()
            assert sent.wait(10)
        return message

    def send_and_tell(message: Any, *arguments: Any) -> bool:
        if message.topic == "t":
            sent.set()
        return send(message, *arguments)

    pipe.receive, pipe.send = receive_late, send_and_tell  # type: ignore[assignment,method-assign]
    assert reading.wait(10)
    stopped = place.meanwhile(first.stop)
    assert left.wait(10)
    running = place.meanwhile(exchange.run, "t", "kept", timeout=20)
    stopped.result(10)
    place.meanwhile(serve, place.agent().start())
    got = running.result(20)
    assert (got.ok, got.data) == (True, "kept"), got
