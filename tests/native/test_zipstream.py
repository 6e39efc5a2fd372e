"""ZIP records: what is written is what APPNOTE says and parses back; any bytes in, a record or a named refusal out."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zcell._native import zipstream as records
from zcell.errors import BundleError

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
SMALL = st.integers(0, 0xFFFFFFFE)
MTIMES = st.none() | st.integers(-(1 << 31), (1 << 31) - 1)
GIB = 1 << 30


def test_local_header_has_the_layout_of_the_appnote() -> None:
    header = records.local_header(
        b"name", flags=0x808, method=8, dos_time=0x12345678, mtime=-2, crc=0xAABBCCDD, compressed_bytes=7, size_bytes=9
    )
    fixed = struct.unpack("<4s5HIIIHH", header[:30])
    assert fixed == (b"PK\3\4", 20, 0x808, 8, 0x5678, 0x1234, 0xAABBCCDD, 7, 9, 4, 9)
    assert header[30:] == b"name" + struct.pack("<HHBi", 0x5455, 5, 1, -2)


def test_zip64_local_header_holds_both_sizes_in_its_extra_field() -> None:
    header = records.local_header(
        b"n", flags=0, method=0, dos_time=0, mtime=None, compressed_bytes=5 * GIB, size_bytes=6 * GIB, zip64=True
    )
    assert struct.unpack("<HH", header[4:6] + header[28:30]) == (45, 20)
    assert header[18:26] == b"\xff" * 8
    assert header[31:] == struct.pack("<HHQQ", 1, 16, 6 * GIB, 5 * GIB)


@pytest.mark.parametrize("zip64", [False, True])
def test_descriptor_width_follows_zip64(zip64: bool) -> None:
    found = records.data_descriptor(crc=1, compressed_bytes=2, size_bytes=3, zip64=zip64)
    assert found == struct.pack("<4sIQQ" if zip64 else "<4sIII", b"PK\7\10", 1, 2, 3)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), U16, U16, U32, MTIMES, U32, U64, U64)
def test_local_headers_round_trip(
    name: bytes, flags: int, method: int, dos: int, mtime: int | None, crc: int, compressed: int, size: int
) -> None:
    zip64 = max(compressed, size) >= 0xFFFFFFFF
    common = {"flags": flags, "method": method, "dos_time": dos, "crc": crc, "compressed_bytes": compressed, "size_bytes": size}
    header = records.local_header(name, mtime=mtime, zip64=zip64, **common)
    assert records.local_tail(header[:30]) == len(header) - 30
    found = records.parse_local(header)
    assert found == records.EntryRecord(
        name, flags, method, crc, compressed, size, dos, mtime, zip64, offset=0, attributes=0, host=0
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), MTIMES, U64 | SMALL, U64 | SMALL, U64 | SMALL, U32, st.booleans())
def test_central_headers_round_trip_with_zip64_values_only_where_needed(
    name: bytes, mtime: int | None, compressed: int, size: int, offset: int, attributes: int, zip64: bool
) -> None:
    sizes = {"compressed_bytes": compressed, "size_bytes": size, "offset": offset}
    header = records.central_header(
        name, flags=8, method=8, dos_time=5, mtime=mtime, crc=6, attributes=attributes, zip64=zip64, **sizes
    )
    assert records.central_tail(header[:46]) == len(header) - 46
    wide = any(value >= 0xFFFFFFFF for value in sizes.values())
    found = records.parse_central(header)
    assert found == records.EntryRecord(name, 8, 8, 6, compressed, size, 5, mtime, wide, offset, attributes, host=3)


@pytest.mark.parametrize(
    ("entries", "size", "offset", "zip64"),
    [
        (0, 0, 0, False),
        (65534, 0xFFFFFFFE, 0xFFFFFFFE, False),
        (65535, 10, 10, True),
        (1, 0xFFFFFFFF, 0, True),
        (1, 50, 5 * GIB, True),
        (1 << 33, 1 << 40, 1 << 41, True),
    ],
)
def test_end_of_archive_uses_zip64_from_the_first_value_that_does_not_fit(
    entries: int, size: int, offset: int, zip64: bool
) -> None:
    end = records.end_of_archive(entries=entries, directory_bytes=size, directory_offset=offset)
    assert len(end) == (22 + 76 if zip64 else 22)
    if zip64:
        assert records.parse_end64(end[:56]) == (entries, size, offset, 0)
        assert records.parse_locator(end[56:76]) == offset + size
    plain = records.parse_end(end[-22:])
    assert plain == (min(entries, 0xFFFF), min(size, 0xFFFFFFFF), min(offset, 0xFFFFFFFF), 0)


def test_zipfile_reads_an_archive_made_of_these_records() -> None:
    common = {"flags": 0, "method": 0, "dos_time": 0x21 << 16, "crc": 0x3610A686, "compressed_bytes": 5, "size_bytes": 5}
    local = records.local_header(b"hello.txt", mtime=0, zip64=False, **common)
    central = records.central_header(b"hello.txt", mtime=0, offset=0, attributes=0o100640 << 16, zip64=False, **common)
    end = records.end_of_archive(entries=1, directory_bytes=len(central), directory_offset=len(local) + 5)
    with zipfile.ZipFile(io.BytesIO(local + b"hello" + central + end)) as archive:
        assert archive.testzip() is None
        assert archive.read("hello.txt") == b"hello"


def test_writers_refuse_what_a_record_cannot_hold() -> None:
    fields = {"flags": 0, "method": 0, "dos_time": 0, "mtime": None}
    with pytest.raises(ValueError, match="65535 bytes, got 65536"):
        records.local_header(b"x" * 65536, **fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ZIP64 header"):
        records.local_header(b"x", size_bytes=0xFFFFFFFF, **fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ZIP64 descriptor"):
        records.data_descriptor(crc=0, compressed_bytes=1 << 32, size_bytes=0, zip64=False)
    with pytest.raises(OverflowError):
        records.local_header(b"x", crc=1 << 32, **fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="30 bytes, got 29"):
        records.local_tail(b"x" * 29)
    with pytest.raises(ValueError, match="46 bytes, got 0"):
        records.central_tail(b"")


def local_with_extra(extra: bytes, *, sizes: int = 0) -> bytes:
    return struct.pack("<4s5HIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, sizes, sizes, 1, len(extra)) + b"n" + extra


@pytest.mark.parametrize(
    ("extra", "sizes", "named"),
    [
        (b"\1", 0, "malformed extra"),
        (b"\1\0\x10", 0, "malformed extra"),
        (struct.pack("<HH", 0x9999, 1), 0, "malformed extra"),
        (struct.pack("<HH", 0x9999, 0xFFFF) + b"x" * 100, 0, "malformed extra"),
        (struct.pack("<HH", 0x5455, 0), 0, "malformed extra"),
        (struct.pack("<HHB", 0x5455, 1, 1), 0, "malformed extra"),
        (struct.pack("<HHBi", 0x5455, 5, 1, 9) * 2, 0, "same extra field twice"),
        (struct.pack("<HHQQ", 1, 16, 1, 1) * 2, 0xFFFFFFFF, "same extra field twice"),
        (struct.pack("<HHQ", 1, 8, 1), 0xFFFFFFFF, "ZIP64"),
        (struct.pack("<HH", 1, 0), 0xFFFFFFFF, "ZIP64"),
        (b"", 0xFFFFFFFF, "ZIP64"),
        (struct.pack("<HHBI", 0x7075, 6, 1, 0) + b"m", 0, "second, different name"),
        (struct.pack("<HH", 0x7075, 0), 0, "second, different name"),
    ],
)
def test_extra_fields_that_lie_are_refused(extra: bytes, sizes: int, named: str) -> None:
    with pytest.raises(BundleError, match=named):
        records.parse_local(local_with_extra(extra, sizes=sizes))


@pytest.mark.parametrize(
    "extra",
    [
        struct.pack("<HH3s", 0x9999, 3, b"any"),
        struct.pack("<HHB", 0x5455, 1, 2),
        struct.pack("<HHBI", 0x7075, 6, 1, 0) + b"n",
        struct.pack("<HHQQ", 1, 16, 0, 0),
    ],
)
def test_extra_fields_that_are_unknown_or_agree_are_accepted(extra: bytes) -> None:
    assert records.parse_local(local_with_extra(extra)).name == b"n"


def test_records_of_split_archives_and_unknown_forms_are_refused() -> None:
    end = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 1, 1, 5, 5, 0)
    assert records.parse_end(end).entries == 1
    for bad, named in (
        (end[:4] + b"\1" + end[5:], "several disks"),
        (end[:8] + b"\2" + end[9:], "number of entries"),
        (b"PK\5\5" + end[4:], "signature"),
        (end[:21], "length"),
    ):
        with pytest.raises(BundleError, match=named):
            records.parse_end(bad)
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 5, 5)
    assert records.parse_end64(end64).directory_bytes == 5
    for bad, named in (
        (end64[:4] + b"\x2d" + end64[5:], "extensible"),
        (end64[:16] + b"\1" + end64[17:], "several disks"),
        (end64[:24] + b"\2" + end64[25:], "number of entries"),
    ):
        with pytest.raises(BundleError, match=named):
            records.parse_end64(bad)
    with pytest.raises(BundleError, match="several disks"):
        records.parse_locator(struct.pack("<4sIQI", b"PK\6\7", 0, 5, 2))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"", b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"]))
@example(b"", b"")
def test_any_bytes_are_a_record_or_a_refusal(data: bytes, signature: bytes) -> None:
    parsers: list[Callable[[bytes], object]] = [
        records.parse_local,
        records.parse_central,
        records.parse_end,
        records.parse_end64,
        records.parse_locator,
    ]
    for parser in parsers:
        try:
            parser(signature + data)
        except BundleError:
            continue


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=100))
def test_any_extra_field_is_walked_within_its_bounds(name: bytes, extra: bytes) -> None:
    fixed = struct.pack("<4s5HIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
    try:
        found = records.parse_local(memoryview(fixed + name + extra))
    except BundleError:
        return
    assert found.zip64
    assert found.name == name
