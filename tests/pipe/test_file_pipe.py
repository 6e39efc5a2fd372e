"""What only a directory can do to a pipe: crashes that leave files, full disks, strangers' files."""

from __future__ import annotations

import os
import random
import resource
import secrets
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.disk import fill
from tests.eventually import eventually
from tests.pipe.ends import EndProcess
from zcell.pipe import FilePipe, Message, Mode, PipeHandler, Topic
from zcell.pipe.watch import DirectoryWatch, file_system


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pipe"


@pytest.fixture
def passive(root: Path) -> Iterator[FilePipe]:
    with FilePipe(Mode.PASSIVE, root) as pipe:
        pipe.open("task")
        yield pipe


def _next(pipe: FilePipe, timeout: float = 10.0) -> Message:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        message = pipe.receive(0.1)
        if message is not None and message.topic != Topic.HEARTBEAT:
            return message
    raise AssertionError("no message arrived")


def test_the_directory_is_private_and_gone_when_both_ends_left(root: Path, passive: FilePipe) -> None:
    assert root.stat().st_mode & 0o777 == 0o700
    with FilePipe(Mode.ACTIVE, root) as active:
        active.open("task")
        assert active.send(Message.new_request("t"), 5.0)
        passive.close()
        assert root.exists()
    assert not root.exists()


