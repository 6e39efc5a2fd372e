"""A pipe over a shared directory. Invariant owned here: a rename decides, once, whether a message was taken or withdrawn.

Layout: ``ROOT/NAME/to_active`` and ``to_passive``. A message is written under a hidden name, synced, and renamed to
``NUMBER-INCARNATION.msg``; its receiver renames it again to take it, its sender to withdraw it, and only one of them can.
Renames are atomic on local file systems and on NFS; no locks are used.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from zcell.abort import Abort
from zcell.errors import ProtocolError
from zcell.pipe import message_file
from zcell.pipe.arguments import abort_or_none, seconds_or_none
from zcell.pipe.arguments import channel as checked_channel
from zcell.pipe.box import make_again, make_directories, names, names_left, remove_all, remove_own, remove_stale, won
from zcell.pipe.marker import Marker, incarnation_of, read_sign
from zcell.pipe.message import Message, Topic
from zcell.pipe.pipe import Mode, Pipe
from zcell.pipe.process import OwnProcess
from zcell.pipe.seen import SeenIds
from zcell.pipe.standing import Standings
from zcell.pipe.watch import DirectoryWatch

_log = logging.getLogger("zcell.pipe.file")
_GUARD = 0.1
_MAX_TAKEN = 1000  # messages taken and not yet received; beyond it the peer's sends wait
_TAKEN_FOR_DEAD = "the pipe's directory was removed, as by a peer that takes this end for dead"
_SIGN_INTERVAL = 0.25  # how old the knowledge of the peer's heartbeat may be where every look costs a round trip


class FilePipe(Pipe):
    """A pipe between two processes that share a directory, for nodes without a network.

    `root_path` is created (0700) when missing, and removed by the last end to leave; what was made above it stays.
    `portable=True` never relies on the kernel to tell about changes; it is chosen by itself on network file systems.
    """

    def __init__(self, mode: Mode | str, root_path: str | Path, *, portable: bool = False) -> None:
        super().__init__(mode)
        if not isinstance(root_path, str | Path):
            raise TypeError(f"root_path must be a str or a Path, not {type(root_path).__name__} ({root_path!r})")
        if not str(root_path):
            raise ValueError("root_path must name a directory, got ''")
        self._root = Path(root_path).absolute()
        self._portable = portable
        self._process = OwnProcess()
        self._changed = threading.Condition()
        self._incarnation = secrets.token_hex(8)
        self._broken = "the pipe is not open"
        self._marker: Marker | None = None
        self._watch: DirectoryWatch | None = None
        self._thread: threading.Thread | None = None
        self._writing = threading.Lock()
        self._count = 0
        self._pending: set[str] = set()
        self._lost: set[str] = set()
        """Of these, what the peer removed unread."""
        self._ready: deque[Path] = deque()
        self._seen = SeenIds()
        self._notices: deque[Message] = deque()
        self._peer: str | None = None
        self._has_met = False
        self._peer_beat = 0
        self._peer_dead = False
        self._peer_left = False
        self._retired: dict[str, int] = {}
        self._last_active = 0.0
        self._last_signs = 0.0
        self._sending = 0
        self._closed = False

    # opening and closing

    def open(self, name: str) -> None:
        checked_channel("a pipe's name", name)
        with self._changed:
            if self._closed:
                raise BrokenPipeError(f"the {self.mode.value} end of the pipe in {self._root} is closed")
            if self._marker is not None:
                raise ValueError(f"the pipe in {self._root} is open already")
            self._channel = self._root / name
            self._inbox, self._outbox = self._box(self.mode), self._box(self.mode.other)
            self._standings = Standings(self._inbox, self._incarnation)
            self._root.parent.mkdir(parents=True, exist_ok=True)
            make_directories(self._root, self._channel, self._inbox, self._outbox)
            self._marker = Marker(self._outbox, self._incarnation)
            self._broken = ""
            self._process = OwnProcess()
            # with a new marker in place: who misses an old one then sees that it was replaced
            remove_stale(self._outbox, self._inbox, self._incarnation)
            self._watch = DirectoryWatch([self._inbox, self._outbox], guard=_GUARD, portable=self._portable)
            self._thread = threading.Thread(target=self._run, name=f"zcell-filepipe-{name}", daemon=True)
        self._look()
        self._thread.start()

    def _box(self, reader: Mode) -> Path:
        return self._channel / f"to_{reader.value.lower()}"

    def close(self) -> None:
        if self._process.is_elsewhere:
            return
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._broken = f"the {self.mode.value} end of the pipe in {self._root} is closed"
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._sending)  # each takes its message back, which does not wait
        if self._marker is None or self._watch is None or self._thread is None:
            return
        self._watch.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._watch.close()
        self._marker.close()
        self._clean_up()

    def _clean_up(self) -> None:
        """Remove what is ours; the last end to leave, or the survivor of a dead one, removes everything.

        An end that was never met is not touched: it may be about to begin, or to meet somebody else. The other end may be
        leaving in the same moment and do the same, so that each step may find it done.
        """
        try:
            sent, left = remove_own(self._outbox, self._inbox, self._incarnation)
            if any(incarnation_of(n) not in (None, self._incarnation) for n in sent):  # it has taken this end's place
                return
            if any(self._may_be_alive(p) for n in left if (p := incarnation_of(n)) is not None):
                return
            remove_all((self._inbox, self._outbox), (self._channel, self._root))
        except OSError as e:
            _log.debug("left %s in place: %s", self._channel, e)

    def _may_be_alive(self, incarnation: str) -> bool:
        if incarnation == self._peer:
            return not self._peer_dead
        sign = read_sign(self._inbox, incarnation)
        return sign is not None and self._retired.get(incarnation) != sign.beat

    def peer_is_gone(self) -> None:
        with self._changed:
            self._peer_dead = True

    # the watching thread

    def _run(self) -> None:
        assert self._watch is not None
        while self._watch.wait():
            try:
                self._look()
            except OSError as e:
                with self._changed:
                    self._broken = self._broken or f"the pipe's directory {self._channel} cannot be used: {e.strerror}"
                    self._changed.notify_all()
                return

    def _look(self) -> None:
        """See what changed in the directories and wake whoever waits for it."""
        assert self._watch is not None
        assert self._marker is not None
        with self._changed:
            waiting = self._pending - self._lost
        try:
            here = names(self._inbox)
            unread = set(names(self._outbox)) if waiting else waiting
            is_mine = self._is_in_place()
        except FileNotFoundError:
            is_mine = False
        if not is_mine:
            self._come_back()
            return
        with self._changed:
            before = len(self._pending), len(self._ready)
            self._pending -= waiting - unread
            incarnations = [p for n in here if (p := incarnation_of(n)) is not None]
            self._look_at_peers(incarnations)
            self._peer_left = self._peer is not None and self._peer not in incarnations
            if self._peer is not None:
                self._take(sorted(n for n in here if n.endswith(f"-{self._peer}.msg")))
            if (len(self._pending), len(self._ready)) != before:
                self._watch.changed()
            self._changed.notify_all()

    def _come_back(self) -> None:
        """The peer took this end for dead, as after a pause longer than its patience, and removed everything: begin again.

        What waits there to be taken is lost. Raises `FileNotFoundError` when it cannot have been the peer.
        """
        if any(incarnation_of(n) not in (None, self._incarnation) for n in names_left(self._outbox)):
            raise FileNotFoundError(0, "another end with the same mode took over")
        if not self._has_met:
            raise FileNotFoundError(0, "it was removed")
        assert self._watch is not None
        assert self._marker is not None
        with self._writing, self._changed:
            if self._closed:
                return
            make_again((self._root, self._channel, self._inbox, self._outbox), self._marker)
            self._watch.renew()
            self._lost |= self._pending
            self._ready.clear()
            if not self._peer_dead:
                self._peer_dead = True
                self._notices.append(Message.new_request(Topic.PEER_GONE, _TAKEN_FOR_DEAD))
            self._changed.notify_all()
        _log.warning("%s of %s: %s", self.mode.value, self._channel, _TAKEN_FOR_DEAD)
        self._watch.wake()

    def _look_at_peers(self, incarnations: list[str]) -> None:
        assert self._watch is not None
        assert self._marker is not None
        now = time.monotonic()
        known = self._peer is not None and incarnations == [self._peer]
        if known and not self._watch.is_told and now - self._last_signs < _SIGN_INTERVAL:
            return
        self._last_signs = now
        for incarnation in incarnations:
            sign = read_sign(self._inbox, incarnation)
            if sign is None:
                continue
            try:
                self._marker.greet(incarnation)
            except OSError as e:
                _log.warning("cannot greet the other end of the pipe in %s: %s", self._channel, e)
            if incarnation == self._peer:
                self._heard(sign.beat, now)
            elif self._incarnation in sign.seen and self._retired.get(incarnation) != sign.beat:
                self._met(incarnation, sign.beat, now)

    def _heard(self, beat: int, now: float) -> None:
        if beat > self._peer_beat:
            self._peer_beat, self._last_active = beat, now
            self._notices.append(Message.new_request(Topic.HEARTBEAT, beat))

    def _met(self, incarnation: str, beat: int, now: float) -> None:
        """A living incarnation of the other end: the first is the peer, another one means that the peer was started again."""
        if self._peer is None:
            self._peer, self._peer_dead, self._has_met = incarnation, False, True
            self._peer_beat, self._last_active = 0, now
            self._heard(beat, now)
        elif not self._peer_dead:
            self._peer_dead = True
            self._notices.append(Message.new_request(Topic.PEER_GONE, "the peer was started again"))

    # messages

    def send(self, msg: Message, timeout: float | None = None, abort: Abort | None = None) -> bool:
        timeout, abort = seconds_or_none("timeout", timeout), abort_or_none("abort", abort)
        self._check_process()
        with self._changed:
            self._check()
            self._sending += 1
        try:
            return self._beat(msg) if msg.topic == Topic.HEARTBEAT else self._send(msg, timeout, abort)
        finally:
            with self._changed:
                self._sending -= 1
                self._changed.notify_all()

    def _send(self, msg: Message, timeout: float | None, abort: Abort | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        if msg.encoded is None:
            before = self._standings.now(self._peer)
            msg.encoded = message_file.encode(msg)
            msg.encoded.standing = before
        try:
            name = self._write(msg.encoded, deadline, abort)
        except OSError as e:
            if isinstance(e, BrokenPipeError):
                raise
            self.last_error = f"cannot write to {self._outbox}: {e.strerror}"
            _log.warning("%s of %s: %s", self.mode.value, self._channel, self.last_error)
            return False
        if name is None or not self._wait_until_taken(name, deadline, abort, is_last=msg.is_status):
            return False
        if self.is_in_vain(msg):
            self.last_error = f"the peer had taken this end of {self._channel} for dead before it took the message"
            return False
        return True

    def is_in_vain(self, msg: Message) -> bool:
        begun = msg.encoded.standing if isinstance(msg.encoded, message_file.EncodedMessage) else None
        return self._standings.is_late(msg, self._peer, begun)

    def _check_process(self) -> None:
        if self._process.is_elsewhere:
            raise BrokenPipeError(self._process.why(f"the {self.mode.value} end of the pipe in {self._root}"))

    def _check(self) -> None:
        if self._broken:
            raise BrokenPipeError(self._broken)

    def _beat(self, msg: Message) -> bool:
        assert self._marker is not None
        with self._writing:
            self._check()
            try:
                self._marker.beat(msg.data if isinstance(msg.data, int) else 0)
            except OSError as e:
                self.last_error = f"cannot write a heartbeat to {self._outbox}: {e.strerror}"
                return False
        return True

    def _given_up(self, deadline: float | None, abort: Abort | None) -> bool:
        if abort is not None and abort.triggered:
            self.last_error = abort.reason
        elif deadline is not None and time.monotonic() >= deadline:
            self.last_error = f"the peer has not taken the message from {self._outbox} in time"
        elif self._peer_left:
            self.last_error = f"the peer has closed its end of {self._channel}"
        else:
            return bool(self._broken)
        return True

    def _write(self, encoded: message_file.EncodedMessage, deadline: float | None, abort: Abort | None) -> str | None:
        """Put the message where the peer looks; its name there, None when there was no time for it."""
        with self._writing:
            self._check()
            self._count += 1
            stem = f"{self._count:012d}-{self._incarnation}"
            if not message_file.put(encoded, self._outbox, stem, lambda: self._given_up(deadline, abort)):
                self._check()
                return None
            name = f"{stem}.msg"
            with self._changed:
                self._pending.add(name)
        return name

    def _wait_until_taken(self, name: str, deadline: float | None, abort: Abort | None, *, is_last: bool) -> bool:
        """`is_last`: whoever takes it leaves and removes everything, so that what was removed was taken."""
        key = abort.add_callback(self._notify) if abort is not None else 0
        try:
            with self._changed:
                while name in self._pending:
                    if name in self._lost or self._given_up(deadline, abort):
                        break
                    self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                else:
                    self.last_error = ""
                    return True
        finally:
            if abort is not None:
                abort.remove_callback(key)
        taken = self._withdraw(name)
        with self._changed:
            if not is_last and (name in self._lost or not self._is_in_place()):  # removed, not taken
                taken, self.last_error = False, f"the peer has left, and removed {self._outbox}"
            self._pending.discard(name)
            self._lost.discard(name)
        return taken

    def _is_in_place(self) -> bool:
        return self._marker is not None and self._marker.path.exists()

    def _withdraw(self, name: str) -> bool:
        """Take an unread message back; True when the peer was faster."""
        hidden = self._outbox / f".{name.removesuffix('.msg')}.withdrawn"
        withdrawn = won(self._outbox / name, hidden)
        hidden.unlink(missing_ok=True)
        if withdrawn and self._broken:
            raise BrokenPipeError(self._broken)
        return not withdrawn

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def receive(self, timeout: float | None = None) -> Message | None:
        deadline = time.monotonic() + (seconds_or_none("timeout", timeout) or 0.0)
        self._check_process()
        while True:
            with self._changed:
                while not self._notices and not self._ready:
                    self._check()
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return None
                    self._changed.wait(left)
                self._check()
                if not self._ready:
                    return self._notices.popleft()
                path = self._ready.popleft()
            message = self._read(path)
            if message is not None:
                return message

    def _take(self, names: list[str]) -> None:
        """Take what the peer wrote; it stays on disk until `receive` reads it."""
        for name in names[: _MAX_TAKEN - len(self._ready)]:
            path = self._inbox / name
            mine = path.with_suffix(f".taken-{self._incarnation}")
            try:
                if won(path, mine):
                    self._ready.append(mine)
                    self._last_active = time.monotonic()
            except OSError as e:
                _log.warning("cannot take the message %s: %s", path, e)

    def _read(self, path: Path) -> Message | None:
        try:
            message = message_file.take(path)
        except (OSError, ProtocolError) as e:
            _log.warning("dropped the message %s: %s", path, e)
            return None
        if len(self._ready) >= _MAX_TAKEN - 1 and self._watch is not None:
            self._watch.wake()
        self._standings.received(message, self._peer)
        return message if self._seen.add(message.msg_id) else None

    def clear(self) -> None:
        self._check_process()
        with self._changed:
            self._check()
            for path in self._ready:
                path.unlink(missing_ok=True)
            if self._peer is not None and self._peer_dead:
                self._give_up(self._peer)
            self._peer, self._peer_left = None, False
            self._ready.clear()
            self._notices.clear()
        if self._watch is not None:
            self._watch.wake()

    def _give_up(self, incarnation: str) -> None:
        """Listen to it no more, unless it turns out to be alive: then its heartbeat goes on."""
        assert self._marker is not None
        sign = read_sign(self._inbox, incarnation)
        if sign is None:
            return
        self._retired[incarnation] = sign.beat
        try:
            self._marker.give_up(incarnation)
        except OSError as e:
            _log.warning("cannot tell the other end of the pipe in %s that it was taken for dead: %s", self._channel, e)

    @property
    def last_peer_active_time(self) -> float:
        return self._last_active

    def export(self, mode: Mode | str) -> tuple[str, dict[str, Any]]:
        mode = Mode(mode.upper())
        return "zcell.pipe.FilePipe", {"mode": mode.value, "root_path": str(self._root), "portable": self._portable}
