"""A job's course in virtual time: what engine and node said decides, however late or wrong each of them is."""

from __future__ import annotations

import pytest

from zcell.launch.remote.course import (
    AGAIN,
    END_MARGIN,
    LATE_WORDS,
    PATIENCE,
    SILENCE,
    UNCONFIRMED,
    Action,
    Bounds,
    Course,
    EngineState,
    EngineView,
    Outcome,
)
from zcell.launch.spec import JobReturnCode

BOUNDS = Bounds(absence=60, lease=30, start=120)
PENDING = EngineView(EngineState.PENDING, reason="Priority")
RUNNING = EngineView(EngineState.RUNNING)
ABSENT = EngineView(EngineState.ABSENT)
UNKNOWN = EngineView(EngineState.UNKNOWN)
NODE_SUCCESS = Outcome(JobReturnCode.SUCCESS, exit_code=0)
NODE_STOPPED = Outcome(JobReturnCode.ABORTED, "terminated by its parent", 143)


def ended(code: JobReturnCode, reason: str = "", exit_code: int | None = None, *, by_engine: bool = False) -> EngineView:
    return EngineView(EngineState.ENDED, outcome=Outcome(code, reason, exit_code), by_engine=by_engine)


class World:
    """A course and its clock."""

    def __init__(self, bounds: Bounds = BOUNDS, *, may_requeue: bool = False) -> None:
        self.now = 1000.0
        self.course = Course(bounds, now=self.now, may_requeue=may_requeue)

    def see(self, view: EngineView, after: float = 1.0) -> list[Action]:
        self.now += after
        self.course.seen(view, self.now, self.now)
        return self.course.decide(self.now)

    def later(self, seconds: float) -> list[Action]:
        self.now += seconds
        return self.course.decide(self.now)

    def start(self, instance: str = "a") -> None:
        self.see(RUNNING)
        self.course.delivered()
        assert self.course.hello(instance, 0, self.now) == ""

    @property
    def over(self) -> bool:
        return self.course.outcome is not None

    @property
    def outcome(self) -> Outcome | None:
        return self.course.outcome


def test_a_job_goes_from_the_queue_to_its_nodes_last_words() -> None:
    world = World()
    assert world.see(PENDING) == []
    assert not world.course.running
    assert world.see(RUNNING) == [Action.DELIVER]
    world.course.delivered()
    assert world.later(AGAIN) == []
    assert world.course.hello("a", 0, world.now) == ""
    assert world.course.ended("a", NODE_SUCCESS, world.now)
    assert world.later(1) == []
    assert not world.over, "the engine has not said yet that it is over"
    world.see(ended(JobReturnCode.SUCCESS))
    assert world.outcome == NODE_SUCCESS


def test_credentials_that_could_not_be_delivered_are_delivered_again() -> None:
    world = World()
    assert world.see(RUNNING) == [Action.DELIVER]
    assert world.later(AGAIN / 2) == []
    assert world.later(AGAIN) == [Action.DELIVER]


def test_a_job_that_is_not_listed_yet_is_not_finished() -> None:
    world = World()
    for _ in range(50):
        world.see(ABSENT)
    assert not world.over
    assert world.see(PENDING) == []
    assert not world.over


def test_a_job_that_vanished_is_not_running_for_ever() -> None:
    world = World()
    world.start()
    world.see(ABSENT)
    world.later(59)
    assert not world.over
    world.see(ABSENT)
    assert world.outcome is not None
    assert world.outcome.code is JobReturnCode.ABORTED
    assert "vanished" in world.outcome.reason


def test_a_job_has_not_vanished_while_its_node_may_live() -> None:
    world = World(Bounds(absence=1, lease=30, start=120))
    world.start()
    world.see(ABSENT)
    world.later(28)
    assert not world.over, "the node speaks less often than the engine may be silent"
    world.later(2)
    assert world.over


def test_a_job_has_vanished_at_once_from_an_engine_whose_list_is_exact() -> None:
    world = World(Bounds(absence=1, lease=30, start=120, exact=True))
    world.start()
    world.see(ABSENT)
    world.later(1)
    assert world.over


