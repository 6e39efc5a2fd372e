"""Copies within one file system. Invariant: a hole stays a hole, and a link is made only of the very file that was looked at."""

from __future__ import annotations

import contextlib
import errno
import os

from zcell.errors import BundleError
from zcell.limits import MIB
from zcell.workspace.manifest import Extents
from zcell.workspace.sparse import find_extents
from zcell.workspace.treewriter import write_all

_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)
_NO_RANGES = (errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EBADF, errno.ETXTBSY)


def link(source: tuple[int, str], target: tuple[int, str], status: os.stat_result) -> bool:
    """Give the file at `source` (directory, name) a second name, in the place of what is there; False when that cannot be.

    `status` is what the caller saw; a file that was exchanged meanwhile is not linked. Nothing is at `target` after False.
    """
    try:
        _link_over(source, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target[1], dir_fd=target[0])
            return False
        raise
    now = os.stat(target[1], dir_fd=target[0], follow_symlinks=False)
    if _same(now, status):
        return True
    os.unlink(target[1], dir_fd=target[0])
    return False


def _link_over(source: tuple[int, str], target: tuple[int, str]) -> None:
    for _ in range(2):
        try:
            os.link(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0], follow_symlinks=False)
        except FileExistsError:
            os.unlink(target[1], dir_fd=target[0])
        else:
            return


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) == (
        other.st_dev,
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
    )


def copy_extents(source: int, target: int, size: int, packed: Extents | None = None) -> None:
    """Fill the new file `target` of `size` bytes from `source`, holes left out.

    Without `packed` the two have the same layout. With it, `source` holds the data of these extents end to end.
    Raises `BundleError` when `source` ends too early.
    """
    extents = find_extents(source, size) if packed is None else packed
    os.ftruncate(target, size)
    at = 0
    for offset, length in ((0, size),) if extents is None else extents:
        _copy(source, offset if packed is None else at, target, offset, length)
        at += length


def _copy(source: int, from_offset: int, target: int, to_offset: int, length: int) -> None:
    while length > 0:
        try:
            count = os.copy_file_range(source, target, length, from_offset, to_offset)
        except OSError as error:
            if error.errno not in _NO_RANGES:
                raise
            count = 0
        if not count:  # refused, or an odd file system: read and write
            data = os.pread(source, min(length, MIB), from_offset)
            os.lseek(target, to_offset, os.SEEK_SET)
            write_all(target, data)
            count = len(data)
        if not count:
            raise BundleError("a file became shorter while it was copied")
        from_offset, to_offset, length = from_offset + count, to_offset + count, length - count


def copy_ownership(source: int, target: int, status: os.stat_result) -> None:
    """Give the open directory `target` owner, group and extended attributes (hence access lists) of `source`, as far as allowed."""
    new = os.fstat(target)
    if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.fchown(target, status.st_uid, status.st_gid)
        except OSError:
            with contextlib.suppress(OSError):
                os.fchown(target, -1, status.st_gid)
    with contextlib.suppress(OSError):
        for name in os.listxattr(source):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
