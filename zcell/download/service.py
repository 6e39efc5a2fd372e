"""`DownloadService`: the downloads of one cell, both ways. Invariant: a ref id is all it takes to download, and nothing else helps.

Whoever may not know of a ref gets the same answer as for one that never existed. A ref that has ended answers "gone" for
`limits.finished_ttl` seconds, and "unknown" after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait as wait_futures
from typing import TYPE_CHECKING

from zcell.download.answering import Answering
from zcell.download.callbacks import CallbackQueue
from zcell.download.client import DownloadClient
from zcell.download.offer import Offer
from zcell.download.options import IDLE_TIMEOUT, ProgressFn, seconds
from zcell.download.ref import new_ref_id
from zcell.download.transaction import DoneFn, Expectation, Receivers, SourceFailedFn, Transaction

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

_SHUTDOWN_SECONDS = 2.0
_MAX_CHECK_SECONDS = 600.0  # a timer that was cancelled is kept until it would have been due


class DownloadService(DownloadClient):
    """Use it as `cell.downloads`. All methods may be called from any thread but the cell's own."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.chunk_bytes = cell.limits.chunk_bytes
        self._transactions: dict[str, Transaction] = {}
        self._answering = Answering(cell, lambda peer: self.sealer_for(peer))
        self._answering.register()
        self._listening.register()
        self._stop_listening = cell.on_link(self._on_link)

    # --- offering ----------------------------------------------------------------------------------------------------------

    def transaction(
        self,
        *,
        receivers: Receivers = None,
        min_receivers: int | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        on_done: DoneFn | None = None,
        tx_id: str | None = None,
        progress: ProgressFn | None = None,
        on_source_failed: SourceFailedFn | None = None,
    ) -> Transaction:
        """Offer objects for download.

        Args:
            receivers: who is expected: None (anybody, so it ends by `idle_timeout` or `delete`), a number, or cell names. Only
                named receivers may download then.
            min_receivers: a quorum. When this many receivers have confirmed every ref and the rest have been silent for
                `idle_timeout`, the transaction is FINISHED.
            idle_timeout: seconds without activity on any ref by anyone after which it ends with TIMEOUT.
            on_done: ``on_done(tx_id, status, objs)``, once, on the pool.
            tx_id: a name of your own, for logs; by default a random one.
            progress: called with a `ProgressEvent` for what receivers report, on the pool.
            on_source_failed: ``on_source_failed(ref_id, text)``, once a ref, on the pool, when its source changed: it cannot be
                served any more, to nobody.

        Raises `ValueError` or `TypeError` naming the argument.
        """
        idle_timeout = seconds("idle_timeout", idle_timeout)
        expectation = Expectation.parse(receivers, min_receivers)
        tx = Transaction(self, tx_id or new_ref_id(), expectation, idle_timeout, on_done, progress, on_source_failed)
        with self._lock:
            if self._closed:
                raise RuntimeError("the download service was shut down")
            if tx.id in self._transactions:
                raise ValueError(f"tx_id {tx.id!r} is in use by a transaction that has not ended")
            self._transactions[tx.id] = tx
        self._watch(tx, time.monotonic() + tx.idle_timeout)
        return tx

    def _watch(self, tx: Transaction, when: float) -> None:
        delay = min(max(0.005, when - time.monotonic()), _MAX_CHECK_SECONDS)
        tx.timer = self._cell.call_later(delay, lambda: self._check_soon(tx))

    def _check_soon(self, tx: Transaction) -> None:
        self._cell.submit(self._check_idle, tx)

    def _check_idle(self, tx: Transaction) -> None:
        with self._lock:
            if tx.id not in self._transactions:
                return
        now = time.monotonic()
        self._answering.drop_silent(tx, now)
        due = tx.check_idle(now)
        if due > now:
            self._watch(tx, due)

    def publish_offer(self, offer: Offer, tx: Transaction) -> None:
        """Make `offer` downloadable. Raises `ValueError` when its ref id is taken."""
        self._answering.publish(offer, tx)

    def retire(self, tx: Transaction, offers: list[Offer]) -> None:
        """The transaction ended: its refs are gone."""
        if tx.timer is not None:
            tx.timer.cancel()
        self._answering.retire(offers, tx, time.monotonic() + self._cell.limits.finished_ttl)
        with self._lock:
            self._transactions.pop(tx.id, None)

    def callback_queue(self) -> CallbackQueue:
        """A queue for the callbacks of one transaction."""
        return CallbackQueue(self._cell)

    def run_task(self, task: Callable[[], None]) -> object:
        """Run internal work that may block on the user's code."""
        return self._cell.submit(task)

    def transfers_of(self, offers: Iterable[Offer]) -> int:
        """How many transfers of these offers are running."""
        return self._answering.transfers_of(offers)

    # --- the end -----------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Abort all transactions and downloads of this cell. Idempotent; takes at most a few seconds."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            transactions = list(self._transactions.values())
            running = list(self._running.values())
        self._stop_listening()
        for fetch in running:
            fetch.cancel("the cell was stopped")
        for tx in transactions:
            tx.abort()
        self._answering.unregister()
        self._listening.unregister()
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        wait_futures([fetch.future for fetch in running], timeout=_SHUTDOWN_SECONDS)
        for fetch in running:
            fetch.ended.wait(max(0.0, deadline - time.monotonic()))
        self._answering.wait_released(deadline)
        for tx in transactions:
            tx.callbacks.wait_idle(max(0.0, deadline - time.monotonic()))
