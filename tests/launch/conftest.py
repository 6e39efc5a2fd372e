"""A running parent cell and a launcher for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zcell import Cell
from zcell.launch.process import ProcessLauncher

SECRET = b"a link secret for the tests only"


@pytest.fixture
def parent() -> Iterator[Cell]:
    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=SECRET) as cell:
        yield cell


@pytest.fixture
def launcher() -> Iterator[ProcessLauncher]:
    """Whatever a failing test leaves running ends with it."""
    launcher = ProcessLauncher()
    yield launcher
    launcher.close()
