"""One file by plain pyzmq: mmap, PUSH/PULL in zero-copy messages of 1 MiB, pwrite. No checks, no names, no recovery.

``zmq_file sender`` or ``zmq_file receiver URL``.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import zmq

from bench.answering import serve

MIB = 1024 * 1024
IN_FLIGHT = 32


def send_file(socket: zmq.Socket[bytes], path: str) -> int:
    """Send it all, and wait until libzmq has let go of the last byte."""
    with (
        Path(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        trackers = []
        for at in range(0, len(view), MIB):
            with view[at : at + MIB] as piece:
                trackers.append(socket.send(piece, copy=False, track=True))
        for tracker in trackers:
            assert tracker is not None
            tracker.wait()
        size = len(view)
        trackers.clear()
        del tracker
    return size


def receive_file(socket: zmq.Socket[bytes], path: str, size: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    at = 0
    while at < size:
        frame = socket.recv(copy=False)
        at += os.pwrite(fd, frame.buffer, at)
    os.close(fd)
    return at


def main() -> None:
    context = zmq.Context()
    if sys.argv[1] == "sender":
        push = context.socket(zmq.PUSH)
        push.sndhwm, push.linger = IN_FLIGHT, 0
        push.bind("tcp://127.0.0.1:*")
        serve(push.getsockopt_string(zmq.LAST_ENDPOINT), {"send": lambda path: send_file(push, path)})
    else:
        pull = context.socket(zmq.PULL)
        pull.rcvhwm, pull.linger = IN_FLIGHT, 0
        pull.connect(sys.argv[2])
        serve("connected", {"receive": lambda path, size: receive_file(pull, path, size)})
    context.destroy(0)


if __name__ == "__main__":
    main()
