"""One ref on offer. Invariant: each chunk is loaded once for all receivers that want it at about the same time.

Loaded frames are kept, in bytes bounded, while more than one transfer of the ref is running; two workers that want the same chunk
share one load. A source that failed for good fails every transfer of the ref, present and later.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from zcell.download.ref import Ref
from zcell.download.sealing import Frame
from zcell.download.sources import Source, SourceChangedError
from zcell.download.stepwise import Producer

DeliveredFn = Callable[[str, str, Any, Any], None]
CACHE_BYTES = 16 << 20


class _Load:
    """One load that several wait for."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.frame: Frame | None = None
        self.error: Exception | None = None


def _nothing(_text: str) -> None:
    return


class Offer:
    """A ref with what it is served from: a `source` of bytes, or a `producer` of steps."""

    def __init__(
        self,
        ref: Ref,
        obj: Any,
        *,
        source: Source | None = None,
        producer: Producer | None = None,
        on_delivered: DeliveredFn | None = None,
    ) -> None:
        self.ref = ref
        self.obj = obj
        self.source = source
        self.producer = producer
        self.on_delivered = on_delivered
        self.failure: str | None = None
        """Why nothing can be served from it any more."""
        self.on_failure: Callable[[str], object] = _nothing
        """Called with `failure` once there is one."""
        self.loads = 0
        """Chunks read from the source, however many receivers they went to."""
        self._lock = threading.Lock()
        self._users = 0
        self._released = False
        self._frames: OrderedDict[tuple[int, bool], Frame] = OrderedDict()
        self._cached_bytes = 0
        self._loading: dict[tuple[int, bool], _Load] = {}

    def acquire(self) -> None:
        """A transfer begins. Raises `SourceError`."""
        assert self.source is not None
        try:
            self.source.open()
        except SourceChangedError as error:
            self.spoil(str(error))
            raise
        with self._lock:
            self._users += 1

    def spoil(self, text: str) -> None:
        """Nothing can be served any more: `text` says why. Idempotent, the first text stays."""
        with self._lock:
            if self.failure is not None:
                return
            self.failure = text
        self.on_failure(text)

    def give_back(self) -> None:
        """A transfer ended."""
        assert self.source is not None
        self.source.close()
        with self._lock:
            self._users -= 1
            if self._users <= 1:
                self._frames.clear()
                self._cached_bytes = 0

    def frame(self, index: int, *, tree: bool) -> Frame | None:
        """The frame of chunk `index`; None when the source does not have it yet. Raises `SourceError`."""
        assert self.source is not None
        if self._users < 2:
            return self._load(index, tree)
        key = (index, tree)
        with self._lock:
            frame = self._frames.get(key)
            if frame is not None:
                return frame
            load = self._loading.get(key)
            mine = load is None
            if load is None:
                load = self._loading[key] = _Load()
        if not mine:
            load.ready.wait()  # somebody else's load is running on another thread: it ends
        else:
            self._run(key, load)
        if load.error is not None:
            raise load.error
        return load.frame

    def _run(self, key: tuple[int, bool], load: _Load) -> None:
        try:
            load.frame = self._load(*key)
        except Exception as error:  # noqa: BLE001  handed to everybody who waits for this load
            load.error = error
        with self._lock:
            del self._loading[key]
            if load.frame is not None:
                self._frames[key] = load.frame
                self._cached_bytes += len(load.frame)
                while self._cached_bytes > CACHE_BYTES:
                    self._cached_bytes -= len(self._frames.popitem(last=False)[1])
        load.ready.set()

    def _load(self, index: int, tree: bool) -> Frame | None:
        assert self.source is not None
        try:
            frame = self.source.load(index, tree=tree)
        except SourceChangedError as error:
            self.spoil(str(error))
            raise
        self.loads += frame is not None
        return frame

    def release(self) -> None:
        """The transaction ended. Idempotent."""
        with self._lock:
            released, self._released = self._released, True
            self._frames.clear()
            self._cached_bytes = 0
        self.on_failure = _nothing
        if self.source is not None and not released:
            self.obj = None  # a receiver's request that is still being answered keeps this object a little longer
            self.source.release()
