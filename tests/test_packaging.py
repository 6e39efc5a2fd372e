"""The wheel, built from a copy of the tree: what users install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_BYTES = 2 * 1024 * 1024


def build_wheel(place: Path) -> Path:
    """Built outside the tree, so that nothing of it can end up in the wheel by accident or be changed by the build."""
    tree = place / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree)
    shutil.copytree(ROOT / "zcell", tree / "zcell", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if (ROOT / "build").is_dir():  # objects that are up to date are not compiled again
        for objects in (ROOT / "build").glob("temp.*"):
            shutil.copytree(objects, tree / "build" / objects.name)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-build-isolation",
            "--no-deps",
            "--quiet",
            "--wheel-dir",
            str(place),
            str(tree),
        ],
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.whl")
    return built


@pytest.mark.timeout(400)  # compiling takes long on a busy machine
def test_the_wheel_holds_the_package_with_types_and_compiled_modules_and_nothing_else_and_is_small(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)  # takes a while: one test, so that one worker does it once
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    natives = sorted(path.stem for path in (ROOT / "zcell/_native").glob("*.pyx"))
    assert natives
    for native in natives:
        assert f"zcell/_native/{native}.pyi" in names
        assert any(name.startswith(f"zcell/_native/{native}.") and name.endswith(".so") for name in names), native
    assert "zcell/py.typed" in names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "zcell").rglob("*.py")} <= names
    assert [name for name in names if not name.startswith(("zcell/", "zcell-"))] == []
    assert [name for name in names if name.endswith((".c", ".h", ".pyx", ".pyc"))] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "zcell = zcell.cli.__main__:main" in entry_points
    assert "process = zcell.launch.process:ProcessLauncher" in entry_points


def test_the_licence_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
