"""What a Job and its pod say. Invariant: a state that is only slow is not an end, and one that nothing cures is not waited for.

Fields and reasons as in the Kubernetes API reference and the documentation of pods' lifecycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zcell.launch.kubernetes.manifest import CONTAINER
from zcell.launch.remote.course import EngineState, EngineView, Outcome
from zcell.launch.remote.refusal import REASONS, Refusal
from zcell.launch.spec import JobReturnCode

Object = Mapping[str, Any]

HOPELESS = {"InvalidImageName", "ErrImageNeverPull"}
"""What no waiting cures."""
PULL = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
START = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
LOST = {
    "Evicted": "its node was short of something and evicted it",
    "NodeLost": "its node was lost",
    "NodeShutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "Preempting": "a pod of higher priority took its place",
    "Preempted": "a pod of higher priority took its place",
    "DeadlineExceeded": "its time limit was reached; ask for more with the resource time_limit",
    "UnexpectedAdmissionError": "its node could not take it",
    "OutOfcpu": "its node had no room for it after all",
    "OutOfmemory": "its node had no room for it after all",
    "Shutdown": "its node was shut down",
}


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start."""

    kind: str
    """``image``, ``start``, ``unschedulable``, ``suspended``, ``quota``, ``refused`` or ``hopeless``."""
    text: str


def view_of(job: Object, pod: Object | None) -> EngineView:
    """The engine's view of a job from what the cluster last said of its two objects."""
    condition = _condition(job, "Complete", "Failed")
    if pod is not None:
        phase = _status(pod).get("phase")
        if phase in ("Succeeded", "Failed"):
            return _pod_end(job, pod)
        if phase == "Running" or _terminated(pod) is not None:
            return EngineView(EngineState.RUNNING)
    if condition is not None:
        return _job_end(condition)
    trouble = trouble_of(job, pod)
    return EngineView(EngineState.PENDING, reason=trouble.text if trouble else "")


def trouble_of(job: Object, pod: Object | None) -> Trouble | None:
    """What keeps the pod from starting, None when it is only on its way."""
    if pod is None:
        # the condition alone lags behind the launcher, which suspends a Job until its Secret is there
        suspended = job["spec"].get("suspend") and _condition(job, "Suspended") is not None
        return Trouble("suspended", "suspended: it waits to be admitted") if suspended else None
    for status in _status(pod).get("containerStatuses") or ():
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason") or "", waiting.get("message") or ""
        for kind, reasons in (("hopeless", HOPELESS), ("image", PULL), ("start", START)):
            if reason in reasons:
                what = "the image cannot be pulled" if kind != "start" else "its container cannot be made"
                return Trouble(kind, _sentence(what, reason, message))
    for condition in _conditions(pod):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            reason, message = condition.get("reason") or "", condition.get("message") or ""
            return Trouble("unschedulable", _sentence("no node has room for it", reason, message))
    return None


def no_pod_because(events: Iterable[Object]) -> Trouble | None:
    """Why a Job has no pod yet, from the warnings about it; None when they do not say."""
    failed = [event for event in events if event.get("reason") == "FailedCreate"]
    last = max(failed, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None)
    if last is None:
        return None
    message = str(last.get("message") or "")
    if "exceeded quota" in message:
        return Trouble("quota", _sentence("a quota leaves no room for its pod", "FailedCreate", message))
    return Trouble("refused", _sentence("the cluster refuses its pod", "FailedCreate", message))


def _sentence(what: str, reason: str, message: str) -> str:
    return f"{what} ({reason}{': ' + message[:500] if message else ''})"


def _pod_end(job: Object, pod: Object) -> EngineView:
    status = _status(pod)
    reason = status.get("reason") or ""
    disrupted = _condition(pod, "DisruptionTarget")
    terminated = _terminated(pod)
    code = terminated.get("exitCode") if terminated else None
    failed = _condition(job, "Failed")
    if failed is not None and failed.get("reason") == "DeadlineExceeded":
        reason = "DeadlineExceeded"
    if reason in LOST or disrupted is not None:
        detail = reason or (disrupted or {}).get("reason") or ""
        message = status.get("message") or (disrupted or {}).get("message") or ""
        text = _sentence(LOST.get(detail, "the cluster ended its pod"), detail, message)
        return _ended(JobReturnCode.ABORTED, text, code, by_engine=True)
    if terminated is None or code is None:
        return _ended(
            JobReturnCode.ABORTED, _sentence("its pod ended without a word", reason, status.get("message") or ""), None
        )
    if terminated.get("reason") == "OOMKilled":
        text = "it used more memory than it asked for (OOMKilled); ask for more with the resource memory"
        return _ended(JobReturnCode.EXECUTION_ERROR, text, code, by_engine=True)
    if code in REASONS:
        return _ended(JobReturnCode.EXECUTION_ERROR, REASONS[Refusal(code)], code)
    deleted = bool(pod["metadata"].get("deletionTimestamp"))
    if deleted and code:
        return _ended(JobReturnCode.ABORTED, "its pod was deleted", code, by_engine=True)
    outcome = JobReturnCode.from_exit_code(code)
    text = terminated.get("message") or f"its node ended with code {code}"
    return _ended(outcome, "" if outcome is JobReturnCode.SUCCESS else text, code)


def _job_end(condition: Object) -> EngineView:
    """The Job has ended and its pod is not there any more, or never was."""
    reason, message = condition.get("reason") or "", condition.get("message") or ""
    if condition.get("type") == "Complete":
        return _ended(JobReturnCode.SUCCESS, "", 0)
    if reason == "DeadlineExceeded":
        return _ended(JobReturnCode.ABORTED, LOST["DeadlineExceeded"], None, by_engine=True)
    return _ended(JobReturnCode.ABORTED, _sentence("its pod is gone", reason, message), None, by_engine=True)


def _ended(code: JobReturnCode, reason: str, exit_code: int | None, *, by_engine: bool = False) -> EngineView:
    return EngineView(EngineState.ENDED, outcome=Outcome(code, reason, exit_code), by_engine=by_engine)


def _status(item: Object) -> Object:
    return item.get("status") or {}


def _conditions(item: Object) -> Iterator[Object]:
    yield from _status(item).get("conditions") or ()


def _condition(item: Object, *kinds: str) -> Object | None:
    return next((c for c in _conditions(item) if c.get("type") in kinds and c.get("status") == "True"), None)


def _terminated(pod: Object) -> Object | None:
    for status in _status(pod).get("containerStatuses") or ():
        if status.get("name") == CONTAINER:
            found: Object | None = (status.get("state") or {}).get("terminated")
            return found
    return None
