"""The objects of one job. Invariant: names and addresses are in the Job, the secrets are in the Secret, and the Secret goes with the Job.

The Job is made suspended, so that its pod cannot start before its Secret is there; the Secret's owner is the Job, so that whatever
removes the Job removes both. Fields as in the Kubernetes API reference, batch/v1 and v1.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zcell.cell.endpoints import is_local
from zcell.launch.kubernetes.settings import KubernetesSettings, job_image, job_resources, quantities
from zcell.launch.spec import JobSpec
from zcell.security.credentials import Credentials, credentials_text

CONTAINER = "job"
PRIVATE = "/zcell/private"
"""Where the Secret is mounted."""
SCRATCH = "/zcell/scratch"
"""Where the job's own directory is made: empty, of the pod, gone with it."""
FILE = "credentials"
GROUP = 65532
"""The group that may read the Secret in the pod, when the job has no group of its own."""
MANAGED_BY, PARENT, LAUNCH, JOB = "app.kubernetes.io/managed-by", "zcell-parent", "zcell-launch", "zcell-job"
OWNER = "zcell-owner"
QUEUE = "kueue.x-k8s.io/queue-name"
"""Names the queue that admits a Job: https://kueue.sigs.k8s.io/docs/tasks/run/jobs/"""
STOP_MARGIN = 15
"""Seconds that a pod gets beyond its job's grace: the results are brought back in them."""
_MAX_NAME = 52
"""A Job's pods and its Secret get 11 more characters, and a name has 63."""
_NONCE = 10


@dataclass(frozen=True)
class Launch:
    """What one launch is called and by whom."""

    parent: str
    """Name of the parent's cell."""
    nonce: str
    """Tells this launch from every other: whether an object that is there already is ours."""
    owner: str
    """Which process launched it."""
    node: str
    """Name of the node's cell."""
    url: str
    python: str


def job_name(parent: str, spec: JobSpec) -> str:
    """Follows from parent, site and job id alone, and is a DNS label."""
    stem = re.sub(r"[^a-z0-9-]+", "-", f"{spec.site}-{spec.job_id}".lower()).strip("-")
    tail = hashlib.sha256(f"{parent}\0{spec.site}\0{spec.job_id}".encode()).hexdigest()[:10]
    return f"zcell-{stem[: _MAX_NAME - 17].strip('-')}-{tail}".replace("--", "-")


def secret_name(job: str, nonce: str) -> str:
    """Name of the Secret of one launch of the Job called `job`: the cluster removes that of an earlier launch in its own time."""
    return f"{job}-{nonce[:_NONCE]}"


def parent_label(parent: str) -> str:
    """The label of everything that belongs to one parent: a name of a cell may be too long for one."""
    return hashlib.sha256(parent.encode()).hexdigest()[:32]


def labels_of(launch: Launch, spec: JobSpec, more: Mapping[str, str]) -> dict[str, str]:
    """Ownership, for finding and for never touching what is somebody else's."""
    tail = hashlib.sha256(spec.job_id.encode()).hexdigest()[:16]
    job = spec.job_id if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?", spec.job_id) else tail
    ours = {MANAGED_BY: "zcell", PARENT: parent_label(launch.parent), LAUNCH: launch.nonce, JOB: job}
    return dict(more) | ours


def job_manifest(name: str, launch: Launch, spec: JobSpec, settings: KubernetesSettings) -> dict[str, Any]:
    """The Job. Raises `LaunchError` for what the job may not ask."""
    resources = job_resources(settings, spec)
    labels = labels_of(launch, spec, settings.labels)
    annotations = dict(settings.annotations) | {OWNER: launch.owner}
    job: dict[str, Any] = {
        "suspend": True,
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "ttlSecondsAfterFinished": settings.keep_seconds,
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": _pod(name, launch, spec, settings)},
    }
    if "time_limit" in resources:
        quantities({"time_limit": resources["time_limit"]}, settings.gpu_resource, f"job {spec.job_id}")
        job["activeDeadlineSeconds"] = math.ceil(resources["time_limit"])
    outer = labels | ({QUEUE: settings.queue} if settings.queue else {})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": outer, "annotations": annotations},
        "spec": job,
    }


def secret_manifest(job: Mapping[str, Any], owner: str, credentials: Credentials) -> dict[str, Any]:
    """The Secret of a Job that the cluster has made. `owner` says which process launched it."""
    metadata = job["metadata"]
    controller = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {
            "name": secret_name(metadata["name"], metadata["labels"][LAUNCH]),
            "labels": {key: metadata["labels"][key] for key in (MANAGED_BY, PARENT, LAUNCH, JOB)},
            "annotations": {OWNER: owner},
            "ownerReferences": [controller],
        },
        "data": {FILE: base64.b64encode(credentials_text(credentials).encode()).decode()},
    }


def _pod(name: str, launch: Launch, spec: JobSpec, settings: KubernetesSettings) -> dict[str, Any]:
    who: dict[str, Any] = {"fsGroup": GROUP if settings.run_as_group is None else settings.run_as_group}
    for field, value in (("runAsUser", settings.run_as_user), ("runAsGroup", settings.run_as_group)):
        if value is not None:
            who[field] = value
    if settings.run_as_user:
        who["runAsNonRoot"] = True
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(spec.grace) + STOP_MARGIN,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": who | {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(launch, spec, settings)],
        "volumes": [
            {"name": "private", "secret": {"secretName": secret_name(name, launch.nonce), "defaultMode": 0o400}},
            {"name": "scratch", "emptyDir": {}},
        ],
    }
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.pull_secrets]
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    return pod


def _container(launch: Launch, spec: JobSpec, settings: KubernetesSettings) -> dict[str, Any]:
    found = {name: value for name, value in job_resources(settings, spec).items() if name != "time_limit"}
    amounts = quantities(found, settings.gpu_resource, f"job {spec.job_id}")
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": job_image(settings, spec),
        "command": [launch.python, "-P", "-u", "-m", "zcell.launch.remote.node"],
        "args": [
            *("--parent", launch.url),
            *("--name", launch.node),
            *("--credentials", f"{PRIVATE}/{FILE}", "--group-readable"),
            *("--directory", SCRATCH, "--echo"),
            *([] if is_local(launch.url) else ["--insecure"]),
        ],
        # an image's user may have no home, and an id that no file of it knows
        "env": [{"name": "HOME", "value": SCRATCH}, {"name": "USER", "value": "zcell"}],
        "workingDir": SCRATCH,
        "volumeMounts": [
            {"name": "private", "mountPath": PRIVATE, "readOnly": True},
            {"name": "scratch", "mountPath": SCRATCH},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if settings.pull_policy:
        container["imagePullPolicy"] = settings.pull_policy
    if amounts:
        container["resources"] = {"requests": dict(amounts), "limits": dict(amounts)}
    return container
