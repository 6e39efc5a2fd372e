"""What an earlier try left is used: only unverified chunks travel."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.download.conftest import CHUNK, Pair, names_in
from tests.eventually import eventually
from zcell.abort import Abort
from zcell.download import Ref, Transaction, staging
from zcell.errors import DownloadError
from zcell.protocol.transfer.journal import RECORD_BYTES, decode_journal

CHUNKS = 24
HELD = 10


def content(seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(CHUNKS * CHUNK - 5)


def stop_half_way(pair: Pair, to: Path, data: bytes, *, verify: str = "tree") -> None:
    """A download that is aborted when `HELD` chunks are stored."""
    hold = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield data[: HELD * CHUNK]
        hold.wait(20)

    abort = Abort()
    ref = pair.owner.downloads.transaction().add_stream(pieces())
    future = pair.receiver.downloads.fetch_file_future("server", ref, to, abort=abort, verify=verify)
    journal = to.with_name(to.name + ".part.journal")
    eventually(lambda: journal.exists() and _records(journal) == HELD)
    abort.trigger()
    assert isinstance(future.exception(5), DownloadError)
    hold.set()


def _records(journal: Path) -> int:
    data = journal.read_bytes()
    return decode_journal(data).table.count if data else 0


def fetch(pair: Pair, tx: Transaction, ref: Ref, to: Path, **options: object) -> int:
    """Chunks that the owner loaded for it; the result is in `to`."""
    before = tx.statistics().chunks_loaded
    pair.receiver.downloads.fetch_file("server", ref, to, idle_timeout=10, **options)
    return tx.statistics().chunks_loaded - before


@pytest.mark.parametrize("kind", ["file", "bytes", "stream"])
def test_only_what_is_missing_travels_under_a_new_ref(pair: Pair, tmp_path: Path, kind: str) -> None:
    data, to = content(), tmp_path / "f"
    stop_half_way(pair, to, data)
    tx = pair.owner.downloads.transaction()
    if kind == "file":
        (tmp_path / "source").write_bytes(data)
        ref = tx.add_file(tmp_path / "source")
    else:
        ref = tx.add_bytes(data) if kind == "bytes" else tx.add_stream(iter([data]))
    sent = pair.owner.statistics().data_frames_sent
    fetch(pair, tx, ref, to)
    assert to.read_bytes() == data
    marks = 4
    assert pair.owner.statistics().data_frames_sent - sent <= CHUNKS - HELD + marks
    assert "f.part" not in names_in(tmp_path)
    assert "f.part.journal" not in names_in(tmp_path)


def test_without_resume_everything_travels_again(tcp_pair: Pair, tmp_path: Path) -> None:
    data, to = content(), tmp_path / "f"
    stop_half_way(tcp_pair, to, data)
    tx = tcp_pair.owner.downloads.transaction()
    assert fetch(tcp_pair, tx, tx.add_bytes(data), to, resume=False) == CHUNKS
    assert to.read_bytes() == data


def test_chunks_of_other_content_are_found_and_replaced(tcp_pair: Pair, tmp_path: Path) -> None:
    data, to = content(), tmp_path / "f"
    stop_half_way(tcp_pair, to, data)
    changed = bytearray(data)
    changed[3 * CHUNK + 7] ^= 1
    tx = tcp_pair.owner.downloads.transaction()
    sent = tcp_pair.owner.statistics().data_frames_sent
    fetch(tcp_pair, tx, tx.add_bytes(bytes(changed)), to)
    assert to.read_bytes() == changed
    assert tcp_pair.owner.statistics().data_frames_sent - sent <= CHUNKS - HELD + 1 + 6


def test_entirely_other_content_is_fetched_whole(tcp_pair: Pair, tmp_path: Path) -> None:
    to = tmp_path / "f"
    stop_half_way(tcp_pair, to, content(1))
    tx = tcp_pair.owner.downloads.transaction()
    fetch(tcp_pair, tx, tx.add_bytes(content(2)), to)
    assert to.read_bytes() == content(2)
    stop_half_way(tcp_pair, tmp_path / "g", content(1))
    fetch(tcp_pair, tx, tx.add_bytes(b"short"), tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == b"short"


def test_a_damaged_part_of_a_rebooted_host_is_hashed_again(
    tcp_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, to = content(), tmp_path / "f"
    stop_half_way(tcp_pair, to, data)
    with (tmp_path / "f.part").open("r+b") as part:  # pages that never reached the disk
        part.seek(2 * CHUNK)
        part.write(bytes(CHUNK))
    monkeypatch.setattr(staging, "boot_id", lambda: b"another boot")
    tx = tcp_pair.owner.downloads.transaction()
    sent = tcp_pair.owner.statistics().data_frames_sent
    fetch(tcp_pair, tx, tx.add_bytes(data), to)
    assert to.read_bytes() == data
    assert tcp_pair.owner.statistics().data_frames_sent - sent <= CHUNKS - HELD + 1 + 4


@pytest.mark.parametrize("damage", ["torn", "garbage", "empty", "part gone", "part cut"])
def test_whatever_the_journal_went_through_the_result_is_right(tcp_pair: Pair, tmp_path: Path, damage: str) -> None:
    data, to = content(), tmp_path / "f"
    stop_half_way(tcp_pair, to, data)
    journal, part = tmp_path / "f.part.journal", tmp_path / "f.part"
    if damage == "torn":
        os.truncate(journal, journal.stat().st_size - RECORD_BYTES // 2)
    elif damage == "garbage":
        journal.write_bytes(random.Random(9).randbytes(5000))
    elif damage == "empty":
        journal.write_bytes(b"")
    elif damage == "part gone":
        part.unlink()
    else:
        os.truncate(part, 3 * CHUNK + 1)
    tx = tcp_pair.owner.downloads.transaction()
    fetch(tcp_pair, tx, tx.add_bytes(data), to)
    assert to.read_bytes() == data


def test_a_download_by_checksum_resumes_for_the_same_ref_only(tcp_pair: Pair, tmp_path: Path) -> None:
    data, to = content(), tmp_path / "f"
    tx = tcp_pair.owner.downloads.transaction()
    stop_half_way(tcp_pair, to, data, verify="checksum")
    assert fetch(tcp_pair, tx, tx.add_bytes(data), to, verify="checksum") == CHUNKS, "nothing says that it is the same object"
    assert to.read_bytes() == data
