"""The requests to the cluster, through the official client. Invariant: an answer is plain data, a refusal an `ApiError` with its code.

Bodies pass the client's own models, which are generated from the published OpenAPI description and refuse what it does not know.
Answers are taken as the JSON they are, so that a newer cluster's additions harm nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import kubernetes
import urllib3

from zcell.cell.endpoints import is_local
from zcell.errors import LaunchError
from zcell.launch.kubernetes.settings import KubernetesSettings
from zcell.launch.remote.engine import EngineError

TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and to wait for an answer."""
WATCH_SECONDS = 240
"""After so long the cluster ends a watch; it is taken up again where it ended."""
_LOG_BYTES = 256 * 1024

GONE, CONFLICT, NOT_FOUND = 410, 409, 404


class ApiError(EngineError):
    """The cluster refused a request, or could not be asked: then `status` is 0."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.unreachable = status == 0


def connect(settings: KubernetesSettings) -> tuple[Any, str]:
    """A client of the cluster, and the namespace of its context. Raises `LaunchError`."""
    configuration = kubernetes.client.Configuration()
    config: Any = kubernetes.config
    namespace = "default"
    try:
        if _from_a_file(settings):
            file, context = settings.kubeconfig or None, settings.context or None
            config.load_kube_config(config_file=file, context=context, client_configuration=configuration)
            contexts, active = config.list_kube_config_contexts(config_file=file)
            chosen = next((c for c in contexts if c["name"] == context), active) if context else active
            namespace = chosen.get("context", {}).get("namespace") or namespace
        else:
            config.load_incluster_config(client_configuration=configuration)
    except Exception as error:  # a file that is no configuration fails in the client in any way
        why = str(error) or type(error).__name__
        raise LaunchError(
            f"the kubernetes launcher does not know how to reach a cluster: {why}; set kubeconfig and context, as for kubectl"
        ) from error
    configuration.retries = False  # the launcher's own pauses count
    return kubernetes.client.ApiClient(configuration), settings.namespace or namespace


def _from_a_file(settings: KubernetesSettings) -> bool:
    inside_a_pod = Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
    return bool(settings.kubeconfig or settings.context or not inside_a_pod)


def configuration_source(settings: KubernetesSettings) -> str:
    """Where `connect` looks, in words."""
    if not _from_a_file(settings):
        return "the service account of this pod"
    file = settings.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return f"context {settings.context} of {file}" if settings.context else file


class Api:
    """One namespace of one cluster. Safe to use from any thread."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.namespace = namespace
        self._client = client
        self._batch = kubernetes.client.BatchV1Api(client)
        self._core = kubernetes.client.CoreV1Api(client)
        self._authorization = kubernetes.client.AuthorizationV1Api(client)

    @property
    def server(self) -> str:
        """The address of the cluster's API."""
        return str(self._client.configuration.host)

    @property
    def is_local(self) -> bool:
        """Whether the cluster is this machine's own, such as one for tests, whose pods may share its loopback."""
        return is_local(f"tcp://{urlsplit(self.server).netloc}")

    def own_address(self) -> str:
        """This machine's address on the way to the cluster; empty when there is none but the loopback."""
        place = urlsplit(self.server)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:  # to connect it sends nothing
                way.connect((place.hostname or "", place.port or 443))
                address = str(way.getsockname()[0])
        except OSError:
            return ""
        return "" if address.startswith("127.") else address

    def close(self) -> None:
        """Release the connections."""
        self._client.close()

    def create_job(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask(self._batch.create_namespaced_job, self.namespace, dict(manifest), field_validation="Strict")

    def create_secret(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask(self._core.create_namespaced_secret, self.namespace, dict(manifest), field_validation="Strict")

    def read_job(self, name: str) -> dict[str, Any]:
        return self._ask(self._batch.read_namespaced_job, name, self.namespace)

    def start_job(self, name: str) -> dict[str, Any]:
        """Let a suspended Job make its pod."""
        patch = [
            {"op": "replace", "path": "/spec/suspend", "value": False}
        ]  # RFC 6902: every version of the client sends it as such
        return self._ask(self._batch.patch_namespaced_job, name, self.namespace, patch)

    def delete_job(self, name: str, uid: str | None = None) -> None:
        """With its pods and its Secret. One that is gone is no error; with `uid`, only that very one."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        self._delete(self._batch.delete_namespaced_job, name, self.namespace, body=body)

    def end_pod(self, name: str) -> None:
        """End a pod with its grace."""
        self._delete(self._core.delete_namespaced_pod, name, self.namespace)

    def kill_pod(self, name: str) -> None:
        """End a pod without its grace."""
        self._delete(self._core.delete_namespaced_pod, name, self.namespace, body={"gracePeriodSeconds": 1})

    def list_jobs(self, selector: str) -> list[dict[str, Any]]:
        """All Jobs with these labels."""
        return list(self._ask(self._batch.list_namespaced_job, self.namespace, label_selector=selector)["items"])

    def list_pods(self, selector: str) -> list[dict[str, Any]]:
        """All pods with these labels."""
        return list(self._ask(self._core.list_namespaced_pod, self.namespace, label_selector=selector)["items"])

    def warnings_about(self, uid: str) -> list[dict[str, Any]]:
        """The warning events about the object with this unique id."""
        fields = f"involvedObject.uid={uid},type=Warning"
        return list(self._ask(self._core.list_namespaced_event, self.namespace, field_selector=fields)["items"])

    def list_secrets(self, selector: str) -> list[dict[str, Any]]:
        """All Secrets with these labels; launching asks for no permission to do so."""
        return list(self._ask(self._core.list_namespaced_secret, self.namespace, label_selector=selector)["items"])

    def jobs(self, **query: Any) -> Any:
        """The raw answer of a list or a watch."""
        return self._raw(self._batch.list_namespaced_job, self.namespace, **query)

    def pods(self, **query: Any) -> Any:
        """The raw answer of a list or a watch."""
        return self._raw(self._core.list_namespaced_pod, self.namespace, **query)

    def log(self, pod: str, container: str) -> bytes:
        """The end of what a container wrote."""
        query = {"container": container, "limit_bytes": _LOG_BYTES, "_request_timeout": TIMEOUT}
        answer = self._raw(self._core.read_namespaced_pod_log, pod, self.namespace, **query)
        return bytes(answer.data)

    def may(self, verb: str, group: str, resource: str, subresource: str = "") -> tuple[bool, str]:
        """Whether this user may do so here, and why not."""
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource}
        if subresource:
            attributes["subresource"] = subresource
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        body = review | {"spec": {"resourceAttributes": attributes}}
        status = self._ask(self._authorization.create_self_subject_access_review, body).get("status") or {}
        return bool(status.get("allowed")), str(status.get("reason") or "")

    def version(self) -> str:
        """The cluster's version."""
        return str(self._ask(kubernetes.client.VersionApi(self._client).get_code).get("gitVersion", "unknown"))

    def _delete(self, request: Callable[..., Any], *arguments: Any, **query: Any) -> None:
        try:
            self._ask(request, *arguments, **query)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):  # 409: another one has taken its name, so it is gone
                raise

    def _ask(self, request: Callable[..., Any], *arguments: Any, **query: Any) -> dict[str, Any]:
        answer = self._raw(request, *arguments, _request_timeout=TIMEOUT, **query)
        try:
            return cast(dict[str, Any], json.loads(answer.data))
        except ValueError as error:
            raise ApiError(0, f"the cluster's answer cannot be read: {error}") from error

    def _raw(self, request: Callable[..., Any], *arguments: Any, **query: Any) -> Any:
        try:
            answer = request(*arguments, _preload_content=False, **query)
        except kubernetes.client.ApiException as error:
            raise ApiError(error.status or 0, _text(error.status, error.reason, error.body)) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"the cluster cannot be reached: {error}") from error
        except ValueError as error:  # the models' own refusal of a body
            raise ApiError(422, f"the request is not one of the API: {error}") from error
        if not 200 <= answer.status < 300:
            body = answer.data
            raise ApiError(answer.status, _text(answer.status, answer.reason, body))
        return answer


def _text(status: int | None, reason: str | None, body: bytes | str | None) -> str:
    """What the cluster's Status says."""
    try:
        message = json.loads(body or b"").get("message")
    except (ValueError, AttributeError):
        message = None
    return f"{message or reason or 'refused'} (HTTP {status})"


class Stream:
    """The events of one watch. `close` may be called from another thread and ends `events` at once."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._closed = threading.Event()

    def events(self) -> Iterator[dict[str, Any]]:
        """Until the cluster ends the watch. Raises `ApiError` when the connection breaks."""
        rest = b""
        try:
            for piece in self._answer.stream(amt=None, decode_content=False):
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    yield json.loads(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not self._closed.is_set():
                raise ApiError(0, f"a watch broke off: {error}") from error
        finally:
            self._answer.close()
            self._answer.release_conn()

    def close(self) -> None:
        self._closed.set()
        try:
            self._answer.shutdown()
        except (ValueError, RuntimeError, OSError):  # it has ended by itself
            return
