"""`WorkspaceManager`: the owner's side of the workspaces of its jobs. Invariant: no lock is held while disk, network or callbacks run.

Requests only look up and start work; listing, digesting and receiving run on the threads of `Offers`. The same question always
gets the same work: a repeated `prepare_download` of one request, and a repeated `publish_results` of one ref, change nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.errors import BundleError, DownloadError, WorkspaceError
from zcell.message import Reply, Request, ReturnCode, make_reply
from zcell.workspace.asking import CHANNEL, PREPARE, PUBLISH, patient_answer
from zcell.workspace.carry import Base
from zcell.workspace.context import IDLE_TIMEOUT
from zcell.workspace.jobs import Job, JobPlaces, Preparation, Publication
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.meter import Direction, Meter, ProgressCallback
from zcell.workspace.offers import Offers
from zcell.workspace.patterns import Excludes
from zcell.workspace.receive import Received, receive_tree
from zcell.workspace.remote import RemoteSender, fetch_manifest
from zcell.workspace.scan import ScannedTree, scan_tree
from zcell.workspace.stage import discard_stage, recover

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

log = logging.getLogger("zcell.workspace")

BOTH: tuple[Direction, ...] = ("down", "up")
_MAX_ID = 255
_MAX_PUBLISHED = 10_000
_REPLACED_SECONDS = 30.0


class WorkspaceManager:
    """The workspaces that one cell owns; get it by `WorkspaceManager.of(cell)`. All methods may be called from any thread."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._offers = Offers.of(cell)
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._published: OrderedDict[str, tuple[float, Job, Reply, Received]] = OrderedDict()
        self._handlers: dict[str, Callable[[Request], Any]] = {PREPARE: self._on_prepare, PUBLISH: self._on_publish}
        for topic, handler in self._handlers.items():
            cell.register(CHANNEL, topic, handler)

    @classmethod
    def of(cls, cell: Cell) -> WorkspaceManager:
        """The one of `cell`."""
        return cell.extension("workspace", cls)

    def add_job(
        self,
        job_id: str,
        root: Path | str | None,
        *,
        receivers: Iterable[str] | None = None,
        ttl: float | None = None,
        directions: Iterable[Direction] = BOTH,
        job_directory: Path | str | None = None,
        results: Path | str | None = None,
        excludes: Excludes | Iterable[str] | None = None,
        limits: WorkspaceLimits | None = None,
        skip_links: bool = False,
        idle_timeout: float = IDLE_TIMEOUT,
        progress: ProgressCallback | None = None,
        on_results: Callable[[Received], None] | None = None,
    ) -> str:
        """Let a job fetch its workspace and bring its results back; the token it needs for both.

        Again for the same id: replaces the job, whose token is void from then on.

        Args:
            root: the workspace: ``local/`` and the directory of the job.
            receivers: cells that may use the token, ``NAME.*`` for a subtree; default: the job's and those below it.
            ttl: seconds for which the token is good; None: until the results are in place or `remove_job`.
            directions: "down", "up" or both.
            job_directory: the job's directory, when it is not ``root/JOB_ID``; then `root` may be None.
            results: where the results go, when that is not the job's directory.
            excludes: patterns of what never travels and is never removed (see `Excludes`); default: ``local/study_data.yaml``.
            limits: on the results.
            skip_links: leave links, devices and sockets at home with a warning, instead of refusing to ship the workspace.
            idle_timeout: seconds without any progress after which a transfer fails.
            progress: called with a `WorkspaceProgress` for both directions.
            on_results: called on the pool once the results are in place.

        Raises `ValueError`, `TypeError` or `NotADirectoryError` naming the argument, `OSError` naming the directory that results
        are to go to and that cannot be written to.
        """
        places = JobPlaces.of(job_id, *(None if p is None else Path(p) for p in (root, job_directory, results)))
        if excludes is None or not isinstance(excludes, Excludes):
            excludes = Excludes() if excludes is None else Excludes(excludes)
        if excludes(job_id):
            raise ValueError(f"excludes: one of {list(excludes.patterns)} matches the directory of job {job_id} itself")
        job = Job(
            self._cell.fqcn,
            job_id,
            places,
            receivers=receivers,
            ttl=ttl,
            directions=directions,
            excludes=excludes,
            limits=limits or WorkspaceLimits(),
            skip_links=skip_links,
            idle_timeout=idle_timeout,
            progress=progress,
            on_results=on_results,
        )
        if "up" in job.directions:
            places.check_writable()
        if places.results.parent.is_dir():
            recover(places.results.parent)
        with self._lock:
            old = self._jobs.pop(job_id, None)
            self._jobs[job_id] = job
            self._published.pop(job_id, None)
        if old is not None:
            self._end(old, "the job was added again")
        return job.token

    def check_job(self, job_id: str) -> None:
        """Look whether the workspace of a job could travel as it is now. Raises `BundleError` or `OSError` naming what is in the way."""
        with self._lock:
            job = self._jobs[job_id]
        try:
            self._scan(job, on_left_out=lambda _: None)
        except BundleError as error:
            # said to whoever gave the directory: by its own name, and not by the one that it travels under
            raise BundleError(str(error).replace(f"'{job_id}/", f"'{job.places.job_directory}/", 1)) from error

    def remove_job(self, job_id: str) -> bool:
        """Forget a job: its token is void, what it is doing is called off, what it had sent half is removed. False: unknown."""
        with self._lock:
            job = self._jobs.pop(job_id, None)
            known = self._published.pop(job_id, None) is not None
        if job is None:
            return known
        job.given_up = True
        self._end(job, "the job was removed")
        discard_stage(job.places.results.parent, stage_label(job))
        return True

    def results_of(self, job_id: str) -> Received | None:
        """What a job brought back; None while it has not, and some minutes later again."""
        with self._lock:
            published = self._published.get(job_id)
        return None if published is None else published[3]

    def shutdown(self) -> None:
        """Forget all jobs. Half-received results stay for the next time."""
        for topic in self._handlers:
            self._cell.unregister(CHANNEL, topic)
        with self._lock:
            jobs = list(self._jobs.values())
            self._jobs.clear()
            self._published.clear()
        for job in jobs:
            self._end(job, "the cell was stopped")

    def _end(self, job: Job, reason: str) -> None:
        with self._lock:
            job.removed = True
            preparation, job.preparation = job.preparation, None
            publications = list(job.publications.values())
        if preparation is not None:
            self._replace(preparation)
        for publication in publications:
            publication.abort.trigger(reason)

    def _replace(self, preparation: Preparation) -> None:
        with self._lock:
            preparation.replaced = True
            offer, preparation.offer = preparation.offer, None
        if offer is not None:
            offer.close()

    # --- requests ----------------------------------------------------------------------------------------------------------

    def _on_prepare(self, request: Request) -> Reply | Future[Reply]:
        job = self._admit(request, "down")
        if isinstance(job, Reply):
            return job
        # a caller that names no request gets a new preparation every time
        request_id = request.payload.get("request", "")
        if not isinstance(request_id, str) or len(request_id) > _MAX_ID:
            return make_reply(ReturnCode.INVALID_REQUEST, error="request must be an id of at most 255 characters")
        old: Preparation | None = None
        with self._lock:
            if job.removed:
                return _unknown(job.job_id)
            preparation = job.preparation
            if preparation is None or not request_id or preparation.id != request_id:
                old = preparation
                preparation = Preparation(request_id, Meter(job.job_id, "down", request.origin, job.progress))
                job.preparation = preparation
                work = self._offers.pool.submit(self._prepare, job, preparation, request.origin, channel=PREPARE)
                preparation.work = work
        if old is not None:
            self._replace(old)
        return patient_answer(self._cell, request, preparation.work, preparation.meter)

    def _on_publish(self, request: Request) -> Reply | Future[Reply]:
        job = self._admit(request, "up")
        if isinstance(job, Reply):
            return self._published_before(request.payload) or job
        ref_id = request.payload.get("ref_id")
        if not isinstance(ref_id, str) or not 0 < len(ref_id) <= _MAX_ID:
            return make_reply(
                ReturnCode.INVALID_REQUEST, error="ref_id is missing: expected the id of the manifest of the results"
            )
        with self._lock:
            if job.removed:
                return _unknown(job.job_id)
            publication = job.publications.get(ref_id)
            if publication is None:
                earlier = list(job.publications.values())
                publication = Publication(ref_id, Meter(job.job_id, "up", request.origin, job.progress))
                job.publications[ref_id] = publication
                work = self._offers.pool.submit(self._publish, job, publication, request.origin, earlier, channel=PUBLISH)
                publication.work = work
            else:
                earlier = []
        for other in earlier:
            other.abort.trigger("the job began anew")
        return patient_answer(self._cell, request, publication.work, publication.meter)

    def _admit(self, request: Request, direction: Direction) -> Job | Reply:
        """The job that a request is about, or why it is refused."""
        payload = request.payload
        if not isinstance(payload, dict):
            return make_reply(ReturnCode.INVALID_REQUEST, error=f"the payload must be a dict, got {type(payload).__name__}")
        required = ("job_id", "transfer_token") if direction == "down" else ("job_id", "transfer_token", "ref_id")
        for name in required:
            if not isinstance(payload.get(name), str) or not payload[name]:
                return make_reply(ReturnCode.INVALID_REQUEST, error=f"{name} is missing, expected a string")
        with self._lock:
            job = self._jobs.get(payload["job_id"])
        if job is None:
            return _unknown(payload["job_id"])
        refusal = job.refusal(payload["transfer_token"], request.origin, direction)
        if refusal:
            log.warning("job %s: %s from %s refused: %s", job.job_id, request.topic, request.origin, refusal)
            return make_reply(ReturnCode.UNAUTHENTICATED, error=refusal)
        return job

    def _published_before(self, payload: Any) -> Reply | None:
        """The answer that a job already got, or missed, for results that are in place."""
        if not isinstance(payload, dict) or not isinstance(payload.get("job_id"), str):
            return None
        now = time.monotonic()
        with self._lock:
            while self._published and (next(iter(self._published.values()))[0] < now or len(self._published) > _MAX_PUBLISHED):
                self._published.popitem(last=False)
            published = self._published.get(payload["job_id"])
        token, ref_id = payload.get("transfer_token"), payload.get("ref_id")
        if published is None or not isinstance(token, str) or not isinstance(ref_id, str):
            return None
        return published[2] if published[1].is_token(token) else None

    # --- on the threads of the offers --------------------------------------------------------------------------------------

    @staticmethod
    def _scan(job: Job, **told: Callable[..., None]) -> ScannedTree:
        tops = job.places.tops(job.job_id)
        return scan_tree(tops, excludes=job.excludes, skip_special=job.skip_links, limits=job.limits, **told)

    def _prepare(self, job: Job, preparation: Preparation, receiver: str) -> Reply:
        try:
            tree = self._scan(job, tick=preparation.meter.tick)
            offer = self._offers.add(
                tree, receivers=[receiver], meter_for=lambda _: preparation.meter, idle_timeout=job.idle_timeout
            )
        except BundleError as error:
            return make_reply(ReturnCode.INVALID_REQUEST, error=f"the workspace of job {job.job_id} cannot travel: {error}")
        except (OSError, RuntimeError) as error:
            return make_reply(ReturnCode.COMM_ERROR, error=f"the workspace of job {job.job_id} cannot be offered: {error}")
        with self._lock:
            current = not preparation.replaced
            if current:
                preparation.offer = offer
                job.shipped = {e.path: e for e in tree.manifest if not job.excludes.covers(e.path)}
        if not current:
            offer.close()
            return _unknown(job.job_id) if job.removed else _replaced(job.job_id)
        log.info("job %s: workspace of %d files is on offer to %s", job.job_id, tree.manifest.files, receiver)
        ready = {"state": "ready", "ref_id": offer.id, "size": offer.ref.size, "digest": str(tree.manifest.digest)}
        return make_reply(ReturnCode.OK, ready | {"excludes": list(job.excludes.patterns)})

    def _publish(self, job: Job, publication: Publication, sender: str, earlier: list[Publication]) -> Reply:
        wait([other.work for other in earlier], timeout=_REPLACED_SECONDS)
        meter = publication.meter
        try:
            received = self._receive(job, publication, sender)
        except Exception as error:  # noqa: BLE001  every outcome is an answer
            meter.end("ABORTED" if publication.abort.triggered else "FAILED")
            with self._lock:
                published = self._published.get(job.job_id)
            if published is not None and published[1] is job:  # by an earlier try, which this one came too late to replace
                return published[2]
            if job.given_up:
                discard_stage(job.places.results.parent, stage_label(job))
            return _unknown(job.job_id) if job.removed else _failure(job, error)
        reply = make_reply(ReturnCode.OK, {"state": "published", "received": received.to_dict()})
        with self._lock:
            if self._jobs.get(job.job_id) is job:
                del self._jobs[job.job_id]
            self._published[job.job_id] = (time.monotonic() + self._cell.limits.finished_ttl, job, reply, received)
        self._end(job, "the results are in place")
        meter.end("COMPLETED")
        log.info("job %s: results of %d files are in %s", job.job_id, received.files, job.places.results)
        if job.on_results is not None:
            self._cell.submit(_tell, job.job_id, job.on_results, received)
        return reply

    def _receive(self, job: Job, publication: Publication, sender: str) -> Received:
        places, abort, meter = job.places, publication.abort, publication.meter
        manifest = fetch_manifest(
            self._cell, sender, publication.ref_id, job.limits, idle_timeout=job.idle_timeout, abort=abort
        )
        for entry in manifest:
            if entry.path.partition("/")[0] != job.job_id:
                raise BundleError(f"{entry.path!r} is refused: results must lie under {job.job_id!r}")
            if job.excludes(entry.path):  # also says nothing about what the owner has there
                raise BundleError(f"{entry.path!r} is refused: the owner excludes it from transfers")
            if job.excludes.covers(entry.path):
                raise BundleError(f"{entry.path!r} is refused: it is excluded from travelling")
        if not len(manifest) or not manifest.entries[0].is_dir:
            raise BundleError(f"the results do not hold the directory {job.job_id!r}")
        remote = RemoteSender(
            self._cell,
            sender,
            publication.ref_id,
            manifest,
            limits=job.limits,
            meter=meter,
            idle_timeout=job.idle_timeout,
            abort=abort,
        )
        back_home = places.results == places.job_directory
        places.results.parent.mkdir(parents=True, exist_ok=True)
        return receive_tree(
            places.results.parent,
            stage_label(job),
            manifest,
            remote,
            names={job.job_id: places.results.name},
            also_held=None if back_home else {job.job_id: places.job_directory},
            base=Base(job.shipped, job.job_id) if back_home and job.shipped is not None else None,
            meter=meter,
            before_install=lambda: _check_wanted(job, publication),
        )


