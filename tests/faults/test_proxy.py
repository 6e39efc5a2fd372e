"""The proxy itself: it must be honest when it is asked to be, and as faulty as it is told to be otherwise."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.eventually import eventually
from tests.faults.proxy import Proxy, proxy_to


@pytest.fixture
def echo() -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(sock,), daemon=True).start()

    def answer(sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def connect(proxy: Proxy) -> socket.socket:
    host, port = proxy.url.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(port)), timeout=3)


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def test_it_forwards_everything_both_ways(echo: str) -> None:
    with proxy_to(echo) as proxy, connect(proxy) as sock:
        data = bytes(range(256)) * 40_000
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        assert receive(sock, len(data)) == data
        sender.join()
        assert proxy.connections == 1


def test_cut_resets_and_new_connections_work(echo: str) -> None:
    with proxy_to(echo) as proxy:
        with connect(proxy) as sock:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with connect(proxy) as sock:
            sock.sendall(b"y")
            assert receive(sock, 1) == b"y"


def test_freeze_says_nothing_and_thaw_goes_on(echo: str) -> None:
    with proxy_to(echo) as proxy, connect(proxy) as sock:
        sock.sendall(b"1")
        assert receive(sock, 1) == b"1"
        proxy.freeze()
        sock.sendall(b"2")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        proxy.thaw()
        sock.settimeout(3)
        assert receive(sock, 1) == b"2"


def test_delay_adds_its_time_each_way(echo: str) -> None:
    with proxy_to(echo) as proxy, connect(proxy) as sock:
        proxy.delay(0.1)
        began = time.monotonic()
        sock.sendall(b"z")
        assert receive(sock, 1) == b"z"
        assert 0.19 < time.monotonic() - began < 1


def test_refuse_closes_new_connections(echo: str) -> None:
    with proxy_to(echo) as proxy:
        proxy.refuse()
        with connect(proxy) as sock:
            assert sock.recv(1) == b""
        proxy.accept()
        eventually(lambda: proxy.accepted == 1)
        with connect(proxy) as sock:
            sock.sendall(b"y")
            assert receive(sock, 1) == b"y"
