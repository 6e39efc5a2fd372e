"""Clients that are no cells: bytes that a stranger can put on a socket. Everything is closed when its block ends."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from typing import Any

import zmq

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
"""A correct ZMTP 3.0 greeting, NULL mechanism, 64 bytes (ZMTP 3.0 specification, section 'Greeting')."""


def ready_command(socket_type: bytes) -> bytes:
    """ZMTP's READY command for a socket type, as a short command frame."""
    name, value = b"Socket-Type", socket_type
    body = b"\x05READY" + bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
    return b"\x04" + bytes([len(body)]) + body


@contextlib.contextmanager
def raw_connection(endpoint: str) -> Iterator[socket.socket]:
    """A plain stream connection to a tcp or ipc endpoint."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: Any = rest
    else:
        host, _, port = rest.rpartition(":")
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        address = (host, int(port))
    with sock:
        sock.settimeout(5)
        sock.connect(address)
        yield sock


def send_and_wait_for_the_end(sock: socket.socket, data: bytes) -> None:
    """Send all of `data`, say that no more comes, and read until the other side closes or says nothing for a moment."""
    sock.settimeout(0.2)
    with contextlib.suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


@contextlib.contextmanager
def dealer(endpoint: str, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A zmq client that speaks ZMTP correctly and knows nothing of zcell. `context` is needed for inproc."""
    own = context is None
    context = context or zmq.Context()
    try:
        with context.socket(zmq.DEALER) as sock:
            sock.linger = 0
            sock.sndtimeo = 5000
            sock.connect(endpoint)
            yield sock
    finally:
        if own:
            context.term()


def junk_messages(seed: int, count: int = 60) -> Iterator[list[bytes]]:
    """Multipart messages of all sorts: random bytes, near misses, wrong types, many frames."""
    rng = random.Random(seed)
    near = [
        b"",
        b"\x00",
        b"\x93\x01\x10\x80",
        b"\x93\x01\x10\x81\xa4name\xa6server",
        b"\x93\x01\x7f\x80",
        b"\x93\x02\x10\x80",
        b"\x93\x01\x12\x81\xa5proof\xc4\x00",
        b"\x93\x01\x13\x81\xa4link\xc4\x10" + bytes(16),
        b"\x93\x01\x17\x81\xa5bytes\xcf" + b"\xff" * 8,
        b"\x9c\x01\x01" + b"\xa6server" * 4 + b"\x00\x20\xff\xa0\xa0\x80",
        b"\x9c\x01\x04\xa6server\xa6server\xa0\xa0\xc4\x10" + bytes(16) + b"\x20\xff\xa0\xa0\x80",
        b"\x91" * 2000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc1" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    for number in range(count):
        frame = near[number % len(near)]
        if number >= len(near):
            frame = rng.randbytes(rng.choice([1, 3, 17, 300, 5000]))
        yield [frame, *(rng.randbytes(rng.randrange(100)) for _ in range(rng.choice([0, 0, 1, 2, 40])))]
