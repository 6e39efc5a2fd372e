"""A job under measurement: answers each task with its data, logs metrics when told, and shows what a large result costs."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from bench.answering import serve
from zcell.agent import Agent

LAYER_BYTES = 80_000


def answer_tasks(agent: Agent) -> None:
    """Until the parent ends. A task named ``large`` is answered with as many bytes as it says, ``layers`` with so many arrays."""
    for task in agent:
        match task.task_name:
            case "large":
                agent.submit_result(bytearray(task.data))
            case "layers":
                agent.submit_result([np.ones(LAYER_BYTES // 8) for _ in range(task.data)])
            case _:
                agent.submit_result(task.data)


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