class Turns:
    """Lets two threads go on one step at a time, in the order given; when that is used up, as they come."""

    def __init__(self, order: Iterable[str]) -> None:
        self._order = deque(order)
        self._changed = threading.Condition()
        self._holder = ""
        self._left: set[str] = set()

    def before(self, function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def call(path: Path) -> Any:
            self.step()
            return function(path)

        return call

    def step(self) -> None:
        """Let the other one go first, unless it is the caller's turn."""
        me = threading.current_thread().name
        with self._changed:
            self._yield(me)
            assert self._changed.wait_for(lambda: not self._holder and self._next() in (me, ""), 30)
            self._holder = me
            if self._order:
                self._order.popleft()

    def leave(self) -> None:
        me = threading.current_thread().name
        with self._changed:
            self._left.add(me)
            self._yield(me)

    def _yield(self, me: str) -> None:
        if self._holder == me:
            self._holder = ""
        self._changed.notify_all()

    def _next(self) -> str:
        while self._order and self._order[0] in self._left:
            self._order.popleft()
        return self._order[0] if self._order else ""


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_left_when_both_ends_leave_at_once(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Both found that nobody is there any more, and clean up step by step, in one order of many."""
    ends = {"active": FilePipe(Mode.ACTIVE, root), "passive": FilePipe(Mode.PASSIVE, root)}
    turns = Turns(random.Random(seed).choices(list(ends), k=40))

    def clean_up(end: FilePipe) -> None:
        try:
            end._clean_up()
        finally:
            turns.leave()

    with monkeypatch.context() as patch:
        patch.setattr(FilePipe, "_clean_up", lambda _: None)
        for end in ends.values():
            end.open("task")
        for end in ends.values():
            end.close()
    assert root.exists()
    for method in ("iterdir", "rmdir"):
        monkeypatch.setattr(Path, method, turns.before(getattr(Path, method)))
    threads = [threading.Thread(target=clean_up, args=[end], name=name) for name, end in ends.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert not root.exists()


def test_a_killed_peer_is_gone_and_nothing_is_left_behind(root: Path, passive: FilePipe) -> None:
    handler = PipeHandler(passive, heartbeat_interval=0.1, heartbeat_timeout=1.0, connect_timeout=30.0)
    handler.start()
    with EndProcess(passive.export(Mode.ACTIVE), heartbeat_interval=0.1) as other:
        assert other.read() == "ready"
        other.tell("echo")
        assert handler.send_to_peer(Message.new_request("t", 1), 10.0)
        other.process.kill()
        topics = []
        while Topic.PEER_GONE not in topics:  # the reply may come before
            message = handler.get_next(10.0)
            assert message is not None
            topics.append(message.topic)
    handler.stop()
    assert not root.exists()


def test_a_message_to_a_killed_peer_is_taken_back(root: Path, passive: FilePipe) -> None:
    with EndProcess(passive.export(Mode.ACTIVE)) as other:
        assert other.read() == "ready"
        other.process.kill()
        other.process.wait()
    assert not passive.send(Message.new_request("t", "lost"), 0.2)
    with FilePipe(Mode.ACTIVE, root) as active:
        active.open("task")
        assert active.receive(0.3) is None


def test_what_a_dead_run_left_is_never_delivered_and_goes(root: Path) -> None:
    first = FilePipe(Mode.ACTIVE, root)
    with EndProcess(first.export(Mode.ACTIVE)) as dead:
        assert dead.read() == "ready"
        dead.tell("hold")
        assert dead.read() == "sending"
        eventually(lambda: list((root / "task" / "to_passive").glob("*.msg")))
        (root / "task" / "to_passive" / f".{7:012d}-{secrets.token_hex(8)}.tmp").write_bytes(b"half a mess")
        dead.process.kill()
        dead.process.wait()
    with FilePipe(Mode.PASSIVE, root) as passive:
        passive.open("task")
        assert passive.receive(0.3) is None
        with FilePipe(Mode.ACTIVE, root) as active:
            active.open("task")
            assert not list((root / "task" / "to_passive").glob("*.msg"))
            assert not list((root / "task" / "to_passive").glob(".*.tmp"))
            assert active.send(Message.new_request("t", "alive"), 5.0)
            assert _next(passive).data == "alive"
    assert not root.exists()


def test_only_the_dead_ends_files_are_removed_when_the_survivor_leaves(root: Path, passive: FilePipe) -> None:
    stranger = root / "task" / "to_passive" / "notes.txt"
    stranger.write_text("mine")
    passive.close()
    assert stranger.read_text() == "mine"
    shutil.rmtree(root)


def test_an_end_that_was_never_met_is_left_alone(root: Path) -> None:
    with FilePipe(Mode.ACTIVE, root) as active:
        active.open("task")
        silent = root / "task" / "to_active" / f"end-{secrets.token_hex(8)}"
        silent.write_text("1")
    assert silent.exists()
    shutil.rmtree(root)


def test_a_stopped_peer_takes_up_where_it_was_when_it_returns(passive: FilePipe) -> None:
    handler = PipeHandler(passive, heartbeat_interval=0.1, heartbeat_timeout=60.0)
    handler.start()
    with EndProcess(passive.export(Mode.ACTIVE), heartbeat_interval=0.1, heartbeat_timeout=0.6) as other:
        assert other.read() == "ready"
        other.tell("echo")
        assert handler.wait_for_peer(10.0)
        os.kill(other.process.pid, signal.SIGSTOP)
        assert not handler.send_to_peer(Message.new_request("t", "frozen"), 1.0)
        os.kill(other.process.pid, signal.SIGCONT)
        assert handler.send_to_peer(Message.new_request("t", "thawed"), 10.0)
        reply = handler.get_next(10.0)
        assert reply is not None
        assert reply.data == "thawed"
        handler.stop()


def test_a_peer_stopped_for_too_long_is_gone_once_and_learns_it_when_it_returns(passive: FilePipe) -> None:
    handler = PipeHandler(passive, heartbeat_interval=0.1, heartbeat_timeout=0.5, connect_timeout=30.0)
    handler.start()
    with EndProcess(passive.export(Mode.ACTIVE), heartbeat_interval=0.1, heartbeat_timeout=5.0) as other:
        assert other.read() == "ready"
        other.tell("echo")
        assert handler.wait_for_peer(10.0)
        os.kill(other.process.pid, signal.SIGSTOP)
        gone = handler.get_next(10.0)
        assert gone is not None
        assert gone.topic == Topic.PEER_GONE
        handler.stop()
        os.kill(other.process.pid, signal.SIGCONT)
        assert other.read() == Topic.PEER_GONE
        other.tell("end")
        other.process.wait(10)


def test_a_removed_directory_is_a_broken_pipe_that_names_it(root: Path, passive: FilePipe) -> None:
    shutil.rmtree(root)

    def broken() -> str:
        try:
            passive.receive(0.01)
        except BrokenPipeError as e:
            return str(e)
        return ""

    assert str(root) in eventually(broken)


@pytest.mark.parametrize("portable", [False, True])
def test_an_end_that_its_peer_took_for_dead_and_cleaned_away_meets_the_next_one(root: Path, portable: bool) -> None:
    """As after a pause of its process: it missed that the peer gave it up, and left nothing behind."""
    with FilePipe(Mode.PASSIVE, root, portable=portable) as paused, ThreadPoolExecutor(1) as pool:
        paused.open("task")
        first = FilePipe(Mode.ACTIVE, root)
        first.open("task")
        assert first.send(Message.new_request("t", 1), 5.0)
        assert _next(paused).data == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(first, "_take", lambda names: None)
            waiting = pool.submit(paused.send, Message.new_request("t", "lost"), 30.0)
            eventually(lambda: list((root / "task" / "to_active").glob("*.msg")))
            first.peer_is_gone()
            first.close()
        assert waiting.result(5.0) is False
        assert paused.last_error
        assert _next(paused).topic == Topic.PEER_GONE
        paused.clear()
        with FilePipe(Mode.ACTIVE, root) as second:
            second.open("task")
            assert paused.send(Message.new_request("t", 2), 10.0)
            assert _next(second).data == 2
            assert second.send(Message.new_request("t", 3), 5.0)
            assert _next(paused).data == 3
    assert not root.exists()


def test_a_file_too_large_for_its_limit_fails_the_send_with_the_reason(root: Path, passive: FilePipe) -> None:
    with FilePipe(Mode.ACTIVE, root) as active:
        active.open("task")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            assert not active.send(Message.new_request("t", b"x" * (4 << 20)), 5.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "too large" in active.last_error
        assert not list((root / "task" / "to_passive").glob(".*"))
        assert active.send(Message.new_request("t", "fits"), 5.0)
        assert _next(passive).data == "fits"


def test_a_full_disk_fails_the_send_with_the_reason_and_silences_nobody(small_disk: Path) -> None:
    with FilePipe(Mode.PASSIVE, small_disk / "p") as passive, FilePipe(Mode.ACTIVE, small_disk / "p") as active:
        passive.open("task")
        active.open("task")
        one = PipeHandler(active, heartbeat_interval=0.1, heartbeat_timeout=1.0, resend_interval=0.1)
        two = PipeHandler(passive, heartbeat_interval=0.1, heartbeat_timeout=1.0)
        one.start()
        two.start()
        filler = small_disk / "filler"
        fill(filler)
        assert not one.send_to_peer(Message.new_request("t", b"x" * 100_000), 3.0)
        assert "No space" in active.last_error
        assert two.get_next(1.5) is None
        filler.unlink()
        assert one.send_to_peer(Message.new_request("t", "room again"), 5.0)
        got = two.get_next(5.0)
        assert got is not None
        assert got.data == "room again"
        one.stop()
        two.stop()


@pytest.mark.parametrize(
    "junk",
    [b"", b"ZPM1", b"ZPM1\xff\xff\xff\xff", b"NOPE" + bytes(100), b"ZPM1\x02\0\0\0\x91\xc0", b"ZPM1\x01\0\0\0\xc1"],
    ids=["empty", "short", "long header", "magic", "few fields", "no msgpack"],
)
def test_a_file_that_is_no_message_is_dropped_and_the_next_one_delivered(root: Path, passive: FilePipe, junk: bytes) -> None:
    with FilePipe(Mode.ACTIVE, root) as active:
        active.open("task")
        assert active.send(Message.new_request("t", 1), 5.0)
        assert _next(passive).data == 1
        incarnation = next((root / "task" / "to_passive").glob("end-*")).name.removeprefix("end-")
        (root / "task" / "to_passive" / f"{0:012d}-{incarnation}.msg").write_bytes(junk)
        assert active.send(Message.new_request("t", 2), 5.0)
        assert _next(passive).data == 2


def test_a_link_is_not_followed(root: Path, passive: FilePipe, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    with FilePipe(Mode.ACTIVE, root) as active:
        active.open("task")
        assert active.send(Message.new_request("t", 1), 5.0)
        assert _next(passive).data == 1
        incarnation = next((root / "task" / "to_passive").glob("end-*")).name.removeprefix("end-")
        secret.write_bytes(b"secret")
        (root / "task" / "to_passive" / f"{0:012d}-{incarnation}.msg").symlink_to(secret)
        assert active.send(Message.new_request("t", 2), 5.0)
        assert _next(passive).data == 2
    assert secret.read_bytes() == b"secret"


def test_data_of_an_unknown_type_arrives_as_an_error_of_its_message(root: Path, passive: FilePipe) -> None:
    from zcell.pipe import message_file

    with FilePipe(Mode.ACTIVE, root) as active:
        active.open("task")
        message = Message.new_request("t", 1)
        message.encoded = message_file.encode(message)
        message.encoded.body = b"\xc7"
        assert active.send(message, 5.0)
        got = _next(passive)
        assert got.msg_id == message.msg_id
        assert "decoded" in got.error


def test_a_second_end_of_the_same_mode_takes_over(root: Path, passive: FilePipe) -> None:
    with FilePipe(Mode.ACTIVE, root) as first, FilePipe(Mode.ACTIVE, root) as second:
        first.open("task")
        assert first.send(Message.new_request("t", 1), 5.0)
        assert _next(passive).data == 1
        second.open("task")
        assert _next(passive).topic == Topic.PEER_GONE
        with pytest.raises(BrokenPipeError, match="took over"):
            first.receive(5.0)


def test_an_end_that_was_replaced_leaves_its_successor_alone(root: Path, passive: FilePipe) -> None:
    with FilePipe(Mode.PASSIVE, root) as successor:
        successor.open("task")
        passive.close()
        with FilePipe(Mode.ACTIVE, root) as active:
            active.open("task")
            assert active.send(Message.new_request("t", 1), 10.0)
            assert _next(successor).data == 1
    assert not root.exists()


def test_the_file_system_decides_whether_the_kernel_is_asked(tmp_path: Path) -> None:
    assert file_system(Path("/proc")) == "proc"
    for portable in (False, True):
        watch = DirectoryWatch([tmp_path], guard=30.0, portable=portable)
        assert not (portable and watch.is_told)
        watch.wake()
        assert watch.wait()
        watch.stop()
        assert not watch.wait()
        watch.close()
