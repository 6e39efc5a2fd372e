"""Where offered bytes come from. Invariant: two loads of one chunk give the same bytes, or `SourceChangedError`.

A source keeps the digest of every chunk it has read, so it hashes each once for the root, however many receivers there are.
"""

from __future__ import annotations

import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from zcell._native import chunk as frames
from zcell._native.sha256 import chunk_root
from zcell.digest import root_of_chunks
from zcell.download.sealing import Frame
from zcell.errors import ZcellError
from zcell.protocol.transfer.chunks import ChunkTable, chunk_count, chunk_length

PIECE_ALIGNMENT = 64
"""What the arrays in a `PiecesSource` are aligned to, from its beginning."""


class SourceError(ZcellError):
    """The source cannot give a chunk; the text names the source and why."""


class SourceChangedError(SourceError):
    """The source is not what it was when it was offered."""


class Source(Protocol):
    """What a ref of bytes is served from. All methods may be called from several threads at once."""

    name: str
    chunk_bytes: int
    digests: ChunkTable

    @property
    def size(self) -> int | None:
        """Bytes in all, None while unknown."""
        ...

    def load(self, index: int, *, tree: bool) -> Frame | None:
        """The frame of chunk `index`, with its digest when `tree`, else with its checksum. None: not there yet, see `want`."""
        ...

    def hash_next(self) -> bool | None:
        """Hash one chunk that has no digest yet: True when there was one, False when all have one, None: not there yet."""
        ...

    def want(self, index: int, wake: Callable[[], None], *, ahead: int = -1) -> None:
        """Have chunk `index` (or the end) made available, then call `wake` from any thread; and go on until chunk `ahead`."""
        ...

    def set_floor(self, receiver: str, floor: int | None) -> None:
        """`receiver` will not ask for chunks below `floor` again; None: it will ask for nothing."""
        ...

    def check(self) -> None:
        """Raise `SourceChangedError` when the source is not what was offered."""
        ...

    def open(self) -> None:
        """A transfer begins: hold what loading needs, until as many `close`."""
        ...

    def close(self) -> None:
        """A transfer ended."""
        ...

    def release(self) -> None:
        """The ref is gone: give everything back. Idempotent."""
        ...


def root_of(source: Source) -> bytes:
    """The root of a source of which every chunk is hashed."""
    assert source.size is not None
    return root_of_chunks(source.digests.digests(0, chunk_count(source.size, source.chunk_bytes)))


class _Complete:
    """What sources whose bytes are all there from the beginning share."""

    def __init__(self, name: str, size: int, chunk_bytes: int) -> None:
        self.name = name
        self.chunk_bytes = chunk_bytes
        self.digests = ChunkTable()
        self._size = size
        self._lock = threading.Lock()
        self._hashing: set[int] = set()
        self._wakes: list[Callable[[], None]] = []
        self._unhashed = 0

    @property
    def size(self) -> int | None:
        return self._size

    def _span(self, index: int) -> tuple[int, int]:
        length = chunk_length(index, self._size, self.chunk_bytes)
        if length <= 0:
            raise SourceError(f"{self.name}: chunk {index} is beyond its {self._size} bytes")
        return index * self.chunk_bytes, length

    def _record(self, index: int, digest: bytes) -> None:
        with self._lock:
            before = self.digests.digest(index)
            if before is None:
                self.digests.add(index, digest)
        if before is not None and before != digest:
            raise SourceChangedError(f"{self.name}: chunk {index} is not what it was when it was read before")

    def hash_next(self) -> bool | None:
        with self._lock:
            index = self.digests.next_missing(self._unhashed)
            if not self._hashing:
                self._unhashed = index
            while index in self._hashing:
                index = self.digests.next_missing(index + 1)
            if index >= chunk_count(self._size, self.chunk_bytes):
                return None if self._hashing else False
            self._hashing.add(index)
        try:
            digest = self._digest(index)
            self._record(index, digest)
        finally:
            with self._lock:
                self._hashing.discard(index)
                wakes, self._wakes = self._wakes, []
            for wake in wakes:
                wake()
        return True

    def _digest(self, index: int) -> bytes:
        raise AssertionError("a source computes its digests")

    def want(self, index: int, wake: Callable[[], None], *, ahead: int = -1) -> None:
        with self._lock:
            hashing = bool(self._hashing)
            if hashing:
                self._wakes.append(wake)
        if not hashing:
            wake()

    def set_floor(self, receiver: str, floor: int | None) -> None:
        return

    def check(self) -> None:
        return

    def open(self) -> None:
        return

    def close(self) -> None:
        return

    def release(self) -> None:
        return


