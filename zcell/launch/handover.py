"""What a parent prepares for a job and takes back afterwards. Invariant: the environment holds names and addresses, never a secret."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zcell.cell.endpoints import is_local
from zcell.errors import BundleError, CellClosedError, LaunchError
from zcell.fqcn import FQCN
from zcell.launch.code import VARIABLE as CODE_VARIABLE
from zcell.launch.code import code_entries
from zcell.launch.credentials import Credentials
from zcell.launch.launcher import HandOver
from zcell.launch.spec import JobSpec
from zcell.workspace.manager import WorkspaceManager
from zcell.workspace.patterns import DEFAULT_EXCLUDES

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.workspace.meter import ProgressCallback

STARTUP = "startup"


def hand_over(spec: JobSpec, parent: Cell, on_progress: ProgressCallback | None, *, ships: bool = True) -> HandOver:
    """Register the job's workspace with `parent`, if it `ships`; what the job must be told. Raises `LaunchError`."""
    try:
        endpoints = parent.endpoints
    except CellClosedError as error:
        raise LaunchError(f"job {spec.job_id}: its parent {parent.fqcn!r} is not running: {error}") from error
    if not endpoints:
        raise LaunchError(
            f"job {spec.job_id}: its parent {parent.fqcn!r} listens nowhere; start the cell, with listen=['tcp://127.0.0.1:0']"
        )
    env = {
        "ZCELL_JOB_ID": spec.job_id,
        "ZCELL_JOB_FQCN": FQCN.join([parent.fqcn, spec.job_id]),
        "ZCELL_PARENT": endpoints[0],
        "ZCELL_SITE": spec.site,
    }
    if not is_local(endpoints[0]):  # the parent insists on it, or it would not listen there
        env["ZCELL_INSECURE"] = "1"
    if code := code_entries(spec):
        env[CODE_VARIABLE] = os.pathsep.join(code)
    token = _register_workspace(spec, parent, on_progress) if ships else ""
    if token:
        env["ZCELL_OWNER"] = parent.fqcn
    return HandOver(env, Credentials(parent.link_secret, token))


def _register_workspace(spec: JobSpec, parent: Cell, on_progress: ProgressCallback | None) -> str:
    if spec.workspace is None and spec.job_directory is None:
        return ""
    excludes = [*DEFAULT_EXCLUDES, *spec.excludes]
    if spec.job_directory is not None:  # what never travels from a workspace does not from a directory used as one either
        excludes += [f"{spec.job_id}/{STARTUP}", *(f"{spec.job_id}/{pattern}" for pattern in DEFAULT_EXCLUDES)]
    try:
        return WorkspaceManager.of(parent).add_job(
            spec.job_id,
            spec.workspace,
            job_directory=spec.job_directory,
            results=spec.results,
            excludes=excludes,
            skip_links=spec.skip_links,
            progress=on_progress,
        )
    except (ValueError, OSError) as error:
        raise LaunchError(f"job {spec.job_id}: its workspace cannot be offered: {error}") from error


def check_files(spec: JobSpec, parent: Cell) -> None:
    """Raise `LaunchError` when the job's workspace, which is registered, could not travel as it is now."""
    if spec.workspace is None and spec.job_directory is None:
        return
    try:
        WorkspaceManager.of(parent).check_job(spec.job_id)
    except (BundleError, OSError) as error:
        raise LaunchError(f"job {spec.job_id}: its workspace cannot travel: {error}") from error


def take_back(spec: JobSpec, parent: Cell) -> None:
    """Forget the job's workspace: its token is worth nothing any more. Idempotent."""
    if spec.workspace is None and spec.job_directory is None:
        return
    try:
        WorkspaceManager.of(parent).remove_job(spec.job_id)
    except CellClosedError:  # then it has forgotten everything already
        return
