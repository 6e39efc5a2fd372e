"""One running download at the receiver: drives a `Receiver`. Invariant: the machine is only touched under one lock, and nobody
waits for disk, hashing or user code while holding it.

Frames and answers are queued by whatever thread they arrive on and handled on transfer threads. Chunks are handed to the machine
in the order they arrived, which is what makes a mark mean something, and are then verified and stored without the lock.
"""

from __future__ import annotations

import logging
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zcell._native.chunk import HEADER_BYTES
from zcell.digest import root_of_chunks
from zcell.download.options import FetchOptions
from zcell.download.replies import download_failure, failure_of, reply_of
from zcell.download.reporting import Reporter
from zcell.download.sealing import Sealer
from zcell.download.sinks import Sink, SinkError
from zcell.errors import CellClosedError, DownloadError, ProtocolError
from zcell.message import Reply
from zcell.protocol.transfer import actions as act
from zcell.protocol.transfer import messages as msg
from zcell.protocol.transfer.chunks import chunk_count
from zcell.protocol.transfer.receiver import Receiver

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

log = logging.getLogger("zcell.download")
T = TypeVar("T")
_TURN = 16
"""Chunks a worker handles before it queues up again."""
_OPEN_SECONDS = 10.0
_ABORT_SECONDS = 0.05
_POSITION = struct.Struct("<8xQQI")


