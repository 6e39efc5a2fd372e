"""The decision table of a result's delivery, row by row, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.agent.delivery import DeliveryWait, Verdict

IDLE = 600.0
DELIVERED, FAILED, PENDING = Verdict.DELIVERED, Verdict.FAILED, Verdict.PENDING


def _wait(refs: int = 1, receivers: list[str] | int = 1, idle: float | None = IDLE) -> DeliveryWait:
    wait = DeliveryWait(0.0, idle, complete_timeout=1800.0, grace=2.0)
    names = ["site-1"] if receivers == 1 else receivers
    wait.offered("tx", [f"r{n}" for n in range(refs)], names, 0.0)
    return wait


def _at(wait: DeliveryWait, now: float) -> Verdict:
    return wait.decide(now).verdict


def test_nothing_by_reference_is_delivered_at_once() -> None:
    assert _at(DeliveryWait(0.0, IDLE), 0.0) is DELIVERED


def test_completed_and_reported_is_delivered() -> None:
    wait = _wait()
    wait.progress("tx", "r0", "site-1", 10, "ACTIVE", 1.0)
    assert _at(wait, 1.0) is PENDING
    wait.progress("tx", "r0", "site-1", 20, "COMPLETED", 2.0)
    assert _at(wait, 2.0) is PENDING
    wait.done("tx", "FINISHED", 2.5)
    assert _at(wait, 2.5) is DELIVERED


def test_every_pair_of_ref_and_receiver_counts() -> None:
    wait = _wait(refs=2, receivers=["a", "b"])
    pairs = [(r, s) for r in ("r0", "r1") for s in ("a", "b")]
    for number, (ref, receiver) in enumerate(pairs):
        assert _at(wait, 10.0) is PENDING
        wait.progress("tx", ref, receiver, 5, "COMPLETED", 10.0 + number)
    wait.done("tx", "FINISHED", 20.0)
    assert _at(wait, 20.0) is DELIVERED


def test_callback_first_is_delivered_without_the_last_progress() -> None:
    wait = _wait(refs=2)
    wait.progress("tx", "r0", "site-1", 10, "ACTIVE", 1.0)
    wait.done("tx", "FINISHED", 2.0)
    assert _at(wait, 2.0) is DELIVERED


def test_callback_late_is_delivered_after_a_short_grace() -> None:
    wait = _wait()
    wait.progress("tx", "r0", "site-1", 20, "COMPLETED", 5.0)
    assert _at(wait, 5.0) is PENDING
    assert wait.next_check(5.0) == 7.0
    assert _at(wait, 6.9) is PENDING
    assert _at(wait, 7.0) is DELIVERED
    wait.done("tx", "TIMEOUT", 8.0)
    assert _at(wait, 8.0) is DELIVERED


@pytest.mark.parametrize("status", ["TIMEOUT", "DELETED", "ABORTED"])
def test_whatever_the_callback_says_completed_is_delivered(status: str) -> None:
    wait = _wait()
    wait.progress("tx", "r0", "site-1", 20, "COMPLETED", 5.0)
    wait.done("tx", status, 5.5)
    assert _at(wait, 5.5) is DELIVERED


@pytest.mark.parametrize(("state", "text"), [("FAILED", "failed"), ("ABORTED", "aborted")])
def test_a_failed_or_aborted_transfer_fails_at_once_and_is_named(state: str, text: str) -> None:
    wait = _wait(refs=2, receivers=["a", "b"])
    wait.progress("tx", "r0", "a", 20, "COMPLETED", 1.0)
    wait.progress("tx", "r1", "b", 3, state, 2.0)
    decision = wait.decide(2.0)
    assert decision.verdict is FAILED
    assert all(word in decision.reason for word in (text, "r1", "b's", "tx"))


@pytest.mark.parametrize("status", ["TIMEOUT", "DELETED", "ABORTED"])
def test_a_transaction_that_ends_with_pairs_missing_fails(status: str) -> None:
    wait = _wait(refs=2)
    wait.progress("tx", "r0", "site-1", 20, "COMPLETED", 1.0)
    wait.done("tx", status, 2.0)
    assert _at(wait, 2.0) is FAILED
    assert status in wait.decide(2.0).reason


def test_a_transfer_that_moves_is_waited_for_however_long_it_takes() -> None:
    wait = _wait()
    for step in range(100):
        wait.progress("tx", "r0", "site-1", step + 1, "ACTIVE", step * 500.0)
        assert _at(wait, step * 500.0 + 499) is PENDING


def test_stalled_is_failed_after_the_idle_timeout_even_while_events_come() -> None:
    wait = _wait()
    wait.progress("tx", "r0", "site-1", 10, "ACTIVE", 100.0)
    assert wait.next_check(100.0) == 700.0
    for now in (300.0, 500.0, 699.0):
        wait.progress("tx", "r0", "site-1", 10, "ACTIVE", now)
        assert _at(wait, now) is PENDING
    decision = wait.decide(700.0)
    assert decision.verdict is FAILED
    assert "stalled" in decision.reason


def test_one_stalled_receiver_fails_the_result_though_another_moves() -> None:
    wait = _wait(receivers=["fast", "stuck"])
    wait.progress("tx", "r0", "stuck", 1, "ACTIVE", 0.0)
    for now in range(0, 600, 50):
        wait.progress("tx", "r0", "fast", now + 1, "ACTIVE", float(now))
        assert _at(wait, float(now)) is PENDING
    assert "stuck" in wait.decide(600.0).reason


def test_never_started_is_failed_after_the_idle_timeout() -> None:
    wait = _wait()
    assert wait.next_check(0.0) == IDLE
    assert _at(wait, 599.0) is PENDING
    decision = wait.decide(600.0)
    assert decision.verdict is FAILED
    assert "never started" in decision.reason
    assert "site-1" in decision.reason


def test_a_pair_may_wait_its_turn_while_others_move() -> None:
    wait = _wait(refs=2)
    for now in (0.0, 500.0, 1000.0):
        wait.progress("tx", "r0", "site-1", int(now) + 1, "ACTIVE", now)
    assert _at(wait, 1500.0) is PENDING
    wait.progress("tx", "r0", "site-1", 2000, "COMPLETED", 1550.0)
    assert _at(wait, 2149.0) is PENDING
    assert "never started" in wait.decide(2150.0).reason


def test_abandoned_before_completion_is_failed() -> None:
    wait = _wait()
    wait.progress("tx", "r0", "site-1", 10, "ACTIVE", 1.0)
    wait.abandon("the agent was stopped")
    decision = wait.decide(1.0)
    assert decision.verdict is FAILED
    assert "the agent was stopped" in decision.reason


def test_abandoned_after_completion_is_delivered_though_the_callback_is_missing() -> None:
    wait = _wait()
    wait.progress("tx", "r0", "site-1", 10, "COMPLETED", 1.0)
    assert _at(wait, 1.0) is PENDING
    wait.abandon("the agent was stopped")
    assert _at(wait, 1.0) is DELIVERED


def test_an_ambiguous_id_changes_nothing_and_is_counted() -> None:
    wait = _wait()
    wait.offered("other", ["r0"], ["site-1"], 0.0)
    wait.progress(None, "r0", "site-1", 10, "COMPLETED", 1.0)
    assert wait.ambiguous == 1
    assert _at(wait, 599.0) is PENDING
    assert _at(wait, 600.0) is FAILED


def test_an_event_without_transaction_counts_where_only_one_fits() -> None:
    wait = _wait()
    wait.progress(None, "r0", "site-1", 10, "COMPLETED", 1.0)
    wait.done("tx", "FINISHED", 1.0)
    assert _at(wait, 1.0) is DELIVERED
    assert wait.ambiguous == 0


@pytest.mark.parametrize(("tx", "ref", "who"), [("tx", "r0", "stranger"), ("tx", "other", "site-1"), ("no", "r0", "site-1")])
def test_an_unexpected_pair_changes_nothing_and_is_counted(tx: str, ref: str, who: str) -> None:
    wait = _wait()
    wait.progress(tx, ref, who, 10, "FAILED", 599.0)
    wait.done("unknown", "FINISHED", 599.0)
    assert wait.unexpected == 2
    assert _at(wait, 599.0) is PENDING
    assert _at(wait, 600.0) is FAILED


def test_unnamed_receivers_are_counted() -> None:
    wait = _wait(receivers=2)
    wait.progress("tx", "r0", "a", 10, "COMPLETED", 1.0)
    assert _at(wait, 1.0) is PENDING
    wait.progress("tx", "r0", "b", 10, "COMPLETED", 2.0)
    wait.progress("tx", "r0", "c", 10, "ACTIVE", 2.0)
    wait.done("tx", "FINISHED", 3.0)
    assert _at(wait, 3.0) is DELIVERED
    assert wait.unexpected == 1


def test_without_idle_timeout_a_fixed_wait_warns_and_succeeds() -> None:
    wait = _wait(idle=None)
    assert wait.next_check(0.0) == 1800.0
    assert _at(wait, 1799.0) is PENDING
    decision = wait.decide(1800.0)
    assert decision.verdict is DELIVERED
    assert decision.warning


def test_without_idle_timeout_a_failed_transfer_still_fails() -> None:
    wait = _wait(idle=None)
    wait.progress("tx", "r0", "site-1", 10, "FAILED", 1.0)
    assert _at(wait, 1.0) is FAILED


def test_a_pair_that_ended_does_not_change() -> None:
    wait = _wait()
    wait.progress("tx", "r0", "site-1", 10, "COMPLETED", 1.0)
    wait.progress("tx", "r0", "site-1", 10, "FAILED", 1.5)
    wait.done("tx", "FINISHED", 2.0)
    assert _at(wait, 2.0) is DELIVERED
    assert wait.next_check(2.0) is None


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["progress", "done", "abandon"]),
        st.sampled_from(["tx", "other", None]),
        st.sampled_from(["r0", "r1"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 5),
        st.sampled_from(["ACTIVE", "COMPLETED", "FAILED", "ABORTED", "FINISHED", "TIMEOUT"]),
        st.floats(0.0, 300.0),
    ),
    max_size=30,
)


@given(_EVENTS, st.sampled_from([IDLE, None]))
def test_every_wait_ends_and_its_verdict_never_changes(
    events: list[tuple[str, str | None, str, str, int, str, float]], idle: float | None
) -> None:
    wait = DeliveryWait(0.0, idle)
    wait.offered("tx", ["r0", "r1"], ["a", "b"], 0.0)
    wait.offered("other", ["r0"], 1, 0.0)
    now, seen = 0.0, PENDING
    for kind, tx, ref, who, count, state, gap in events:
        now += gap
        if kind == "progress":
            wait.progress(tx, ref, who, count, state if state not in ("FINISHED", "TIMEOUT") else "ACTIVE", now)
        elif kind == "done" and tx is not None:
            wait.done(tx, state if state in ("FINISHED", "TIMEOUT", "ABORTED") else "DELETED", now)
        elif kind == "abandon":
            wait.abandon("enough")
        verdict = _at(wait, now)
        assert seen in (PENDING, verdict)
        seen = verdict
    for _ in range(20):
        at = wait.next_check(now)
        if at is None:
            break
        assert at > now or _at(wait, at) is not PENDING
        now = max(now, at)
        wait.decide(now)
    assert _at(wait, now) is not PENDING
