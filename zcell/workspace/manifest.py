"""The list of what a tree holds. Invariant: a `Manifest` is in order, within limits, free of clashes, wherever it came from.

On the wire it is canonical msgpack: ``["zcell-manifest", 1, count, entry...]`` flattened into a sequence of objects, where an
entry is ``[path, kind, mode, mtime_ns, size, extents, digest]``: kind 0 file, 1 directory; extents nil, or pairs of u64 little
endian (offset, length) of the data of a sparse file; digest nil or the 32 bytes root of the file's sha256-tree. Entries are
ordered by the components of their paths, and a directory comes before what it holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import msgpack

from zcell.digest import Digest
from zcell.errors import BundleError
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.names import NameSet, validate_entry_name

MAGIC = "zcell-manifest"
VERSION = 1
_FIELDS = 7
_FILE, _DIRECTORY = 0, 1
_MAX_SIZE = 1 << 62
_MAX_TIME_NS = 1 << 63
MAX_EXTENTS = 65_536
"""Ranges of data of one file; a file in more pieces is sent as if it had no holes."""

Extents = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or directory. `path` is relative with ``/`` between names; `mode` holds permission bits only."""

    path: str
    is_dir: bool
    mode: int
    mtime_ns: int
    size: int = 0
    """Length in bytes of the file, holes included; 0 for a directory."""
    extents: Extents | None = None
    """(offset, length) of every range of data of a sparse file, in order; None for a file without holes."""
    digest: bytes | None = None
    """Root of the sha256-tree over the file's whole content (holes read as zeros), when it is known."""

    @property
    def data_bytes(self) -> int:
        """Bytes that take room on a disk and on the wire: the size without holes."""
        return self.size if self.extents is None else sum(length for _, length in self.extents)


class Manifest:
    """Entries of one workspace or tree, checked. Raises `BundleError` naming the entry and the rule it breaks."""

    def __init__(self, entries: Iterable[Entry], limits: WorkspaceLimits | None = None) -> None:
        self.entries: tuple[Entry, ...] = tuple(entries)
        _check(self.entries, limits or WorkspaceLimits())

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @cached_property
    def packed(self) -> bytes:
        """The canonical bytes of this manifest."""
        packer = msgpack.Packer(use_bin_type=True)
        parts = [packer.pack(MAGIC), packer.pack(VERSION), packer.pack(len(self.entries))]
        parts.extend(packer.pack(_fields(entry)) for entry in self.entries)
        return b"".join(parts)

    @cached_property
    def digest(self) -> Digest:
        """Digest of the canonical bytes: names the exact list of entries."""
        return Digest.of(self.packed)

    @property
    def data_bytes(self) -> int:
        return sum(entry.data_bytes for entry in self.entries)

    @property
    def files(self) -> int:
        return sum(not entry.is_dir for entry in self.entries)

    @classmethod
    def parse(cls, packed: bytes | memoryview, limits: WorkspaceLimits | None = None) -> Manifest:
        """The manifest in `packed`, which nobody vouches for. Raises `BundleError`; never allocates by a declared count."""
        limits = limits or WorkspaceLimits()
        if len(packed) > limits.manifest_bytes:
            raise BundleError(f"the manifest has {len(packed)} bytes, at most {limits.manifest_bytes} are accepted")
        manifest = cls(_read(bytes(packed), limits), limits)
        if manifest.packed != packed:
            raise BundleError("the manifest is not in canonical form")
        return manifest


def _fields(entry: Entry) -> list[object]:
    extents = None if entry.extents is None else b"".join(struct.pack("<QQ", *extent) for extent in entry.extents)
    kind = _DIRECTORY if entry.is_dir else _FILE
    return [entry.path, kind, entry.mode, entry.mtime_ns, entry.size, extents, entry.digest]


