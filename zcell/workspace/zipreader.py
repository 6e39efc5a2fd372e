"""A ZIP archive read in one pass from a stream nobody vouches for. Invariant: whatever the bytes are, memory stays bounded, nothing
is written beyond the limits, and only an archive that agrees with itself to its last byte comes through without an error.

Local headers say how to read an entry; its data is checked against size and CRC; the central directory at the end must then
list the same entries, in the same order, at the offsets where they were, with the same names, methods, sizes and CRCs, and
nothing may follow the end record. So there is no room for entries that overlap, that only one kind of reader sees, or that
are links or devices: what an entry is stands in the central directory, and until that has been checked nothing counts.
"""

from __future__ import annotations

import stat
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Never, TypeVar

from zcell._native import zipstream as records
from zcell._native.zipstream import EndRecord, EntryRecord
from zcell.errors import BundleError
from zcell.limits import KIB
from zcell.workspace.deflate import INFLATE_ERRORS, crc32, inflater
from zcell.workspace.limits import ExtractLimits
from zcell.workspace.names import NameSet, validate_entry_name
from zcell.workspace.treewriter import TreeWriter, write_all
from zcell.workspace.zipinput import ZipInput, refuse_archive, refuse_entry

BLOCK_BYTES = 256 * KIB
FEED_BYTES = 16 * KIB  # where the end of deflated data is unknown: what follows it in a block is copied back
FULL16 = 0xFFFF
FULL32 = 0xFFFFFFFF
# deflate options (4.4.4, bits 1 and 2), descriptor, UTF-8; everything else changes how an entry must be read
KNOWN_FLAGS = 0x0006 | records.DESCRIPTOR_FLAG | records.UTF8_FLAG
_SEEN = struct.Struct("<QIQQH")

T = TypeVar("T")
OnEntry = Callable[[str, bool, int | None], None]


@dataclass(frozen=True, slots=True)
class Extracted:
    """What an archive held: numbers of files and directories, bytes written, bytes of the archive."""

    files: int
    directories: int
    written_bytes: int
    archive_bytes: int


def unzip_into(
    chunks: Iterable[bytes | memoryview], tree: TreeWriter, limits: ExtractLimits, *, on_entry: OnEntry | None = None
) -> Extracted:
    """Extracts an archive, in chunks of any sizes, into `tree`, which its owner finishes, or aborts when this raises.

    `on_entry(name, is_dir, size or None when unknown)` is called before anything of an entry is written; what it raises ends the
    extraction. Raises `BundleError` naming the entry and the rule, or the place in the archive; `OSError` when writing fails.
    """
    return _Reader(chunks, tree, limits, on_entry).run()


class _File:
    """The contents of one entry on their way to disk, counted and checked."""

    def __init__(self, name: str, fd: int | None, most: int, count: Callable[[str, int], None]) -> None:
        self.size_bytes = 0
        self.crc = 0
        self._name = name
        self._fd = fd
        self._most = most
        self._count = count

    def write(self, data: bytes | memoryview) -> None:
        if not data:
            return
        self.size_bytes += len(data)
        if self.size_bytes > self._most:
            refuse_entry(self._name, f"it holds more than the {self._most} bytes that it declares or is allowed")
        self._count(self._name, len(data))
        self.crc = crc32(data, self.crc)
        if self._fd is not None:
            write_all(self._fd, data)


