"""The batch script: compared with golden files, and read as a shell reads it. To renew the files: ZCELL_TEST_GOLDEN=write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from zcell.launch import JobSpec
from zcell.launch.slurm.script import Batch, render
from zcell.launch.slurm.settings import SlurmSettings, job_resources, resource_options

GOLDEN = Path(__file__).parent / "golden"
OWNER = "zcell/submit-1/0123456789abcdef0123456789abcdef/4711/123456"
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, {}),
    "everything": (
        {
            "partition": "gpu,long",
            "account": "physics",
            "qos": "high",
            "reservation": "monday",
            "constraint": "a100&nvme",
            "nodelist": "node[1-4]",
            "exclude": "node3",
            "gres": "scratch:100G",
            "licenses": "matlab:1",
            "directory": "/local/scratch",
            "setup": ["module load python/3.11", "export OMP_NUM_THREADS=4"],
            "export": ["LANG", "CUDA_HOME"],
            "output": "/home/me/logs/%x-%j.log",
            "requeue": True,
        },
        {"cpus": 8, "memory": 32 * 2**30, "gpus": "a100:2", "time_limit": 90061, "nodes": 2},
        {"url": "tcp://login.cluster.example:5000", "python": "/home/me/it's a venv/bin/python"},
    ),
    "array": (
        {"partition": "main"},
        {"time_limit": "00:30:00"},
        {"nodes": ["server.launch_a", "server.launch_b", "server.launch_c"], "is_array": True, "at_once": 2},
    ),
    "shared": ({"credentials": "shared", "shared_directory": "/home/me/zcell"}, {"gpus": 1}, {}),
}


def script(name: str) -> str:
    given, resources, batch = CASES[name]
    settings = SlurmSettings.parse(given)
    spec = JobSpec(job_id="job-1", command=["true"], resources=resources)
    usual: dict[str, Any] = {
        "name": "zcell-job-1",
        "nodes": ["server.launch_job-1"],
        "url": "tcp://127.0.0.1:5000",
        "nonce": "00112233445566778899aabb",
        "python": "/usr/bin/python3",
        "owner": OWNER,
    }
    return render(Batch(**(usual | batch)), settings, resource_options(job_resources(settings, spec), "job job-1"))


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_as_it_was_agreed(name: str) -> None:
    path = GOLDEN / f"slurm-{name}.sh"
    if os.environ.get("ZCELL_TEST_GOLDEN") == "write":
        path.write_text(script(name))
    assert script(name) == path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_a_shell_can_read_the_script(name: str) -> None:
    for shell in ("sh", "bash"):
        done = subprocess.run([shell, "-n"], input=script(name), text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def run_script(tmp_path: Path, python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    settings = SlurmSettings.parse({"directory": str(tmp_path)})
    batch = Batch("zcell-x", ["server.launch_x", "server.launch_y"], "tcp://127.0.0.1:1", "0f", python, OWNER, is_array=True)
    env = {"PATH": os.environ["PATH"]} | variables
    text = render(batch, settings, {})
    return subprocess.run(["sh"], input=text, env=env, text=True, capture_output=True, timeout=20, check=False)


def stand_in(tmp_path: Path, body: str) -> str:
    program = tmp_path / "a python's stand-in"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


def test_the_node_gets_its_name_its_run_and_a_private_directory(tmp_path: Path) -> None:
    python = stand_in(tmp_path, 'test "$2" = -c && exit 0; echo "$@"; stat -c %a "$(dirname "${10}")"; exit 42')
    done = run_script(tmp_path, python, SLURM_ARRAY_TASK_ID="1", SLURM_RESTART_COUNT="3")
    assert done.returncode == 42, done.stderr
    words, mode = done.stdout.splitlines()
    assert "--name server.launch_y" in words
    assert f"--credentials {tmp_path}/zcell-slurm-0f-1-3/credentials" in words
    assert "--run 3" in words
    assert mode == "700"
    assert not list(tmp_path.glob("zcell-slurm-*"))


def test_a_private_directory_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zcell-slurm-0f-0-0").mkdir()
    assert run_script(tmp_path, stand_in(tmp_path, "exit 0")).returncode == 120


@pytest.mark.parametrize("python", ["/no/python", "a stand-in"])
def test_a_python_without_zcell_is_told_by_its_code_and_leaves_nothing(tmp_path: Path, python: str) -> None:
    program = stand_in(tmp_path, "exit 1") if python == "a stand-in" else python
    assert run_script(tmp_path, program).returncode == 121
    assert not list(tmp_path.glob("zcell-slurm-*"))


def test_a_signal_to_the_shell_reaches_the_node_whose_code_counts(tmp_path: Path) -> None:
    body = 'test "$2" = -c && exit 0; trap "exit 7" TERM; kill -TERM $PPID; while :; do sleep 0.05; done'
    assert run_script(tmp_path, stand_in(tmp_path, body)).returncode == 7
    assert not list(tmp_path.glob("zcell-slurm-*"))


def test_a_signal_before_the_node_has_started_leaves_nothing(tmp_path: Path) -> None:
    assert run_script(tmp_path, stand_in(tmp_path, 'kill -TERM "$PPID"; sleep 0.1')).returncode == 143
    assert not list(tmp_path.glob("zcell-slurm-*"))
