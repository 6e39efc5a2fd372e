"""Launching jobs in tests, and keeping what they say."""

from __future__ import annotations

import threading
from typing import Any

from zcell import Cell
from zcell.launch import JobSpec
from zcell.launch.remote import RemoteHandle, RemoteLauncher

LIMIT = 60.0
SLEEPER = "echo ready; while :; do sleep 0.05; done"


class Starter:
    """Launches and keeps what was said."""

    def __init__(self, launcher: RemoteLauncher, parent: Cell) -> None:
        self.launcher = launcher
        self.parent = parent
        self.lines: list[tuple[str, bytes]] = []
        self.said = threading.Condition()

    def __call__(self, *command: str, job_id: str = "job-1", **fields: Any) -> RemoteHandle:
        handle = self.launcher.launch(JobSpec(job_id=job_id, command=command, **fields), self.parent, on_output=self._take)
        assert isinstance(handle, RemoteHandle)
        return handle

    def _take(self, stream: str, line: bytes) -> None:
        with self.said:
            self.lines.append((stream, line))
            self.said.notify_all()

    def wait_for(self, line: bytes) -> None:
        with self.said:
            assert self.said.wait_for(lambda: line in [text for _, text in self.lines], LIMIT), self.lines
