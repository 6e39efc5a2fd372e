"""The root of the tree: offers files and workspaces, answers questions, counts events. ``server URL``."""

from __future__ import annotations

import sys
import threading
from typing import Any

from bench.answering import serve
from bench.cells import SECRET
from zcell import Cell
from zcell.download import Transaction
from zcell.message import Request
from zcell.workspace import WorkspaceManager


class Server:
    """What a benchmark may tell it to do."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._offered: dict[str, Transaction] = {}
        self._counted = 0
        self._never = threading.Event()
        cell.register("echo", "t", lambda request: request.payload)
        cell.register("sleep", "t", self._sleep)
        cell.register("events", "t", self._count)
        cell.register("events", "counted", lambda request: self._counted)

    def _count(self, request: Request) -> None:
        self._counted += 1

    def _sleep(self, request: Request) -> None:
        self._never.wait(request.payload)

    def offer(self, path: str, ref_id: str | None = None) -> str:
        """A new ref for the file."""
        transaction = self._cell.downloads.transaction(idle_timeout=3600)
        ref = transaction.add_file(path, ref_id=ref_id)
        self._offered[ref.id] = transaction
        return str(ref.id)

    def chunks_loaded(self, ref_id: str) -> int:
        """How many chunks were read for all receivers of a ref together."""
        return self._offered[ref_id].statistics().chunks_loaded

    def forget(self, ref_id: str) -> None:
        self._offered.pop(ref_id).delete()

    def frames_sent(self) -> int:
        return self._cell.statistics().data_frames_sent

    def add_job(self, job_id: str, directory: str, results: str) -> str:
        """The token of a job whose directory, and whose results, are these."""
        manager = WorkspaceManager.of(self._cell)
        return manager.add_job(job_id, None, job_directory=directory, results=results)

    def remove_job(self, job_id: str) -> bool:
        return WorkspaceManager.of(self._cell).remove_job(job_id)


def main() -> None:
    with Cell("server", listen=[sys.argv[1]], secret=SECRET) as cell:
        server = Server(cell)
        _ = cell.downloads, WorkspaceManager.of(cell)
        names = ("offer", "chunks_loaded", "forget", "frames_sent", "add_job", "remove_job")
        commands: dict[str, Any] = {name: getattr(server, name) for name in names}
        serve(cell.endpoints[0], commands)


if __name__ == "__main__":
    main()
