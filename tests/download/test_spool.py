"""Streams on offer: read once, spooled in bounds, for several receivers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.download.conftest import CHUNK, SMALL_CHUNKS
from tests.eventually import eventually
from tests.trees import TreeFactory
from zcell.download.spool import StreamSource
from zcell.errors import DownloadError


class Counting:
    """A stream that knows how far it was read."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.pieces):
            self.given += 1
            yield number.to_bytes(8, "big") * (CHUNK // 8)

    def whole(self) -> bytes:
        return b"".join(n.to_bytes(8, "big") * (CHUNK // 8) for n in range(self.pieces))


def test_several_receivers_share_one_reading(tree: TreeFactory) -> None:
    names = ["site-1", "site-2", "site-3"]
    cells = tree("server", *names, limits=SMALL_CHUNKS)
    stream = Counting(100)
    ref = cells["server"].downloads.transaction(receivers=3).add_stream(stream)
    futures = [cells[name].downloads.fetch_bytes_future("server", ref, idle_timeout=10) for name in names]
    assert all(future.result(20) == stream.whole() for future in futures)
    assert stream.given == 100


def test_a_receiver_that_comes_later_reads_from_the_spool(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    stream = Counting(50)
    ref = cells["server"].downloads.transaction(receivers=2).add_stream(stream)
    for name in ("site-1", "site-2"):
        assert cells[name].downloads.fetch_bytes("server", ref, idle_timeout=10) == stream.whole()
    assert stream.given == 50


def test_a_spool_smaller_than_the_stream_goes_round(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    stream = Counting(300)
    ref = cells["server"].downloads.transaction(receivers=2).add_stream(stream, spool_bytes=20 * CHUNK)
    futures = [cells[name].downloads.fetch_bytes_future("server", ref, idle_timeout=10) for name in ("site-1", "site-2")]
    assert all(future.result(20) == stream.whole() for future in futures)
    assert stream.given == 300


def test_the_stream_waits_for_an_expected_receiver_when_the_spool_is_full(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    stream = Counting(100)
    ref = cells["server"].downloads.transaction(receivers=2).add_stream(stream, spool_bytes=20 * CHUNK)
    first = cells["site-1"].downloads.fetch_bytes_future("server", ref, idle_timeout=20)
    eventually(lambda: stream.given == 20)
    pause = threading.Event()
    pause.wait(0.1)
    assert stream.given == 20
    second = cells["site-2"].downloads.fetch_bytes_future("server", ref, idle_timeout=20)
    assert first.result(20) == second.result(20) == stream.whole()


def test_who_comes_too_late_for_the_spool_is_told(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    stream = Counting(100)
    ref = cells["server"].downloads.transaction().add_stream(stream, spool_bytes=20 * CHUNK)
    assert cells["site-1"].downloads.fetch_bytes("server", ref, idle_timeout=10) == stream.whole()
    with pytest.raises(DownloadError, match="spool_bytes") as failure:
        cells["site-2"].downloads.fetch_bytes("server", ref, idle_timeout=10)
    assert failure.value.reason == "source_failed"


def test_a_pipe_is_a_stream(tree: TreeFactory, tmp_path: Path) -> None:
    cells = tree("server", "site-1", limits=SMALL_CHUNKS)
    read_end, write_end = os.pipe()
    data = b"through a pipe" * 50_000

    def write() -> None:
        with os.fdopen(write_end, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(read_end, "rb") as file:
        ref = cells["server"].downloads.transaction().add_stream(file, name="log")
        path = cells["site-1"].downloads.fetch_file("server", ref, tmp_path, idle_timeout=10)
    writer.join()
    assert path == tmp_path / "log"
    assert path.read_bytes() == data


def test_a_chunk_that_came_before_it_was_wanted_is_told_of_at_once_whatever_is_made_ahead() -> None:
    hold, stuck, woken = threading.Event(), threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield bytes(CHUNK)
        stuck.set()
        hold.wait(20)

    threads: list[threading.Thread] = []

    def run(task: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=task))
        threads[-1].start()

    source = StreamSource(pieces(), CHUNK, 4 * CHUNK, run, lambda: 0)
    try:
        source.want(0, lambda: None, ahead=3)
        assert stuck.wait(10)
        source.want(0, woken.set, ahead=3)
        assert woken.is_set()
    finally:
        hold.set()
        for thread in threads:
            thread.join(10)
        source.release()
