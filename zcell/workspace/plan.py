"""What has to travel. Invariant: an entry stays at home only when both sides hold the same size and the same sha256-tree root.

The receiver digests what it holds under the names of the manifest (`find_holdings`) and sends the roots; the sender digests the
same files, and only those (`same_entries`). So a first transfer reads every file once, while it is being sent.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from zcell._native.sha256 import roots_many
from zcell.errors import BundleError
from zcell.limits import MIB
from zcell.workspace.directories import Descent
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.scan import Identity, ScannedTree
from zcell.workspace.sparse import content_root, read_exactly

SMALL_BYTES = MIB
"""Files below this size, without holes, travel together as one ZIP; others one by one, in chunks that can be resumed."""
_BATCH_BYTES = 4 * MIB
_HAVE = struct.Struct("<I32s")

Tick = Callable[[], None]


def travels(entry: Entry) -> bool:
    """Whether the entry has content of its own: directories, empty files and files of nothing but a hole have none."""
    return entry.data_bytes > 0


def is_small(entry: Entry) -> bool:
    """Whether the content travels in the ZIP."""
    return entry.size < SMALL_BYTES and entry.extents is None


@dataclass(frozen=True, slots=True)
class Holding:
    """Content that the receiver has: which of its places, its root, and the file's state when that was computed."""

    place: int
    root: bytes
    identity: Identity


def find_holdings(manifest: Manifest, places: Mapping[int, Descent], tick: Tick = lambda: None) -> dict[int, Holding]:
    """For each entry that travels: the first of `places` (in order) with a file of that name and size, digested.

    What is missing, unreadable, or not reachable without following a link, is not held.
    """
    held: dict[int, Holding] = {}
    wanted = [(index, entry) for index, entry in enumerate(manifest) if travels(entry)]
    for place, descent in places.items():
        missing = [(index, entry) for index, entry in wanted if index not in held]
        files = ((index, entry.size, descent.open_file(entry.path)) for index, entry in missing)
        for index, root, identity in _digest(files, tick, skip_changing=True):
            held[index] = Holding(place, root, identity)
    return held


def count_new_hollow(manifest: Manifest, places: Iterable[Descent]) -> int:
    """How many files without content of their own are in none of `places` as they are listed: new, though nothing travels."""
    places = list(places)
    hollow = (entry for entry in manifest if not entry.is_dir and not travels(entry))
    return sum(all(_size_of(place.open_file(entry.path)) != entry.size for place in places) for entry in hollow)


def _size_of(fd: int | None) -> int:
    """Closes it; -1 when there is no file."""
    if fd is None:
        return -1
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def same_entries(tree: ScannedTree, have: dict[int, bytes], known: dict[int, bytes], tick: Tick = lambda: None) -> set[int]:
    """Those of `have` (entry, root) whose file in `tree` has that very root. `known` remembers roots from call to call.

    Raises `BundleError` for a file that changed since it was listed.
    """
    unknown = [index for index in sorted(have) if index not in known]
    with tree.descent() as descent:
        files = ((index, tree.manifest.entries[index].size, tree.open_in(descent, index)) for index in unknown)
        for index, root, _ in _digest(files, tick):
            known[index] = root
    return {index for index, root in have.items() if known.get(index) == root}


def _digest(
    files: Iterator[tuple[int, int, int | None]], tick: Tick, *, skip_changing: bool = False
) -> Iterator[tuple[int, bytes, Identity]]:
    """Root and identity of each (entry, size, descriptor) whose file has that size; small ones share the lanes."""
    batch: list[tuple[int, bytearray, Identity]] = []
    held_bytes = 0
    for index, size, fd in files:
        if fd is None:
            continue
        try:
            identity = Identity.of(os.fstat(fd))
            if identity.size != size:
                continue
            if size >= SMALL_BYTES:
                yield index, content_root(fd, size, tick), identity
                continue
            content = bytearray(size)
            read_exactly(fd, 0, memoryview(content))
        except BundleError:  # it became shorter just now
            if not skip_changing:
                raise
            continue
        finally:
            os.close(fd)
        tick()
        batch.append((index, content, identity))
        held_bytes += size
        if held_bytes >= _BATCH_BYTES:
            yield from _digest_batch(batch)
            batch.clear()
            held_bytes = 0
    yield from _digest_batch(batch)


def _digest_batch(batch: list[tuple[int, bytearray, Identity]]) -> Iterator[tuple[int, bytes, Identity]]:
    roots = roots_many(content for _, content, _ in batch)
    for (index, _, identity), root in zip(batch, roots, strict=True):
        yield index, root, identity


def pack_have(held: dict[int, Holding]) -> bytes:
    """What the receiver holds, for the sender: (u32 little endian entry, 32 bytes root), in order of entries."""
    return b"".join(_HAVE.pack(index, held[index].root) for index in sorted(held))


def parse_have(packed: object, manifest: Manifest) -> dict[int, bytes]:
    """Reads `pack_have` from a peer that nobody vouches for. Raises `BundleError`."""
    if not isinstance(packed, bytes | memoryview) or len(packed) % _HAVE.size:
        raise BundleError("what the receiver holds must be records of 36 bytes: an entry and a root")
    have: dict[int, bytes] = {}
    last = -1
    for index, root in _HAVE.iter_unpack(packed):
        if not last < index < len(manifest) or not travels(manifest.entries[index]):
            raise BundleError(f"the receiver claims to hold entry {index}, which is out of order or no file with content")
        have[index] = root
        last = index
    return have


def pack_indices(indices: set[int]) -> bytes:
    """Entries as u32 little endian, ascending."""
    return struct.pack(f"<{len(indices)}I", *sorted(indices))


def parse_indices(packed: object, allowed: set[int]) -> set[int]:
    """Reads `pack_indices` from a peer; every one must be in `allowed`. Raises `BundleError`."""
    if not isinstance(packed, bytes | memoryview) or len(packed) % 4 or len(packed) > 4 * len(allowed):
        raise BundleError("the list of entries that stay is damaged or too long")
    found = {index for (index,) in struct.iter_unpack("<I", packed)}
    if not found <= allowed:
        raise BundleError("the sender says that entries are the same which the receiver never offered")
    return found
