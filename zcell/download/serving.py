"""One running transfer at the owner: drives a `Sender`. Invariant: bytes handed to the cell and not yet to a socket are bounded.

Messages arrive on the I/O thread and only change the machine; loading, hashing and sealing run on transfer threads. A pump takes
a few chunks and then lets the next transfer have the thread.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from zcell.download.offer import Offer
from zcell.download.sealing import Sealer
from zcell.download.sources import SourceChangedError, SourceError, root_of
from zcell.protocol.transfer.messages import CHANNEL, Busy, Message, Open, Pull, Root, SourceFailed, encode_mark
from zcell.protocol.transfer.sender import HashNext, PutMark, Sender, Serve, Work
from zcell.protocol.transfer.states import SenderState

if TYPE_CHECKING:
    from collections.abc import Callable

    from zcell.cell.cell import Cell

log = logging.getLogger("zcell.download")
_TURN = 8
"""Chunks a pump handles before it queues up again."""
_AHEAD = 16
"""Chunks of a stream that are made at one go, if the receiver has asked for them."""
_BUSY_SECONDS = 0.5
_MAX_UNSENT_BYTES = 8 << 20


class Outgoing:
    """One stream to one receiver."""

    def __init__(
        self, cell: Cell, offer: Offer, receiver: str, message: Open, sealer: Sealer, touch: Callable[[], None]
    ) -> None:
        source = offer.source
        assert source is not None
        self.offer = offer
        self.receiver = receiver
        self.stream = message.stream
        self.key = (receiver, message.stream)
        self.sent_bytes = 0
        self.last_heard = time.monotonic()
        self._cell = cell
        self._source = source
        self._sealer = sealer
        self._touch = touch
        self._tree = message.verify == "tree"
        self._lock = threading.Lock()
        self._machine = Sender(message.stream, source.size, source.chunk_bytes, 2 * 64 * (1 << 20) // source.chunk_bytes + 2)
        self._pumps = 0
        self._max_pumps = max(1, cell.limits.transfer_threads)
        self._unsent = 0
        self._busy_at = 0.0
        self._closed = False
        self.released = threading.Event()
        """Set when nothing of it is running any more."""
        self._floor = 0
        offer.acquire()
        source.set_floor(self._floor_key, 0)

    # --- on the I/O thread -------------------------------------------------------------------------------------------------

    def on_pull(self, message: Pull) -> None:
        """The receiver asks for chunks. Raises `ProtocolError`."""
        self._heard()
        with self._lock:
            end = self._machine.pull(message)
            floor = self._machine.floor
        if floor != self._floor and self._source.size is None:
            self._floor = floor
            self._cell.submit_transfer(self._source.set_floor, self._floor_key, floor)
        if end is not None:
            self._post(end)
        self._kick()

    def on_ask_root(self) -> None:
        """The receiver asks for the root."""
        self._heard()
        with self._lock:
            self._machine.ask_root()
        self._kick()

    def _heard(self) -> None:
        self.last_heard = time.monotonic()
        self._touch()

    def _on_sent(self, size: int) -> None:
        with self._lock:
            self._unsent -= size
        self._kick()

    # --- pumping -----------------------------------------------------------------------------------------------------------

    def _kick(self) -> None:
        with self._lock:
            if (
                self._closed
                or self._pumps >= self._max_pumps
                or self._unsent >= _MAX_UNSENT_BYTES
                or not self._machine.has_work
            ):
                return
            self._pumps += 1
        self._cell.submit_transfer(self._pump)

    def _pump(self) -> None:
        try:
            for _ in range(_TURN):
                with self._lock:
                    work = None if self._unsent >= _MAX_UNSENT_BYTES else self._machine.next_work()
                if work is None:
                    break
                self._do(work)
        except SourceChangedError as error:
            self.fail("source_failed", str(error))
            self.offer.spoil(str(error))
        except SourceError as error:
            self.fail("source_failed", str(error))
        except Exception as error:
            log.exception("serving ref to %s failed", self.receiver)
            self.fail("source_failed", f"serving failed: {type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._pumps -= 1
                last = self._closed and self._pumps == 0
            if last:
                self._give_back()
            else:
                self._kick()

    def _do(self, work: Work) -> None:
        if isinstance(work, Serve):
            self._serve(work.index)
        elif isinstance(work, PutMark):
            self._cell.send_data(self.receiver, self.stream, encode_mark(work.seq))
            with self._lock:
                self._machine.mark_done()
        else:
            assert isinstance(work, HashNext)
            self._hash_next()

    def _serve(self, index: int) -> None:
        frame = self.offer.frame(index, tree=self._tree)
        if frame is None:
            with self._lock:
                first = self._machine.wait(index)
                wanted = self._machine.wanted
            if first is not None:
                self._source.want(first, self._on_available, ahead=min(wanted, first + _AHEAD))
            return
        frame = self._sealer.seal(frame)
        size = len(frame)
        with self._lock:
            self._unsent += size
        if not self._cell.send_data(self.receiver, self.stream, frame, done=lambda _sent: self._on_sent(size)):
            with self._lock:  # no way there now: the receiver finds out what is missing when there is one again
                self._unsent -= size
        else:
            self.sent_bytes += size
        self._touch()
        with self._lock:
            self._machine.done(index)

    def _on_available(self) -> None:
        size = self._source.size
        with self._lock:
            serving = self._machine.state is SenderState.SERVING
            end = self._machine.ended(size) if size is not None and serving and self._machine.chunks is None else None
            self._machine.available()
        if end is not None:
            self._post(end)
        self._kick()

    def _hash_next(self) -> None:
        if not self._tree:
            size = self._source.size
            if size is None:
                self._wait_for_more()
                return
            self._source.check()
            self._send_root(size, None)
            return
        more = self._source.hash_next()
        if more is None:
            self._wait_for_more()
        elif more:
            now = time.monotonic()
            if now >= self._busy_at:
                self._busy_at = now + _BUSY_SECONDS
                self._touch()
                self._post(Busy(self.stream, self._source.digests.count))
        else:
            self._source.check()
            assert self._source.size is not None
            self._send_root(self._source.size, root_of(self._source))

    def digests(self, first: int, count: int) -> bytes | None:
        """Chunk digests for a receiver whose root differs; None when they are not all known."""
        self._heard()
        table = self._source.digests
        missing = any(index not in table for index in range(first, first + count))
        return None if missing else table.digests(first, count)

    def _wait_for_more(self) -> None:
        with self._lock:
            self._machine.pause()
        self._source.want(self._source.digests.count, self._on_available)

    def _send_root(self, size: int, root: bytes | None) -> None:
        with self._lock:
            self._machine.root_sent()
        self._post(Root(self.stream, size, root))

    # --- the end -----------------------------------------------------------------------------------------------------------

    def fail(self, reason: str, text: str) -> None:
        """Tell the receiver that nothing more comes, and why."""
        if self.close():
            log.info("stream %s to %s failed: %s", self.stream.hex()[:8], self.receiver, text)
            self._post(SourceFailed(self.stream, reason, text[:2000]))

    def close(self) -> bool:
        """Stop serving. Idempotent; whether this call did it."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            self._machine.close()
            unused = self._pumps == 0
        self._source.set_floor(self._floor_key, None)
        if unused:
            self._give_back()
        return True

    def _give_back(self) -> None:
        self.offer.give_back()
        self.released.set()

    @property
    def _floor_key(self) -> str:
        return f"{self.receiver}/{self.stream.hex()}"

    def _post(self, message: Message) -> None:
        self._cell.post_event(self.receiver, CHANNEL, message.topic, message.to_payload())
