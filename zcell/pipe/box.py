"""The files in a pipe's directory. Invariant owned here: what a pipe did not make is never removed, and what is gone is no error."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from zcell.pipe.marker import Marker, incarnation_of

_ATTEMPTS = 100
_log = logging.getLogger("zcell.pipe.file")
_OURS = re.compile(r"\.?(end-[0-9a-f]{16}|\d{12}-[0-9a-f]{16})(\.tmp|\.msg|\.withdrawn|\.taken-[0-9a-f]{16})?\Z")


def won(path: Path, target: Path) -> bool:
    """Rename `path`; False when somebody else was faster. A lost NFS answer to a rename that worked counts as won."""
    try:
        path.rename(target)
    except FileNotFoundError:
        return target.exists()
    return True


def names(directory: Path) -> list[str]:
    """The names of the files in `directory`."""
    return [entry.name for entry in directory.iterdir()]


def names_left(directory: Path) -> list[str]:
    """The same of a directory that the other end may have removed."""
    try:
        return names(directory)
    except FileNotFoundError:
        return []


def make_directories(*directories: Path) -> None:
    """Make them, each in the one before it, for this user alone, unless they are there."""
    for directory in directories:
        directory.mkdir(mode=0o700, exist_ok=True)


def make_again(directories: Sequence[Path], marker: Marker) -> None:
    """Make the removed `directories`, outermost first, and `marker` in them. Raises `OSError`."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            make_directories(*directories)
            marker.put_back()
            return
        except (FileNotFoundError, FileExistsError):  # whoever removes them may be at it
            if attempt == _ATTEMPTS:
                raise


def remove_ours(directory: Path, found: Iterable[str]) -> None:
    """Remove files that a FilePipe made, markers first: an end that misses a message there knows by then that it was removed."""
    for name in sorted(found, key=lambda n: incarnation_of(n) is None):
        if _OURS.match(name):
            (directory / name).unlink(missing_ok=True)


def remove_stale(outbox: Path, inbox: Path, own: str) -> None:
    """Remove what dead runs of the end `own` wrote, unless a reader that may be alive has taken it."""
    readers = [f".taken-{p}" for n in names(inbox) if (p := incarnation_of(n)) is not None]
    remove_ours(outbox, (n for n in names(outbox) if not n.endswith((f"-{own}", *readers))))


def remove_own(outbox: Path, inbox: Path, own: str) -> tuple[list[str], list[str]]:
    """Remove what the end `own` wrote and what it took; the names that were in both."""
    sent = names_left(outbox)
    remove_ours(outbox, (n for n in sent if f"-{own}" in n and ".taken-" not in n))
    left = names_left(inbox)
    remove_ours(inbox, (n for n in left if n.endswith(f".taken-{own}")))
    return sent, left


def remove_all(boxes: Sequence[Path], above: Sequence[Path]) -> None:
    """Remove `boxes` with what pipes made in them, and the directories `above`, innermost first, unless somebody needs them."""
    for box in boxes:
        remove_ours(box, names_left(box))
    for directory in (*boxes, *above):
        _remove_directory(directory)


def _remove_directory(directory: Path) -> None:
    """Unless the other end was faster, or something that is not ours, or another channel, is in it."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return
    except OSError as e:
        _log.debug("left %s in place: %s", directory, e)
