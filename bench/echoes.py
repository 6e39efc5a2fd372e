"""Two servers in processes of their own that answer what they are asked: one of cells, one of plain pyzmq sockets."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECRET = b"a secret of the benchmarks only!"

CELL = f"""
import sys
from zcell import Cell
counted = [0]
def count(request):
    counted[0] += 1
with Cell("server", listen=["tcp://127.0.0.1:0"], secret={SECRET!r}) as cell:
    cell.register("echo", "t", lambda request: request.payload)
    cell.register("events", "t", count)
    cell.register("events", "counted", lambda request: counted[0])
    print(cell.endpoints[0], flush=True)
    sys.stdin.readline()
"""

RAW = """
import sys, threading, zmq
context = zmq.Context()
router, pull = context.socket(zmq.ROUTER), context.socket(zmq.PULL)
router.linger = pull.linger = 0
pull.rcvhwm = 0
router.bind("tcp://127.0.0.1:*")
pull.bind("tcp://127.0.0.1:*")
print(router.last_endpoint.decode(), pull.last_endpoint.decode(), flush=True)
poller = zmq.Poller()
poller.register(router, zmq.POLLIN)
poller.register(pull, zmq.POLLIN)
counted = 0
while True:
    for socket, _ in poller.poll():
        if socket is pull:
            try:
                while True:
                    pull.recv(zmq.NOBLOCK)
                    counted += 1
            except zmq.Again:
                continue
        else:
            identity, question = router.recv_multipart()
            router.send_multipart([identity, b"%d" % counted if question == b"counted" else question])
"""


@contextlib.contextmanager
def server(source: str) -> Iterator[list[str]]:
    """The endpoints of a server that runs for the length of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()
        finally:
            process.kill()
