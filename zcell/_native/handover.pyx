# cython: boundscheck=False, wraparound=False
"""How threads hand work to one another. Invariant: who is woken never finds the waker in possession of the interpreter's lock.

Waking a thread from Python is one call and going to sleep is the next; in between, the woken thread runs into the GIL, goes back to
sleep, and has to be woken again. Here the two are one call that does both without the GIL.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t

import os

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    ctypedef long long PY_TIMEOUT_T
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    int PyThread_acquire_lock(PyThread_type_lock, int)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, PY_TIMEOUT_T, int)
    void PyThread_release_lock(PyThread_type_lock)

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int c_poll "poll"(pollfd *, unsigned long, int)

cdef extern from "sched.h" nogil:
    int c_yield "sched_yield"()

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int, timespec *)

cdef extern from "unistd.h" nogil:
    ssize_t c_read "read"(int, void *, size_t)
    ssize_t c_write "write"(int, const void *, size_t)
    int c_close "close"(int)

cdef enum:
    MAX_FDS = 32
    MAX_SLEEPERS = 64

cdef double MAX_SECONDS = 1e9
cdef double SPIN_SECONDS = 300e-6
cdef double LONG_SECONDS = 2e-3


cdef double _now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef PyThread_type_lock _new_lock() except NULL:
    cdef PyThread_type_lock lock = PyThread_allocate_lock()
    if lock == NULL:
        raise MemoryError("no memory for a lock")
    return lock


@cython.final
cdef class Waker:
    """Wakes the one thread that waits in a `Poll` for its descriptor (an eventfd). For any thread, also after `close`."""

    cdef int fd
    cdef int awake
    cdef int pending
    cdef PyThread_type_lock guard

    def __cinit__(self):
        self.fd = -1
        self.guard = _new_lock()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)
        if self.guard != NULL:
            PyThread_free_lock(self.guard)

    def fileno(self):
        """The descriptor, -1 once closed."""
        return self.fd

    def wake(self):
        """Wake the thread, unless that was done already since it last came round."""
        if self._must_wake():
            with nogil:
                self._write()

    def wake_later(self):
        """Let the next `flush`, or the next `Sleeper.sleep` that is given this, wake the thread."""
        self.pending = 1

    def flush(self):
        """`wake`, if there was a `wake_later` since the thread last came round."""
        if self.pending:
            self.wake()

    def clear(self):
        """The thread came round: whoever posts from now on must wake it again."""
        cdef uint64_t count = 0
        cdef ssize_t got
        with nogil:
            got = c_read(self.fd, &count, sizeof(count))
        self.awake = 0

    def close(self):
        """Release the descriptor; wakes that come later do nothing. Idempotent."""
        with nogil:
            PyThread_acquire_lock(self.guard, 1)
            if self.fd >= 0:
                c_close(self.fd)
                self.fd = -1
            PyThread_release_lock(self.guard)

    cdef int _must_wake(self) noexcept:
        self.pending = 0
        if self.awake:
            return 0
        self.awake = 1
        return 1

    cdef void _write(self) noexcept nogil:
        cdef uint64_t one = 1
        cdef ssize_t put
        # a waker may outlive the thread: its number may be another file's by then
        PyThread_acquire_lock(self.guard, 1)
        if self.fd >= 0:
            put = c_write(self.fd, &one, sizeof(one))
        PyThread_release_lock(self.guard)


@cython.final
cdef class Sleeper:
    """What one thread sleeps on until another wakes it; a wake that comes first is not lost, two count as one."""

    cdef PyThread_type_lock lock
    cdef int woken

    def __cinit__(self):
        self.lock = _new_lock()
        PyThread_acquire_lock(self.lock, 0)

    def __dealloc__(self):
        if self.lock != NULL:
            if not self.woken:
                PyThread_release_lock(self.lock)
            PyThread_free_lock(self.lock)

    def wake(self):
        """Let the thread go on, now or when it comes to sleep next."""
        if not self.woken:
            self.woken = 1
            PyThread_release_lock(self.lock)

    def sleep(self, double timeout=-1.0, Waker first=None):
        """Whether it was woken within `timeout` seconds; negative: wait for ever.

        Before it sleeps it flushes `first`. A signal handler that raises ends the sleep.
        """
        cdef double end = 0.0
        cdef PY_TIMEOUT_T microseconds = -1
        cdef PyLockStatus status
        cdef int wakes = first is not None and first.pending and first._must_wake()
        if timeout >= 0:
            timeout = min(timeout, MAX_SECONDS)
            end = _now() + timeout
            microseconds = <PY_TIMEOUT_T>(timeout * 1e6)
        while True:
            with nogil:
                if wakes:
                    first._write()
                status = PyThread_acquire_lock_timed(self.lock, microseconds, 1)
            if status == PY_LOCK_ACQUIRED:
                self.woken = 0
                return True
            if status == PY_LOCK_FAILURE:
                return False
            wakes = 0
            PyErr_CheckSignals()
            if timeout >= 0:
                microseconds = <PY_TIMEOUT_T>(max(0.0, end - _now()) * 1e6)


@cython.final
cdef class Poll:
    """Descriptors to read from, at most 32, that one thread waits for.

    Where the waits have been short lately, as between two cells that answer one another, it looks again and again for up to
    300 microseconds before it sleeps, giving way to every thread that wants to run: sleep and wake-up would be most of the wait.
    """

    cdef pollfd fds[MAX_FDS]
    cdef int count
    cdef double usual

    def __cinit__(self):
        self.usual = LONG_SECONDS

    def register(self, int fd):
        """Raises `ValueError` when there are 32 already."""
        if self.count == MAX_FDS:
            raise ValueError(f"at most {MAX_FDS} descriptors can be waited for")
        self.fds[self.count].fd = fd
        self.fds[self.count].events = POLLIN
        self.count += 1

    def unregister(self, int fd):
        """Raises `KeyError` for a descriptor that is not registered."""
        for i in range(self.count):
            if self.fds[i].fd == fd:
                self.count -= 1
                self.fds[i] = self.fds[self.count]
                return
        raise KeyError(fd)

    def wait(self, int timeout_ms, list sleepers):
        """Wake `sleepers`, then wait at most `timeout_ms` milliseconds; the descriptors that are readable or broken.

        `sleepers` must not change meanwhile. Raises `OSError`.
        """
        cdef PyThread_type_lock locks[MAX_SLEEPERS]
        cdef int waking = 0, i, ready, error = 0
        cdef Sleeper sleeper
        for sleeper in sleepers:
            if waking == MAX_SLEEPERS:
                sleeper.wake()
            elif not sleeper.woken:
                sleeper.woken = 1
                locks[waking] = sleeper.lock
                waking += 1
        with nogil:
            for i in range(waking):
                PyThread_release_lock(locks[i])
            ready = self._poll(timeout_ms)
            if ready < 0:
                error = errno
        if error and error != EINTR:
            raise OSError(error, os.strerror(error))
        if ready <= 0:
            return []
        return [self.fds[i].fd for i in range(self.count) if self.fds[i].revents]

    cdef int _poll(self, int timeout_ms) noexcept nogil:
        cdef double start, waited = 0.0
        cdef int ready = 0
        if timeout_ms == 0:
            return c_poll(self.fds, self.count, 0)
        start = _now()
        if self.usual < SPIN_SECONDS:
            while ready == 0 and waited < SPIN_SECONDS:
                ready = c_poll(self.fds, self.count, 0)
                if ready == 0:
                    c_yield()
                waited = _now() - start
        if ready == 0:
            ready = c_poll(self.fds, self.count, timeout_ms)
            waited = min(_now() - start, LONG_SECONDS)
        self.usual += (waited - self.usual) / 8
        return ready
