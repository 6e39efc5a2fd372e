"""The handler pool. Invariant: threads are bounded, and no channel, however slow its handlers, takes all of them.

Work is queued by channel; a channel runs on at most three quarters of the threads, the channels take turns. Items of one
`order` key (events of one source on one channel) run one after the other, in order; a request waits for the events before it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

from zcell._native.handover import Sleeper
from zcell.cell.loop import IoLoop

log = logging.getLogger("zcell.cell.pool")
T = TypeVar("T")
Task = Callable[[], None]
_BATCH = 64


class _Droppable:
    """A task that leaves a word when the pool ends before its turn."""

    __slots__ = ("dropped", "task")

    def __init__(self, task: Task, dropped: Callable[[], object]) -> None:
        self.task = task
        self.dropped = dropped

    def __call__(self) -> None:
        self.task()


class _Ordered:
    """Tasks that must not overtake one another; queued on its channel once, however many there are."""

    __slots__ = ("key", "tasks")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.tasks: deque[Task] = deque()


class _Channel:
    __slots__ = ("name", "queue", "queued", "running")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Task | _Ordered] = deque()
        self.running = 0
        self.queued = False


class WorkerPool:
    """Bounded threads, started when needed, that run tasks of many channels fairly."""

    def __init__(self, name: str, threads: int, *, share: float = 0.75, loop: IoLoop | None = None) -> None:
        self.name = name
        self._max = max(1, int(threads))
        self._per_channel = max(1, int(self._max * share))
        self._waker = None if loop is None else loop.waker
        """Flushed after every task: tasks may post quietly to `loop`."""
        self._wake = _wake if loop is None else loop.wake
        self._lock = threading.Lock()
        self._channels: dict[str, _Channel] = {}
        self._ready: deque[_Channel] = deque()
        self._ordered: dict[Hashable, _Ordered] = {}
        self._threads: list[threading.Thread] = []
        self._coming = 0
        """Workers called and not yet there."""
        self._idle: list[Sleeper] = []
        """What each idle worker sleeps on, the one that worked last on top: its memory is still warm."""
        self._closed = False

    def run(
        self,
        channel: str,
        task: Task,
        order: Hashable = None,
        dropped: Callable[[], object] | None = None,
        after: Hashable = None,
    ) -> bool:
        """Queue `task`; with `order`, behind all tasks of that key; with `after`, once those queued by now are done, but beside
        what comes then. False when the pool is closed.

        `dropped` is called by `close` in the place of a task whose turn never came.
        """
        if dropped is not None:
            task = _Droppable(task, dropped)
        sleeper = None
        with self._lock:
            if self._closed:
                return False
            before = None if after is None else self._ordered.get(after)
            if before is not None:
                before.tasks.append(_Droppable(lambda: self._go_on(channel, task), dropped or _done))
            elif order is not None:
                waiting = self._ordered.get(order)
                if waiting is not None:
                    waiting.tasks.append(task)
                    return True
                waiting = self._ordered[order] = _Ordered(order)
                waiting.tasks.append(task)
                sleeper = self._queue(channel, waiting)
            else:
                sleeper = self._queue(channel, task)
        if sleeper is not None:
            self._wake(sleeper)
        return True

    def _go_on(self, channel: str, task: Task) -> None:
        """The events before `task` are done. A closed pool drops it as it would have where it waited."""
        if not self.run(channel, task) and isinstance(task, _Droppable):
            task.dropped()

    def submit(self, fn: Callable[..., T], *args: Any, channel: str = "") -> Future[T]:
        """Run `fn(*args)`; its outcome is in the future. A closed pool gives a cancelled one."""
        future: Future[T] = Future()

        def task() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args))
                except BaseException as e:  # noqa: BLE001 - the outcome, whatever it is, belongs to who waits for it
                    future.set_exception(e)

        if not self.run(channel, task, dropped=future.cancel):
            future.cancel()
        return future

    @property
    def is_here(self) -> bool:
        """Whether the caller is one of the workers."""
        return threading.current_thread() in self._threads

    @property
    def thread_count(self) -> int:
        return len(self._threads)

    def _queue(self, channel_name: str, item: Task | _Ordered) -> Sleeper | None:
        channel = self._channels.get(channel_name)
        if channel is None:
            channel = self._channels[channel_name] = _Channel(channel_name)
        channel.queue.append(item)
        self._line_up(channel)
        return self._call_worker()

    def _line_up(self, channel: _Channel) -> None:
        """Put `channel` in line if it has work and may run more. Whoever changes the line calls a worker too."""
        if channel.queue and not channel.queued and channel.running < self._per_channel:
            channel.queued = True
            self._ready.append(channel)

    def _call_worker(self) -> Sleeper | None:
        """Whom to wake, once the pool's lock is let go, so that every channel in line has a worker coming."""
        if len(self._ready) <= self._coming:
            return None
        if self._idle:
            self._coming += 1
            return self._idle.pop()
        if len(self._threads) < self._max:
            self._coming += 1
            name = f"zcell-work-{self.name}-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return None

    def _work(self) -> None:
        sleep = Sleeper()
        channel: _Channel | None = None
        while True:
            sleeper = None
            with self._lock:
                if channel is None:
                    self._coming -= 1
                else:
                    self._leave(channel)
                    channel = None
                if self._ready:
                    channel = self._ready.popleft()
                    channel.queued = False
                    item = channel.queue.popleft()
                    channel.running += 1
                    self._line_up(channel)
                    sleeper = self._call_worker()
                elif self._closed:
                    return
                else:
                    self._idle.append(sleep)
            if sleeper is not None:
                sleeper.wake()
            if channel is None:
                sleep.sleep(-1.0, self._waker)
                continue
            if self._waker is not None:
                self._waker.flush()
            if isinstance(item, _Ordered):
                self._run_ordered(channel, item)
            else:
                self._guard(item)
            item = _done

    def _leave(self, channel: _Channel) -> None:
        """A worker is done with one item of `channel`, and looks for the next itself."""
        channel.running -= 1
        self._line_up(channel)
        if not (channel.running or channel.queued):
            self._channels.pop(channel.name, None)

    def _run_ordered(self, channel: _Channel, item: _Ordered) -> None:
        for _ in range(_BATCH):
            task = item.tasks.popleft()
            self._guard(task)
            if self._waker is not None:
                self._waker.flush()
            with self._lock:
                if not item.tasks:
                    del self._ordered[item.key]
                    return
        with self._lock:  # others of the channel get their turn
            channel.queue.append(item)

    def _guard(self, task: Callable[[], object]) -> None:
        try:
            task()
        except Exception:
            log.exception("a task of the pool of %s failed", self.name)

    def close(self, timeout: float) -> list[str]:
        """Take nothing more, drop what waits, join the threads; the names of those still busy after `timeout` seconds."""
        with self._lock:
            self._closed = True
            self._ready.clear()
            waiting: list[Task | _Ordered] = []
            for channel in self._channels.values():
                waiting += channel.queue
                channel.queue.clear()
                channel.queued = False
            sleepers, self._idle = self._idle, []
            self._coming += len(sleepers)
            threads = list(self._threads)
        for sleeper in sleepers:
            sleeper.wake()
        waiting += [task for item in waiting if isinstance(item, _Ordered) for task in item.tasks]
        for task in waiting:
            if isinstance(task, _Droppable):
                self._guard(task.dropped)
        deadline = time.monotonic() + timeout
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return [t.name for t in threads if t.is_alive() and t is not threading.current_thread()]


def _wake(sleeper: Sleeper) -> None:
    sleeper.wake()


def _done() -> None:
    """What a worker holds between two tasks, so that a finished one is released."""
