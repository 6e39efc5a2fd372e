"""Standard output and standard error. Invariant: a write arrives whole, or its failure is remembered; it never raises.

What a command does for files and jobs must not depend on somebody listening. Whether its output arrived is asked at its end.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import threading


class Outlet:
    """Writes to one descriptor, from any thread. After a failure everything goes nowhere."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.fault = ""
        """Why not everything has arrived; ``""`` when it has, or when nobody reads it any more."""
        self.unread = False
        """Nobody reads it any more: a closed pipe, a terminal that went away."""
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Write all of it."""
        with self._lock:
            if self.fault or self.unread:
                return
            try:
                self._write_all(memoryview(data))
            except OSError as error:
                self.fail(error)

    def fail(self, error: OSError) -> None:
        """Somebody could not write to it: nobody shall from now on, Python itself included."""
        self.unread = error.errno == errno.EPIPE or (error.errno == errno.EIO and self._is_character_device())
        self.fault = "" if self.unread else error.strerror or str(error)
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, self.fd)
        os.close(nowhere)

    def _write_all(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except BlockingIOError:  # somebody shares it and has made it so
                select.select([], [self.fd], [])

    def _is_character_device(self) -> bool:
        return stat.S_ISCHR(os.fstat(self.fd).st_mode)


STDOUT = Outlet(1)
STDERR = Outlet(2)


def open_what_is_closed() -> None:
    """Standard streams that the caller has closed are taken, so that no file or socket of ours gets their numbers.

    Reading or writing fails as it would have; what goes to standard error is lost, as was wished.
    """
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  it stays open as long as the command
