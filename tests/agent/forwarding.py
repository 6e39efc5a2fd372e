"""A parent that forwards a result it never holds: `python -m tests.agent.forwarding`; told what to do on standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from zcell import Cell
from zcell.agent import TaskExchange
from zcell.pipe import CellPipe, Mode


def resident_bytes(pid: int | str, field: str) -> int:
    """`VmRSS` now or `VmHWM` ever since it was reset."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    with (
        Cell("server", listen=["tcp://127.0.0.1:0"]) as server,
        TaskExchange(CellPipe(Mode.PASSIVE, "site", "job", server)) as exchange,
    ):
        say([server.endpoints[0], exchange.job_environment()])
        for line in sys.stdin:
            count = int(line)
            before = resident_bytes("self", "VmRSS")
            result = exchange.run("large", count, timeout=300, pass_through=True, receivers=["aggregator"])
            result.raise_for_cause()
            server.request("aggregator", "model", "put", result.data, timeout=300).raise_for_rc()
            say(resident_bytes("self", "VmHWM") - before)


if __name__ == "__main__":
    main()
