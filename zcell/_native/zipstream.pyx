# cython: boundscheck=False, wraparound=False
"""The records of a ZIP archive (APPNOTE 6.3.10). Invariant: a record that comes back was whole, and every length in it was
checked before it was used; whether its values are acceptable is the business of the reader above.

Record functions take whole records: read the fixed part, ask `local_tail` or `central_tail` how much follows, read that, parse.
All sizes and offsets come back resolved: from the ZIP64 extra field where the record refers to it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from typing import NamedTuple

from zcell.errors import BundleError

cdef extern from "zipstream_record.h" nogil:
    const size_t ZC_ZIP_LOCAL_BYTES
    const size_t ZC_ZIP_CENTRAL_BYTES
    const size_t ZC_ZIP_END_BYTES
    const size_t ZC_ZIP_END64_BYTES
    const size_t ZC_ZIP_LOCATOR_BYTES
    const size_t ZC_ZIP_LOCAL_MOST
    const size_t ZC_ZIP_CENTRAL_MOST
    const size_t ZC_ZIP_DESCRIPTOR_MOST
    const size_t ZC_ZIP_END_MOST

    ctypedef struct zc_zip_entry:
        const uint8_t *name
        uint64_t compressed
        uint64_t size
        uint64_t offset
        uint32_t crc
        uint32_t dos_time
        uint32_t attributes
        int32_t mtime
        uint16_t name_bytes
        uint16_t flags
        uint16_t method
        uint8_t host
        uint8_t has_mtime
        uint8_t zip64

    ctypedef struct zc_zip_end:
        uint64_t entries
        uint64_t directory_bytes
        uint64_t directory_offset
        uint16_t comment_bytes

    ctypedef enum zc_zip_fault:
        ZC_ZIP_OK
        ZC_ZIP_SHORT
        ZC_ZIP_SIGNATURE
        ZC_ZIP_EXTRA
        ZC_ZIP_EXTRA_TWICE
        ZC_ZIP_ZIP64_MISSING
        ZC_ZIP_OTHER_NAME
        ZC_ZIP_DISKS
        ZC_ZIP_END64_SIZE
        ZC_ZIP_COUNTS

    size_t zc_zip_write_local(uint8_t *out, const zc_zip_entry *entry)
    size_t zc_zip_write_descriptor(uint8_t *out, const zc_zip_entry *entry)
    size_t zc_zip_write_central(uint8_t *out, const zc_zip_entry *entry)
    size_t zc_zip_write_end(uint8_t *out, const zc_zip_end *end)
    size_t zc_zip_local_tail(const uint8_t *fixed)
    size_t zc_zip_central_tail(const uint8_t *fixed)
    zc_zip_fault zc_zip_read_local(const uint8_t *data, size_t size, zc_zip_entry *entry)
    zc_zip_fault zc_zip_read_central(const uint8_t *data, size_t size, zc_zip_entry *entry)
    zc_zip_fault zc_zip_read_end(const uint8_t *data, size_t size, zc_zip_end *end)
    zc_zip_fault zc_zip_read_end64(const uint8_t *data, size_t size, zc_zip_end *end)
    zc_zip_fault zc_zip_read_locator(const uint8_t *data, size_t size, uint64_t *offset)

LOCAL_BYTES = ZC_ZIP_LOCAL_BYTES
CENTRAL_BYTES = ZC_ZIP_CENTRAL_BYTES
END_BYTES = ZC_ZIP_END_BYTES
END64_BYTES = ZC_ZIP_END64_BYTES
LOCATOR_BYTES = ZC_ZIP_LOCATOR_BYTES

LOCAL_SIGNATURE = b"PK\x03\x04"
CENTRAL_SIGNATURE = b"PK\x01\x02"
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
END_SIGNATURE = b"PK\x05\x06"
END64_SIGNATURE = b"PK\x06\x06"
LOCATOR_SIGNATURE = b"PK\x06\x07"

ENCRYPTED_FLAG = 0x0001
DESCRIPTOR_FLAG = 0x0008
UTF8_FLAG = 0x0800
STORED = 0
DEFLATED = 8


class EntryRecord(NamedTuple):
    """A local or a central header. `offset`, `attributes` and `host` are 0 in a local one; `mtime` is None without the extended
    timestamp field; with `zip64` a descriptor has sizes of 8 bytes."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed_bytes: int
    size_bytes: int
    dos_time: int
    mtime: int | None
    zip64: bool
    offset: int
    attributes: int
    host: int


