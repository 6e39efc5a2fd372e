"""Which chunks to ask for, and which are on their way. Invariant: bytes asked for and not yet stored never exceed the window.

A chunk is in one of these places: not asked for yet (from the cursor on), asked for, in hand (arrived, being stored), to ask
again, or held in the table. Order matters: chunks that were asked for first arrive first on a path that keeps order.
"""

from __future__ import annotations

from dataclasses import dataclass

from zcell.protocol.transfer.chunks import ChunkTable, chunk_count, chunk_length, runs
from zcell.protocol.transfer.window import Window

GAP = 64
"""A chunk that was overtaken by one asked for this many chunks later is lost: no path zcell makes reorders that far."""


@dataclass(slots=True)
class _Asked:
    seq: int
    serial: int
    length: int
    at: float


class Ledger:
    """The accounts of one transfer. `size` is None while the length of a stream is unknown."""

    def __init__(self, table: ChunkTable, size: int | None, chunk_bytes: int, window: Window) -> None:
        self.table = table
        self.size = size
        self.window = window
        self.asked_bytes = 0
        """Bytes asked for or in hand: what counts against the window."""
        self.asked_again = 0
        self._chunk_bytes = chunk_bytes
        self._cursor = 0
        self._floor = 0
        self._serial = 0
        self._asked: dict[int, _Asked] = {}
        self._in_hand: dict[int, _Asked] = {}
        self._again: set[int] = set()

    @property
    def chunks(self) -> int | None:
        """How many chunks the object has, None while unknown."""
        return None if self.size is None else chunk_count(self.size, self._chunk_bytes)

    @property
    def waiting(self) -> bool:
        """Whether anything asked for has not arrived."""
        return bool(self._asked)

    @property
    def in_hand(self) -> bool:
        """Whether anything that arrived is still being stored."""
        return bool(self._in_hand)

    @property
    def complete(self) -> bool:
        """Whether every chunk is held."""
        return self.size is not None and self.table.count == self.chunks and not self._in_hand

    @property
    def bytes_done(self) -> int:
        """Bytes of the chunks held; while the size is unknown the last one counts as whole."""
        done = self.table.count * self._chunk_bytes
        chunks = self.chunks
        if chunks and self.size is not None and chunks - 1 in self.table:
            done -= chunks * self._chunk_bytes - self.size
        return done

    def floor(self) -> int:
        """All chunks below this index are held."""
        self._floor = self.table.next_missing(self._floor)
        return self._floor

    def length(self, index: int) -> int:
        """Bytes of chunk `index`; the whole chunk while the size is unknown; 0 or less beyond the end."""
        return self._chunk_bytes if self.size is None else chunk_length(index, self.size, self._chunk_bytes)

    def ask(self, seq: int, now: float) -> tuple[list[tuple[int, int]], bool, bool]:
        """Take as many chunks as the window allows: (ranges, whether any is asked again, whether nothing is left to ask).

        Small amounts wait until they are worth a message: a quarter of the window, or all there is.
        """
        free = self.window.size_bytes - self.asked_bytes
        if self._asked and free < self.window.size_bytes // 4 and not self._again:
            return [], False, False
        repeated: list[int] = []
        fresh: list[int] = []
        for index in sorted(self._again):
            if self._take(index, seq, now):
                repeated.append(index)
        self._again.difference_update(repeated)
        self.asked_again += len(repeated)
        while not self._again:
            self._cursor = self._next_fresh(self._cursor)
            if self._at_end(self._cursor) or not self._take(self._cursor, seq, now):
                break
            fresh.append(self._cursor)
            self._cursor += 1
        left = bool(self._again) or not self._at_end(self._next_fresh(self._cursor))
        return [*runs(repeated), *runs(fresh)], bool(repeated), not left

    def _take(self, index: int, seq: int, now: float) -> bool:
        length = self.length(index)
        if self.asked_bytes + length > self.window.size_bytes:
            return False
        if not self._asked and not self._in_hand:
            self.window.idle(now)
        self._serial += 1
        self._asked[index] = _Asked(seq, self._serial, length, now)
        self.asked_bytes += length
        return True

    def _next_fresh(self, index: int) -> int:
        while True:
            index = self.table.next_missing(index)
            if index not in self._asked and index not in self._in_hand and index not in self._again:
                return index
            index += 1

    def _at_end(self, index: int) -> bool:
        chunks = self.chunks
        return chunks is not None and index >= chunks

    def take_in_hand(self, index: int) -> bool:
        """Chunk `index` is here: whether it is wanted. A late one that was given up is still welcome."""
        entry = self._asked.pop(index, None)
        if entry is None:
            length = self.length(index)
            if index not in self._again or self.asked_bytes + length > self.window.size_bytes:
                return False
            self._again.discard(index)
            entry = _Asked(0, 0, length, 0.0)
            self.asked_bytes += length
        self._in_hand[index] = entry
        self._give_up_overtaken(entry.serial)
        return True

    def _give_up_overtaken(self, serial: int) -> None:
        lost = []
        for index, entry in self._asked.items():
            if entry.serial >= serial - GAP:
                break
            lost.append(index)
        self._give_up(lost)

    def stored(self, index: int, digest: bytes, now: float) -> int:
        """Chunk `index` is stored and verified. Returns its length as asked for, 0 when it was not in hand."""
        entry = self._in_hand.pop(index, None)
        if entry is None:
            return 0
        self.asked_bytes -= entry.length
        self.table.add(index, digest)
        if entry.serial:
            self.window.arrived(entry.length, entry.at, now)
        return entry.length

    def spoiled(self, index: int) -> None:
        """What arrived as chunk `index` is not it: ask again."""
        entry = self._in_hand.pop(index, None)
        if entry is not None:
            self.asked_bytes -= entry.length
            self._again.add(index)

    def marked(self, seq: int) -> int:
        """Everything asked for up to pull `seq` would have arrived by now. Returns how many chunks are lost."""
        lost = []
        for index, entry in self._asked.items():
            if entry.seq > seq:
                break
            lost.append(index)
        self._give_up(lost)
        return len(lost)

    def give_up_all(self) -> None:
        """The sender has forgotten what it was asked for."""
        self._give_up(list(self._asked))

    def _give_up(self, lost: list[int]) -> None:
        for index in lost:
            self.asked_bytes -= self._asked.pop(index).length
            self._again.add(index)

    def end_at(self, size: int) -> None:
        """The object has `size` bytes: forget what lies beyond."""
        self.size = size
        chunks = chunk_count(size, self._chunk_bytes)
        for index in [i for i in self._asked if i >= chunks]:
            self.asked_bytes -= self._asked.pop(index).length
        for index in [i for i in self._in_hand if i >= chunks]:
            self.asked_bytes -= self._in_hand.pop(index).length
        self._again = {i for i in self._again if i < chunks}
        for index in list(self.table.held_from(chunks)):
            self.table.drop(index)

    def drop(self, index: int) -> None:
        """Chunk `index` is held but wrong: ask for it again."""
        if self.table.drop(index):
            self._again.add(index)
            self._floor = min(self._floor, index)
