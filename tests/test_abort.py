"""Abort: one event that ends many waits, once."""

from __future__ import annotations

import threading
import time

from zcell.abort import Abort


def test_triggering_is_idempotent_and_keeps_the_first_reason() -> None:
    abort = Abort()
    states = [abort.triggered]
    abort.trigger("user pressed Ctrl-C")
    abort.trigger("second thoughts")
    states.append(abort.triggered)
    assert states == [False, True]
    assert abort.reason == "user pressed Ctrl-C"


def test_a_waiting_thread_is_woken_at_once() -> None:
    abort = Abort()
    woken: list[float] = []
    waiter = threading.Thread(target=lambda: woken.append(time.monotonic()) if abort.wait(10) else None)
    waiter.start()
    start = time.monotonic()
    abort.trigger()
    waiter.join(5)
    assert woken[0] - start < 0.1


def test_wait_without_a_trigger_ends_with_false() -> None:
    assert Abort().wait(0.01) is False


def test_every_callback_runs_exactly_once_even_when_added_too_late() -> None:
    abort = Abort()
    calls: list[str] = []
    abort.add_callback(lambda: calls.append("early"))
    abort.trigger()
    abort.trigger()
    abort.add_callback(lambda: calls.append("late"))
    assert calls == ["early", "late"]


def test_a_removed_callback_does_not_run_and_removing_twice_is_harmless() -> None:
    abort = Abort()
    calls: list[int] = []
    key = abort.add_callback(lambda: calls.append(1))
    abort.remove_callback(key)
    abort.remove_callback(key)
    abort.remove_callback(12345)
    abort.trigger()
    assert calls == []


def test_a_callback_that_raises_does_not_keep_the_others_from_running() -> None:
    abort = Abort()
    calls: list[int] = []

    def bad() -> None:
        raise RuntimeError("a broken listener")

    abort.add_callback(bad)
    abort.add_callback(lambda: calls.append(1))
    abort.trigger()
    assert calls == [1]
    assert abort.triggered


def test_a_callback_may_use_the_abort_it_is_called_by() -> None:
    abort = Abort()
    seen: list[bool] = []

    def callback() -> None:
        abort.trigger()
        abort.remove_callback(1)
        abort.add_callback(lambda: seen.append(abort.triggered))

    abort.add_callback(callback)
    abort.trigger()
    assert seen == [True]


def test_threads_that_add_while_another_triggers_each_run_once() -> None:
    for _ in range(50):
        abort = Abort()
        calls: list[int] = []
        barrier = threading.Barrier(5)

        def add(number: int, abort: Abort = abort, calls: list[int] = calls, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            abort.add_callback(lambda: calls.append(number))

        def fire(abort: Abort = abort, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            abort.trigger()

        threads = [threading.Thread(target=add, args=(n,)) for n in range(4)] + [threading.Thread(target=fire)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(calls) == [0, 1, 2, 3]
