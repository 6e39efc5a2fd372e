"""A neighbour that knows the secret and breaks every other rule: it joins the tree like a job's cell, then sends what it likes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import zmq

from zcell.protocol.envelope import Envelope, Kind, decode, decode_batch, encode_link, kind_of
from zcell.protocol.link import Initiator, Lane, LinkIdentity, State
from zcell.security.proof import SharedSecretProof

NIL = b"\xc0"
"""The body of an empty payload."""


class Rogue:
    """A child of `parent` called `name`, made of two plain sockets."""

    def __init__(self, name: str, endpoint: str, secret: bytes, parent: str, context: zmq.Context[Any]) -> None:
        self.name = name
        self.instance = os.urandom(16)
        self._endpoint = endpoint
        self._proof = SharedSecretProof(secret)
        self._parent = parent
        self._context = context
        self._sockets: list[zmq.Socket[bytes]] = []
        self.refusal = ""
        self.link = b""

    def join(self, window: int = 1 << 22, lanes: tuple[Lane, ...] = (Lane.CONTROL, Lane.DATA)) -> bool:
        """Go through the handshake of each lane; False when refused."""
        for lane in lanes:
            sock: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            sock.linger = 0
            sock.rcvtimeo = sock.sndtimeo = 5000
            sock.connect(self._endpoint)
            self._sockets.append(sock)
            me = LinkIdentity(self.name, self.instance, window)
            handshake = Initiator(me, self._proof, self._parent, lane, self.link if lane is Lane.DATA else b"")
            sock.send(handshake.start())
            while handshake.state not in (State.UP, State.FAILED):
                answer = handshake.receive(sock.recv())
                if answer is not None:
                    sock.send(answer)
            if handshake.refusal is not None:
                self.refusal = handshake.refusal.code
                return False
            self.link = handshake.link
        return True

    @property
    def control(self) -> zmq.Socket[bytes]:
        return self._sockets[0]

    @property
    def data(self) -> zmq.Socket[bytes]:
        return self._sockets[1]

    def say(self, envelope: Envelope, body: bytes = NIL, *buffers: bytes) -> None:
        """Send one message on the control lane."""
        self.control.send_multipart([envelope.encode(), body, *buffers])

    def say_link(self, kind: Kind, **fields: Any) -> None:
        self.control.send(encode_link(kind, fields))

    def hear(self, timeout: float = 5.0) -> tuple[Envelope, bytes]:
        """The next routed message; heartbeats are answered on the way. Raises `zmq.Again` when there is none."""
        while True:
            if not self.control.poll(int(timeout * 1000)):
                raise zmq.Again
            frames = self.control.recv_multipart()
            kind = kind_of(frames[0])
            if kind == Kind.PING:
                self.say_link(Kind.PONG)
            elif kind == Kind.BATCH:
                parts = decode_batch(frames[0])
                return decode(parts[0]), parts[1]
            elif kind < Kind.HELLO:
                return decode(frames[0]), frames[1]

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@contextlib.contextmanager
def rogue(
    name: str, endpoint: str, secret: bytes, parent: str = "server", context: zmq.Context[Any] | None = None
) -> Iterator[Rogue]:
    """A rogue for the length of the block; `context` is needed for inproc."""
    own = context is None
    context = context or zmq.Context()
    neighbour = Rogue(name, endpoint, secret, parent, context)
    try:
        yield neighbour
    finally:
        neighbour.close()
        if own:
            context.term()
