"""What a tree on this disk holds, as a manifest. Invariant: nothing behind a link is ever looked at, opened or listed.

The walk holds a descriptor of each directory on its way and opens names relative to it with `O_NOFOLLOW`, so a directory that
is exchanged for a link meanwhile is refused instead of followed.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zcell.errors import BundleError
from zcell.workspace.directories import OPEN_DIRECTORY, OPEN_FILE, Descent, open_root
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.patterns import Excludes
from zcell.workspace.sparse import SMALL_HOLE_BYTES, find_extents
from zcell.workspace.treewriter import PERMISSION_BITS

log = logging.getLogger("zcell.workspace.scan")

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file, and which state of it, was scanned. Two equal identities mean that nobody wrote to it in between."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class ScannedTree:
    """A manifest of a tree and the way back to its files."""

    def __init__(self, tops: Mapping[str, Path], manifest: Manifest, identities: tuple[Identity | None, ...]) -> None:
        self.manifest = manifest
        self._tops = {name: str(place) for name, place in tops.items()}
        self._identities = identities

    def descent(self) -> Descent:
        """A new way down to the files, to be closed after use; see `open_in`."""
        root_fd = open_root(Path("/"))
        try:
            return Descent(root_fd, tops=self._tops)
        finally:
            os.close(root_fd)

    def open_file(self, index: int) -> int:
        """A descriptor, for reading, of the file that entry `index` describes, or `BundleError` when it is another by now."""
        with self.descent() as descent:
            return self.open_in(descent, index)

    def open_in(self, descent: Descent, index: int) -> int:
        """The same by way of a `descent`, for many files in order."""
        entry, identity = self.manifest.entries[index], self._identities[index]
        try:
            directory, name = descent.above(entry.path)
            fd = os.open(name, OPEN_FILE, dir_fd=directory)
        except OSError as error:
            raise BundleError(f"{entry.path!r} cannot be read any more: {error.strerror}") from error
        if Identity.of(os.fstat(fd)) == identity:
            return fd
        os.close(fd)
        raise BundleError(f"{entry.path!r} has changed since the tree was listed; try again when nothing writes to it")


def scan_tree(
    tops: Mapping[str, Path],
    *,
    excludes: Excludes | None = None,
    skip_special: bool = False,
    limits: WorkspaceLimits | None = None,
    tick: Callable[[], None] = lambda: None,
    on_excluded: Callable[[str], None] = lambda path: None,
    on_left_out: Callable[[str], None] = log.warning,
) -> ScannedTree:
    """List directories. `tops` maps the first name of the paths in the manifest to the absolute path of each directory.

    One that does not exist is left out. Links, devices, sockets and FIFOs raise `BundleError` naming the entry, or are left out
    when `skip_special` is set, and `on_left_out` is told so in words; what is excluded is not looked at, only told to
    `on_excluded`. `tick` is called for every entry.
    """
    walk = _Walk(excludes or Excludes(()), skip_special, tick, on_excluded, on_left_out)
    for name in sorted(tops):
        walk.top(name, tops[name])
    return ScannedTree(tops, Manifest(walk.entries, limits), tuple(walk.identities))


class _Walk:
    """One walk: a stack of open directories, each with the names that are still to be looked at."""

    def __init__(
        self,
        excludes: Excludes,
        skip_special: bool,
        tick: Callable[[], None],
        on_excluded: Callable[[str], None],
        on_left_out: Callable[[str], None],
    ) -> None:
        self.entries: list[Entry] = []
        self.identities: list[Identity | None] = []
        self._excludes = excludes
        self._skip_special = skip_special
        self._tick = tick
        self._on_excluded = on_excluded
        self._on_left_out = on_left_out

    def top(self, name: str, place: Path) -> None:
        """Everything at and below `name`, which is `place` on the disk; parents first, siblings in order."""
        try:
            status = place.lstat()
        except FileNotFoundError:
            return
        if self._excludes(name):
            return
        if not stat.S_ISDIR(status.st_mode):
            raise BundleError(f"{str(place)!r} is {_kind(status)}, expected a directory")
        stack = [self._enter(None, str(place), name)]
        try:
            while stack:
                path, fd, names = stack[-1]
                below = next(names, None)
                if below is None:
                    os.close(stack.pop()[1])
                    continue
                entered = self._visit(fd, f"{path}/{below.name}", below)
                if entered is not None:
                    stack.append(entered)
        finally:
            for _, fd, _ in stack:
                os.close(fd)

    def _visit(self, above: int, path: str, found: os.DirEntry[str]) -> tuple[str, int, Iterator[os.DirEntry[str]]] | None:
        """Record one entry; a directory is entered."""
        self._tick()
        if self._excludes(path):
            self._on_excluded(path)
            return None
        try:
            status = found.stat(follow_symlinks=False)
        except FileNotFoundError:
            raise BundleError(
                f"{path!r} vanished while the tree was being listed; try again when nothing writes to it"
            ) from None
        if stat.S_ISDIR(status.st_mode):
            return self._enter(above, found.name, path)
        if stat.S_ISREG(status.st_mode):
            self._file(above, found.name, path, status)
        else:
            self._special(above, found.name, path, status)
        return None

    def _enter(self, above: int | None, name: str, path: str) -> tuple[str, int, Iterator[os.DirEntry[str]]]:
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise BundleError(f"{path!r} was exchanged for something else while the tree was being listed") from None
            raise BundleError(f"directory {path!r} cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(fd)
            self.entries.append(Entry(path, True, status.st_mode & PERMISSION_BITS, status.st_mtime_ns))
            self.identities.append(None)
            with os.scandir(fd) as listing:
                names = sorted(listing, key=lambda e: e.name)
        except BaseException:
            os.close(fd)
            raise
        return path, fd, iter(names)

    def _file(self, above: int, name: str, path: str, status: os.stat_result) -> None:
        extents = None
        if status.st_size >= SMALL_HOLE_BYTES and status.st_blocks * 512 < status.st_size:
            try:
                fd = os.open(name, OPEN_FILE, dir_fd=above)
            except OSError as error:
                raise BundleError(f"{path!r} cannot be read: {error.strerror}") from error
            try:
                status = os.fstat(fd)
                extents = find_extents(fd, status.st_size)
            finally:
                os.close(fd)
        mode = status.st_mode & PERMISSION_BITS
        self.entries.append(Entry(path, False, mode, status.st_mtime_ns, status.st_size, extents))
        self.identities.append(Identity.of(status))

    def _special(self, above: int, name: str, path: str, status: os.stat_result) -> None:
        what = _kind(status)
        if stat.S_ISLNK(status.st_mode):
            what += f" to {os.readlink(name, dir_fd=above)!r}"
        if not self._skip_special:
            raise BundleError(
                f"{path!r} is {what}: only files and directories travel; remove it, exclude it by a pattern, or leave out all of its "
                "kind with skip_links (zcell run --skip-links)"
            )
        self._on_left_out(f"left out of the transfer: {path!r} is {what}")


def _kind(status: os.stat_result) -> str:
    return "a file" if stat.S_ISREG(status.st_mode) else _KINDS.get(stat.S_IFMT(status.st_mode), "no file or directory")
