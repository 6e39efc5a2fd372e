"""Which names have to be exchanged to put a tree in place. Invariant: a directory that this process works in keeps its identity."""

from __future__ import annotations

import os
import stat

from zcell.workspace.directories import Descent
from zcell.workspace.swap import Move


def moves_of(tree: Descent, destination: Descent, top: str, directories: dict[str, tuple[int, int]]) -> list[Move]:
    """The moves for one top directory of the finished tree; `directories` has mode and mtime of each by its path."""
    mode, mtime_ns = directories[top]
    staged_fd, _ = tree.above(top)
    there_fd, target = destination.above(top)
    try:
        there = os.stat(target, dir_fd=there_fd, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    if there is None or not stat.S_ISDIR(there.st_mode) or not _is_worked_in(there):
        inode = os.stat(top, dir_fd=staged_fd, follow_symlinks=False).st_ino
        return [Move(top, target, inode, mode, mtime_ns)]
    moves = [_move_inside(entry, top, target, directories) for entry in _entries(tree.at(top))]
    arriving = {move.name for move in moves}
    for entry in _entries(destination.at(top)):
        if f"{top}/{entry.name}" not in arriving:
            moves.append(Move(f"{top}/{entry.name}", f"{target}/{entry.name}", 0))
    return [*moves, Move(top, target, there.st_ino, mode, mtime_ns, stays=True)]


def _move_inside(entry: os.DirEntry[str], top: str, target: str, directories: dict[str, tuple[int, int]]) -> Move:
    path = f"{top}/{entry.name}"
    mode, mtime_ns = directories.get(path, (-1, 0))
    return Move(path, f"{target}/{entry.name}", entry.inode(), mode, mtime_ns)


def _entries(directory: int) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as listing:
        return sorted(listing, key=lambda entry: entry.name)


def _is_worked_in(directory: os.stat_result) -> bool:
    """Whether the working directory of this process is `directory` or below it."""
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it is gone, or may not be read
        return False
    try:
        seen = os.fstat(fd)
        while (seen.st_dev, seen.st_ino) != (directory.st_dev, directory.st_ino):
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = above
            before, seen = seen, os.fstat(fd)
            if (seen.st_dev, seen.st_ino) == (before.st_dev, before.st_ino):
                return False
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
