"""One task on the parent's side. Invariant owned here: it is finished once; whoever is first decides how."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from zcell.abort import Abort
from zcell.agent.task import Cause, Result, parse_result, task_payload, why_refused
from zcell.message import ReturnCode
from zcell.pipe.message import Message, MsgType
from zcell.pipe.pipe import Pipe

_log = logging.getLogger("zcell.agent.exchange")


class Assignment:
    """A task with the future of its result. Thread-safe."""

    def __init__(
        self,
        task_name: str,
        task_id: str,
        data: Any,
        headers: Mapping[str, Any],
        deadline: float | None,
        retries: int,
        convert: Callable[[Any], Any],
    ) -> None:
        self.task_name = task_name
        self.task_id = task_id
        self.deadline = deadline
        self.future: Future[Result] = Future()
        self.future.set_running_or_notify_cancel()  # waiting for it can be given up, the future itself stays
        self.abort = Abort()
        """Triggered when it is finished, so that a send under way ends."""
        self.attempts = 0
        self._payload = task_payload(task_id, data, headers)
        self._retries = retries
        self._convert = convert
        self._lock = threading.Lock()
        self._result: Result | None = None
        self._begun = time.monotonic()
        self._release: Callable[[], None] = _nothing
        self.msg_id = ""

    def message(self) -> Message:
        """A new message for the next attempt; its id is `msg_id` from then on."""
        message = Message(MsgType.REQUEST, self.task_name, self._payload)
        self.msg_id = message.msg_id
        self.attempts += 1
        return message

    def may_retry(self, cause: Cause) -> bool:
        """Whether to hand it out again after `cause`; counts."""
        if cause not in (Cause.PEER_ENDED, Cause.PEER_GONE) or self._retries <= 0:
            return False
        self._retries -= 1
        return True

    def obey(self, abort: Abort) -> None:
        """End with ABORTED when `abort` is triggered."""
        key = abort.add_callback(lambda: self._aborted(abort))
        self._release = lambda: abort.remove_callback(key)

    def _aborted(self, abort: Abort) -> None:
        self.finish(Cause.ABORTED, abort.reason)

    @property
    def is_finished(self) -> bool:
        return self._result is not None

    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def finish(self, cause: Cause, error: str = "", rc: ReturnCode | None = None, data: Any = None) -> Result:
        """End it, unless it has ended; how it ended."""
        with self._lock:
            if self._result is not None:
                return self._result
            seconds = time.monotonic() - self._begun
            self._result = Result(self.task_id, self.task_name, cause, rc, data, error, self.attempts, seconds)
        self._payload = {}
        self.abort.trigger("the task has ended")
        self.future.set_result(self._result)
        return self._result

    def refuse(self, pipe: Pipe, error: ValueError) -> None:
        """`pipe` cannot send it at all, because of `error`; the caller gets that raised."""
        error = why_refused(pipe, "data", self._payload.get("data"), error)
        with self._lock:
            if self._result is not None:
                return
            self._result = Result(self.task_id, self.task_name, Cause.SEND_FAILED, error=str(error))
        self.future.set_exception(error)

    def answered(self, message: Message) -> None:
        """The job's reply."""
        try:
            if message.error:
                self.finish(Cause.RESULT_LOST, message.error)
                return
            rc, data, error, is_own = parse_result(message.data)
            self.finish(Cause.COMPLETED, error, rc, data if is_own else self._converted(data, rc))
        except Exception as e:  # noqa: BLE001  the caller's hook, or a peer's nonsense: the caller is told either way
            self.finish(Cause.RESULT_LOST, f"the result could not be read: {type(e).__name__}: {e}")

    def _converted(self, data: Any, rc: ReturnCode) -> Any:
        """Through the caller's hook; a job that failed need not have said what the hook expects, and its own word counts then."""
        try:
            return self._convert(data)
        except Exception:
            if rc is ReturnCode.OK:
                raise
            _log.info("the data of task %s, which failed, could not be converted", self.task_id, exc_info=True)
            return None

    def release(self) -> None:
        """Nobody waits for it any longer."""
        self._release()


def _nothing() -> None:
    return
