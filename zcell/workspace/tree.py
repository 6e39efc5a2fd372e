"""Plain directory trees between two cells, as ``zcell send DIR`` and ``zcell get`` do. Invariant: the directory arrives whole, or
not at all; run again, it continues."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from zcell.abort import Abort
from zcell.errors import BundleError
from zcell.workspace.context import IDLE_TIMEOUT
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.meter import Meter, ProgressCallback
from zcell.workspace.offers import Offers, TreeOffer
from zcell.workspace.patterns import Excludes
from zcell.workspace.receive import Received, receive_tree
from zcell.workspace.remote import RemoteSender, fetch_manifest
from zcell.workspace.scan import scan_tree

if TYPE_CHECKING:
    from zcell.cell.cell import Cell
    from zcell.download.ref import Ref


def offer_tree(
    cell: Cell,
    root: Path | str,
    *,
    receivers: Iterable[str] | None = None,
    excludes: Iterable[str] = (),
    skip_links: bool = False,
    limits: WorkspaceLimits | None = None,
    idle_timeout: float = IDLE_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> TreeOffer:
    """Offer the directory `root` under its own name until the offer is closed; `TreeOffer.id` is what `fetch_tree` needs.

    `receivers`: names of the cells that may have it; None: whoever knows the id. Raises `BundleError` naming the entry that cannot
    travel, `NotADirectoryError`. See `scan_tree` for `skip_links`.
    """
    place = Path(root).resolve()
    if not place.is_dir():
        raise NotADirectoryError(f"{root} is not a directory")
    if not place.name:
        raise BundleError("the root of a file system has no name to travel under")
    tree = scan_tree({place.name: place}, excludes=Excludes(excludes), skip_special=skip_links, limits=limits)
    return Offers.of(cell).add(
        tree,
        receivers=receivers,
        meter_for=lambda receiver: Meter(place.name, "up", receiver, progress),
        idle_timeout=idle_timeout,
    )


def fetch_tree(
    cell: Cell,
    owner: str,
    ref: Ref | str,
    to: Path | str,
    *,
    limits: WorkspaceLimits | None = None,
    idle_timeout: float = IDLE_TIMEOUT,
    progress: ProgressCallback | None = None,
    abort: Abort | None = None,
) -> tuple[Path, Received]:
    """Fetch the directory that `owner` offers as `ref` into the existing directory `to`; where it is now, and what travelled.

    A directory of its name that is there already is brought up to date: only what differs travels, and what the owner does not have
    stays. Raises `DownloadError`, `WorkspaceError`, or `BundleError` when what is offered is refused; run again it continues.
    """
    limits, abort = limits or WorkspaceLimits(), abort or Abort()
    offer_id = ref if isinstance(ref, str) else ref.id
    manifest = fetch_manifest(cell, owner, offer_id, limits, idle_timeout=idle_timeout, abort=abort)
    tops = [entry for entry in manifest if "/" not in entry.path]
    if len(tops) != 1 or not tops[0].is_dir:
        raise BundleError(f"{owner} offers no directory under this ref")
    name = tops[0].path
    meter = Meter(name, "down", owner, progress)
    sender = RemoteSender(cell, owner, offer_id, manifest, limits=limits, meter=meter, idle_timeout=idle_timeout, abort=abort)
    try:
        received = receive_tree(Path(to), f"get-{name}", manifest, sender, meter=meter)
    except BaseException:
        meter.end("ABORTED" if abort.triggered else "FAILED")
        raise
    sender.confirm()
    meter.end("COMPLETED")
    return Path(to) / name, received
