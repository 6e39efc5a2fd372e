"""The agent and the exchange for asyncio. Invariant: one implementation; awaiting here and waiting in `zcell.agent` are the same call.

What blocks for another reason than waiting for a message (opening, closing, sending a result) runs beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from zcell.agent.agent import Agent as SyncAgent
from zcell.agent.errors import AgentAborted, AgentClosed, AgentPeerGone
from zcell.agent.exchange import TaskExchange as SyncExchange
from zcell.agent.task import Result, Task
from zcell.message import ReturnCode
from zcell.pipe.arguments import seconds_or_none
from zcell.pipe.pipe import Pipe
from zcell.pipe.session import PeerState


class Agent:
    """A `zcell.agent.Agent` whose waits are awaited: ``async for task in agent``. Takes the same arguments.

    `sync` is the agent underneath; give `sync_class` a subclass of it with hooks of its own.
    """

    def __init__(
        self,
        pipe: Pipe | None = None,
        metric_pipe: Pipe | None = None,
        *,
        sync_class: type[SyncAgent] = SyncAgent,
        **options: Any,
    ) -> None:
        self.sync = sync_class(pipe, metric_pipe, **options)

    @classmethod
    def of(cls, agent: SyncAgent) -> Self:
        """The asyncio form of an agent that was made already."""
        self = cls.__new__(cls)
        self.sync = agent
        return self

    @classmethod
    async def from_env(cls, env: Mapping[str, str] | None = None, **options: Any) -> Self:
        """As `zcell.agent.Agent.from_env`."""
        return cls.of(await asyncio.to_thread(SyncAgent.from_env, env, **options))

    async def start(self) -> Self:
        """As `zcell.agent.Agent.start`."""
        await asyncio.to_thread(self.sync.start)
        return self

    async def stop(self) -> None:
        """As `zcell.agent.Agent.stop`."""
        await asyncio.to_thread(self.sync.stop)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.sync.stop_because, error)

    @property
    def closed_reason(self) -> str | None:
        """As `zcell.agent.Agent.closed_reason`."""
        return self.sync.closed_reason

    async def get_task(self, timeout: float | None = None) -> Task | None:
        """As `zcell.agent.Agent.get_task`; a cancelled call takes no task."""
        timeout = seconds_or_none("timeout", timeout)
        self.sync.begin_get()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    message = await self._message()
                    task = await asyncio.to_thread(self.sync.accept, message) if message.error else self.sync.accept(message)
                    if task is not None:
                        return task
        except TimeoutError:
            return None
        except AgentClosed as e:
            raise type(e)(*e.args) from None
        finally:
            self.sync.end_get()

    async def _message(self) -> Any:
        taken = self.sync.next_message()
        try:
            return await asyncio.wrap_future(taken)
        except asyncio.CancelledError:
            if not taken.cancel() and not taken.cancelled() and taken.exception() is None:
                self.sync.give_back(taken.result())
            raise

    async def __aiter__(self) -> AsyncIterator[Task]:
        """Tasks until the conversation ends normally; `AgentAborted` and `AgentPeerGone` are raised."""
        while True:
            try:
                task = await self.get_task()
            except (AgentAborted, AgentPeerGone):
                raise
            except AgentClosed:
                return
            if task is not None:
                yield task

    async def submit_result(self, result: Any, rc: ReturnCode | str = ReturnCode.OK, error: str = "") -> bool:
        """As `zcell.agent.Agent.submit_result`. Once begun it goes on although the call is cancelled."""
        return await asyncio.to_thread(self.sync.submit_result, result, rc, error)

    def log(self, record: Any) -> bool:
        """As `zcell.agent.Agent.log`, without waiting for room."""
        return self.sync.log(record, timeout=0.0)


class TaskExchange:
    """A `zcell.agent.TaskExchange` whose waits are awaited. Takes the same arguments; `sync` is the one underneath."""

    def __init__(
        self,
        pipe: Pipe,
        metric_pipe: Pipe | None = None,
        *,
        sync_class: type[SyncExchange] = SyncExchange,
        **options: Any,
    ) -> None:
        self.sync = sync_class(pipe, metric_pipe, **options)

    async def start(self) -> Self:
        """As `zcell.agent.TaskExchange.start`."""
        await asyncio.to_thread(self.sync.start)
        return self

    async def stop(self) -> None:
        """As `zcell.agent.TaskExchange.stop`."""
        await asyncio.to_thread(self.sync.stop)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def peer_state(self) -> PeerState:
        return self.sync.peer_state

    async def run(self, task_name: str, data: Any = None, **options: Any) -> Result:
        """As `zcell.agent.TaskExchange.run_async`."""
        return await self.sync.run_async(task_name, data, **options)

    def on_metric(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """As `zcell.agent.TaskExchange.on_metric`, on the event loop that runs now."""
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        loop = asyncio.get_running_loop()

        def pass_on(record: Any) -> None:
            loop.call_soon_threadsafe(callback, record)

        self.sync.on_metric(pass_on)
        return callback

    def job_environment(self, **options: Any) -> dict[str, str]:
        """As `zcell.agent.TaskExchange.job_environment`."""
        return self.sync.job_environment(**options)
