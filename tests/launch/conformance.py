"""What every launcher does, whatever runs its jobs. Each launcher's tests subclass `LauncherConformance` with a `site` of their own.

Everything is real: cells, processes, and the engine. A job is found on this machine by a word in its command line, since process
ids are another namespace's in a container.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.programs import Program, running
from zcell import Cell
from zcell.launch import JobHandle, JobReturnCode, JobSpec, JobState, Launcher

LIMIT = 60.0
SECRET = secrets.token_hex(16).encode()  # of this process only: tests beside this one show theirs in their arguments
SLEEPER = "echo ready; while :; do sleep 0.05; done"
STUBBORN = f"trap '' TERM INT HUP; {SLEEPER}"


class Site(ABC):
    """Where one launcher's jobs run, and how the tests reach behind its back."""

    name: str
    listen: str = "tcp://127.0.0.1:0"
    """Where a parent listens for its jobs."""
    lease: float = 0.0
    """Seconds that a job outlives its parent."""
    vanished = JobReturnCode.ABORTED
    """How a job counts that is gone without a word."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The launcher's, plain values."""

    @abstractmethod
    def make(self) -> Launcher:
        """A launcher with these settings. It is closed by whoever made it."""

    @abstractmethod
    def vanish(self, handle: JobHandle) -> None:
        """Take the job away behind the launcher's back."""

    @abstractmethod
    def restart(self) -> None:
        """Restart the engine; a launcher without one has nothing to restart."""

    @abstractmethod
    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """No engine for the length of the block."""

    @abstractmethod
    def left(self) -> list[str]:
        """What the engine, or this machine, still has of any job."""


class Starter:
    """Launches and keeps what was said."""

    def __init__(self, launcher: Launcher, parent: Cell) -> None:
        self.launcher = launcher
        self.parent = parent
        self.mark = f"job-of-{uuid.uuid4().hex}"
        self.lines: list[tuple[str, bytes]] = []
        self.said = threading.Condition()

    def shell(self, script: str, *, job_id: str = "job-1", **fields: Any) -> JobHandle:
        """Run a script of the shell, which this machine knows by the word `mark`."""
        return self(JobSpec(job_id=job_id, command=["sh", "-c", script, self.mark], **fields))

    def __call__(self, spec: JobSpec) -> JobHandle:
        return self.launcher.launch(spec, self.parent, on_output=self._take)

    def _take(self, stream: str, line: bytes) -> None:
        with self.said:
            self.lines.append((stream, line))
            self.said.notify_all()

    def wait_for(self, line: bytes) -> None:
        with self.said:
            assert self.said.wait_for(lambda: line in [text for _, text in self.lines], LIMIT), self.lines


def processes(mark: str) -> list[int]:
    """The processes of this machine with `mark` in their command line, those in containers included."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def shown_by_processes() -> bytes:
    """Command lines and environments of all processes of this machine but this one."""
    shown = b""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != Path("/proc/self").readlink().name:
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    shown += (entry / name).read_bytes()
    return shown


PARENT = """
    import json, sys
    from pathlib import Path
    from zcell import Cell
    from zcell.launch import JobSpec, load_launcher

    name, settings, listen, script, mark, jobs = sys.argv[1:]
    with Cell("server", listen=[listen], insecure=True, secret=b"a link secret for the tests only") as cell:
        launcher = load_launcher(name)(json.loads(settings))
        handles = [
            launcher.launch(
                JobSpec(job_id=f"job-{number}", command=["sh", "-c", script, mark], grace=0.2),
                cell,
                on_output=lambda stream, line: print(line.decode().strip(), flush=True),
            )
            for number in range(int(jobs))
        ]
        for handle in handles:
            handle.wait()
