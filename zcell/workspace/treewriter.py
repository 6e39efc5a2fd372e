"""A tree of files written below one directory. Invariant: nothing is ever created, opened or removed outside that directory,
whatever links or directories somebody plants in it meanwhile; and `abort` leaves it empty."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Self

from zcell.errors import BundleError

PERMISSION_BITS = 0o777
OPEN_DIRECTORIES = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[str, ...]


class TreeWriter:
    """Creates files and directories below the open directory `root_fd` (kept open by its owner, empty to begin with).

    Names come as components that `validate_entry_name` has passed. Every step goes through directory descriptors with
    `O_NOFOLLOW`; files and directories are created, never opened when they exist. Until `finish` new files have mode 0600;
    setuid, setgid and sticky bits are never set. Not thread-safe. As a context manager it finishes, or aborts on an exception.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = os.dup(root_fd)
        self._open: OrderedDict[Parts, int] = OrderedDict()
        self._made: dict[Parts, tuple[int | None, int | None]] = {}  # mode and mtime to set at the end, None: leave
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.finish()
        except BaseException:
            self.abort()
            raise

    def make_dir(self, parts: Parts, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        """Makes a directory (and those above it); one that an earlier name implied only gets its mode and time.

        Mode and time are set by `finish`, when nothing more is written into it.
        """
        self._directory(parts)
        self._made[parts] = (None if mode is None else mode & PERMISSION_BITS, mtime_ns)

    def create_file(self, parts: Parts) -> int:
        """A descriptor of a new, empty file, open for writing; the directories above it are made.

        The caller closes it, with `finish_file` or by itself. Raises `BundleError` when something of that name is there.
        """
        try:
            return os.open(parts[-1], _NEW_FILE, 0o600, dir_fd=self._directory(parts[:-1]))
        except FileExistsError:
            raise BundleError(f"entry {'/'.join(parts)!r} is refused: something of that name is already there") from None

    def finish_file(self, fd: int, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        """Sets permission bits and modification time (nanoseconds since 1970) of a file from `create_file`, and closes it."""
        try:
            if mode is not None:
                os.fchmod(fd, mode & PERMISSION_BITS)
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def set_mode(self, parts: Parts, mode: int) -> None:
        """Sets the permission bits of a file or directory of this tree, when they are known only after its contents."""
        if parts in self._made:
            self._made[parts] = (mode & PERMISSION_BITS, self._made[parts][1])
            return
        try:
            fd = os.open(
                parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory(parts[:-1])
            )
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOENT):
                raise self._replaced(parts) from None
            raise
        try:
            os.fchmod(fd, mode & PERMISSION_BITS)
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Sets modes and times of directories, deepest first, and lets go of all descriptors."""
        for parts in sorted(self._made, key=len, reverse=True):
            mode, mtime_ns = self._made[parts]
            if mode is None and mtime_ns is None:
                continue
            fd = self._directory(parts)
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            if mode is not None:
                os.fchmod(fd, mode)
        self.close()

    def abort(self) -> None:
        """Removes everything below the directory, links as links, and lets go of all descriptors. After `finish`: nothing."""
        if self._closed:
            return
        try:
            empty_directory(self._root_fd)
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of all descriptors; what is written stays. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            for fd in (*self._open.values(), self._root_fd):
                os.close(fd)
            self._open.clear()

    def _directory(self, parts: Parts) -> int:
        """A descriptor of a directory of the tree, made when it is missing. Stays open until others push it out."""
        if self._closed:
            raise ValueError("the tree is finished or aborted")
        if not parts:
            return self._root_fd
        fd = self._open.get(parts)
        if fd is not None:
            self._open.move_to_end(parts)
            return fd
        above = self._directory(parts[:-1])
        if parts not in self._made:
            self._make(parts, above)
        try:
            fd = os.open(parts[-1], _DIRECTORY, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                raise self._replaced(parts) from None
            raise
        self._open[parts] = fd
        if len(self._open) > OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _make(self, parts: Parts, above: int) -> None:
        try:
            os.mkdir(parts[-1], 0o777, dir_fd=above)
        except FileExistsError:
            raise BundleError(f"entry {'/'.join(parts)!r} is refused: something of that name is already there") from None
        self._made[parts] = (None, None)

    @staticmethod
    def _replaced(parts: Parts) -> BundleError:
        return BundleError(f"{'/'.join(parts)!r} was replaced while the tree was being written")


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all of `data`, however many calls it takes."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def empty_directory(directory_fd: int) -> None:
    """Removes everything below an open directory, following no link; directories without permissions included."""
    with os.scandir(directory_fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in found:
        with contextlib.suppress(FileNotFoundError):
            if is_dir:
                _remove_directory(directory_fd, name)
            else:
                os.unlink(name, dir_fd=directory_fd)


def _remove_directory(above: int, name: str) -> None:
    try:
        fd = _open_for_removal(above, name)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        os.unlink(name, dir_fd=above)  # replaced by a link or a file since it was listed
        return
    try:
        empty_directory(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=above)


def _open_for_removal(above: int, name: str) -> int:
    """A descriptor of a directory that its owner may list and change, whatever its mode was."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=above)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(stat.S_IRWXU)  # the only chmod that cannot be led astray by a link
        finally:
            os.close(handle)
        return os.open(name, _DIRECTORY, dir_fd=above)
    if os.fstat(fd).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(fd, stat.S_IRWXU)
    return fd
