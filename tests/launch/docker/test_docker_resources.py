"""A job's resources become limits of its container, or an error."""

from __future__ import annotations

from typing import Any

import pytest

from zcell.errors import LaunchError
from zcell.launch import JobSpec
from zcell.launch.docker.gpus import device_requests
from zcell.launch.docker.settings import JobSettings, SiteSettings


def merged(resources: dict[str, Any], job: dict[str, Any] | None = None, **fields: Any) -> JobSettings:
    site = SiteSettings.parse({"image": "i"} | fields.pop("settings", {}))
    spec = JobSpec(job_id="job-1", command=["true"], site="site-1", resources=resources, **fields)
    return JobSettings.merge(spec, job or {}, "launcher_spec['site-1']", site)


@pytest.mark.parametrize(
    ("resources", "container"),
    [
        ({}, {}),
        ({"cpus": 2}, {"nano_cpus": 2_000_000_000}),
        ({"cpus": 0.5}, {"nano_cpus": 500_000_000}),
        ({"memory": 1 << 20}, {"mem_limit": 1 << 20}),
        ({"memory": "4G"}, {"mem_limit": 4 << 30}),
        ({"memory": "512m", "cpus": 1}, {"mem_limit": 512 << 20, "nano_cpus": 1_000_000_000}),
    ],
)
def test_cpus_and_memory_become_limits(resources: dict[str, Any], container: dict[str, Any]) -> None:
    assert merged(resources).container == container


def test_the_jobs_own_resources_count_before_its_sites() -> None:
    spec = {"site-1": {"memory": "1g", "cpus": 1, "docker": {"image": "x"}}, "site-2": {"cpus": 7}}
    assert merged({"cpus": 2}, resource_spec=spec).container == {"nano_cpus": 2_000_000_000, "mem_limit": 1 << 30}


@pytest.mark.parametrize("name", ["gpus", "num_of_gpus"])
def test_gpus_count_after_the_jobs_settings_and_before_the_sites(name: str) -> None:
    site = {"num_of_gpus": 4}

    def count(resources: dict[str, Any], job: dict[str, Any]) -> list[int]:
        return [request["Count"] for request in device_requests(merged(resources, job).gpus, site)]

    assert count({}, {}) == [4]
    assert count({name: 2}, {}) == [2]
    assert count({name: 0}, {}) == []
    assert count({name: 2}, {"num_of_gpus": 1}) == [1]
    assert count({name: 2}, {"device_requests": [{"Count": 3}]}) == [3]


@pytest.mark.parametrize(
    ("resources", "settings", "text"),
    [
        ({"time_limit": 60}, {}, "the docker launcher has no resource 'time_limit'; it has cpus, memory"),
        ({"cpus": 0}, {}, "the resource cpus must be a number above 0"),
        ({"cpus": True}, {}, "the resource cpus must be a number above 0"),
        ({"cpus": "2"}, {}, "the resource cpus must be a number above 0"),
        ({"memory": 0}, {}, "the resource memory must be bytes, or a text such as 4G"),
        ({"memory": "4 gigs"}, {}, "the resource memory must be bytes"),
        ({"memory": "2g"}, {"container": {"mem_limit": "1g"}}, "memory asks for 2147483648, and .* gives 1073741824 at most"),
        ({"memory": "2g"}, {"container": {"mem_limit": "many"}}, "mem_limit for job job-1 must be bytes"),
        ({"cpus": 3}, {"container": {"nano_cpus": 10**9}}, "cpus asks for 3000000000, and .* gives 1000000000 at most"),
        ({"gpus": 1}, {"job_may_set": ["image"]}, "ask for GPUs, which a job may not at this site"),
    ],
)
def test_what_cannot_be_given_is_refused_by_name(resources: dict[str, Any], settings: dict[str, Any], text: str) -> None:
    with pytest.raises(LaunchError, match=text) as caught:
        merged(resources, settings=settings)
    assert "job job-1" in str(caught.value)


def test_less_than_the_sites_limit_is_the_jobs_to_ask_for() -> None:
    container = {"mem_limit": "1g", "nano_cpus": 2 * 10**9, "shm_size": "32m"}
    asked = merged({"memory": "512m", "cpus": 1}, settings={"container": container})
    assert asked.container == {"mem_limit": 512 << 20, "nano_cpus": 10**9, "shm_size": "32m"}
