"""The job's side of the task protocol. Invariant owned here: one task at a time, and one result for each, sent once."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from zcell.abort import Abort
from zcell.agent import environment
from zcell.agent.at_exit import call_when_main_thread_ends
from zcell.agent.delivery import Verdict
from zcell.agent.errors import AgentAborted, AgentClosed, AgentFinished, AgentPeerGone, CallStateError, closed_by
from zcell.agent.mailbox import Mailbox
from zcell.agent.metrics import MetricSender
from zcell.agent.options import AgentOptions, check_ends
from zcell.agent.result_wait import ResultWait
from zcell.agent.task import PASS_THROUGH, RECEIVERS, Task, last_word, parse_task, result_payload, why_refused
from zcell.message import ReturnCode
from zcell.pipe.arguments import seconds, seconds_or_none
from zcell.pipe.cell_pipe import CellPipe
from zcell.pipe.handler import PipeHandler
from zcell.pipe.message import TTL, Message, MsgType
from zcell.pipe.pipe import Mode, Pipe
from zcell.pipe.process import OwnProcess

_log = logging.getLogger("zcell.agent")
_FLUSH_TIMEOUT = 5.0
_LAST_WORD_TIMEOUT = 5.0
_TTL_MARGIN = 30.0  # an offer outlives the fixed wait for it, whose end is its verdict
_UNHEARD_TIMEOUT = 0.5
"""Seconds for a parent that was not heard yet to take this side's goodbye: it may know of the job already."""


