"""A cell below another: downloads, asks, sends. ``client NAME PARENT_URL``."""

from __future__ import annotations

import sys
import time

from bench import load
from bench.answering import serve
from bench.cells import SECRET
from zcell import Cell

NEXT_SECONDS = 0.001
"""Between two questions during a download, so that asking is not itself the load."""


class Client:
    """What a benchmark may tell it to do. The main thread waits, unless it is to be busy."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def fetch(self, ref_id: str, path: str, verify: str = "tree", busy: bool = False) -> int:
        """Download a file. `busy`: the main thread runs pure Python all the while, as a training loop does; its turns."""
        future = self._cell.downloads.fetch_file_future("server", ref_id, path, verify=verify)
        turns = 0
        while busy and not future.done():
            sum(range(1000))
            turns += 1
        future.result()
        return turns

    def frames_received(self) -> int:
        return self._cell.statistics().data_frames_received

    def _ask(self) -> None:
        reply = self._cell.request("server", "echo", "t", load.QUESTION, timeout=20)
        assert reply.payload == load.QUESTION, reply

    def _counted(self) -> int:
        return int(self._cell.request("server", "events", "counted", timeout=60).raise_for_rc().payload)

    def _send(self) -> None:
        assert self._cell.send("server", "events", "t", load.QUESTION, timeout=60)["server"] == "OK"

    def ask(self, count: int) -> list[float]:
        return load.seconds_each(self._ask, count)

    def ask_together(self, callers: int, each: int) -> float:
        return load.per_second(self._ask, callers, each)

    def send_events(self, count: int) -> float:
        return load.delivered_per_second(self._send, self._counted, count)

    def ask_during_fetch(self, ref_id: str, path: str) -> list[float]:
        """How long small requests take while a file is downloaded over the same link."""
        future = self._cell.downloads.fetch_file_future("server", ref_id, path)
        samples = []
        while not future.done():
            samples += load.seconds_each(self._ask, 1)
            time.sleep(NEXT_SECONDS)
        future.result()
        return samples

    def ask_during_sleep(self, seconds: float) -> list[float]:
        """How long requests take while a handler of another channel sleeps."""
        future = self._cell.request_future("server", "sleep", "t", seconds, timeout=seconds + 20)
        samples = []
        while not future.done():
            samples += load.seconds_each(self._ask, 1)
        future.result().raise_for_rc()
        return samples


def main() -> None:
    name, parent = sys.argv[1:]
    with Cell(name, parent=parent, secret=SECRET) as cell:
        cell.wait_ready(20)
        _ = cell.downloads
        client = Client(cell)
        names = ("fetch", "frames_received", "ask", "ask_together", "send_events", "ask_during_fetch", "ask_during_sleep")
        serve("ready", {name: getattr(client, name) for name in names})


if __name__ == "__main__":
    main()
