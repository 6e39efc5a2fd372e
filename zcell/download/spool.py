"""Offering a stream of unknown length. Invariant: the stream is read once, and disk and memory stay bounded.

What the stream gives is cut into chunks, hashed, and kept in an unlinked temporary file used as a ring of `spool_bytes`. A chunk
is overwritten only when every receiver that is downloading, and every receiver that the transaction still expects, has stored
it; until then the stream is not read further. So receivers may differ by `spool_bytes`; beyond that the fastest waits. A receiver
that comes too late for what is no longer spooled fails with source_failed.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from zcell._native import chunk as frames
from zcell._native.sha256 import chunk_root
from zcell.download.sealing import Frame
from zcell.download.sources import SourceError
from zcell.protocol.transfer.chunks import ChunkTable

Piece = bytes | bytearray | memoryview
Stream = Iterable[Piece] | BinaryIO


class StreamSource:
    """`stream`: an iterable of bytes-like pieces of any size, or a file object with `read`. `run` starts a task on a pool.

    `absent()`: how many receivers are expected that have not come yet. Reading blocks a handler thread, never a transfer thread.
    """

    def __init__(
        self,
        stream: Stream,
        chunk_bytes: int,
        spool_bytes: int,
        run: Callable[[Callable[[], None]], object],
        absent: Callable[[], int],
        name: str = "",
    ) -> None:
        if spool_bytes < 2 * chunk_bytes:
            raise ValueError(f"spool_bytes must be at least two chunks of {chunk_bytes} bytes, got {spool_bytes}")
        self.name = name or getattr(stream, "name", "") or "stream"
        if not isinstance(self.name, str):
            self.name = "stream"
        self.name = os.path.basename(self.name)  # noqa: PTH119  any str, also one that is no path
        self.chunk_bytes = chunk_bytes
        self.digests = ChunkTable()
        self._pieces = _pieces(stream, chunk_bytes)
        self._rest = bytearray()
        self._slots = spool_bytes // chunk_bytes
        self._run = run
        self._absent = absent
        self._lock = threading.Lock()
        self._floors: dict[str, int] = {}
        self._wakes: list[Callable[[], None]] = []
        self._wanted = -1
        self._produced = 0
        self._producing = False
        self._size: int | None = None
        self._failure: str | None = None
        self._released = False
        self._spool = tempfile.TemporaryFile(prefix="zcell-spool-")  # noqa: SIM115  closed by release

    @property
    def size(self) -> int | None:
        return self._size

    # --- reading what is there ---------------------------------------------------------------------------------------------

    def load(self, index: int, *, tree: bool) -> Frame | None:
        with self._lock:
            self._must_be_sound()
            if index >= self._produced:
                return None
            if index < self._produced - self._slots:
                raise SourceError(f"{self.name}: chunk {index} is no longer spooled; offer the stream with more spool_bytes")
            digest = self.digests.digest(index)
            assert digest is not None
            length = self._length(index)
            payload = os.pread(self._spool.fileno(), length, index % self._slots * self.chunk_bytes)
        return frames.encode(index, index * self.chunk_bytes, payload, digest=digest if tree else None, checksum=not tree)

    def _length(self, index: int) -> int:
        return self.chunk_bytes if self._size is None else min(self.chunk_bytes, self._size - index * self.chunk_bytes)

    def hash_next(self) -> bool | None:
        with self._lock:
            self._must_be_sound()
            return None if self._size is None else False

    def check(self) -> None:
        with self._lock:
            self._must_be_sound()

    def _must_be_sound(self) -> None:
        if self._failure is not None:
            raise SourceError(f"{self.name}: {self._failure}")
        if self._released:
            raise SourceError(f"{self.name}: the transaction has ended")

    # --- making more -------------------------------------------------------------------------------------------------------

    def want(self, index: int, wake: Callable[[], None], *, ahead: int = -1) -> None:
        with self._lock:
            ready = index < self._produced or self._size is not None or self._failure is not None or self._released
            if not ready:
                self._wakes.append(wake)
            self._wanted = max(self._wanted, index, ahead)
        if ready:
            wake()
        self._go_on()

    def set_floor(self, receiver: str, floor: int | None) -> None:
        with self._lock:
            if floor is None:
                self._floors.pop(receiver, None)
            else:
                self._floors[receiver] = max(floor, self._floors.get(receiver, 0))
        self._go_on()

    def _go_on(self) -> None:
        with self._lock:
            if self._producing or not self._may_produce():
                return
            self._producing = True
        self._run(self._produce)

    def _may_produce(self) -> bool:
        if self._size is not None or self._failure is not None or self._released or self._produced > self._wanted:
            return False
        overwritten = self._produced - self._slots
        if overwritten < 0:
            return True
        return self._absent() == 0 and all(floor > overwritten for floor in self._floors.values())

    def _produce(self) -> None:
        while True:
            failure = None
            chunk = b""
            try:
                chunk = self._next_chunk()
            except Exception as error:  # noqa: BLE001  the stream is the user's: whatever it raises ends it
                failure = f"reading the stream failed: {type(error).__name__}: {error}"
            with self._lock:
                try:
                    self._take(chunk, failure)
                except OSError as error:
                    self._failure = f"the spool cannot be written: {error.strerror}"
                self._producing = go_on = self._may_produce()
                wakes, self._wakes = self._wakes, []
            for wake in wakes:
                wake()
            if not go_on:
                return

    def _take(self, chunk: bytes, failure: str | None) -> None:
        if self._released:
            return
        if failure is not None:
            self._failure = failure
            return
        if chunk:
            os.pwrite(self._spool.fileno(), chunk, self._produced % self._slots * self.chunk_bytes)
            self.digests.add(self._produced, chunk_root(chunk))
            self._produced += 1
        if len(chunk) < self.chunk_bytes:
            whole = self._produced - 1 if chunk else self._produced
            self._size = whole * self.chunk_bytes + len(chunk)

    def _next_chunk(self) -> bytes:
        while len(self._rest) < self.chunk_bytes:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        chunk = bytes(memoryview(self._rest)[: self.chunk_bytes])
        del self._rest[: self.chunk_bytes]
        return chunk

    # --- life --------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self.check()

    def close(self) -> None:
        return

    def release(self) -> None:
        with self._lock:
            self._released = True
            wakes, self._wakes = self._wakes, []
            self._spool.close()
        for wake in wakes:
            wake()


def _pieces(stream: Stream, chunk_bytes: int) -> Iterator[Piece]:
    read = getattr(stream, "read", None)
    if not callable(read):
        if isinstance(stream, bytes | bytearray | memoryview | str):
            raise TypeError(f"a stream is an iterable of bytes or a file object, got {type(stream).__name__}; see add_bytes")
        return iter(stream)
    return iter(lambda: read(chunk_bytes) or None, None)
