"""What may be asked of Kubernetes, and what is refused with which words, before any request is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.kubernetes.standin import StandIn
from zcell import Cell
from zcell.errors import LaunchError
from zcell.launch import JobSpec
from zcell.launch.kubernetes import KubernetesLauncher
from zcell.launch.kubernetes.checkup import NEEDED, USEFUL
from zcell.launch.kubernetes.settings import OWN_SETTINGS, KubernetesSettings, job_resources, quantities
from zcell.launch.remote.launcher import COMMON_SETTINGS

Make = Callable[..., KubernetesLauncher]


@pytest.mark.parametrize(
    "settings",
    [
        {"image": ""},
        {"image": "a b"},
        {"image": "--privileged"},
        {"image": 3},
        {"namespace": "Team"},
        {"namespace": "a/b"},
        {"kubeconfig": "config"},
        {"context": 3},
        {"pull_policy": "always"},
        {"pull_secrets": "login"},
        {"pull_secrets": ["Login_1"]},
        {"service_account": "a b"},
        {"node_selector": ["gpu"]},
        {"node_selector": {"gpu": True}},
        {"tolerations": {"key": "gpu"}},
        {"labels": {"team": "a b"}},
        {"labels": {"zcell-parent": "x"}},
        {"labels": {"app.kubernetes.io/managed-by": "me"}},
        {"annotations": {"zcell-owner": "x"}},
        {"annotations": {"note": 3}},
        {"run_as_user": "me"},
        {"run_as_user": True},
        {"run_as_group": -1},
        {"gpu_resource": "GPU !"},
        {"queue": "Evening queue"},
        {"image_limit": 0},
        {"unschedulable_limit": "1h"},
        {"keep_seconds": 1.5},
        {"cpus": 0},
        {"memory": "4 Gi"},
        {"gpus": "2"},
        {"time_limit": "1:00"},
        {"python": ""},
        {"python": "a\0b"},
        {"lease": 0},
        {"start_limit": "soon"},
        {"absence_deadline": -1},
        {"insecure": "yes"},
        {"parent_url": "10.0.0.1:9000"},
        {"parent_url": "ipc:///tmp/x"},
        {"privileged": True},
        {"volumes": []},
    ],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()),
)
def test_a_wrong_setting_is_named(make: Make, cluster: StandIn, settings: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match=f"kubernetes.*{next(iter(settings))}"):
        make(**settings)
    assert cluster.asked == []


def test_an_address_beyond_this_machine_needs_to_be_accepted(make: Make) -> None:
    with pytest.raises(LaunchError, match="set insecure to true"):
        make(parent_url="tcp://10.0.0.1:9000")
    make(parent_url="tcp://10.0.0.1:9000", insecure=True)


def config(place: Path, **changes: Any) -> str:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "far",
        "clusters": [{"name": "far", "cluster": {"server": "https://203.0.113.7:6443"}}],
        "contexts": [{"name": "far", "context": {"cluster": "far", "user": "me", "namespace": "team"}}],
        "users": [{"name": "me", "user": {"token": "none"}}],
    }
    file = place / "config"
    file.write_text(json.dumps(content | changes))
    return str(file)


@pytest.mark.parametrize(
    "settings",
    [{"kubeconfig": "/nowhere/config"}, {"context": "moon"}, {"kubeconfig": "BROKEN"}],
    ids=["no file", "no such context", "no configuration"],
)
def test_a_cluster_that_is_not_configured_is_told(tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "broken").write_text("just text")
    given = {"kubeconfig": config(tmp_path)} | settings
    if given["kubeconfig"] == "BROKEN":
        given["kubeconfig"] = str(tmp_path / "broken")
    with pytest.raises(LaunchError, match=r"does not know how to reach a cluster: .*; set kubeconfig and context"):
        KubernetesLauncher(given)


def test_the_namespace_is_the_settings_or_the_contexts(tmp_path: Path) -> None:
    file = config(tmp_path)
    for given, namespace in (({}, "team"), ({"namespace": "mine"}, "mine")):
        launcher = KubernetesLauncher({"kubeconfig": file} | given)
        assert launcher.api.namespace == namespace
        launcher.close()


def test_a_parent_on_the_loopback_is_told_where_pods_could_reach_it(tmp_path: Path) -> None:
    launcher = KubernetesLauncher({"kubeconfig": config(tmp_path), "image": "train"})
    with (
        Cell("server", listen=["tcp://127.0.0.1:0"]) as parent,
        pytest.raises(LaunchError, match=r"no pod of https://203.0.113.7:6443 reaches; .*0\.0\.0\.0:PORT.* parent_url"),
    ):
        launcher.launch(JobSpec(job_id="job-1", command=["true"]), parent)
    launcher.close()


def test_a_parent_without_a_tcp_address_is_told(make: Make, cluster: StandIn, tmp_path: Path) -> None:
    with (
        Cell("server", listen=[f"ipc://{tmp_path}/cell"]) as parent,
        pytest.raises(LaunchError, match="job job-1: its parent 'server' has no tcp endpoint"),
    ):
        make().launch(JobSpec(job_id="job-1", command=["true"]), parent)
    assert cluster.asked == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"resources": {"shoes": 2}}, "job job-1: kubernetes has no resource 'shoes'; it has cpus, memory"),
        ({"resources": {"cpus": "many"}}, "job job-1: the resource cpus must be"),
        ({"resources": {"gpus": -1}}, "job job-1: the resource gpus must be"),
        ({"resources": {"time_limit": "1:00"}}, "job job-1: the resource time_limit must be"),
        ({"resource_spec": {"here": {"memory": 0}}, "site": "here"}, "job job-1: the resource memory must be"),
        ({"launcher_spec": {"default": {"kubernetes": {"image": "a b"}}}}, "setting image must be"),
        (
            {"launcher_spec": {"default": {"kubernetes": {"namespace": "kube-system"}}}},
            r"sets 'namespace', which a job may not",
        ),
        ({"launcher_spec": {"local": {"kubernetes": {"service_account": "admin"}}}}, r"launcher_spec\['local'\]"),
        (
            {"launcher_spec": {"local": {"kubernetes": {"volumes": []}}}},
            r"sets 'volumes', which a job may not; it may set image",
        ),
        ({"launcher_spec": {"local": {"kubernetes": {}, "process": {}}}}, "must map exactly one launcher"),
        ({"launcher_spec": {"local": {"kubernetes": ["image"]}}}, "must be a mapping"),
    ],
)
def test_what_a_job_may_not_ask_is_refused_before_anything_is_started(
    make: Make, cluster: StandIn, parent: Cell, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(LaunchError, match=expected):
        make().launch(JobSpec(job_id="job-1", command=["true"], **fields), parent)
    assert cluster.asked == []
    assert cluster.store.requests == []


def test_a_job_without_an_image_is_told_the_three_places(make: Make, cluster: StandIn, parent: Cell) -> None:
    with pytest.raises(LaunchError) as told:
        make(image=None).launch(JobSpec(job_id="job-1", command=["true"], site="here"), parent)
    for place in ("launcher_spec['here']['kubernetes']['image']", "launcher_spec['default']", "setting image"):
        assert place in str(told.value)
    assert cluster.asked == []


def test_a_jobs_own_resources_count_over_its_sites_over_the_launchers() -> None:
    settings = KubernetesSettings.parse({"cpus": 1, "memory": "1Gi", "time_limit": 60})
    resources: dict[str, dict[str, Any]] = {
        "here": {"cpus": 2, "memory": "2Gi", "kubernetes": {"image": "x"}},
        "there": {"cpus": 9},
    }
    spec = JobSpec(job_id="j", command=["true"], site="here", resources={"cpus": 3}, resource_spec=resources)
    assert job_resources(settings, spec) == {"cpus": 3, "memory": "2Gi", "time_limit": 60}


@pytest.mark.parametrize(
    ("resources", "amounts"),
    [
        ({"cpus": 4}, {"cpu": "4"}),
        ({"cpus": 0.5}, {"cpu": "0.5"}),
        ({"cpus": "500m"}, {"cpu": "500m"}),
        ({"memory": 2**30}, {"memory": "1073741824"}),
        ({"memory": "16Gi"}, {"memory": "16Gi"}),
        ({"gpus": 2}, {"nvidia.com/gpu": "2"}),
        ({"num_of_gpus": 1}, {"nvidia.com/gpu": "1"}),
        ({"gpus": 0}, {}),
        ({"time_limit": 5}, {}),
    ],
)
def test_resources_become_requests_and_limits(resources: dict[str, Any], amounts: dict[str, str]) -> None:
    assert quantities(resources, "nvidia.com/gpu", "job j") == amounts


def test_every_setting_is_on_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "howto-kubernetes.md").read_text()
    table = page.partition("## Settings")[2].partition("## How a job ends")[0]
    missing = [name for name in (*OWN_SETTINGS, *COMMON_SETTINGS) if f"`{name}`" not in table]
    assert not missing


def test_the_role_on_the_page_is_what_the_doctor_asks_for() -> None:
    page = (Path(__file__).parents[3] / "docs" / "howto-kubernetes.md").read_text()
    role = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    granted = {(rule["apiGroups"][0], rule["resources"][0], *rule["verbs"]) for rule in role["rules"]}
    asked = {(group, f"{what}/{part}" if part else what, *verbs) for group, what, part, verbs in (*NEEDED, *USEFUL)}
    assert granted == asked


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", "https://[::1]:1", "https://no-such-host.invalid:6443", "10.0.0.1"])
def test_without_a_way_to_the_cluster_there_is_no_address_on_it(tmp_path: Path, server: str) -> None:
    clusters = [{"name": "far", "cluster": {"server": server}}]
    launcher = KubernetesLauncher({"kubeconfig": config(tmp_path, clusters=clusters)})
    assert launcher.api.own_address() == ""
    launcher.close()
