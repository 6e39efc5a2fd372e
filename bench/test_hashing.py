"""SHA-256 leaves, trees and small files against hashlib, side by side: every round of a kernel follows a round of hashlib.

Figures are medians on one core. `noise` is the spread of the middle half of the rounds over the median, of the worse of the two.
hashlib is given the easier work, one flat SHA-256 of the same bytes, except for small files, which it hashes one by one.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from zcell._native import sha256
from zcell.digest import file_digest, files_digest

MIB = 1024 * 1024
ROUNDS = 9
TARGETS = {"avx512": 4.0, "avx2": 2.5}
"""Ratios to reach where hashlib has no SHA extensions to use; 1.0 for the kernel in use anywhere."""


class SideBySide:
    """Runs reference and subject in turn, and reports the ratio of their medians."""

    def __init__(self, benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> None:
        self._benchmark = benchmark
        self._capsys = capsys

    def measure(self, label: str, size_bytes: int, reference: Callable[[], object], subject: Callable[[], object]) -> None:
        """Time both `ROUNDS` times after one round to warm up; `size_bytes` is the work of one call of either."""
        reference_seconds: list[float] = []
        subject_seconds: list[float] = []
        subject()

        def run_reference() -> None:
            reference_seconds.append(seconds(reference))

        self._benchmark.pedantic(lambda: subject_seconds.append(seconds(subject)), setup=run_reference, rounds=ROUNDS)
        ratio = statistics.median(reference_seconds) / statistics.median(subject_seconds)
        figures = {
            "mib_per_second": size_bytes / MIB / statistics.median(subject_seconds),
            "reference_mib_per_second": size_bytes / MIB / statistics.median(reference_seconds),
            "ratio": ratio,
            "noise": max(noise(reference_seconds), noise(subject_seconds)),
        }
        self._benchmark.extra_info.update(label=label, reference="hashlib", **figures)
        with self._capsys.disabled():
            print(
                f"\n{label:<44} {figures['mib_per_second']:8.0f} MiB/s, hashlib {figures['reference_mib_per_second']:6.0f} MiB/s, "
                f"ratio {ratio:5.2f} (noise {figures['noise']:.0%})",
                end="",
            )


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def noise(samples: list[float]) -> float:
    """Spread of the middle half over the median."""
    first, middle, last = statistics.quantiles(samples, n=4)
    return (last - first) / middle


@pytest.fixture
def side_by_side(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> SideBySide:
    return SideBySide(benchmark, capsys)


@pytest.mark.parametrize("kernel", sha256.kernels())
def test_leaves_of_64_mib(side_by_side: SideBySide, benchmark: BenchmarkFixture, kernel: str) -> None:
    data = os.urandom(64 * MIB)
    benchmark.group = "64 MiB of 64 KiB leaves, by kernel"
    benchmark.extra_info.update(kernel=kernel, in_use=kernel == sha256.kernel(), target=TARGETS.get(kernel, 1.0))
    label = f"leaves, {kernel}{' (in use)' if kernel == sha256.kernel() else ''}"
    side_by_side.measure(label, len(data), lambda: hashlib.sha256(data), lambda: sha256.leaves(data, kernel=kernel))


@pytest.mark.parametrize("leaves", [1, 2, 16, 64, 256, 1024])
def test_cost_is_linear_in_bytes(side_by_side: SideBySide, benchmark: BenchmarkFixture, leaves: int) -> None:
    """From one leaf over one chunk to 64 MiB; each call repeats until 64 MiB are hashed."""
    data = os.urandom(leaves * sha256.LEAF_BYTES)
    turns = range(1024 // leaves)
    benchmark.group = "root of a buffer, by size"

    def subject() -> None:
        for _ in turns:
            sha256.chunk_root(data)

    def reference() -> None:
        for _ in turns:
            hashlib.sha256(data)

    side_by_side.measure(f"root of {leaves * 64} KiB", len(data) * len(turns), reference, subject)


def test_one_file_of_256_mib(side_by_side: SideBySide, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(256 * MIB))
    benchmark.group = "files"

    def reference() -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    side_by_side.measure("one file of 256 MiB, cached", 256 * MIB, reference, lambda: file_digest(path))


@pytest.mark.parametrize("count", [1250, 5000, 20_000])
def test_many_small_files(side_by_side: SideBySide, benchmark: BenchmarkFixture, tmp_path: Path, count: int) -> None:
    paths = [tmp_path / str(index) for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(os.urandom(index % 4000))
    total = sum(index % 4000 for index in range(count))
    benchmark.group = "files"

    def reference() -> None:
        for path in paths:
            with path.open("rb", buffering=0) as file:
                hashlib.sha256(file.read())

    side_by_side.measure(f"{count} files of 0 to 4 kB, cached", total, reference, lambda: files_digest(paths))
