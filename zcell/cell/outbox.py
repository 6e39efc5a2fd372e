"""Requests and events on their way out. Invariant: whatever becomes of a request, its caller gets exactly one Reply."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from zcell.abort import Abort
from zcell.cell.calls import Call, PendingCalls
from zcell.cell.filters import FilterChains, FilterMessage
from zcell.cell.link import Admission, Link
from zcell.cell.loop import Timer
from zcell.cell.payloads import EncodedPayload, Payloads
from zcell.cell.pool import WorkerPool
from zcell.cell.statistics import Counters
from zcell.cell.switch import Switch
from zcell.errors import CodecError, DownloadError
from zcell.fqcn import FQCN
from zcell.limits import Limits
from zcell.message import Reply, ReturnCode
from zcell.protocol.credit import MESSAGE_COST
from zcell.protocol.envelope import Envelope, Kind


@dataclass(slots=True)
class Outgoing:
    """One request of the caller, and what must be undone when it ends."""

    target: str
    channel: str
    topic: str
    payload: Any
    timeout: float
    headers: dict[str, Any] = field(default_factory=dict)
    abort: Abort | None = None
    encoded: EncodedPayload | None = None
    abort_key: int = 0


class Outbox:
    """Sends the requests and events of one cell, from any thread."""

    def __init__(
        self,
        switch: Switch,
        calls: PendingCalls,
        filters: FilterChains,
        payloads: Payloads,
        pool: WorkerPool,
        counters: Counters,
        limits: Limits,
    ) -> None:
        self._switch = switch
        self._calls = calls
        self._filters = filters
        self._payloads = payloads
        self._pool = pool
        self._counters = counters
        self._limits = limits
        self._own = Admission(limits.link_queue_bytes)

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(self, out: Outgoing) -> Reply:
        """Send, wait, decode. Never raises for what happens on the way."""
        end = time.monotonic() + out.timeout
        call = self.start(out, out.timeout, quietly=True)
        if isinstance(call, Reply):
            return call
        return self.await_call(out, call, end)

    def await_call(self, out: Outgoing, call: Call, end: float) -> Reply:
        """Wait until `end` for a call that was started."""
        if not call.wait(end - time.monotonic()):
            call.complete(_timed_out(out))
        return self.finish(call)

    def request_future(self, out: Outgoing) -> Future[Reply]:
        """Send now; the future completes with the reply. Cancelling it ends the request."""
        future: Future[Reply] = Future()
        call = self.start(out, 0.0)
        if isinstance(call, Reply):
            future.set_result(call)
            return future
        timer = self._switch.loop.call_later(out.timeout, lambda: _complete(call, _timed_out(out)))
        cancelled = Reply(ReturnCode.ABORTED, None, "the caller cancelled the request")
        future.add_done_callback(lambda f: _complete(call, cancelled) if f.cancelled() else None)
        call.when_done(lambda c: self._complete(c, timer, future))
        return future

    def _complete(self, call: Call, timer: Timer, future: Future[Reply]) -> None:
        timer.cancel()

        def task() -> None:
            reply = self.finish(call)
            if future.set_running_or_notify_cancel():
                future.set_result(reply)

        if not self._pool.run("zcell.replies", task, dropped=task):
            task()

    def start(self, out: Outgoing, patience: float, quietly: bool = False) -> Call | Reply:
        """Filter, encode and hand over; waits at most `patience` seconds for queue space. A Reply when it ends already here.

        Raises `CodecError` for a payload that cannot travel and `ValueError` for headers that cannot.
        """
        abort = out.abort
        if abort is not None and abort.triggered:
            return Reply(ReturnCode.ABORTED, None, abort.reason)
        answer = self._filter(out, is_event=False)
        if answer is not None:
            return answer
        if not FQCN.is_valid(out.target):
            return Reply(ReturnCode.INVALID_TARGET, None, f"{out.target!r} is not a cell name")
        here = out.target == self._switch.me
        link = None if here else self._switch.link_towards(out.target)
        if link is None and not here:
            return Reply(ReturnCode.TARGET_UNREACHABLE, None, f"{self._switch.me} has no link towards {out.target}")
        out.encoded = self._payloads.encode(out.payload, out.target, out.headers)
        call = self._calls.open(out.target, b"" if link is None else link.id, self._switch.loop)
        call.options = out
        if abort is not None:
            out.abort_key = abort.add_callback(lambda: _complete(call, Reply(ReturnCode.ABORTED, None, abort.reason)))
        try:
            failure = self._hand_over(out, out.encoded, Kind.REQUEST, call.id, link, min(patience, out.timeout), quietly)
        except ValueError:
            self._end(call)
            raise
        if failure is not None:
            call.complete(failure)
            return self.finish(call)
        if link is not None and not link.up:  # it went down before the call was pending
            call.complete(Reply(ReturnCode.COMM_ERROR, None, f"the link to {link.peer} was lost"))
        self._counters.add("requests_sent")
        return call

    def _filter(self, out: Outgoing, is_event: bool) -> Reply | None:
        message = FilterMessage(
            origin=self._switch.me,
            target=out.target,
            channel=out.channel,
            topic=out.topic,
            headers=out.headers,
            payload=out.payload,
            is_event=is_event,
        )
        answer = self._filters.run("outgoing", "request", message)
        out.headers, out.payload = message.headers, message.payload
        return answer

    def _hand_over(
        self,
        out: Outgoing,
        encoded: EncodedPayload,
        kind: Kind,
        call_id: int,
        link: Link | None,
        patience: float,
        quietly: bool = False,
    ) -> Reply | None:
        """Admit and post one message; the Reply that tells why not."""
        if encoded.size > self._limits.message_bytes:
            text = f"the payload has {encoded.size} bytes, the limit is {self._limits.message_bytes}"
            return Reply(ReturnCode.MSG_TOO_BIG, None, text)
        budget_ms = max(1, int(out.timeout * 1000)) if kind is Kind.REQUEST else -1
        envelope = Envelope(
            kind,
            self._switch.me,
            out.target,
            out.channel,
            out.topic,
            call_id,
            budget_ms=budget_ms,
            headers=out.headers,
        )
        frames = [envelope.encode(), encoded.body, *encoded.buffers]
        cost = sum(map(len, frames)) + MESSAGE_COST
        admission = self._own if link is None else link.admission
        if not admission.take(cost, patience):
            if admission.is_closed and link is not None:
                return Reply(ReturnCode.COMM_ERROR, None, f"the link to {link.peer} was lost")
            text = f"the queue towards {out.target} is full ({self._limits.link_queue_bytes} bytes)"
            return Reply(ReturnCode.COMM_ERROR, None, text)
        post = self._switch.loop.post_quietly if quietly else self._switch.loop.post
        if link is None:
            release = _once(lambda: admission.give_back(cost))
            post(self._switch.deliver, envelope, frames[1], frames[2:], release)
        else:
            post(self._switch.send_work, link, frames, cost)
        return None

    def finish(self, call: Call) -> Reply:
        """The reply of a completed call, decoded and filtered."""
        self._end(call)
        out: Outgoing = call.options
        outcome = call.outcome
        assert outcome is not None
        if isinstance(outcome, Reply):
            return outcome
        envelope = outcome.envelope
        message = FilterMessage(
            origin=envelope.source,
            target=self._switch.me,
            channel=out.channel,
            topic=out.topic,
            headers=envelope.headers,
            decode=lambda: self._payloads.decode(outcome.body, outcome.buffers, envelope.headers),
            rc=_code(envelope.rc),
            error=envelope.error,
        )
        answer = self._filters.run("incoming", "reply", message)
        if answer is not None:
            return answer
        try:
            return Reply(message.rc, message.payload, message.error, message.headers, envelope.source)
        except (CodecError, DownloadError) as e:
            return Reply(ReturnCode.COMM_ERROR, None, f"the reply's payload could not be read: {e}", {}, envelope.source)

    def _end(self, call: Call) -> None:
        out: Outgoing = call.options
        self._calls.close(call)
        if out.abort is not None:
            out.abort.remove_callback(out.abort_key)
        if out.encoded is not None and not out.headers.get("pass_through"):
            out.encoded.withdraw()

    # -- events --------------------------------------------------------------------------------------------------------

    def send(self, out: Outgoing) -> Reply:
        """Accept one event for sending; OK, or why not."""
        answer = self._filter(out, is_event=True)
        if answer is not None:
            return answer
        if not FQCN.is_valid(out.target):
            return Reply(ReturnCode.INVALID_TARGET, None, f"{out.target!r} is not a cell name")
        here = out.target == self._switch.me
        link = None if here else self._switch.link_towards(out.target)
        if link is None and not here:
            return Reply(ReturnCode.TARGET_UNREACHABLE, None, f"{self._switch.me} has no link towards {out.target}")
        encoded = self._payloads.encode(out.payload, out.target, out.headers)
        failure = self._hand_over(out, encoded, Kind.EVENT, 0, link, out.timeout)
        if failure is not None:
            encoded.withdraw()
            return failure
        self._counters.add("events_sent")
        return Reply()

    def post_control(self, target: str, channel: str, topic: str, payload: Any) -> None:
        """Send a small event of zcell's own, without waiting; what cannot be sent is counted."""
        envelope = Envelope(Kind.CONTROL, self._switch.me, target, channel, topic)
        encoded = self._payloads.encode(payload, target, {})
        frames = [envelope.encode(), encoded.body, *encoded.buffers]
        self._switch.loop.post(self._switch.send_control, envelope, frames)

    def close(self) -> None:
        """Let go of everyone who waits for space."""
        self._own.close()


def _complete(call: Call, reply: Reply) -> None:
    call.complete(reply)


def _timed_out(out: Outgoing) -> Reply:
    return Reply(
        ReturnCode.TIMEOUT, None, f"no reply from {out.target} on {out.channel!r}/{out.topic!r} within {out.timeout:g} s"
    )


def _code(text: str) -> ReturnCode:
    try:
        return ReturnCode(text)
    except ValueError:
        return ReturnCode.COMM_ERROR


def _once(fn: Any) -> Any:
    """`fn` that does nothing when called again."""
    left = [fn]

    def call() -> None:
        if left:
            left.pop()()

    return call
