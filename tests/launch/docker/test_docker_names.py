"""Names of containers: what Docker accepts, and nothing that two sites would share by accident of spelling."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.launch.docker.names import DEFAULT_NAME, container_name


@pytest.mark.parametrize(
    ("site", "job", "name"),
    [
        ("site-1", "job-7", "site-1-job-7"),
        ("Site_1", "JOB", "site_1-job"),
        ("a b/c", "x", "a-b-c-x"),
        ("Zürich", "x", "z-rich-x"),
        ("-site", "job-", "site-job"),
        ("site.org", "j", "site.org-j"),
        ("", "", DEFAULT_NAME),
        ("--", "--", DEFAULT_NAME),
        ("_", "", DEFAULT_NAME),
        (".hidden", "j", "hidden-j"),
    ],
)
def test_a_name_is_site_and_job_made_acceptable(site: str, job: str, name: str) -> None:
    assert container_name(site, job) == name


@given(st.text(max_size=300), st.text(max_size=300))
def test_every_name_is_one_that_docker_accepts(site: str, job: str) -> None:
    name = container_name(site, job)
    assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]+", name)
    assert len(name) <= 128
