"""What a cell tells its user about its neighbours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """A link came up or went down. `reason` says why; it is "" when it came up."""

    peer: str
    up: bool
    reason: str = ""
