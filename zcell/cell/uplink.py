"""The link to the parent. Invariant: every attempt is new sockets and a new handshake; what a former attempt sent is never believed.

An attempt opens the control lane, then the data lane, and fails as a whole. After a failure the next one waits a random part of a
growing time, so that a hundred children of a restarted parent do not come back in the same millisecond.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import zmq

from zcell.abort import Abort
from zcell.cell.link import LaneSocket, Link, LinkLostError
from zcell.cell.loop import Timer
from zcell.cell.sockets import Drain, close_socket, monitor_of, open_socket, read_monitor
from zcell.cell.switch import Switch
from zcell.errors import LinkError, LinkRefusedError, ProtocolError
from zcell.protocol.envelope import Kind
from zcell.protocol.link import Initiator, Lane, LinkIdentity, State
from zcell.security.proof import LinkProof

log = logging.getLogger("zcell.cell.uplink")
_BATCH_KIND = bytes([Kind.BATCH])
_BATCH = 64
_DATA_BATCH = 8


@dataclass(slots=True)
class _Wire:
    """One lane's socket in one attempt."""

    handshake: Initiator
    socket: zmq.Socket[bytes]
    watcher: zmq.Socket[Any] | None
    drain: Drain


class Uplink:
    """Keeps one cell linked to its parent. On the I/O thread only, except `wait`, `is_ready`."""

    def __init__(
        self,
        switch: Switch,
        identity: LinkIdentity,
        proof: LinkProof,
        context: zmq.Context[Any],
        url: str,
        parent: str,
    ) -> None:
        self._switch = switch
        self._identity = identity
        self._proof = proof
        self._context = context
        self.url = url
        self.parent = parent
        self._wires: dict[Lane, _Wire] = {}
        self._link: Link | None = None
        self._early: list[list[Any]] = []
        """What the parent sent between the two lanes' handshakes: it waits, for its answers could not travel yet."""
        self._timer: Timer | None = None
        self._failures = 0
        self._closed = False
        self._condition = threading.Condition()
        self._ready = False
        self._error = ""
        self._refused = False
        switch.on_lost.append(self._on_lost)

    # -- for other threads ---------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        return self._ready

    def wait(self, timeout: float, abort: Abort | None = None) -> None:
        """Return once both lanes are up; raise `LinkRefusedError` once refused, `LinkError` after `timeout` seconds or by `abort`."""
        abort = abort or Abort()
        key = abort.add_callback(self._notify)
        try:
            with self._condition:
                self._condition.wait_for(lambda: self._ready or self._refused or self._closed or abort.triggered, timeout)
                self._check_ready(timeout, abort)
        finally:
            abort.remove_callback(key)

    def _notify(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _check_ready(self, timeout: float, abort: Abort) -> None:
        if self._ready:
            return
        where = f"{self.parent} at {self.url}"
        if self._refused:
            raise LinkRefusedError(f"{where} refused {self._switch.me!r}: {self._error}")
        if self._closed:
            raise LinkError(f"the cell {self._switch.me!r} was stopped while it waited for {where}")
        if abort.triggered:
            raise LinkError(f"{self._switch.me!r} no longer waits for {where}: {abort.reason}")
        raise LinkError(
            f"{self._switch.me!r} has no link to {where} after {timeout:g} s: "
            f"{self._error or 'nobody answers there'}; check the address, and that the parent runs"
        )

    def _set(self, ready: bool, error: str = "", refused: bool = False) -> None:
        with self._condition:
            self._ready = ready
            self._error = error or self._error
            self._refused = refused
            self._condition.notify_all()

    # -- attempts ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin an attempt."""
        if self._closed:
            return
        self._timer = self._switch.loop.call_later(self._switch.limits.handshake_timeout, self._too_slow)
        self._connect(Lane.CONTROL, self.url, b"")

    def _connect(self, lane: Lane, url: str, link_id: bytes) -> None:
        socket = open_socket(self._context, zmq.DEALER, self._switch.limits, url)
        watcher = None if url.startswith("inproc://") else monitor_of(socket)
        handshake = Initiator(self._identity, self._proof, self.parent, lane, link_id)
        drain = Drain(_BATCH if lane is Lane.CONTROL else _DATA_BATCH)
        wire = self._wires[lane] = _Wire(handshake, socket, watcher, drain)
        try:
            socket.connect(url)
            LaneSocket(socket).send([handshake.start()])
        except (zmq.ZMQError, LinkLostError) as e:
            self._fail(f"cannot connect to {url}: {e}")
            return
        self._switch.loop.watch(socket, lambda: self._read(lane, wire))
        if watcher is not None:
            self._switch.loop.watch(watcher, lambda: self._watch(watcher), sends=False)

    def _watch(self, watcher: zmq.Socket[Any]) -> bool:
        if read_monitor(watcher):
            self._fail("the connection was closed by the other end")
        return False

    def _too_slow(self) -> None:
        if not self._ready:
            self._fail(f"no answer within {self._switch.limits.handshake_timeout:g} s")

    def _read(self, lane: Lane, wire: _Wire) -> bool:
        for frames in wire.drain.all_of(wire.socket):
            link = self._link
            if wire.handshake.state is State.UP and link is not None:
                if self._ready or (len(frames) == 1 and frames[0][2:3] != _BATCH_KIND):
                    self._switch.receive(link, frames)
                else:
                    self._early.append(frames)
            else:
                self._advance(lane, wire, frames)
        return False

    def _advance(self, lane: Lane, wire: _Wire, frames: list[Any]) -> None:
        try:
            if len(frames) != 1 or type(frames[0]) is not bytes:
                raise ProtocolError("a message where a handshake belongs")
            answer = wire.handshake.receive(frames[0])
            if answer is not None:
                LaneSocket(wire.socket).send([answer])
        except (ProtocolError, LinkLostError) as e:
            if isinstance(e, ProtocolError):
                self._switch.counters.drop("junk")
            self._fail(f"the handshake failed: {e}")
            return
        refusal = wire.handshake.refusal
        if refusal is not None:
            self._fail(refusal.text, refusal.final)
        elif wire.handshake.state is State.UP and lane is Lane.CONTROL:
            self._control_up(wire)
        elif wire.handshake.state is State.UP:
            self._data_up(wire)

    def _control_up(self, wire: _Wire) -> None:
        handshake = wire.handshake
        peer = handshake.peer
        assert peer is not None
        switch = self._switch
        lane = LaneSocket(wire.socket)
        self._link = Link(self._identity, peer, handshake.link, lane, switch.limits, switch.dirty, is_parent=True)
        where = handshake.welcome.get("data")
        url = where if isinstance(where, str) and where else self.url
        self._connect(Lane.DATA, url, handshake.link)

    def _data_up(self, wire: _Wire) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._failures = 0
        link = self._link
        assert link is not None
        try:
            link.attach_data(LaneSocket(wire.socket))
        except LinkLostError as e:
            self._fail(str(e))
            return
        link.last_heard = time.monotonic()
        self._switch.add(link)
        self._set(ready=True)
        early, self._early = self._early, []
        for frames in early:
            self._switch.receive(link, frames)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _on_lost(self, link: Link, reason: str) -> None:
        if link is self._link:
            self._fail(reason)

    def _fail(self, reason: str, final: bool = False) -> None:
        """End this attempt, or this link, and plan the next."""
        link, self._link = self._link, None
        self._drop_wires(saying_goodbye=self._closed and link is not None and link.up)
        self._set(ready=False, error=reason, refused=final)
        if link is not None and link.up:
            self._switch.lose(link, reason)
        if self._closed:
            return
        log.debug("cell %s: no link to %s: %s", self._switch.me, self.parent, reason)
        limits = self._switch.limits
        ceiling = limits.reconnect_max if final else min(limits.reconnect_max, limits.reconnect_min * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._timer = self._switch.loop.call_later(random.uniform(ceiling / 4, ceiling), self.open)  # noqa: S311 - jitter

    def _drop_wires(self, saying_goodbye: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for wire in self._wires.values():
            if not saying_goodbye:  # a socket that lingers with an unsent HELLO goes on connecting
                wire.socket.linger = 0
            self._switch.loop.unwatch(wire.socket)
            if wire.watcher is not None:
                self._switch.loop.unwatch(wire.watcher)
            close_socket(wire.socket, wire.watcher)
        self._wires.clear()
        self._early.clear()

    def close(self, reason: str) -> None:
        """Say goodbye to the parent and close. Idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._link is not None and self._link.up:
            try:
                self._link.send_link(Kind.BYE, {"reason": reason})
            except LinkLostError:
                log.debug("cell %s: the parent had gone before the goodbye", self._switch.me)
        self._fail(reason)
