"""The course of a job that an engine runs elsewhere. Invariant: what engine and node said decides, never one look alone.

An engine's view lags: a job not listed yet is not finished, one that vanished is not running for ever, and an engine that cannot
be asked says nothing. The node's words come over the cell tree and may be late, or never come. No I/O and no clock in here:
every method is told the time, so tests drive it in virtual time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from zcell.launch.lease import Phase
from zcell.launch.remote.refusal import Refusal
from zcell.launch.spec import JobReturnCode

END_MARGIN = 3.0
"""Seconds beyond the grace after which a job that has not reached its upload is killed."""
SILENCE = 10.0
"""Seconds without a sign of life after which an upload that is to end is taken for stuck."""
LATE_WORDS = 5.0
"""Seconds that a node's last words may arrive after the engine said that the job has ended."""
UNCONFIRMED = 30.0
"""Seconds after the job's end, or its kill, that the engine has to agree."""
PATIENCE = 2.0
"""Seconds that a job whose node has not called yet gets to end by itself, also when it is to be killed."""
AGAIN = 1.0
"""Seconds before an action that has not worked is done again."""


class EngineState(Enum):
    """What an engine answers about one job."""

    UNKNOWN = "unknown"
    """It could not be asked."""
    ABSENT = "absent"
    """It was asked and does not list the job."""
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    code: JobReturnCode
    reason: str = ""
    exit_code: int | None = None
    failure: str = ""
    kept: str = ""
    """Where on its node the job's directory is, when its results could not be brought back."""

    def because(self, reason: str) -> Outcome:
        """The same with another reason."""
        return replace(self, reason=reason)


@dataclass(frozen=True)
class EngineView:
    """One job in an engine's eyes."""

    state: EngineState
    reason: str = ""
    """Why it is pending, in the engine's words."""
    outcome: Outcome | None = None
    """With ENDED."""
    by_engine: bool = False
    """ENDED by the engine or its administrator (a limit, a dead node, a cancellation), not by the job itself."""
    run: int = 0
    """How often the engine has put the job back into its queue."""


class Action(Enum):
    """What a launcher is to do next."""

    DELIVER = "deliver"
    """Bring the credentials to the node."""
    STOP = "stop"
    """Tell the node to end the job within its grace."""
    CANCEL = "cancel"
    """Tell the engine to end the job."""
    KILL = "kill"
    """Tell the engine to end the job at once."""


@dataclass(frozen=True)
class Bounds:
    """The seconds that a course goes by."""

    absence: float = 60.0
    """Not listed, and not heard of, for so long: the job has vanished."""
    lease: float = 30.0
    """A node that does not reach its parent for so long ends its job."""
    start: float = 120.0
    """From the job's start in the engine to the node's first word."""
    exact: bool = False
    """What the engine does not list is gone for certain. Else a node within its lease may live on, and is waited for."""
    margin: float = END_MARGIN
    late_words: float = LATE_WORDS
    unconfirmed: float = UNCONFIRMED