class PiecesSource(_Complete):
    """Buffers in memory as if they were one: each begins at the next multiple of `PIECE_ALIGNMENT`, with zeros between them.

    They must not change while they are offered, and are let go of with the last transfer after `release`.
    """

    def __init__(self, pieces: Sequence[memoryview], chunk_bytes: int, name: str = "") -> None:
        self._pieces = [piece.cast("B") for piece in pieces]
        self._offsets, size = piece_offsets([piece.nbytes for piece in self._pieces])
        self._users = 0
        self._is_released = False
        super().__init__(name or "bytes", size, chunk_bytes)

    def open(self) -> None:
        with self._lock:
            self._users += 1

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            self._let_go()

    def release(self) -> None:
        with self._lock:
            self._is_released = True
            self._let_go()

    def _let_go(self) -> None:
        if self._is_released and self._users == 0:
            self._pieces = []

    def _bytes(self, offset: int, length: int) -> memoryview:
        """A part of it: uncopied where it lies within one piece."""
        pieces = self._pieces
        if not pieces and self._offsets:
            raise SourceError(f"{self.name}: the transaction has ended")
        number = max(0, bisect_right(self._offsets, offset) - 1)
        if pieces and offset + length <= self._offsets[number] + pieces[number].nbytes:
            return pieces[number][offset - self._offsets[number] :][:length]
        found = bytearray(length)
        for start, piece in zip(self._offsets[number:], pieces[number:], strict=True):
            if start >= offset + length:
                break
            part = piece[max(0, offset - start) : offset + length - start]
            at = max(0, start - offset)
            found[at : at + len(part)] = part
        return memoryview(found)

    def load(self, index: int, *, tree: bool) -> Frame | None:
        offset, length = self._span(index)
        payload = self._bytes(offset, length)
        if not tree:
            return frames.encode(index, offset, payload)
        digest = chunk_root(payload)
        self._record(index, digest)
        return frames.encode(index, offset, payload, digest=digest, checksum=False)

    def _digest(self, index: int) -> bytes:
        offset, length = self._span(index)
        return chunk_root(self._bytes(offset, length))


class BytesSource(PiecesSource):
    """One buffer in memory, uncopied."""

    def __init__(self, data: bytes | bytearray | memoryview, chunk_bytes: int, name: str = "") -> None:
        super().__init__([memoryview(data)], chunk_bytes, name)


def piece_offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where in a `PiecesSource` pieces of these `sizes` begin, and its length."""
    offsets, end = [], 0
    for size in sizes:
        begin = -(-end // PIECE_ALIGNMENT) * PIECE_ALIGNMENT
        offsets.append(begin)
        end = begin + size
    return offsets, end


class FileSource(_Complete):
    """A regular file. It is read with pread, never mapped: somebody may truncate it. Size, time and inode must stay.

    Raises `OSError` when the file cannot be opened, `ValueError` when it is not a regular file.
    """

    def __init__(self, path: Path, chunk_bytes: int) -> None:
        self.path = path
        self._fd = -1
        self._users = 0
        fd = self._open_descriptor()
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is not a regular file; offer files one by one, or a directory as a workspace")
        self._identity = _identity(found)
        name = os.fsencode(path.name).decode("utf-8", "replace")  # it travels as text
        super().__init__(name, found.st_size, chunk_bytes)

    def _open_descriptor(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def open(self) -> None:
        with self._lock:
            if self._fd < 0:
                try:
                    self._fd = self._open_descriptor()
                except OSError as error:
                    raise SourceChangedError(f"{self.path} can no longer be opened: {error.strerror}") from error
            self._users += 1
        try:
            self.check()
        except SourceChangedError:
            self.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def check(self) -> None:
        if _identity(os.fstat(self._fd)) != self._identity:
            raise SourceChangedError(f"{self.path} changed while it was offered")

    def load(self, index: int, *, tree: bool) -> Frame | None:
        offset, length = self._span(index)
        try:
            frame, digest = frames.read_frame(self._fd, index, offset, length, want_digest=tree, checksum=not tree)
        except EOFError:
            raise SourceChangedError(f"{self.path} became shorter while it was offered") from None
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror or error}") from error
        self.check()
        if tree:
            self._record(index, digest)
        return memoryview(frame)

    def _digest(self, index: int) -> bytes:
        frame = self.load(index, tree=True)
        assert frame is not None
        digest = self.digests.digest(index)
        assert digest is not None
        return digest


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
