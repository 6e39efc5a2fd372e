"""Whether a cluster will take jobs, as far as asking tells. Invariant: nothing is made, and what is missing is named with its cure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from zcell.launch.checkup import Check
from zcell.launch.kubernetes.api import Api, ApiError
from zcell.launch.kubernetes.manifest import MANAGED_BY, OWNER

NEEDED = (
    ("batch", "jobs", "", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "pods", "", ("list", "watch", "delete")),
    ("", "pods", "log", ("get",)),
    ("", "secrets", "", ("create",)),
)
"""API group, resource, its part, and what the launcher does with it."""
USEFUL = (("", "events", "", ("list",)),)
"""What only explains more: why a pod cannot be made."""
LEFT = "nothing is left"
PAGE = "docs/howto-kubernetes.md"


def examine(api: Api, source: str) -> Iterator[Check]:
    """The checks, in the order in which their failures explain each other. `source` says where the configuration came from."""
    yield Check("client", f"kubernetes {version('kubernetes')}")
    yield Check("configuration", f"{source}: {api.server}, namespace {api.namespace}")
    try:
        found = api.version()
    except ApiError as error:
        yield Check("cluster", str(error), "link", _reach_advice(error))
        return
    yield Check("cluster", f"version {found}")
    for group, resource, part, verbs in NEEDED:
        yield _permission(api, group, resource, part, verbs, needed=True)
    for group, resource, part, verbs in USEFUL:
        yield _permission(api, group, resource, part, verbs, needed=False)


def _permission(api: Api, group: str, resource: str, part: str, verbs: tuple[str, ...], *, needed: bool) -> Check:
    what = f"{resource}/{part}" if part else resource
    name = f"may use {what}"
    try:
        answers = {verb: api.may(verb, group, resource, part) for verb in verbs}
    except ApiError as error:
        return Check(name, f"the cluster does not say: {error}", "link", _reach_advice(error))
    missing = [verb for verb, (allowed, _) in answers.items() if not allowed]
    if not missing:
        return Check(name, ", ".join(verbs))
    why = next((reason for verb, (_, reason) in answers.items() if verb in missing and reason), "")
    text = f"not allowed in namespace {api.namespace}: {', '.join(missing)}{f' ({why})' if why else ''}"
    whole = f"{what}.{group}" if group else what
    if not needed:
        return Check(name, f"{text}; jobs run, but why a pod cannot be made is not shown", advice=f"see {PAGE}, Permissions")
    grant = f"kubectl -n {api.namespace} create role zcell --verb={','.join(verbs)} --resource={whole}"
    return Check(name, text, "link", f"have it granted, as with {grant}; see {PAGE}, Permissions")


def _reach_advice(error: ApiError) -> str:
    match error.status:
        case 0:
            return "try kubectl version; for another cluster set kubeconfig and context"
        case 401:
            return "the login has expired or is not one of this cluster: log in again, or choose another context"
        case 403:
            return f"this user may not ask: see {PAGE}, Permissions"
    return "try kubectl version; is this the address of a cluster's API?"


def left_of(api: Api, owner: str) -> Check:
    """Whether the cluster has anything of the launcher `owner`. Raises `ApiError`."""
    selector = f"{MANAGED_BY}=zcell"
    found = [f"job/{_name(job)}" for job in api.list_jobs(selector) if _is_of(job, owner)]
    found += [f"pod/{_name(pod)}" for pod in api.list_pods(selector) if _is_of(pod, owner)]
    nothing = "no Job, no pod, no Secret"
    try:
        found += [f"secret/{_name(secret)}" for secret in api.list_secrets(selector) if _is_of(secret, owner)]
    except ApiError as error:
        if error.status != 403:
            raise
        nothing = "no Job, no pod; Secrets may not be listed here, and go with their Jobs"
    if not found:
        return Check(LEFT, nothing)
    return Check(LEFT, f"the cluster still has {', '.join(found)}", "verification", _removal(api, found))


def _removal(api: Api, found: list[str]) -> str:
    return f"look why with kubectl -n {api.namespace} get {' '.join(found)} -o yaml; kubectl delete removes them"


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _is_of(item: Mapping[str, Any], owner: str) -> bool:
    return bool((item["metadata"].get("annotations") or {}).get(OWNER) == owner)