def test_a_job_the_engine_forgot_is_alive_while_its_node_is() -> None:
    world = World()
    world.start()
    for _ in range(100):
        world.see(ABSENT)
        world.course.heard("a", "command", world.now)
    assert not world.over
    world.course.ended("a", NODE_SUCCESS, world.now)
    world.later(0)
    assert world.outcome == NODE_SUCCESS, "an engine that lists it no more has ended it"


def test_an_engine_that_cannot_be_asked_says_nothing() -> None:
    world = World()
    world.start()
    for _ in range(100):
        world.see(UNKNOWN, after=10)
        world.course.heard("a", "command", world.now)
    assert not world.over
    world.course.ended("a", NODE_SUCCESS, world.now)
    world.later(UNCONFIRMED)
    assert world.outcome == NODE_SUCCESS


def test_last_words_may_come_after_the_engines_end() -> None:
    world = World()
    world.start()
    world.see(ended(JobReturnCode.EXECUTION_ERROR, "NonZeroExitCode", 3))
    assert not world.over
    world.course.ended("a", Outcome(JobReturnCode.EXECUTION_ERROR, "the command ended with code 3", 3), world.now)
    world.later(0.1)
    assert world.outcome is not None
    assert world.outcome.reason == "the command ended with code 3"


def test_without_last_words_the_engine_is_believed() -> None:
    world = World()
    world.start()
    world.see(ended(JobReturnCode.ABORTED, "its node failed", by_engine=True))
    world.later(LATE_WORDS)
    assert world.outcome == Outcome(JobReturnCode.ABORTED, "its node failed")


@pytest.mark.parametrize(
    ("code", "exit_code", "failure"),
    [
        (JobReturnCode.EXECUTION_ERROR, 121, "start"),
        (JobReturnCode.EXECUTION_ERROR, 123, "link"),
        (JobReturnCode.ABORTED, 143, "start"),
    ],
)
def test_a_node_that_never_spoke_is_not_waited_for_and_ran_no_command(
    code: JobReturnCode, exit_code: int, failure: str
) -> None:
    world = World()
    world.see(RUNNING)
    world.see(ended(code, "why", exit_code))
    assert world.outcome == Outcome(code, "why", None, failure)


def test_no_success_without_a_node_that_has_called() -> None:
    world = World()
    world.see(RUNNING)
    world.see(ended(JobReturnCode.SUCCESS, exit_code=0))
    assert world.outcome is not None
    assert (world.outcome.code, world.outcome.exit_code, world.outcome.failure) == (
        JobReturnCode.EXECUTION_ERROR,
        None,
        "start",
    )
    assert "had not called" in world.outcome.reason


def test_a_node_whose_last_words_are_lost_leaves_the_engines() -> None:
    world = World()
    world.start()
    world.see(ended(JobReturnCode.EXECUTION_ERROR, "its node ended with code 3", 3))
    world.later(LATE_WORDS)
    assert world.outcome == Outcome(JobReturnCode.EXECUTION_ERROR, "its node ended with code 3", 3)


def test_a_node_that_does_not_call_in_time_is_a_failure_of_the_link() -> None:
    world = World()
    world.see(RUNNING)
    world.later(BOUNDS.start + 1)
    world.see(ended(JobReturnCode.ABORTED, "cancelled", 143))
    assert world.outcome == Outcome(JobReturnCode.ABORTED, "its node did not call back within 120 s", None, "link")


def test_a_job_that_is_ended_before_its_node_calls_has_not_failed_to_start() -> None:
    world = World()
    world.see(RUNNING)
    world.course.stop(5, world.now)
    world.later(1)
    world.see(ended(JobReturnCode.ABORTED, "cancelled", 143))
    assert world.outcome == Outcome(JobReturnCode.ABORTED, "terminated by its parent", None, "")


def test_the_engines_reason_explains_an_end_by_the_engine() -> None:
    world = World()
    world.start()
    world.course.ended("a", NODE_STOPPED, world.now)
    world.see(ended(JobReturnCode.ABORTED, "its time limit was reached", by_engine=True))
    assert world.outcome == Outcome(JobReturnCode.ABORTED, "its time limit was reached", 143)


