"""Fetching what is offered, over every transport: files, bytes, streams, several at once."""

from __future__ import annotations

import asyncio
import io
import os
import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.download.conftest import CHUNK, SMALL_CHUNKS, Pair, names_in
from tests.eventually import eventually
from tests.trees import SECRET, TreeFactory
from zcell.aio import Cell as AsyncCell
from zcell.digest import Digest, file_digest
from zcell.download import DownloadStatus, ProgressEvent, ProgressState, TransactionStatus
from zcell.errors import DownloadError

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 20 * CHUNK + 17]


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def write(path: Path, size: int, seed: int = 1) -> Path:
    path.write_bytes(content(size, seed))
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verify", ["tree", "checksum"])
def test_a_file_arrives_whole_and_only_under_its_final_name(pair: Pair, tmp_path: Path, size: int, verify: str) -> None:
    source = write(tmp_path / "source", size)
    (tmp_path / "to").mkdir()
    ref = pair.owner.downloads.transaction().add_file(source)
    assert ref.size == size
    path = pair.receiver.downloads.fetch_file("server", ref, tmp_path / "to" / "copy", verify=verify, idle_timeout=10)
    assert path == tmp_path / "to" / "copy"
    assert path.read_bytes() == source.read_bytes()
    assert names_in(tmp_path / "to") == ["copy"]


@pytest.mark.parametrize("size", SIZES)
def test_bytes_arrive_whole(pair: Pair, size: int) -> None:
    data = content(size)
    ref = pair.owner.downloads.transaction().add_bytes(data)
    got = pair.receiver.downloads.fetch_bytes("server", ref.id, idle_timeout=10)
    assert type(got) is bytes
    assert got == data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verify", ["tree", "checksum"])
def test_a_stream_of_unknown_length_arrives_whole(pair: Pair, size: int, verify: str) -> None:
    data = content(size)
    pieces = [data[i : i + 10_007] for i in range(0, size, 10_007)]
    tx = pair.owner.downloads.transaction()
    for ref in (tx.add_stream(iter(pieces)), tx.add_stream(io.BytesIO(data))):
        assert ref.size is None
        assert pair.receiver.downloads.fetch_bytes("server", ref, verify=verify, idle_timeout=10) == data


def test_a_directory_as_destination_takes_the_owners_name(pair: Pair, tmp_path: Path) -> None:
    source = write(tmp_path / "model.bin", 5)
    (tmp_path / "to").mkdir()
    ref = pair.owner.downloads.transaction().add_file(source)
    assert pair.receiver.downloads.fetch_file("server", ref, tmp_path / "to") == tmp_path / "to" / "model.bin"


def test_a_file_whose_name_is_no_utf8_travels(pair: Pair, tmp_path: Path) -> None:
    source = write(tmp_path / os.fsdecode(b"bad\xff"), 5)
    (tmp_path / "to").mkdir()
    ref = pair.owner.downloads.transaction().add_file(source)
    path = pair.receiver.downloads.fetch_file("server", ref, tmp_path / "to")
    assert path == tmp_path / "to" / "bad\N{REPLACEMENT CHARACTER}"
    assert path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["../evil", "..", ".", "a/b", "x" * 250, "nul\0"])
def test_a_name_that_is_no_plain_file_name_is_not_used(pair: Pair, tmp_path: Path, name: str) -> None:
    (tmp_path / "to").mkdir()
    ref = pair.owner.downloads.transaction().add_bytes(b"x", name=name)
    assert pair.receiver.downloads.fetch_file("server", ref, tmp_path / "to") == tmp_path / "to" / ref.id


def test_an_existing_file_is_replaced_only_by_the_whole_new_one(pair: Pair, tmp_path: Path) -> None:
    target = write(tmp_path / "target", 10, seed=5)
    before = target.read_bytes()
    with pytest.raises(DownloadError):
        pair.receiver.downloads.fetch_file("server", "no-such-ref", target)
    assert target.read_bytes() == before
    ref = pair.owner.downloads.transaction().add_bytes(b"new")
    pair.receiver.downloads.fetch_file("server", ref, target)
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("taken_by", ["directory", "link"])
def test_the_last_step_goes_neither_into_a_directory_nor_through_a_link(pair: Pair, tmp_path: Path, taken_by: str) -> None:
    target, elsewhere = tmp_path / "to" / "target", tmp_path / "elsewhere"
    target.parent.mkdir()
    elsewhere.mkdir()

    def pieces() -> Iterator[bytes]:
        yield content(CHUNK + 1)
        if taken_by == "directory":  # asked for only when the destination was looked at
            target.mkdir()
        else:
            target.symlink_to(elsewhere)

    tx = pair.owner.downloads.transaction(receivers=1)
    ref = tx.add_stream(pieces())
    if taken_by == "directory":
        with pytest.raises(DownloadError, match="target is a directory") as failure:
            pair.receiver.downloads.fetch_file("server", ref, target, idle_timeout=10)
        assert failure.value.reason == "sink_failed"
        assert not list(target.iterdir())
        assert not tx.statistics().confirmed
    else:
        pair.receiver.downloads.fetch_file("server", ref, target, idle_timeout=10)
        assert not target.is_symlink()
        assert target.read_bytes() == content(CHUNK + 1)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("taken_by", ["directory", "link"])
