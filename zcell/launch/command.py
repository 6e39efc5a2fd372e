"""The user's command inside a job. Invariant: it is signalled only while it is not reaped, so that its process id is its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from zcell.launch.family import Family

NOT_FOUND = 127
NOT_EXECUTABLE = 126
LEFTOVER_GRACE = 1.0
"""Seconds that processes which the command left behind get between SIGTERM and SIGKILL."""


class Command:
    """One run of a command, in a process group of its own."""

    def __init__(self, argv: Sequence[str], directory: Path, credentials: Path | None) -> None:
        self.argv = list(argv)
        self._directory = directory
        self._family = Family(credentials, os.getpid())
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_first = False

    def run(self, env: Mapping[str, str]) -> int:
        """Run it to its end and return its exit code: 128 + N when signal N ended it, 127 and 126 when it cannot be started."""
        with self._lock:
            if self._stop_first:
                return 128 + signal.SIGTERM
            try:
                self._process = subprocess.Popen(
                    self.argv, cwd=self._directory, env=dict(env), stdin=subprocess.DEVNULL, process_group=0
                )
            except OSError as error:
                return self._cannot_start(error, env)
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            status = self._process.wait()
        return status if status >= 0 else 128 - status

    def _cannot_start(self, error: OSError, env: Mapping[str, str]) -> int:
        program = self.argv[0]
        if "/" not in program and shutil.which(program, path=env.get("PATH")) is None:
            print(f"zcell job: there is no program {program!r} on PATH", file=sys.stderr)  # noqa: T201  the job's own stderr
            return NOT_FOUND
        print(f"zcell job: cannot start {program!r}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE

    def signal(self, number: signal.Signals) -> None:
        """Send `number` to the command's process group; before it has started, keep it from starting."""
        with self._lock:
            if self._process is None:
                self._stop_first = True
            elif self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended, or became another user's
                    os.killpg(self._process.pid, number)

    def kill_all(self) -> None:
        """SIGKILL to the command and everything it started."""
        self.signal(signal.SIGKILL)
        self.end_leftovers(0.0)

    def end_leftovers(self, grace: float = LEFTOVER_GRACE) -> bool:
        """End what the command started and left running. Whether all of it ended."""
        return self._family.end(grace=grace)
