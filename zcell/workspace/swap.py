"""Puts a finished tree in the place of an old one. Invariant: whenever the process dies, the next start knows how to go on.

`Swap.run` first writes down what it is about to do (`COMMIT`, with the inode of everything new), then exchanges names. When the
process dies in between, `finish_earlier` does the same at the next start: what is new and not yet in place is put there.
Without the note nothing was begun, and nothing is touched.

Normally whole top directories are exchanged: one step, under each name there is the old tree or the new one. A directory that
this process, hence most likely the user's shell, is working in keeps its identity: then what is directly in it is exchanged.
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
from zcell.workspace.directories import OPEN_DIRECTORY, Descent
from zcell.workspace.treewriter import write_all

log = logging.getLogger("zcell.workspace.swap")

COMMIT = "commit"
_RENAME_EXCHANGE = 2
_MAX_COMMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Move:
    """One exchange between the stage and the destination."""

    name: str
    """In the stage: a top directory, or ``TOP/NAME`` for what is directly in one that stays itself."""
    target: str
    """At the destination, of the same form."""
    inode: int
    """What will be at the target; 0: nothing, what is there goes."""
    mode: int = -1
    """Permission bits for a directory once it is in place, with `mtime_ns`: one that may not be written to cannot be moved."""
    mtime_ns: int = 0
    stays: bool = False
    """The directory at the target stays itself and only gets mode and time; comes after what is in it."""


class Swap:
    """Carries out `moves` between two open directories, the tree in the stage and the destination. Close it after use."""

    def __init__(self, parent_fd: int, stage_fd: int, tree_fd: int, moves: Sequence[Move]) -> None:
        self._stage_fd = stage_fd
        self._moves = moves
        tree, parent = Descent(tree_fd), Descent(parent_fd)
        self._tree, self._parent = tree, parent

    def close(self) -> None:
        """Let go of the directories."""
        self._tree.close()
        self._parent.close()

    def run(self) -> None:
        """All, or when a rename fails, none: raises `WorkspaceError`, or `BundleError` when something odd is in the way."""
        before = [(move, self._place(self._parent, move.target)[2]) for move in self._moves]
        for move, there in before:
            if "/" not in move.target:
                _refuse_odd(move.target, there)
        _write_note(self._stage_fd, self._moves)
        try:
            for move in self._moves:
                if move.stays:
                    _make_movable(*self._parent.above(move.target))
            for move in self._moves:
                self._do(move)
        except OSError as error:
            for move in reversed(self._moves):
                self._undo(move)
            for move, there in before:
                if move.stays and there is not None:
                    _settle(*self._parent.above(move.target), stat.S_IMODE(there.st_mode), there.st_mtime_ns)
            os.unlink(COMMIT, dir_fd=self._stage_fd)
            raise WorkspaceError(f"{error.filename or 'a directory'!r} cannot be put in place: {error.strerror}") from error

    def roll_forward(self) -> None:
        """Finish what an earlier process had begun. Raises `OSError`."""
        for move in self._moves:
            try:
                self._do(move)
            except (FileNotFoundError, NotADirectoryError):
                log.warning("%r was to be put in place, but somebody removed it; what is there now stays", move.target)

    def _do(self, move: Move) -> None:
        from_fd, name, here = self._place(self._tree, move.name)
        to_fd, target, there = self._place(self._parent, move.target)
        if not move.inode:
            if there is not None and here is None:
                _move(to_fd, target, from_fd, name)
            return
        if there is None or there.st_ino != move.inode:
            if move.stays or here is None or here.st_ino != move.inode:
                raise FileNotFoundError(errno.ENOENT, "what was ready is gone", move.target)
            if there is None:
                _move(from_fd, name, to_fd, target)
            else:
                _exchange(from_fd, name, to_fd, target)
        if move.mode >= 0:
            _settle(to_fd, target, move.mode, move.mtime_ns)

    def _undo(self, move: Move) -> None:
        from_fd, name, here = self._place(self._tree, move.name)
        to_fd, target, there = self._place(self._parent, move.target)
        if not move.inode:
            if there is None and here is not None:
                _move(from_fd, name, to_fd, target)
        elif (
            not move.stays and there is not None and there.st_ino == move.inode and (here is None or here.st_ino != move.inode)
        ):
            if here is None:
                _move(to_fd, target, from_fd, name)
            else:
                _exchange(to_fd, target, from_fd, name)

    @staticmethod
    def _place(descent: Descent, path: str) -> tuple[int, str, os.stat_result | None]:
        directory, name = descent.above(path)
        return directory, name, _status(directory, name)


def finish_earlier(parent_fd: int, stage_fd: int, tree_fd: int) -> bool:
    """Finish what an earlier process had begun and written down; False when it had not. Raises `OSError`."""
    moves = _read_note(stage_fd)
    if moves is None:
        return False
    swap = Swap(parent_fd, stage_fd, tree_fd, moves)
    try:
        swap.roll_forward()
    finally:
        swap.close()
    return True


def _refuse_odd(target: str, status: os.stat_result | None) -> None:
    if status is not None and not stat.S_ISDIR(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "no directory"
        raise BundleError(f"{target!r} at the destination is {what}; remove it to make room for the directory that arrives")


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _settle(directory: int, name: str, mode: int, mtime_ns: int) -> None:
    fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    try:
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _move(from_fd: int, name: str, to_fd: int, target: str) -> None:
    mode = _make_movable(from_fd, name)
    os.rename(name, target, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    _set_mode(to_fd, target, mode)


def _exchange(from_fd: int, name: str, to_fd: int, target: str) -> None:
    """Exchange what two names stand for."""
    coming, going = _make_movable(from_fd, name), _make_movable(to_fd, target)
    try:
        _exchange_movable(from_fd, name, to_fd, target)
    except OSError:
        _set_mode(from_fd, name, coming)
        _set_mode(to_fd, target, going)
        raise
    _set_mode(to_fd, target, coming)
    _set_mode(from_fd, name, going)


def _exchange_movable(from_fd: int, name: str, to_fd: int, target: str) -> None:
    try:
        _rename_exchange(from_fd, name, to_fd, target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # This file system cannot exchange (NFS): for an instant the name is free, and `roll_forward` knows how to go on.
        aside = f".zcell-old-{os.getpid()}"
        os.rename(target, aside, src_dir_fd=to_fd, dst_dir_fd=from_fd)
        try:
            os.rename(name, target, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        except OSError:
            os.rename(aside, target, src_dir_fd=from_fd, dst_dir_fd=to_fd)
            raise
        os.rename(aside, name, src_dir_fd=from_fd, dst_dir_fd=from_fd)


def _rename_exchange(from_fd: int, name: str, to_fd: int, target: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: both names change what they stand for in one step."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, "renameat2 is not available")
    if renameat2(from_fd, os.fsencode(name), to_fd, os.fsencode(target), ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _make_movable(directory: int, name: str) -> int:
    """A directory that its owner may not write to cannot move to another parent: lend it the bits; returns its own mode.

    -1 for what is no directory.
    """
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        return -1
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        _set_mode(directory, name, mode | stat.S_IRWXU)
    return mode


def _set_mode(directory: int, name: str, mode: int) -> None:
    """The mode of a directory that may be without any permission; an `O_PATH` descriptor holds it while it changes."""
    if mode < 0:
        return
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            Path(f"/proc/self/fd/{fd}").chmod(mode)
    finally:
        os.close(fd)


def _write_note(stage_fd: int, moves: Sequence[Move]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(COMMIT + ".new", flags, 0o600, dir_fd=stage_fd)
    try:
        write_all(fd, msgpack.packb([asdict(move) for move in moves], unicode_errors="surrogateescape"))
    finally:
        os.close(fd)
    os.rename(COMMIT + ".new", COMMIT, src_dir_fd=stage_fd, dst_dir_fd=stage_fd)


def _read_note(stage_fd: int) -> list[Move] | None:
    with contextlib.suppress(OSError, ValueError, TypeError, msgpack.UnpackException):
        fd = os.open(COMMIT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage_fd)
        with os.fdopen(fd, "rb") as file:
            note: list[dict[str, Any]] = msgpack.unpackb(file.read(_MAX_COMMIT_BYTES), unicode_errors="surrogateescape")
        return [Move(**move) for move in note]
    return None
