"""Transfers that were cut: what is verified does not travel again, and the result is right, whoever died and when."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trees import SECRET
from tests.workspace.conftest import JOB, Site
from tests.workspace.jobs import run_job, start_job
from tests.workspace.snapshots import snapshot, write_tree
from zcell import Cell
from zcell.errors import DownloadError, WorkspaceError
from zcell.limits import MIB
from zcell.workspace import JobContext, Received, WorkspaceProgress, download_workspace, fetch_tree, offer_tree, upload_results
from zcell.workspace.offers import TreeOffer
from zcell.workspace.remote import PartSink

SIZE = 24 * MIB
DOWN = "print(download_workspace(context).fetched_files)"
UP = "print(upload_results(context).fetched_files)"


def working_tree(root: Path, seed: int) -> None:
    """Small files and large ones, some tens of MiB."""
    rng = random.Random(seed)
    write_tree(root, {f"{JOB}/small/{n}": rng.randbytes(rng.randrange(1, 3000)) for n in range(300)}, seed=seed)
    write_tree(root, {f"{JOB}/large{n}": rng.randbytes(SIZE // 4) for n in range(4)}, seed=seed)


class Killer:
    """Kills a job as soon as its owner has seen `count` of `what` in its transfer; one that is faster ends by itself."""

    def __init__(self) -> None:
        self._when = ("", 0)
        self._process: subprocess.Popen[str] | None = None

    def on_progress(self, event: WorkspaceProgress) -> None:
        what, count = self._when
        if self._process is not None and getattr(event, what) >= count:
            self._process.send_signal(signal.SIGKILL)

    def run(self, context: JobContext, script: str, what: str, count: int) -> None:
        self._when = (what, count)
        self._process = start_job(context, script)
        self._process.communicate(timeout=60)
        self._process = None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_job_killed_while_it_fetches_its_workspace_goes_on_where_it_was(tcp_site: Site, share: float) -> None:
    working_tree(tcp_site.root, 1)
    killer = Killer()
    context = tcp_site.add_job(progress=killer.on_progress)
    killer.run(context, DOWN, "bytes_done", int(SIZE * share))
    assert set(snapshot(tcp_site.job_root, ignore_stages=True)) in (set(), set(snapshot(tcp_site.root)))
    before = tcp_site.cell.statistics().data_frames_sent
    run_job(context, DOWN)
    sent = tcp_site.cell.statistics().data_frames_sent - before
    assert sent <= SIZE // MIB * (1.05 - share) + 12  # probes and the manifest come on top
    assert snapshot(tcp_site.job_root) == snapshot(tcp_site.root)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_job_killed_while_it_brings_results_back_goes_on_where_it_was(tcp_site: Site, share: float) -> None:
    write_tree(tcp_site.root, {f"{JOB}/input": b"1"}, seed=2)
    before = snapshot(tcp_site.root)
    killer = Killer()
    context = tcp_site.add_job(progress=killer.on_progress)
    working_tree(tcp_site.job_root, 3)
    killer.run(context, UP, "bytes_done", int(SIZE * share))
    results = snapshot(tcp_site.job_root / JOB)
    now = snapshot(tcp_site.root, ignore_stages=True)
    assert now == before or set(now) == {JOB, f"{JOB}/input"} | {f"{JOB}/{path}" for path in results}
    received = tcp_site.cell.statistics().data_frames_received
    run_job(context, UP)  # gets the answer that the first one missed, should all have arrived before it died
    assert tcp_site.cell.statistics().data_frames_received - received <= SIZE // MIB * (1.05 - share) + 12
    after = snapshot(tcp_site.root / JOB)
    assert {path: what for path, what in after.items() if path != "input"} == results
    assert list(tcp_site.root.iterdir()) == [tcp_site.root / JOB]


OWNER = """
import sys
from pathlib import Path
from zcell import Cell
from zcell.workspace import offer_tree
cell = Cell("server", listen=sys.argv[1], secret=bytes.fromhex(sys.argv[2]))
with cell:
    print(offer_tree(cell, Path(sys.argv[3])).id, flush=True)
    sys.stdin.read()
