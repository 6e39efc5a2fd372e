"""What is held while a job runs. Invariant: a terminal state never changes, and asking for it asks no engine."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from zcell.launch.output import JobOutput
from zcell.launch.spec import JobReturnCode, JobSpec, JobState

log = logging.getLogger("zcell.launch")


class JobHandle(ABC):
    """A launched job. Made by a `Launcher`; safe to use from any thread."""

    in_place = False
    """Whether the job works in its own directory here, which it shares with its node: then nothing travels."""

    def __init__(self, spec: JobSpec, output: JobOutput) -> None:
        self.spec = spec
        self._output = output
        self._changed = threading.Condition()
        self._state = JobState.PENDING
        self._code = JobReturnCode.UNKNOWN
        self._exit_code: int | None = None
        self._reason = ""
        self._is_ending = False
        self._before_finished: list[Callable[[JobHandle], None]] = []
        self._on_finished: list[Callable[[JobHandle], None]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.job_id} {self.state.value} {self._code.name}>"

    @property
    def job_id(self) -> str:
        return self.spec.job_id

    @property
    def state(self) -> JobState:
        return self._state

    @property
    def exit_code(self) -> int | None:
        """The command's own exit code, 128 + N when signal N ended it; None while it runs and when it never did."""
        return self._exit_code

    @property
    def reason(self) -> str:
        """Why the job ended as it did, in words; empty while it runs and when there is nothing to say."""
        return self._reason

    @property
    def pending_reason(self) -> str:
        """Why the job has not started yet, in its engine's words; empty when there is nothing to say."""
        return ""

    @property
    def failure(self) -> str:
        """What kept the command from running, or the job's files from travelling: ``""``, ``"start"`` (it was never started),
        ``"link"`` (the job and its parent did not reach one another), ``"transfer"`` or ``"verification"``."""
        return ""

    def files(self, phase: str) -> dict[str, Any] | None:
        """What travelled, to the job ("command") or back ("ended"): the fields of `Received`; None when nothing did."""
        return None

    @property
    def kept(self) -> Path | None:
        """The job's directory, left where it was because its results could not be brought back; None otherwise."""
        return None

    @property
    def kept_where(self) -> str:
        """How to get at results that could not be brought back and are kept where the job ran, in words; empty otherwise."""
        return "" if self.kept is None else f"they are kept in {self.kept}"

    def logs(self) -> str:
        """What the job wrote to stdout and stderr, in the order it arrived; the last part of it when that is much."""
        return self._output.text()

    def poll(self) -> JobReturnCode:
        """The outcome; UNKNOWN until the job has ended. Never blocks."""
        return self._code

    def wait(self, timeout: float | None = None) -> JobReturnCode:
        """Wait until the job has ended, at most `timeout` seconds; the outcome, UNKNOWN when time ran out first."""
        self.enter_states({JobState.FINISHED}, timeout)
        return self._code

    def enter_states(self, states: Iterable[JobState], timeout: float | None = None) -> bool:
        """Wait until the job is in one of `states`. False when `timeout` seconds passed or it ended in another state."""
        wanted = frozenset(states)
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._state not in wanted and self._state is not JobState.FINISHED:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
            return self._state in wanted

    @abstractmethod
    def terminate(self, grace: float | None = None, *, wait: bool = True) -> JobReturnCode:
        """End the job: SIGTERM, `grace` seconds (default: the spec's), SIGKILL; wait until it has ended; the outcome.

        Without `wait` it is only asked to end.

        What the job wrote is still brought back, which may take longer than the grace but only while it makes progress. May be
        called any number of times, also on a job that has ended.
        """

    @abstractmethod
    def kill(self, *, wait: bool = True) -> JobReturnCode:
        """End the job at once and bring nothing back; wait until it has ended, unless `wait` is false; the outcome."""

    def on_finished(self, callback: Callable[[JobHandle], None]) -> None:
        """Call `callback` once when the job has ended, at once if it has. It must be quick; an exception is logged."""
        with self._changed:
            if self._state is not JobState.FINISHED:
                self._on_finished.append(callback)
                return
        self._call(callback)

    def before_finished(self, callback: Callable[[JobHandle], None]) -> None:
        """For launchers: have `callback` done before anybody is told that the job has ended; at once if it has."""
        with self._changed:
            if not self._is_ending:
                self._before_finished.append(callback)
                return
        self._call(callback)

    def _running(self) -> None:
        """For launchers: the engine has started the job."""
        with self._changed:
            if self._state is JobState.PENDING:
                self._state = JobState.RUNNING
                self._changed.notify_all()

    def _finish(self, code: JobReturnCode, reason: str = "", exit_code: int | None = None) -> bool:
        """For launchers: the job has ended. Whether this call was the one that said so first; later ones change nothing."""
        if code is JobReturnCode.UNKNOWN:
            raise ValueError("a job does not end in UNKNOWN")
        with self._changed:
            if self._is_ending:
                return False
            self._is_ending = True
        for callback in self._before_finished:
            self._call(callback)
        with self._changed:
            self._code, self._reason, self._exit_code = code, reason, exit_code
            self._state = JobState.FINISHED
            callbacks, self._on_finished = self._on_finished, []
            self._changed.notify_all()
        log.info("job %s ended: %s%s", self.job_id, code.name, f" ({reason})" if reason else "")
        for callback in callbacks:
            self._call(callback)
        return True

    def _call(self, callback: Callable[[JobHandle], None]) -> None:
        try:
            callback(self)
        except Exception:
            log.exception("job %s: a callback for its end raised", self.job_id)
