"""Holes: found where they are, never read, zeros in the digest."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.digest import Digest, file_digest
from zcell.errors import BundleError
from zcell.limits import KIB, MIB
from zcell.workspace.scan import scan_tree
from zcell.workspace.sparse import PackedExtents, content_root, find_extents


def write_sparse(place: Path, size: int, ranges: list[tuple[int, int]]) -> None:
    rng = random.Random(size)
    with place.open("wb") as out:
        out.truncate(size)
        for offset, length in ranges:
            out.seek(offset)
            out.write(rng.randbytes(length))


def extents_of(place: Path) -> tuple[tuple[int, int], ...] | None:
    with place.open("rb") as source:
        return find_extents(source.fileno(), place.stat().st_size)


@pytest.mark.parametrize(
    ("size", "ranges"),
    [
        (10 * MIB, []),
        (10 * MIB, [(0, MIB)]),
        (10 * MIB, [(9 * MIB, MIB)]),
        (10 * MIB + 5, [(MIB, 4096), (5 * MIB, 64 * KIB)]),
        (3 * MIB - 1, [(MIB + 4096, 8192)]),
    ],
)
def test_the_ranges_of_data_are_found(tmp_path: Path, size: int, ranges: list[tuple[int, int]]) -> None:
    write_sparse(tmp_path / "f", size, ranges)
    assert extents_of(tmp_path / "f") == tuple(ranges)


def test_a_file_without_holes_has_no_extents(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(3 * MIB))
    assert extents_of(tmp_path / "f") is None


def test_small_holes_count_as_data(tmp_path: Path) -> None:
    write_sparse(tmp_path / "f", MIB, [(0, 4096), (16 * KIB, 4096), (32 * KIB, MIB - 32 * KIB)])
    assert extents_of(tmp_path / "f") is None


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, MIB - 1, MIB, MIB + 1, 5 * MIB + 77])
@pytest.mark.parametrize("holes", [False, True])
def test_the_digest_is_that_of_the_logical_content(tmp_path: Path, size: int, holes: bool) -> None:
    ranges = [(size // 2, min(5000, size - size // 2))] if holes else [(0, size)]
    write_sparse(tmp_path / "f", size, ranges)
    with (tmp_path / "f").open("rb") as source:
        assert Digest(content_root(source.fileno(), size), size) == file_digest(tmp_path / "f")


def test_a_huge_sparse_file_is_listed_and_digested_without_reading_its_holes(tmp_path: Path) -> None:
    size = 3 * 1024 * MIB
    (tmp_path / "job").mkdir()
    write_sparse(tmp_path / "job" / "f", size, [(0, 10), (2 * 1024 * MIB, 100)])
    entry = scan_tree({"job": tmp_path / "job"}).manifest.entries[1]
    assert entry.size == size
    assert entry.data_bytes <= 2 * 4096
    ticks: list[None] = []
    with (tmp_path / "job" / "f").open("rb") as source:
        root = content_root(source.fileno(), size, lambda: ticks.append(None))
    assert len(ticks) == 3 * 1024
    assert root == Digest.parse("sha256-tree:" + root.hex() + f":{size}").root


def test_a_file_that_became_shorter_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"short")
    with (tmp_path / "f").open("rb") as source, pytest.raises(BundleError, match="shorter"):
        content_root(source.fileno(), 100)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=8), st.integers(0, 300), st.integers(0, 300))
def test_offsets_in_the_data_lead_to_the_right_places(gaps: list[tuple[int, int]], offset: int, length: int) -> None:
    extents: list[tuple[int, int]] = []
    flat: list[int] = []
    at = 0
    for gap, size in gaps:
        at += gap
        extents.append((at, size))
        flat.extend(range(at, at + size))
        at += size
    packed = PackedExtents(tuple(extents))
    assert packed.size == len(flat)
    found = [place for start, count in packed.ranges(offset, length) for place in range(start, start + count)]
    assert found == flat[offset : offset + length]


def test_fully_dense_reads_are_not_affected_by_the_descriptor_position(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(2 * MIB))
    with (tmp_path / "f").open("rb") as source:
        source.seek(MIB)
        assert content_root(source.fileno(), 2 * MIB) == file_digest(tmp_path / "f").root
