"""``zcell run --launcher slurm`` as a user types it, on a real cluster."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.commands import events, running, zcell
from tests.engines.slurm_cluster import SlurmCluster
from tests.eventually import eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train"
RUN = ["run", "--launcher", "slurm"]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("cluster")
def test_the_example_trains_on_the_cluster_and_its_results_are_here(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = zcell(*RUN, "--results", out, EXAMPLE, "--", sys.executable, "train.py", "--epochs", "30")
    assert done.returncode == 0, done.stderr.decode()
    assert {"model.npz", "metrics.jsonl", "training.png"} <= {path.name for path in out.iterdir()}
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 30
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"results: \d+ files, .* in .*out", done.stderr.decode())


@pytest.mark.usefixtures("cluster")
def test_the_jobs_code_is_the_commands_and_what_it_wrote_comes_back(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    script = "echo node says hi; cp in made; pwd > where; exit 7"
    done = zcell(*RUN, "--json", tmp_path, "--", "sh", "-c", script)
    assert done.returncode == 7, done.stderr.decode()
    (summary,) = events(done.stdout, "summary")
    assert summary["job_exit_code"] == 7
    assert [line["line"] for line in events(done.stdout, "output") if line["stream"] == "stdout"] == ["node says hi"]
    assert (tmp_path / "made").read_text() == "x"
    assert (tmp_path / "where").read_text().startswith("/tmp/zcell-job-")
    assert (tmp_path / "where").stat().st_mode == (tmp_path / "in").stat().st_mode, "the user's own umask holds on the node"


def test_interrupting_the_command_ends_the_job_and_brings_back_what_there_is(cluster: SlurmCluster, tmp_path: Path) -> None:
    script = "trap 'echo bye > last; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with running(*RUN, tmp_path, "--", "sh", "-c", script) as command:
        assert command.line() == "ready"
        command.signal(signal.SIGINT)
        assert command.finish()[0] == 130
    assert (tmp_path / "last").read_text() == "bye\n"
    eventually(lambda: not cluster.left(), 20, cluster.left)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "partition=nowhere"], "invalid partition"),
        (["--set", "unknown=1"], "the slurm launcher has no setting 'unknown'"),
        (["--set", "cpus=0"], "the resource cpus must be whole number from 1"),
        (["--set", "bin=/nowhere"], "there is no sbatch in /nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path: Path, arguments: list[str], text: str) -> None:
    done = zcell(*RUN, *arguments, tmp_path, "--", "true")
    assert done.returncode == 2, done.stderr.decode()
    assert text in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("output=/nowhere/log", "is the setting output a file that can be written there?"),
        ("directory=/nowhere", "is the setting directory"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_what_only_the_node_can_find_is_code_2_as_well(tmp_path: Path, setting: str, text: str) -> None:
    done = zcell(*RUN, "--set", setting, "--json", tmp_path, "--", "true")
    assert done.returncode == 2, done.stderr.decode()
    assert text in done.stderr.decode()
    assert events(done.stdout, "summary")[0]["job_exit_code"] is None


def test_the_doctor_finds_a_cluster_that_runs_jobs_well_and_leaves_nothing(cluster: SlurmCluster) -> None:
    done = zcell("doctor", "--launcher", "slurm", "--json")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    findings = events(done.stdout, "finding")
    assert len(findings) > 5
    assert all(finding["ok"] for finding in findings), findings
    eventually(lambda: not cluster.left(), 20, cluster.left)


@pytest.mark.usefixtures("cluster")
def test_the_doctor_names_what_is_wrong_with_a_cluster() -> None:
    done = zcell("doctor", "--launcher", "slurm", "--set", "partition=nowhere")
    assert done.returncode in (2, 3, 5)
    assert "FAILED" in done.stdout.decode()
    assert "nowhere" in done.stdout.decode() or "partition" in done.stdout.decode()
