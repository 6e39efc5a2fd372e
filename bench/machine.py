"""What the figures were measured on. Invariant: nothing here identifies the machine's owner: no host name, no user, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import subprocess
from pathlib import Path
from typing import Any

import zmq

from zcell import digest

ROOT = Path(__file__).resolve().parent.parent
TELLING = (
    "aes",
    "avx",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "bmi2",
    "gfni",
    "sha_ni",
    "vaes",
    "vpclmulqdq",
    "sha2",
    "asimd",
)
PACKAGES = ("pyzmq", "msgpack", "xxhash", "cryptography", "isal", "pytest-benchmark")


def describe(medium: Path) -> dict[str, Any]:
    """The machine, the versions, the kernels in use, and how busy it is now. `medium`: the directory the files are in."""
    cpu = _cpu()
    return {
        "cpu": cpu["model"],
        "cores": len(os.sched_getaffinity(0)),
        "cpu_flags": cpu_flags(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "files_on": _file_system(medium),
        "sha256_kernel": digest.kernel(),
        "sha256_kernels": list(digest.kernels()),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "packages": {name: _version(name) for name in PACKAGES},
        "zcell": _zcell(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def sentences(machine: dict[str, Any], load_at_end: float | None = None) -> list[str]:
    """The same for people."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    load = f"{machine['load_average'][0]}" + ("" if load_at_end is None else f", at the end {load_at_end:.2f}")
    return [
        f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['cpu_flags'])}), {machine['memory_gib']} GiB; "
        f"{machine['system']}; files on {machine['files_on']}",
        f"SHA-256 kernel {machine['sha256_kernel']} of {', '.join(machine['sha256_kernels'])}; Python {machine['python']}, "
        f"libzmq {machine['libzmq']}, {machine['openssl']}, {packages}; zcell {machine['zcell']}",
        f"load average at the start {load} (a quiet machine starts near 0)",
    ]


def cpu_flags() -> list[str]:
    """Those that matter here."""
    present = _cpu()["flags"]
    return [flag for flag in TELLING if flag in present]


def _cpu() -> dict[str, Any]:
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return {
        "model": found.get("model name") or platform.machine(),
        "flags": (found.get("flags") or found.get("Features") or "").split(),
    }


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`."""
    best, kind = "", "?"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split()
        if (f"{path}/".startswith(f"{mount.rstrip('/')}/")) and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _zcell() -> str:
    """Version and commit."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10)
        commit = done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return f"{_version('zcell')}{f' ({commit})' if commit else ''}"
