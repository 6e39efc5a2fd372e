"""Running the user's callbacks. Invariant: those of one queue run one after the other, in order, and one that raises harms nothing."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

log = logging.getLogger("zcell.download")


class CallbackQueue:
    """Callbacks of one transaction or one download, run on the handler pool of `cell`."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._running = False
        self._idle = threading.Event()
        self._idle.set()

    def call(self, fn: Callable[..., object], *args: Any) -> None:
        """Run `fn(*args)` after what was queued before it."""
        with self._lock:
            self._waiting.append((fn, args))
            if self._running:
                return
            self._running = True
            self._idle.clear()
        if self._cell.submit(self._drain).cancelled():
            self._idle.set()

    def wait_idle(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until nothing is queued or running."""
        return self._idle.wait(timeout)

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    self._idle.set()
                    return
                fn, args = self._waiting.popleft()
            try:
                fn(*args)
            except Exception:
                log.exception("a download callback raised; it is ignored")
