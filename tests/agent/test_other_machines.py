"""Tasks where the parent listens on an address that other machines reach: what a cell insists on, its pipes and its job accept."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.agent.conftest import serve
from tests.eventually import eventually
from zcell import Cell
from zcell.agent import Agent, TaskExchange
from zcell.cell.endpoints import is_local
from zcell.launch import JobReturnCode, JobSpec
from zcell.launch.process import ProcessLauncher
from zcell.pipe import CellPipe, Mode


def _address() -> str:
    """An address of this machine that is no loopback; where there is none, the one that means all of them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing: it only asks which address is used on the way there
        except OSError:
            return "0.0.0.0"
        return str(probe.getsockname()[0])


@pytest.fixture(params=["one", "all"])
def parent(request: pytest.FixtureRequest) -> Iterator[Cell]:
    host = _address() if request.param == "one" else "0.0.0.0"
    with Cell("server", listen=[f"tcp://{host}:0"], insecure=True) as cell:
        assert not is_local(cell.endpoints[0])
        yield cell


def _pipes(parent: Cell) -> list[CellPipe]:
    token = secrets.token_hex(4)
    return [CellPipe(Mode.PASSIVE, "site", token, parent) for _ in range(2)]


def test_tasks_and_metrics_over_an_address_that_others_reach(parent: Cell) -> None:
    received: list[int] = []
    with ThreadPoolExecutor(1) as pool, TaskExchange(*_pipes(parent)) as exchange:
        exchange.on_metric(received.append)
        launcher = {"ZCELL_PARENT": parent.endpoints[0], "ZCELL_INSECURE": "1"}
        with Agent.from_env(exchange.job_environment() | launcher) as agent:
            served = pool.submit(serve, agent)
            assert agent.log(1)
            assert agent.flush_metrics(10)
            assert exchange.run("t", 5, timeout=20).data == 5
            eventually(lambda: received == [1])
            exchange.stop()
            assert served.result(10) == 1


def test_a_job_that_was_not_told_to_accept_such_an_address_refuses_it(parent: Cell) -> None:
    with TaskExchange(*_pipes(parent)) as exchange:
        environment = exchange.job_environment() | {"ZCELL_PARENT": parent.endpoints[0]}
        with pytest.raises(ValueError, match="can be reached from other machines"):
            Agent.from_env(environment)


def test_a_pipe_below_a_cell_that_listens_everywhere_is_reached_on_this_machine(parent: Cell) -> None:
    pipe = _pipes(parent)[0]
    with pipe:
        _, arguments = pipe.export(Mode.ACTIVE)
    port = parent.endpoints[0].rpartition(":")[2]
    if "0.0.0.0" in parent.endpoints[0]:
        assert arguments["parent"] == f"tcp://127.0.0.1:{port}"
    else:
        assert arguments["parent"] == parent.endpoints[0]


def test_a_process_of_such_a_parent_gets_its_files_and_its_tasks(parent: Cell, tmp_path: Path) -> None:
    job_directory = tmp_path / "job"
    job_directory.mkdir()
    (job_directory / "worker.py").write_text(
        "from zcell.agent import Agent\n\nwith Agent.from_env() as agent:\n    for task in agent:\n        agent.submit_result(task.data)\n"
    )
    with closing(ProcessLauncher()) as launcher, TaskExchange(*_pipes(parent)) as exchange:
        env = exchange.job_environment()
        spec = JobSpec(job_id="job-1", command=[sys.executable, "worker.py"], job_directory=job_directory, env=env)
        job = launcher.launch(spec, parent)
        job.on_finished(lambda ended: exchange.peer_is_gone(ended.reason))
        assert exchange.run("t", 5, timeout=60).raise_for_cause().data == 5
        exchange.stop()
        assert job.wait(30) is JobReturnCode.SUCCESS, (job.reason, job.logs())
