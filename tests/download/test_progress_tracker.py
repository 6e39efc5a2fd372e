"""The progress tracker: what it accepts, what it refuses, when a transfer is stalled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.download import ProgressEvent, ProgressKey, ProgressRefusal, ProgressState, ProgressTracker

KEY = ProgressKey("job", "task", "t", "down", "site-1")
ACTIVE = ProgressState.ACTIVE


def event(sequence: int, done: int, items: int = 0, state: ProgressState = ACTIVE, receiver: str = "site-1") -> ProgressEvent:
    return ProgressEvent("t", "r", receiver, sequence, done, None, items, state)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def update(tracker: ProgressTracker, one: ProgressEvent) -> ProgressRefusal | None:
    return tracker.update(one, job="job", task="task")


def test_growing_records_are_accepted_and_the_last_one_is_kept() -> None:
    tracker = ProgressTracker()
    for sequence, done in [(1, 0), (2, 0), (5, 10), (6, 10)]:
        assert update(tracker, event(sequence, done)) is None
    record = tracker.get(KEY)
    assert record is not None
    assert record.event == event(6, 10)


@pytest.mark.parametrize(
    ("second", "refusal"),
    [
        (event(5, 100, 10), ProgressRefusal.STALE_SEQUENCE),
        (event(4, 200, 10), ProgressRefusal.STALE_SEQUENCE),
        (event(6, 99, 10), ProgressRefusal.BYTES_REGRESSED),
        (event(6, 100, 9), ProgressRefusal.ITEMS_REGRESSED),
    ],
)
def test_a_record_that_goes_back_is_refused_and_changes_nothing(second: ProgressEvent, refusal: ProgressRefusal) -> None:
    tracker = ProgressTracker()
    first = event(5, 100, 10)
    update(tracker, first)
    assert update(tracker, second) is refusal
    record = tracker.get(KEY)
    assert record is not None
    assert record.event is first


@pytest.mark.parametrize("state", [ProgressState.COMPLETED, ProgressState.FAILED, ProgressState.ABORTED])
def test_a_terminal_record_never_changes(state: ProgressState) -> None:
    tracker = ProgressTracker()
    update(tracker, event(1, 1, state=state))
    assert update(tracker, event(2, 2)) is ProgressRefusal.TERMINAL
    assert update(tracker, event(3, 3, state=state)) is ProgressRefusal.TERMINAL


def test_receivers_and_directions_have_their_own_records() -> None:
    tracker = ProgressTracker()
    assert update(tracker, event(5, 5)) is None
    assert update(tracker, event(1, 1, receiver="site-2")) is None
    assert tracker.update(event(1, 1), job="job", task="task", direction="up") is None
    assert len(tracker.records()) == 3
    tracker.forget(KEY)
    assert tracker.get(KEY) is None


def test_a_transfer_stalls_only_when_its_counters_stand_still() -> None:
    clock = Clock()
    tracker = ProgressTracker(10.0, clock=clock)
    update(tracker, event(1, 0))
    for sequence in range(2, 12):
        clock.now += 1.5
        update(tracker, event(sequence, 0))
    assert tracker.stalled() == [KEY], "events without progress are not progress"
    update(tracker, event(20, 0, items=1))
    assert tracker.stalled() == []
    clock.now += 10.0
    assert tracker.stalled() == [KEY]
    update(tracker, event(21, 0, items=1, state=ProgressState.COMPLETED))
    assert tracker.stalled() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.sampled_from(list(ProgressState)))))
def test_whatever_comes_the_record_only_grows(events: list[tuple[int, int, int, ProgressState]]) -> None:
    tracker = ProgressTracker()
    before: ProgressEvent | None = None
    for sequence, done, items, state in events:
        one = event(sequence, done, items, state)
        refusal = update(tracker, one)
        record = tracker.get(KEY)
        assert record is not None
        now = record.event
        if before is not None:
            assert now.sequence >= before.sequence
            assert now.bytes_done >= before.bytes_done
            assert now.items_done >= before.items_done
            assert before.state is ACTIVE or now == before
        assert (refusal is None) == (now is one)
        before = now


def test_an_idle_timeout_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="idle_timeout"):
        ProgressTracker(0)
