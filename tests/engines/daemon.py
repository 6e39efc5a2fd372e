"""Daemons of the tests' own engines. Invariant: only a process that names our private directory in its command line is signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.eventually import eventually

LIMIT = 60.0
ADMIN_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Daemon:
    """A process that is nobody's child, so that what it starts is not taken for a test's."""

    def __init__(self, command: list[str], log: Path, mark: str, env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._log = log
        self._mark = mark
        self._env = {"PATH": ADMIN_PATH} | dict(env or {})
        self.pid = 0

    def start(self) -> None:
        with self._log.open("ab") as log:
            # the shell ends at once, so that the daemon becomes a child of the machine's first process
            shell = ["setsid", "sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *self._command]
            done = subprocess.run(shell, stdout=subprocess.PIPE, stderr=log, check=True, env=self._env, cwd="/")
        self.pid = int(done.stdout)

    def send(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal and wait until the process is gone; SIGKILL when it takes too long."""
        self.send(number)
        try:
            eventually(lambda: not self.is_alive(), LIMIT)
        except AssertionError:
            self.send(signal.SIGKILL)
            eventually(lambda: not self.is_alive(), LIMIT, f"{self._command[0]} ends after SIGKILL")

    def is_alive(self) -> bool:
        return self.pid != 0 and is_ours(self.pid, self._mark)

    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""


def is_ours(pid: int, mark: str) -> bool:
    """Whether the process lives and names `mark` in its command line."""
    if pid == os.getpid():
        return False
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX":
            return False
        return mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def kill_marked(mark: str) -> None:
    """End whatever names `mark` in its command line: what a run that was killed has left."""

    def killed() -> bool:
        ours = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_ours(int(entry.name), mark)]
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not ours

    eventually(killed, LIMIT, f"the processes of {mark} end")


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