class Fetch(Generic[T]):
    """`result()` is what the future gets once the sink has published; `options` are complete."""

    def __init__(
        self,
        cell: Cell,
        owner: str,
        ref_id: str,
        sink: Sink,
        result: Callable[[], T],
        options: FetchOptions,
        sealer: Sealer,
        on_end: Callable[[Fetch[Any]], None],
    ) -> None:
        now = time.monotonic()
        self.owner = owner
        self.ref_id = ref_id
        self.stream = secrets.token_bytes(msg.STREAM_BYTES)
        self.sink = sink
        self.result = result
        self.options = options
        deadline = options["deadline"]
        self.deadline_at = None if deadline is None else now + deadline
        self.on_steps: Callable[[msg.Description], None] | None = None
        """Takes the download over when the object turns out to come in steps."""
        self.future: Future[T] = Future()
        self.ended = threading.Event()
        self._cell = cell
        self._sealer = sealer
        self._on_end = on_end
        self._abort = options["abort"]
        self._abort_key = 0
        self._verify = options["verify"]
        self._tree = self._verify == "tree"
        self._chunk_bytes = 0
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._inbox: deque[Any] = deque()
        self._workers = 0
        self._max_workers = max(1, cell.limits.transfer_threads)
        self._using_sink = 0
        self._timer_at = float("inf")
        self._outcome: tuple[str, str] | None = None
        self._ended = False
        self.reporter = Reporter(cell, owner, ref_id, self.stream, options["progress"])
        self._machine = Receiver(
            self.stream,
            window_bytes=cell.limits.window_bytes,
            idle_timeout=options["idle_timeout"],
            deadline=self.deadline_at,
            verify=self._verify,
            now=now,
        )

    def start(self) -> None:
        """Begin; the outcome is in `future`."""
        self._cell.open_stream(self.stream, self._on_frame)
        self.future.add_done_callback(self._on_future_done)
        if self._abort is not None:
            self._abort_key = self._abort.add_callback(lambda: self.cancel(self._abort.reason if self._abort else ""))
        with self._lock:
            self._act()

    # --- what arrives, on whatever thread ----------------------------------------------------------------------------------

    def _on_frame(self, source: str, frame: memoryview) -> None:
        if source == self.owner:
            self._put(memoryview(frame))

    def post(self, change: Callable[[Receiver, float], object]) -> None:
        """Have `change(machine, now)` run on a transfer thread, after what arrived before it."""
        self._put(change)

    def _put(self, item: Any) -> None:
        with self._gate:
            self._inbox.append(item)
            if self._workers >= self._max_workers or (self._workers and len(self._inbox) < 2):
                return
            self._workers += 1
        self._cell.submit_transfer(self._work)

    def cancel(self, text: str) -> None:
        """End with reason aborted, at once, from any thread."""
        with self._lock:
            self._machine.cancel(text or "aborted by the caller")
            self._act()

    def _on_future_done(self, future: Future[T]) -> None:
        if future.cancelled():
            self.cancel("the future was cancelled")

    # --- working, on transfer threads --------------------------------------------------------------------------------------

    def _work(self) -> None:
        for _ in range(_TURN):
            if not self._take_one():
                return
        self._cell.submit_transfer(self._work)

    def _take_one(self) -> bool:
        """Handle one item; False when there is none left, and this worker is one no more."""
        with self._gate:
            if not self._inbox:
                self._workers -= 1
                return False
        with self._lock:  # taking and accounting are one step: arrival order is what a mark relies on
            item = self._inbox.popleft() if self._inbox else None
            if item is None:
                return True
            if not isinstance(item, memoryview):
                self._change(item)
                return True
            index = self._accept(item)
            if index is None:
                return True
            self._using_sink += 1
        self._store(item, index)
        return True

    def _change(self, change: Callable[[Receiver, float], object]) -> None:
        try:
            change(self._machine, time.monotonic())
        except Exception as error:
            log.exception("a download failed inside zcell")
            self._machine.fail("sink_failed", f"internal error: {type(error).__name__}: {error}")
        self._act()

    def _accept(self, frame: memoryview) -> int | None:
        """The index of a chunk that is wanted; everything else is dealt with here."""
        now = time.monotonic()
        mark = msg.parse_mark(frame)
        try:
            if mark is not None:
                self._machine.marked(mark, now)
            elif len(frame) < HEADER_BYTES:
                raise ProtocolError(f"data frame of {len(frame)} bytes is neither chunk nor mark")
            else:
                index, offset, length = _POSITION.unpack_from(frame)
                length -= self._sealer.overhead_bytes
                if self._machine.accept(index, offset, length, now):
                    return int(index)
        except ProtocolError as error:
            self._machine.spoiled(None, str(error), now)
        self._act()
        return None

    def _store(self, frame: memoryview, index: int) -> None:
        try:
            stored = self.sink.store(self._sealer.open(frame), index, tree=self._tree, max_length=self._chunk_bytes)
        except ProtocolError as error:
            text = str(error)
            self._stored(lambda machine, now: machine.spoiled(index, text, now))
        except (SinkError, OSError, ValueError) as error:
            text = _sink_text(error)
            self._stored(lambda machine, now: machine.fail("sink_failed", text))
        else:
            if stored is None:  # the sink says so itself, once it has taken the chunk
                self._stored(lambda machine, now: None)
            else:
                self._stored(lambda machine, now: machine.stored(index, *stored, now))

    def _stored(self, change: Callable[[Receiver, float], object]) -> None:
        with self._lock:
            self._using_sink -= 1
            self._change(change)

    # --- carrying out what the machine wants, under the lock ---------------------------------------------------------------

    def _act(self) -> None:
        try:
            while actions := self._machine.take_actions():
                for action in actions:
                    self._carry_out(action)
        except CellClosedError as error:
            self._machine.fail("aborted", str(error))
            self._outcome = self._outcome or ("aborted", str(error))
        except (SinkError, OSError) as error:
            self._machine.fail("sink_failed", _sink_text(error))
            self._outcome = self._outcome or ("sink_failed", _sink_text(error))
        self.reporter.update(self._machine)
        if self._outcome is not None:
            self._try_end()
        else:
            self._set_timer()

    def _carry_out(self, action: act.Action) -> None:
        if isinstance(action, act.Post):
            self._cell.post_event(self.owner, msg.CHANNEL, action.message.topic, action.message.to_payload())
        elif isinstance(action, act.RequestOpen):
            self._request(msg.Open(self.ref_id, self.stream, self._verify), _OPEN_SECONDS, self._opened)
        elif isinstance(action, act.Prepare):
            self._prepare(action.description)
        elif isinstance(action, act.CompareRoot):
            self._cell.submit_transfer(self._compare, action.root)
        elif isinstance(action, act.RequestDigests):
            first = action.first
            self._request(msg.Digests(self.stream, first, action.count), _OPEN_SECONDS, lambda r: self._digests(first, r))
        elif isinstance(action, act.Drop):
            self.sink.drop(action.indices)
        elif isinstance(action, act.Publish):
            self._with_sink(lambda: self._publish(action.size))
        elif isinstance(action, act.RequestConfirm):
            self._request(self._done_message(), _OPEN_SECONDS, self._confirmed)
        elif isinstance(action, act.Complete):
            self._outcome = self._outcome or ("", "")
        else:
            self._outcome = self._outcome or (action.reason, action.text)
            self._announce_failure(action)

    def _request(self, message: msg.Message, timeout: float, answer: Callable[[Reply], None]) -> None:
        future = self._cell.request_future(
            self.owner, msg.CHANNEL, message.topic, message.to_payload(), timeout=timeout, optional=True
        )
        future.add_done_callback(lambda f: self._put(lambda _machine, _now: answer(reply_of(f))))

    def _answered(self, reply: Reply) -> bool:
        """Whether `reply` is an answer; otherwise the machine learns why not."""
        if reply.ok:
            return True
        failure = failure_of(reply)
        if failure is not None:
            self._machine.refused(*failure, time.monotonic())
        else:
            self._machine.unreachable(f"{reply.rc.value}: {reply.error}", time.monotonic())
        return False

    def _opened(self, reply: Reply) -> None:
        if not self._answered(reply):
            return
        try:
            description = msg.parse(msg.Description, reply.payload)
            if description.chunk_bytes & (description.chunk_bytes - 1) or not 1 << 16 <= description.chunk_bytes <= 1 << 24:
                raise ProtocolError(f"description: chunk_bytes must be a power of two from 64 KiB to 16 MiB: {description}")
        except ProtocolError as error:
            self._machine.fail("source_failed", f"the owner's description is wrong: {error}")
            return
        if description.kind == "steps" and not description.failure:
            if self.on_steps is not None:
                self._outcome = ("steps", "")
                self.on_steps(description)
                return
            self._machine.fail("sink_failed", "the object comes in steps, not in bytes: fetch it with a consumer")
            return
        self._machine.described(description, time.monotonic())

    def _prepare(self, description: msg.Description) -> None:
        self._chunk_bytes = description.chunk_bytes

        def prepare() -> None:
            held = self.sink.prepare(description, self._verify, self.ref_id, self)
            self.post(lambda machine, now: machine.sink_ready(held, now))

        self._with_sink(prepare)

    def _with_sink(self, fn: Callable[[], None]) -> None:
        self._using_sink += 1
        self._cell.submit_transfer(self._run_with_sink, fn)

    def _run_with_sink(self, fn: Callable[[], None]) -> None:
        text = ""
        try:
            fn()
        except Exception as error:  # noqa: BLE001  a custom sink may raise anything: it fails this download only
            text = _sink_text(error)
        with self._lock:
            self._using_sink -= 1
            if text:
                self._machine.fail("sink_failed", text)
            self._act()

    def _publish(self, size: int) -> None:
        if self.sink.publish(size):
            self.sink_published()

    def sink_stored(self, index: int, length: int, digest: bytes) -> None:
        """A sink that takes chunks later has taken one."""
        self.post(lambda machine, now: machine.stored(index, length, digest, now))

    def sink_published(self) -> None:
        """The sink's result is there."""
        self.post(lambda machine, now: machine.published(now))

    def sink_failed(self, text: str) -> None:
        """A sink that takes chunks later could not."""
        self.post(lambda machine, now: machine.fail("sink_failed", text))

    def _compare(self, root: bytes) -> None:
        count = chunk_count(self._machine.size or 0, self._chunk_bytes)
        matches = root_of_chunks(self._machine.table.digests(0, count)) == root
        self.post(lambda machine, now: machine.root_compared(matches, now))

    def _digests(self, first: int, reply: Reply) -> None:
        if self._answered(reply):
            if isinstance(reply.payload, bytes | memoryview):
                self._machine.digests(first, bytes(reply.payload), time.monotonic())
            else:
                self._machine.unknown_stream(time.monotonic())

    def _confirmed(self, reply: Reply) -> None:
        if reply.ok or failure_of(reply) is not None:
            self._machine.confirm_answered()
        else:
            self._machine.unreachable(f"{reply.rc.value}: {reply.error}", time.monotonic())

    def _done_message(self) -> msg.Done:
        done, items = self._machine.statistics().bytes_done, self._machine.table.count
        return msg.Done(self.ref_id, self.stream, self.reporter.next_sequence(), done, items)

    def _announce_failure(self, action: act.Fail) -> None:
        done, items = self._machine.statistics().bytes_done, self._machine.table.count
        sequence = self.reporter.next_sequence()
        close = msg.Close(self.stream, sequence, done, items, action.reason, action.text[: msg.MAX_TEXT])
        self._cell.post_event(self.owner, msg.CHANNEL, close.topic, close.to_payload())

    # --- time --------------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        when = min(self._machine.next_tick() or float("inf"), self.reporter.next_report)
        if when < self._timer_at:
            self._timer_at = when
            self._later(max(0.0, when - time.monotonic()), lambda: self._on_timer(when))

    def _later(self, delay: float, fn: Callable[[], None]) -> None:
        try:
            self._cell.call_later(delay, fn)
        except CellClosedError:  # the cell is stopping: its shutdown cancels this download
            log.debug("no timer for a download of a cell that stops")

    def _on_timer(self, when: float) -> None:
        self._put(lambda machine, now: self._tick(when, machine, now))

    def _tick(self, when: float, machine: Receiver, now: float) -> None:
        if self._timer_at == when:
            self._timer_at = float("inf")
        machine.tick(now)

    # --- the end -----------------------------------------------------------------------------------------------------------

    def _try_end(self) -> None:
        """End once nobody uses the sink; when that takes long, the caller hears of it and the sink is closed later."""
        if self._ended:
            return
        if self._using_sink:
            if self._timer_at > 0:
                self._timer_at = 0.0
                self._later(_ABORT_SECONDS, self._tell_soon)
            return
        self._ended = True
        self._cell.close_stream(self.stream)
        if self._abort is not None:
            self._abort.remove_callback(self._abort_key)
        self._cell.submit_transfer(self._finish)

    def _tell_soon(self) -> None:
        self._cell.submit(self._tell)

    def _finish(self) -> None:
        if self._outcome is not None and self._outcome[0] != "steps":
            try:
                self.sink.close()
            except OSError as error:
                log.warning("closing the sink of a download failed: %s", error)
            self._tell()
        self._inbox.clear()
        self._on_end(self)
        self.future, self.on_steps = let_go(), None  # a result that timers and callbacks keep would outlive its user
        self.ended.set()

    def _tell(self) -> None:
        assert self._outcome is not None
        reason, text = self._outcome
        with self._gate:
            if self.future.done() or not self.future.set_running_or_notify_cancel():
                return
        if reason:
            self.future.set_exception(DownloadError(reason, download_failure(self.owner, self.ref_id, text)))
        else:
            if not self._machine.confirmed:
                log.warning("download from %s is complete, but the owner could not be told", self.owner)
            self.future.set_result(self.result())


def let_go() -> Future[Any]:
    """What a download that has ended has for a future: one that is done and holds nothing."""
    future: Future[Any] = Future()
    future.cancel()
    return future


def _sink_text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return str(error) if isinstance(error, SinkError) else f"{type(error).__name__}: {error}"
