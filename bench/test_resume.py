"""kill -9 in the middle of a download: how much travels again?"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.child import Child
from bench.figure import at_most
from bench.measure import MIB, Bench
from bench.place import write_noise
from zcell.limits import Limits
from zcell.protocol.transfer.journal import HEADER_BYTES, RECORD_BYTES

REF = "the-file"
WINDOW_MIB = Limits().window_bytes / MIB
CHUNK = Limits().chunk_bytes


@pytest.fixture(scope="module")
def source(place: Path, quick: bool) -> Path:
    return write_noise(place / "source", (16 if quick else 512) * MIB)


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


class Interrupted:
    """A download whose receiver, or owner, is killed when some of it has arrived."""

    def __init__(self, source: Path, to: Path) -> None:
        self._source = source
        self._to = to
        self._size = source.stat().st_size

    def _owner(self, stack: ExitStack, url: str) -> Child:
        owner = stack.enter_context(Child("cells.server", url))
        owner.ask("offer", path=str(self._source), ref_id=REF)
        return owner

    def _receiver(self, stack: ExitStack, url: str) -> Child:
        receiver = stack.enter_context(Child("cells.client", "site-1", url))
        receiver.tell("fetch", ref_id=REF, path=str(self._to))
        return receiver

    def _wait_for(self, share: float) -> None:
        """Until that much of the journal is written."""
        journal = self._to.with_name(f"{self._to.name}.part.journal")
        enough = HEADER_BYTES + share * self._size / CHUNK * RECORD_BYTES
        end = time.monotonic() + 60
        while not (journal.exists() and journal.stat().st_size >= enough):
            if self._to.exists() or time.monotonic() > end:
                raise RuntimeError("the download was over before it could be interrupted")
            time.sleep(0.001)

    def receiver_killed(self) -> float:
        """MiB that travelled again."""
        with ExitStack() as stack:
            url = _free_port()
            owner = self._owner(stack, url)
            first = self._receiver(stack, url)
            self._wait_for(0.4)
            first.kill()
            self._receiver(stack, url).answer()
            return self._again(owner.ask("frames_sent"))

    def owner_killed(self) -> float:
        """The same when the owner dies and comes back: its first life is counted by what the receiver got."""
        with ExitStack() as stack:
            url = _free_port()
            first = self._owner(stack, url)
            receiver = self._receiver(stack, url)
            self._wait_for(0.4)
            first.kill()
            self._owner(stack, url)
            receiver.answer()
            return self._again(receiver.ask("frames_received"))

    def _again(self, frames: int) -> float:
        assert self._to.stat().st_size == self._size
        self._to.unlink()
        return max(0.0, (frames * CHUNK - self._size) / MIB)


def test_receiver_killed(bench: Bench, source: Path, place: Path) -> None:
    """What was in flight at the moment of the kill is lost, and nothing else: at most one window."""
    interrupted = Interrupted(source, place / "copy-1")
    (again,) = bench.interleave(interrupted.receiver_killed, warm_up=False)
    size = source.stat().st_size // MIB
    bench.add(f"{size} MiB file, receiver killed at 40%: travels again", "MiB", again, targets=[at_most(WINDOW_MIB)])


def test_owner_killed(bench: Bench, source: Path, place: Path) -> None:
    interrupted = Interrupted(source, place / "copy-2")
    (again,) = bench.interleave(interrupted.owner_killed, warm_up=False)
    size = source.stat().st_size // MIB
    bench.add(f"{size} MiB file, owner killed at 40%: arrives again", "MiB", again, targets=[at_most(WINDOW_MIB)])
