"""Questions whose answer takes long. Invariant: neither side waits inside one request; each stall and each loss has a bound.

The owner of the work answers PENDING when it is not done within `PATIENCE` seconds (or half of what the caller waits), and the
caller asks the very same again: the same question always means the same work. Silence, or a count of work that stands still, for
`idle_timeout` ends the asking.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from zcell.abort import Abort
from zcell.errors import CellClosedError, WorkspaceError
from zcell.message import Reply, Request, ReturnCode, make_reply

if TYPE_CHECKING:
    from zcell.cell.cell import Cell
    from zcell.workspace.meter import Meter

CHANNEL = "workspace_transfer"
PREPARE = "prepare_download"
PUBLISH = "publish_results"
SELECT = "select_entries"
DELIVERED = "tree_delivered"
PATIENCE = 2.0
PENDING = "pending"
_REQUEST_SECONDS = 10.0
_RETRY_SECONDS = 0.2
_AGAIN_SECONDS = 0.02
_ON_THE_WAY = frozenset(
    {ReturnCode.TIMEOUT, ReturnCode.TARGET_UNREACHABLE, ReturnCode.COMM_ERROR, ReturnCode.SERVICE_UNAVAILABLE}
)


def patient_answer(cell: Cell, request: Request, work: Future[Reply], meter: Meter) -> Future[Reply]:
    """What a handler returns: the outcome of `work`, or PENDING with how far it is, when that takes too long for this request.

    Work that waits for its turn counts as progress: those before it make some.
    """
    answer: Future[Reply] = Future()

    def finish(_: object = None) -> None:
        if work.done():
            _resolve(answer, outcome_of(work))

    def give_up() -> None:
        ticks = meter.ticks if work.running() else int(time.monotonic())
        _resolve(answer, make_reply(ReturnCode.OK, {"state": PENDING, "ticks": ticks}))

    def on_time() -> None:  # on the I/O thread, which must not run the filters of a reply
        cell.submit(give_up)

    work.add_done_callback(finish)
    if not work.done():
        remaining = PATIENCE if request.remaining is None else request.remaining
        try:
            cell.call_later(max(0.0, min(PATIENCE, remaining / 2)), on_time)
        except CellClosedError:
            _resolve(answer, make_reply(ReturnCode.ABORTED, error="the cell was stopped"))
    return answer


def _resolve(answer: Future[Reply], reply: Reply) -> None:
    if not answer.done():
        with contextlib.suppress(InvalidStateError):  # the other one was faster
            answer.set_result(reply)


def outcome_of(work: Future[Reply]) -> Reply:
    """The reply in a finished future, or one that tells how it failed."""
    if work.cancelled():
        return make_reply(ReturnCode.ABORTED, error="the cell was stopped")
    error = work.exception()
    if error is not None:
        return make_reply(ReturnCode.PROCESS_EXCEPTION, error=f"{type(error).__name__}: {error}")
    return work.result()


def ask(
    cell: Cell,
    target: str,
    topic: str,
    payload: dict[str, Any],
    *,
    idle_timeout: float,
    abort: Abort | None = None,
    on_pending: Callable[[dict[str, Any]], None] = lambda payload: None,
) -> dict[str, Any]:
    """Ask until there is an answer; its payload, a dict. `on_pending` sees every PENDING.

    Raises `WorkspaceError` with the return code of a refusal, of an abort, or of what kept the question from arriving for
    `idle_timeout` seconds.
    """
    abort = abort or Abort()
    ticks: object = None
    alive_at = time.monotonic()
    while True:
        reply = cell.request(target, CHANNEL, topic, payload, timeout=_REQUEST_SECONDS, optional=True, abort=abort)
        if reply.ok:
            if not isinstance(reply.payload, dict):
                raise WorkspaceError(f"{target} answered {topic} with a {type(reply.payload).__name__}, expected a dict")
            if reply.payload.get("state") != PENDING:
                return reply.payload
            if reply.payload.get("ticks") != ticks:
                ticks, alive_at = reply.payload.get("ticks"), time.monotonic()
            on_pending(reply.payload)
        elif reply.origin or reply.rc not in _ON_THE_WAY:
            raise WorkspaceError(f"{target} refused {topic}: {reply.error or reply.rc.value}", reply.rc.value)
        if time.monotonic() - alive_at >= idle_timeout:
            what = "made no progress" if reply.ok else f"could not be reached ({reply.rc.value}: {reply.error})"
            raise WorkspaceError(f"{topic}: {target} {what} for {idle_timeout:g} s", reply.rc.value)
        if abort.wait(_AGAIN_SECONDS if reply.ok else _RETRY_SECONDS):
            raise WorkspaceError(f"{topic}: {abort.reason}", ReturnCode.ABORTED.value)
