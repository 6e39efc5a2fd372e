"""Where a tree is put together. Invariant: nothing is visible under its final name before all of it is there and verified.

A stage is a directory ``.zcell-LABEL`` (0700) beside the destination, on the same file system: ``tree`` is what is to be put in
place, ``parts`` holds large files on their way with their journals. One process at a time holds it (flock); when that dies, the
next one continues with what is there, or finishes the swap that was begun (see `swap`).
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from zcell.errors import WorkspaceError
from zcell.workspace.directories import OPEN_DIRECTORY, open_root
from zcell.workspace.swap import COMMIT, Move, Swap, finish_earlier
from zcell.workspace.treewriter import empty_directory

log = logging.getLogger("zcell.workspace.stage")

PREFIX = ".zcell-"
_PLACES = ("tree", "parts")
_READABLE_LABEL = 100


class Stage:
    """The stage for `label` below the directory `parent`, created or continued. A context manager: leaving it lets go of it.

    Raises `WorkspaceError` when another transfer holds it, or when something else has its name.
    """

    def __init__(self, parent: Path, label: str) -> None:
        self.path = parent / stage_name(label)
        self._closed = False
        self.continued = os.path.lexists(self.path)
        """Whether an earlier transfer may have left something in it."""
        self.parent_fd = open_root(parent)
        try:
            self.fd = _open_locked(self.parent_fd, self.path)
        except BaseException:
            os.close(self.parent_fd)
            raise
        self.tree_fd = -1
        try:
            self.tree_fd = self._place("tree")
            if finish_earlier(self.parent_fd, self.fd, self.tree_fd):
                log.info("%s: finished what an earlier process had begun to put in place", self.path)
                self._forget_old()
            for place in _PLACES:
                os.close(self._place(place))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def part_path(self, path: str) -> Path:
        """Where the large file `path` of the manifest is received; the same for every run, so that it can be continued."""
        return self.path / "parts" / hashlib.sha256(path.encode()).hexdigest()[:40]

    @property
    def holds_work(self) -> bool:
        """Whether anything is in it that a next try could use."""
        return _holds_file(self.fd)

    def install(self, moves: Sequence[Move]) -> None:
        """Put what is ready in place of what is there, and remove that and the stage. See `swap.Swap`."""
        swap = Swap(self.parent_fd, self.fd, self.tree_fd, moves)
        try:
            swap.run()
        finally:
            swap.close()
        self._forget_old()
        self.discard()

    def discard(self) -> None:
        """Remove the stage and everything in it, and let go of it."""
        if self._closed:
            return
        try:
            empty_directory(self.fd)
            os.rmdir(self.path.name, dir_fd=self.parent_fd)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the stage; what is in it stays for the next try. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for fd in (self.tree_fd, self.fd, self.parent_fd):
            if fd >= 0:
                os.close(fd)

    def _place(self, name: str) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self.fd)
        return os.open(name, OPEN_DIRECTORY, dir_fd=self.fd)

    def _forget_old(self) -> None:
        """Once the new directories are in place, the note about them and the old ones are of no use."""
        os.unlink(COMMIT, dir_fd=self.fd)
        empty_directory(self.tree_fd)


def _holds_file(directory: int) -> bool:
    """Whether there is content below an open directory that is nowhere else."""
    with os.scandir(directory) as listing:
        entries = list(listing)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if status.st_nlink == 1 and status.st_size:
                return True
            continue
        below = os.open(entry.name, OPEN_DIRECTORY, dir_fd=directory)
        try:
            if _holds_file(below):
                return True
        finally:
            os.close(below)
    return False


def stage_name(label: str) -> str:
    """Name of the stage's directory; a label that is too long, or no plain word, is replaced by its hash."""
    plain = label.replace("-", "").replace("_", "").isalnum() and label.isascii() and len(label) <= _READABLE_LABEL
    return PREFIX + (label if plain else hashlib.sha256(label.encode()).hexdigest()[:32])


def _open_locked(parent_fd: int, path: Path) -> int:
    """The stage's directory, made when missing, locked, and still under its name."""
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=parent_fd)
        try:
            fd = os.open(path.name, OPEN_DIRECTORY, dir_fd=parent_fd)
        except FileNotFoundError:
            continue
        except OSError:
            raise WorkspaceError(f"{path} is in the way: it should be a directory of zcell; remove it") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise WorkspaceError(f"{path} is in the way: it should be private to this user; remove it")
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path.name, dir_fd=parent_fd, follow_symlinks=False).st_ino == status.st_ino:
                    return fd
        except BlockingIOError:
            os.close(fd)
            raise WorkspaceError(f"another transfer into {path.parent} is running; {path.name} is locked") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def recover(parent: Path) -> None:
    """Finish every swap below `parent` that a process which is no more had begun; other stages stay as they are."""
    with os.scandir(parent) as listing:
        names = [entry.name for entry in listing if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)]
    for name in names:
        if os.path.lexists(parent / name / COMMIT):
            with contextlib.suppress(WorkspaceError), Stage(parent, name.removeprefix(PREFIX)) as stage:
                stage.discard()


def discard_stage(parent: Path, label: str) -> None:
    """Remove the stage of `label`, if there is one and nobody holds it."""
    if os.path.lexists(parent / stage_name(label)):
        with contextlib.suppress(WorkspaceError), Stage(parent, label) as stage:
            stage.discard()


def discard_stages(parent: Path, pattern: str) -> None:
    """Remove the stages whose labels match `pattern` (as in `fnmatch`), except those that somebody holds or had begun to install."""
    if not parent.is_dir():
        return
    with os.scandir(parent) as listing:
        labels = [entry.name.removeprefix(PREFIX) for entry in listing if entry.name.startswith(PREFIX)]
    for label in labels:
        if fnmatch.fnmatchcase(label, pattern) and not os.path.lexists(parent / stage_name(label) / COMMIT):
            discard_stage(parent, label)
