"""Chunk frames against the plain calls they wrap: what does a header, a checksum, a digest cost on top of moving the bytes?"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.measure import MIB, Bench, mib_per_second
from bench.place import write_noise
from zcell._native import chunk


@pytest.fixture
def chunks(bench: Bench) -> int:
    """How many of 1 MiB."""
    return bench.pick(64, 4)


@pytest.fixture
def file_fd(place: Path, chunks: int) -> Iterator[int]:
    path = write_noise(place / "chunks", chunks * MIB)
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("what", "digest", "checksum"), [("digest", True, False), ("checksum", False, True), ("neither", False, False)]
)
def test_reading_chunks(bench: Bench, file_fd: int, chunks: int, what: str, digest: bool, checksum: bool) -> None:
    def plain() -> None:
        for index in range(chunks):
            os.pread(file_fd, MIB, index * MIB)

    def frames() -> None:
        for index in range(chunks):
            chunk.read_chunk(file_fd, index, index * MIB, MIB, want_digest=digest, checksum=checksum)

    size = chunks * MIB
    bench.compare(f"read_chunk, {what}", "MiB/s", "os.pread", mib_per_second(size, plain), mib_per_second(size, frames))


@pytest.mark.parametrize("tree", [True, False], ids=["tree", "checksum"])
def test_storing_chunks(bench: Bench, file_fd: int, chunks: int, tree: bool) -> None:
    frames = [chunk.read_chunk(file_fd, i, i * MIB, MIB, want_digest=tree, checksum=not tree)[0] for i in range(chunks)]

    def plain() -> None:
        for index, frame in enumerate(frames):
            os.pwrite(file_fd, memoryview(frame)[chunk.HEADER_BYTES :], index * MIB)

    def store() -> None:
        for index, frame in enumerate(frames):
            chunk.store(file_fd, frame, tree=tree, max_length=MIB, expect_index=index)

    size, name = chunks * MIB, f"store, {'tree' if tree else 'checksum'} verified"
    bench.compare(name, "MiB/s", "os.pwrite", mib_per_second(size, plain), mib_per_second(size, store))


def test_storing_while_the_main_thread_runs_python(bench: Bench, file_fd: int, chunks: int) -> None:
    """A training loop holds the GIL: what is left for the thread that stores?"""
    frames = [chunk.read_chunk(file_fd, i, i * MIB, MIB, checksum=False)[0] for i in range(chunks)]

    def store() -> None:
        for index, frame in enumerate(frames):
            chunk.store(file_fd, frame, tree=True, max_length=MIB, expect_index=index)

    def disturbed() -> None:
        worker = threading.Thread(target=store)
        worker.start()
        while worker.is_alive():
            sum(range(1000))
        worker.join()

    size = chunks * MIB
    name = "store beside a busy Python thread"
    bench.compare(name, "MiB/s", "undisturbed", mib_per_second(size, store), mib_per_second(size, disturbed))
