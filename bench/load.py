"""The load that zcell and its alternatives are put under: the same code asks both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

QUESTION = b"q" * 64


def seconds_each(ask: Callable[[], None], count: int) -> list[float]:
    """How long each of `count` questions takes, one after the other."""
    clock = time.perf_counter
    samples = []
    for _ in range(count):
        began = clock()
        ask()
        samples.append(clock() - began)
    return samples


def per_second(ask: Callable[[], None], callers: int, each: int) -> float:
    """Questions answered a second, asked by `callers` threads at once."""
    start = threading.Barrier(callers + 1)

    def run() -> None:
        ask()  # the first one of a thread may have to connect
        start.wait()
        for _ in range(each):
            ask()

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return callers * each / (time.perf_counter() - began)


def delivered_per_second(send: Callable[[], object], counted: Callable[[], int], count: int) -> float:
    """Events counted by their receiver, a second, from the first one sent. Raises `RuntimeError` unless exactly `count` arrive."""
    before = counted()
    began = time.perf_counter()
    for _ in range(count):
        send()
    end = time.monotonic() + 120
    while counted() - before < count:
        if time.monotonic() > end:
            raise RuntimeError(f"only {counted() - before} of {count} events arrived")
    seconds = time.perf_counter() - began
    if counted() - before != count:
        raise RuntimeError(f"{counted() - before} events arrived of {count} that were sent")
    return count / seconds