def test_the_owners_name_is_not_used_where_a_directory_has_it(pair: Pair, tmp_path: Path, taken_by: str) -> None:
    elsewhere, to = tmp_path / "elsewhere", tmp_path / "to"
    elsewhere.mkdir()
    to.mkdir()
    (to / "model").symlink_to(elsewhere) if taken_by == "link" else (to / "model").mkdir()
    ref = pair.owner.downloads.transaction().add_bytes(b"x", name="model")
    with pytest.raises(DownloadError, match="model is a directory"):
        pair.receiver.downloads.fetch_file("server", ref, to)
    assert [path.name for path in to.rglob("*")] == ["model"]
    assert not list(elsewhere.iterdir())


def test_several_refs_are_fetched_at_once(pair: Pair, tmp_path: Path) -> None:
    tx = pair.owner.downloads.transaction(receivers=1)
    with tx:
        refs = [tx.add_file(write(tmp_path / f"source-{i}", i * CHUNK + i, i)) for i in range(8)]
        memory = tx.add_bytes(b"in memory")
    wanted: dict[str, Path | None] = {ref.id: tmp_path / f"copy-{i}" for i, ref in enumerate(refs)}
    wanted[memory.id] = None
    got = pair.receiver.downloads.fetch_many("server", wanted, idle_timeout=10)
    assert got[memory.id] == b"in memory"
    for i, ref in enumerate(refs):
        assert got[ref.id] == tmp_path / f"copy-{i}"
        assert (tmp_path / f"copy-{i}").read_bytes() == content(i * CHUNK + i, i)
    assert tx.wait(5) is TransactionStatus.FINISHED


def test_the_first_failure_of_several_is_raised_after_the_others_arrived(pair: Pair, tmp_path: Path) -> None:
    ref = pair.owner.downloads.transaction().add_bytes(b"there")
    with pytest.raises(DownloadError) as failure:
        pair.receiver.downloads.fetch_many("server", {"missing": None, ref.id: tmp_path / "there"})
    assert failure.value.reason == "unknown_ref"
    assert (tmp_path / "there").read_bytes() == b"there"
    assert pair.receiver.downloads.fetch_many("server", {}) == {}


def test_the_future_forms_are_awaited_from_asyncio(tcp_pair: Pair, tmp_path: Path) -> None:
    ref = tcp_pair.owner.downloads.transaction().add_bytes(b"awaited" * 1000)

    async def main() -> None:
        downloads = tcp_pair.receiver.downloads
        one, two = await asyncio.gather(
            asyncio.wrap_future(downloads.fetch_bytes_future("server", ref)),
            asyncio.wrap_future(downloads.fetch_file_future("server", ref, tmp_path / "f")),
        )
        assert one == b"awaited" * 1000 == two.read_bytes()

    asyncio.run(main())


def test_the_asyncio_cell_awaits_downloads_and_cancelling_aborts_them(tcp_pair: Pair, tmp_path: Path) -> None:
    hold = threading.Event()
    tx = tcp_pair.owner.downloads.transaction()
    ref, stuck = tx.add_bytes(b"awaited"), tx.add_stream(_held(content(3 * CHUNK), hold))

    async def main() -> None:
        async with AsyncCell("site-2", parent=tcp_pair.owner.endpoints[0], secret=SECRET) as cell:
            await cell.wait_ready()
            assert await cell.downloads.fetch_bytes("server", ref) == b"awaited"
            assert (await cell.downloads.fetch_file("server", ref, tmp_path / "f")).read_bytes() == b"awaited"
            assert await cell.downloads.fetch_many("server", {ref.id: None}) == {ref.id: b"awaited"}
            offered = cell.downloads.transaction(receivers=1)
            own = offered.add_bytes(b"own")
            assert await cell.downloads.fetch_bytes("site-2", own) == b"own"
            assert await cell.downloads.wait(offered, 5) is TransactionStatus.FINISHED
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cell.downloads.fetch_bytes("server", stuck), 0.2)
            eventually(lambda: not cell.sync.downloads._fetches)

    try:
        asyncio.run(main())
    finally:
        hold.set()


def test_cancelling_a_future_aborts_the_download(tcp_pair: Pair, tmp_path: Path) -> None:
    hold = threading.Event()
    tx = tcp_pair.owner.downloads.transaction()
    ref = tx.add_stream(_held(content(3 * CHUNK), hold))
    try:
        future = tcp_pair.receiver.downloads.fetch_file_future("server", ref, tmp_path / "f")
        eventually(lambda: (tmp_path / "f.part").exists())
        assert future.cancel()
        eventually(lambda: tx.statistics().active_transfers == 0, what="the owner is told")
    finally:
        hold.set()
    assert not (tmp_path / "f").exists()


