"""Telling how far a download is. Invariant: events have growing sequence numbers, and the last one is terminal.

The caller's `progress` gets an event at most ten times a second; the owner one a second, also while nothing grows but the
receiver is working, because work after the last byte is still life. The last word to the owner is `Done` or `Close`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zcell.download.callbacks import CallbackQueue
from zcell.download.options import ProgressFn
from zcell.download.progress import ProgressEvent, ProgressState
from zcell.protocol.transfer.messages import CHANNEL, Progress
from zcell.protocol.transfer.receiver import Receiver
from zcell.protocol.transfer.states import ReceiverState

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

_CALLER_SECONDS = 0.1
_OWNER_SECONDS = 1.0
_STATES = {ReceiverState.COMPLETED: ProgressState.COMPLETED, ReceiverState.FAILED: ProgressState.FAILED}


class Reporter:
    """The progress of one download, told to the caller and to the owner."""

    def __init__(self, cell: Cell, owner: str, ref_id: str, stream: bytes, progress: ProgressFn | None) -> None:
        self._cell = cell
        self._owner = owner
        self._ref_id = ref_id
        self._stream = stream
        self._progress = progress
        self._queue = CallbackQueue(cell)
        self._sequence = 0
        self._caller_at = 0.0
        self._owner_at = time.monotonic() + _OWNER_SECONDS
        self._over = False

    @property
    def next_report(self) -> float:
        """When to call `update` at the latest."""
        return self._owner_at

    def update(self, machine: Receiver) -> None:
        """Tell whoever is due."""
        now = time.monotonic()
        final = machine.finished
        if self._over or not (final or now >= self._owner_at or (self._progress is not None and now >= self._caller_at)):
            return
        figures = machine.statistics()
        state = _STATES.get(machine.state, ProgressState.ACTIVE)
        if state is ProgressState.FAILED and machine.failure == "aborted":
            state = ProgressState.ABORTED
        self.tell(figures.bytes_done, figures.bytes_total, machine.table.count, state, machine.failure)

    def next_sequence(self) -> int:
        """A sequence number for a message that carries progress itself, as the first and last words to the owner do."""
        self._sequence += 1
        return self._sequence

    def tell(self, done: int, total: int | None, items: int, state: ProgressState, reason: str = "") -> None:
        """Tell the caller, and the owner when it is due."""
        now = time.monotonic()
        if self._over:
            return
        self._over = state is not ProgressState.ACTIVE
        sequence = self.next_sequence()
        event = ProgressEvent(self._stream.hex(), self._ref_id, self._cell.fqcn, sequence, done, total, items, state, reason)
        if self._progress is not None and (self._over or now >= self._caller_at):
            self._caller_at = now + _CALLER_SECONDS
            self._queue.call(self._progress, event)
        if now >= self._owner_at and not self._over:
            self._owner_at = now + _OWNER_SECONDS
            message = Progress(self._stream, sequence, done, items, total, state.value)
            self._cell.post_event(self._owner, CHANNEL, message.topic, message.to_payload())
