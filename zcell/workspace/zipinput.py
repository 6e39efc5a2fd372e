"""The bytes of an archive that arrives in chunks. Invariant: it holds one chunk, or the few that a record spans, and takes time
linear in the bytes, however small the chunks are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Never

from zcell.errors import BundleError


def refuse_archive(rule: str) -> Never:
    """Refuses an archive as a whole."""
    raise BundleError(f"the archive is refused: {rule}")


def refuse_entry(name: str, rule: str) -> Never:
    """Refuses an archive for one of its entries."""
    raise BundleError(f"entry {name!r} is refused: {rule}")


class ZipInput:
    """A stream of chunks of any sizes, taken in any portions; `BundleError` where it ends too early."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._chunks = iter(chunks)
        self._view = memoryview(b"")
        self._at = 0
        self._received = 0

    @property
    def offset(self) -> int:
        """How many bytes of the archive have been taken."""
        return self._received - len(self._view) + self._at

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer only where the stream ends."""
        if len(self._view) - self._at < size:
            self._gather(size)
        return bytes(self._view[self._at : self._at + size])

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        data = self.peek(size)
        if len(data) < size:
            refuse_archive(f"it ends at byte {self._received}, in the middle of a record")
        self._at += size
        return data

    def take_some(self, most: int) -> memoryview:
        """At least one and up to `most` bytes, uncopied; valid until the next call."""
        if self.is_at_end():
            refuse_archive(f"it ends at byte {self._received}, in the middle of an entry")
        view = self._view[self._at : self._at + most]
        self._at += len(view)
        return view

    def give_back(self, size: int) -> None:
        """Un-takes the last `size` bytes of what `take_some` has just returned."""
        self._at -= size

    def is_at_end(self) -> bool:
        """Whether the stream has ended and everything is taken; waits for the next chunk when it must."""
        if self._at == len(self._view):
            view = self._next()
            if view is None:
                return True
            self._view, self._at = view, 0
        return False

    def _next(self) -> memoryview | None:
        """The next chunk that is not empty."""
        for chunk in self._chunks:
            view = memoryview(chunk).cast("B")
            if len(view) > 0:
                self._received += len(view)
                return view
        return None

    def _gather(self, size: int) -> None:
        """Joins chunks until `size` bytes lie together, or the stream ends."""
        parts = [self._view[self._at :]]
        missing = size - len(parts[0])
        while missing > 0:
            view = self._next()
            if view is None:
                break
            parts.append(view)
            missing -= len(view)
        self._view = memoryview(b"".join(parts)) if len(parts) > 2 or len(parts[0]) > 0 else parts[-1]
        self._at = 0
