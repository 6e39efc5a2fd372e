"""`zcell.digest`: what a user computes, prints and compares."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.sha256_reference import CONTENT, LEAF, MIB, root
from zcell import digest
from zcell.digest import Digest, TreeHasher, file_digest, files_digest, root_of_chunks
from zcell.limits import LEAF_BYTES

EMPTY_TEXT = f"sha256-tree:{hashlib.sha256(b'').hexdigest()}:0"


def test_a_digest_prints_and_parses_back() -> None:
    value = Digest.of(CONTENT[: 3 * LEAF + 1])
    assert str(value) == f"sha256-tree:{root(CONTENT[: 3 * LEAF + 1]).hex()}:{3 * LEAF + 1}"
    assert Digest.parse(str(value)) == value
    assert str(Digest.of(b"")) == EMPTY_TEXT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256-tree",
        EMPTY_TEXT[:-2],
        EMPTY_TEXT + " ",
        EMPTY_TEXT + "\n",
        EMPTY_TEXT.replace("tree", "flat"),
        EMPTY_TEXT.upper(),
        EMPTY_TEXT.replace("e3b0", "e3b"),
        f"{EMPTY_TEXT[:-1]}-1",
        f"{EMPTY_TEXT[:-1]}01",
        f"{EMPTY_TEXT[:-1]}1_0",
        f"{EMPTY_TEXT[:-1]}\u0661",
        f"{EMPTY_TEXT[:-1]}{2**64}",
        f"{EMPTY_TEXT[:-1]}{'9' * 5000}",
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match=r"sha256-tree|2\*\*64"):
        Digest.parse(text)


@pytest.mark.parametrize(("value", "length"), [(b"", 0), (bytes(31), 0), (bytes(33), 0), (bytes(32), -1), (bytes(32), 2**64)])
def test_a_digest_out_of_range_is_refused(value: bytes, length: int) -> None:
    with pytest.raises(ValueError, match=r"Digest\.(root|length) must be"):
        Digest(value, length)


def test_same_root_and_other_length_are_not_equal() -> None:
    assert Digest(bytes(32), 1) != Digest(bytes(32), 2)
    assert len({Digest.of(b"a"), Digest.of(b"a"), Digest.of(b"b")}) == 2


def test_a_hasher_behaves_as_those_of_hashlib() -> None:
    hasher = TreeHasher(CONTENT[:10])
    hasher.update(bytearray(CONTENT[10:MIB]))
    hasher.update(memoryview(CONTENT)[MIB : 2 * MIB + 9])
    assert hasher.digest() == root(CONTENT[: 2 * MIB + 9])
    assert hasher.hexdigest() == hasher.digest().hex()
    assert hasher.length == 2 * MIB + 9
    assert hasher.result() == Digest.of(CONTENT[: 2 * MIB + 9])
    assert (hasher.name, hasher.digest_size) == ("sha256-tree", 32)
    twin = hasher.copy()
    twin.update(b"x")
    assert (twin.length, hasher.length) == (2 * MIB + 10, 2 * MIB + 9)
    assert twin.digest() != hasher.digest()
    with pytest.raises(TypeError):
        hasher.update("text")  # type: ignore[arg-type]


def test_chunk_digests_give_the_root() -> None:
    digests = [Digest.of(CONTENT[at : at + MIB]).root for at in range(0, len(CONTENT), MIB)]
    assert root_of_chunks(digests) == root_of_chunks(b"".join(digests)) == root(CONTENT)
    assert root_of_chunks([]) == root_of_chunks(b"") == hashlib.sha256(b"").digest()
    with pytest.raises(ValueError, match="chunk digest 1 must be 32 bytes, got 31"):
        root_of_chunks([digests[0], digests[1][:31]])
    with pytest.raises(ValueError, match="32-byte digests"):
        root_of_chunks(digests[0][:31])


@pytest.mark.parametrize("size", [0, 1, LEAF, MIB, MIB + 1, len(CONTENT)])
def test_a_file_has_the_digest_of_its_bytes(size: int, tmp_path: Path) -> None:
    path = tmp_path / "näme"
    path.write_bytes(CONTENT[:size])
    assert file_digest(path) == file_digest(str(path)) == Digest.of(CONTENT[:size])
    assert files_digest([path]) == [Digest.of(CONTENT[:size])]


def test_many_files_keep_their_order(tmp_path: Path) -> None:
    draw = random.Random(7)
    sizes = [
        *(draw.randrange(4000) for _ in range(1500)),
        0,
        0,
        MIB,
        MIB + 1,
        5 * MIB,
        *(draw.randrange(MIB) for _ in range(20)),
    ]
    draw.shuffle(sizes)
    paths = [tmp_path / str(index) for index in range(len(sizes))]
    for index, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        path.write_bytes(CONTENT[index : index + size])
    assert files_digest(paths) == [Digest.of(CONTENT[index : index + size]) for index, size in enumerate(sizes)]
    assert files_digest([]) == []


def test_a_file_whose_size_is_not_known_before_is_read_to_its_end() -> None:
    path = Path("/proc/self/status")  # st_size is 0
    assert files_digest([path])[0].length > 0


@pytest.mark.parametrize("several", [False, True])
def test_a_missing_file_or_a_directory_is_named(several: bool, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"fine")
    for path, error in ((tmp_path / "missing", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error) as raised:
            files_digest([good, path]) if several else file_digest(path)
        assert os.fspath(path) in str(raised.value)
        assert raised.value.filename == os.fspath(path)


def test_hashing_a_large_file_takes_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    code = """
import resource, sys
from zcell.digest import file_digest
file_digest(sys.executable)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(file_digest(sys.argv[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60)
    printed, grown_kib = child.stdout.split()
    assert Digest.parse(printed).length == 256 * MIB
    assert int(grown_kib) < 8 * 1024


def test_the_leaf_of_the_tree_is_the_leaf_of_the_limits() -> None:
    assert LEAF_BYTES == LEAF
    assert len(digest.leaves(CONTENT[: 3 * LEAF])) == 96
    assert digest.kernel() in digest.kernels()
