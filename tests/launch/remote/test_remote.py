"""Jobs on nodes of their own, for real: the nodes are processes, their words travel over cells. The engine is a stand-in."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.launch.remote.local_engine import LocalEngine, LocalLauncher, make_launcher
from tests.launch.remote.starter import LIMIT, SLEEPER, Starter
from tests.launch.test_process import alive
from tests.programs import running
from zcell import Cell
from zcell.errors import LaunchError
from zcell.launch import JobReturnCode, JobSpec, JobState
from zcell.launch.remote import EngineState, EngineView, RemoteHandle


@pytest.fixture
def elsewhere() -> Iterator[LocalLauncher]:
    launcher = make_launcher()
    yield launcher
    launcher.close()
    for place in launcher.engine.all_places:
        assert list(place.iterdir()) == [], "a node left something behind"
        place.rmdir()


@pytest.fixture
def start(elsewhere: LocalLauncher, parent: Cell) -> Starter:
    return Starter(elsewhere, parent)


@pytest.fixture
def engine(elsewhere: LocalLauncher) -> LocalEngine:
    return elsewhere.engine


def test_a_job_runs_on_its_node_and_everything_it_says_comes_back(start: Starter) -> None:
    handle = start("sh", "-c", "echo one; echo two >&2; printf three; exit 3", env={"LEVEL": "7"})
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.exit_code == 3
    assert handle.reason == "the command ended with code 3"
    assert sorted(handle.logs().split()) == ["one", "three", "two"]
    assert ("stderr", b"two\n") in start.lines
    assert handle.host


def test_much_output_arrives_whole_and_in_order(start: Starter, tmp_path: Path) -> None:
    log = tmp_path / "log"
    handle = start("seq", "200000", log_file=log)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    assert log.read_text() == "".join(f"{n}\n" for n in range(1, 200001))


def test_a_workspace_is_shipped_and_its_results_come_back(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("forty")
    handle = start("sh", "-c", "tr a-z A-Z < in > out", job_directory=tmp_path)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    assert (tmp_path / "out").read_text() == "FORTY"
    back = handle.files("ended")
    assert back is not None
    assert back["files"] == 2


def test_terminate_ends_a_job_that_ignores_sigterm(start: Starter) -> None:
    handle = start("sh", "-c", f"trap '' TERM; {SLEEPER}", grace=30)
    start.wait_for(b"ready\n")
    began = time.monotonic()
    assert handle.terminate(grace=0.3) is JobReturnCode.ABORTED
    assert time.monotonic() - began < 0.3 + 5
    assert handle.exit_code == 128 + signal.SIGKILL
    assert handle.reason == "terminated by its parent"
    assert handle.terminate() is JobReturnCode.ABORTED


def test_the_engines_own_sigterm_is_an_orderly_end(start: Starter) -> None:
    handle = start("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    start.wait_for(b"ready\n")
    os.kill(int(handle.engine_id), signal.SIGTERM)
    handle.wait(LIMIT)
    assert handle.exit_code == 7


def test_a_node_that_is_killed_is_an_end_and_takes_its_command_along(start: Starter, engine: LocalEngine) -> None:
    handle = start("sh", "-c", "echo $$; trap '' TERM; while :; do sleep 0.05; done")
    eventually(lambda: start.lines, LIMIT)
    os.kill(int(handle.engine_id), signal.SIGKILL)
    assert handle.wait(LIMIT) is not JobReturnCode.SUCCESS
    assert handle.exit_code == 128 + signal.SIGKILL
    eventually(lambda: not alive(int(start.lines[0][1])), 20)
    eventually(lambda: not list(engine.places["job-1"].iterdir()), 20)


def test_an_engine_that_lags_and_falls_over_does_not_end_the_job(start: Starter, engine: LocalEngine) -> None:
    engine.hidden = True
    handle = start("sh", "-c", SLEEPER)
    eventually(lambda: engine.asked > 2)
    assert handle.poll() is JobReturnCode.UNKNOWN
    engine.hidden = False
    start.wait_for(b"ready\n")
    engine.down = True
    asked = engine.asked
    eventually(lambda: engine.asked > asked + 2)
    assert handle.state is JobState.RUNNING
    engine.down = False
    engine.hidden = True  # gone from the list, but its node is alive
    asked = engine.asked
    eventually(lambda: engine.asked > asked + 5)
    assert handle.poll() is JobReturnCode.UNKNOWN
    assert handle.kill() is JobReturnCode.ABORTED


def test_a_job_that_cannot_begin_again_ends_and_the_others_go_on(
    start: Starter, elsewhere: LocalLauncher, engine: LocalEngine, tmp_path: Path
) -> None:
    elsewhere.may_requeue = True
    (tmp_path / "files").mkdir()
    handle = start("sh", "-c", "echo one; sleep 300", job_directory=tmp_path / "files")
    other = start("sh", "-c", "echo two; sleep 300", job_id="other")
    start.wait_for(b"one\n")
    start.wait_for(b"two\n")
    (tmp_path / "files").rmdir()
    engine.views["job-1"] = EngineView(EngineState.PENDING, run=1)
    asked = engine.asked
    eventually(lambda: engine.asked > asked + 2, LIMIT)
    del engine.views["job-1"]
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason.startswith("it was to begin again and cannot: job job-1: its workspace cannot be offered: ")
    assert other.state is JobState.RUNNING
    assert other.kill() is JobReturnCode.ABORTED


def test_a_job_that_was_never_listed_has_vanished(start: Starter, engine: LocalEngine) -> None:
    engine.hidden = engine.withheld = True
    handle = start("true")
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert "vanished" in handle.reason


def test_killing_the_parent_ends_its_jobs_within_their_lease() -> None:
    program = """
        import sys
        from tests.launch.remote.local_engine import make_launcher
        from zcell import Cell
        from zcell.launch import JobSpec

        with Cell("server", listen=["tcp://127.0.0.1:0"], secret=b"a link secret for the tests only") as cell:
            launcher = make_launcher()
            show = lambda stream, line: print(line.decode().strip(), flush=True)
            handle = launcher.launch(JobSpec(job_id="j", command=["sh", "-c", sys.argv[1]], grace=0.2), cell, on_output=show)
            print(handle.engine_id, launcher.engine.places["j"], flush=True)
            handle.wait()
    """
    with running(program, "trap '' TERM; echo $$; while :; do sleep 0.05; done") as parent:
        node, _, place = parent.line().partition(" ")
        command = int(parent.line())
        parent.process.kill()
        eventually(lambda: not alive(command) and not alive(int(node)), 3 + 5 + 10)
        eventually(lambda: not list(Path(place).iterdir()), 10)
        Path(place).rmdir()


def test_a_second_job_of_the_same_name_is_refused_while_the_first_runs(start: Starter) -> None:
    handle = start("sh", "-c", SLEEPER)
    with pytest.raises(LaunchError, match="still running"):
        start("true")
    handle.kill()
    assert start("true").wait(LIMIT) is JobReturnCode.SUCCESS


def test_a_callback_for_output_may_end_its_job(elsewhere: LocalLauncher, parent: Cell) -> None:
    handles: list[RemoteHandle] = []
    ready = threading.Event()

    def stop(stream: str, line: bytes) -> None:
        ready.wait(LIMIT)
        handles[0].terminate(0.1)

    handle = elsewhere.launch(JobSpec(job_id="j", command=["sh", "-c", SLEEPER]), parent, on_output=stop)
    assert isinstance(handle, RemoteHandle)
    handles.append(handle)
    ready.set()
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"nonsense": 1}, "no setting 'nonsense'"),
        ({"lease": 0}, "lease must be a number of seconds"),
        ({"insecure": "yes"}, "insecure must be true or false"),
        ({"parent_url": "ipc:///tmp/x"}, "nodes need tcp://HOST:PORT"),
        ({"parent_url": "tcp://"}, "parent_url"),
        ({"parent_url": "tcp://10.0.0.1:5000"}, "set insecure to true"),
    ],
)
def test_wrong_settings_are_told_at_once(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(LaunchError, match=text):
        make_launcher(**settings)


def test_a_parent_that_nodes_cannot_reach_is_told_before_anything_starts(elsewhere: LocalLauncher, short_path: Path) -> None:
    spec = JobSpec(job_id="j", command=["true"])
    cell = Cell("server", listen=[f"ipc://{short_path}/s"], secret=b"s" * 32)
    with cell, pytest.raises(LaunchError, match="has no tcp endpoint"):
        elsewhere.launch(spec, cell)
    assert elsewhere.engine.processes == {}
