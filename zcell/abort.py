"""`Abort`: one event that ends waits early. Invariant: every callback runs exactly once, even when it is added too late."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger("zcell.abort")


class Abort:
    """Hand one `Abort` to any number of waits; `trigger()` ends them all, with ABORTED, within 100 ms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0
        self.reason = ""

    def trigger(self, reason: str = "aborted by the caller") -> None:
        """Abort. Idempotent: the first reason stays. Callbacks run in this thread and must not block.

        A callback that raises is logged; the others run all the same.
        """
        with self._lock:
            if self._event.is_set():
                return
            self.reason = reason
            self._event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001  one broken listener must not keep the other waits from ending
                _log.exception("a callback of an abort raised")

    @property
    def triggered(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until triggered or `timeout` seconds passed; whether it is triggered."""
        return self._event.wait(timeout)

    def add_callback(self, callback: Callable[[], None]) -> int:
        """Call `callback` when triggered, at once if it already is. Returns a key for `remove_callback`."""
        with self._lock:
            if not self._event.is_set():
                self._next += 1
                self._callbacks[self._next] = callback
                return self._next
        callback()
        return 0

    def remove_callback(self, key: int) -> None:
        with self._lock:
            self._callbacks.pop(key, None)
