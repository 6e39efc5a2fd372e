"""The pipes that the conformance suite runs over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipe.pairs import FilePairs, Pairs


@pytest.fixture(params=["file", "file-portable"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pairs]:
    with FilePairs(tmp_path, request.param == "file-portable") as made:
        yield made
