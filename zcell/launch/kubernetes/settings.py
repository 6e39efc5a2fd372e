"""What a job asks of Kubernetes. Invariant: what is not the launcher's to set is refused here, before any request is made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from zcell.errors import LaunchError
from zcell.launch.spec import JobSpec

PULL_POLICIES = ("IfNotPresent", "Always", "Never")
RESOURCES = {
    "cpus": "number above 0, or a quantity such as 500m: CPUs of the job",
    "memory": "bytes, or a quantity such as 4Gi: memory of the job",
    "gpus": "whole number from 0: GPUs of the job",
    "num_of_gpus": "the same as gpus",
    "time_limit": "seconds: the job's limit, its time in the queue of the node included",
}
OWN_SETTINGS = {
    **RESOURCES,
    "image": "image that has python with zcell",
    "namespace": "where the jobs are made (default: the one of the context, else default)",
    "kubeconfig": "file that says how to reach the cluster (default: as kubectl, or from inside a pod)",
    "context": "context of that file (default: its current one)",
    "pull_policy": "IfNotPresent, Always or Never (default: the cluster's)",
    "pull_secrets": "list of names of Secrets for pulling the image",
    "service_account": "service account of the pod; its token is not mounted",
    "node_selector": "mapping of labels that the pod's node must have",
    "tolerations": "list of tolerations, as in a pod's spec",
    "labels": "mapping of more labels for Job and pod",
    "annotations": "mapping of more annotations for Job and pod",
    "run_as_user": "user id in the pod (default: the image's)",
    "run_as_group": "group id in the pod",
    "gpu_resource": "name of the GPU resource (default nvidia.com/gpu)",
    "queue": "name of a Kueue LocalQueue that admits the job",
    "image_limit": "seconds that pulling the image may fail before the job is ended (default 120)",
    "unschedulable_limit": "seconds that no node, or no quota, may have room before the job is ended (default: it waits)",
    "keep_seconds": "seconds after which the cluster removes a Job that nobody removed (default 3600)",
}
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?\Z")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,500}\Z")
OURS = ("zcell", "app.kubernetes.io/", "batch.kubernetes.io/", "job-name", "controller-uid", "kueue.x-k8s.io/")
"""Labels and annotations that start so are the launcher's, or the cluster's, to set."""


@dataclass(frozen=True)
class KubernetesSettings:
    """The launcher's settings, checked."""

    image: str = ""
    namespace: str = ""
    kubeconfig: str = ""
    context: str = ""
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    run_as_user: int | None = None
    run_as_group: int | None = None
    gpu_resource: str = "nvidia.com/gpu"
    queue: str = ""
    image_limit: float = 120.0
    unschedulable_limit: float = math.inf
    keep_seconds: int = 3600
    resources: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> KubernetesSettings:
        """Raises `LaunchError` naming the setting and what was expected."""
        taken: dict[str, Any] = {}
        for name, (check, expected) in _CHECKS.items():
            if settings.get(name) is None:
                continue
            if not check(settings[name]):
                raise LaunchError(f"the kubernetes launcher's setting {name} must be {expected}, got {settings[name]!r}")
            value = settings[name]
            taken[name] = (
                tuple(value) if isinstance(value, list | tuple) else dict(value) if isinstance(value, Mapping) else value
            )
        resources = {name: settings[name] for name in RESOURCES if name in settings}
        parsed = cls(**taken, resources=resources)
        quantities(resources, parsed.gpu_resource, "the kubernetes launcher")
        return parsed


def job_image(settings: KubernetesSettings, spec: JobSpec) -> str:
    """The job's image. Raises `LaunchError` that names the three places to set it."""
    if settings.image:
        return settings.image
    raise LaunchError(
        f"job {spec.job_id} names no image. Set it in one of three places: launcher_spec[{spec.site!r}]['kubernetes']['image'], "
        "launcher_spec['default']['kubernetes']['image'], or the kubernetes launcher's setting image (zcell run --image)"
    )


