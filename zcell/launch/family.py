"""The processes of one job, found again however they were started. Invariant: nothing but this job's processes gets a signal.

A process belongs to the job when it is in the session of the job's runner, or when its environment names the job's credentials
file, whose path is unique: so a daemon that made a session of its own is found too.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from zcell.launch.credentials import VARIABLE

_PROC = Path("/proc")
_PAUSE = 0.01


def job_processes(credentials: Path | None, session: int | None = None) -> list[int]:
    """Process ids that belong to the job, without this process and without those that have ended but are not yet reaped."""
    mark = f"{VARIABLE}={credentials}".encode() if credentials else None
    found = []
    for entry in os.listdir(_PROC):  # noqa: PTH208  plain names are all that is needed, and /proc is large
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            state, its_session = _state_and_session(entry)
            if state in "ZX":
                continue
            if its_session == session or (mark and mark in (_PROC / entry / "environ").read_bytes().split(b"\0")):
                found.append(int(entry))
        except (OSError, ValueError):  # gone meanwhile, or somebody else's
            continue
    return found


def _state_and_session(entry: str) -> tuple[str, int]:
    # pid (comm) state ppid pgrp session ...; comm may hold blanks and parentheses (proc(5))
    fields = (_PROC / entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[3])


def signal_processes(pids: list[int], number: signal.Signals) -> None:
    """Send `number` to each; those that are gone are no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def end_processes(credentials: Path | None, session: int | None = None, *, grace: float = 0.0, limit: float = 5.0) -> bool:
    """End every process of the job: SIGTERM, `grace` seconds, then SIGKILL for at most `limit` seconds. Whether all ended."""
    pause = threading.Event()
    start = time.monotonic()
    if grace > 0:
        signal_processes(job_processes(credentials, session), signal.SIGTERM)
        while time.monotonic() < start + grace:
            if not job_processes(credentials, session):
                return True
            pause.wait(_PAUSE)
    end = time.monotonic() + limit
    while left := job_processes(credentials, session):
        if time.monotonic() >= end:
            return False
        signal_processes(left, signal.SIGKILL)
        pause.wait(_PAUSE)
    return True
