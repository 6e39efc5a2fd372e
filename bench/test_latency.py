"""Requests and replies against a plain pyzmq DEALER and ROUTER: the same question of 64 bytes to another process, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.child import Child
from bench.figure import at_least, at_most, ratio_at_most
from bench.measure import MIB, Bench
from bench.place import write_noise

CALLERS = 8
MILLI, MICRO = 1e3, 1e6


@pytest.fixture(scope="module")
def server() -> Iterator[Child]:
    with Child("cells.server", "tcp://127.0.0.1:0") as child:
        yield child


@pytest.fixture(scope="module")
def cell(server: Child) -> Iterator[Child]:
    with Child("cells.client", "site-1", server.hello) as child:
        yield child


@pytest.fixture(scope="module")
def raw() -> Iterator[Child]:
    with Child("peers.zmq_server") as server, Child("peers.zmq_client", *server.hello) as client:
        yield client


def p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[98]


class Rounds:
    """Median and 99th percentile of each round of questions."""

    def __init__(self, ask: Callable[[], list[float]], scale: float) -> None:
        self._ask = ask
        self._scale = scale
        self.p99: list[float] = []
        self.most: list[float] = []
        self.asked = 0

    def __call__(self) -> float:
        samples = [seconds * self._scale for seconds in self._ask()]
        self.asked += len(samples)
        self.p99.append(p99(samples))
        self.most.append(max(samples))
        return statistics.median(samples)


def test_one_caller(bench: Bench, cell: Child, raw: Child) -> None:
    count = bench.pick(2000, 20)
    theirs, ours = Rounds(lambda: raw.ask("ask", count=count), MICRO), Rounds(lambda: cell.ask("ask", count=count), MICRO)
    reference, samples = bench.interleave(theirs, ours)
    name, peer = "request and reply, 64 bytes", "pyzmq DEALER/ROUTER"
    bench.add(f"{name}: median", "us", samples, reference=(peer, reference), targets=[at_most(500), ratio_at_most(4)])
    bench.add(f"{name}: p99", "us", ours.p99, reference=(peer, theirs.p99))


def test_eight_callers(bench: Bench, cell: Child, raw: Child) -> None:
    """Eight callers must not be slower than one. The peer gives each a socket of its own."""
    each = bench.pick(500, 10)
    plain, alone, together = bench.interleave(
        lambda: raw.ask("ask_together", callers=CALLERS, each=each),
        lambda: cell.ask("ask_together", callers=1, each=each),
        lambda: cell.ask("ask_together", callers=CALLERS, each=each),
    )
    bench.add(f"requests, {CALLERS} callers", "1/s", together, reference=("pyzmq, 8 DEALERs", plain), targets=[at_least(8000)])
    bench.add("requests, 1 caller", "1/s", alone, reference=(f"{CALLERS} callers", together))


def test_while_a_download_saturates_the_link(bench: Bench, server: Child, cell: Child, place: Path) -> None:
    source = write_noise(place / "source", bench.pick(512, 4) * MIB)

    def during() -> list[float]:
        to = place / "copy"
        samples = cell.ask("ask_during_fetch", ref_id=server.ask("offer", path=str(source)), path=str(to))
        to.unlink()
        return list(samples)

    quiet = Rounds(lambda: cell.ask("ask", count=bench.pick(500, 20)), MILLI)
    loaded = Rounds(during, MILLI)
    undisturbed, samples = bench.interleave(quiet, loaded)
    name = "request while a download saturates the link"
    bench.add(f"{name}: median", "ms", samples, reference=("undisturbed", undisturbed))
    note = f"{loaded.asked} requests in all, asked by the cell that downloads"
    bench.add(f"{name}: p99", "ms", loaded.p99, reference=("undisturbed", quiet.p99), targets=[at_most(5)], note=note)


def test_while_a_handler_sleeps(bench: Bench, cell: Child) -> None:
    """A handler that sleeps 1 s delays no other channel's reply by more than 50 ms."""
    seconds = 0.05 if bench.quick else 1.0
    quiet = Rounds(lambda: cell.ask("ask", count=bench.pick(2000, 20)), MILLI)
    loaded = Rounds(lambda: cell.ask("ask_during_sleep", seconds=seconds), MILLI)
    bench.interleave(quiet, loaded)
    name = "slowest of all replies while a handler of another channel sleeps 1 s"
    bench.add(name, "ms", loaded.most, reference=("undisturbed", quiet.most), targets=[at_most(50)])
