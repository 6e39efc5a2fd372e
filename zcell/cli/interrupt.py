"""Ctrl-C. Invariant: a signal handler only writes a byte; what an interrupt means happens on a thread of its own."""

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
        self._thread = threading.Thread(target=self._run, name="zcell-interrupts", daemon=True)

    def __enter__(self) -> Interrupts:
        raise_when_interrupted()
        self._ear, self._mouth = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._mouth, False)
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._heard)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.write(self._mouth, b"\0")
        self._thread.join()
        os.close(self._ear)
        os.close(self._mouth)

    @property
    def interrupted(self) -> bool:
        return self.exit_code != 0

    def _heard(self, number: int, frame: FrameType | None) -> None:
        try:
            os.write(self._mouth, bytes([number]))
        except BlockingIOError:  # thousands are waiting already
            return

    def _run(self) -> None:
        while number := os.read(self._ear, 1)[0]:
            if not self.interrupted:
                self.exit_code = 128 + number
                self.abort.trigger("interrupted")
            else:
                self.again()
