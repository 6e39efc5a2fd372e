"""Downloads against plain pyzmq: what do verification, credit, resume and the journal cost on top of moving a file?

The reference maps the file, sends it by PUSH/PULL in zero-copy messages of 1 MiB, and writes it with pwrite: no checks, no names,
no recovery. Both run between two processes over loopback, from tmpfs to tmpfs, in turn in the same run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Against

MIB = 1024 * 1024
SIZE = int(os.environ.get("ZCELL_BENCH_MIB", "1024")) * MIB
TMPFS = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
ROOT = Path(__file__).resolve().parent.parent
SECRET = "62656e63682062656e63682062656e6368"

RAW_SENDER = """
    import mmap, sys, zmq
    socket = zmq.Context().socket(zmq.PUSH)
    socket.sndhwm = 32
    socket.bind("tcp://127.0.0.1:*")
    print(socket.last_endpoint.decode(), flush=True)
    for line in sys.stdin:
        with open(line.strip(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            trackers = [socket.send(view[at : at + (1 << 20)], copy=False, track=True) for at in range(0, len(view), 1 << 20)]
            for tracker in trackers:
                tracker.wait()
            del trackers, tracker
            view.release()
"""

RAW_RECEIVER = """
    import os, sys, zmq
    socket = zmq.Context().socket(zmq.PULL)
    socket.rcvhwm = 32
    socket.connect(sys.argv[1])
    for line in sys.stdin:
        path, size = line.split()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        at = 0
        while at < int(size):
            frame = socket.recv(copy=False)
            at += os.pwrite(fd, frame.buffer, at)
        os.close(fd)
        print("{}", flush=True)
"""

OWNER = """
    import sys
    from zcell import Cell
    with Cell("server", listen="tcp://127.0.0.1:0", secret=bytes.fromhex(sys.argv[1])) as cell:
        print(cell.endpoints[0], flush=True)
        for line in sys.stdin:
            print(cell.downloads.transaction(idle_timeout=3600).add_file(line.strip()).id, flush=True)
"""

RECEIVER = """
    import json, os, sys
    from zcell import Cell
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
    def peak():
        text = open("/proc/self/status").read()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    with Cell(sys.argv[3], parent=sys.argv[2], secret=bytes.fromhex(sys.argv[1])) as cell:
        cell.wait_ready(10)
        cell.downloads
        idle = resident()
        print("ready", flush=True)
        for line in sys.stdin:
            ref, path, verify = line.split()
            cell.downloads.fetch_file("server", ref, path, verify=verify)
            print(json.dumps({"grown": peak() - idle, "threads": len(os.listdir("/proc/self/task"))}), flush=True)
"""


class Child:
    """A program that answers one line for a line."""

    def __init__(self, source: str, *arguments: str) -> None:
        command = [sys.executable, "-c", textwrap.dedent(source), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # the raw reference waits for a peer that has gone
            self._process.kill()
            self._process.wait(10)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zcell-bench-", dir=TMPFS) as name:
        source = Path(name, "source")
        with source.open("wb") as file:
            for _ in range(SIZE // MIB):
                file.write(os.urandom(MIB))
        yield Path(name)


class Raw:
    """The reference."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._sender = Child(RAW_SENDER)
        self._receiver = Child(RAW_RECEIVER, self._sender.line())

    def copy(self) -> None:
        to = self._place / "raw"
        self._receiver.tell(f"{to} {SIZE}")
        self._sender.tell(str(self._place / "source"))
        self._receiver.line()
        to.unlink()

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()


class Zcell:
    """An owner and its receivers."""

    def __init__(self, place: Path, receivers: int = 1) -> None:
        self._place = place
        self._owner = Child(OWNER, SECRET)
        url = self._owner.line()
        self._receivers = [Child(RECEIVER, SECRET, url, f"site-{i}") for i in range(receivers)]
        for receiver in self._receivers:
            assert receiver.line() == "ready"
        self.last: dict[str, Any] = {}

    def copy(self, verify: str) -> None:
        self._owner.tell(str(self._place / "source"))
        ref = self._owner.line()
        targets = [self._place / f"copy-{i}" for i in range(len(self._receivers))]
        for receiver, to in zip(self._receivers, targets, strict=True):
            receiver.tell(f"{ref} {to} {verify}")
        for receiver in self._receivers:
            self.last = json.loads(receiver.line())
        for to in targets:
            to.unlink()

    def close(self) -> None:
        for receiver in self._receivers:
            receiver.close()
        self._owner.close()


@pytest.mark.parametrize("verify", ["tree", "checksum"])
def test_downloading_a_file(against: Against, place: Path, verify: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw, zcell = Raw(place), Zcell(place)
    try:
        against(
            f"download {SIZE // MIB} MiB file to file, verify={verify}", SIZE, "pyzmq", raw.copy, lambda: zcell.copy(verify)
        )
        with capsys.disabled():
            print(f"; receiver +{zcell.last['grown'] / MIB:.0f} MiB resident, {zcell.last['threads']} threads", end="")
    finally:
        zcell.close()
        raw.close()


def test_downloading_a_file_to_four_receivers(against: Against, place: Path) -> None:
    one, four = Zcell(place), Zcell(place, 4)
    try:
        against(
            f"download {SIZE // MIB} MiB to 4 receivers (per receiver)",
            SIZE,
            "one",
            lambda: one.copy("tree"),
            lambda: four.copy("tree"),
        )
    finally:
        four.close()
        one.close()
