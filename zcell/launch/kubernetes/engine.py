"""Kubernetes as an engine. Invariant: what is removed is what this launch has made, by its unique id and not by its name."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zcell.launch.kubernetes.api import Api, ApiError
from zcell.launch.kubernetes.manifest import CONTAINER, LAUNCH, PARENT, parent_label
from zcell.launch.kubernetes.mirror import Mirror
from zcell.launch.kubernetes.settings import KubernetesSettings
from zcell.launch.kubernetes.view import Trouble, no_pod_because, trouble_of, view_of
from zcell.launch.remote.course import EngineState, EngineView, Outcome
from zcell.launch.remote.engine import Engine
from zcell.launch.remote.handle import RemoteHandle
from zcell.launch.spec import JobReturnCode

log = logging.getLogger("zcell.launch.kubernetes")

SYNC_TIMEOUT = 30.0
START_LIMIT = 60.0
"""Seconds that a container, or a pod, may fail to be made before its job is ended."""
WHY_INTERVAL = 2.0
"""Seconds without a pod after which the cluster is asked why, and asked again."""


@dataclass
class Made:
    """What was made for one job."""

    uid: str
    nonce: str
    pod: str = ""
    troubled: tuple[str, float] | None = None
    """The kind of trouble its pod has, and since when."""
    hopeless: str = ""
    asked_why: float = field(default_factory=time.monotonic)
    """When the cluster was asked last why there is no pod; at first, when the Job was made."""
    no_pod: Trouble | None = None


class Mirrors:
    """The Jobs and the pods of one parent."""

    def __init__(self, api: Api, parent: str, engine: KubernetesEngine) -> None:
        selector = f"{PARENT}={parent_label(parent)}"
        self.jobs = Mirror("jobs", api.jobs, selector, engine.changed)
        self.pods = Mirror("pods", api.pods, selector, engine.changed)
        self.users = 0

    def start(self) -> None:
        for mirror in (self.jobs, self.pods):
            mirror.start()
        for mirror in (self.jobs, self.pods):
            mirror.wait_synced(SYNC_TIMEOUT)

    def stop(self) -> None:
        for mirror in (self.jobs, self.pods):
            mirror.stop()


class KubernetesEngine(Engine):
    """One namespace of one cluster."""

    fastest = 0.5
    slowest = 10.0

    def __init__(self, settings: KubernetesSettings, api: Api) -> None:
        self.api = api
        self._settings = settings
        self._lock = threading.Lock()
        self._mirror_lock = threading.Lock()
        self._mirrors: dict[str, Mirrors] = {}
        self._made: dict[RemoteHandle, Made] = {}

    def changed(self) -> None:
        """The cluster has said something new."""
        with self._lock:
            handle = next(iter(self._made), None)
        if handle is not None:
            handle.look_now()

    # the mirrors live while there are jobs

    def hold(self, parent: str) -> None:
        """Watch the objects of `parent`, from before anything is made. Raises `ApiError`."""
        with self._mirror_lock:
            if parent not in self._mirrors:
                mirrors = Mirrors(self.api, parent, self)
                try:
                    mirrors.start()
                except BaseException:
                    mirrors.stop()
                    raise
                self._mirrors[parent] = mirrors
            self._mirrors[parent].users += 1

    def let_go(self, parent: str) -> None:
        """Watch them no more when this was the last one who wanted it."""
        with self._mirror_lock:
            mirrors = self._mirrors[parent]
            mirrors.users -= 1
            if mirrors.users:
                return
            del self._mirrors[parent]
        mirrors.stop()

    def expect(self, handle: RemoteHandle, made: Made) -> None:
        """Remember what was made for `handle`."""
        with self._lock:
            self._made[handle] = made

    def _of(self, handle: RemoteHandle) -> Made:
        with self._lock:
            return self._made[handle]

    # what the watcher asks

    def survey(self, handles: Sequence[RemoteHandle]) -> Mapping[RemoteHandle, EngineView]:
        views = {}
        seen: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        for handle in handles:
            parent = handle.parent
            if parent not in seen:
                with self._mirror_lock:
                    mirrors = self._mirrors[parent]
                seen[parent] = mirrors.jobs.snapshot(), mirrors.pods.snapshot()
            view = self._view(handle, *seen[parent])
            if view is not None:
                views[handle] = view
        return views

    def _view(self, handle: RemoteHandle, jobs: dict[str, Any], pods: dict[str, Any]) -> EngineView | None:
        made = self._of(handle)
        job = jobs.get(handle.engine_id)
        if job is None or job["metadata"]["uid"] != made.uid:
            return None
        own = [pod for pod in pods.values() if (pod["metadata"].get("labels") or {}).get(LAUNCH) == made.nonce]
        pod = max(own, key=lambda p: str(p["metadata"].get("creationTimestamp") or ""), default=None)
        made.pod = pod["metadata"]["name"] if pod is not None else made.pod
        view = view_of(job, pod)
        if view.state is EngineState.PENDING:
            trouble = trouble_of(job, pod)
            if trouble is None and pod is None and not job["spec"].get("suspend"):
                trouble = self._why_no_pod(made)
                view = replace(view, reason=trouble.text if trouble else "")
            self._weigh(made, trouble)
            if made.hopeless:
                return EngineView(EngineState.ENDED, outcome=Outcome(JobReturnCode.ABORTED, made.hopeless), by_engine=True)
        return view

    def _why_no_pod(self, made: Made) -> Trouble | None:
        """A Job says nothing of a pod that it may not make, but events do."""
        now = time.monotonic()
        if now - made.asked_why >= WHY_INTERVAL:
            made.asked_why = now
            try:
                made.no_pod = no_pod_because(self.api.warnings_about(made.uid)) or made.no_pod
            except ApiError as error:  # reading events is a permission of its own, and they only explain
                log.debug("why a Job has no pod is not known: %s", error)
        return made.no_pod

    def _weigh(self, made: Made, trouble: Trouble | None) -> None:
        """Trouble that lasts longer than its limit is an end."""
        if trouble is None:
            made.troubled = None
            return
        now = time.monotonic()
        if made.troubled is None or made.troubled[0] != trouble.kind:
            made.troubled = (trouble.kind, now)
        limits = {
            "hopeless": 0.0,
            "image": self._settings.image_limit,
            "start": START_LIMIT,
            "refused": START_LIMIT,
            "quota": self._settings.unschedulable_limit,
            "unschedulable": self._settings.unschedulable_limit,
        }
        if now - made.troubled[1] >= limits.get(trouble.kind, float("inf")):
            made.hopeless = trouble.text

    def cancel(self, handle: RemoteHandle) -> None:
        # the pod and not its Job: its end can then be seen
        made = self._of(handle)
        if made.pod:
            self.api.end_pod(made.pod)
        else:
            self.api.delete_job(handle.engine_id, made.uid)

    def kill(self, handle: RemoteHandle) -> None:
        made = self._of(handle)
        if made.pod:
            self.api.kill_pod(made.pod)
        self.api.delete_job(handle.engine_id, made.uid)

    def last_output(self, handle: RemoteHandle) -> bytes:
        made = self._of(handle)
        if not made.pod or handle.wrote:
            return b""
        try:
            return self.api.log(made.pod, CONTAINER)
        except ApiError as error:
            log.debug("job %s: its pod has no log: %s", handle.job_id, error)
            return b""

    def forget(self, handle: RemoteHandle) -> None:
        """It could not be started, and nothing of it is left."""
        with self._lock:
            self._made.pop(handle, None)
        self.let_go(handle.parent)

    def release(self, handle: RemoteHandle) -> None:
        with self._lock:
            made = self._made.pop(handle)
        try:
            self.api.delete_job(handle.engine_id, made.uid)
        finally:
            self.let_go(handle.parent)
