"""The first half of a receiver: opening, preparing and receiving. Invariant: what is asked for, and when, follows the ledger alone.

`Receiver` adds what comes after the last chunk, and time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from zcell.errors import ProtocolError
from zcell.protocol.transfer import actions as act
from zcell.protocol.transfer.chunks import MAX_CHUNKS, ChunkTable
from zcell.protocol.transfer.figures import ReceiverStatistics
from zcell.protocol.transfer.ledger import Ledger
from zcell.protocol.transfer.messages import AskRoot, Description, Pull
from zcell.protocol.transfer.repair import Repair
from zcell.protocol.transfer.states import ReceiverEvent, ReceiverState, next_receiver_state
from zcell.protocol.transfer.timing import Patience
from zcell.protocol.transfer.window import Window

MAX_SPOILED = 5
"""A chunk that arrives damaged this many times will not get better."""
FORGOTTEN_SECONDS = 10.0
"""How long an owner that has forgotten a ref may take to offer it again, as after a restart."""
MOVING = frozenset({ReceiverState.RECEIVING, ReceiverState.COMPARING, ReceiverState.REPAIRING})
"""The states in which the owner's stream is needed."""
_UNFINISHED = frozenset(ReceiverState) - {ReceiverState.COMPLETED, ReceiverState.FAILED}
_LOCAL = frozenset({ReceiverState.PREPARING, ReceiverState.PUBLISHING})


