"""Hostile archives: each is refused with the entry and the rule named, and leaves the destination as it was."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workspace.forged_zip import Member, archive, central_header, deflated, local_header
from zcell.errors import BundleError
from zcell.workspace.zipstream import ExtractLimits, unzip_stream

GOOD = Member(b"good.txt", b"good")
MIB = 1024 * 1024


def refuse(tmp_path: Path, data: bytes, match: str, limits: ExtractLimits | None = None) -> str:
    """Asserts that an archive is refused, whole and in small chunks, and that nothing is left of it."""
    existing = tmp_path / "existing"
    existing.mkdir(mode=0o751)
    texts = []
    for to in (tmp_path / "new", existing):
        size = max(1, len(data)) if to == existing else 777
        with pytest.raises(BundleError, match=match) as refused:
            unzip_stream((data[at : at + size] for at in range(0, len(data), size)), to, limits or ExtractLimits())
        texts.append(str(refused.value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["existing"]
    assert list(existing.iterdir()) == []
    assert stat.S_IMODE(existing.stat().st_mode) == 0o751
    assert texts[0] == texts[1]
    return texts[0]


def test_the_forger_of_these_tests_makes_good_archives_too(tmp_path: Path) -> None:
    deflate = Member(b"dir/deflated", b"x" * 1000, method=8)
    directory = Member(b"empty/", attributes=0o40750 << 16 | 0x10)
    found = unzip_stream([archive([GOOD, deflate, directory])], tmp_path / "out")
    assert (found.files, found.directories, found.written_bytes) == (2, 1, 1004)
    assert (tmp_path / "out/good.txt").read_bytes() == b"good"
    assert (tmp_path / "out/dir/deflated").read_bytes() == b"x" * 1000
    assert stat.S_IMODE((tmp_path / "out/empty").stat().st_mode) == 0o750


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (b"../outside", "component"),
        (b"a/../../outside", "component"),
        (b"/etc/cron.d/job", "relative"),
        (b"C:/windows/system32", "drive"),
        (b"..\\outside", "backslash"),
        (b"a\0b", "NUL"),
        (b"", "empty"),
        (b"/", "empty"),
        (b"a//b", "empty component"),
        (b"a//", "empty component"),
        (b"./a", "component"),
        (b"NUL.txt", "reserved"),
        (b"x" * 256, "255 bytes"),
        (b"/".join([b"y" * 250] * 17), "4095 bytes"),
        (b"/".join([b"d"] * 129), "128 components"),
        (b"bad\xff", "UTF-8"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: bytes, rule: str) -> None:
    text = refuse(tmp_path, archive([GOOD, Member(name, b"data")]), rule)
    assert "refused" in text


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (stat.S_IFLNK | 0o777, "link"),
        (stat.S_IFIFO | 0o666, "pipe"),
        (stat.S_IFCHR | 0o666, "character device"),
        (stat.S_IFBLK | 0o666, "block device"),
        (stat.S_IFSOCK | 0o666, "socket"),
        (stat.S_IFDIR | 0o755, "directory in the place of a file"),
        (0o050000, "special file"),
    ],
)
def test_links_and_devices(tmp_path: Path, mode: int, kind: str) -> None:
    member = Member(b"planted", b"/etc/passwd", attributes=mode << 16)
    assert "'planted'" in refuse(tmp_path, archive([GOOD, member]), kind)


def test_a_file_that_writes_through_a_link_of_the_same_archive(tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    link = Member(b"out", str(outside).encode(), attributes=0o120777 << 16)
    refuse(tmp_path, archive([link, Member(b"out/file", b"data")]), "'out' above it is a file")
    assert not outside.exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [(b"a", b"a"), (b"a", b"A"), (b"d/x", b"D/y"), ("é".encode(), "e\u0301".encode()), (b"a", b"a/b"), (b"a/b", b"a")],
)
def test_names_that_clash(tmp_path: Path, first: bytes, second: bytes) -> None:
    data = archive([Member(first, b"1"), Member(second, b"2")])
    assert repr(second.decode()) in refuse(tmp_path, data, "refused")


def test_a_bomb_stops_at_the_expansion_ratio(tmp_path: Path) -> None:
    limits = ExtractLimits(ratio=100, ratio_free_bytes=MIB)
    bomb = Member(b"bomb", bytes(16 * MIB), method=8)
    assert "'bomb'" in refuse(tmp_path, archive([bomb]), "more than 100 times", limits)


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (ExtractLimits(total_bytes=1500), "more than 1500 bytes together"),
        (ExtractLimits(file_bytes=999), "at most 999 are allowed"),
        (ExtractLimits(entries=2), "at most 2 entries"),
        (ExtractLimits(name_bytes=3), "at most 3 bytes"),
        (ExtractLimits(path_bytes=3), "at most 3 bytes"),
        (ExtractLimits(all_names_bytes=9), "at most 9 bytes together"),
    ],
)
@pytest.mark.parametrize("method", [0, 8])
def test_each_limit_holds(tmp_path: Path, limits: ExtractLimits, rule: str, method: int) -> None:
    members = [Member(name, os.urandom(500) * 2, method=method) for name in (b"one1", b"two2", b"three")]
    refuse(tmp_path, archive(members), rule, limits)


def test_a_size_that_is_not_declared_is_limited_while_it_is_written(tmp_path: Path) -> None:
    streamed = streamed_member(b"streamed", bytes(100_000))
    refuse(tmp_path, archive([streamed]), "'streamed' is refused: it holds more than the 5000", ExtractLimits(file_bytes=5000))


def streamed_member(name: bytes, data: bytes, *, signature: bool = True) -> Member:
    """A deflated entry whose sizes and CRC come behind it."""
    packed = deflated(data)
    descriptor = struct.pack("<III", zlib.crc32(data), len(packed), len(data))
    unknown: dict[str, int | bytes] = {"crc": 0, "compressed": 0, "size": 0}
    return Member(name, data, method=8, flags=0x808, local=unknown, descriptor=(b"PK\7\10" if signature else b"") + descriptor)


@pytest.mark.parametrize("signature", [True, False])
def test_both_forms_of_a_descriptor_are_read(tmp_path: Path, signature: bool) -> None:
    members = [streamed_member(b"one", b"x" * 5000, signature=signature), streamed_member(b"two", b"", signature=signature)]
    unzip_stream([archive(members)], tmp_path / "out")
    assert (tmp_path / "out/one").read_bytes() == b"x" * 5000
    assert (tmp_path / "out/two").read_bytes() == b""


def lying_members() -> Iterator[tuple[str, Member, str]]:
    data = b"the contents " * 100
    packed = deflated(data)
    size, small = len(data), len(packed)
    descriptor = struct.pack("<4sIII", b"PK\7\10", zlib.crc32(data), small, size)
    yield "stored CRC", Member(b"m", data, local={"crc": 1}, central={"crc": 1}), "CRC"
    yield "deflated CRC", Member(b"m", data, method=8, local={"crc": 1}, central={"crc": 1}), "CRC"
    yield "larger size", Member(b"m", data, method=8, local={"size": size + 1}, central={"size": size + 1}), "declares"
    yield "smaller size", Member(b"m", data, method=8, local={"size": size - 1}, central={"size": size - 1}), "more than"
    yield "stored sizes differ", Member(b"m", data, local={"size": size + 1}), "two different sizes"
    yield "compressed too long", Member(b"m", data, method=8, packed=packed + b"?"), "ends before its declared size"
    yield "compressed too short", Member(b"m", data, method=8, local={"compressed": small - 3}), "goes on beyond"
    yield "damaged", Member(b"m", data, method=8, packed=b"\xff" * small), "damaged"
    yield "descriptor CRC", Member(b"m", data, method=8, flags=0x808, descriptor=b"PK\7\10" + bytes(12)), "descriptor"
    yield "local size in spite of it", Member(b"m", data, method=8, flags=0x808, descriptor=descriptor, local={"size": 7}), "7"
    yield "local CRC in spite of it", Member(b"m", data, method=8, flags=0x808, descriptor=descriptor, local={"crc": 7}), "CRC"
    unknown: dict[str, int | bytes] = {"crc": 0, "compressed": 0, "size": 0}
    yield "stored, size behind it", Member(b"m", data, flags=0x808, descriptor=descriptor, local=unknown), "size behind it"
    yield "encrypted", Member(b"m", data, flags=0x801), "encrypted"
    yield "strongly encrypted", Member(b"m", data, flags=0x840), "not supported"
    yield "masked headers", Member(b"m", data, flags=0x2800), "not supported"
    yield "method", Member(b"m", data, method=14, packed=data), "method 14 is not supported"
    yield "directory with contents", Member(b"m/", data, attributes=0o40755 << 16), "more than the 0 bytes"
    yield "directory as a file", Member(b"m/", attributes=0o100755 << 16), "file in the place of a directory"
    yield "central CRC", Member(b"m", data, central={"crc": 1}), "another CRC"
    yield "central size", Member(b"m", data, central={"size": 1}), "another size"
    yield "central compressed size", Member(b"m", data, central={"compressed": 1}), "another compressed size"
    yield "central method", Member(b"m", data, central={"method": 8}), "another method"
    yield "central name", Member(b"m", data, central={"name": b"n"}), "lists 'n' where the entry is 'm'"
    yield "central offset", Member(b"m", data, central={"offset": 5}), "another offset"
    yield "central encrypted", Member(b"m", data, central={"flags": 1}), "unsupported flags"
    yield "central disk", Member(b"m", data, central={"disk": 1}), "several disks"
    yield "second name", Member(b"m", data, extra=struct.pack("<HHBI", 0x7075, 6, 1, 0) + b"n"), "second, different name"


@pytest.mark.parametrize(("member", "rule"), [pytest.param(*rest, id=what) for what, *rest in lying_members()])
def test_an_entry_that_lies_about_itself(tmp_path: Path, member: Member, rule: str) -> None:
    refuse(tmp_path, archive([GOOD, member]), rule)


def broken_archives() -> Iterator[tuple[str, bytes, str]]:
    other = Member(b"other", b"other")
    good = archive([GOOD, other])
    yield "nothing", b"", "ends at byte 0"
    yield "no archive", b"#!/bin/sh\necho hello\n", "byte 0 begins no record"
    yield "something before it", b"MZ" + good, "byte 0 begins no record"
    yield "something after it", good + b"\0", f"follows its end at byte {len(good)}"
    yield "two archives", good + good, "follows its end"
    yield "comment longer than it is", archive([GOOD], comment=5, tail=b"four"), "middle of a record"
    yield "comment shorter than it is", archive([GOOD], comment=3, tail=b"four"), "follows its end"
    yield "entry not listed", archive([GOOD, other], listed=[GOOD]), "should list 'other'"
    yield "entry listed twice", archive([GOOD], listed=[GOOD, GOOD]), "more entries than it holds"
    yield "only listed", archive([], listed=[GOOD]), "more entries than it holds"
    yield "listed in another order", archive([GOOD, other], listed=[other, GOOD]), "lists 'other' where the entry is 'good.txt'"
    yield "too many entries", archive([GOOD], entries=2, here=2), "says 2 entries, it has 1"
    yield "saturated without ZIP64", archive([GOOD], entries=0xFFFF, here=0xFFFF), "says 65535 entries"
    yield "directory size", archive([GOOD], size=1), "says 1 directory bytes"
    yield "directory offset", archive([GOOD], offset=1), "says 1 directory offset"
    yield "several disks", archive([GOOD], disk=1), "several disks"
    overlapping = local_header(GOOD) + b"good"
    directory = central_header(GOOD, 0) + central_header(Member(b"again", b"good"), 0)
    end = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 2, 2, len(directory), len(overlapping), 0)
    yield "overlapping entries", overlapping + directory + end, "more entries than it holds"
    nested = archive([GOOD])
    inner = Member(b"quote", nested, local={"size": 0, "compressed": 0, "crc": 0})
    yield "entry inside another", archive([inner]), "'quote'|should list|begins no record"
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 9, 9, 9, 9)
    plain_end = archive([])
    yield "ZIP64 end that lies", end64 + locator + plain_end, "ZIP64 end record says"
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 0, 0, 0, 0)
    yield "ZIP64 locator that lies", end64 + struct.pack("<4sIQI", b"PK\6\7", 0, 7, 1) + plain_end, "points elsewhere"
    yield "ZIP64 end without locator", end64 + plain_end, "signature|length|middle"


@pytest.mark.parametrize(("data", "rule"), [pytest.param(*rest, id=what) for what, *rest in broken_archives()])
def test_an_archive_that_disagrees_with_itself(tmp_path: Path, data: bytes, rule: str) -> None:
    refuse(tmp_path, data, rule)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    members = [GOOD, streamed_member(b"dir/streamed", b"text " * 50), Member(b"dir/", attributes=0o40700 << 16)]
    data = archive(members)
    for length in range(len(data)):
        with pytest.raises(BundleError, match=r"refused: .*(ends at byte|record|should)"):
            unzip_stream([data[:length]], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert unzip_stream([data], tmp_path / "out").files == 2


def test_every_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    """A flipped bit may change a time or a permission, which have no check of their own; never a name or contents."""
    data = bytearray(archive([Member(b"name", b"contents", method=8), Member(b"more", b"stored")]))
    expected = {"name": b"contents", "more": b"stored"}
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        to = tmp_path / str(bit)
        try:
            unzip_stream([bytes(data)], to)
        except BundleError:
            assert not to.exists()
        else:
            assert {path.name: path.read_bytes() for path in to.iterdir()} == expected
        data[bit // 8] ^= 1 << bit % 8


def test_a_planted_directory_beside_the_staging_area_does_not_matter(tmp_path: Path) -> None:
    """The destination becomes a link while the archive arrives: the rename does not follow it."""
    outside = tmp_path / "outside"
    outside.mkdir()

    def chunks() -> Iterator[bytes]:
        data = archive([GOOD])
        yield data[:20]
        (tmp_path / "out").symlink_to(outside)
        yield data[20:]

    with pytest.raises(NotADirectoryError):
        unzip_stream(chunks(), tmp_path / "out")
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "outside"]


@pytest.mark.parametrize("kind", ["file", "full directory", "link", "dangling link"])
def test_a_destination_that_is_something_else_is_left_alone(tmp_path: Path, kind: str) -> None:
    to = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        to.write_bytes(b"mine")
    elif kind == "full directory":
        to.mkdir()
        (to / "mine").touch()
    else:
        to.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    with pytest.raises(FileExistsError, match="destination must not"):
        unzip_stream([archive([GOOD])], to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("failure", [ConnectionResetError("gone"), KeyboardInterrupt()])
def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    def chunks() -> Iterator[bytes]:
        yield archive([GOOD, Member(b"dir/more", b"x" * 5000)])[:1000]
        raise failure

    with pytest.raises(type(failure)):
        unzip_stream(chunks(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_on_entry_can_refuse_before_anything_is_written(tmp_path: Path) -> None:
    seen: list[tuple[str, bool, int | None]] = []

    def on_entry(name: str, is_dir: bool, size: int | None) -> None:
        seen.append((name, is_dir, size))
        if name == "three":
            raise BundleError("not in the manifest: 'three'")

    members = [GOOD, Member(b"d/", attributes=0o40755 << 16), streamed_member(b"two", b"2"), Member(b"three", b"3")]
    with pytest.raises(BundleError, match="not in the manifest"):
        unzip_stream([archive(members)], tmp_path / "out", on_entry=on_entry)
    assert seen == [("good.txt", False, 4), ("d", True, 0), ("two", False, None), ("three", False, 1)]
    assert list(tmp_path.iterdir()) == []
