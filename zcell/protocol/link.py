"""The link handshake. Invariant: nothing but its four frames is looked at until both ends have proved who they are.

The initiator (a child, or a peer) and the acceptor exchange, on each lane of a link,

    HELLO      initiator -> acceptor   name, instance, nonce, lane, link, window, scheme, to
    CHALLENGE  acceptor -> initiator   name, instance, nonce, window, proof
    PROVE      initiator -> acceptor   proof
    WELCOME    acceptor -> initiator   link, data           or   REFUSED  code, text   at any time

A proof covers the role and a transcript: everything both ends said before it, nonces included. The control lane comes first; its
WELCOME names the link, which the HELLO of the data lane repeats. `STATES` is the whole machine, for both roles; the diagrams in the
documentation are made from it.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgpack

from zcell.errors import ProtocolError
from zcell.fqcn import FQCN
from zcell.protocol.envelope import VERSION, Kind, decode_link, encode_link
from zcell.security.proof import LinkProof

_MAX_PROOF = 2048
_MAX_WINDOW = 1 << 32


class Lane(StrEnum):
    CONTROL = "control"
    DATA = "data"


class State(StrEnum):
    IDLE = "idle"
    HELLO_SENT = "hello sent"
    PROVED = "proved"
    CHALLENGED = "challenged"
    ADMITTED = "admitted"
    UP = "up"
    FAILED = "failed"


STATES: dict[str, dict[tuple[State, Kind], State]] = {
    "initiator": {
        (State.HELLO_SENT, Kind.CHALLENGE): State.PROVED,
        (State.PROVED, Kind.WELCOME): State.UP,
        (State.HELLO_SENT, Kind.REFUSED): State.FAILED,
        (State.PROVED, Kind.REFUSED): State.FAILED,
    },
    "acceptor": {
        (State.IDLE, Kind.HELLO): State.CHALLENGED,
        (State.CHALLENGED, Kind.PROVE): State.ADMITTED,
    },
}
"""role -> (state, frame received) -> next state. What is not listed ends the handshake."""


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """What one end says about itself: its name, this incarnation of it (16 bytes), and its window of work in bytes."""

    name: str
    instance: bytes
    window: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a link was refused. `final` refusals will not change by trying again."""

    code: str
    text: str

    FINAL = frozenset({"bad_proof", "name_taken", "wrong_name", "wrong_scheme", "wrong_version", "wrong_place"})

    @property
    def final(self) -> bool:
        return self.code in self.FINAL


class _Handshake:
    def __init__(self, role: str, me: LinkIdentity, proof: LinkProof, state: State) -> None:
        self.role = role
        self.me = me
        self.proof = proof
        self.state = state
        self.nonce = secrets.token_bytes(16)
        self.lane = Lane.CONTROL
        self.link = b""
        self.peer: LinkIdentity | None = None
        self.peer_nonce = b""
        self.refusal: Refusal | None = None

    def receive(self, frame: bytes) -> bytes | None:
        """Take a frame of the other end; the frame to answer with, if any. Raises `ProtocolError`, and has then failed."""
        try:
            kind, fields = decode_link(frame)
            next_state = STATES[self.role].get((self.state, kind))
            if next_state is None:
                raise ProtocolError(f"{kind.name} in state '{self.state}' of the {self.role}")
            answer = self._take(kind, fields)
        except ProtocolError:
            self.state = State.FAILED
            raise
        if self.state is not State.FAILED:
            self.state = next_state
        return answer

    def _take(self, kind: Kind, fields: dict[str, Any]) -> bytes | None:
        raise AssertionError("each role has its own")

    def _read_peer(self, fields: dict[str, Any]) -> None:
        name, instance, nonce, window = (fields.get(k) for k in ("name", "instance", "nonce", "window"))
        if not FQCN.is_valid(name):
            raise ProtocolError("a handshake without a valid cell name")
        if not (_is_bytes(instance, 16) and _is_bytes(nonce, 16)):
            raise ProtocolError("a handshake without a 16-byte instance and nonce")
        if type(window) is not int or not 0 < window <= _MAX_WINDOW:
            raise ProtocolError(f"a handshake with the window {window!r}")
        assert isinstance(name, str)
        assert isinstance(instance, bytes)
        assert isinstance(nonce, bytes)
        self.peer = LinkIdentity(name, instance, window)
        self.peer_nonce = nonce

    def _transcript(self) -> bytes:
        assert self.peer is not None
        ends = [(self.me, self.nonce), (self.peer, self.peer_nonce)]
        if self.role == "acceptor":
            ends.reverse()
        said = [[i.name, i.instance, i.window, nonce] for i, nonce in ends]
        packed = msgpack.packb(["zcell link", VERSION, self.proof.scheme, str(self.lane), self.link, *said])
        return hashlib.sha256(packed).digest()

    def _peer_proved(self, fields: dict[str, Any]) -> bool:
        proof = fields.get("proof")
        other = "acceptor" if self.role == "initiator" else "initiator"
        assert self.peer is not None
        return (
            type(proof) is bytes
            and len(proof) <= _MAX_PROOF
            and self.proof.verify(other, self._transcript(), proof, self.peer.name)
        )


