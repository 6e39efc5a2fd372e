"""Both ends of a transfer in virtual time, with a network that can do its worst. Invariant: the same seed plays the same run.

The world carries out what the machines ask for, as the service does with sockets and files: the receiver's disk (chunks and
journal bytes) survives its crashes, the sender's memory of streams does not.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zcell.errors import ProtocolError
from zcell.protocol.transfer import actions as act
from zcell.protocol.transfer.chunks import ChunkTable, chunk_count
from zcell.protocol.transfer.journal import HEADER_BYTES, Journal, JournalHeader, decode_journal, encode_record
from zcell.protocol.transfer.messages import (
    AskRoot,
    Busy,
    Close,
    Description,
    End,
    Message,
    Pull,
    Root,
    SourceFailed,
    UnknownStream,
)
from zcell.protocol.transfer.receiver import Receiver
from zcell.protocol.transfer.sender import HashNext, PutMark, Sender, Serve

CHUNK = 16
WINDOW = 4 * CHUNK


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def root_of(digests: bytes) -> bytes:
    return hashlib.sha256(digests).digest()


@dataclass
class Weather:
    """What the network and the two machines do. Rates are probabilities a frame; times are seconds."""

    delay: float = 0.01
    chunk_seconds: float = 0.001
    """Time a chunk occupies the data lane: its bandwidth."""
    load_seconds: float = 0.0005
    store_seconds: float = 0.0005
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: float = 0.0
    corrupt: float = 0.0
    outages: list[tuple[float, float]] = field(default_factory=list)
    """(begin, end): everything on its way or sent meanwhile is lost; the link event comes at the end."""
    until: float = 1e9
    """After this time the weather is fine."""


class World:
    """One object, one sender host, one receiver host."""

    def __init__(
        self,
        data: bytes,
        weather: Weather | None = None,
        *,
        seed: int = 0,
        stream: bool = False,
        verify: str = "tree",
        announce: bool = False,
        idle_timeout: float = 60.0,
        deadline: float | None = None,
        window: int = WINDOW,
    ) -> None:
        self.data = data
        self.weather = weather or Weather()
        self.random = random.Random(seed)
        self.is_stream = stream
        self.verify = verify
        self.announce = announce
        self.idle_timeout = idle_timeout
        self.deadline = deadline
        self.window = window
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._era = 0
        # the sender's host
        self.sender_up = True
        self.senders: dict[bytes, Sender] = {}
        self.source_table = ChunkTable()
        self.source_changed = False
        self.chunks_sent: list[int] = []
        self.hashed_unsent = 0
        self._lane_free = 0.0
        self._loading: dict[bytes, bool] = {}
        self.produced = 0 if stream else chunk_count(len(data), CHUNK)
        self.confirmed: list[str] = []
        self.ref_known: str = ""
        self.announced: bytes | None = None
        # the receiver's host
        self.disk: dict[int, bytes] = {}
        self.journal = b""
        self.final: bytes | None = None
        self.receiver: Receiver | None = None
        self.outcome: tuple[str, str] | None = None
        self.life = 0
        self._tick_at: float | None = None
        for begin, end in self.weather.outages:
            self.at(begin, self._cut)
            self.at(end, self._link_up)

    # --- time ------------------------------------------------------------------------------------------------------------

    def at(self, when: float, fn: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (max(when, self.now), self._serial, fn))

    def run(self, until: float = 1e6, steps: int = 400_000) -> tuple[str, str] | None:
        """Play until the receiver is finished, `until`, or nothing is left to happen."""
        while self._events and self.outcome is None and steps:
            if self._events[0][0] > until:
                break
            self.now, _, fn = heapq.heappop(self._events)
            fn()
            steps -= 1
        assert steps, "the two ends chase each other for ever"
        return self.outcome

    # --- network ---------------------------------------------------------------------------------------------------------

    def _bad(self, rate: float) -> bool:
        return rate > 0 and self.now < self.weather.until and self.random.random() < rate

    def _down(self) -> bool:
        return any(begin <= self.now < end for begin, end in self.weather.outages)

    def _cut(self) -> None:
        self._era += 1

    def _link_up(self) -> None:
        if self.receiver is not None:
            self.receiver.link_up(self.now)
            self._act()

    def _carry(self, deliver: Callable[[], None], arrival: float | None = None) -> None:
        era = self._era
        if self._down() or self._bad(self.weather.loss):
            return

        def arrive() -> None:
            if era == self._era and not self._down():
                deliver()

        jitter = self.random.random() * self.weather.jitter if self.now < self.weather.until else 0.0
        when = self.now + self.weather.delay if arrival is None else arrival
        self.at(when + jitter, arrive)
        if self._bad(self.weather.duplicate):
            self.at(when + self.random.random() * self.weather.jitter, arrive)

    # --- sender's host ---------------------------------------------------------------------------------------------------

    def crash_sender(self, back_after: float) -> None:
        self.sender_up = False
        self.senders.clear()
        self._loading.clear()
        self.source_table = ChunkTable()
        self._era += 1

        def back() -> None:
            self.sender_up = True
            self._link_up()

        self.at(self.now + back_after, back)

    def change_source(self, data: bytes) -> None:
        """The file changes while it is offered, and the sender notices at its next read."""
        self.data = data
        self.source_changed = True

    def chunk(self, index: int) -> bytes:
        return self.data[index * CHUNK : (index + 1) * CHUNK]

    def _to_sender(self, message: Message) -> None:
        if not self.sender_up:
            return
        stream: bytes = message.stream  # type: ignore[attr-defined]
        sender = self.senders.get(stream)
        if sender is None:
            if not isinstance(message, Close):
                self._to_receiver(UnknownStream(stream))
            return
        if isinstance(message, Pull):
            end = sender.pull(message)
            if end is not None:
                self._to_receiver(end)
        elif isinstance(message, AskRoot):
            sender.ask_root()
        elif isinstance(message, Close):
            sender.close()
        self._pump_sender(stream)

    def _pump_sender(self, stream: bytes) -> None:
        sender = self.senders.get(stream)
        if sender is None or self._loading.get(stream):
            return
        work = sender.next_work()
        if work is None:
            return
        if self.source_changed:
            sender.fail()
            self._to_receiver(SourceFailed(stream, "source_failed", "the file changed"))
            return
        self._loading[stream] = True
        era = id(sender)

        def loaded() -> None:
            if self.senders.get(stream) is not sender or id(sender) != era:
                return
            self._loading[stream] = False
            self._finish_work(sender, work)
            self._pump_sender(stream)

        self.at(self.now + self.weather.load_seconds, loaded)

    def _finish_work(self, sender: Sender, work: Serve | PutMark | HashNext) -> None:
        if isinstance(work, PutMark):
            self._on_data_lane(("mark", work.seq), 0.0)
            sender.mark_done()
        elif isinstance(work, HashNext):
            self._hash_next(sender)
        elif self.is_stream and work.index >= self.produced:
            sender.wait(work.index)
            self.at(self.now + 0.002, lambda: self._produce(sender))
        else:
            payload = self.chunk(work.index)
            digest = digest_of(payload)
            self.source_table.add(work.index, digest)
            self.chunks_sent.append(work.index)
            if self._bad(self.weather.corrupt):
                payload = bytes([payload[0] ^ 1]) + payload[1:]
            self._on_data_lane(("chunk", work.index, work.index * CHUNK, payload, digest), self.weather.chunk_seconds)
            sender.done(work.index)

    def _hash_next(self, sender: Sender) -> None:
        chunks = chunk_count(len(self.data), CHUNK)
        if self.is_stream and self.produced < chunks:
            self._produce(sender)
        missing = self.source_table.next_missing(0)
        if self.verify == "tree" and missing < chunks:
            self.source_table.add(missing, digest_of(self.chunk(missing)))
            self.hashed_unsent += 1
            if missing % 8 == 0:
                self._to_receiver(Busy(sender.stream, self.source_table.count))
            return
        root = root_of(self.source_table.digests(0, chunks)) if self.verify == "tree" else None
        self._to_receiver(Root(sender.stream, len(self.data), root))
        sender.root_sent()

    def _produce(self, sender: Sender) -> None:
        if self.produced * CHUNK >= len(self.data):
            self._to_receiver(sender.ended(len(self.data)))
        else:
            self.produced += 1
            sender.available()
        self._pump_sender(sender.stream)

    def _on_data_lane(self, frame: tuple[Any, ...], seconds: float) -> None:
        self._lane_free = max(self._lane_free, self.now) + seconds
        self._carry(lambda: self._frame(frame), self._lane_free + self.weather.delay)

    # --- receiver's host -------------------------------------------------------------------------------------------------

    def start_receiver(self) -> None:
        self.life += 1
        self.receiver = Receiver(
            self.life.to_bytes(16, "big"),
            window_bytes=self.window,
            idle_timeout=self.idle_timeout,
            verify=self.verify,
            deadline=self.deadline,
            now=self.now,
        )
        self._act()

    def crash_receiver(self, back_after: float, torn: int = 0) -> None:
        """kill -9: what is on disk stays, the journal perhaps torn in its last record."""
        self.receiver = None
        if torn and len(self.journal) > HEADER_BYTES:
            self.journal = self.journal[: max(HEADER_BYTES, len(self.journal) - torn)]
        self.at(self.now + back_after, self.start_receiver)

    def verified(self) -> set[int]:
        """What the journal vouches for."""
        if not self.journal:
            return set()
        return set(decode_journal(self.journal).table.held_from(0))

    def _to_receiver(self, message: Message) -> None:
        life = self.life

        def deliver() -> None:
            receiver = self.receiver
            if receiver is None or life != self.life or message.stream != receiver.stream:  # type: ignore[attr-defined]
                return
            if isinstance(message, End):
                receiver.ended(message.size, self.now)
            elif isinstance(message, Root):
                receiver.root(message.root, message.size, self.now)
            elif isinstance(message, Busy):
                receiver.busy(message.work, self.now)
            elif isinstance(message, SourceFailed):
                receiver.source_failed(message.failure, message.text)
            elif isinstance(message, UnknownStream):
                receiver.unknown_stream(self.now)
            self._act()

        self._carry(deliver)

    def _frame(self, frame: tuple[Any, ...]) -> None:
        receiver = self.receiver
        if receiver is None:
            return
        if frame[0] == "mark":
            receiver.marked(frame[1], self.now)
        else:
            _, index, offset, payload, digest = frame
            try:
                wanted = receiver.accept(index, offset, len(payload), self.now)
            except ProtocolError as error:
                receiver.spoiled(None, str(error), self.now)
                wanted = False
            if wanted:
                self.at(self.now + self.weather.store_seconds, lambda: self._store(receiver, index, payload, digest))
        self._act()

    def _store(self, receiver: Receiver, index: int, payload: bytes, digest: bytes) -> None:
        if receiver is not self.receiver or receiver.finished:
            return
        if digest_of(payload) != digest:
            receiver.spoiled(index, "digest differs", self.now)
        else:
            self.disk[index] = payload
            self.journal += encode_record(self.journal[HEADER_BYTES - 8 : HEADER_BYTES], index, digest)
            receiver.stored(index, len(payload), digest, self.now)
        self._act()

    def _request(self, answer: Callable[[Receiver], None], receiver: Receiver) -> None:
        """A request and its reply, or its timeout."""
        done = [False]

        def reply() -> None:
            if not done[0] and receiver is self.receiver:
                done[0] = True
                answer(receiver)
                self._act()

        def at_owner() -> None:
            if self.sender_up:
                self._carry(reply)

        def timeout() -> None:
            if not done[0] and receiver is self.receiver:
                done[0] = True
                receiver.unreachable("no answer", self.now)
                self._act()

        self._carry(at_owner)
        self.at(self.now + 5.0, timeout)

    def _describe(self, receiver: Receiver) -> None:
        if receiver.stream not in self.senders:
            size = None if self.is_stream else len(self.data)
            self.senders[receiver.stream] = Sender(receiver.stream, size, CHUNK, 2 * self.window // CHUNK)
        chunks = chunk_count(len(self.data), CHUNK)
        root = self.announced
        if self.announce:
            root = root_of(b"".join(digest_of(self.chunk(i)) for i in range(chunks)))
        description = Description(
            size=None if self.is_stream else len(self.data),
            root=root,
            chunk_bytes=CHUNK,
            failure=self.ref_known,
            text=self.ref_known,
        )
        receiver.described(description, self.now)

    def _act(self) -> None:
        receiver = self.receiver
        while receiver is not None and (actions := receiver.take_actions()):
            for action in actions:
                self._carry_out(receiver, action)
        if receiver is None:
            return
        assert receiver.asked_bytes <= max(self.window, 2 * CHUNK), "credit exceeded"
        when = receiver.next_tick()
        if when is not None and (self._tick_at is None or when < self._tick_at or self._tick_at <= self.now):
            self._tick_at = max(when, self.now)
            self.at(self._tick_at, self._tick)

    def _tick(self) -> None:
        self._tick_at = None
        if self.receiver is not None:
            self.receiver.tick(self.now)
            self._act()

    def _carry_out(self, receiver: Receiver, action: act.Action) -> None:
        if isinstance(action, act.Post):
            message = action.message
            self._carry(lambda: self._to_sender(message))
        elif isinstance(action, act.RequestOpen):
            self._request(self._describe, receiver)
        elif isinstance(action, act.Prepare):
            receiver.sink_ready(self._prepare(action.description), self.now)
        elif isinstance(action, act.CompareRoot):
            count = chunk_count(receiver.size or 0, CHUNK)
            receiver.root_compared(root_of(receiver.table.digests(0, count)) == action.root, self.now)
        elif isinstance(action, act.RequestDigests):
            page = action
            self._request(
                lambda r: r.digests(
                    page.first, b"".join(digest_of(self.chunk(page.first + i)) for i in range(page.count)), self.now
                ),
                receiver,
            )
        elif isinstance(action, act.Drop):
            for index in action.indices:
                self.journal += encode_record(self.journal[HEADER_BYTES - 8 : HEADER_BYTES], index, bytes(32), dropped=True)
        elif isinstance(action, act.Publish):
            chunks = chunk_count(action.size, CHUNK)
            self.final = b"".join(self.disk[i] for i in range(chunks))[: action.size]
            receiver.published(self.now)
        elif isinstance(action, act.RequestConfirm):
            self._request(self._confirm, receiver)
        elif isinstance(action, act.Complete):
            self.outcome = ("completed", "")
        else:
            self.outcome = (action.reason, action.text)

    def _confirm(self, receiver: Receiver) -> None:
        self.confirmed.append("yes")
        receiver.confirm_answered()

    def _prepare(self, description: Description) -> ChunkTable:
        header = JournalHeader(description.chunk_bytes, description.size, None, digest_of(b"ref"), b"boot", self.verify)
        if self.journal:
            old: Journal = decode_journal(self.journal)
            if old.header == header:
                self.journal = self.journal[: old.sound_bytes]
                return old.table
        self.journal = header.encode()
        self.disk = {}
        return ChunkTable()
