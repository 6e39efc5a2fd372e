"""What a site may set, what a job may set, and which of them counts."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from zcell.errors import LaunchError
from zcell.launch import JobSpec
from zcell.launch.docker import DockerLauncher
from zcell.launch.docker.settings import DEFAULT_PYTHON, JOB_MAY_SET, RESERVED, JobSettings, SiteSettings

PLACE = "launcher_spec['site-1']"


def merged(job: dict[str, Any], **site: Any) -> JobSettings:
    site = {"image": "site:1"} | site
    spec = JobSpec(job_id="job-1", command=["true"], site="site-1")
    return JobSettings.merge(spec, job, PLACE, SiteSettings.parse(site))


# images and interpreters


def test_the_jobs_image_counts_before_the_sites() -> None:
    assert merged({"image": "job:2"}).image == "job:2"
    assert merged({}).image == "site:1"


def test_without_an_image_the_error_names_the_three_places_to_set_it() -> None:
    with pytest.raises(LaunchError) as caught:
        merged({}, image="")
    text = str(caught.value)
    assert "job job-1 names no image" in text
    for place in ("launcher_spec['site-1']['docker']['image']", "launcher_spec['default']['docker']['image']", "setting image"):
        assert place in text


def test_the_python_path_is_the_jobs_then_the_sites_then_the_default() -> None:
    assert merged({"python_path": "/opt/job/python"}, python="/opt/site/python").python == "/opt/job/python"
    assert merged({}, python="/opt/site/python").python == "/opt/site/python"
    assert merged({}).python == DEFAULT_PYTHON


@pytest.mark.parametrize("path", ["", "  ", 3, "a\0b"])
def test_an_empty_python_path_is_refused_in_a_job_and_in_a_site(path: Any) -> None:
    with pytest.raises(LaunchError, match=r"job job-1: launcher_spec\['site-1'\]: python_path must be the path"):
        merged({"python_path": path})
    with pytest.raises(LaunchError, match="setting python must be the path"):
        SiteSettings.parse({"python": path})


# keyword arguments


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_argument_is_refused_in_a_sites_defaults(name: str) -> None:
    with pytest.raises(LaunchError, match=f"setting container sets '{name}', which is the launcher's"):
        SiteSettings.parse({"container": {name: "x"}})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_argument_in_a_job_is_ignored_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zcell.launch.docker"):
        settings = merged({name: "x", "shm_size": "1g"})
    assert settings.container == {"shm_size": "1g"}
    assert f"job job-1: {PLACE} sets {name}, which is the launcher's: ignored" in caplog.text


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_site_can_let_a_job_set_a_reserved_argument(name: str) -> None:
    with pytest.raises(LaunchError, match=f"job_may_set lists '{name}', which no job may set"):
        SiteSettings.parse({"job_may_set": [*JOB_MAY_SET, name]})


def test_what_isolates_a_job_is_reserved() -> None:
    assert {
        "volumes",
        "mounts",
        "network",
        "environment",
        "command",
        "name",
        "detach",
        "user",
        "working_dir",
        "privileged",
    } <= RESERVED


def test_a_job_may_set_what_is_on_the_list_by_default() -> None:
    wanted = {"shm_size": "2g", "ipc_mode": "private"}
    settings = merged(wanted | {"image": "i", "python_path": "p", "num_of_gpus": 1, "device_requests": None})
    assert settings.container == wanted
    assert (settings.image, settings.python) == ("i", "p")
    assert settings.gpus == {"num_of_gpus": 1, "device_requests": None}


def test_what_is_not_on_the_list_is_refused_with_the_list_and_the_sites_way_out() -> None:
    with pytest.raises(LaunchError) as caught:
        merged({"mem_limit": "1g"})
    text = str(caught.value)
    assert f"job job-1: {PLACE} sets 'mem_limit', which a job may not at this site" in text
    assert "image, python_path, shm_size, ipc_mode, num_of_gpus, device_requests" in text
    assert "job_may_set" in text


def test_a_site_decides_what_is_on_the_list() -> None:
    assert merged({"mem_limit": "1g"}, job_may_set=["mem_limit"]).container == {"mem_limit": "1g"}
    with pytest.raises(LaunchError, match="sets 'image', which a job may not"):
        merged({"image": "other"}, job_may_set=["mem_limit"])


def test_the_jobs_arguments_count_before_the_sites() -> None:
    site = {"shm_size": "1g", "mem_limit": "4g"}
    assert merged({"shm_size": "2g"}, container=site).container == {"shm_size": "2g", "mem_limit": "4g"}


# the site's own


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"image": 3}, "setting image .* must be a string"),
        ({"network": ["a"]}, "setting network .* must be a string"),
        ({"workspace": "nfs"}, r"setting workspace is one of \('shared', 'transfer'\), got 'nfs'"),
        ({"pull": "always"}, r"setting pull is one of \('missing', 'never'\)"),
        ({"env": ["A=1"]}, "setting env must map names of variables to strings"),
        ({"env": {"A": 1}}, "setting env must map"),
        ({"env": {"A=B": "1"}}, "setting env must map"),
        ({"container": ["shm_size"]}, "setting container must map"),
        ({"container": {"image": "x"}}, "sets 'image'; that is a setting of its own"),
        ({"container": {"num_of_gpus": 1}}, "sets 'num_of_gpus'; that is a setting of its own"),
        ({"job_may_set": "image"}, "setting job_may_set must be a list of names"),
        ({"timeout": 0}, "setting timeout must be a number of seconds above 0"),
        ({"timeout": True}, "setting timeout must be a number"),
        ({"nonsense": 1}, "the docker launcher has no setting 'nonsense'; it has .*image"),
        ({"privileged": True}, "the docker launcher has no setting 'privileged'"),
        ({"num_of_gpus": "many"}, "settings: num_of_gpus must be a number"),
        ({"parent_url": "tcp://example.org:9"}, "set insecure to true"),
        ({"parent_url": "ipc:///tmp/x"}, "nodes need tcp://HOST:PORT"),
        ({"lease": -1}, "setting lease must be a number of seconds above 0"),
    ],
)
def test_a_mistake_in_a_sites_settings_is_told_when_the_launcher_is_made(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(LaunchError, match=text):
        DockerLauncher(settings)


def test_the_waiting_time_is_thirty_seconds_unless_set() -> None:
    assert SiteSettings.parse({}).timeout == 30
    assert SiteSettings.parse({"timeout": 5}).timeout == 5
