"""The sending side. Invariant: an offer is known only to who has its id, and ends with everything it offers.

An offer is a listed tree. Its manifest is one ref, whose id is the offer's. A receiver fetches that, digests what it holds and asks
for a selection (topic ``select_entries``); the answer names one transaction: a stream with the ZIP of the small files it lacks,
and a ref for each large one. Asking again with the same id gets the same selection, another id replaces it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zcell.cell.pool import WorkerPool
from zcell.download.progress import ProgressEvent, ProgressState
from zcell.errors import BundleError, DownloadError
from zcell.limits import MIB
from zcell.message import Reply, Request, ReturnCode, make_reply
from zcell.workspace.asking import CHANNEL, DELIVERED, SELECT, patient_answer
from zcell.workspace.meter import Meter
from zcell.workspace.plan import is_small, pack_indices, parse_have, same_entries, travels
from zcell.workspace.scan import ScannedTree
from zcell.workspace.sources import ScannedSource
from zcell.workspace.zipstream import ZipEntry, zip_stream

if TYPE_CHECKING:
    from zcell.cell.cell import Cell
    from zcell.download.ref import Ref
    from zcell.download.transaction import Transaction

log = logging.getLogger("zcell.workspace")

WORKERS = 8
"""Threads of one cell for workspaces. One kind of work (listing, digesting, receiving results) takes three quarters at most."""
_SPOOL_BYTES = 64 * MIB
_FOREVER = 10.0 * 365 * 86400
_MAX_SELECTIONS = 1024
_CLOSE_SECONDS = 3.0


@dataclass(slots=True)
class _Selection:
    """What one receiver asked for last."""

    id: str
    work: Future[Reply] = field(default_factory=Future)
    transaction: Transaction | None = None
    replaced: bool = False


class TreeOffer:
    """A listed tree on offer. `receivers`: the cells that may take it, None: who knows the id."""

    def __init__(
        self,
        offers: Offers,
        tree: ScannedTree,
        receivers: Iterable[str] | None,
        meter_for: Callable[[str], Meter],
        idle_timeout: float,
    ) -> None:
        self.tree = tree
        self._meter_for = meter_for
        self._meters: dict[str, Meter] = {}
        self._delivered: set[str] = set()
        self._changed = threading.Condition()
        self._offers = offers
        self._cell = offers.cell
        self._receivers = None if receivers is None else frozenset(receivers)
        self._idle_timeout = idle_timeout
        self._lock = threading.Lock()
        self._selections: dict[str, _Selection] = {}
        self._roots: dict[int, bytes] = {}
        self._closed = False
        self._transaction = self._cell.downloads.transaction(
            receivers=None if self._receivers is None else sorted(self._receivers), idle_timeout=_FOREVER
        )
        # held open, so that who has it may ask for it again: it ends with the offer
        self._transaction.__enter__()
        self.ref: Ref = self._transaction.add_bytes(tree.manifest.packed, name="manifest", digest=tree.manifest.digest)

    @property
    def id(self) -> str:
        """Id of the ref of the manifest, and of the offer."""
        return self.ref.id

    def admits(self, receiver: str) -> bool:
        """Whether `receiver` may know of the offer."""
        return self._receivers is None or receiver in self._receivers

    @property
    def delivered(self) -> frozenset[str]:
        """The receivers that have the whole tree in place, and said so."""
        return frozenset(self._delivered)

    def wait_delivered(self, receivers: int = 1, timeout: float | None = None) -> bool:
        """Wait until that many receivers have it in place, or the offer is closed; whether they have."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._delivered) >= receivers, timeout)
            return len(self._delivered) >= receivers

    def on_delivered(self, receiver: str) -> None:
        """A receiver says that it has everything in place."""
        self._meter(receiver).end("COMPLETED")
        with self._changed:
            self._delivered.add(receiver)
            self._changed.notify_all()

    def _meter(self, receiver: str) -> Meter:
        with self._lock:
            meter = self._meters.get(receiver)
            if meter is None:
                meter = self._meters[receiver] = self._meter_for(receiver)
            return meter

    def close(self) -> None:
        """Withdraw everything. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._lock:
            selections = list(self._selections.values())
            self._selections.clear()
        for selection in selections:
            self._end(selection)
        self._transaction.delete()
        self._offers.forget(self)

    def on_select(self, request: Request) -> Reply | Future[Reply]:
        """The question of a receiver: the same again, or a new one."""
        payload = request.payload
        selection_id = payload.get("selection")
        if not isinstance(selection_id, str) or not 0 < len(selection_id) <= 64:
            return make_reply(ReturnCode.INVALID_REQUEST, error="selection must be an id of 1 to 64 characters")
        old: _Selection | None = None
        meter = self._meter(request.origin)
        with self._lock:
            if self._closed:
                return unknown_offer()
            selection = self._selections.get(request.origin)
            if selection is None and len(self._selections) >= _MAX_SELECTIONS:
                return make_reply(ReturnCode.SERVICE_UNAVAILABLE, error="too many receivers at once")
            if selection is None or selection.id != selection_id:
                old = selection
                selection = self._selections[request.origin] = _Selection(selection_id)
                selection.work = self._offers.pool.submit(
                    self._select, request.origin, selection, payload.get("have"), meter, channel=SELECT
                )
        if old is not None:
            self._end(old)
        return patient_answer(self._cell, request, selection.work, meter)

    # --- on the workspace pool ---------------------------------------------------------------------------------------------

    def _select(self, receiver: str, selection: _Selection, have: object, meter: Meter) -> Reply:
        try:
            return self._answer(receiver, selection, have, meter)
        except BundleError as error:
            return make_reply(ReturnCode.INVALID_REQUEST, error=str(error))
        except (OSError, DownloadError, RuntimeError) as error:
            return make_reply(ReturnCode.COMM_ERROR, error=str(error))

    def _answer(self, receiver: str, selection: _Selection, have: object, meter: Meter) -> Reply:
        manifest = self.tree.manifest
        meter.phase("comparing")
        held = parse_have(have, manifest)
        same = same_entries(self.tree, held, self._roots, meter.tick) if held else set()
        missing = [index for index, entry in enumerate(manifest) if travels(entry) and index not in same]
        small = [index for index in missing if is_small(manifest.entries[index])]
        large = [index for index in missing if not is_small(manifest.entries[index])]
        zip_id, large_ids = "", list[str]()
        if missing:
            watch = _Watch(self.tree, meter, small)
            transaction = self._cell.downloads.transaction(
                receivers=[receiver], idle_timeout=self._idle_timeout, progress=watch.on_progress
            )
            with transaction:
                if small:
                    zip_id = transaction.add_stream(self._zip(small), name="small files", spool_bytes=_SPOOL_BYTES).id
                    watch.zip_id = zip_id
                for index in large:
                    source = ScannedSource(self.tree, index, self._cell.limits.chunk_bytes)
                    ref = transaction.add_source(source)
                    large_ids.append(ref.id)
                    watch.large[ref.id] = index
            with self._lock:
                selection.transaction = transaction
                ended = selection.replaced
            if ended:
                self._end(selection)
            meter.expect(manifest.entries[index] for index in missing)
            meter.phase("transferring")
        return make_reply(ReturnCode.OK, {"state": "ready", "same": pack_indices(same), "small": zip_id, "large": large_ids})

    def _zip(self, indices: list[int]) -> Iterator[bytes]:
        """The archive of the small files. What was listed must be what is sent: a file that changed ends the stream."""
        with self.tree.descent() as descent:

            def entry_of(index: int) -> ZipEntry:
                entry = self.tree.manifest.entries[index]
                # readable for the receiver's user whatever its mode; the manifest has the real one
                return ZipEntry(entry.path, lambda: self.tree.open_in(descent, index), entry.mode | 0o600, entry.mtime_ns)

            yield from zip_stream((entry_of(index) for index in indices), on_resized=_refuse_resized)

    def _end(self, selection: _Selection) -> None:
        with self._lock:
            selection.replaced = True
            transaction, selection.transaction = selection.transaction, None
        if transaction is not None:
            transaction.delete()


def _refuse_resized(name: str, expected: int, found: int) -> None:
    raise BundleError(
        f"{name!r} changed while it was sent: {expected} bytes, then {found}; try again when nothing writes to it"
    )


@dataclass(slots=True)
class _Watch:
    """Turns what a receiver reports about refs into progress of the tree."""

    tree: ScannedTree
    meter: Meter
    small: list[int]
    zip_id: str = ""
    large: dict[str, int] = field(default_factory=dict)

    def on_progress(self, event: ProgressEvent) -> None:
        done = event.state is ProgressState.COMPLETED
        entries = self.tree.manifest.entries
        if event.ref_id == self.zip_id:
            if done:
                for index in self.small:
                    self.meter.item_done(entries[index])
                self.meter.partial("", 0)
            else:  # of the archive; close enough until it is complete
                self.meter.partial("", min(event.bytes_done, sum(entries[index].size for index in self.small)))
        elif (index := self.large.get(event.ref_id, -1)) >= 0:
            if done:
                self.meter.item_done(entries[index])
            else:
                self.meter.partial(entries[index].path, event.bytes_done)


class Offers:
    """The offers of one cell, and the threads that list, digest and unpack for its workspaces."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        assert cell.downloads is not None  # made before this, so that it ends after this
        self.pool = WorkerPool(f"{cell.fqcn}-workspace", WORKERS)
        self._lock = threading.Lock()
        self._offers: dict[str, TreeOffer] = {}
        cell.register(CHANNEL, SELECT, self._on_select, allow="any")
        cell.register(CHANNEL, DELIVERED, self._on_delivered, allow="any")

    @classmethod
    def of(cls, cell: Cell) -> Offers:
        """The offers of `cell`."""
        return cell.extension("workspace.offers", cls)

    def add(
        self,
        tree: ScannedTree,
        *,
        receivers: Iterable[str] | None = None,
        meter_for: Callable[[str], Meter] = lambda receiver: Meter(),
        idle_timeout: float = 60.0,
    ) -> TreeOffer:
        """Offer a tree until the offer is closed. ``meter_for(receiver)`` counts what goes to that receiver."""
        offer = TreeOffer(self, tree, receivers, meter_for, idle_timeout)
        with self._lock:
            self._offers[offer.id] = offer
        return offer

    def forget(self, offer: TreeOffer) -> None:
        """It was closed."""
        with self._lock:
            self._offers.pop(offer.id, None)

    def shutdown(self) -> None:
        """Withdraw all offers; the threads end."""
        with self._lock:
            offers = list(self._offers.values())
        for offer in offers:
            offer.close()
        self.cell.unregister(CHANNEL, SELECT)
        self.cell.unregister(CHANNEL, DELIVERED)
        busy = self.pool.close(_CLOSE_SECONDS)
        if busy:
            log.warning("cell %s: these threads still work on workspaces: %s", self.cell.fqcn, ", ".join(busy))

    def _on_select(self, request: Request) -> Any:
        offer = self._find(request)
        return offer if isinstance(offer, Reply) else offer.on_select(request)

    def _on_delivered(self, request: Request) -> Any:
        offer = self._find(request)
        if isinstance(offer, Reply):
            return offer
        offer.on_delivered(request.origin)
        return make_reply(ReturnCode.OK)

    def _find(self, request: Request) -> TreeOffer | Reply:
        payload = request.payload
        if not isinstance(payload, dict) or not isinstance(payload.get("offer"), str):
            return make_reply(ReturnCode.INVALID_REQUEST, error="expected a dict that names an offer")
        with self._lock:
            offer = self._offers.get(payload["offer"])
        if offer is None or not offer.admits(request.origin):
            return unknown_offer()
        return offer


def unknown_offer() -> Reply:
    """The same answer for an offer that ended, never was, or is for somebody else."""
    return make_reply(ReturnCode.INVALID_TARGET, error="no such offer; it may have ended")
