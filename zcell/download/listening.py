"""What owners tell this cell about its downloads. Invariant: only the owner of a download is listened to.

All of it arrives on the I/O thread and is only queued here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zcell.download.fetching import Fetch
from zcell.errors import ProtocolError
from zcell.message import Reply, Request, ReturnCode
from zcell.protocol.transfer import messages as msg

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

log = logging.getLogger("zcell.download")


class Listening:
    """Hands on what owners say to `fetches`, the running downloads by stream."""

    def __init__(self, cell: Cell, fetches: Mapping[bytes, Fetch[Any]]) -> None:
        self._cell = cell
        self._fetches = fetches
        self._events: dict[str, Callable[[Request], None]] = {
            msg.Root.topic: self._on_root,
            msg.Busy.topic: self._on_busy,
            msg.End.topic: self._on_end,
            msg.SourceFailed.topic: self._on_source_failed,
            msg.UnknownStream.topic: self._on_unknown_stream,
        }

    def register(self) -> None:
        """Listen from now on."""
        for topic, event in self._events.items():
            self._cell.register(msg.CHANNEL, topic, tolerant(event), allow="any", inline=True)

    def unregister(self) -> None:
        """Listen no more."""
        for topic in self._events:
            self._cell.unregister(msg.CHANNEL, topic)

    def _fetch_of(self, message: Any, origin: str) -> Fetch[Any] | None:
        fetch = self._fetches.get(message.stream)
        return fetch if fetch is not None and fetch.owner == origin else None

    def _on_root(self, request: Request) -> None:
        message = msg.parse(msg.Root, request.payload)
        if fetch := self._fetch_of(message, request.origin):
            fetch.post(lambda machine, now: machine.root(message.root, message.size, now))

    def _on_busy(self, request: Request) -> None:
        message = msg.parse(msg.Busy, request.payload)
        if fetch := self._fetch_of(message, request.origin):
            fetch.post(lambda machine, now: machine.busy(message.work, now))

    def _on_end(self, request: Request) -> None:
        message = msg.parse(msg.End, request.payload)
        if fetch := self._fetch_of(message, request.origin):
            fetch.post(lambda machine, now: machine.ended(message.size, now))

    def _on_source_failed(self, request: Request) -> None:
        message = msg.parse(msg.SourceFailed, request.payload)
        if fetch := self._fetch_of(message, request.origin):
            fetch.post(lambda machine, _now: machine.source_failed(message.failure or "source_failed", message.text))

    def _on_unknown_stream(self, request: Request) -> None:
        message = msg.parse(msg.UnknownStream, request.payload)
        if fetch := self._fetch_of(message, request.origin):
            fetch.post(lambda machine, now: machine.unknown_stream(now))


def tolerant(event: Callable[[Request], None]) -> Callable[[Request], None]:
    """An inline handler that drops what cannot be understood."""

    def run(request: Request) -> None:
        try:
            event(request)
        except ProtocolError as error:
            log.debug("a transfer event of %s is dropped: %s", request.origin, error)

    return run


def understood(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """A handler that answers INVALID_REQUEST to what cannot be understood."""

    def run(request: Request) -> Any:
        try:
            return handler(request)
        except ProtocolError as error:
            return Reply(ReturnCode.INVALID_REQUEST, None, str(error))

    return run
