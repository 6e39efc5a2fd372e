"""Puts a tree together in a stage. Invariant: a tree is finished only when every entry of its manifest was settled, once.

Settled means: a file of the entry's size lies at the entry's path in the stage, its content digested or verified on its way,
with the entry's mode and time. Directories get theirs at the end, deepest first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from zcell.errors import BundleError, WorkspaceError
from zcell.workspace.copying import copy_extents, copy_ownership, link
from zcell.workspace.directories import OPEN_DIRECTORY, OPEN_FILE, Descent
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.moves import moves_of
from zcell.workspace.plan import Holding, is_small
from zcell.workspace.scan import Identity
from zcell.workspace.stage import Stage
from zcell.workspace.swap import Move
from zcell.workspace.treewriter import PERMISSION_BITS, empty_directory

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Assembly:
    """One tree that is being put together from what the stage, the destination and the sender hold. Not thread-safe."""

    def __init__(self, stage: Stage, manifest: Manifest) -> None:
        self.stage = stage
        self.manifest = manifest
        self._settled: set[int] = set()
        self._tree = Descent(stage.tree_fd, make=True)
        self._directories = {entry.path: (entry.mode, entry.mtime_ns) for entry in manifest if entry.is_dir}
        """Mode and time of each at the end."""
        self._held: dict[str, Identity] = {}
        """The files at the destination whose content was found to be that of the entry, in the state that was looked at."""

    def close(self) -> None:
        """Let go of all descriptors; what is settled stays in the stage."""
        self._tree.close()

    def prepare(self) -> None:
        """Clear away what an earlier run staged and this manifest does not want; make all directories and empty files."""
        kinds = {entry.path: entry.is_dir for entry in self.manifest}
        _prune(self.stage.tree_fd, "", kinds)
        for index, entry in enumerate(self.manifest):
            if entry.is_dir:
                self._tree.at(entry.path)
            elif not entry.data_bytes:
                fd = self._create(entry)
                os.ftruncate(fd, entry.size)
                self._settle(index, fd)
            elif self.stage.continued and not is_small(entry):
                self._take_part(entry)

    def _take_part(self, entry: Entry) -> None:
        """A large file that was complete when an earlier run ended: in its place it counts as held, and is digested as such."""
        with contextlib.suppress(FileNotFoundError):
            if self.stage.part_path(entry.path).stat().st_size == entry.data_bytes:
                self._place_part(entry)

    def settle_staged(self, index: int) -> None:
        """Entry `index` is in the stage already, with the right content."""
        entry = self.manifest.entries[index]
        directory, name = self._tree.above(entry.path)
        self._settle(index, os.open(name, OPEN_FILE, dir_fd=directory))

    def settle_kept(self, index: int, holding: Holding, destination: Descent, *, may_link: bool = True) -> None:
        """Entry `index` is at the destination with the right content: link it when nothing about it changes, else copy it."""
        entry = self.manifest.entries[index]
        source = destination.open_file(entry.path)
        if source is None:
            raise BundleError(f"{entry.path!r} vanished from the destination during the transfer; try again")
        try:
            status = os.fstat(source)
            if Identity.of(status) != holding.identity:
                raise BundleError(f"{entry.path!r} changed at the destination during the transfer; try again")
            directory, name = self._tree.above(entry.path)
            same_mode = status.st_mode & PERMISSION_BITS == entry.mode
            mode = entry.mode
            if may_link:
                self._held[entry.path] = holding.identity
                if same_mode:
                    mode = stat.S_IMODE(status.st_mode)  # setuid and the like never travel, and stay where they are
            may_link = may_link and same_mode and status.st_mtime_ns == entry.mtime_ns and status.st_nlink == 1
            if may_link and link(destination.above(entry.path), (directory, name), status):
                self._settled.add(index)
                return
            fd = self._create(entry)
            copy_extents(source, fd, status.st_size)
            self._settle(index, fd, mode)
        finally:
            os.close(source)

    def create(self, index: int) -> int:
        """A descriptor of a new, empty file in the place of entry `index`, to be filled and given to `settle_created`."""
        return self._create(self.manifest.entries[index])

    def settle_created(self, index: int, fd: int) -> None:
        """Entry `index` was written to the descriptor from `create`, which is closed."""
        self._settle(index, fd)

    def settle_part(self, index: int) -> None:
        """Entry `index` was received as a file of its own: move it to its place; one with holes gets them back."""
        self._place_part(self.manifest.entries[index])
        self.settle_staged(index)

    def _place_part(self, entry: Entry) -> None:
        part = self.stage.part_path(entry.path)
        if entry.extents is None:
            directory, name = self._tree.above(entry.path)
            os.rename(part, name, dst_dir_fd=directory)
            return
        packed = os.open(part, OPEN_FILE)
        try:
            fd = self._create(entry)
            try:
                copy_extents(packed, fd, entry.size, entry.extents)
            finally:
                os.close(fd)
        finally:
            os.close(packed)
        part.unlink()

    def has_content_of(self, path: str, status: os.stat_result) -> bool:
        """Whether the entry `path` was found to have the content of the file at the destination that `status` is of."""
        return self._held.get(path) == Identity.of(status)

    def unstage(self, path: str) -> None:
        """The entry `path` does not arrive after all. A directory goes only when nothing is in it."""
        try:
            directory, name = self._tree.above(path)
            if path in self._directories:
                os.rmdir(name, dir_fd=directory)
                del self._directories[path]
            else:
                os.unlink(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise

    def keep_directory(self, path: str, there: int, status: os.stat_result, mode: int) -> None:
        """A directory of the manifest that the destination (`there`) has too: it stays whose it is, with `mode` at the end."""
        self._directories[path] = (mode, self._directories[path][1])
        copy_ownership(there, self._tree.at(path), status)

    def carry_directory(self, path: str, there: int | None, status: os.stat_result) -> None:
        """A directory that is not in the manifest stays, as it is at the destination."""
        staged = self._tree.at(path)
        self._directories[path] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        if there is not None:
            copy_ownership(there, staged, status)

    def carry_file(self, path: str, above: tuple[int, str], status: os.stat_result) -> None:
        """Something that is no directory and not in the manifest stays: as another link, or as a copy."""
        directory, name = self._tree.above(path)
        if link(above, (directory, name), status):
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(above[1], dir_fd=above[0]), name, dir_fd=directory)
        elif stat.S_ISREG(status.st_mode):
            self._carry_copy(path, above, status)
        else:
            raise WorkspaceError(f"{path!r} at the destination is no file, and this file system cannot keep it; move it away")

    def finish(self, destination: Descent) -> list[Move]:
        """Modes and times of all directories; what has to be moved to put the tree in place at `destination`.

        Raises `BundleError` naming the first file that never arrived.
        """
        for index, entry in enumerate(self.manifest):
            if not entry.is_dir and index not in self._settled:
                raise BundleError(f"{entry.path!r} is in the manifest but never arrived")
        directories = self._directories
        tops = [path for path in directories if "/" not in path]
        moves = [move for top in tops for move in moves_of(self._tree, destination, top, directories)]
        moved = {move.name for move in moves}
        for path in sorted(directories, key=lambda p: p.count("/"), reverse=True):
            if path not in moved:
                mode, mtime_ns = directories[path]
                fd = self._tree.at(path)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
                os.fchmod(fd, mode)
        return moves

    def _carry_copy(self, path: str, above: tuple[int, str], status: os.stat_result) -> None:
        source = os.open(above[1], OPEN_FILE, dir_fd=above[0])
        try:
            fd = self._create(Entry(path, False, 0, 0))
            try:
                copy_extents(source, fd, status.st_size)
                os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
                os.fchmod(fd, stat.S_IMODE(status.st_mode))
            finally:
                os.close(fd)
        finally:
            os.close(source)

    def _create(self, entry: Entry) -> int:
        directory, name = self._tree.above(entry.path)
        try:
            return os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        except FileExistsError:
            os.unlink(name, dir_fd=directory)
            return os.open(name, _NEW_FILE, 0o600, dir_fd=directory)

    def _settle(self, index: int, fd: int, mode: int | None = None) -> None:
        """Check size and kind of an open file in its place, give it mode (the entry's) and time, close it."""
        entry = self.manifest.entries[index]
        mode = entry.mode if mode is None else mode
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
                raise BundleError(f"{entry.path!r} has {status.st_size} bytes, its manifest announces {entry.size}")
            if status.st_mtime_ns != entry.mtime_ns:
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            if stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)
        self._settled.add(index)


def _prune(directory: int, prefix: str, kinds: dict[str, bool]) -> None:
    """Remove what is not wanted below an open directory of the stage, and what shares its inode with the destination."""
    with os.scandir(directory) as listing:
        entries = list(listing)
    for entry in entries:
        path = prefix + entry.name
        is_dir = entry.is_dir(follow_symlinks=False)
        if is_dir:
            below = _open_own(directory, entry.name)
            try:
                if kinds.get(path) is True:
                    _prune(below, path + "/", kinds)
                    continue
                empty_directory(below)
            finally:
                os.close(below)
            os.rmdir(entry.name, dir_fd=directory)
            continue
        status = entry.stat(follow_symlinks=False)
        if kinds.get(path) is not False or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.unlink(entry.name, dir_fd=directory)
        elif not status.st_mode & stat.S_IRUSR:
            os.chmod(entry.name, 0o600, dir_fd=directory)


def _open_own(directory: int, name: str) -> int:
    """A directory of the stage, which an earlier run may have given its final mode already."""
    try:
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        os.chmod(name, 0o700, dir_fd=directory)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    os.fchmod(fd, 0o700)
    return fd
