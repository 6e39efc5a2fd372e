"""Events, fire and forget, against a plain pyzmq PUSH and PULL: counted where they arrive, in another process, not where they leave."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from pytest_benchmark.fixture import BenchmarkFixture

from bench.echoes import CELL, RAW, SECRET, server
from zcell import Cell

EVENT = b"e" * 64
COUNT = 20_000
ROUNDS = 5


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Cells:
    """Sends events through a cell."""

    def __init__(self, client: Cell) -> None:
        self._client = client

    def send(self, count: int) -> None:
        send = self._client.send
        for _ in range(count):
            assert send("server", "events", "t", EVENT, timeout=60)["server"] == "OK"

    def counted(self) -> int:
        return int(self._client.request("server", "events", "counted", timeout=60).raise_for_rc().payload)


class Plain:
    """Sends events through plain sockets."""

    def __init__(self, push: zmq.Socket[bytes], dealer: zmq.Socket[bytes]) -> None:
        self._push = push
        self._dealer = dealer

    def send(self, count: int) -> None:
        for _ in range(count):
            self._push.send(EVENT)

    def counted(self) -> int:
        self._dealer.send(b"counted")
        return int(self._dealer.recv())


@pytest.fixture(scope="module")
def cells() -> Iterator[Cells]:
    with server(CELL) as (endpoint,), Cell("site-1", parent=endpoint, secret=SECRET) as client:
        client.wait_ready(20)
        yield Cells(client)


@pytest.fixture(scope="module")
def plain() -> Iterator[Plain]:
    with (
        server(RAW) as (router, pull),
        zmq.Context() as context,
        context.socket(zmq.PUSH) as push,
        context.socket(zmq.DEALER) as dealer,
    ):
        push.sndhwm = 0
        push.linger = dealer.linger = 0
        push.connect(pull)
        dealer.connect(router)
        yield Plain(push, dealer)


def _delivered_per_second(sender: Cells | Plain) -> float:
    before = sender.counted()
    began = time.perf_counter()
    sender.send(COUNT)
    _until(lambda: sender.counted() - before >= COUNT)
    seconds = time.perf_counter() - began
    assert sender.counted() - before == COUNT, "lost or repeated"
    return COUNT / seconds


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end, "events were lost"


def test_events(cells: Cells, plain: Plain, benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    _delivered_per_second(cells)
    idle = _resident()
    benchmark.pedantic(
        lambda: ours.append(_delivered_per_second(cells)),
        setup=lambda: theirs.append(_delivered_per_second(plain)),
        rounds=ROUNDS,
    )
    grown = max(0, _resident() - idle)
    rate, reference = statistics.median(ours), statistics.median(theirs)
    benchmark.extra_info.update(
        label="events delivered a second, 64 bytes",
        per_second=rate,
        reference="pyzmq PUSH/PULL",
        reference_per_second=reference,
        ratio=rate / reference,
        grown_bytes=grown,
        target="at least 40,000 a second, none lost, memory bounded",
    )
    with capsys.disabled():
        print(
            f"\nevents delivered a second, 64 bytes: {rate:,.0f}, pyzmq PUSH/PULL {reference:,.0f}, ratio {rate / reference:.2f}, "
            f"sender grew by {grown / 1048576:.1f} MiB over {ROUNDS * COUNT:,} events (target at least 40,000 a second)",
            end="",
        )
