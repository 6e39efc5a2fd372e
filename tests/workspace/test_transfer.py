"""A job's workspace down and its results up, between real cells."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.workspace.conftest import JOB, Site
from tests.workspace.jobs import run_job
from tests.workspace.snapshots import snapshot, write_tree
from tests.workspace.test_receive import ODD_TREE, TREES, plausible
from tests.workspace.test_sparse import write_sparse
from zcell import Cell
from zcell.errors import BundleError, LinkError, WorkspaceError
from zcell.limits import MIB
from zcell.workspace import (
    JobContext,
    Received,
    WorkspaceProgress,
    download_workspace,
    upload_results,
    upload_results_safely,
)
from zcell.workspace.receive import receive_tree


def odd_workspace(root: Path) -> None:
    """Everything that is hard to carry, under the job's directory; and the rest of a workspace."""
    write_tree(root, {JOB + path.removeprefix("job"): content for path, content in ODD_TREE.items()}, seed=1)
    write_tree(root, {"local/site.yaml": b"site", "local/deep/er": None, "local/study_data.yaml": b"private"}, seed=2)
    write_tree(root, {"startup/cell.key": b"secret", "job-8/other": b"another job's"}, seed=3)


def test_a_workspace_goes_down_and_its_results_come_up_identical(site: Site) -> None:
    odd_workspace(site.root)
    before = snapshot(site.root)
    context = site.add_job()
    down = download_workspace(context)
    travelling = {
        path: what for path, what in before.items() if path.split("/")[0] in ("local", JOB) and path != "local/study_data.yaml"
    }
    assert snapshot(site.job_root) == travelling
    assert down is not None
    assert down.files == 9

    job = site.job_root / JOB
    job.chmod(0o755)
    write_tree(job, {"results/model": os.urandom(2 * MIB), "results": None, "metrics": b"1"}, seed=4)
    (job / "run.sh").unlink()
    (site.job_root / "local" / "site.yaml").write_bytes(b"changed by the job")
    up = upload_results(context)
    assert up is not None
    assert up.fetched_files == 2
    after = snapshot(site.root)
    made = {path: what for path, what in snapshot(site.job_root).items() if path.split("/")[0] == JOB}
    assert {path: what for path, what in after.items() if path.split("/")[0] == JOB} == made
    assert {path: what for path, what in after.items() if path.split("/")[0] != JOB} == {
        path: what for path, what in before.items() if path.split("/")[0] != JOB
    }


def test_the_record_of_a_job_is_gone_once_its_results_are_in_place(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"x"})
    context = tcp_site.add_job()
    download_workspace(context)
    upload_results(context)
    with pytest.raises(WorkspaceError, match="has a workspace here") as refused:
        download_workspace(context)
    assert refused.value.rc == "INVALID_TARGET"
    assert tcp_site.manager.results_of(JOB) is not None
    assert not tcp_site.manager.results_of("never was")