def _is_bytes(value: object, length: int) -> bool:
    return type(value) is bytes and len(value) == length


class Initiator(_Handshake):
    """The end that connects. `expected` is the name the acceptor must have."""

    def __init__(self, me: LinkIdentity, proof: LinkProof, expected: str, lane: Lane = Lane.CONTROL, link: bytes = b"") -> None:
        super().__init__("initiator", me, proof, State.IDLE)
        self.expected = expected
        self.lane = lane
        self.link = link
        self.welcome: dict[str, Any] = {}

    def start(self) -> bytes:
        """The HELLO to send first."""
        self.state = State.HELLO_SENT
        return encode_link(
            Kind.HELLO,
            {
                "name": self.me.name,
                "instance": self.me.instance,
                "nonce": self.nonce,
                "window": self.me.window,
                "lane": str(self.lane),
                "link": self.link,
                "scheme": self.proof.scheme,
                "to": self.expected,
            },
        )

    def _take(self, kind: Kind, fields: dict[str, Any]) -> bytes | None:
        if kind is Kind.REFUSED:
            code, text = fields.get("code"), fields.get("text")
            if not (isinstance(code, str) and isinstance(text, str)):
                raise ProtocolError("a refusal without code and text")
            self.refusal = Refusal(code[:64], text[:500])
            return None
        if kind is Kind.CHALLENGE:
            return self._challenged(fields)
        link = fields.get("link")
        if not _is_bytes(link, 16):
            raise ProtocolError("a welcome without a 16-byte link id")
        assert isinstance(link, bytes)
        self.link = link
        self.welcome = fields
        return None

    def _challenged(self, fields: dict[str, Any]) -> bytes | None:
        self._read_peer(fields)
        assert self.peer is not None
        if self.peer.name != self.expected:
            self._fail("wrong_name", f"the cell there is {self.peer.name!r}, expected {self.expected!r}")
            return None
        if not self._peer_proved(fields):
            self._fail("bad_proof", f"the cell there does not know the link secret of {self.me.name!r}")
            return None
        return encode_link(Kind.PROVE, {"proof": self.proof.prove("initiator", self._transcript())})

    def _fail(self, code: str, text: str) -> None:
        self.refusal = Refusal(code, text)
        self.state = State.FAILED


class Acceptor(_Handshake):
    """The end that listens: one per connection, until the cell that drives it admits or refuses the link."""

    def __init__(self, me: LinkIdentity, proof: LinkProof) -> None:
        super().__init__("acceptor", me, proof, State.IDLE)

    def _take(self, kind: Kind, fields: dict[str, Any]) -> bytes | None:
        if kind is Kind.HELLO:
            return self._greeted(fields)
        if not self._peer_proved(fields):
            return self.refuse(Refusal("bad_proof", f"wrong link secret for {self.me.name!r}"))
        return None

    def _greeted(self, fields: dict[str, Any]) -> bytes:
        self._read_peer(fields)
        lane, link = fields.get("lane"), fields.get("link")
        if lane not in (Lane.CONTROL, Lane.DATA) or type(link) is not bytes or len(link) != (16 if lane == Lane.DATA else 0):
            raise ProtocolError("a hello without a valid lane and link")
        self.lane = Lane(lane)
        self.link = link
        if fields.get("scheme") != self.proof.scheme:
            return self.refuse(Refusal("wrong_scheme", f"{self.me.name!r} asks for proof by {self.proof.scheme!r}"))
        if fields.get("to") != self.me.name:
            return self.refuse(Refusal("wrong_name", f"this cell is {self.me.name!r}"))
        return encode_link(
            Kind.CHALLENGE,
            {
                "name": self.me.name,
                "instance": self.me.instance,
                "nonce": self.nonce,
                "window": self.me.window,
                "proof": self.proof.prove("acceptor", self._transcript()),
            },
        )

    def refuse(self, refusal: Refusal) -> bytes:
        """End the handshake; the frame that says why."""
        self.refusal = refusal
        self.state = State.FAILED
        return encode_link(Kind.REFUSED, {"code": refusal.code, "text": refusal.text})

    def welcome(self, link: bytes, data: str = "") -> bytes:
        """The frame that puts the lane up: the link's id, and where its data lane connects ("" for the same endpoint)."""
        self.link = link
        self.state = State.UP
        return encode_link(Kind.WELCOME, {"link": link, "data": data})
