"""Ctrl-C. Invariant: what an interrupt means happens at once, on a thread of its own."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from types import TracebackType

from zcell.abort import Abort
from zcell.cli.early import raise_when_interrupted
from zcell.launch.signals import SignalPipe


class Interrupts:
    """While the block runs, the first signal triggers `abort`, every later one calls `again`, which may be replaced.

    Must be entered on the main thread.
    """

    def __init__(self) -> None:
        self.abort = Abort()
        self.exit_code = 0
        """128 + the number of the first signal, 0 while there was none; 130 for Ctrl-C."""
        self.again: Callable[[], None] = lambda: None
        self._signals: SignalPipe
        self._thread = threading.Thread(target=self._run, name="zcell-interrupts", daemon=True)

    def __enter__(self) -> Interrupts:
        raise_when_interrupted()
        self._signals = SignalPipe()
        self._signals.hear()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._signals.unhear()
        self._signals.say_the_end()
        self._thread.join()
        self._signals.close()

    @property
    def interrupted(self) -> bool:
        return self.exit_code != 0

    def _run(self) -> None:
        while True:
            select.select([self._signals], [], [])
            for number in self._signals.read():
                if number is None:
                    return
                if self.interrupted:
                    self.again()
                else:
                    self.exit_code = 128 + number
                    self.abort.trigger("interrupted")
