"""Tasks, metrics and large results between a parent and a job in another process, over cells and over a directory."""

from __future__ import annotations

import secrets
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import load
from bench.child import Child
from bench.figure import at_least, at_most, ratio_at_most
from bench.measure import MIB, Bench, mib_per_second
from bench.pipe_job import LAYER_BYTES
from zcell import Cell
from zcell.agent import TaskExchange
from zcell.pipe import CellPipe, FilePipe, Mode, Pipe

KINDS = ("CellPipe", "FilePipe", "FilePipe, kernel not asked")
TARGET_MS = {"CellPipe": 2.0, "FilePipe": 20.0, "FilePipe, kernel not asked": 20.0}
RATE = 5000
MUCH_LONGER = 1.2
"""Times the time of a task without metrics: what is less than the noise of the machine is no delay."""


@contextmanager
def _pipes(kind: str, place: Path) -> Iterator[tuple[Pipe, Pipe]]:
    token = secrets.token_hex(4)
    if kind == "CellPipe":
        with Cell("server", listen=["tcp://127.0.0.1:0"]) as server:
            yield CellPipe(Mode.PASSIVE, "bench", token, server), CellPipe(Mode.PASSIVE, "bench", token, server)
    else:
        portable = kind != "FilePipe"
        yield (
            FilePipe(Mode.PASSIVE, place / token, portable=portable),
            FilePipe(Mode.PASSIVE, place / token, portable=portable),
        )


@contextmanager
def _exchange(kind: str, place: Path) -> Iterator[tuple[TaskExchange, Child]]:
    with (
        _pipes(kind, place) as pipes,
        TaskExchange(*pipes) as exchange,
        Child("pipe_job", env=exchange.job_environment()) as job,
    ):
        assert exchange.wait_for_peer(20)
        yield exchange, job
        exchange.stop()


def _ask(exchange: TaskExchange) -> None:
    assert exchange.run("echo", load.QUESTION, timeout=30).data == load.QUESTION


@pytest.mark.parametrize("kind", KINDS)
def test_task_round_trip(bench: Bench, place: Path, kind: str) -> None:
    """A task of 64 bytes and its result, one after the other, against a bare question to another process over pyzmq."""
    count = bench.pick(200, 10)
    with (
        _exchange(kind, place) as (exchange, _),
        Child("peers.zmq_server") as server,
        Child("peers.zmq_client", *server.hello) as raw,
    ):
        theirs, ours = bench.interleave(
            lambda: statistics.median(raw.ask("ask", count=count)) * 1e3,
            lambda: statistics.median(load.seconds_each(lambda: _ask(exchange), count)) * 1e3,
        )
    bench.add(
        f"task and result, 64 bytes, {kind}: median",
        "ms",
        ours,
        reference=("pyzmq DEALER/ROUTER", theirs),
        targets=[at_most(TARGET_MS[kind])],
    )


@pytest.mark.parametrize("kind", KINDS[:2])
def test_tasks_beside_metrics(bench: Bench, place: Path, kind: str) -> None:
    """The same while the job logs 5,000 records a second; the reference is the same without."""
    count, seconds = bench.pick(200, 10), bench.pick(4, 1)
    received: list[Any] = []
    rates: list[float] = []
    with _exchange(kind, place) as (exchange, job):
        exchange.on_metric(received.append)

        def quiet() -> float:
            return statistics.median(load.seconds_each(lambda: _ask(exchange), count)) * 1e3

        def busy() -> float:
            received.clear()
            job.tell("log", rate=RATE, seconds=seconds)
            done = threading.Event()
            samples: list[float] = []

            def ask() -> None:
                while not done.is_set():
                    samples.extend(load.seconds_each(lambda: _ask(exchange), 1))

            thread = threading.Thread(target=ask)
            thread.start()
            accepted = job.answer()
            done.set()
            thread.join()
            assert accepted >= len(received)
            rates.append(len(received) / seconds)
            return statistics.median(samples) * 1e3

        theirs, ours = bench.interleave(quiet, busy)
    bench.add(
        f"task and result beside {RATE:,} metrics/s, {kind}: median",
        "ms",
        ours,
        reference=("the same without metrics", theirs),
        targets=[at_most(TARGET_MS[kind]), ratio_at_most(MUCH_LONGER)],
    )
    bench.add(f"metrics received, {kind}", "records/s", rates, targets=[at_least(RATE * 0.95)])


@pytest.mark.parametrize("kind", KINDS[:2])
def test_large_result(bench: Bench, place: Path, kind: str) -> None:
    """A result of 256 MiB: from the job's memory to the parent's."""
    size = bench.pick(256, 4) * MIB
    with _exchange(kind, place) as (exchange, _):

        def run() -> None:
            assert len(exchange.run("large", size, timeout=300).raise_for_cause().data) == size

        (ours,) = bench.interleave(mib_per_second(size, run), rounds=3)
    bench.add(f"result of {size // MIB} MiB, {kind}", "MiB/s", ours)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_result_of_many_arrays(bench: Bench, place: Path, kind: str) -> None:
    """A result of 3,000 arrays of 80 kB, the shape of a model: too much for one message, too small for a transfer each."""
    count = bench.pick(3000, 50)
    with _exchange(kind, place) as (exchange, _):

        def run() -> None:
            layers = exchange.run("layers", count, timeout=300).raise_for_cause().data
            assert len(layers) == count
            assert sum(layer.nbytes for layer in layers) == count * LAYER_BYTES

        (ours,) = bench.interleave(mib_per_second(count * LAYER_BYTES, run), rounds=3)
    bench.add(f"result of {count:,} arrays of {LAYER_BYTES // 1000} kB, {kind}", "MiB/s", ours)
