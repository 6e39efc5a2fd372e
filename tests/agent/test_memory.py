"""Memory of a large result on every cell it passes: bounded, whatever its size."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.agent.forwarding import resident_bytes
from tests.agent.job import Job
from zcell import Cell
from zcell.limits import MIB, Limits

NUMBERS = 64 * MIB
"""Of 8 bytes: half a GiB."""


def test_a_parent_forwards_half_a_gib_within_its_bounds() -> None:
    received: list[Any] = []
    bound = 64 * MIB + 2 * Limits().window_bytes
    command = [sys.executable, "-m", "tests.agent.forwarding"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        url, env = json.loads(parent.stdout.readline())
        with Job("serve", env) as job, Cell("aggregator", parent=url) as third:
            third.register("model", "put", lambda request: received.append(float(request.payload[::4096].sum())))
            third.wait_ready(20)
            job.expect("ready")
            idle = resident_bytes(job.process.pid, "VmRSS")
            parent.stdin.write(f"{NUMBERS}\n")
            parent.stdin.flush()
            grown = json.loads(parent.stdout.readline())
            job.expect("submitted True")
            assert received == [NUMBERS / 4096]
            assert grown <= bound
            assert resident_bytes(job.process.pid, "VmHWM") - idle - NUMBERS * 8 <= bound
            parent.stdin.close()
            assert parent.wait(20) == 0
