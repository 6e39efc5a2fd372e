"""Which launcher runs a job where."""

from __future__ import annotations

from typing import Any

import pytest

from zcell.errors import LaunchError
from zcell.launch import JobSpec, launcher_names, load_launcher, select_launcher
from zcell.launch.process import ProcessLauncher

KNOWN = ["docker", "process", "slurm"]


def spec(**fields: Any) -> JobSpec:
    return JobSpec(job_id="j", command=["true"], **fields)


def test_the_site_comes_before_the_default_and_the_default_before_resources() -> None:
    job = {
        "launcher_spec": {"site-1": {"docker": {"image": "a"}}, "default": {"slurm": {"partition": "p"}}},
        "resource_spec": {"site-1": {"process": {}}, "site-2": {"process": {}}},
    }
    first = select_launcher(spec(site="site-1", **job), known=KNOWN)
    assert (first.launcher, first.settings) == ("docker", {"image": "a"})
    second = select_launcher(spec(site="site-2", **job), known=KNOWN)
    assert (second.launcher, second.settings) == ("slurm", {"partition": "p"})


def test_a_launcher_nested_in_the_resources_is_the_older_way() -> None:
    chosen = select_launcher(spec(site="s", resource_spec={"s": {"num_of_gpus": 2, "docker": {"image": "b"}}}), known=KNOWN)
    assert (chosen.launcher, chosen.settings) == ("docker", {"image": "b"})
    assert "resource_spec" in chosen.place


def test_resources_without_a_launcher_leave_the_default() -> None:
    assert select_launcher(spec(site="s", resource_spec={"s": {"num_of_gpus": 2}}), known=KNOWN).launcher == "process"
    assert select_launcher(spec(), default="slurm", known=KNOWN).launcher == "slurm"


@pytest.mark.parametrize("choices", [{"docker": {}, "slurm": {}}, {}, {"podman": {}}, {"docker": "image"}, ["docker"]], ids=str)
def test_an_ambiguous_or_unknown_choice_is_refused_by_name(choices: Any) -> None:
    with pytest.raises(LaunchError, match=r"job j: launcher_spec\['s'\]"):
        select_launcher(spec(site="s", launcher_spec={"s": choices}), known=KNOWN)


def test_the_process_launcher_is_installed() -> None:
    assert "process" in launcher_names()
    assert load_launcher("process") is ProcessLauncher


def test_an_unknown_launcher_is_an_error_that_lists_the_installed_ones() -> None:
    with pytest.raises(LaunchError, match=r"'podman'; installed: .*process"):
        load_launcher("podman")


def test_a_setting_that_the_process_launcher_lacks_is_refused() -> None:
    with pytest.raises(LaunchError, match="no setting 'image'"):
        ProcessLauncher({"image": "x"})
