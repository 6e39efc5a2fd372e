"""Tiny jobs that show whether a launcher works. Invariant: every job that was started has ended when `Trial.checks` is through."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zcell.abort import Abort
from zcell.errors import LaunchError
from zcell.launch.checkup import Check, failure_of, page_of
from zcell.launch.handle import JobHandle
from zcell.launch.launcher import Launcher
from zcell.launch.spec import JobReturnCode, JobSpec, JobState

if TYPE_CHECKING:
    from zcell.cell import Cell

PROGRAM = """
import os, platform, signal, sys
what = sys.argv[1]
if what == "work":
    print("python", platform.python_version(), "as uid", os.getuid(), flush=True)
    print("a line for stderr", file=sys.stderr, flush=True)
    with open("input", "rb") as given, open("output", "wb") as made:
        made.write(given.read()[::-1])
elif what == "fail":
    sys.exit(7)
elif what == "wait":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    open("cleaned", "w").close()
    sys.exit(5)
"""
FAILING, STOPPED = 7, 5
"""The codes that the program ends with when it fails, and when it is told to end."""
INPUT_BYTES = 300_000
GRACE = 10.0
STARTS = "job: starts"
_LOOK = 0.5
_NETWORK = "--listen tcp://0.0.0.0:PORT --insecure, or --set parent_url=tcp://HOST:PORT: see docs/howto-networks.md"


class Trial:
    """Three jobs of `launcher`, one after the other; the first that does not start is the last."""

    def __init__(
        self, launcher: Launcher, parent: Cell, *, limit: float, abort: Abort, note: Callable[[str], None] = lambda _: None
    ) -> None:
        """`limit` is the seconds that a job may take to start, and as many to end. `note` is told why one is waiting."""
        self._launcher, self._parent = launcher, parent
        self._limit, self._abort, self._note = limit, abort, note
        self._lines: list[tuple[str, bytes]] = []
        self._said = threading.Condition()
        self._page = f"{page_of(launcher.name)}, When it does not work"

    def checks(self) -> Iterator[Check]:
        """What was tried, as it is known. Ends early when it is aborted."""
        with tempfile.TemporaryDirectory(prefix="zcell-doctor-") as name:
            yield from self._checks(Path(name))

    def _checks(self, place: Path) -> Iterator[Check]:
        (place / "trial").mkdir()
        (place / "trial" / "zcell_trial.py").write_text(PROGRAM)
        data = secrets.token_bytes(INPUT_BYTES)
        (place / "input").write_bytes(data)
        for job in (self._work, self._fail, self._stop):
            try:
                with self._job(job.__name__.strip("_"), place) as running:
                    for check in job(running, place):
                        yield check
                        if check.name == STARTS and not check.ok:
                            return
                if self._abort.wait(0):
                    return
            except LaunchError as error:
                yield Check(STARTS, str(error), failure_of(error), f"change what it names; see {self._page}")
                return

    def _job(self, what: str, place: Path) -> _Running:
        self._lines.clear()
        spec = JobSpec(
            job_id=f"doctor-{what}-{secrets.token_hex(4)}",
            module="zcell_trial",
            arguments=[{"stop": "wait"}.get(what, what)],
            job_directory=place,
            code=["trial"],
            grace=GRACE,
        )
        began = time.monotonic()
        return _Running(self._launcher.launch(spec, self._parent, on_output=self._take), began, self._abort)

    def _take(self, stream: str, line: bytes) -> None:
        with self._said:
            self._lines.append((stream, line))
            self._said.notify_all()

    def _lines_of(self, wanted: str) -> str:
        with self._said:
            return b"".join(line for stream, line in self._lines if stream == wanted).decode(errors="replace")

    # the three jobs

    def _work(self, job: _Running, place: Path) -> Iterator[Check]:
        data = (place / "input").read_bytes()
        waiting = job.wait_started(self._limit, self._note)
        seconds = time.monotonic() - job.began
        if self._abort.wait(0):
            return
        if not job.started:
            text = f"it did not start within {self._limit:g} s{f': {waiting}' if waiting else ''}"
            yield Check(
                STARTS,
                text,
                "start",
                f"cure what keeps it waiting, or give it longer with --timeout; see {self._page}",
            )
            return
        job.handle.wait(self._limit)
        if self._abort.wait(0):
            return
        if job.handle.poll() is not JobReturnCode.SUCCESS and not self._lines_of("stdout").startswith("python "):
            yield self._did_not_run(job)
            return
        where = f"on {job.host} " if job.host else ""
        yield Check(STARTS, f"{where}after {seconds:.1f} s")
        yield self._output(job)
        yield self._ending(job, "job: exit code 0", JobReturnCode.SUCCESS, 0)
        yield self._files(job, (place / "output"), data[::-1])

    def _fail(self, job: _Running, place: Path) -> Iterator[Check]:
        job.wait_started(self._limit, self._note)
        job.handle.wait(self._limit)
        if not self._abort.wait(0):
            yield self._ending(job, f"job: exit code {FAILING}", JobReturnCode.EXECUTION_ERROR, FAILING)

    def _stop(self, job: _Running, place: Path) -> Iterator[Check]:
        end = time.monotonic() + self._limit
        with self._said:
            while ("stdout", b"ready\n") not in self._lines and time.monotonic() < end and not job.over:
                self._said.wait(_LOOK)
        began = time.monotonic()
        job.handle.terminate(wait=False)
        job.handle.wait(self._limit)
        seconds = time.monotonic() - began
        if self._abort.wait(0):
            return
        yield self._ending(job, "job: ended on demand", JobReturnCode.ABORTED, STOPPED, f"after {seconds:.1f} s")
        yield self._files(job, place / "cleaned", b"")

    # what they showed

    def _did_not_run(self, job: _Running) -> Check:
        silent = f"it started and said nothing within {self._limit:g} s"
        text = f"{job.handle.reason or silent}{self._tail(job)}"
        if job.handle.failure == "link":
            return Check(STARTS, text, "link", f"the job must reach this command: {_NETWORK}")
        return Check(STARTS, text, job.handle.failure or "start", f"see {self._page}")

    def _output(self, job: _Running) -> Check:
        said = self._lines_of("stdout")
        if said.startswith("python ") and said.count("\n") == 1 and self._lines_of("stderr") == "a line for stderr\n":
            return Check("job: output", said.strip())
        text = f"expected one line on each of stdout and stderr, got {self._lines[:4]!r}"
        return Check("job: output", text, "verification", f"see {self._page}")

    def _ending(self, job: _Running, name: str, outcome: JobReturnCode, code: int, text: str = "") -> Check:
        found = job.handle.poll()
        if (found, job.handle.exit_code) == (outcome, code):
            return Check(name, text or found.name)
        wrong = f"it ended with {found.name}, code {job.handle.exit_code}: {job.handle.reason or 'no reason'}{self._tail(job)}"
        return Check(name, wrong, job.handle.failure or "verification", f"see {self._page}")

    def _files(self, job: _Running, file: Path, content: bytes) -> Check:
        name = "job: files back" if content else "job: files after that"
        travelled = job.handle.files("ended")
        if travelled is not None and file.is_file() and file.read_bytes() == content:
            return Check(name, f"{travelled['files']} files, verified")
        failure = job.handle.failure if job.handle.failure in ("link", "transfer") else "transfer"
        return Check(name, f"{file.name} did not come back: {job.handle.reason or 'no reason'}", failure, f"see {self._page}")

    def _tail(self, job: _Running) -> str:
        said = " ".join(job.handle.logs().split())
        return f"; it wrote: {said[-300:]}" if said else ""


class _Running:
    """One job; ended at once when it still runs at the end of the block, or when all is aborted."""

    def __init__(self, handle: JobHandle, began: float, abort: Abort) -> None:
        self.handle = handle
        self.began = began
        self._abort = abort
        self._key = abort.add_callback(self._end)

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._abort.remove_callback(self._key)
        self.handle.kill()

    def _end(self) -> None:
        self.handle.kill(wait=False)

    @property
    def over(self) -> bool:
        return self.handle.state is JobState.FINISHED

    @property
    def started(self) -> bool:
        return self.handle.state is not JobState.PENDING

    @property
    def host(self) -> str:
        return str(getattr(self.handle, "host", ""))

    def wait_started(self, limit: float, note: Callable[[str], None]) -> str:
        """Until it has started, or `limit` seconds: why it is still waiting."""
        end = time.monotonic() + limit
        told = ""
        while not self.started and time.monotonic() < end:
            self.handle.enter_states({JobState.RUNNING, JobState.FINISHED}, _LOOK)
            reason = self.handle.pending_reason
            if reason and reason != told and not self.started:
                note(f"job {self.handle.job_id} waits: {reason}")
                told = reason
        return told
