"""Limits of one cell. Invariant: sizes are bytes, times are seconds, and each has one meaning everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

LEAF_BYTES = 64 * KIB
"""The unit of the SHA-256 tree."""
CHUNK_BYTES = MIB
"""The default unit on the wire: 16 leaves, a complete subtree."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a cell allows itself and others. Every field has a default that suits most; raise `ValueError` when out of range."""

    inline_bytes: int = 8 * MIB
    """A buffer larger than this travels by reference and is fetched by the receiver."""
    message_bytes: int = 64 * MIB
    """Largest single message a cell sends or accepts, all frames together."""
    out_of_band_bytes: int = 64 * KIB
    """Buffers of at least this size travel as frames of their own, uncopied."""
    link_work_bytes: int = 4 * MIB
    """Credit of one link: bytes of requests and events that may be in flight or waiting for a handler."""
    link_queue_bytes: int = 4 * MIB
    """Bytes of requests and events that may wait for credit on one link before `send` reports a full queue."""
    link_unread_bytes: int = 128 * MIB
    """A neighbour that leaves more than this unread on the control lane is cut off."""
    relay_bytes: int = 256 * MIB
    """Data-lane bytes for others that one neighbour may leave unread; frames above it are dropped, and asked for again by
    their receivers."""
    window_bytes: int = 64 * MIB
    """Largest byte credit of one download; it starts at a quarter MiB-aligned and grows with bandwidth x delay."""
    chunk_bytes: int = CHUNK_BYTES
    """Bytes of one chunk: a power of two, at least one leaf (64 KiB), at most 16 MiB."""
    handler_threads: int = 16
    transfer_threads: int = 2
    max_links: int = 4096
    max_pending_links: int = 256
    """Connections that may be in the handshake at once."""
    handshake_timeout: float = 10.0
    heartbeat_interval: float = 4.0
    link_timeout: float = 15.0
    """A link without any sign of life for this long is down."""
    reconnect_min: float = 0.1
    reconnect_max: float = 5.0
    finished_ttl: float = 300.0
    """How long a finished ref answers "gone" instead of "unknown"."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value, whole = getattr(self, item.name), item.type == "int"
            right_type = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not right_type or not 0 < value < math.inf:
                kind = "a whole number" if whole else "a finite number"
                raise ValueError(f"Limits.{item.name} must be {kind} above 0, got {value!r}")
        chunk = self.chunk_bytes
        if chunk & (chunk - 1) or not LEAF_BYTES <= chunk <= 16 * MIB:
            raise ValueError(f"Limits.chunk_bytes must be a power of two from 64 KiB to 16 MiB, got {chunk}")
        if self.inline_bytes > self.message_bytes:
            raise ValueError("Limits.inline_bytes must not be larger than Limits.message_bytes")
        if self.heartbeat_interval >= self.link_timeout:
            raise ValueError("Limits.heartbeat_interval must be below Limits.link_timeout")
        if self.reconnect_min > self.reconnect_max:
            raise ValueError("Limits.reconnect_min must not be above Limits.reconnect_max")
