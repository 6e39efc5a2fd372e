"""`zcell doctor --launcher kubernetes`: what is well, what is not, what to do. The cluster is a stand-in, the command is real."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import events, json_lines, running, zcell
from tests.eventually import eventually
from tests.launch.kubernetes.standin import StandIn
from zcell import Cell
from zcell.cli import checkup
from zcell.cli.checkup import Report
from zcell.cli.screen import Screen
from zcell.launch import JobSpec
from zcell.launch.checkup import Check
from zcell.launch.kubernetes import KubernetesLauncher

ALL = [
    *("launcher", "client", "configuration", "cluster", "may use jobs", "may use pods", "may use pods/log"),
    *("may use secrets", "may use events", "address", "job: starts", "job: output", "job: exit code 0", "job: files back"),
    *("job: exit code 7", "job: ended on demand", "job: files after that", "nothing is left"),
]


def arguments(cluster: StandIn, *more: object, image: str = "zcell:test") -> list[object]:
    usual = ["doctor", "--launcher", "kubernetes", "--image", image, "--namespace", "default"]
    return [*usual, "--set", f"kubeconfig={cluster.kubeconfig}", "--set", f"python={sys.executable}", *more]


def failed(stdout: bytes) -> dict[str, dict[str, Any]]:
    """The findings that failed, and the summary agrees."""
    found = {finding["name"]: finding for finding in events(stdout, "finding") if not finding["ok"]}
    (summary,) = events(stdout, "summary")
    assert summary["failed"] == len(found)
    assert summary["ok"] == (not found)
    assert all(finding["advice"] for finding in found.values())
    return found


def test_a_cluster_that_runs_jobs_passes_every_check_and_keeps_nothing(cluster: StandIn) -> None:
    done = zcell(*arguments(cluster, "--json"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json_lines(done.stdout)
    assert [line["name"] for line in lines[:-1]] == ALL
    assert all(line["event"] == "finding" and line["ok"] for line in lines[:-1])
    assert lines[-1] == {"event": "summary", "ok": True, "exit_code": 0, "checks": len(ALL), "failed": 0}
    assert cluster.left() == []
    assert [kind for kind, _ in cluster.store.requests].count("secrets") == 3, "three jobs really ran"


def test_for_people_each_check_is_one_line(cluster: StandIn) -> None:
    done = zcell(*arguments(cluster))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.decode().splitlines()
    assert [line[:26].strip() for line in lines] == ALL
    assert all(line[27:].startswith("ok ") for line in lines)


def test_missing_permissions_are_named_and_nothing_is_started(cluster: StandIn) -> None:
    cluster.forbidden = {"create jobs", "watch pods", "list events"}
    done = zcell(*arguments(cluster, "--json"))
    assert done.returncode == 3
    found = failed(done.stdout)
    assert list(found) == ["may use jobs", "may use pods"]
    assert "not allowed in namespace default: create (the stand-in was told so)" in found["may use jobs"]["text"]
    assert "kubectl -n default create role zcell --verb=create,get,list," in found["may use jobs"]["advice"]
    assert "--resource=jobs.batch" in found["may use jobs"]["advice"]
    optional = next(finding for finding in events(done.stdout, "finding") if finding["name"] == "may use events")
    assert optional["ok"], "it only explains more"
    assert optional["advice"]
    assert cluster.store.requests == []


def test_a_cluster_that_cannot_be_reached_is_told(cluster: StandIn) -> None:
    cluster.stop()
    done = zcell(*arguments(cluster, "--json"))
    assert done.returncode == 3
    assert list(failed(done.stdout)) == ["cluster"]
    cluster.start()
    cluster.fail.append(("GET /version/", 401))
    done = zcell(*arguments(cluster, "--json"))
    assert done.returncode == 3
    assert "log in again" in failed(done.stdout)["cluster"]["advice"]


def test_a_configuration_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = zcell("doctor", "--launcher", "kubernetes", "--json", "--set", f"kubeconfig={tmp_path / 'none'}")
    assert done.returncode == 2
    assert "set kubeconfig and context" in failed(done.stdout)["settings"]["text"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--set", "labels=no"], "labels"),
        (["--set", "shoes=2"], "no setting 'shoes'"),
        (["--set", "nothing"], "expected NAME=VALUE"),
    ],
)
def test_a_wrong_setting_is_told(cluster: StandIn, more: list[str], expected: str) -> None:
    done = zcell(*arguments(cluster, "--json", *more))
    assert done.returncode == 2
    assert expected in failed(done.stdout)["settings"]["text"]
    assert cluster.asked == []


def test_a_client_that_is_not_installed_is_told(tmp_path: Path) -> None:
    (tmp_path / "kubernetes.py").write_text("raise ImportError('there is none')")
    done = zcell("doctor", "--launcher", "kubernetes", "--json", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "pip install 'zcell[kubernetes]'" in failed(done.stdout)["launcher"]["advice"]


def test_an_address_that_others_reach_needs_to_be_accepted(cluster: StandIn) -> None:
    done = zcell(*arguments(cluster, "--json", "--listen", "tcp://0.0.0.0:0"))
    assert done.returncode == 2
    assert "--insecure" in failed(done.stdout)["address"]["text"]
    assert cluster.store.requests == []


@pytest.mark.parametrize(
    ("image", "more", "code", "expected"),
    [
        ("zcell:missing", ["--set", "image_limit=0.3"], 2, "the image cannot be pulled (ImagePullBackOff"),
        ("zcell:test", ["--set", "cpus=1000", "--timeout", "2"], 2, "no node has room for it (Unschedulable"),
        ("zcell:test", ["--set", "python=/bin/false"], 2, "its node ended with code 1"),
        ("zcell:test", ["--set", "start_limit=1", "--set", "parent_url=tcp://127.0.0.1:1"], 3, "did not call back within 1 s"),
    ],
)
def test_a_job_that_does_not_start_is_told_with_its_reason(
    cluster: StandIn, image: str, more: list[str], code: int, expected: str
) -> None:
    done = zcell(*arguments(cluster, "--json", *more, image=image))
    assert done.returncode == code, done.stdout
    found = failed(done.stdout)
    assert list(found) == ["job: starts"]
    assert expected in found["job: starts"]["text"]
    assert [line["ok"] for line in events(done.stdout, "finding") if line["name"] == "nothing is left"] == [True]
    assert cluster.left() == []


def test_no_image_is_told_with_the_places_to_name_one(cluster: StandIn) -> None:
    done = zcell("doctor", "--launcher", "kubernetes", "--json", "--set", f"kubeconfig={cluster.kubeconfig}")
    assert done.returncode == 2
    assert "three places" in failed(done.stdout)["job: starts"]["text"]
    assert cluster.store.requests == []


def test_interrupted_it_leaves_nothing_behind(cluster: StandIn) -> None:
    with running(*arguments(cluster, "--json", "--set", "cpus=1000")) as command:
        while json.loads(command.line()).get("name") != "address":
            continue
        eventually(lambda: cluster.store.find("pods"), 30)
        command.signal(signal.SIGINT)
        code, rest = command.finish()
    assert code == 130
    assert [(line["name"], line["ok"]) for line in events(rest, "finding")] == [("nothing is left", True)]
    assert cluster.left() == []


def test_what_is_left_is_named(cluster: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(checkup, "LEFT_LIMIT", 0.0)
    settings = {"kubeconfig": cluster.kubeconfig, "image": "zcell:test", "python": sys.executable}
    launcher = KubernetesLauncher(settings)
    with Cell("server", listen=["tcp://127.0.0.1:0"]) as parent:
        handle = launcher.launch(JobSpec(job_id="job-1", command=["sleep", "60"]), parent)
        eventually(lambda: cluster.store.find("pods"), 20)
        report = Report(Screen())
        checkup._cleared(launcher, report)
        assert report.code == 5
        text = capfd.readouterr().out
        for kind in ("job", "pod", "secret"):
            assert f"{kind}/zcell-local-job-1-" in text
        assert "Do: look why with kubectl -n default get job/zcell-local-job-1-" in text
        handle.kill()
        eventually(lambda: launcher.left().ok, 20, cluster.left)
        cluster.fail.append(("GET secrets", 403))
        assert "Secrets may not be listed here" in launcher.left().text
    launcher.close()


def test_options_of_a_launchers_check_need_the_launcher() -> None:
    done = zcell("doctor", "--image", "x")
    assert done.returncode == 2
    assert b"add --launcher" in done.stderr


def test_every_launcher_can_be_checked() -> None:
    done = zcell("doctor", "--launcher", "process", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["name"] for line in events(done.stdout, "finding")] == [n for n in ALL if n.startswith(("l", "job", "addr"))]


def test_a_text_of_several_lines_is_told_on_one(capfd: pytest.CaptureFixture[str]) -> None:
    Report(Screen()).add(Check("cluster", "refused:\n  by policy", "link", "ask"))
    assert capfd.readouterr().out == f"{'cluster':<26} FAILED  refused: by policy. Do: ask\n"


def test_a_check_that_fails_must_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="does not say what to do"):
        Check("name", "text", "link")
