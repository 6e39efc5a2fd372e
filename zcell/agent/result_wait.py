"""Drives the decision table of a result with the real clock. Invariant owned here: a failed result leaves nothing on offer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from zcell.abort import Abort
from zcell.agent.delivery import Decision, DeliveryWait, Verdict

_log = logging.getLogger("zcell.agent")


class ResultWait:
    """Watches what one result sends by reference (`OfferWatch`) and waits until it has arrived or failed. Thread-safe."""

    def __init__(self, idle_timeout: float | None, complete_timeout: float) -> None:
        self._changed = threading.Condition()
        self._delivery = DeliveryWait(time.monotonic(), idle_timeout, complete_timeout)
        self._withdrawals: list[Callable[[], None]] = []

    @property
    def has_offers(self) -> bool:
        """Whether anything was sent by reference."""
        return bool(self._withdrawals)

    def offered(self, tx_id: str, ref_ids: list[str], receivers: list[str] | int, withdraw: Callable[[], None]) -> None:
        with self._changed:
            self._delivery.offered(tx_id, ref_ids, receivers, time.monotonic())
            self._withdrawals.append(withdraw)

    def progress(self, tx_id: str | None, ref_id: str, receiver: str, bytes_done: int, state: str) -> None:
        with self._changed:
            self._delivery.progress(tx_id, ref_id, receiver, bytes_done, state, time.monotonic())
            self._changed.notify_all()

    def done(self, tx_id: str, status: str) -> None:
        with self._changed:
            self._delivery.done(tx_id, status, time.monotonic())
            self._changed.notify_all()

    def abandon(self, reason: str) -> None:
        """Stop waiting: delivered only if everything had completed."""
        with self._changed:
            self._delivery.abandon(reason)
            self._changed.notify_all()

    def wait(self, abort: Abort) -> Decision:
        """Block until there is a verdict; `abort` abandons the wait."""
        key = abort.add_callback(lambda: self.abandon(abort.reason))
        try:
            with self._changed:
                while True:
                    now = time.monotonic()
                    decision = self._delivery.decide(now)
                    again = self._delivery.next_check(now)
                    if decision.verdict is not Verdict.PENDING or again is None:
                        break
                    self._changed.wait(max(0.0, again - now))
        finally:
            abort.remove_callback(key)
        if self._delivery.ambiguous or self._delivery.unexpected:
            _log.info(
                "a result's wait ignored %d ambiguous and %d unexpected events",
                self._delivery.ambiguous,
                self._delivery.unexpected,
            )
        if decision.verdict is Verdict.FAILED:
            for withdraw in self._withdrawals:
                withdraw()
        return decision