def test_success_just_before_a_cancellation_stays_a_success() -> None:
    world = World()
    world.start()
    world.course.ended("a", NODE_SUCCESS, world.now)
    world.see(ended(JobReturnCode.ABORTED, "cancelled", by_engine=True))
    assert world.outcome == NODE_SUCCESS


def test_a_pending_job_that_is_to_end_is_cancelled() -> None:
    world = World()
    world.see(PENDING)
    world.course.stop(10, world.now)
    assert world.later(0) == [Action.CANCEL]
    assert world.later(0.1) == []
    world.see(ended(JobReturnCode.ABORTED, "cancelled", by_engine=True))
    assert world.outcome == Outcome(JobReturnCode.ABORTED, "terminated by its parent")


def test_a_running_job_that_is_to_end_is_told_by_its_node_and_killed_after_its_grace() -> None:
    world = World()
    world.start()
    world.course.stop(10, world.now)
    assert world.later(0) == [Action.STOP]
    assert world.later(AGAIN) == [Action.STOP], "not acknowledged yet"
    world.course.stop_acknowledged(10)
    assert world.later(AGAIN) == []
    assert world.later(10 + END_MARGIN) == [Action.KILL]
    world.see(ended(JobReturnCode.EXECUTION_ERROR, "killed", 137))
    world.later(LATE_WORDS)
    assert world.outcome == Outcome(JobReturnCode.ABORTED, "it did not end within its grace and was killed", 137)


def test_an_upload_that_shows_signs_of_life_may_take_longer_than_the_grace() -> None:
    world = World()
    world.start()
    world.course.stop(1, world.now)
    world.course.stop_acknowledged(1)
    for _ in range(60):
        world.course.heard("a", "upload", world.now)
        assert world.later(2) == []
    assert world.later(SILENCE) == [Action.KILL]


def test_a_shorter_grace_counts_and_kill_does_not_wait() -> None:
    world = World()
    world.start()
    world.course.stop(600, world.now)
    world.course.stop_acknowledged(600)
    world.course.stop(2, world.now)
    assert world.course.ordered_grace == 2
    assert world.later(0) == [Action.STOP]
    world.course.stop(60, world.now)
    assert world.course.ordered_grace == 2
    world.course.kill(world.now)
    assert world.later(0) == [Action.KILL]


def test_a_kill_that_nobody_confirms_ends_all_the_same() -> None:
    world = World()
    world.start()
    world.course.kill(world.now)
    world.see(UNKNOWN)
    world.later(UNCONFIRMED + 1)
    assert world.outcome is not None
    assert world.outcome.reason == "killed by its parent; the engine has not confirmed it"


def test_a_node_that_never_calls_back_is_ended_with_that_reason() -> None:
    world = World()
    world.see(RUNNING)
    world.course.delivered()
    world.later(BOUNDS.start)
    world.later(1)
    assert world.later(1) == [Action.CANCEL], "it may be about to start, and clears up after itself then"
    assert world.later(PATIENCE) == [Action.KILL]
    world.see(ended(JobReturnCode.ABORTED, "cancelled", by_engine=True))
    assert world.outcome is not None
    assert "did not call back within 120 s" in world.outcome.reason


def test_a_node_that_fell_silent_is_ended() -> None:
    world = World()
    world.start()
    world.later(BOUNDS.lease + END_MARGIN)
    world.later(1)
    assert world.later(1) == [Action.KILL]
    world.see(ended(JobReturnCode.ABORTED, "cancelled", by_engine=True))
    world.later(LATE_WORDS)
    assert world.outcome is not None
    assert "was not heard of" in world.outcome.reason


def test_a_requeued_job_ends_when_it_may_not_run_twice() -> None:
    world = World()
    world.start()
    assert world.see(PENDING) == [Action.KILL]
    assert world.course.hello("b", 1, world.now) != ""
    world.see(ended(JobReturnCode.ABORTED, "cancelled", by_engine=True))
    world.later(LATE_WORDS)
    assert world.outcome is not None
    assert "may not run twice" in world.outcome.reason


def test_a_node_that_was_stopped_for_a_requeue_is_not_the_end_of_it() -> None:
    world = World(may_requeue=True)
    world.start("a")
    world.course.ended("a", NODE_STOPPED, world.now)
    assert world.see(EngineView(EngineState.PENDING, run=1)) == []
    world.later(UNCONFIRMED)
    assert not world.over
    assert world.see(EngineView(EngineState.RUNNING, run=1)) == [Action.DELIVER]
    assert world.course.beginnings == 1


