"""Filters on what comes in and goes out. Invariant: they run in the order they were added, and one that fails stops the message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from zcell.message import Reply, ReturnCode

log = logging.getLogger("zcell.cell.filters")


class FilterMessage:
    """What a filter sees and may change. `payload` is decoded when it is first read: a filter of headers never pays for it."""

    __slots__ = ("_decode", "_payload", "channel", "error", "headers", "is_event", "origin", "rc", "target", "topic")

    def __init__(
        self,
        *,
        origin: str,
        target: str,
        channel: str,
        topic: str,
        headers: dict[str, Any],
        payload: Any = None,
        decode: Callable[[], Any] | None = None,
        rc: ReturnCode = ReturnCode.OK,
        error: str = "",
        is_event: bool = False,
    ) -> None:
        self.origin = origin
        self.target = target
        self.channel = channel
        self.topic = topic
        self.headers = headers
        self.rc = rc
        self.error = error
        self.is_event = is_event
        self._payload = payload
        self._decode = decode

    @property
    def payload(self) -> Any:
        if self._decode is not None:
            decode, self._decode = self._decode, None
            self._payload = decode()
        return self._payload

    @payload.setter
    def payload(self, value: Any) -> None:
        self._decode = None
        self._payload = value


FilterFn = Callable[[FilterMessage], Reply | None]


class FilterChains:
    """Four chains: incoming and outgoing, of requests and of replies. Events pass those of requests."""

    def __init__(self) -> None:
        self._chains: dict[tuple[str, str], tuple[tuple[str, str, FilterFn], ...]] = {}

    def add(self, direction: str, kind: str, channel: str, topic: str, fn: FilterFn) -> None:
        """Raises `ValueError` for another direction than incoming/outgoing, another kind than request/reply."""
        if direction not in ("incoming", "outgoing"):
            raise ValueError(f"direction is 'incoming' or 'outgoing', got {direction!r}")
        if kind not in ("request", "reply"):
            raise ValueError(f"kind is 'request' or 'reply', got {kind!r}")
        if not callable(fn):
            raise TypeError(f"a filter must be callable, got {fn!r}")
        self._chains[direction, kind] = (*self._chains.get((direction, kind), ()), (channel, topic, fn))

    def run(self, direction: str, kind: str, message: FilterMessage) -> Reply | None:
        """Run the chain; the Reply that ended it, FILTER_ERROR when a filter raised, None when all passed."""
        chain = self._chains.get((direction, kind))
        if chain is None:
            return None
        for channel, topic, fn in chain:
            if channel not in ("*", message.channel) or topic not in ("*", message.topic):
                continue
            try:
                answer = fn(message)
            except Exception as e:
                where = f"{direction} {kind} filter on {message.channel!r}/{message.topic!r}"
                log.warning("a %s failed: %s", where, type(e).__name__, exc_info=log.isEnabledFor(logging.DEBUG))
                return Reply(ReturnCode.FILTER_ERROR, None, f"{where}: {type(e).__name__}: {e}")
            if isinstance(answer, Reply):
                return answer
        return None
