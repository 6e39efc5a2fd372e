"""The processes of one job, found again however they were started. Invariant: nothing but this job's processes gets a signal.

A process belongs to the job when it descends from the job's runner, is in the session that the runner leads, or names the job's
credentials file, whose path is unique, in its environment. The runner adopts what its descendants abandon (`adopt_orphans`), so
while it lives the first rule finds everything; the others find what is left when it was killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from zcell.launch.credentials import VARIABLE

_PROC = Path("/proc")
_PAUSE = 0.01
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent ends, instead of the machine's first process. Whether that worked."""
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


@dataclass(frozen=True)
class Family:
    """How to recognise a job's processes."""

    credentials: Path | None = None
    """Its credentials file."""
    runner: int | None = None
    """Process id of its runner. Must not be reaped yet, so that no other process can have it."""

    def members(self) -> list[int]:
        """The processes now, without the runner, this process, and those that have ended but are not reaped."""
        mark = f"{VARIABLE}={self.credentials}".encode() if self.credentials else None
        parents: dict[int, int] = {}
        found = set()
        for entry in os.listdir(_PROC):  # noqa: PTH208  plain names are all that is needed, and /proc is large
            if not entry.isdigit():
                continue
            try:
                state, parent, session = _state_parent_session(entry)
                if state in "ZX":
                    continue
                parents[int(entry)] = parent
                in_session = self.runner is not None and session == self.runner
                if in_session or (mark and mark in (_PROC / entry / "environ").read_bytes().split(b"\0")):
                    found.add(int(entry))
            except (OSError, ValueError):  # gone meanwhile, or somebody else's
                continue
        found |= {pid for pid in parents if self._descends(pid, parents)}
        return sorted(found - {os.getpid(), self.runner})

    def _descends(self, pid: int, parents: dict[int, int]) -> bool:
        seen = set()
        while pid in parents and pid not in seen:
            seen.add(pid)
            pid = parents[pid]
            if pid == self.runner:
                return True
        return False

    def end(self, *, grace: float = 0.0, limit: float = 5.0) -> bool:
        """End all of them: SIGTERM, `grace` seconds, then SIGKILL for at most `limit` seconds. Whether all ended."""
        pause = threading.Event()
        start = time.monotonic()
        if grace > 0:
            signal_processes(self.members(), signal.SIGTERM)
            while time.monotonic() < start + grace:
                if not self.members():
                    return True
                pause.wait(_PAUSE)
        end = time.monotonic() + limit
        while left := self.members():
            if time.monotonic() >= end:
                return False
            signal_processes(left, signal.SIGKILL)
            pause.wait(_PAUSE)
        return True


def _state_parent_session(entry: str) -> tuple[str, int, int]:
    # pid (comm) state ppid pgrp session ...; comm may hold blanks and parentheses (proc(5))
    fields = (_PROC / entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[3])


def signal_processes(pids: list[int], number: signal.Signals) -> None:
    """Send `number` to each; those that are gone are no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
