"""The owner's side of the wire: refs, requests for them, and the transfers that serve them. Invariant: nothing tells a stranger
that a ref exists.

Requests run on the pool; events run on the I/O thread and only change a machine. What cannot be understood is dropped and logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from zcell.download.listening import tolerant, understood
from zcell.download.offer import Offer
from zcell.download.outcome import ProduceRC
from zcell.download.progress import ProgressEvent, ProgressState
from zcell.download.sealing import Sealer
from zcell.download.serving import Outgoing
from zcell.download.sources import SourceError
from zcell.download.stepping import STEP_CHANNEL
from zcell.download.transaction import Expectation, Transaction
from zcell.message import Request
from zcell.protocol.transfer import messages as msg

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

log = logging.getLogger("zcell.download")
_MAX_GONE = 100_000
_MAX_STREAMS_EACH = 64
"""Transfers that one receiver may have running of one ref; more end the oldest."""


_Key = tuple[str, bytes]
"""Receiver and stream: the receiver chose the stream's id, so a stranger who knows it takes nobody's place."""


class _Refused(Exception):
    """A ref that `failure` (a `DownloadError` reason) keeps from being served."""

    def __init__(self, failure: str, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.text = text[: msg.MAX_TEXT]


class _Gone(NamedTuple):
    """What is kept of a ref whose transaction has ended: enough to say so, and nothing of what was offered."""

    until: float
    expectation: Expectation
    status: str


class Answering:
    """Answers the receivers of what one cell offers."""

    def __init__(self, cell: Cell, sealer_for: Callable[[str], Sealer]) -> None:
        self._cell = cell
        self._sealer_for = sealer_for
        self._lock = threading.Lock()
        self._offers: dict[str, tuple[Offer, Transaction]] = {}
        self._gone: OrderedDict[str, _Gone] = OrderedDict()
        self._outgoing: dict[_Key, Outgoing] = {}
        self._ending: list[Outgoing] = []
        self._stepping: dict[_Key, tuple[Offer, Transaction]] = {}
        self._requests: dict[str, Callable[[Request], Any]] = {
            msg.Open.topic: self._on_open,
            msg.Done.topic: self._on_done,
            msg.Digests.topic: self._on_digests,
        }
        self._events: dict[str, Callable[[Request], None]] = {
            msg.Pull.topic: self._on_pull,
            msg.AskRoot.topic: self._on_ask_root,
            msg.Close.topic: self._on_close,
            msg.Progress.topic: self._on_progress,
        }

    def register(self) -> None:
        """Answer from now on. Any cell may ask: the ref id is the capability."""
        for topic, fn in self._requests.items():
            self._cell.register(msg.CHANNEL, topic, understood(fn), allow="any")
        for topic, event in self._events.items():
            self._cell.register(msg.CHANNEL, topic, tolerant(event), allow="any", inline=True)
        self._cell.register(STEP_CHANNEL, msg.Step.topic, understood(self._on_step), allow="any")

    def unregister(self) -> None:
        """Answer no more."""
        for topic in (*self._requests, *self._events):
            self._cell.unregister(msg.CHANNEL, topic)
        self._cell.unregister(STEP_CHANNEL, msg.Step.topic)

    # --- the refs ----------------------------------------------------------------------------------------------------------

    def publish(self, offer: Offer, tx: Transaction) -> None:
        """Raises `ValueError` when the ref id is taken."""
        with self._lock:
            if offer.ref.id in self._offers:
                raise ValueError(f"ref id {offer.ref.id!r} is already on offer")
            self._gone.pop(offer.ref.id, None)
            self._offers[offer.ref.id] = (offer, tx)

    def retire(self, offers: list[Offer], tx: Transaction, until: float) -> None:
        """These refs are gone, and answer so until the time `until`."""
        ids = {offer.ref.id for offer in offers}
        now = time.monotonic()
        gone = _Gone(until, tx.expectation, tx.status.value)
        with self._lock:
            for ref_id in ids:
                self._offers.pop(ref_id, None)
                self._gone[ref_id] = gone
            while self._gone and (len(self._gone) > _MAX_GONE or next(iter(self._gone.values())).until < now):
                self._gone.popitem(last=False)
            ending = [out for out in self._outgoing.values() if out.offer.ref.id in ids]
            for out in ending:
                del self._outgoing[out.key]
            for key in [k for k, (offer, _) in self._stepping.items() if offer.ref.id in ids]:
                del self._stepping[key]
        for out in ending:
            failure = out.offer.failure
            out.fail("gone" if failure is None else "source_failed", failure or "the transaction has ended")
            self._close(out)
        for offer in offers:
            offer.release()

    def transfers_of(self, offers: Iterable[Offer]) -> int:
        """How many transfers of these offers are running."""
        ids = {offer.ref.id for offer in offers}
        with self._lock:
            return sum(out.offer.ref.id in ids for out in self._outgoing.values())

    def drop_silent(self, tx: Transaction, now: float) -> None:
        """Forget transfers of `tx` whose receivers have been silent for its idle timeout."""
        with self._lock:
            silent = [
                out
                for out in self._outgoing.values()
                if now - out.last_heard >= tx.idle_timeout and self._offers.get(out.offer.ref.id, (None, None))[1] is tx
            ]
            for out in silent:
                del self._outgoing[out.key]
        for out in silent:
            self._close(out)

    def _close(self, out: Outgoing) -> None:
        out.close()
        if not out.released.is_set():
            self._ending = [o for o in self._ending if not o.released.is_set()] + [out]

    def wait_released(self, deadline: float) -> None:
        """Wait, at most until the time `deadline`, for transfers that were ended while they had a chunk in work."""
        for out in self._ending:
            out.released.wait(max(0.0, deadline - time.monotonic()))

    def _find(self, ref_id: str, origin: str) -> tuple[Offer, Transaction]:
        """The offer, if `origin` may have it; raises `_Refused`."""
        with self._lock:
            found = self._offers.get(ref_id)
            gone = self._gone.get(ref_id)
        if found is not None and found[1].expectation.admits(origin):
            return found
        if found is None and gone is not None and gone.until >= time.monotonic() and gone.expectation.admits(origin):
            raise _Refused("gone", f"the transaction of this ref has ended ({gone.status})")
        raise _Refused("unknown_ref", "the owner offers nothing under this ref")

    # --- requests, on the pool ---------------------------------------------------------------------------------------------

    def _on_open(self, request: Request) -> dict[str, Any]:
        message = msg.parse(msg.Open, request.payload)
        try:
            return self._open(message, request.origin).to_payload()
        except _Refused as refused:
            return msg.Description(failure=refused.failure, text=refused.text).to_payload()

    def _open(self, message: msg.Open, origin: str) -> msg.Description:
        offer, tx = self._find(message.ref_id, origin)
        if offer.failure is not None:
            raise _Refused("source_failed", offer.failure)
        tx.seen(origin)
        source = offer.source
        if source is None:
            with self._lock:
                self._stepping[origin, message.stream] = (offer, tx)
            return msg.Description(kind="steps", random_access=bool(getattr(offer.producer, "random_access", False)))
        try:
            self._open_stream(offer, tx, origin, message)
        except SourceError as error:
            raise _Refused("source_failed", str(error)) from error
        root = offer.ref.digest.root if offer.ref.digest is not None else None
        return msg.Description(name=source.name[:255], size=source.size, root=root, chunk_bytes=source.chunk_bytes)

    def _open_stream(self, offer: Offer, tx: Transaction, origin: str, message: msg.Open) -> None:
        with self._lock:
            if (origin, message.stream) in self._outgoing:
                return  # its first answer was lost
        out = Outgoing(self._cell, offer, origin, message, self._sealer_for(origin), tx.touch)
        with self._lock:
            alive = self._offers.get(offer.ref.id) is not None
            mine = [o for o in self._outgoing.values() if o.receiver == origin and o.offer is offer]
            oldest = mine[0] if len(mine) >= _MAX_STREAMS_EACH else None
            if alive:
                self._outgoing[out.key] = out
            if oldest is not None:
                del self._outgoing[oldest.key]
        if not alive:
            out.close()
            raise SourceError("the transaction has ended")
        if oldest is not None:
            oldest.fail("source_failed", f"more than {_MAX_STREAMS_EACH} downloads of one ref by one cell")

    def _on_done(self, request: Request) -> dict[str, Any]:
        message = msg.parse(msg.Done, request.payload)
        try:
            offer, tx = self._find(message.ref_id, request.origin)
        except _Refused:
            return {}  # the transaction has ended: it is all the same to it
        self._end_stream(message.stream, request.origin)
        tx.report(_event(message, offer, request.origin, ProgressState.COMPLETED, message.bytes_done))
        tx.confirm(offer, request.origin, "")
        return {}

    def _on_digests(self, request: Request) -> bytes | None:
        message = msg.parse(msg.Digests, request.payload)
        out = self._outgoing.get((request.origin, message.stream))
        return None if out is None else out.digests(message.first, message.count)

    def _on_step(self, request: Request) -> dict[str, Any]:
        message = msg.parse(msg.Step, request.payload)
        try:
            offer, tx = self._find(message.ref_id, request.origin)
            if offer.producer is None:
                raise _Refused("source_failed", "the object is bytes, not steps")
        except _Refused as refused:
            return {"rc": "failure", "failure": refused.failure, "text": refused.text}
        tx.touch()
        try:
            rc, data, state = offer.producer.produce(message.ref_id, offer.obj, message.state, request.origin)
            rc = ProduceRC(rc)
        except Exception as error:
            log.exception("a producer raised")
            return {"rc": ProduceRC.ERROR.value, "text": f"{type(error).__name__}: {error}"}
        finally:
            tx.touch()
        if rc is ProduceRC.OK:
            return {"rc": rc.value, "data": data, "state": state}
        return {"rc": rc.value, "text": str(data) if rc is ProduceRC.ERROR and data is not None else ""}

    # --- events from receivers, on the I/O thread --------------------------------------------------------------------------

    def _stream_of(self, message: Any, origin: str) -> Outgoing | None:
        out = self._outgoing.get((origin, message.stream))
        if out is not None:
            return out
        unknown = msg.UnknownStream(message.stream)
        self._cell.post_event(origin, msg.CHANNEL, unknown.topic, unknown.to_payload())
        return None

    def _on_pull(self, request: Request) -> None:
        message = msg.parse(msg.Pull, request.payload)
        out = self._stream_of(message, request.origin)
        if out is not None:
            out.on_pull(message)

    def _on_ask_root(self, request: Request) -> None:
        message = msg.parse(msg.AskRoot, request.payload)
        out = self._stream_of(message, request.origin)
        if out is not None:
            out.on_ask_root()

    def _on_close(self, request: Request) -> None:
        message = msg.parse(msg.Close, request.payload)
        offer, tx = self._owner_of(message.stream, request.origin)
        if offer is not None and tx is not None:
            state = ProgressState.ABORTED if message.failure == "aborted" else ProgressState.FAILED
            tx.report(_event(message, offer, request.origin, state, None, message.failure))
            tx.confirm(offer, request.origin, message.failure or "aborted")
        self._end_stream(message.stream, request.origin)

    def _on_progress(self, request: Request) -> None:
        message = msg.parse(msg.Progress, request.payload)
        offer, tx = self._owner_of(message.stream, request.origin)
        out = self._outgoing.get((request.origin, message.stream))
        if offer is None or tx is None:
            return
        if out is not None:
            out.last_heard = time.monotonic()
        tx.report(_event(message, offer, request.origin, ProgressState(message.state), message.bytes_total))

    def _owner_of(self, stream: bytes, origin: str) -> tuple[Offer | None, Transaction | None]:
        out = self._outgoing.get((origin, stream))
        if out is not None:
            return self._offers.get(out.offer.ref.id, (None, None))
        return self._stepping.get((origin, stream), (None, None))

    def _end_stream(self, stream: bytes, origin: str) -> None:
        with self._lock:
            out = self._outgoing.pop((origin, stream), None)
            self._stepping.pop((origin, stream), None)
        if out is not None:
            self._close(out)


def _event(
    message: msg.Progress | msg.Done | msg.Close,
    offer: Offer,
    receiver: str,
    state: ProgressState,
    total: int | None,
    reason: str = "",
) -> ProgressEvent:
    return ProgressEvent(
        message.stream.hex(),
        offer.ref.id,
        receiver,
        message.sequence,
        message.bytes_done,
        total,
        message.items_done,
        state,
        reason,
    )
