"""A program under measurement, in a process of its own. Invariant: it ends with the block that started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


class Child:
    """A module below `bench` that answers one line of JSON for a line of JSON (see `bench.answering`)."""

    def __init__(self, module: str, *arguments: object, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
        self._module = module
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | (env or {})
        )
        self.hello = self.answer()
        """What it said when it was ready."""
        self._idle_bytes = self._status("VmRSS")

    # --- talking -----------------------------------------------------------------------------------------------------------

    def tell(self, command: str, **arguments: Any) -> None:
        """Give it something to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What came of it. Raises `RuntimeError` when the program died of it; it has printed why."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"bench.{self._module} ended with code {self._process.wait(10)}")
        return json.loads(line)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Both."""
        self.tell(command, **arguments)
        return self.answer()

    # --- looking at it -----------------------------------------------------------------------------------------------------

    def _status(self, field: str) -> int:
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(text.split(f"{field}:")[1].split()[0]) * 1024

    def reset_peak(self) -> None:
        """Forget how much memory it once had."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def grown_bytes(self) -> int:
        """Its peak resident memory since `reset_peak`, above what it had when it said hello."""
        return max(0, self._status("VmHWM") - self._idle_bytes)

    def threads(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self._process.pid}/task").iterdir())

    def cpu_seconds(self) -> float:
        """Of all its threads, user and system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    # --- its end -----------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        """Ask it to end, then make it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if not stream.closed:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        self.close()


class ThreadWatch:
    """The most threads that each of some children had during the block."""

    def __init__(self, *children: Child) -> None:
        self._children = children
        self.peaks = [0] * len(children)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.wait(0.05):
            self.peaks = [max(peak, child.threads()) for peak, child in zip(self.peaks, self._children, strict=True)]

    def __enter__(self) -> Self:
        self.peaks = [child.threads() for child in self._children]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
