"""Where the nodes of a cell's jobs report. Invariant: a node is heard for its own job only, and for nothing once that has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zcell.launch.remote.messages import CHANNEL, ENDED, HELLO, OUTPUT, RENEW, Greeting, LastWords, OutputBatch, renewal
from zcell.message import Reply, Request, ReturnCode, make_reply

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.launch.remote.handle import RemoteHandle


class Desk:
    """One per cell. Finds the handle of a node by the authenticated name that the node speaks under."""

    def __init__(self, cell: Cell) -> None:
        self._lock = threading.Lock()
        self._handles: dict[str, RemoteHandle] = {}
        for topic, answer in ((HELLO, self._hello), (RENEW, self._renew), (OUTPUT, self._output), (ENDED, self._ended)):
            cell.register(CHANNEL, topic, _checked(answer))

    @classmethod
    def of(cls, cell: Cell) -> Desk:
        """The desk of `cell`."""
        return cell.extension("zcell.launch.desk", cls)

    def expect(self, node: str, handle: RemoteHandle) -> None:
        """Listen to the node called `node`. Raises `ValueError` when a job of that name is still running."""
        with self._lock:
            if node in self._handles:
                raise ValueError(f"a job {handle.job_id!r} of this parent is still running; give the new one another job_id")
            self._handles[node] = handle

    def expects(self, node: str) -> bool:
        """Whether the job of `node` is still running."""
        with self._lock:
            return node in self._handles

    def forget(self, node: str, handle: RemoteHandle) -> None:
        """Hear `node` no more for `handle`. Idempotent."""
        with self._lock:
            if self._handles.get(node) is handle:
                del self._handles[node]

    def _handle(self, request: Request) -> RemoteHandle | None:
        with self._lock:
            return self._handles.get(request.origin)

    def _hello(self, request: Request) -> Any:
        greeting = Greeting.decode(request.payload)
        handle = self._handle(request)
        if handle is None:
            return _unknown(request)
        refused = handle.node_greets(greeting)
        return make_reply(ReturnCode.INVALID_SESSION, error=refused) if refused else handle.work.encode()

    def _renew(self, request: Request) -> Any:
        instance, phase = renewal(request.payload)
        handle = self._handle(request)
        if handle is None or not handle.node_lives(instance, phase):
            return _unknown(request)
        return {"grace": handle.ordered_grace()}

    def _output(self, request: Request) -> Any:
        batch = OutputBatch.decode(request.payload)
        handle = self._handle(request)
        if handle is None or not handle.node_writes(batch):
            return _unknown(request)
        return None

    def _ended(self, request: Request) -> Any:
        words = LastWords.decode(request.payload)
        handle = self._handle(request)
        if handle is None or not handle.node_ends(words):
            return _unknown(request)
        return None


def _unknown(request: Request) -> Reply:
    return make_reply(ReturnCode.INVALID_TARGET, error=f"no job of {request.origin} runs here")


def _checked(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    def checked(request: Request) -> Any:
        try:
            return answer(request)
        except ValueError as error:
            return make_reply(ReturnCode.INVALID_REQUEST, error=str(error))

    return checked
