"""Jobs for the tests, in processes of their own: `python -m tests.agent.job WHAT`, with `ZAGENT_PIPES` in the environment."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

from tests.eventually import eventually
from zcell.agent import Agent, AgentClosed


def say(text: object) -> None:
    print(text, flush=True)


def serve(agent: Agent) -> None:
    """Until the end; a task may ask for a pause in which the process can be killed, or which lasts until the parent is gone."""
    with agent:
        say("ready")
        for task in agent:
            if task.data == "hold":
                say("holding")
                threading.Event().wait()
            if task.data == "outlast":
                say("holding")
                eventually(lambda: agent.closed_reason)
            result = np.ones(task.data) if task.task_name == "large" else task.data
            say(f"submitted {agent.submit_result(result)}")


def serve_and_tell(agent: Agent) -> None:
    try:
        serve(agent)
        say("ended")
    except AgentClosed as e:
        say(type(e).__name__)


def exit_without_stop(agent: Agent) -> None:
    """The main thread ends with a code of its own, and nobody stopped the agent."""
    atexit.register(say, "exiting")
    agent.start()
    say("ready")
    task = agent.get_task(30)
    assert task is not None
    say(f"submitted {agent.submit_result(task.data)}")
    sys.exit(task.data)


def worker_thread(agent: Agent) -> None:
    """The main thread ends while another one waits for tasks."""
    agent.start()

    def work() -> None:
        try:
            for task in agent:
                agent.submit_result(task.data)
        finally:
            say("worker ended")

    thread = threading.Thread(target=work)
    thread.start()
    say("ready")


def crash(agent: Agent) -> None:
    agent.start()
    say("ready")
    agent.get_task(30)
    raise ValueError("the user's mistake")


def fork(agent: Agent) -> None:
    """For each task a forked child, which leaves the agent's block and runs the hooks of a normal exit."""
    with agent:
        for task in agent:
            child = os.fork()
            if not child:
                sys.exit(0)
            _, status = os.waitpid(child, 0)
            say(f"child {os.waitstatus_to_exitcode(status)}")
            say(f"submitted {agent.submit_result(task.data)}")


KINDS = {
    "serve": serve,
    "tell": serve_and_tell,
    "exit": exit_without_stop,
    "worker": worker_thread,
    "crash": crash,
    "fork": fork,
}


class Job:
    """The process, from the test's side; killed when the test leaves it."""

    def __init__(self, what: str, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.agent.job", what],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def expect(self, text: str) -> None:
        """Read lines until this one; fails with what the process said instead."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line.strip())
            if line.strip() == text:
                return
        assert self.process.stderr is not None
        raise AssertionError(f"expected {text!r}, got {seen} and {self.process.stderr.read()}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    KINDS[sys.argv[1]](Agent.from_env())