"""


class LauncherConformance:
    """The suite. A subclass says what `site` is."""

    @pytest.fixture
    def site(self) -> Site:
        raise NotImplementedError("a subclass for one launcher says where its jobs run")

    @pytest.fixture
    def parent(self, site: Site) -> Iterator[Cell]:
        with Cell("server", listen=[site.listen], insecure=True, secret=SECRET) as cell:
            yield cell

    @pytest.fixture
    def start(self, site: Site, parent: Cell) -> Iterator[Starter]:
        """Whatever a failing test leaves running ends with it."""
        starter = Starter(site.make(), parent)
        yield starter
        starter.launcher.close()
        eventually(lambda: not processes(starter.mark), 10, lambda: processes(starter.mark))
        eventually(lambda: not site.left(), 10, site.left)

    # start, output, end

    def test_a_job_runs_and_its_output_comes_line_by_line(self, start: Starter) -> None:
        handle = start.shell("echo one; echo two >&2; printf three")
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
        assert handle.exit_code == 0
        assert handle.reason == ""
        assert [line for stream, line in start.lines if stream == "stdout"] == [b"one\n", b"three"]
        assert [line for stream, line in start.lines if stream == "stderr"] == [b"two\n"]
        assert sorted(handle.logs().split()) == ["one", "three", "two"]

    def test_output_arrives_while_the_job_runs(self, start: Starter) -> None:
        handle = start.shell(SLEEPER)
        start.wait_for(b"ready\n")
        assert handle.poll() is JobReturnCode.UNKNOWN
        assert handle.state is JobState.RUNNING
        handle.kill()

    @pytest.mark.parametrize(
        ("script", "exit_code", "outcome"),
        [
            ("exit 3", 3, JobReturnCode.EXECUTION_ERROR),
            ("exit 9", 9, JobReturnCode.ABORTED),
            ("exec /nowhere/program", 127, JobReturnCode.EXECUTION_ERROR),
            ("kill -SEGV $$", 128 + signal.SIGSEGV, JobReturnCode.EXECUTION_ERROR),
        ],
    )
    def test_the_commands_own_end_comes_out(self, start: Starter, script: str, exit_code: int, outcome: JobReturnCode) -> None:
        handle = start.shell(script)
        assert handle.wait(LIMIT) is outcome
        assert handle.exit_code == exit_code
        assert handle.reason

    def test_a_program_that_is_not_there_is_named(self, start: Starter) -> None:
        handle = start(JobSpec(job_id="job-1", command=["no-such-program-anywhere"]))
        assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
        assert handle.exit_code == 127
        assert "no program 'no-such-program-anywhere' on PATH" in handle.logs()

    def test_a_module_runs_with_the_interpreter_that_has_zcell(self, start: Starter) -> None:
        handle = start(JobSpec(job_id="job-1", module="zcell.cli", arguments=["--version"]))
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
        assert "zcell" in handle.logs()

    def test_a_job_gets_its_variables_and_its_names(self, start: Starter) -> None:
        handle = start.shell("env", env={"LEVEL": "3", "TEXT": "two words, 'quoted'"}, site="here")
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
        variables = dict(line.partition("=")[::2] for line in handle.logs().splitlines())
        assert variables["LEVEL"] == "3"
        assert variables["TEXT"] == "two words, 'quoted'"
        assert variables["ZCELL_JOB_ID"] == "job-1"
        assert variables["ZCELL_JOB_FQCN"] == "server.job-1"
        assert variables["ZCELL_SITE"] == "here"

    def test_the_whole_output_is_kept_in_a_log_file(self, start: Starter, tmp_path: Path) -> None:
        handle = start.shell("seq 20000", log_file=tmp_path / "log")
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
        expected = "".join(f"{n}\n" for n in range(1, 20001))
        assert (tmp_path / "log").read_text() == expected
        assert handle.logs() == expected

    # ending it

    def test_terminate_lets_the_command_clean_up_and_may_be_repeated(self, start: Starter) -> None:
        handle = start.shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
        start.wait_for(b"ready\n")
        assert handle.terminate() is JobReturnCode.ABORTED
        assert handle.exit_code == 5
        assert handle.reason == "terminated by its parent"
        assert "bye" in handle.logs()
        assert handle.terminate() is JobReturnCode.ABORTED
        assert handle.kill() is JobReturnCode.ABORTED
        assert handle.reason == "terminated by its parent"

    def test_a_command_that_ignores_sigterm_is_killed_after_its_grace(self, start: Starter) -> None:
        handle = start.shell(STUBBORN, grace=30)
        start.wait_for(b"ready\n")
        began = time.monotonic()
        assert handle.terminate(grace=0.5) is JobReturnCode.ABORTED
        assert 0.5 <= time.monotonic() - began < 0.5 + 5
        assert not processes(start.mark)

    def test_kill_ends_everything_the_job_started(self, start: Starter) -> None:
        handle = start.shell(f"setsid sh -c 'sleep 300 # {start.mark}' & {STUBBORN}")
        start.wait_for(b"ready\n")
        assert handle.kill() is JobReturnCode.ABORTED
        eventually(lambda: not processes(start.mark), 5)

    def test_wait_ends_with_its_limit_and_enter_states_says_which(self, start: Starter) -> None:
        handle = start.shell(SLEEPER)
        assert handle.enter_states({JobState.RUNNING}, LIMIT)
        assert handle.wait(0.05) is JobReturnCode.UNKNOWN
        assert not handle.enter_states({JobState.FINISHED}, 0.05)
        threading.Timer(0.1, lambda: handle.kill(wait=False)).start()
        assert handle.wait() is JobReturnCode.ABORTED
        assert handle.enter_states({JobState.FINISHED})
        assert not handle.enter_states({JobState.RUNNING}, 5), "a finished job never runs again"

    def test_closing_a_launcher_ends_its_jobs(self, start: Starter) -> None:
        handles = [start.shell(SLEEPER, job_id=f"job-{n}") for n in range(3)]
        start.launcher.close()
        assert [handle.poll() for handle in handles] == [JobReturnCode.ABORTED] * 3

    # files

    def test_a_workspace_is_shipped_and_the_results_come_back(self, start: Starter, tmp_path: Path) -> None:
        (tmp_path / "local").mkdir()
        (tmp_path / "local" / "site.conf").write_text("colour")
        (tmp_path / "startup").mkdir()
        (tmp_path / "startup" / "key").write_text("never travels")
        job = tmp_path / "job-1"
        (job / "empty").mkdir(parents=True)
        (job / "tool").write_text("#!/bin/sh\ntr a-z A-Z\n")
        (job / "tool").chmod(0o755)
        script = "cat ../local/site.conf | ./tool > out; test -d empty; mkdir -p deep/er; echo x > deep/er/file; ls ../startup"
        handle = start.shell(script, workspace=tmp_path)
        handle.wait(LIMIT)
        assert handle.exit_code != 0, "startup was there"
        assert (job / "out").read_text() == "COLOUR"
        assert (job / "deep" / "er" / "file").read_text() == "x\n"
        assert (job / "tool").stat().st_mode & 0o777 == 0o755
        files = handle.files("ended")
        assert files is not None
        assert files["files"] == 3

    def test_a_jobs_own_modules_are_found_where_the_workspace_is(self, start: Starter, tmp_path: Path) -> None:
        for place in (tmp_path / "job-1" / "custom", tmp_path / "local" / "shared"):
            place.mkdir(parents=True)
            (place / f"{place.name}_module.py").write_text(f"print('{place.name}')")
        code: list[Path | str] = ["custom", tmp_path / "local" / "shared"]
        script = "import custom_module, shared_module, os, sys; print(os.environ['PYTHONPATH'])"
        spec = JobSpec(job_id="job-1", command=["python3", "-c", script], workspace=tmp_path, code=code)
        handle = start(spec)
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
        custom, shared, path = handle.logs().split()
        assert (custom, shared) == ("custom", "shared")
        assert str(tmp_path) not in path

    def test_what_a_terminated_job_wrote_comes_back(self, start: Starter, tmp_path: Path) -> None:
        handle = start.shell(f"echo half > model; {STUBBORN}", job_directory=tmp_path)
        start.wait_for(b"ready\n")
        assert handle.terminate(grace=0.2) is JobReturnCode.ABORTED
        assert (tmp_path / "model").read_text() == "half\n"

    # secrets

    def test_no_process_shows_a_secret(self, start: Starter, tmp_path: Path) -> None:
        handle = start.shell(SLEEPER, job_directory=tmp_path)
        start.wait_for(b"ready\n")
        shown = shown_by_processes()
        assert start.mark.encode() in shown
        assert SECRET not in shown
        assert SECRET.hex().encode() not in shown
        handle.kill()

    # trouble

    def test_an_engine_that_restarts_loses_no_job(self, start: Starter, site: Site) -> None:
        longer = start.shell(SLEEPER, job_id="longer")
        start.wait_for(b"ready\n")
        shorter = start.shell("echo off; sleep 1; echo on; exit 6", job_id="shorter")
        start.wait_for(b"off\n")
        site.restart()
        assert shorter.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
        assert shorter.exit_code == 6
        assert shorter.logs() == "off\non\n"
        assert longer.poll() is JobReturnCode.UNKNOWN
        assert longer.terminate(1) is JobReturnCode.ABORTED

    def test_a_job_that_vanishes_ends(self, start: Starter, site: Site) -> None:
        handle = start.shell(SLEEPER)
        start.wait_for(b"ready\n")
        site.vanish(handle)
        assert handle.wait(LIMIT) is site.vanished
        assert handle.reason
        assert not processes(start.mark)

    def test_the_end_of_a_job_is_known_without_its_engine(self, start: Starter, site: Site) -> None:
        handle = start.shell("echo kept; exit 4")
        assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
        with site.stopped():
            began = time.monotonic()
            assert handle.poll() is JobReturnCode.EXECUTION_ERROR
            assert handle.terminate() is JobReturnCode.EXECUTION_ERROR
            assert handle.kill() is JobReturnCode.EXECUTION_ERROR
            assert handle.logs() == "kept\n"
            assert time.monotonic() - began < 0.5

    def test_killing_the_parent_ends_its_jobs_and_the_next_launch_leaves_nothing(self, start: Starter, site: Site) -> None:
        with self._orphaned(site, start.mark) as program:
            program.process.kill()
            program.process.wait(10)
            eventually(lambda: not processes(start.mark), site.lease + 0.2 + 10, lambda: processes(start.mark))
        assert start.shell("true").wait(LIMIT) is JobReturnCode.SUCCESS
        eventually(lambda: not site.left(), 20, site.left)

    def _orphaned(self, site: Site, mark: str) -> contextlib.AbstractContextManager[Program]:
        @contextlib.contextmanager
        def orphaned() -> Iterator[Program]:
            arguments = (site.name, json.dumps(site.settings()), site.listen, STUBBORN, mark, 3)
            with running(PARENT, *arguments) as program:
                assert [program.line(LIMIT) for _ in range(3)] == ["ready"] * 3
                yield program

        return orphaned()

    # many

    @pytest.mark.timeout(300)
    def test_twenty_jobs_at_once_all_come_out_right(self, start: Starter, tmp_path: Path) -> None:
        before = threading.active_count()
        handles = []
        for number in range(20):
            directory = tmp_path / str(number)
            directory.mkdir()
            (directory / "in").write_text(f"{number}")
            script = "echo $(( $(cat in) * 2 )) > out; cat out; exit $(( $(cat in) % 2 ))"
            handles.append(start.shell(script, job_id=f"job-{number}", job_directory=directory))
        assert threading.active_count() <= before + 25, "one thread for all jobs, and the cell's own"
        for number, handle in enumerate(handles):
            handle.wait(4 * LIMIT)
            assert handle.exit_code == number % 2, handle.reason
            assert handle.logs() == f"{2 * number}\n"
            assert (tmp_path / str(number) / "out").read_text() == f"{2 * number}\n"
