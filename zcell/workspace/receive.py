"""Receives one tree. Invariant: the destination changes in one step, after everything is there; until then nothing of it does.

How the bytes come is the sender's business (`Sender`); what is checked, kept, dropped and put in place is decided here.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zcell.digest import Digest
from zcell.errors import BundleError, WorkspaceError
from zcell.workspace.assembly import Assembly
from zcell.workspace.carry import Base, carry_over
from zcell.workspace.directories import Descent
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.meter import Meter
from zcell.workspace.plan import Holding, count_new_hollow, find_holdings, is_small, pack_have, travels
from zcell.workspace.stage import Stage

log = logging.getLogger("zcell.workspace.receive")

_STAGED, _KEPT, _ELSEWHERE = range(3)


class Sender(Protocol):
    """The other side of a transfer. Any method may raise; what arrived until then stays in the stage for the next try."""

    def select(self, have: bytes) -> set[int]:
        """Given what the receiver holds (`plan.pack_have`): which of those entries are the same. Others will be fetched."""

    def fetch_small(self, indices: list[int], create: Callable[[int], int], arrived: Callable[[int, int], None]) -> None:
        """Fetch these entries: for each, in order, fill the descriptor that ``create(index)`` gives, and hand it to
        ``arrived(index, descriptor)``, which closes it."""

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
    """Files whose content travelled, and new ones without any; the others were held already."""
    fetched_bytes: int
    dropped: int
    """Entries that were removed because the other side had removed them."""
    conflicts: int
    """Entries that both sides had changed; this side's versions were kept, under another name where the other's arrived."""
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
    names: Mapping[str, str] | None = None,
    also_held: Mapping[str, Path] | None = None,
    base: Base | None = None,
    meter: Meter | None = None,
    before_install: Callable[[], None] = lambda: None,
) -> Received:
    """Bring the tree of `manifest` below the directory `parent`, by way of the stage `label`.

    `names` says which top directories of the manifest have another name there; `also_held` where else, by top directory, the
    content of files may be found (it is copied). What is there and not in the manifest is kept; with `base` the two are merged
    (see `carry`). `before_install` may still raise to call it off. A refusal (`BundleError`) removes the stage; after any other error the
    next call continues with what has arrived.
    """
    started = time.monotonic()
    meter = meter or Meter()
    with Stage(parent, label) as stage:
        try:
            with _Reception(stage, manifest, sender, meter, names or {}, also_held or {}) as reception:
                reception.run()
                carried = carry_over(reception.assembly, reception.destination, base, meter.tick)
                moves = reception.assembly.finish(reception.destination)
            before_install()
            meter.phase("installing")
            stage.install(moves)
        except BundleError:
            stage.discard()
            raise
        except BaseException:
            if not stage.holds_work:
                stage.discard()
            raise
    return Received(
        digest=manifest.digest,
        files=manifest.files,
        directories=len(manifest) - manifest.files,
        data_bytes=manifest.data_bytes,
        fetched_files=reception.fetched_files,
        fetched_bytes=reception.fetched_bytes,
        dropped=carried.dropped,
        conflicts=_tell_conflicts(parent, names or {}, carried.conflicts),
        seconds=time.monotonic() - started,
    )


def _tell_conflicts(parent: Path, names: Mapping[str, str], conflicts: Mapping[str, str]) -> int:
    for path, kept in conflicts.items():
        top, _, below = path.partition("/")
        here = parent / names.get(top, top) / below
        if kept == path:
            log.warning("%s was changed here while the other side removed it: it stays", here)
        else:
            log.warning("%s was changed here and on the other side: what was here is now %s", here, kept.rpartition("/")[2])
    return len(conflicts)


class _Reception:
    """One run: settles every entry of the manifest from where its content is."""

    def __init__(
        self,
        stage: Stage,
        manifest: Manifest,
        sender: Sender,
        meter: Meter,
        names: Mapping[str, str],
        also_held: Mapping[str, Path],
    ) -> None:
        self.assembly = Assembly(stage, manifest)
        self.destination = Descent(stage.parent_fd, tops=names)
        self.fetched_files = self.fetched_bytes = 0
        self._stage = stage
        self._manifest = manifest
        self._sender = sender
        self._meter = meter
        self._elsewhere = Descent(stage.parent_fd, tops={top: str(place) for top, place in also_held.items()})
        self._also_held = set(also_held)

    def __enter__(self) -> _Reception:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for descent in (self._elsewhere, self.destination):
            descent.close()
        self.assembly.close()

    def run(self) -> None:
        manifest, meter = self._manifest, self._meter
        wanted = {index for index, entry in enumerate(manifest) if travels(entry)}
        places = [self.destination, self._elsewhere] if self._also_held else [self.destination]
        self.fetched_files += count_new_hollow(manifest, places)
        self.assembly.prepare()
        meter.phase("comparing")
        held = self._find_holdings()
        same = self._sender.select(pack_have(held))
        if not same <= set(held):
            raise BundleError("the sender says that entries are the same which this side does not hold")
        self._settle_held({index: held[index] for index in sorted(same)})
        missing = sorted(wanted - same)
        self._check_room(missing)
        meter.expect(self._entries(missing))
        meter.phase("transferring")
        self._fetch(missing)

    def _find_holdings(self) -> dict[int, Holding]:
        with Descent(self._stage.tree_fd) as staged:
            places = {_KEPT: self.destination}
            if self._stage.continued:
                places = {_STAGED: staged} | places
            if self._also_held:
                places[_ELSEWHERE] = self._elsewhere
            return find_holdings(self._manifest, places, self._meter.tick)

    def _entries(self, indices: list[int]) -> list[Entry]:
        return [self._manifest.entries[index] for index in indices]

    def _check_room(self, missing: list[int]) -> None:
        """An error now is better than a full disk later; parts that are here already need no room."""
        room = os.fstatvfs(self._stage.fd)
        free = room.f_bavail * room.f_frsize
        entries = self._entries(missing)
        needed = sum(e.data_bytes for e in entries if is_small(e) or not self._stage.part_path(e.path).exists())
        if needed > free:
            raise WorkspaceError(f"{self._stage.path.parent} has room for {free} bytes, and {needed} have to arrive")

    def _settle_held(self, held: dict[int, Holding]) -> None:
        for index, holding in held.items():
            if holding.place == _STAGED:
                self.assembly.settle_staged(index)
            else:
                elsewhere = holding.place == _ELSEWHERE
                place = self._elsewhere if elsewhere else self.destination
                self.assembly.settle_kept(index, holding, place, may_link=not elsewhere)
            self._meter.tick()

    def _fetch(self, missing: list[int]) -> None:
        entries = self._manifest.entries
        small = [index for index in missing if is_small(entries[index])]
        large = [index for index in missing if not is_small(entries[index])]
        if small:
            self._sender.fetch_small(small, self.assembly.create, self._small_arrived)
        if large:
            self._sender.fetch_large(large, self._stage, self._large_arrived)

    def _small_arrived(self, index: int, fd: int) -> None:
        self.assembly.settle_created(index, fd)
        self._count(index)

    def _large_arrived(self, index: int) -> None:
        self.assembly.settle_part(index)
        self._count(index)

    def _count(self, index: int) -> None:
        self.fetched_files += 1
        self.fetched_bytes += self._manifest.entries[index].data_bytes
        self._meter.item_done(self._manifest.entries[index])
