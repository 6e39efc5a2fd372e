"""Programs of Debian packages. Invariant: installing one here starts no service of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_POLICY = Path("/usr/sbin/policy-rc.d")
_DENIED = "#!/bin/sh\nexit 101\n"


def ensure(programs: Mapping[str, str]) -> None:
    """Install what is missing of `programs` (a program's name, and the package that has it). Needs root and apt-get."""
    missing = sorted({package for program, package in programs.items() if not installed(program)})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(
            f"missing on this machine: {', '.join(missing)}; install them, or run `make engines` as root on Debian"
        )
    print(f"installing {', '.join(missing)}", flush=True)
    with _no_services():
        _apt("update", "-q")
        _apt("install", "-y", "-q", "--no-install-recommends", *missing)
    still = [program for program in programs if not installed(program)]
    if still:
        raise SystemExit(
            f"the packages {', '.join(missing)} are installed, but these programs are not there: {', '.join(still)}"
        )


def installed(program: str) -> bool:
    """Whether the program is there; those of administrators are in directories that are not on everybody's path."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _apt(*arguments: str) -> None:
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with tempfile.TemporaryFile() as log:
        done = subprocess.run(["apt-get", "-o", "DPkg::Lock::Timeout=600", *arguments], env=env, stdout=log, stderr=log)
        if done.returncode:
            log.seek(0)
            raise SystemExit(f"apt-get {' '.join(arguments)} failed:\n{log.read().decode(errors='replace')[-4000:]}")


@contextmanager
def _no_services() -> Iterator[None]:
    """Debian asks this file whether a freshly installed service may start (invoke-rc.d(8))."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text(_DENIED)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
