"""Measuring one thing against another. Invariant: every round of the subject follows a round of its reference in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Protocol

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

MIB = 1024 * 1024
ROUNDS = 7


class Against(Protocol):
    def __call__(
        self, label: str, size_bytes: int, reference_name: str, reference: Callable[[], object], subject: Callable[[], object]
    ) -> float: ...


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _noise(samples: list[float]) -> float:
    """Spread of the middle half over the median."""
    first, middle, last = statistics.quantiles(samples, n=4)
    return (last - first) / middle


@pytest.fixture
def against(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> Against:
    """Runs reference and subject in turn, reports the medians, and returns how many times faster the subject is."""

    def measure(
        label: str, size_bytes: int, reference_name: str, reference: Callable[[], object], subject: Callable[[], object]
    ) -> float:
        references: list[float] = []
        subjects: list[float] = []
        subject()
        setup = lambda: references.append(_seconds(reference))  # noqa: E731 (pedantic wants a callable that returns nothing)
        benchmark.pedantic(lambda: subjects.append(_seconds(subject)), setup=setup, rounds=ROUNDS)
        ratio = statistics.median(references) / statistics.median(subjects)
        speed, reference_speed = (size_bytes / MIB / statistics.median(samples) for samples in (subjects, references))
        noise = max(_noise(references), _noise(subjects))
        benchmark.extra_info.update(
            label=label,
            reference=reference_name,
            mib_per_second=speed,
            reference_mib_per_second=reference_speed,
            ratio=ratio,
            noise=noise,
        )
        with capsys.disabled():
            print(
                f"\n{label:<52} {speed:7.0f} MiB/s, {reference_name} {reference_speed:7.0f} MiB/s, "
                f"ratio {ratio:5.2f} (noise {noise:.0%})",
                end="",
            )
        return ratio

    return measure
