"""A TCP proxy that misbehaves on demand. Invariant: one thread, and everything is closed when the block ends.

`cut` ends the connections of the moment, `freeze` keeps them open and moves nothing (a half-open link: no FIN, no RST),
`delay` adds time to every byte each way, `refuse` accepts and closes at once until `accept` is called.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

_PIECE = 64 * 1024
_PENDING = 4 * 1024 * 1024
"""Bytes the proxy holds in one direction before it stops reading, so that back pressure reaches the sender."""


@dataclass(eq=False)
class _Side:
    """One socket of a connection, and what waits to be written to it: (moment it may leave, bytes)."""

    sock: socket.socket
    other: _Side | None = None
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    waiting_bytes: int = 0


class Proxy:
    """Forwards connections to one TCP endpoint; every method may be called from any thread."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._wake, self._waker = socket.socketpair()
        self._lock = threading.Lock()
        self._sides: set[_Side] = set()
        self._dropped: list[_Side] = []
        self._frozen = self._refusing = self._ended = self._cutting = False
        self._delay = 0.0
        self.accepted = 0
        self.bytes_moved = 0
        self._thread = threading.Thread(target=self._run, name="faulty proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._sides) // 2

    def cut(self) -> None:
        """Reset every connection of this moment; new ones are accepted."""
        self._command(_cutting=True)

    def freeze(self) -> None:
        self._command(_frozen=True)

    def thaw(self) -> None:
        self._command(_frozen=False)

    def delay(self, seconds: float) -> None:
        """Every byte arrives `seconds` later than it was sent, each way."""
        self._command(_delay=seconds)

    def refuse(self) -> None:
        """Cut what is open, and close every new connection at once."""
        self._command(_refusing=True, _cutting=True)

    def accept(self) -> None:
        self._command(_refusing=False)

    def _command(self, **changes: object) -> None:
        with self._lock:
            self.__dict__.update(changes)
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._ended:
                self._watch(selector)
                for key, events in selector.select(self._pause()):
                    if key.fileobj is self._listener:
                        self._connect(selector)
                    elif key.fileobj is self._wake:
                        self._wake.recv(4096)
                    elif key.data in self._sides and not self._frozen:
                        self._move(key.data, events)
                if self._cutting:
                    self._cutting = False
                    for side in list(self._sides):
                        self._drop(side)
            for side in list(self._sides):
                self._drop(side)
            self._watch(selector)

    def _pause(self) -> float | None:
        """Seconds until the next delayed bytes may leave."""
        if self._frozen:
            return None
        moments = [side.waiting[0][0] for side in self._sides if side.waiting]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _watch(self, selector: selectors.BaseSelector) -> None:
        registered = {key.data for key in selector.get_map().values() if key.data}
        now = time.monotonic()
        for side in registered | self._sides:
            wanted = 0
            if side in self._sides and not self._frozen:
                assert side.other is not None
                wanted |= selectors.EVENT_READ if side.other.waiting_bytes < _PENDING else 0
                wanted |= selectors.EVENT_WRITE if side.waiting and side.waiting[0][0] <= now else 0
            if side in registered and (not wanted or side not in self._sides):
                selector.unregister(side.sock)
            elif side in registered:
                selector.modify(side.sock, wanted, side)
            elif wanted:
                selector.register(side.sock, wanted, side)
        for side in self._dropped:
            side.sock.close()
        self._dropped.clear()

    def _connect(self, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(BlockingIOError):
            near, _ = self._listener.accept()
            self.accepted += 1
            try:
                far = None if self._refusing else socket.create_connection(self._target, timeout=5)
            except OSError:
                far = None
            if far is None:
                near.close()
                return
            for sock in (near, far):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            a, b = _Side(near), _Side(far)
            a.other, b.other = b, a
            self._sides |= {a, b}

    def _move(self, side: _Side, events: int) -> None:
        other = side.other
        assert other is not None
        try:
            if events & selectors.EVENT_READ:
                data = side.sock.recv(_PIECE)
                if not data:
                    self._drop(side)
                    return
                other.waiting.append((time.monotonic() + self._delay, data))
                other.waiting_bytes += len(data)
            if events & selectors.EVENT_WRITE:
                self._flush(side)
            if other in self._sides and not self._delay:
                self._flush(other)
        except BlockingIOError:
            return
        except OSError:
            self._drop(side)

    def _flush(self, side: _Side) -> None:
        now = time.monotonic()
        while side.waiting and side.waiting[0][0] <= now:
            moment, data = side.waiting.popleft()
            try:
                sent = side.sock.send(data)
            except BlockingIOError:
                sent = 0
            self.bytes_moved += sent
            side.waiting_bytes -= sent
            if sent < len(data):
                side.waiting.appendleft((moment, data[sent:]))
                return

    def _drop(self, side: _Side) -> None:
        """Reset both sides; the sockets are closed where the selector lets go of them."""
        assert side.other is not None
        for one in (side, side.other):
            if one in self._sides:
                self._sides.discard(one)
                with contextlib.suppress(OSError):
                    one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._dropped.append(one)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._command(_ended=True)
        self._thread.join(5)
        for sock in (self._listener, self._wake, self._waker):
            sock.close()
        assert not self._thread.is_alive(), "the proxy hangs"


@contextlib.contextmanager
def proxy_to(endpoint: str) -> Iterator[Proxy]:
    """A proxy in front of `endpoint` for the length of the block."""
    with Proxy(endpoint) as proxy:
        yield proxy
