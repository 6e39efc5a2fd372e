"""Taking samples. Invariant: every round runs each variant once, in the same order: A B A B."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pytest_benchmark.fixture import BenchmarkFixture

from bench.figure import Figure, Target

MIB = 1024 * 1024
Sampler = Callable[[], float]
"""Does the work once and returns the figure."""


def seconds_of(work: Callable[[], object]) -> Sampler:
    """How long one call takes."""

    def sample() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return sample


def milliseconds_of(work: Callable[[], object]) -> Sampler:
    """The same in milliseconds."""
    seconds = seconds_of(work)
    return lambda: seconds() * 1e3


def mib_per_second(size_bytes: int, work: Callable[[], object]) -> Sampler:
    """The speed of a call that moves or hashes `size_bytes`."""
    seconds = seconds_of(work)
    return lambda: size_bytes / MIB / seconds()


class Bench:
    """What a benchmark measures with: the fixture `bench`."""

    def __init__(self, benchmark: BenchmarkFixture, group: str, quick: bool, rounds: int | None, figures: list[Figure]) -> None:
        self._benchmark = benchmark
        self._group = group
        self._rounds = rounds
        self._figures = figures
        self.quick = quick
        """Small sizes, one round: only to see that it runs."""

    def pick(self, full: int, quick: int) -> int:
        """A size or count."""
        return quick if self.quick else full

    def interleave(self, *variants: Sampler, rounds: int = 5, warm_up: bool = True) -> list[list[float]]:
        """The samples of each variant; the last one is the subject, which pytest-benchmark times as well."""
        samples: list[list[float]] = [[] for _ in variants]
        rounds = self._rounds or (1 if self.quick else rounds)
        if warm_up and not self.quick:
            for variant in variants:
                variant()

        def others() -> None:
            for into, variant in zip(samples[:-1], variants[:-1], strict=True):
                into.append(variant())

        self._benchmark.pedantic(  # type: ignore[no-untyped-call]
            lambda: samples[-1].append(variants[-1]()), setup=others, rounds=rounds
        )
        return samples

    def add(
        self,
        name: str,
        unit: str,
        samples: Sequence[float],
        *,
        reference: tuple[str, Sequence[float]] = ("", ()),
        targets: Sequence[Target] = (),
        note: str = "",
    ) -> Figure:
        """Put a figure into the table. Small sizes have no targets to meet."""
        figure = Figure(self._group, name, unit, samples, *reference, () if self.quick else targets, note)
        self._figures.append(figure)
        return figure

    def compare(
        self,
        name: str,
        unit: str,
        reference_name: str,
        reference: Sampler,
        subject: Sampler,
        *,
        rounds: int = 5,
        targets: Sequence[Target] = (),
        note: str = "",
    ) -> Figure:
        """Interleave the two and put the figure into the table."""
        theirs, ours = self.interleave(reference, subject, rounds=rounds)
        return self.add(name, unit, ours, reference=(reference_name, theirs), targets=targets, note=note)
