"""Messages between links. Invariant: a message is delivered here, handed to the one next hop, or dropped and counted; never more.

Everything in this module runs on the I/O thread, except `link_towards`, which any thread may call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from zcell.cell.calls import PendingCalls, RawReply
from zcell.cell.events import LinkEvent
from zcell.cell.link import Link, LinkLostError
from zcell.cell.loop import IoLoop
from zcell.cell.statistics import Counters
from zcell.errors import ProtocolError
from zcell.fqcn import FQCN
from zcell.limits import Limits
from zcell.message import ReturnCode
from zcell.protocol import routing
from zcell.protocol.credit import MESSAGE_COST
from zcell.protocol.envelope import ROUTED, WORK, Envelope, Kind, decode, decode_batch, decode_link, kind_of

log = logging.getLogger("zcell.cell")
_OVERHEAD = 128 * 1024
"""Bytes that a message of the largest payload may have besides it: the envelope, what packing adds."""

Release = Callable[[], None]
"""Called, from any thread, when a piece of work is finished and its credit may go back."""
WorkFn = Callable[[Envelope, Any, list[Any], Release], None]
StreamFn = Callable[[str, memoryview], None]


class Switch:
    """The links of one cell and what moves over them."""

    def __init__(self, me: str, loop: IoLoop, limits: Limits, counters: Counters, calls: PendingCalls) -> None:
        self.me = me
        self._parent = FQCN.tree_parent(me)
        self.loop = loop
        self.limits = limits
        self.counters = counters
        self.calls = calls
        self.links: dict[str, Link] = {}
        self.streams: dict[bytes, StreamFn] = {}
        self.dirty: list[Link] = []
        """Links with small messages gathered in this turn of the loop."""
        loop.at_turn_end = self._flush
        self.on_work: WorkFn | None = None
        self.on_control: Callable[[Envelope, Any, list[Any]], None] | None = None
        self.on_link: Callable[[LinkEvent], None] | None = None
        self.on_lost: list[Callable[[Link, str], None]] = []
        """Who is told, on the I/O thread, of every link that went down: the gate, the uplink."""

    # -- links ---------------------------------------------------------------------------------------------------------

    def add(self, link: Link) -> None:
        self.links[link.peer] = link
        log.info("cell %s: link to %s is up", self.me, link.peer)
        if self.on_link is not None:
            self.on_link(LinkEvent(link.peer, True))

    def lose(self, link: Link, reason: str) -> None:
        """Take a link down. Idempotent."""
        if not link.up:
            return
        if self.links.get(link.peer) is link:
            del self.links[link.peer]
        lost = link.close()
        if lost:
            self.counters.drop("link_lost", lost)
        log.info("cell %s: link to %s is down: %s (%d queued messages lost)", self.me, link.peer, reason, lost)
        for told in self.on_lost:
            told(link, reason)
        self.calls.fail(ReturnCode.COMM_ERROR, f"the link to {link.peer} was lost: {reason}", link.id)
        if self.on_link is not None:
            self.on_link(LinkEvent(link.peer, False, reason))

    def check_alive(self, ping_parent: bool) -> None:
        """Take down links without a sign of life, report what credit is unreported; with `ping_parent`, ask the parent for life.

        A child that has been silent for half the time is asked too: its own heartbeat may be slower than what is expected here.
        """
        now = time.monotonic()
        for link in list(self.links.values()):
            silent = now - link.last_heard
            if silent > self.limits.link_timeout:
                self.lose(link, f"no sign of life for {silent:.1f} s")
                continue
            try:
                if link.received.is_stale:
                    link.report_credit()
                if (ping_parent and link.is_parent) or silent > self.limits.link_timeout / 2:
                    link.send_link(Kind.PING, {})
            except LinkLostError as e:
                self.lose(link, str(e))

    def _flush(self) -> None:
        dirty = self.dirty
        while dirty:
            link = dirty.pop()
            try:
                link.flush()
            except LinkLostError as e:
                self.lose(link, str(e))

    def link_towards(self, target: str) -> Link | None:
        """The link to the next hop of `target`, None when there is none. From any thread."""
        child = routing.child_towards(self.me, target)
        return self.links.get(child or self._parent)

    # -- incoming ------------------------------------------------------------------------------------------------------

    def receive(self, link: Link, frames: list[Any]) -> None:
        """Take one message of an authenticated link."""
        link.last_heard = time.monotonic()
        try:
            first = frames[0]
            if type(first) is not bytes:
                raise ProtocolError("a first frame of 64 KiB or more")
            number = kind_of(first)
            if number in ROUTED:
                self._receive_routed(link, decode(first), frames)
            elif number == Kind.BATCH:
                parts = decode_batch(first)
                for i in range(0, len(parts), 2):
                    self._receive_routed(link, decode(parts[i]), parts[i : i + 2])
            else:
                self._receive_link_frame(link, first)
        except (ProtocolError, ValueError, IndexError) as e:
            self.counters.drop("junk")
            log.debug("cell %s: junk from %s: %s", self.me, link.peer, e)
        except LinkLostError as e:
            self.lose(link, str(e))

    def _receive_link_frame(self, link: Link, frame: bytes) -> None:
        kind, fields = decode_link(frame)
        if kind is Kind.CREDIT:
            link.on_credit(fields)
        elif kind is Kind.PING:
            link.send_link(Kind.PONG, {})
        elif kind is Kind.BYE:
            self.lose(link, f"{link.peer} said: {str(fields.get('reason', ''))[:200]}")
        elif kind is not Kind.PONG:
            raise ProtocolError(f"{kind.name} on a link that is up")

    def _receive_routed(self, link: Link, envelope: Envelope, frames: list[Any]) -> None:
        kind = envelope.kind
        size = sum(map(len, frames))
        cost = size + MESSAGE_COST
        credit = link.received
        if kind is Kind.DATA:
            credit.data += size
        else:
            credit.control += cost
        release = None
        if kind in WORK:
            credit.arrived += cost
            if credit.is_exceeded(self.limits.message_bytes + _OVERHEAD):
                raise LinkLostError("it sends work without credit")
            release = partial(self._finished, link, cost)
        if not routing.may_come_from(link.peer, self.me, envelope.source):
            self.counters.drop("spoofed")
            log.warning("cell %s: dropped a message of %s that came from %s", self.me, envelope.source, link.peer)
        elif len(frames) < 2:
            self.counters.drop("junk")
        elif kind is not Kind.DATA and size > self.limits.message_bytes + _OVERHEAD:
            self.counters.drop("oversize")
            text = f"a message of {size} bytes, where {self.me} takes at most {self.limits.message_bytes}"
            self._refuse(link, envelope, ReturnCode.MSG_TOO_BIG, text)
        elif envelope.target == self.me:
            self.deliver(envelope, frames[1], frames[2:], release or _nothing)
            release = None
        else:
            self._forward(link, envelope, frames, cost, release)
            release = None
        if release is not None:
            release()
        if credit.is_due:
            link.report_credit()

    def _finished(self, link: Link, cost: int) -> None:
        """Work of `link` is done: from any thread; credit goes back when enough has gathered."""
        amount = link.finish(cost)
        if amount:
            if self.loop.is_here:
                self._return_credit(link, amount)
            else:
                self.loop.post(self._return_credit, link, amount)

    def _return_credit(self, link: Link, amount: int) -> None:
        link.received.work += amount
        if link.up and link.received.is_due:
            try:
                link.report_credit()
            except LinkLostError as e:
                self.lose(link, str(e))

    def deliver(self, envelope: Envelope, body: Any, buffers: list[Any], release: Release) -> None:
        """A message that has arrived."""
        kind = envelope.kind
        if kind is Kind.DATA:
            fn = self.streams.get(envelope.id) if isinstance(envelope.id, bytes) else None
            if fn is None:
                self.counters.drop("unknown_stream")
                return
            self.counters.add("data_frames_received")
            fn(envelope.source, memoryview(body.buffer if hasattr(body, "buffer") else body))
        elif kind is Kind.REPLY:
            if not self.calls.on_reply(self.me, RawReply(envelope, body, buffers)):
                self.counters.add("late_replies")
        elif kind is Kind.CONTROL:
            if self.on_control is not None:
                self.on_control(envelope, body, buffers)
        elif self.on_work is not None:
            self.on_work(envelope, body, buffers, release)

    def _forward(self, link: Link, envelope: Envelope, frames: list[Any], cost: int, release: Release | None) -> None:
        onward = self.link_towards(envelope.target)
        envelope.hops -= 1
        if onward is None or onward is link or envelope.hops <= 0:
            self._unreachable(link, envelope)
            if release is not None:
                release()
            return
        if envelope.kind is Kind.DATA and onward.out.unread_data > self.limits.relay_bytes:
            self.counters.drop("relay_full")
            return
        frames[0] = envelope.encode()
        self.counters.add("messages_forwarded")
        try:
            if release is not None:
                onward.send_work(frames, cost, release)
            elif envelope.kind is Kind.DATA:
                onward.send_data(frames, sum(map(len, frames)), None)
            else:
                onward.send_control(frames)
        except LinkLostError as e:
            self.lose(onward, str(e))
            self._unreachable(link, envelope)
            if release is not None:
                release()

    def _unreachable(self, link: Link, envelope: Envelope) -> None:
        """Say so to the caller of a request; count anything else."""
        if envelope.kind is not Kind.REQUEST:
            self.counters.drop("no_route")
        self._refuse(link, envelope, ReturnCode.TARGET_UNREACHABLE, f"{self.me} has no link towards {envelope.target}")

    def _refuse(self, link: Link, envelope: Envelope, rc: ReturnCode, error: str) -> None:
        """Answer a request that gets no further than this cell; nobody waits for anything else."""
        if envelope.kind is Kind.REQUEST:
            to = (envelope.source, envelope.channel, envelope.topic, envelope.id)
            link.send_control([Envelope(Kind.REPLY, self.me, *to, rc=rc, error=error).encode(), b"\xc0"])

    # -- outgoing ------------------------------------------------------------------------------------------------------

    def send_work(self, link: Link, frames: list[Any], cost: int) -> None:
        """Send a request or an event of this cell, whose `cost` was admitted."""
        if not link.up:
            link.admission.give_back(cost)
            self.counters.drop("link_lost")
            return
        try:
            link.send_work(frames, cost, partial(link.admission.give_back, cost))
        except LinkLostError as e:
            link.admission.give_back(cost)
            self.counters.drop("link_lost")
            self.lose(link, str(e))

    def send_control(self, envelope: Envelope, frames: list[Any]) -> None:
        """Send a reply or a control event of this cell; what cannot be sent is counted."""
        if envelope.target == self.me:
            self.deliver(envelope, frames[1], frames[2:], _nothing)
            return
        link = self.link_towards(envelope.target)
        if link is None:
            self.counters.drop("no_route")
            return
        try:
            link.send_control(frames)
        except LinkLostError as e:
            self.counters.drop("no_route")
            self.lose(link, str(e))

    def send_data(self, envelope: Envelope, frames: list[Any], size: int, done: Callable[[bool], None] | None) -> None:
        """Send a data frame of this cell; `done` is told whether it left."""
        if envelope.target == self.me:
            self.deliver(envelope, frames[1], [], _nothing)
            if done is not None:
                done(True)
            return
        link = self.link_towards(envelope.target)
        if link is not None:
            try:
                link.send_data(frames, size, done)
                self.counters.add("data_frames_sent")
                return
            except LinkLostError as e:
                self.lose(link, str(e))
        self.counters.drop("no_route")
        if done is not None:
            done(False)


def _nothing() -> None:
    """What is released when nothing was taken."""
