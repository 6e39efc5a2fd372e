"""Objects of a stand-in for a cluster. Invariant: every change has a version of its own, and watches see all of them in order.

No cluster can run where this project is tested. What is here follows the API concepts and the reference of Kubernetes; what comes
in is checked with the models that the official client generates from the published OpenAPI description, which refuse unknown fields.
"""

from __future__ import annotations

import copy
import datetime
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import kubernetes
from pydantic import ValidationError

Object = dict[str, Any]
MODELS: dict[str, Any] = {
    "jobs": kubernetes.client.V1Job,
    "pods": kubernetes.client.V1Pod,
    "secrets": kubernetes.client.V1Secret,
    "events": kubernetes.client.CoreV1Event,
}
KINDS = {"jobs": "Job", "pods": "Pod", "secrets": "Secret", "events": "Event"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")


class Refused(Exception):
    """A request that the API does not take."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All objects of one namespace, and the history that watches follow."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._objects: dict[tuple[str, str], Object] = {}
        self._history: list[tuple[int, str, str, Object]] = []
        self._version = 100
        self._oldest = 100
        self.requests: list[tuple[str, Object]] = []
        """What was asked to be made: kind and body, for tests that look at it."""

    def create(self, kind: str, body: Object) -> Object:
        """Raises `Refused`: 422 for what the OpenAPI models do not take, 409 for a name that is taken."""
        validate(kind, body)
        item = copy.deepcopy(body)
        metadata = item["metadata"]
        with self.changed:
            if (kind, metadata["name"]) in self._objects:
                raise Refused(409, "AlreadyExists", f'{kind} "{metadata["name"]}" already exists')
            metadata |= {"uid": str(uuid.uuid4()), "namespace": "default", "creationTimestamp": now()}
            item.setdefault("status", {})
            self.requests.append((kind, copy.deepcopy(body)))
            return self._put("ADDED", kind, item)

    def get(self, kind: str, name: str) -> Object:
        with self.changed:
            if (kind, name) not in self._objects:
                raise Refused(404, "NotFound", f'{kind} "{name}" not found')
            return copy.deepcopy(self._objects[kind, name])

    def find(self, kind: str, selector: str = "") -> list[Object]:
        with self.changed:
            return [copy.deepcopy(o) for (k, _), o in self._objects.items() if k == kind and matches(o, selector)]

    def listed(self, kind: str, selector: str, fields: str = "") -> Object:
        with self.changed:
            items = [item for item in self.find(kind, selector) if has_fields(item, fields)]
            return {
                "kind": f"{KINDS[kind]}List",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": str(self._version)},
                "items": items,
            }

    def update(self, kind: str, name: str, change: Callable[[Object], None]) -> Object | None:
        """Apply `change`; None when the object is gone."""
        with self.changed:
            item = self._objects.get((kind, name))
            if item is None:
                return None
            before = copy.deepcopy(item)
            change(item)
            return self._put("MODIFIED", kind, item) if item != before else copy.deepcopy(item)

    def remove(self, kind: str, name: str) -> None:
        with self.changed:
            item = self._objects.pop((kind, name), None)
            if item is not None:
                self._record("DELETED", kind, item)

    def _put(self, event: str, kind: str, item: Object) -> Object:
        self._objects[kind, item["metadata"]["name"]] = item
        self._record(event, kind, item)
        return copy.deepcopy(item)

    def _record(self, event: str, kind: str, item: Object) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, event, kind, copy.deepcopy(item)))
        self.changed.notify_all()

    def forget(self) -> None:
        """Drop the history, as the cluster's database does from time to time: older versions cannot be watched from any more."""
        with self.changed:
            self._history.clear()
            self._version += 1
            self._oldest = self._version
            self.changed.notify_all()

    def events(self, kind: str, selector: str, version: int) -> list[tuple[int, str, Object]]:
        """What has happened since `version`. Raises `Refused` with 410 when that is forgotten."""
        with self.changed:
            if version < self._oldest:
                raise Refused(410, "Expired", f"too old resource version: {version} ({self._oldest})")
            return [(v, e, o) for v, e, k, o in self._history if v > version and k == kind and matches(o, selector)]


def validate(kind: str, body: Object) -> None:
    """Raises `Refused` with 422 for anything that the published models, or the rules for names, do not take."""
    if body.get("kind") != KINDS[kind]:
        raise Refused(400, "BadRequest", f"a {body.get('kind')} cannot be made among the {kind}")
    checked(MODELS[kind], body)
    metadata = body["metadata"]
    if not _NAME.match(metadata.get("name") or ""):
        raise Refused(422, "Invalid", f"metadata.name: {metadata.get('name')!r}")
    for value in (metadata.get("labels") or {}).values():
        if not _LABEL.match(value):
            raise Refused(422, "Invalid", f"metadata.labels: {value!r}")
    if kind == "jobs":
        template = body["spec"]["template"]
        if template["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
            raise Refused(422, "Invalid", "spec.template.spec.restartPolicy: Required value")


def has_fields(item: Object, selector: str) -> bool:
    """A field selector, such as ``involvedObject.uid=X,type=Warning``."""
    for path, _, wanted in (part.partition("=") for part in selector.split(",") if part):
        value: Any = item
        for name in path.split("."):
            value = value.get(name) or {}
        if value != wanted:
            return False
    return True


def checked(model: Any, body: Object) -> None:
    """Raises `Refused` with 422 for a body that the published model does not take."""
    try:
        model.model_validate(body)
    except ValidationError as error:
        raise Refused(422, "Invalid", str(error)) from error


def matches(item: Mapping[str, Any], selector: str) -> bool:
    """Equality-based selectors only."""
    labels = item["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, _, value in (part.partition("=") for part in selector.split(",") if part))