def job_resources(settings: KubernetesSettings, spec: JobSpec) -> dict[str, Any]:
    """What `spec` asks for: its own resources over those of its site over the launcher's."""
    site = {n: v for n, v in spec.resource_spec.get(spec.site, {}).items() if not isinstance(v, Mapping)}
    return {**settings.resources, **site, **spec.resources}


def quantities(resources: Mapping[str, Any], gpu_resource: str, who: str) -> dict[str, str]:
    """A container's resources, without the time limit. Raises `LaunchError` naming `who` asks for what cannot be."""
    unknown = sorted(resources.keys() - RESOURCES.keys())
    if unknown:
        raise LaunchError(f"{who}: kubernetes has no resource {unknown[0]!r}; it has {', '.join(RESOURCES)}")
    found = {}
    for name, value in resources.items():
        good = not isinstance(value, bool) and {
            "cpus": lambda v: _number(v) or _quantity(v),
            "memory": lambda v: (isinstance(v, int) and v > 0) or _quantity(v),
            "gpus": lambda v: isinstance(v, int) and v >= 0,
            "num_of_gpus": lambda v: isinstance(v, int) and v >= 0,
            "time_limit": _number,
        }[name](value)
        if not good:
            raise LaunchError(f"{who}: the resource {name} must be a {RESOURCES[name]}, got {value!r}")
        key = {"cpus": "cpu", "memory": "memory", "gpus": gpu_resource, "num_of_gpus": gpu_resource}.get(name)
        if key is not None and not (key == gpu_resource and value == 0):
            found[key] = str(value)
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _quantity(value: Any) -> bool:
    return isinstance(value, str) and bool(_QUANTITY.match(value)) and value.strip("0.") != ""


def _matches(pattern: re.Pattern[str]) -> Any:
    return lambda value: isinstance(value, str) and bool(pattern.match(value))


def _path(value: Any) -> bool:
    return isinstance(value, str) and PurePosixPath(value).is_absolute()


def _names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, str) and _DNS_NAME.match(v) for v in value)


def _identity(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _labels(value: Any) -> bool:
    return _texts(value) and all(_LABEL_VALUE.match(v) for v in value.values())


def _texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and _LABEL_KEY.match(k) and isinstance(v, str) for k, v in value.items()
    )


def _own(check: Any) -> Any:
    return lambda value: check(value) and not any(key.startswith(OURS) for key in value)


_CHECKS: dict[str, tuple[Any, str]] = {
    "image": (_matches(_IMAGE), "the name of an image"),
    "namespace": (_matches(_DNS_LABEL), "the name of a namespace"),
    "kubeconfig": (_path, "an absolute path"),
    "context": (lambda v: isinstance(v, str), "the name of a context"),
    "pull_policy": (lambda v: v in PULL_POLICIES, " or ".join(PULL_POLICIES)),
    "pull_secrets": (_names, "a list of names of Secrets"),
    "service_account": (_matches(_DNS_NAME), "the name of a service account"),
    "node_selector": (_labels, "a mapping of labels to values"),
    "tolerations": (lambda v: isinstance(v, list | tuple) and all(isinstance(t, Mapping) for t in v), "a list of tolerations"),
    "labels": (_own(_labels), f"a mapping of labels to values, none of which starts with {', '.join(OURS)}"),
    "annotations": (_own(_texts), f"a mapping of names to texts, none of which starts with {', '.join(OURS)}"),
    "run_as_user": (_identity, "a user id"),
    "run_as_group": (_identity, "a group id"),
    "gpu_resource": (_matches(_LABEL_KEY), "the name of a resource, such as nvidia.com/gpu"),
    "queue": (_matches(_DNS_NAME), "the name of a LocalQueue"),
    "image_limit": (_number, "a number of seconds above 0"),
    "unschedulable_limit": (_number, "a number of seconds above 0"),
    "keep_seconds": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "a whole number of seconds from 0"),
}
