"""The counters of one receiver. Invariant: a snapshot, it never changes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    """Counters of one transfer. Bytes are of payloads."""

    bytes_done: int
    bytes_total: int | None
    bytes_arrived: int
    chunks_arrived: int
    chunks_resumed: int
    chunks_asked_again: int
    chunks_duplicate: int
    chunks_spoiled: int
    probes: int
    window_bytes: int