class EndRecord(NamedTuple):
    """An end record, plain or ZIP64 (which has no comment)."""

    entries: int
    directory_bytes: int
    directory_offset: int
    comment_bytes: int


# --- writing ---------------------------------------------------------------------------------------------------------------

ctypedef size_t (*entry_writer)(uint8_t *out, const zc_zip_entry *entry) noexcept nogil


cdef bytes write_entry(entry_writer writer, bytes name, size_t most, zc_zip_entry *entry):
    cdef Py_ssize_t name_bytes = PyBytes_GET_SIZE(name)
    if name_bytes > 0xFFFF:
        raise ValueError(f"a name in a ZIP archive has at most 65535 bytes, got {name_bytes}")
    entry.name = <const uint8_t *>PyBytes_AS_STRING(name)
    entry.name_bytes = <uint16_t>name_bytes
    cdef uint8_t *out = <uint8_t *>malloc(most + name_bytes)
    if out == NULL:
        raise MemoryError
    try:
        return PyBytes_FromStringAndSize(<char *>out, writer(out, entry))
    finally:
        free(out)


cdef int fill_entry(
    zc_zip_entry *entry, object flags, object method, object dos_time, object mtime, object crc, object compressed, object size
) except -1:
    memset(entry, 0, sizeof(zc_zip_entry))
    entry.flags, entry.method, entry.dos_time = flags, method, dos_time
    entry.crc, entry.compressed, entry.size = crc, compressed, size
    if mtime is not None:
        entry.mtime, entry.has_mtime = mtime, 1
    return 0


def local_header(bytes name, *, flags, method, dos_time, mtime, crc=0, compressed_bytes=0, size_bytes=0, bint zip64=False):
    """A local file header (4.3.7). `zip64` adds the ZIP64 field, with both sizes; without it they must be below 4 GiB - 1."""
    cdef zc_zip_entry entry
    fill_entry(&entry, flags, method, dos_time, mtime, crc, compressed_bytes, size_bytes)
    if not zip64 and (entry.compressed >= 0xFFFFFFFF or entry.size >= 0xFFFFFFFF):
        raise ValueError(f"{name!r} needs a ZIP64 header: {size_bytes} bytes, {compressed_bytes} compressed")
    entry.zip64 = zip64
    return write_entry(zc_zip_write_local, name, ZC_ZIP_LOCAL_MOST, &entry)


def data_descriptor(*, crc, compressed_bytes, size_bytes, bint zip64):
    """A data descriptor (4.3.9) with its signature; `zip64` as in the local header before it."""
    cdef zc_zip_entry entry
    fill_entry(&entry, 0, 0, 0, None, crc, compressed_bytes, size_bytes)
    if not zip64 and (entry.compressed > 0xFFFFFFFF or entry.size > 0xFFFFFFFF):
        raise ValueError(f"sizes of {size_bytes} and {compressed_bytes} bytes need a ZIP64 descriptor")
    entry.zip64 = zip64
    return write_entry(zc_zip_write_descriptor, b"", ZC_ZIP_DESCRIPTOR_MOST, &entry)


def central_header(bytes name, *, flags, method, dos_time, mtime, crc, compressed_bytes, size_bytes, offset, attributes, bint zip64):
    """A header of the central directory (4.3.12), made by a Unix host; ZIP64 values are used where they are needed."""
    cdef zc_zip_entry entry
    fill_entry(&entry, flags, method, dos_time, mtime, crc, compressed_bytes, size_bytes)
    entry.offset, entry.attributes, entry.zip64 = offset, attributes, zip64
    return write_entry(zc_zip_write_central, name, ZC_ZIP_CENTRAL_MOST, &entry)


def end_of_archive(*, entries, directory_bytes, directory_offset):
    """The end record (4.3.16), with the ZIP64 end record and its locator before it where they are needed."""
    cdef zc_zip_end end
    cdef uint8_t out[128]
    end.entries, end.directory_bytes, end.directory_offset, end.comment_bytes = entries, directory_bytes, directory_offset, 0
    return PyBytes_FromStringAndSize(<char *>out, zc_zip_write_end(out, &end))


