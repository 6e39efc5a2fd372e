"""Jobs as processes, for real. The leak check around each test finds what a job leaves: processes, files, descriptors, threads."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from zcell import Cell
from zcell.errors import LaunchError
from zcell.launch import JobHandle, JobReturnCode, JobSpec, JobState, Launcher, LifecycleHook
from zcell.launch.process import ProcessLauncher
from zcell.launch.process_handle import ProcessHandle

LIMIT = 20.0


class Starter:
    """Launches and keeps what was said."""

    def __init__(self, launcher: ProcessLauncher, parent: Cell) -> None:
        self.launcher = launcher
        self.parent = parent
        self.lines: list[tuple[str, bytes]] = []
        self.said = threading.Condition()

    def __call__(self, *command: str, job_id: str = "job-1", **fields: Any) -> ProcessHandle:
        handle = self.launcher.launch(JobSpec(job_id=job_id, command=command, **fields), self.parent, on_output=self._take)
        assert isinstance(handle, ProcessHandle)
        return handle

    def _take(self, stream: str, line: bytes) -> None:
        with self.said:
            self.lines.append((stream, line))
            self.said.notify_all()

    def wait_for(self, line: bytes) -> None:
        with self.said:
            assert self.said.wait_for(lambda: line in [text for _, text in self.lines], LIMIT), self.lines


@pytest.fixture
def start(launcher: ProcessLauncher, parent: Cell) -> Starter:
    return Starter(launcher, parent)


def python(source: str) -> Sequence[str]:
    return [sys.executable, "-c", source]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_job_runs_and_its_output_comes_line_by_line(start: Starter) -> None:
    handle = start("sh", "-c", "echo one; echo two >&2; printf three")
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    assert handle.exit_code == 0
    assert handle.reason == ""
    assert [line for stream, line in start.lines if stream == "stdout"] == [b"one\n", b"three"]
    assert [line for stream, line in start.lines if stream == "stderr"] == [b"two\n"]
    assert sorted(handle.logs().split()) == ["one", "three", "two"]


def test_output_arrives_while_the_job_runs(start: Starter) -> None:
    handle = start(*python("import time\nprint('early')\ntime.sleep(60)"))
    start.wait_for(b"early\n")
    assert handle.poll() is JobReturnCode.UNKNOWN
    assert handle.state is JobState.RUNNING
    assert handle.terminate(grace=5) is JobReturnCode.ABORTED


@pytest.mark.parametrize(
    ("script", "exit_code", "outcome"),
    [
        ("exit 3", 3, JobReturnCode.EXECUTION_ERROR),
        ("exit 9", 9, JobReturnCode.ABORTED),
        ("kill -SEGV $$", 128 + signal.SIGSEGV, JobReturnCode.EXECUTION_ERROR),
        ("kill -TERM $$", 128 + signal.SIGTERM, JobReturnCode.EXECUTION_ERROR),
        ("exec /nowhere/program", 127, JobReturnCode.EXECUTION_ERROR),
    ],
)
def test_the_commands_own_end_comes_out(start: Starter, script: str, exit_code: int, outcome: JobReturnCode) -> None:
    handle = start("sh", "-c", script)
    assert handle.wait(LIMIT) is outcome
    assert handle.exit_code == exit_code
    assert handle.reason


def test_a_program_that_is_not_there_is_named(start: Starter) -> None:
    handle = start("no-such-program-anywhere")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.exit_code == 127
    assert "no program 'no-such-program-anywhere' on PATH" in handle.logs()


def test_a_job_starts_in_a_private_directory_without_its_parents_descriptors(start: Starter) -> None:
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), False)
        handle = start("sh", "-c", "pwd; ls /proc/self/fd | tr '\\n' ' '; echo; echo $TMPDIR; cat; id -u")
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    directory, descriptors, temporary, _ = handle.logs().splitlines()
    assert directory.endswith("/workspace/job-1")
    assert Path(temporary).parent == Path(directory).parent.parent
    assert not Path(directory).exists()
    assert set(descriptors.split()) <= {"0", "1", "2", "3"}


def test_a_job_gets_its_variables_and_not_those_of_an_outer_job(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCELL_OWNER", "somebody.else")
    monkeypatch.setenv("COLOUR", "blue")
    handle = start("env", env={"LEVEL": "3", "COLOUR": "red"}, site="here")
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    variables = dict(line.partition("=")[::2] for line in handle.logs().splitlines())
    assert variables["LEVEL"] == "3"
    assert variables["COLOUR"] == "red"
    assert "ZCELL_OWNER" not in variables
    assert "ZCELL_LEASE_FD" not in variables
    assert variables["ZCELL_JOB_ID"] == "job-1"
    assert variables["ZCELL_JOB_FQCN"] == "server.job-1"
    assert variables["ZCELL_SITE"] == "here"
    assert variables["ZCELL_PARENT"] == start.parent.endpoints[0]


def test_no_process_of_a_job_shows_a_secret(start: Starter) -> None:
    secret = start.parent.link_secret
    handle = start("sh", "-c", "sleep 60 & echo ready; wait")
    start.wait_for(b"ready\n")
    shown = b""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    family = [pid for pid in pids if _session(pid) == handle.pid]
    assert len(family) >= 3  # the runner, the shell, its child
    for pid in family:
        shown += Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    assert secret not in shown
    assert secret.hex().encode() not in shown
    handle.kill()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def test_terminate_lets_the_command_clean_up_and_is_idempotent(start: Starter) -> None:
    handle = start("sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    start.wait_for(b"ready\n")
    assert handle.terminate() is JobReturnCode.ABORTED
    assert handle.exit_code == 5
    assert handle.reason == "terminated by its parent"
    assert "bye" in handle.logs()
    assert handle.terminate() is JobReturnCode.ABORTED
    assert handle.kill() is JobReturnCode.ABORTED
    assert handle.reason == "terminated by its parent"


def test_a_command_that_ignores_sigterm_is_killed_after_its_grace(start: Starter) -> None:
    handle = start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done", grace=30)
    start.wait_for(b"ready\n")
    began = time.monotonic()
    assert handle.terminate(grace=0.3) is JobReturnCode.ABORTED
    assert 0.3 <= time.monotonic() - began < 0.3 + 5
    assert handle.exit_code == 128 + signal.SIGKILL


def test_two_threads_that_terminate_get_the_same_end_and_the_shorter_grace_counts(start: Starter) -> None:
    handle = start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    start.wait_for(b"ready\n")
    outcomes: list[JobReturnCode] = []
    patient = threading.Thread(target=lambda: outcomes.append(handle.terminate(grace=60)))
    patient.start()
    outcomes.append(handle.terminate(grace=0.1))
    patient.join(LIMIT)
    assert outcomes == [JobReturnCode.ABORTED] * 2


def test_a_frozen_runner_is_killed_all_the_same(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcell.launch.process_handle.END_MARGIN", 0.3)
    handle = start("sh", "-c", "echo ready; sleep 60")
    start.wait_for(b"ready\n")
    os.kill(handle.pid, signal.SIGSTOP)
    assert handle.terminate(grace=0.1) is JobReturnCode.ABORTED


def test_everything_a_job_started_ends_with_it(start: Starter) -> None:
    # a child, a daemon in a session of its own, and one that also hides its environment
    script = (
        "sleep 60 & echo $!; setsid sleep 60 & echo $!;"
        "setsid env -i sh -c 'echo $$ > third; exec sleep 60' & until [ -s third ]; do :; done; cat third"
    )
    handle = start("sh", "-c", script)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    pids = [int(line) for line in handle.logs().split()]
    assert len(pids) == 3
    assert [pid for pid in pids if alive(pid)] == []


def test_a_killed_runner_takes_its_command_along(start: Starter) -> None:
    handle = start("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.05; done")
    eventually(lambda: start.lines, LIMIT)
    os.kill(handle.pid, signal.SIGKILL)
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.reason == "its runner was ended by SIGKILL"
    assert not alive(int(start.lines[0][1]))


def test_sigterm_to_the_runner_is_an_orderly_end(start: Starter) -> None:
    handle = start("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    start.wait_for(b"ready\n")
    os.kill(handle.pid, signal.SIGTERM)
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.exit_code == 7


def test_wait_ends_with_its_limit_and_enter_states_says_which(start: Starter) -> None:
    handle = start("sleep", "60")
    assert handle.wait(0.05) is JobReturnCode.UNKNOWN
    assert handle.enter_states({JobState.RUNNING}, 0)
    assert not handle.enter_states({JobState.FINISHED}, 0.05)
    handle.kill()
    assert handle.enter_states({JobState.FINISHED})
    assert not handle.enter_states({JobState.RUNNING}, 5), "a finished job never runs again"


def test_twenty_jobs_at_once_share_one_thread(start: Starter) -> None:
    before = threading.active_count()
    handles = [start("sh", "-c", f"echo out-{n}; exit {n % 3}", job_id=f"job-{n}") for n in range(20)]
    assert threading.active_count() <= before + 1
    for number, handle in enumerate(handles):
        handle.wait(60)
        assert handle.exit_code == number % 3
        assert handle.logs() == f"out-{number}\n"


def test_a_second_job_of_a_name_is_refused_while_the_first_one_runs(start: Starter) -> None:
    first = start("sleep", "60", job_id="same")
    with pytest.raises(LaunchError, match="a job of that name is still running"):
        start("true", job_id="same")
    first.kill()
    for _ in range(3):
        again = start("true", job_id="same")
        assert again.wait(LIMIT) is JobReturnCode.SUCCESS, "what is taken back of one job is not another's"


def test_a_runner_that_cannot_begin_is_not_taken_for_the_command(parent: Cell) -> None:
    with closing(ProcessLauncher({"python": "false"})) as launcher:
        handle = launcher.launch(JobSpec(job_id="j", command=["true"]), parent)
        assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
        assert (handle.exit_code, handle.reason) == (
            None,
            "its runner ended with code 1 before the command did; its last words are in logs()",
        )


def test_scratch_may_be_named_from_the_working_directory(parent: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(ProcessLauncher({"scratch": "."})) as launcher:
        assert launcher.launch(JobSpec(job_id="j", command=["true"]), parent).wait(LIMIT) is JobReturnCode.SUCCESS
    assert list(tmp_path.iterdir()) == []


def test_closing_a_launcher_ends_its_jobs(start: Starter) -> None:
    handles = [start("sleep", "60", job_id=f"job-{n}") for n in range(3)]
    start.launcher.close()
    assert [handle.poll() for handle in handles] == [JobReturnCode.ABORTED] * 3
    assert start("true").wait(LIMIT) is JobReturnCode.SUCCESS


class Recorder(LifecycleHook):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.ended = threading.Event()

    def before_launch(self, spec: JobSpec, launcher: Launcher) -> JobSpec | None:
        self.events.append(f"before {spec.job_id} by {launcher.name}")
        if spec.study == "forbidden":
            raise PermissionError("this study may not run here")
        return JobSpec(job_id=spec.job_id, command=["sh", "-c", "exit 4"])

    def launched(self, spec: JobSpec, handle: JobHandle) -> None:
        self.events.append(f"launched {handle.job_id}")
        raise ValueError("a hook's own trouble")

    def finished(self, spec: JobSpec, handle: JobHandle) -> None:
        self.events.append(f"finished {handle.exit_code}")
        self.ended.set()


def test_hooks_see_a_jobs_life_in_order_may_change_it_and_harm_nothing(parent: Cell) -> None:
    hook = Recorder()
    launcher = ProcessLauncher(hooks=[hook])
    handle = launcher.launch(JobSpec(job_id="j", command=["true"]), parent)
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert hook.ended.wait(LIMIT)
    assert hook.events == ["before j by process", "launched j", "finished 4"]


def test_a_hook_can_refuse_a_launch(parent: Cell) -> None:
    launcher = ProcessLauncher(hooks=[Recorder()])
    with pytest.raises(LaunchError, match="this study may not run here"):
        launcher.launch(JobSpec(job_id="j", command=["true"], study="forbidden"), parent)


def test_mistakes_are_told_before_anything_is_started(parent: Cell, tmp_path: Path) -> None:
    spec = JobSpec(job_id="j", command=["true"])
    with pytest.raises(LaunchError, match=r"setting python is '/no/python'"):
        ProcessLauncher({"python": "/no/python"}).launch(spec, parent)
    with pytest.raises(LaunchError, match="setting scratch"):
        ProcessLauncher({"scratch": tmp_path / "missing"}).launch(spec, parent)
    with pytest.raises(LaunchError, match="listens nowhere"), Cell("server") as deaf:
        ProcessLauncher().launch(spec, deaf)
    with pytest.raises(LaunchError, match="start the cell"):
        ProcessLauncher().launch(spec, Cell("server", listen=["tcp://127.0.0.1:0"], secret=b"s" * 32))


def test_the_whole_output_goes_into_a_log_file(start: Starter, tmp_path: Path) -> None:
    log_file = tmp_path / "job.log"
    handle = start("sh", "-c", "seq 20000", log_file=log_file)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    assert log_file.read_text() == "".join(f"{n}\n" for n in range(1, 20001))
