"""Jobs as processes of this machine. Invariant: a job whose handle is in a terminal state has left no process and no file.

A job starts by exec in a session and a private directory of its own: it shares no file with its parent. One thread looks after
all jobs of a launcher; it lives while there are any.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zcell.errors import LaunchError
from zcell.launch import lease as lease_module
from zcell.launch.credentials import VARIABLE as CREDENTIALS_VARIABLE
from zcell.launch.credentials import write_credentials
from zcell.launch.family import Family
from zcell.launch.launcher import HandOver, Launcher, LifecycleHook
from zcell.launch.lease import Lease
from zcell.launch.output import JobOutput, OutputCallback
from zcell.launch.process_handle import ProcessHandle
from zcell.launch.scratch import CREDENTIALS, Scratch, sweep
from zcell.launch.spec import RESERVED_PREFIX, JobReturnCode, JobSpec
from zcell.launch.supervisor import Supervisor

SETTINGS = {"python": "interpreter that runs the job's side of zcell", "scratch": "directory for the jobs' private directories"}


class ProcessLauncher(Launcher):
    """Settings: ``python`` (default: this interpreter) and ``scratch`` (default: the temporary directory)."""

    name = "process"

    def __init__(self, settings: Mapping[str, Any] | None = None, *, hooks: Iterable[LifecycleHook] = ()) -> None:
        super().__init__(settings, hooks=hooks)
        unknown = sorted(self.settings.keys() - SETTINGS.keys())
        if unknown:
            raise LaunchError(f"the process launcher has no setting {unknown[0]!r}; it has {', '.join(SETTINGS)}")
        self._python = str(self.settings.get("python") or sys.executable)
        scratch = self.settings.get("scratch")
        self._scratch = Path(scratch).absolute() if scratch else None
        self._supervisor = Supervisor()
        self.directory: Path | None = None
        """Where jobs run whose files do not travel. None: each in an empty directory of its own."""

    def check(self, spec: JobSpec) -> None:
        running = (handle for handle in self._supervisor.handles() if handle.poll() is JobReturnCode.UNKNOWN)
        if any(handle.job_id == spec.job_id for handle in running):
            raise LaunchError(f"job {spec.job_id}: a job of that name is still running; give the new one another job_id")
        if shutil.which(self._python) is None:
            raise LaunchError(
                f"job {spec.job_id}: the process launcher's setting python is {self._python!r}, which is no program"
            )
        if self._scratch is not None and not self._scratch.is_dir():
            raise LaunchError(
                f"job {spec.job_id}: the process launcher's setting scratch is {self._scratch}, which is no directory"
            )

    def close(self) -> None:
        """Kill every job that still runs. Idempotent; the launcher can be used again."""
        for handle in self._supervisor.handles():
            handle.kill()

    def _start(self, spec: JobSpec, hand_over: HandOver, on_output: OutputCallback | None) -> ProcessHandle:
        sweep(self._scratch, lambda left: _end_orphans(left))
        output = JobOutput(on_output, spec.log_file)
        scratch = Scratch.create(spec.job_id, self._scratch)
        lease, inherited = Lease.pair()
        try:
            write_credentials(scratch.credentials, hand_over.credentials)
            process = self._spawn(spec, hand_over, scratch, inherited)
        except BaseException:
            lease.close()
            scratch.remove()
            output.end()
            raise
        finally:
            inherited.close()
        handle = ProcessHandle(spec, process, lease, scratch, output, self._supervisor)
        self._supervisor.add(handle)
        return handle

    def _spawn(self, spec: JobSpec, hand_over: HandOver, scratch: Scratch, inherited: socket.socket) -> subprocess.Popen[bytes]:
        # -P: the runner's modules come from where zcell is installed, never from the directory it happens to start in
        argv = [self._python, "-P", "-m", "zcell.launch.job", "--grace", str(spec.grace), "--", *spec.argv(self._python)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(RESERVED_PREFIX)}
        env |= {"TMPDIR": str(scratch.temporary), "PYTHONUNBUFFERED": "1"} | dict(spec.env) | dict(hand_over.env)
        env |= {
            CREDENTIALS_VARIABLE: str(scratch.credentials),
            "ZCELL_SCRATCH": str(scratch.path),
            lease_module.VARIABLE: str(inherited.fileno()),
        }
        if self.directory is None:
            env["ZCELL_WORKSPACE"] = str(scratch.workspace)
        try:
            return subprocess.Popen(
                argv,
                cwd=self.directory or scratch.path,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[inherited.fileno()],
            )
        except OSError as error:
            raise LaunchError(f"job {spec.job_id}: the process launcher cannot start {self._python}: {error}") from error


def _end_orphans(scratch: Path) -> None:
    Family(scratch / CREDENTIALS).end()
