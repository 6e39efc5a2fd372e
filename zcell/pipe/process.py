"""Which process something belongs to. Invariant owned here: what one process has begun is never ended by its forked child."""

from __future__ import annotations

import os


class OwnProcess:
    """The process that made it. In a forked child every thread of that process is missing, and every lock may be held for ever."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_elsewhere(self) -> bool:
        """Whether the caller is in a forked child."""
        return os.getpid() != self._pid

    def why(self, what: str) -> str:
        """For the error of whoever uses `what` there."""
        return f"{what} belongs to process {self._pid}, which forked this one ({os.getpid()}): make one of its own here"
