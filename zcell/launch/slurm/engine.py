"""Slurm as an engine. Invariant: the credentials go from this process to the job's node in a file of mode 0600, and only there.

Without a shared directory they go by ``sbcast``, which hands a file to the daemon of a running job's node over Slurm's own
authenticated connection and writes it there as the job's user; the node reads it and removes it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zcell.launch.remote.course import EngineState, EngineView
from zcell.launch.remote.engine import Engine
from zcell.launch.remote.handle import RemoteHandle
from zcell.launch.slurm.commands import Commands, SlurmError
from zcell.launch.slurm.queue import HOPELESS, Queue, Row
from zcell.launch.slurm.script import place_of, shared_place_of
from zcell.launch.slurm.settings import SlurmSettings
from zcell.security.credentials import write_credentials

_TRIES = 8
_PAUSE = 0.1
_LOG_BYTES = 64 * 1024
_SAME_NODE_STILL = ("No such file or directory", "Job/step already completing", "Job is pending execution")


@dataclass
class Submission:
    """What is known of one job beyond its handle."""

    nonce: str
    task: int
    raw: str = ""
    run: int = 0
    hopeless: str = ""


class SlurmEngine(Engine):
    """One cluster."""

    def __init__(self, settings: SlurmSettings, commands: Commands) -> None:
        self.slowest = settings.poll_interval
        self.fastest = min(0.5, settings.poll_interval)
        self._settings = settings
        self._commands = commands
        self._queue = Queue(commands)
        self._lock = threading.Lock()
        self._submissions: dict[RemoteHandle, Submission] = {}
        self._pause = threading.Event()

    def expect(self, handle: RemoteHandle, submission: Submission) -> None:
        """Remember how `handle` was submitted."""
        with self._lock:
            self._submissions[handle] = submission

    def _submission(self, handle: RemoteHandle) -> Submission:
        with self._lock:
            return self._submissions[handle]

    def survey(self, handles: Sequence[RemoteHandle]) -> Mapping[RemoteHandle, EngineView]:
        rows = self._queue.rows(handle.engine_id for handle in handles)
        return {handle: self._view(handle, rows[handle.engine_id]) for handle in handles if handle.engine_id in rows}

    def _view(self, handle: RemoteHandle, row: Row) -> EngineView:
        submission = self._submission(handle)
        view = row.view()
        submission.raw, submission.run = row.raw, row.restarts
        if view.state is EngineState.PENDING and row.reason in HOPELESS and not submission.hopeless:
            submission.hopeless = f"{HOPELESS[row.reason]} ({row.reason})"
            self.cancel(handle)
        if submission.hopeless and view.outcome is not None and view.by_engine:
            return EngineView(EngineState.ENDED, outcome=view.outcome.because(submission.hopeless), by_engine=True)
        return view

    def deliver(self, handle: RemoteHandle) -> bool:
        submission = self._submission(handle)
        if self._settings.credentials == "shared":
            if submission.run:  # those of the first run were there before the job was submitted
                file = Path(shared_place_of(self._settings, submission.nonce), f"credentials-{submission.task}")
                file.unlink(missing_ok=True)
                write_credentials(file, handle.credentials)
            return True
        target = place_of(self._settings, submission.nonce, submission.task, submission.run) + "/credentials"
        with tempfile.TemporaryDirectory(prefix="zcell-slurm-") as directory:
            file = Path(directory, "credentials")
            write_credentials(file, handle.credentials)
            for _ in range(_TRIES):  # the script may need a moment to make its private directory
                try:
                    self._commands.run("sbcast", f"--jobid={submission.raw}", str(file), target)
                except SlurmError as error:
                    if "File exists" in error.text:  # an answer got lost; the file did not
                        return True
                    if not any(text in error.text for text in _SAME_NODE_STILL):
                        raise
                    self._pause.wait(_PAUSE)
                else:
                    return True
        return False

    def cancel(self, handle: RemoteHandle) -> None:
        self._scancel(handle)

    def kill(self, handle: RemoteHandle) -> None:
        # the signal ends the node at once, where a plain cancellation waits for the cluster's KillWait after a SIGTERM
        self._scancel(handle, "--signal=KILL", "--full")
        self._scancel(handle)

    def _scancel(self, handle: RemoteHandle, *options: str) -> None:
        try:
            self._commands.run("scancel", *options, handle.engine_id)
        except SlurmError as error:
            if "Invalid job id" not in error.text and "already completing or completed" not in error.text:
                raise

    def last_output(self, handle: RemoteHandle) -> bytes:
        if not self._settings.shared_directory or self._settings.output:
            return b""
        submission = self._submission(handle)
        path = Path(shared_place_of(self._settings, submission.nonce), f"node-{submission.task}.log")
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            return file.read(_LOG_BYTES)
        return b""

    def keep(self, handle: RemoteHandle, path: str) -> str:
        return f"they are kept on its node {handle.host} in {path}"

    def release(self, handle: RemoteHandle) -> None:
        with self._lock:
            submission = self._submissions.pop(handle, None)
            last = submission is not None and all(s.nonce != submission.nonce for s in self._submissions.values())
        if submission is not None and last and self._settings.shared_directory:
            shutil.rmtree(shared_place_of(self._settings, submission.nonce), ignore_errors=True)
