"""The examples, as their READMEs say, at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n"


def _run(name: str, out: Path, *options: str) -> str:
    command = [sys.executable, f"examples/{name}/{name}.py", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def test_the_sweep_runs_its_trials_on_launched_agents(tmp_path: Path) -> None:
    said = _run("sweep", tmp_path, "--agents", "2", "--trials", "4", "--epochs", "20")
    assert "4 trials, 80 metrics" in said
    trials = json.loads((tmp_path / "trials.json").read_text())
    assert sorted(t["trial"] for t in trials) == [1, 2, 3, 4]
    assert trials[0]["loss"] == min(t["loss"] for t in trials)
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)
    assert sorted(p.name for p in (tmp_path / "jobs").iterdir()) == ["agent-1", "agent-2"]


def test_sites_that_average_tell_more_than_each_alone(tmp_path: Path) -> None:
    said = _run("federated", tmp_path, "--rounds", "3", "--width", "430000", "--steps", "2")
    assert "together" in said
    found = json.loads((tmp_path / "rounds.json").read_text())
    assert [row["round"] for row in found["rounds"]] == [1, 2, 3]
    assert found["rounds"][-1]["accuracy"] > max(found["alone"].values())
    assert (tmp_path / "federated.png").read_bytes().startswith(PNG)
    assert sorted(p.name for p in (tmp_path / "jobs").iterdir()) == ["site-1", "site-2", "site-3"]


@pytest.mark.parametrize("name", ["sweep", "federated"])
def test_each_example_says_what_it_needs_and_how_to_run_it(name: str) -> None:
    place = ROOT / "examples" / name
    assert f"python examples/{name}/{name}.py" in (place / "README.md").read_text()
    assert "numpy" in (place / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["sweep", "federated"])
def test_the_readme_names_one_command_for_each_example(name: str) -> None:
    assert f"[make {name}](examples/{name}/README.md)" in (ROOT / "README.md").read_text()
    done = subprocess.run(["make", "-n", name], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert f"python examples/{name}/{name}.py --out build/{name}" in done.stdout
