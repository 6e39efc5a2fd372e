"""Directories of a job's own modules. Invariant: they are named by where they are in the workspace, so they are found wherever that is.

The launcher hands on paths relative to the workspace's root; the job's side makes them paths of its own machine or container and
puts them in front of ``PYTHONPATH`` for the command, not for itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from zcell.errors import LaunchError
from zcell.launch.spec import JobSpec

VARIABLE = "ZCELL_CODE"
_LOCAL = "local"


def code_entries(spec: JobSpec) -> list[str]:
    """``spec.code`` relative to the workspace's root. Raises `LaunchError` for a path that the job does not have."""
    return [_entry(spec, Path(path)) for path in spec.code]


def _entry(spec: JobSpec, path: Path) -> str:
    known = [(PurePosixPath(spec.job_id), path.as_posix())] if not path.is_absolute() else _places(spec, path)
    relative = PurePosixPath(*known[0]) if known else None
    if relative is None or ".." in relative.parts or os.pathsep in str(relative):
        raise LaunchError(
            f"job {spec.job_id}: the code directory {path} must be below the job's directory, or the workspace's {_LOCAL}, and hold "
            f"neither '..' nor {os.pathsep!r}"
        )
    return str(relative)


def _places(spec: JobSpec, path: Path) -> list[tuple[PurePosixPath, str]]:
    """The parts of the workspace that an absolute path is in, each with the rest of the path."""
    found = [(name, _below(base, path)) for base, name in _bases(spec)]
    return [(PurePosixPath(name), rest) for name, rest in found if rest is not None]


def _bases(spec: JobSpec) -> list[tuple[Path, str]]:
    """Where the parts of the workspace are at the parent, and their names in it."""
    bases = []
    if spec.job_directory is not None:
        bases.append((spec.job_directory, spec.job_id))
    if spec.workspace is not None:
        bases += [(spec.workspace / spec.job_id, spec.job_id), (spec.workspace / _LOCAL, _LOCAL)]
    return bases


def _below(base: Path, path: Path) -> str | None:
    for one, other in ((base, path), (base.resolve(), path.resolve())):
        if other.is_relative_to(one):
            return other.relative_to(one).as_posix()
    return None


def with_code(env: Mapping[str, str], root: Path) -> dict[str, str]:
    """`env` for a command: with the code directories, which are below `root`, in front of its ``PYTHONPATH``."""
    result = dict(env)
    entries = result.pop(VARIABLE, "")
    if entries:
        paths = [str(root / entry) for entry in entries.split(os.pathsep)]
        result["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [result.get("PYTHONPATH", "")])])
    return result
