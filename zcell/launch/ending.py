"""How an exit code is said. Invariant: a signal is named only where there is one of that number."""

from __future__ import annotations

import signal

_SIGNALS = {number.value: number.name for number in signal.Signals}


def how_it_ended(subject: str, exit_code: int) -> str:
    """``the command was ended by SIGKILL`` for 137, ``the command ended with code 255``; empty for 0."""
    name = _SIGNALS.get(exit_code - 128)
    if name is not None:
        return f"{subject} was ended by {name}"
    return f"{subject} ended with code {exit_code}" if exit_code else ""
