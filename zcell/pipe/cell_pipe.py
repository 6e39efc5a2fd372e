"""A pipe between two cells. Invariant owned here: only the peer is heard, and what it sends again is delivered once.

Each end is a cell named ``{site}_{token}_{mode}`` below the cell it connects to. A message is a request: its answer says that the
peer's end has queued it, whatever decoding may cost later. Heartbeats are control events, which no other traffic delays.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import zmq

from zcell._native.handover import Sleeper
from zcell.abort import Abort
from zcell.cell.cell import Cell
from zcell.fqcn import FQCN
from zcell.limits import Limits
from zcell.message import Reply, Request, ReturnCode, make_reply
from zcell.pipe import cell_message
from zcell.pipe.arguments import abort_or_none, seconds, seconds_or_none
from zcell.pipe.arguments import channel as checked_channel
from zcell.pipe.end_cell import EndCell, end_cell_of, end_label, end_name, new_end_cell
from zcell.pipe.message import Message, Topic
from zcell.pipe.pipe import Mode, Pipe
from zcell.pipe.seen import SeenIds

_log = logging.getLogger("zcell.pipe.cell")
_PREFIX = "zcell.pipe."
_SMALL = ".small"  # messages of this channel are queued by the cell's own thread, without a detour over its pool
_STATUS_TIMEOUT = 5.0
_ATTEMPT_TIMEOUT = 15.0  # an answer that takes longer may be lost; asking again is cheap, for the message is delivered once
_LOOK_AGAIN = 0.05  # for a peer whose cell is there and whose pipe is not open yet
_CONNECT_TIMEOUT = 30.0
_MAX_QUEUED = 1000
_GREETING, _ANSWER = 0, -1  # heartbeats count from 1
_HERE = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  a cell that listens everywhere is reached here


class CellPipe(Pipe):
    """One end of a pipe over cells.

    Args:
        mode: ACTIVE in the job, PASSIVE in its parent.
        site_name, token: together they name the pipe; both ends use the same. Neither is a secret.
        cell: a cell of this process: another pipe's `cell`, to share it, or the cell to connect below.
        parent: instead of `cell`, the endpoint of the cell to connect below, whose name is `parent_fqcn`.
        secret, kit, insecure, limits, context: as for `Cell`, for the end's own cell.
        pass_through_on_send: large objects stay here, and the peer's end gets `LazyRef`s that it can forward.
        connect_timeout: seconds that `open` waits for the link.

    The end's cell stops when its last pipe closes, unless it was given as `cell`. Raises `ValueError` naming the argument.
    """

    def __init__(
        self,
        mode: Mode | str,
        site_name: str,
        token: str,
        cell: Cell | None = None,
        *,
        parent: str | None = None,
        parent_fqcn: str = FQCN.ROOT_SERVER,
        secret: bytes | str | Path | None = None,
        kit: object = None,
        insecure: bool = False,
        limits: Limits | None = None,
        context: zmq.Context[Any] | None = None,
        pass_through_on_send: bool = False,
        connect_timeout: float = _CONNECT_TIMEOUT,
    ) -> None:
        super().__init__(mode)
        if (cell is None) == (parent is None):
            raise ValueError("a CellPipe needs either cell= (of this process) or parent= (an endpoint), and not both")
        self.pass_through_on_send = pass_through_on_send
        self._site, self._token = site_name, token
        self._connect_timeout = seconds("connect_timeout", connect_timeout, least=0)
        label, peer_label = end_label(site_name, token, self.mode), end_label(site_name, token, self.mode.other)
        is_end = cell is not None and cell.fqcn.rpartition(".")[2] == label
        if cell is not None and is_end:
            prefix = FQCN.parent(cell.fqcn)
            above, self.fqcn, self.peer_fqcn = prefix or FQCN.ROOT_SERVER, cell.fqcn, FQCN.join([prefix, peer_label])
        else:
            above = FQCN.validate(parent_fqcn if cell is None else cell.fqcn)
            self.fqcn, self.peer_fqcn = end_name(above, label), end_name(above, peer_label)
        self._above = above
        url = parent if cell is None or is_end else _endpoint(cell)
        options: dict[str, Any] = {"kit": kit, "limits": limits, "context": context, "insecure": insecure, "secret": secret}

        def make() -> Cell:
            return Cell(self.fqcn, parent=parent if cell is None else cell, **options)

        self._end: EndCell = new_end_cell(make, url) if cell is None else end_cell_of(cell, self.fqcn, make, url)
        self._lock = threading.RLock()
        self._readers: list[Sleeper] = []
        self._channel = ""
        self._session = secrets.token_hex(8)
        self._received: deque[cell_message.ReceivedMessage] = deque()
        self._seen = SeenIds()
        self._peer_session: str | None = None
        self._peer_dead = False
        self._has_left = False
        self._last_active = 0.0
        self._closing = Abort()
        self._fetching: Abort | None = None

    @property
    def cell(self) -> Cell:
        """The end's cell; give it to another CellPipe of the same end to share it."""
        return self._end.cell

    # opening and closing

    def open(self, name: str) -> None:
        """As `Pipe.open`. Raises `LinkError` naming the endpoint when there is no link within `connect_timeout` seconds; the pipe
        is closed then.
        """
        checked_channel("a pipe's name", name)
        with self._lock:
            if self._closing.triggered:
                raise BrokenPipeError(self._closing.reason)
            if self._channel:
                raise ValueError(f"the pipe of {self.fqcn} is open already")
            channel = _PREFIX + name
            try:
                self.cell.register(channel, "*", self._on_message, allow=[self.peer_fqcn])
            except ValueError:
                raise ValueError(
                    f"the pipe {self._site!r}, {self._token!r} is open as {name!r} in this process already: "
                    "close that end, or give this one names of its own"
                ) from None
            self.cell.register(channel + _SMALL, "*", self._on_message, allow=[self.peer_fqcn], inline=True)
            self.cell.register(channel, Topic.HEARTBEAT, self._on_heartbeat, allow=[self.peer_fqcn], inline=True)
            self._channel = channel
        try:
            self.cell.wait_ready(self._connect_timeout)
        except BaseException:
            self.close()
            raise
        self._greet()

    def close(self) -> None:
        with self._lock:
            if self._closing.triggered:
                return
            self._closing.trigger(f"the {self.mode.value} end of the pipe {self.fqcn} is closed")
            self._wake_readers()
        if self._channel:
            self.cell.unregister(self._channel, "*")
            self.cell.unregister(self._channel + _SMALL, "*")
            self.cell.unregister(self._channel, Topic.HEARTBEAT)
        self._end.release()

    def _check(self) -> None:
        if self._closing.triggered:
            raise BrokenPipeError(self._closing.reason)
        if not self._channel:
            raise BrokenPipeError(f"the pipe of {self.fqcn} is not open")

    def peer_is_gone(self) -> None:
        with self._lock:
            self._peer_dead = True
            fetching = self._fetching
        if fetching is not None:
            fetching.trigger("the peer is gone")

    # sending

    def send(self, msg: Message, timeout: float | None = None, abort: Abort | None = None) -> bool:
        timeout, abort = seconds_or_none("timeout", timeout), abort_or_none("abort", abort)
        with self._lock:
            self._check()
            self._has_left = msg.topic in Topic.STATUS
        if msg.topic == Topic.HEARTBEAT:
            self._beat(msg.data if isinstance(msg.data, int) else 0)
            return True
        if msg.topic in Topic.STATUS:
            timeout = min(_STATUS_TIMEOUT, timeout or _STATUS_TIMEOUT)
        if msg.encoded is None:
            msg.encoded = cell_message.encode(self.cell, msg, self.peer_fqcn, self._session, self.pass_through_on_send)
        ended = Abort()
        sources = [a for a in (self._closing, abort) if a is not None]
        keys = [a.add_callback(lambda a=a: ended.trigger(a.reason)) for a in sources]  # type: ignore[misc]
        try:
            return self._send_until(msg, timeout, ended)
        finally:
            for source, key in zip(sources, keys, strict=True):
                source.remove_callback(key)

    def _send_until(self, msg: Message, timeout: float | None, ended: Abort) -> bool:
        encoded: cell_message.EncodedMessage = msg.encoded
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        self.last_error = ""
        while True:
            is_unheard = self._peer_session is None
            reply = self._request(msg, encoded, max(min(_ATTEMPT_TIMEOUT, deadline - time.monotonic()), 0.001), ended)
            if reply.rc is ReturnCode.OK:
                encoded.taken = True
                self.last_error = ""
                return True
            is_closed = reply.rc is ReturnCode.INVALID_REQUEST  # no handler: the peer's cell is there, its pipe is not
            if is_closed:
                self.last_error = f"the other end of the pipe, {self.peer_fqcn}, is not open"
            elif reply.rc is not ReturnCode.TIMEOUT or not self.last_error:  # what was said says more than that time ran out
                self.last_error = f"{reply.rc.value} from {self.peer_fqcn}: {reply.error}"
            may_open = is_closed and is_unheard and msg.topic not in Topic.STATUS
            if may_open and ended.wait(max(0.0, min(_LOOK_AGAIN, deadline - time.monotonic()))):
                self.last_error = ended.reason
            if not (may_open or reply.rc is ReturnCode.TIMEOUT) or time.monotonic() >= deadline or ended.triggered:
                self._check()
                return False

    def _request(self, msg: Message, encoded: cell_message.EncodedMessage, timeout: float, ended: Abort) -> Reply:
        try:
            channel = self._channel + _SMALL if encoded.is_small else self._channel
            return self.cell.request(
                self.peer_fqcn, channel, msg.topic, encoded.payload, timeout=timeout, optional=True, abort=ended
            )
        except RuntimeError as e:  # the cell was stopped under its pipe
            raise BrokenPipeError(f"the cell of the pipe {self.fqcn} does not run: {e}") from None

    def _beat(self, number: int) -> None:
        self.cell.post_event(self.peer_fqcn, self._channel, Topic.HEARTBEAT, [self._session, number])

    def _greet(self) -> None:
        """Tell a peer that is there already that this end is there now, and learn of it; heartbeats come later."""
        with self._lock:
            self._show_life(_GREETING)

    def _show_life(self, number: int) -> None:
        """With the lock held: unless this end said that it is over, which its peer would take for a new beginning."""
        if not self._has_left and not self._closing.triggered:
            self._beat(number)

    def release_send_cache(self, msg: Message) -> None:
        encoded = msg.encoded
        msg.encoded = None
        if isinstance(encoded, cell_message.EncodedMessage) and not encoded.taken:
            encoded.offering.withdraw()

    def check_data(self, data: Any, name: str = "data") -> None:
        self.cell.codec.check(data, name)

    # receiving: callbacks of the cell, which only queue

    def _on_heartbeat(self, request: Request) -> Reply | None:
        data = request.payload
        if not (isinstance(data, list) and len(data) == 2 and isinstance(data[0], str) and isinstance(data[1], int)):
            return make_reply(ReturnCode.INVALID_REQUEST, error="a heartbeat is [incarnation, number]")
        with self._lock:
            if self._is_peer(data[0]) and len(self._received) < _MAX_QUEUED:  # unread messages show life as well
                self._queue(Message.new_request(Topic.HEARTBEAT, data[1]))
                if data[1] == _GREETING:
                    self._show_life(_ANSWER)
        return None

    def _on_message(self, request: Request) -> Reply:
        try:
            received, session = cell_message.parse(request.topic, request.payload)
        except ValueError as e:
            return make_reply(ReturnCode.INVALID_REQUEST, error=str(e))
        with self._lock:
            if self._closing.triggered:
                return make_reply(ReturnCode.SERVICE_UNAVAILABLE, error=self._closing.reason)
            if not self._is_peer(session):
                return make_reply(ReturnCode.SERVICE_UNAVAILABLE, error=f"{self.fqcn} talks to another run of {request.origin}")
            if len(self._received) >= _MAX_QUEUED:
                return make_reply(ReturnCode.SERVICE_UNAVAILABLE, error=f"{self.fqcn} has {_MAX_QUEUED} messages unread")
            if self._seen.add(received.message.msg_id):
                self._received.append(received)
                self._wake_readers()
            if request.topic == Topic.ABORT and self._fetching is not None:
                self._fetching.trigger("the peer aborted")
        return make_reply(ReturnCode.OK)

    def _is_peer(self, session: str) -> bool:
        """Whether `session` is the incarnation that this end talks to: the first one heard since the last `clear`."""
        if self._peer_session is None:
            self._peer_session, self._peer_dead = session, False
            self._greet()
        elif session != self._peer_session:
            if not self._peer_dead:
                self._peer_dead = True
                self._queue(Message.new_request(Topic.PEER_GONE, "the peer was started again"))
            return False
        self._last_active = time.monotonic()
        return True

    def _queue(self, message: Message) -> None:
        self._received.append(cell_message.ReceivedMessage(message, None, []))
        self._wake_readers()

    def _wake_readers(self) -> None:
        """With the lock held. The cell's own thread does it when it has nothing else to do: both want the interpreter."""
        for reader in self._readers:
            self.cell.wake(reader)
        self._readers.clear()

    def receive(self, timeout: float | None = None) -> Message | None:
        received = self._next(time.monotonic() + (seconds_or_none("timeout", timeout) or 0.0))
        if received is None:
            return None
        fetching = self._fetching
        if fetching is None:
            return received.message
        key = self._closing.add_callback(lambda: fetching.trigger(self._closing.reason))
        try:
            return cell_message.decode(self.cell, received, fetching)
        finally:
            self._closing.remove_callback(key)
            self._fetching = None

    def _next(self, deadline: float) -> cell_message.ReceivedMessage | None:
        """The next message; one with a body is being fetched from this moment on."""
        while True:
            with self._lock:
                self._check()
                if self._received:
                    received = self._received.popleft()
                    if received.body is not None:
                        self._fetching = Abort()
                        if self._peer_dead:
                            self._fetching.trigger("the peer is gone")
                    return received
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                reader = Sleeper()
                self._readers.append(reader)
            if not reader.sleep(left):
                with self._lock, contextlib.suppress(ValueError):
                    self._readers.remove(reader)

    def clear(self) -> None:
        with self._lock:
            self._check()
            self._received.clear()
            self._peer_session, self._peer_dead = None, False
        self._greet()

    @property
    def last_peer_active_time(self) -> float:
        return self._last_active

    def export(self, mode: Mode | str) -> tuple[str, dict[str, Any]]:
        """As `Pipe.export`. The parent's endpoint is how this process reaches it; elsewhere it may have to be replaced."""
        kwargs = {
            "mode": Mode(mode.upper()).value,
            "site_name": self._site,
            "token": self._token,
            "parent": self._end.parent_url,
            "parent_fqcn": self._above,
        }
        return "zcell.pipe.CellPipe", kwargs


def _endpoint(cell: Cell) -> str:
    """Where an end below `cell` connects to."""
    usable = [u for u in cell.endpoints if not u.startswith("inproc:")]
    if not usable:
        raise ValueError(f"cell: {cell.fqcn} does not listen on tcp:// or ipc://, so no pipe's end can connect below it")
    scheme, _, place = usable[0].partition("://")
    host, _, port = place.rpartition(":")
    return f"{scheme}://{_HERE[host]}:{port}" if scheme == "tcp" and host in _HERE else usable[0]
