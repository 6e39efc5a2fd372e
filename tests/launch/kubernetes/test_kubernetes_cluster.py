"""What the cluster does to the launcher: it forgets, refuses, loses answers, keeps jobs waiting. See `standin` for what it is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.launch.kubernetes.standin import StandIn
from tests.launch.kubernetes.store import Object
from zcell import Cell
from zcell.errors import EngineUnreachableError, LaunchError
from zcell.launch import JobHandle, JobReturnCode, JobSpec, JobState
from zcell.launch.kubernetes import KubernetesLauncher, engine
from zcell.launch.kubernetes.api import ApiError
from zcell.launch.kubernetes.manifest import OWNER, job_name
from zcell.launch.kubernetes.mirror import Mirror
from zcell.launch.owner import Owner

LIMIT = 60.0
Make = Callable[..., KubernetesLauncher]
TRUE = JobSpec(job_id="job-1", command=["true"])
SLEEP = JobSpec(job_id="job-1", command=["sleep", "300"], grace=0.2)


def waits_because(handle: JobHandle, beginning: str) -> str:
    """Why it waits, once that is known: it may be waiting for other things before."""
    found: list[str] = []

    def known() -> bool:
        found.append(handle.pending_reason)
        return found[-1].startswith(beginning)

    eventually(known, 30, lambda: sorted(set(found)))
    return found[-1]


# the watch


@pytest.fixture
def mirror(cluster: StandIn, make: Make) -> Iterator[Mirror]:
    mirror = Mirror("jobs", make().api.jobs, "colour=red", lambda: None)
    mirror.start()
    mirror.wait_synced(20)
    yield mirror
    mirror.stop()
    cluster.store.remove("jobs", "mine")


def red(name: str = "mine") -> Object:
    container = {"name": "job", "image": "zcell:test", "env": [], "volumeMounts": []}
    pod = {"restartPolicy": "Never", "containers": [container]}
    spec = {"suspend": True, "template": {"metadata": {"labels": {}}, "spec": pod}}
    metadata = {"name": name, "labels": {"colour": "red"}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def test_what_changes_is_followed_without_listing_again(cluster: StandIn, mirror: Mirror) -> None:
    assert mirror.snapshot() == {}
    cluster.store.create("jobs", red())
    eventually(lambda: "mine" in mirror.snapshot(), 20)
    cluster.store.create("jobs", red("blue") | {"metadata": {"name": "blue", "labels": {"colour": "blue"}}})
    cluster.store.update("jobs", "mine", lambda job: job["spec"].update(parallelism=3))
    eventually(lambda: mirror.snapshot()["mine"]["spec"].get("parallelism") == 3, 20)
    assert list(mirror.snapshot()) == ["mine"], "another selector's objects are not its own"
    cluster.store.remove("jobs", "mine")
    eventually(lambda: not mirror.snapshot(), 20)
    cluster.store.remove("jobs", "blue")
    assert mirror.lists == 1


def test_a_watch_whose_version_is_forgotten_lists_again_and_misses_nothing(cluster: StandIn, mirror: Mirror) -> None:
    cluster.store.create("jobs", red())
    eventually(lambda: mirror.snapshot(), 20)
    with cluster.store.changed:  # both at once, so that no watch sees the removal
        cluster.store.remove("jobs", "mine")
        cluster.store.forget()
    eventually(lambda: mirror.lists == 2, 20)
    eventually(lambda: not mirror.snapshot(), 20)


def test_a_watch_refused_as_too_old_lists_again(cluster: StandIn, mirror: Mirror) -> None:
    cluster.fail.append(("GET jobs", 410))
    with cluster.store.changed:
        cluster.store.forget()
    eventually(lambda: mirror.lists == 2, 20)
    assert cluster.fail == []


def test_without_a_cluster_a_copy_is_not_given_for_the_truth(cluster: StandIn, mirror: Mirror) -> None:
    cluster.stop()

    def refused() -> bool:
        try:
            mirror.snapshot()
        except ApiError as error:
            return "jobs: " in str(error)
        return False

    eventually(refused, 20)
    cluster.start()
    eventually(lambda: not refused(), 30)


def test_a_job_comes_through_a_cluster_that_forgets(cluster: StandIn, make: Make, parent: Cell) -> None:
    handle = make().launch(SLEEP, parent)
    assert handle.enter_states({JobState.RUNNING}, LIMIT)
    for _ in range(3):
        cluster.store.forget()
    assert handle.terminate() is JobReturnCode.ABORTED


# conflicts and lost answers


def test_a_job_whose_making_was_not_answered_is_found_and_started_once(cluster: StandIn, make: Make, parent: Cell) -> None:
    cluster.swallow.append("POST jobs")
    handle = make().launch(TRUE, parent)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    assert cluster.swallow == []
    assert [kind for kind, _ in cluster.store.requests].count("jobs") == 1


@pytest.mark.parametrize("lost", ["POST secrets", "PATCH jobs"])
def test_a_later_request_without_an_answer_ends_the_launch_and_leaves_nothing(
    cluster: StandIn, make: Make, parent: Cell, lost: str
) -> None:
    launcher = make()
    cluster.swallow.append(lost)
    with pytest.raises(EngineUnreachableError, match="job job-1: the cluster did not answer: the cluster cannot be reached"):
        launcher.launch(TRUE, parent)
    assert cluster.swallow == []
    eventually(lambda: not cluster.left(), 20, cluster.left)
    assert launcher.launch(TRUE, parent).wait(LIMIT) is JobReturnCode.SUCCESS


def test_a_job_of_that_name_that_is_somebody_elses_is_not_touched(cluster: StandIn, make: Make, parent: Cell) -> None:
    name = job_name("server", TRUE)
    cluster.store.create("jobs", red(name))
    with pytest.raises(
        LaunchError, match=rf"there is a Job {name} .* that zcell has not made; .*kubectl -n default delete job"
    ):
        make().launch(TRUE, parent)
    assert cluster.store.get("jobs", name)
    cluster.store.remove("jobs", name)


def test_a_job_of_that_name_of_a_living_launcher_is_not_touched(cluster: StandIn, make: Make, parent: Cell) -> None:
    first = make().launch(SLEEP, parent)
    with Cell("server", listen=["tcp://127.0.0.1:0"]) as other, pytest.raises(LaunchError, match="may still be running"):
        make().launch(SLEEP, other)
    assert first.enter_states({JobState.RUNNING}, LIMIT)
    first.kill()


@pytest.mark.parametrize("why", ["its parent died", "it has ended"])
def test_a_job_of_that_name_that_nobody_needs_makes_way(cluster: StandIn, make: Make, parent: Cell, why: str) -> None:
    name = job_name("server", TRUE)
    labels = {"app.kubernetes.io/managed-by": "zcell", "zcell-parent": "x", "zcell-launch": "another"}
    old = red(name) | {"metadata": {"name": name, "labels": labels}}
    here = Owner.here()
    if why == "its parent died":
        dead = Owner(here.machine, here.boot, here.namespace, here.pid, here.started - 1, "0")
        old["metadata"]["annotations"] = {OWNER: str(dead)}
    cluster.store.create("jobs", old)
    if why == "it has ended":
        ended = [{"type": "Failed", "status": "True"}]
        cluster.store.update("jobs", name, lambda job: job["status"].update(conditions=ended))
    assert make().launch(TRUE, parent).wait(LIMIT) is JobReturnCode.SUCCESS


@pytest.mark.parametrize(
    ("request_", "code"), [("POST jobs", 403), ("POST secrets", 403), ("PATCH jobs", 500), ("GET jobs", 403)]
)
def test_a_launch_that_is_refused_leaves_nothing(cluster: StandIn, make: Make, parent: Cell, request_: str, code: int) -> None:
    launcher = make()
    cluster.fail.append((request_, code))
    with pytest.raises(LaunchError, match=rf"job job-1: .*the stand-in was told to fail {request_} \(HTTP {code}\)"):
        launcher.launch(TRUE, parent)
    eventually(lambda: not cluster.left(), 20, cluster.left)
    assert launcher.launch(TRUE, parent).wait(LIMIT) is JobReturnCode.SUCCESS


@pytest.fixture
def _slow_collector(cluster: StandIn, make: Make) -> Iterator[None]:
    cluster.kubelet.collects = False
    yield
    cluster.kubelet.collects = True


@pytest.mark.usefixtures("_slow_collector")
def test_a_job_launched_again_gets_its_own_secret_while_that_of_the_first_launch_is_still_there(
    cluster: StandIn, make: Make, parent: Cell, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("x")
    copy = JobSpec(job_id="job-1", command=["cp", "in", "out"], job_directory=tmp_path)
    launcher = make()
    for _ in range(2):
        handle = launcher.launch(copy, parent)
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
        (tmp_path / "out").unlink()
    assert len(cluster.store.find("secrets")) == 2


# waiting


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_cannot_be_pulled_is_told_and_ends_after_its_limit(
    cluster: StandIn, make: Make, parent: Cell, reason: str
) -> None:
    cluster.kubelet.broken_images["gone"] = reason
    handle = make(image="gone", image_limit=0.5).launch(TRUE, parent)
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason == f"the image cannot be pulled ({reason}: no image gone)"
    assert handle.exit_code is None


def test_an_image_that_comes_late_is_no_end(cluster: StandIn, make: Make, parent: Cell) -> None:
    cluster.kubelet.broken_images["late"] = "ErrImagePull"
    handle = make(image="late").launch(TRUE, parent)
    waits_because(handle, "the image cannot be pulled (ErrImagePull: no image late)")
    assert handle.poll() is JobReturnCode.UNKNOWN
    cluster.kubelet.images.add("late")
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    assert handle.pending_reason == ""


def test_an_image_name_that_no_waiting_cures_ends_at_once(cluster: StandIn, make: Make, parent: Cell) -> None:
    cluster.kubelet.broken_images["odd"] = "InvalidImageName"
    handle = make(image="odd", image_limit=3600).launch(TRUE, parent)
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert "InvalidImageName" in handle.reason


def test_a_job_that_no_node_has_room_for_waits_with_its_reason_or_ends_after_the_limit(make: Make, parent: Cell) -> None:
    big = JobSpec(job_id="job-1", command=["true"], resources={"cpus": 1000})
    handle = make().launch(big, parent)
    waits_because(handle, "no node has room for it (Unschedulable: 0/1 nodes are available")
    assert handle.terminate() is JobReturnCode.ABORTED
    assert handle.reason == "terminated by its parent"
    limited = make(unschedulable_limit=0.3).launch(big, parent)
    assert limited.wait(LIMIT) is JobReturnCode.ABORTED
    assert "Unschedulable" in limited.reason


QUOTA = 'pods "x" is forbidden: exceeded quota: team, requested: pods=1, used: pods=9, limited: pods=9'


@pytest.fixture
def _curious(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WHY_INTERVAL", 0.1)


@pytest.mark.usefixtures("_curious")
def test_a_job_that_a_quota_leaves_no_room_for_waits_with_its_reason_and_runs_when_there_is(
    cluster: StandIn, make: Make, parent: Cell
) -> None:
    cluster.kubelet.no_pods = QUOTA
    handle = make().launch(TRUE, parent)
    reason = waits_because(handle, "a quota leaves no room for its pod (FailedCreate: ")
    assert "exceeded quota: team, requested: pods=1" in reason
    cluster.kubelet.no_pods = ""
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS


@pytest.mark.usefixtures("_curious")
def test_a_pod_that_the_cluster_refuses_ends_the_job(
    cluster: StandIn, make: Make, parent: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "START_LIMIT", 0.5)
    cluster.kubelet.no_pods = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'
    handle = make().launch(TRUE, parent)
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason.startswith("the cluster refuses its pod (FailedCreate: ")
    assert "runAsNonRoot" in handle.reason


@pytest.mark.usefixtures("_curious")
def test_without_the_permission_to_read_events_a_job_waits_without_a_reason(cluster: StandIn, make: Make, parent: Cell) -> None:
    cluster.kubelet.no_pods = QUOTA
    cluster.fail += [("GET events", 403)] * 3
    handle = make().launch(TRUE, parent)
    eventually(lambda: not cluster.fail, 30)
    assert handle.poll() is JobReturnCode.UNKNOWN
    handle.kill()


def test_a_job_of_a_queue_is_started_by_what_admits_it(cluster: StandIn, make: Make, parent: Cell) -> None:
    handle = make(queue="evening").launch(TRUE, parent)
    waits_because(handle, "suspended: it waits to be admitted")
    (job,) = cluster.store.find("jobs")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "evening"
    cluster.store.update("jobs", job["metadata"]["name"], lambda item: item["spec"].update(suspend=False))
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS


# ends that the cluster makes


def test_an_evicted_pod_says_so(cluster: StandIn, make: Make, parent: Cell) -> None:
    handle = make().launch(SLEEP, parent)
    assert handle.enter_states({JobState.RUNNING}, LIMIT)
    (pod,) = cluster.store.find("pods")
    cluster.kubelet.evict(pod["metadata"]["name"])
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert "evicted it (Evicted: low on memory)" in handle.reason


def test_a_time_limit_ends_the_job_and_says_so(make: Make, parent: Cell) -> None:
    handle = make(time_limit=1).launch(SLEEP, parent)
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert "time limit" in handle.reason


# secrets, and many


def test_the_secrets_are_in_the_secret_and_nowhere_else(cluster: StandIn, make: Make, parent: Cell, tmp_path: Path) -> None:
    handle = make().launch(replace(SLEEP, job_directory=tmp_path), parent)
    assert handle.enter_states({JobState.RUNNING}, LIMIT)
    (secret,) = cluster.store.find("secrets")
    held = json.loads(base64.b64decode(secret["data"]["credentials"]))
    assert len(held) == 2
    assert all(held.values())
    shown = json.dumps([cluster.store.find("jobs"), cluster.store.find("pods"), cluster.asked])
    for private in (*held.values(), *(bytes.fromhex(held["link_secret"]).decode(errors="replace"),), *secret["data"].values()):
        assert private not in shown
    (job,) = cluster.store.find("jobs")
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    handle.kill()


def test_jobs_at_once_share_one_watch_and_leave_nothing(cluster: StandIn, make: Make, parent: Cell) -> None:
    launcher = make()
    handles = [launcher.launch(JobSpec(job_id=f"job-{n}", command=["echo", "x"]), parent) for n in range(6)]
    assert [handle.wait(4 * LIMIT) for handle in handles] == [JobReturnCode.SUCCESS] * 6
    asked: dict[str, Any] = {request: cluster.asked.count(request) for request in set(cluster.asked)}
    assert asked["GET jobs"] + asked["GET pods"] <= 4, asked
    assert asked["GET jobs watch"] + asked["GET pods watch"] <= 4, asked
    assert asked["POST jobs"] == asked["POST secrets"] == asked["PATCH jobs"] == 6
    eventually(lambda: not cluster.left(), 20, cluster.left)
