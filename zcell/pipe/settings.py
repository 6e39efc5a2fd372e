"""How a conversation over a pipe is kept going. Invariant owned here: settings that make no sense never reach a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from zcell.pipe.arguments import seconds, seconds_or_none, whole_number
from zcell.pipe.session import PipeSession


@dataclass(slots=True)
class HandlerSettings:
    """The settings of a `PipeHandler`, which says what they mean. Raises `ValueError` or `TypeError` naming the one that is wrong."""

    read_interval: float = 0.1
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 60.0
    resend_interval: float | None = 2.0
    max_resends: int | None = 3
    connect_timeout: float | None = None

    def __post_init__(self) -> None:
        self.read_interval = seconds("read_interval", self.read_interval, above=0)
        self.resend_interval = seconds_or_none("resend_interval", self.resend_interval, above=0)
        if self.max_resends is not None:
            self.max_resends = whole_number("max_resends", self.max_resends, least=0)
        self.session()

    def session(self) -> PipeSession:
        """A new session with these settings."""
        return PipeSession(
            heartbeat_interval=self.heartbeat_interval,
            heartbeat_timeout=self.heartbeat_timeout,
            connect_timeout=self.connect_timeout,
        )
