"""Chunk frames: the layout of the protocol, round trips, and files behind descriptors."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from zcell._native import chunk
from zcell.errors import ProtocolError

MIB = 1024 * 1024
LEAF = 64 * 1024
SIZES = [0, 1, 63, 64, 65, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF + 5, MIB - 1, MIB, MIB + 1, 16 * MIB]


def oracle_root(data: bytes) -> bytes:
    """RFC 9162 2.1.1 by hashlib, as written in the RFC."""

    def root(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hashlib.sha256(b"\0" + leaves[0]).digest()
        half = 1
        while half * 2 < len(leaves):
            half *= 2
        return hashlib.sha256(b"\1" + root(leaves[:half]) + root(leaves[half:])).digest()

    leaves = [data[at : at + LEAF] for at in range(0, len(data), LEAF)]
    return root(leaves) if leaves else hashlib.sha256().digest()


def pattern(length: int) -> bytes:
    return (b"zcell chunk payload" * (length // 19 + 1))[:length]


def test_header_has_the_documented_layout() -> None:
    payload, digest = b"hello", bytes(range(32))
    frame = chunk.encode(7, 7 * MIB, payload, digest=digest, flags=chunk.LAST)
    fields = struct.unpack("<4sBBHQQII32sQQ", frame[:80])
    flags = chunk.LAST | chunk.DIGEST | chunk.CHECKSUM
    checks = (xxh3_64_intdigest(payload), xxh3_64_intdigest(frame[:72]))
    assert fields == (b"ZCK1", 1, flags, 0, 7, 7 * MIB, 5, 0, digest, *checks)
    assert frame[80:] == payload
    assert chunk.HEADER_BYTES == 80


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checksum", [True, False])
def test_what_is_encoded_parses_back(size: int, checksum: bool) -> None:
    payload = pattern(size)
    frame = chunk.encode(3, 12345, payload, digest=oracle_root(payload), checksum=checksum)
    parsed = chunk.parse(frame, max_length=16 * MIB)
    assert (parsed.index, parsed.offset, parsed.length, bytes(parsed.payload)) == (3, 12345, size, payload)
    assert parsed.digest == oracle_root(payload)
    assert parsed.checksum == (xxh3_64_intdigest(payload) if checksum else None)
    assert not parsed.is_last
    assert not parsed.is_sealed
    assert chunk.verify(frame, tree=True, max_length=16 * MIB).digest == oracle_root(payload)


@pytest.mark.parametrize("size", SIZES)
def test_read_chunk_makes_the_frame_that_encode_makes(tmp_path: Path, size: int) -> None:
    payload = pattern(size)
    path = tmp_path / "object"
    path.write_bytes(b"before" + payload + b"after")
    with path.open("rb") as file:
        frame, digest = chunk.read_chunk(file.fileno(), 9, 6, size)
    assert digest == oracle_root(payload)
    assert frame == chunk.encode(9, 6, payload, digest=digest)


def test_read_chunk_without_digest_or_checksum_carries_neither(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as file:
        frame, digest = chunk.read_chunk(file.fileno(), 0, 0, 100, want_digest=False, checksum=False, flags=chunk.LAST)
    parsed = chunk.parse(frame, max_length=100)
    assert digest == b""
    assert (parsed.digest, parsed.checksum, parsed.is_last) == (None, None, True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tree", [True, False])
def test_store_writes_the_payload_at_its_offset(tmp_path: Path, size: int, tree: bool) -> None:
    payload = pattern(size)
    path = tmp_path / "part"
    with path.open("w+b") as file:
        file.write(b"\xff" * (size + 20))
        file.flush()
        frame = chunk.encode(2, 10, payload, digest=oracle_root(payload))
        stored = chunk.store(file.fileno(), frame, tree=tree, max_length=16 * MIB, expect_index=2)
    assert stored.digest == oracle_root(payload)
    assert path.read_bytes() == b"\xff" * 10 + payload + b"\xff" * 10


@pytest.mark.parametrize("wrap", [bytearray, memoryview, lambda frame: memoryview(frame).cast("b")])
def test_any_contiguous_buffer_is_a_frame(wrap: type[bytearray]) -> None:
    frame = chunk.encode(0, 0, b"payload")
    assert bytes(chunk.verify(wrap(frame), tree=True, max_length=7).payload) == b"payload"


def test_payload_keeps_its_frame_alive() -> None:
    payload = chunk.parse(chunk.encode(0, 0, b"payload" * 1000), max_length=7000).payload
    assert bytes(payload) == b"payload" * 1000


def test_verify_computes_the_digest_that_a_frame_does_not_carry() -> None:
    verified = chunk.verify(chunk.encode(0, 0, b"abc"), tree=True, max_length=3)
    assert verified.digest == oracle_root(b"abc")
    assert verified.flags & chunk.DIGEST
    assert chunk.verify(chunk.encode(0, 0, b"abc"), tree=False, max_length=3).digest is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"index": -1}, "index"),
        ({"index": 1 << 64}, "index"),
        ({"offset": -1}, "offset"),
        ({"offset": (1 << 63) - 1}, "offset"),
        ({"offset": 1 << 70}, "offset"),
        ({"payload": bytes(16 * MIB + 1)}, "at most 16777216 bytes"),
        ({"digest": b"short"}, "digest must be 32 bytes"),
        ({"flags": chunk.DIGEST}, "flags"),
        ({"flags": 16}, "flags"),
    ],
)
def test_encode_names_the_argument_that_a_header_cannot_hold(arguments: dict[str, int], named: str) -> None:
    good: dict[str, object] = {"index": 0, "offset": 0, "payload": b"x"}
    with pytest.raises(ValueError, match=named):
        chunk.encode(**(good | arguments))  # type: ignore[arg-type]


def test_a_file_that_ends_inside_the_chunk_is_an_eof_error(tmp_path: Path) -> None:
    path = tmp_path / "shrunk"
    path.write_bytes(b"x" * 1000)
    with path.open("rb") as file, pytest.raises(EOFError, match="ends at 1000, inside chunk 4"):
        chunk.read_chunk(file.fileno(), 4, 600, 500)


def test_descriptor_errors_are_os_errors_with_their_errno(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    frame = chunk.encode(0, 0, b"x")
    try:
        with pytest.raises(OSError, match="reading chunk 1") as unseekable:
            chunk.read_chunk(reader, 1, 0, 10)
        assert unseekable.value.errno == errno.ESPIPE
        with pytest.raises(OSError, match="writing chunk 0") as pipe:
            chunk.store(writer, frame, tree=True, max_length=1)
        assert pipe.value.errno == errno.ESPIPE
    finally:
        os.close(reader)
        os.close(writer)
    with pytest.raises(OSError, match="reading chunk 0") as closed:
        chunk.read_chunk(1 << 20, 0, 0, 10)
    assert closed.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="fd"):
        chunk.store(-1, frame, tree=True, max_length=1)


WRITE_UNDER_FSIZE = """
import os, resource, signal, sys
from zcell._native import chunk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
try:
    chunk.store(fd, chunk.encode(0, 100_000, b"y" * 100_000), tree=True, max_length=100_000)
