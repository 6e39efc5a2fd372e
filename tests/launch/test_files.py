"""A job's files, both ways, through the launcher alone."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.eventually import eventually
from zcell import Cell
from zcell.errors import LaunchError
from zcell.launch import JobReturnCode, JobSpec
from zcell.launch.process import ProcessLauncher
from zcell.workspace.manager import WorkspaceManager
from zcell.workspace.meter import WorkspaceProgress

LIMIT = 30.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace as an owner of several jobs has it."""
    place = tmp_path / "root"
    for name, text in {"local/site.json": "{}", "startup/key": "secret", "job-1/in": "one", "job-2/in": "two"}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_a_job_sees_local_and_its_own_directory_and_its_results_come_back(
    parent: Cell, launcher: ProcessLauncher, root: Path
) -> None:
    script = "cat ../local/site.json in; ls ..; echo out > out; echo changed > ../local/site.json"
    handle = launcher.launch(JobSpec(job_id="job-1", command=["sh", "-c", script], workspace=root), parent)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    assert handle.logs() == "{}onejob-1\nlocal\n"
    assert (root / "job-1/out").read_text() == "out\n"
    assert (root / "local/site.json").read_text() == "{}", "only the job's directory comes back"
    back = handle.files("ended")
    assert back is not None
    assert back["files"] == 2


def test_many_jobs_at_once_get_their_own_files(parent: Cell, launcher: ProcessLauncher, root: Path) -> None:
    for number in range(8):
        (root / f"job-{number}").mkdir(exist_ok=True)
        (root / f"job-{number}/in").write_text(f"in-{number}")
    handles = [
        launcher.launch(JobSpec(job_id=f"job-{n}", command=["sh", "-c", "cp in out; rm in"], workspace=root), parent)
        for n in range(8)
    ]
    for number, handle in enumerate(handles):
        assert handle.wait(60) is JobReturnCode.SUCCESS, handle.logs()
        assert (root / f"job-{number}/out").read_text() == f"in-{number}"
        assert not (root / f"job-{number}/in").exists()


def test_progress_is_told_for_both_ways(parent: Cell, launcher: ProcessLauncher, root: Path) -> None:
    seen: list[WorkspaceProgress] = []
    spec = JobSpec(job_id="job-1", command=["true"], workspace=root)
    assert launcher.launch(spec, parent, on_progress=seen.append).wait(LIMIT) is JobReturnCode.SUCCESS
    assert {event.direction for event in seen} == {"down", "up"}
    assert seen[-1].state == "COMPLETED"


def test_a_token_is_worth_nothing_once_the_job_has_ended(parent: Cell, launcher: ProcessLauncher, root: Path) -> None:
    script = "python3 -c \"import json, os; print(json.load(open(os.environ['ZCELL_CREDENTIALS']))['transfer_token'])\"; exit 1"
    spec = JobSpec(job_id="job-1", command=["sh", "-c", script], workspace=root)
    handle = launcher.launch(spec, parent)
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    token = handle.logs().strip()
    assert len(token) == 64
    with Cell("server.other", parent=parent.endpoints[0], secret=parent.link_secret) as stranger:
        stranger.wait_ready(LIMIT)
        question = {"job_id": "job-1", "transfer_token": token}
        reply = stranger.request("server", "workspace_transfer", "prepare_download", question, timeout=LIMIT)
        assert reply.rc == "INVALID_TARGET"


def test_terminating_a_job_brings_back_what_it_wrote(parent: Cell, launcher: ProcessLauncher, root: Path) -> None:
    up = threading.Event()
    script = "echo half > out; echo up; trap '' TERM; while :; do sleep 0.05; done"
    handle = launcher.launch(
        JobSpec(job_id="job-1", command=["sh", "-c", script], workspace=root), parent, on_output=lambda stream, line: up.set()
    )
    assert up.wait(LIMIT)
    assert handle.terminate(grace=0.1) is JobReturnCode.ABORTED
    assert (root / "job-1/out").read_text() == "half\n"


