"""A job under measurement: answers each task with its data, logs metrics when told, and shows what a large result costs."""

from __future__ import annotations

import threading
import time
from typing import Any

from bench.answering import serve
from zcell.agent import Agent


def answer_tasks(agent: Agent) -> None:
    """Until the parent ends. A task named ``large`` is answered with as many bytes as it says."""
    for task in agent:
        agent.submit_result(bytearray(task.data) if task.task_name == "large" else task.data)


class Metrics:
    """Logs at a rate, beside the tasks."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def log(self, rate: int, seconds: float) -> int:
        """How many of `rate` records a second for `seconds` were accepted."""
        accepted, began, pause = 0, time.monotonic(), threading.Event()
        while (passed := time.monotonic() - began) < seconds:
            while accepted < rate * passed:
                accepted += self._agent.log({"step": accepted, "loss": 0.125})
            pause.wait(0.002)
        return accepted


def main() -> None:
    with Agent.from_env() as agent:
        thread = threading.Thread(target=answer_tasks, args=(agent,))
        thread.start()
        commands: dict[str, Any] = {"log": Metrics(agent).log}
        serve("ready", commands)
    thread.join()


if __name__ == "__main__":
    main()
