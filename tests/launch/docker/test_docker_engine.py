"""The engine's answers, and its absence. What a real one does is in tests/engines."""

from __future__ import annotations

import gc
import socket
from pathlib import Path
from typing import Any

import pytest

from zcell import Cell
from zcell.errors import EngineUnreachableError
from zcell.launch import JobReturnCode, JobSpec, load_launcher
from zcell.launch.docker import DockerLauncher
from zcell.launch.docker.engine import DockerEngine, ended_view
from zcell.launch.remote import EngineError

S = JobReturnCode


@pytest.mark.parametrize(
    ("state", "code", "by_engine", "reason"),
    [
        ({"Status": "exited", "ExitCode": 0}, S.SUCCESS, False, ""),
        ({"Status": "exited", "ExitCode": 9}, S.ABORTED, False, "its container ended with code 9"),
        ({"Status": "exited", "ExitCode": 1}, S.EXECUTION_ERROR, False, "its container ended with code 1"),
        ({"Status": "exited", "ExitCode": 137}, S.EXECUTION_ERROR, False, "its container was ended by SIGKILL"),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, S.EXECUTION_ERROR, True, "its container ran out of memory"),
        ({"Status": "exited", "ExitCode": 128, "Error": "bad mount"}, S.EXECUTION_ERROR, False, "code 128: bad mount"),
        ({"Status": "dead", "ExitCode": 0}, S.ABORTED, True, "its container is dead"),
        ({"Status": "exited", "ExitCode": 0, "Dead": True}, S.ABORTED, True, "its container is exited"),
        ({"Status": "removing", "ExitCode": 0}, S.ABORTED, True, "its container is removing"),
        ({"Status": "exited", "ExitCode": 122}, S.EXECUTION_ERROR, False, "its credentials did not reach the node"),
    ],
)
def test_how_a_container_ended_is_how_its_job_ended(state: dict[str, Any], code: S, by_engine: bool, reason: str) -> None:
    view = ended_view(state)
    assert view.outcome is not None
    assert view.outcome.code is code
    assert view.by_engine is by_engine
    assert reason in view.outcome.reason


def test_an_engine_that_is_not_there_is_told_before_anything_is_started(tmp_path: Path) -> None:
    launcher = DockerLauncher({"engine": f"unix://{tmp_path}/none.sock", "image": "i"})
    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=b"s" * 32) as parent:
        with pytest.raises(EngineUnreachableError, match=r"job j: the Docker engine cannot be reached at .*none.sock"):
            launcher.launch(JobSpec(job_id="j", command=["true"]), parent)
        assert launcher.watcher.handles() == []
    with pytest.raises(EngineUnreachableError, match="cannot say where its jobs reach their parent"):
        launcher.endpoints()
    launcher.close()


def test_every_failure_of_the_engine_is_one_kind_of_error(tmp_path: Path) -> None:
    engine = DockerEngine(f"unix://{tmp_path}/none.sock", "owner")
    for call in (
        lambda: engine.survey([]),
        lambda: engine.network("n"),
        lambda: engine.has_image("i"),
        lambda: engine.inspect("c"),
        lambda: engine.remove("c"),
        engine.labelled,
    ):
        with pytest.raises(EngineError, match="the Docker engine cannot"):
            call()
    engine.close()


def test_a_refused_connection_is_closed_while_its_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
    monkeypatch.setattr(DockerEngine, "_knock", lambda _: None)  # the engine went away just after it
    engine = DockerEngine(f"unix://{address}", "owner")
    gc.collect()
    gc.disable()
    kept = []
    try:
        before = sorted(Path("/proc/self/fd").iterdir())
        for _ in range(3):
            with pytest.raises(EngineError, match="cannot be reached") as caught:
                engine.survey([])
            kept.append(caught.value)
        assert sorted(Path("/proc/self/fd").iterdir()) == before
    finally:
        gc.enable()
        engine.close()
    assert len(kept) == 3


def test_only_an_engine_of_this_machine_has_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert DockerEngine("tcp://example.org:2375", "o").socket is None
    assert DockerEngine(f"unix://{tmp_path}/d.sock", "o").socket == tmp_path / "d.sock"
    assert DockerEngine("", "o").socket == Path("/var/run/docker.sock").resolve()
    monkeypatch.setenv("DOCKER_HOST", "ssh://host")
    assert DockerEngine("", "o").socket is None


def test_the_launcher_is_installed_under_its_name() -> None:
    assert load_launcher("docker") is DockerLauncher
