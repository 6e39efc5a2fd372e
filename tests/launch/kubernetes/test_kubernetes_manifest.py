"""What is asked of the cluster: compared with golden files, and with the models made from the published OpenAPI description.

To renew the files: ZCELL_TEST_GOLDEN=write.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from pydantic import ValidationError

from zcell.launch import JobSpec
from zcell.launch.kubernetes.manifest import Launch, job_manifest, job_name, secret_manifest
from zcell.launch.kubernetes.settings import KubernetesSettings
from zcell.security.credentials import Credentials

GOLDEN = Path(__file__).parents[1] / "golden"
LAUNCH = Launch(
    parent="server",
    nonce="00112233445566778899aabbccddeeff",
    owner="0123456789abcdef:0123456789abcdef:4026531836:4711:123456:01234567",
    node="server.launch_job-1",
    url="tcp://10.1.2.3:9000",
    python="python3",
)
EVERYTHING: dict[str, Any] = {
    "image": "registry.example:5000/team/train@sha256:0123456789abcdef",
    "pull_policy": "Always",
    "pull_secrets": ["registry-login"],
    "service_account": "trainer",
    "node_selector": {"nvidia.com/gpu.product": "A100"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "labels": {"team": "lungs"},
    "annotations": {"example.org/cost-centre": "4711, building 2"},
    "run_as_user": 1000,
    "run_as_group": 2000,
    "gpu_resource": "amd.com/gpu",
    "queue": "evening",
    "keep_seconds": 60,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"image": "train"}, {}),
    "everything": (EVERYTHING, {"cpus": 2.5, "memory": "16Gi", "gpus": 2, "time_limit": 3600.5}),
}


def manifests(name: str) -> list[dict[str, Any]]:
    given, resources = CASES[name]
    spec = JobSpec(job_id="job-1", command=["true"], resources=resources, grace=30)
    job = job_manifest(job_name("server", spec), LAUNCH, spec, KubernetesSettings.parse(given))
    made = job | {"metadata": job["metadata"] | {"uid": "11111111-2222-3333-4444-555555555555"}}
    return [job, secret_manifest(made, LAUNCH.owner, Credentials(b"l" * 16, "t" * 32))]


@pytest.mark.parametrize("name", CASES)
def test_the_manifests_are_as_they_were_agreed(name: str) -> None:
    path = GOLDEN / f"kubernetes-{name}.json"
    text = json.dumps(manifests(name), indent=2) + "\n"
    if os.environ.get("ZCELL_TEST_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_published_models_take_the_manifests_and_lose_nothing_of_them(name: str) -> None:
    client: Any = kubernetes.client
    serialised = client.ApiClient().sanitize_for_serialization
    for manifest, model in zip(manifests(name), (client.V1Job, client.V1Secret), strict=True):
        assert serialised(model.model_validate(manifest)) == manifest


@pytest.mark.parametrize("where", [["spec"], ["spec", "template", "spec"], ["spec", "template", "spec", "securityContext"]])
def test_the_models_refuse_what_the_api_does_not_know(where: list[str]) -> None:
    job, _ = manifests("plain")
    place = job
    for key in where:
        place = place[key]
    place["shoes"] = 2
    with pytest.raises(ValidationError, match="shoes"):
        kubernetes.client.V1Job.model_validate(job)


def test_the_secret_holds_the_credentials_goes_with_its_job_and_the_job_holds_none() -> None:
    job, secret = manifests("everything")
    held = base64.b64decode(secret["data"]["credentials"]).decode()
    assert (b"l" * 16).hex() in held
    assert "t" * 32 in held
    assert secret["immutable"] is True
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == (
        "Job",
        job["metadata"]["name"],
        "11111111-2222-3333-4444-555555555555",
    )
    text = json.dumps(job)
    for private in ((b"l" * 16).hex(), "l" * 16, "t" * 32, secret["data"]["credentials"]):
        assert private not in text
    (volume,) = (v for v in job["spec"]["template"]["spec"]["volumes"] if "secret" in v)
    assert volume["secret"] == {"secretName": secret["metadata"]["name"], "defaultMode": 0o400}


def test_a_pod_gets_no_more_than_it_needs() -> None:
    job, _ = manifests("plain")
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never"
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["suspend"] is True, "it must not start before its Secret is there"
    (container,) = pod["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert {variable["name"] for variable in container["env"]} == {"HOME", "USER"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize("job_id", ["a", "A_b-C", "-x-", "j" * 63, "___", "7"])
@pytest.mark.parametrize("site", ["local", "Hospital A/2", "s" * 200])
def test_a_name_is_a_label_and_follows_from_parent_site_and_job_alone(job_id: str, site: str) -> None:
    spec = JobSpec(job_id=job_id, command=["true"], site=site)
    name = job_name("server", spec)
    kubernetes.client.V1ObjectMeta.model_validate({"name": name})
    assert len(name) <= 52
    assert name.strip("abcdefghijklmnopqrstuvwxyz0123456789-") == ""
    assert not name.startswith("-")
    assert not name.endswith("-")
    assert name == job_name("server", JobSpec(job_id=job_id, command=["false"], site=site, env={"A": "b"}))
    assert name != job_name("server.other", spec)
    assert name != job_name("server", JobSpec(job_id=f"{job_id[:62]}1", command=["true"], site=site))