def test_a_job_that_is_terminated_before_its_command_runs_never_runs_it(
    parent: Cell, launcher: ProcessLauncher, root: Path
) -> None:
    handle = launcher.launch(JobSpec(job_id="job-1", command=["sh", "-c", "echo ran > out"], workspace=root), parent)
    assert handle.terminate() is JobReturnCode.ABORTED
    assert not (root / "job-1/out").exists()


def test_a_parent_that_stops_its_cell_gets_its_job_ended_and_told_why(
    parent: Cell, launcher: ProcessLauncher, root: Path
) -> None:
    up = threading.Event()
    handle = launcher.launch(
        JobSpec(job_id="job-1", command=["sh", "-c", "echo up; sleep 60"], workspace=root),
        parent,
        on_output=lambda stream, line: up.set(),
    )
    assert up.wait(LIMIT)
    parent.stop()
    assert handle.kill() is JobReturnCode.ABORTED


@pytest.mark.parametrize(
    ("name", "rule"), [("link", "a link to '/etc/passwd'.*skip_links"), ("con.txt", "refused: .*a reserved name")]
)
def test_a_workspace_that_cannot_travel_is_told_before_anything_starts(
    parent: Cell, launcher: ProcessLauncher, root: Path, name: str, rule: str
) -> None:
    (root / "job-1" / name).symlink_to("/etc/passwd") if name == "link" else (root / "job-1" / name).touch()
    spec = JobSpec(job_id="job-1", command=["true"], workspace=root)
    with pytest.raises(LaunchError, match=rf"job job-1: its workspace cannot travel: .*'{root}/job-1/{name}' is {rule}"):
        launcher.launch(spec, parent)
    (root / "job-1" / name).unlink()
    assert launcher.launch(spec, parent).wait(LIMIT) is JobReturnCode.SUCCESS, "nothing was left of the first one"


def test_what_is_left_out_is_said_once(
    parent: Cell, launcher: ProcessLauncher, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "job-1/link").symlink_to("/etc/passwd")
    spec = JobSpec(job_id="job-1", command=["true"], workspace=root, skip_links=True)
    assert launcher.launch(spec, parent).wait(LIMIT) is JobReturnCode.SUCCESS
    assert [r.getMessage() for r in caplog.records if "left out" in r.message] == [
        "left out of the transfer: 'job-1/link' is a link to '/etc/passwd'"
    ]


def test_a_workspace_that_cannot_travel_any_more_is_told_and_the_command_never_runs(
    parent: Cell, launcher: ProcessLauncher, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = WorkspaceManager.check_job

    def and_then(manager: WorkspaceManager, job_id: str) -> None:
        check(manager, job_id)
        (root / "job-1/link").symlink_to("/etc/passwd")

    monkeypatch.setattr(WorkspaceManager, "check_job", and_then)
    handle = launcher.launch(JobSpec(job_id="job-1", command=["sh", "-c", "echo ran"], workspace=root), parent)
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.exit_code is None
    assert handle.failure == "verification"
    assert "job-1/link" in handle.reason
    assert "ran" not in handle.logs().split()


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_workspace_that_is_no_directory_is_told_before_anything_starts(
    parent: Cell, launcher: ProcessLauncher, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match="job job-1: its workspace"):
        launcher.launch(JobSpec(job_id="job-1", command=["true"], workspace=tmp_path / name), parent)


def test_a_runner_killed_while_its_job_runs_leaves_the_workspace_as_it_was(
    parent: Cell, launcher: ProcessLauncher, root: Path
) -> None:
    up = threading.Event()
    handle = launcher.launch(
        JobSpec(job_id="job-1", command=["sh", "-c", "echo half > out; echo up; sleep 60"], workspace=root),
        parent,
        on_output=lambda stream, line: up.set(),
    )
    assert up.wait(LIMIT)
    os.kill(handle.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    eventually(lambda: sorted(path.name for path in (root / "job-1").iterdir()) == ["in"])
