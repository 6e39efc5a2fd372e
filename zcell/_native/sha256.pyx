# cython: boundscheck=False, wraparound=False, freethreading_compatible=False
"""SHA-256 leaves and the RFC 9162 tree over the kernels in sha256_*.c; `zcell.digest` is the public face.

Invariant: every buffer is held (and so cannot move or shrink) for as long as its bytes are read without the GIL.
"""

import os
from threading import Lock

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.unistd cimport read

from zcell.errors import KernelError

cdef extern from "sha256_kernel.h" nogil:
    ctypedef struct zc_sha256_kernel:
        pass
    ctypedef struct zc_sha256_span:
        const uint8_t *data
        size_t length
        uint8_t *out
    ctypedef struct zc_sha256_tree:
        uint64_t leaves
    const zc_sha256_kernel *zc_sha256_kernel_in_use()
    const zc_sha256_kernel *zc_sha256_kernel_at(size_t index)
    const char *zc_sha256_kernel_name(const zc_sha256_kernel *kernel)
    bint zc_sha256_kernel_usable(const zc_sha256_kernel *kernel)
    bint zc_sha256_kernel_test_only(const zc_sha256_kernel *kernel)
    void zc_sha256_leaves(const zc_sha256_kernel *kernel, const zc_sha256_span *spans, size_t count)
    void zc_sha256_combine(const zc_sha256_kernel *kernel, const uint8_t *nodes, size_t count, uint8_t *out)
    void zc_sha256_root(const zc_sha256_kernel *kernel, const uint8_t *data, size_t length, uint8_t *out)
    void zc_sha256_tree_init(zc_sha256_tree *tree)
    void zc_sha256_tree_append(zc_sha256_tree *tree, const zc_sha256_kernel *kernel, const uint8_t *data, size_t length)
    void zc_sha256_tree_root(const zc_sha256_tree *tree, const zc_sha256_kernel *kernel, uint8_t *out)

LEAF_BYTES = 65536
cdef enum:
    NODE = 32
    LEAF = 65536
    # bytes gathered before hashing: 16 leaves fill the widest kernel and stay in the cache
    GATHER = 1048576
    # reads between two looks for a pending Ctrl-C
    READS = 64


def kernels():
    return tuple(_names(test_only=False))


def kernel():
    return zc_sha256_kernel_name(_kernel(None)).decode()


def leaves(buffer, *, kernel=None):
    return leaves_many((buffer,), kernel=kernel)[0]


def leaves_many(buffers, *, kernel=None):
    cdef const zc_sha256_kernel *chosen = _kernel(kernel)
    cdef _Spans spans = _Spans(buffers)
    with nogil:
        zc_sha256_leaves(chosen, spans.items, spans.count)
    return spans.outputs


def roots_many(buffers, *, kernel=None):
    cdef const zc_sha256_kernel *chosen = _kernel(kernel)
    return [nodes if len(nodes) == NODE else _combine(chosen, nodes) for nodes in leaves_many(buffers, kernel=kernel)]


def chunk_root(buffer, *, kernel=None):
    cdef const zc_sha256_kernel *chosen = _kernel(kernel)
    cdef Py_buffer view
    cdef uint8_t out[NODE]
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            zc_sha256_root(chosen, <const uint8_t *> view.buf, view.len, out)
    finally:
        PyBuffer_Release(&view)
    return out[:NODE]


def combine(nodes, *, kernel=None):
    return _combine(_kernel(kernel), nodes)


def file_root(int fd, *, kernel=None):
    cdef const zc_sha256_kernel *chosen = _kernel(kernel)
    cdef zc_sha256_tree tree
    cdef uint8_t out[NODE]
    cdef uint64_t total = 0
    cdef int failure = 0
    cdef bint ended = False
    cdef uint8_t *buffer = <uint8_t *> malloc(GATHER)
    if not buffer:
        raise MemoryError("no memory to read a file in")
    zc_sha256_tree_init(&tree)
    try:
        while not ended:
            with nogil:
                failure = _append_reads(fd, buffer, chosen, &tree, &total, &ended)
            if failure and failure != EINTR:
                raise OSError(failure, os.strerror(failure))
            PyErr_CheckSignals()
    finally:
        free(buffer)
    with nogil:
        zc_sha256_tree_root(&tree, chosen, out)
    return out[:NODE], total


cdef int _append_reads(
    int fd, uint8_t *buffer, const zc_sha256_kernel *chosen, zc_sha256_tree *tree, uint64_t *total, bint *ended
) noexcept nogil:
    """Read and append until the end or READS full buffers; the errno of a failed read. Only the last append is short."""
    cdef size_t filled
    cdef Py_ssize_t got
    cdef int turn
    for turn in range(READS):
        filled = 0
        while filled < GATHER:
            got = read(fd, buffer + filled, GATHER - filled)
            if got == 0:
                ended[0] = True
                break
            if got > 0:
                filled += <size_t> got
            elif errno != EINTR:
                return errno
        zc_sha256_tree_append(tree, chosen, buffer, filled)
        total[0] += filled
        if ended[0]:
            break
    return 0


