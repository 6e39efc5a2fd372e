"""What the download tests share: an owner with one receiver, over each transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.trees import TreeFactory, making_trees
from zcell import Cell
from zcell.limits import KIB, Limits

CHUNK = 64 * KIB
SMALL_CHUNKS = Limits(chunk_bytes=CHUNK)
"""Many chunks of little data."""


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())


class Pair(NamedTuple):
    """An owner, and the receiver below it."""

    owner: Cell
    receiver: Cell


@pytest.fixture
def pair(tree: TreeFactory) -> Pair:
    cells = tree("server", "site-1", limits=SMALL_CHUNKS)
    return Pair(cells["server"], cells["site-1"])


@pytest.fixture
def tcp_pair(short_path: Path) -> Iterator[Pair]:
    """For what does not depend on the transport."""
    with making_trees("tcp", short_path) as factory:
        cells = factory("server", "site-1", limits=SMALL_CHUNKS)
        yield Pair(cells["server"], cells["site-1"])
