"""`Cell`: a node of the tree. Invariant: all its state hangs off it, and after `stop` no thread, socket or descriptor of it is left."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar, cast

import zmq

from zcell import codec as codecs
from zcell._native.handover import Sleeper
from zcell.abort import Abort
from zcell.cell.builtin import register_builtin
from zcell.cell.calls import PendingCalls
from zcell.cell.dispatch import Dispatcher
from zcell.cell.events import LinkEvent
from zcell.cell.failures import FailureLog
from zcell.cell.filters import FilterChains, FilterFn
from zcell.cell.gate import Gate
from zcell.cell.handlers import HandlerFn, HandlerTable
from zcell.cell.loop import IoLoop, Timer
from zcell.cell.outbox import Outbox, Outgoing
from zcell.cell.payloads import Payloads
from zcell.cell.place import Inside, Place
from zcell.cell.pool import WorkerPool
from zcell.cell.statistics import CellStatistics, Counters
from zcell.cell.switch import Switch
from zcell.cell.uplink import Uplink
from zcell.errors import CellClosedError
from zcell.fqcn import FQCN
from zcell.limits import Limits
from zcell.message import Reply, ReturnCode
from zcell.protocol.envelope import Envelope, Kind
from zcell.protocol.link import LinkIdentity
from zcell.security.proof import SharedSecretProof

log = logging.getLogger("zcell.cell")
security_log = logging.getLogger("zcell.security")
T = TypeVar("T")
F = TypeVar("F", bound=HandlerFn)


class Cell:
    """A named node of the tree: sends and answers messages, and carries downloads.

    Args:
        fqcn: the cell's name; its parent in the tree follows from it (`FQCN.tree_parent`).
        listen: endpoints where children arrive: ``tcp://HOST:PORT`` (port 0: any free one), ``ipc://PATH``, ``inproc://NAME``.
        parent: the endpoint of the parent, for every cell that has one; or the parent itself, when it is a cell of this process
            that listens: their link then takes neither network nor `insecure`, and the parent's secret by default.
        secret: the link secret both ends of a link must know: at least 16 bytes, or the path of a file of mode 0600 that holds
            it in hexadecimal. By default the one of this user, made at first use, which keeps other users of the machine out.
        kit: identity on disk; not available in this version.
        insecure: allow endpoints that other machines can reach although there is no kit; links still prove the secret.
        limits: sizes, times and thread counts.
        context: a ZeroMQ context to share; needed only to reach ``inproc://`` endpoints of another cell of this process.

    Raises `ValueError` or `TypeError` naming the argument that is wrong. Use it as a context manager, or `start` and `stop`.
    """

    def __init__(
        self,
        fqcn: str,
        *,
        listen: str | Sequence[str] = (),
        parent: str | Cell | None = None,
        secret: bytes | str | Path | None = None,
        kit: object = None,
        insecure: bool = False,
        limits: Limits | None = None,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self.fqcn = FQCN.validate(fqcn)
        self._state = "new"
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits: expected Limits, not {type(limits).__name__}")
        if kit is not None:
            raise ValueError("kit: this version has no kits; use a link secret on loopback or ipc:// endpoints")
        self.limits = limits or Limits()
        inside = parent._inside(fqcn) if isinstance(parent, Cell) else parent
        self._place = Place.of(fqcn, listen, inside, secret, insecure, context)
        self.instance = secrets.token_hex(16)
        self.codec = codecs.Codec(codecs.default)
        self._pid = os.getpid()
        self._state_lock = threading.Lock()
        self._stopped = threading.Event()
        self._counters = Counters()
        self._calls = PendingCalls()
        self._handlers = HandlerTable()
        self._filters = FilterChains()
        self.payloads = Payloads(self, self.codec)
        self._extensions: dict[str, Any] = {}
        self._extension_lock = threading.RLock()
        self._failures = FailureLog(self.fqcn)
        self._link_callbacks: dict[int, Callable[[LinkEvent], None]] = {}
        self._callback_number = 0
        self._endpoints: tuple[str, ...] = ()
        self._gate: Gate | None = None
        self._uplink: Uplink | None = None
        register_builtin(self)

    def __repr__(self) -> str:
        return f"<Cell {self.fqcn} {self._state}>"

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Cell:
        """Bind, connect and run; returns at once, see `wait_ready`. Starting a cell that runs changes nothing.

        Raises `OSError` for an endpoint that cannot be bound, `CellClosedError` when it was stopped before.
        """
        self._check_process()
        with self._state_lock:
            if self._state == "running":
                return self
            if self._state != "new":
                raise CellClosedError(f"cell {self.fqcn!r} was stopped; make a new Cell for a new life")
            self._state = "starting"
        if urls := self._place.open_to_others:
            security_log.warning(
                "cell %s: %s is open to other machines without kits (insecure=True)", self.fqcn, ", ".join(urls)
            )
        try:
            self._context = self._place.join()
        except CellClosedError:
            self._state = "stopped"
            raise
        self._build()
        try:
            if self._place.listen:
                self._gate = Gate(self._switch, self._identity, self._proof, self._context.zmq)
                bound = self._gate.bind([*self._place.listen, self._inner_url], 1.0 if self._place.is_given_context else 0.0)
                self._endpoints = tuple(bound[:-1])
        except BaseException:
            self._state = "stopped"
            self._io.end(0)
            self._context.leave()
            raise
        if self._gate is not None:
            self._io.post(self._gate.open)
        if self._place.parent_url is not None:
            links = (self._switch, self._identity, self._proof, self._context.zmq)
            self._uplink = Uplink(*links, self._place.parent_url, self._place.parent_name)
            self._io.post(self._uplink.open)
        self._io.post(self._beat)
        self._state = "running"
        self._io.start()
        return self

    def _build(self) -> None:
        limits = self.limits
        self._identity = LinkIdentity(self.fqcn, bytes.fromhex(self.instance), limits.link_work_bytes)
        self._proof = SharedSecretProof(self._place.secret)
        self._io = IoLoop(self.fqcn)
        self._switch = Switch(self.fqcn, self._io, limits, self._counters, self._calls)
        self._pool = WorkerPool(self.fqcn, limits.handler_threads, loop=self._io)
        self._transfer_pool = WorkerPool(f"{self.fqcn}-transfer", limits.transfer_threads, share=1.0)
        dispatcher = Dispatcher(self._switch, self._handlers, self._filters, self._pool, self.payloads, self._counters, limits)
        self._outbox = Outbox(self._switch, self._calls, self._filters, self.payloads, self._pool, self._counters, limits)
        self._switch.on_work = dispatcher.on_work
        self._switch.on_control = dispatcher.on_control
        self._switch.on_link = self._announce_link

    def _beat(self) -> None:
        # the one below asks the one above, so a parent of many is asked but does not ask; every answer is a sign of life
        uplink = self._uplink
        self._switch.check_alive(ping_parent=uplink is not None)
        interval = self.limits.heartbeat_interval
        self._io.call_later(interval * (0.9 + 0.2 * secrets.randbelow(1000) / 1000), self._beat)

    def stop(self, timeout: float = 5.0) -> None:
        """End everything this cell does, within about `timeout` seconds. Idempotent, from any thread but the cell's own.

        Extensions (downloads, workspaces) end first, then waiting requests with ABORTED, then links, then threads.
        """
        if os.getpid() != self._pid:
            return  # dead already; its lock may be held by a thread that exists only in the parent
        with self._state_lock:
            before = self._state
            self._state = {"new": "stopped", "running": "stopping"}.get(before, before)
        if before == "stopping" and not (self._io.is_here or self._pool.is_here or self._transfer_pool.is_here):
            self._stopped.wait(timeout)  # another thread is at it
        if before != "running":
            return
        deadline = time.monotonic() + timeout
        self._shut_extensions()
        self._calls.fail(ReturnCode.ABORTED, f"cell {self.fqcn} was stopped")
        self._outbox.close()
        busy = self._pool.close(max(0.1, deadline - time.monotonic()))
        self._io.post(self._close_links)  # after the replies of handlers that were running
        busy += self._transfer_pool.close(max(0.1, deadline - time.monotonic()))
        if not self._io.end(max(1.0, deadline - time.monotonic())):
            busy.append(self._io.name)
        if busy:
            log.warning("cell %s stopped, but these threads are still busy: %s", self.fqcn, ", ".join(busy))
        self._calls.fail(ReturnCode.ABORTED, f"cell {self.fqcn} was stopped")
        self._context.leave()
        self._state = "stopped"
        self._stopped.set()

    def _shut_extensions(self) -> None:
        with self._extension_lock:
            extensions = list(self._extensions.values())
            self._extensions.clear()
        for extension in reversed(extensions):
            shutdown = getattr(extension, "shutdown", None)
            if shutdown is not None:
                try:
                    shutdown()
                except Exception:
                    log.exception("cell %s: an extension failed to shut down", self.fqcn)

    def _close_links(self) -> None:
        reason = f"cell {self.fqcn} was stopped"
        if self._uplink is not None:
            self._uplink.close(reason)
        if self._gate is not None:
            self._gate.close(reason)

    def __enter__(self) -> Cell:
        return self.start() if self._state == "new" else self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise CellClosedError(
                f"cell {self.fqcn!r} belongs to process {self._pid} and is dead in its forked child {os.getpid()}; "
                "make a new Cell there, or start jobs by spawn or exec"
            )

    def _check(self) -> None:
        self._check_process()
        if self._state != "running":
            hint = "call start() first" if self._state == "new" else "it was stopped"
            raise CellClosedError(f"cell {self.fqcn!r} is not running: {hint}")

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses bound, ports resolved; empty before `start`."""
        return self._endpoints

    @property
    def _inner_url(self) -> str:
        return f"inproc://zcell-{self.instance}"

    def _inside(self, child: str) -> Inside:
        """How a child of this process is linked here. Raises `ValueError`."""
        if FQCN.tree_parent(child) != self.fqcn:
            raise ValueError(f"parent: {child!r} is not a child of {self.fqcn!r}")
        if not self._endpoints or self._state != "running":
            raise ValueError(f"parent: {self.fqcn} does not listen, or is not started, so no cell can connect below it")
        return Inside(self._inner_url, self._place.secret, self._context.join)

    @property
    def link_secret(self) -> bytes:
        """What both ends of a link prove that they know; for handing to a launched job, never to a log."""
        return self._place.secret

    @property
    def is_ready(self) -> bool:
        """Whether the cell runs and, if it has a parent, is linked to it."""
        return self._state == "running" and os.getpid() == self._pid and (self._uplink is None or self._uplink.is_ready)

    def wait_ready(self, timeout: float = 30.0, abort: Abort | None = None) -> None:
        """Wait until `is_ready`.

        Raises `LinkRefusedError` as soon as the parent refuses, `LinkError` after `timeout` seconds or once `abort` is triggered.
        """
        self._check()
        if not timeout >= 0:
            raise ValueError(f"timeout is a number of seconds, got {timeout!r}")
        if self._uplink is not None:
            self._uplink.wait(timeout, abort)

    def is_connected(self, fqcn: str) -> bool:
        """Whether there is a live link towards `fqcn`: to itself or to the next hop on the way."""
        FQCN.validate(fqcn)
        return self._state == "running" and (fqcn == self.fqcn or self._switch.link_towards(fqcn) is not None)

    def statistics(self) -> CellStatistics:
        """A frozen snapshot of counters and links."""
        values, dropped = self._counters.snapshot()
        running = self._state == "running"
        links = list(self._switch.links.values()) if running else []
        threads = 1 + self._pool.thread_count + self._transfer_pool.thread_count if running else 0
        return CellStatistics(
            fqcn=self.fqcn,
            links=tuple(sorted(x.peer for x in links)),
            pending_requests=len(self._calls),
            requests_sent=values["requests_sent"],
            requests_handled=values["requests_handled"],
            events_sent=values["events_sent"],
            events_handled=values["events_handled"],
            messages_forwarded=values["messages_forwarded"],
            late_replies=values["late_replies"],
            data_frames_sent=values["data_frames_sent"],
            data_frames_received=values["data_frames_received"],
            dropped=dropped,
            threads=threads,
        )

    def on_link(self, callback: Callable[[LinkEvent], None]) -> Callable[[], None]:
        """Call `callback` on the pool, in order, for every link that comes up or goes down. Returns what unsubscribes it."""
        with self._state_lock:
            self._callback_number += 1
            number = self._callback_number
            self._link_callbacks[number] = callback

        def unsubscribe() -> None:
            self._link_callbacks.pop(number, None)

        return unsubscribe

    def _announce_link(self, event: LinkEvent) -> None:
        for number, callback in list(self._link_callbacks.items()):
            self._pool.run("zcell.links", _bound(callback, event), order=("link", number))

    # -- handlers and filters ------------------------------------------------------------------------------------------

    def register(
        self, channel: str, topic: str, fn: HandlerFn, *, allow: str | Iterable[str] = "family", inline: bool = False
    ) -> None:
        """Answer messages on `channel` and `topic` (``"*"``: any) with ``fn(request) -> payload | Reply | Future | None``.

        `allow` is who may call: ``"family"`` (own subtree and ancestors), ``"any"``, or names and ``"name.*"`` subtrees.
        `inline` handlers run on the I/O thread and must neither block nor take long. Raises `ValueError` when the address is taken.
        """
        self._handlers.add(channel, topic, fn, allow, inline)

    def unregister(self, channel: str, topic: str) -> bool:
        """Whether there was a handler."""
        return self._handlers.remove(channel, topic)

    def handler(self, channel: str, topic: str, *, allow: str | Iterable[str] = "family") -> Callable[[F], F]:
        """`register` as a decorator."""

        def decorate(fn: F) -> F:
            self.register(channel, topic, fn, allow=allow)
            return fn

        return decorate

    def add_filter(self, direction: str, kind: str, channel: str, topic: str, fn: FilterFn) -> None:
        """Run `fn(message)` on all ``"incoming"`` or ``"outgoing"`` messages of `kind` ``"request"`` (events too) or ``"reply"``.

        It may change `headers` and `payload`, or return a Reply, which ends the chain. Add authentication before `start`.
        """
        self._filters.add(direction, kind, channel, topic, fn)

    # -- messages ------------------------------------------------------------------------------------------------------

    def request(
        self,
        target: str,
        channel: str,
        topic: str,
        payload: Any = None,
        *,
        timeout: float,
        headers: dict[str, Any] | None = None,
        optional: bool = False,
        secure: bool = False,
        abort: Abort | None = None,
    ) -> Reply:
        """Ask `target` and wait at most `timeout` seconds for its answer.

        What goes wrong on the way is told by the Reply's `rc` and `error`, never raised; see `Reply.raise_for_rc`.
        `optional` lowers a failure's log record to debug. Raises `CodecError` for a payload that cannot travel, `ValueError` or
        `TypeError` for wrong arguments, `CellClosedError`.
        """
        reply = self._outbox_now().request(self._outgoing(target, channel, topic, payload, timeout, headers, secure, abort))
        self._failures.note(reply, target, channel, topic, optional)
        return reply

    def request_future(
        self,
        target: str,
        channel: str,
        topic: str,
        payload: Any = None,
        *,
        timeout: float,
        headers: dict[str, Any] | None = None,
        optional: bool = False,
        secure: bool = False,
        abort: Abort | None = None,
    ) -> Future[Reply]:
        """As `request`, without waiting; cancelling the future ends the request. A full queue is told at once."""
        outbox = self._outbox_now()
        future = outbox.request_future(self._outgoing(target, channel, topic, payload, timeout, headers, secure, abort))
        future.add_done_callback(
            lambda f: None if f.cancelled() else self._failures.note(f.result(), target, channel, topic, optional)
        )
        return future

    def broadcast(
        self,
        targets: Iterable[str],
        channel: str,
        topic: str,
        payload: Any = None,
        *,
        timeout: float,
        headers: dict[str, Any] | None = None,
        optional: bool = False,
        secure: bool = False,
        abort: Abort | None = None,
    ) -> dict[str, Reply]:
        """`request` to all `targets` at once; each has its own Reply."""
        outbox = self._outbox_now()
        outs = [
            self._outgoing(t, channel, topic, payload, timeout, dict(headers or {}), secure, abort)
            for t in dict.fromkeys(targets)
        ]
        end = time.monotonic() + timeout
        calls = [(out, outbox.start(out, max(0.0, end - time.monotonic()))) for out in outs]
        replies: dict[str, Reply] = {}
        for out, call in calls:
            reply = call if isinstance(call, Reply) else outbox.await_call(out, call, end)
            self._failures.note(reply, out.target, channel, topic, optional)
            replies[out.target] = reply
        return replies

    def send(
        self,
        targets: str | Iterable[str],
        channel: str,
        topic: str,
        payload: Any = None,
        *,
        headers: dict[str, Any] | None = None,
        timeout: float = 5.0,
        optional: bool = False,
        secure: bool = False,
    ) -> dict[str, ReturnCode]:
        """Send an event to each target: OK when it was accepted for sending, else why not; nothing is dropped silently.

        Waits at most `timeout` seconds (0: not at all) for space in a full queue; a queue that stays full gives COMM_ERROR.
        Events to one target on one channel are handled in the order they were sent.
        """
        outbox = self._outbox_now()
        if not isinstance(targets, str | Iterable):
            raise TypeError(f"targets: expected a name or names, not {type(targets).__name__}")
        names = [targets] if isinstance(targets, str) else list(dict.fromkeys(targets))
        outcome: dict[str, ReturnCode] = {}
        for target in names:
            out = self._outgoing(target, channel, topic, payload, timeout, dict(headers or {}), secure, None, waits=False)
            reply = outbox.send(out)
            self._failures.note(reply, target, channel, topic, optional)
            outcome[target] = reply.rc
        return outcome

    def post_event(self, target: str, channel: str, topic: str, payload: Any = None) -> None:
        """Send a small event of zcell's own machinery to an inline handler: never blocks, needs no credit; lost without a route."""
        if self._state == "running":
            self._outbox.post_control(target, channel, topic, payload)

    def _outbox_now(self) -> Outbox:
        self._check()
        return self._outbox

    def _outgoing(
        self,
        target: str,
        channel: str,
        topic: str,
        payload: Any,
        timeout: float,
        headers: dict[str, Any] | None,
        secure: bool,
        abort: Abort | None,
        waits: bool = True,
    ) -> Outgoing:
        for name, text in (("target", target), ("channel", channel), ("topic", topic)):
            if not isinstance(text, str):
                raise TypeError(f"{name} is a str, not {type(text).__name__}")
        if not 0 < len(channel) <= 255 or not 0 < len(topic) <= 255:
            raise ValueError("channel and topic have 1 to 255 characters")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
        if not timeout >= 0 or (waits and not timeout > 0):
            raise ValueError(f"timeout is a number of seconds above 0, got {timeout!r}")
        if secure:
            raise ValueError("secure: end-to-end sealing needs kits, which this version does not have")
        if headers is not None and not (isinstance(headers, dict) and all(type(k) is str for k in headers)):
            raise TypeError("headers is a dict whose keys are str")
        if abort is not None and not isinstance(abort, Abort):
            raise TypeError(f"abort is a zcell.Abort, not {type(abort).__name__}")
        if self._io.is_here and waits:
            raise RuntimeError("a handler on the I/O thread cannot wait for a request")
        return Outgoing(target, channel, topic, payload, float(timeout), dict(headers or {}), abort)

    # -- for the rooms above -------------------------------------------------------------------------------------------

    @property
    def downloads(self) -> Any:
        """The cell's `DownloadService`."""
        # the one reference upwards: by name, so that the room above is loaded only where it is used
        return self.extension("downloads", lambda cell: importlib.import_module("zcell.download.service").DownloadService(cell))

    def extension(self, key: str, factory: Callable[[Cell], T]) -> T:
        """The one object of this cell under `key`, made by `factory` at first use; its `shutdown()` is called by `stop`."""
        with self._extension_lock:
            if key not in self._extensions:
                self._check()
                self._extensions[key] = factory(self)
            return cast(T, self._extensions[key])

    def send_data(
        self, target: str, stream: bytes, frame: bytes | memoryview, *, done: Callable[[bool], None] | None = None
    ) -> bool:
        """Send one data-lane frame to `stream` (16 bytes) of `target`; never blocks: the receiver's credit is the flow control.

        False when there is no route now. `done(sent)` is called on the I/O thread once the socket has it, or it was lost.
        """
        if self._state != "running" or (target != self.fqcn and self._switch.link_towards(target) is None):
            return False
        envelope = Envelope(Kind.DATA, self.fqcn, target, id=stream)
        first = envelope.encode()
        self._io.post_bulk(self._switch.send_data, envelope, [first, frame], len(first) + len(frame), done)
        return True

    def open_stream(self, stream: bytes, fn: Callable[[str, memoryview], None]) -> None:
        """Call `fn(source, frame)` on the I/O thread for every data frame that arrives for `stream` (16 bytes)."""
        if len(stream) != 16:
            raise ValueError(f"a stream id has 16 bytes, got {len(stream)}")
        self._check()
        self._switch.streams[stream] = fn

    def close_stream(self, stream: bytes) -> None:
        """Frames for `stream` are dropped from now on."""
        if self._state != "new":
            self._switch.streams.pop(stream, None)

    def wake(self, sleeper: Sleeper) -> None:
        """Wake a thread; on the I/O thread it happens when that comes to wait, so that the two do not meet at the GIL."""
        self._io.wake(sleeper)

    def call_later(self, delay: float, fn: Callable[[], None]) -> Timer:
        """Call `fn` on the I/O thread in `delay` seconds; it must be tiny. Lost when the cell stops before."""
        self._check()
        return self._io.call_later(delay, fn)

    def submit(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Run `fn` on the handler pool."""
        return self._pool.submit(fn, *args, channel="zcell.callbacks")

    def submit_transfer(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Run `fn` on the transfer pool (disk, hashing): never wait in it for another task of that pool."""
        return self._transfer_pool.submit(fn, *args)


def _bound(callback: Callable[[LinkEvent], None], event: LinkEvent) -> Callable[[], None]:
    return lambda: callback(event)
