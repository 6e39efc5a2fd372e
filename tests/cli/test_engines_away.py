"""Engines that are not there, or hang, as `zcell run` and `zcell doctor` tell it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import LIMIT, events, running, zcell
from tests.eventually import eventually

AWAY = "slurm_load_partitions: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def no_docker(tmp_path: Path) -> list[object]:
    return ["--launcher", "docker", "--image", "i", "--set", f"engine=unix://{tmp_path}/none.sock"]


@pytest.fixture
def no_slurm(tmp_path: Path) -> list[object]:
    """Slurm's programs, and no cluster."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sbcast", "scontrol", "sinfo"):
        says = f'[ "$1" = --version ] && echo slurm 22 && exit; echo "{name}: error: {AWAY}" >&2; exit 1'
        (programs / name).write_text(f"#!/bin/sh\n{says}\n")
        (programs / name).chmod(0o755)
    return ["--launcher", "slurm", "--set", f"bin={programs}"]


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[list[object]]:
    """A Docker engine that takes connections and answers nothing."""
    address = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)
        yield ["--launcher", "docker", "--image", "i", "--set", f"engine=unix://{address}"]


def test_an_engine_that_is_away_is_no_mistake_of_the_user(no_docker: list[object], tmp_path: Path) -> None:
    done = zcell("run", *no_docker, tmp_path, "--", "true")
    assert done.returncode == 3
    assert b"the Docker engine cannot be reached at" in done.stderr
    done = zcell("doctor", *no_docker, "--json")
    assert done.returncode == 3
    (failed,) = [finding for finding in events(done.stdout, "finding") if not finding["ok"]]
    assert failed["name"] == "engine"
    assert "DOCKER_HOST" in failed["advice"]


def test_a_cluster_that_is_away_is_no_mistake_of_the_user(no_slurm: list[object], tmp_path: Path) -> None:
    done = zcell("run", *no_slurm, tmp_path, "--", "true")
    assert done.returncode == 3, done.stderr
    assert b"the Slurm cluster does not answer: sbatch: error: " in done.stderr
    done = zcell("doctor", *no_slurm, "--json")
    assert done.returncode == 3
    findings = {finding["name"]: finding for finding in events(done.stdout, "finding")}
    assert findings["programs"]["text"] == "slurm 22"
    assert AWAY in findings["cluster"]["text"]
    assert "SLURM_CONF" in findings["cluster"]["advice"]
    assert [name for name, finding in findings.items() if not finding["ok"]] == ["cluster"]


def test_a_launcher_nobody_has_is_not_to_be_installed() -> None:
    done = zcell("doctor", "--launcher", "dokcer")
    assert done.returncode == 2
    assert b"pip install" not in done.stdout


def test_an_interrupt_is_heard_while_an_engine_hangs_and_a_second_one_leaves(hanging: list[object], tmp_path: Path) -> None:
    with running("run", *hanging, "--set", "parent_url=tcp://127.0.0.1:9", tmp_path, "--", "true") as command:
        eventually(lambda: threads(command.process.pid) > 1, LIMIT)  # the one that hears signals is there
        command.signal(signal.SIGINT)
        eventually(lambda: "as soon as its engine has answered; again to leave at once" in command.errors, LIMIT)
        command.signal(signal.SIGINT)
        code, _ = command.finish()
    assert code == 130
    assert "interrupted again: left" in command.errors


def test_an_engine_that_hangs_is_given_up_after_some_seconds(hanging: list[object], tmp_path: Path) -> None:
    done = zcell("run", *hanging, tmp_path, "--", "true")
    assert done.returncode == 3, done.stderr
    assert b"timed out" in done.stderr


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
