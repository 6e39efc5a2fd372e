"""One job that runs as a process. Invariant: its processes are signalled and reaped by the supervisor's thread alone.

While the runner is not reaped its process id, which is also the id of the job's session, cannot be given to anybody else; so
what is found in that session belongs to the job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zcell.launch.ending import how_it_ended
from zcell.launch.family import Family, signal_processes
from zcell.launch.handle import JobHandle
from zcell.launch.lease import Lease, Phase, Report, StopOrder
from zcell.launch.output import JobOutput
from zcell.launch.scratch import Scratch
from zcell.launch.spec import JobReturnCode, JobSpec

if TYPE_CHECKING:
    from zcell.launch.supervisor import Supervisor

log = logging.getLogger("zcell.launch")

END_MARGIN = 5.0
"""Seconds beyond the grace after which a runner that has not reached its upload is killed."""
SILENCE = 10.0
"""Seconds without a sign of life after which a runner that uploads is killed. It gives one every 2 s."""
_READ_BYTES = 256 * 1024


class ProcessHandle(JobHandle):
    """A job's runner and what it started."""

    def __init__(
        self,
        spec: JobSpec,
        process: subprocess.Popen[bytes],
        lease: Lease,
        scratch: Scratch,
        output: JobOutput,
        supervisor: Supervisor,
    ) -> None:
        super().__init__(spec, output)
        self._process = process
        self._lease = lease
        self._scratch = scratch
        self._supervisor = supervisor
        self._family = Family(scratch.credentials, process.pid)
        self._report = Report()
        self._files: dict[str, dict[str, Any] | None] = {}
        self._heard = time.monotonic()
        self._kill_at: float | None = None
        self._ended_by_us = ""
        self._kept: Path | None = None
        self._streams: dict[str, IO[bytes]] = {}
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._streams[name] = stream
        self._running()

    @property
    def pid(self) -> int:
        """Process id of the job's runner, also the id of the job's session."""
        return self._process.pid

    @property
    def lease_fd(self) -> int:
        """The descriptor whose end means that the runner is gone."""
        return self._lease.fileno()

    @property
    def phase(self) -> str:
        """Where the runner is: starting, download, command, upload, ended."""
        return self._report.phase

    @property
    def kept(self) -> Path | None:
        return self._kept

    @property
    def failure(self) -> str:
        return self._report.failure

    def files(self, phase: str) -> dict[str, Any] | None:
        """What travelled, to the job ("command") or back ("ended"): the fields of `Received`; None when nothing did."""
        return self._files.get(phase)

    def terminate(self, grace: float | None = None, *, wait: bool = True) -> JobReturnCode:
        seconds = self.spec.grace if grace is None else grace
        if not seconds >= 0:
            raise ValueError(f"grace must be a number of seconds from 0, got {grace!r}")
        self._supervisor.call(lambda: self._order_stop(seconds))
        return self._outcome_now(wait)

    def kill(self, *, wait: bool = True) -> JobReturnCode:
        self._supervisor.call(self._kill_now)
        return self._outcome_now(wait)

    def _outcome_now(self, wait: bool) -> JobReturnCode:
        # a callback that runs on the supervisor's thread cannot wait for what that thread will do next
        return self.wait() if wait and not self._supervisor.is_current_thread() else self.poll()

    # what follows runs on the supervisor's thread

    def sources(self) -> list[tuple[int, Callable[[], bool]]]:
        """Descriptors to watch, each with what reads it; that answers False once the descriptor has ended."""
        reading: list[tuple[int, Callable[[], bool]]] = [(self._lease.fileno(), self._read_lease)]
        for name, stream in self._streams.items():
            reading.append((stream.fileno(), lambda name=name, stream=stream: self._read_output(name, stream)))  # type: ignore[misc]
        return reading

    @property
    def deadline(self) -> float | None:
        """When `on_deadline` must be called, in `time.monotonic`."""
        return self._kill_at

    def on_deadline(self) -> None:
        """The time for an orderly end is over; an upload that still shows signs of life gets more of it."""
        now = time.monotonic()
        if self._report.phase in (Phase.UPLOAD, Phase.ENDED) and now - self._heard < SILENCE:
            self._kill_at = now + 1.0
        else:
            log.warning("job %s did not end in time and is killed", self.job_id)
            self._kill_now()

    def _order_stop(self, grace: float) -> None:
        if self._process.returncode is not None:
            return
        until = time.monotonic() + grace + END_MARGIN
        if self._kill_at is None or until < self._kill_at:
            self._kill_at = until
            if self._report.exit_code is None:  # a command that has ended by itself keeps its own outcome
                self._ended_by_us = "terminated by its parent"
            self._lease.send(StopOrder(grace))

    def _kill_now(self) -> None:
        if self._process.returncode is not None:
            return
        self._ended_by_us = "killed by its parent"
        self._kill_at = time.monotonic() + 1.0
        signal_processes([*self._family.members(), self.pid], signal.SIGKILL)

    def _read_lease(self) -> bool:
        while (packet := self._lease.receive()) is not None:
            if not packet:
                return False
            self._heard = time.monotonic()
            try:
                self._report = Report.decode(packet)
                self._files[self._report.phase] = self._report.files
            except (ValueError, TypeError):
                log.warning("job %s: its runner sent something that is no report", self.job_id)
        return True

    def _read_output(self, name: str, stream: IO[bytes]) -> bool:
        try:
            data = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return True
        if data:
            self._output.feed(name, data)
        return bool(data)

    def conclude(self) -> None:
        """The runner is gone: end what it left, take what it wrote, remove its directory, say how it ended."""
        os.waitid(
            os.P_PID, self.pid, os.WEXITED | os.WNOWAIT
        )  # it is ending; not reaped yet, so that its session's id stays its own
        if not self._family.end():
            log.error("job %s: some of its processes cannot be ended: %s", self.job_id, self._family.members())
        self._process.wait()
        for name, stream in self._streams.items():
            with contextlib.suppress(BlockingIOError):
                while data := os.read(stream.fileno(), _READ_BYTES):
                    self._output.feed(name, data)
            stream.close()
        self._output.end()
        self._lease.close()
        outcome = self._outcome()
        directory = self._scratch.workspace / self.job_id
        if self._report.failure and self._report.exit_code is not None and directory.is_dir():
            self._kept = directory  # it ran, and what it made is nowhere else
            self._scratch.keep()
        else:
            self._scratch.remove()
        self._finish(*outcome)

    def give_up(self, reason: str) -> None:
        """Whoever waits for the job must not wait for ever."""
        self._finish(JobReturnCode.EXECUTION_ERROR, reason)

    def _outcome(self) -> tuple[JobReturnCode, str, int | None]:
        status = self._process.returncode
        own = self._report.exit_code  # the command's own end counts, whatever became of its runner afterwards
        code = own if own is not None else status if status >= 0 else 128 - status
        if self._ended_by_us:
            return JobReturnCode.ABORTED, self._ended_by_us, code
        if self._report.failure:  # a job whose results are lost has not succeeded
            return JobReturnCode.EXECUTION_ERROR, self._report.error, own
        if status < 0:
            return JobReturnCode.EXECUTION_ERROR, how_it_ended("its runner", 128 - status), code
        if own is None and status:
            why = f"its runner ended with code {status} before the command did; its last words are in logs()"
            return JobReturnCode.EXECUTION_ERROR, why, None
        outcome = JobReturnCode.EXECUTION_ERROR if code > 128 else JobReturnCode.from_exit_code(code)
        return outcome, how_it_ended("the command", code), code
