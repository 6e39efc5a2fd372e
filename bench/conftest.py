"""Collects the figures of all benchmarks into one table. Invariant: what is printed, written and drawn is the same list."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import machine, plot, table
from bench.figure import Figure
from bench.measure import Bench
from bench.place import medium, workplace

FIGURES = pytest.StashKey[list[Figure]]()
BEGAN = pytest.StashKey[tuple[float, dict[str, object]]]()
RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zcell benchmarks")
    group.addoption("--quick", action="store_true", help="small sizes, one round: only shows that every benchmark runs")
    group.addoption("--rounds", type=int, help="rounds of every comparison (default: 5 or more)")
    group.addoption("--results", type=Path, help=f"where JSON, table and plot go (default: {RESULTS}; nowhere with --quick)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []
    config.stash[BEGAN] = (time.monotonic(), machine.describe(medium()))


@pytest.fixture
def bench(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Bench:
    """What a benchmark measures with."""
    group = request.module.__name__.rpartition("test_")[2].replace("_", " ")
    options = request.config.option
    return Bench(benchmark, group, options.quick, options.rounds, request.config.stash[FIGURES])


@pytest.fixture(scope="module")
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether sizes are to be small."""
    return bool(request.config.option.quick)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory for files, in memory when they fit."""
    with workplace() as path:
        yield path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures:
        return
    began, description = config.stash[BEGAN]
    took, load = time.monotonic() - began, os.getloadavg()[0]
    words = [*machine.sentences(description, load), f"measured in {took:.0f} s"]
    terminalreporter.section("figures")
    for line in [*words, "", *table.plain(figures)]:
        terminalreporter.write_line(line)
    to = config.option.results or (None if config.option.quick else RESULTS)
    if to is None:
        return
    to.mkdir(parents=True, exist_ok=True)
    whole = {"machine": description, "load_average_at_end": load, "seconds": took, "figures": [f.to_dict() for f in figures]}
    (to / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
    (to / "table.md").write_text("\n".join([*(f"- {word}" for word in words), "", *table.markdown(figures)]))
    plot.draw(figures, to / "ratios.svg")
    terminalreporter.write_line(f"written: {', '.join(str(to / name) for name in ('results.json', 'table.md', 'ratios.svg'))}")