"""


class Sender:
    """A process that offers a tree, as ``zcell send`` does, and can be killed and started again."""

    def __init__(self, url: str, root: Path) -> None:
        self._command = [sys.executable, "-c", OWNER, url, SECRET.hex(), str(root)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.offer_id = self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_sender_killed_and_started_again_sends_only_the_rest(
    short_path: Path, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_tree(tmp_path / "source", 4)
    (tmp_path / "here").mkdir()
    url = f"ipc://{short_path}/s"
    sender = Sender(url, tmp_path / "source" / JOB)

    chunks = itertools.count(1)
    true_store = PartSink.store

    def store_and_kill(sink: PartSink, *arguments: Any, **options: Any) -> tuple[int, bytes]:
        if next(chunks) == int(SIZE // MIB * share):
            sender.kill()
        return true_store(sink, *arguments, **options)

    monkeypatch.setattr(PartSink, "store", store_and_kill)
    try:
        with Cell("server.get", parent=url, secret=SECRET) as cell:
            cell.wait_ready(10)
            with pytest.raises((DownloadError, WorkspaceError)):
                fetch_tree(cell, "server", sender.offer_id, tmp_path / "here", idle_timeout=0.5)
            assert not (tmp_path / "here" / JOB).exists()
        sender.kill()
        sender.start()
        with Cell("server.get", parent=url, secret=SECRET) as cell:
            cell.wait_ready(10)
            place, received = fetch_tree(cell, "server", sender.offer_id, tmp_path / "here")
            assert cell.statistics().data_frames_received <= SIZE // MIB * (1.05 - share) + 12
    finally:
        sender.kill()
    assert place == tmp_path / "here" / JOB
    assert snapshot(place) == snapshot(tmp_path / "source" / JOB)
    assert received.fetched_files < 304


@pytest.fixture
def offer(tcp_site: Site) -> Iterator[TreeOffer]:
    write_tree(tcp_site.root, {"data/a": b"1", "data/d/b": b"2" * 3 * MIB, "data/empty": None}, seed=5)
    offer = offer_tree(tcp_site.cell, tcp_site.root / "data")
    yield offer
    offer.close()


def test_a_tree_goes_to_whoever_has_its_id(tcp_site: Site, offer: TreeOffer) -> None:
    server = tcp_site.tree["server"]
    place, received = fetch_tree(server, "site-1", offer.ref, tcp_site.job_root)
    assert place == tcp_site.job_root / "data"
    assert (received.files, received.fetched_files) == (2, 2)
    assert snapshot(place) == snapshot(tcp_site.root / "data")
    assert offer.wait_delivered(1, timeout=10)
    assert offer.delivered == {"server"}
    (tcp_site.root / "data" / "new").write_bytes(b"not listed, so not sent")
    _, again = fetch_tree(server, "site-1", offer.id, tcp_site.job_root)
    assert again.fetched_files == 0


def test_a_tree_that_changed_after_it_was_listed_is_not_sent_mixed(tcp_site: Site, offer: TreeOffer) -> None:
    (tcp_site.root / "data" / "d" / "b").chmod(0o600)
    (tcp_site.root / "data" / "d" / "b").write_bytes(b"3" * 3 * MIB)
    with pytest.raises((DownloadError, WorkspaceError), match="changed"):
        fetch_tree(tcp_site.tree["server"], "site-1", offer.id, tcp_site.job_root)
    assert not (tcp_site.job_root / "data").exists()


def test_a_small_file_that_changed_after_it_was_listed_is_not_sent(tcp_site: Site, offer: TreeOffer) -> None:
    (tcp_site.root / "data" / "a").chmod(0o600)
    (tcp_site.root / "data" / "a").write_bytes(b"other")
    with pytest.raises((DownloadError, WorkspaceError), match="has changed"):
        fetch_tree(tcp_site.tree["server"], "site-1", offer.id, tcp_site.job_root)


def test_a_closed_offer_is_gone(tcp_site: Site, offer: TreeOffer) -> None:
    offer.close()
    offer.close()
    assert not offer.wait_delivered(1)
    with pytest.raises(DownloadError) as refused:
        fetch_tree(tcp_site.tree["server"], "site-1", offer.id, tcp_site.job_root)
    assert refused.value.reason == "gone"


def test_only_named_receivers_get_a_tree(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {"data/a": b"1"})
    offer = offer_tree(tcp_site.cell, tcp_site.root / "data", receivers=["site-1.friend"])
    with pytest.raises(DownloadError) as refused:
        fetch_tree(tcp_site.tree["server"], "site-1", offer.id, tcp_site.job_root)
    assert refused.value.reason == "unknown_ref"


def test_two_receivers_get_the_same_tree(tcp_site: Site, offer: TreeOffer) -> None:
    places = [tcp_site.job_root / name for name in ("one", "two")]
    received: list[Received] = []
    with Cell("site-1.second", parent=tcp_site.tree.listen_url("site-1"), secret=SECRET) as second:
        second.wait_ready(10)
        for cell, place in zip((tcp_site.tree["server"], second), places, strict=True):
            place.mkdir()
            received.append(fetch_tree(cell, "site-1", offer.id, place)[1])
        assert offer.wait_delivered(2, timeout=10)
    assert [r.fetched_files for r in received] == [2, 2]
    assert (
        snapshot(places[0])
        == snapshot(places[1])
        == {f"data{path.removeprefix('data')}": what for path, what in snapshot(tcp_site.root).items()}
    )


def test_what_is_no_directory_is_not_offered_as_one(tcp_site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(NotADirectoryError, match="is not a directory"):
            offer_tree(tcp_site.cell, place)


def test_many_interruptions_at_random_moments_still_end_well(tcp_site: Site) -> None:
    working_tree(tcp_site.root, 6)
    rng = random.Random(7)
    killer = Killer()
    context = tcp_site.add_job(progress=killer.on_progress)
    for _ in range(4):
        killer.run(context, DOWN, "sequence", rng.randrange(1, 8))
        now = snapshot(tcp_site.job_root, ignore_stages=True)
        assert now in ({}, snapshot(tcp_site.root))
    download_workspace(context)
    assert snapshot(tcp_site.job_root) == snapshot(tcp_site.root)
    (tcp_site.job_root / JOB / "made").write_bytes(os.urandom(MIB))
    upload_results(context)
    assert snapshot(tcp_site.job_root) == snapshot(tcp_site.root)
