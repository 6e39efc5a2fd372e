"""Ctrl-C before a command begins. Invariant: it ends the program with 130 and one line, never with a traceback."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Nothing was begun, so there is nothing to end; and what is being imported just now cannot be trusted to raise."""
    os.write(2, b"zcell: interrupted; nothing was started\n")
    os._exit(130)


def end_at_once_when_interrupted() -> None:
    """For the time of the imports. A caller who has the signal ignored, or has a handler of its own, keeps that."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def raise_when_interrupted() -> None:
    """From here on Ctrl-C is the command's own affair."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
