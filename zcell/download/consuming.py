"""Handing an object of bytes to a consumer. Invariant: chunks are consumed in order, each once, and credit goes back only then.

Chunks that came early wait in memory, which the window bounds. What is consumed cannot be taken back: a digest that differs in
the end fails the download as corrupt, and the consumer is told.
"""

from __future__ import annotations

import threading
from typing import Any

from zcell._native import chunk as frames
from zcell.download.callbacks import CallbackQueue
from zcell.download.sealing import Frame
from zcell.download.sinks import SinkError, SinkEvents
from zcell.download.stepwise import Consumer, State
from zcell.protocol.transfer.chunks import ChunkTable
from zcell.protocol.transfer.messages import Description


def consume_step(consumer: Consumer, ref_id: str, state: State, data: Any) -> State:
    """One step. Raises `SinkError` when the consumer raises or returns no dict."""
    try:
        new_state = consumer.consume(ref_id, state, data)
    except Exception as error:
        raise SinkError(f"the consumer raised {type(error).__name__}: {error}") from error
    if not isinstance(new_state, dict):
        raise SinkError(f"the consumer must return its new state as a dict, it returned {type(new_state).__name__}")
    return new_state


class ConsumerSink:
    """A sink of chunks in order."""

    def __init__(self, consumer: Consumer, queue: CallbackQueue) -> None:
        self._consumer = consumer
        self._queue = queue
        self._lock = threading.Lock()
        self._early: dict[int, tuple[bytes, bytes]] = {}
        self._next = 0
        self._state: State = {}
        self._failed = False
        self._ref_id = ""
        self._events: SinkEvents | None = None

    def prepare(self, description: Description, verify: str, ref_id: str, events: SinkEvents) -> ChunkTable:
        self._ref_id = ref_id
        self._events = events
        return ChunkTable()

    def store(self, frame: Frame, index: int, *, tree: bool, max_length: int) -> tuple[int, bytes] | None:
        chunk = frames.verify(frame, tree=tree, max_length=max_length)
        with self._lock:
            self._early[index] = (bytes(chunk.payload), chunk.digest or bytes(32))
            ready = index == self._next
        if ready:
            self._queue.call(self._consume)
        return None

    def _consume(self) -> None:
        assert self._events is not None
        while not self._failed:
            with self._lock:
                found = self._early.pop(self._next, None)
                if found is None:
                    return
                index, self._next = self._next, self._next + 1
            data, digest = found
            try:
                self._state = consume_step(self._consumer, self._ref_id, self._state, data)
            except SinkError as error:
                self._failed = True
                self._events.sink_failed(str(error))
                return
            self._events.sink_stored(index, len(data), digest)

    def drop(self, indices: tuple[int, ...]) -> None:
        raise SinkError("the digest differs from the source's, and what was consumed cannot be fetched again")

    def publish(self, size: int) -> bool:
        self._queue.call(self._complete)
        return False

    def _complete(self) -> None:
        assert self._events is not None
        try:
            self._consumer.download_completed(self._ref_id)
        except Exception as error:  # noqa: BLE001  the consumer is the user's
            self._events.sink_failed(f"the consumer's download_completed raised {type(error).__name__}: {error}")
        else:
            self._events.sink_published()

    def close(self) -> None:
        with self._lock:
            self._early.clear()
        self._failed = True
