"""How many bytes a receiver allows to be on their way to it. Invariant: the window stays between its floor and its limit.

It begins at 8 MiB and grows with bandwidth x delay: the delay is the shortest time seen from asking for a chunk to its arrival,
the bandwidth is what arrived over the last round. Twice their product keeps the path full while the credit travels back.
"""

from __future__ import annotations

FIRST_BYTES = 8 << 20
LIMIT_BYTES = 64 << 20
_ROUND_SECONDS = 0.05
"""Shortest time over which the bandwidth is measured."""


class Window:
    """The credit of one transfer. `limit_bytes` caps it, 64 MiB does too; never less than two chunks: one is always coming."""

    def __init__(self, limit_bytes: int, chunk_bytes: int) -> None:
        self.limit_bytes = max(min(limit_bytes, LIMIT_BYTES), 2 * chunk_bytes)
        self.size_bytes = min(self.limit_bytes, max(FIRST_BYTES, 2 * chunk_bytes))
        self._chunk_bytes = chunk_bytes
        self.delay: float | None = None
        """Shortest time from asking to arrival, seconds; None before the first chunk."""
        self._round_began = 0.0
        self._round_bytes = 0

    def arrived(self, length: int, asked_at: float, now: float) -> None:
        """A chunk of `length` bytes that was asked for at `asked_at` is here."""
        delay = max(now - asked_at, 1e-6)
        if self.delay is None:
            self.delay = delay
            self._round_began = asked_at
        self.delay = min(self.delay, delay)
        self._round_bytes += length
        passed = now - self._round_began
        if passed < max(_ROUND_SECONDS, self.delay):
            return
        wanted = int(2 * self._round_bytes / passed * self.delay) + 4 * self._chunk_bytes
        self.size_bytes = min(self.limit_bytes, max(self.size_bytes, wanted))
        self._round_began = now
        self._round_bytes = 0

    def idle(self, now: float) -> None:
        """Nothing was on its way until now: the time that passed says nothing about the bandwidth."""
        self._round_began = now
        self._round_bytes = 0
