"""The ZeroMQ context of the cells of a process that share one. Invariant: it ends with the last cell that uses it, never before."""

from __future__ import annotations

import threading
from typing import Any

import zmq

from zcell.errors import CellClosedError


class SharedContext:
    """Counts who uses a context. One that was `given` is its giver's, who ends it."""

    def __init__(self, given: zmq.Context[Any] | None = None) -> None:
        self.zmq: zmq.Context[Any] = zmq.Context() if given is None else given
        self._given = given is not None
        self._lock = threading.Lock()
        self._users = 1

    def join(self) -> SharedContext:
        """Use it as well. Raises `CellClosedError` when it has ended."""
        with self._lock:
            if self._users == 0:
                raise CellClosedError("the cell was stopped, and nobody can be linked to it any more")
            self._users += 1
        return self

    def leave(self) -> None:
        """Use it no longer; once for each that joined, and for whoever made it."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last and not self._given:
            self.zmq.term()
