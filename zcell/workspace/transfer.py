"""The job's side: fetch the workspace, bring the results back. Invariant: each is done whole or raises; nothing half-way is visible."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from zcell.digest import Digest
from zcell.errors import BundleError, WorkspaceError, ZcellError
from zcell.workspace.asking import PREPARE, PUBLISH, ask
from zcell.workspace.context import LOCAL, JobContext
from zcell.workspace.meter import Direction, Meter
from zcell.workspace.offers import Offers
from zcell.workspace.patterns import Excludes
from zcell.workspace.receive import Received, receive_tree
from zcell.workspace.remote import RemoteSender, fetch_manifest
from zcell.workspace.scan import scan_tree

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

log = logging.getLogger("zcell.workspace")
T = TypeVar("T")


def download_workspace(ctx: JobContext) -> Received | None:
    """Fetch ``local/`` and the job's directory from the owner to below `ctx.root`; None when there is no owner.

    What is held there already does not travel; what an earlier try fetched is not fetched again. The cell it uses stays open
    for `upload_results`, or `ctx.close`. Raises `LinkError`, `WorkspaceError` with the owner's return code, `DownloadError`, or
    `BundleError` when what arrives is refused; then the destination is as it was.
    """
    if not ctx.owner:
        log.debug("no owner in the environment: there is no workspace to download")
        return None
    return _run(ctx, "down", _download)


def upload_results(ctx: JobContext) -> Received | None:
    """Bring the job's directory back to the owner and wait until it is in place there; None when there is no owner.

    Closes the cell of the transfers, whatever happens. Raises as `download_workspace`; then the owner's directory is as it was, and
    it can be tried again.
    """
    if not ctx.owner:
        log.debug("no owner in the environment: there is nobody to bring results to")
        return None
    try:
        return _run(ctx, "up", _upload)
    finally:
        ctx.close()


def upload_results_safely(ctx: JobContext) -> Received | None:
    """`upload_results` for the end of a job that must not fail for it: logs what goes wrong and returns None."""
    try:
        return upload_results(ctx)
    except Exception as error:
        known = isinstance(error, ZcellError | OSError | ValueError)
        log.error("job %s: its results could not be brought back: %s", ctx.job_id, error, exc_info=not known)
        return None


def _run(ctx: JobContext, direction: Direction, transfer: Callable[[JobContext, Cell, Meter], Received]) -> Received:
    meter = Meter(ctx.job_id, direction, ctx.owner, ctx.progress)
    try:
        received = transfer(ctx, ctx.cell(), meter)
    except BaseException:
        meter.end("ABORTED" if ctx.abort.triggered else "FAILED")
        raise
    meter.end("COMPLETED")
    return received


def _download(ctx: JobContext, cell: Cell, meter: Meter) -> Received:
    question = {"job_id": ctx.job_id, "transfer_token": ctx.token, "request": secrets.token_urlsafe(16)}
    answer = ask(
        cell,
        ctx.owner,
        PREPARE,
        question,
        idle_timeout=ctx.idle_timeout,
        abort=ctx.abort,
        on_pending=lambda payload: meter.tick(),
    )
    offer_id = answer.get("ref_id")
    if not isinstance(offer_id, str) or not offer_id:
        raise WorkspaceError(f"{ctx.owner} prepared the workspace of {ctx.job_id} but named no ref_id")
    _take_excludes(ctx, answer.get("excludes", []))
    manifest = fetch_manifest(cell, ctx.owner, offer_id, ctx.limits, idle_timeout=ctx.idle_timeout, abort=ctx.abort)
    for entry in manifest:
        if entry.path.partition("/")[0] not in (LOCAL, ctx.job_id):
            raise BundleError(f"{entry.path!r} is refused: a workspace holds {LOCAL!r} and {ctx.job_id!r} only")
    sender = RemoteSender(
        cell,
        ctx.owner,
        offer_id,
        manifest,
        limits=ctx.limits,
        meter=meter,
        idle_timeout=ctx.idle_timeout,
        abort=ctx.abort,
    )
    ctx.root.mkdir(parents=True, exist_ok=True)
    received = receive_tree(ctx.root, f"down-{ctx.job_id}", manifest, sender, meter=meter)
    sender.confirm()
    log.info("job %s: workspace of %d files is here, %d fetched", ctx.job_id, received.files, received.fetched_files)
    return received


def _take_excludes(ctx: JobContext, patterns: object) -> None:
    """What the owner keeps at home does not travel back either."""
    try:
        assert isinstance(patterns, list)
        ctx.excludes = Excludes(dict.fromkeys([*ctx.excludes.patterns, *patterns]))
    except (AssertionError, ValueError, TypeError) as error:
        raise WorkspaceError(f"{ctx.owner} names excludes that are no patterns: {error}") from None


def _upload(ctx: JobContext, cell: Cell, meter: Meter) -> Received:
    excluded: list[str] = []  # none of it came from the owner, so the job made it
    tree = scan_tree(
        {ctx.job_id: ctx.job_directory.absolute()},
        excludes=ctx.excludes,
        skip_special=ctx.skip_links,
        limits=ctx.limits,
        tick=meter.tick,
        on_excluded=excluded.append,
    )
    if excluded:
        more = f", and {len(excluded) - 5} more" if len(excluded) > 5 else ""
        log.warning("left out of the results, for the excludes say so: %s%s", ", ".join(map(repr, excluded[:5])), more)
    if not len(tree.manifest):
        raise WorkspaceError(f"job {ctx.job_id}: its directory {ctx.job_directory} does not exist, so there are no results")
    offer = Offers.of(cell).add(tree, receivers=[ctx.owner], meter_for=lambda _: meter, idle_timeout=ctx.idle_timeout)
    try:
        answer = ask(
            cell,
            ctx.owner,
            PUBLISH,
            {"job_id": ctx.job_id, "transfer_token": ctx.token, "ref_id": offer.id},
            idle_timeout=ctx.idle_timeout,
            abort=ctx.abort,
            on_pending=lambda payload: meter.tick(),
        )
    finally:
        offer.close()
    log.info("job %s: results of %d files are back", ctx.job_id, tree.manifest.files)
    return _received(ctx, answer)


def _received(ctx: JobContext, answer: dict[str, Any]) -> Received:
    """What the owner says it received."""
    fields = answer.get("received")
    try:
        assert isinstance(fields, dict)
        counts = {name: int(fields[name]) for name in Received.__slots__ if name not in ("digest", "seconds")}
        return Received(digest=Digest.parse(fields["digest"]), seconds=float(fields["seconds"]), **counts)
    except (AssertionError, KeyError, TypeError, ValueError):
        raise WorkspaceError(f"{ctx.owner} took the results of {ctx.job_id}, but its answer cannot be read") from None
