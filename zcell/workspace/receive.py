"""Receives one tree. Invariant: the destination changes in one step, after everything is there; until then nothing of it does.

How the bytes come is the sender's business (`Sender`); what is checked, kept, dropped and put in place is decided here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zcell.digest import Digest
from zcell.errors import BundleError, WorkspaceError
from zcell.workspace.assembly import Assembly
from zcell.workspace.carry import Dropped, carry_over
from zcell.workspace.directories import Descent, open_root
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.meter import Meter
from zcell.workspace.plan import Holding, find_holdings, is_small, pack_have, travels
from zcell.workspace.stage import Stage
from zcell.workspace.treewriter import empty_directory

_STAGED, _UNPACKED, _KEPT = range(3)


class Sender(Protocol):
    """The other side of a transfer. Any method may raise; what arrived until then stays in the stage for the next try."""

    def select(self, have: bytes) -> set[int]:
        """Given what the receiver holds (`plan.pack_have`): which of those entries are the same. Others will be fetched."""

    def fetch_small(self, indices: list[int], stage: Stage, arrived: Callable[[int], None]) -> None:
        """Unpack these entries below `stage.small_path`, under their paths; `arrived(index)` after each that is complete."""

    def fetch_large(self, indices: list[int], stage: Stage, arrived: Callable[[int], None]) -> None:
        """Fetch these entries, each to `stage.part_path(path)`; of sparse ones the data only, extents end to end."""


@dataclass(frozen=True, slots=True)
class Received:
    """What a transfer brought, for the summary. Sizes are bytes, holes not counted."""

    digest: Digest
    """Of the manifest: names this exact list of entries."""
    files: int
    directories: int
    data_bytes: int
    """Data of all files of the tree."""
    fetched_files: int
    """Files whose content travelled; the others were held already."""
    fetched_bytes: int
    dropped: int
    """Entries that were removed because the other side had removed them."""
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """For a reply or a line of JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "digest"}
        return {"digest": str(self.digest), **fields}


def receive_tree(
    parent: Path,
    label: str,
    manifest: Manifest,
    sender: Sender,
    *,
    dropped: Dropped = lambda path: False,
    meter: Meter | None = None,
    before_install: Callable[[], None] = lambda: None,
) -> Received:
    """Bring the tree of `manifest` below the directory `parent`, by way of the stage `label`.

    What is there and not in the manifest is kept, unless `dropped(path)`. `before_install` may still raise to call it off.
    A refusal (`BundleError`) removes the stage; after any other error the next call continues with what has arrived.
    """
    started = time.monotonic()
    meter = meter or Meter()
    with Stage(parent, label) as stage:
        try:
            with _Reception(stage, manifest, sender, meter) as reception:
                reception.run()
                gone = carry_over(reception.assembly, stage.parent_fd, dropped, meter.tick)
                tops = reception.assembly.finish()
            before_install()
            meter.phase("installing")
            stage.install(tops)
        except BundleError:
            stage.discard()
            raise
    return Received(
        digest=manifest.digest,
        files=manifest.files,
        directories=len(manifest) - manifest.files,
        data_bytes=manifest.data_bytes,
        fetched_files=reception.fetched_files,
        fetched_bytes=reception.fetched_bytes,
        dropped=gone,
        seconds=time.monotonic() - started,
    )


class _Reception:
    """One run: settles every entry of the manifest from where its content is."""

    def __init__(self, stage: Stage, manifest: Manifest, sender: Sender, meter: Meter) -> None:
        self.assembly = Assembly(stage, manifest)
        self.fetched_files = self.fetched_bytes = 0
        self._stage = stage
        self._manifest = manifest
        self._sender = sender
        self._meter = meter

    def __enter__(self) -> _Reception:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.assembly.close()

    def run(self) -> None:
        manifest, meter = self._manifest, self._meter
        wanted = {index for index, entry in enumerate(manifest) if travels(entry)}
        self.assembly.prepare()
        small_fd = open_root(self._stage.small_path)
        try:
            meter.phase("comparing")
            held = find_holdings(manifest, [self._stage.tree_fd, small_fd, self._stage.parent_fd], meter.tick)
            same = self._sender.select(pack_have(held))
            if not same <= set(held):
                raise BundleError("the sender says that entries are the same which this side does not hold")
            with Descent(small_fd) as unpacked:
                self._settle_held({index: held[index] for index in sorted(same)}, unpacked)
                missing = sorted(wanted - same)
                self._check_room(missing)
                empty_directory(small_fd)
                meter.expect(self._entries(missing))
                meter.phase("transferring")
                self._fetch(missing, unpacked)
        finally:
            os.close(small_fd)

    def _entries(self, indices: list[int]) -> list[Entry]:
        return [self._manifest.entries[index] for index in indices]

    def _check_room(self, missing: list[int]) -> None:
        """An error now is better than a full disk later; parts that are here already need no room."""
        room = os.fstatvfs(self._stage.fd)
        free = room.f_bavail * room.f_frsize
        needed = sum(entry.data_bytes for entry in self._entries(missing) if not self._stage.part_path(entry.path).exists())
        if needed > free:
            raise WorkspaceError(f"{self._stage.path.parent} has room for {free} bytes, and {needed} have to arrive")

    def _settle_held(self, held: dict[int, Holding], unpacked: Descent) -> None:
        with Descent(self._stage.parent_fd) as destination:
            for index, holding in held.items():
                if holding.place == _STAGED:
                    self.assembly.settle_staged(index)
                elif holding.place == _UNPACKED:
                    self.assembly.settle_small(index, unpacked)
                else:
                    self.assembly.settle_kept(index, holding, destination)
                self._meter.tick()

    def _fetch(self, missing: list[int], unpacked: Descent) -> None:
        entries = self._manifest.entries
        small = [index for index in missing if is_small(entries[index])]
        large = [index for index in missing if not is_small(entries[index])]
        if small:
            self._sender.fetch_small(small, self._stage, lambda index: self._small_arrived(index, unpacked))
        if large:
            self._sender.fetch_large(large, self._stage, self._large_arrived)

    def _small_arrived(self, index: int, unpacked: Descent) -> None:
        self.assembly.settle_small(index, unpacked)
        self._count(index)

    def _large_arrived(self, index: int) -> None:
        self.assembly.settle_part(index)
        self._count(index)

    def _count(self, index: int) -> None:
        self.fetched_files += 1
        self.fetched_bytes += self._manifest.entries[index].data_bytes
        self._meter.item_done(self._manifest.entries[index])
