"""What is left of a job whose parent dies in whatever way: nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.launch.test_process import alive
from tests.programs import running
from zcell import Cell
from zcell.launch import JobReturnCode, JobSpec
from zcell.launch.process import ProcessLauncher

PARENT = """
    import sys
    from zcell import Cell
    from zcell.launch import JobSpec
    from zcell.launch.process import ProcessLauncher

    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=b"a link secret for the tests only") as cell:
        launcher = ProcessLauncher()
        for number in range(int(sys.argv[2])):
            handle = launcher.launch(
                JobSpec(job_id=f"job-{number}", command=["sh", "-c", sys.argv[1]], grace=0.2),
                cell,
                on_output=lambda stream, line, handle=None: print(line.decode().strip(), flush=True),
            )
            print("runner", handle.pid, flush=True)
        handle.wait()
"""
STUBBORN = "trap '' TERM HUP INT; setsid sh -c 'echo $$; exec sleep 60' & echo $$; while :; do sleep 0.05; done"


def scratch_directories() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("zcell-job-*"))


def unheld(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


@pytest.mark.parametrize("jobs", [1, 5])
def test_killing_the_parent_ends_its_jobs_and_leaves_no_file(jobs: int) -> None:
    with running(PARENT, STUBBORN, jobs) as parent:
        pids = [int(parent.line().removeprefix("runner ")) for _ in range(3 * jobs)]
        assert all(alive(pid) for pid in pids)
        assert len(scratch_directories()) == jobs
        parent.process.kill()
        eventually(lambda: not any(alive(pid) for pid in pids), 20, lambda: [pid for pid in pids if alive(pid)])
        eventually(lambda: not scratch_directories(), 20, scratch_directories)


def test_a_parent_that_just_ends_leaves_nothing_either() -> None:
    with running(PARENT.replace("handle.wait()", "input()"), STUBBORN, 1) as parent:
        pids = [int(parent.line().removeprefix("runner ")) for _ in range(3)]
        parent.tell()
        parent.finish()
        eventually(lambda: not any(alive(pid) for pid in pids), 20)
        eventually(lambda: not scratch_directories(), 20)


def test_what_is_left_when_parent_and_runner_are_killed_is_reaped_by_the_next_launch(parent: Cell) -> None:
    with running(PARENT, STUBBORN, 1) as other:
        lines = [other.line() for _ in range(3)]
        (runner,) = [int(line.removeprefix("runner ")) for line in lines if line.startswith("runner")]
        pids = [int(line) for line in lines if not line.startswith("runner")]
        os.kill(other.process.pid, signal.SIGSTOP)  # so that the parent cannot clean up after its runner
        os.kill(runner, signal.SIGKILL)
        other.process.kill()
        other.process.wait(10)
        (left,) = scratch_directories()
        eventually(lambda: unheld(left))  # a killed process is gone when its last thread is
        assert all(alive(pid) for pid in pids)
        handle = ProcessLauncher().launch(JobSpec(job_id="next", command=["true"]), parent)
        assert not left.exists()
        assert not any(alive(pid) for pid in pids)
        assert handle.wait(20) is JobReturnCode.SUCCESS
