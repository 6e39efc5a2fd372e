"""fork: a cell in a forked child is dead and says so; nothing hangs, and the parent goes on."""

from __future__ import annotations

import pytest

from tests.programs import running
from tests.trees import SECRET

FORKING = f"""
import os, sys, threading, warnings
warnings.simplefilter("ignore")
import zmq
from zcell import Cell
from zcell.errors import CellClosedError

transport, directory = sys.argv[1:3]
listen = {{"tcp": "tcp://127.0.0.1:0", "ipc": f"ipc://{{directory}}/f", "inproc": "inproc://f"}}[transport]
context = zmq.Context()
server = Cell("server", listen=[listen], secret={SECRET!r}, context=context).start()
site = Cell("site-1", parent=server.endpoints[0], secret={SECRET!r}, context=context).start()
site.wait_ready(10)
server.register("c", "t", lambda r: r.payload)
assert site.request("server", "c", "t", 1, timeout=5).payload == 1

pid = os.fork()
if pid == 0:
    said = 0
    for action in (
        lambda: site.request("server", "c", "t", 2, timeout=5),
        lambda: site.send("server", "c", "t", 2),
        lambda: site.wait_ready(5),
        lambda: server.broadcast(["site-1"], "c", "t", timeout=5),
        lambda: site.request_future("server", "c", "t", timeout=5),
        lambda: server.start(),
    ):
        try:
            action()
        except CellClosedError as error:
            said += "fork" in str(error)
    assert not site.is_ready
    server.stop()
    site.stop(1)
    del server, site
    if sys.argv[3] == "quick":
        os._exit(40 + said)
    sys.exit(40 + said)  # the interpreter's own end: exit handlers, garbage, threads

_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 46, os.waitstatus_to_exitcode(status)
assert site.request("server", "c", "t", 3, timeout=5).payload == 3
assert site.is_ready
site.stop()
server.stop()
context.term()
print("parent goes on", flush=True)
"""


@pytest.mark.parametrize("ending", ["quick", "normal"])
def test_a_forked_cell_is_dead_and_nothing_hangs(transport: str, short_path: object, ending: str) -> None:
    with running(FORKING, transport, short_path, ending) as program:
        assert program.finish(30).strip() == "parent goes on"


NEW_CELL = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from zcell import Cell

server = Cell("server", listen=["tcp://127.0.0.1:0"], secret={SECRET!r}).start()
pid = os.fork()
if pid == 0:
    with Cell("site-1", parent=server.endpoints[0], secret={SECRET!r}) as site:
        site.wait_ready(10)
        os._exit(7 if site.request("server", "zcell", "ping", timeout=5).ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
server.stop()
"""


def test_a_forked_child_may_have_a_new_cell_of_its_own() -> None:
    with running(NEW_CELL) as program:
        program.finish(30)


EXIT = f"""
import sys, threading
from zcell import Cell
server = Cell("server", listen=["tcp://127.0.0.1:0"], secret={SECRET!r}).start()
site = Cell("site-1", parent=server.endpoints[0], secret={SECRET!r}).start()
site.wait_ready(10)
server.register("c", "t", lambda r: threading.Event().wait(60))
site.request_future("server", "c", "t", timeout=60)
for _ in range(50):
    site.send("server", "e", "t", bytes(1000))
print("leaving", flush=True)
sys.exit(5)
"""


def test_a_program_that_ends_without_stopping_its_cells_still_ends() -> None:
    """Exit hangs for lingering sockets; and the program's own exit code is not masked."""
    with running(EXIT) as program:
        assert program.line() == "leaving"
        program.finish(10, code=5)


def test_an_exception_ends_a_program_with_its_own_error() -> None:
    with running(EXIT.replace("sys.exit(5)", "raise RuntimeError('the users own error')")) as program:
        program.finish(10, code=1)
        assert "the users own error" in program.errors
