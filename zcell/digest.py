"""Digests of objects: the SHA-256 tree with the length. Invariant: equal digests mean equal bytes, whatever the chunk size was.

`sha256-tree` is the Merkle Tree Hash of RFC 9162 section 2.1.1 over the object's 64 KiB leaves (the last may be short): leaf =
SHA-256(0x00 || data), node = SHA-256(0x01 || left || right), split at the largest power of two below the number of leaves; an
empty object has the SHA-256 of nothing. The digest of an aligned chunk (a power of two of leaves) is a node of that tree, so
the root follows from chunk digests alone (`root_of_chunks`).

Hashing releases the GIL and runs on the kernel that `kernel()` names. `ZCELL_SHA256_KERNEL` demands one of `kernels()`; any
other name raises `zcell.errors.KernelError` when the first thing is hashed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zcell._native import sha256
from zcell._native.sha256 import kernel, kernels, leaves

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "DIGEST_BYTES",
    "Digest",
    "TreeHasher",
    "file_digest",
    "files_digest",
    "kernel",
    "kernels",
    "leaves",
    "root_of_chunks",
]

DIGEST_BYTES = 32
"""Bytes of a leaf hash, a chunk digest and a root."""
_MAX_LENGTH = 2**64 - 1
_TEXT = re.compile(r"sha256-tree:([0-9a-f]{64}):(0|[1-9][0-9]{0,19})", re.ASCII)
_SMALL_BYTES = 1024 * 1024
"""Files up to this size share the lanes; a larger one fills them alone."""
_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_FILES = 1024


@dataclass(frozen=True, slots=True)
class Digest:
    """Root of an object's tree (32 bytes) and its length in bytes. Prints as ``sha256-tree:HEX:LENGTH``; `parse` reads that."""

    root: bytes
    length: int

    def __post_init__(self) -> None:
        if not isinstance(self.root, bytes) or len(self.root) != DIGEST_BYTES:
            raise ValueError(f"Digest.root must be {DIGEST_BYTES} bytes, got {self.root!r}")
        if not isinstance(self.length, int) or isinstance(self.length, bool) or not 0 <= self.length <= _MAX_LENGTH:
            raise ValueError(f"Digest.length must be an integer from 0 to 2**64 - 1, got {self.length!r}")

    @classmethod
    def of(cls, data: Buffer) -> Digest:
        """Digest of a C-contiguous buffer."""
        with memoryview(data) as view:
            return cls(sha256.chunk_root(view), view.nbytes)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read what `str` printed; `ValueError` for anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"not a digest: {text!r}; expected sha256-tree:, 64 lower-case hexadecimal digits, : and the length"
            )
        return cls(bytes.fromhex(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"sha256-tree:{self.root.hex()}:{self.length}"


class TreeHasher:
    """Computes a digest piece by piece, used as hashlib's objects are; memory is constant (about 1 MiB).

    `digest` is not final: more may be appended. An instance may be shared between threads; each `update` is appended whole.
    """

    name = "sha256-tree"
    digest_size = DIGEST_BYTES

    __slots__ = ("_tree",)

    def __init__(self, data: Buffer = b"") -> None:
        self._tree = sha256.Tree()
        self.update(data)

    def update(self, data: Buffer) -> None:
        """Append a C-contiguous buffer of any size; `BufferError` or `TypeError` for anything else."""
        self._tree.update(data)

    def digest(self) -> bytes:
        """The root, 32 bytes, of what was appended so far."""
        return self._tree.digest()

    def hexdigest(self) -> str:
        """The root of what was appended so far, in hexadecimal."""
        return self.digest().hex()

    def copy(self) -> TreeHasher:
        """An independent hasher in the same state."""
        other = TreeHasher.__new__(TreeHasher)
        other._tree = self._tree.copy()
        return other

    def result(self) -> Digest:
        """Root and length of what was appended so far."""
        tree = self._tree.copy()
        return Digest(tree.digest(), tree.length)

    @property
    def length(self) -> int:
        """Bytes appended so far."""
        return self._tree.length


def root_of_chunks(chunk_digests: Sequence[bytes] | bytes) -> bytes:
    """Root of an object from the digests of its chunks, in order: 32 bytes.

    All chunks are aligned and of one size, a power of two of leaves; the last may be shorter. Several digests may be joined in
    one bytes object. No chunks: the root of the empty object. `ValueError` when a digest is not 32 bytes long.
    """
    if not isinstance(chunk_digests, bytes | bytearray | memoryview):
        for index, digest in enumerate(chunk_digests):
            if len(digest) != DIGEST_BYTES:
                raise ValueError(f"chunk digest {index} must be {DIGEST_BYTES} bytes, got {len(digest)}")
        chunk_digests = b"".join(chunk_digests)
    return sha256.combine(chunk_digests)


def file_digest(path: str | os.PathLike[str]) -> Digest:
    """Digest of what can be read from a file until its end. `OSError` naming the path when it cannot be opened or read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Digest(*sha256.file_root(fd))
    except OSError as error:
        raise _named(error, path) from None
    finally:
        os.close(fd)


def files_digest(paths: Iterable[str | os.PathLike[str]]) -> list[Digest]:
    """Digest of each file, in order; many small files are hashed at once. `OSError` names the first unreadable path."""
    found: list[Digest | None] = []
    batch: list[tuple[int, bytes]] = []
    held_bytes = 0
    for index, path in enumerate(paths):
        content = _read_small(path)
        if content is None:
            found.append(file_digest(path))
            continue
        found.append(None)
        batch.append((index, content))
        held_bytes += len(content)
        if held_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            _hash_batch(batch, found)
            batch.clear()
            held_bytes = 0
    _hash_batch(batch, found)
    return [digest for digest in found if digest is not None]


def _hash_batch(batch: list[tuple[int, bytes]], found: list[Digest | None]) -> None:
    roots = sha256.roots_many(content for _, content in batch)
    for (index, content), root in zip(batch, roots, strict=True):
        found[index] = Digest(root, len(content))


def _read_small(path: str | os.PathLike[str]) -> bytes | None:
    """The whole content of a regular file, None when it is not regular or is (or grows) larger than a small file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SMALL_BYTES:
            return None
        pieces = list(_pieces(fd, status.st_size + 1))
    except OSError as error:
        raise _named(error, path) from None
    finally:
        os.close(fd)
    content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return content if len(content) <= _SMALL_BYTES else None


def _pieces(fd: int, first_bytes: int) -> Iterator[bytes]:
    """What can be read until the end of the file, or until it is clear that the file is not small."""
    left = _SMALL_BYTES + 1
    size = first_bytes
    while left > 0 and (piece := os.read(fd, min(size, left))):
        yield piece
        left -= len(piece)
        size = _SMALL_BYTES


def _named(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """The same error with the file's name."""
    return OSError(error.errno, error.strerror, os.fspath(path))
