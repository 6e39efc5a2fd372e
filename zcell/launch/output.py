"""A job's standard output and error. Invariant: whatever a job writes, what is held of it in memory is bounded.

Bytes become lines: a line longer than `LINE_BYTES` is cut into pieces, the last one may lack its newline.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from zcell.limits import KIB, MIB

log = logging.getLogger("zcell.launch")

LINE_BYTES = 64 * KIB
KEPT_BYTES = 4 * MIB
"""What `text` can show: the end of the output."""

OutputCallback = Callable[[str, bytes], None]
"""Called with the stream's name ("stdout" or "stderr") and one line as it was written, newline included. One with an attribute
`takes_blocks` that is true gets all lines of a moment at once instead: many short ones are passed on much faster so."""


class LineSplitter:
    """Cuts one stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now."""
        *lines, rest = (self._rest + data).split(b"\n")
        found = [piece for line in lines for piece in _pieces(line + b"\n")]
        while len(rest) > LINE_BYTES:
            found.append(rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        self._rest = rest
        return found

    def feed_block(self, data: bytes) -> list[bytes]:
        """The same lines in one piece, or none."""
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        if len(data) - end > LINE_BYTES:
            end = len(data)
        self._rest = data[end:]
        return [data[:end]] if end else []

    def end(self) -> list[bytes]:
        """What is left when the stream has ended."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + LINE_BYTES] for at in range(0, len(line), LINE_BYTES)]


class JobOutput:
    """Collects the lines of both streams in their order of arrival; hands each to a callback and to a file if there are any."""

    def __init__(self, callback: OutputCallback | None = None, file: Path | None = None) -> None:
        self._callback = callback
        self._by_line = callback is not None and not getattr(callback, "takes_blocks", False)
        self._file: BinaryIO | None = file.open("ab") if file is not None else None
        self._lock = threading.Lock()
        self._blocks: deque[bytes] = deque()
        self._held_bytes = 0
        self._dropped_bytes = 0
        self._splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}

    def feed(self, stream: str, data: bytes) -> None:
        """Bytes that arrived on `stream`."""
        splitter = self._splitters[stream]
        self._take(stream, splitter.feed(data) if self._by_line else splitter.feed_block(data))

    def end(self) -> None:
        """Both streams have ended. Idempotent."""
        for stream, splitter in self._splitters.items():
            self._take(stream, splitter.end())
        self._close_file()

    def text(self) -> str:
        """The kept lines as text; bytes that are no UTF-8 are replaced, and a first line says how much is missing."""
        with self._lock:
            whole, dropped = b"".join(self._blocks), self._dropped_bytes
        notice = f"[{dropped} earlier bytes are not kept]\n" if dropped else ""
        return notice + whole.decode(errors="replace")

    def _take(self, stream: str, parts: list[bytes]) -> None:
        if not parts:
            return
        block = b"".join(parts)
        self._keep(block)
        self._write(block)
        try:
            for part in parts:
                if self._callback is not None:
                    self._callback(stream, part)
        except Exception:
            log.exception("the callback for a job's output raised; it is not called again")
            self._callback = None

    def _write(self, block: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(block)
            self._file.flush()
        except OSError as error:  # a full disk must not take the job along
            log.warning("the job's log file cannot be written any more: %s", error)
            self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _keep(self, block: bytes) -> None:
        end = block[-KEPT_BYTES:]
        with self._lock:
            self._blocks.append(end)
            self._held_bytes += len(end)
            self._dropped_bytes += len(block) - len(end)
            while self._held_bytes > KEPT_BYTES:
                gone = len(self._blocks.popleft())
                self._held_bytes -= gone
                self._dropped_bytes += gone