def _tell(job_id: str, on_results: Callable[[Received], None], received: Received) -> None:
    try:
        on_results(received)
    except Exception:
        log.exception("job %s: the callback for its results failed; they are in place", job_id)


def stage_label(job: Job) -> str:
    """Name of the stage that the results of a job are put together in."""
    return f"up-{job.job_id}"


def _check_wanted(job: Job, publication: Publication) -> None:
    if job.removed or publication.abort.triggered:
        raise WorkspaceError(publication.abort.reason or "the job was removed", ReturnCode.ABORTED.value)


def _failure(job: Job, error: Exception) -> Reply:
    """How a failed publication is answered."""
    why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    text = f"the results of job {job.job_id} cannot be put in place as {job.places.results}: {why}"
    if isinstance(error, BundleError) or (isinstance(error, DownloadError) and error.reason == "corrupt"):
        log.info("%s", text)
        return make_reply(ReturnCode.INVALID_REQUEST, error=text)
    if isinstance(error, DownloadError | WorkspaceError | OSError):
        log.info("%s", text)
        aborted = isinstance(error, WorkspaceError) and error.rc == ReturnCode.ABORTED
        return make_reply(ReturnCode.ABORTED if aborted else ReturnCode.COMM_ERROR, error=text)
    log.error("%s", text, exc_info=error)
    return make_reply(ReturnCode.PROCESS_EXCEPTION, error=f"{type(error).__name__}: {error}")


def _unknown(job_id: str) -> Reply:
    return make_reply(
        ReturnCode.INVALID_TARGET, error=f"no job {job_id[:_MAX_ID]!r} has a workspace here; it may have been removed"
    )


def _replaced(job_id: str) -> Reply:
    return make_reply(ReturnCode.ABORTED, error=f"another request prepares the workspace of job {job_id!r} anew")
