"""Where children arrive. Invariant: a connection is nobody until its handshake is done, and is dropped when that takes too long."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any

import zmq

from zcell.cell.endpoints import prepare_ipc, remove_ipc
from zcell.cell.link import LaneSocket, Link, LinkLostError
from zcell.cell.sockets import Drain, close_socket, monitor_of, open_socket, read_monitor
from zcell.cell.switch import Switch
from zcell.errors import ProtocolError
from zcell.fqcn import FQCN
from zcell.protocol.envelope import MAX_LINK_FRAME_BYTES, VERSION, Kind, encode_link, kind_of
from zcell.protocol.link import Acceptor, Lane, LinkIdentity, Refusal, State
from zcell.security.proof import LinkProof

log = logging.getLogger("zcell.cell.gate")

_BATCH = 64
_SWEEP_DELAY = 0.02
_PAUSE = threading.Event()  # never set
_ALIVE_WAIT = 1.0
"""Seconds a link has to show life before another incarnation of its cell takes its place."""


@dataclass(slots=True)
class _Arrival:
    """A connection in its handshake."""

    acceptor: Acceptor
    deadline: float


class Gate:
    """The listening side of a cell: one ROUTER, bound to all its endpoints. On the I/O thread only."""

    def __init__(self, switch: Switch, identity: LinkIdentity, proof: LinkProof, context: zmq.Context[Any]) -> None:
        self._switch = switch
        self._identity = identity
        self._proof = proof
        self._context = context
        self._socket: zmq.Socket[bytes] | None = None
        self._watcher: zmq.Socket[Any] | None = None
        self._arrivals: dict[bytes, _Arrival] = {}
        self._members: dict[bytes, Link] = {}
        self._bound: list[str] = []
        self._sweeping = False
        self._drain = Drain(_BATCH)
        switch.on_lost.append(self._forget)

    def bind(self, urls: list[str], patience: float) -> list[str]:
        """Bind all; the addresses with ports resolved. Raises `OSError` naming the address that cannot be bound.

        An address in use is tried again for `patience` seconds: in a shared context, a cell that was stopped just now gives
        its port back only some time later.
        """
        self._socket = open_socket(self._context, zmq.ROUTER, self._switch.limits, " ".join(urls))
        end = time.monotonic() + patience
        for url in urls:
            try:
                prepare_ipc(url)
                while not self._bind_one(url, time.monotonic() >= end):
                    _PAUSE.wait(0.005)
            except BaseException:
                self.close("cannot bind")
                raise
            self._bound.append(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self._watcher = monitor_of(self._socket)
        return list(self._bound)

    def _bind_one(self, url: str, last_try: bool) -> bool:
        assert self._socket is not None
        try:
            self._socket.bind(url)
        except zmq.ZMQError as e:
            if e.errno == zmq.EADDRINUSE and not last_try:
                return False
            raise OSError(e.errno, f"cannot listen on {url}: {e.strerror or e}") from None
        return True

    def open(self) -> None:
        """Begin to read."""
        assert self._socket is not None
        self._switch.loop.watch(self._socket, self._read)
        self._switch.loop.watch(self._watcher, self._watch, sends=False)

    def _watch(self) -> bool:
        """A connection was lost, but not whose: ask everyone soon, once however many were lost together."""
        assert self._watcher is not None
        if read_monitor(self._watcher) and not self._sweeping:
            self._sweeping = True
            self._switch.loop.call_later(_SWEEP_DELAY, self._sweep)
        return False

    def _sweep(self) -> None:
        self._sweeping = False
        for link in {id(x): x for x in self._members.values()}.values():
            self._probe(link)

    def _probe(self, link: Link) -> None:
        """Ask both lanes of a link for life: a lane without a connection fails at once."""
        try:
            link.send_link(Kind.PING, {})
            if link.data is not None:
                link.data.send([encode_link(Kind.PING, {})])
        except LinkLostError:
            self._switch.lose(link, "the connection was closed")

    def _read(self) -> bool:
        assert self._socket is not None
        for frames in self._drain.all_of(self._socket):
            routing_id = frames.pop(0)
            link = self._members.get(routing_id)
            if link is not None:
                self._switch.receive(link, frames)
            else:
                self._receive_stranger(routing_id, frames)
        return False

    def _receive_stranger(self, routing_id: bytes, frames: list[Any]) -> None:
        frame = frames[0] if len(frames) == 1 and type(frames[0]) is bytes else b""
        try:
            if not frame or len(frame) > MAX_LINK_FRAME_BYTES:
                raise ProtocolError("not a handshake")
            if frame[0] == 0x93 and frame[1:2] != bytes([VERSION]):
                text = f"this cell speaks version {VERSION}"
                self._answer(routing_id, encode_link(Kind.REFUSED, {"code": "wrong_version", "text": text}))
                raise ProtocolError("another version")
            arrival = self._arrivals.get(routing_id)
            if arrival is None:
                arrival = self._admit_stranger(routing_id, frame)
            self._advance(routing_id, arrival.acceptor, frame)
        except ProtocolError as e:
            self._arrivals.pop(routing_id, None)
            self._switch.counters.drop("junk")
            log.debug("cell %s: junk at the gate: %s", self._switch.me, e)

    def _admit_stranger(self, routing_id: bytes, frame: bytes) -> _Arrival:
        """Room for one more handshake, if it begins as one."""
        if kind_of(frame) != Kind.HELLO:
            # a neighbour that does not know yet that its link is gone
            self._answer(routing_id, encode_link(Kind.BYE, {"reason": "unknown link"}))
            raise ProtocolError("no link")
        now = time.monotonic()
        limits = self._switch.limits
        for key in [k for k, a in self._arrivals.items() if a.deadline < now]:
            del self._arrivals[key]
        if len(self._arrivals) >= limits.max_pending_links:
            # the oldest goes: a real cell is through in milliseconds, and a stranger that waits must not keep it out
            del self._arrivals[next(iter(self._arrivals))]
            self._switch.counters.drop("gate_full")
        arrival = _Arrival(Acceptor(self._identity, self._proof), now + limits.handshake_timeout)
        self._arrivals[routing_id] = arrival
        return arrival

    def _advance(self, routing_id: bytes, acceptor: Acceptor, frame: bytes) -> None:
        answer = acceptor.receive(frame)
        if answer is not None:
            self._answer(routing_id, answer)
        if acceptor.state is State.FAILED:
            self._arrivals.pop(routing_id, None)
            self._switch.counters.drop("refused_link")
            log.warning("cell %s refused a link: %s", self._switch.me, acceptor.refusal.text if acceptor.refusal else "")
        elif acceptor.state is State.ADMITTED:
            self._arrivals.pop(routing_id, None)
            if acceptor.lane is Lane.DATA:
                self._attach(routing_id, acceptor)
            else:
                self._join(routing_id, acceptor)

    def _join(self, routing_id: bytes, acceptor: Acceptor) -> None:
        """A cell has proved itself on its control lane: link it, unless its place is wrong or taken."""
        peer = acceptor.peer
        assert peer is not None
        me = self._switch.me
        if FQCN.tree_parent(peer.name) != me:
            text = f"{peer.name!r} is not a child of {me!r}; its parent is {FQCN.tree_parent(peer.name)!r}"
            self._refuse(routing_id, acceptor, Refusal("wrong_place", text))
            return
        if len(self._switch.links) >= self._switch.limits.max_links:
            self._refuse(routing_id, acceptor, Refusal("full", f"{me!r} has {len(self._switch.links)} links, its limit"))
            return
        old = self._switch.links.get(peer.name)
        if old is not None:
            self._probe(old)
        if old is None or not old.up or old.instance == peer.instance:
            self._welcome(routing_id, acceptor, peer)
        else:
            asked = time.monotonic()
            self._switch.loop.call_later(_ALIVE_WAIT, lambda: self._decide(routing_id, acceptor, peer, old, asked))

    def _decide(self, routing_id: bytes, acceptor: Acceptor, peer: LinkIdentity, old: Link, asked: float) -> None:
        """Two incarnations claim one name: the old one stays if it has shown life since it was asked."""
        if self._socket is None:
            return
        if old.up and old.last_heard >= asked:
            text = f"a cell named {peer.name!r} is linked to {self._switch.me!r} already, and alive"
            self._refuse(routing_id, acceptor, Refusal("name_taken", text))
        else:
            self._welcome(routing_id, acceptor, peer)

    def _welcome(self, routing_id: bytes, acceptor: Acceptor, peer: LinkIdentity) -> None:
        old = self._switch.links.get(peer.name)
        if old is not None:
            self._switch.lose(old, "replaced by a new incarnation")
        assert self._socket is not None
        link_id = secrets.token_bytes(16)
        lane = LaneSocket(self._socket, routing_id)
        link = Link(self._identity, peer, link_id, lane, self._switch.limits, self._switch.dirty, is_parent=False)
        if self._answer(routing_id, acceptor.welcome(link_id)):
            self._members[routing_id] = link
            self._switch.add(link)

    def _attach(self, routing_id: bytes, acceptor: Acceptor) -> None:
        """The data lane of a link whose control lane is up."""
        peer = acceptor.peer
        assert peer is not None
        assert self._socket is not None
        link = self._switch.links.get(peer.name)
        if link is None or link.id != acceptor.link or link.instance != peer.instance or link.data is not None:
            self._refuse(routing_id, acceptor, Refusal("unknown_link", "that link is not up"))
            return
        if self._answer(routing_id, acceptor.welcome(link.id)):
            self._members[routing_id] = link
            try:
                link.attach_data(LaneSocket(self._socket, routing_id))
            except LinkLostError as e:
                self._switch.lose(link, str(e))

    def _refuse(self, routing_id: bytes, acceptor: Acceptor, refusal: Refusal) -> None:
        self._answer(routing_id, acceptor.refuse(refusal))
        self._switch.counters.drop("refused_link")
        log.warning("cell %s refused a link: %s", self._switch.me, refusal.text)

    def _answer(self, routing_id: bytes, frame: bytes) -> bool:
        """Whether the connection was still there to be answered."""
        assert self._socket is not None
        try:
            LaneSocket(self._socket, routing_id).send([frame])
        except LinkLostError:
            self._arrivals.pop(routing_id, None)
            return False
        return True

    def _forget(self, link: Link, reason: str) -> None:
        for routing_id in [r for r, member in self._members.items() if member is link]:
            del self._members[routing_id]

    def close(self, reason: str) -> None:
        """Say goodbye to every child and close. Idempotent."""
        if self._socket is None:
            return
        for link in list(self._switch.links.values()):
            if not link.is_parent:
                try:
                    link.send_link(Kind.BYE, {"reason": reason})
                except LinkLostError:
                    log.debug("cell %s: %s had gone before the goodbye", self._switch.me, link.peer)
                self._switch.lose(link, reason)
        self._switch.loop.unwatch(self._socket)
        if self._watcher is not None:
            self._switch.loop.unwatch(self._watcher)
        for url in self._bound:
            if url.startswith("inproc://"):  # closing frees the name only some time later, and a new cell may want it now
                self._socket.unbind(url)
        close_socket(self._socket, self._watcher)
        self._socket = self._watcher = None
        for url in self._bound:
            remove_ipc(url)
