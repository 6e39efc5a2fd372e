"""The serving end of one transfer. Invariant: chunks leave in the order they were asked for, a mark only behind all of them.

A sender holds no bytes and no digests: it says which chunk to load next, and its driver loads and sends it. Several workers may
load at once; a mark waits until what was asked for before it has been handed over.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from zcell.errors import ProtocolError
from zcell.protocol.transfer.messages import End, Pull
from zcell.protocol.transfer.states import SenderEvent, SenderState, next_sender_state


@dataclass(frozen=True, slots=True)
class Serve:
    """Load chunk `index` and send it; then call `done`, or `wait` when the source does not have it yet."""

    index: int
    turn: int = field(default=0, compare=False)
    """The how-manieth it was asked for."""


@dataclass(frozen=True, slots=True)
class PutMark:
    """Send mark `seq` on the data lane; then call `mark_done`."""

    seq: int


@dataclass(frozen=True, slots=True)
class HashNext:
    """Nothing to serve, but the root is wanted: hash the next chunk that has no digest yet, or send the root."""


Work = Serve | PutMark | HashNext


class Sender:
    """`chunks`: how many the object has, None while unknown. `max_queued`: more chunks asked for at once break the protocol."""

    def __init__(self, stream: bytes, size: int | None, chunk_bytes: int, max_queued: int) -> None:
        self.stream = stream
        self.state = SenderState.SERVING
        self.floor = 0
        """The receiver has stored everything below this index."""
        self.root_wanted = False
        self.served = 0
        self._size = size
        self._chunk_bytes = chunk_bytes
        self._max_queued = max_queued
        self._queue: deque[Serve | PutMark] = deque()
        self._queued: set[int] = set()
        self._in_work: dict[int, Serve] = {}
        self._turns = itertools.count(1)
        self._marking = False
        self._waiting = False

    @property
    def chunks(self) -> int | None:
        """How many chunks there are, None while the end of the stream is not known."""
        return None if self._size is None else -(-self._size // self._chunk_bytes)

    @property
    def wanted(self) -> int:
        """The highest index asked for and not served yet, -1 when none: how far a stream has to be produced."""
        return max(self._queued, default=-1)

    def pull(self, message: Pull) -> End | None:
        """Queue what `message` asks for. Raises `ProtocolError` when it asks for more than any window allows.

        What is still queued or in work is not queued twice. Asking beyond the end is answered by where the end is.
        """
        if self.state is not SenderState.SERVING:
            return None
        if len(self._queued) + sum(count for _, count in message.ranges) > self._max_queued:
            raise ProtocolError(f"pull: more than {self._max_queued} chunks are asked for at once")
        self.floor = max(self.floor, message.floor)
        chunks = self.chunks
        beyond = False
        for first, count in message.ranges:
            for index in range(first, first + count):
                if chunks is not None and index >= chunks:
                    beyond = True
                elif index not in self._queued and index not in self._in_work:
                    self._queued.add(index)
                    self._queue.append(Serve(index, next(self._turns)))
        if message.mark:
            if self._queue and isinstance(self._queue[-1], PutMark):
                self._queue.pop()
            self._queue.append(PutMark(message.seq))
        return End(self.stream, self._size) if beyond and self._size is not None else None

    def ask_root(self) -> None:
        """The receiver wants the root."""
        self.root_wanted = self.state is SenderState.SERVING

    def root_sent(self) -> None:
        """The root went out; the receiver asks again if it does not get it."""
        self.root_wanted = False

    @property
    def has_work(self) -> bool:
        """Whether `next_work` would give some."""
        if self.state is not SenderState.SERVING or self._waiting or self._marking:
            return False
        if not self._queue:
            return self.root_wanted
        return not (isinstance(self._queue[0], PutMark) and self._in_work)

    def next_work(self) -> Work | None:
        """What to do next, or None when there is nothing, or nothing until something in work is done."""
        if not self.has_work:
            return None
        if not self._queue:
            return HashNext()
        head = self._queue[0]
        if isinstance(head, PutMark):
            self._marking = True
        else:
            self._queued.discard(head.index)
            self._in_work[head.index] = head
        self._queue.popleft()
        return head

    def done(self, index: int) -> None:
        """Chunk `index` was handed over, or could not be: either way the receiver finds out what arrived."""
        self._in_work.pop(index, None)
        self.served += 1

    def mark_done(self) -> None:
        """The mark was handed over."""
        self._marking = False

    def wait(self, index: int) -> int | None:
        """The source does not have chunk `index` yet: nothing is served until `available`. Returns which chunk to wait for, None
        when `index` will never be.

        Workers that loaded at once come back in any order; what was asked for first is still the first to be served.
        """
        serve = self._in_work.pop(index)
        chunks = self.chunks
        if self.state is not SenderState.SERVING or (chunks is not None and index >= chunks):
            return None
        self._queued.add(index)
        before = sum(1 for _ in itertools.takewhile(lambda w: isinstance(w, Serve) and w.turn < serve.turn, self._queue))
        self._queue.insert(before, serve)
        self._waiting = True
        head = self._queue[0]
        assert isinstance(head, Serve)
        return head.index

    def pause(self) -> None:
        """The source has to grow before the root can be known: nothing is done until `available`."""
        self._waiting = True

    def available(self) -> None:
        """The source has grown."""
        self._waiting = False

    def ended(self, size: int) -> End:
        """The stream ended after `size` bytes. Returns what to tell the receiver."""
        self._size = size
        self._waiting = False
        chunks = self.chunks or 0
        self._queue = deque(w for w in self._queue if isinstance(w, PutMark) or w.index < chunks)
        self._queued = {index for index in self._queued if index < chunks}
        return End(self.stream, size)

    def close(self) -> None:
        """The receiver is done, or the transaction ended. Idempotent."""
        self._finish(SenderEvent.CLOSE)

    def fail(self) -> None:
        """The source failed. Idempotent."""
        self._finish(SenderEvent.FAIL)

    def _finish(self, event: SenderEvent) -> None:
        if self.state is SenderState.SERVING:
            self.state = next_sender_state(self.state, event)
            self._queue.clear()
            self._queued.clear()
