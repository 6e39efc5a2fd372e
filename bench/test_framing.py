"""Chunk frames against the plain calls they wrap: what does a header, a checksum, a digest cost on top of moving the bytes?"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Against

from zcell._native import chunk

MIB = 1024 * 1024
CHUNKS = 64
DIRECTORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")


@pytest.fixture
def file_fd() -> Iterator[int]:
    path = DIRECTORY / f"zcell-bench-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    for _ in range(CHUNKS):
        os.write(fd, os.urandom(MIB))
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("what", "digest", "checksum"), [("digest", True, False), ("checksum", False, True), ("neither", False, False)]
)
def test_reading_chunks(against: Against, file_fd: int, what: str, digest: bool, checksum: bool) -> None:
    def plain() -> None:
        for index in range(CHUNKS):
            os.pread(file_fd, MIB, index * MIB)

    def frames() -> None:
        for index in range(CHUNKS):
            chunk.read_chunk(file_fd, index, index * MIB, MIB, want_digest=digest, checksum=checksum)

    against(f"read_chunk of 1 MiB, {what}", CHUNKS * MIB, "os.pread", plain, frames)


@pytest.mark.parametrize("tree", [True, False])
def test_storing_chunks(against: Against, file_fd: int, tree: bool) -> None:
    frames = [chunk.read_chunk(file_fd, i, i * MIB, MIB, want_digest=tree, checksum=not tree)[0] for i in range(CHUNKS)]

    def plain() -> None:
        for index, frame in enumerate(frames):
            os.pwrite(file_fd, memoryview(frame)[chunk.HEADER_BYTES :], index * MIB)

    def store() -> None:
        for index, frame in enumerate(frames):
            chunk.store(file_fd, frame, tree=tree, max_length=MIB, expect_index=index)

    against(f"store of 1 MiB, {'tree' if tree else 'checksum'} verified", CHUNKS * MIB, "os.pwrite", plain, store)


def test_parsing_headers(against: Against) -> None:
    frame = memoryview(chunk.encode(0, 0, bytes(64)))
    count = 10_000

    def slices() -> None:
        for _ in range(count):
            bytes(frame[:80])

    def parse() -> None:
        for _ in range(count):
            chunk.parse(frame, max_length=MIB)

    against("parse (MiB/s of headers)", count * 80, "slicing", slices, parse)


def test_storing_while_the_main_thread_runs_python(against: Against, file_fd: int) -> None:
    """A training loop holds the GIL: what is left for the thread that stores, against the same thread undisturbed?"""
    frames = [chunk.read_chunk(file_fd, i, i * MIB, MIB, checksum=False)[0] for i in range(16)]

    def store() -> None:
        for index, frame in enumerate(frames):
            chunk.store(file_fd, frame, tree=True, max_length=MIB, expect_index=index)

    def disturbed() -> None:
        worker = threading.Thread(target=store)
        worker.start()
        total = 0
        while worker.is_alive():
            total += sum(range(1000))

    against("store beside a busy Python thread", 16 * MIB, "undisturbed", store, disturbed)
