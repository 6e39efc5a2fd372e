"""An exchange and an agent over each kind of pipe."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from tests.pipe.conftest import pairs
from tests.pipe.pairs import Pairs
from zcell.agent import Agent, TaskExchange
from zcell.pipe import Mode

__all__ = ["pairs"]
KINDS_FOR_PROCESSES = ("file", "file-portable", "cell-tcp")
"""Where processes are killed, stopped and forked: such tests wait for seconds, and what a link is made of changes nothing there."""
T = TypeVar("T")


class Place:
    """Makes exchanges and agents that find each other, and threads for their users. All of it ends with the test."""

    def __init__(self, made: Pairs, stack: ExitStack) -> None:
        self.pairs = made
        self.token = secrets.token_hex(4)
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(8))

    def exchange(self, *, metrics: bool = False, **options: Any) -> TaskExchange:
        """Started."""
        pipes = [self.pairs.build(Mode.PASSIVE, self.token) for _ in range(1 + metrics)]
        exchange = TaskExchange(*pipes, **options)
        self._stack.callback(exchange.stop)
        return exchange.start()

    def agent(self, *, metrics: bool = False, kind: type[Agent] = Agent, **options: Any) -> Agent:
        """Not started. It serves many tasks unless told otherwise."""
        pipes = [self.pairs.build(Mode.ACTIVE, self.token) for _ in range(1 + metrics)]
        agent = kind(*pipes, **{"launch_once": True, **options})
        self._stack.callback(agent.stop)
        return agent

    def both(self, *, metrics: bool = False, **options: Any) -> tuple[TaskExchange, Agent]:
        """Both started."""
        exchange = self.exchange(metrics=metrics, **options)
        return exchange, self.agent(metrics=metrics, **options).start()

    def meanwhile(self, call: Callable[..., T], *arguments: Any, **named: Any) -> Future[T]:
        """Run `call` on a thread."""
        return self._pool.submit(call, *arguments, **named)


@pytest.fixture
def place(pairs: Pairs) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(pairs, stack)


def serve(agent: Agent) -> int:
    """Answer each task with its data; how many there were."""
    count = 0
    for task in agent:
        agent.submit_result(task.data)
        count += 1
    return count