class _Reader:
    def __init__(
        self, chunks: Iterable[bytes | memoryview], tree: TreeWriter, limits: ExtractLimits, on_entry: OnEntry | None
    ) -> None:
        self._input = ZipInput(chunks)
        self._tree = tree
        self._limits = limits
        self._on_entry = on_entry
        self._set = NameSet(limits)
        self._names: list[str] = []  # with a trailing slash for directories
        self._seen = bytearray()  # one _SEEN an entry: what the central directory must repeat
        self._directories = 0
        self._written_bytes = 0

    def run(self) -> Extracted:
        while self._input.peek(4) == records.LOCAL_SIGNATURE:
            self._read_entry()
        start = self._input.offset
        self._read_directory()
        self._read_end(start, self._input.offset - start)
        files = len(self._names) - self._directories
        return Extracted(files, self._directories, self._written_bytes, self._input.offset)

    # --- entries -----------------------------------------------------------------------------------------------------------

    def _read_entry(self) -> None:
        offset = self._input.offset
        fixed = self._input.take(records.LOCAL_BYTES)
        record = _parse(records.parse_local, fixed + self._input.take(records.local_tail(fixed)), offset)
        full_name = _decode_name(record)
        name = full_name.removesuffix("/")
        is_dir = name != full_name
        parts = validate_entry_name(name, limits=self._limits)
        self._check_readable(name, record)
        self._set.add(name, is_dir=is_dir)
        size = _declared_size(record)
        if self._on_entry is not None:
            self._on_entry(name, is_dir, size)
        if is_dir:
            self._directories += 1
            file = _File(name, None, 0, self._count)
            compressed = self._read_data(name, record, file)
            self._tree.make_dir(parts, mtime_ns=_mtime_ns(record))
        else:
            file, compressed = self._read_file(name, parts, record, size)
        self._check_sizes(name, record, file, compressed)
        self._names.append(full_name)
        self._seen += _SEEN.pack(offset, file.crc, compressed, file.size_bytes, record.method)

    def _check_readable(self, name: str, record: EntryRecord) -> None:
        if record.flags & records.ENCRYPTED_FLAG:
            refuse_entry(name, "it is encrypted")
        if record.flags & ~KNOWN_FLAGS:
            refuse_entry(name, f"it needs features that are not supported (flags {record.flags & ~KNOWN_FLAGS:#06x})")
        if record.method not in (records.STORED, records.DEFLATED):
            refuse_entry(name, f"its compression method {record.method} is not supported, only stored (0) and deflated (8)")
        if record.size_bytes > self._limits.file_bytes:
            refuse_entry(name, f"it declares {record.size_bytes} bytes, at most {self._limits.file_bytes} are allowed")

    def _count(self, name: str, size: int) -> None:
        self._written_bytes += size
        limits = self._limits
        if self._written_bytes > limits.total_bytes:
            refuse_entry(name, f"with it the files have more than {limits.total_bytes} bytes together")
        if self._written_bytes > limits.ratio_free_bytes and self._written_bytes > limits.ratio * self._input.offset:
            refuse_entry(name, f"with it the archive expands to more than {limits.ratio} times its size")

    def _read_file(self, name: str, parts: tuple[str, ...], record: EntryRecord, size: int | None) -> tuple[_File, int]:
        fd: int | None = self._tree.create_file(parts)
        try:
            file = _File(name, fd, self._limits.file_bytes if size is None else size, self._count)
            compressed = self._read_data(name, record, file)
            done, fd = fd, None
            assert done is not None
            self._tree.finish_file(done, mtime_ns=_mtime_ns(record))
        finally:
            if fd is not None:
                self._tree.finish_file(fd)
        return file, compressed

    def _read_data(self, name: str, record: EntryRecord, file: _File) -> int:
        """Reads the data of an entry; returns its bytes in the archive."""
        if record.method == records.DEFLATED:
            return self._inflate(name, record, file)
        if record.compressed_bytes != record.size_bytes:
            refuse_entry(name, "it is stored, but declares two different sizes")
        left = record.size_bytes
        while left:
            block = self._input.take_some(min(left, BLOCK_BYTES))
            left -= len(block)
            file.write(block)
        return record.size_bytes

    def _inflate(self, name: str, record: EntryRecord, file: _File) -> int:
        known = not record.flags & records.DESCRIPTOR_FLAG or record.compressed_bytes > 0
        left = record.compressed_bytes
        taken = 0
        block: bytes | memoryview
        stream = inflater()
        while not stream.eof:
            block = stream.unconsumed_tail
            if not block and (left or not known):
                block = self._input.take_some(min(left, BLOCK_BYTES) if known else FEED_BYTES)
                taken += len(block)
                left -= len(block)
            try:
                data = stream.decompress(block, BLOCK_BYTES)
            except INFLATE_ERRORS:
                refuse_entry(name, "its compressed data is damaged")
            if not block and not data and not stream.eof:
                refuse_entry(name, "its compressed data goes on beyond its declared size")
            file.write(data)
        unused = len(stream.unused_data)
        self._input.give_back(unused)
        if known and taken - unused != record.compressed_bytes:
            refuse_entry(name, "its compressed data ends before its declared size")
        return taken - unused

    def _check_sizes(self, name: str, record: EntryRecord, file: _File, compressed: int) -> None:
        streamed = bool(record.flags & records.DESCRIPTOR_FLAG)
        if file.crc != record.crc and not (streamed and record.crc == 0):
            refuse_entry(name, "its contents do not have the CRC that it declares")
        if file.size_bytes != record.size_bytes and not (streamed and record.size_bytes == 0):
            refuse_entry(name, f"it declares {record.size_bytes} bytes and holds {file.size_bytes}")
        if streamed:
            self._read_descriptor(name, record, file, compressed)

    def _read_descriptor(self, name: str, record: EntryRecord, file: _File, compressed: int) -> None:
        """What a descriptor must say is known by now, so its two forms (4.3.9.3: with and without signature) cannot be mixed up."""
        if max(compressed, file.size_bytes) > FULL32 and not record.zip64:
            refuse_entry(name, "it is above 4 GiB without ZIP64 sizes")
        expected = records.data_descriptor(
            crc=file.crc, compressed_bytes=compressed, size_bytes=file.size_bytes, zip64=record.zip64
        )
        found = self._input.peek(len(expected))
        if found == expected:
            self._input.take(len(expected))
        elif found[: len(expected) - 4] == expected[4:]:
            self._input.take(len(expected) - 4)
        elif len(found) < len(expected):
            refuse_archive(f"it ends at byte {self._input.offset + len(found)}, in the middle of a record")
        elif record.method == records.STORED and record.size_bytes == 0:
            refuse_entry(name, "it is stored with its size behind it, which nobody can find in a stream")
        else:
            refuse_entry(name, "its data descriptor does not fit its contents (CRC or sizes)")

    # --- the end -----------------------------------------------------------------------------------------------------------

    def _read_directory(self) -> None:
        for number, name in enumerate(self._names):
            if self._input.peek(4) != records.CENTRAL_SIGNATURE:
                self._refuse_what_follows(f"where the central directory should list {name!r}")
            offset = self._input.offset
            fixed = self._input.take(records.CENTRAL_BYTES)
            record = _parse(records.parse_central, fixed + self._input.take(records.central_tail(fixed)), offset)
            self._check_listed(number, name, record)
            if record.attributes >> 16:
                self._tree.set_mode(tuple(name.removesuffix("/").split("/")), record.attributes >> 16)
        if self._input.peek(4) == records.CENTRAL_SIGNATURE:
            refuse_archive("its central directory lists more entries than it holds")

    def _check_listed(self, number: int, name: str, record: EntryRecord) -> None:
        offset, crc, compressed, size, method = _SEEN.unpack_from(self._seen, number * _SEEN.size)
        if _decode_name(record) != name:
            refuse_archive(f"its central directory lists {_decode_name(record)!r} where the entry is {name!r}")
        for what, listed, found in (
            ("offset", record.offset, offset),
            ("CRC", record.crc, crc),
            ("compressed size", record.compressed_bytes, compressed),
            ("size", record.size_bytes, size),
            ("method", record.method, method),
        ):
            if listed != found:
                refuse_entry(name, f"the central directory gives it another {what} ({listed}) than it has ({found})")
        if record.flags & ~KNOWN_FLAGS:
            refuse_entry(name, f"the central directory gives it unsupported flags ({record.flags:#06x})")
        kind = stat.S_IFMT(record.attributes >> 16)
        expected = stat.S_IFDIR if name.endswith("/") else stat.S_IFREG
        if kind not in (0, expected):
            refuse_entry(name, f"it is a {_KINDS.get(kind, 'special file')}, only files and directories are allowed")

    def _read_end(self, directory_offset: int, directory_bytes: int) -> None:
        found = EndRecord(len(self._names), directory_bytes, directory_offset, 0)
        at = self._input.offset
        if self._input.peek(4) == records.END64_SIGNATURE:
            end64 = _parse(records.parse_end64, self._input.take(records.END64_BYTES), at)
            if end64 != found:
                refuse_archive(f"its ZIP64 end record says {end64[:3]} (entries, bytes, offset), it has {found[:3]}")
            if _parse(records.parse_locator, self._input.take(records.LOCATOR_BYTES), at) != at:
                refuse_archive("its ZIP64 locator points elsewhere")
        elif max(found.entries - FULL32 + FULL16, found.directory_bytes, found.directory_offset) >= FULL32:
            refuse_archive("it has no ZIP64 end record, and needs one")
        if self._input.peek(4) != records.END_SIGNATURE:
            self._refuse_what_follows("where its end record should be")
        end = _parse(records.parse_end, self._input.take(records.END_BYTES), at)
        zip64 = self._input.offset - at > records.END_BYTES
        for what, said, has, full in (
            ("entries", end.entries, found.entries, FULL16),
            ("directory bytes", end.directory_bytes, found.directory_bytes, FULL32),
            ("directory offset", end.directory_offset, found.directory_offset, FULL32),
        ):
            if said != has and not (zip64 and said == full):
                refuse_archive(f"its end record says {said} {what}, it has {has}")
        self._input.take(end.comment_bytes)
        if not self._input.is_at_end():
            refuse_archive(f"something follows its end at byte {self._input.offset}")

    def _refuse_what_follows(self, where: str) -> Never:
        found = self._input.peek(4)
        if len(found) < 4:
            refuse_archive(f"it ends at byte {self._input.offset + len(found)}, {where}")
        refuse_archive(f"byte {self._input.offset} begins no record that is known, {where}")


