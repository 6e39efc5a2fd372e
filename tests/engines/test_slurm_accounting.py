"""Slurm with accounting: a queue that forgets a job as soon as it has ended, and a database that remembers it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.slurm_cluster import SlurmCluster, slurm_cluster
from tests.eventually import eventually
from tests.launch.remote.starter import LIMIT, SLEEPER, Starter
from zcell import Cell
from zcell.launch import JobReturnCode
from zcell.launch.slurm import SlurmLauncher
from zcell.launch.slurm.commands import Commands
from zcell.launch.slurm.queue import Queue


@pytest.fixture(scope="module")
def accounting_session(engine_directory: Path) -> Iterator[SlurmCluster]:
    with slurm_cluster(engine_directory, accounting=True) as cluster:
        yield cluster


@pytest.fixture
def accounting(accounting_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    for name, value in accounting_session.environment.items():
        monkeypatch.setenv(name, value)
    yield accounting_session
    eventually(lambda: not accounting_session.left(), 20, accounting_session.left)


@pytest.fixture
def launcher(accounting: SlurmCluster, request: pytest.FixtureRequest) -> Iterator[SlurmLauncher]:
    settings: dict[str, Any] = getattr(request, "param", {})
    made = SlurmLauncher({"poll_interval": 1.0} | settings)
    yield made
    made.close()


@pytest.fixture
def start(launcher: SlurmLauncher) -> Iterator[Starter]:
    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=b"a link secret for the tests only") as cell:
        yield Starter(launcher, cell)


def test_jobs_end_as_they_do_without_accounting(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("forty")
    handle = start("sh", "-c", "tr a-z A-Z < in > out; exit 3", job_directory=tmp_path)
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR, handle.reason
    assert handle.exit_code == 3
    assert (tmp_path / "out").read_text() == "FORTY"
    longer = start("sh", "-c", SLEEPER, job_id="longer")
    start.wait_for(b"ready\n")
    assert longer.terminate(1) is JobReturnCode.ABORTED


def test_what_the_queue_has_forgotten_the_accounts_know(start: Starter, accounting: SlurmCluster) -> None:
    handle = start("sh", "-c", "exit 3")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    eventually(lambda: handle.engine_id not in _listed(accounting), LIMIT, "the queue forgets the job")
    queue = Queue(Commands(""))
    assert queue.has_accounting()
    row = eventually(lambda: queue.rows([handle.engine_id]).get(handle.engine_id), LIMIT, "the accounts have the job")
    assert row is not None
    assert row.state == "FAILED"
    assert row.view().outcome is not None
    assert row.status >> 8 == 3


# its node never speaks, so that Slurm's word alone counts
@pytest.mark.parametrize("launcher", [{"python": "/usr/bin/python3"}], indirect=True)
def test_the_end_of_a_job_that_the_queue_never_lists_comes_from_the_accounts(
    start: Starter, launcher: SlurmLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher._slurm._queue, "_squeue", lambda jobs: [])
    handle = start("true")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert "no python with zcell under the setting python" in handle.reason


def _listed(cluster: SlurmCluster) -> list[str]:
    return cluster.run("squeue", "--noheader", "--states=all", "--format=%i").split()
