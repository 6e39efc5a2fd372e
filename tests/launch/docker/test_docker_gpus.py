"""Requests for GPUs, in the form of the engine's API. No GPU is here, so the request is what is looked at."""

from __future__ import annotations

from typing import Any

import pytest
from docker.types import HostConfig

from zcell.errors import LaunchError
from zcell.launch.docker.gpus import device_requests

TWO = [{"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]
BY_ID = [{"Driver": "nvidia", "Count": 0, "DeviceIDs": ["0", "GPU-3a"], "Capabilities": [["gpu", "utility"]], "Options": {}}]


def test_a_number_becomes_one_request_for_so_many() -> None:
    assert device_requests({"num_of_gpus": 2}, {}) == TWO


@pytest.mark.parametrize("everything", ["all", -1])
def test_all_gpus_are_asked_for_by_minus_one(everything: Any) -> None:
    (request,) = device_requests({"num_of_gpus": everything}, {})
    assert request["Count"] == -1


def test_device_requests_are_completed_and_may_be_spelled_as_the_api_or_as_python() -> None:
    spelled = {"driver": "nvidia", "device_ids": ["0", "GPU-3a"], "capabilities": [["gpu", "utility"]]}
    assert device_requests({"device_requests": [spelled]}, {}) == BY_ID
    assert device_requests({"device_requests": BY_ID}, {}) == BY_ID


@pytest.mark.parametrize(
    ("job", "site", "expected"),
    [
        ({"device_requests": BY_ID, "num_of_gpus": 2}, {"num_of_gpus": 5}, BY_ID),
        ({"device_requests": BY_ID}, {"device_requests": TWO}, BY_ID),
        ({"num_of_gpus": 2}, {"device_requests": BY_ID, "num_of_gpus": 5}, TWO),
        ({}, {"device_requests": BY_ID, "num_of_gpus": 2}, BY_ID),
        ({}, {"num_of_gpus": 2}, TWO),
        ({"num_of_gpus": 0}, {"num_of_gpus": 2}, []),
        ({"device_requests": []}, {"num_of_gpus": 2}, []),
        ({"device_requests": None, "num_of_gpus": None}, {"num_of_gpus": 2}, TWO),
        ({}, {}, []),
    ],
)
def test_the_jobs_requests_come_before_its_number_and_that_before_the_sites(job: Any, site: Any, expected: Any) -> None:
    assert device_requests(job, site) == expected


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"num_of_gpus": "two"}, 'job: num_of_gpus must be a number from 0, or "all"'),
        ({"num_of_gpus": -2}, "must be a number from 0"),
        ({"num_of_gpus": True}, "must be a number from 0"),
        ({"num_of_gpus": 1.5}, "must be a number from 0"),
        ({"device_requests": {"Count": 1}}, "must be a list of requests"),
        ({"device_requests": "all"}, "must be a list of requests"),
        ({"device_requests": ["all"]}, r"device_requests\[0\] must be a mapping"),
        ({"device_requests": [{"gpus": 1}]}, r"device_requests\[0\] has a field 'gpus'; it may have Capabilities, Count"),
        ({"device_requests": [{"Count": "1"}]}, "Count must be a number from -1"),
        ({"device_requests": [{"DeviceIDs": "0"}]}, "DeviceIDs must be a list of strings"),
        ({"device_requests": [{"Count": 1, "Capabilities": ["gpu"]}]}, "Capabilities must be a list of lists of strings"),
        ({"device_requests": [{"Count": 1, "Options": {"a": 1}}]}, "Options must be a mapping of strings"),
        ({"device_requests": [{"Count": 1, "Driver": 7}]}, "Driver must be a string"),
        ({"device_requests": [{}]}, "asks for nothing: give Count"),
        ({"device_requests": [{"Count": 1, "DeviceIDs": ["0"]}]}, "both Count and DeviceIDs"),
    ],
)
def test_a_mistake_names_the_setting_and_what_was_expected(settings: Any, text: str) -> None:
    with pytest.raises(LaunchError, match=text):
        device_requests(settings, {})


def test_the_sdk_takes_the_requests_as_they_are() -> None:
    config = HostConfig(version="1.41", device_requests=device_requests({"device_requests": BY_ID}, {}))
    assert config["DeviceRequests"] == BY_ID
