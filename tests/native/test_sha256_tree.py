"""The tree over the leaves is that of RFC 9162, however the bytes arrive; pymerkle and plain Python are the oracles."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymerkle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.sha256_reference import CONTENT, EVERY_KERNEL, LEAF, MIB, leaf_hashes, root, tree_hash
from zcell._native import sha256

NODES = [hashlib.sha256(str(index).encode()).digest() for index in range(1100)]
EMPTY = hashlib.sha256(b"").digest()


def grown(pieces: list[bytes], kernel: str | None = None) -> sha256.Tree:
    tree = sha256.Tree(kernel=kernel)
    for piece in pieces:
        tree.update(piece)
    return tree


@pytest.mark.parametrize("count", [*range(20), 31, 32, 33, 100])
def test_roots_equal_pymerkle(count: int) -> None:
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    data = CONTENT[: max(0, count * LEAF - 17)]
    for at in range(0, len(data), LEAF):
        oracle.append_entry(data[at : at + LEAF])
    assert sha256.chunk_root(data) == oracle.get_root()


@pytest.mark.parametrize("size", [0, 1, LEAF, LEAF + 1, MIB - 1, MIB, 3 * MIB + LEAF + 5, 16 * MIB, 16 * MIB + 1, len(CONTENT)])
@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_roots_equal_the_definition(kernel: str, size: int) -> None:
    assert sha256.chunk_root(CONTENT[:size], kernel=kernel) == root(CONTENT[:size])


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_combine_equals_the_definition_for_every_count(kernel: str) -> None:
    for count in [*range(70), 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 1100]:
        assert sha256.combine(b"".join(NODES[:count]), kernel=kernel) == tree_hash(NODES[:count])


@pytest.mark.parametrize("chunk", [LEAF, 2 * LEAF, MIB, 4 * MIB, 16 * MIB])
def test_the_root_does_not_depend_on_the_chunk_size(chunk: int) -> None:
    digests = b"".join(sha256.chunk_root(CONTENT[at : at + chunk]) for at in range(0, len(CONTENT), chunk))
    assert sha256.combine(digests) == root(CONTENT)


def test_nothing_combines_to_the_empty_root() -> None:
    assert sha256.combine(b"") == sha256.chunk_root(b"") == sha256.Tree().digest() == EMPTY
    assert sha256.leaves(b"") == b""
    assert sha256.leaves_many([]) == sha256.roots_many([]) == []
    assert sha256.roots_many([b""]) == [EMPTY]


@pytest.mark.parametrize("size", [1, 31, 33, 63])
def test_a_torn_list_of_nodes_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"32-byte digests, got {size} bytes"):
        sha256.combine(bytes(size))


@given(
    kernel=st.sampled_from(EVERY_KERNEL),
    sizes=st.lists(
        st.one_of(st.integers(0, 200), st.integers(0, 5 * LEAF), st.sampled_from([LEAF, MIB - 1, MIB, 2 * MIB + 3]))
    ),
)
@settings(max_examples=50, deadline=None)
def test_a_tree_grown_in_any_pieces_has_the_same_root(kernel: str, sizes: list[int]) -> None:
    tree = sha256.Tree(kernel=kernel)
    at = 0
    for size in sizes:
        tree.update(CONTENT[at : at + size])
        at = min(at + size, len(CONTENT))
    assert tree.length == at
    assert tree.digest() == sha256.chunk_root(CONTENT[:at])


def test_digest_is_not_final_and_a_copy_goes_its_own_way() -> None:
    tree = grown([CONTENT[: MIB + 100]])
    assert tree.digest() == tree.digest() == root(CONTENT[: MIB + 100])
    other = tree.copy()
    tree.update(CONTENT[MIB + 100 : 2 * MIB])
    other.update(b"something else")
    assert tree.digest() == root(CONTENT[: 2 * MIB])
    assert other.digest() == root(CONTENT[: MIB + 100] + b"something else")
    assert (tree.length, other.length) == (2 * MIB, MIB + 114)


def test_updates_from_many_threads_are_each_appended_whole() -> None:
    tree = sha256.Tree()
    block = CONTENT[: 3 * LEAF + 1]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tree.update, [block] * 40))
    assert tree.digest() == root(block * 40)


@pytest.mark.parametrize("kernel", EVERY_KERNEL)
def test_file_root_reads_to_the_end(kernel: str, tmp_path: Path) -> None:
    for size in (0, 1, LEAF, MIB, 3 * MIB + 7, len(CONTENT)):
        path = tmp_path / str(size)
        path.write_bytes(CONTENT[:size])
        with path.open("rb") as file:
            assert sha256.file_root(file.fileno(), kernel=kernel) == (sha256.chunk_root(CONTENT[:size]), size)


def test_file_root_of_a_pipe_written_in_ragged_pieces() -> None:
    reader, writer = os.pipe()
    draw = random.Random(1)

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as sink:
            at = 0
            while at < 3 * MIB:
                at += sink.write(CONTENT[at : min(3 * MIB, at + draw.randrange(1, 50_000))])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert sha256.file_root(reader) == (root(CONTENT[: 3 * MIB]), 3 * MIB)
    finally:
        os.close(reader)
        thread.join()


def test_file_root_of_a_directory_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            sha256.file_root(fd)
    finally:
        os.close(fd)


def test_leaf_hashes_are_prefixed_so_a_node_is_never_a_leaf() -> None:
    pair = b"".join(leaf_hashes(CONTENT[: 2 * LEAF]))
    assert sha256.combine(pair) != sha256.leaves(pair)
