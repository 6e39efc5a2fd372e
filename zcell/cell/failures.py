"""How failed messages are logged. Invariant: one line for a failure, not one for every message that meets it."""

from __future__ import annotations

import logging
import time

from zcell.message import Reply, ReturnCode

log = logging.getLogger("zcell.cell")
_QUIET = 10.0
"""Seconds in which the same failure is told again at debug level only."""
_MAX_TOLD = 256


class FailureLog:
    """Remembers, within bounds, what one cell has complained about lately."""

    def __init__(self, cell: str) -> None:
        self._cell = cell
        self._told: dict[tuple[str, str, ReturnCode], float] = {}

    def note(self, reply: Reply, target: str, channel: str, topic: str, optional: bool) -> None:
        """Log `reply` if it is a failure; `optional` ones at debug level. Never its payload, never headers."""
        if reply.rc is ReturnCode.OK:
            return
        level = logging.DEBUG
        if not optional:
            now, key = time.monotonic(), (target, channel, reply.rc)
            if self._told.get(key, 0.0) < now:
                level = logging.WARNING
                if len(self._told) >= _MAX_TOLD:
                    self._told.clear()
                self._told[key] = now + _QUIET
        log.log(level, "cell %s: %s/%s to %s: %s: %s", self._cell, channel, topic, target, reply.rc.value, reply.error)
