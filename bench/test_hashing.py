"""SHA-256 leaves, trees and small files against hashlib, on one core.

hashlib is given the easier work, one flat SHA-256 of the same bytes, except for small files, which it hashes one by one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bench import machine
from bench.figure import Target, ratio_at_least, ratio_at_most
from bench.measure import MIB, Bench, mib_per_second, milliseconds_of, seconds_of
from bench.place import write_noise
from zcell._native import sha256
from zcell.digest import file_digest, files_digest

MOST_LEAVES = 1024


def _targets(kernel: str) -> list[Target]:
    """Where hashlib has SHA extensions to use, only the kernel in use is to keep up with it; else the lanes have to pay."""
    if "sha_ni" in machine.cpu_flags() or "sha2" in machine.cpu_flags():
        return [ratio_at_least(1.0)] if kernel == sha256.kernel() else []
    return [ratio_at_least({"avx512": 4.0, "avx2": 2.5}.get(kernel, 1.0))]


@pytest.mark.parametrize("kernel", sha256.kernels())
def test_leaves(bench: Bench, kernel: str) -> None:
    data = os.urandom(bench.pick(64, 1) * MIB)
    bench.compare(
        f"leaves of {len(data) // MIB} MiB, {kernel}{' (in use)' if kernel == sha256.kernel() else ''}",
        "MiB/s",
        "hashlib",
        mib_per_second(len(data), lambda: hashlib.sha256(data)),
        mib_per_second(len(data), lambda: sha256.leaves(data, kernel=kernel)),
        targets=_targets(kernel),
    )


def test_cost_is_linear_in_bytes(bench: Bench) -> None:
    """One chunk, 4 and 16 of them; each sample hashes 64 MiB in all."""
    data = os.urandom(16 * MIB)
    total = bench.pick(64, 16)

    def nanoseconds_a_byte(chunks: int) -> float:
        def hash_all() -> None:
            for _ in range(total // chunks):
                sha256.chunk_root(memoryview(data)[: chunks * MIB])

        return seconds_of(hash_all)() * 1e9 / (total * MIB)

    once, four, sixteen = bench.interleave(*((lambda chunks=chunks: nanoseconds_a_byte(chunks)) for chunks in (1, 4, 16)))
    for scale, samples in ((4, four), (16, sixteen)):
        name = f"cost of hashing a byte, {scale} times as many"
        bench.add(name, "ns", samples, reference=("1 MiB", once), targets=[ratio_at_most(1.5)])


def test_one_large_file(bench: Bench, place: Path) -> None:
    path = write_noise(place / "large", bench.pick(256, 2) * MIB)
    size = path.stat().st_size

    def reference() -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    bench.compare(
        f"digest of a file of {size // MIB} MiB",
        "MiB/s",
        "hashlib",
        mib_per_second(size, reference),
        mib_per_second(size, lambda: file_digest(path)),
        targets=[ratio_at_least(1.0)],
    )


def test_many_small_files(bench: Bench, place: Path) -> None:
    count = bench.pick(5000, 50)
    paths = [place / f"small-{number}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(os.urandom(number % 4000))

    def reference() -> None:
        for path in paths:
            with path.open("rb", buffering=0) as file:
                hashlib.sha256(file.read())

    name = f"digests of {count:,} files of 0 to 4 kB"
    bench.compare(name, "ms", "hashlib", milliseconds_of(reference), milliseconds_of(lambda: files_digest(paths)))
