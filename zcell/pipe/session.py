"""One conversation over a pipe, without I/O, threads or clock. Invariant owned here: its end is reported exactly once.

The driver passes every message it received and the time, asks when to come back, and does what it is told. Time is any
growing number of seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from zcell.pipe.arguments import seconds, seconds_or_none
from zcell.pipe.message import Message, Topic


class PeerState(StrEnum):
    """What this end knows of the other one."""

    WAITING = "WAITING"
    """Nothing was heard yet."""
    LIVE = "LIVE"
    ENDED = "ENDED"
    ABORTED = "ABORTED"
    GONE = "GONE"


_STATE_OF = {Topic.END: PeerState.ENDED, Topic.ABORT: PeerState.ABORTED, Topic.PEER_GONE: PeerState.GONE}


@dataclass(frozen=True, slots=True)
class Due:
    """What the driver has to do now: send the heartbeat with this number, report this status."""

    heartbeat: int | None = None
    status: Message | None = None


class PipeSession:
    """Heartbeats, silence, status and the inbox of one conversation.

    `heartbeat_timeout` 0 switches the check for silence off; `connect_timeout` is the same check before the first sign of
    life. Raises `ValueError` or `TypeError` unless `heartbeat_interval` is above 0 and below a `heartbeat_timeout` that is not 0.
    """

    def __init__(self, *, heartbeat_interval: float, heartbeat_timeout: float, connect_timeout: float | None = None) -> None:
        heartbeat_interval = seconds("heartbeat_interval", heartbeat_interval, above=0)
        heartbeat_timeout = seconds("heartbeat_timeout", heartbeat_timeout, least=0, zero=" (no check)")
        connect_timeout = seconds_or_none("connect_timeout", connect_timeout, least=0)
        if 0 < heartbeat_timeout <= heartbeat_interval:
            raise ValueError(
                f"heartbeat_interval ({heartbeat_interval} s) must be below heartbeat_timeout ({heartbeat_timeout} s), "
                "or every pause between two heartbeats looks like a dead peer"
            )
        self._interval = heartbeat_interval
        self._timeout = heartbeat_timeout
        self._connect_timeout = heartbeat_timeout if connect_timeout is None else connect_timeout
        self._inbox: deque[Message] = deque()
        self._state = PeerState.WAITING
        self._paused = False
        self._left = False
        self._next_heartbeat = 0.0
        self._heartbeats_sent = 0
        self._heartbeat_seen = 0
        self._last_active = 0.0
        self._planned = 0.0
        self._started = 0.0

    @property
    def state(self) -> PeerState:
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether the status was reported: nothing more is sent, nothing more is expected."""
        return self._state not in (PeerState.WAITING, PeerState.LIVE)

    @property
    def waiting(self) -> int:
        """Messages that wait to be taken."""
        return len(self._inbox)

    def start(self, now: float) -> None:
        """Begin: the first heartbeat is due at once, silence is counted from here."""
        self._next_heartbeat = self._last_active = self._planned = self._started = now

    def alive(self, when: float) -> None:
        """The peer gave a sign of life at `when`; one from before the start belongs to an earlier conversation."""
        if self.is_over or when < self._started:
            return
        self._state = PeerState.LIVE
        self._last_active = max(self._last_active, when)

    def receive(self, message: Message, now: float) -> Message | None:
        """Take a message; returns the status to report, if this is one and the first."""
        if self.is_over:
            if not message.is_status and message.topic != Topic.HEARTBEAT:
                self._inbox.append(message)
            return None
        if message.topic == Topic.HEARTBEAT:
            self._receive_heartbeat(message, now)
            return None
        if message.topic != Topic.PEER_GONE:
            self.alive(now)
        if message.is_status:
            self._state = _STATE_OF[message.topic]
            return message
        self._inbox.append(message)
        return None

    def _receive_heartbeat(self, message: Message, now: float) -> None:
        # A heartbeat that is not newer than the last one says nothing about the peer's present; 0 is a greeting.
        number = message.data
        if isinstance(number, int) and (number > self._heartbeat_seen or self._state is PeerState.WAITING):
            self._heartbeat_seen = max(number, self._heartbeat_seen)
            self.alive(now)

    def tick(self, now: float) -> Due:
        """What is due at `now`."""
        if self.is_over:
            return Due()
        self._forgive_own_absence(now)
        gone = self._check_silence(now)
        if gone is not None:
            return Due(status=gone)
        heartbeat = None
        if now >= self._next_heartbeat:
            if not self._left:
                self._heartbeats_sent += 1
                heartbeat = self._heartbeats_sent
            self._next_heartbeat = now + self._interval
        self._planned = self._deadline()
        return Due(heartbeat)

    def next_tick(self) -> float | None:
        """When `tick` is to be called next; None when there is nothing left to wait for."""
        return None if self.is_over else self._planned

    def _forgive_own_absence(self, now: float) -> None:
        # A stopped process wakes up with a clock that ran on: the silence of that time was its own.
        late = now - self._planned
        if late > self._interval:
            self._last_active = min(now, self._last_active + late)

    def _patience(self) -> float:
        return self._connect_timeout if self._state is PeerState.WAITING else self._timeout

    def _deadline(self) -> float:
        patience = self._patience()
        return min(self._next_heartbeat, self._last_active + patience) if patience else self._next_heartbeat

    def _check_silence(self, now: float) -> Message | None:
        patience = self._patience()
        if not patience or now - self._last_active < patience:
            return None
        what = "never showed up" if self._state is PeerState.WAITING else "was silent"
        return self.end(Topic.PEER_GONE, f"the peer {what} for {patience:g} s")

    def end(self, topic: str, data: object) -> Message | None:
        """End the conversation from this side with status `topic`; the message to report, None when it had ended before."""
        if self.is_over:
            return None
        self._state = _STATE_OF[topic]
        return Message.new_request(topic, data)

    def leave(self) -> None:
        """This side says that it is over: it gives no further sign of life, or its peer would take it for a new beginning."""
        self._left = True

    @property
    def has_left(self) -> bool:
        return self._left

    def queue(self, message: Message) -> None:
        """Put `message` into the inbox as it is (a status that nobody takes by callback)."""
        self._inbox.append(message)

    def take(self) -> Message | None:
        """The next message for the user; None when there is none or while paused."""
        if self._paused or not self._inbox:
            return None
        return self._inbox.popleft()

    def pause(self) -> None:
        """Stop handing out messages; heartbeats and the check for silence go on."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False


class ResendPlan:
    """When to try again. `max_resends` None: no limit; `interval` None or not `allowed`: never; `deadline` None: none."""

    def __init__(self, *, interval: float | None, max_resends: int | None, allowed: bool, deadline: float | None) -> None:
        self._interval = interval
        self._left = max_resends
        self._allowed = allowed and interval is not None
        self._deadline = deadline

    def remaining(self, now: float) -> float | None:
        """Seconds this attempt may take; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def failed(self, now: float) -> float | None:
        """An attempt failed at `now`: seconds to wait before the next one, None to give up."""
        if not self._allowed or self._interval is None:
            return None
        if self._left is not None:
            if self._left <= 0:
                return None
            self._left -= 1
        if self._deadline is not None and now + self._interval >= self._deadline:
            return None
        return self._interval
