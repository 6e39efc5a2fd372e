"""When to look at a directory again. Invariant owned here: a change is never missed for longer than the pace allows.

On a local file system the kernel tells (inotify), and a slow look guards against what it may not tell. Where other hosts
write, as on NFS, it cannot tell: there the pace follows the traffic, from 1 ms right after a change to 10 ms when quiet.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path

_log = logging.getLogger("zcell.pipe.file")
_FASTEST, _SLOWEST = 0.001, 0.01
_QUIET_SHARE = 50  # a look every fiftieth of the quiet time costs little and adds little delay to a busy exchange
# linux/inotify.h: IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF
_EVENTS = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "zfs", "f2fs", "overlay"})


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, as /proc/self/mountinfo names it; "" when unknown."""
    real = str(path.resolve())
    best, kind = -1, ""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mount = fields.split()[4].encode().decode("unicode_escape")
        if (real == mount or real.startswith(mount.rstrip("/") + "/")) and len(mount) >= best:
            best, kind = len(mount), rest.split()[0]
    return kind


def _open_inotify(directories: Sequence[Path]) -> int | None:
    """A descriptor that becomes readable when something changes in `directories`; None when the kernel has none to give."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    except AttributeError:
        return None
    if fd < 0:
        return None
    if not _add_watches(fd, directories):
        os.close(fd)
        return None
    return fd


def _add_watches(fd: int, directories: Sequence[Path]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return all(libc.inotify_add_watch(fd, os.fsencode(directory), _EVENTS) >= 0 for directory in directories)


class DirectoryWatch:
    """Paces one thread's looks at `directories`. `guard` is the longest time between two looks where the kernel tells."""

    def __init__(self, directories: Sequence[Path], *, guard: float, portable: bool = False) -> None:
        local = not portable and all(file_system(d) in _LOCAL for d in directories)
        self._inotify = _open_inotify(directories) if local else None
        self._directories = directories
        self._guard = guard
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake_in, select.POLLIN)
        if self._inotify is not None:
            self._poll.register(self._inotify, select.POLLIN)
        self._last_change = time.monotonic()
        self._closed = False

    @property
    def is_told(self) -> bool:
        """Whether the kernel tells about changes here."""
        return self._inotify is not None

    def wait(self) -> bool:
        """Wait until it is time to look; False once closed."""
        if self._closed:
            return False
        for fd, _ in self._poll.poll(self._pause() * 1000):
            self._drain(fd)
        return not self._closed

    def _pause(self) -> float:
        if self._inotify is not None:
            return self._guard
        return min(_SLOWEST, max(_FASTEST, (time.monotonic() - self._last_change) / _QUIET_SHARE))

    @staticmethod
    def _drain(fd: int) -> None:
        try:
            while len(os.read(fd, 65536)) == 65536:
                continue
        except BlockingIOError:
            return

    def renew(self) -> None:
        """The directories were made anew. Where the kernel cannot be told, the slow look sees what changes."""
        if self._inotify is not None and not _add_watches(self._inotify, self._directories):
            _log.warning("the kernel will not tell about changes in %s", ", ".join(map(str, self._directories)))

    def changed(self) -> None:
        """There was traffic: look more often for a while."""
        self._last_change = time.monotonic()

    def wake(self) -> None:
        """Let `wait` return now."""
        try:
            os.write(self._wake_out, b"x")
        except BlockingIOError:
            return  # a wake-up is pending already

    def stop(self) -> None:
        """`wait` returns False from now on; call `close` once its thread has ended."""
        self._closed = True
        self.wake()

    def close(self) -> None:
        for fd in (self._wake_in, self._wake_out, self._inotify):
            if fd is not None:
                os.close(fd)