_KINDS = {
    stat.S_IFLNK: "link",
    stat.S_IFREG: "file in the place of a directory",
    stat.S_IFDIR: "directory in the place of a file",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


def _parse(parser: Callable[[bytes], T], record: bytes, offset: int) -> T:
    try:
        return parser(record)
    except BundleError as error:
        raise BundleError(f"the archive is refused: at byte {offset}: {error}") from None


def _decode_name(record: EntryRecord) -> str:
    """UTF-8 where the flag says so. Without it names are in code page 437 (appendix D), but `zip` on Unix leaves the flag out and
    writes what the file system has: what is valid UTF-8 is taken for that."""
    try:
        return record.name.decode()
    except UnicodeDecodeError:
        if record.flags & records.UTF8_FLAG:
            refuse_archive(f"the name {record.name[:200]!r} is not valid UTF-8")
        return record.name.decode("cp437")


def _declared_size(record: EntryRecord) -> int | None:
    """The size of the file, None when only a descriptor tells it."""
    if record.flags & records.DESCRIPTOR_FLAG and record.method == records.DEFLATED and record.size_bytes == 0:
        return None
    return record.size_bytes


def _mtime_ns(record: EntryRecord) -> int | None:
    """The extended timestamp, else the MS-DOS time, which is local time; None when that is no date."""
    if record.mtime is not None:
        return record.mtime * 1_000_000_000
    date, clock = record.dos_time >> 16, record.dos_time & 0xFFFF
    fields = (1980 + (date >> 9), date >> 5 & 15, date & 31, clock >> 11, clock >> 5 & 63, (clock & 31) * 2)
    try:
        return int(time.mktime((*fields, 0, 0, -1))) * 1_000_000_000 if date & 31 and 1 <= fields[1] <= 12 else None
    except (OverflowError, ValueError):
        return None
