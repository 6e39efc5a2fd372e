"""Fuzzes one target with atheris: ``python -m tests.fuzz.run zip_archive -max_total_time=60``.

New inputs go to the target's corpus, which the ordinary tests replay; keep those that found something, small and few.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    targets = sorted(path.stem for path in (HERE / "targets").glob("*.py") if path.stem != "__init__")
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"name one target: {', '.join(targets)}")
    name = sys.argv[1]
    try:
        atheris: Any = import_module("atheris")
    except ImportError:
        sys.exit("fuzzing needs atheris: pip install atheris")
    with atheris.instrument_imports(include=["zcell"]):
        target = import_module(f"tests.fuzz.targets.{name}")
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(HERE / "corpus" / name)], target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
