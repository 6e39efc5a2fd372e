"""Files with holes. Invariant: a hole is never read, sent or stored as data, and reads as zeros in every digest."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cache

from zcell._native.sha256 import chunk_root
from zcell.digest import root_of_chunks
from zcell.errors import BundleError
from zcell.limits import CHUNK_BYTES, KIB
from zcell.workspace.manifest import MAX_EXTENTS, Extents

SMALL_HOLE_BYTES = 64 * KIB
"""A shorter hole between two ranges of data is not worth an extent; it travels as zeros."""


def find_extents(fd: int, size: int) -> Extents | None:
    """The ranges of data of an open file of `size` bytes, or None when it has no hole worth keeping (or too many)."""
    found: list[tuple[int, int]] = []
    at = 0
    while (start := _seek(fd, at, os.SEEK_DATA, size)) < size:
        at = min(_seek(fd, start, os.SEEK_HOLE, size), size)
        if found and start - found[-1][1] < SMALL_HOLE_BYTES:
            found[-1] = (found[-1][0], at)
        else:
            found.append((start, at))
        if len(found) > MAX_EXTENTS:
            return None
    if found and size - found[-1][1] < SMALL_HOLE_BYTES:
        found[-1] = (found[-1][0], size)
    return None if found == [(0, size)] else tuple((start, end - start) for start, end in found)


def _seek(fd: int, at: int, whence: int, size: int) -> int:
    """`lseek`; where the file system knows no holes, everything is data."""
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return at if whence == os.SEEK_DATA else size
        raise


def content_root(fd: int, size: int, tick: Callable[[], None] = lambda: None) -> bytes:
    """Root of the sha256-tree over the first `size` bytes of an open file; holes are not read. `tick` is called per MiB.

    Raises `BundleError` when the file is shorter.
    """
    buffer = memoryview(bytearray(min(size, CHUNK_BYTES)))
    digests: list[bytes] = []
    data_from = 0  # before this offset nothing but a hole is left
    for offset in range(0, size, CHUNK_BYTES):
        tick()
        wanted = min(CHUNK_BYTES, size - offset)
        if data_from <= offset:
            data_from = _seek(fd, offset, os.SEEK_DATA, size)
        if data_from >= offset + wanted:
            digests.append(_zero_chunk() if wanted == CHUNK_BYTES else chunk_root(bytes(wanted)))
            continue
        read_exactly(fd, offset, buffer[:wanted])
        digests.append(chunk_root(buffer[:wanted]))
    return root_of_chunks(digests)


@cache
def _zero_chunk() -> bytes:
    return chunk_root(bytes(CHUNK_BYTES))


def read_exactly(fd: int, offset: int, into: memoryview) -> None:
    """Fill `into` from `offset`; `BundleError` when the file ends before."""
    done = 0
    while done < len(into):
        count = os.preadv(fd, [into[done:]], offset + done)
        if not count:
            raise BundleError(f"a file became shorter while it was read: {offset + done} bytes instead of {offset + len(into)}")
        done += count


class PackedExtents:
    """Maps offsets in the data of a sparse file, its extents laid end to end, to offsets in the file."""

    def __init__(self, extents: Extents) -> None:
        self._extents = extents
        self._starts: list[int] = []
        at = 0
        for _, length in extents:
            self._starts.append(at)
            at += length
        self.size = at
        """Bytes of data."""

    def ranges(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(offset in the file, length) of each piece that `length` bytes of data from `offset` on fall into."""
        length = min(length, self.size - offset)
        index = bisect_right(self._starts, offset) - 1
        while length > 0:
            start, size = self._extents[index]
            skip = offset - self._starts[index]
            count = min(length, size - skip)
            yield start + skip, count
            offset += count
            length -= count
            index += 1
