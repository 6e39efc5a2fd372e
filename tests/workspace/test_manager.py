"""The owner's answers: the right return code for each question, the same answer to the same question."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.trees import SECRET
from tests.workspace.conftest import JOB, Site
from tests.workspace.snapshots import snapshot, write_tree
from zcell import Cell
from zcell.errors import DownloadError, WorkspaceError
from zcell.message import Reply, ReturnCode
from zcell.workspace import download_workspace, manager, upload_results
from zcell.workspace.asking import CHANNEL
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.offers import Offers
from zcell.workspace.scan import ScannedTree, scan_tree


@pytest.fixture
def job(tcp_site: Site) -> Iterator[Cell]:
    """A cell in the place of the job's."""
    cell = Cell(f"site-1.{JOB}", parent=tcp_site.tree.listen_url("site-1"), secret=SECRET)
    with cell:
        cell.wait_ready(10)
        yield cell


def ask(cell: Cell, topic: str, payload: Any, timeout: float = 10) -> Reply:
    return cell.request("site-1", CHANNEL, topic, payload, timeout=timeout)


@pytest.mark.parametrize("topic", ["prepare_download", "publish_results"])
@pytest.mark.parametrize(
    "payload",
    [None, 1, "text", [], {}, {"job_id": JOB}, {"job_id": 7, "transfer_token": "x"}, {"job_id": "", "transfer_token": "x"}],
)
def test_a_question_that_lacks_something_is_invalid(tcp_site: Site, job: Cell, topic: str, payload: Any) -> None:
    tcp_site.add_job()
    assert ask(job, topic, payload).rc is ReturnCode.INVALID_REQUEST


def test_each_refusal_has_its_code(tcp_site: Site, job: Cell) -> None:
    token = tcp_site.add_job().token
    known = {"job_id": JOB, "transfer_token": token, "ref_id": "r"}
    for topic in ("prepare_download", "publish_results"):
        assert ask(job, topic, known | {"job_id": "job-9"}).rc is ReturnCode.INVALID_TARGET
        for wrong in ("x", "x" * 64, token[:-1], token + "0", "ü", "\0"):
            assert ask(job, topic, known | {"transfer_token": wrong}).rc is ReturnCode.UNAUTHENTICATED
    for ref_id in (None, 3, "", "x" * 300):
        assert ask(job, "publish_results", known | {"ref_id": ref_id}).rc is ReturnCode.INVALID_REQUEST
    missing = {name: value for name, value in known.items() if name != "ref_id"}
    assert ask(job, "publish_results", missing).rc is ReturnCode.INVALID_REQUEST


def test_a_transfer_that_fails_is_a_communication_error(tcp_site: Site, job: Cell) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    before = snapshot(tcp_site.root)
    known = {"job_id": JOB, "transfer_token": tcp_site.add_job().token, "ref_id": "no such ref"}
    reply = ask(job, "publish_results", known)
    assert reply.rc is ReturnCode.COMM_ERROR
    assert "unknown_ref" in reply.error
    assert ask(job, "publish_results", known).error == reply.error  # the same question, the same answer
    assert snapshot(tcp_site.root) == before


def test_a_token_is_for_its_job_alone(tcp_site: Site, job: Cell) -> None:
    tcp_site.add_job()
    other = tcp_site.manager.add_job("job-8", tcp_site.root)
    assert ask(job, "prepare_download", {"job_id": JOB, "transfer_token": other}).rc is ReturnCode.UNAUTHENTICATED
    reply = ask(job, "prepare_download", {"job_id": "job-8", "transfer_token": other})
    assert reply.rc is ReturnCode.UNAUTHENTICATED
    assert f"not for cell 'site-1.{JOB}'" in reply.error


def test_a_token_is_for_its_receivers_alone(tcp_site: Site, job: Cell) -> None:
    for receivers, rc in (
        (["site-1.other"], ReturnCode.UNAUTHENTICATED),
        (["site-1.*"], ReturnCode.OK),
        ([job.fqcn], ReturnCode.OK),
    ):
        token = tcp_site.manager.add_job(JOB, tcp_site.root, receivers=receivers)
        assert ask(job, "prepare_download", {"job_id": JOB, "transfer_token": token}).rc is rc
    with pytest.raises(ValueError, match="empty list"):
        tcp_site.manager.add_job(JOB, tcp_site.root, receivers=[])
    with pytest.raises(TypeError, match="single string"):
        tcp_site.manager.add_job(JOB, tcp_site.root, receivers="site-1")


