"""``zcell run --launcher docker`` as a user types it, on a real engine."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.cli.commands import events, running, zcell
from tests.engines.dockerd import IMAGE, NETWORK, DockerEngine
from tests.eventually import eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train"


@pytest.fixture
def docker(dockerd: DockerEngine) -> list[object]:
    """What of the command line is the same each time."""
    settings = ["--set", f"engine={dockerd.address}", "--set", f"network={NETWORK}"]
    return ["run", "--launcher", "docker", "--image", IMAGE, "--insecure", *settings]


@pytest.mark.timeout(300)
def test_the_example_trains_in_a_container_and_its_results_are_here(
    docker: list[object], dockerd: DockerEngine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = zcell(*docker, "--results", out, EXAMPLE, "--", "python3", "train.py", "--epochs", "30")
    assert done.returncode == 0, done.stderr.decode()
    assert {"model.npz", "metrics.jsonl", "training.png"} <= {path.name for path in out.iterdir()}
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 30
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"results: \d+ files, .* in .*out", done.stderr.decode())
    assert dockerd.left() == []


def test_the_jobs_code_is_the_commands_and_what_it_wrote_comes_back(docker: list[object], tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    done = zcell(*docker, "--json", tmp_path, "--", "sh", "-c", "echo out; echo err >&2; cp in made; exit 7")
    assert done.returncode == 7
    (summary,) = events(done.stdout, "summary")
    assert summary["job_exit_code"] == 7
    assert (tmp_path / "made").read_text() == "x"
    assert [line["line"] for line in events(done.stdout, "output") if line["stream"] == "stdout"] == ["out"]


def test_a_directory_can_be_shared_instead(docker: list[object], tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    done = zcell(*docker, "--set", "workspace=shared", tmp_path, "--", "sh", "-c", "pwd; cp in made")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().startswith("/zcell/workspace/")
    assert (tmp_path / "made").read_text() == "x"
    assert f"nothing travelled: the job worked in {tmp_path} itself" in done.stderr.decode()


def test_results_that_cannot_be_put_in_place_stay_in_the_container(
    docker: list[object], dockerd: DockerEngine, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    out = tmp_path / "out"
    script = "echo valuable > made; echo ready; while [ ! -e /tmp/go ]; do sleep 0.1; done"
    with running(*docker, "--json", "--results", out, tmp_path / "in", "--", "sh", "-c", script) as run:
        while json.loads(run.line())["event"] != "output":
            pass
        out.write_text("in the way")
        (container,) = dockerd.client.containers.list()
        container.exec_run(["touch", "/tmp/go"])
        code, rest = run.finish()
    assert code == 5
    (summary,) = events(rest, "summary")
    name, place = re.findall(r"docker cp (zcell-kept-\S+):(\S+) PLACE", summary["kept"])[0]
    assert summary["kept"] in summary["reason"]
    kept = dockerd.client.containers.get(name)
    assert zcell(*docker, tmp_path / "in", "--", "true").returncode == 0, (
        "the next launch, which removes what dead parents left"
    )
    stream, _ = kept.get_archive(f"{place}/made")
    assert b"valuable\n" in b"".join(stream)
    kept.remove()


def test_settings_are_json_where_they_can_be(docker: list[object], tmp_path: Path) -> None:
    more = ["--set", 'env={"COLOUR": "blue"}', "--set", 'container={"shm_size": "48m"}']
    done = zcell(*docker, *more, tmp_path, "--", "sh", "-c", "echo $COLOUR; df -m /dev/shm | tail -1")
    colour, shm = done.stdout.decode().splitlines()
    assert colour == "blue"
    assert shm.split()[1] == "48"


def test_interrupting_the_command_ends_the_job_and_brings_back_what_there_is(
    docker: list[object], dockerd: DockerEngine, tmp_path: Path
) -> None:
    script = "trap 'echo bye > last; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with running(*docker, tmp_path, "--", "sh", "-c", script) as command:
        assert command.line() == "ready"
        command.signal(signal.SIGINT)
        assert command.finish()[0] == 130
    assert (tmp_path / "last").read_text() == "bye\n"
    eventually(lambda: dockerd.left() == [], 10, dockerd.left)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "image="], "names no image"),
        (["--set", "network=nowhere"], "docker network create nowhere"),
        (["--set", "no-equals"], "--set no-equals: expected NAME=VALUE"),
        (["--set", "unknown=1"], "the docker launcher has no setting 'unknown'"),
        (["--set", 'container={"privileged": true}'], "sets 'privileged', which is the launcher's"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(docker: list[object], tmp_path: Path, arguments: list[str], text: str) -> None:
    done = zcell(*docker, *arguments, tmp_path, "--", "true")
    assert done.returncode == 2
    assert text in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_an_address_that_others_reach_must_be_asked_for(docker: list[object], tmp_path: Path) -> None:
    cautious = [argument for argument in docker if argument != "--insecure"]
    done = zcell(*cautious, tmp_path, "--", "true")
    assert done.returncode == 2
    assert "add --insecure to accept" in done.stderr.decode()
    assert zcell(*cautious, "--set", "network=host", tmp_path, "--", "true").returncode == 0


def test_the_json_output_is_nothing_but_objects(docker: list[object], tmp_path: Path) -> None:
    done = zcell(*docker, "--json", tmp_path, "--", "sh", "-c", "seq 3")
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert lines[0]["event"] == "started"
    assert lines[0]["launcher"] == "docker"
    assert lines[-1]["event"] == "summary"


def test_the_doctor_finds_an_engine_that_runs_jobs_well_and_leaves_nothing(docker: list[object], dockerd: DockerEngine) -> None:
    done = zcell("doctor", *docker[1:], "--json")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    findings = events(done.stdout, "finding")
    assert len(findings) > 5
    assert all(finding["ok"] for finding in findings), findings
    assert dockerd.left() == []


def test_the_doctor_names_what_is_wrong_with_an_engine(docker: list[object]) -> None:
    done = zcell("doctor", *docker[1:], "--set", "network=nowhere")
    assert done.returncode in (2, 3)
    assert "FAILED" in done.stdout.decode()
    assert "nowhere" in done.stdout.decode()
