"""Where messages wait for whoever asks. Invariant owned here: each item goes to one taker, in order; closing ends every wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue whose waits are futures, so that threads and event loops can wait alike."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._takers: deque[Future[T]] = deque()
        self._closed: BaseException | None = None

    def put(self, item: T) -> bool:
        """Hand `item` to the first taker who still waits, or keep it; False once closed."""
        return self._give(item, self._items.append)

    def put_back(self, item: T) -> bool:
        """As `put`, before everything that waits."""
        return self._give(item, self._items.appendleft)

    def _give(self, item: T, keep: Callable[[T], None]) -> bool:
        while True:
            with self._lock:
                if self._closed is not None:
                    return False
                taker = self._takers.popleft() if self._takers else None
                if taker is None:
                    keep(item)
                    return True
            if taker.set_running_or_notify_cancel():
                taker.set_result(item)
                return True

    def take(self) -> Future[T]:
        """The next item. Cancel the future to stop waiting."""
        taker: Future[T] = Future()
        with self._lock:
            if self._closed is None and not self._items:
                self._takers.append(taker)
                return taker
            error, item = self._closed, self._items.popleft() if self._closed is None else None
        taker.set_running_or_notify_cancel()
        if error is not None:
            taker.set_exception(error)
        else:
            taker.set_result(item)  # type: ignore[arg-type]
        return taker

    def take_within(self, timeout: float | None) -> T | None:
        """The next item, waiting at most `timeout` seconds (None: without limit); None when there was none."""
        taker = self.take()
        try:
            return taker.result(timeout)
        except TimeoutError:
            if taker.cancel():
                return None
            return taker.result()  # it came in the very moment
        except CancelledError:
            return None

    def close(self, error: BaseException) -> list[T]:
        """End all waits, present and future, with `error`, the first one given; the items that nobody took."""
        with self._lock:
            if self._closed is None:
                self._closed = error
            takers, self._takers = self._takers, deque()
            items = list(self._items)
            self._items.clear()
        for taker in takers:
            if taker.set_running_or_notify_cancel():
                taker.set_exception(error)
        return items

    @property
    def closed_by(self) -> BaseException | None:
        return self._closed
