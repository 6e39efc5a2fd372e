"""What having zcell costs before it does anything: the time to import it, the size of its wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.figure import at_most
from bench.machine import ROOT
from bench.measure import MIB, Bench

BEFORE = "import time; began = time.perf_counter()"
AFTER = "print(time.perf_counter() - began)"
IN_A_WHEEL = (".py", ".pyi", ".so", "py.typed")


def _seconds(statement: str) -> float:
    command = [sys.executable, "-c", f"{BEFORE}; {statement}; {AFTER}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


@pytest.mark.parametrize("statement", ["import zcell", "from zcell import Cell"])
def test_importing(bench: Bench, statement: str) -> None:
    """`zcell` loads what is asked of it: the second statement is what a program that uses cells pays."""
    wire = "import zmq, msgpack, xxhash"
    bench.compare(
        statement, "ms", wire, lambda: _seconds(wire) * 1e3, lambda: _seconds(statement) * 1e3, rounds=9, targets=[at_most(200)]
    )


def test_wheel(bench: Bench, tmp_path: Path) -> None:
    """Its files, deflated as in a wheel; the tests build a real one and hold it to the same bound."""

    def size_mib() -> float:
        path = tmp_path / "files.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted((ROOT / "zcell").rglob("*")):
                if file.name.endswith(IN_A_WHEEL):
                    archive.write(file, file.relative_to(ROOT))
        return path.stat().st_size / MIB

    (samples,) = bench.interleave(size_mib, rounds=1, warm_up=False)
    bench.add("the files of a wheel, deflated", "MiB", samples, targets=[at_most(2)])
