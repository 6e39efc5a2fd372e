"""The image of the tests: Debian, Python and this project. Invariant: made from packages alone, no image registry is asked.

The Debian base is cached in the directory of the engines, and so are the dependencies, by what they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""The Debian release whose python3 is of this interpreter's version: extension modules must fit it."""
_EXAMPLE = ROOT / "examples" / "train" / "requirements.txt"


def suite() -> str:
    version = sys.version_info[:2]
    if version not in SUITES:
        known = " or ".join(f"{a}.{b}" for a, b in SUITES)
        raise SystemExit(f"the image for engine tests needs Python {known}, this is {version[0]}.{version[1]}: make PYTHON=...")
    return SUITES[version]


def base_tarball(directory: Path) -> Path:
    """A Debian with python3, made once by debootstrap."""
    target = directory / f"base-{suite()}.tar"
    if target.exists():
        return target
    root = directory / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    print(f"making {target} with debootstrap", flush=True)
    log = directory / "debootstrap.log"
    with log.open("wb") as file:
        command = ["debootstrap", "--variant=minbase", "--include=python3", suite(), str(root)]
        if subprocess.run(command, stdout=file, stderr=file).returncode:
            raise SystemExit(f"debootstrap failed:\n{log.read_text(errors='replace')[-3000:]}")
    for waste in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / waste, ignore_errors=True)
    part = target.with_suffix(".part")
    with tarfile.open(part, "w") as archive:
        archive.add(root, arcname=".", filter=_no_devices)
    part.rename(target)
    shutil.rmtree(root)
    return target


def _no_devices(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.isdev() else member


def project_tarball(directory: Path) -> Path:
    """This project, its dependencies and those of the example, as they are below ``/`` of the image."""
    wheel = _wheel(directory)
    packages = _dependencies(directory)
    target = directory / "project.tar"
    place = f"usr/local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/dist-packages"
    own = directory / "own"
    shutil.rmtree(own, ignore_errors=True)
    _pip("install", "--no-deps", "--no-compile", "--target", str(own), str(wheel))
    with tarfile.open(target, "w") as archive:
        for tree in (packages, own):
            for path in sorted(tree.iterdir()):
                archive.add(path, arcname=f"{place}/{path.name}", filter=_as_root)
    return target


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _wheel(directory: Path) -> Path:
    place = directory / "wheel"
    shutil.rmtree(place, ignore_errors=True)
    _pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(place), str(ROOT))
    (wheel,) = place.glob("*.whl")
    return wheel


def _dependencies(directory: Path) -> Path:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *_EXAMPLE.read_text().split()]
    key = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:16]
    place = directory / f"dependencies-{key}"
    if not place.exists():
        print(f"making {place} with pip", flush=True)
        part = place.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        _pip("install", "--no-compile", "--only-binary", ":all:", "--target", str(part), *wanted)
        part.rename(place)
    return place


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_TARGET")}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} failed:\n{done.stdout.decode(errors='replace')[-3000:]}")
