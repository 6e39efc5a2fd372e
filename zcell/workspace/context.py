"""What a job knows about its workspace. Invariant: its secrets are in no repr, log line or error text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.abort import Abort
from zcell.errors import BundleError, LinkError, WorkspaceError
from zcell.fqcn import FQCN
from zcell.security.credentials import read_credentials
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.meter import ProgressCallback
from zcell.workspace.names import validate_entry_name
from zcell.workspace.patterns import Excludes

if TYPE_CHECKING:
    import zmq

    from zcell.cell.cell import Cell

LOCAL = "local"
RESERVED = frozenset({LOCAL, "startup"})
CONNECT_TIMEOUT = 30.0
IDLE_TIMEOUT = 60.0
_MAX_LABEL = 63


def check_job_id(job_id: str) -> str:
    """`job_id` unchanged, or `ValueError`: it is a label of a cell's name and not the name of another part of a workspace."""
    if not isinstance(job_id, str) or not FQCN.is_valid(job_id) or "." in job_id:
        raise ValueError(f"job_id must be 1 to 63 of letters, digits, '_' and '-', got {job_id!r}")
    if job_id in RESERVED:
        raise ValueError(f"job_id {job_id!r} is the name of another part of a workspace; choose another one")
    try:
        validate_entry_name(job_id)
    except BundleError as error:
        raise ValueError(f"job_id {job_id!r} cannot be the name of a directory everywhere: {error}") from error
    return job_id


def bootstrap_name(owner: str, job_id: str) -> str:
    """Name of the cell that carries the workspace of a job: ``ws_transfer_JOB`` below the owner."""
    label = f"ws_transfer_{job_id}"
    if len(label) > _MAX_LABEL:
        label = f"ws_transfer_{hashlib.sha256(job_id.encode()).hexdigest()[:40]}"
    return FQCN.join([owner, label])


@dataclass
class JobContext:
    """How one job reaches its workspace. A context manager: leaving it closes the cell that `download_workspace` started.

    Without an `owner` there is nothing to transfer, and both transfers do nothing.
    """

    job_id: str = ""
    owner: str = ""
    """Name of the cell that owns the workspace."""
    parent_url: str = ""
    """Endpoint of the owner."""
    token: str = field(default="", repr=False)
    secret: bytes | None = field(default=None, repr=False)
    """The link secret; None: the one of this user."""
    root: Path = field(default_factory=Path.cwd)
    """Where ``local/`` and the job's directory are, or will be."""
    fqcn: str = ""
    """Name of the job's own cell, if it has one."""
    idle_timeout: float = IDLE_TIMEOUT
    """Seconds without any progress after which a transfer fails."""
    insecure: bool = False
    """Whether `parent_url` may be beyond this machine although there is no kit."""
    connect_timeout: float = CONNECT_TIMEOUT
    limits: WorkspaceLimits = field(default_factory=WorkspaceLimits)
    excludes: Excludes = field(default_factory=lambda: Excludes(()))
    """What of the job's directory does not travel back."""
    skip_links: bool = False
    """Leave links, devices and sockets out of the results, with a warning, instead of refusing to send any."""
    progress: ProgressCallback | None = field(default=None, repr=False)
    abort: Abort = field(default_factory=Abort, repr=False)
    zmq_context: zmq.Context[Any] | None = field(default=None, repr=False)
    _cell: Cell | None = field(default=None, repr=False, init=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> JobContext:
        """The context that the launcher left in the environment; one without an owner when nothing launched this process.

        Raises `WorkspaceError` naming the variable, or the file, that is wrong.
        """
        env = os.environ if env is None else env
        owner = env.get("ZCELL_OWNER", "")
        if not owner:
            return cls()
        credentials = env.get("ZCELL_CREDENTIALS")
        token, secret = _read_credentials(Path(credentials)) if credentials else ("", None)
        context = cls(
            job_id=env.get("ZCELL_JOB_ID", ""),
            owner=owner,
            parent_url=env.get("ZCELL_PARENT", ""),
            token=token,
            secret=secret,
            fqcn=env.get("ZCELL_JOB_FQCN", ""),
            root=Path(env.get("ZCELL_WORKSPACE") or Path.cwd()),
            insecure=env.get("ZCELL_INSECURE") == "1",
        )
        for name, value in (("ZCELL_JOB_ID", context.job_id), ("ZCELL_PARENT", context.parent_url)):
            if not value:
                raise WorkspaceError(f"ZCELL_OWNER names {owner!r}, but {name} is not set; was this process launched by zcell?")
        return context

    @property
    def job_directory(self) -> Path:
        """The job's own directory."""
        return self.root / self.job_id

    def cell(self) -> Cell:
        """The cell of the transfers, started and linked to the owner; the same one until `close`.

        Raises `LinkError` naming the owner when it cannot be reached within `connect_timeout` seconds, or `abort` is triggered,
        `WorkspaceError` when something is missing, `ValueError` for names that are none.
        """
        from zcell.cell.cell import Cell

        if self._cell is not None:
            return self._cell
        check_job_id(self.job_id)
        if not self.token:
            raise WorkspaceError(f"job {self.job_id}: owner {self.owner!r} is known, but there is no transfer token to show it")
        name = bootstrap_name(self.owner, self.job_id)
        cell = Cell(name, parent=self.parent_url, secret=self.secret, context=self.zmq_context, insecure=self.insecure)
        cell.start()
        try:
            cell.wait_ready(self.connect_timeout, self.abort)
        except LinkError as error:
            cell.stop()
            raise type(error)(f"job {self.job_id}: no link to its owner {self.owner!r}: {error}") from error
        except BaseException:
            cell.stop()
            raise
        self._cell = cell
        return cell

    def close(self) -> None:
        """Stop the cell of the transfers. Idempotent."""
        cell, self._cell = self._cell, None
        if cell is not None:
            cell.stop()

    def __enter__(self) -> JobContext:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _read_credentials(path: Path) -> tuple[str, bytes]:
    """Token and link secret from the hand-over file."""
    try:
        credentials = read_credentials(path)
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"the credentials of this job cannot be read: {error}") from error
    return credentials.transfer_token, credentials.link_secret
