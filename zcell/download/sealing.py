"""The place where chunk frames are sealed end to end. Invariant: frames pass a `Sealer` exactly once at each end.

Every chunk passes, so a sealer that protects also refuses what was not sealed. A sealed frame keeps its header in the clear (with
the SEALED flag), so that it can be accounted for before it is opened; its payload is longer than the chunk by `overhead_bytes`.
"""

from __future__ import annotations

from typing import Protocol

Frame = bytes | memoryview


class Sealer(Protocol):
    """Seals for, and opens from, one other cell. Both run on transfer threads."""

    overhead_bytes: int

    def seal(self, frame: Frame) -> Frame:
        """A frame for the wire."""
        ...

    def open(self, frame: Frame) -> Frame:
        """The plain frame back; `ProtocolError` when it was not sealed by the other cell or was altered."""
        ...


class Unsealed:
    """The sealer of links that need none."""

    overhead_bytes = 0

    def seal(self, frame: Frame) -> Frame:
        return frame

    def open(self, frame: Frame) -> Frame:
        return frame
