"""What is held of a job on another machine. Invariant: its course changes under its lock, and its watcher alone ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from zcell.errors import ZcellError
from zcell.launch.credentials import Credentials
from zcell.launch.handle import JobHandle
from zcell.launch.output import JobOutput
from zcell.launch.remote.course import Action, Course, EngineView
from zcell.launch.remote.desk import Desk
from zcell.launch.remote.messages import CHANNEL, STOP, Greeting, LastWords, OutputBatch, Work
from zcell.launch.spec import JobReturnCode, JobSpec
from zcell.message import Reply

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zcell.cell import Cell
    from zcell.launch.remote.watcher import Watcher

STOP_TIMEOUT = 2.0


class RemoteHandle(JobHandle):
    """A job that an engine runs, whose node speaks over the cell tree."""

    def __init__(
        self,
        spec: JobSpec,
        output: JobOutput,
        *,
        parent: Cell,
        node: str,
        work: Work,
        credentials: Credentials,
        course: Course,
        watcher: Watcher,
        renew: Callable[[], Credentials] | None = None,
    ) -> None:
        super().__init__(spec, output)
        self.node = node
        """Name of the cell of the job's node."""
        self.work = work
        self.credentials = credentials
        self.engine_id = ""
        """How the engine calls the job."""
        self.host = ""
        """Where it runs, once that is known."""
        self._parent = parent
        self._course = course
        self._watcher = watcher
        self._lock = threading.Lock()
        self._output_lock = threading.Lock()
        self._writer: int | None = None
        self._last_batch = -1
        self._wrote = False
        self._renew = renew
        self._renewed = 0
        self._files: dict[str, dict[str, Any] | None] = {}
        self._failure = ""
        self._kept_where = ""
        self._desk = Desk.of(parent)
        self._desk.expect(node, self)

    @property
    def failure(self) -> str:
        return self._failure

    @property
    def kept_path(self) -> str:
        """Where on its node the job's directory is, when its results could not be brought back; empty otherwise."""
        outcome = self._course.outcome
        return "" if outcome is None else outcome.kept

    @property
    def kept_where(self) -> str:
        return self._kept_where

    def keeps(self, where: str) -> None:
        """For the watcher: how to get at `kept_path`, in words; empty when that has ended with the job."""
        self._kept_where = where

    @property
    def parent(self) -> str:
        """Name of the parent's cell."""
        return self._parent.fqcn

    @property
    def wrote(self) -> bool:
        """Whether the node has brought any output."""
        return self._wrote

    @property
    def pending_reason(self) -> str:
        """Why the job has not started yet, in the engine's words."""
        with self._lock:
            return "" if self._course.running else self._course.view.reason

    def files(self, phase: str) -> dict[str, Any] | None:
        return self._files.get(phase)

    def terminate(self, grace: float | None = None, *, wait: bool = True) -> JobReturnCode:
        seconds = self.spec.grace if grace is None else grace
        if not seconds >= 0:
            raise ValueError(f"grace must be a number of seconds from 0, got {grace!r}")
        with self._lock:
            self._course.stop(seconds, time.monotonic())
        return self._outcome_now(wait)

    def kill(self, *, wait: bool = True) -> JobReturnCode:
        with self._lock:
            self._course.kill(time.monotonic())
        return self._outcome_now(wait)

    def _outcome_now(self, wait: bool) -> JobReturnCode:
        self._watcher.wake()
        # a callback on the watcher's thread, or for the job's output, cannot wait for what comes after it
        inside = self._watcher.is_current_thread() or self._writer == threading.get_ident()
        return self.wait() if wait and not inside else self.poll()

    # from the desk, on the cell's pool

    def node_greets(self, greeting: Greeting) -> str:
        """Empty when the node is welcome, else why not."""
        with self._lock:
            refused = self._course.hello(greeting.instance, greeting.run, time.monotonic())
            if not refused:
                self.host = greeting.host[:255]
        if not refused:
            self._running()
        return refused

    def look_now(self) -> None:
        """Something may have happened to the job: ask the engine at once. From any thread."""
        self._watcher.look_now()

    def node_lives(self, instance: str, phase: str) -> bool:
        with self._lock:
            return self._course.heard(instance, phase, time.monotonic())

    def ordered_grace(self) -> float | None:
        """Seconds of grace when the job is to end, else None."""
        with self._lock:
            return self._course.ordered_grace

    def node_writes(self, batch: OutputBatch) -> bool:
        with self._output_lock:
            with self._lock:
                if not self._course.knows(batch.instance):
                    return False
            if batch.number == self._last_batch:
                return True
            self._last_batch = batch.number
            self._wrote = True
            self._writer = threading.get_ident()
            try:
                for stream, lines in groupby(batch.lines, key=itemgetter(0)):
                    self._output.feed(stream, b"".join(line for _, line in lines))
            finally:
                self._writer = None
            return True

    def node_ends(self, words: LastWords) -> bool:
        with self._lock:
            accepted = self._course.ended(words.instance, words.outcome, time.monotonic())
            if accepted:
                self._files = words.files
        self._watcher.wake()
        return accepted

    # from the watcher, on its thread

    def engine_says(self, view: EngineView, asked: float) -> None:
        with self._lock:
            self._course.seen(view, asked, time.monotonic())
            running = self._course.running
        if running:
            self._running()

    def decide(self) -> list[Action]:
        """What is to be done now; see `Course.decide`."""
        with self._lock:
            actions, begun = self._course.decide(time.monotonic()), self._course.beginnings
        if begun == self._renewed:
            return actions
        self._renewed, self._last_batch = begun, -1
        return actions if self._renew_credentials() else []

    def _renew_credentials(self) -> bool:
        """Whether a job that begins again can: the token of its first run is used up once it has brought something back."""
        if self._renew is None:
            return True
        try:
            self.credentials = self._renew()
        except (ZcellError, OSError, ValueError) as error:  # its files, or its parent, may be gone by now
            with self._lock:
                self._course.kill(time.monotonic(), f"it was to begin again and cannot: {error}")
            return False
        return True

    @property
    def has_ended(self) -> bool:
        return self._course.outcome is not None

    def survey_interval(self, fastest: float, slowest: float) -> float:
        with self._lock:
            return self._course.interval(time.monotonic(), fastest, slowest)

    def delivered(self) -> None:
        with self._lock:
            self._course.delivered()

    def tell_node_to_stop(self) -> None:
        """Send the order; the answer comes later, and without one it is sent again."""
        with self._lock:
            grace = self._course.ordered_grace or 0.0

        def answered(future: Future[Reply]) -> None:
            if not future.cancelled() and future.result().ok:
                with self._lock:
                    self._course.stop_acknowledged(grace)

        future = self._parent.request_future(self.node, CHANNEL, STOP, {"grace": grace}, timeout=STOP_TIMEOUT, optional=True)
        future.add_done_callback(answered)

    def conclude(self, last_output: bytes) -> None:
        """The course has come to its end: say so. `last_output` is what the engine kept, for a node that never wrote."""
        outcome = self._course.outcome
        assert outcome is not None
        self._desk.forget(self.node, self)
        with self._output_lock:
            if last_output and not self._wrote:
                self._output.feed("stderr", last_output)
            self._output.end()
        self._failure = outcome.failure
        reason = outcome.reason
        if outcome.kept:
            reason += f"; {self._kept_where or 'they were on its node only, and are lost with it'}"
        self._finish(outcome.code, reason, outcome.exit_code)

    def give_up(self) -> None:
        """Whoever waits for the job must not wait for ever."""
        self._finish(JobReturnCode.ABORTED, "its end could not be handled; see the log")

    def abandon(self) -> None:
        """It was never started: forget it."""
        self._desk.forget(self.node, self)
        self._output.end()
