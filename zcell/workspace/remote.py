"""The sender as the receiver sees it: through cells. Invariant: an answer is checked against the manifest before it is acted upon."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zcell.abort import Abort
from zcell.download.sinks import SinkError, SinkEvents
from zcell.download.staging import FileSink
from zcell.errors import BundleError, DownloadError
from zcell.protocol.transfer.chunks import ChunkTable
from zcell.protocol.transfer.messages import Description
from zcell.workspace.asking import CHANNEL, DELIVERED, SELECT, ask
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.meter import Meter
from zcell.workspace.plan import SMALL_BYTES, is_small, parse_have, parse_indices, travels
from zcell.workspace.stage import Stage
from zcell.workspace.streaming import StreamBrokenError, StreamSink
from zcell.workspace.treewriter import TreeWriter
from zcell.workspace.zipstream import unzip_into

if TYPE_CHECKING:
    from zcell.cell.cell import Cell
    from zcell.download.service import DownloadService

PARALLEL = 4
"""Large files fetched at once: enough to hide the round trips between one file and the next."""
_CONFIRM_SECONDS = 10.0


class RemoteSender:
    """A `receive.Sender` for the offer `offer_id` of the cell `owner`."""

    def __init__(
        self,
        cell: Cell,
        owner: str,
        offer_id: str,
        manifest: Manifest,
        *,
        limits: WorkspaceLimits,
        meter: Meter,
        idle_timeout: float,
        abort: Abort,
    ) -> None:
        self._cell = cell
        self._owner = owner
        self._offer_id = offer_id
        self._manifest = manifest
        self._limits = limits
        self._meter = meter
        self._idle_timeout = idle_timeout
        self._abort = abort
        self._small_id = ""
        self._large_ids: dict[int, str] = {}

    def select(self, have: bytes) -> set[int]:
        question = {"offer": self._offer_id, "selection": secrets.token_urlsafe(24), "have": have}
        answer = ask(
            self._cell,
            self._owner,
            SELECT,
            question,
            idle_timeout=self._idle_timeout,
            abort=self._abort,
            on_pending=lambda payload: self._meter.tick(),
        )
        entries = self._manifest.entries
        same = parse_indices(answer.get("same"), set(parse_have(have, self._manifest)))
        missing = [index for index, entry in enumerate(entries) if travels(entry) and index not in same]
        large = [index for index in missing if not is_small(entries[index])]
        small_id, large_ids = answer.get("small"), answer.get("large")
        if not isinstance(small_id, str) or bool(small_id) != (len(missing) > len(large)):
            raise BundleError(f"{self._owner} offers no archive of the small files, or one that is not needed")
        if not isinstance(large_ids, list) or len(large_ids) != len(large) or not all(isinstance(i, str) for i in large_ids):
            raise BundleError(f"{self._owner} does not offer one ref for each of {len(large)} large files")
        self._small_id = small_id
        self._large_ids = dict(zip(large, large_ids, strict=True))
        return same

    def confirm(self) -> None:
        """Tell the owner that the tree is in place. It is, so nothing fails when that cannot be said."""
        self._cell.request(
            self._owner,
            CHANNEL,
            DELIVERED,
            {"offer": self._offer_id},
            timeout=_CONFIRM_SECONDS,
            optional=True,
            abort=self._abort,
        )

    def fetch_small(self, indices: list[int], create: Callable[[int], int], arrived: Callable[[int, int], None]) -> None:
        sink = StreamSink()
        future = self._cell.downloads.fetch_into_future(
            self._owner, self._small_id, sink, idle_timeout=self._idle_timeout, optional=True, abort=self._abort
        )
        files = ArrivingFiles(self._manifest, indices, create, arrived)
        announced = sum(self._manifest.entries[index].size for index in indices)
        limits = replace(self._limits, total_bytes=announced, file_bytes=SMALL_BYTES)
        try:
            unzip_into(self._ticking(sink), files, limits, on_entry=files.on_entry)
            files.check_complete()
        except StreamBrokenError:
            future.result()  # raises what broke it
            raise
        except BaseException as error:
            sink.refuse(str(error))
            wait([future])
            raise
        sink.accept()
        future.result()

    def _ticking(self, sink: StreamSink) -> Iterator[memoryview]:
        for piece in sink.pieces():
            self._meter.tick()
            yield piece

    def fetch_large(self, indices: list[int], stage: Stage, arrived: Callable[[int], None]) -> None:
        waiting = list(reversed(indices))
        running: dict[Future[None], tuple[int, PartSink]] = {}
        group = Abort()  # ends those that are running when one fails
        key = self._abort.add_callback(lambda: group.trigger(self._abort.reason))
        try:
            while waiting or running:
                while waiting and len(running) < PARALLEL:
                    index = waiting.pop()
                    sink = PartSink(stage.part_path(self._manifest.entries[index].path), self._manifest.entries[index])
                    running[self._fetch(index, sink, group)] = (index, sink)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    index, sink = running.pop(future)
                    try:
                        future.result()
                    except DownloadError:
                        if sink.refusal is not None:
                            raise sink.refusal from None
                        raise
                    arrived(index)
        finally:
            self._abort.remove_callback(key)
            group.trigger("another file of the tree failed")
            wait(running)

    def _fetch(self, index: int, sink: PartSink, abort: Abort) -> Future[None]:
        path = self._manifest.entries[index].path
        downloads: DownloadService = self._cell.downloads
        return downloads.fetch_into_future(
            self._owner,
            self._large_ids[index],
            sink,
            progress=lambda event: self._meter.partial(path, event.bytes_done),
            idle_timeout=self._idle_timeout,
            optional=True,
            abort=abort,
        )


class PartSink(FileSink):
    """Receives one large file, unless it is of another size than its manifest announces."""

    def __init__(self, to: Path, entry: Entry) -> None:
        super().__init__(to, resume=True)
        self._entry = entry
        self.refusal: BundleError | None = None

    def prepare(self, description: Description, verify: str, ref_id: str, events: SinkEvents) -> ChunkTable:
        if description.size != self._entry.data_bytes:
            self.refusal = BundleError(
                f"{self._entry.path!r} is offered with {description.size} bytes, its manifest announces {self._entry.data_bytes}"
            )
            raise SinkError(str(self.refusal))
        return super().prepare(description, verify, ref_id, events)


class ArrivingFiles(TreeWriter):
    """Where the archive of the small files is unpacked: each file straight to its place in the stage.

    The archive must hold exactly the wanted files, in order, each of the size that the manifest announces.
    """

    def __init__(
        self,
        manifest: Manifest,
        indices: list[int],
        create: Callable[[int], int],
        arrived: Callable[[int, int], None],
    ) -> None:
        self._manifest = manifest
        self._wanted = iter(indices)
        self._index = -1
        self._create = create
        self._arrived = arrived

    def on_entry(self, name: str, is_dir: bool, size: int | None) -> None:
        """The next entry of the archive, before anything of it is written."""
        index = next(self._wanted, -1)
        entry = None if index < 0 else self._manifest.entries[index]
        if entry is None or is_dir or entry.path != name:
            raise BundleError(f"{name[:200]!r} is in the archive, but not what the manifest announces next")
        if size is not None and size != entry.size:
            raise BundleError(f"{name!r} has {size} bytes in the archive, its manifest announces {entry.size}")
        self._index = index

    def create_file(self, parts: tuple[str, ...]) -> int:
        return self._create(self._index)

    def finish_file(self, fd: int, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        if mtime_ns is None:  # the reader gives up on this file
            os.close(fd)
        else:
            self._arrived(self._index, fd)

    def set_mode(self, parts: tuple[str, ...], mode: int) -> None:
        return  # the manifest has the real one

    def check_complete(self) -> None:
        """Raise `BundleError` naming the first file that the archive lacks."""
        missing = next(self._wanted, -1)
        if missing >= 0:
            raise BundleError(f"{self._manifest.entries[missing].path!r} is missing from the archive of the small files")


def fetch_manifest(
    cell: Cell, owner: str, offer_id: str, limits: WorkspaceLimits, *, idle_timeout: float, abort: Abort
) -> Manifest:
    """The manifest of an offer, checked. Raises `DownloadError`, or `BundleError` when it is not acceptable."""
    try:
        packed = cell.downloads.fetch_bytes(
            owner, offer_id, max_bytes=limits.manifest_bytes, idle_timeout=idle_timeout, optional=True, abort=abort
        )
    except DownloadError as error:
        if error.reason == "sink_failed":
            raise BundleError(f"the manifest from {owner} is refused: {error}") from error
        raise
    return Manifest.parse(packed, limits)
