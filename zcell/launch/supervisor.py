"""The one thread that looks after all jobs of a process launcher. Invariant: it lives exactly while there are any."""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from zcell.launch.process_handle import ProcessHandle

log = logging.getLogger("zcell.launch")
T = TypeVar("T")


class Supervisor:
    """Watches the jobs' descriptors and deadlines; runs what other threads want done to a job's processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[ProcessHandle] = []
        self._new: deque[ProcessHandle] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._wake_fd = -1

    def handles(self) -> list[ProcessHandle]:
        """The jobs that have not ended yet."""
        with self._lock:
            return list(self._handles)

    def add(self, handle: ProcessHandle) -> None:
        """Look after `handle` until its job has ended."""
        with self._lock:
            self._handles.append(handle)
            self._new.append(handle)
            if self._thread is None:
                wake, self._wake_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._thread = threading.Thread(target=self._run, args=(wake,), name="zcell-launch-process", daemon=True)
                self._thread.start()
            else:
                self._wake()

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` on the thread; not at all when no job is left, since then there is nothing to do it to."""
        with self._lock:
            if self._thread is None:
                return
            self._calls.append(work)
            self._wake()

    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _wake(self) -> None:
        try:
            os.write(self._wake_fd, b"w")
        except BlockingIOError:  # full of wake-ups already
            return

    def _run(self, wake: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            while True:
                with self._lock:
                    new, calls = list(self._new), list(self._calls)
                    self._new.clear()
                    self._calls.clear()
                    if not self._handles:
                        os.close(self._wake_fd)
                        os.close(wake)
                        self._thread = None
                        return
                for handle in new:
                    for fd, read in handle.sources():
                        selector.register(fd, selectors.EVENT_READ, (handle, read))
                for work in calls:
                    _attempt(work)
                self._turn(selector, wake)

    def _turn(self, selector: selectors.BaseSelector, wake: int) -> None:
        """Wait for the next event or deadline and act on it."""
        deadlines = [handle.deadline for handle in self.handles() if handle.deadline is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        gone = set()
        for key, _ in selector.select(timeout):
            if key.fd == wake:
                os.read(wake, 4096)
                continue
            handle, read = key.data
            if _attempt(read):
                continue
            selector.unregister(key.fd)
            if key.fd == handle.lease_fd:
                gone.add(handle)
        for handle in gone:
            self._conclude(handle, selector)
        now = time.monotonic()
        for handle in self.handles():
            if handle.deadline is not None and handle.deadline <= now:
                _attempt(handle.on_deadline)

    def _conclude(self, handle: ProcessHandle, selector: selectors.BaseSelector) -> None:
        for fd, _ in handle.sources():
            if fd in selector.get_map():
                selector.unregister(fd)
        try:
            handle.conclude()
        except Exception as error:
            log.exception("job %s: its end could not be handled", handle.job_id)
            handle.give_up(f"its end could not be handled: {error}")
        finally:
            with self._lock:
                self._handles.remove(handle)


def _attempt(work: Callable[[], T]) -> T | None:
    """One job's trouble must not end the thread that looks after all of them."""
    try:
        return work()
    except Exception:
        log.exception("looking after a job failed")
        return None
