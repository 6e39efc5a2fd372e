"""The private directory of one launched job. Invariant: a directory whose holders are all dead is removed by the next launcher.

Each holder (the launcher, the job's runner) keeps the directory open with a shared lock, which the kernel drops when the holder
dies in whatever way. Whoever gets the exclusive lock knows that nobody is left.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("zcell.launch")

PREFIX = "zcell-job-"
CREDENTIALS = "credentials"
WORKSPACE = "workspace"
TEMPORARY = "tmp"
_MARK = "held"


class Scratch:
    """One job's private directory (mode 0700): its credentials, its copy of the workspace, its temporary files."""

    def __init__(self, path: Path) -> None:
        """Hold the directory `path`. Raises `FileNotFoundError` when it is gone."""
        self.path = path
        self._fd: int | None = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    @classmethod
    def create(cls, job_id: str, parent: Path | None = None) -> Scratch:
        """A new directory below `parent` (default: the temporary directory)."""
        scratch = cls(Path(tempfile.mkdtemp(prefix=f"{PREFIX}{job_id}-", dir=parent)))
        for name in (WORKSPACE, TEMPORARY):
            (scratch.path / name).mkdir(mode=0o700)
        (scratch.path / _MARK).touch(mode=0o600)  # from here on it is known to be held: see `sweep`
        return scratch

    @property
    def credentials(self) -> Path:
        return self.path / CREDENTIALS

    @property
    def workspace(self) -> Path:
        return self.path / WORKSPACE

    @property
    def temporary(self) -> Path:
        return self.path / TEMPORARY

    def keep(self) -> None:
        """Let the workspace stay, for good: no sweep removes it. Credentials and temporary files go."""
        self.credentials.unlink(missing_ok=True)
        _remove_tree(self.temporary)
        (self.path / _MARK).unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Stop holding the directory; it stays. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Remove the directory with all that is in it. Idempotent; what cannot be removed is logged."""
        _remove_tree(self.path)
        self.release()


def sweep(parent: Path | None = None, before_remove: Callable[[Path], None] | None = None) -> list[Path]:
    """Remove what jobs left whose holders are all dead; the directories removed.

    `before_remove` is called with each of them first, to end processes that still belong to it.
    """
    removed = []
    for path in Path(parent or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, no directory, or somebody else's
            continue
        try:
            status = os.fstat(fd)
            ours = status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & 0o077 == 0
            if not ours or not (path / _MARK).exists():
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if before_remove is not None:
                before_remove(path)
            _remove_tree(path)
            removed.append(path)
        except BlockingIOError:  # held: its job is alive
            continue
        finally:
            os.close(fd)
    if removed:
        log.warning("removed the directories of %d jobs whose parents died: %s", len(removed), ", ".join(map(str, removed)))
    return removed


def _remove_tree(path: Path) -> None:
    """`shutil.rmtree` that also gets through directories which the job made unwritable."""

    def retry(function: Callable[..., object], name: str, error: BaseException) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if not isinstance(error, PermissionError):
            log.warning("cannot remove %s: %s", name, error)
            return
        try:
            Path(name).parent.chmod(0o700)
            if Path(name).is_dir() and not Path(name).is_symlink():
                Path(name).chmod(0o700)
                shutil.rmtree(name)
            else:
                Path(name).unlink()
        except OSError as again:
            log.warning("cannot remove %s: %s", name, again)

    shutil.rmtree(path, onerror=lambda function, name, info: retry(function, name, info[1]))
