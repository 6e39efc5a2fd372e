"""The pipes that the conformance suite runs over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipe.pairs import CellPairs, FilePairs, Pairs


@pytest.fixture(params=["file", "file-portable", "cell-tcp", "cell-ipc"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path, short_path: Path) -> Iterator[Pairs]:
    made: Pairs
    if request.param.startswith("file"):
        made = FilePairs(tmp_path, portable=request.param == "file-portable")
    else:
        made = CellPairs("tcp://127.0.0.1:0" if request.param == "cell-tcp" else f"ipc://{short_path}/s")
    with made:
        yield made
