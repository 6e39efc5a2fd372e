"""The stand-in's controllers and its one node. Invariant: a pod's container is a real process with a real Secret, ended as pods are.

A Job that is not suspended gets a pod; a pod whose image, node and Secret are there gets its process; what the process does becomes
the pod's status; what becomes of the pod becomes the Job's.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.launch.kubernetes.store import Object, Refused, Store, now

CPUS = 64.0


class Container:
    """One pod's process."""

    def __init__(self, pod: Object, secrets: dict[str, Object]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pod-"))
        spec = pod["spec"]["containers"][0]
        places = {}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for mount in spec["volumeMounts"]:
            place = self.directory / mount["name"]
            place.mkdir()
            places[mount["mountPath"]] = str(place)
            if "secret" in volumes[mount["name"]]:
                self._write(place, secrets[volumes[mount["name"]]["secret"]["secretName"]], pod, volumes[mount["name"]])
        command = [_moved(word, places) for word in (*spec["command"], *spec["args"])]
        env = {item["name"]: _moved(item["value"], places) for item in spec["env"]} | {"PATH": "/usr/bin:/bin"}
        self.log = self.directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=_moved(spec["workingDir"], places), stdout=log, stderr=log, start_new_session=True
            )

    def _write(self, place: Path, secret: Object, pod: Object, volume: Object) -> None:
        # with an fsGroup the node lets that group read a Secret's files
        mode = volume["secret"]["defaultMode"] | (0o040 if "fsGroup" in pod["spec"]["securityContext"] else 0)
        for name, value in secret["data"].items():
            (place / name).write_bytes(base64.b64decode(value))
            (place / name).chmod(mode)

    def kill(self) -> None:
        """Everything in the container, as when its first process is killed."""
        with contextlib.suppress(psutil.Error):
            for process in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def _moved(word: str, places: dict[str, str]) -> str:
    for path, place in places.items():
        if word == path or word.startswith(f"{path}/"):
            return place + word[len(path) :]
    return word


