"""How sockets are opened and read. Invariant: every socket has mandatory routing, a finite linger, a size limit and heartbeats."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import zmq

from zcell.limits import MIB, Limits

LINGER_MS = 500
_MAX_PARTS = 1024
_NOBLOCK = int(zmq.NOBLOCK)
_BIG_FRAME = 65536  # larger frames are handed on as they are, smaller ones as bytes
_ENVELOPE_ROOM = 64 * 1024


def open_socket(context: zmq.Context[Any], kind: int, limits: Limits, url: str) -> zmq.Socket[bytes]:
    """A ROUTER or DEALER with everything set that keeps it from blocking, growing or lingering. Not bound, not connected."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = LINGER_MS
    socket.sndhwm = 0  # bytes of credit are the flow control; a count of messages is none
    socket.rcvhwm = 1000
    socket.maxmsgsize = max(limits.message_bytes, 17 * MIB) + _ENVELOPE_ROOM
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 30000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(limits.handshake_timeout * 1000))
    socket.setsockopt(zmq.RECONNECT_IVL, int(limits.reconnect_min * 1000))
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, int(max(limits.reconnect_min, 1.0) * 1000))
    if "[" in url:
        socket.setsockopt(zmq.IPV6, 1)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    else:
        # unguessable, new for every attempt: nobody can take the place of a lane at a ROUTER
        socket.setsockopt(zmq.ROUTING_ID, b"z" + secrets.token_bytes(16))
    return socket


def receive(socket: zmq.Socket[bytes]) -> list[Any] | None:
    """All frames of the next message, None when there is none now. Frames of 64 KiB and more are `zmq.Frame`s, others bytes.

    Of a message with absurdly many frames only the first ones are kept.
    """
    try:
        frame = socket.recv(_NOBLOCK, copy=False)
    except zmq.Again:
        return None
    frames: list[Any] = [frame.bytes if len(frame) < _BIG_FRAME else frame]
    while frame.more:
        frame = socket.recv(_NOBLOCK, copy=False)
        if len(frames) < _MAX_PARTS:
            frames.append(frame.bytes if len(frame) < _BIG_FRAME else frame)
    return frames


class Drain:
    """How many messages to read at one go. Asking an empty socket costs more than reading a message: one is read for a start,
    many after two in a row, and each time that hope was wrong the next one comes later."""

    __slots__ = ("_full", "_most", "_patience")

    def __init__(self, most: int) -> None:
        self._most = most
        self._full = 0
        self._patience = 2

    def all_of(self, socket: zmq.Socket[bytes]) -> Iterator[list[Any]]:
        """The next messages of a readable socket."""
        most = self._most if self._full >= self._patience else 1
        for number in range(most):
            frames = receive(socket)
            if frames is None:
                self._full = 0
                if number < 2:
                    self._patience = min(256, self._patience * 2)
                return
            yield frames
            if socket.closed:
                return
        if most > 1:
            self._patience = 2
        self._full += 1


def monitor_of(socket: zmq.Socket[bytes]) -> zmq.Socket[Any]:
    """A socket that becomes readable when a connection of `socket` is lost."""
    events = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    watcher: zmq.Socket[Any] = socket.get_monitor_socket(events)
    watcher.linger = 0
    return watcher


def read_monitor(watcher: zmq.Socket[Any]) -> int:
    """Take all events of a monitor; how many there were."""
    count = 0
    while True:
        try:
            watcher.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return count
        count += 1


def close_socket(socket: zmq.Socket[bytes], watcher: zmq.Socket[Any] | None) -> None:
    """Close a socket and its monitor; what was sent still leaves within the linger time."""
    if watcher is not None:
        socket.disable_monitor()
        watcher.close(0)
    socket.close()
