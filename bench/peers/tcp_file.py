"""One file by plain TCP: sendfile, recv_into, write. ``tcp_file sender`` or ``tcp_file receiver HOST:PORT``."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from bench.answering import serve

MIB = 1024 * 1024


def send_file(to: socket.socket, path: str) -> int:
    with Path(path).open("rb") as file:
        return to.sendfile(file)


def receive_file(source: socket.socket, path: str, size: int) -> int:
    buffer = memoryview(bytearray(MIB))
    left = size
    with Path(path).open("wb", buffering=0) as file:
        while left:
            count = source.recv_into(buffer, min(MIB, left))
            file.write(buffer[:count])
            left -= count
    return size


def main() -> None:
    if sys.argv[1] == "sender":
        listener = socket.create_server(("127.0.0.1", 0))
        connected: list[socket.socket] = []

        def send(path: str) -> int:
            if not connected:
                connected.append(listener.accept()[0])
            return send_file(connected[0], path)

        serve(f"127.0.0.1:{listener.getsockname()[1]}", {"send": send})
    else:
        host, _, port = sys.argv[2].partition(":")
        stream = socket.create_connection((host, int(port)))
        serve(os.getpid(), {"receive": lambda path, size: receive_file(stream, path, size)})


if __name__ == "__main__":
    main()
