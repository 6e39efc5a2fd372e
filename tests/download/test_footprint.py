"""What a large download costs each end, whatever the object's size: memory and threads."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.programs import running
from tests.trees import SECRET

MIB = 1 << 20
SIZE = 384 * MIB
WINDOW = 64 * MIB

MEASURE = """
    import json, os
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
    def peak():
        return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
    def threads():
        return len(os.listdir("/proc/self/task"))
"""
OWNER = (
    MEASURE
    + """
    import sys
    from zcell import Cell
    with Cell("server", listen="tcp://127.0.0.1:0", secret=bytes.fromhex(sys.argv[1])) as cell:
        tx = cell.downloads.transaction()
        idle = resident()
        print(cell.endpoints[0], tx.add_file(sys.argv[2]).id, flush=True)
        for line in sys.stdin:
            print(json.dumps([peak() - idle, threads()]), flush=True)
"""
)
RECEIVER = (
    MEASURE
    + """
    import sys
    from zcell import Cell
    with Cell("site-1", parent=sys.argv[2], secret=bytes.fromhex(sys.argv[1])) as cell:
        cell.wait_ready(10)
        cell.downloads
        idle = resident()
        for line in sys.stdin:
            cell.downloads.fetch_file("server", sys.argv[3], sys.argv[4], idle_timeout=30)
            print(json.dumps([peak() - idle, threads()]), flush=True)
"""
)


@pytest.mark.timeout(120)
def test_memory_stays_within_the_window_and_threads_are_constant(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "copy"
    block = random.Random(1).randbytes(MIB)
    with source.open("wb") as file:
        for number in range(SIZE // MIB):
            file.write(number.to_bytes(8, "big") + block[8:])
    with running(OWNER, SECRET.hex(), source) as owner:
        url, ref_id = owner.line().split()
        with running(RECEIVER, SECRET.hex(), url, ref_id, to) as receiver:
            figures = []
            for _ in range(2):
                receiver.tell()
                at_receiver = json.loads(receiver.line(60))
                owner.tell()
                figures.append((at_receiver, json.loads(owner.line())))
                assert to.stat().st_size == SIZE
                to.unlink()
            receiver.finish()
        owner.finish()
    for end in (0, 1):
        grown = [figure[end][0] for figure in figures]
        threads = [figure[end][1] for figure in figures]
        assert max(grown) < 64 * MIB + 2 * WINDOW
        assert threads[0] == threads[1], "the second download needs no more threads than the first"
