"""Handing tasks to whichever job is there. Invariant owned here: a conversation that ended is replaced before the next task goes out.

One thread sends; the pipe's reader completes. A job that leaves tells which tasks it took and did not begin: those go to the next
job as if they had never been sent. For the one it was at, the retry rule decides.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from zcell.abort import Abort
from zcell.agent.assignment import Assignment
from zcell.agent.task import RETURNED, Cause
from zcell.pipe.handler import PipeHandler
from zcell.pipe.message import Message, MsgType, Topic
from zcell.pipe.pipe import Pipe
from zcell.pipe.session import PeerState

_log = logging.getLogger("zcell.agent.exchange")
_CAUSE = {Topic.END: Cause.PEER_ENDED, Topic.ABORT: Cause.PEER_ABORTED, Topic.PEER_GONE: Cause.PEER_GONE}
_WORDS = {
    Cause.PEER_ENDED: "the job ended before it answered",
    Cause.PEER_ABORTED: "the job aborted",
    Cause.PEER_GONE: "the job is gone",
}


class Dispatcher:
    """Sends assignments over `pipe`, in the order they came, and finishes them."""

    def __init__(self, pipe: Pipe, settings: dict[str, Any], peer_timeout: float) -> None:
        self._pipe = pipe
        self._settings = {**settings, "connect_timeout": 0}  # a job may take its time to start; `peer_timeout` bounds a task
        self._peer_timeout = peer_timeout
        self._changed = threading.Condition()
        self._renewing = threading.Lock()
        self._handler: PipeHandler | None = None
        self._queue: deque[Assignment] = deque()
        self._pending: dict[str, Assignment] = {}
        self._ended = False
        self._sending = False
        self._stopping = Abort()
        self._stop_cause = Cause.CLOSED
        self._thread = threading.Thread(target=self._run, name="zcell-exchange", daemon=True)

    def start(self) -> None:
        self._listen()
        self._thread.start()

    def stop(self) -> None:
        """Tell the job, finish everything with CLOSED, close the pipe. Called once."""
        self._end_all(Cause.CLOSED, "the exchange was stopped")
        if self._thread.is_alive():
            self._thread.join()
        handler = self._handler
        if handler is None:
            self._pipe.close()
            return
        handler.leave("the exchange was stopped")

    def abort(self, reason: str) -> None:
        self._end_all(Cause.ABORTED, reason)
        handler = self._handler
        if handler is not None and handler.peer_state is PeerState.LIVE:
            handler.notify_abort(reason)

    def _end_all(self, cause: Cause, reason: str) -> None:
        with self._changed:
            if not self._stopping.triggered:
                self._stop_cause = cause
            self._stopping.trigger(reason)
            ended = [*self._queue, *self._pending.values()]
            self._queue.clear()
            self._pending.clear()
            self._changed.notify_all()
        for assignment in ended:
            assignment.finish(cause, reason)

    # the job at the other end

    @property
    def peer_state(self) -> PeerState:
        handler = self._handler
        return handler.peer_state if handler is not None else PeerState.WAITING

    def wait_for_peer(self, timeout: float | None, abort: Abort | None) -> bool:
        try:
            return self._conversation().wait_for_peer(timeout, abort)
        except BrokenPipeError:
            return False

    def peer_is_gone(self, reason: str) -> None:
        handler = self._handler
        if handler is not None:
            handler.end(Topic.PEER_GONE, reason)

    def _listen(self) -> PipeHandler:
        """Begin a conversation with whoever speaks next."""
        handler = PipeHandler(self._pipe, **self._settings)
        handler.set_message_cb(self._on_message)
        handler.set_status_cb(self._on_status)
        self._handler = handler
        handler.start()
        return handler

    def _conversation(self) -> PipeHandler:
        """The conversation that goes on, or the next one. Raises `BrokenPipeError` when the pipe is closed."""
        with self._renewing:
            handler = self._handler
            if handler is None or self._stopping.triggered:
                raise BrokenPipeError(self._stopping.reason or "the exchange is not started")
            if not handler.is_over:
                return handler
            handler.stop(close_pipe=False)
            self._pipe.clear()
            return self._listen()

    # sending

    def submit(self, assignment: Assignment, here: bool = False) -> None:
        """Send it when its turn comes; `here`: by the caller's own thread, if that is now."""
        with self._changed:
            here = here and not (self._sending or self._queue or self._ended)
            if not self._stopping.triggered:
                if here:
                    self._sending = True
                else:
                    self._queue.append(assignment)
                    self._changed.notify_all()
                    return
        if here:
            self._send_now(assignment)
            return
        assignment.finish(self._stop_cause, self._stopping.reason)

    def forget(self, assignment: Assignment) -> None:
        """Its caller has gone."""
        assignment.release()
        with self._changed:
            self._pending.pop(assignment.msg_id, None)
            if assignment in self._queue:
                self._queue.remove(assignment)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._sending and (self._queue or self._ended or self._stopping.triggered))
                if self._stopping.triggered:
                    return
                assignment = self._queue.popleft() if self._queue else None
                self._ended = False
                self._sending = True
            self._send_now(assignment)

    def _send_now(self, assignment: Assignment | None) -> None:
        """For whoever has set `_sending`: send `assignment`, or only renew the conversation."""
        try:
            if assignment is None:
                self._renew()
            elif not assignment.is_finished:
                self._send(assignment)
        finally:
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def _renew(self) -> None:
        """Be there for the next job before there is a task for it."""
        try:
            self._conversation()
        except BrokenPipeError as e:
            _log.warning("no further job can be reached: %s", e)

    def _send(self, assignment: Assignment) -> None:
        try:
            handler = self._conversation()
            if not self._wait(handler, assignment):
                return
            message = assignment.message()
            with self._changed:
                self._pending[message.msg_id] = assignment
            left = assignment.remaining()
            if handler.send_to_peer(message, None if left is None else max(left, 0.001), assignment.abort):
                return
        except BrokenPipeError as e:
            assignment.finish(self._stop_cause, f"the pipe was closed: {e}")
            return
        except ValueError as e:  # data that cannot travel: the caller's own mistake
            with self._changed:
                self._pending.pop(assignment.msg_id, None)
            assignment.refuse(e)
            return
        if handler.is_over or assignment.is_finished:
            return  # the status decides, or has decided
        with self._changed:
            self._pending.pop(message.msg_id, None)
        left = assignment.remaining()
        expired = left is not None and left <= 0
        assignment.finish(Cause.TIMEOUT if expired else Cause.SEND_FAILED, self._pipe.last_error)

    def _wait(self, handler: PipeHandler, assignment: Assignment) -> bool:
        """Wait for a job to be there; False when that decided the task."""
        left = assignment.remaining()
        patience = self._peer_timeout if left is None else min(self._peer_timeout, left)
        if handler.wait_for_peer(patience, assignment.abort):
            return True
        if self._stopping.triggered:
            assignment.finish(self._stop_cause, self._stopping.reason)
        elif handler.is_over:
            with self._changed:
                self._queue.appendleft(assignment)  # a job came and went in the meantime
        elif not assignment.is_finished and (left is None or left > self._peer_timeout):
            assignment.finish(Cause.NO_PEER, f"no job showed up within {self._peer_timeout:g} s")
        return False

    # receiving

    def _on_message(self, message: Message) -> None:
        with self._changed:
            assignment = self._pending.pop(message.req_id or "", None)
        if message.msg_type is not MsgType.REPLY or assignment is None:
            _log.info("dropped a %s that nobody waits for: %s", message.msg_type.value.lower(), message.topic)
            return
        assignment.answered(message)

    def _on_status(self, status: Message) -> None:
        """The conversation ended: what was under way is decided, by the rule or by what the job said."""
        returned = _returned(status)
        with self._changed:
            pending, self._pending = self._pending, {}
        cause = _CAUSE[status.topic]
        again: list[Assignment] = []
        for msg_id, assignment in pending.items():
            if msg_id in returned or assignment.may_retry(cause):
                again.append(assignment)
            else:
                reason = status.data if isinstance(status.data, str) else ""
                assignment.finish(cause, f"{_WORDS[cause]}: {reason}" if reason else _WORDS[cause])
        for assignment in again:
            _log.info("task %s will be handed out again: %s", assignment.task_id, _WORDS[cause])
        with self._changed:
            if not self._stopping.triggered:
                self._queue.extendleft(reversed(again))
                again = []
            self._ended = True
            self._changed.notify_all()
        for assignment in again:
            assignment.finish(self._stop_cause, self._stopping.reason)


def _returned(status: Message) -> set[str]:
    """Ids of the messages that the job says it took and did not begin."""
    if status.topic != Topic.END or not isinstance(status.data, dict):
        return set()
    ids = status.data.get(RETURNED)
    return {i for i in ids if isinstance(i, str)} if isinstance(ids, list) else set()
