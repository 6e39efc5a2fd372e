"""The `zcell` command in processes of its own. Invariant: each ends within its time, or is killed and shown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

LIMIT = 60.0
COMMAND = [sys.executable, "-P", "-m", "zcell.cli"]


def zcell(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run `zcell ARGUMENTS` to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (env or {}),
        input=stdin,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )


def json_lines(data: bytes) -> list[dict[str, Any]]:
    """Standard output of a command with ``--json``: every line must be an object with an event."""
    assert data.isascii()  # so that every reader finds the same lines
    lines = [json.loads(line) for line in data.decode().splitlines()]
    assert all(isinstance(line, dict) and line["event"] for line in lines)
    return lines


def events(data: bytes, name: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [line for line in json_lines(data) if line["event"] == name]


class Running:
    """A `zcell` command that runs. Its standard output can be read line by line while it does."""

    def __init__(self, *arguments: object, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._errors: list[bytes] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        stream = self.process.stderr
        assert stream is not None
        self._errors.extend(stream)

    @property
    def errors(self) -> str:
        return b"".join(self._errors).decode()

    def line(self) -> str:
        """The next line of its standard output."""
        with self._killed_in_time():
            text = self._stdout.readline()
        if not text.endswith(b"\n"):
            self.process.wait(LIMIT)
            raise AssertionError(f"zcell ended with {self.process.returncode} without that line\n{self.errors}")
        return text.decode().rstrip("\n")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self) -> tuple[int, bytes]:
        """Wait for its end: the exit code and the rest of its standard output."""
        with self._killed_in_time():
            rest = self._stdout.read()
            code = self.process.wait()
        self._reader.join(LIMIT)
        return code, rest

    @property
    def _stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @contextlib.contextmanager
    def _killed_in_time(self) -> Iterator[None]:
        timer = threading.Timer(LIMIT, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextlib.contextmanager
def running(*arguments: object, cwd: Path | None = None) -> Iterator[Running]:
    """A command for the length of the block; killed when it still runs at its end."""
    command = Running(*arguments, cwd=cwd)
    try:
        yield command
    finally:
        command.close()
