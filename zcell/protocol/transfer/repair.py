"""Finding the chunks that differ. Invariant: every chunk is compared once, page by page, and only those that differ are named."""

from __future__ import annotations

from zcell.protocol.transfer.chunks import DIGEST_BYTES, ChunkTable

PAGE = 4096
"""Chunk digests asked for at once: 128 KiB."""


class Repair:
    """Compares the digests held in `table` with the sender's, for an object of `chunks` chunks."""

    def __init__(self, table: ChunkTable, chunks: int) -> None:
        self.differing: list[int] = []
        self._table = table
        self._chunks = chunks
        self._next = 0

    @property
    def complete(self) -> bool:
        """Whether all are compared."""
        return self._next >= self._chunks

    def page(self) -> tuple[int, int]:
        """(first, count) of the digests wanted next."""
        return self._next, min(PAGE, self._chunks - self._next)

    def compare(self, data: bytes) -> bool:
        """Take the digests of `page()`; False when there are not as many."""
        first, count = self.page()
        if len(data) != count * DIGEST_BYTES:
            return False
        for at in range(count):
            if self._table.digest(first + at) != data[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]:
                self.differing.append(first + at)
        self._next = first + count
        return True
