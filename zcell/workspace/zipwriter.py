"""A ZIP archive written in one pass, in bounded memory. Invariant: every entry that leaves here can be read back by a reader that
never seeks: its end is known from its header, or found by inflating it.

How an entry is written (APPNOTE 6.3.10):

- up to `WHOLE_BYTES`: read, hashed and deflated whole, so that its header holds everything;
- larger, and a probe of its first block says that deflating pays: deflated while it is read, sizes and CRC in a data descriptor,
  in ZIP64 form, because they are not known before;
- larger otherwise: stored, its size in the header, only its CRC in the descriptor. Its size must then stay what it was.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zcell._native import zipstream as records
from zcell.errors import BundleError
from zcell.limits import KIB, MIB
from zcell.workspace.deflate import crc32, deflate, deflater
from zcell.workspace.limits import ExtractLimits
from zcell.workspace.names import NameSet, validate_entry_name

logger = logging.getLogger("zcell.workspace.zip")

CHUNK_BYTES = MIB
WHOLE_BYTES = 256 * KIB
PROBE_BYTES = 64 * KIB
WORTH = 0.92  # deflated to more than this share of its size, an entry is stored: inflating costs more than it saves
ZIP64_BYTES = 0xFFFFFFFF
_UNBOUNDED = ExtractLimits(entries=1 << 40, all_names_bytes=1 << 40)

Resized = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file or directory to be archived.

    `name` is relative, separated by ``/``, without a trailing one. `source` is the file's path (never a link), its bytes, or a
    function that opens it and returns a descriptor, which is closed after reading; None for a directory. Of `mode` the
    permission bits are kept. `mtime_ns` is in nanoseconds since 1970; the archive keeps whole seconds, from 1901 to 2038.
    """

    name: str
    source: Path | bytes | Callable[[], int] | None
    mode: int
    mtime_ns: int
    is_dir: bool = False

    def __post_init__(self) -> None:
        if self.is_dir != (self.source is None):
            raise ValueError(f"entry {self.name!r}: a directory has no source, a file needs one")


def zip_stream(entries: Iterable[ZipEntry], *, on_resized: Resized | None = None) -> Iterator[bytes]:
    """The archive of `entries`, in chunks of about 1 MiB, each file read once, in order, when its turn comes.

    Readable by `zipfile`, Info-ZIP `unzip` and `unzip_stream`; entries above 4 GiB and more than 65,535 of them included.
    Memory: some 2 MiB, and a few hundred bytes an entry for its name and the directory at the end. A file whose size changes meanwhile is
    reported by `on_resized(name, bytes expected, bytes read)` and a warning in the log. Raises `BundleError` naming the entry
    for a name that `unzip_stream` would refuse, for a source that is not a regular file, and for a stored entry whose
    size changed; `OSError` when a file cannot be read.
    """
    return _Writer(on_resized).stream(entries)


class _Writer:
    def __init__(self, on_resized: Resized | None) -> None:
        self._on_resized = on_resized
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._offset = 0  # of the next byte, in the whole archive
        self._directory: list[bytes] = []

    def stream(self, entries: Iterable[ZipEntry]) -> Iterator[bytes]:
        names = NameSet(_UNBOUNDED)
        for entry in entries:
            validate_entry_name(entry.name)
            names.add(entry.name, is_dir=entry.is_dir)
            for piece in self._write_entry(entry):
                self._put(piece)
                if self._pending_bytes >= CHUNK_BYTES:
                    yield self._take()
        yield from self._write_end()

    def _put(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        self._offset += len(data)

    def _take(self) -> bytes:
        chunk = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        return chunk

    def _write_end(self) -> Iterator[bytes]:
        offset = self._offset
        for record in self._directory:
            self._put(record)
            if self._pending_bytes >= CHUNK_BYTES:
                yield self._take()
        end = {"entries": len(self._directory), "directory_bytes": self._offset - offset, "directory_offset": offset}
        self._put(records.end_of_archive(**end))
        yield self._take()

    def _write_entry(self, entry: ZipEntry) -> Iterator[bytes]:
        header = _Header(entry, self._offset)
        if entry.source is None:
            yield header.local()
        elif isinstance(entry.source, bytes):
            yield from _write_whole(header, entry.source)
        else:
            fd = _open(entry)
            try:
                yield from self._write_file(header, fd)
            finally:
                os.close(fd)
        self._directory.append(header.central())

    def _write_file(self, header: _Header, fd: int) -> Iterator[bytes]:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"entry {header.name!r} is refused: its source is not a regular file")
        expected = status.st_size
        first = _read(fd, min(expected, WHOLE_BYTES) + 1)
        if expected < len(first) <= WHOLE_BYTES:  # it has grown
            first += _read(fd, WHOLE_BYTES + 1 - len(first))
        if len(first) <= WHOLE_BYTES:
            yield from _write_whole(header, first)
        elif len(deflate(memoryview(first)[:PROBE_BYTES])) <= PROBE_BYTES * WORTH:
            yield from _write_deflated(header, fd, first)
        else:
            yield from _write_stored(header, fd, first, expected)
        if header.size_bytes != expected:
            logger.warning(
                "entry %r changed size while it was read: %d bytes, then %d", header.name, expected, header.size_bytes
            )
            if self._on_resized is not None:
                self._on_resized(header.name, expected, header.size_bytes)


