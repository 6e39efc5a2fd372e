"""Every SHA-256 kernel computes what hashlib computes: any size, any alignment, any mixture, any number of threads."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.sha256_reference import CONTENT, EVERY_KERNEL, LEAF, MIB, leaf_hashes, root
from zcell._native import sha256
from zcell.errors import KernelError

# around the padding of one and two blocks (the prefix takes one byte), a leaf, a chunk, and the lanes of each kernel
BLOCK_EDGES = [0, 1, 2, 54, 55, 56, 57, 61, 62, 63, 64, 65, 118, 119, 120, 126, 127, 128, 129, 190, 191, 192]
LEAF_EDGES = [LEAF - 65, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF - 1, 2 * LEAF, 3 * LEAF + 7, 7 * LEAF, 9 * LEAF + 62]
CHUNK_EDGES = [15 * LEAF, MIB - 1, MIB, MIB + 1, 17 * LEAF, 33 * LEAF + 100]
ALL_KERNELS = {"shani", "avx512", "avx2", "ssse3", "armv8", "neon", "portable"}


@pytest.mark.parametrize("size", [*BLOCK_EDGES, *LEAF_EDGES, *CHUNK_EDGES])
@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_leaves_equal_hashlib(kernel: str, size: int) -> None:
    data = CONTENT[:size]
    assert sha256.leaves(data, kernel=kernel) == b"".join(leaf_hashes(data))


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_every_size_up_to_four_blocks(kernel: str) -> None:
    pieces = [CONTENT[at : at + at] for at in range(260)]
    assert sha256.leaves_many(pieces, kernel=kernel) == [b"".join(leaf_hashes(piece)) for piece in pieces]


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_every_alignment(kernel: str) -> None:
    view = memoryview(CONTENT)
    for shift in range(65):
        expected = b"".join(leaf_hashes(CONTENT[shift : shift + LEAF + 77]))
        assert sha256.leaves(view[shift : shift + LEAF + 77], kernel=kernel) == expected


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_many_buffers_of_mixed_sizes_share_the_lanes(kernel: str) -> None:
    draw = random.Random(kernel)
    sizes = [0, 0, 1, 2 * LEAF + 3, *(draw.randrange(3000) for _ in range(200)), 0, LEAF, 3 * LEAF, *range(50, 70), 0]
    draw.shuffle(sizes)
    buffers = [CONTENT[at : at + size] for at, size in enumerate(sizes)]
    assert sha256.leaves_many(buffers, kernel=kernel) == [b"".join(leaf_hashes(data)) for data in buffers]
    assert sha256.roots_many(buffers, kernel=kernel) == [root(data) for data in buffers]


@given(
    kernel=st.sampled_from(EVERY_KERNEL),
    spans=st.lists(st.tuples(st.integers(0, 5000), st.one_of(st.integers(0, 400), st.integers(0, 3 * LEAF))), max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_random_buffers(kernel: str, spans: list[tuple[int, int]]) -> None:
    buffers = [CONTENT[at : at + size] for at, size in spans]
    assert sha256.leaves_many(buffers, kernel=kernel) == [b"".join(leaf_hashes(data)) for data in buffers]


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_extreme_bytes(kernel: str) -> None:
    for data in (bytes(3 * LEAF + 1), b"\xff" * (3 * LEAF + 1), b"\x80" * 63, b"\x80" * 64):
        assert sha256.leaves(data, kernel=kernel) == b"".join(leaf_hashes(data))


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_many_threads_at_once(kernel: str) -> None:
    pieces = [CONTENT[at * 1000 : at * 1000 + 5 * LEAF + at] for at in range(32)]
    expected = [root(piece) for piece in pieces]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(4):
            assert list(pool.map(lambda piece: sha256.chunk_root(piece, kernel=kernel), pieces)) == expected


ROOT = Path(__file__).parents[2]
BETWEEN_GUARDS = """
import ctypes, mmap, sys
from tests.native.sha256_reference import CONTENT, EVERY_KERNEL, root
from zcell._native import sha256

room = 20 * mmap.PAGESIZE
memory = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
protect = ctypes.CDLL(None, use_errno=True).mprotect
for page in (start, start + mmap.PAGESIZE + room):
    assert protect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
view = memoryview(memory)[mmap.PAGESIZE : mmap.PAGESIZE + room]
for kernel in EVERY_KERNEL:
    for size in (0, 1, 62, 63, 64, 127, 4096, 65535, 65536, 65537, 70000, room):
        for place in (view[:size], view[room - size :]):
            place[:] = CONTENT[:size]
            assert sha256.chunk_root(place, kernel=kernel) == root(CONTENT[:size]), (kernel, size)
print("read nothing outside")
"""


def test_no_kernel_reads_outside_its_buffer() -> None:
    """Buffers that touch an inaccessible page at either end; a stray read would end the child with SIGSEGV."""
    child = subprocess.run(
        [sys.executable, "-c", BETWEEN_GUARDS], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "read nothing outside\n", "")


def test_any_contiguous_buffer_is_taken() -> None:
    data = CONTENT[: 2 * LEAF]
    expected = sha256.leaves(data)
    assert sha256.leaves(bytearray(data)) == expected
    assert sha256.leaves(memoryview(data).cast("I")) == expected
    assert sha256.leaves(memoryview(data).cast("B", (2, LEAF))) == expected


def test_other_objects_are_refused_and_nothing_stays_held() -> None:
    held = bytearray(10)
    with pytest.raises(TypeError):
        sha256.leaves("text")  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        sha256.leaves(memoryview(CONTENT)[::2])
    with pytest.raises(TypeError):
        sha256.leaves_many([held, None])  # type: ignore[list-item]
    held.append(1)  # BufferError if a view of it had been left behind


def test_kernels_are_those_this_machine_can_run() -> None:
    assert set(sha256.kernels()) <= ALL_KERNELS
    assert sha256.kernels()[-1] == "portable"
    assert sha256.kernel() in sha256.kernels()
    assert "lanes16-generic" not in sha256.kernels()


@pytest.mark.parametrize("name", [*sorted(ALL_KERNELS - set(sha256.kernels())), "", "openssl", "AVX2"])
def test_a_kernel_that_cannot_run_is_refused_by_name(name: str) -> None:
    with pytest.raises(KernelError) as refused:
        sha256.leaves(b"x", kernel=name)
    assert repr(name) in str(refused.value)
    assert all(usable in str(refused.value) for usable in sha256.kernels())
