"""Every benchmark runs. Nothing is said here about speed: sizes are tiny, and other tests run beside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path.name for path in (ROOT / "bench").glob("test_*.py"))
HALVES = {"one-half": FILES[::2], "the-other": FILES[1::2]}


@pytest.mark.parametrize("half", HALVES)
def test_every_benchmark_runs_and_has_a_line_in_the_table(half: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--quick", "--benchmark-only", "--benchmark-quiet"]
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(tmp_path / "pytest")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, *options, *(f"bench/{name}" for name in HALVES[half])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    for name in HALVES[half]:
        group = name.removeprefix("test_").removesuffix(".py").replace("_", " ")
        assert f"\n[{group}]\n" in done.stdout
