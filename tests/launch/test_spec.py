"""What a job may be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from zcell.launch import JobReturnCode, JobSpec


def test_a_spec_keeps_what_it_was_given_and_cannot_be_changed() -> None:
    env = {"LEVEL": "3"}
    spec = JobSpec(job_id="job-7", command=["python", "train.py"], env=env, workspace=Path("here"))
    env["LEVEL"] = "4"
    assert spec.env == {"LEVEL": "3"}
    assert spec.argv() == ["python", "train.py"]
    with pytest.raises(AttributeError):
        spec.job_id = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.env["LEVEL"] = "5"  # type: ignore[index]


def test_a_module_runs_unbuffered_in_the_given_interpreter() -> None:
    spec = JobSpec(job_id="j", module="train", arguments=["--fast"])
    assert spec.argv("/opt/python") == ["/opt/python", "-u", "-m", "train", "--fast"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"job_id": "", "command": ["true"]}, "job_id"),
        ({"job_id": "a.b", "command": ["true"]}, "job_id"),
        ({"job_id": "../x", "command": ["true"]}, "job_id"),
        ({"job_id": "x" * 64, "command": ["true"]}, "job_id"),
        ({"job_id": 7, "command": ["true"]}, "job_id"),
        ({"job_id": "startup", "command": ["true"]}, "job_id 'startup' is the name of another part of a workspace"),
        ({"job_id": "con", "command": ["true"]}, "job_id 'con' cannot be the name of a directory everywhere"),
        ({"job_id": "j"}, "exactly one of command and module"),
        ({"job_id": "j", "command": ["true"], "module": "m"}, "exactly one of command and module"),
        ({"job_id": "j", "command": ["true"], "arguments": ["x"]}, "arguments belong to module"),
        ({"job_id": "j", "command": ["a\0b"]}, "without NUL"),
        ({"job_id": "j", "command": [1]}, "without NUL"),
        ({"job_id": "j", "command": [""]}, "is empty"),
        ({"job_id": "j", "command": ["true"], "grace": -1}, "grace"),
        ({"job_id": "j", "command": ["true"], "grace": math.inf}, "grace"),
        ({"job_id": "j", "command": ["true"], "env": {"A=B": "x"}}, "env"),
        ({"job_id": "j", "command": ["true"], "env": {"A": 1}}, "env"),
        ({"job_id": "j", "command": ["true"], "env": {"ZCELL_CREDENTIALS": "x"}}, "ZCELL_CREDENTIALS"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        JobSpec(**arguments)


def test_a_command_is_not_one_string() -> None:
    with pytest.raises(TypeError, match="sequences of str"):
        JobSpec(job_id="j", command="rm -rf x")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, JobReturnCode.SUCCESS),
        (9, JobReturnCode.ABORTED),
        (1, JobReturnCode.EXECUTION_ERROR),
        (137, JobReturnCode.EXECUTION_ERROR),
    ],
)
def test_exit_codes_become_return_codes(code: int, expected: JobReturnCode) -> None:
    assert JobReturnCode.from_exit_code(code) is expected


@pytest.mark.parametrize("name", ["env", "resources", "launcher_spec", "resource_spec"])
def test_what_is_no_mapping_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"job j: {name} must be a mapping, got 'x'"):
        JobSpec(**{"job_id": "j", "command": ["true"], name: "x"})  # type: ignore[arg-type]
