"""Which chunks of an object are held, and their digests. Invariant: a chunk counts as held only while its digest is known here.

Tables grow with what is stored, never with what is declared, so a lying size costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

DIGEST_BYTES = 32
NO_DIGEST = bytes(DIGEST_BYTES)
"""Stands for the digest of a chunk that was checked by its checksum alone."""
MAX_CHUNKS = 1 << 40
"""More than any object has: an index beyond it is refused."""


def chunk_count(size: int, chunk_bytes: int) -> int:
    """How many chunks an object of `size` bytes has."""
    return -(-size // chunk_bytes)


def chunk_length(index: int, size: int, chunk_bytes: int) -> int:
    """Bytes of chunk `index` in an object of `size` bytes; 0 or less beyond its end."""
    return min(chunk_bytes, size - index * chunk_bytes)


def runs(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending indices as (first, count) runs."""
    first = count = 0
    for index in indices:
        if count and index == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = index, 1
    if count:
        yield first, count


class ChunkTable:
    """Held chunks by index. Not thread-safe: its owner guards it."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._digests = bytearray()
        self.count = 0
        """How many chunks are held."""

    def __contains__(self, index: int) -> bool:
        return index < len(self._held) and self._held[index] == 1

    def add(self, index: int, digest: bytes) -> None:
        """Hold chunk `index`; a second time replaces its digest."""
        if index >= len(self._held):
            more = max(index + 1 - len(self._held), min(len(self._held), 1 << 16))
            self._held.extend(bytes(more))
            self._digests.extend(bytes(more * DIGEST_BYTES))
        self.count += 1 - self._held[index]
        self._held[index] = 1
        self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = digest

    def drop(self, index: int) -> bool:
        """Stop holding chunk `index`; whether it was held."""
        if index not in self:
            return False
        self._held[index] = 0
        self.count -= 1
        return True

    def digest(self, index: int) -> bytes | None:
        """The digest of a held chunk, else None."""
        return bytes(self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]) if index in self else None

    def digests(self, first: int, count: int) -> bytes:
        """The digests of `count` chunks from `first` on, which must all be held, one after the other."""
        return bytes(self._digests[first * DIGEST_BYTES : (first + count) * DIGEST_BYTES])

    def next_missing(self, start: int) -> int:
        """The first index from `start` on that is not held."""
        found = self._held.find(0, start)
        return found if found >= 0 else max(start, len(self._held))

    def held_from(self, start: int) -> Iterator[int]:
        """Held indices from `start` on, ascending."""
        found = self._held.find(1, start)
        while found >= 0:
            yield found
            found = self._held.find(1, found + 1)
