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
pytestmark = pytest.mark.xdist_group("wheel")  # one worker builds it, once


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built outside the tree, so that nothing of it can end up in the wheel by accident or be changed by the build."""
    place = tmp_path_factory.mktemp("wheel")
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
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_types_and_its_compiled_modules(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    natives = sorted(path.stem for path in (ROOT / "zcell/_native").glob("*.pyx"))
    assert natives
    for native in natives:
        assert f"zcell/_native/{native}.pyi" in names
        assert any(name.startswith(f"zcell/_native/{native}.") and name.endswith(".so") for name in names), native
    assert "zcell/py.typed" in names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "zcell").rglob("*.py")}
    assert sources <= set(names)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            assert name.startswith(("zcell/", "zcell-")), name
            assert not name.endswith((".c", ".h", ".pyx", ".pyc")), name


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES


def test_the_wheel_installs_the_command_and_the_launcher(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(entry_points).decode()
    assert "zcell = zcell.cli.main:main" in text
    assert "process = zcell.launch.process:ProcessLauncher" in text


def test_the_licence_is_declared_and_shipped(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
