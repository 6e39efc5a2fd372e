"""Metrics on their way to the parent. Invariant owned here: recording one costs the job no round trip, and memory is bounded.

Records are encoded at once and sent by one thread over a pipe of their own: the first at once, and what follows it closely in
batches, so that thousands a second cost the tasks beside them little.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from zcell import codec
from zcell.abort import Abort
from zcell.agent.task import METRICS
from zcell.pipe.handler import PipeHandler
from zcell.pipe.message import Message, new_id

_log = logging.getLogger("zcell.agent.metrics")
TOPIC = "metric"
_BATCH_RECORDS, _BATCH_BYTES = 512, 1 << 20
_SPACING = 0.02
"""Seconds from one batch to the next, unless a batch is full: what one record waits for company at most."""
_MAX_WAITING_BYTES = 16 << 20
_RECORD_COST = 100  # what a small record costs beside its bytes
_INLINE = 1 << 62


class MetricSender:
    """Sends records in order. `log` waits for room at most `patience` seconds."""

    def __init__(self, handler: PipeHandler, send_timeout: float) -> None:
        self._handler = handler
        self._send_timeout = send_timeout
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        """For who waits for room, or for everything to be sent."""
        self._work = threading.Condition(lock)
        """For the sender; not told of every record, which would cost its thread a turn each."""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sending = False
        self._closed = False
        self._abort = Abort()
        self._id = new_id()
        self._accepted = 0
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="zcell-metrics", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Records that were accepted and could not be sent."""
        return self._lost

    def log(self, record: Any, patience: float) -> bool:
        """Whether `record` was accepted for sending. Raises `CodecError` (a `ValueError`) for one that cannot travel."""
        body, _ = codec.encode(record, out_of_band_bytes=_INLINE, name="record")
        cost = len(body) + _RECORD_COST
        with self._changed:
            room = self._changed.wait_for(
                lambda: self._closed or not self._waiting or self._waiting_bytes + cost <= _MAX_WAITING_BYTES, patience
            )
            if self._closed or not room:
                return False
            self._waiting.append(body)
            self._waiting_bytes += cost
            self._accepted += 1
            if len(self._waiting) == 1 or self._has_full_batch():
                self._work.notify()
        return True

    def mark(self, message: Message) -> None:
        """Let `message`, a result, say which records come before it."""
        if self._accepted:
            message.headers[METRICS] = [self._id, self._accepted]

    def flush(self, timeout: float) -> bool:
        """Wait until everything accepted was sent; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not (self._waiting or self._sending), timeout)

    def close(self) -> None:
        """Drop what was not sent and end the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._lost += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
            self._work.notify()
        self._abort.trigger("the agent was stopped")
        self._thread.join()

    def _has_full_batch(self) -> bool:
        return len(self._waiting) >= _BATCH_RECORDS or self._waiting_bytes >= _BATCH_BYTES

    def _run(self) -> None:
        not_before = 0.0
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                self._work.wait_for(lambda: self._closed or self._waiting)
                self._work.wait_for(lambda: self._closed or self._has_full_batch(), max(0.0, not_before - time.monotonic()))
                if self._closed:
                    return
                not_before = time.monotonic() + _SPACING
                batch = self._next_batch()
                position = self._accepted - len(self._waiting)
                self._sending = True
                self._changed.notify_all()
            message = Message.new_request(TOPIC, batch)
            message.headers[METRICS] = [self._id, position]
            if not self._handler.send_to_peer(message, self._send_timeout, self._abort):
                self._lost += len(batch)
                _log.warning("%d metric records were lost: %s", len(batch), self._handler.pipe.last_error)
                if self._handler.is_over:
                    with self._changed:
                        self._closed = True

    def _next_batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_RECORDS and (not batch or size + len(self._waiting[0]) <= _BATCH_BYTES):
            body = self._waiting.popleft()
            batch.append(body)
            size += len(body)
            self._waiting_bytes -= len(body) + _RECORD_COST
        return batch


def unpack(message: Message, callback: Callable[[Any], None]) -> None:
    """Call `callback` with each record of a batch; one that cannot be decoded, or a callback that raises, is logged."""
    if message.error or not isinstance(message.data, list):
        _log.warning("a batch of metrics was dropped: %s", message.error or "it is none")
        return
    for body in message.data:
        try:
            callback(codec.decode(body))
        except Exception:  # noqa: BLE001  the user's mistake must not cost the other records
            _log.exception("a metric record could not be handled")
