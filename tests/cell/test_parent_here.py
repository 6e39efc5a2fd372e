"""A parent that is a cell of the same process: `Cell(name, parent=cell)`."""

from __future__ import annotations

import threading

import pytest
import zmq

from tests.eventually import eventually
from tests.trees import READY, SECRET
from zcell import Cell
from zcell.errors import CellClosedError, LinkRefusedError
from zcell.message import ReturnCode

PLACE = "tcp://127.0.0.1:0"


def echo(cell: Cell) -> None:
    cell.register("c", "t", lambda request: [cell.fqcn, request.payload], allow="any")


def test_it_is_linked_without_an_address_or_a_secret_of_its_own() -> None:
    with Cell("server", listen=PLACE, secret=SECRET) as server, Cell("a", parent=server, listen=PLACE) as a:
        assert len(server.endpoints) == 1, "what it listens on for its own process is nobody's endpoint"
        with Cell("a.b", parent=a) as below, Cell("c", parent=server.endpoints[0], secret=SECRET) as far:
            cells = [server, a, below, far]
            for cell in cells:
                cell.wait_ready(READY)
                echo(cell)
            for asking in cells:
                for asked in cells:
                    reply = asking.request(asked.fqcn, "c", "t", asking.fqcn, timeout=READY)
                    assert reply.payload == [asked.fqcn, asking.fqcn]


def test_it_needs_the_secret_all_the_same() -> None:
    with (
        Cell("server", listen=PLACE, secret=SECRET) as server,
        Cell("a", parent=server, secret=b"another link secret") as a,
        pytest.raises(LinkRefusedError),
    ):
        a.wait_ready(READY)


def test_cells_may_stop_in_any_order() -> None:
    server = Cell("server", listen=PLACE, secret=SECRET).start()
    a = Cell("a", parent=server, listen=PLACE).start()
    below = Cell("a.b", parent=a).start()
    below.wait_ready(READY)
    a.wait_ready(READY)
    server.stop()
    assert below.fqcn in a.statistics().links
    eventually(lambda: not a.is_ready, READY)
    assert a.request("server", "c", "t", None, timeout=READY).rc is ReturnCode.TARGET_UNREACHABLE
    a.stop()
    below.stop()


def test_a_parent_that_stops_waits_for_no_child() -> None:
    """Many children in many threads, which stop while their parent does; the leak check sees to the rest."""
    server = Cell("server", listen=PLACE, secret=SECRET).start()
    children = [Cell(f"c{n}", parent=server).start() for n in range(8)]
    threads = [threading.Thread(target=cell.stop) for cell in [*children[:4], server, *children[4:]]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_a_parent_must_be_there() -> None:
    server = Cell("server", listen=PLACE, secret=SECRET)
    with pytest.raises(ValueError, match=r"parent: server .*is not started"):
        Cell("a", parent=server)
    with server:
        late = Cell("a", parent=server)
        with pytest.raises(ValueError, match=r"parent: 'a\.b' is not a child of 'server'"):
            Cell("a.b", parent=server)
        with zmq.Context() as context, pytest.raises(ValueError, match="context: "):
            Cell("a", parent=server, context=context)
        with Cell("leaf", parent=server) as leaf, pytest.raises(ValueError, match=r"parent: leaf does not listen"):
            Cell("leaf.x", parent=leaf)
    with pytest.raises(CellClosedError):
        late.start()
    with pytest.raises(CellClosedError):
        late.start()
    with pytest.raises(ValueError, match=r"parent: server "):
        Cell("a", parent=server)


def test_a_context_that_was_given_is_its_givers() -> None:
    with zmq.Context() as context:
        with (
            Cell("server", listen="inproc://here", secret=SECRET, context=context) as server,
            Cell("a", parent=server) as a,
            Cell("b", parent="inproc://here", secret=SECRET, context=context) as b,
        ):
            a.wait_ready(READY)
            b.wait_ready(READY)
            echo(b)
            assert a.request("b", "c", "t", 1, timeout=READY).payload == ["b", 1]
        assert not context.closed
