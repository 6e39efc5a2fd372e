"""`Transaction`: what an owner offers, to whom, and how that ended. Invariant: one final status, reported exactly once.

A receiver counts as having a ref only after it confirmed that it stored and verified it. That something was sent means nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.digest import Digest
from zcell.download.offer import DeliveredFn, Offer
from zcell.download.options import ProgressFn
from zcell.download.outcome import DownloadStatus, TransactionStatus
from zcell.download.progress import ProgressEvent
from zcell.download.ref import Ref, checked_ref_id, new_ref_id
from zcell.download.sources import BytesSource, FileSource, Source
from zcell.download.spool import Stream, StreamSource
from zcell.download.stepwise import Producer
from zcell.fqcn import FQCN

if TYPE_CHECKING:
    from zcell.cell.loop import Timer
    from zcell.download.service import DownloadService

log = logging.getLogger("zcell.download")
SourceFailedFn = Callable[[str, str], None]
DoneFn = Callable[[str, TransactionStatus, list[Any]], None]
Receivers = int | Iterable[str] | None
SPOOL_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class TransactionStatistics:
    """A snapshot. `confirmed`: (ref id, receiver) pairs that are delivered."""

    tx_id: str
    status: TransactionStatus
    refs: tuple[str, ...]
    confirmed: frozenset[tuple[str, str]]
    failed: frozenset[tuple[str, str]]
    active_transfers: int
    chunks_loaded: int
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """Who is to receive: anybody (None, None), any `count` receivers, or exactly `names`."""

    count: int | None
    names: frozenset[str] | None
    quorum: int | None

    @staticmethod
    def parse(receivers: Receivers, min_receivers: int | None) -> Expectation:
        """Raises `ValueError` or `TypeError` naming the argument."""
        count: int | None = None
        names: frozenset[str] | None = None
        if isinstance(receivers, bool | str):
            raise TypeError(f"receivers must be None, a number or a list of cell names, got {receivers!r}")
        if isinstance(receivers, int):
            if receivers < 1:
                raise ValueError(f"receivers must be at least 1, got {receivers}")
            count = receivers
        elif receivers is not None:
            names = frozenset(FQCN.validate(name) for name in receivers)
            if not names:
                raise ValueError("receivers is an empty list: nobody could download; None means anybody")
            count = len(names)
        if min_receivers is not None and (isinstance(min_receivers, bool) or not isinstance(min_receivers, int)):
            raise TypeError(f"min_receivers must be None or a number, got {min_receivers!r}")
        if min_receivers is not None and not 1 <= min_receivers <= (count or min_receivers):
            raise ValueError(f"min_receivers must be from 1 to the number of receivers ({count}), got {min_receivers}")
        return Expectation(count, names, min_receivers)

    def admits(self, receiver: str) -> bool:
        """Whether `receiver` may know that the transaction exists."""
        return self.names is None or receiver in self.names


class Transaction:
    """Made by `DownloadService.transaction`. As a context manager it is aborted when left by an exception; left normally it stays
    open, and only then (or when `wait` is called) it may finish, so that refs can be added while receivers are already fast."""

    def __init__(
        self,
        service: DownloadService,
        tx_id: str,
        expectation: Expectation,
        idle_timeout: float,
        on_done: DoneFn | None,
        progress: ProgressFn | None,
        on_source_failed: SourceFailedFn | None = None,
    ) -> None:
        self.id = tx_id
        self.idle_timeout = idle_timeout
        self.expectation = expectation
        self.callbacks = service.callback_queue()
        self.timer: Timer | None = None
        """Looks for idleness."""
        self._progress = progress
        self._on_source_failed = on_source_failed
        self._service = service
        self._on_done = on_done
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._status = TransactionStatus.ACTIVE
        self._offers: dict[str, Offer] = {}
        self._confirmed: dict[str, set[str]] = {}
        self._failed: set[tuple[str, str]] = set()
        self._seen: set[str] = set()
        self._held_open = False
        self._last_activity = time.monotonic()

    def __repr__(self) -> str:
        return f"<Transaction {self.id} {self._status.value} of {len(self._offers)} refs>"

    # --- offering ----------------------------------------------------------------------------------------------------------

    def add_file(
        self,
        path: str | os.PathLike[str],
        *,
        ref_id: str | None = None,
        digest: Digest | None = None,
        on_delivered: DeliveredFn | None = None,
    ) -> Ref:
        """Offer a regular file. It must not change while it is offered. `digest`, when known, lets receivers compare at once.

        Raises `OSError` when it cannot be opened, `ValueError` when it is no regular file or `digest` is of another length.
        """
        source = FileSource(Path(path), self._service.chunk_bytes)
        return self._offer_source(source, path, ref_id, digest, on_delivered)

    def add_bytes(
        self,
        data: bytes | bytearray | memoryview,
        *,
        ref_id: str | None = None,
        name: str = "",
        digest: Digest | None = None,
        on_delivered: DeliveredFn | None = None,
    ) -> Ref:
        """Offer a buffer, uncopied: it must not change while it is offered."""
        return self._offer_source(BytesSource(data, self._service.chunk_bytes, name), data, ref_id, digest, on_delivered)

    def add_stream(
        self,
        source: Stream,
        *,
        ref_id: str | None = None,
        name: str = "",
        spool_bytes: int = SPOOL_BYTES,
        on_delivered: DeliveredFn | None = None,
    ) -> Ref:
        """Offer a stream whose length is not known: an iterable of bytes-like pieces, or a file object.

        It is read once, on demand, and kept in an unlinked temporary file of at most `spool_bytes`, see `zcell.download.spool`.
        """
        run = self._service.run_task
        spooled = StreamSource(source, self._service.chunk_bytes, spool_bytes, run, self._absent_receivers, name)
        return self._offer_source(spooled, source, ref_id, None, on_delivered)

    def add_source(
        self,
        source: Source,
        *,
        ref_id: str | None = None,
        digest: Digest | None = None,
        on_delivered: DeliveredFn | None = None,
    ) -> Ref:
        """Offer bytes from a source of your own, which is released when the transaction ends."""
        return self._offer_source(source, source, ref_id, digest, on_delivered)

    def add(self, obj: Any, producer: Producer, ref_id: str | None = None, on_delivered: DeliveredFn | None = None) -> Ref:
        """Offer an object that `producer` turns into steps."""
        if not callable(getattr(producer, "produce", None)):
            raise TypeError(
                f"producer must have a method produce(ref_id, obj, state, requester), got {type(producer).__name__}"
            )
        ref = Ref(checked_ref_id(ref_id) if ref_id is not None else new_ref_id())
        self._offer(Offer(ref, obj, producer=producer, on_delivered=on_delivered))
        return ref

    def _offer_source(
        self, source: Source, obj: Any, ref_id: str | None, digest: Digest | None, on_delivered: DeliveredFn | None
    ) -> Ref:
        try:
            if digest is not None and digest.length != source.size:
                raise ValueError(f"digest is of {digest.length} bytes, the object has {source.size}")
            ref = Ref(checked_ref_id(ref_id) if ref_id is not None else new_ref_id(), source.size, digest)
            self._offer(Offer(ref, obj, source=source, on_delivered=on_delivered))
        except BaseException:
            source.release()
            raise
        return ref

    def _offer(self, offer: Offer) -> None:
        with self._lock:
            if self._status is not TransactionStatus.ACTIVE:
                raise RuntimeError(f"transaction {self.id} has ended ({self._status.value}): make a new one")
            offer.on_failure = partial(self._source_failed, offer.ref.id)
            self._service.publish_offer(offer, self)
            self._offers[offer.ref.id] = offer
            self._confirmed[offer.ref.id] = set()
        self.touch()

    # --- what happens to it ------------------------------------------------------------------------------------------------

    def _source_failed(self, ref_id: str, text: str) -> None:
        on_source_failed = self._on_source_failed
        if on_source_failed is not None:
            self.callbacks.call(on_source_failed, ref_id, text)

    def touch(self) -> None:
        """Somebody did something with one of the refs."""
        self._last_activity = time.monotonic()

    def seen(self, receiver: str) -> None:
        """`receiver` opened one of the refs."""
        with self._lock:
            self._seen.add(receiver)
        self.touch()

    def _absent_receivers(self) -> int:
        with self._lock:
            return max(0, (self.expectation.count or 0) - len(self._seen))

    def report(self, event: ProgressEvent) -> None:
        """A receiver told how far it is."""
        self.touch()
        progress = self._progress
        if progress is not None:
            self.callbacks.call(progress, event)

    def confirm(self, offer: Offer, receiver: str, failure: str) -> None:
        """`receiver` said how its download ended: `failure` is a `DownloadError` reason, or "" for success. Idempotent."""
        self.touch()
        with self._lock:
            if self._status is not TransactionStatus.ACTIVE or receiver in self._confirmed[offer.ref.id]:
                return
            if failure:
                self._failed.add((offer.ref.id, receiver))
                return
            self._failed.discard((offer.ref.id, receiver))
            self._confirmed[offer.ref.id].add(receiver)
            log.debug("transaction %s: %s confirmed ref", self.id, receiver)
            self._report_delivery(offer, receiver, DownloadStatus.SUCCESS)
        self._finish_when_complete()

    def _report_delivery(self, offer: Offer, receiver: str, status: DownloadStatus) -> None:
        if offer.on_delivered is not None:
            self.callbacks.call(offer.on_delivered, offer.ref.id, receiver, status, offer.obj)

    def _complete_receivers(self) -> int:
        """How many receivers have confirmed every ref."""
        if not self._confirmed:
            return 0
        return len(set.intersection(*self._confirmed.values()))

    def _finish_when_complete(self) -> None:
        with self._lock:
            expected = self.expectation.count
            complete = not self._held_open and expected is not None and self._complete_receivers() >= expected
        if complete:
            self._end(TransactionStatus.FINISHED)

    def check_idle(self, now: float) -> float:
        """End it when nobody did anything for `idle_timeout`, else return when to look again."""
        due = self._last_activity + self.idle_timeout
        if now >= due:
            with self._lock:
                quorum = self.expectation.quorum
                enough = quorum is not None and self._complete_receivers() >= quorum
            self._end(TransactionStatus.FINISHED if enough else TransactionStatus.TIMEOUT)
        return due

    def _end(self, status: TransactionStatus) -> None:
        with self._lock:
            if self._status is not TransactionStatus.ACTIVE:
                return
            self._status = status
            offers = list(self._offers.values())
            objs = [offer.obj for offer in offers]
            for ref_id, receiver in sorted(self._failed):
                self._report_delivery(self._offers[ref_id], receiver, DownloadStatus.FAILED)
        log.info("transaction %s ended: %s", self.id, status.value)
        self._service.retire(self, offers)
        self._ended.set()
        on_done, self._on_done = self._on_done, None
        self._progress = self._on_source_failed = None  # whoever listened may hold this transaction: no cycle outlives it
        if on_done is not None:
            self.callbacks.call(on_done, self.id, status, objs)

    # --- for the owner -----------------------------------------------------------------------------------------------------

    @property
    def status(self) -> TransactionStatus:
        """Where it is."""
        return self._status

    def delete(self) -> None:
        """Withdraw everything: DELETED, unless it has ended. Idempotent."""
        self._end(TransactionStatus.DELETED)

    def abort(self) -> None:
        """Give up: ABORTED, unless it has ended. Idempotent."""
        self._end(TransactionStatus.ABORTED)

    def wait(self, timeout: float | None = None) -> TransactionStatus:
        """Wait until it has ended or `timeout` seconds passed; the status then, ACTIVE if it has not ended."""
        self._release_hold()
        self._ended.wait(timeout)
        return self._status

    def statistics(self) -> TransactionStatistics:
        """A snapshot of what has been delivered to whom."""
        with self._lock:
            offers = list(self._offers.values())
            return TransactionStatistics(
                tx_id=self.id,
                status=self._status,
                refs=tuple(self._offers),
                confirmed=frozenset((ref, name) for ref, names in self._confirmed.items() for name in names),
                failed=frozenset(self._failed),
                active_transfers=self._service.transfers_of(offers),
                chunks_loaded=sum(offer.loads for offer in offers),
                idle_seconds=time.monotonic() - self._last_activity,
            )

    def _release_hold(self) -> None:
        with self._lock:
            self._held_open = False
        self._finish_when_complete()

    def __enter__(self) -> Transaction:
        with self._lock:
            self._held_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self.abort()
        else:
            self._release_hold()
