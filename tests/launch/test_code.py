"""Where a job's own modules are: named relative to the workspace, found wherever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from zcell.errors import LaunchError
from zcell.launch import JobSpec
from zcell.launch.code import VARIABLE, code_entries, with_code


def entries(*code: Path | str, **fields: Path) -> list[str]:
    return code_entries(JobSpec(job_id="job-1", command=["true"], code=code, **fields))  # type: ignore[arg-type]


def test_relative_directories_are_below_the_jobs_own() -> None:
    assert entries("custom", Path("a/b")) == ["job-1/custom", "job-1/a/b"]


def test_absolute_directories_are_translated(tmp_path: Path) -> None:
    assert entries(tmp_path / "job-1" / "custom", tmp_path / "local" / "lib", workspace=tmp_path) == [
        "job-1/custom",
        "local/lib",
    ]
    assert entries(tmp_path / "elsewhere" / "custom", job_directory=tmp_path / "elsewhere") == ["job-1/custom"]


def test_a_link_on_the_way_to_the_workspace_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "real" / "job-1" / "custom").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert entries(tmp_path / "real" / "job-1" / "custom", workspace=tmp_path / "link") == ["job-1/custom"]


@pytest.mark.parametrize("path", ["../other", "custom/../../other", "with:colon", "/etc"])
def test_what_the_job_does_not_have_is_refused_by_name(path: str, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=f"job job-1: the code directory {path} must be below"):
        entries(path, workspace=tmp_path)


def test_startup_is_no_place_for_code(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="must be below the job's directory"):
        entries(tmp_path / "startup" / "x", workspace=tmp_path)


def test_the_command_gets_them_in_front_of_its_own_path() -> None:
    root = Path("/zcell/workspace")
    assert with_code({"A": "1"}, root) == {"A": "1"}
    assert with_code({VARIABLE: "job-1/custom:local/lib"}, root) == {
        "PYTHONPATH": "/zcell/workspace/job-1/custom:/zcell/workspace/local/lib"
    }
    assert with_code({VARIABLE: "job-1/custom", "PYTHONPATH": "/opt/x"}, root) == {
        "PYTHONPATH": "/zcell/workspace/job-1/custom:/opt/x"
    }
