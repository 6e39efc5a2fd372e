"""What travels between exchange and agent. Invariant owned here: both sides agree on these fields and no others."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from zcell.errors import ZcellError
from zcell.message import ReturnCode
from zcell.pipe.pipe import Pipe

CURRENT_ROUND, TOTAL_ROUNDS = "current_round", "total_rounds"
RECEIVERS, PASS_THROUGH = "receivers", "pass_through"
METRICS = "metrics"
"""In the headers of a result: which agent, and how many metric records it had accepted; of a batch of them: how many up to its end."""
BEGUN, ERROR = "begun", "error"
"""In the data of an agent's END: ids of the messages with tasks that it began and did not answer. Whatever else was sent to it, it
did not begin and will not. ERROR is the exception with which its user left it, where there was one."""
OWN = "own"
"""In the data of a reply: the agent itself made it, so there is nothing in it for the exchange's hook."""
_MAX_ERROR = 1000


@dataclass(frozen=True, slots=True)
class Task:
    """One task, as the job sees it. `data` went through `Agent.task_to_data`."""

    task_id: str
    task_name: str
    data: Any
    headers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def current_round(self) -> int | None:
        """Which round this task belongs to, when the parent counts rounds."""
        return self.headers.get(CURRENT_ROUND)

    @property
    def total_rounds(self) -> int | None:
        return self.headers.get(TOTAL_ROUNDS)

    @property
    def receivers(self) -> tuple[str, ...]:
        """The cells that will fetch the large objects of the result; empty: the parent's end of the pipe."""
        return tuple(self.headers.get(RECEIVERS) or ())


class Cause(StrEnum):
    """Why a task ended as it did."""

    COMPLETED = "COMPLETED"
    """The job answered; `Result.rc` is its own word on how it went."""
    TIMEOUT = "TIMEOUT"
    ABORTED = "ABORTED"
    """The caller aborted it."""
    NO_PEER = "NO_PEER"
    """No job showed up within `peer_timeout`."""
    PEER_ENDED = "PEER_ENDED"
    """The job ended its side before it answered."""
    PEER_ABORTED = "PEER_ABORTED"
    PEER_GONE = "PEER_GONE"
    """The job died, froze, or cannot be reached."""
    SEND_FAILED = "SEND_FAILED"
    """The task could not be handed to the job."""
    RESULT_LOST = "RESULT_LOST"
    """The job answered, but its answer or what it refers to could not be had."""
    CLOSED = "CLOSED"
    """The exchange was stopped."""


class TaskError(ZcellError):
    """Raised by `Result.raise_for_cause`. `result` says more."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True, slots=True)
class Result:
    """How a task ended. `ok` only when the job answered, with rc OK."""

    task_id: str
    task_name: str
    cause: Cause
    rc: ReturnCode | None = None
    """The job's own word on how it went; None unless `cause` is COMPLETED."""
    data: Any = None
    error: str = ""
    attempts: int = 1
    """How many times the task was handed out."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.cause is Cause.COMPLETED and self.rc is ReturnCode.OK

    def raise_for_cause(self) -> Result:
        """Return self when `ok`, else raise `TaskError` naming task, cause and reason."""
        if self.ok:
            return self
        what = self.cause.value if self.rc is None else self.rc.value
        raise TaskError(f"task {self.task_name!r} ({self.task_id}): {what}: {self.error or 'no further detail'}", self)


def task_payload(task_id: str, data: Any, headers: Mapping[str, Any]) -> dict[str, Any]:
    """The data of the request that hands out a task; its topic is the task's name."""
    return {"task_id": task_id, "headers": dict(headers), "data": data}


def parse_task(name: str, payload: Any) -> Task:
    """Raises `ValueError` for what is no task."""
    if not isinstance(payload, dict) or not isinstance(payload.get("task_id"), str) or "data" not in payload:
        raise ValueError(
            f"the request {name!r} is no task: expected a dict with task_id and data, got {type(payload).__name__}"
        )
    headers = payload.get("headers")
    if not isinstance(headers, dict):
        raise ValueError(f"the task {name!r} has no headers")
    return Task(payload["task_id"], name, payload["data"], headers)


def result_payload(rc: ReturnCode, data: Any, error: str = "", *, is_own: bool = False) -> dict[str, Any]:
    """The data of the reply that answers a task; `is_own`: the agent answers, because its user's result cannot be had."""
    payload = {"rc": rc.value, "error": error, "data": data}
    return payload | {OWN: True} if is_own else payload


def parse_result(payload: Any) -> tuple[ReturnCode, Any, str, bool]:
    """(rc, data, error, whether it is the agent's own answer); raises `ValueError` for what is no result."""
    if not isinstance(payload, dict) or "data" not in payload:
        raise ValueError(f"the answer is no result: expected a dict with rc and data, got {type(payload).__name__}")
    return ReturnCode(payload.get("rc", "")), payload["data"], str(payload.get("error", "")), payload.get(OWN) is True


def last_word(begun: Sequence[str], error: BaseException | None) -> dict[str, Any]:
    """The data of an agent's END."""
    said: dict[str, Any] = {BEGUN: list(begun)}
    if error is not None:
        text = "".join(traceback.format_exception_only(error)).strip()[:_MAX_ERROR]
        said[ERROR] = text.encode("utf-8", "backslashreplace").decode()
    return said


def parse_last_word(data: Any) -> tuple[set[str] | None, str]:
    """Ids of the messages with tasks that the job says it began and did not answer (None when it did not say), and its error."""
    if not isinstance(data, dict):
        return None, ""
    ids, error = data.get(BEGUN), data.get(ERROR)
    begun = {i for i in ids if isinstance(i, str)} if isinstance(ids, list) else None
    return begun, error[:_MAX_ERROR] if isinstance(error, str) else ""


def why_refused(pipe: Pipe, name: str, data: Any, error: ValueError) -> ValueError:
    """What `pipe` has against `data`, which its owner calls `name`; `error` when that is not to blame."""
    try:
        pipe.check_data(data, name)
    except ValueError as e:
        return e
    return error
