"""Progress of transfers. Invariant: an accepted record never goes back, and a terminal one never changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class ProgressState(StrEnum):
    """Where a transfer is; all but ACTIVE are terminal."""

    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far one receiver is with one transfer. Bytes are of the object; `bytes_total` is None while unknown."""

    transfer_id: str
    ref_id: str
    receiver: str
    sequence: int
    bytes_done: int
    bytes_total: int | None
    items_done: int
    """Chunks or steps."""
    state: ProgressState
    reason: str = ""
    """Why it failed."""


class ProgressRefusal(StrEnum):
    """Why a record was not accepted."""

    STALE_SEQUENCE = "stale_sequence"
    BYTES_REGRESSED = "bytes_regressed"
    ITEMS_REGRESSED = "items_regressed"
    TERMINAL = "terminal"


class ProgressKey(NamedTuple):
    """What a record is about."""

    job: str
    task: str
    transfer: str
    direction: str
    receiver: str


@dataclass(frozen=True, slots=True)
class ProgressRecord:
    """The last accepted event of one key. Times are of `time.monotonic`, seconds."""

    event: ProgressEvent
    accepted_at: float
    advanced_at: float
    """When a counter last grew."""


class ProgressTracker:
    """Keeps one record a key. `idle_timeout`: seconds of standing counters after which an active transfer is stalled.

    Thread-safe. `clock` is for tests.
    """

    def __init__(self, idle_timeout: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        if idle_timeout <= 0:
            raise ValueError(f"idle_timeout must be above 0 seconds, got {idle_timeout!r}")
        self.idle_timeout = idle_timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[ProgressKey, ProgressRecord] = {}

    def update(self, event: ProgressEvent, *, job: str = "", task: str = "", direction: str = "down") -> ProgressRefusal | None:
        """Take `event` in; None when accepted, else why not (nothing changed then)."""
        key = ProgressKey(job, task, event.transfer_id, direction, event.receiver)
        now = self._clock()
        with self._lock:
            record = self._records.get(key)
            if record is None:
                self._records[key] = ProgressRecord(event, now, now)
                return None
            refusal = _refusal(record.event, event)
            if refusal is None:
                before = record.event
                grown = event.bytes_done > before.bytes_done or event.items_done > before.items_done
                self._records[key] = ProgressRecord(event, now, now if grown else record.advanced_at)
            return refusal

    def get(self, key: ProgressKey) -> ProgressRecord | None:
        """The record of `key`, if there is one."""
        with self._lock:
            return self._records.get(key)

    def records(self) -> dict[ProgressKey, ProgressRecord]:
        """A copy of all records."""
        with self._lock:
            return dict(self._records)

    def stalled(self) -> list[ProgressKey]:
        """Active transfers whose counters have stood still for `idle_timeout`, however many events came."""
        now = self._clock()
        with self._lock:
            return [
                key
                for key, record in self._records.items()
                if record.event.state is ProgressState.ACTIVE and now - record.advanced_at >= self.idle_timeout
            ]

    def forget(self, key: ProgressKey) -> None:
        """Drop a record that nobody will ask for again."""
        with self._lock:
            self._records.pop(key, None)


def _refusal(before: ProgressEvent, event: ProgressEvent) -> ProgressRefusal | None:
    if before.state is not ProgressState.ACTIVE:
        return ProgressRefusal.TERMINAL
    if event.sequence <= before.sequence:
        return ProgressRefusal.STALE_SEQUENCE
    if event.bytes_done < before.bytes_done:
        return ProgressRefusal.BYTES_REGRESSED
    if event.items_done < before.items_done:
        return ProgressRefusal.ITEMS_REGRESSED
    return None
