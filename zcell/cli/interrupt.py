"""Ctrl-C. Invariant: a signal only writes a byte, from C; what an interrupt means happens on a thread of its own.

A handler in Python runs when the main thread gets to it, which may be when its system call is over.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from zcell.abort import Abort
from zcell.cli.early import raise_when_interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While the block runs, the first signal triggers `abort`, every later one calls `again`, which may be replaced.

    Must be entered on the main thread.
    """

    def __init__(self) -> None:
        self.abort = Abort()
        self.exit_code = 0
        """128 + the number of the first signal, 0 while there was none; 130 for Ctrl-C."""
        self.again: Callable[[], None] = lambda: None
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._ear, self._mouth = -1, -1
        self._previous_fd = -1
        self._thread = threading.Thread(target=self._run, name="zcell-interrupts", daemon=True)

    def __enter__(self) -> Interrupts:
        raise_when_interrupted()
        self._ear, self._mouth = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._mouth, False)
        self._previous_fd = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)  # thousands waiting say the same
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, _heard)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.write(self._mouth, b"\0")
        self._thread.join()
        os.close(self._ear)
        os.close(self._mouth)

    @property
    def interrupted(self) -> bool:
        return self.exit_code != 0

    def _run(self) -> None:
        while number := os.read(self._ear, 1)[0]:
            if number not in SIGNALS:
                continue
            if not self.interrupted:
                self.exit_code = 128 + number
                self.abort.trigger("interrupted")
            else:
                self.again()


def _heard(number: int, frame: FrameType | None) -> None:
    """What counts is the byte that the interpreter has written by now."""
