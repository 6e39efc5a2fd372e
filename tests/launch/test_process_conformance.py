"""The process launcher does what every launcher does."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.launch.conformance import LauncherConformance, Site
from zcell.launch import JobHandle, JobReturnCode
from zcell.launch.process import ProcessLauncher
from zcell.launch.process_handle import ProcessHandle


class ProcessSite(Site):
    """This machine; there is no engine but the kernel."""

    name = "process"
    vanished = JobReturnCode.EXECUTION_ERROR  # its parent sees how the runner ended, so it is not gone without a word

    def settings(self) -> dict[str, Any]:
        return {}

    def make(self) -> ProcessLauncher:
        return ProcessLauncher()

    def vanish(self, handle: JobHandle) -> None:
        assert isinstance(handle, ProcessHandle)
        os.kill(handle.pid, signal.SIGKILL)

    def restart(self) -> None:
        """The kernel stays."""

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def left(self) -> list[str]:
        return [str(path) for path in Path(tempfile.gettempdir()).glob("zcell-job-*")]


class TestProcess(LauncherConformance):
    @pytest.fixture
    def site(self) -> ProcessSite:
        return ProcessSite()
