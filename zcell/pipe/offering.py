"""What one message sends by reference. Invariant owned here: all of it is one transaction, withdrawn when the message is not sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zcell.cell.cell import Cell
from zcell.codec import RefTarget
from zcell.download.sources import PiecesSource
from zcell.errors import CodecError
from zcell.pipe.message import OfferWatch


class Offering:
    """`receivers`: names of the cells that will fetch, or how many; `ttl`: seconds without activity that end it."""

    def __init__(self, cell: Cell, receivers: Sequence[str] | int, ttl: float, watch: OfferWatch | None) -> None:
        self._cell = cell
        self._receivers = receivers
        self._ttl = ttl
        self._watch = watch
        self._transaction: Any = None
        self._refs: list[str] = []

    def add(self, view: memoryview) -> RefTarget:
        """Offer one buffer, uncopied."""
        return self._added(self._open().add_bytes(view), view.nbytes)

    def add_pieces(self, views: Sequence[memoryview]) -> RefTarget:
        """Offer several buffers as one, uncopied; `piece_offsets` says where each is in it."""
        ref = self._open().add_source(PiecesSource(views, self._cell.limits.chunk_bytes))
        return self._added(ref, ref.size)

    def add_file(self, path: Path) -> RefTarget:
        """Offer one file, read from disk as it is fetched. Raises `CodecError` when it cannot be opened."""
        try:
            ref = self._open().add_file(path)
        except (OSError, ValueError) as e:
            raise CodecError(f"the file {path} cannot be offered: {e}") from None
        return self._added(ref, ref.size)

    def _open(self) -> Any:
        if self._transaction is None:
            self._transaction = self._cell.downloads.transaction(
                receivers=self._receivers, idle_timeout=self._ttl, on_done=self._done, progress=self._progress
            )
        return self._transaction

    def _added(self, ref: Any, size: int) -> RefTarget:
        self._refs.append(ref.id)
        return RefTarget((self._cell.fqcn, ref.id, size))

    def announce(self) -> None:
        """Tell the watch what is on offer; called before anybody else can know of it."""
        if self._transaction is not None and self._watch is not None:
            receivers = self._receivers if isinstance(self._receivers, int) else list(self._receivers)
            self._watch.offered(self._transaction.id, list(self._refs), receivers, self.withdraw)

    def withdraw(self) -> None:
        """Nobody is to fetch any more. Idempotent."""
        if self._transaction is not None:
            self._transaction.delete()

    def _progress(self, event: Any) -> None:
        if self._watch is not None:
            state = str(event.state.value)
            self._watch.progress(self._transaction.id, event.ref_id, event.receiver, event.bytes_done, state)

    def _done(self, tx_id: str, status: Any, objects: list[Any]) -> None:
        if self._watch is not None:
            self._watch.done(tx_id, str(status.value))
