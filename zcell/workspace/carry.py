"""What the destination has and the sender does not replace. Invariant: only what the other side changed is changed here.

Without a base, everything that arrives replaces its like, and what never travelled is kept. With one, the state that the other
side had begun with, it is a merge of three: what only this side changed, or removed, meanwhile stays as it is now; what both
changed arrives, and this side's is put aside under another name. A kept file gets a second link in the stage, so keeping costs
no room. A kept entry that is in the way of an arriving one stops the transfer before anything is touched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zcell.errors import BundleError
from zcell.workspace.assembly import Assembly
from zcell.workspace.directories import OPEN_DIRECTORY, Descent
from zcell.workspace.manifest import Entry
from zcell.workspace.treewriter import PERMISSION_BITS

_MAX_NAME_BYTES = 255


@dataclass(slots=True)
class Carried:
    """What `carry_over` found."""

    dropped: int = 0
    """Entries that go because the other side removed them."""
    conflicts: dict[str, str] = field(default_factory=dict)
    """What both sides changed: under which name this side's is kept, beside what arrived. The same name: the other removed it."""


@dataclass(frozen=True, slots=True)
class Base:
    """What the other side had begun with, and a word that tells its changes from others in names."""

    entries: Mapping[str, Entry]
    label: str


def carry_over(
    assembly: Assembly, destination: Descent, base: Base | None = None, tick: Callable[[], None] = lambda: None
) -> Carried:
    """Put into the stage what stays of the destination, below the manifest's top directories.

    Raises `BundleError` when a kept entry and an arriving one cannot both be there.
    """
    carrier = _Carrier(assembly, base, tick)
    for entry in assembly.manifest:
        if "/" not in entry.path:
            carrier.top(destination, entry.path)
    return carrier.carried


def is_same(entry: Entry, was: Entry | None) -> bool:
    """Whether the other side left an entry as it was. A directory's time only tells that something in it changed."""
    if was is None or (entry.is_dir, entry.mode) != (was.is_dir, was.mode):
        return False
    return entry.is_dir or (entry.size, entry.mtime_ns) == (was.size, was.mtime_ns)


def is_untouched(status: os.stat_result, was: Entry | None) -> bool:
    """Whether what is here is still what the other side was given."""
    if was is None or status.st_mode & PERMISSION_BITS != was.mode:
        return False
    if was.is_dir:
        return stat.S_ISDIR(status.st_mode)
    return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (was.size, was.mtime_ns)