def test_the_bootstrap_cell_lives_from_the_download_to_the_upload(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/f": b"x"})
    context = tcp_site.add_job()
    name = f"site-1.ws_transfer_{JOB}"
    download_workspace(context)
    assert tcp_site.cell.is_connected(name)
    assert context.cell().fqcn == name
    upload_results(context)
    assert context._cell is None


def test_a_huge_sparse_file_goes_down_and_up_without_its_holes(tcp_site: Site) -> None:
    job = tcp_site.root / JOB
    job.mkdir()
    write_sparse(job / "sparse", 3 << 30, [(0, 4096), (2 << 30, 3 * MIB)])
    write_sparse(job / "hole", 1 << 30, [])
    context = tcp_site.add_job()
    down = download_workspace(context)
    assert down is not None
    assert down.data_bytes == 3 * MIB + 4096
    (tcp_site.job_root / JOB / "sparse").rename(tcp_site.job_root / JOB / "moved")
    upload_results(context)
    moved = job / "moved"
    assert moved.stat().st_size == 3 << 30
    assert moved.stat().st_blocks * 512 < 4 * MIB
    assert not (job / "sparse").exists()
    with moved.open("rb") as one, (tcp_site.job_root / JOB / "moved").open("rb") as other:
        for offset in (0, 2 << 30, (2 << 30) + 2 * MIB):
            assert os.pread(one.fileno(), MIB, offset) == os.pread(other.fileno(), MIB, offset)


def test_what_the_job_side_holds_does_not_travel_again(tcp_site: Site) -> None:
    odd_workspace(tcp_site.root)
    download_workspace(tcp_site.add_job())
    (tcp_site.root / JOB / "large").chmod(0o600)
    (tcp_site.root / JOB / "large").write_bytes(b"now small")
    tcp_site.contexts[0].close()
    again = download_workspace(tcp_site.add_job())
    assert again is not None
    assert (again.fetched_files, again.fetched_bytes) == (1, 9)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory that no disk slows down, where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def test_five_thousand_files_go_down_and_up(tcp_site: Site, in_memory: Path) -> None:
    tcp_site.root, tcp_site.job_root = in_memory / "owner", in_memory / "job"
    tcp_site.root.mkdir()
    tcp_site.job_root.mkdir()
    write_tree(tcp_site.root, {f"{JOB}/d{n % 40}/file-{n}.txt": b"line\n" * (n % 300) for n in range(5000)})
    context = tcp_site.add_job()
    printed = run_job(
        context,
        """
print(download_workspace(context).fetched_files)
for number in range(0, 5000, 50):
    place = job / f"d{number % 40}" / f"file-{number}.txt"
    place.chmod(0o600)
    place.write_bytes(b"changed")
print(upload_results(context).fetched_files)
""",
    )
    assert printed.split() == ["5000", "100"]
    assert snapshot(tcp_site.root / JOB) == snapshot(tcp_site.job_root / JOB)


def test_several_jobs_at_once_do_not_meet(tcp_site: Site) -> None:
    ids = [f"job-{n}" for n in range(6)]
    for number, job_id in enumerate(ids):
        write_tree(tcp_site.root, {f"{job_id}/f{n}": os.urandom(200) for n in range(20)}, seed=number)
    failures: list[BaseException] = []

    def run(job_id: str) -> None:
        try:
            root = tcp_site.job_root / job_id
            root.mkdir()
            context = tcp_site.context(tcp_site.manager.add_job(job_id, tcp_site.root), job_id, root=root)
            download_workspace(context)
            (root / job_id / "made").write_bytes(job_id.encode())
            upload_results(context)
        except BaseException as error:  # noqa: BLE001  shown by the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job_id,)) for job_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for job_id in ids:
        assert (tcp_site.root / job_id / "made").read_bytes() == job_id.encode()
        assert snapshot(tcp_site.root / job_id) == snapshot(tcp_site.job_root / job_id / job_id)


def test_results_may_go_somewhere_else(tcp_site: Site, tmp_path: Path) -> None:
    write_tree(tcp_site.root, {f"{JOB}/input": os.urandom(5000), f"{JOB}/f": b"x"}, seed=5)
    write_tree(tmp_path, {"out/of/an earlier run": b"kept"}, seed=6)
    before = snapshot(tcp_site.root)
    context = tcp_site.add_job(results=tmp_path / "out")
    download_workspace(context)
    (tcp_site.job_root / JOB / "made").write_bytes(b"made")
    (tcp_site.job_root / JOB / "f").unlink()
    up = upload_results(context)
    assert up is not None
    assert up.fetched_files == 1
    assert snapshot(tcp_site.root) == before
    assert set(snapshot(tmp_path / "out")) == {"input", "made", "of", "of/an earlier run"}


def test_any_directory_may_be_the_one_of_the_job(tcp_site: Site, tmp_path: Path) -> None:
    write_tree(tmp_path, {"my project/train.py": b"1"}, seed=7)
    token = tcp_site.manager.add_job(JOB, None, job_directory=tmp_path / "my project")
    context = tcp_site.context(token)
    download_workspace(context)
    assert set(snapshot(tcp_site.job_root)) == {JOB, f"{JOB}/train.py"}
    (tcp_site.job_root / JOB / "model").write_bytes(b"2")
    upload_results(context)
    assert snapshot(tmp_path / "my project") == snapshot(tcp_site.job_root / JOB)


def test_what_is_excluded_neither_travels_nor_is_lost(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/keep.key": b"secret", f"{JOB}/a.py": b"1", f"{JOB}/cache/x": b"2", f"{JOB}/gone": b""})
    context = tcp_site.add_job(excludes=["*.key", "cache"])
    download_workspace(context)
    job = tcp_site.job_root / JOB
    assert set(snapshot(job)) == {"a.py", "gone"}
    (job / "gone").unlink()
    write_tree(job, {"cache/y": b"3", "new": b"4"})
    upload_results(context)
    assert set(snapshot(tcp_site.root / JOB)) == {"a.py", "cache", "cache/x", "keep.key", "new"}


def test_what_was_made_at_home_meanwhile_stays(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/a": b"1", f"{JOB}/b": b"2"})
    context = tcp_site.add_job()
    download_workspace(context)
    write_tree(tcp_site.root, {f"{JOB}/notes": b"written while the job ran"})
    (tcp_site.job_root / JOB / "b").unlink()
    upload_results(context)
    assert set(snapshot(tcp_site.root / JOB)) == {"a", "notes"}


def test_links_in_a_workspace_stop_the_download_and_ship_nothing(tcp_site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"})
    (tcp_site.root / JOB / "out").symlink_to(tmp_path / "secret")
    context = tcp_site.add_job()
    with pytest.raises(WorkspaceError, match=f"cannot travel.*'{JOB}/out' is a link to") as refused:
        download_workspace(context)
    assert refused.value.rc == "INVALID_REQUEST"
    assert list(tcp_site.job_root.iterdir()) == []
    context.close()
    download_workspace(tcp_site.add_job(skip_links=True))
    assert set(snapshot(tcp_site.job_root)) == {JOB, f"{JOB}/a"}


def test_links_among_results_are_refused_by_name(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"}, seed=8)
    context = tcp_site.add_job()
    download_workspace(context)
    before = snapshot(tcp_site.root)
    (tcp_site.job_root / JOB / "latest").symlink_to("a")
    with pytest.raises(BundleError, match="'job-7/latest' is a link to 'a'"):
        upload_results(context)
    assert snapshot(tcp_site.root) == before
    context.skip_links = True
    upload_results(context)


def test_results_of_a_job_that_was_given_nothing_replace_what_is_there(tcp_site: Site) -> None:
    """There is no state that both began with, so what differs tells nothing of who changed it."""
    write_tree(tcp_site.root, {f"{JOB}/out": b"of the last run", f"{JOB}/mine": b"m"}, seed=1)
    write_tree(tcp_site.job_root, {f"{JOB}/out": b"of this run"}, seed=2)
    received = upload_results(tcp_site.add_job(directions=["up"]))
    assert received is not None
    assert received.conflicts == 0
    assert sorted(path.name for path in (tcp_site.root / JOB).iterdir()) == ["mine", "out"]
    assert (tcp_site.root / JOB / "out").read_bytes() == b"of this run"


def test_progress_is_seen_at_both_ends_in_both_directions(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/{n}": os.urandom(5000) for n in range(20)} | {f"{JOB}/large": os.urandom(8 * MIB)})
    at_owner: list[WorkspaceProgress] = []
    at_job: list[WorkspaceProgress] = []
    context = tcp_site.add_job(progress=at_owner.append)
    context.progress = at_job.append
    download_workspace(context)
    (tcp_site.job_root / JOB / "made").write_bytes(os.urandom(3 * MIB))
    upload_results(context)
    for seen in (at_owner, at_job):
        for direction, size in (("down", 8 * MIB + 100_000), ("up", 3 * MIB)):
            events = [event for event in seen if event.direction == direction]
            assert events[-1].state == "COMPLETED"
            assert events[-1].bytes_done == events[-1].bytes_total == size
            assert {event.name for event in events} == {JOB}
            assert {event.state for event in events[:-1]} == {"ACTIVE"}


def test_without_an_owner_nothing_is_transferred(tmp_path: Path) -> None:
    context = JobContext.from_env({})
    assert download_workspace(context) is None
    assert upload_results(context) is None
    assert upload_results_safely(context) is None


def test_an_owner_without_a_token_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = JobContext("job-1", "site-1", "tcp://127.0.0.1:1", root=tmp_path)
    for transfer in (download_workspace, upload_results):
        with pytest.raises(WorkspaceError, match="no transfer token"):
            transfer(context)
    assert upload_results_safely(context) is None
    assert "job job-1: its results could not be brought back" in caplog.text


def test_an_owner_that_cannot_be_reached_is_named_within_a_bound(tmp_path: Path, free_port: int) -> None:
    context = JobContext("job-1", "site-1", f"tcp://127.0.0.1:{free_port}", "t" * 64, b"s" * 16, tmp_path, connect_timeout=0.2)
    with pytest.raises(LinkError, match="job job-1: no link to its owner 'site-1'"):
        download_workspace(context)


def test_an_upload_that_fails_can_be_tried_again(tcp_site: Site, caplog: pytest.LogCaptureFixture) -> None:
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"})
    context = tcp_site.add_job()
    assert upload_results_safely(context) is None  # there is no directory of the job yet
    assert "does not exist, so there are no results" in caplog.text
    download_workspace(context)
    assert upload_results_safely(context) is not None


def test_an_abort_ends_a_transfer_at_once(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"})
    context = tcp_site.add_job()
    context.cell()
    context.abort.trigger("the user pressed Ctrl-C")
    with pytest.raises(WorkspaceError, match="Ctrl-C"):
        download_workspace(context)


def test_no_secret_is_in_a_repr_or_a_log(tcp_site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"})
    context = tcp_site.add_job()
    download_workspace(context)
    upload_results(context)
    assert context.token not in caplog.text
    assert context.token not in repr(context)
    assert context.secret is not None
    assert repr(context.secret) not in repr(context)


def test_what_the_owner_reports_is_what_the_job_hears(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"})
    told = threading.Event()
    heard: list[Received] = []

    def on_results(received: Received) -> None:
        tcp_site.manager.remove_job(JOB)  # a callback that uses the manager hangs nobody
        heard.append(received)
        told.set()

    context = tcp_site.add_job(on_results=on_results)
    download_workspace(context)
    up = upload_results(context)
    assert told.wait(10)
    assert heard == [up]


def test_a_callback_that_fails_is_logged_and_harms_nothing(tcp_site: Site, caplog: pytest.LogCaptureFixture) -> None:
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"})
    raised = threading.Event()

    def on_results(received: Received) -> None:
        raised.set()
        raise ValueError("of the user")

    def on_progress(event: WorkspaceProgress) -> None:
        raise ValueError("of the user, too")

    context = tcp_site.add_job(on_results=on_results, progress=on_progress)
    context.root = tcp_site.job_root / "not" / "there" / "yet"
    download_workspace(context)
    upload_results(context)
    assert raised.wait(10)
    assert (context.job_directory / "a").exists()
    assert "a progress callback failed" in caplog.text


@pytest.mark.parametrize("job_id", ["local", "startup", "a.b", "", "x" * 64, "a/b", ".."])
def test_an_id_that_is_no_directory_of_a_job_is_refused(tcp_site: Site, job_id: str) -> None:
    with pytest.raises(ValueError, match="job_id"):
        tcp_site.manager.add_job(job_id, tcp_site.root)


def test_the_longest_job_id_works(tcp_site: Site) -> None:
    job_id = "j" * 63
    write_tree(tcp_site.root, {f"{job_id}/a": b"1"})
    context = tcp_site.add_job(job_id)
    download_workspace(context)
    upload_results(context)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES.map(plausible), TREES.map(plausible))
def test_any_tree_goes_down_and_any_other_comes_up(
    tcp_site: Site, tmp_path_factory: pytest.TempPathFactory, shipped: dict[str, bytes | None], made: dict[str, bytes | None]
) -> None:
    tcp_site.root, tcp_site.job_root = tmp_path_factory.mktemp("owner"), tmp_path_factory.mktemp("job")
    write_tree(tcp_site.root, shipped, seed=1)
    context = tcp_site.add_job("job")
    download_workspace(context)
    assert snapshot(tcp_site.job_root) == snapshot(tcp_site.root)
    results = tmp_path_factory.mktemp("results")
    write_tree(results, made, seed=2)
    context.root = results
    upload_results(context)
    assert snapshot(tcp_site.root) == snapshot(results)


def test_a_link_planted_at_the_owner_while_results_arrive_is_not_followed(
    tcp_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    write_tree(outside, {"a": b"precious", "d/b": b"precious"}, seed=9)
    before = snapshot(outside)
    write_tree(tcp_site.root, {f"{JOB}/d/b": b"1", f"{JOB}/a": b"1"})
    context = tcp_site.add_job()
    download_workspace(context)
    write_tree(tcp_site.job_root / JOB, {"new": b"x"})

    def planting(*arguments: object, **options: object) -> Received:
        true_check = options["before_install"]

        def plant() -> None:
            (tcp_site.root / JOB / "d" / "b").unlink()
            (tcp_site.root / JOB / "d").rmdir()
            (tcp_site.root / JOB / "d").symlink_to(outside / "d")
            (tcp_site.root / JOB / "new").symlink_to(outside / "a")
            assert callable(true_check)
            true_check()

        return receive_tree(*arguments, **(options | {"before_install": plant}))  # type: ignore[arg-type]

    monkeypatch.setattr("zcell.workspace.manager.receive_tree", planting)
    upload_results(context)
    assert snapshot(outside) == before
    assert snapshot(tcp_site.root / JOB) == snapshot(tcp_site.job_root / JOB)


@pytest.fixture
def free_port() -> int:
    """A port where nobody listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_cell_that_stops_ends_what_its_workspaces_do(tcp_site: Site) -> None:
    write_tree(tcp_site.root, {f"{JOB}/a": b"1"})
    context = tcp_site.add_job()
    context.idle_timeout = 0.5
    download_workspace(context)
    assert isinstance(tcp_site.cell, Cell)
    tcp_site.cell.stop()
    with pytest.raises(WorkspaceError, match="could not be reached"):
        upload_results(context)