def _read(packed: bytes, limits: WorkspaceLimits) -> Iterator[Entry]:
    """Entry by entry; nested arrays, maps and extensions are refused by the unpacker before they are built."""
    unpacker = msgpack.Unpacker(
        raw=False, max_buffer_size=max(len(packed), 1), max_array_len=0, max_map_len=0, max_ext_len=0, strict_map_key=True
    )
    unpacker.feed(packed)
    number = extents = 0
    try:
        magic, version, count = unpacker.unpack(), unpacker.unpack(), unpacker.unpack()
        if magic != MAGIC or version != VERSION:
            raise BundleError(f"this is no manifest of version {VERSION}; both sides need a zcell that speaks it")
        if type(count) is not int or not 0 <= count <= limits.entries:
            raise BundleError(f"the manifest announces {count!r} entries, at most {limits.entries} are accepted")
        for number in range(1, count + 1):
            if unpacker.read_array_header() != _FIELDS:
                raise BundleError(f"entry {number} of the manifest does not have {_FIELDS} fields")
            entry = _entry(number, [unpacker.unpack() for _ in range(_FIELDS)])
            extents += len(entry.extents or ())
            if extents > limits.entries:
                raise BundleError(f"sparse files have more than {limits.entries} ranges of data, the most that is accepted")
            yield entry
    except (msgpack.UnpackException, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"the manifest is damaged at entry {number}: {error or type(error).__name__}") from None
    if unpacker.tell() != len(packed):
        raise BundleError("the manifest goes on after its last entry")


def _entry(number: int, fields: list[object]) -> Entry:
    path, kind, mode, mtime_ns, size, extents, digest = fields
    if type(path) is not str:
        raise BundleError(f"the path of entry {number} of the manifest is not a string")
    for name, value, low, high in (
        ("kind", kind, _FILE, _DIRECTORY),
        ("mode", mode, 0, 0o777),
        ("mtime_ns", mtime_ns, -_MAX_TIME_NS, _MAX_TIME_NS - 1),
        ("size", size, 0, _MAX_SIZE),
    ):
        if type(value) is not int or not low <= value <= high:
            raise BundleError(f"{path[:200]!r}: {name} is {str(value)[:50]}, expected an integer from {low} to {high}")
    assert isinstance(mode, int)
    assert isinstance(mtime_ns, int)
    assert isinstance(size, int)
    if digest is not None and (type(digest) is not bytes or len(digest) != 32):
        raise BundleError(f"{path[:200]!r}: its digest is not 32 bytes")
    return Entry(path, kind == _DIRECTORY, mode, mtime_ns, size, _extents(path, extents), digest)


def _extents(path: str, packed: object) -> Extents | None:
    if packed is None:
        return None
    if type(packed) is not bytes or len(packed) % 16 or len(packed) > 16 * MAX_EXTENTS:
        raise BundleError(f"{path[:200]!r}: its extents are not pairs of 64-bit numbers, {MAX_EXTENTS} at most")
    return tuple(struct.iter_unpack("<QQ", packed))


def _check(entries: tuple[Entry, ...], limits: WorkspaceLimits) -> None:
    """Order, parents, clashes and limits; everything that makes a manifest safe to act on."""
    if len(entries) > limits.entries:
        raise BundleError(f"{len(entries)} files and directories, at most {limits.entries} are accepted")
    names = NameSet(limits)
    directories: list[tuple[str, ...]] = []  # those that hold the last entry
    previous: tuple[str, ...] = ()
    total = 0
    for entry in entries:
        parts = validate_entry_name(entry.path, limits=limits)
        names.add(entry.path, is_dir=entry.is_dir)
        if parts < previous:
            raise BundleError(f"{entry.path[:200]!r} is out of order in the manifest")
        previous = parts
        del directories[len(parts) - 1 :]
        if len(directories) != len(parts) - 1 or (directories and directories[-1] != parts[:-1]):
            raise BundleError(f"{entry.path[:200]!r}: the manifest does not list the directory that holds it")
        if entry.is_dir:
            directories.append(parts)
        _check_sizes(entry, limits)
        total += entry.data_bytes
        if total > limits.total_bytes:
            raise BundleError(f"the files hold more than {limits.total_bytes} bytes together, the most that is accepted")


def _check_sizes(entry: Entry, limits: WorkspaceLimits) -> None:
    if entry.is_dir and (entry.size or entry.extents is not None or entry.digest is not None):
        raise BundleError(f"{entry.path[:200]!r} is a directory, yet has a size, extents or a digest")
    if entry.size > limits.file_bytes:
        raise BundleError(f"{entry.path[:200]!r} has {entry.size} bytes, at most {limits.file_bytes} are accepted")
    end = -1
    for offset, length in entry.extents or ():
        if offset <= end or length <= 0 or offset + length > entry.size:
            raise BundleError(f"{entry.path[:200]!r}: its extents overlap, are empty or lie outside of the file")
        end = offset + length
