"""How far a job's metrics have come. Invariant owned here: what a result promised is waited for while it may still come, no longer.

Records and results travel over pipes of their own, so a result may be there first. It says how many records the agent had accepted
before it; each batch of records says how many there were up to its end. When the exchange stops, it compares the two.
"""

from __future__ import annotations

import threading

from zcell.agent.task import METRICS
from zcell.pipe.message import Message

Mark = tuple[str, int]
"""Which agent, and how many of its records."""


class Arrivals:
    """What was promised last, and what was handed to the callback. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._promised: Mark | None = None
        self._arrived: Mark | None = None

    def promised(self, result: Message) -> None:
        """A result came."""
        mark = _mark(result)
        if mark is not None:
            with self._changed:
                self._promised = mark

    def arrived(self, batch: Message) -> None:
        """The records of `batch` were handed to the callback, or dropped."""
        with self._changed:
            self._arrived = _mark(batch) or self._arrived
            self._changed.notify_all()

    def ended(self) -> None:
        """The conversation about metrics has ended: the agent whose records came last sends no more."""
        with self._changed:
            if self._promised is not None and self._arrived is not None and self._promised[0] == self._arrived[0]:
                self._promised = None
            self._changed.notify_all()

    def job_is_gone(self) -> None:
        """The job cannot send what it promised."""
        with self._changed:
            self._promised = None
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Until everything promised has arrived, or cannot come any more; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_complete, timeout)

    def _is_complete(self) -> bool:
        if self._promised is None:
            return True
        return self._arrived is not None and self._arrived[0] == self._promised[0] and self._arrived[1] >= self._promised[1]


def _mark(message: Message) -> Mark | None:
    """What `message` says; None when it says nothing that can be understood."""
    match message.headers.get(METRICS):
        case [str(agent), int(count)]:
            return agent, count
    return None
