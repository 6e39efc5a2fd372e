"""Counters of one cell. Invariant: what a cell drops is counted under the reason it was dropped for."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CellStatistics:
    """A snapshot. Counters only grow while a cell lives."""

    fqcn: str
    links: tuple[str, ...]
    """Neighbours that are linked now."""
    pending_requests: int
    requests_sent: int
    requests_handled: int
    events_sent: int
    events_handled: int
    messages_forwarded: int
    late_replies: int
    """Replies nobody waits for any more: late, duplicate, of another origin or unknown."""
    data_frames_sent: int
    data_frames_received: int
    dropped: dict[str, int]
    """Reason -> messages dropped: junk, oversize, spoofed, no_route, no_handler, refused_link, relay_full, expired ..."""
    threads: int
    """Threads of this cell alive now: the I/O thread and the workers started so far."""

    @property
    def dropped_total(self) -> int:
        return sum(self.dropped.values())


class Counters:
    """Thread-safe named counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._values[name] += amount

    def drop(self, reason: str, amount: int = 1) -> None:
        with self._lock:
            self._dropped[reason] += amount

    def snapshot(self) -> tuple[Counter[str], dict[str, int]]:
        with self._lock:
            return Counter(self._values), dict(self._dropped)