class _Header:
    """What the two headers and the descriptor of one entry say; filled in while it is written."""

    def __init__(self, entry: ZipEntry, offset: int) -> None:
        self.name = entry.name
        self.method = records.STORED
        self.crc = self.compressed_bytes = self.size_bytes = 0
        self.zip64 = False
        self._encoded = (entry.name + "/" if entry.is_dir else entry.name).encode()
        self._flags = 0 if entry.name.isascii() else records.UTF8_FLAG
        self._offset = offset
        kind = stat.S_IFDIR if entry.is_dir else stat.S_IFREG
        self._attributes = (kind | entry.mode & 0o777) << 16 | (0x10 if entry.is_dir else 0)
        seconds = entry.mtime_ns // 1_000_000_000
        self._dos_time = dos_time(seconds)
        self._mtime = max(-(1 << 31), min(seconds, (1 << 31) - 1))

    def local(self) -> bytes:
        return records.local_header(
            self._encoded,
            flags=self._flags,
            method=self.method,
            dos_time=self._dos_time,
            mtime=self._mtime,
            crc=self.crc,
            compressed_bytes=self.compressed_bytes,
            size_bytes=self.size_bytes,
            zip64=self.zip64,
        )

    def local_with_descriptor(self) -> bytes:
        self._flags |= records.DESCRIPTOR_FLAG
        return self.local()

    def descriptor(self) -> bytes:
        sizes = {"compressed_bytes": self.compressed_bytes, "size_bytes": self.size_bytes}
        return records.data_descriptor(crc=self.crc, zip64=self.zip64, **sizes)

    def central(self) -> bytes:
        return records.central_header(
            self._encoded,
            flags=self._flags,
            method=self.method,
            dos_time=self._dos_time,
            mtime=self._mtime,
            crc=self.crc,
            compressed_bytes=self.compressed_bytes,
            size_bytes=self.size_bytes,
            offset=self._offset,
            attributes=self._attributes,
            zip64=self.zip64,
        )


def _write_whole(header: _Header, data: bytes) -> Iterator[bytes]:
    packed = data
    if _pays(data):
        deflated = deflate(data)
        if len(deflated) <= len(data) * WORTH:
            header.method, packed = records.DEFLATED, deflated
    header.crc, header.size_bytes, header.compressed_bytes = crc32(data), len(data), len(packed)
    header.zip64 = max(len(data), len(packed)) >= ZIP64_BYTES
    yield header.local()
    for at in range(0, len(packed), CHUNK_BYTES):
        yield packed[at : at + CHUNK_BYTES]


def _pays(data: bytes) -> bool:
    """Whether deflating is worth a try: small data is tried at once, larger data by its first block."""
    if len(data) <= PROBE_BYTES:
        return len(data) > 0
    return len(deflate(memoryview(data)[:PROBE_BYTES])) <= PROBE_BYTES * WORTH


def _write_deflated(header: _Header, fd: int, first: bytes) -> Iterator[bytes]:
    header.method, header.zip64 = records.DEFLATED, True
    yield header.local_with_descriptor()
    stream = deflater()
    block = first
    while block:
        header.crc = crc32(block, header.crc)
        header.size_bytes += len(block)
        packed = stream.compress(block)
        header.compressed_bytes += len(packed)
        yield packed
        block = _read(fd, CHUNK_BYTES)
    packed = stream.flush()
    header.compressed_bytes += len(packed)
    yield packed
    yield header.descriptor()


def _write_stored(header: _Header, fd: int, first: bytes, expected: int) -> Iterator[bytes]:
    header.size_bytes = header.compressed_bytes = expected
    header.zip64 = expected >= ZIP64_BYTES
    yield header.local_with_descriptor()
    done = 0
    block = first
    while block and done <= expected:
        done += len(block)
        if done <= expected:
            header.crc = crc32(block, header.crc)
            yield block
        block = _read(fd, CHUNK_BYTES)
    if done != expected:
        raise BundleError(f"entry {header.name!r} is refused: it changed size while it was read, from {expected} bytes")
    yield header.descriptor()


def _open(entry: ZipEntry) -> int:
    if isinstance(entry.source, Path):
        return os.open(entry.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    assert callable(entry.source)
    return entry.source()


def _read(fd: int, size: int) -> bytes:
    """Up to `size` bytes, fewer only at the end of the file."""
    data = os.read(fd, size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing:
        more = os.read(fd, missing)
        if not more:
            break
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


def dos_time(seconds: int) -> int:
    """Seconds since 1970 as an MS-DOS date and time in UTC (date in the upper half), clamped to 1980 to 2107."""
    year, month, day, hour, minute, second = time.gmtime(max(315532800, min(seconds, 4354819198)))[:6]
    return (year - 1980) << 25 | month << 21 | day << 16 | hour << 11 | minute << 5 | second // 2
