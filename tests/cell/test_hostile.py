"""Strangers on every socket: any bytes are counted, the link may be cut, and the cell goes on serving."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest
import zmq

from tests.eventually import eventually
from tests.faults.strangers import GREETING, dealer, junk_messages, raw_connection, ready_command, send_and_wait_for_the_end
from tests.trees import Tree, TreeFactory, making_trees
from zcell.limits import KIB, MIB, Limits

TIGHT = Limits(
    handshake_timeout=0.3, heartbeat_interval=0.1, link_timeout=1.0, max_pending_links=32, message_bytes=MIB, inline_bytes=MIB
)

RAW = {
    "nothing": b"",
    "one byte": b"\xff",
    "zeros": bytes(1000),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "random": os.urandom(5000),
    "half a greeting": GREETING[:30],
    "a greeting": GREETING,
    "zmtp 1": b"\x01\x00",
    "zmtp 9": GREETING[:10] + b"\x09" + GREETING[11:],
    "curve asked": GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:],
    "a lying length": GREETING + ready_command(b"DEALER") + b"\x02" + (2**63).to_bytes(8, "big") + bytes(100),
    "a negative length": GREETING + ready_command(b"DEALER") + b"\x02" + b"\xff" * 8,
    "more than allowed": GREETING + ready_command(b"DEALER") + b"\x02" + (3 * MIB).to_bytes(8, "big") + bytes(3 * MIB),
    "a wrong socket type": GREETING + ready_command(b"SUB") + b"\x00\x03abc",
    "ready twice": GREETING + ready_command(b"DEALER") * 2,
    "an endless message": GREETING + ready_command(b"DEALER") + b"\x01\x01x" * 20_000,
    "junk after ready": GREETING + ready_command(b"DEALER") + os.urandom(2000),
    "a huge command": GREETING + b"\x06" + (2**40).to_bytes(8, "big"),
}


@pytest.fixture(params=["tcp", "ipc"])
def stream_tree(request: pytest.FixtureRequest, short_path: Path) -> object:
    """Transports that a stranger can reach with plain bytes."""
    with making_trees(request.param, short_path) as make:
        yield make("server", "site-1", limits=TIGHT)


def still_serves(cells: Tree) -> None:
    for _ in range(3):
        assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok
        assert cells["server"].request("site-1", "zcell", "ping", timeout=5).ok
    assert cells["site-1"].is_ready


@pytest.mark.parametrize("name", RAW)
def test_raw_bytes(stream_tree: Tree, name: str) -> None:
    with raw_connection(stream_tree["server"].endpoints[0]) as sock:
        send_and_wait_for_the_end(sock, RAW[name])
    still_serves(stream_tree)


@pytest.mark.parametrize("seed", range(3))
def test_junk_messages_of_a_correct_zmq_client_are_counted(tree: TreeFactory, seed: int) -> None:
    context = zmq.Context() if tree.transport == "inproc" else None
    options = {"context": context} if context else {}
    cells = tree()
    server = cells.start("server", limits=TIGHT, **options)
    cells.add("site-1", limits=TIGHT, **options)
    sent = list(junk_messages(seed))
    for message in sent:  # one connection each: the cell may stop listening to one that talks junk
        with dealer(server.endpoints[0], context) as sock:
            sock.send_multipart(message)
            sock.linger = 500
    eventually(lambda: server.statistics().dropped_total >= len(sent) // 2, 10, what=lambda: server.statistics().dropped)
    still_serves(cells)
    with dealer(server.endpoints[0], context) as sock:
        for message in sent:
            sock.send_multipart(message)
        sock.linger = 500
    still_serves(cells)
    assert server.statistics().links == ("site-1",)
    cells.close()
    if context:
        context.term()


def test_connections_that_never_finish_the_handshake_are_ended_in_time(stream_tree: Tree) -> None:
    """A connection costs the cell little, and not for long."""
    endpoint = stream_tree["server"].endpoints[0]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(raw_connection(endpoint)) for _ in range(20)]
        for number, sock in enumerate(sockets):
            sock.sendall((GREETING + ready_command(b"DEALER"))[: 10 * number])
        still_serves(stream_tree)


def test_a_flood_of_handshakes_leaves_room_for_real_cells(stream_tree: Tree) -> None:
    """Each opens a connection, says a valid HELLO and nothing more."""
    from zcell.protocol.link import Initiator, LinkIdentity
    from zcell.security.proof import SharedSecretProof

    endpoint = stream_tree["server"].endpoints[0]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socks = []
    for number in range(100):
        sock = context.socket(zmq.DEALER)
        sock.linger = 0
        sock.connect(endpoint)
        me = LinkIdentity(f"site-{1000 + number}", os.urandom(16), MIB)
        sock.send(Initiator(me, SharedSecretProof(b"x" * 32), "server").start())
        socks.append(sock)
    still_serves(stream_tree)
    late = stream_tree.start("site-2", limits=TIGHT)
    late.wait_ready(10)
    assert stream_tree["server"].statistics().links == ("site-1", "site-2")
    for sock in socks:
        sock.close()
    context.term()


def test_handshakes_that_are_never_finished_keep_nobody_out(tree: TreeFactory) -> None:
    """As many as may wait, for as long as they may wait: real cells come in all the same."""
    from zcell.protocol.link import Initiator, LinkIdentity
    from zcell.security.proof import SharedSecretProof

    cells = tree("server", limits=Limits(max_pending_links=16, handshake_timeout=10.0))
    context = cells.context or zmq.Context()
    with contextlib.ExitStack() as stack:
        for number in range(40):
            sock = stack.enter_context(context.socket(zmq.DEALER))
            sock.linger = 0
            sock.connect(cells["server"].endpoints[0])
            me = LinkIdentity(f"site-{1000 + number}", os.urandom(16), MIB)
            sock.send(Initiator(me, SharedSecretProof(b"x" * 32), "server").start())
        eventually(lambda: cells["server"].statistics().dropped.get("gate_full", 0) >= 40 - 16)
        began = time.monotonic()
        cells.add("site-1")
        assert time.monotonic() - began < 5
    if cells.context is None:
        context.term()


def test_a_flood_of_connections(stream_tree: Tree) -> None:
    endpoint = stream_tree["server"].endpoints[0]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                sock = stack.enter_context(raw_connection(endpoint))
                with contextlib.suppress(OSError):
                    sock.send(os.urandom(64))
        still_serves(stream_tree)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 5, 10, what="descriptors are closed")  # noqa: PTH208


def test_memory_does_not_grow_with_declared_sizes(stream_tree: Tree) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    endpoint = stream_tree["server"].endpoints[0]
    before = resident()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(raw_connection(endpoint))
            with contextlib.suppress(OSError):
                sock.sendall(GREETING + ready_command(b"DEALER") + b"\x02" + (500 * MIB).to_bytes(8, "big") + bytes(64 * KIB))
        still_serves(stream_tree)
        assert resident() - before < 100 * MIB


def test_strangers_while_real_work_is_going_on(stream_tree: Tree) -> None:
    endpoint = stream_tree["server"].endpoints[0]
    stream_tree["server"].register("echo", "t", lambda r: r.payload)
    stop = threading.Event()

    def annoy() -> None:
        turn = 0
        values = list(RAW.values())
        while not stop.is_set():
            turn += 1
            with contextlib.suppress(OSError), raw_connection(endpoint) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.sendall(values[turn % len(values)])

    thread = threading.Thread(target=annoy)
    thread.start()
    try:
        for number in range(200):
            data = bytes([number]) * (number * 500)
            assert stream_tree["site-1"].request("server", "echo", "t", data, timeout=10).payload == data
    finally:
        stop.set()
        thread.join()


def test_a_parent_that_is_no_cell_is_a_link_error(tmp_path: Path) -> None:
    """The child's side: whatever answers at the parent's address, it neither hangs nor believes it."""
    from tests.trees import SECRET
    from zcell import Cell
    from zcell.errors import LinkError

    for answer in (
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        GREETING + ready_command(b"ROUTER") + os.urandom(500),
        bytes(100_000),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(5)
            url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            with Cell("site-1", parent=url, secret=SECRET, limits=TIGHT) as cell:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(answer)
                    with pytest.raises(LinkError, match=str(listener.getsockname()[1])):
                        cell.wait_ready(0.5)


def test_a_zmq_router_that_is_no_cell_is_a_link_error(tree: TreeFactory) -> None:
    from tests.trees import SECRET
    from zcell import Cell
    from zcell.errors import LinkError

    url = tree().listen_url("server")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(url)
        url = router.getsockopt_string(zmq.LAST_ENDPOINT)
        with Cell("site-1", parent=url, secret=SECRET, limits=TIGHT, context=context) as cell:
            assert router.poll(5000)
            identity, *_ = router.recv_multipart()
            for message in junk_messages(7):
                router.send_multipart([identity, *message])
            with pytest.raises(LinkError):
                cell.wait_ready(0.5)
            assert cell.statistics().dropped_total > 0
