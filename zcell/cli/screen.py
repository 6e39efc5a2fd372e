"""What a user sees. Invariant: results go to standard output, everything else to standard error; secrets to neither."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from zcell.cli.exits import UNREAD, USAGE
from zcell.cli.outlet import STDERR, STDOUT
from zcell.limits import GIB, KIB, MIB


def size_text(size_bytes: float) -> str:
    """A size for people: ``873 bytes``, ``1.4 MiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes:.0f} bytes"


def files_text(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def seconds_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


class Progress(Protocol):
    """A bar that can be moved."""

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None: ...


class Screen:
    """Where one command writes. Progress is drawn on a terminal only, and never with `json`."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    def result(self, event: str, text: str = "", /, **fields: Any) -> None:
        """One result: `text` for people, ``{"event": event, ...}`` with `json`."""
        if self.json:
            line = json_module.dumps({"event": event} | fields)  # ASCII alone: some readers end lines at U+2028 and others
        elif text:
            line = text
        else:
            return
        STDOUT.write(f"{line}\n".encode("utf-8", "surrogateescape"))  # a file name that is no UTF-8 goes out as it came

    @property
    def lost(self) -> int:
        """0 while all results have arrived; otherwise the exit code of a command that is for nothing then."""
        return UNREAD if STDOUT.unread else USAGE if STDOUT.fault else 0

    def output(self, stream: str, line: bytes) -> None:
        """One line of a job's own output (without `json` any number of them), passed on as it is."""
        if self.json:
            self.result("output", stream=stream, line=line.decode(errors="replace").rstrip("\n"))
            return
        (STDOUT if stream == "stdout" else STDERR).write(line)

    def note(self, text: str) -> None:
        """Something a person may want to know, on standard error."""
        STDERR.write(f"zcell: {text}\n".encode("utf-8", "surrogateescape"))

    def failure(self, error: BaseException, code: int) -> None:
        """Why the command fails."""
        text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        self.note(text)
        if self.json:
            self.result("error", error=text, exit_code=code)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A progress bar on standard error while the block runs; without a terminal, nothing."""
        if self.json or not os.isatty(STDERR.fd):
            yield lambda done_bytes, total_bytes: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done_bytes, total_bytes: bar.update(task, completed=done_bytes, total=total_bytes)
