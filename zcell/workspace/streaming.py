"""A download that is consumed while it arrives. Invariant: memory is bounded by the credit of the download, and order is kept.

Chunks arrive in any order and are verified at once; those that come too early wait. A chunk's credit goes back when the consumer
takes it, so a slow consumer slows the sender and nobody else. The result counts as delivered only when the consumer says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from zcell._native import chunk as frames
from zcell.download.sealing import Frame
from zcell.download.sinks import SinkEvents
from zcell.errors import ZcellError
from zcell.protocol.transfer.chunks import ChunkTable
from zcell.protocol.transfer.messages import Description


class StreamBrokenError(ZcellError):
    """The download ended before all had arrived; its future says why."""


class StreamSink:
    """A sink whose `pieces` are consumed by another thread, which then calls `accept` or `refuse`."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._early: dict[int, tuple[memoryview, int, bytes]] = {}
        self._next = 0
        self._complete = False
        self._closed = False
        self._events: SinkEvents | None = None

    # --- the download's side -----------------------------------------------------------------------------------------------

    def prepare(self, description: Description, verify: str, ref_id: str, events: SinkEvents) -> ChunkTable:
        self._events = events
        return ChunkTable()

    def store(self, frame: Frame, index: int, *, tree: bool, max_length: int) -> None:
        chunk = frames.verify(frame, tree=tree, max_length=max_length)
        payload = memoryview(chunk.payload)
        with self._condition:
            self._early[index] = (payload, chunk.length, chunk.digest or bytes(32))
            if index == self._next:
                self._condition.notify_all()

    def drop(self, indices: tuple[int, ...]) -> None:
        raise ZcellError("what was received as a stream turned out wrong after it was used")

    def publish(self, size: int) -> bool:
        with self._condition:
            self._complete = True
            self._condition.notify_all()
        return False

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._early.clear()
            self._condition.notify_all()

    # --- the consumer's side -----------------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[memoryview]:
        """The content in order. Raises `StreamBrokenError` when the download ends early."""
        while (taken := self._take()) is not None:
            yield taken

    def _take(self) -> memoryview | None:
        with self._condition:
            while self._next not in self._early:
                if self._complete:
                    return None
                if self._closed:
                    raise StreamBrokenError("the download ended before all had arrived")
                self._condition.wait()
            payload, length, digest = self._early.pop(self._next)
            index = self._next
            self._next += 1
        assert self._events is not None
        self._events.sink_stored(index, length, digest)
        return payload

    def accept(self) -> None:
        """Everything was consumed, and what was made of it is in its place."""
        if self._events is not None:
            self._events.sink_published()

    def refuse(self, why: str) -> None:
        """What arrived is no good."""
        if self._events is not None:
            self._events.sink_failed(why)
