"""SHA-256 leaves and the RFC 9162 tree, in C. `zcell.digest` is the public face; see there for the format.

A buffer is any C-contiguous object with the buffer protocol; `BufferError` otherwise. The GIL is released while hashing.
`kernel` names a kernel for this call (tests and benchmarks); `KernelError` when this CPU cannot run it. Without it the kernel
in use does the work; `KernelError` when `ZCELL_SHA256_KERNEL` demands one that does not exist or that this CPU cannot run.
"""

from collections.abc import Iterable

from typing_extensions import Buffer

LEAF_BYTES: int
"""Bytes of a leaf: 65,536."""

def kernel() -> str:
    """Name of the kernel in use."""

def kernels() -> tuple[str, ...]:
    """Names of the kernels this CPU can run, best first."""

def leaves(buffer: Buffer, *, kernel: str | None = None) -> bytes:
    """32 bytes for each leaf of 64 KiB (the last may be short); an empty buffer has none."""

def leaves_many(buffers: Iterable[Buffer], *, kernel: str | None = None) -> list[bytes]:
    """`leaves` of each buffer; the leaves of all share the lanes."""

def roots_many(buffers: Iterable[Buffer], *, kernel: str | None = None) -> list[bytes]:
    """`chunk_root` of each buffer; the leaves of all share the lanes."""

def chunk_root(buffer: Buffer, *, kernel: str | None = None) -> bytes:
    """Root of the tree over the buffer's leaves: 32 bytes, for a chunk its chunk digest."""

def combine(nodes: Buffer, *, kernel: str | None = None) -> bytes:
    """Root over nodes of 32 bytes each: roots of complete subtrees of one size, of which only the last may be smaller.

    `ValueError` when the length is no multiple of 32. No nodes: the root of the empty object.
    """

def file_root(fd: int, *, kernel: str | None = None) -> tuple[bytes, int]:
    """Root and length of what can be read from `fd` until its end, in constant memory. `OSError` without a file name."""

class Tree:
    """A tree that grows at its right edge; memory is constant (1 MiB). Safe to share between threads."""

    def __init__(self, *, kernel: str | None = None) -> None: ...
    @property
    def length(self) -> int:
        """Bytes appended so far."""
    def update(self, data: Buffer) -> None:
        """Append bytes, any number at a time."""
    def digest(self) -> bytes:
        """Root of what was appended so far, 32 bytes. Not final: more may be appended."""
    def copy(self) -> Tree:
        """An independent tree in the same state."""
