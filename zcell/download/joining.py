"""Steps of bytes put together: what `fetch_file` and `fetch_bytes` do with a ref of a producer. Invariant: as for sinks, the result
exists only when the last step is there."""

from __future__ import annotations

from typing import Any

from zcell.download.sinks import MemorySink, SinkError
from zcell.download.staging import FileSink
from zcell.download.stepwise import State
from zcell.protocol.transfer.messages import Description


def _bytes_of(data: Any) -> bytes | memoryview:
    if not isinstance(data, bytes | memoryview):
        raise SinkError(f"a step of {type(data).__name__} cannot go into a file or a buffer: fetch it with a consumer")
    return data


class BytesJoiner:
    """Joins steps into the result of a `MemorySink`."""

    def __init__(self, sink: MemorySink, max_bytes: int | None) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._joined = bytearray()

    def consume(self, ref_id: str, state: State, data: Any) -> State:
        self._joined += _bytes_of(data)
        if self._max_bytes is not None and len(self._joined) > self._max_bytes:
            raise SinkError(f"the object has at least {len(self._joined)} bytes, max_bytes is {self._max_bytes}")
        return state

    def download_completed(self, ref_id: str) -> None:
        self._sink.result = bytes(self._joined)

    def download_failed(self, ref_id: str, reason: str) -> None:
        self._joined.clear()


class FileJoiner:
    """Appends steps to the staged file of a `FileSink`. Nothing is resumed: steps have no digests to compare."""

    def __init__(self, sink: FileSink, description: Description) -> None:
        self._sink = sink
        self._description = description
        self._length = -1

    def consume(self, ref_id: str, state: State, data: Any) -> State:
        self._begin(ref_id)
        self._length += self._sink.write_at(self._length, _bytes_of(data))
        return state

    def _begin(self, ref_id: str) -> None:
        if self._length < 0:
            self._sink.begin_unverified(self._description, ref_id)
            self._length = 0

    def download_completed(self, ref_id: str) -> None:
        self._begin(ref_id)
        self._sink.publish(self._length)

    def download_failed(self, ref_id: str, reason: str) -> None:
        self._sink.close()
