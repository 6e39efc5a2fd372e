"""What one task sends by reference. Invariant owned here: it is on offer until the job has answered, or is over, and no longer.

A task may wait for the one before it, and a job takes a file when it needs it: no time without activity says that nobody wants it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from zcell.pipe.message import TTL, UNLIMITED, Message


class TaskOffers:
    """Watches the objects of one message (`OfferWatch`). Thread-safe."""

    def __init__(self, message: Message) -> None:
        self._lock = threading.Lock()
        self._withdrawals: dict[str, Callable[[], None]] = {}
        self._ended = False
        message.offer_watch = self
        message.headers[TTL] = UNLIMITED

    def offered(self, tx_id: str, ref_ids: list[str], receivers: list[str] | int, withdraw: Callable[[], None]) -> None:
        with self._lock:
            if not self._ended:
                self._withdrawals[tx_id] = withdraw
                return
        withdraw()

    def progress(self, tx_id: str | None, ref_id: str, receiver: str, bytes_done: int, state: str) -> None:
        """Whatever it is, the offer stands."""

    def done(self, tx_id: str, status: str) -> None:
        with self._lock:
            self._withdrawals.pop(tx_id, None)

    def withdraw(self) -> None:
        """The job has no use for them any more. Idempotent."""
        with self._lock:
            self._ended = True
            withdrawals, self._withdrawals = list(self._withdrawals.values()), {}
        for withdraw in withdrawals:
            withdraw()
