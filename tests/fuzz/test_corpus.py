"""Every input that fuzzing has kept is replayed against its target."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
TARGETS = sorted(path.stem for path in (Path(__file__).parent / "targets").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in INPUTS])
def test_input_of_the_corpus(path: Path) -> None:
    import_module(f"tests.fuzz.targets.{path.parent.name}").one_input(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_corpus(target: str) -> None:
    assert any(path.parent.name == target for path in INPUTS)
