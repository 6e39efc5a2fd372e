"""One incarnation of a FilePipe's end, as a small file. Invariant owned here: only a living peer can be taken for the peer.

An end puts its marker, named by a random id, where the other end reads. A marker lists the incarnations its owner has seen, so
one that lists mine was written after I opened: what a dead run left behind can never do that. Its number is the heartbeat.
``ID/N`` in the list says that its owner has taken ID for dead N times: what was on its way then was dropped.
It is rewritten in place within one block, so a full disk does not silence it.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "end-"
_NAME = re.compile(r"end-([0-9a-f]{16})\Z")
_BYTES = 128
_MAX_SEEN = 4
_MAX_COUNT = 999  # four ids, each with its count, and a heartbeat fit into the block


@dataclass(frozen=True, slots=True)
class Sign:
    """What a marker says: the number of the last heartbeat, and which incarnations of the other end its owner has seen.

    With each: how often its owner has given it up.
    """

    beat: int
    seen: dict[str, int]


def incarnation_of(file_name: str) -> str | None:
    """The id in a marker's name; None for another file."""
    found = _NAME.match(file_name)
    return found.group(1) if found else None


def read_sign(directory: Path, incarnation: str) -> Sign | None:
    """What the marker of `incarnation` says; None when it is gone or no marker."""
    try:
        fd = os.open(directory / (_PREFIX + incarnation), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        words = os.pread(fd, _BYTES, 0).decode("ascii", "replace").split()
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(words) < 1 or not words[0].isdecimal():
        return None
    seen = {}
    for word in words[1 : 1 + _MAX_SEEN]:
        incarnation, _, count = word.partition("/")
        seen[incarnation] = int(count) if count.isdecimal() else 0
    return Sign(int(words[0]), seen)


class Marker:
    """The marker of this end. Raises `OSError` when it cannot be written."""

    def __init__(self, directory: Path, incarnation: str) -> None:
        self.path = directory / (_PREFIX + incarnation)
        self._lock = threading.Lock()
        self._beat = 0
        self._seen: dict[str, int] = {}
        self._fd = self._create()

    def _create(self) -> int:
        hidden = self.path.parent / f".{self.path.name}.tmp"
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._write(fd)
            hidden.rename(self.path)
        except OSError:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            raise
        return fd

    def put_back(self) -> None:
        """It was removed: make it again. Raises `OSError`."""
        with self._lock:
            fd = self._create()
            os.close(self._fd)
            self._fd = fd

    def _write(self, fd: int) -> None:
        text = " ".join([str(self._beat), *(f"{i}/{count}" if count else i for i, count in self._seen.items())])
        os.pwrite(fd, text.ljust(_BYTES).encode(), 0)
        os.fdatasync(fd)  # or the other hosts of an NFS directory would not see it

    def beat(self, number: int) -> None:
        """Give a sign of life."""
        with self._lock:
            self._beat = number
            self._write(self._fd)

    def greet(self, incarnation: str) -> None:
        """Tell `incarnation` that it was seen."""
        with self._lock:
            if incarnation not in self._seen:
                self._see(incarnation, 0)

    def give_up(self, incarnation: str) -> None:
        """Tell `incarnation` that it was taken for dead, should it be alive."""
        with self._lock:
            self._see(incarnation, min(self._seen.get(incarnation, 0) + 1, _MAX_COUNT))

    def _see(self, incarnation: str, count: int) -> None:
        seen = {incarnation: count, **{i: n for i, n in self._seen.items() if i != incarnation}}
        self._seen = dict(list(seen.items())[:_MAX_SEEN])
        self._write(self._fd)

    def close(self) -> None:
        os.close(self._fd)
        self.path.unlink(missing_ok=True)
