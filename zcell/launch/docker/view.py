"""What a container sees of its host. Invariant: nothing of the workspace is writable there but the job's own directory.

All paths here become mounts of the engine's API (``HostConfig.Mounts``). The container's side is fixed:

- ``/zcell/workspace``: the workspace. With a shared directory a writable tmpfs (mode 1777) in which ``startup`` and ``local``
  are bound read-only and the job's directory read-write; otherwise a directory of the container, which the job's node fills.
- ``/zcell/private``: credentials and what the job's node needs; only the job's user may look inside.
- ``/data/STUDY/SET``: the study's data sets.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from zcell.errors import LaunchError
from zcell.launch.docker.study import STUDIES, DataSet
from zcell.launch.spec import JobSpec

WORKSPACE = "/zcell/workspace"
PRIVATE = "/zcell/private"
HOME = "/zcell/home"
CREDENTIALS = f"{PRIVATE}/credentials"
TMPFS_MODE = 0o1777
LOCAL, STARTUP = "local", "startup"
READ_ONLY = (STARTUP, LOCAL)
RESERVED = frozenset(READ_ONLY)


def workspace_child(root: Path, name: str) -> Path:
    """The directory `name` directly below `root`, which must be a real one: no link, nothing that lies elsewhere.

    Raises `LaunchError` saying which rule it breaks. It need not exist.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise LaunchError(f"{name!r} does not name one directory directly below the workspace {root}")
    path = root / name
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return path
    except OSError as error:
        raise LaunchError(f"{path} in the workspace cannot be looked at: {error}") from error
    if stat.S_ISLNK(mode):
        raise LaunchError(f"{path} is a link; a job's container is given real directories of its workspace only")
    if not stat.S_ISDIR(mode):
        raise LaunchError(f"{path} is no directory")
    if path.resolve().parent != root.resolve():
        raise LaunchError(f"{path} leads out of the workspace {root}")
    return path


def shared_mounts(spec: JobSpec) -> list[dict[str, Any]]:
    """The isolated view of a workspace that the engine's host shares with the parent. Raises `LaunchError`."""
    if spec.results is not None:
        raise LaunchError(
            f"job {spec.job_id}: with a shared workspace the results appear in the job's directory; leave results out, or set the "
            "docker launcher's setting workspace to 'transfer'"
        )
    if spec.workspace is None and spec.job_directory is None:
        return []
    try:
        children = _children(spec)
    except LaunchError as error:
        raise LaunchError(f"job {spec.job_id}: {error}") from error
    mounts: list[dict[str, Any]] = [{"Type": "tmpfs", "Target": WORKSPACE, "TmpfsOptions": {"Mode": TMPFS_MODE}}]
    for name, path in children.items():
        mounts.append(bind(path, f"{WORKSPACE}/{name}", read_only=name != spec.job_id))
    if (children.get(LOCAL, Path()) / STUDIES).is_file():  # where every study's data is on the host is no job's business
        mounts.append(bind(Path("/dev/null"), f"{WORKSPACE}/{LOCAL}/{STUDIES}", read_only=True))
    return mounts


def _children(spec: JobSpec) -> dict[str, Path]:
    """The directories to bind, by their names in the container."""
    children: dict[str, Path] = {}
    root = spec.workspace
    if root is not None:
        root = _directory(root, "workspace")
        children = {name: path for name in READ_ONLY if (path := workspace_child(root, name)).is_dir()}
    if spec.job_directory is None:
        assert root is not None
        directory = workspace_child(root, spec.job_id)
    elif root is not None and spec.job_directory.resolve().parent == root:
        directory = workspace_child(root, spec.job_directory.resolve().name)
        if directory.name in RESERVED:
            raise LaunchError(f"{directory} is another part of the workspace and cannot be a job's directory")
    else:
        directory = _directory(spec.job_directory, "job_directory")
    children[spec.job_id] = directory
    return children


def _directory(path: Path, what: str) -> Path:
    resolved = path.resolve()
    if not resolved.is_dir():
        raise LaunchError(f"{what} must be an existing directory, got {path}")
    return resolved


def make_job_directory(mounts: list[dict[str, Any]], job_id: str) -> None:
    """Make the job's directory when it is not there yet: an engine binds only what exists."""
    for mount in mounts:
        if mount["Target"] == f"{WORKSPACE}/{job_id}":
            Path(mount["Source"]).mkdir(exist_ok=True)


def study_mounts(sets: list[DataSet], socket: Path | None) -> list[dict[str, Any]]:
    """The data sets of a study. `socket` is that of an engine on this machine, None when the engine is elsewhere.

    Raises `LaunchError` for a source that is not there, or that would hand the engine's socket to the job.
    """
    mounts = []
    for item in sets:
        source = Path(item.source)
        if socket is not None:
            if not source.exists():
                raise LaunchError(f"data set {item.study}.{item.name}: {source} does not exist on this machine")
            source = source.resolve()
            if source == socket or source in socket.parents:
                raise LaunchError(f"data set {item.study}.{item.name}: {source} holds the engine's socket {socket}")
        mounts.append(bind(source, item.target, read_only=item.mode == "ro"))
    return mounts


def bind(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    """A bind mount; the engine refuses it when `source` does not exist."""
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}
