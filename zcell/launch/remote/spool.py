"""A job's output on its way to the parent. Invariant: what waits is on disk, so a parent that is slow or away costs no memory.

A record is the stream (one byte), the length (4 bytes, little endian) and the line. One thread appends, another takes.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from pathlib import Path

_HEADER = struct.Struct("<BI")
_STREAMS = ("stdout", "stderr")


class OutputSpool:
    """Lines in the order they were written."""

    def __init__(self, directory: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, prefix="zcell-output-")  # noqa: SIM115  closed by `close`
        self._changed = threading.Condition()
        self._written = 0
        self._taken = 0
        self._ended = False

    def append(self, stream: str, line: bytes) -> None:
        """Keep one line. After `end` it is dropped."""
        record = _HEADER.pack(_STREAMS.index(stream), len(line)) + line
        with self._changed:
            if self._ended:
                return
            os.pwrite(self._file.fileno(), record, self._written)
            self._written += len(record)
            self._changed.notify_all()

    def end(self) -> None:
        """No more lines will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def next_batch(self, max_bytes: int, max_lines: int) -> list[tuple[str, bytes]] | None:
        """Wait for lines and return some, None after the last; they stay until `confirm`."""
        with self._changed:
            self._changed.wait_for(lambda: self._written > self._taken or self._ended)
            data = os.pread(self._file.fileno(), min(max_bytes, self._written - self._taken), self._taken)
        lines: list[tuple[str, bytes]] = []
        at = 0
        while len(lines) < max_lines and at + _HEADER.size <= len(data):
            stream, length = _HEADER.unpack_from(data, at)
            if at + _HEADER.size + length > len(data):
                break
            lines.append((_STREAMS[stream], data[at + _HEADER.size : at + _HEADER.size + length]))
            at += _HEADER.size + length
        self._pending = at
        return lines or None

    def confirm(self) -> None:
        """The last batch has arrived; give its room back once nothing waits."""
        with self._changed:
            self._taken += self._pending
            if self._taken == self._written:
                os.ftruncate(self._file.fileno(), 0)
                self._written = self._taken = 0

    @property
    def waiting_bytes(self) -> int:
        """What has not arrived yet."""
        with self._changed:
            return self._written - self._taken

    def close(self) -> None:
        self._file.close()
