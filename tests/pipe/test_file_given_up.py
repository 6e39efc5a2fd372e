"""A message that was on its way while its sender was taken for dead does not count as delivered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zcell.pipe import FilePipe, Message, Mode, PipeHandler, Topic, message_file


def _next(pipe: FilePipe) -> Message:
    while True:
        message = pipe.receive(10.0)
        assert message is not None
        if message.topic != Topic.HEARTBEAT:
            return message


def test_what_the_peer_takes_after_it_gave_this_end_up_is_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a job freezes while it writes its result, for longer than its parent has patience."""
    put, frozen, thawed = message_file.put, threading.Event(), threading.Event()

    def slowly(encoded: message_file.EncodedMessage, directory: Path, stem: str, is_given_up: Callable[[], bool]) -> bool:
        frozen.set()
        return thawed.wait(30) and put(encoded, directory, stem, is_given_up)

    with FilePipe(Mode.PASSIVE, tmp_path / "pipe") as passive, FilePipe(Mode.ACTIVE, tmp_path / "pipe") as active:
        passive.open("task")
        active.open("task")
        handler = PipeHandler(active, heartbeat_interval=0.1, heartbeat_timeout=0)
        handler.start()
        assert handler.send_to_peer(Message.new_request("t", "before"), 10.0)
        assert _next(passive).data == "before"
        with ThreadPoolExecutor(1) as pool:
            monkeypatch.setattr(message_file, "put", slowly)
            late = pool.submit(handler.send_to_peer, Message.new_request("t", "late"), 60.0)
            assert frozen.wait(10)
            monkeypatch.setattr(message_file, "put", put)
            passive.peer_is_gone()
            passive.clear()
            thawed.set()
            assert _next(passive).data == "late"
            assert late.result(10) is False
        assert "for dead before it took the message" in active.last_error
        assert handler.send_to_peer(Message.new_request("t", "after"), 10.0)
        assert _next(passive).data == "after"
        handler.stop()


def test_a_reply_to_what_the_peer_asked_before_it_gave_this_end_up_is_not_delivered(tmp_path: Path) -> None:
    """As when a job freezes while it computes: nobody waits for its result."""
    with FilePipe(Mode.PASSIVE, tmp_path / "pipe") as passive, FilePipe(Mode.ACTIVE, tmp_path / "pipe") as active:
        passive.open("task")
        active.open("task")
        handler = PipeHandler(active, heartbeat_interval=0.1, heartbeat_timeout=0, resend_interval=0.1, max_resends=None)
        handler.start()
        for is_late in (True, False):
            request = Message.new_request("t", is_late)
            assert passive.send(request, 10.0)
            got = handler.get_next(10.0)
            assert got is not None
            assert got.msg_id == request.msg_id
            if is_late:
                passive.peer_is_gone()
                passive.clear()
            reply = Message.new_reply("t", "result", req_msg_id=got.msg_id)
            assert handler.send_to_peer(reply, 60.0) is not is_late
            assert active.is_in_vain(reply) is is_late
            assert _next(passive).data == "result"
        handler.stop()


def test_an_end_that_was_given_up_twice_is_told_so_within_one_block(tmp_path: Path) -> None:
    with FilePipe(Mode.PASSIVE, tmp_path / "pipe") as passive, FilePipe(Mode.ACTIVE, tmp_path / "pipe") as active:
        passive.open("task")
        active.open("task")
        for number in range(3):
            assert active.send(Message.new_request(Topic.HEARTBEAT, number + 1))
            assert active.send(Message.new_request("t", number), 10.0)
            assert _next(passive).data == number
            passive.peer_is_gone()
            passive.clear()
        marker = next((tmp_path / "pipe" / "task" / "to_active").glob("end-*"))
        assert marker.read_text().rstrip().endswith("/3")
        assert marker.stat().st_size == 128
