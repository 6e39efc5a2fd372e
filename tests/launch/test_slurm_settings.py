"""What may be asked of Slurm, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from zcell.errors import LaunchError
from zcell.launch import JobSpec
from zcell.launch.slurm import SlurmLauncher
from zcell.launch.slurm.settings import SlurmSettings, job_resources, resource_options


@pytest.mark.parametrize(
    ("resources", "options"),
    [
        ({"cpus": 4}, {"cpus-per-task": "4"}),
        ({"memory": 1}, {"mem": "1M"}),
        ({"memory": 3 * 2**30}, {"mem": "3072M"}),
        ({"memory": "16G"}, {"mem": "16G"}),
        ({"gpus": 2}, {"gpus-gres": "gpu:2"}),
        ({"gpus": "h100:4"}, {"gpus-gres": "gpu:h100:4"}),
        ({"num_of_gpus": 1}, {"gpus-gres": "gpu:1"}),
        ({"gpus": 0}, {"gpus-none": ""}),
        ({"time_limit": 1}, {"time": "0-00:00:01"}),
        ({"time_limit": 90061.5}, {"time": "1-01:01:02"}),
        ({"time_limit": "2-12"}, {"time": "2-12"}),
        ({"nodes": 2}, {"nodes": "2"}),
    ],
)
def test_resources_become_options_of_sbatch(resources: dict[str, Any], options: dict[str, str]) -> None:
    assert resource_options(resources, "job j") == options


@pytest.mark.parametrize(
    "resources",
    [
        {"cpus": 0},
        {"cpus": "4"},
        {"cpus": True},
        {"memory": "4 G"},
        {"memory": 0},
        {"gpus": -1},
        {"gpus": "a100:0"},
        {"gpus": "x\n#SBATCH --uid=0"},
        {"time_limit": 0},
        {"time_limit": "1 hour"},
        {"nodes": 1.5},
        {"memory_gib": 4},
    ],
)
def test_a_wrong_resource_is_named_with_its_job(resources: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match=rf"job j:.*{next(iter(resources))}"):
        resource_options(resources, "job j")


@pytest.mark.parametrize(
    "settings",
    [
        {"partition": "a b"},
        {"partition": "main\n#SBATCH --uid=0"},
        {"partition": 3},
        {"account": "x,y"},
        {"constraint": "a`b`"},
        {"nodelist": "node 1"},
        {"directory": "relative"},
        {"directory": "/tmp/$(id)"},
        {"directory": "/tmp/../etc"},
        {"shared_directory": "/a b"},
        {"credentials": "mail"},
        {"setup": "module load x"},
        {"setup": ["a\nb"]},
        {"setup": ["#SBATCH --uid=0"]},
        {"setup": [1]},
        {"export": "HOME"},
        {"export": ["A=b"]},
        {"output": "log"},
        {"requeue": "yes"},
        {"poll_interval": 0},
        {"bin": "slurm/bin"},
        {"python": ""},
        {"python": 3},
        {"python": "a\nb"},
        {"cpus": 0},
        {"partitions": "main"},
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match=f"slurm.*{next(iter(settings))}"):
        SlurmLauncher(settings)


def test_shared_credentials_need_a_shared_directory() -> None:
    with pytest.raises(LaunchError, match="set shared_directory"):
        SlurmLauncher({"credentials": "shared"})


def test_a_jobs_own_resources_count_over_its_sites_over_the_launchers() -> None:
    settings = SlurmSettings.parse({"cpus": 1, "memory": "1G", "time_limit": 60})
    spec = JobSpec(
        job_id="j",
        command=["true"],
        site="here",
        resources={"cpus": 3},
        resource_spec={"here": {"cpus": 2, "memory": "2G", "slurm": {"partition": "x"}}, "there": {"cpus": 9}},
    )
    assert job_resources(settings, spec) == {"cpus": 3, "memory": "2G", "time_limit": 60}


def test_missing_programs_are_told_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match=r"job j: there is no sbatch on PATH; install Slurm's client programs"):
        SlurmLauncher().check(JobSpec(job_id="j", command=["true"]))


def test_a_job_may_set_what_it_asks_for_and_nothing_else() -> None:
    launcher = SlurmLauncher({"partition": "main", "account": "physics"})
    spec = {"here": {"slurm": {"partition": "gpu", "cpus": 4, "account": "physics"}}}
    own = launcher.job_settings(JobSpec(job_id="j", command=["true"], site="here", launcher_spec=spec))
    assert own == {"partition": "gpu", "cpus": 4, "account": "physics"}
    for name, value in (("setup", ["reboot"]), ("python", "/mine"), ("directory", "/etc"), ("nonsense", 1)):
        job = JobSpec(job_id="j", command=["true"], launcher_spec={"default": {"slurm": {name: value}}})
        with pytest.raises(LaunchError, match=rf"job j: launcher_spec\['default'\]\['slurm'\] sets '{name}'"):
            launcher.job_settings(job)
    other = JobSpec(job_id="j", command=["true"], launcher_spec={"default": {"process": {"python": "x"}}})
    assert launcher.job_settings(other) == {}
