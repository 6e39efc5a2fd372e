"""Fetching, for the user. Invariant: every way to fetch ends in one result or one `DownloadError`, and the plain forms only wait
for the future forms."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from zcell.download.callbacks import CallbackQueue
from zcell.download.consuming import ConsumerSink
from zcell.download.fetching import Fetch
from zcell.download.gathering import gather
from zcell.download.joining import BytesJoiner, FileJoiner
from zcell.download.listening import Listening
from zcell.download.options import FetchOptions, checked_options
from zcell.download.ref import Ref
from zcell.download.sealing import Sealer, Unsealed
from zcell.download.sinks import MemorySink, Sink
from zcell.download.staging import FileSink
from zcell.download.stepping import StepFetch
from zcell.download.stepwise import Consumer
from zcell.errors import DownloadError
from zcell.protocol.transfer.messages import Description

if TYPE_CHECKING:
    from zcell.cell.cell import Cell
    from zcell.cell.events import LinkEvent

log = logging.getLogger("zcell.download")
T = TypeVar("T")
Target = str | os.PathLike[str]


class DownloadClient:
    """The fetching half of a `DownloadService`. `FetchOptions` lists what every method takes."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.sealer_for: Callable[[str], Sealer] = lambda _peer: Unsealed()
        self._lock = threading.Lock()
        self._closed = False
        self._running: dict[bytes, Fetch[Any] | StepFetch] = {}
        self._fetches: dict[bytes, Fetch[Any]] = {}
        self._listening = Listening(cell, self._fetches)

    # --- waiting forms -----------------------------------------------------------------------------------------------------

    def fetch(self, owner: str, ref_id: str | Ref, consumer: Consumer, **options: Unpack[FetchOptions]) -> None:
        """Download an object into `consumer`. Raises `DownloadError`, `ValueError` or `TypeError` for wrong arguments."""
        _outcome(self.fetch_future(owner, ref_id, consumer, **options))

    def fetch_file(
        self, owner: str, ref_id: str | Ref, to: Target, *, resume: bool = True, **options: Unpack[FetchOptions]
    ) -> Path:
        """Download an object to the file `to`, or into the existing directory `to` under the owner's name; its final path.

        `resume`: continue from what an earlier try left in ``NAME.part``. Raises `DownloadError`, and verified chunks stay for
        the next try; `ValueError` or `TypeError` for wrong arguments.
        """
        return _outcome(self.fetch_file_future(owner, ref_id, to, resume=resume, **options))

    def fetch_bytes(
        self, owner: str, ref_id: str | Ref, *, max_bytes: int | None = None, **options: Unpack[FetchOptions]
    ) -> bytes:
        """Download an object into memory, at most `max_bytes` of it if given. Raises as `fetch_file` does."""
        return _outcome(self.fetch_bytes_future(owner, ref_id, max_bytes=max_bytes, **options))

    def fetch_many(
        self, owner: str, wanted: Mapping[str, Target | None], *, resume: bool = True, **options: Unpack[FetchOptions]
    ) -> dict[str, Path | bytes]:
        """Download several refs at once: `wanted` maps ref ids to where they go, None meaning memory.

        All are tried to their end; then the first failure, in the order of `wanted`, is raised.
        """
        return _outcome(self.fetch_many_future(owner, wanted, resume=resume, **options))

    # --- future forms: cancelling the future aborts the download -----------------------------------------------------------

    def fetch_future(self, owner: str, ref_id: str | Ref, consumer: Consumer, **options: Unpack[FetchOptions]) -> Future[None]:
        """`fetch` without waiting."""
        for method in ("consume", "download_completed", "download_failed"):
            if not callable(getattr(consumer, method, None)):
                raise TypeError(f"consumer must have a method {method}, see zcell.download.Consumer")
        queue = CallbackQueue(self._cell)
        sink = ConsumerSink(consumer, queue)
        future: Future[None] = self._fetch(owner, ref_id, sink, lambda: None, lambda _: consumer, queue, options)

        def tell_consumer(ended: Future[None]) -> None:
            reason = _reason(ended)
            if reason:
                queue.call(consumer.download_failed, _id(ref_id), reason)

        future.add_done_callback(tell_consumer)
        return future

    def fetch_file_future(
        self, owner: str, ref_id: str | Ref, to: Target, *, resume: bool = True, **options: Unpack[FetchOptions]
    ) -> Future[Path]:
        """`fetch_file` without waiting."""
        sink = FileSink(Path(to), resume=resume)
        return self._fetch(owner, ref_id, sink, lambda: sink.path, lambda d: FileJoiner(sink, d), None, options)

    def fetch_bytes_future(
        self, owner: str, ref_id: str | Ref, *, max_bytes: int | None = None, **options: Unpack[FetchOptions]
    ) -> Future[bytes]:
        """`fetch_bytes` without waiting."""
        sink = MemorySink(max_bytes)
        return self._fetch(owner, ref_id, sink, sink.take, lambda _: BytesJoiner(sink, max_bytes), None, options)

    def fetch_many_future(
        self, owner: str, wanted: Mapping[str, Target | None], *, resume: bool = True, **options: Unpack[FetchOptions]
    ) -> Future[dict[str, Path | bytes]]:
        """`fetch_many` without waiting."""
        parts: dict[str, Future[Any]] = {}
        for ref_id, to in wanted.items():
            if to is None:
                parts[ref_id] = self.fetch_bytes_future(owner, ref_id, **options)
            else:
                parts[ref_id] = self.fetch_file_future(owner, ref_id, to, resume=resume, **options)
        return gather(parts)

    def fetch_into_future(self, owner: str, ref_id: str | Ref, sink: Sink, **options: Unpack[FetchOptions]) -> Future[None]:
        """Download an object of bytes into a sink of your own."""
        return self._fetch(owner, ref_id, sink, lambda: None, None, None, options)

    # --- running them ------------------------------------------------------------------------------------------------------

    def _fetch(
        self,
        owner: str,
        ref_id: str | Ref,
        sink: Sink,
        result: Callable[[], T],
        consumer_of: Callable[[Description], Consumer] | None,
        queue: CallbackQueue | None,
        given: FetchOptions,
    ) -> Future[T]:
        options = checked_options(owner, given)
        fetch = Fetch(self._cell, owner, _id(ref_id), sink, result, options, self.sealer_for(owner), self._forget)
        if consumer_of is not None:
            make_consumer, steps_queue = consumer_of, queue or CallbackQueue(self._cell)
            fetch.on_steps = lambda description: self._go_by_steps(fetch, description, make_consumer, steps_queue)
        with self._lock:
            if self._closed:
                raise RuntimeError("the download service was shut down")
            self._running[fetch.stream] = self._fetches[fetch.stream] = fetch
        future = fetch.future  # the download lets go of it when it ends
        if not options["optional"]:
            future.add_done_callback(_log_failure)
        try:
            fetch.start()
        except BaseException:
            self._forget(fetch)
            raise
        return future

    def _go_by_steps(
        self,
        fetch: Fetch[Any],
        description: Description,
        consumer_of: Callable[[Description], Consumer],
        queue: CallbackQueue,
    ) -> None:
        steps = StepFetch(self._cell, fetch, consumer_of(description), queue, description.random_access, self._forget)
        with self._lock:
            self._fetches.pop(fetch.stream, None)
            self._running[fetch.stream] = steps
        fetch.future.add_done_callback(lambda _: queue.call(fetch.sink.close))
        self._cell.submit(steps.start)

    def _forget(self, ended: Fetch[Any] | StepFetch) -> None:
        with self._lock:
            if self._running.get(ended.stream) is ended:
                del self._running[ended.stream]
            self._fetches.pop(ended.stream, None)

    def _on_link(self, event: LinkEvent) -> None:
        if event.up:
            for fetch in list(self._fetches.values()):
                fetch.post(lambda machine, now: machine.link_up(now))


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


def _reason(future: Future[Any]) -> str:
    if future.cancelled():
        return "aborted"
    error = future.exception()
    return error.reason if isinstance(error, DownloadError) else ""


def _log_failure(future: Future[Any]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        log.warning("%s", error)
