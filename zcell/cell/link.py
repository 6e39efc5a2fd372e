"""One link to a neighbour. Invariant: work leaves only under credit, and every byte waiting for it is admitted first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from zcell.limits import Limits
from zcell.protocol.credit import MESSAGE_COST, ReceiveCredit, SendCredit
from zcell.protocol.envelope import Kind, encode_batch, encode_link
from zcell.protocol.link import LinkIdentity

Frames = Sequence[Any]
"""The frames of one message: bytes-like objects or `zmq.Frame`s; their `len` is their size in bytes."""

_BATCH_MESSAGE_BYTES = 8192
_BATCH_BYTES = 65536
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_COPY_BELOW = 65536  # zero-copy of small frames costs more than the copy


class LinkLostError(Exception):
    """The socket says that nobody is there any more."""


class LaneSocket:
    """Where the frames of one lane go: a DEALER, or a ROUTER with the routing id of the other end."""

    __slots__ = ("routing_id", "socket")

    def __init__(self, socket: zmq.Socket[bytes], routing_id: bytes | None = None) -> None:
        self.socket = socket
        self.routing_id = routing_id

    def send(self, frames: Frames) -> None:
        """Hand a message to the socket; raises `LinkLostError` when it has nobody to send it to."""
        send = self.socket.send
        try:
            if self.routing_id is not None:
                send(self.routing_id, _MORE)
            last = len(frames) - 1
            for i, frame in enumerate(frames):
                send(frame, _MORE if i < last else _LAST, copy=len(frame) < _COPY_BELOW)
        except zmq.ZMQError as e:
            raise LinkLostError(f"the socket refused a message: {e}") from e


class Admission:
    """How much work may wait for one link. Callers from any thread wait here for space; the I/O thread gives it back."""

    def __init__(self, limit_bytes: int) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._limit = limit_bytes
        self._waiting = 0
        self._closed = False

    def take(self, cost: int, timeout: float) -> bool:
        """Reserve `cost` bytes, waiting at most `timeout` seconds; a message always fits into an empty queue."""
        with self._condition:
            if self._waiting and self._waiting + cost > self._limit and not self._closed and timeout > 0:
                self._condition.wait_for(
                    lambda: self._closed or not self._waiting or self._waiting + cost <= self._limit, timeout
                )
            if self._closed or (self._waiting and self._waiting + cost > self._limit):
                return False
            self._waiting += cost
            return True

    def give_back(self, cost: int) -> None:
        with self._condition:
            self._waiting -= cost
            self._condition.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class Link:
    """A link that is up, seen from the I/O thread; only `admission` is for other threads."""

    def __init__(
        self,
        me: LinkIdentity,
        peer: LinkIdentity,
        link_id: bytes,
        control: LaneSocket,
        limits: Limits,
        dirty: list[Link],
        *,
        is_parent: bool,
    ) -> None:
        self.peer = peer.name
        self.instance = peer.instance
        self.id = link_id
        self.is_parent = is_parent
        self.control = control
        self.data: LaneSocket | None = None
        self.up = True
        self.last_heard = time.monotonic()
        self.out = SendCredit(peer.window)
        self.received = ReceiveCredit(me.window)
        self.admission = Admission(limits.link_queue_bytes)
        self._unread_limit = limits.link_unread_bytes
        self._finished_lock = threading.Lock()
        self._finished = 0
        self._dirty = dirty
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._work: deque[tuple[Frames, int, Callable[[], None] | None]] = deque()
        self._waiting_data: deque[tuple[Frames, int, Callable[[bool], None] | None]] = deque()

    def send_work(self, frames: Frames, cost: int, on_sent: Callable[[], None] | None = None) -> None:
        """Send, or queue until there is credit, a message whose `cost` was taken from `admission` (or is a relayed one)."""
        if self._work or not self.out.may_send_work:
            self._work.append((frames, cost, on_sent))
        else:
            self._send_work(frames, cost, on_sent)

    def _send_work(self, frames: Frames, cost: int, on_sent: Callable[[], None] | None) -> None:
        self.out.work_sent += cost
        self._send_control(frames, cost)
        if on_sent is not None:
            on_sent()

    def send_control(self, frames: Frames) -> None:
        """Send a message that needs no credit: a reply, or one of zcell's own."""
        self._send_control(frames, sum(map(len, frames)) + MESSAGE_COST)

    def _send_control(self, frames: Frames, cost: int) -> None:
        self.out.control_sent += cost
        if self.out.unread_control > self._unread_limit:
            raise LinkLostError(f"{self.out.unread_control} bytes are unread there; it does not keep up")
        if len(frames) == 2 and cost <= _BATCH_MESSAGE_BYTES:
            if not self._batch:
                self._dirty.append(self)
            self._batch += frames
            self._batch_bytes += cost
            if self._batch_bytes >= _BATCH_BYTES:
                self.flush()
        else:
            self.flush()
            self.control.send(frames)

    def flush(self) -> None:
        """Hand over the small messages gathered in this turn of the loop, as one."""
        batch = self._batch
        if batch:
            self._batch, self._batch_bytes = [], 0
            self.control.send(batch if len(batch) == 2 else [encode_batch(batch)])

    def send_link(self, kind: Kind, fields: dict[str, Any]) -> None:
        """Send a frame of the link's own; it is not counted."""
        if kind is Kind.BYE:
            self.flush()  # what was said before the goodbye leaves before it
        self.control.send([encode_link(kind, fields)])

    def send_data(self, frames: Frames, size: int, done: Callable[[bool], None] | None) -> None:
        """Send on the data lane, or as soon as it is attached."""
        if self.data is None:
            self._waiting_data.append((frames, size, done))
            return
        self.out.data_sent += size
        self.data.send(frames)
        if done is not None:
            done(True)

    def attach_data(self, lane: LaneSocket) -> None:
        """The data lane is up: what waited for it goes now."""
        self.data = lane
        waiting, self._waiting_data = self._waiting_data, deque()
        for frames, size, done in waiting:
            self.send_data(frames, size, done)

    def on_credit(self, fields: dict[str, Any]) -> None:
        """The other end read or finished something. Raises `ProtocolError` for an impossible report."""
        self.out.on_report(fields)
        while self._work and self.out.may_send_work:
            self._send_work(*self._work.popleft())

    def finish(self, cost: int) -> int:
        """Work of `cost` is finished, from any thread; what is to be credited now: 0 until enough has gathered."""
        with self._finished_lock:
            self._finished += cost
            if self._finished < self.received.step:
                return 0
            amount, self._finished = self._finished, 0
            return amount

    def report_credit(self) -> None:
        """Tell the other end what was read and finished here."""
        self.send_link(Kind.CREDIT, self.received.report())

    def close(self) -> int:
        """Nothing goes out any more; how many queued messages are lost by that."""
        self.up = False
        self.admission.close()
        lost = len(self._work)
        for _, _, on_sent in self._work:
            if on_sent is not None:
                on_sent()
        self._work.clear()
        for _, _, done in self._waiting_data:
            if done is not None:
                done(False)
        self._waiting_data.clear()
        return lost
