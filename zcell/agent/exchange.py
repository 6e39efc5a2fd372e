"""The parent's side of the task protocol. Invariant owned here: every task gets exactly one `Result`, and it names its cause."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Self

from zcell.abort import Abort
from zcell.agent import environment, metrics
from zcell.agent.arrivals import Arrivals
from zcell.agent.assignment import Assignment
from zcell.agent.at_exit import call_when_all_threads_have_ended
from zcell.agent.dispatch import Dispatcher
from zcell.agent.errors import CallStateError
from zcell.agent.options import check_channels, check_ends, checked_options
from zcell.agent.task import CURRENT_ROUND, PASS_THROUGH, RECEIVERS, TOTAL_ROUNDS, Cause, Result
from zcell.pipe.arguments import abort_or_none, flag, seconds, seconds_or_none, whole_number
from zcell.pipe.handler import PipeHandler
from zcell.pipe.message import Message, new_id
from zcell.pipe.pipe import Mode, Pipe
from zcell.pipe.process import OwnProcess
from zcell.pipe.session import PeerState
from zcell.pipe.settings import HandlerSettings

_log = logging.getLogger("zcell.agent.exchange")
_METRICS_TIMEOUT = 10.0
"""Seconds that `stop` waits for metrics at most, beside the callback that is running."""


class TaskExchange:
    """Hands tasks to the job at the other end of a pipe, one after the other, and brings their results. A context manager.

    Args:
        pipe, metric_pipe: this process's ends (PASSIVE); opened by `start`, closed by `stop`.
        task_channel, metric_channel: as for `Agent`.
        peer_timeout: seconds to wait for a job to show up, the first and after each that left.
        retries: how often a task may be handed to another job when the one that had it ended, died or fell silent. A job that
            aborts is not tried again.
        read_interval, heartbeat_interval, heartbeat_timeout, resend_interval, max_resends: as for `PipeHandler`.

    One exchange serves one job at a time; when that has gone, the next one that opens the other end gets the next task.
    """

    def __init__(
        self,
        pipe: Pipe,
        metric_pipe: Pipe | None = None,
        *,
        task_channel: str = "task",
        metric_channel: str = "metric",
        peer_timeout: float = 60.0,
        retries: int = 0,
        read_interval: float = 0.1,
        heartbeat_interval: float = 5.0,
        heartbeat_timeout: float = 60.0,
        resend_interval: float | None = 2.0,
        max_resends: int | None = None,
    ) -> None:
        if pipe is None:
            raise TypeError("a TaskExchange needs a pipe")
        check_ends(Mode.PASSIVE, pipe, metric_pipe)
        check_channels(task_channel, metric_channel)
        peer_timeout = seconds("peer_timeout", peer_timeout, above=0)
        self._pipe, self._metric_pipe = pipe, metric_pipe
        self._channels = (task_channel, metric_channel)
        settings = HandlerSettings(read_interval, heartbeat_interval, heartbeat_timeout, resend_interval, max_resends)
        self._settings = dataclasses.asdict(settings)
        self._retries = whole_number("retries", retries, least=0)
        self._process = OwnProcess()
        self._lock = threading.Lock()
        self._state = "new"
        self._arrivals = Arrivals()
        self._dispatcher = Dispatcher(pipe, self._settings, peer_timeout, self._arrivals)
        self._metric_handler: PipeHandler | None = None
        self._metric_thread: int | None = None
        """Which thread calls back."""
        self._on_metric: Callable[[Any], None] | None = None

    # life

    def start(self) -> Self:
        """Open the pipes and begin to listen. Raises what `Pipe.open` raises; `CallStateError` when it was started before."""
        with self._lock:
            if self._state != "new":
                raise CallStateError(f"the exchange is {self._state}: a TaskExchange is started once")
            self._state = "running"
            self._process = OwnProcess()
        try:
            self._pipe.open(self._channels[0])
            if self._metric_pipe is not None:
                self._metric_pipe.open(self._channels[1])
                self._listen_to_metrics()
            self._dispatcher.start(self)
        except BaseException:
            self.stop()
            raise
        call_when_all_threads_have_ended(self.stop)
        return self

    def stop(self) -> None:
        """End the conversation: the job is told, tasks that run get the cause CLOSED, the pipes close. Idempotent.

        Returns when the metrics that were recorded before a result that came have been handed to the callback; waits for those
        that are still on their way 10 s at most, and for none of a job that is gone. Nothing happens in a forked child of the
        process that started the exchange.
        """
        if self._process.is_elsewhere:
            return
        with self._lock:
            if self._state in ("stopping", "stopped"):
                return
            self._state = "stopping"
        is_there = self._dispatcher.stop()
        is_called_back = self._metric_thread == threading.get_ident()  # then nothing can come while this waits
        deadline = time.monotonic() + _METRICS_TIMEOUT
        if self._metric_pipe is not None and not is_called_back and not self._arrivals.wait(_METRICS_TIMEOUT):
            _log.warning("metrics that were recorded before the last result did not arrive within %g s", _METRICS_TIMEOUT)
        with self._lock:
            self._state = "stopped"
            handler = self._metric_handler
        if handler is not None:
            if is_there:
                handler.leave("the exchange was stopped", close_pipe=False)
            else:
                handler.stop(close_pipe=False)
                handler.pipe.peer_is_gone()
            for message in () if is_called_back else handler.rest(deadline):
                self._metrics_came(message)
        if self._metric_pipe is not None:
            self._metric_pipe.close()

    def abort(self, reason: str = "the parent gave up") -> None:
        """Tell the job to give up at once; tasks that run get the cause ABORTED. The exchange can then be stopped."""
        self._dispatcher.abort(reason)

    def __enter__(self) -> Self:
        return self.start() if self._state == "new" else self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # the job at the other end

    @property
    def peer_state(self) -> PeerState:
        """What is known of the job at the other end."""
        return self._dispatcher.peer_state

    def wait_for_peer(self, timeout: float | None = None, abort: Abort | None = None) -> bool:
        """Wait until a job is at the other end; False after `timeout` seconds, or when aborted."""
        return self._dispatcher.wait_for_peer(seconds_or_none("timeout", timeout), abort_or_none("abort", abort))

    def peer_is_gone(self, reason: str) -> None:
        """Tell the exchange that the job has ended, as its launcher's handle knows, instead of waiting for its silence."""
        self._dispatcher.peer_is_gone(reason)

    def job_environment(self, *, launch_once: bool = True, **options: Any) -> dict[str, str]:
        """The environment from which `Agent.from_env` builds the other ends; `options` are those of `Agent`.

        Names and addresses only. Raises what `Agent` would raise for an option, and `TypeError` for one that it has not.
        """
        channels = {"task_channel": self._channels[0], "metric_channel": self._channels[1]}
        for name, own in channels.items():
            if options.get(name, own) != own:
                raise ValueError(f"{name} must be that of the exchange, {own!r}, got {options[name]!r}")
        checked = checked_options({**channels, "launch_once": launch_once, **options})
        return environment.describe(self._pipe, self._metric_pipe, checked)

    # tasks

    def run(
        self,
        task_name: str,
        data: Any = None,
        *,
        timeout: float | None = None,
        abort: Abort | None = None,
        task_id: str | None = None,
        current_round: int | None = None,
        total_rounds: int | None = None,
        receivers: Iterable[str] | None = None,
        pass_through: bool = False,
    ) -> Result:
        """Have a task done. Never raises for what becomes of it: `Result.cause` and `Result.error` tell.

        Args:
            task_name, data: what the job gets; `data` is any payload, large buffers travel by reference.
            timeout: seconds for all of it (None: no limit). The job is not told; a late result is dropped.
            abort: triggering it ends the wait at once.
            task_id: made here unless given.
            current_round, total_rounds: told to the job.
            receivers: names of the cells that will fetch the large objects of the result, when not this end.
            pass_through: large objects of the result stay with the job; `Result.data` holds `LazyRef`s to forward or fetch.

        Raises `ValueError` or `TypeError` for arguments, `CodecError` for data that cannot travel, `CallStateError` unless started.
        """
        timeout = seconds_or_none("timeout", timeout, above=0)
        headers = _headers(current_round, total_rounds, receivers, pass_through)
        assignment = self._assign(task_name, data, task_id, headers, timeout, abort)
        try:
            self._dispatcher.submit(assignment, here=True)
            left = assignment.remaining()
            return assignment.future.result(None if left is None else max(0.0, left))
        except TimeoutError:
            return assignment.finish(Cause.TIMEOUT, f"no result within {timeout:g} s")
        except BaseException:
            assignment.finish(Cause.ABORTED, "the caller was interrupted")
            raise
        finally:
            self._dispatcher.forget(assignment)

    async def run_async(
        self,
        task_name: str,
        data: Any = None,
        *,
        timeout: float | None = None,
        abort: Abort | None = None,
        task_id: str | None = None,
        current_round: int | None = None,
        total_rounds: int | None = None,
        receivers: Iterable[str] | None = None,
        pass_through: bool = False,
    ) -> Result:
        """As `run`, awaited. Cancelling it aborts the task."""
        timeout = seconds_or_none("timeout", timeout, above=0)
        headers = _headers(current_round, total_rounds, receivers, pass_through)
        assignment = self._assign(task_name, data, task_id, headers, timeout, abort)
        try:
            self._dispatcher.submit(assignment)
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(assignment.future)), timeout)
        except TimeoutError:
            return assignment.finish(Cause.TIMEOUT, f"no result within {timeout:g} s")
        except (asyncio.CancelledError, CancelledError):
            assignment.finish(Cause.ABORTED, "the caller cancelled it")
            raise
        finally:
            self._dispatcher.forget(assignment)

    def _assign(
        self,
        task_name: str,
        data: Any,
        task_id: str | None,
        headers: dict[str, Any],
        timeout: float | None,
        abort: Abort | None,
    ) -> Assignment:
        if self._process.is_elsewhere:
            raise CallStateError(self._process.why("this exchange"))
        if self._state != "running":
            raise CallStateError(f"the exchange is {self._state}: call start() first, and not after stop()")
        abort_or_none("abort", abort)
        if task_id is not None and not isinstance(task_id, str):
            raise TypeError(f"task_id must be a str or None, not {type(task_id).__name__} ({task_id!r})")
        if not isinstance(task_name, str) or not task_name:
            raise ValueError(f"task_name must be a non-empty str, got {task_name!r}")
        deadline = None if timeout is None else time.monotonic() + timeout
        data = self.data_to_task(data)
        if not self._dispatcher.is_free:  # else sending it will tell
            self._pipe.check_data(data)
        assignment = Assignment(task_name, task_id or new_id(), data, headers, deadline, self._retries, self._convert)
        if abort is not None:
            assignment.obey(abort)
        return assignment

    # metrics

    def on_metric(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """Call `callback(record)` for each metric record, in order, on a thread of its own. Usable as a decorator.

        Raises `CallStateError` without a metric pipe.
        """
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        if self._metric_pipe is None:
            raise CallStateError("this exchange has no metric pipe: give it one as its second argument")
        self._on_metric = callback
        return callback

    def _listen_to_metrics(self) -> None:
        assert self._metric_pipe is not None
        handler = PipeHandler(self._metric_pipe, **{**self._settings, "heartbeat_timeout": 0})
        handler.set_message_cb(self._metrics_came)
        handler.set_status_cb(self._metrics_ended, handler)
        self._metric_handler = handler
        handler.start()

    def _metrics_came(self, message: Message) -> None:
        self._metric_thread = threading.get_ident()
        try:
            if self._on_metric is not None:
                metrics.unpack(message, self._on_metric)
        finally:
            self._metric_thread = None
        self._arrivals.arrived(message)

    def _metrics_ended(self, status: Message, handler: PipeHandler) -> None:
        # The next job's metrics are a new conversation. This runs on a thread of the handler that ends, which cannot join itself.
        self._arrivals.ended()
        with self._lock:
            if self._state not in ("running", "stopping") or self._metric_pipe is None:
                return
            try:
                handler.stop(close_pipe=False)
                self._metric_pipe.clear()
                self._listen_to_metrics()
            except BrokenPipeError as e:
                _log.warning("no further metrics: %s", e)

    # hooks

    def data_to_task(self, data: Any) -> Any:
        """Override to convert what is given to `run` into a payload."""
        return data

    def message_to_data(self, data: Any) -> Any:
        """Override to convert the payload of a result; what it returns becomes `Result.data`."""
        return data

    def _convert(self, data: Any) -> Any:
        return self.message_to_data(data)


def _headers(
    current_round: int | None, total_rounds: int | None, receivers: Iterable[str] | None, pass_through: bool
) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    for name, value in ((CURRENT_ROUND, current_round), (TOTAL_ROUNDS, total_rounds)):
        if value is not None:
            headers[name] = whole_number(name, value)
    if isinstance(receivers, str):
        raise TypeError("receivers is a list of cell names, not one str")
    if receivers is not None:
        headers[RECEIVERS] = list(receivers)
        for receiver in headers[RECEIVERS]:
            if not isinstance(receiver, str):
                raise TypeError(f"receivers is a list of cell names, got {receiver!r} in it")
    if flag("pass_through", pass_through):
        headers[PASS_THROUGH] = True
    return headers
