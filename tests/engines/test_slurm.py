"""What is Slurm's own, on a real cluster without accounting; what every launcher does is in the conformance suite.

The node has a /tmp of its own: nothing but what is sent gets there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.slurm_cluster import CPUS, SlurmCluster
from tests.eventually import eventually
from tests.launch.conformance import STUBBORN
from tests.launch.remote.starter import LIMIT, SLEEPER, Starter
from tests.launch.test_process import alive
from tests.programs import running
from zcell import Cell
from zcell.errors import LaunchError
from zcell.launch import JobReturnCode, JobSpec, JobState
from zcell.launch.slurm import SlurmLauncher

SECRET = b"a link secret for the tests only"


@pytest.fixture
def make(cluster: SlurmCluster) -> Iterator[Callable[..., SlurmLauncher]]:
    """Makes launchers, and closes them."""
    launchers: list[SlurmLauncher] = []

    def make_launcher(**settings: Any) -> SlurmLauncher:
        launchers.append(SlurmLauncher({"poll_interval": 1.0} | settings))
        return launchers[-1]

    yield make_launcher
    for launcher in launchers:
        launcher.close()


@pytest.fixture
def parent() -> Iterator[Cell]:
    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=SECRET) as cell:
        yield cell


@pytest.fixture
def start(make: Callable[..., SlurmLauncher], parent: Cell) -> Starter:
    return Starter(make(), parent)


def test_a_job_runs_on_the_node_and_its_output_and_code_come_back(start: Starter, cluster: SlurmCluster) -> None:
    handle = start("sh", "-c", "echo one; echo two >&2; echo $SLURM_JOB_ID; exit 3", env={"LEVEL": "7"})
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.exit_code == 3
    assert handle.reason == "the command ended with code 3"
    assert handle.host == cluster.host
    assert sorted(handle.logs().split()) == sorted(["one", "two", handle.engine_id])


def test_files_travel_both_ways_without_a_shared_file_system(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("forty")
    script = f"test ! -e {tmp_path} && tr a-z A-Z < in > out && mkdir sub && echo $PWD > sub/where"
    handle = start("sh", "-c", script, job_directory=tmp_path)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    assert (tmp_path / "out").read_text() == "FORTY"
    assert (tmp_path / "sub" / "where").read_text().startswith("/tmp/zcell-job-")


def test_nothing_that_slurm_keeps_or_shows_holds_a_secret(start: Starter, cluster: SlurmCluster, tmp_path: Path) -> None:
    os.environ["ZCELL_TEST_PRIVATE"] = "a variable of the parent"
    try:
        handle = start("sh", "-c", SLEEPER, job_directory=tmp_path)
    finally:
        del os.environ["ZCELL_TEST_PRIVATE"]
    start.wait_for(b"ready\n")
    token = handle.credentials.transfer_token
    shown = cluster.run("scontrol", "show", "job", "--details", handle.engine_id)
    shown += cluster.run("scontrol", "write", "batch_script", handle.engine_id, "-")
    assert "zcell.launch.remote.node" in shown
    kept = b"".join(p.read_bytes() for d in ("save", "spool") for p in (cluster.state / d).rglob("*") if p.is_file())
    processes = b""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            for name in ("cmdline", "environ"):
                try:
                    processes += (entry / name).read_bytes()
                except OSError:  # gone meanwhile
                    continue
    for secret in (SECRET, SECRET.hex().encode(), token.encode()):
        assert len(secret) > 16
        for place in (shown.encode(), kept, processes):
            assert secret not in place
    assert b"a variable of the parent" not in kept
    handle.kill()


def test_a_job_that_waits_in_the_queue_says_why_and_can_be_taken_out(start: Starter) -> None:
    first = start("sh", "-c", SLEEPER, resources={"cpus": CPUS})
    start.wait_for(b"ready\n")
    second = start("true", job_id="job-2", resources={"cpus": CPUS})
    eventually(lambda: second.pending_reason, 20)
    assert second.pending_reason in ("Resources", "Priority")
    assert second.state is JobState.PENDING
    assert second.terminate() is JobReturnCode.ABORTED
    assert second.reason == "terminated by its parent"
    assert first.poll() is JobReturnCode.UNKNOWN
    first.kill()


def test_a_job_that_could_only_wait_for_ever_is_ended_with_that_reason(
    make: Callable[..., SlurmLauncher], parent: Cell
) -> None:
    # a cluster may take such jobs and keep them waiting (EnforcePartLimits=NO)
    handle = Starter(make(partition="small"), parent)("true", resources={"time_limit": 7200})
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason == "it asks for more time than its partition gives (PartitionTimeLimit)"


def test_scancel_by_somebody_else_is_an_abort_with_that_reason(start: Starter, cluster: SlurmCluster, tmp_path: Path) -> None:
    handle = start("sh", "-c", f"echo kept > file; {SLEEPER}", job_directory=tmp_path)
    start.wait_for(b"ready\n")
    cluster.run("scancel", handle.engine_id)
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason == "it was cancelled in Slurm"
    assert (tmp_path / "file").read_text() == "kept\n", "there was time to bring it back"


def test_a_node_that_fails_is_an_abort_with_that_reason(start: Starter, cluster: SlurmCluster) -> None:
    handle = start("sh", "-c", f"echo $$; {SLEEPER}")
    start.wait_for(b"ready\n")
    command = int(start.lines[0][1])
    cluster.fail_node()
    try:
        assert handle.wait(LIMIT) is JobReturnCode.ABORTED
        assert handle.reason == "its node failed (NODE_FAIL)"
        eventually(lambda: not alive(command), 40)
    finally:
        cluster.mend_node()


def test_a_requeued_job_runs_again_when_it_may(
    make: Callable[..., SlurmLauncher], parent: Cell, cluster: SlurmCluster, tmp_path: Path
) -> None:
    start = Starter(make(requeue=True), parent)
    script = f'echo run-$SLURM_RESTART_COUNT | tee -a runs; test -n "$SLURM_RESTART_COUNT" && exit 4; {SLEEPER}'
    handle = start("sh", "-c", script, job_directory=tmp_path)
    start.wait_for(b"ready\n")
    cluster.run("scontrol", "requeue", handle.engine_id)
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.exit_code == 4
    assert [line for _, line in start.lines] == [b"run-\n", b"ready\n", b"run-1\n"]
    assert (tmp_path / "runs").read_text() == "run-\nrun-1\n", "it went on with what its first run brought back"


def test_a_job_that_may_not_run_twice_is_not_requeued(start: Starter, cluster: SlurmCluster) -> None:
    handle = start("sh", "-c", SLEEPER)
    start.wait_for(b"ready\n")
    cluster.run("scontrol", "update", f"jobid={handle.engine_id}", "requeue=1")
    cluster.run("scontrol", "requeue", handle.engine_id)
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert "may not run twice" in handle.reason


def test_a_job_of_which_slurm_knows_nothing_any_more_has_vanished(
    make: Callable[..., SlurmLauncher], parent: Cell, cluster: SlurmCluster
) -> None:
    start = Starter(make(absence_deadline=2.0, lease=3.0), parent)
    handle = start("sh", "-c", f"echo $$; {SLEEPER}")
    start.wait_for(b"ready\n")
    cluster.kill_controller()
    cluster.start_controller(cold=True)  # the node's daemon ends a job that its controller does not know
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason
    eventually(lambda: not alive(int(start.lines[0][1])), 40)


def test_a_node_without_zcell_is_told_by_name(make: Callable[..., SlurmLauncher], parent: Cell, cluster: SlurmCluster) -> None:
    handle = Starter(make(python="/usr/bin/python3"), parent)("true")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert "no python with zcell under the setting python" in handle.reason
    assert cluster.host in handle.reason


def test_a_directory_the_node_cannot_write_is_told_by_name(make: Callable[..., SlurmLauncher], parent: Cell) -> None:
    handle = Starter(make(directory="/proc/nowhere"), parent)("true")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert "is the setting directory writable there" in handle.reason


def test_a_parent_the_node_cannot_reach_is_told_by_name(make: Callable[..., SlurmLauncher], parent: Cell) -> None:
    handle = Starter(make(parent_url="tcp://127.0.0.1:9"), parent)("true")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert "could not reach the parent" in handle.reason


def test_setup_lines_and_exported_variables_reach_the_job(
    make: Callable[..., SlurmLauncher], parent: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOUR", "blue")
    monkeypatch.setenv("HUSH", "hidden")
    launcher = make(setup=["export SHAPE='a round one'"], export=["COLOUR"])
    handle = Starter(launcher, parent)("sh", "-c", 'echo "$SHAPE,$COLOUR,$HUSH,$LEVEL"', env={"LEVEL": "3"})
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    assert handle.logs() == "a round one,blue,,3\n"


def test_credentials_may_come_by_a_shared_directory(
    make: Callable[..., SlurmLauncher], parent: Cell, cluster: SlurmCluster
) -> None:
    shared = cluster.state / "shared"
    shared.mkdir()
    launcher = make(credentials="shared", shared_directory=str(shared))
    start = Starter(launcher, parent)
    handle = start("sh", "-c", SLEEPER)
    start.wait_for(b"ready\n")
    (place,) = shared.iterdir()
    assert place.stat().st_mode & 0o777 == 0o700
    assert not list(place.glob("credentials*")), "read and removed"
    assert handle.terminate(1) is JobReturnCode.ABORTED
    broken = Starter(make(credentials="shared", shared_directory=str(shared), setup=["echo it broke >&2; exit 77"]), parent)(
        "true"
    )
    assert broken.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert (broken.exit_code, broken.failure) == (None, "start"), "no command of the job has run"
    assert "77" in broken.reason
    assert broken.logs() == "it broke\n"
    assert list(shared.iterdir()) == []


def test_an_array_of_jobs_is_one_submission(start: Starter, cluster: SlurmCluster, tmp_path: Path) -> None:
    specs = []
    for number in range(6):
        (tmp_path / f"j{number}").mkdir()
        script = f"echo out-{number}; echo {number} > result; exit {number % 3}"
        specs.append(JobSpec(job_id=f"j{number}", command=["sh", "-c", script], job_directory=tmp_path / f"j{number}"))
    launcher = start.launcher
    assert isinstance(launcher, SlurmLauncher)
    handles = launcher.launch_array(specs, start.parent, at_once=3)
    assert len({handle.engine_id.partition("_")[0] for handle in handles}) == 1
    for number, handle in enumerate(handles):
        handle.wait(LIMIT)
        assert handle.exit_code == number % 3
        assert handle.logs() == f"out-{number}\n"
        assert (tmp_path / f"j{number}" / "result").read_text() == f"{number}\n"


def test_one_job_of_an_array_can_be_ended_alone(start: Starter) -> None:
    launcher = start.launcher
    assert isinstance(launcher, SlurmLauncher)
    specs = [JobSpec(job_id=f"j{n}", command=["sh", "-c", SLEEPER]) for n in range(3)]
    handles = launcher.launch_array(specs, start.parent, at_once=2)
    eventually(lambda: [h.state for h in handles].count(JobState.RUNNING) == 2, LIMIT)
    (waiting,) = [h for h in handles if h.state is JobState.PENDING]
    assert waiting.terminate() is JobReturnCode.ABORTED
    (one, other) = [h for h in handles if h is not waiting]
    assert one.terminate(1) is JobReturnCode.ABORTED
    assert other.poll() is JobReturnCode.UNKNOWN
    other.kill()


PARENT = """
    import sys
    from zcell import Cell
    from zcell.launch import JobSpec
    from zcell.launch.slurm import SlurmLauncher

    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=b"a link secret for the tests only") as cell:
        launcher = SlurmLauncher({"poll_interval": 0.5, "lease": 3.0})
        show = lambda stream, line: print(line.decode().strip(), flush=True)
        first = launcher.launch(
            JobSpec(job_id="one", command=["sh", "-c", sys.argv[1]], grace=0.2, resources={"cpus": int(sys.argv[2])}), cell,
            on_output=show)
        first.enter_states({first.state.RUNNING}, 60)
        second = launcher.launch(JobSpec(job_id="two", command=["true"], resources={"cpus": int(sys.argv[2])}), cell)
        print(first.engine_id, second.engine_id, flush=True)
        first.wait()