except OSError as error:
    print(error.errno, os.fstat(fd).st_size)
"""


def test_a_write_cut_short_goes_on_and_its_error_is_reported(tmp_path: Path) -> None:
    """At a file size limit the kernel first writes a part, then refuses the rest: both must be seen."""
    command = [sys.executable, "-c", WRITE_UNDER_FSIZE, str(tmp_path / "part")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == [str(errno.EFBIG), "150000"]


def test_chunks_stored_by_many_threads_make_the_file(tmp_path: Path) -> None:
    data = os.urandom(2 * MIB + 77)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    target.touch()
    size = 2 * LEAF
    with source.open("rb") as reader, target.open("r+b") as writer:

        def move(first: int) -> None:
            for index in range(first, -(-len(data) // size), 4):
                offset = index * size
                frame, _ = chunk.read_chunk(reader.fileno(), index, offset, min(size, len(data) - offset))
                chunk.store(writer.fileno(), frame, tree=True, max_length=size, expect_index=index)

        threads = [threading.Thread(target=move, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert target.read_bytes() == data


@settings(max_examples=200, deadline=None)
@given(
    index=st.integers(0, (1 << 64) - 1),
    offset=st.integers(0, (1 << 63) - 1 - 5000),
    payload=st.binary(max_size=5000),
    digest=st.none() | st.binary(min_size=32, max_size=32),
    checksum=st.booleans(),
    flags=st.sampled_from([0, chunk.LAST, chunk.SEALED, chunk.LAST | chunk.SEALED]),
)
def test_every_field_survives_the_round_trip(
    index: int, offset: int, payload: bytes, digest: bytes | None, checksum: bool, flags: int
) -> None:
    parsed = chunk.parse(chunk.encode(index, offset, payload, digest=digest, checksum=checksum, flags=flags), max_length=5000)
    assert (parsed.index, parsed.offset, parsed.digest, bytes(parsed.payload)) == (index, offset, digest, payload)
    assert (parsed.checksum is not None) == checksum
    assert parsed.flags & (chunk.LAST | chunk.SEALED) == flags


def test_a_sealed_frame_is_neither_verified_nor_stored(tmp_path: Path) -> None:
    frame = chunk.encode(5, 0, b"sealed", flags=chunk.SEALED)
    with pytest.raises(ProtocolError, match="chunk 5 is sealed"):
        chunk.verify(frame, tree=True, max_length=6)


def test_an_unusable_kernel_demand_is_an_error_before_any_byte_is_hashed(tmp_path: Path) -> None:
    script = """
import sys
from zcell._native import chunk
from zcell.errors import KernelError
frame = chunk.encode(0, 0, b"data")
for call in (
    lambda: chunk.verify(frame, tree=True, max_length=4),
    lambda: chunk.read_chunk(0, 0, 0, 4),
):
    try:
        call()
    except KernelError as error:
        print("refused", "no-such-kernel" in str(error))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"ZCELL_SHA256_KERNEL": "no-such-kernel"},
    )
    assert result.stdout.split() == ["refused", "True"] * 2
