"""Threads that hand work to one another: no wake is lost, none sleeps past its time, and nothing outlives its descriptor."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from zcell._native.handover import Poll, Sleeper, Waker


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


def _poll_of(waker: Waker) -> Poll:
    poll = Poll()
    poll.register(waker.fileno())
    return poll


def test_a_wake_that_comes_first_is_not_lost_and_two_count_as_one() -> None:
    sleeper = Sleeper()
    sleeper.wake()
    sleeper.wake()
    assert sleeper.sleep(0.0)
    assert not sleeper.sleep(0.0)


def test_a_sleeper_sleeps_its_time_and_no_longer() -> None:
    started = time.monotonic()
    assert not Sleeper().sleep(0.05)
    assert 0.05 <= time.monotonic() - started < 2


def test_another_thread_wakes_a_sleeper_without_limit() -> None:
    sleeper, back = Sleeper(), Sleeper()

    def other() -> None:
        assert sleeper.sleep()
        back.wake()

    thread = threading.Thread(target=other)
    thread.start()
    sleeper.wake()
    assert back.sleep(10)
    thread.join(10)


def test_a_signal_handler_that_raises_ends_a_sleep() -> None:
    class Rang(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Rang):
            Sleeper().sleep(10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_returns_does_not_shorten_a_sleep() -> None:
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        assert not Sleeper().sleep(0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rang
    assert time.monotonic() - started >= 0.1


def test_a_poll_ends_when_it_is_woken_and_again_only_after_the_next_wake(waker: Waker) -> None:
    poll = _poll_of(waker)
    assert poll.wait(0, []) == []
    waker.wake()
    assert poll.wait(10_000, []) == [waker.fileno()]
    waker.clear()
    assert poll.wait(0, []) == []
    waker.wake()
    assert poll.wait(10_000, []) == [waker.fileno()]


def test_what_is_to_be_woken_later_is_woken_by_flush_once(waker: Waker) -> None:
    poll = _poll_of(waker)
    waker.flush()
    assert poll.wait(0, []) == []
    waker.wake_later()
    assert poll.wait(0, []) == []
    waker.flush()
    assert poll.wait(0, []) == [waker.fileno()]
    waker.clear()
    waker.flush()
    assert poll.wait(0, []) == []


def test_going_to_sleep_flushes(waker: Waker) -> None:
    poll = _poll_of(waker)
    waker.wake_later()
    assert not Sleeper().sleep(0.0, waker)
    assert poll.wait(0, []) == [waker.fileno()]


def test_a_poll_wakes_all_sleepers_before_it_waits(waker: Waker) -> None:
    poll = _poll_of(waker)
    sleepers = [Sleeper() for _ in range(200)]
    sleepers[0].wake()
    assert poll.wait(0, sleepers) == []
    assert all(sleeper.sleep(0.0) for sleeper in sleepers)
    assert not any(sleeper.sleep(0.0) for sleeper in sleepers)


@pytest.mark.parametrize("rounds", [2000])
def test_two_threads_answer_one_another_and_no_wake_is_lost(waker: Waker, rounds: int) -> None:
    poll = _poll_of(waker)
    sleeper = Sleeper()
    asked: list[int] = []
    done: list[int] = []

    def serve() -> None:
        while len(done) < rounds:
            waking = [sleeper] if asked else []
            done.extend(asked)
            asked.clear()
            if poll.wait(0 if waking else 10_000, waking):
                waker.clear()

    thread = threading.Thread(target=serve)
    thread.start()
    for number in range(rounds):
        asked.append(number)
        waker.wake_later()
        assert sleeper.sleep(10, waker), f"round {number}"
    waker.wake()
    thread.join(10)
    assert done == list(range(rounds))


def test_a_closed_waker_touches_no_descriptor_that_took_its_number() -> None:
    read_end, write_end = os.pipe()
    waker = Waker()
    number = waker.fileno()
    waker.close()
    waker.close()
    assert waker.fileno() == -1
    try:
        os.dup2(write_end, number, inheritable=False)
        waker.wake()
        waker.wake_later()
        waker.flush()
        Sleeper().sleep(0.0, waker)
        os.set_blocking(read_end, False)
        with pytest.raises(BlockingIOError):
            os.read(read_end, 8)
    finally:
        for fd in (read_end, write_end, number):
            os.close(fd)


def test_a_poll_has_room_for_32_descriptors_and_says_so() -> None:
    poll = Poll()
    for fd in range(32):
        poll.register(fd)
    with pytest.raises(ValueError, match="at most 32"):
        poll.register(32)
    poll.unregister(7)
    poll.register(32)
    with pytest.raises(KeyError):
        poll.unregister(7)


def test_a_descriptor_that_is_unregistered_is_not_waited_for() -> None:
    first, second = Waker(), Waker()
    try:
        poll = _poll_of(first)
        poll.register(second.fileno())
        first.wake()
        second.wake()
        assert sorted(poll.wait(0, [])) == sorted([first.fileno(), second.fileno()])
        poll.unregister(first.fileno())
        assert poll.wait(0, []) == [second.fileno()]
    finally:
        first.close()
        second.close()
