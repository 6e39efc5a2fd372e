"""Programs that tests run as processes of their own. Invariant: each ends within its time, or is killed and shown."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent


class Program:
    """A running python program: `line()` reads what it prints, `tell()` writes to it, `finish()` waits for its end."""

    def __init__(self, source: str, *arguments: object) -> None:
        command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._errors: list[str] = []
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read_errors, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def _read_errors(self, stream: IO[str]) -> None:
        self._errors.extend(stream)

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def line(self, timeout: float = 30.0) -> str:
        """The next line it prints; fails with what it wrote to standard error when it ends or says nothing in time."""
        assert self.process.stdout is not None
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        try:
            text = self.process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()
        if not text.endswith("\n"):
            self.process.wait(5)
            self._reader.join(5)
            raise AssertionError(
                f"the program ended with {self.process.returncode} or said nothing in {timeout} s\n{self.errors}"
            )
        return text.rstrip("\n")

    def tell(self, text: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def finish(self, timeout: float = 30.0, code: int | None = 0) -> str:
        """Wait for the end and return the rest of its output; fail unless it exits with `code` (None: any)."""
        try:
            out, _ = self._end(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self._reader.join(5)
            raise AssertionError(f"the program did not end within {timeout} s\n{self.errors}") from None
        self._reader.join(5)
        assert code is None or self.process.returncode == code, f"exit code {self.process.returncode}\n{self.errors}"
        return out

    def _end(self, timeout: float) -> tuple[str, str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        try:
            out = self.process.stdout.read()
            self.process.wait(timeout)
        finally:
            killed = not timer.is_alive()
            timer.cancel()
            timer.join()
        if killed:
            raise subprocess.TimeoutExpired(self.process.args, timeout)
        return out, self.errors

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def running(source: str, *arguments: object) -> Iterator[Program]:
    """A program for the length of the block; killed when it still runs at its end."""
    program = Program(source, *arguments)
    try:
        yield program
    finally:
        program.close()