class Kubelet:
    """One thread that looks at everything again whenever anything changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.images = {"zcell:test"}
        self.broken_images: dict[str, str] = {}
        """Images to the waiting reason that they lead to."""
        self.no_pods = ""
        """Why no pod may be made, as an event then says; empty when they may."""
        self.collects = True
        """Whether what belongs to Jobs that are gone is removed now; a cluster does so in its own time."""
        self._containers: dict[str, Container] = {}
        self._kill_at: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="stand-in-kubelet", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        with self._store.changed:
            self._store.changed.notify_all()
        self._thread.join()
        for container in self._containers.values():
            container.kill()
            container.process.wait()
            container.remove()

    def _run(self) -> None:
        while not self._stopping:
            for job in self._store.find("jobs"):
                self._job(job)
            for pod in self._store.find("pods"):
                self._pod(pod)
            if self.collects:
                self.collect()
            with self._store.changed:
                self._store.changed.wait(0.02)

    # the Job controller

    def _job(self, job: Object) -> None:
        name, uid, spec = job["metadata"]["name"], job["metadata"]["uid"], job["spec"]
        if _has(job, "Complete") or _has(job, "Failed"):
            return
        if spec.get("suspend"):
            self._condition("jobs", name, "Suspended", "JobSuspended", "Job suspended")
            return
        if _has(job, "Suspended"):
            self._condition("jobs", name, "Suspended", "JobResumed", "Job resumed", "False")
        pods = [p for p in self._store.find("pods") if p["metadata"]["labels"].get("controller-uid") == uid]
        if not pods and uid not in self._started and self.no_pods:
            self._warn(job, f"Error creating: {self.no_pods}")
            return
        if not pods and uid not in self._started:
            self._started[uid] = time.monotonic()
            self._make_pod(job)
            return
        limit = spec.get("activeDeadlineSeconds")
        if limit is not None and time.monotonic() - self._started[uid] > limit:
            self._condition("jobs", name, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
            for pod in pods:
                self.delete_pod(pod["metadata"]["name"], None)
        elif not pods or pods[0]["status"].get("phase") == "Failed":
            self._condition("jobs", name, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif pods[0]["status"].get("phase") == "Succeeded":
            self._condition("jobs", name, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")

    def _make_pod(self, job: Object) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
        labels = template["metadata"]["labels"] | {"job-name": name, "controller-uid": job["metadata"]["uid"]}
        metadata = {"name": f"{name}-{job['metadata']['uid'][:5]}", "labels": labels, "ownerReferences": [owner]}
        metadata["annotations"] = template["metadata"].get("annotations") or {}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        self._store.create("pods", pod | {"status": {"phase": "Pending"}})

    def _warn(self, job: Object, message: str) -> None:
        name, uid = f"{job['metadata']['name']}-warning", job["metadata"]["uid"]
        if not any(event["metadata"]["name"] == name for event in self._store.find("events")):
            about = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": uid}
            event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": about}
            event |= {"type": "Warning", "reason": "FailedCreate", "message": message, "lastTimestamp": now()}
            self._store.create("events", event)

    def _condition(self, kind: str, name: str, condition: str, reason: str, message: str, status: str = "True") -> None:
        def change(item: Object) -> None:
            others = [c for c in item["status"].get("conditions", []) if c["type"] != condition]
            entry = {"type": condition, "status": status, "reason": reason, "message": message}
            if entry not in item["status"].get("conditions", []):
                item["status"]["conditions"] = [*others, entry]

        self._store.update(kind, name, change)

    # the node

    def _pod(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        if name in self._containers:
            self._look_after(pod, self._containers[name])
        elif pod["metadata"].get("deletionTimestamp"):
            self._store.remove("pods", name)
        elif pod["status"]["phase"] == "Pending":
            self._try_to_start(pod)

    def _try_to_start(self, pod: Object) -> None:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        wanted = float((container.get("resources") or {}).get("requests", {}).get("cpu", 0))
        if wanted > CPUS or pod["spec"].get("nodeSelector"):
            text = "0/1 nodes are available: 1 Insufficient cpu."
            self._condition("pods", name, "PodScheduled", "Unschedulable", text, "False")
            return
        self._condition("pods", name, "PodScheduled", "", "")
        if container["image"] not in self.images:
            self._waiting(
                name, self.broken_images.get(container["image"], "ImagePullBackOff"), f"no image {container['image']}"
            )
            return
        secrets = {secret["metadata"]["name"]: secret for secret in self._store.find("secrets")}
        if any("secret" in v and v["secret"]["secretName"] not in secrets for v in pod["spec"]["volumes"]):
            self._waiting(name, "ContainerCreating", "")
            return
        try:
            self._containers[name] = Container(pod, secrets)
        except OSError as error:
            self._waiting(name, "CreateContainerError", str(error))
            return
        self._store.update("pods", name, lambda p: p["status"].update(phase="Running"))

    def _waiting(self, pod: str, reason: str, message: str) -> None:
        state = {"waiting": {"reason": reason, "message": message}}
        self._store.update("pods", pod, lambda p: p["status"].update(containerStatuses=[_status(p, state)]))

    def _look_after(self, pod: Object, container: Container) -> None:
        name = pod["metadata"]["name"]
        status = container.process.poll()
        if status is None:
            if time.monotonic() >= self._kill_at.get(name, float("inf")):
                container.kill()
            return
        if "terminated" not in str(pod["status"].get("containerStatuses")):
            code = status if status >= 0 else 128 - status
            ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": now()}

            def change(p: Object) -> None:
                if p["status"].get("phase") != "Failed":
                    p["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
                p["status"]["containerStatuses"] = [_status(p, {"terminated": ended})]

            self._store.update("pods", name, change)
        if pod["metadata"].get("deletionTimestamp"):
            self._containers.pop(name).remove()
            self._store.remove("pods", name)

    def delete_pod(self, name: str, grace: float | None) -> Object:
        """SIGTERM now, SIGKILL after the grace. Raises `Refused` when there is none."""
        pod = self._store.get("pods", name)
        seconds = pod["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
        kill_at = time.monotonic() + seconds
        self._kill_at[name] = min(kill_at, self._kill_at.get(name, kill_at))
        container = self._containers.get(name)
        if container is not None and container.process.poll() is None and not pod["metadata"].get("deletionTimestamp"):
            container.process.send_signal(signal.SIGTERM)
        changed = self._store.update("pods", name, lambda p: p["metadata"].setdefault("deletionTimestamp", now()))
        return changed or pod

    def evict(self, name: str) -> None:
        """The node is short of something and ends the pod."""
        self._condition("pods", name, "DisruptionTarget", "TerminationByKubelet", "The node was low on resource: memory.")
        self._store.update(
            "pods", name, lambda p: p["status"].update(phase="Failed", reason="Evicted", message="low on memory")
        )
        self._containers[name].kill()

    def log(self, name: str) -> bytes:
        if name not in self._containers:
            raise Refused(400, "BadRequest", "container is waiting to start")
        return self._containers[name].log.read_bytes()

    # the garbage collector

    def collect(self) -> None:
        """Remove what belongs to Jobs that are gone."""
        # an owner is there before what it owns, so it is looked for after it: else a Job made in between would count as gone
        owned = [(kind, item) for kind in ("secrets", "pods") for item in self._store.find(kind)]
        alive = {job["metadata"]["uid"] for job in self._store.find("jobs")}
        for kind, item in owned:
            owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()}
            if not owners or owners & alive:
                continue
            if kind == "secrets":
                self._store.remove(kind, item["metadata"]["name"])
            elif not item["metadata"].get("deletionTimestamp"):
                with contextlib.suppress(Refused):
                    self.delete_pod(item["metadata"]["name"], None)


def _status(pod: Object, state: Object) -> Object:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


def _has(item: Object, condition: str) -> bool:
    return any(c["type"] == condition and c["status"] == "True" for c in item["status"].get("conditions", ()))