def test_a_requeue_that_is_seen_while_the_job_is_still_ending_counts_once() -> None:
    world = World(may_requeue=True)
    world.start("a")
    world.see(EngineView(EngineState.RUNNING, run=1))
    world.see(EngineView(EngineState.PENDING, run=1))
    world.see(EngineView(EngineState.RUNNING, run=1))
    assert world.course.beginnings == 1
    assert world.course.hello("b", 1, world.now) == ""


def test_a_command_that_ended_by_itself_does_not_run_again() -> None:
    world = World(may_requeue=True)
    world.start("a")
    own = Outcome(JobReturnCode.EXECUTION_ERROR, "the command ended with code 3", 3)
    world.course.ended("a", own, world.now)
    assert world.see(EngineView(EngineState.PENDING, run=1)) == [Action.KILL]
    world.see(ended(JobReturnCode.ABORTED, "cancelled", by_engine=True))
    assert world.outcome == own


def test_an_engine_that_goes_on_with_a_job_that_has_ended_is_told_to_stop() -> None:
    world = World()
    world.start("a")
    world.course.ended("a", NODE_SUCCESS, world.now)
    assert world.see(RUNNING, after=UNCONFIRMED / 2 + 1) == [Action.KILL]


def test_too_much_memory_explains_a_killed_command() -> None:
    world = World()
    world.start("a")
    world.course.ended("a", Outcome(JobReturnCode.EXECUTION_ERROR, "the command ended with code 137", 137), world.now)
    world.see(ended(JobReturnCode.EXECUTION_ERROR, "out of memory", by_engine=True))
    assert world.outcome == Outcome(JobReturnCode.EXECUTION_ERROR, "out of memory", 137)


def test_a_look_from_before_the_nodes_first_word_is_no_requeue() -> None:
    world = World()
    world.see(RUNNING)
    world.course.hello("a", 0, world.now + 2)
    world.course.seen(PENDING, world.now + 1, world.now + 3)
    assert world.course.decide(world.now + 3) == []


def test_a_requeued_job_that_may_runs_again_from_the_start() -> None:
    world = World(may_requeue=True)
    world.start("a")
    assert world.see(EngineView(EngineState.PENDING, run=1)) == []
    assert world.see(EngineView(EngineState.RUNNING, run=1)) == [Action.DELIVER]
    assert not world.course.heard("a", "command", world.now), "the first run is over"
    assert world.course.hello("a", 0, world.now) != ""
    assert world.course.hello("b", 1, world.now) == ""
    world.course.ended("b", NODE_SUCCESS, world.now)
    world.see(ended(JobReturnCode.SUCCESS))
    assert world.outcome == NODE_SUCCESS


def test_strangers_and_second_nodes_are_not_heard() -> None:
    world = World()
    world.start("a")
    assert world.course.hello("b", 0, world.now) == "the job runs already"
    assert world.course.hello("a", 0, world.now) == "", "the same node may ask again when the answer was lost"
    assert not world.course.heard("b", "command", world.now)
    assert not world.course.ended("b", NODE_SUCCESS, world.now)


def test_a_terminal_outcome_never_changes() -> None:
    world = World()
    world.see(ended(JobReturnCode.EXECUTION_ERROR, "exit 3", 3))
    first = world.outcome
    assert first is not None
    world.see(RUNNING)
    world.see(ended(JobReturnCode.SUCCESS))
    world.course.kill(world.now)
    assert world.later(100) == []
    assert world.outcome == first
    assert world.course.hello("a", 0, world.now) == "the job has ended"


@pytest.mark.parametrize(("age", "expected"), [(0, 0.5), (10, 2.0), (1000, 5.0)])
def test_the_engine_is_asked_less_often_the_longer_nothing_changes(age: float, expected: float) -> None:
    world = World()
    world.see(PENDING, after=0)
    assert world.course.interval(world.now + age, 0.5, 5.0) == expected
    world.course.stop(1, world.now)
    assert world.course.interval(world.now + age, 0.5, 5.0) == 0.5
