"""Cells that break the rules: they are dropped or told, and honest downloads go on."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.download.conftest import CHUNK, SMALL_CHUNKS, Pair
from tests.eventually import eventually
from tests.trees import TreeFactory, making_trees
from zcell import Cell
from zcell._native import chunk as frames
from zcell.download.sealing import Frame
from zcell.errors import DownloadError, ProtocolError
from zcell.message import Request, ReturnCode

CHANNEL = "zcell.transfer"
STREAM = bytes(range(16))
JUNK: list[Any] = [
    None,
    1,
    "x",
    [],
    {},
    {"stream": 1},
    {"stream": STREAM},
    {"stream": STREAM, "seq": -1},
    {"ref_id": "x" * 10_000},
]


@pytest.fixture
def three(short_path: Path) -> Iterator[TreeFactory]:
    with making_trees("tcp", short_path) as factory:
        yield factory


def test_requests_that_make_no_sense_are_invalid(tcp_pair: Pair) -> None:
    assert tcp_pair.owner.downloads
    for topic in ("open", "done", "digests"):
        for payload in JUNK:
            reply = tcp_pair.receiver.request("server", CHANNEL, topic, payload, timeout=5, optional=True)
            assert reply.rc is ReturnCode.INVALID_REQUEST, (topic, payload)
            assert topic in reply.error
    reply = tcp_pair.receiver.request("server", "zcell.steps", "step", {}, timeout=5, optional=True)
    assert reply.rc is ReturnCode.INVALID_REQUEST


def test_events_that_make_no_sense_are_dropped_and_downloads_go_on(tcp_pair: Pair) -> None:
    data = random.Random(1).randbytes(50 * CHUNK)
    ref = tcp_pair.owner.downloads.transaction().add_bytes(data)
    assert tcp_pair.receiver.downloads
    topics = ("pull", "ask_root", "close", "progress", "root", "busy", "end", "source_failed", "unknown_stream")
    for topic in topics:
        for payload in JUNK:
            tcp_pair.receiver.post_event("server", CHANNEL, topic, payload)
            tcp_pair.owner.post_event("site-1", CHANNEL, topic, payload)
    assert tcp_pair.receiver.downloads.fetch_bytes("server", ref, idle_timeout=10) == data


def test_asking_for_everything_at_once_gets_nothing(tcp_pair: Pair) -> None:
    ref = tcp_pair.owner.downloads.transaction().add_bytes(b"x" * 10 * CHUNK)
    tcp_pair.receiver.request("server", CHANNEL, "open", {"ref_id": ref.id, "stream": STREAM}, timeout=5)
    sent = tcp_pair.owner.statistics().data_frames_sent
    pull = {"stream": STREAM, "seq": 1, "ranges": [(0, 1 << 39)], "mark": True, "floor": 0}
    tcp_pair.receiver.post_event("server", CHANNEL, "pull", pull)
    assert tcp_pair.receiver.request("server", CHANNEL, "digests", {"stream": STREAM, "first": 0, "count": 1}, timeout=5).ok
    assert tcp_pair.owner.statistics().data_frames_sent == sent


def test_a_stranger_can_neither_feed_nor_end_a_download(three: TreeFactory) -> None:
    cells = three("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    data = random.Random(2).randbytes(3000 * CHUNK)
    ref = cells["server"].downloads.transaction().add_bytes(data)
    future = cells["site-1"].downloads.fetch_bytes_future("server", ref, idle_timeout=20)
    stream = next(iter(cells["site-1"].downloads._running))
    evil = cells["site-2"]
    while not future.done():
        evil.send_data("site-1", stream, frames.encode(1, CHUNK, b"\0" * CHUNK))
        evil.post_event("site-1", CHANNEL, "source_failed", {"stream": stream, "failure": "gone", "text": "evil"})
        evil.post_event("site-1", CHANNEL, "end", {"stream": stream, "size": 1})
        evil.post_event("server", CHANNEL, "close", _close(stream))
        evil.request("server", CHANNEL, "open", {"ref_id": ref.id, "stream": stream}, timeout=5, optional=True)
    assert future.result(20) == data


def test_a_stranger_who_opens_the_same_stream_first_takes_nobodys_place(three: TreeFactory) -> None:
    cells = three("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    ref = cells["server"].downloads.transaction().add_bytes(b"x" * 10 * CHUNK)
    for name in ("site-2", "site-1"):
        opened = cells[name].request("server", CHANNEL, "open", {"ref_id": ref.id, "stream": STREAM}, timeout=5)
        assert opened.payload["size"] == 10 * CHUNK, name
    arrived: dict[str, list[int]] = {"site-1": [], "site-2": []}
    for name in arrived:
        cells[name].open_stream(STREAM, lambda _, frame, name=name: arrived[name].append(len(frame)))  # type: ignore[misc]
    cells["site-2"].post_event("server", CHANNEL, "close", _close(STREAM))
    pull = {"stream": STREAM, "seq": 1, "ranges": [(0, 10)], "mark": False, "floor": 0}
    cells["site-1"].post_event("server", CHANNEL, "pull", pull)
    eventually(lambda: len(arrived["site-1"]) == 10, 20)
    assert not arrived["site-2"]
    assert cells["site-1"].request("server", CHANNEL, "digests", {"stream": STREAM, "first": 0, "count": 1}, timeout=5).payload


def _close(stream: bytes) -> dict[str, Any]:
    return {"stream": stream, "sequence": 1, "bytes_done": 0, "items_done": 0, "failure": "aborted"}


class EvilOwner:
    """Answers `open` as told and sends what it is told for every pull."""

    def __init__(self, cell: Cell, description: dict[str, Any], answers: list[bytes]) -> None:
        self._cell = cell
        self._answers = answers
        cell.register(CHANNEL, "open", lambda _request: description, allow="any")
        cell.register(CHANNEL, "pull", self._on_pull, allow="any", inline=True)
        cell.register(CHANNEL, "ask_root", self._on_ask_root, allow="any", inline=True)
        cell.register(CHANNEL, "digests", lambda _request: b"short", allow="any")

    def _on_pull(self, request: Request) -> None:
        for frame in self._answers:
            self._cell.send_data(request.origin, request.payload["stream"], frame)

    def _on_ask_root(self, request: Request) -> None:
        root = {"stream": request.payload["stream"], "size": 2 * CHUNK, "root": bytes(32)}
        self._cell.post_event(request.origin, CHANNEL, "root", root)


def reason(cell: Cell, to: Path, **options: Any) -> str:
    with pytest.raises(DownloadError) as failure:
        cell.downloads.fetch_file("server", "ref", to, **{"idle_timeout": 1.0, **options})
    assert not to.exists()
    return failure.value.reason


GOOD = {"kind": "bytes", "name": "n", "size": 2 * CHUNK, "chunk_bytes": CHUNK}


@pytest.mark.parametrize(
    "description",
    [
        None,
        5,
        {"size": "big"},
        {**GOOD, "chunk_bytes": 1000},
        {**GOOD, "chunk_bytes": 1 << 40},
        {**GOOD, "kind": "evil"},
        {"size": -1},
    ],
)
def test_a_description_that_makes_no_sense_is_source_failed(tcp_pair: Pair, tmp_path: Path, description: Any) -> None:
    EvilOwner(tcp_pair.owner, description, [])
    assert reason(tcp_pair.receiver, tmp_path / "f") == "source_failed"


def test_a_lying_size_costs_nothing(tcp_pair: Pair, tmp_path: Path) -> None:
    EvilOwner(tcp_pair.owner, {**GOOD, "size": 1 << 60}, [])
    assert reason(tcp_pair.receiver, tmp_path / "f") == "idle"
    assert (tmp_path / "f.part").stat().st_size == 0


def test_frames_that_are_no_chunks_end_in_corrupt(tcp_pair: Pair, tmp_path: Path) -> None:
    junk = [b"", b"x", os.urandom(100), os.urandom(CHUNK), struct.pack("<4sIQ", b"ZCM1", 0, 1 << 60)]
    EvilOwner(tcp_pair.owner, GOOD, junk)
    assert reason(tcp_pair.receiver, tmp_path / "f", idle_timeout=10) == "corrupt"


def test_chunks_in_the_wrong_place_are_not_written(tcp_pair: Pair, tmp_path: Path) -> None:
    data = b"\1" * CHUNK
    wrong = [
        frames.encode(0, 1 << 40, data),
        frames.encode(7, 7 * CHUNK, data),
        frames.encode(1, 0, data),
        frames.encode(0, 0, data[:-1]),
        frames.encode(0, 0, data + data),
    ]
    EvilOwner(tcp_pair.owner, GOOD, wrong)
    assert reason(tcp_pair.receiver, tmp_path / "f", idle_timeout=5) in ("idle", "corrupt")
    assert (tmp_path / "f.part").stat().st_size == 0


def test_a_wrong_root_with_no_digests_to_show_is_corrupt(tcp_pair: Pair, tmp_path: Path) -> None:
    EvilOwner(tcp_pair.owner, GOOD, [frames.encode(i, i * CHUNK, b"\1" * CHUNK) for i in range(2)])
    assert reason(tcp_pair.receiver, tmp_path / "f", idle_timeout=5) == "corrupt"


class Rot13:
    """A sealer for this test: it inverts the payload and adds a tag."""

    overhead_bytes = 16

    def seal(self, frame: Frame) -> Frame:
        plain = frames.parse(frame, max_length=1 << 24)
        body = bytes(b ^ 0xFF for b in plain.payload) + b"T" * 16
        return frames.encode(plain.index, plain.offset, body, digest=plain.digest, checksum=False, flags=frames.SEALED)

    def open(self, frame: Frame) -> Frame:
        sealed = frames.parse(frame, max_length=1 << 24)
        if bytes(sealed.payload[-16:]) != b"T" * 16:
            raise ProtocolError("the tag is wrong")
        body = bytes(b ^ 0xFF for b in sealed.payload[:-16])
        return frames.encode(sealed.index, sealed.offset, body, digest=sealed.digest, checksum=False)


def test_frames_pass_the_sealer_of_the_other_cell_at_both_ends(tcp_pair: Pair, tmp_path: Path) -> None:
    peers: list[str] = []

    def sealer_for(peer: str) -> Rot13:
        peers.append(peer)
        return Rot13()

    data = random.Random(5).randbytes(3 * CHUNK + 1)
    tcp_pair.owner.downloads.sealer_for = sealer_for
    tcp_pair.receiver.downloads.sealer_for = sealer_for
    ref = tcp_pair.owner.downloads.transaction().add_bytes(data)
    assert tcp_pair.receiver.downloads.fetch_file("server", ref, tmp_path / "f", idle_timeout=10).read_bytes() == data
    assert sorted(peers) == ["server", "site-1"]
    eventually(lambda: not tcp_pair.receiver.downloads._running)
