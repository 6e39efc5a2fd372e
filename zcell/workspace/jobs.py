"""One job's entry at the owner of its workspace. Invariant: a token opens this job, to these cells, until then, and nothing else."""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from zcell.abort import Abort
from zcell.fqcn import FQCN
from zcell.message import Reply
from zcell.workspace.context import LOCAL, bootstrap_name, check_job_id
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.manifest import Entry
from zcell.workspace.meter import Direction, Meter, ProgressCallback
from zcell.workspace.offers import TreeOffer
from zcell.workspace.patterns import Excludes
from zcell.workspace.receive import Received

TOKEN_BYTES = 32


@dataclass(slots=True)
class Preparation:
    """The workspace on its way to being offered, or on offer, for one request of the job."""

    id: str
    meter: Meter
    work: Future[Reply] = field(default_factory=Future)
    offer: TreeOffer | None = None
    replaced: bool = False


@dataclass(slots=True)
class Publication:
    """One try to bring results back; `ref_id` is the offer of the job's side."""

    ref_id: str
    meter: Meter
    work: Future[Reply] = field(default_factory=Future)
    abort: Abort = field(default_factory=Abort)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlaces:
    """Where a job's files are at the owner. All paths are absolute."""

    local: Path | None
    job_directory: Path
    results: Path

    @classmethod
    def of(cls, job_id: str, root: Path | None, job_directory: Path | None, results: Path | None) -> JobPlaces:
        """Raises `ValueError` or `NotADirectoryError` naming the argument."""
        if root is None and job_directory is None:
            raise ValueError("root or job_directory must say where the workspace is")
        for name, place in (("root", root), ("job_directory", job_directory)):
            if place is not None and not place.is_dir():
                raise NotADirectoryError(f"{name} must be an existing directory, got {place}")
        # whoever chose these paths is trusted, so links on the way to them are followed, now and once
        root = None if root is None else root.resolve()
        if job_directory is not None:
            where = job_directory.resolve()
        else:
            assert root is not None
            where = root / job_id
        results = where if results is None else results.resolve()
        return cls(local=None if root is None else root / LOCAL, job_directory=where, results=results)

    def check_writable(self) -> None:
        """Raises `PermissionError` or `NotADirectoryError` when results could not be put in place: said now, not after hours."""
        if self.results.exists() and not self.results.is_dir():
            raise NotADirectoryError(
                errno.ENOTDIR, f"results cannot go to {self.results}: it is no directory", str(self.results)
            )
        there = self.results.parent
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"results cannot go to {self.results}: not a directory", str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            read_only = os.statvfs(there).f_flag & os.ST_RDONLY
            code = errno.EROFS if read_only else errno.EACCES
            raise OSError(code, f"results cannot go to {self.results}: {os.strerror(code).lower()}", str(there))

    def tops(self, job_id: str) -> dict[str, Path]:
        """What travels to the job, by its first name in the manifest."""
        return {job_id: self.job_directory} | ({} if self.local is None else {LOCAL: self.local})


class Job:
    """What the owner knows of one job. Its fields change only under the manager's lock."""

    def __init__(
        self,
        owner: str,
        job_id: str,
        places: JobPlaces,
        *,
        receivers: Iterable[str] | None,
        ttl: float | None,
        directions: Iterable[Direction],
        excludes: Excludes,
        limits: WorkspaceLimits,
        skip_links: bool,
        idle_timeout: float,
        progress: ProgressCallback | None,
        on_results: Callable[[Received], None] | None,
    ) -> None:
        self.job_id = check_job_id(job_id)
        self.places = places
        self.token = secrets.token_hex(TOKEN_BYTES)
        self.directions = frozenset(directions)
        self.excludes = excludes
        self.limits = limits
        self.skip_links = skip_links
        self.idle_timeout = idle_timeout
        self.progress = progress
        self.on_results = on_results
        self.preparation: Preparation | None = None
        self.publications: dict[str, Publication] = {}
        self.shipped: Mapping[str, Entry] | None = None
        """What the job was given: only what differs from it in the results did the job change, or remove. None: not by this owner."""
        self.removed = False
        """Its token is void, and what runs for it ends."""
        self.given_up = False
        """Nobody will try again: what arrived half is not kept."""
        self._expires_at = None if ttl is None else time.monotonic() + ttl
        self._receivers = _receivers(owner, job_id, receivers)

    def refusal(self, token: str, origin: str, direction: Direction) -> str:
        """Why this token may not be used by `origin` for that; "" when it may."""
        if not self.is_token(token):
            return "wrong transfer token"
        if self._expires_at is not None and time.monotonic() >= self._expires_at:
            return "the transfer token has expired"
        if not any(origin == name or (name.endswith(".*") and origin.startswith(name[:-1])) for name in self._receivers):
            return f"the transfer token is not for cell {origin!r}"
        if direction not in self.directions:
            return f"the transfer token is not for direction {direction!r}"
        return ""

    def is_token(self, token: str) -> bool:
        """Compares in constant time."""
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())


def _receivers(owner: str, job_id: str, receivers: Iterable[str] | None) -> tuple[str, ...]:
    """Names, and subtrees ``NAME.*``, that may use the token. By default the job's cell, what is below it, and its bootstrap cell."""
    if receivers is None:
        job = FQCN.join([owner, job_id])
        return (job, f"{job}.*", bootstrap_name(owner, job_id))
    if isinstance(receivers, str):
        raise TypeError(f"receivers must be a list of cell names, not the single string {receivers!r}")
    names = tuple(receivers)
    for name in names:
        FQCN.validate(name.removesuffix(".*"))
    if not names:
        raise ValueError("receivers is an empty list: nobody could fetch the workspace; None means the job's own cells")
    return names
