"""Chunk frames from the network: any bytes in, a checked chunk or a protocol error out; nothing of a bad frame is written."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from zcell._native import chunk
from zcell.errors import ProtocolError

LAYOUT = struct.Struct("<4sBBHQQII32sQ")
NONE = bytes(32)


def build(
    *,
    magic: bytes = b"ZCK1",
    version: int = 1,
    flags: int = 0,
    reserved: tuple[int, int] = (0, 0),
    index: int = 0,
    offset: int = 0,
    length: int = 4,
    digest: bytes = NONE,
    checksum: int = 0,
    payload: bytes = b"data",
) -> bytes:
    """A frame with any field forged and a header check that fits."""
    header = LAYOUT.pack(magic, version, flags, reserved[0], index, offset, length, reserved[1], digest, checksum)
    return header + struct.pack("<Q", xxh3_64_intdigest(header)) + payload


def test_the_forger_of_these_tests_makes_good_frames_too() -> None:
    assert bytes(chunk.parse(build(), max_length=4).payload) == b"data"


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (b"", "shorter than its header"),
        (build()[:79], "shorter than its header"),
        (build(magic=b"ZCK2"), "ZCK1"),
        (build(version=0), "version"),
        (build(version=2), "version"),
        (build(flags=16), "unknown flags 0x10"),
        (build(flags=0x80), "unknown flags 0x80"),
        (build(reserved=(1, 0)), "reserved"),
        (build(reserved=(0, 1 << 31)), "reserved"),
        (build(length=3), "declares 3 bytes but holds 4"),
        (build(length=0), "declares 0 bytes but holds 4"),
        (build(payload=b""), "declares 4 bytes but holds 0"),
        (build(length=6, payload=b"sixsix"), "6 bytes, at most 5"),
        (build(length=0xFFFFFFFF), "4294967295 bytes, at most 5"),
        (build(offset=(1 << 63) - 4), "beyond 2\\*\\*63"),
        (build(offset=(1 << 64) - 1), "beyond 2\\*\\*63"),
        (build(digest=b"\1" * 32), "digest bytes without"),
        (build(checksum=1), "checksum bytes without"),
    ],
)
def test_each_wrong_field_is_named(frame: bytes, named: str) -> None:
    with pytest.raises(ProtocolError, match=named):
        chunk.parse(frame, max_length=5)


def test_the_largest_offset_that_fits_is_accepted() -> None:
    assert chunk.parse(build(offset=(1 << 63) - 5), max_length=4).offset == (1 << 63) - 5


def test_max_length_never_allows_more_than_a_chunk_can_hold() -> None:
    frame = build(length=16 * 1024 * 1024 + 1, payload=bytes(16 * 1024 * 1024 + 1))
    with pytest.raises(ProtocolError, match="at most 16777216"):
        chunk.parse(frame, max_length=1 << 80)
    with pytest.raises(ValueError, match="max_length"):
        chunk.parse(frame, max_length=-1)


@pytest.mark.parametrize("tree", [True, False])
def test_every_single_flipped_bit_is_found(tmp_path: Path, tree: bool) -> None:
    payload = b"the payload of a chunk, small enough to flip every bit"
    digest = chunk.verify(chunk.encode(0, 0, payload), tree=True, max_length=100).digest
    frame = bytearray(chunk.encode(1, 64, payload, digest=digest))
    path = tmp_path / "part"
    with path.open("w+b") as file:
        for bit in range(len(frame) * 8):
            frame[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ProtocolError):
                chunk.store(file.fileno(), frame, tree=tree, max_length=100)
            frame[bit // 8] ^= 1 << bit % 8
        assert path.stat().st_size == 0, "a corrupt chunk was written"
        chunk.store(file.fileno(), frame, tree=tree, max_length=100)
    assert path.read_bytes()[64:] == payload


def test_a_forged_digest_and_a_forged_checksum_are_corrupt_chunks() -> None:
    by_digest = build(flags=chunk.DIGEST, digest=b"\1" * 32)
    with pytest.raises(chunk.ChunkCorrupt, match="digest differs"):
        chunk.verify(by_digest, tree=True, max_length=4)
    by_checksum = build(flags=chunk.CHECKSUM, checksum=1)
    for tree in (True, False):
        with pytest.raises(chunk.ChunkCorrupt, match="checksum differs"):
            chunk.verify(by_checksum, tree=tree, max_length=4)


def test_a_chunk_under_another_index_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with path.open("w+b") as file, pytest.raises(ProtocolError, match="chunk 3 came where chunk 4 was expected"):
        chunk.store(file.fileno(), chunk.encode(3, 0, b"data"), tree=True, max_length=4, expect_index=4)
    assert path.read_bytes() == b""


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
@example(b"ZCK1")
def test_any_bytes_in_only_a_protocol_error_out(data: bytes) -> None:
    for call in (chunk.parse, chunk.verify):
        arguments = {"tree": True} if call is chunk.verify else {}
        with pytest.raises(ProtocolError):
            call(data, max_length=1000, **arguments)


@settings(max_examples=500, deadline=None)
@given(
    version=st.sampled_from([1, 1, 1, 0, 255]),
    flags=st.integers(0, 255) | st.integers(0, 15),
    index=st.integers(0, (1 << 64) - 1),
    offset=st.integers(0, (1 << 64) - 1),
    length=st.integers(0, (1 << 32) - 1) | st.none(),
    digest=st.just(NONE) | st.binary(min_size=32, max_size=32),
    checksum=st.just(0) | st.integers(0, (1 << 64) - 1),
    payload=st.binary(max_size=200),
)
def test_forged_headers_give_a_chunk_in_range_or_a_protocol_error(
    version: int, flags: int, index: int, offset: int, length: int | None, digest: bytes, checksum: int, payload: bytes
) -> None:
    size = len(payload) if length is None else length
    frame = build(
        version=version,
        flags=flags,
        index=index,
        offset=offset,
        length=size,
        digest=digest,
        checksum=checksum,
        payload=payload,
    )
    try:
        parsed = chunk.parse(frame, max_length=150)
    except ProtocolError:
        return
    assert (parsed.index, parsed.offset, bytes(parsed.payload)) == (index, offset, payload)
    assert parsed.length == len(payload) <= 150
    assert offset + len(payload) < 1 << 63
    assert flags < 16