class Agent:
    """Gets tasks from the parent, sends results and metrics back. A context manager; iterating over it yields tasks.

    Args:
        pipe, metric_pipe: this process's ends; at least one. They are opened by `start`.
        task_channel, metric_channel: names of the two conversations; the exchange uses the same.
        close_pipe, close_metric_pipe: whether `stop` closes them.
        submit_result_timeout: seconds for the parent's end to take a result (what it refers to may take longer).
        streaming_idle_timeout: seconds without progress of a receiver after which a result by reference has failed. None: wait
            `download_complete_timeout` seconds, warn, and take it for delivered.
        launch_once: True: this process serves many tasks. False: one task; after its result `get_task` raises `AgentFinished`.
        read_interval, heartbeat_interval, heartbeat_timeout, resend_interval, max_resends: as for `PipeHandler`.
    """

    def __init__(
        self,
        pipe: Pipe | None = None,
        metric_pipe: Pipe | None = None,
        *,
        task_channel: str = "task",
        metric_channel: str = "metric",
        close_pipe: bool = True,
        close_metric_pipe: bool = True,
        submit_result_timeout: float = 60.0,
        streaming_idle_timeout: float | None = 600.0,
        download_complete_timeout: float = 1800.0,
        launch_once: bool = False,
        read_interval: float = 0.1,
        heartbeat_interval: float = 5.0,
        heartbeat_timeout: float = 60.0,
        resend_interval: float | None = 2.0,
        max_resends: int | None = None,
    ) -> None:
        if pipe is None and metric_pipe is None:
            raise ValueError("an Agent needs a pipe, a metric_pipe, or both")
        check_ends(Mode.ACTIVE, pipe, metric_pipe)
        options = AgentOptions(
            task_channel=task_channel,
            metric_channel=metric_channel,
            close_pipe=close_pipe,
            close_metric_pipe=close_metric_pipe,
            submit_result_timeout=submit_result_timeout,
            streaming_idle_timeout=streaming_idle_timeout,
            download_complete_timeout=download_complete_timeout,
            launch_once=launch_once,
            read_interval=read_interval,
            heartbeat_interval=heartbeat_interval,
            heartbeat_timeout=heartbeat_timeout,
            resend_interval=resend_interval,
            max_resends=max_resends,
        )
        settings = dataclasses.asdict(options.handler_settings())
        self._options = options
        self._handler = PipeHandler(pipe, **settings) if pipe is not None else None
        self._metric_handler = PipeHandler(metric_pipe, **settings) if metric_pipe is not None else None
        self._process = OwnProcess()
        self._lock = threading.Lock()
        self._state = "new"
        self._tasks: Mailbox[Message] = Mailbox()
        self._closing = Abort()
        self._open: set[str] = set()
        """Ids of the messages with tasks that were taken here and have no answer yet."""
        self._waiting = False
        self._current: tuple[Task, str] | None = None
        self._metrics: MetricSender | None = None

    @classmethod
    def over_cell(
        cls,
        agent_id: str,
        site_name: str,
        *,
        has_metrics: bool = True,
        pipe_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """An agent over CellPipes that share one cell; `pipe_options` are those of `CellPipe` (as `parent`), `options` ours."""
        pipe = CellPipe(Mode.ACTIVE, site_name, agent_id, **(pipe_options or {}))
        metric_pipe = CellPipe(Mode.ACTIVE, site_name, agent_id, pipe.cell) if has_metrics else None
        return cls(pipe, metric_pipe, **options)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **options: Any) -> Self:
        """The agent that the parent's `TaskExchange.job_environment` describes; `options` win over what that says.

        Raises `CallStateError` outside a launched job, `ValueError` naming the variable that is wrong.
        """
        found = environment.read(env)
        if found is None:
            raise CallStateError(
                f"{environment.VARIABLE} is not set: this process was not launched with TaskExchange.job_environment()"
            )
        pipe, metric_pipe = environment.build_pipes(found, env)
        return cls(pipe, metric_pipe, **{**found.options, **options})

    # life

    def start(self) -> Self:
        """Open the pipes and begin. Raises what `Pipe.open` raises; `CallStateError` when it was started before."""
        with self._lock:
            if self._state != "new":
                raise CallStateError(f"the agent is {self._state}: an Agent is started once")
            self._state = "running"
            self._process = OwnProcess()
        try:
            self._start_pipes()
        except BaseException:
            self.stop()
            raise
        call_when_main_thread_ends(self.stop)
        return self

    def _start_pipes(self) -> None:
        if self._handler is not None:
            self._handler.pipe.open(self._options.task_channel)
            self._handler.set_message_cb(self._on_message)
            self._handler.set_status_cb(self._on_status)
            self._handler.start()
        if self._metric_handler is not None:
            self._metric_handler.pipe.open(self._options.metric_channel)
            self._metric_handler.set_status_cb(self._on_metric_status)
            self._metric_handler.start()
            self._metrics = MetricSender(self._metric_handler, self._options.submit_result_timeout)

    def stop(self) -> None:
        """Send the metrics that wait, tell the parent that this side is over, and close. Idempotent; takes some seconds at most.

        Nothing happens in a forked child of the process that started the agent: it is that process's.
        """
        self.stop_because(None)

    def stop_because(self, error: BaseException | None) -> None:
        """As `stop`, for who leaves with `error`: the parent is told, for the tasks that get no answer."""
        if self._process.is_elsewhere:
            return
        with self._lock:
            if self._state == "stopped":
                return
            self._state = "stopped"
        self._end_tasks(AgentClosed("the agent was stopped"), error)
        if self._metrics is not None:
            self._metrics.flush(_FLUSH_TIMEOUT)
            self._metrics.close()
        if self._metric_handler is not None:
            self._metric_handler.leave(None, self._options.close_metric_pipe)

    def _end_tasks(self, why: AgentClosed, error: BaseException | None = None) -> None:
        self._closing.trigger(str(why))
        with self._lock:
            self._open -= {m.msg_id for m in self._tasks.close(why)}
            begun = sorted(self._open)
        if self._handler is not None:
            self._handler.leave(last_word(begun, error), self._options.close_pipe, unheard_timeout=_UNHEARD_TIMEOUT)

    def __enter__(self) -> Self:
        return self.start() if self._state == "new" else self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop_because(error)

    def _check_process(self) -> None:
        if self._process.is_elsewhere:
            raise CallStateError(self._process.why("this agent"))

    def _on_message(self, message: Message) -> None:
        if message.msg_type is not MsgType.REQUEST:
            _log.warning("a reply nobody asked for: %s %s", message.topic, message.msg_id)
        else:
            with self._lock:
                if self._tasks.put(message):
                    self._open.add(message.msg_id)

    def _on_status(self, message: Message) -> None:
        why = closed_by(message.topic, message.data)
        self._tasks.close(why)
        self._closing.trigger(str(why))

    def _on_metric_status(self, message: Message) -> None:
        if self._handler is None:
            self._on_status(message)

    @property
    def closed_reason(self) -> str | None:
        """Why there will be no further task, as soon as that is known; None while there may be. For a job that computes."""
        closed = self._tasks.closed_by
        return None if closed is None else str(closed)

    # tasks

    def get_task(self, timeout: float | None = None) -> Task | None:
        """The next task, as soon as it arrives; None after `timeout` seconds without one.

        Raises `AgentClosed` or the subclass that tells what ended the conversation, `CallStateError` while the current task has
        no result. A task whose data cannot be had or converted is answered with an error, and the next one awaited.
        """
        timeout = seconds_or_none("timeout", timeout)
        self.begin_get()
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                message = self._tasks.take_within(left)
                task = None if message is None else self.accept(message)
                if message is None or task is not None:
                    return task
        except AgentClosed as e:
            raise type(e)(*e.args) from None
        finally:
            self._waiting = False

    def begin_get(self) -> None:
        """For `zcell.agent.aio`: check that a task may be asked for now."""
        if self._handler is None:
            raise CallStateError("this agent has no task pipe")
        self._check_process()
        with self._lock:
            closed = self._tasks.closed_by
            if closed is not None:
                raise type(closed)(*closed.args)
            if self._state == "new":
                raise CallStateError("call start() before get_task()")
            if self._current is not None:
                raise CallStateError(f"task {self._current[0].task_id} has no result yet: call submit_result() first")
            if self._waiting:
                raise CallStateError("another thread is waiting for a task")
            self._waiting = True

    def end_get(self) -> None:
        """For `zcell.agent.aio`: nobody waits any longer."""
        self._waiting = False

    def next_message(self) -> Any:
        """For `zcell.agent.aio`: a future of the next task's message."""
        return self._tasks.take()

    def give_back(self, message: Message) -> None:
        """For `zcell.agent.aio`: a message that was taken for a caller who had gone."""
        self._tasks.put_back(message)

    def accept(self, message: Message) -> Task | None:
        """For `zcell.agent.aio`: the task in `message`, now the current one; None when it was answered with an error."""
        try:
            if message.error:
                rc, why = ReturnCode.COMM_ERROR, message.error
            else:
                task = parse_task(message.topic, message.data)
                task = Task(task.task_id, task.task_name, self.task_to_data(task), task.headers)
                with self._lock:
                    self._current = (task, message.msg_id)
                return task
        except ValueError as e:
            rc, why = ReturnCode.INVALID_REQUEST, str(e)
        except Exception as e:  # noqa: BLE001  the parent must learn that its task will have no other answer
            rc, why = ReturnCode.PROCESS_EXCEPTION, f"the task could not be converted: {type(e).__name__}: {e}"
        _log.error("task %s refused: %s", message.topic, why)
        self._answer(message.topic, message.msg_id, result_payload(rc, None, why, is_own=True))
        return None

    def __iter__(self) -> Iterator[Task]:
        """Tasks until the conversation ends normally; `AgentAborted` and `AgentPeerGone` are raised."""
        while True:
            try:
                task = self.get_task()
            except (AgentAborted, AgentPeerGone):
                raise
            except AgentClosed:
                return
            if task is not None:
                yield task

    # results

    def submit_result(self, result: Any, rc: ReturnCode | str = ReturnCode.OK, error: str = "") -> bool:
        """Send the result of the current task; True when the other side has all of it, objects sent by reference included.

        Once per task, whether or not it succeeds. Without a current task it is logged, and False. The parent is told of a
        result that it cannot get; where even that is impossible for `submit_result_timeout`, this side leaves the conversation.
        Raises `CallStateError` without a task pipe, `ValueError` for an unknown `rc`.
        """
        if self._handler is None:
            raise CallStateError("this agent has no task pipe")
        self._check_process()
        rc = ReturnCode(rc)
        with self._lock:
            current, self._current = self._current, None
        if current is None:
            _log.error("submit_result was called without a current task; its result is dropped")
            return False
        task, msg_id = current
        try:
            return self._submit(task, msg_id, result, rc, error)
        finally:
            if not self._options.launch_once:
                self._end_tasks(AgentFinished("this process was for one task, and it has been done"))

    def _submit(self, task: Task, msg_id: str, result: Any, rc: ReturnCode, error: str) -> bool:
        try:
            data = self.result_to_message(result, rc)
        except Exception as e:  # noqa: BLE001  whatever it is, the parent is waiting for an answer
            return self._refuse(task, msg_id, f"the result could not be converted: {type(e).__name__}: {e}")
        assert self._handler is not None
        try:
            return self._send_result(task, msg_id, result_payload(rc, data, error))
        except ValueError as e:
            return self._refuse(task, msg_id, f"the result cannot travel: {why_refused(self._handler.pipe, 'result', data, e)}")

    def _refuse(self, task: Task, msg_id: str, why: str) -> bool:
        _log.error("task %s: %s", task.task_id, why)
        self._answer(task.task_name, msg_id, result_payload(ReturnCode.PROCESS_EXCEPTION, None, why, is_own=True))
        return False

    def _send_result(self, task: Task, msg_id: str, payload: dict[str, Any]) -> bool:
        idle_timeout, complete_timeout = self._options.streaming_idle_timeout, self._options.download_complete_timeout
        wait = ResultWait(idle_timeout, complete_timeout)
        message = Message.new_reply(task.task_name, payload, req_msg_id=msg_id)
        message.offer_watch = wait
        message.headers[TTL] = idle_timeout or complete_timeout + _TTL_MARGIN
        message.headers |= {k: task.headers[k] for k in (RECEIVERS, PASS_THROUGH) if task.headers.get(k)}
        taken = self._send_answer(message, msg_id, self._options.submit_result_timeout)
        if not taken:
            why = self._handler.pipe.last_error if self._handler is not None else ""
            wait.abandon(f"the result was not taken: {why}")
            _log.error("the result of task %s was not taken: %s", task.task_id, why)
            if self._handler is not None and not self._handler.pipe.is_in_vain(message):
                self._say_why_not(task, msg_id, why)
        decision = wait.wait(self._closing)
        if decision.verdict is Verdict.FAILED or decision.warning:
            _log.warning("the result of task %s: %s", task.task_id, decision.reason)
        return decision.verdict is Verdict.DELIVERED and (taken or wait.has_offers)

    def _say_why_not(self, task: Task, msg_id: str, why: str) -> None:
        """What is too large for the room there is may leave enough for a word: the parent waits for one."""
        payload = result_payload(ReturnCode.COMM_ERROR, None, f"the result could not be handed over: {why}", is_own=True)
        self._answer(task.task_name, msg_id, payload)

    def _answer(self, topic: str, msg_id: str, payload: dict[str, Any]) -> None:
        """Send a small answer. When even that is impossible this side leaves, which ends the parent's wait for an answer."""
        assert self._handler is not None
        message = Message.new_reply(topic, payload, req_msg_id=msg_id)
        timeout = max(_LAST_WORD_TIMEOUT, self._options.submit_result_timeout)
        taken = self._send_answer(message, msg_id, timeout)
        if not taken and not self._closing.triggered and not self._handler.pipe.is_in_vain(message):
            why = AgentPeerGone(f"the parent could not be given any answer to task {topic!r}: {self._handler.pipe.last_error}")
            _log.error("%s", why)
            self._end_tasks(why, why)

    def _send_answer(self, message: Message, msg_id: str, timeout: float) -> bool:
        assert self._handler is not None
        if self._metrics is not None:
            self._metrics.mark(message)
        taken = self._handler.send_to_peer(message, timeout, self._closing)
        if taken:
            with self._lock:
                self._open.discard(msg_id)
        return taken

    # metrics

    def log(self, record: Any, timeout: float = 1.0) -> bool:
        """Send a metric record, any payload; returns once it is accepted, and records are sent in order behind the job's back.

        False when there is no room for it within `timeout` seconds or the conversation is over. Raises `CallStateError` (a
        `RuntimeError`) without a metric pipe, `CodecError` (a `ValueError`) for a record that cannot travel.
        """
        if self._metric_handler is None:
            raise CallStateError("this agent has no metric pipe")
        self._check_process()
        timeout = seconds("timeout", timeout)
        return self._metrics is not None and self._metrics.log(record, timeout)

    def flush_metrics(self, timeout: float = 5.0) -> bool:
        """Wait until the parent's end has taken every record logged so far; False after `timeout` seconds."""
        self._check_process()
        timeout = seconds("timeout", timeout)
        return self._metrics is not None and self._metrics.flush(timeout)

    # hooks

    def task_to_data(self, task: Task) -> Any:
        """Override to convert the data of a task that arrived; what it returns becomes `Task.data`."""
        return task.data

    def result_to_message(self, result: Any, rc: ReturnCode) -> Any:
        """Override to convert what is given to `submit_result` into a payload."""
        return result