def _held(data: bytes, hold: threading.Event) -> object:
    yield data[:CHUNK]
    hold.wait(10)
    yield data[CHUNK:]


def test_a_download_through_relays(tree: TreeFactory, tmp_path: Path) -> None:
    cells = tree("server", "site-1", "site-1.job-1", "site-1.job-1.rank-0", limits=SMALL_CHUNKS)
    source = write(tmp_path / "source", 50 * CHUNK + 5)
    ref = cells["server"].downloads.transaction().add_file(source)
    copy = cells["site-1.job-1.rank-0"].downloads.fetch_file("server", ref, tmp_path / "copy", idle_timeout=10)
    assert copy.read_bytes() == source.read_bytes()


def test_siblings_exchange_through_their_parent(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    data = content(10 * CHUNK)
    ref = cells["site-1"].downloads.transaction(receivers=["site-2"]).add_bytes(data)
    assert cells["site-2"].downloads.fetch_bytes("site-1", ref, idle_timeout=10) == data


def test_a_cell_may_fetch_from_itself(tcp_pair: Pair) -> None:
    data = content(10 * CHUNK)
    ref = tcp_pair.owner.downloads.transaction().add_bytes(data)
    assert tcp_pair.owner.downloads.fetch_bytes("server", ref, idle_timeout=10) == data


def test_a_known_digest_is_announced_and_compared(pair: Pair, tmp_path: Path) -> None:
    source = write(tmp_path / "source", 5 * CHUNK)
    tx = pair.owner.downloads.transaction()
    ref = tx.add_file(source, digest=file_digest(source))
    assert ref.digest == Digest.of(source.read_bytes())
    assert pair.receiver.downloads.fetch_bytes("server", ref) == source.read_bytes()
    wrong = tx.add_bytes(content(5 * CHUNK), digest=Digest.of(content(5 * CHUNK, seed=2)))
    with pytest.raises(DownloadError) as failure:
        pair.receiver.downloads.fetch_bytes("server", wrong)
    assert failure.value.reason == "corrupt"
    with pytest.raises(ValueError, match="digest is of"):
        tx.add_bytes(b"x", digest=Digest.of(b"xyz"))


def _is_over(events: list[ProgressEvent]) -> bool:
    return bool(events) and events[-1].state is ProgressState.COMPLETED


def test_progress_is_told_to_both_ends(pair: Pair, tmp_path: Path) -> None:
    here: list[ProgressEvent] = []
    there: list[ProgressEvent] = []
    tx = pair.owner.downloads.transaction(receivers=1, progress=there.append)
    size = 30 * CHUNK + 1
    ref = tx.add_bytes(content(size))
    pair.receiver.downloads.fetch_bytes("server", ref, progress=here.append)
    for events in (here, there):
        eventually(partial(_is_over, events), what=str(events))
        assert events[-1].bytes_done == events[-1].bytes_total == size
        assert [e.sequence for e in events] == sorted({e.sequence for e in events})
        assert {(e.receiver, e.ref_id) for e in events} == {("site-1", ref.id)}
    assert here[-1].transfer_id == there[-1].transfer_id


def test_a_delivery_is_reported_once_per_receiver_and_ref(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=SMALL_CHUNKS)
    reports: list[tuple[str, str, DownloadStatus, object]] = []
    done: list[tuple[str, TransactionStatus, list[object]]] = []
    with cells["server"].downloads.transaction(
        receivers=["site-1", "site-2"], on_done=lambda *outcome: done.append(outcome), tx_id="mine"
    ) as tx:
        refs = [tx.add_bytes(data, on_delivered=lambda *report: reports.append(report)) for data in (b"one", b"two")]
    for name in ("site-1", "site-2"):
        for ref in refs:
            assert tx.status is TransactionStatus.ACTIVE
            cells[name].downloads.fetch_bytes("server", ref)
    assert tx.wait(5) is TransactionStatus.FINISHED
    eventually(lambda: done)
    assert sorted(r[:3] for r in reports) == sorted(
        (ref.id, name, DownloadStatus.SUCCESS) for ref in refs for name in ("site-1", "site-2")
    )
    assert done == [("mine", TransactionStatus.FINISHED, [b"one", b"two"])]


def test_wrong_arguments_are_named(tcp_pair: Pair, tmp_path: Path) -> None:
    downloads = tcp_pair.receiver.downloads
    cases: list[tuple[dict[str, Any], str]] = [
        ({"idle_timeout": 0}, "idle_timeout"),
        ({"idle_timeout": True}, "idle_timeout"),
        ({"deadline": -1}, "deadline"),
        ({"verify": "none"}, "verify"),
        ({"secure": True}, "secure"),
    ]
    for arguments, match in cases:
        with pytest.raises(ValueError, match=match):
            downloads.fetch_bytes("server", "x", **arguments)
    with pytest.raises(ValueError, match="ref_id"):
        downloads.fetch_bytes("server", "")
    with pytest.raises(ValueError, match="label"):
        downloads.fetch_bytes("no such name", "x")
    with pytest.raises(TypeError, match="consumer must have"):
        downloads.fetch("server", "x", object())
