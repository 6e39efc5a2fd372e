"""kill -9 of either end at many random moments: only unverified chunks travel, and the file is right."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
from pathlib import Path

import pytest

from tests.download.conftest import CHUNK
from tests.programs import Program, running
from tests.trees import SECRET
from zcell.protocol.transfer.journal import decode_journal

CHUNKS = 1600
ROUNDS = 12

OWNER = """
    import sys
    from zcell import Cell
    from zcell.limits import Limits
    url, secret, path, ref_id = sys.argv[1:5]
    with Cell("server", listen=url, secret=bytes.fromhex(secret), limits=Limits(chunk_bytes=65536)) as cell:
        tx = cell.downloads.transaction()
        tx.add_file(path, ref_id=ref_id)
        print("offered", flush=True)
        for line in sys.stdin:
            print(cell.statistics().data_frames_sent, flush=True)
"""

RECEIVER = """
    import sys
    from zcell import Cell
    from zcell.limits import Limits
    url, secret, ref_id, to = sys.argv[1:5]
    limits = Limits(chunk_bytes=65536, window_bytes=8 << 20)  # a window that does not grow, so that what is lost can be counted
    with Cell("site-1", parent=url, secret=bytes.fromhex(secret), limits=limits) as cell:
        cell.wait_ready(20)
        print("ready", flush=True)
        cell.downloads.fetch_file("server", ref_id, to, idle_timeout=30)
        print("done", cell.statistics().data_frames_received, flush=True)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(random.Random(7).randbytes(CHUNKS * CHUNK - 100))
    return path


def verified(to: Path) -> int:
    journal = to.with_name(to.name + ".part.journal")
    data = journal.read_bytes() if journal.exists() else b""
    return decode_journal(data).table.count if data else 0


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def wait_for_growth(to: Path, more: int, receiver: Program) -> None:
    """Until `more` further chunks are stored, or the receiver is done."""
    part = to.with_name(to.name + ".part.journal")
    begin = part.stat().st_size if part.exists() else 0
    while receiver.process.poll() is None and not to.exists():
        if part.exists() and part.stat().st_size >= begin + more * 48:
            return
        os.sched_yield()


def sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.timeout(300)
def test_a_receiver_killed_at_many_moments_continues_where_it_was(source: Path, tmp_path: Path) -> None:
    chance = random.Random(11)
    to, url = tmp_path / "copy", free_port()
    with running(OWNER, url, SECRET.hex(), source, "the-file") as owner:
        assert owner.line() == "offered"
        for _ in range(ROUNDS):
            if to.exists():
                break
            with running(RECEIVER, url, SECRET.hex(), "the-file", to) as receiver:
                assert receiver.line() == "ready"
                wait_for_growth(to, chance.randrange(1, 160), receiver)
                receiver.process.send_signal(signal.SIGKILL)
                receiver.process.wait(10)
            assert not to.exists() or sha(to) == sha(source)
        if not to.exists():
            held = verified(to)
            assert held > 0
            with running(RECEIVER, url, SECRET.hex(), "the-file", to) as receiver:
                assert receiver.line() == "ready"
                frames = int(receiver.line(60).split()[1])
                receiver.finish()
            marks = 10
            assert CHUNKS - held <= frames <= CHUNKS - held + marks, "only unverified chunks travel"
        owner.finish()
    assert sha(to) == sha(source)
    assert not (tmp_path / "copy.part").exists()
    assert not (tmp_path / "copy.part.journal").exists()


@pytest.mark.timeout(300)
def test_an_owner_killed_at_many_moments_is_continued_with(source: Path, tmp_path: Path) -> None:
    chance = random.Random(12)
    to, url = tmp_path / "copy", free_port()
    frames = 0
    with running(OWNER, url, SECRET.hex(), source, "the-file") as first:
        assert first.line() == "offered"
        with running(RECEIVER, url, SECRET.hex(), "the-file", to) as receiver:
            assert receiver.line() == "ready"
            kill_at = [chance.randrange(1, 200) for _ in range(5)]
            owner = first
            for more in kill_at:
                wait_for_growth(to, more, receiver)
                owner.process.send_signal(signal.SIGKILL)
                owner.process.wait(10)
                owner.close()
                owner = Program(OWNER, url, SECRET.hex(), source, "the-file")
                assert owner.line() == "offered"
            word, count = receiver.line(120).split()
            assert word == "done"
            frames = int(count)
            receiver.finish()
            owner.finish()
            owner.close()
    assert sha(to) == sha(source)
    window = 8 * 16
    lost_each = 2 * window  # at most a window was on its way, each chunk of which may come with a mark of its own
    assert frames <= CHUNKS + len(kill_at) * lost_each
