"""The rooms and their rules, read off the sources. What a rule is for stands in docs/architecture.md and CONTRIBUTING.md."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "zcell"

ROOMS = ["vocabulary", "native", "protocol", "security", "cell", "download", "pipe", "workspace", "launch", "agent", "cli"]
"""From the bottom to the top: a room imports itself and what stands before it."""
VOCABULARY = {"fqcn", "errors", "message", "limits", "abort", "codec", "arrays"}
MODULE_ROOMS = dict.fromkeys(VOCABULARY, "vocabulary") | {"digest": "native", "_native": "native", "aio": "cell"}
UPWARD = {
    # the cell creates its download service when it is first asked for; nothing of it is imported before
    ("zcell.cell.cell", "zcell.download"),
    ("zcell.cell.payloads", "zcell.download"),
    ("zcell.aio", "zcell.download"),
    # the shape of a proof, not one of them: the handshake is handed one
    ("zcell.protocol.link", "zcell.security.proof"),
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The room of a module of this package, None for the package itself."""
    parts = module.split(".")
    return None if len(parts) == 1 else MODULE_ROOMS.get(parts[1], parts[1])


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module of this package that `path` imports anywhere, with its line."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            names = [f"{base}.{alias.name}" if (PACKAGE.parent / base.replace(".", "/") / "__init__.py").exists() else base
                     for alias in node.names]  # fmt: skip
        for name in names:
            if name == "zcell" or name.startswith("zcell."):
                yield name, node.lineno  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_downward_only(path: Path) -> None:
    module = module_name(path)
    room = room_of(module)
    if room is None:  # the package's front door may name everything; that it loads nothing is tested below
        return
    assert room in ROOMS, f"{module} is in no room; expected one of {ROOMS} or {sorted(MODULE_ROOMS)}"
    wrong = []
    for imported, line in imports_of(path):
        other = room_of(imported)
        if other is None or any(module == a and (imported + ".").startswith(b + ".") for a, b in UPWARD):
            continue
        if other not in ROOMS or ROOMS.index(other) > ROOMS.index(room):
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}: {other} is above {room}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted((PACKAGE / "protocol").rglob("*.py")), ids=module_name)
def test_the_protocol_knows_no_sockets_clocks_or_threads(path: Path) -> None:
    forbidden = {"socket", "select", "selectors", "threading", "asyncio", "time", "zmq", "subprocess", "concurrent", "queue"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            used = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used = {(node.module or "").partition(".")[0]}
        else:
            continue
        assert not used & forbidden, f"{path.relative_to(ROOT)}:{node.lineno} imports {used & forbidden}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_modules_are_named_after_an_idea_and_never_sleep(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, f"{path.name} names no idea"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and isinstance(node.value, ast.Name):
            assert node.value.id != "time", f"{path.relative_to(ROOT)}:{node.lineno} sleeps; wait for an event instead"


def test_files_are_small() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SOURCES}
    assert max(lines.values()) < 800, {name: count for name, count in lines.items() if count >= 800}
    long = {name: count for name, count in lines.items() if count > 450}
    assert len(long) <= len(lines) / 20, f"few files pass 450 lines, split some of {long}"
    assert sum(count < 200 for count in lines.values()) >= len(lines) / 2


def test_the_package_has_the_rooms_of_the_plan_and_nothing_else() -> None:
    modules = {"__init__", "aio", *VOCABULARY, "digest"}
    packages = {"agent", "cell", "cli", "download", "launch", "pipe", "protocol", "security", "workspace", "_native"}
    found_modules = {path.stem for path in PACKAGE.glob("*.py")}
    found_packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert found_modules <= modules, f"unexpected: {found_modules - modules}"
    assert found_packages <= packages, f"unexpected: {found_packages - packages}"
    assert (PACKAGE / "py.typed").exists()
    for package in PACKAGE.rglob("*"):
        if package.is_dir() and any(package.glob("*.py")):
            assert (package / "__init__.py").exists(), f"{package} would not be in the wheel: it has no __init__.py"


def test_every_native_module_has_its_types_beside_it() -> None:
    for source in (PACKAGE / "_native").glob("*.pyx"):
        assert source.with_suffix(".pyi").exists(), f"{source.name} has no .pyi"


def test_nothing_is_built_for_this_machine_only() -> None:
    files = [ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "Makefile", *(PACKAGE / "_native").glob("*.[ch]")]
    for path in files:
        found = re.findall(r"-m(?:arch|tune|cpu)=\S+|/usr/local/\S+", path.read_text())
        assert not found, f"{path.relative_to(ROOT)}: {found}"


_IMPORT_ALL = """
import importlib, json, sys
extras = {"docker", "kubernetes", "prometheus_client", "numpy", "torch", "matplotlib", "psutil", "pymerkle"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in extras:
            raise ImportError(f"{name} is an extra")
sys.meta_path.insert(0, Refuse())
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
"""
LAUNCHERS_OF_EXTRAS = ("zcell.launch.docker", "zcell.launch.kubernetes")
"""Loaded by entry point, when such a job is launched, and of no use without the extra."""


def test_every_module_imports_without_any_extra() -> None:
    names = [name for name in map(module_name, SOURCES) if not name.startswith(LAUNCHERS_OF_EXTRAS)]
    names.remove("zcell.cli.__main__")
    done = subprocess.run([sys.executable, "-c", _IMPORT_ALL, json.dumps(names)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


_IMPORT_TIME = """
import time
start = time.process_time()  # not the time that others take from it
import zcell
zcell.Cell
print(time.process_time() - start)
import sys
heavy = {"numpy", "torch", "typer", "rich", "asyncio", "docker", "cryptography", "http.client"} & set(sys.modules)
print(",".join(sorted(heavy)))
"""


def test_importing_the_package_is_quick_and_loads_nothing_heavy() -> None:
    seconds = []
    for _ in range(5):  # the best of a few: this machine may be busy with other tests
        done = subprocess.run([sys.executable, "-c", _IMPORT_TIME], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        taken, heavy = done.stdout.splitlines()
        assert not heavy, f"importing zcell loads {heavy}"
        seconds.append(float(taken))
    assert min(seconds) < 0.2, f"import zcell took {min(seconds):.3f} s"
