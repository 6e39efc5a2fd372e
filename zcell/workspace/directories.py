"""Ways into a tree that nobody vouches for. Invariant: every step is relative to an open directory and follows no link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


def open_root(root: Path) -> int:
    """A descriptor of a directory that the caller chose and trusts; links on the way to it are followed."""
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Descent:
    """Walks down from one directory along paths; fast when consecutive paths share their directories, as manifests' do.

    `make` creates directories that are missing, with mode 0700. `tops` says where first names lead that are not simply names
    below the directory: to another name, or to an absolute path. Not thread-safe; closes what it opened when it is left.
    """

    def __init__(self, root_fd: int, *, make: bool = False, tops: Mapping[str, str] | None = None) -> None:
        self._root_fd = os.dup(root_fd)
        self._tops = tops or {}
        self._make = make
        self._names: list[str] = []
        self._fds: list[int] = []
        self._absent: list[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all descriptors. Idempotent."""
        self._up_to(0)
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def above(self, path: str) -> tuple[int, str]:
        """Descriptor of the directory that holds `path`, valid until the next call, and the last name of `path` in there.

        Raises `OSError`: `FileNotFoundError` or `NotADirectoryError` when there is no such directory (a link is none).
        """
        *parents, name = path.split("/")
        return self._go(parents), name if parents else self._tops.get(name, name)

    def at(self, path: str) -> int:
        """Descriptor of the directory `path` itself, as `above`."""
        return self._go(path.split("/"))

    def open_file(self, path: str) -> int | None:
        """A new descriptor for reading the regular file `path`; None when there is none, or it may not be read."""
        try:
            directory, name = self.above(path)
            fd = os.open(name, OPEN_FILE, dir_fd=directory)
        except OSError as error:
            if error.errno in _ABSENT or error.errno in (errno.EACCES, errno.EPERM, errno.ENXIO):
                return None
            raise
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def _go(self, parents: list[str]) -> int:
        if parents == self._names:
            return self._fds[-1] if self._fds else self._root_fd
        if self._absent is not None and parents[: len(self._absent)] == self._absent:
            raise FileNotFoundError(errno.ENOENT, "no such directory", "/".join(self._absent))
        common = 0
        for ours, theirs in zip(self._names, parents, strict=False):
            if ours != theirs:
                break
            common += 1
        self._up_to(common)
        fd = self._fds[-1] if self._fds else self._root_fd
        for name in parents[common:]:
            try:
                fd = self._down(fd, name if self._names else self._tops.get(name, name))
            except FileNotFoundError:
                self._absent = [*self._names, name]
                raise
            self._names.append(name)
            self._fds.append(fd)
        return fd

    def _down(self, fd: int, name: str) -> int:
        try:
            return os.open(name, OPEN_DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            if not self._make:
                raise
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, "a link in the place of a directory", name) from None
            raise
        os.mkdir(name, 0o700, dir_fd=fd)
        return os.open(name, OPEN_DIRECTORY, dir_fd=fd)

    def _up_to(self, depth: int) -> None:
        while len(self._fds) > depth:
            os.close(self._fds.pop())
            self._names.pop()
