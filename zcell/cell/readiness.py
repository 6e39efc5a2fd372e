"""Which sockets can be read. Invariant: a wait never blocks while a watched socket has a message.

libzmq tells of news on a descriptor that stays silent about what it told already (`ZMQ_FD`, see zmq_getsockopt(3)), so each socket
is asked once before the wait, and the descriptors are waited for. `zmq_poll` does the same with four times the system calls, since it
asks every socket before and after, whatever woke it.
"""

from __future__ import annotations

from typing import Any

import zmq

from zcell._native.handover import Poll, Sleeper, Waker

_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)


class Readiness:
    """Sockets and one descriptor of our own, to wait for. On the I/O thread only."""

    def __init__(self, waker: Waker) -> None:
        self._wake_fd = waker.fileno()
        self._by_fd: dict[int, Any] = {}
        self._asked: list[Any] = []
        self._new: list[Any] = []
        self._poll = Poll()
        self._poll.register(self._wake_fd)

    def add(self, socket: Any, *, sends: bool) -> None:
        """Watch `socket`; one that is only ever read, until it is empty, need not be asked."""
        fd = socket.getsockopt(zmq.FD)
        self._by_fd[fd] = socket
        self._poll.register(fd)
        self._new.append(socket)
        if sends:
            self._asked.append(socket)

    def remove(self, socket: Any) -> None:
        for fd in [fd for fd, watched in self._by_fd.items() if watched is socket]:
            del self._by_fd[fd]
            self._poll.unregister(fd)
        for sockets in (self._asked, self._new):
            if socket in sockets:
                sockets.remove(socket)

    def wait(self, timeout_ms: int, sleepers: list[Sleeper]) -> tuple[list[Any], bool]:
        """Wake `sleepers` and wait; the sockets that may have something to read, and whether our own descriptor has."""
        ready = [socket for socket in self._asked if socket.getsockopt(_EVENTS) & _POLLIN]
        if self._new:
            ready += [socket for socket in self._new if socket not in ready]
            self._new.clear()
        woken = False
        for fd in self._poll.wait(0 if ready else timeout_ms, sleepers):
            if fd == self._wake_fd:
                woken = True
            elif self._by_fd[fd] not in ready:
                ready.append(self._by_fd[fd])
        return ready, woken
