"""What a Job and its pod say becomes one view: slow is not an end, hopeless is not waited for."""

from __future__ import annotations

from typing import Any

import pytest

from zcell.launch import JobReturnCode
from zcell.launch.kubernetes.view import no_pod_because, trouble_of, view_of
from zcell.launch.remote import EngineState

Item = dict[str, Any]
JOB: Item = {"metadata": {"name": "j"}, "spec": {}, "status": {}}


def job(kind: str, reason: str = "") -> Item:
    return JOB | {"status": {"conditions": [{"type": kind, "status": "True", "reason": reason}]}}


def pod(phase: str, state: Item | None = None, *conditions: Item, metadata: Item | None = None, **status: Any) -> Item:
    statuses = [{"name": "job", "state": state}] if state else []
    whole = {"phase": phase, "containerStatuses": statuses, "conditions": list(conditions)} | status
    return {"metadata": metadata or {"name": "j-x"}, "status": whole}


def ended(code: int, **more: Any) -> Item:
    return {"terminated": {"exitCode": code} | more}


def waiting(reason: str) -> Item:
    return {"waiting": {"reason": reason, "message": "in the cluster's words"}}


@pytest.mark.parametrize(
    ("job", "pod", "state"),
    [
        (JOB, None, EngineState.PENDING),
        (job("Suspended"), None, EngineState.PENDING),
        (JOB, {"metadata": {"name": "j-x"}}, EngineState.PENDING),
        (JOB, pod("Pending", waiting("ContainerCreating")), EngineState.PENDING),
        (JOB, pod("Running", {"running": {}}), EngineState.RUNNING),
        (JOB, pod("Unknown"), EngineState.PENDING),
        (JOB, pod("Running", ended(0)), EngineState.RUNNING),
        (job("Failed", "BackoffLimitExceeded"), pod("Running", {"running": {}}), EngineState.RUNNING),
    ],
)
def test_what_may_still_come_is_no_end(job: Item, pod: Item | None, state: EngineState) -> None:
    view = view_of(job, pod)
    assert view.state is state
    assert view.outcome is None


DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "more urgent"}


@pytest.mark.parametrize(
    ("job", "pod", "code", "exit_code", "text"),
    [
        (JOB, pod("Succeeded", ended(0)), JobReturnCode.SUCCESS, 0, ""),
        (JOB, pod("Failed", ended(3)), JobReturnCode.EXECUTION_ERROR, 3, "ended with code 3"),
        (JOB, pod("Failed", ended(9)), JobReturnCode.ABORTED, 9, "ended with code 9"),
        (JOB, pod("Failed", ended(123)), JobReturnCode.EXECUTION_ERROR, 123, "could not reach the parent"),
        (JOB, pod("Failed", ended(137, reason="OOMKilled")), JobReturnCode.EXECUTION_ERROR, 137, "memory"),
        (JOB, pod("Failed", ended(137), reason="Evicted"), JobReturnCode.ABORTED, 137, "evicted it"),
        (JOB, pod("Failed", None, reason="NodeLost"), JobReturnCode.ABORTED, None, "node was lost"),
        (JOB, pod("Failed", ended(143), DISRUPTED), JobReturnCode.ABORTED, 143, "PreemptionByScheduler: more urgent"),
        (JOB, pod("Failed"), JobReturnCode.ABORTED, None, "without a word"),
        (job("Failed", "DeadlineExceeded"), pod("Failed", ended(143)), JobReturnCode.ABORTED, 143, "time limit"),
        (job("Failed", "DeadlineExceeded"), None, JobReturnCode.ABORTED, None, "time limit"),
        (job("Failed", "BackoffLimitExceeded"), None, JobReturnCode.ABORTED, None, "its pod is gone"),
        (job("Complete"), None, JobReturnCode.SUCCESS, 0, ""),
        (
            JOB,
            pod("Failed", ended(143), metadata={"name": "j-x", "deletionTimestamp": "2026-01-01T00:00:00Z"}),
            JobReturnCode.ABORTED,
            143,
            "deleted",
        ),
    ],
)
def test_an_end_says_why(job: Item, pod: Item | None, code: JobReturnCode, exit_code: int | None, text: str) -> None:
    view = view_of(job, pod)
    assert view.state is EngineState.ENDED
    assert view.outcome is not None
    assert (view.outcome.code, view.outcome.exit_code) == (code, exit_code)
    assert text in view.outcome.reason
    assert bool(view.outcome.reason) == bool(text)


@pytest.mark.parametrize(
    ("pod", "kind"),
    [
        (pod("Pending", waiting("ErrImagePull")), "image"),
        (pod("Pending", waiting("ImagePullBackOff")), "image"),
        (pod("Pending", waiting("InvalidImageName")), "hopeless"),
        (pod("Pending", waiting("ErrImageNeverPull")), "hopeless"),
        (pod("Pending", waiting("CreateContainerConfigError")), "start"),
        (pod("Pending", None, {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}), "unschedulable"),
        (pod("Pending", None, {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}), "unschedulable"),
    ],
)
def test_what_keeps_a_pod_waiting_is_told_apart(pod: Item, kind: str) -> None:
    trouble = trouble_of(JOB, pod)
    assert trouble is not None
    assert trouble.kind == kind
    assert view_of(JOB, pod).reason == trouble.text


@pytest.mark.parametrize("pod", [None, pod("Pending"), pod("Pending", waiting("ContainerCreating")), {"metadata": {}}])
def test_a_pod_on_its_way_is_in_no_trouble(pod: Item | None) -> None:
    assert trouble_of(JOB, pod) is None


def test_a_job_waits_to_be_admitted_only_while_it_is_suspended() -> None:
    suspended = job("Suspended")
    assert trouble_of(suspended, None) is None, "the condition is of before"
    trouble = trouble_of(suspended | {"spec": {"suspend": True}}, None)
    assert trouble is not None
    assert trouble.kind == "suspended"


def event(message: str, last: str, reason: str = "FailedCreate") -> Item:
    return {"reason": reason, "message": message, "lastTimestamp": last}


def test_the_last_word_of_events_says_why_there_is_no_pod() -> None:
    assert no_pod_because([]) is None
    assert no_pod_because([event("x", "1", "SuccessfulCreate")]) is None
    refused = event('pods "j-x" is forbidden: violates PodSecurity "restricted:latest"', "2026-01-01T00:00:01Z")
    quota = event('pods "j-x" is forbidden: exceeded quota: team', "2026-01-01T00:00:02Z")
    trouble = no_pod_because([refused])
    assert trouble is not None
    assert trouble.kind == "refused"
    assert "PodSecurity" in trouble.text
    trouble = no_pod_because([quota, refused])
    assert trouble is not None
    assert trouble.kind == "quota"
    assert "exceeded quota: team" in trouble.text