# --- reading ---------------------------------------------------------------------------------------------------------------

cdef dict FAULTS = {
    ZC_ZIP_SHORT: "has not the length that it declares",
    ZC_ZIP_SIGNATURE: "does not begin with its signature",
    ZC_ZIP_EXTRA: "has a malformed extra field",
    ZC_ZIP_EXTRA_TWICE: "has the same extra field twice",
    ZC_ZIP_ZIP64_MISSING: "refers to a ZIP64 extra field that is not there or too short",
    ZC_ZIP_OTHER_NAME: "has a second, different name in its Unicode path field",
    ZC_ZIP_DISKS: "belongs to an archive of several disks",
    ZC_ZIP_END64_SIZE: "has an extensible data sector",
    ZC_ZIP_COUNTS: "disagrees with itself on the number of entries",
}


cdef int refuse(zc_zip_fault fault, str record) except -1:
    if fault != ZC_ZIP_OK:
        raise BundleError(f"{record} {FAULTS[fault]}")
    return 0


cdef object make_record(const zc_zip_entry *entry):
    return EntryRecord(
        PyBytes_FromStringAndSize(<const char *>entry.name, entry.name_bytes),
        entry.flags,
        entry.method,
        entry.crc,
        entry.compressed,
        entry.size,
        entry.dos_time,
        entry.mtime if entry.has_mtime else None,
        entry.zip64 != 0,
        entry.offset,
        entry.attributes,
        entry.host,
    )


def local_tail(bytes fixed):
    """Bytes of name and extra field behind the fixed part (`LOCAL_BYTES`) of a local header."""
    if PyBytes_GET_SIZE(fixed) < <Py_ssize_t>ZC_ZIP_LOCAL_BYTES:
        raise ValueError(f"the fixed part of a local header has {ZC_ZIP_LOCAL_BYTES} bytes, got {len(fixed)}")
    return zc_zip_local_tail(<const uint8_t *>PyBytes_AS_STRING(fixed))


def central_tail(bytes fixed):
    """Bytes of name, extra field and comment behind the fixed part (`CENTRAL_BYTES`) of a header of the central directory."""
    if PyBytes_GET_SIZE(fixed) < <Py_ssize_t>ZC_ZIP_CENTRAL_BYTES:
        raise ValueError(f"the fixed part of a central header has {ZC_ZIP_CENTRAL_BYTES} bytes, got {len(fixed)}")
    return zc_zip_central_tail(<const uint8_t *>PyBytes_AS_STRING(fixed))


def parse_local(record):
    """A whole local header. Raises `BundleError` naming what is malformed."""
    cdef Py_buffer view
    cdef zc_zip_entry entry
    PyObject_GetBuffer(record, &view, PyBUF_SIMPLE)
    try:
        refuse(zc_zip_read_local(<const uint8_t *>view.buf, view.len, &entry), "a local header")
        return make_record(&entry)
    finally:
        PyBuffer_Release(&view)


def parse_central(record):
    """A whole header of the central directory. Raises `BundleError` naming what is malformed."""
    cdef Py_buffer view
    cdef zc_zip_entry entry
    PyObject_GetBuffer(record, &view, PyBUF_SIMPLE)
    try:
        refuse(zc_zip_read_central(<const uint8_t *>view.buf, view.len, &entry), "a central header")
        return make_record(&entry)
    finally:
        PyBuffer_Release(&view)


def parse_end(bytes record):
    """The end record without its comment. Values that stand for ZIP64 come back as they are."""
    cdef zc_zip_end end
    refuse(zc_zip_read_end(<const uint8_t *>PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record), &end), "the end record")
    return EndRecord(end.entries, end.directory_bytes, end.directory_offset, end.comment_bytes)


def parse_end64(bytes record):
    """The ZIP64 end record."""
    cdef zc_zip_end end
    refuse(zc_zip_read_end64(<const uint8_t *>PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record), &end), "the ZIP64 end record")
    return EndRecord(end.entries, end.directory_bytes, end.directory_offset, 0)


def parse_locator(bytes record):
    """The offset of the ZIP64 end record, from its locator."""
    cdef uint64_t offset = 0
    refuse(
        zc_zip_read_locator(<const uint8_t *>PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record), &offset), "the ZIP64 locator"
    )
    return offset