class Course:
    """One job from its submission to its outcome."""

    def __init__(self, bounds: Bounds, *, now: float, may_requeue: bool = False) -> None:
        self._bounds = bounds
        self._may_requeue = may_requeue
        self.submitted = now
        self.outcome: Outcome | None = None
        self.view = EngineView(EngineState.UNKNOWN)
        self._state_since = now
        self._run = 0
        self.beginnings = 0
        """How often the job has begun again."""
        self._delivered = False
        self._instance = ""
        self._greeted = now
        self._heard = now
        self._phase = Phase.STARTING.value
        self._last_words: Outcome | None = None
        self._stop_grace: float | None = None
        self._stop_acknowledged = False
        self._kill_at: float | None = None
        self._killed: float | None = None
        self._cause = ""
        self._is_lost = False
        self._done: dict[Action, float] = {}

    # what the node says

    def hello(self, instance: str, run: int, now: float) -> str:
        """The node of the job's `run`-th restart calls. Empty when it is welcome, else why not."""
        if self.outcome is not None or self._killed is not None:
            return "the job has ended"
        if run < self._run:
            return "the job was started again since"
        if run > self._run:
            if not self._may_requeue:
                return "the job was started before and may not run twice"
            self._begin_again(run, now)
        if self._instance not in ("", instance):
            return "the job runs already"
        if not self._instance:
            self._instance, self._greeted = instance, now
        self._heard = now
        return ""

    def heard(self, instance: str, phase: str, now: float) -> bool:
        """A sign of life. False when it comes from somebody who is not this job's node."""
        if instance != self._instance or self.outcome is not None:
            return False
        self._heard, self._phase = now, phase
        return True

    def ended(self, instance: str, outcome: Outcome, now: float) -> bool:
        """The node's last words."""
        if not self.heard(instance, Phase.ENDED, now):
            return False
        self._last_words = self._last_words or outcome
        return True

    # what the caller wants

    def stop(self, grace: float, now: float) -> None:
        """End it: SIGTERM, `grace` seconds, SIGKILL. The shortest grace counts."""
        if self._stop_grace is None or now + grace + self._bounds.margin < (self._kill_at or 0.0):
            self._stop_grace = grace
            self._stop_acknowledged = False
            self._kill_at = now + grace + self._bounds.margin
            self._done.pop(Action.STOP, None)

    def stop_acknowledged(self, grace: float) -> None:
        """The node knows that the job is to end within `grace` seconds."""
        self._stop_acknowledged = self._stop_grace is not None and self._stop_grace >= grace

    def kill(self, now: float, cause: str = "killed by its parent") -> None:
        """End it at once."""
        if self._kill_at is None or self._kill_at > now:
            self._kill_at = now
            self._phase = Phase.COMMAND  # an upload in progress is no reason to wait
        self._cause = self._cause or cause

    # what the engine says

    def delivered(self) -> None:
        """The credentials are with the node."""
        self._delivered = True

    def seen(self, view: EngineView, asked: float, now: float) -> None:
        """The engine's answer to a question that was asked at `asked`."""
        if view.state is EngineState.UNKNOWN:
            return  # what was known stays the best that is known; a job does not vanish from a queue nobody can see
        before = self.view
        waits_again = view.state is EngineState.PENDING and bool(self._instance) and asked > self._greeted
        again = view.run > self._run or waits_again
        if again and view.state is not EngineState.ENDED:
            self._put_back(max(view.run, self._run + 1), now)
        if view.state is not before.state:
            self._state_since = now
        self.view = view

    def _put_back(self, run: int, now: float) -> None:
        """The engine has put the job back into its queue."""
        by_itself = self._last_words is not None and self._last_words.code is not JobReturnCode.ABORTED
        if self._may_requeue and self._kill_at is None and not by_itself:
            self._begin_again(run, now)
            return
        self._run = run
        self._cause = self._cause or "the engine put it back into its queue, and it may not run twice"
        self._kill_at = self._kill_at if self._kill_at is not None else now
        self._phase = Phase.COMMAND  # what was uploading is not there any more

    def _begin_again(self, run: int, now: float) -> None:
        self.beginnings += 1
        self._run, self._instance, self._delivered = run, "", False
        self._phase, self._last_words = Phase.STARTING.value, None
        self._heard = self._greeted = now

    @property
    def running(self) -> bool:
        """Whether the job has been started, by the engine's word or by its node's."""
        return bool(self._instance) or self.view.state is EngineState.RUNNING

    def urgent(self) -> bool:
        """Whether the engine's next word is waited for."""
        return self._last_words is not None or self._kill_at is not None or (self.running and not self._instance)

    def interval(self, now: float, fastest: float, slowest: float) -> float:
        """Seconds until the engine should be asked again: seldom once there is nothing new to expect."""
        if self.urgent():
            return fastest
        age = now - (self._state_since if not self._instance else self._greeted)
        return min(slowest, max(fastest, age / 5))

    # what follows from it

    def decide(self, now: float) -> list[Action]:
        """What to do now; nothing once `outcome` is set, which this may do."""
        if self.outcome is None:
            self.outcome = self._conclude(now)
        if self.outcome is not None:
            return []
        wanted = self._wanted(now)
        chosen = [action for action in wanted if now - self._done.get(action, -AGAIN) >= AGAIN]
        for action in chosen:
            self._done[action] = now
        return chosen

    def _wanted(self, now: float) -> list[Action]:
        if self._kill_at is not None:
            return self._ending(now)
        if self.view.state is not EngineState.RUNNING:
            return []
        if not self._instance:
            if now - self._state_since > self._bounds.start:
                self._cause = f"its node did not call back within {self._bounds.start:g} s"
                self._is_lost = True
                self._kill_at = now
            return [] if self._delivered else [Action.DELIVER]
        if self._last_words is not None:
            return [Action.KILL] if now - self._heard > UNCONFIRMED / 2 else []
        if now - self._heard > self._bounds.lease + END_MARGIN:
            self._cause = f"its node was not heard of for {now - self._heard:.0f} s"
            self._kill_at = now
        return []

    def _ending(self, now: float) -> list[Action]:
        assert self._kill_at is not None
        if not self._instance and now < self._kill_at + PATIENCE:
            self._cause = self._cause or "terminated by its parent"
            return [Action.CANCEL]  # a node that is just starting can still clear up after itself
        if now >= self._kill_at:
            uploading = self._phase in (Phase.UPLOAD, Phase.ENDED) and now - self._heard < SILENCE
            if not uploading or self._killed is not None:
                self._killed = self._killed if self._killed is not None else now
                self._cause = self._cause or "it did not end within its grace and was killed"
                return [Action.KILL]
            return []
        return [] if self._stop_acknowledged or self._last_words else [Action.STOP]

    @property
    def ordered_grace(self) -> float | None:
        """The seconds of grace to tell the node; None while the job is not to end."""
        return self._stop_grace if self._stop_grace is not None or self._kill_at is None else 0.0

    def knows(self, instance: str) -> bool:
        """Whether `instance` is the job's node."""
        return instance == self._instance and self.outcome is None

    def _conclude(self, now: float) -> Outcome | None:
        since = now - self._state_since
        match self.view.state:
            case EngineState.ENDED:
                if self._last_words or not self._instance or since >= self._bounds.late_words:
                    return self._merged()
            case EngineState.ABSENT:
                if self._last_words is not None:
                    return self._last_words
                # a node that has called gives up only after its lease: as long as it may live, its job has not vanished
                alive = bool(self._instance) and not self._bounds.exact
                silence = max(self._bounds.absence, self._bounds.lease) if alive else self._bounds.absence
                if since >= self._bounds.absence and now - self._heard >= silence:
                    reason = self._cause or f"vanished: the engine has not listed it for {since:.0f} s"
                    return Outcome(JobReturnCode.ABORTED, reason)
        patience = self._bounds.margin if self._kill_at is not None else self._bounds.unconfirmed
        if self._last_words is not None and now - self._heard >= min(patience, self._bounds.unconfirmed):
            return self._last_words
        if self._killed is not None and now - self._killed >= self._bounds.unconfirmed:
            return Outcome(JobReturnCode.ABORTED, f"{self._cause}; the engine has not confirmed it")
        return None

    def _merged(self) -> Outcome:
        """The engine has ended the job: its word on why counts, the node's on how the command ended."""
        engine = self.view.outcome or Outcome(JobReturnCode.ABORTED, "the engine does not say how it ended")
        node = self._last_words
        if node is None:
            outcome = Outcome(JobReturnCode.ABORTED, self._cause, engine.exit_code) if self._cause else engine
            return outcome if self._instance else self._never_ran(outcome)
        # a command that ended by itself keeps its own end, unless the engine explains it: it took too much memory
        explained = node.code is JobReturnCode.ABORTED or node.code is engine.code is JobReturnCode.EXECUTION_ERROR
        if self.view.by_engine and explained:
            return replace(node, code=engine.code, reason=self._cause or engine.reason)
        return node

    def _never_ran(self, outcome: Outcome) -> Outcome:
        """No node has called, so no command has run: the exit code is the engine's or the node's, and no success is one."""
        lost = outcome.exit_code == Refusal.NO_LINK or self._is_lost
        asked_for = bool(self._cause) and not self._is_lost
        failure = "" if asked_for else "link" if lost else "start"
        if outcome.code is JobReturnCode.SUCCESS:
            reason = "it ended and its node had not called: does the engine start what it is told to?"
            return Outcome(JobReturnCode.EXECUTION_ERROR, reason, failure=failure)
        return replace(outcome, exit_code=None, failure=outcome.failure or failure)
