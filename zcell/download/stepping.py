"""Fetching an object that a producer turns into steps. Invariant: steps are consumed in number order, each once.

Each step is a request and its reply; a lost one is asked for again, which a producer must not mind. Of a random-access producer
several steps are asked for at once; the others need the state that the step before returned.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zcell.download.callbacks import CallbackQueue
from zcell.download.consuming import consume_step
from zcell.download.fetching import let_go
from zcell.download.outcome import ProduceRC
from zcell.download.progress import ProgressState
from zcell.download.replies import download_failure, failure_of, reply_of
from zcell.download.sinks import SinkError
from zcell.download.stepwise import Consumer, State
from zcell.errors import CellClosedError, DownloadError
from zcell.message import Reply, ReturnCode
from zcell.protocol.transfer.messages import CHANNEL, MAX_TEXT, Close, Done, Step

if TYPE_CHECKING:
    from zcell.cell.cell import Cell
    from zcell.download.fetching import Fetch

log = logging.getLogger("zcell.download")
STEP_CHANNEL = "zcell.steps"
AT_ONCE = 4
_RETRY_SECONDS = 0.2
_CHECK_SECONDS = 0.5


class StepFetch:
    """Continues `fetch`, whose object turned out to come in steps; the outcome is in its `future`."""

    def __init__(
        self,
        cell: Cell,
        fetch: Fetch[Any],
        consumer: Consumer,
        queue: CallbackQueue,
        random_access: bool,
        on_end: Callable[[StepFetch], None],
    ) -> None:
        self.stream = fetch.stream
        self.future = fetch.future
        self.ended = threading.Event()
        self._cell = cell
        self._owner = fetch.owner
        self._ref_id = fetch.ref_id
        self._consumer = consumer
        self._queue = queue
        self._reporter = fetch.reporter
        self._result = fetch.result
        self._random_access = random_access
        self._idle_timeout = fetch.options["idle_timeout"]
        self._deadline_at = fetch.deadline_at
        self._abort = fetch.options["abort"]
        self._abort_key = 0
        self._on_end = on_end
        self._lock = threading.RLock()
        self._arrived: dict[int, Any] = {}
        self._asked = 0
        self._consumed = 0
        self._end: int | None = None
        self._producer_state: State | None = None
        self._consumer_state: State = {}
        self._working = False
        self._bytes = 0
        self._last_progress = time.monotonic()
        self._unreachable = ""
        self._over = False

    def start(self) -> None:
        """Ask for the first steps."""
        self.future.add_done_callback(lambda f: self.fail("aborted", "the future was cancelled") if f.cancelled() else None)
        if self._abort is not None:
            self._abort_key = self._abort.add_callback(lambda: self.cancel(self._abort.reason if self._abort else ""))
        self._ask_more()
        self._watch()

    # --- asking ------------------------------------------------------------------------------------------------------------

    def _ask_more(self) -> None:
        while True:
            with self._lock:
                at_once = AT_ONCE if self._random_access else 1
                if self._over or self._end is not None or self._asked >= self._consumed + at_once:
                    return
                step, state = self._asked, self._producer_state
                self._asked += 1
            self._ask(step, {"step": step} if self._random_access else state)

    def _ask(self, step: int, state: State | None) -> None:
        message = Step(self._ref_id, self.stream, step, state)
        try:
            reply = self._cell.request_future(
                self._owner, STEP_CHANNEL, message.topic, message.to_payload(), timeout=self._idle_timeout, optional=True
            )
        except CellClosedError as error:
            self.fail("aborted", str(error))
            return
        reply.add_done_callback(lambda f: self._cell.submit(self._on_reply, step, state, reply_of(f)))

    def _on_reply(self, step: int, state: State | None, reply: Reply) -> None:
        with self._lock:
            if self._over:
                return
        if not reply.ok:
            failure = failure_of(reply)
            if failure is not None:
                self.fail(*failure)
            else:
                if reply.rc is not ReturnCode.TIMEOUT:  # a producer may take its time: that is idleness, no broken link
                    self._unreachable = f"{reply.rc.value}: {reply.error}"
                self._later(_RETRY_SECONDS, lambda: self._submit(self._ask, step, state))
            return
        answer = reply.payload
        if not isinstance(answer, dict) or answer.get("rc") not in (*ProduceRC, "failure"):
            self.fail("source_failed", f"the owner's answer to step {step} is no step")
        elif answer["rc"] == "failure":
            reason = str(answer.get("failure"))
            self.fail(reason if reason in DownloadError.REASONS else "source_failed", str(answer.get("text")))
        elif answer["rc"] == ProduceRC.ERROR:
            self.fail("source_failed", f"the producer failed at step {step}: {answer.get('text') or 'no detail'}")
        else:
            self._take(step, answer)

    def _take(self, step: int, answer: dict[str, Any]) -> None:
        with self._lock:
            self._last_progress = time.monotonic()
            self._unreachable = ""
            if answer["rc"] == ProduceRC.EOF:
                self._end = step if self._end is None else min(step, self._end)
            else:
                self._arrived[step] = answer.get("data")
                if not self._random_access:
                    state = answer.get("state")
                    self._producer_state = state if isinstance(state, dict) else None
            if self._working:
                return
            self._working = True
        self._queue.call(self._consume)

    # --- consuming ---------------------------------------------------------------------------------------------------------

    def _consume(self) -> None:
        while True:
            with self._lock:
                step = self._consumed
                ended = self._end is not None and step >= self._end
                if self._over or (step not in self._arrived and not ended):
                    self._working = False
                    return
                data = self._arrived.pop(step, None)
            try:
                if ended:
                    self._consumer.download_completed(self._ref_id)
                    self._finish()
                    return
                self._consumer_state = consume_step(self._consumer, self._ref_id, self._consumer_state, data)
            except Exception as error:  # noqa: BLE001  the consumer is the user's
                text = str(error) if isinstance(error, SinkError) else f"{type(error).__name__}: {error}"
                self.fail("sink_failed", text)
                return
            with self._lock:
                self._consumed += 1
                self._last_progress = time.monotonic()
                self._bytes += len(data) if isinstance(data, bytes | memoryview) else 0
            self._reporter.tell(self._bytes, None, self._consumed, ProgressState.ACTIVE)
            self._ask_more()

    # --- the end -----------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        now = time.monotonic()
        with self._lock:
            if self._over:
                return
            if self._working:
                self._last_progress = now
            idle = now - self._last_progress >= self._idle_timeout
            late = self._deadline_at is not None and now >= self._deadline_at
        if late:
            self.fail("deadline", "the deadline passed before the download was complete")
        elif idle and self._unreachable:
            self.fail("link", f"no way to the owner for {self._idle_timeout:g} s: {self._unreachable}")
        elif idle:
            self.fail("idle", f"no progress for {self._idle_timeout:g} s")
        else:
            self._reporter.tell(self._bytes, None, self._consumed, ProgressState.ACTIVE)
            left = self._idle_timeout if self._deadline_at is None else self._deadline_at - now
            self._later(max(0.01, min(_CHECK_SECONDS, self._idle_timeout / 4, left)), lambda: self._submit(self._watch))

    def _submit(self, fn: Callable[..., None], *args: Any) -> None:
        self._cell.submit(fn, *args)

    def _later(self, delay: float, fn: Callable[[], None]) -> None:
        try:
            self._cell.call_later(delay, fn)
        except CellClosedError as error:
            self.fail("aborted", str(error))

    def _finish(self) -> None:
        self._confirm(time.monotonic() + self._idle_timeout)

    def _confirm(self, until: float) -> None:
        message = Done(self._ref_id, self.stream, self._reporter.next_sequence(), self._bytes, self._consumed)
        try:
            reply = self._cell.request_future(
                self._owner, CHANNEL, message.topic, message.to_payload(), timeout=min(10.0, self._idle_timeout), optional=True
            )
        except CellClosedError as error:
            self.fail("aborted", str(error))
            return
        reply.add_done_callback(lambda f: self._cell.submit(self._confirmed, reply_of(f), until))

    def _confirmed(self, reply: Reply, until: float) -> None:
        if not reply.ok and failure_of(reply) is None and time.monotonic() < until:
            self._later(_RETRY_SECONDS, lambda: self._submit(self._confirm, until))
            return
        if not reply.ok:
            log.warning("download from %s is complete, but the owner could not be told", self._owner)
        self._close(ProgressState.COMPLETED, None)

    def cancel(self, text: str) -> None:
        """End with reason aborted, at once, from any thread."""
        self.fail("aborted", text or "aborted by the caller")

    def fail(self, reason: str, text: str) -> None:
        """End with `reason`. Idempotent: the first reason stays."""
        state = ProgressState.ABORTED if reason == "aborted" else ProgressState.FAILED
        self._close(state, DownloadError(reason, download_failure(self._owner, self._ref_id, text)))

    def _close(self, state: ProgressState, error: DownloadError | None) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
            self._arrived.clear()
        if self._abort is not None:
            self._abort.remove_callback(self._abort_key)
        self._reporter.tell(self._bytes, self._bytes, self._consumed, state, error.reason if error else "")
        if error is not None:
            sequence = self._reporter.next_sequence()
            close = Close(self.stream, sequence, self._bytes, self._consumed, error.reason, str(error)[:MAX_TEXT])
            self._cell.post_event(self._owner, CHANNEL, close.topic, close.to_payload())
        if self.future.set_running_or_notify_cancel():
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(self._result())
        self._on_end(self)
        self.future = let_go()
        self.ended.set()
