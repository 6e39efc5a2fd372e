"""Requests and events that arrived: who answers them. Invariant: every request that is not expired gets one answer."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from typing import Any

from zcell.cell.filters import FilterChains, FilterMessage
from zcell.cell.handlers import Handler, HandlerTable
from zcell.cell.payloads import Payloads
from zcell.cell.pool import WorkerPool
from zcell.cell.statistics import Counters
from zcell.cell.switch import Release, Switch
from zcell.errors import CellClosedError, CodecError, DownloadError
from zcell.limits import Limits
from zcell.message import Reply, Request, ReturnCode
from zcell.protocol.envelope import Envelope, Kind

log = logging.getLogger("zcell.cell.dispatch")
_INLINE_BYTES = 65536


class Dispatcher:
    """Finds the handler of a message, runs it on the pool, and sends its reply."""

    def __init__(
        self,
        switch: Switch,
        handlers: HandlerTable,
        filters: FilterChains,
        pool: WorkerPool,
        payloads: Payloads,
        counters: Counters,
        limits: Limits,
    ) -> None:
        self._switch = switch
        self._handlers = handlers
        self._filters = filters
        self._pool = pool
        self._payloads = payloads
        self._counters = counters
        self._limits = limits

    # -- on the I/O thread ---------------------------------------------------------------------------------------------

    def on_work(self, envelope: Envelope, body: Any, buffers: list[Any], release: Release) -> None:
        """A request or an event: refuse it now, or queue it."""
        handler = self._find(envelope)
        if handler is None:
            release()
        elif handler.inline:
            self._run_inline(handler, envelope, body, buffers)
            release()
        else:
            arrived = time.monotonic()
            key = (envelope.source, envelope.channel)
            order, after = (key, None) if envelope.kind is Kind.EVENT else (None, key)

            def task() -> None:
                try:
                    self._run(handler, envelope, body, buffers, arrived)
                finally:
                    release()

            if not self._pool.run(envelope.channel, task, order, after=after):
                self._refuse(envelope, ReturnCode.SERVICE_UNAVAILABLE, f"{self._switch.me} is stopping")
                release()

    def on_control(self, envelope: Envelope, body: Any, buffers: list[Any]) -> None:
        """A control event: only for inline handlers."""
        handler = self._find(envelope)
        if handler is not None and handler.inline:
            self._run_inline(handler, envelope, body, buffers)

    def _find(self, envelope: Envelope) -> Handler | None:
        handler = self._handlers.find(envelope.channel, envelope.topic)
        if handler is None:
            self._counters.drop("no_handler")
            text = f"{self._switch.me} has no handler for channel {envelope.channel!r} topic {envelope.topic!r}"
            self._refuse(envelope, ReturnCode.INVALID_REQUEST, text)
            return None
        if not handler.allow.admits(self._switch.me, envelope.source):
            self._counters.drop("unauthenticated")
            text = f"{envelope.source} may not call channel {envelope.channel!r} of {self._switch.me}"
            self._refuse(envelope, ReturnCode.UNAUTHENTICATED, text)
            return None
        return handler

    def _refuse(self, envelope: Envelope, rc: ReturnCode, error: str) -> None:
        if envelope.kind is Kind.REQUEST:
            self._send(envelope, Reply(rc, None, error))

    def _run_inline(self, handler: Handler, envelope: Envelope, body: Any, buffers: list[Any]) -> None:
        if type(body) is not bytes or len(body) > _INLINE_BYTES or buffers:
            self._counters.drop("oversize")
            self._refuse(envelope, ReturnCode.MSG_TOO_BIG, f"channel {envelope.channel!r} takes at most {_INLINE_BYTES} bytes")
            return
        reply = self._call(handler, envelope, body, buffers, None)
        if envelope.kind is Kind.REQUEST:
            self._answer(envelope, reply)

    # -- on the pool ---------------------------------------------------------------------------------------------------

    def _run(self, handler: Handler, envelope: Envelope, body: Any, buffers: list[Any], arrived: float) -> None:
        remaining = None
        if envelope.budget_ms >= 0:
            remaining = envelope.budget_ms / 1000 - (time.monotonic() - arrived)
            if remaining <= 0:
                self._counters.drop("expired")  # the caller has gone: its own timeout told it so
                return
        result = self._call(handler, envelope, body, buffers, remaining)
        if envelope.kind is Kind.EVENT:
            self._counters.add("events_handled")
            if isinstance(result, Future):
                result.add_done_callback(lambda f: self._note_failure(handler, f))
            elif isinstance(result, Reply) and not result.ok:
                self._counters.drop(f"event_{result.rc.value.lower()}")  # nobody waits for the reason; it is counted
        else:
            self._counters.add("requests_handled")
            self._answer(envelope, result)

    def _note_failure(self, handler: Handler, future: Future[Any]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            where = f"channel {handler.channel!r} topic {handler.topic!r} of {self._switch.me}"
            log.warning("the handler of %s failed: %s", where, type(error).__name__, exc_info=error)

    def _call(self, handler: Handler, envelope: Envelope, body: Any, buffers: list[Any], remaining: float | None) -> Any:
        """Filters, then the handler; a Reply, a Future of one, or a payload."""
        headers = envelope.headers
        is_event = envelope.kind is not Kind.REQUEST
        message = FilterMessage(
            origin=envelope.source,
            target=envelope.target,
            channel=envelope.channel,
            topic=envelope.topic,
            headers=headers,
            decode=lambda: self._payloads.decode(body, buffers, headers, remaining),
            is_event=is_event,
        )
        answer = None if handler.inline else self._filters.run("incoming", "request", message)
        if answer is not None:
            return answer
        try:
            payload = message.payload
        except CodecError as e:
            return Reply(ReturnCode.INVALID_REQUEST, None, str(e))
        except DownloadError as e:
            return Reply(ReturnCode.COMM_ERROR, None, f"a large part of the payload could not be fetched: {e}")
        request = Request(
            message.origin, message.target, message.channel, message.topic, payload, message.headers, is_event, remaining
        )
        try:
            return handler.fn(request)
        except BaseException as e:
            # one that calls sys.exit must take neither the worker nor the answer along
            where = f"channel {handler.channel!r} topic {handler.topic!r} of {self._switch.me}"
            log.warning("the handler of %s failed: %s", where, type(e).__name__, exc_info=True)
            return _exception_reply(e)

    def _answer(self, envelope: Envelope, result: Any) -> None:
        if isinstance(result, Future):
            result.add_done_callback(lambda f: self._answer_now(envelope, _outcome_of(f)))
            return
        self._send(envelope, result if isinstance(result, Reply) else Reply(ReturnCode.OK, result))

    def _answer_now(self, envelope: Envelope, result: Any) -> None:
        self._answer(envelope, result)
        self._switch.loop.waker.flush()

    def _send(self, envelope: Envelope, reply: Reply) -> None:
        """Filter, encode and send a reply; what cannot be sent becomes a reply that says so."""
        message = FilterMessage(
            origin=self._switch.me,
            target=envelope.source,
            channel=envelope.channel,
            topic=envelope.topic,
            headers=reply.headers,
            payload=reply.payload,
            rc=reply.rc,
            error=reply.error,
        )
        answer = self._filters.run("outgoing", "reply", message)
        if answer is None:
            answer = Reply(message.rc, message.payload, message.error, message.headers)
        try:
            encoded = self._payloads.encode(answer.payload, envelope.source, answer.headers)
            if encoded.size > self._limits.message_bytes:
                encoded.withdraw()
                text = f"the reply has {encoded.size} bytes, the limit is {self._limits.message_bytes}"
                encoded, answer = self._payloads.encode(None, "", {}), Reply(ReturnCode.MSG_TOO_BIG, None, text)
            out = self._envelope(envelope, answer)
            first = out.encode()
        except (CodecError, ValueError, TypeError, CellClosedError) as e:
            log.warning("a reply to %s could not be encoded: %s", envelope.source, e)
            encoded = self._payloads.encode(None, "", {})
            out = self._envelope(envelope, _exception_reply(e))
            first = out.encode()
        frames = [first, encoded.body, *encoded.buffers]
        if self._switch.loop.is_here:
            self._switch.send_control(out, frames)
        else:
            self._switch.loop.post_quietly(self._switch.send_control, out, frames)

    def _envelope(self, request: Envelope, reply: Reply) -> Envelope:
        return Envelope(
            Kind.REPLY,
            self._switch.me,
            request.source,
            request.channel,
            request.topic,
            request.id,
            rc=reply.rc.value,
            error=reply.error[:2000],
            headers=reply.headers,
        )


def _exception_reply(e: BaseException) -> Reply:
    try:
        text = str(e)
    except Exception:  # noqa: BLE001 - somebody's exception class, which cannot even say what it is
        text = "(its text cannot be read)"
    return Reply(ReturnCode.PROCESS_EXCEPTION, None, f"{type(e).__name__}: {text}")


def _outcome_of(future: Future[Any]) -> Any:
    """The result of a handler's future, or the reply that tells its failure."""
    if future.cancelled():
        return Reply(ReturnCode.ABORTED, None, "the handler was cancelled")
    error = future.exception()
    return future.result() if error is None else _exception_reply(error)