def test_a_token_is_for_its_directions_alone(tcp_site: Site, job: Cell) -> None:
    token = tcp_site.manager.add_job(JOB, tcp_site.root, directions=["down"])
    known = {"job_id": JOB, "transfer_token": token, "ref_id": "r"}
    assert ask(job, "prepare_download", known).ok
    assert ask(job, "publish_results", known).rc is ReturnCode.UNAUTHENTICATED


def test_a_token_expires(tcp_site: Site, job: Cell) -> None:
    token = tcp_site.manager.add_job(JOB, tcp_site.root, ttl=0.001)
    until = time.monotonic() + 0.001
    while time.monotonic() <= until:
        pass
    reply = ask(job, "prepare_download", {"job_id": JOB, "transfer_token": token})
    assert reply.rc is ReturnCode.UNAUTHENTICATED
    assert "expired" in reply.error


def test_tokens_are_long_and_never_the_same(tcp_site: Site) -> None:
    tokens = {tcp_site.manager.add_job(JOB, tcp_site.root) for _ in range(50)}
    assert len(tokens) == 50
    assert all(len(bytes.fromhex(token)) == 32 for token in tokens)


def test_adding_a_job_again_makes_its_token_void(tcp_site: Site, job: Cell) -> None:
    old = tcp_site.manager.add_job(JOB, tcp_site.root)
    new = tcp_site.manager.add_job(JOB, tcp_site.root)
    assert ask(job, "prepare_download", {"job_id": JOB, "transfer_token": old}).rc is ReturnCode.UNAUTHENTICATED
    assert ask(job, "prepare_download", {"job_id": JOB, "transfer_token": new}).ok


def test_a_removed_job_is_unknown(tcp_site: Site, job: Cell) -> None:
    token = tcp_site.manager.add_job(JOB, tcp_site.root)
    assert tcp_site.manager.remove_job(JOB)
    assert not tcp_site.manager.remove_job(JOB)
    assert ask(job, "prepare_download", {"job_id": JOB, "transfer_token": token}).rc is ReturnCode.INVALID_TARGET


def test_a_second_preparation_replaces_the_first(tcp_site: Site, job: Cell) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    known = {"job_id": JOB, "transfer_token": tcp_site.add_job().token}
    first = ask(job, "prepare_download", known)
    again = ask(job, "prepare_download", known | {"request": "one"})
    same = ask(job, "prepare_download", known | {"request": "one"})
    assert first.payload["ref_id"] != again.payload["ref_id"]
    assert again.payload == same.payload
    with pytest.raises(DownloadError) as gone:
        job.downloads.fetch_bytes("site-1", first.payload["ref_id"])
    assert gone.value.reason == "gone"
    assert job.downloads.fetch_bytes("site-1", again.payload["ref_id"])


def test_an_offer_is_for_who_asked_for_it(tcp_site: Site, job: Cell) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    reply = ask(job, "prepare_download", {"job_id": JOB, "transfer_token": tcp_site.add_job().token})
    with Cell("site-1.stranger", parent=tcp_site.tree.listen_url("site-1"), secret=SECRET) as stranger:
        stranger.wait_ready(10)
        with pytest.raises(DownloadError) as refused:
            stranger.downloads.fetch_bytes("site-1", reply.payload["ref_id"])
        assert refused.value.reason == "unknown_ref"
        question = {"offer": reply.payload["ref_id"], "selection": "s", "have": b""}
        assert ask(stranger, "select_entries", question).rc is ReturnCode.INVALID_TARGET
    assert ask(job, "select_entries", question).ok


