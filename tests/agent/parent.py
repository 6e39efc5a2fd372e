"""A parent in a process of its own: `python -m tests.agent.parent PATH JSON HOW`, the passive end as `Pipe.export` describes it.

Each line on its standard input is the data of a task; how that ended is a line on its standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any, Self

from zcell.agent import TaskExchange
from zcell.pipe import rebuild

QUICK: dict[str, Any] = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.5}


def main() -> None:
    how = sys.argv[3]
    if how not in ("stay", "fork"):
        leave(how)
    with TaskExchange(rebuild(sys.argv[1], json.loads(sys.argv[2])), **QUICK) as exchange:
        print(json.dumps(exchange.job_environment(**QUICK)), flush=True)
        assert exchange.run("t", 1, timeout=30).ok
        if how == "fork":
            leave_in_a_child()
            assert exchange.run("t", 2, timeout=30).ok
        print("done", flush=True)
        for data in sys.stdin:
            got = exchange.run("t", data.strip(), timeout=30)
            print(f"{got.cause.value} {got.error}".strip(), flush=True)


def leave(how: str) -> None:
    """End without having stopped the exchange: `exit` by a code, `raise` by an exception, `thread` after another thread's task."""
    exchange = TaskExchange(rebuild(sys.argv[1], json.loads(sys.argv[2])), heartbeat_interval=5, heartbeat_timeout=60).start()
    print(json.dumps(exchange.job_environment(heartbeat_interval=5, heartbeat_timeout=60)), flush=True)
    assert exchange.run("t", 1, timeout=30).ok
    if how == "thread":
        threading.Thread(target=lambda: print(exchange.run("t", 2, timeout=30).data, flush=True)).start()
    elif how == "raise":
        raise ValueError("a mistake of the parent")
    sys.exit(3)


def leave_in_a_child() -> None:
    """A forked child leaves the exchange's block and runs the hooks of a normal exit."""
    child = os.fork()
    if not child:
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0


class Parent:
    """The process, from the test's side; killed when the test leaves it."""

    def __init__(self, path: str, kwargs: dict[str, Any], how: str = "stay") -> None:
        command = [sys.executable, "-m", "tests.agent.parent", path, json.dumps(kwargs), how]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def job_environment(self) -> dict[str, str]:
        """What it gives its job."""
        assert self.process.stdout is not None
        found: dict[str, str] = json.loads(self.process.stdout.readline())
        return found

    def expect(self, text: str) -> None:
        assert self.read() == text

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, data: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    main()
