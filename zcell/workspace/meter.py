"""Progress of one transfer of a tree. Invariant: counters only grow, and every bit of work moves `ticks`, so silence means a stall."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from zcell.workspace.manifest import Entry

log = logging.getLogger("zcell.workspace")

Direction = Literal["down", "up"]
State = Literal["ACTIVE", "COMPLETED", "FAILED", "ABORTED"]
_REPORT_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class WorkspaceProgress:
    """How far a transfer is. Totals are 0 until they are known; bytes are bytes of files, not of what is on the wire."""

    name: str
    """The job id, or the name of a tree."""
    direction: Direction
    peer: str
    """The cell at the other side."""
    sequence: int
    phase: str
    """listing, comparing, transferring or installing."""
    state: State
    bytes_done: int
    bytes_total: int
    items_done: int
    items_total: int


ProgressCallback = Callable[[WorkspaceProgress], None]


class Meter:
    """Counts the work of one transfer and reports it to `callback`, at most ten times a second and at every change of phase.

    Safe to use from several threads. A callback that raises is logged once and not called again.
    """

    def __init__(
        self, name: str = "", direction: Direction = "down", peer: str = "", callback: ProgressCallback | None = None
    ) -> None:
        self._identity = (name, direction, peer)
        self._callback = callback
        self._lock = threading.Lock()
        self._phase = "listing"
        self._state: State = "ACTIVE"
        self._sequence = 0
        self._reported_at = 0.0
        self._partial: dict[str, int] = {}
        self._bytes_done = self._bytes_total = self._items_done = self._items_total = 0
        self.ticks = 0
        """Grows with every piece of work; equal values mean that nothing moved."""

    def tick(self) -> None:
        """A piece of work is done that no other counter shows."""
        self.ticks += 1

    def phase(self, phase: str) -> None:
        with self._lock:
            self._phase = phase
        self._report(force=True)

    def expect(self, entries: Iterable[Entry]) -> None:
        """These have to travel. May be called again by a further attempt: then what is done already stays in both counts."""
        entries = list(entries)
        with self._lock:
            self._partial.clear()
            self._bytes_total = max(self._bytes_total, self._bytes_done + sum(entry.data_bytes for entry in entries))
            self._items_total = max(self._items_total, self._items_done + len(entries))
        self.ticks += 1

    def partial(self, key: str, bytes_done: int) -> None:
        """Of the file `key`, which is not complete, this many bytes are there."""
        with self._lock:
            self._partial[key] = max(bytes_done, self._partial.get(key, 0))
        self._report()

    def item_done(self, entry: Entry) -> None:
        with self._lock:
            self._partial.pop(entry.path, None)
            self._bytes_done += entry.data_bytes
            self._items_done += 1
        self._report()

    def end(self, state: State) -> None:
        """The last report. Later ones are dropped."""
        with self._lock:
            if self._state == "ACTIVE":
                self._state = state
            else:
                return
        self._report(force=True)

    def now(self) -> WorkspaceProgress:
        """A snapshot."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> WorkspaceProgress:
        name, direction, peer = self._identity
        done = self._bytes_done + sum(self._partial.values())
        return WorkspaceProgress(
            name=name,
            direction=direction,
            peer=peer,
            sequence=self._sequence,
            phase=self._phase,
            state=self._state,
            bytes_done=min(done, self._bytes_total),
            bytes_total=self._bytes_total,
            items_done=self._items_done,
            items_total=self._items_total,
        )

    def _report(self, *, force: bool = False) -> None:
        self.ticks += 1
        callback = self._callback
        if callback is None:
            return
        with self._lock:
            now = time.monotonic()
            if not force and now - self._reported_at < _REPORT_INTERVAL:
                return
            self._reported_at = now
            self._sequence += 1
            event = self._snapshot()
        try:
            callback(event)
        except Exception:
            self._callback = None
            log.exception("a progress callback failed; it is not called again")
