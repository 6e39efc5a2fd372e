# cython: boundscheck=False, wraparound=False
"""Chunk frames: what one data-lane frame holds. Invariant: a `Chunk` exists only for a frame whose header is whole and in range.

A chunk frame is an 80-byte header, little endian, and the payload behind it:

======  =====  =============================================================================================
offset  bytes  field
======  =====  =============================================================================================
0       4      magic ``ZCK1``
4       1      version, 1
5       1      flags: 1 LAST of a stream, 2 DIGEST present, 4 CHECKSUM present, 8 SEALED; others are refused
6       2      reserved, 0
8       8      index of the chunk in its object
16      8      offset of the payload in the object; offset + length stays below 2**63
24      4      length of the payload: the frame's size less 80, at most 16 MiB
28      4      reserved, 0
32      32     chunk digest (Merkle Tree Hash of RFC 9162 over the payload's 64 KiB leaves); 0 without DIGEST
64      8      XXH3-64 of the payload; 0 without CHECKSUM
72      8      header check: XXH3-64 of bytes 0 to 71, always present
======  =====  =============================================================================================

The header check covers every field, so a flipped bit in an index, an offset or the digest itself is found before anything is
believed. The payload is checked against the strongest evidence asked for: against the digest when the tree is computed, else
against the checksum. Where both are present and the tree is computed, the checksum is not computed a second time.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR
from libc.stdint cimport INT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

import os

from xxhash import xxh3_64_intdigest

from zcell._native import sha256
from zcell.errors import ProtocolError

cdef extern from "chunk_frame.h" nogil:
    const size_t ZC_FRAME_HEADER_BYTES
    const size_t ZC_FRAME_CHECKED_BYTES
    const size_t ZC_FRAME_MAX_PAYLOAD
    const uint8_t ZC_FLAG_LAST
    const uint8_t ZC_FLAG_DIGEST
    const uint8_t ZC_FLAG_CHECKSUM
    const uint8_t ZC_FLAG_SEALED
    const uint8_t ZC_FLAGS_KNOWN

    ctypedef struct zc_frame:
        uint64_t index
        uint64_t offset
        uint64_t checksum
        uint64_t header_check
        uint32_t length
        uint8_t flags
        uint8_t digest[32]

    ctypedef enum zc_frame_fault:
        ZC_FRAME_OK
        ZC_FRAME_SHORT
        ZC_FRAME_MAGIC
        ZC_FRAME_VERSION
        ZC_FRAME_FLAGS
        ZC_FRAME_RESERVED
        ZC_FRAME_TOO_LONG
        ZC_FRAME_LENGTH
        ZC_FRAME_RANGE
        ZC_FRAME_STRAY_DIGEST
        ZC_FRAME_STRAY_CHECKSUM

    void zc_frame_write(uint8_t *out, const zc_frame *frame)
    void zc_frame_write_check(uint8_t *out, uint64_t check)
    zc_frame_fault zc_frame_read(const uint8_t *data, size_t size, uint64_t max_length, zc_frame *frame)
    int zc_pread_range(int fd, uint8_t *data, size_t length, uint64_t offset, size_t *done)
    int zc_pwrite_range(int fd, const uint8_t *data, size_t length, uint64_t offset, size_t *done)

cdef extern from "sha256_kernel.h" nogil:
    int zc_sha256_demand_met()
    void zc_sha256_chunk_root(const uint8_t *data, size_t length, uint8_t *out)

HEADER_BYTES = ZC_FRAME_HEADER_BYTES
MAX_PAYLOAD_BYTES = ZC_FRAME_MAX_PAYLOAD
LAST = ZC_FLAG_LAST
DIGEST = ZC_FLAG_DIGEST
CHECKSUM = ZC_FLAG_CHECKSUM
SEALED = ZC_FLAG_SEALED

cdef uint64_t GIL_WORTH_BYTES = 16384  # below this, handing the GIL over costs more than the work


class ChunkCorrupt(ProtocolError):
    """The bytes of a chunk are not those its sender hashed: the header check, the checksum or the digest differs."""


cdef class Chunk:
    """One parsed chunk frame. `payload` is a view into the frame it was parsed from, and keeps that frame alive."""

    cdef readonly object index
    cdef readonly object offset
    cdef readonly object length
    cdef readonly object flags
    cdef readonly object digest
    cdef readonly object checksum
    cdef readonly object payload

    @property
    def is_last(self):
        """Whether this is the last chunk of a stream whose length was not known before."""
        return bool(self.flags & ZC_FLAG_LAST)

    @property
    def is_sealed(self):
        """Whether the payload is sealed: it must be opened before it can be verified or stored."""
        return bool(self.flags & ZC_FLAG_SEALED)

    def __repr__(self):
        return f"Chunk(index={self.index}, offset={self.offset}, length={self.length}, flags={self.flags:#x})"


cdef int demand_kernel() except -1:
    """Raises `KernelError` when ZCELL_SHA256_KERNEL demands a kernel that cannot be used: the C functions cannot say so."""
    if not zc_sha256_demand_met():
        sha256.kernel()
    return 0


# --- writing ---------------------------------------------------------------------------------------------------------------

cdef int check_position(object index, object offset, Py_ssize_t length, object flags) except -1:
    if not 0 <= index < 1 << 64:
        raise ValueError(f"index must be from 0 to 2**64 - 1, got {index}")
    if not 0 <= length <= <Py_ssize_t>ZC_FRAME_MAX_PAYLOAD:
        raise ValueError(f"a chunk holds at most {ZC_FRAME_MAX_PAYLOAD} bytes, got {length}")
    if not 0 <= offset <= INT64_MAX - length:
        raise ValueError(f"offset must be from 0 to 2**63 - 1 - length, got {offset}")
    if flags & ~(ZC_FLAG_LAST | ZC_FLAG_SEALED):
        raise ValueError(f"flags may be LAST and SEALED (the others follow from the arguments), got {flags:#x}")
    return 0


cdef object finish_header(object frame, uint8_t *out, zc_frame *header, bint checksum):
    """Writes the header of a frame, whose bytes are at `out`, and whose payload is already in place."""
    if checksum:
        header.flags |= ZC_FLAG_CHECKSUM
        header.checksum = xxh3_64_intdigest(memoryview(frame)[ZC_FRAME_HEADER_BYTES:])
    zc_frame_write(out, header)
    zc_frame_write_check(out, xxh3_64_intdigest(out[:ZC_FRAME_CHECKED_BYTES]))
    return frame


def encode(index, offset, payload, *, digest=None, bint checksum=True, flags=0):
    """A chunk frame around a copy of `payload` (any contiguous buffer, at most 16 MiB).

    `digest`: the 32-byte chunk digest to carry, if any; it is not computed here. `flags`: LAST and SEALED.
    Raises `ValueError` for what a header cannot hold.
    """
    cdef Py_buffer view
    cdef zc_frame header
    cdef bytes frame
    cdef uint8_t *out
    if digest is not None and len(digest) != 32:
        raise ValueError(f"digest must be 32 bytes, got {len(digest)}")
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        check_position(index, offset, view.len, flags)
        header.index, header.offset, header.length, header.flags = index, offset, <uint32_t>view.len, flags
        if digest is not None:
            header.flags |= ZC_FLAG_DIGEST
            memcpy(header.digest, PyBytes_AS_STRING(bytes(digest)), 32)
        frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>ZC_FRAME_HEADER_BYTES + view.len)
        out = <uint8_t *>PyBytes_AS_STRING(frame) + ZC_FRAME_HEADER_BYTES
        if <uint64_t>view.len < GIL_WORTH_BYTES:
            memcpy(out, view.buf, view.len)
        else:
            with nogil:
                memcpy(out, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return finish_header(frame, <uint8_t *>PyBytes_AS_STRING(frame), &header, checksum)


cdef bytes read_into(uint8_t *out, object frame, int fd, object index, object offset, Py_ssize_t length, bint want_digest,
                     bint checksum, object flags):
    """Reads the payload of a chunk into its frame at `out`, hashes it and writes the header; the digest, or b""."""
    cdef zc_frame header
    cdef size_t done = 0
    cdef int failure = EINTR
    cdef uint8_t *data = out + ZC_FRAME_HEADER_BYTES
    header.index, header.offset, header.length, header.flags = index, offset, <uint32_t>length, flags
    while failure == EINTR:
        with nogil:
            failure = zc_pread_range(fd, data, length, header.offset, &done)
            if failure == 0 and done == <size_t>length and want_digest:
                zc_sha256_chunk_root(data, length, header.digest)
        if failure == EINTR:
            PyErr_CheckSignals()
    if failure:
        raise OSError(failure, f"reading chunk {index} ({length} bytes at {offset}): {os.strerror(failure)}")
    if done < <size_t>length:
        raise EOFError(f"the file ends at {header.offset + done}, inside chunk {index} ({length} bytes at {offset})")
    if want_digest:
        header.flags |= ZC_FLAG_DIGEST
    finish_header(frame, out, &header, checksum)
    return PyBytes_FromStringAndSize(<char *>header.digest, 32) if want_digest else b""


def read_chunk(int fd, index, offset, Py_ssize_t length, *, bint want_digest=True, bint checksum=True, flags=0):
    """Reads `length` bytes at `offset` of a file straight into a new chunk frame: `(frame, digest)`.

    Reading and hashing are one call without the GIL. `digest` is the chunk digest, also in the frame, or ``b""`` when not
    wanted; with a digest in the frame a receiver that computes the tree does not need the checksum as well. Raises `EOFError`
    when the file ends earlier (it has shrunk) and `OSError` as `os.pread` does.
    """
    check_position(index, offset, length, flags)
    if want_digest:
        demand_kernel()
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>ZC_FRAME_HEADER_BYTES + length)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(frame)
    return frame, read_into(out, frame, fd, index, offset, length, want_digest, checksum, flags)


# Memory of frames that nobody holds any more, kept for the next ones: a fresh MiB costs 256 page faults each time, a fifth of
# what sending it costs. Only blocks of the largest size seen are kept. Touched with the GIL held, so it needs no lock.
cdef enum:
    MOST_KEPT = 16
    MOST_KEPT_BYTES = 16777216
cdef uint8_t *kept[MOST_KEPT]
cdef size_t kept_size = 0
cdef size_t kept_count = 0


cdef uint8_t *take_block(size_t size) except NULL:
    global kept_count
    if size == kept_size and kept_count:
        kept_count -= 1
        return kept[kept_count]
    cdef uint8_t *block = <uint8_t *>malloc(size)
    if block == NULL:
        raise MemoryError(f"no memory for a chunk frame of {size} bytes")
    return block


cdef void give_block(uint8_t *block, size_t size) noexcept:
    global kept_size, kept_count
    if size > kept_size:
        while kept_count:
            kept_count -= 1
            free(kept[kept_count])
        kept_size = size
    if size == kept_size and kept_count < MOST_KEPT and (kept_count + 1) * size <= MOST_KEPT_BYTES + MOST_KEPT * ZC_FRAME_HEADER_BYTES:
        kept[kept_count] = block
        kept_count += 1
    else:
        free(block)


@cython.final
cdef class FrameBuffer:
    """A chunk frame as a read-only buffer, whose memory is used again once nothing refers to it any more."""

    cdef uint8_t *data
    cdef Py_ssize_t size

    def __dealloc__(self):
        if self.data != NULL:
            give_block(self.data, self.size)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 1, flags)


def read_frame(int fd, index, offset, Py_ssize_t length, *, bint want_digest=True, bint checksum=True, flags=0):
    """As `read_chunk`, but the frame is a `FrameBuffer`: for frames that are sent and forgotten."""
    check_position(index, offset, length, flags)
    if want_digest:
        demand_kernel()
    cdef FrameBuffer frame = FrameBuffer.__new__(FrameBuffer)
    cdef size_t size = ZC_FRAME_HEADER_BYTES + <size_t>length
    frame.data = take_block(size)
    frame.size = size
    return frame, read_into(frame.data, frame, fd, index, offset, length, want_digest, checksum, flags)


# --- reading ---------------------------------------------------------------------------------------------------------------

cdef str describe_fault(zc_frame_fault fault, const zc_frame *header, Py_ssize_t size, object max_length):
    if fault == ZC_FRAME_SHORT:
        return f"chunk frame of {size} bytes is shorter than its header of {ZC_FRAME_HEADER_BYTES}"
    if fault == ZC_FRAME_MAGIC:
        return "chunk frame does not begin with ZCK1"
    if fault == ZC_FRAME_VERSION:
        return "chunk frame of an unknown version, expected 1"
    if fault == ZC_FRAME_FLAGS:
        return f"chunk frame has unknown flags {header.flags:#x}"
    if fault == ZC_FRAME_RESERVED:
        return "chunk frame has reserved bytes that are not zero"
    if fault == ZC_FRAME_TOO_LONG:
        return f"chunk of {header.length} bytes, at most {min(max_length, ZC_FRAME_MAX_PAYLOAD)} are allowed"
    if fault == ZC_FRAME_LENGTH:
        return f"chunk frame declares {header.length} bytes but holds {size - <Py_ssize_t>ZC_FRAME_HEADER_BYTES}"
    if fault == ZC_FRAME_RANGE:
        return f"chunk of {header.length} bytes at offset {header.offset} ends beyond 2**63"
    if fault == ZC_FRAME_STRAY_DIGEST:
        return "chunk frame has digest bytes without the DIGEST flag"
    return "chunk frame has checksum bytes without the CHECKSUM flag"


cdef int read_header(Py_buffer *view, object max_length, zc_frame *header) except -1:
    """Bounds first, then the header check: afterwards every field of `header` can be believed."""
    if max_length < 0:
        raise ValueError(f"max_length must not be negative, got {max_length}")
    cdef uint64_t bound = min(max_length, ZC_FRAME_MAX_PAYLOAD)
    cdef zc_frame_fault fault = zc_frame_read(<uint8_t *>view.buf, view.len, bound, header)
    if fault != ZC_FRAME_OK:
        raise ProtocolError(describe_fault(fault, header, view.len, max_length))
    if xxh3_64_intdigest((<char *>view.buf)[:ZC_FRAME_CHECKED_BYTES]) != header.header_check:
        raise ChunkCorrupt(f"chunk frame whose header check differs (it claims index {header.index}, offset {header.offset})")
    return 0


cdef object payload_of(object frame):
    view = memoryview(frame)
    if view.ndim != 1 or view.format != "B":
        view = view.cast("B")
    return view[ZC_FRAME_HEADER_BYTES:]


cdef Chunk make_chunk(const zc_frame *header, object payload):
    cdef Chunk chunk = Chunk.__new__(Chunk)
    chunk.index = header.index
    chunk.offset = header.offset
    chunk.length = header.length
    chunk.flags = header.flags
    chunk.digest = (<char *>header.digest)[:32] if header.flags & ZC_FLAG_DIGEST else None
    chunk.checksum = header.checksum if header.flags & ZC_FLAG_CHECKSUM else None
    chunk.payload = payload
    return chunk


def parse(frame_buffer, *, max_length):
    """The chunk in a frame (any contiguous buffer); its header is checked, its payload is not.

    Raises `ProtocolError` naming the field that is wrong, `ChunkCorrupt` when the header check differs.
    """
    cdef Py_buffer view
    cdef zc_frame header
    PyObject_GetBuffer(frame_buffer, &view, PyBUF_SIMPLE)
    try:
        read_header(&view, max_length, &header)
    finally:
        PyBuffer_Release(&view)
    return make_chunk(&header, payload_of(frame_buffer))


cdef Chunk check(object frame, bint tree, object max_length, object expect_index, int fd):
    """Verifies a frame and, when `fd` is not -1, writes its payload at its offset. Nothing is written of a frame that fails."""
    cdef Py_buffer view
    cdef zc_frame header
    cdef uint8_t root[32]
    cdef const uint8_t *data
    cdef bint differs = False
    cdef size_t done = 0
    cdef int failure = 0
    if tree:
        demand_kernel()
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    try:
        read_header(&view, max_length, &header)
        if expect_index is not None and header.index != expect_index:
            raise ProtocolError(f"chunk {header.index} came where chunk {expect_index} was expected")
        if header.flags & ZC_FLAG_SEALED:
            raise ProtocolError(f"chunk {header.index} is sealed: it must be opened before it is verified")
        payload = payload_of(frame)
        if header.flags & ZC_FLAG_CHECKSUM and not (tree and header.flags & ZC_FLAG_DIGEST):
            if xxh3_64_intdigest(payload) != header.checksum:
                raise ChunkCorrupt(f"chunk {header.index} is corrupt: its checksum differs")
        data = <uint8_t *>view.buf + ZC_FRAME_HEADER_BYTES
        with nogil:
            if tree:
                zc_sha256_chunk_root(data, header.length, root)
                differs = header.flags & ZC_FLAG_DIGEST and memcmp(root, header.digest, 32) != 0
            if fd >= 0 and not differs:
                failure = zc_pwrite_range(fd, data, header.length, header.offset, &done)
        if differs:
            raise ChunkCorrupt(f"chunk {header.index} is corrupt: its digest differs")
        while failure == EINTR:
            PyErr_CheckSignals()
            with nogil:
                failure = zc_pwrite_range(fd, data, header.length, header.offset, &done)
        if failure:
            raise OSError(
                failure, f"writing chunk {header.index} ({header.length} bytes at {header.offset}): {os.strerror(failure)}"
            )
    finally:
        PyBuffer_Release(&view)
    if tree:
        header.flags |= ZC_FLAG_DIGEST
        memcpy(header.digest, root, 32)
    return make_chunk(&header, payload)


def verify(frame_buffer, *, bint tree, max_length):
    """The chunk in a frame, its payload checked: with `tree` by computing the chunk digest, else by the checksum if it has one.

    With `tree` the returned chunk's `digest` is the computed one (and its DIGEST flag set), whether or not the frame carried
    one. Raises `ProtocolError` for a frame that is wrong or sealed, `ChunkCorrupt` for bytes that differ.
    """
    return check(frame_buffer, tree, max_length, None, -1)


def store(int fd, frame_buffer, *, bint tree, max_length, expect_index=None):
    """As `verify`, and writes the payload into `fd` at the chunk's offset, hashing and writing in one call without the GIL.

    A frame that fails any check writes nothing. Raises `OSError` as `os.pwrite` does; part of the payload may be written then.
    """
    if fd < 0:
        raise ValueError(f"fd must be an open descriptor, got {fd}")
    return check(frame_buffer, tree, max_length, expect_index, fd)
