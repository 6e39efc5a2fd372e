"""What a job learns from its environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zcell.errors import LinkError, WorkspaceError
from zcell.workspace.context import JobContext, bootstrap_name


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    credentials = tmp_path / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(json.dumps({"link_secret": "ab" * 32, "transfer_token": "token"}))
    return {
        "ZCELL_JOB_ID": "job-1",
        "ZCELL_JOB_FQCN": "site-1.job-1",
        "ZCELL_OWNER": "site-1",
        "ZCELL_PARENT": "tcp://127.0.0.1:5000",
        "ZCELL_CREDENTIALS": str(credentials),
        "ZCELL_WORKSPACE": str(tmp_path / "ws"),
    }


def test_a_launched_job_knows_its_owner(env: dict[str, str], tmp_path: Path) -> None:
    context = JobContext.from_env(env)
    assert (context.job_id, context.owner, context.fqcn) == ("job-1", "site-1", "site-1.job-1")
    assert context.parent_url == "tcp://127.0.0.1:5000"
    assert context.root == tmp_path / "ws"
    assert context.job_directory == tmp_path / "ws" / "job-1"
    assert (context.token, context.secret) == ("token", bytes.fromhex("ab" * 32))


def test_the_workspace_is_the_working_directory_unless_told_otherwise(env: dict[str, str]) -> None:
    del env["ZCELL_WORKSPACE"]
    assert JobContext.from_env(env).root == Path.cwd()


def test_a_process_that_nobody_launched_has_no_owner() -> None:
    assert JobContext.from_env({}).owner == ""


@pytest.mark.parametrize("name", ["ZCELL_JOB_ID", "ZCELL_PARENT"])
def test_a_missing_variable_is_named(env: dict[str, str], name: str) -> None:
    del env[name]
    with pytest.raises(WorkspaceError, match=f"'site-1', but {name} is not set"):
        JobContext.from_env(env)


def test_credentials_that_others_can_read_are_refused(env: dict[str, str]) -> None:
    Path(env["ZCELL_CREDENTIALS"]).chmod(0o640)
    with pytest.raises(WorkspaceError, match=r"credentials.*chmod 600"):
        JobContext.from_env(env)


def test_missing_credentials_are_named(env: dict[str, str]) -> None:
    Path(env["ZCELL_CREDENTIALS"]).unlink()
    with pytest.raises(WorkspaceError, match=r"credentials.*No such file"):
        JobContext.from_env(env)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"transfer_token": 1, "link_secret": "00"}', '{"transfer_token": "x", "link_secret": "zz"}']
)
def test_damaged_credentials_are_refused_without_showing_them(env: dict[str, str], content: str) -> None:
    Path(env["ZCELL_CREDENTIALS"]).write_text(content)
    with pytest.raises(WorkspaceError, match="credentials") as refused:
        JobContext.from_env(env)
    assert len(content) < 3 or content not in str(refused.value)


def test_names_of_bootstrap_cells_are_valid_and_differ() -> None:
    assert bootstrap_name("site-1", "job-7") == "site-1.ws_transfer_job-7"
    assert bootstrap_name("server", "x" * 63) != bootstrap_name("server", "x" * 62 + "y")


def test_an_abort_ends_the_wait_for_the_owner(env: dict[str, str]) -> None:
    context = JobContext.from_env(env | {"ZCELL_PARENT": "tcp://127.0.0.1:9"})
    context.connect_timeout = 60
    context.abort.trigger("the launcher is gone")
    with context, pytest.raises(LinkError, match="the launcher is gone"):
        context.cell()
