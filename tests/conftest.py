"""Fixtures of all tests. Invariant: no test leaves a thread, descriptor, socket, process or temporary file behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy  # noqa: F401  its thread pool starts at import, so it must belong to every baseline
import pytest

from tests.leaks import LeakCheck, mark_environment, start_process_wide_threads
from tests.trees import TreeFactory, making_trees

TRANSPORTS = ("tcp", "ipc", "inproc")
_OUTCOME = pytest.StashKey[dict[str, bool]]()


def pytest_configure(config: pytest.Config) -> None:
    """A temporary directory, a home and a runtime directory for this run alone; short, because ipc paths end at 107 bytes."""
    mark_environment()
    place = tempfile.mkdtemp(prefix="zt-", dir="/tmp")
    tempfile.tempdir = None
    for variable, name in (
        ("TMPDIR", "t"),
        ("HOME", "home"),
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_CONFIG_HOME", "home/config"),
        ("XDG_STATE_HOME", "home/state"),
        ("XDG_CACHE_HOME", "home/cache"),
        ("XDG_DATA_HOME", "home/data"),
    ):
        directory = Path(place, name)
        directory.mkdir(mode=0o700, parents=True)
        os.environ[variable] = str(directory)
    Path(place, "p").mkdir()
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(Path(place, "p")))
    for name in [n for n in os.environ if n.startswith("ZCELL_") and not n.startswith("ZCELL_TEST_")]:
        if name != "ZCELL_SHA256_KERNEL":  # a demand of whoever runs the tests
            del os.environ[name]
    config.add_cleanup(lambda: shutil.rmtree(place, ignore_errors=True))
    start_process_wide_threads()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash.setdefault(_OUTCOME, {})[report.when] = report.passed  # type: ignore[attr-defined]
    return report


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Around every test; a test that already failed is not asked, its remains would only hide the reason."""
    check = LeakCheck(Path(tempfile.gettempdir()), Path(os.environ["XDG_RUNTIME_DIR"]))
    yield
    if request.node.stash.get(_OUTCOME, {}).get("call", False):
        check.finish()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The transport of the links in a behaviour test: each such test runs over all of them."""
    return str(request.param)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A private directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="s", dir=Path(tempfile.gettempdir()).parent) as name:
        yield Path(name)


@pytest.fixture
def tree(transport: str, short_path: Path) -> Iterator[TreeFactory]:
    """Builds cells by name, each linked to its parent in the tree: `cells = tree("server", "site-1", "site-1.job-1")`."""
    with making_trees(transport, short_path) as make:
        yield make


@pytest.fixture
def tcp_tree(short_path: Path) -> Iterator[TreeFactory]:
    """The same over tcp only, for what does not depend on the transport."""
    with making_trees("tcp", short_path) as make:
        yield make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
