"""Fixtures of the engine tests. Invariant: without engines they are one skipped test; with engines a skipped test is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.dockerd import DockerEngine, docker_engine
from tests.engines.slurm_cluster import SlurmCluster, slurm_cluster
from tests.eventually import eventually

DIRECTORY = "ZCELL_TEST_ENGINES"
"""Names the directory that ``make engines`` has prepared; unset elsewhere."""
HOW_TO_RUN = "they need real engines: run `make engines`, as root on Debian"
_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """The Docker SDK leaves the socket of a connection that an engine refused to the garbage collector."""
    if os.environ.get(DIRECTORY):
        config.addinivalue_line("filterwarnings", "ignore:unclosed <socket.*family=1:ResourceWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one of the engine tests to stand for all of them, and have it say how to run them."""
    engine = [item for item in items if _HERE in item.path.parents]
    for item in engine:
        item.add_marker(pytest.mark.engine)
    if os.environ.get(DIRECTORY) or not engine:
        return
    engine[0].add_marker(pytest.mark.skip(reason=f"{len(engine)} tests on engines; {HOW_TO_RUN}"))
    items[:] = [item for item in items if item not in engine[1:]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With engines at hand a skipped test is one that nobody runs."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter is not None else 0
    if os.environ.get(DIRECTORY) and skipped:
        print(f"\n{skipped} engine tests were skipped, although the engines are there")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def engine_directory() -> Path:
    return Path(os.environ[DIRECTORY]).absolute()


@pytest.fixture(scope="session")
def docker_session(engine_directory: Path) -> Iterator[DockerEngine]:
    with docker_engine(engine_directory) as engine:
        yield engine


@pytest.fixture
def dockerd(docker_session: DockerEngine) -> Iterator[DockerEngine]:
    """The engine; afterwards nothing of the test may be left on it."""
    docker_session.forget_client()
    yield docker_session
    docker_session.resume()
    assert docker_session.left() == []
    docker_session.forget_client()


@pytest.fixture(scope="session")
def slurm_session(engine_directory: Path) -> Iterator[SlurmCluster]:
    with slurm_cluster(engine_directory) as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, as Slurm's programs find it; afterwards no job and no file may be left on it."""
    for name, value in slurm_session.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_session
    eventually(lambda: not slurm_session.left(), 20, slurm_session.left)
