"""An engine whose nodes are processes of this machine: real nodes over real cells, an engine's lag and lies on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zcell.cell.endpoints import is_local
from zcell.launch.credentials import write_credentials
from zcell.launch.remote import Engine, EngineError, EngineState, EngineView, Outcome, RemoteHandle, RemoteLauncher
from zcell.launch.spec import JobReturnCode


class LocalEngine(Engine):
    """Tests may hide jobs (`hidden`), be unreachable (`down`), or fake a view (`views`)."""

    fastest = 0.05
    slowest = 0.2

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.places: dict[str, Path] = {}
        self.all_places: list[Path] = []
        self.views: dict[str, EngineView] = {}
        self.hidden = False
        self.down = False
        self.withheld = False
        self.asked = 0

    def start(self, handle: RemoteHandle, url: str, python: str) -> None:
        place = Path(tempfile.mkdtemp(prefix="node-"))
        words = ["--parent", url, "--name", handle.node, "--credentials", str(place / "c"), "--directory", str(place)]
        words += ["--wait", "10", "--consume", *([] if is_local(url) else ["--insecure"])]
        self.places[handle.job_id] = place
        self.all_places.append(place)
        self.processes[handle.job_id] = subprocess.Popen(
            [python, "-P", "-u", "-m", "zcell.launch.remote.node", *words], start_new_session=True, stdin=subprocess.DEVNULL
        )
        handle.engine_id = str(self.processes[handle.job_id].pid)

    def survey(self, handles: Sequence[RemoteHandle]) -> Mapping[RemoteHandle, EngineView]:
        self.asked += 1
        if self.down:
            raise EngineError("the engine is down")
        return {} if self.hidden else {handle: self._view(handle) for handle in handles}

    def _view(self, handle: RemoteHandle) -> EngineView:
        if handle.job_id in self.views:
            return self.views[handle.job_id]
        status = self.processes[handle.job_id].poll()
        if status is None:
            return EngineView(EngineState.RUNNING)
        code = status if status >= 0 else 128 - status
        return EngineView(EngineState.ENDED, outcome=Outcome(JobReturnCode.from_exit_code(code), f"exit {code}", code))

    def deliver(self, handle: RemoteHandle) -> bool:
        if self.withheld:
            return False
        write_credentials(self.places[handle.job_id] / "c", handle.credentials)
        return True

    def cancel(self, handle: RemoteHandle) -> None:
        self._signal(handle, signal.SIGTERM)

    def kill(self, handle: RemoteHandle) -> None:
        self._signal(handle, signal.SIGKILL)

    def _signal(self, handle: RemoteHandle, number: signal.Signals) -> None:
        if self.processes[handle.job_id].poll() is None:
            os.kill(self.processes[handle.job_id].pid, number)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


class LocalLauncher(RemoteLauncher):
    """Its jobs' nodes are processes of this machine."""

    name = "local"

    def _engine(self) -> LocalEngine:
        self.engine = LocalEngine()
        return self.engine

    def _submit(self, handle: RemoteHandle, url: str) -> None:
        self.engine.start(handle, url, str(self.settings.get("python") or sys.executable))

    def close(self) -> None:
        super().close()
        self.engine.close()


def make_launcher(**settings: Any) -> LocalLauncher:
    return LocalLauncher({"lease": 3.0, "absence_deadline": 0.5, "start_limit": 30.0} | settings)
