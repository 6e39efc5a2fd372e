"""Who started a job in an engine. Invariant: only what a process known to be dead has started is called an orphan.

The starter's mark is a label: machine, boot, process-id namespace, process id, its start time, and a number of the launcher's own.
A process id alone would be taken again; with its start time it names one process for as long as the machine is up.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Owner:
    """One launcher in one process."""

    machine: str
    boot: str
    namespace: str
    pid: int
    started: int
    launcher: str

    @classmethod
    def here(cls) -> Owner:
        """A new launcher in this process."""
        started = _start_time(os.getpid())
        assert started is not None
        return cls(_machine(), _boot(), _namespace(), os.getpid(), started, secrets.token_hex(4))

    def __str__(self) -> str:
        return f"{self.machine}:{self.boot}:{self.namespace}:{self.pid}:{self.started}:{self.launcher}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Raises `ValueError` for anything but what ``str`` makes."""
        machine, boot, namespace, pid, started, launcher = text.split(":")
        return cls(machine, boot, namespace, int(pid), int(started), launcher)

    def is_dead(self) -> bool:
        """Whether its process is known to have ended. False for those of other machines and other namespaces."""
        if self.machine != _machine():
            return False
        if self.boot != _boot():
            return True
        if self.namespace != _namespace():
            return False
        return _start_time(self.pid) != self.started


def _machine() -> str:
    try:
        text = Path("/etc/machine-id").read_text().strip()
    except OSError:
        text = ""
    return hashlib.sha256(f"zcell {text or socket.gethostname()}".encode()).hexdigest()[:16]


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def _namespace() -> str:
    return str((_PROC / "self/ns/pid").stat().st_ino)


def _start_time(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; None when there is none (proc(5), field 22 of stat)."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