cdef class Tree:
    cdef zc_sha256_tree tree
    cdef const zc_sha256_kernel *chosen
    cdef uint8_t *pending
    cdef size_t pending_bytes
    cdef object lock
    cdef readonly unsigned long long length

    def __cinit__(self, *, kernel=None):
        self.chosen = _kernel(kernel)
        self.lock = Lock()
        zc_sha256_tree_init(&self.tree)

    def __dealloc__(self):
        free(self.pending)

    def update(self, data):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with self.lock:
                self._need_pending()
                with nogil:
                    self._append(<const uint8_t *> view.buf, view.len)
                self.length += <unsigned long long> view.len
        finally:
            PyBuffer_Release(&view)

    def digest(self):
        cdef zc_sha256_tree tree
        cdef uint8_t out[NODE]
        with self.lock:
            tree = self.tree
            with nogil:
                zc_sha256_tree_append(&tree, self.chosen, self.pending, self.pending_bytes)
                zc_sha256_tree_root(&tree, self.chosen, out)
        return out[:NODE]

    def copy(self):
        cdef Tree other = Tree.__new__(Tree)
        with self.lock:
            other.chosen = self.chosen
            other.tree = self.tree
            other.length = self.length
            if self.pending_bytes:
                other._need_pending()
                memcpy(other.pending, self.pending, self.pending_bytes)
                other.pending_bytes = self.pending_bytes
        return other

    cdef int _need_pending(self) except -1:
        if not self.pending:
            self.pending = <uint8_t *> malloc(GATHER)
            if not self.pending:
                raise MemoryError("no memory for a tree hasher")
        return 0

    cdef void _append(self, const uint8_t *data, size_t length) noexcept nogil:
        cdef size_t part
        while length:
            if not self.pending_bytes and length >= GATHER:
                part = length - length % GATHER
                zc_sha256_tree_append(&self.tree, self.chosen, data, part)
            else:
                part = min(length, GATHER - self.pending_bytes)
                memcpy(self.pending + self.pending_bytes, data, part)
                self.pending_bytes += part
                if self.pending_bytes == GATHER:
                    zc_sha256_tree_append(&self.tree, self.chosen, self.pending, GATHER)
                    self.pending_bytes = 0
            data += part
            length -= part


cdef class _Spans:
    """Held buffers and a fresh bytes object for the leaf hashes of each."""

    cdef zc_sha256_span *items
    cdef Py_buffer *views
    cdef size_t count
    cdef list outputs

    def __cinit__(self, buffers):
        cdef tuple sources = tuple(buffers)
        cdef size_t size
        self.outputs = []
        self.items = <zc_sha256_span *> calloc(len(sources) + 1, sizeof(zc_sha256_span))
        self.views = <Py_buffer *> calloc(len(sources) + 1, sizeof(Py_buffer))
        if not self.items or not self.views:
            raise MemoryError("no memory for the list of buffers to hash")
        for source in sources:
            PyObject_GetBuffer(source, &self.views[self.count], PyBUF_SIMPLE)
            size = self.views[self.count].len
            output = PyBytes_FromStringAndSize(NULL, (size // LEAF + (size % LEAF != 0)) * NODE)
            self.outputs.append(output)
            self.items[self.count].data = <const uint8_t *> self.views[self.count].buf
            self.items[self.count].length = size
            self.items[self.count].out = <uint8_t *> PyBytes_AS_STRING(output)
            self.count += 1

    def __dealloc__(self):
        cdef size_t index
        for index in range(self.count):
            PyBuffer_Release(&self.views[index])
        free(self.views)
        free(self.items)


cdef bytes _combine(const zc_sha256_kernel *chosen, nodes):
    cdef Py_buffer view
    cdef uint8_t out[NODE]
    PyObject_GetBuffer(nodes, &view, PyBUF_SIMPLE)
    try:
        if view.len % NODE:
            raise ValueError(f"nodes must be a whole number of 32-byte digests, got {view.len} bytes")
        with nogil:
            zc_sha256_combine(chosen, <const uint8_t *> view.buf, view.len // NODE, out)
    finally:
        PyBuffer_Release(&view)
    return out[:NODE]


cdef list _names(bint test_only):
    """The kernels this CPU can run, best first."""
    cdef const zc_sha256_kernel *kernel
    cdef size_t index = 0
    cdef list names = []
    while True:
        kernel = zc_sha256_kernel_at(index)
        if not kernel:
            return names
        if zc_sha256_kernel_usable(kernel) and (test_only or not zc_sha256_kernel_test_only(kernel)):
            names.append(zc_sha256_kernel_name(kernel).decode())
        index += 1


cdef const zc_sha256_kernel *_kernel(name) except NULL:
    """The kernel of that name; for None the one in use. KernelError names what this CPU can run."""
    cdef const zc_sha256_kernel *kernel
    cdef size_t index = 0
    if name is None:
        kernel = zc_sha256_kernel_in_use()
        if kernel:
            return kernel
        name, who = os.environ.get("ZCELL_SHA256_KERNEL", ""), "ZCELL_SHA256_KERNEL demands"
    else:
        who = "the caller demands"
        while True:
            kernel = zc_sha256_kernel_at(index)
            if not kernel:
                break
            if zc_sha256_kernel_name(kernel).decode() == name and zc_sha256_kernel_usable(kernel):
                return kernel
            index += 1
    raise KernelError(f"{who} the SHA-256 kernel {name!r}, which this CPU cannot run; it can run: {', '.join(kernels())}")
