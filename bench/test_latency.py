"""Request and reply against a plain pyzmq DEALER and ROUTER: the same question of 64 bytes to another process, in turn in the same run."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq
from pytest_benchmark.fixture import BenchmarkFixture

from bench.echoes import CELL, RAW, SECRET, server
from zcell import Cell

QUESTION = b"q" * 64
BATCH = 300
ROUNDS = 9
CALLERS = 8


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    with server(CELL) as (endpoint,), Cell("site-1", parent=endpoint, secret=SECRET) as client:
        client.wait_ready(20)
        yield client


@pytest.fixture(scope="module")
def raw() -> Iterator[tuple[str, zmq.Context[zmq.Socket[bytes]]]]:
    with server(RAW) as (endpoint, _), zmq.Context() as context:
        yield endpoint, context


def _ask_cell(cell: Cell) -> None:
    reply = cell.request("server", "echo", "t", QUESTION, timeout=10)
    assert reply.payload == QUESTION


def _seconds_each(ask: Callable[[], None], count: int) -> list[float]:
    clock = time.perf_counter
    samples = []
    for _ in range(count):
        began = clock()
        ask()
        samples.append(clock() - began)
    return samples


def test_one_caller(
    cell: Cell,
    raw: tuple[str, zmq.Context[zmq.Socket[bytes]]],
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    endpoint, context = raw
    ours: list[float] = []
    theirs: list[float] = []
    with context.socket(zmq.DEALER) as dealer:
        dealer.connect(endpoint)

        def ask_raw() -> None:
            dealer.send(QUESTION)
            assert dealer.recv() == QUESTION

        _seconds_each(ask_raw, BATCH)
        _seconds_each(lambda: _ask_cell(cell), BATCH)
        benchmark.pedantic(
            lambda: ours.extend(_seconds_each(lambda: _ask_cell(cell), BATCH)),
            setup=lambda: theirs.extend(_seconds_each(ask_raw, BATCH)),
            rounds=ROUNDS,
        )
    median, reference = (statistics.median(samples) * 1e6 for samples in (ours, theirs))
    p99 = statistics.quantiles(ours, n=100)[98] * 1e6
    benchmark.extra_info.update(
        label="request and reply, 64 bytes: median",
        microseconds=median,
        p99_microseconds=p99,
        reference="pyzmq DEALER/ROUTER",
        reference_microseconds=reference,
        ratio=median / reference,
        target="at most 4 x the reference",
    )
    with capsys.disabled():
        print(
            f"\nrequest and reply, 64 bytes: median {median:.0f} us (p99 {p99:.0f}), pyzmq {reference:.0f} us, "
            f"ratio {median / reference:.2f} (target at most 4)",
            end="",
        )


def _per_second(ask: Callable[[], None], callers: int, each: int) -> float:
    """Questions answered a second, asked by `callers` threads at once."""
    start = threading.Barrier(callers + 1)

    def run() -> None:
        start.wait()
        for _ in range(each):
            ask()

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return callers * each / (time.perf_counter() - began)


def test_eight_callers(
    cell: Cell,
    raw: tuple[str, zmq.Context[zmq.Socket[bytes]]],
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Eight callers must not be slower than one: the reference gives each caller a socket of its own."""
    endpoint, context = raw
    local = threading.local()
    sockets: list[zmq.Socket[bytes]] = []

    def ask_raw() -> None:
        if not hasattr(local, "socket"):
            local.socket = context.socket(zmq.DEALER)
            local.socket.connect(endpoint)
            sockets.append(local.socket)
        local.socket.send(QUESTION)
        assert local.socket.recv() == QUESTION

    ours: list[float] = []
    alone: list[float] = []
    theirs: list[float] = []

    def references() -> None:
        theirs.append(_per_second(ask_raw, CALLERS, BATCH))
        alone.append(_per_second(lambda: _ask_cell(cell), 1, BATCH))

    benchmark.pedantic(
        lambda: ours.append(_per_second(lambda: _ask_cell(cell), CALLERS, BATCH)), setup=references, rounds=ROUNDS
    )
    for socket in sockets:
        socket.close(0)
    rate, one, reference = (statistics.median(samples) for samples in (ours, alone, theirs))
    benchmark.extra_info.update(
        label="requests a second, 8 callers",
        per_second=rate,
        one_caller_per_second=one,
        reference="pyzmq, one DEALER a thread",
        reference_per_second=reference,
        ratio=rate / reference,
        target="at least 8,000 a second",
    )
    with capsys.disabled():
        print(
            f"\nrequests a second: 8 callers {rate:,.0f}, one caller {one:,.0f}, pyzmq with 8 sockets {reference:,.0f}, "
            f"ratio {rate / reference:.2f} (target at least 8,000 a second)",
            end="",
        )