class _Carrier:
    def __init__(self, assembly: Assembly, base: Base | None, tick: Callable[[], None]) -> None:
        self._assembly = assembly
        self._arriving = {entry.path: entry for entry in assembly.manifest}
        self._merges = base is not None
        self._base: Mapping[str, Entry] = base.entries if base is not None else {}
        self._label = base.label if base is not None else ""
        self._tick = tick
        self._seen: set[str] = set()
        self._gone: dict[str, os.stat_result] = {}
        """Directories that the other side removed; one comes back when something in it stays."""
        self.carried = Carried()

    def top(self, destination: Descent, name: str) -> None:
        try:
            fd = destination.at(name)
        except (FileNotFoundError, NotADirectoryError):  # nothing there, or no directory: the swap decides
            return
        if self._arriving[name].is_dir:
            self._keep_directory(fd, name, os.fstat(fd))
        self._below(fd, name)
        if self._merges:
            self._remove_what_was_removed_here(name + "/")

    def _below(self, directory: int, prefix: str) -> None:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda e: e.name)
        for entry in entries:
            self._tick()
            path = f"{prefix}/{entry.name}"
            self._seen.add(path)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._directory(directory, entry.name, path, status)
            else:
                self._other(directory, entry.name, path, status)

    def _directory(self, above: int, name: str, path: str, status: os.stat_result) -> None:
        arriving, was = self._arriving.get(path), self._base.get(path)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=above)
        try:
            if arriving is not None and arriving.is_dir:
                self._keep_directory(fd, path, status)
            elif was is not None and was.is_dir:
                self.carried.dropped += arriving is None
                self._gone[path] = status
            elif arriving is None or is_same(arriving, was):
                if arriving is not None:
                    self._assembly.unstage(path)
                    del self._arriving[path]
                self._revive_above(path)
                self._assembly.carry_directory(path, fd, status)
            else:
                raise _in_the_way(path, "directory", "file")
            self._below(fd, path)
        finally:
            os.close(fd)

    def _keep_directory(self, fd: int, path: str, status: os.stat_result) -> None:
        """One that is on both sides: what this side changed, or the other knows nothing of, stays."""
        arriving, mode = self._arriving[path], stat.S_IMODE(status.st_mode)
        if mode & PERMISSION_BITS != arriving.mode and not is_same(arriving, self._base.get(path)):
            mode = arriving.mode
        self._assembly.keep_directory(path, fd, status, mode)

    def _other(self, above: int, name: str, path: str, status: os.stat_result) -> None:
        arriving, was = self._arriving.get(path), self._base.get(path)
        untouched = is_untouched(status, was)
        if arriving is None:
            self._not_arriving(above, name, path, status, untouched=untouched)
        elif arriving.is_dir:
            if not untouched:
                raise _in_the_way(path, "file", "directory")
        elif self._merges and not untouched:
            if is_same(arriving, was):
                self._assembly.unstage(path)
                self._assembly.carry_file(path, (above, name), status)
            elif not self._assembly.has_content_of(path, status):
                self._put_aside(above, name, path, status)

    def _not_arriving(self, above: int, name: str, path: str, status: os.stat_result, *, untouched: bool) -> None:
        if untouched:
            self.carried.dropped += 1
            return
        if path in self._base:
            self.carried.conflicts[path] = path
        self._refuse_below_a_file(path)
        self._revive_above(path)
        self._assembly.carry_file(path, (above, name), status)

    def _put_aside(self, above: int, name: str, path: str, status: os.stat_result) -> None:
        where, _, _ = path.rpartition("/")
        number = 1
        while True:
            ending = f".before-{self._label}" + (f"-{number}" if number > 1 else "")
            room = _MAX_NAME_BYTES - len(os.fsencode(ending))
            kept = f"{where}/{os.fsencode(name)[:room].decode(errors='ignore')}{ending}"
            if kept not in self._arriving and not _is_there(above, kept.rpartition("/")[2]):
                break
            number += 1
        self._assembly.carry_file(kept, (above, name), status)
        self.carried.conflicts[path] = kept

    def _revive_above(self, path: str) -> None:
        """A directory that the other side removed stays when something in it does."""
        while (path := path.rpartition("/")[0]) in self._gone:
            self._assembly.carry_directory(path, None, self._gone.pop(path))
            self.carried.dropped -= 1

    def _remove_what_was_removed_here(self, prefix: str) -> None:
        """What this side removed meanwhile, and the other left as it was, does not come back. What is in a directory comes first."""
        for entry in sorted(self._arriving.values(), key=lambda e: e.path, reverse=True):
            if entry.path.startswith(prefix) and entry.path not in self._seen and is_same(entry, self._base.get(entry.path)):
                self._assembly.unstage(entry.path)

    def _refuse_below_a_file(self, path: str) -> None:
        """A kept file below what is to become a file has no place to be."""
        parent = path.rpartition("/")[0]
        while parent:
            arriving = self._arriving.get(parent)
            if arriving is not None and not arriving.is_dir:
                raise _in_the_way(parent, f"directory with {path!r} in it", "file")
            parent = parent.rpartition("/")[0]


def _is_there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _in_the_way(path: str, here: str, arriving: str) -> BundleError:
    return BundleError(f"{path!r}: the destination has a {here} that never travelled, where a {arriving} arrives; move it away")