class Asking(ABC):
    """`verify`: "tree" or "checksum". `idle_timeout` seconds without progress end it; `deadline` is a time as `now` is."""

    def __init__(
        self,
        stream: bytes,
        *,
        window_bytes: int,
        idle_timeout: float,
        deadline: float | None = None,
        verify: str = "tree",
        now: float,
    ) -> None:
        self.state = ReceiverState.OPENING
        self.description: Description | None = None
        self.stream = stream
        self.verify = verify
        self.confirmed = False
        self.failure = ""
        """The `DownloadError` reason once FAILED."""
        self._window_limit = window_bytes
        self._actions: list[act.Action] = []
        self._ledger = Ledger(ChunkTable(), None, 1, Window(window_bytes, 1))
        self._patience = Patience(idle_timeout, deadline, now)
        self._seq = 0
        self._opening = False
        self._asking = False
        self._root: bytes | None = None
        self._root_known = False
        self._repair: Repair | None = None
        self._repairs = 0
        self._forgotten_at: float | None = None
        self._spoiled: dict[int, int] = {}
        self._busy_work = -1
        self._resumed = self._arrived = self._arrived_bytes = self._duplicate = self._spoiled_total = self._probes = 0
        self._open(now)

    # --- what the driver reads ---------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the last action has been given."""
        return self.state not in _UNFINISHED

    @property
    def table(self) -> ChunkTable:
        """The chunks held."""
        return self._ledger.table

    @property
    def size(self) -> int | None:
        """Bytes of the object, None while unknown."""
        return self._ledger.size

    @property
    def asked_bytes(self) -> int:
        """Credit in use."""
        return self._ledger.asked_bytes

    def statistics(self) -> ReceiverStatistics:
        """A snapshot of the counters."""
        return ReceiverStatistics(
            bytes_done=self._ledger.bytes_done,
            bytes_total=self._ledger.size,
            bytes_arrived=self._arrived_bytes,
            chunks_arrived=self._arrived,
            chunks_resumed=self._resumed,
            chunks_asked_again=self._ledger.asked_again,
            chunks_duplicate=self._duplicate,
            chunks_spoiled=self._spoiled_total,
            probes=self._probes,
            window_bytes=self._ledger.window.size_bytes,
        )

    def take_actions(self) -> list[act.Action]:
        """What to do, in order. Empties the list."""
        taken, self._actions = self._actions, []
        return taken

    def next_tick(self) -> float | None:
        """When `tick` must be called at the latest, None when finished."""
        if self.finished:
            return None
        return self._patience.next_tick(probing=self.state is ReceiverState.RECEIVING and not self._opening)

    # --- opening -----------------------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        self._opening = True
        self._patience.retry_at = None
        self._actions.append(act.RequestOpen())

    def described(self, description: Description, now: float) -> None:
        """The owner described the object, at first or after it had forgotten the stream."""
        if self.finished or not self._opening:
            return
        self._opening = False
        self._patience.reached(now)
        if description.failure:
            self._opening = True
            self.refused(description.failure, description.text or "the owner refused without a text", now)
        elif self.state is ReceiverState.OPENING:
            self.description = description
            self._patience.progress(now)
            self._move(ReceiverEvent.DESCRIBED)
            self._actions.append(act.Prepare(description))
        else:
            self._described_again(description, now)

    def refused(self, reason: str, text: str, now: float) -> None:
        """The owner will not serve the ref. One that served it before and has forgotten it may be restarting."""
        if self.finished:
            return
        if self.state in MOVING and reason == "unknown_ref":
            if self._forgotten_at is None:
                self._forgotten_at = now
            if now < self._forgotten_at + FORGOTTEN_SECONDS:
                self._patience.retry(now)
                return
        self.fail(reason, text)

    def _described_again(self, description: Description, now: float) -> None:
        self._forgotten_at = None
        before = self.description
        assert before is not None
        if (description.kind, description.chunk_bytes) != (before.kind, before.chunk_bytes) or differ(
            self._ledger.size, description.size
        ):
            self.fail("source_failed", "the owner now offers something else under this ref: kind, chunk size or size changed")
        elif differ(before.root, description.root):
            self.fail("source_failed", f"the owner now offers other content under this ref: digest {shown(description.root)}")
        elif self.state is ReceiverState.RECEIVING:
            self._pump(now)
        else:
            self._patience.retry_at = now

    def sink_ready(self, held: ChunkTable, now: float) -> None:
        """The sink is ready and already holds `held` (verified by an earlier try)."""
        if self.state is not ReceiverState.PREPARING:
            return
        description = self.description
        assert description is not None
        window = Window(self._window_limit, description.chunk_bytes)
        self._ledger = Ledger(held, None, description.chunk_bytes, window)
        if description.size is not None:
            self._ledger.end_at(description.size)
        if description.root is not None and self.verify == "tree":
            self._root, self._root_known = description.root, True
        self._resumed = held.count
        self._patience.progress(now)
        self._move(ReceiverEvent.SINK_READY)
        if self._resumed and self.verify == "tree" and not self._root_known and not self._ledger.complete:
            self._actions.append(act.Post(AskRoot(self.stream)))  # so that it hashes what it need not send meanwhile
        self._after_storing(now)

    # --- chunks ------------------------------------------------------------------------------------------------------------

    def accept(self, index: int, offset: int, length: int, now: float) -> bool:
        """A frame that claims to be chunk `index` arrived: whether to verify and store it.

        After True the driver calls `stored` or `spoiled`. Raises `ProtocolError` when it cannot be that chunk.
        """
        if self.state is not ReceiverState.RECEIVING:
            self._duplicate += 1
            return False
        description = self.description
        assert description is not None
        if index >= MAX_CHUNKS or offset != index * description.chunk_bytes:
            raise ProtocolError(f"chunk {index} claims offset {offset}, expected {index} x {description.chunk_bytes}")
        expected = self._ledger.length(index)
        if length != expected and not (self._ledger.size is None and 0 < length < expected):
            raise ProtocolError(f"chunk {index} has {length} bytes, expected {expected}")
        if not self._ledger.take_in_hand(index):
            self._duplicate += 1
            return False
        self._patience.heard(now, self._ledger.window.delay)
        if self._ledger.size is None and length < expected:
            self.ended(offset + length, now)
        return True

    def stored(self, index: int, length: int, digest: bytes, now: float) -> None:
        """Chunk `index` is verified, stored and journaled."""
        if self._ledger.stored(index, digest, now):
            self._arrived += 1
            self._arrived_bytes += length
            if self._spoiled:
                self._spoiled.pop(index, None)
        self._patience.progress(now)
        self._after_storing(now)

    def _after_storing(self, now: float) -> None:
        if self.state is not ReceiverState.RECEIVING:
            return
        if self._ledger.complete:
            self._move(ReceiverEvent.ALL_STORED)
            self._compare(now)
        else:
            self._pump(now)

    def spoiled(self, index: int | None, text: str, now: float) -> None:
        """What arrived for chunk `index` (None: for one that cannot be told) is damaged. It is asked for again, some times."""
        if self.finished:
            return
        self._spoiled_total += 1
        key = -1 if index is None else index
        self._spoiled[key] = self._spoiled.get(key, 0) + 1
        if index is not None:
            self._ledger.spoiled(index)
        if self._spoiled[key] > (MAX_SPOILED if index is not None else 8 * MAX_SPOILED):
            self.fail("corrupt", f"chunks keep arriving damaged: {text}")
        elif self.state is ReceiverState.RECEIVING:
            if index is None:
                self._probe(now)
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Ask for more, as far as the window allows."""
        if self._opening or self.state is not ReceiverState.RECEIVING:
            return
        ranges, repeated, nothing_left = self._ledger.ask(self._seq + 1, now)
        if ranges:
            self._seq += 1
            # behind the last chunks, and behind repeated ones, a mark tells within one round trip whether they arrived
            self._post_pull(ranges, mark=repeated or nothing_left)
            self._patience.asked(now, self._ledger.window.delay)

    def _post_pull(self, ranges: list[tuple[int, int]], mark: bool) -> None:
        floor = self._ledger.floor()
        for at in range(0, len(ranges), 512):
            part = tuple(ranges[at : at + 512])
            self._actions.append(act.Post(Pull(self.stream, self._seq, part, mark and at + 512 >= len(ranges), floor)))

    def _probe(self, now: float) -> None:
        self._probes += 1
        self._seq += 1
        self._actions.append(act.Post(Pull(self.stream, self._seq, (), True, self._ledger.floor())))

    def marked(self, seq: int, now: float) -> None:
        """Mark `seq` arrived on the data lane, behind every frame that was handed to `accept` before."""
        if self.finished:
            return
        self._patience.heard(now, self._ledger.window.delay)
        if seq <= self._seq:
            self._ledger.marked(seq)
            self._pump(now)

    def ended(self, size: int, now: float) -> None:
        """The stream has `size` bytes."""
        description = self.description
        if self.state is not ReceiverState.RECEIVING or description is None:
            return
        if self._ledger.size is None:
            self._ledger.end_at(size)
            self._patience.progress(now)
            self._after_storing(now)
        elif self._ledger.size != size:
            self.fail("source_failed", f"the stream ended at {size} bytes after it had ended at {self._ledger.size}")

    @abstractmethod
    def _compare(self, now: float) -> None:
        """All chunks are stored: find out whether they are the right ones."""

    # --- trouble -----------------------------------------------------------------------------------------------------------

    def unreachable(self, text: str, now: float) -> None:
        """A request found no way to the owner: it is repeated until `idle_timeout`."""
        if not self.finished:
            self._patience.unreachable(text, now)

    def link_up(self, now: float) -> None:
        """A link came up: find out at once what was lost with the old one."""
        self._patience.hurry(now)

    def unknown_stream(self, now: float) -> None:
        """The sender has forgotten the stream, as after a restart."""
        if self.state in MOVING and not self._opening:
            self._ledger.give_up_all()
            self._open(now)

    def fail(self, reason: str, text: str) -> None:
        """End the transfer with `reason`. Idempotent: the first reason stays."""
        if not self.finished and self.state is not ReceiverState.CONFIRMING:
            self._move(ReceiverEvent.FAIL)
            self.failure = reason
            self._actions.append(act.Fail(reason, text))

    def _is_local(self) -> bool:
        """Whether the next step is our own: then silence from the other side means nothing."""
        return self.state in _LOCAL or self._asking or self._ledger.in_hand

    def _move(self, event: ReceiverEvent) -> None:
        self.state = next_receiver_state(self.state, event)


def differ(a: object, b: object) -> bool:
    return a is not None and b is not None and a != b


def shown(root: bytes | None) -> str:
    return (root or b"").hex()[:16] or "none"
