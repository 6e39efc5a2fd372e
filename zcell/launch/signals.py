"""Signals as bytes in a pipe. Invariant: whatever the main thread waits for, a signal can be read by another thread at once.

The interpreter writes the byte from C (`signal.set_wakeup_fd`). A handler in Python runs only when the main thread gets to it,
which may be when its system call is over: when the command has ended, for one that waits for a command.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SignalPipe:
    """Readable (`fileno`) once one of `numbers` has come. `hear` and `unhear` are called on the main thread."""

    def __init__(self, numbers: Iterable[signal.Signals] = STOP_SIGNALS) -> None:
        self._numbers = tuple(numbers)
        self._ear, self._mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._previous_fd = -1

    def fileno(self) -> int:
        return self._ear

    def hear(self) -> None:
        """From here on the signals come as bytes. A full pipe of them says no less."""
        self._previous_fd = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        for number in self._numbers:
            self._previous[number] = signal.signal(number, _do_nothing)

    def unhear(self) -> None:
        """The signals do again what they did before. Idempotent."""
        if not self._previous:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._previous.clear()

    def say_the_end(self) -> None:
        """Make `read` give None after what has come."""
        os.write(self._mouth, b"\0")

    def read(self) -> list[int | None]:
        """The signals that have come, in order; None for the end."""
        return [number or None for number in os.read(self._ear, 4096) if not number or number in self._numbers]

    def close(self) -> None:
        os.close(self._ear)
        os.close(self._mouth)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """What counts is the byte that has been written by now; without a handler the signal would end the process."""
