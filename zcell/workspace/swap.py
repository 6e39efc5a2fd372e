"""Puts finished directories in the place of old ones. Invariant: under its final name there is the old tree or the new one, whole.

`replace` writes down what it is about to do (`COMMIT`, with the inode of each new directory), exchanges the directories by
rename, and forgets the old ones. When the process dies in between, `roll_forward` finishes the same at the next start: a new
directory that is not yet under its final name is put there. Without the note nothing was begun, and nothing is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack

from zcell.errors import BundleError, WorkspaceError
from zcell.workspace.directories import OPEN_DIRECTORY
from zcell.workspace.treewriter import write_all

log = logging.getLogger("zcell.workspace.swap")

COMMIT = "commit"
_RENAME_EXCHANGE = 2
_MAX_COMMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Replacement:
    """One top directory that is ready: its name, which directory it is, and the mode and time it will have in place."""

    name: str
    inode: int
    mode: int
    mtime_ns: int


def replace(parent_fd: int, stage_fd: int, tree_fd: int, replacements: Sequence[Replacement]) -> None:
    """Move each directory from `tree_fd` to its name below `parent_fd`; what was there moves to `tree_fd`.

    All or, when a rename fails, none: raises `WorkspaceError` and the old trees are where they were.
    """
    for item in replacements:
        _refuse_odd_target(parent_fd, item.name)
    _write_commit(stage_fd, replacements)
    try:
        for item in replacements:
            _move_in(parent_fd, tree_fd, item)
    except OSError as error:
        for item in reversed(replacements):
            _move_out(parent_fd, tree_fd, item)
        os.unlink(COMMIT, dir_fd=stage_fd)
        raise WorkspaceError(f"{error.filename or 'a directory'!r} cannot be put in place: {error.strerror}") from error


def roll_forward(parent_fd: int, stage_fd: int, tree_fd: int) -> list[str]:
    """Finish what an earlier process had begun and written down; the names that are in place now (none: nothing was begun)."""
    replacements = _read_commit(stage_fd)
    for item in replacements:
        try:
            _move_in(parent_fd, tree_fd, item)
        except FileNotFoundError:
            log.warning("%r was ready to be put in place, but somebody removed it; what is there now stays", item.name)
    return [item.name for item in replacements]


def _refuse_odd_target(parent_fd: int, name: str) -> None:
    status = _status(parent_fd, name)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "no directory"
        raise BundleError(f"{name!r} at the destination is {what}; remove it to make room for the directory that arrives")


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _move_in(parent_fd: int, tree_fd: int, item: Replacement) -> None:
    """Put one directory in place, unless it is there already; then give it its own mode and time."""
    there, here = _status(parent_fd, item.name), _status(tree_fd, item.name)
    if there is None or there.st_ino != item.inode:
        if here is None or here.st_ino != item.inode:
            raise OSError(errno.ENOENT, "the directory that was ready is gone", item.name)
        _exchange(tree_fd, parent_fd, item.name, occupied=there is not None)
    fd = os.open(item.name, OPEN_DIRECTORY, dir_fd=parent_fd)
    try:
        os.utime(fd, ns=(item.mtime_ns, item.mtime_ns))
        os.fchmod(fd, item.mode)
    finally:
        os.close(fd)


def _move_out(parent_fd: int, tree_fd: int, item: Replacement) -> None:
    """Undo `_move_in`: the new directory back to the stage, the old one (if there was one) back in place."""
    there = _status(parent_fd, item.name)
    if there is None or there.st_ino != item.inode:
        return
    _make_movable(parent_fd, item.name)
    _exchange(parent_fd, tree_fd, item.name, occupied=_status(tree_fd, item.name) is not None)


def _exchange(from_fd: int, to_fd: int, name: str, *, occupied: bool) -> None:
    """Move `name` between two directories; what occupies the name there comes here."""
    if not occupied:
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        return
    mode = _make_movable(to_fd, name)
    try:
        _exchange_occupied(from_fd, to_fd, name)
    except OSError:
        _set_mode(to_fd, name, mode)
        raise
    _set_mode(from_fd, name, mode)


def _exchange_occupied(from_fd: int, to_fd: int, name: str) -> None:
    try:
        _rename_exchange(from_fd, to_fd, name)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # This file system cannot exchange (NFS): for an instant the name is free, and `roll_forward` knows how to go on.
        aside = f"{name[:200]}.old"
        os.rename(name, aside, src_dir_fd=to_fd, dst_dir_fd=from_fd)
        try:
            os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        except OSError:
            os.rename(aside, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
            raise
        os.rename(aside, name, src_dir_fd=from_fd, dst_dir_fd=from_fd)


def _rename_exchange(from_fd: int, to_fd: int, name: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: both names change what they stand for in one step."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, "renameat2 is not available")
    encoded = os.fsencode(name)
    if renameat2(from_fd, encoded, to_fd, encoded, ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _make_movable(directory: int, name: str) -> int:
    """A directory that its owner may not write to cannot move to another parent: lend it the bits; returns its own mode."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        _set_mode(directory, name, mode | stat.S_IRWXU)
    return mode


def _set_mode(directory: int, name: str, mode: int) -> None:
    """The mode of a directory that may be without any permission; an `O_PATH` descriptor holds it while it changes."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)


def _write_commit(stage_fd: int, replacements: Sequence[Replacement]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(COMMIT + ".new", flags, 0o600, dir_fd=stage_fd)
    try:
        write_all(fd, msgpack.packb([asdict(item) for item in replacements]))
    finally:
        os.close(fd)
    os.rename(COMMIT + ".new", COMMIT, src_dir_fd=stage_fd, dst_dir_fd=stage_fd)


def _read_commit(stage_fd: int) -> list[Replacement]:
    with contextlib.suppress(OSError, ValueError, TypeError, msgpack.UnpackException):
        fd = os.open(COMMIT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage_fd)
        try:
            items: list[dict[str, Any]] = msgpack.unpackb(os.read(fd, _MAX_COMMIT_BYTES))
        finally:
            os.close(fd)
        return [Replacement(**item) for item in items]
    return []
