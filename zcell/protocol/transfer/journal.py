"""The bytes of a journal: which chunks of a partial download are verified. Invariant: a torn or damaged tail is never believed.

A journal is a 128-byte header and 48-byte records, little endian, appended as chunks are stored:

======  ====  ==========================================================================
offset  size  header
======  ====  ==========================================================================
0       8     magic ``ZCJRNL1\\n``
8       4     chunk_bytes
12      4     verify: 0 tree, 1 checksum
16      8     size of the object in bytes, or 2**64 - 1 while unknown
24      32    root of the object's tree, zeros while unknown
56      32    SHA-256 of the ref id it was begun with
88      32    boot id of the host, padded with zeros
120     8     XXH3-64 of bytes 0 to 119
======  ====  ==========================================================================

A record is the chunk's index (u64; bit 63 set: the chunk is dropped and about to be overwritten), its 32-byte digest, and the
XXH3-64 of both and of the header's check, so that a record never counts under another header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from xxhash import xxh3_64_intdigest

from zcell.errors import ProtocolError
from zcell.protocol.transfer.chunks import DIGEST_BYTES, NO_DIGEST, ChunkTable

MAGIC = b"ZCJRNL1\n"
HEADER_BYTES = 128
RECORD_BYTES = 48
_HEADER = struct.Struct("<8sIIQ32s32s32s")
_CHECK = struct.Struct("<Q")
_RECORD = struct.Struct("<Q32s")
_UNKNOWN_SIZE = 2**64 - 1
_DROPPED = 1 << 63
_MOST_AHEAD = 1 << 16
"""Chunks are stored out of order by a window at most: an index further ahead than this is damage, and would cost memory."""


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """What a journal is about. `root` is None while unknown; `ref_key` is the SHA-256 of the ref id."""

    chunk_bytes: int
    size: int | None
    root: bytes | None
    ref_key: bytes
    boot_id: bytes
    verify: str = "tree"

    def encode(self) -> bytes:
        """The 128 bytes of the header."""
        size = _UNKNOWN_SIZE if self.size is None else self.size
        boot = self.boot_id[:32].ljust(32, b"\0")
        verify = 1 if self.verify == "checksum" else 0
        body = _HEADER.pack(MAGIC, self.chunk_bytes, verify, size, self.root or NO_DIGEST, self.ref_key, boot)
        return body + _CHECK.pack(xxh3_64_intdigest(body))

    @staticmethod
    def decode(data: bytes) -> JournalHeader:
        """Read a header back. Raises `ProtocolError` saying what is wrong with it."""
        if len(data) < HEADER_BYTES:
            raise ProtocolError(f"journal of {len(data)} bytes is shorter than its header of {HEADER_BYTES}")
        magic, chunk_bytes, verify, size, root, ref_key, boot = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise ProtocolError("journal does not begin with ZCJRNL1")
        if _CHECK.unpack_from(data, _HEADER.size)[0] != xxh3_64_intdigest(data[: _HEADER.size]):
            raise ProtocolError("journal header is damaged: its check differs")
        return JournalHeader(
            chunk_bytes,
            None if size == _UNKNOWN_SIZE else size,
            None if root == NO_DIGEST else root,
            ref_key,
            boot.rstrip(b"\0"),
            "checksum" if verify else "tree",
        )

    @property
    def check(self) -> bytes:
        """Binds records to this header."""
        return self.encode()[_HEADER.size :]


@dataclass(slots=True)
class Journal:
    """A journal read back: its header, the chunks it vouches for, and how many of its bytes are sound."""

    header: JournalHeader
    table: ChunkTable = field(default_factory=ChunkTable)
    sound_bytes: int = HEADER_BYTES


def encode_record(header_check: bytes, index: int, digest: bytes, *, dropped: bool = False) -> bytes:
    """The 48 bytes that say that chunk `index` is stored with `digest`, or that it is about to be overwritten."""
    body = _RECORD.pack(index | _DROPPED if dropped else index, digest)
    return body + _CHECK.pack(xxh3_64_intdigest(body + header_check))


def decode_journal(data: bytes) -> Journal:
    """Read a journal back, as far as it is sound. Raises `ProtocolError` when not even its header is."""
    journal = Journal(JournalHeader.decode(data))
    check = journal.header.check
    highest = (len(data) - HEADER_BYTES) // RECORD_BYTES + _MOST_AHEAD
    for at in range(HEADER_BYTES, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        body = data[at : at + _RECORD.size]
        if _CHECK.unpack_from(data, at + _RECORD.size)[0] != xxh3_64_intdigest(body + check):
            break
        index, digest = _RECORD.unpack(body)
        if index & _DROPPED:
            journal.table.drop(index & ~_DROPPED)
        elif index < highest:
            journal.table.add(index, digest)
        journal.sound_bytes = at + RECORD_BYTES
    return journal


assert _RECORD.size == 8 + DIGEST_BYTES