"""


@pytest.mark.usefixtures("make")
def test_killing_the_parent_ends_its_jobs_and_the_next_launch_clears_its_queue(cluster: SlurmCluster, start: Starter) -> None:
    with running(PARENT, "trap '' TERM; echo $$; while :; do sleep 0.05; done", CPUS) as parent:
        lines = [parent.line(LIMIT), parent.line(LIMIT)]
        (ids,) = [line for line in lines if " " in line]
        (command,) = [int(line) for line in lines if " " not in line]
        waiting = ids.split()[1]
        cluster.run("scontrol", "hold", waiting)  # so that it waits on when the other has ended
        parent.process.kill()
        parent.process.wait(10)
        eventually(lambda: not alive(command), 3 + 5 + 10)
        assert waiting in cluster.run("squeue", "--noheader", "--format=%i")
        assert start("true").wait(LIMIT) is JobReturnCode.SUCCESS
        eventually(lambda: waiting not in cluster.run("squeue", "--noheader", "--format=%i").split(), 20)


@pytest.mark.parametrize(
    ("settings", "resources", "text"),
    [
        ({"partition": "nowhere"}, {}, "invalid partition"),
        ({"gres": "gpu:1"}, {}, "generic resource"),
        ({}, {"cpus": CPUS + 1}, "cpus-per-task=65"),
        ({"nodelist": "elsewhere"}, {}, "node"),
        ({"bin": "/nowhere"}, {}, "there is no sbatch in /nowhere"),
        ({"shared_directory": "/nowhere"}, {}, "no writable directory"),
    ],
)
def test_what_slurm_would_refuse_is_told_before_anything_is_submitted(
    make: Callable[..., SlurmLauncher],
    parent: Cell,
    cluster: SlurmCluster,
    settings: dict[str, Any],
    resources: dict[str, Any],
    text: str,
) -> None:
    launcher = make(**settings)
    with pytest.raises(LaunchError, match=text) as caught:
        launcher.launch(JobSpec(job_id="j", command=["true"], resources=resources), parent)
    assert "j" in str(caught.value)
    assert cluster.run("squeue", "--noheader", "--states=all", "--name=zcell-j") == ""
    assert launcher.watcher.handles() == []


def test_two_refused_jobs_of_an_array_leave_none_behind(start: Starter, cluster: SlurmCluster) -> None:
    launcher = start.launcher
    assert isinstance(launcher, SlurmLauncher)
    specs = [JobSpec(job_id=name, command=["true"], resources={"cpus": cpus}) for name, cpus in (("x1", 1), ("x2", 2))]
    with pytest.raises(LaunchError, match="different resources"):
        launcher.launch_array(specs, start.parent)
    with pytest.raises(LaunchError, match="each with a job_id of its own"):
        launcher.launch_array([specs[0], specs[0]], start.parent)
    assert cluster.run("squeue", "--noheader", "--states=all", "--name=zcell-x1") == ""
    assert start("true", job_id="x1").wait(LIMIT) is JobReturnCode.SUCCESS


def test_a_job_gets_the_resources_it_asks_for(start: Starter, cluster: SlurmCluster) -> None:
    resources = {"cpus": 3, "memory": "512M", "time_limit": 600}
    handle = start("sh", "-c", f"echo $SLURM_CPUS_PER_TASK; {SLEEPER}", resources=resources)
    start.wait_for(b"ready\n")
    assert handle.logs().splitlines()[0] == "3"
    shown = cluster.run("squeue", "--noheader", f"--jobs={handle.engine_id}", "--format=%C %m %l")
    assert shown.split() == ["3", "512M", "10:00"]
    handle.kill()


def test_terminate_ends_in_time_with_a_controller_that_hangs(start: Starter, cluster: SlurmCluster) -> None:
    handle = start("sh", "-c", STUBBORN)
    start.wait_for(b"ready\n")
    cluster.pause_controller()
    try:
        began = time.monotonic()
        assert handle.terminate(grace=0.5) is JobReturnCode.ABORTED
        assert time.monotonic() - began < 0.5 + 5
        assert handle.reason == "terminated by its parent"
    finally:
        cluster.resume_controller()
    eventually(lambda: not cluster.left(), 60, cluster.left)


def test_a_job_whose_parent_dies_before_it_has_its_credentials_ends_within_its_lease(cluster: SlurmCluster) -> None:
    source = """
    import sys
    from zcell import Cell
    from zcell.launch import JobSpec
    from zcell.launch.slurm import SlurmLauncher
    from zcell.launch.slurm.engine import SlurmEngine

    SlurmEngine.deliver = lambda self, handle: False
    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=b"a link secret for the tests only") as parent:
        SlurmLauncher({"poll_interval": 0.5, "lease": 3.0}).launch(JobSpec(job_id="j", command=["true"]), parent)
        print("launched", flush=True)
        sys.stdin.readline()
    """
    with running(source) as program:
        assert program.line() == "launched"
        eventually(lambda: "R" in cluster.run("squeue", "--noheader", "--format=%t"), LIMIT)
        program.process.kill()
        program.process.wait()
        eventually(lambda: not cluster.left(), 30, cluster.left)
