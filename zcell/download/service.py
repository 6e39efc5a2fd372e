"""`DownloadService`: the downloads of one cell, both ways. Invariant: a ref id is all it takes to download, and nothing else helps.

Whoever may not know of a ref gets the same answer as for one that never existed. A ref that has ended answers "gone" for
`limits.finished_ttl` seconds, and "unknown" after that.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_futures
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zcell.abort import Abort
from zcell.download.answering import Answering
from zcell.download.callbacks import CallbackQueue
from zcell.download.consuming import ConsumerSink
from zcell.download.fetching import Fetch
from zcell.download.joining import BytesJoiner, FileJoiner
from zcell.download.offer import Offer
from zcell.download.progress import ProgressEvent
from zcell.download.ref import Ref, new_ref_id
from zcell.download.sealing import Sealer, Unsealed
from zcell.download.sinks import MemorySink, Sink
from zcell.download.staging import FileSink
from zcell.download.stepping import StepFetch
from zcell.download.stepwise import Consumer
from zcell.download.transaction import DoneFn, Expectation, Receivers, Transaction
from zcell.errors import DownloadError
from zcell.fqcn import FQCN
from zcell.protocol.transfer.messages import Description

if TYPE_CHECKING:
    from zcell.cell.cell import Cell
    from zcell.cell.events import LinkEvent

log = logging.getLogger("zcell.download")
T = TypeVar("T")
ProgressFn = Callable[[ProgressEvent], None]
Target = str | os.PathLike[str]
IDLE_TIMEOUT = 60.0
_SHUTDOWN_SECONDS = 2.0


class DownloadService:
    """Use it as `cell.downloads`. All methods may be called from any thread but the cell's own."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.chunk_bytes = cell.limits.chunk_bytes
        self.sealer_for: Callable[[str], Sealer] = lambda _peer: Unsealed()
        self._lock = threading.Lock()
        self._transactions: dict[str, Transaction] = {}
        self._running: dict[bytes, Fetch[Any] | StepFetch] = {}
        self._fetches: dict[bytes, Fetch[Any]] = {}
        self._closed = False
        self._answering = Answering(cell, self._fetches, lambda peer: self.sealer_for(peer))
        self._answering.register()
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

        Raises `ValueError` or `TypeError` naming the argument.
        """
        if isinstance(idle_timeout, bool) or not isinstance(idle_timeout, int | float) or not idle_timeout > 0:
            raise ValueError(f"idle_timeout must be a number of seconds above 0, got {idle_timeout!r}")
        expectation = Expectation.parse(receivers, min_receivers)
        tx = Transaction(self, tx_id or new_ref_id(), expectation, float(idle_timeout), on_done, progress)
        with self._lock:
            if self._closed:
                raise RuntimeError("the download service was shut down")
            if tx.id in self._transactions:
                raise ValueError(f"tx_id {tx.id!r} is in use by a transaction that has not ended")
            self._transactions[tx.id] = tx
        self._watch(tx, time.monotonic() + tx.idle_timeout)
        return tx

    def _watch(self, tx: Transaction, when: float) -> None:
        delay = max(0.005, when - time.monotonic())
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

    # --- fetching ----------------------------------------------------------------------------------------------------------

    def fetch(self, owner: str, ref_id: str | Ref, consumer: Consumer, **options: Any) -> None:
        """Download an object into `consumer`; see `fetch_file` for the options. Raises `DownloadError`."""
        _outcome(self.fetch_future(owner, ref_id, consumer, **options))

    def fetch_file(self, owner: str, ref_id: str | Ref, to: Target, **options: Any) -> Path:
        """Download an object to the file `to` (or into the existing directory `to`); its final path.

        Args:
            owner: name of the cell that offers it.
            progress: called with a `ProgressEvent` at most ten times a second, on the pool.
            resume: continue from what an earlier try left in ``NAME.part``.
            idle_timeout: seconds without progress by the owner after which it fails with reason idle (or link).
            deadline: seconds it may take in all; None: as long as it makes progress.
            verify: "tree" (every chunk and the whole against the SHA-256 tree) or "checksum" (XXH3-64 a chunk).
            secure: seal end to end; needs kits.
            optional: log a failure at debug level only.
            abort: ends it with reason aborted within 100 ms.

        Raises `DownloadError`; verified chunks stay for the next try. `ValueError` for wrong arguments.
        """
        return _outcome(self.fetch_file_future(owner, ref_id, to, **options))

    def fetch_bytes(self, owner: str, ref_id: str | Ref, **options: Any) -> bytes:
        """Download an object into memory, at most `max_bytes` of it if given; see `fetch_file` for the other options."""
        return _outcome(self.fetch_bytes_future(owner, ref_id, **options))

    def fetch_many(self, owner: str, wanted: Mapping[str, Target | None], **options: Any) -> dict[str, Path | bytes]:
        """Download several refs at once: `wanted` maps ref ids to where they go, None meaning memory.

        All are tried to their end; then the first failure, in the order of `wanted`, is raised.
        """
        return _outcome(self.fetch_many_future(owner, wanted, **options))

    def fetch_future(
        self,
        owner: str,
        ref_id: str | Ref,
        consumer: Consumer,
        *,
        progress: ProgressFn | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        deadline: float | None = None,
        verify: str = "tree",
        secure: bool = False,
        optional: bool = False,
        abort: Abort | None = None,
    ) -> Future[None]:
        """`fetch` without waiting. Cancelling the future aborts the download."""
        for method in ("consume", "download_completed", "download_failed"):
            if not callable(getattr(consumer, method, None)):
                raise TypeError(f"consumer must have a method {method}, see zcell.download.Consumer")
        queue = CallbackQueue(self._cell)
        future: Future[None] = self._fetch(
            owner,
            ref_id,
            ConsumerSink(consumer, queue),
            lambda: None,
            lambda _: consumer,
            queue,
            progress=progress,
            idle_timeout=idle_timeout,
            deadline=deadline,
            verify=verify,
            secure=secure,
            abort=abort,
        )

        def tell_consumer(ended: Future[None]) -> None:
            reason = _reason(ended)
            if reason:
                queue.call(consumer.download_failed, _id(ref_id), reason)

        future.add_done_callback(tell_consumer)
        return self._logged(future, owner, optional)

    def fetch_file_future(
        self,
        owner: str,
        ref_id: str | Ref,
        to: Target,
        *,
        progress: ProgressFn | None = None,
        resume: bool = True,
        idle_timeout: float = IDLE_TIMEOUT,
        deadline: float | None = None,
        verify: str = "tree",
        secure: bool = False,
        optional: bool = False,
        abort: Abort | None = None,
    ) -> Future[Path]:
        """`fetch_file` without waiting. Cancelling the future aborts the download."""
        sink = FileSink(Path(to), resume=resume)
        future = self._fetch(
            owner,
            ref_id,
            sink,
            lambda: sink.path,
            lambda d: FileJoiner(sink, d),
            None,
            progress=progress,
            idle_timeout=idle_timeout,
            deadline=deadline,
            verify=verify,
            secure=secure,
            abort=abort,
        )
        return self._logged(future, owner, optional)

    def fetch_bytes_future(
        self,
        owner: str,
        ref_id: str | Ref,
        *,
        max_bytes: int | None = None,
        progress: ProgressFn | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        deadline: float | None = None,
        verify: str = "tree",
        secure: bool = False,
        optional: bool = False,
        abort: Abort | None = None,
    ) -> Future[bytes]:
        """`fetch_bytes` without waiting. Cancelling the future aborts the download."""
        sink = MemorySink(max_bytes)
        future = self._fetch(
            owner,
            ref_id,
            sink,
            lambda: sink.result,
            lambda _: BytesJoiner(sink, max_bytes),
            None,
            progress=progress,
            idle_timeout=idle_timeout,
            deadline=deadline,
            verify=verify,
            secure=secure,
            abort=abort,
        )
        return self._logged(future, owner, optional)

    def fetch_many_future(
        self, owner: str, wanted: Mapping[str, Target | None], *, resume: bool = True, **options: Any
    ) -> Future[dict[str, Path | bytes]]:
        """`fetch_many` without waiting. Cancelling the future aborts all of them."""
        parts: dict[str, Future[Any]] = {}
        for ref_id, to in wanted.items():
            if to is None:
                parts[ref_id] = self.fetch_bytes_future(owner, ref_id, **options)
            else:
                parts[ref_id] = self.fetch_file_future(owner, ref_id, to, resume=resume, **options)
        return _gather(parts)

    def fetch_into_future(
        self,
        owner: str,
        ref_id: str | Ref,
        sink: Sink,
        *,
        progress: ProgressFn | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        deadline: float | None = None,
        verify: str = "tree",
        secure: bool = False,
        optional: bool = False,
        abort: Abort | None = None,
    ) -> Future[None]:
        """Download an object of bytes into a sink of your own. Cancelling the future aborts the download."""
        future: Future[None] = self._fetch(
            owner,
            ref_id,
            sink,
            lambda: None,
            None,
            None,
            progress=progress,
            idle_timeout=idle_timeout,
            deadline=deadline,
            verify=verify,
            secure=secure,
            abort=abort,
        )
        return self._logged(future, owner, optional)

    def _fetch(
        self,
        owner: str,
        ref_id: str | Ref,
        sink: Sink,
        result: Callable[[], T],
        consumer_of: Callable[[Description], Consumer] | None,
        queue: CallbackQueue | None,
        *,
        progress: ProgressFn | None,
        idle_timeout: float,
        deadline: float | None,
        verify: str,
        secure: bool,
        abort: Abort | None,
    ) -> Future[T]:
        _check_options(owner, idle_timeout, deadline, verify, secure)
        fetch: Fetch[T]
        steps_queue = queue or CallbackQueue(self._cell)

        def continue_by_steps(description: Description) -> None:
            assert consumer_of is not None
            self._by_steps(fetch, description, consumer_of, result, steps_queue, abort)
            fetch.future.add_done_callback(lambda _: steps_queue.call(sink.close))

        fetch = Fetch(
            self._cell,
            owner,
            _id(ref_id),
            sink,
            result,
            idle_timeout=float(idle_timeout),
            deadline=deadline,
            verify=verify,
            abort=abort,
            progress=progress,
            sealer=self.sealer_for(owner),
            on_end=self._on_end,
            on_steps=continue_by_steps if consumer_of else None,
        )
        with self._lock:
            if self._closed:
                raise RuntimeError("the download service was shut down")
            self._running[fetch.stream] = self._fetches[fetch.stream] = fetch
        try:
            fetch.start()
        except BaseException:
            self._on_end(fetch)
            raise
        return fetch.future

    def _by_steps(
        self,
        fetch: Fetch[Any],
        description: Description,
        consumer_of: Callable[[Description], Consumer],
        result: Callable[[], Any],
        queue: CallbackQueue,
        abort: Abort | None,
    ) -> None:
        steps = StepFetch(
            self._cell,
            fetch.owner,
            fetch.ref_id,
            fetch.stream,
            consumer_of(description),
            queue,
            fetch.reporter,
            fetch.future,
            result,
            random_access=description.random_access,
            idle_timeout=fetch.idle_timeout,
            deadline_at=fetch.deadline_at,
            abort=abort,
            on_end=self._on_end,
        )
        with self._lock:
            self._fetches.pop(fetch.stream, None)
            self._running[fetch.stream] = steps
        self._cell.submit(steps.start)

    def _on_end(self, ended: Fetch[Any] | StepFetch) -> None:
        with self._lock:
            if self._running.get(ended.stream) is ended:
                del self._running[ended.stream]
            self._fetches.pop(ended.stream, None)

    def _logged(self, future: Future[T], owner: str, optional: bool) -> Future[T]:
        if not optional:
            future.add_done_callback(lambda f: _log_failure(f, owner))
        return future

    def _on_link(self, event: LinkEvent) -> None:
        if event.up:
            for fetch in list(self._fetches.values()):
                fetch.post(lambda machine, now: machine.link_up(now))

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
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        wait_futures([fetch.future for fetch in running], timeout=_SHUTDOWN_SECONDS)
        for fetch in running:
            fetch.ended.wait(max(0.0, deadline - time.monotonic()))
        self._answering.wait_released(deadline)
        for tx in transactions:
            tx.callbacks.wait_idle(max(0.0, deadline - time.monotonic()))


def _outcome(future: Future[T]) -> T:
    """Wait for it; a caller that is interrupted meanwhile takes the download with it."""
    try:
        return future.result()
    except CancelledError:
        raise DownloadError("aborted", "the download was cancelled") from None
    except BaseException:
        future.cancel()
        raise


def _id(ref_id: str | Ref) -> str:
    found = ref_id.id if isinstance(ref_id, Ref) else ref_id
    if not isinstance(found, str) or not 0 < len(found) <= 128:
        raise ValueError(f"ref_id must be a Ref or its id, got {ref_id!r}")
    return found


def _check_options(owner: str, idle_timeout: float, deadline: float | None, verify: str, secure: bool) -> None:
    FQCN.validate(owner)
    if isinstance(idle_timeout, bool) or not isinstance(idle_timeout, int | float) or not idle_timeout > 0:
        raise ValueError(f"idle_timeout must be a number of seconds above 0, got {idle_timeout!r}")
    if deadline is not None and (isinstance(deadline, bool) or not isinstance(deadline, int | float) or not deadline > 0):
        raise ValueError(f"deadline must be None or a number of seconds above 0, got {deadline!r}")
    if verify not in ("tree", "checksum"):
        raise ValueError(f"verify must be 'tree' or 'checksum', got {verify!r}")
    if secure:
        raise ValueError("secure: end-to-end sealing needs kits, which this version does not have")


def _reason(future: Future[Any]) -> str:
    if future.cancelled():
        return "aborted"
    error = future.exception()
    return error.reason if isinstance(error, DownloadError) else ""


def _gather(parts: dict[str, Future[Any]]) -> Future[dict[str, Path | bytes]]:
    """One future for all: done when all are, with the first failure in their order."""
    whole: Future[dict[str, Path | bytes]] = Future()
    left = [len(parts)]
    lock = threading.Lock()

    def finish() -> None:
        if not whole.set_running_or_notify_cancel():
            return
        failed = next((f for f in parts.values() if f.cancelled() or f.exception() is not None), None)
        if failed is None:
            whole.set_result({ref_id: future.result() for ref_id, future in parts.items()})
        else:
            error = None if failed.cancelled() else failed.exception()
            whole.set_exception(error or DownloadError("aborted", "one of the downloads was cancelled"))

    def one_done(_: Future[Any]) -> None:
        with lock:
            left[0] -= 1
            last = left[0] == 0
        if last:
            finish()

    def cancel_parts(future: Future[Any]) -> None:
        if future.cancelled():
            for part in parts.values():
                part.cancel()

    whole.add_done_callback(cancel_parts)
    for part in parts.values():
        part.add_done_callback(one_done)
    if not parts:
        finish()
    return whole


def _log_failure(future: Future[Any], owner: str) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        log.warning("download from %s: %s", owner, error)
