"""Volume: nothing accepted is lost, and memory does not grow with what passes."""

from __future__ import annotations

import pytest

from tests.eventually import eventually
from tests.programs import running
from tests.trees import SECRET, TreeFactory
from zcell.message import Request, ReturnCode

RECEIVER = f"""
import sys, threading
from pathlib import Path
from zcell import Cell

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

expected = int(sys.argv[1])
state = {{"next": 0, "wrong": 0, "most": 0}}
done = threading.Event()

def handle(request):
    number = request.payload[0]
    state["wrong"] += number != state["next"]
    state["next"] = number + 1
    if number % 500 == 0:
        state["most"] = max(state["most"], resident())
    if number == expected - 1:
        done.set()

with Cell("server", listen=[sys.argv[2]], secret={SECRET!r}) as cell:
    cell.register("events", "t", handle)
    before = resident()
    print(cell.endpoints[0], flush=True)
    if not done.wait(90):
        print("only", state, file=sys.stderr)
        sys.exit(1)
    print(state["wrong"], max(0, state["most"] - before), flush=True)
"""

SENDER = f"""
import sys
from pathlib import Path
from zcell import Cell

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

with Cell("site-1", parent=sys.argv[2], secret={SECRET!r}) as cell:
    cell.wait_ready(20)
    before, most, data = resident(), 0, b"x" * 200
    for number in range(int(sys.argv[1])):
        outcome = cell.send("server", "events", "t", [number, data], timeout=60)
        if outcome["server"] != "OK":
            sys.exit(f"event {{number}}: {{outcome}}")
        if number % 500 == 0:
            most = max(most, resident())
    print(max(0, most - before), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(("kind", "count"), [("tcp", 100_000), ("ipc", 20_000)])
def test_a_hundred_thousand_events_arrive_in_order_within_bounded_memory(short_path: object, kind: str, count: int) -> None:
    listen = "tcp://127.0.0.1:0" if kind == "tcp" else f"ipc://{short_path}/v"
    with running(RECEIVER, count, listen) as receiver:
        endpoint = receiver.line()
        with running(SENDER, count, endpoint) as sender:
            sent_growth = int(sender.line(100))
            wrong, received_growth = map(int, receiver.line(100).split())
            sender.tell()
            sender.finish()
        receiver.finish()
    assert wrong == 0
    assert sent_growth < 48 * 1024 * 1024
    assert received_growth < 48 * 1024 * 1024


def test_events_through_relays_with_a_slow_receiver_are_all_delivered(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    seen: list[int] = []
    cells["server"].register("events", "t", lambda r: seen.append(r.payload[0]))
    data = b"x" * 500
    for number in range(5000):
        assert cells["site-1.job-1"].send("server", "events", "t", [number, data], timeout=20)["server"] is ReturnCode.OK
    eventually(lambda: len(seen) == 5000, 30, what=lambda: len(seen))
    assert seen == list(range(5000))


def test_large_and_small_events_keep_their_order(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    seen: list[tuple[int, int]] = []

    def handle(request: Request) -> None:
        seen.append((request.payload[0], len(request.payload[1])))

    cells["server"].register("events", "t", handle)
    sizes = [10, 200_000, 0, 70_000, 1_000_000, 5] * 20
    for number, size in enumerate(sizes):
        assert cells["site-1"].send("server", "events", "t", [number, bytes(size)], timeout=20)["server"] is ReturnCode.OK
    eventually(lambda: len(seen) == len(sizes), 30, what=lambda: len(seen))
    assert seen == list(enumerate(sizes))
