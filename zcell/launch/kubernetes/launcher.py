"""Jobs in a Kubernetes cluster. Invariant: a job's Job and Secret are there from its launch until its end is known, and not after that."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from zcell.cell.endpoints import is_local
from zcell.errors import LaunchError
from zcell.launch.checkup import Check
from zcell.launch.kubernetes.api import CONFLICT, NOT_FOUND, Api, ApiError, configuration_source, connect
from zcell.launch.kubernetes.checkup import examine, left_of
from zcell.launch.kubernetes.engine import KubernetesEngine, Made
from zcell.launch.kubernetes.manifest import (
    LAUNCH,
    MANAGED_BY,
    OWNER,
    PARENT,
    QUEUE,
    Launch,
    job_manifest,
    job_name,
    parent_label,
    secret_manifest,
)
from zcell.launch.kubernetes.settings import OWN_SETTINGS, RESOURCES, KubernetesSettings, job_image, job_resources, quantities
from zcell.launch.launcher import LifecycleHook
from zcell.launch.owner import Owner
from zcell.launch.remote.course import Bounds
from zcell.launch.remote.handle import RemoteHandle
from zcell.launch.remote.launcher import RemoteLauncher
from zcell.launch.spec import JobSpec

if TYPE_CHECKING:
    from zcell.cell import Cell

log = logging.getLogger("zcell.launch.kubernetes")

_TRIES = 20
_PAUSE = 0.5


class KubernetesLauncher(RemoteLauncher):
    """Settings: see docs/howto-kubernetes.md. The image needs python with zcell; the pods need a way to the parent's endpoint."""

    name = "kubernetes"
    own_settings = OWN_SETTINGS
    job_may_set = ("image", *RESOURCES)
    # a watch does not lag: what it does not show any more is gone
    bounds_by_default = Bounds(absence=5.0, start=300.0)

    def __init__(self, settings: Mapping[str, Any] | None = None, *, hooks: Iterable[LifecycleHook] = ()) -> None:
        given = dict(settings or {})
        self.cluster = KubernetesSettings.parse(given)
        self._python = given.get("python", "python3")
        if not isinstance(self._python, str) or not self._python or "\0" in self._python:
            raise LaunchError(f"the kubernetes launcher's setting python must be a program of the image, got {self._python!r}")
        self._owner = Owner.here()
        self._pause = threading.Event()
        self._swept: set[str] = set()
        super().__init__(given, hooks=hooks)

    def _engine(self) -> KubernetesEngine:
        client, namespace = connect(self.cluster)
        self._kubernetes = KubernetesEngine(self.cluster, Api(client, namespace))
        return self._kubernetes

    @property
    def api(self) -> Api:
        """The cluster."""
        return self._kubernetes.api

    def check(self, spec: JobSpec) -> None:
        settings = self._settings_of(spec)
        job_image(settings, spec)
        quantities(job_resources(settings, spec), settings.gpu_resource, f"job {spec.job_id}")

    def _reachable(self, spec: JobSpec, parent: Cell) -> str:
        url = super()._reachable(spec, parent)
        if is_local(url) and not self._parent_url and not self.api.is_local:
            raise LaunchError(
                f"job {spec.job_id}: its parent listens on {url}, which no pod of {self.api.server} reaches; start the cell with "
                "listen=['tcp://0.0.0.0:PORT'], insecure=True (zcell run --listen tcp://0.0.0.0:PORT --insecure), or set parent_url"
            )
        return url

    def _own_address(self) -> str:
        return self.api.own_address() or super()._own_address()

    def examine(self) -> Iterator[Check]:
        yield from examine(self.api, configuration_source(self.cluster))

    def left(self) -> Check:
        try:
            return left_of(self.api, str(self._owner))
        except ApiError as error:
            raise error.for_the_user("the kubernetes launcher cannot ask what is left") from error

    def close(self) -> None:
        super().close()
        self.api.close()

    def _settings_of(self, spec: JobSpec) -> KubernetesSettings:
        own = self.job_settings(spec)
        return KubernetesSettings.parse(self.settings | own) if own else self.cluster

    def _submit(self, handle: RemoteHandle, url: str) -> None:
        spec, parent = handle.spec, handle.parent
        launch = Launch(parent, secrets.token_hex(16), str(self._owner), handle.node, url, self._python)
        manifest = job_manifest(job_name(parent, spec), launch, spec, self._settings_of(spec))
        try:
            self._remove_orphans(parent)
            self._kubernetes.hold(parent)
        except ApiError as error:
            raise error.for_the_user(f"job {spec.job_id}: the kubernetes launcher cannot ask the cluster") from error
        try:
            job = self._create(spec, manifest, launch)
            handle.engine_id = job["metadata"]["name"]
            self._kubernetes.expect(handle, Made(job["metadata"]["uid"], launch.nonce))
            self._give(handle, job)
        except BaseException as error:
            self._kubernetes.forget(handle)
            if isinstance(error, ApiError):
                did = "did not answer" if error.unreachable else "refused it"
                raise error.for_the_user(f"job {spec.job_id}: the cluster {did}") from error
            raise

    def _give(self, handle: RemoteHandle, job: Mapping[str, Any]) -> None:
        """The Secret, and then leave to start."""
        metadata = job["metadata"]
        try:
            try:
                self.api.create_secret(secret_manifest(job, str(self._owner), handle.credentials))
            except ApiError as error:
                if error.status != CONFLICT:  # an answer was lost: no other launch calls its Secret so
                    raise
            if QUEUE not in metadata["labels"]:  # what admits the jobs of a queue starts them too
                self.api.start_job(metadata["name"])
        except BaseException:
            self.api.delete_job(metadata["name"], metadata["uid"])
            raise

    def _create(self, spec: JobSpec, manifest: Mapping[str, Any], launch: Launch) -> dict[str, Any]:
        """Make the Job, or take the one that an answer was lost of. Raises `ApiError`, `LaunchError`."""
        name = manifest["metadata"]["name"]
        for _ in range(_TRIES):
            try:
                return self.api.create_job(manifest)
            except ApiError as error:
                if error.status not in (0, CONFLICT):
                    raise
                there = self._read(name)
                if there is None and error.status == 0:
                    raise
            if there is not None:
                if (there["metadata"].get("labels") or {}).get(LAUNCH) == launch.nonce:
                    return there
                self._make_way(spec, there)
            self._pause.wait(_PAUSE)
        raise LaunchError(f"job {spec.job_id}: the Job {name} of an earlier launch is still being removed; try again")

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return self.api.read_job(name)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _make_way(self, spec: JobSpec, there: Mapping[str, Any]) -> None:
        """Remove a Job of that name when it is a dead parent's or has ended. Raises `LaunchError` when it is somebody else's."""
        metadata = there["metadata"]
        name, labels = metadata["name"], metadata.get("labels") or {}
        if metadata.get("deletionTimestamp"):
            return
        ours = labels.get(MANAGED_BY) == "zcell" and PARENT in labels
        if ours and (_is_dead(metadata) or _has_ended(there)):
            self.api.delete_job(name, metadata["uid"])
            return
        whose = "of a zcell launcher that may still be running" if ours else "that zcell has not made"
        raise LaunchError(
            f"job {spec.job_id}: there is a Job {name} in namespace {self.api.namespace}, {whose}; give the job another job_id, "
            f"or remove it: kubectl -n {self.api.namespace} delete job {name}"
        )

    def _remove_orphans(self, parent: str) -> None:
        """What dead launchers of this machine have left; once."""
        if parent in self._swept:
            return
        self._swept.add(parent)
        for job in self.api.list_jobs(f"{MANAGED_BY}=zcell,{PARENT}={parent_label(parent)}"):
            metadata = job["metadata"]
            if _is_dead(metadata) and not metadata.get("deletionTimestamp"):
                log.warning("removing the Job %s, whose parent died", metadata["name"])
                self.api.delete_job(metadata["name"], metadata["uid"])


def _is_dead(metadata: Mapping[str, Any]) -> bool:
    try:
        return Owner.parse((metadata.get("annotations") or {}).get(OWNER, "")).is_dead()
    except ValueError:
        return False


def _has_ended(job: Mapping[str, Any]) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(c.get("type") in ("Complete", "Failed") and c.get("status") == "True" for c in conditions)
