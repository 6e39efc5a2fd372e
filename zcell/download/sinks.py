"""Where fetched bytes go. Invariant: what a sink reports as stored is verified, and a result exists only after `publish`."""

from __future__ import annotations

import io
import threading
from typing import Protocol

from zcell._native import chunk as frames
from zcell.download.sealing import Frame
from zcell.errors import ZcellError
from zcell.protocol.transfer.chunks import ChunkTable
from zcell.protocol.transfer.messages import Description


class SinkError(ZcellError):
    """The sink cannot take the object; the text names it and says what to do. The download fails with sink_failed."""


class SinkEvents(Protocol):
    """What a sink that works later tells its download, from any thread."""

    def sink_stored(self, index: int, length: int, digest: bytes) -> None:
        """The chunk is taken: its credit goes back."""
        ...

    def sink_published(self) -> None:
        """The result is there."""
        ...

    def sink_failed(self, text: str) -> None:
        """It cannot go on."""
        ...


class Sink(Protocol):
    """Takes the chunks of one object. `store` is called from several threads at once, the rest from one at a time.

    Every method may raise `SinkError` or `OSError`, which fail the download with sink_failed; what is stored is kept then.
    """

    def prepare(self, description: Description, verify: str, ref_id: str, events: SinkEvents) -> ChunkTable:
        """Get ready; the chunks already held from an earlier try."""
        ...

    def store(self, frame: Frame, index: int, *, tree: bool, max_length: int) -> tuple[int, bytes] | None:
        """Verify a frame and keep its payload: (length, chunk digest), or None when `SinkEvents.sink_stored` will say so.

        Raises `ProtocolError` for a frame that does not verify.
        """
        ...

    def drop(self, indices: tuple[int, ...]) -> None:
        """These chunks turned out wrong and will be stored again."""
        ...

    def publish(self, size: int) -> bool:
        """All chunks are stored and verified: make the result. False when `SinkEvents.sink_published` will say so."""
        ...

    def close(self) -> None:
        """The download ended, well or not. Idempotent."""
        ...


class MemorySink:
    """Keeps the object in memory; at most `max_bytes` of it."""

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._buffer = io.BytesIO()
        self._lock = threading.Lock()
        self._chunk_bytes = 0
        self.result = b""

    def prepare(self, description: Description, verify: str, ref_id: str, events: SinkEvents) -> ChunkTable:
        if self._max_bytes is not None and (description.size or 0) > self._max_bytes:
            raise SinkError(f"the object has {description.size} bytes, max_bytes is {self._max_bytes}")
        self._chunk_bytes = description.chunk_bytes
        return ChunkTable()

    def store(self, frame: Frame, index: int, *, tree: bool, max_length: int) -> tuple[int, bytes]:
        chunk = frames.verify(frame, tree=tree, max_length=max_length)
        end = chunk.offset + chunk.length
        if self._max_bytes is not None and end > self._max_bytes:
            raise SinkError(f"the object has at least {end} bytes, max_bytes is {self._max_bytes}")
        with self._lock:
            self._buffer.seek(chunk.offset)
            try:
                self._buffer.write(chunk.payload)
            except MemoryError:
                raise SinkError(f"no memory for an object of at least {end} bytes; fetch it into a file") from None
        return chunk.length, chunk.digest or bytes(32)

    def drop(self, indices: tuple[int, ...]) -> None:
        return

    def publish(self, size: int) -> bool:
        self._buffer.truncate(size)
        self.result = self._buffer.getvalue()  # shares the buffer: no copy
        self._buffer = io.BytesIO()
        return True

    def take(self) -> bytes:
        """The result, which from now on is the caller's alone."""
        result, self.result = self.result, b""
        return result

    def close(self) -> None:
        self._buffer = io.BytesIO()
