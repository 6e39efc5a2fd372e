"""Handing tasks to whichever job is there. Invariant owned here: a task taken from the queue is sent, put back, or finished.

One thread at a time sends; the pipe's reader completes. A conversation that ended is replaced before the next task goes out. A job
that leaves tells which task it was at: for that one the retry rule decides, and what else was on its way to it goes to the next job
as if it had never been sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from zcell.abort import Abort
from zcell.agent.arrivals import Arrivals
from zcell.agent.assignment import Assignment
from zcell.agent.conversation import Conversation
from zcell.agent.task import Cause, parse_last_word
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
    """Sends assignments over `pipe`, in the order they came, and finishes them; `arrivals` learns what results say of metrics."""

    def __init__(self, pipe: Pipe, settings: dict[str, Any], peer_timeout: float, arrivals: Arrivals) -> None:
        self._pipe = pipe
        self._arrivals = arrivals
        self._settings = {**settings, "connect_timeout": 0}  # a job may take its time to start; `peer_timeout` bounds a task
        self._peer_timeout = peer_timeout
        self._changed = threading.Condition()
        self._renewing = threading.Lock()
        self._current: Conversation | None = None
        self._queue: deque[Assignment] = deque()
        self._ended = False
        self._is_gone = False
        """Whether the last job to leave just vanished."""
        self._sending = False
        self._stopping = Abort()
        self._stop_cause = Cause.CLOSED
        self._thread: threading.Thread | None = None

    def start(self, owner: object) -> None:
        """Begin. `owner` lives until `stop`: at the end of the process it is the one who tells the job."""
        self._listen()
        self._thread = threading.Thread(target=self._run, args=(owner,), name="zcell-exchange", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """Tell the job, finish everything with CLOSED, close the pipe. Called once. False when it is known that the job is gone."""
        is_gone = self._is_gone and self.peer_state is not PeerState.LIVE
        self._end_all(Cause.CLOSED, "the exchange was stopped")
        if self._thread is not None:
            self._thread.join()
        with self._renewing:  # a caller who sends by itself may be about to begin a conversation; there is none after it
            current = self._current
        if current is None:
            self._pipe.close()
        else:
            current.handler.leave("the exchange was stopped")
        return not is_gone

    def abort(self, reason: str) -> None:
        self._end_all(Cause.ABORTED, reason)
        with self._renewing:
            current = self._current
        if current is not None and current.handler.peer_state is PeerState.LIVE:
            current.handler.notify_abort(reason)

    def _end_all(self, cause: Cause, reason: str) -> None:
        with self._changed:
            if not self._stopping.triggered:
                self._stop_cause = cause
            self._stopping.trigger(reason)
            ended = list(self._queue)
            self._queue.clear()
            if self._current is not None:
                handed_out, postponed = self._current.end()
                ended += [*handed_out.values(), *postponed]
            self._changed.notify_all()
        for assignment in ended:
            assignment.finish(cause, reason)

    # the job at the other end

    @property
    def peer_state(self) -> PeerState:
        current = self._current
        return current.handler.peer_state if current is not None else PeerState.WAITING

    def wait_for_peer(self, timeout: float | None, abort: Abort | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                conversation = self._conversation()
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if conversation.handler.wait_for_peer(left, abort):
                    return True
                expired = deadline is not None and time.monotonic() >= deadline
                if not conversation.is_ending or expired or (abort is not None and abort.triggered):
                    return False
                self._wait_for_end(conversation, deadline)  # a job came and went; the next one may be there already
        except BrokenPipeError:
            return False

    def _wait_for_end(self, conversation: Conversation, deadline: float | None) -> None:
        with self._changed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: conversation.is_decided, left)

    def peer_is_gone(self, reason: str) -> None:
        if self._stopping.triggered:  # then no conversation is left that could say it
            self._arrivals.job_is_gone()
        current = self._current
        if current is not None:
            current.handler.end(Topic.PEER_GONE, reason)

    def _listen(self) -> Conversation:
        """Begin a conversation with whoever speaks next."""
        conversation = Conversation(PipeHandler(self._pipe, **self._settings))
        conversation.handler.set_message_cb(self._on_message, conversation)
        conversation.handler.set_status_cb(self._on_status, conversation)
        self._current = conversation
        conversation.handler.start()
        return conversation

    def _conversation(self) -> Conversation:
        """The conversation that goes on, or the next one. Raises `BrokenPipeError` when the pipe is closed."""
        with self._renewing:
            current = self._current
            if current is None or self._stopping.triggered:
                raise BrokenPipeError(self._stopping.reason or "the exchange is not started")
            if not current.handler.is_over:
                return current
            current.handler.stop(close_pipe=False)
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

    @property
    def is_free(self) -> bool:
        """Whether what is submitted now would be sent at once: a job is there, and nobody else's turn."""
        with self._changed:
            return self.peer_state is PeerState.LIVE and not (self._sending or self._queue or self._ended)

    def forget(self, assignment: Assignment) -> None:
        """Its caller has gone."""
        assignment.release()
        with self._changed:
            if self._current is not None:
                self._current.take(assignment.msg_id)
            if assignment in self._queue:
                self._queue.remove(assignment)

    def _run(self, owner: object) -> None:
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
                if self._queue or self._ended or self._stopping.triggered:  # what `_run` waits for
                    self._changed.notify_all()

    def _renew(self) -> None:
        """Be there for the next job before there is a task for it."""
        try:
            self._conversation()
        except BrokenPipeError as e:
            _log.warning("no further job can be reached: %s", e)

    def _send(self, assignment: Assignment) -> None:
        try:
            conversation = self._conversation()
            if not self._wait(conversation, assignment):
                return
            with self._changed:
                message = None if self._stopping.triggered else conversation.hand_out(assignment)
            if message is None:
                self._put_back([assignment])
                return
            left = assignment.remaining()
            if conversation.handler.send_to_peer(message, None if left is None else max(left, 0.001), assignment.abort):
                return
        except BrokenPipeError as e:
            if self._stopping.triggered:
                assignment.finish(self._stop_cause, self._stopping.reason)
            else:
                assignment.finish(Cause.SEND_FAILED, str(e))
            return
        except ValueError as e:  # data that cannot travel: the caller's own mistake
            with self._changed:
                conversation.take(assignment.msg_id)
                conversation.withdraw(assignment.msg_id)
            assignment.refuse(self._pipe, e)
            return
        self._not_sent(conversation, message, assignment)

    def _not_sent(self, conversation: Conversation, message: Message, assignment: Assignment) -> None:
        with self._changed:
            conversation.withdraw(message.msg_id)
            if conversation.is_ending or conversation.take(message.msg_id) is None:
                return  # the job's last word decides, or has decided
        left = assignment.remaining()
        expired = left is not None and left <= 0
        assignment.finish(Cause.TIMEOUT if expired else Cause.SEND_FAILED, self._pipe.last_error)

    def _wait(self, conversation: Conversation, assignment: Assignment) -> bool:
        """Wait for a job to be there; False when `assignment` was finished or put back instead."""
        if conversation.handler.peer_state is PeerState.LIVE:
            return True
        left = assignment.remaining()
        patience = self._peer_timeout if left is None else min(self._peer_timeout, left)
        if conversation.handler.wait_for_peer(patience, assignment.abort):
            return True
        if conversation.is_ending:  # a job came and went in the meantime
            with self._changed:
                is_postponed = conversation.postpone(assignment)
            if not is_postponed:
                self._put_back([assignment])
        elif self._stopping.triggered:
            assignment.finish(self._stop_cause, self._stopping.reason)
        elif left is not None and left <= self._peer_timeout:
            assignment.finish(Cause.TIMEOUT, "no job showed up in time")
        else:
            assignment.finish(Cause.NO_PEER, f"no job showed up within {self._peer_timeout:g} s")
        return False

    def _put_back(self, assignments: list[Assignment]) -> None:
        """These are the next ones."""
        with self._changed:
            if not self._stopping.triggered:
                self._queue.extendleft(reversed(assignments))
                self._changed.notify_all()
                return
        for assignment in assignments:
            assignment.finish(self._stop_cause, self._stopping.reason)

    # receiving

    def _on_message(self, message: Message, conversation: Conversation) -> None:
        self._arrivals.promised(message)
        with self._changed:
            assignment = conversation.take(message.req_id)
            conversation.withdraw(message.req_id)
        if message.msg_type is not MsgType.REPLY or assignment is None:
            _log.info("dropped a %s that nobody waits for: %s", message.msg_type.value.lower(), message.topic)
            return
        assignment.answered(message)

    def _on_status(self, status: Message, conversation: Conversation) -> None:
        """The conversation ended: what was under way is decided, by the rule or by what the job said."""
        begun, error = parse_last_word(status.data) if status.topic == Topic.END else (None, "")
        with self._changed:
            handed_out, postponed = conversation.end()
        cause = _CAUSE[status.topic]
        self._is_gone = cause is Cause.PEER_GONE
        if cause is not Cause.PEER_ENDED:
            self._arrivals.job_is_gone()
        again: list[Assignment] = []
        for msg_id, assignment in handed_out.items():
            if (begun is not None and msg_id not in begun) or assignment.may_retry(cause):
                _log.info("task %s will be handed out again: %s", assignment.task_id, _WORDS[cause])
                again.append(assignment)
            else:
                reason = status.data if isinstance(status.data, str) else error
                assignment.finish(cause, f"{_WORDS[cause]}: {reason}" if reason else _WORDS[cause])
        self._put_back(again + postponed)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
