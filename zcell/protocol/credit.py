"""Credit of one link. Invariant: a sender never has more than one window, and one message, of unfinished work in flight.

Both ends count the same bytes: the frames of a message plus a fixed cost. A receiver reports three growing totals: control-lane
bytes read, work finished (forwarded or handled) and data-lane bytes read. Totals, not differences, travel: a lost or repeated
report harms nothing. A new link starts from zero, so what a broken link lost is never owed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

from zcell.errors import ProtocolError

MESSAGE_COST = 512
"""Bytes added to every message, for what its bookkeeping costs."""


def cost_of(frames: Iterable[Sized]) -> int:
    """What a message costs: its frames in bytes and a fixed part."""
    return sum(map(len, frames)) + MESSAGE_COST


class SendCredit:
    """The sending side of one link: what was sent and what the other side says it has read or finished."""

    __slots__ = ("control_read", "control_sent", "data_read", "data_sent", "window", "work_done", "work_sent")

    def __init__(self, window: int) -> None:
        self.window = window
        self.control_sent = self.control_read = 0
        self.work_sent = self.work_done = 0
        self.data_sent = self.data_read = 0

    @property
    def may_send_work(self) -> bool:
        """Whether the next piece of work may go: always when less than the window is unfinished."""
        return self.work_sent - self.work_done < self.window

    @property
    def unread_control(self) -> int:
        return self.control_sent - self.control_read

    @property
    def unread_data(self) -> int:
        return self.data_sent - self.data_read

    def on_report(self, fields: dict[str, Any]) -> None:
        """Take a report of the other side. Raises `ProtocolError` when a total shrinks or exceeds what was sent."""
        for name in ("control", "work", "data"):
            value = fields.get(name)
            sent = getattr(self, f"{name}_sent")
            attribute = "work_done" if name == "work" else f"{name}_read"
            if type(value) is not int or not getattr(self, attribute) <= value <= sent:
                raise ProtocolError(f"a credit report with {name}={value!r}, {sent} sent")
            setattr(self, attribute, value)


class ReceiveCredit:
    """The receiving side of one link: totals, and when they are worth a report."""

    __slots__ = ("_reported", "arrived", "control", "data", "step", "window", "work")

    def __init__(self, window: int) -> None:
        self.window = window
        self.step = max(1, window // 8)
        self.arrived = 0
        """Bytes of work that came, finished or not."""
        self.control = self.work = self.data = 0
        self._reported = (0, 0, 0)

    def is_exceeded(self, largest: int) -> bool:
        """Whether more work lies here than a sender with this window may have sent, whose messages have at most `largest` bytes.

        A window of slack is for work that is finished and not yet in the totals.
        """
        return self.arrived - self.work > 2 * self.window + largest

    @property
    def is_due(self) -> bool:
        """Whether the unreported part is large enough for a report of its own."""
        control, work, data = self._reported
        return self.work - work >= self.step or self.control - control >= 8 * self.step or self.data - data >= 8 * self.step

    @property
    def is_stale(self) -> bool:
        """Whether anything at all is unreported."""
        return self._reported != (self.control, self.work, self.data)

    def report(self) -> dict[str, int]:
        """The totals to send now."""
        self._reported = (self.control, self.work, self.data)
        return {"control": self.control, "work": self.work, "data": self.data}