@pytest.mark.parametrize(
    ("change", "rc"),
    [
        ({"selection": None}, ReturnCode.INVALID_REQUEST),
        ({"selection": "x" * 65}, ReturnCode.INVALID_REQUEST),
        ({"have": None}, ReturnCode.INVALID_REQUEST),
        ({"have": b"x"}, ReturnCode.INVALID_REQUEST),
        ({"have": bytes(36)}, ReturnCode.INVALID_REQUEST),  # entry 0 is a directory
        ({"have": b"\xff" * 36}, ReturnCode.INVALID_REQUEST),
        ({"offer": "unknown"}, ReturnCode.INVALID_TARGET),
        ({"offer": None}, ReturnCode.INVALID_REQUEST),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(tcp_site: Site, job: Cell, change: dict[str, Any], rc: ReturnCode) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    reply = ask(job, "prepare_download", {"job_id": JOB, "transfer_token": tcp_site.add_job().token})
    question = {"offer": reply.payload["ref_id"], "selection": "s", "have": b""} | change
    assert ask(job, "select_entries", question).rc is rc


class Gate:
    """Makes listing wait, as a huge workspace would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        monkeypatch.setattr(manager, "scan_tree", self._scan)

    def _scan(self, *arguments: Any, **options: Any) -> ScannedTree:
        self.entered.set()
        assert self.open.wait(30)
        return scan_tree(*arguments, **options)


def test_a_workspace_that_takes_longer_to_prepare_than_any_request_is_fetched(
    tcp_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zcell.workspace.asking.PATIENCE", 0.05)
    gate = Gate(monkeypatch)
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    context = tcp_site.add_job()
    cell = context.cell()
    known = {"job_id": JOB, "transfer_token": context.token, "request": "mine"}
    assert ask(cell, "prepare_download", known, timeout=5).payload["state"] == "pending"
    assert ask(cell, "prepare_download", known, timeout=5).payload["state"] == "pending"
    gate.open.set()
    ready = ask(cell, "prepare_download", known, timeout=5)
    while ready.payload["state"] == "pending":
        ready = ask(cell, "prepare_download", known, timeout=5)
    assert ready.payload["ref_id"]
    download_workspace(context)


def test_preparation_that_stands_still_ends_in_an_error(tcp_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcell.workspace.asking.PATIENCE", 0.05)
    gate = Gate(monkeypatch)
    context = tcp_site.add_job()
    context.idle_timeout = 0.3
    try:
        with pytest.raises(WorkspaceError, match=r"site-1 made no progress for 0.3 s"):
            download_workspace(context)
    finally:
        gate.open.set()


def test_a_job_removed_while_it_is_being_prepared_gets_a_refusal(
    tcp_site: Site, job: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    known = {"job_id": JOB, "transfer_token": tcp_site.add_job().token}
    answer: Future[Reply] = job.request_future("site-1", CHANNEL, "prepare_download", known, timeout=20)
    assert gate.entered.wait(10)
    tcp_site.manager.remove_job(JOB)
    gate.open.set()
    assert answer.result().rc is ReturnCode.INVALID_TARGET
    assert Offers.of(tcp_site.cell)._offers == {}


def test_other_jobs_are_served_while_one_is_prepared(tcp_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    slow = tcp_site.add_job()
    cell = slow.cell()
    waiting = cell.request_future(
        "site-1", CHANNEL, "prepare_download", {"job_id": JOB, "transfer_token": slow.token}, timeout=20
    )
    assert gate.entered.wait(10)
    assert ask(cell, "prepare_download", {"job_id": "job-9", "transfer_token": "x"}).rc is ReturnCode.INVALID_TARGET
    assert tcp_site.manager.add_job("job-8", tcp_site.root)
    assert tcp_site.manager.remove_job("job-8")
    gate.open.set()
    assert waiting.result().ok


def offer_results(cell: Cell, place: Path) -> str:
    return Offers.of(cell).add(scan_tree({JOB: place})).id


def test_publishing_again_gets_the_same_answer_and_changes_nothing(tcp_site: Site, job: Cell, tmp_path: Path) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    write_tree(tmp_path, {"results/f": b"2"})
    token = tcp_site.add_job().token
    known = {"job_id": JOB, "transfer_token": token, "ref_id": offer_results(job, tmp_path / "results")}
    first = ask(job, "publish_results", known)
    assert first.ok
    (tcp_site.root / JOB / "f").chmod(0o600)
    (tcp_site.root / JOB / "f").write_bytes(b"3")
    again = ask(job, "publish_results", known)  # as when the first answer was lost on its way
    assert (again.rc, again.payload) == (first.rc, first.payload)
    other = ask(job, "publish_results", known | {"ref_id": "another try of a job that heard nothing"})
    assert other.payload == first.payload
    assert (tcp_site.root / JOB / "f").read_bytes() == b"3"
    assert ask(job, "publish_results", known | {"transfer_token": "x" * 64}).rc is ReturnCode.INVALID_TARGET
    assert ask(job, "prepare_download", known).rc is ReturnCode.INVALID_TARGET


def test_many_questions_about_one_publication_are_one_publication(tcp_site: Site, job: Cell, tmp_path: Path) -> None:
    write_tree(tmp_path, {f"results/{n}": b"x" * n for n in range(200)})
    told: list[object] = []
    token = tcp_site.manager.add_job(JOB, tcp_site.root, on_results=told.append)
    known = {"job_id": JOB, "transfer_token": token, "ref_id": offer_results(job, tmp_path / "results")}
    futures = [job.request_future("site-1", CHANNEL, "publish_results", known, timeout=30) for _ in range(10)]
    payloads = [future.result().payload for future in futures]
    assert payloads == [payloads[0]] * 10
    assert payloads[0]["state"] == "published"


def test_a_job_removed_while_it_publishes_leaves_nothing_behind(
    tcp_site: Site, job: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    write_tree(tmp_path, {"results/f": b"2"})
    before = snapshot(tcp_site.root)
    entered, go_on = threading.Event(), threading.Event()
    true_check = manager._check_wanted

    def waiting(*arguments: Any) -> None:
        entered.set()
        assert go_on.wait(30)
        true_check(*arguments)

    monkeypatch.setattr(manager, "_check_wanted", waiting)
    known = {
        "job_id": JOB,
        "transfer_token": tcp_site.add_job().token,
        "ref_id": offer_results(job, tmp_path / "results"),
    }
    answer = job.request_future("site-1", CHANNEL, "publish_results", known, timeout=20)
    assert entered.wait(10)
    tcp_site.manager.remove_job(JOB)
    go_on.set()
    assert answer.result().rc is ReturnCode.INVALID_TARGET
    assert snapshot(tcp_site.root) == before


@pytest.mark.parametrize("way", ["stopped", "added again"])
def test_half_received_results_are_kept_when_the_job_may_try_again(
    tcp_site: Site, job: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    write_tree(tmp_path, {"results/f": b"2"})
    before = snapshot(tcp_site.root)
    entered, go_on = threading.Event(), threading.Event()
    true_check = manager._check_wanted

    def waiting(*arguments: Any) -> None:
        entered.set()
        assert go_on.wait(30)
        true_check(*arguments)

    monkeypatch.setattr(manager, "_check_wanted", waiting)
    known = {"job_id": JOB, "transfer_token": tcp_site.add_job().token, "ref_id": offer_results(job, tmp_path / "results")}
    answer = job.request_future("site-1", CHANNEL, "publish_results", known, timeout=20)
    assert entered.wait(10)
    if way == "stopped":
        threading.Timer(0.1, go_on.set).start()
        tcp_site.cell.stop()
    else:
        tcp_site.add_job()
        go_on.set()
    assert not answer.result().ok
    assert snapshot(tcp_site.root, ignore_stages=True) == before
    assert (tcp_site.root / f".zcell-up-{JOB}" / "tree" / JOB / "f").read_bytes() == b"2"


def test_results_above_the_limits_are_refused_before_anything_is_written(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"1"})
    for limits, rule in (
        (WorkspaceLimits(total_bytes=1000), "more than 1000 bytes together"),
        (WorkspaceLimits(file_bytes=100), "'job-7/big' has 2000 bytes, at most 100"),
        (WorkspaceLimits(entries=2), "at most 2"),
        (WorkspaceLimits(manifest_bytes=20), "the manifest from"),
    ):
        context = tcp_site.add_job(limits=limits)
        write_tree(tcp_site.job_root, {f"{JOB}/big": bytes(2000), f"{JOB}/more": b"1"})
        before = snapshot(tcp_site.root)
        with pytest.raises(WorkspaceError, match=rule) as refused:
            upload_results(context)
        assert refused.value.rc == "INVALID_REQUEST"
        assert snapshot(tcp_site.root) == before


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_workspace_that_is_no_directory_is_named(tcp_site: Site, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=f"root must be an existing directory, got .*{place}"):
        tcp_site.manager.add_job(JOB, tmp_path / place)
    with pytest.raises(ValueError, match="root or job_directory"):
        tcp_site.manager.add_job(JOB, None)


def test_a_swap_that_an_earlier_process_had_begun_is_finished_when_the_job_is_added(tcp_site: Site) -> None:
    from zcell.workspace import swap
    from zcell.workspace.stage import Stage

    write_tree(tcp_site.root, {f"{JOB}/old": b"1"})
    with Stage(tcp_site.root, f"up-{JOB}") as stage:
        write_tree(stage.path / "tree", {f"{JOB}/new": b"2"})
        inode = (stage.path / "tree" / JOB).stat().st_ino
        swap._write_note(stage.fd, [swap.Move(JOB, JOB, inode, 0o755, 5)])
    tcp_site.add_job()
    assert set(snapshot(tcp_site.root)) == {JOB, f"{JOB}/new"}
