"""Requests that wait for their replies. Invariant: a call is completed exactly once, by the first of reply, failure and abort."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zcell._native.handover import Sleeper
from zcell.cell.loop import IoLoop
from zcell.message import Reply, ReturnCode
from zcell.protocol import routing
from zcell.protocol.envelope import Envelope

_PATH_CODES = frozenset({ReturnCode.TARGET_UNREACHABLE.value, ReturnCode.COMM_ERROR.value, ReturnCode.MSG_TOO_BIG.value})
"""What a cell on the way may answer in the target's place."""


@dataclass(slots=True)
class RawReply:
    """A reply as it came, before it is decoded by who waits for it."""

    envelope: Envelope
    body: Any
    buffers: list[Any]


class Call:
    """One request in flight. Completed on any thread; waited for on any."""

    __slots__ = ("_callback", "_lock", "_loop", "_sleeper", "id", "link_id", "on_end", "options", "outcome", "target")

    def __init__(self, call_id: int, target: str, link_id: bytes, loop: IoLoop) -> None:
        self.id = call_id
        self.target = target
        self.link_id = link_id
        self.outcome: RawReply | Reply | None = None
        self.options: Any = None
        self.on_end: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._loop = loop
        self._sleeper = Sleeper()
        self._callback: Callable[[Call], None] | None = None

    def complete(self, outcome: RawReply | Reply) -> bool:
        """Set the outcome; whether this was the first."""
        with self._lock:
            if self.outcome is not None:
                return False
            self.outcome = outcome
            callback = self._callback
        self._loop.wake(self._sleeper)
        if callback is not None:
            callback(self)
        return True

    def wait(self, timeout: float) -> bool:
        """Whether it is complete within `timeout` seconds."""
        if self.outcome is None:
            self._sleeper.sleep(max(0.0, timeout), self._loop.waker)
        else:
            self._loop.waker.flush()
        return self.outcome is not None

    def when_done(self, callback: Callable[[Call], None]) -> None:
        """Call `callback` once, now if it is complete already; it must not block. There is one callback at most."""
        with self._lock:
            if self.outcome is None:
                self._callback = callback
                return
        callback(self)


class PendingCalls:
    """All calls of one cell that wait, by id."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._ids = itertools.count(secrets.randbits(48))

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, target: str, link_id: bytes, loop: IoLoop) -> Call:
        call = Call(next(self._ids), target, link_id, loop)
        self._calls[call.id] = call
        return call

    def close(self, call: Call) -> None:
        self._calls.pop(call.id, None)

    def on_reply(self, me: str, raw: RawReply) -> bool:
        """Complete the call that `raw` answers; False when nobody waits for it, or it comes from the wrong cell."""
        envelope = raw.envelope
        call = self._calls.get(envelope.id) if isinstance(envelope.id, int) else None
        if call is None:
            return False
        if envelope.source != call.target and not (
            envelope.rc in _PATH_CODES and routing.on_path(me, call.target, envelope.source)
        ):
            return False
        self._calls.pop(call.id, None)
        return call.complete(raw)

    def fail(self, rc: ReturnCode, error: str, link_id: bytes | None = None) -> None:
        """Complete all calls, or those that left over one link, with a failure."""
        for call in list(self._calls.values()):
            if link_id is None or call.link_id == link_id:
                self._calls.pop(call.id, None)
                call.complete(Reply(rc, None, error))
