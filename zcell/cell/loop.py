"""The I/O thread. Invariant: it alone touches sockets, and it never blocks: what it runs is tiny, and waits only in its poll."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from zcell._native.handover import Sleeper, Waker
from zcell.cell.readiness import Readiness

log = logging.getLogger("zcell.cell.loop")

Readable = Callable[[], bool]
"""Called when a socket has something to read; whether it stopped early and there may be more."""


class Timer:
    """One call in the future; `cancel` is allowed from any thread, at any time."""

    __slots__ = ("cancelled", "fn", "when")

    def __init__(self, when: float, fn: Callable[[], None]) -> None:
        self.when = when
        self.fn = fn
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.fn = _nothing


def _nothing() -> None:
    """What a cancelled timer would call."""


class IoLoop:
    """Runs posted calls, timers and readable sockets on one thread until it is told to end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._bulk: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._readers: dict[Any, Readable] = {}
        self._ending = False
        self._more = False
        self.at_turn_end: Callable[[], None] = _nothing
        """Called after every round of calls and reads, before the loop waits."""
        self.waker = Waker()
        """For those who posted something and go to sleep themselves: see `post_quietly`."""
        self._sleepers: list[Sleeper] = []
        self._readiness = Readiness(self.waker)
        self._thread = threading.Thread(target=self._run, name=f"zcell-io-{name}", daemon=True)
        self._ident = 0

    def start(self) -> None:
        self._thread.start()

    def end(self, timeout: float) -> bool:
        """End the thread after what is posted by now; whether it ended within `timeout` seconds. Then release its descriptor."""
        if self._thread.ident is None:
            self.waker.close()
            return True
        self.post(self._end)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _end(self) -> None:
        self._ending = True

    @property
    def is_here(self) -> bool:
        """Whether the caller is the I/O thread."""
        return threading.get_ident() == self._ident

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def post(self, fn: Callable[..., None], *args: Any) -> None:
        """Run `fn(*args)` on the I/O thread, in order. From any thread."""
        self._calls.append((fn, args))
        if threading.get_ident() != self._ident:
            self.waker.wake()

    def post_quietly(self, fn: Callable[..., None], *args: Any) -> None:
        """As `post`, by who will flush `waker` very soon, best by going to sleep with it."""
        self._calls.append((fn, args))
        if threading.get_ident() != self._ident:
            self.waker.wake_later()

    def wake(self, sleeper: Sleeper) -> None:
        """Wake a thread: now, or on the I/O thread when it comes to wait, so that the two do not meet at the GIL."""
        if threading.get_ident() == self._ident:
            self._sleepers.append(sleeper)
        else:
            sleeper.wake()

    def post_bulk(self, fn: Callable[..., None], *args: Any) -> None:
        """As `post`, but a few at a time, behind everything posted by `post`: for the data lane."""
        self._bulk.append((fn, args))
        if threading.get_ident() != self._ident:
            self.waker.wake()

    def call_later(self, delay: float, fn: Callable[[], None]) -> Timer:
        """Call `fn` on the I/O thread in `delay` seconds. From any thread."""
        timer = Timer(time.monotonic() + delay, fn)
        if self.is_here:
            self._push(timer)
        else:
            self.post(self._push, timer)
        return timer

    def _push(self, timer: Timer) -> None:
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))

    def watch(self, socket: Any, reader: Readable, *, sends: bool = True) -> None:
        """Call `reader` when `socket` may be readable, and once for a start. On the I/O thread only.

        One that never `sends` is read until it is empty each time.
        """
        self._readers[socket] = reader
        self._readiness.add(socket, sends=sends)

    def unwatch(self, socket: Any) -> None:
        if self._readers.pop(socket, None) is not None:
            self._readiness.remove(socket)

    def _run(self) -> None:
        self._ident = threading.get_ident()
        try:
            while not self._ending:
                self._turn()
                self._more = self._read()
        finally:
            for sleeper in self._sleepers:
                sleeper.wake()
            self._sleepers.clear()
            self._ident = 0
            self.waker.close()

    def _turn(self) -> None:
        self._run_timers()
        calls = self._calls
        for _ in range(len(calls)):
            fn, args = calls.popleft()
            self._guard(fn, *args)
        for _ in range(min(4, len(self._bulk))):
            fn, args = self._bulk.popleft()
            self._guard(fn, *args)
        self._guard(self.at_turn_end)

    def _read(self) -> bool:
        timeout = 0 if self._more or self._calls or self._bulk or self._ending else self._idle_ms()
        sleepers, self._sleepers = self._sleepers, []
        sockets, woken = self._readiness.wait(timeout, sleepers)
        if woken:
            self.waker.clear()
        more = False
        for socket in sockets:
            reader = self._readers.get(socket)
            more = (reader is not None and bool(self._guard(reader))) or more
        return more

    def _idle_ms(self) -> int:
        if not self._timers:
            return 60_000
        return max(0, min(60_000, math.ceil((self._timers[0][0] - time.monotonic()) * 1000)))

    def _run_timers(self) -> None:
        timers = self._timers
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            self._guard(heapq.heappop(timers)[2].fn)

    def _guard(self, fn: Callable[..., Any], *args: Any) -> Any:
        try:
            return fn(*args)
        except Exception:
            # one failing call must not end the thread that everything depends on
            log.exception("cell %s: a call on the I/O thread failed", self.name)
            return None
