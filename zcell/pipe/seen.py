"""Which messages have come already. Invariant owned here: of the last `capacity` ids, none is new twice."""

from __future__ import annotations


class SeenIds:
    """Remembers the last `capacity` ids, for receivers of messages that may be sent again."""

    def __init__(self, capacity: int = 16384) -> None:
        self._capacity = capacity
        self._ids: dict[str, None] = {}

    def add(self, msg_id: str) -> bool:
        """Whether `msg_id` is new; it is remembered either way."""
        if msg_id in self._ids:
            return False
        self._ids[msg_id] = None
        if len(self._ids) > self._capacity:
            del self._ids[next(iter(self._ids))]
        return True
