"""What ``zcell send`` has on offer. Invariant: a receiver counts once it has confirmed, and counts once."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zcell.cli.share import CHANNEL, CONFIRM, DIRECTORY, FAILED, FILE, below
from zcell.errors import BundleError

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.download.progress import ProgressEvent
    from zcell.message import Request
    from zcell.workspace.meter import WorkspaceProgress

SPOILED = "it can be served no more: {}; send it again"
PATIENCE = 7 * 24 * 3600.0
"""Seconds without any receiver after which an offer is withdrawn."""

OnProgress = Callable[[str, int, int], None]
"""Called with a receiver, the bytes it has, and the bytes in all."""


class Offer(Protocol):
    """Something that receivers can fetch."""

    kind: str
    ref: str
    """What the user copies."""
    offer_id: str
    """What the transfer itself asks for."""
    size_bytes: int
    attributes: dict[str, int]
    """What a receiver sets on the whole besides its content."""

    def withdraw(self) -> None:
        """End it. Idempotent."""

    def wait(self) -> str:
        """Wait until all receivers have it: ``""``, or why that did not happen."""

    def confirmed(self) -> int:
        """How many receivers have it."""


class FileOffer:
    """One file: one ref of one transaction."""

    kind = FILE

    def __init__(self, cell: Cell, path: Path, receivers: int, progress: OnProgress) -> None:
        def tell(event: ProgressEvent) -> None:
            progress(event.receiver, event.bytes_done, event.bytes_total or 0)

        self._failure = ""
        self._transaction = cell.downloads.transaction(
            receivers=receivers, idle_timeout=PATIENCE, progress=tell, on_source_failed=self._on_source_failed
        )
        found = path.stat()
        self.attributes = {"mode": found.st_mode & 0o777, "mtime_ns": found.st_mtime_ns}
        ref = self._transaction.add_file(path, ref_id=secrets.token_hex(16))  # hexadecimal: never taken for an option
        self.ref = self.offer_id = str(ref.id)
        self.size_bytes: int = ref.size or 0

    def withdraw(self) -> None:
        self._transaction.delete()

    def wait(self) -> str:
        status = self._transaction.wait()
        return "" if status == "FINISHED" else self._failure or f"the transfer ended: {status.value}"

    def confirmed(self) -> int:
        return len({receiver for _, receiver in self._transaction.statistics().confirmed})

    def _on_source_failed(self, ref_id: str, text: str) -> None:
        self._failure = SPOILED.format(text)
        self.withdraw()


class DirectoryOffer:
    """A directory tree: its manifest names what there is, receivers fetch what they lack and say when it is in place."""

    kind = DIRECTORY

    def __init__(
        self, cell: Cell, path: Path, receivers: int, progress: OnProgress, excludes: Sequence[str], skip_links: bool
    ) -> None:
        from zcell.workspace.tree import offer_tree

        def tell(event: WorkspaceProgress) -> None:
            if event.phase == "transferring":
                progress(event.peer, event.bytes_done, event.bytes_total)

        self._tree = offer_tree(cell, path, excludes=below(path.resolve().name, excludes), skip_links=skip_links, progress=tell)
        self.ref = secrets.token_hex(16)
        self.offer_id = self._tree.id
        self.size_bytes = sum(entry.data_bytes for entry in self._tree.tree.manifest)
        self.attributes: dict[str, int] = {}  # the manifest has them
        self._expected = receivers
        self._have: set[str] = set()
        self._withdrawn = False
        self._failure = ""
        self._changed = threading.Condition()
        cell.register(CHANNEL, CONFIRM, self._on_confirm)
        cell.register(CHANNEL, FAILED, self._on_failed)

    def withdraw(self) -> None:
        self._tree.close()
        with self._changed:
            self._withdrawn = True
            self._changed.notify_all()

    def wait(self) -> str:
        with self._changed:
            ended = self._changed.wait_for(lambda: self._withdrawn or len(self._have) >= self._expected, PATIENCE)
            done = len(self._have) >= self._expected
        self.withdraw()
        if done:
            return ""
        return self._failure or ("it was withdrawn" if ended else "nobody came for it")

    def confirmed(self) -> int:
        return len(self._have)

    def _on_confirm(self, request: Request) -> bool:
        """A receiver has the whole tree, verified and in place. Saying so twice is no harm."""
        known = bool(request.payload == {"ref": self.ref, "digest": str(self._tree.tree.manifest.digest)})
        if known:
            with self._changed:
                self._have.add(request.origin)
                self._changed.notify_all()
        return known

    def _on_failed(self, request: Request) -> str:
        """A receiver has failed. It is answered, and the offer ends, when that will be so for everybody: why, else ``""``."""
        fault = self._fault() if request.payload == self.ref else ""
        if fault:
            self._failure = SPOILED.format(fault)
            self.withdraw()
        return fault

    def _fault(self) -> str:
        """What of the tree is not as it was when it was listed."""
        tree = self._tree.tree
        try:
            with tree.descent() as descent:
                for index, entry in enumerate(tree.manifest):
                    if not entry.is_dir:
                        os.close(tree.open_in(descent, index))
        except (BundleError, OSError) as error:
            return str(error)
        return ""
