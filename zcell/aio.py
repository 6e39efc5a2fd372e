"""`zcell.aio.Cell`: the cell for asyncio. Invariant: one implementation; awaiting here and waiting in `zcell.Cell` are the same call."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from zcell.abort import Abort
from zcell.cell.cell import Cell as SyncCell
from zcell.cell.statistics import CellStatistics
from zcell.message import Reply, Request, ReturnCode

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Request], Any])


class Cell:
    """A `zcell.Cell` whose waits are awaited. Takes the same arguments; handlers may be coroutine functions.

    Cancelling an awaited request ends it. `sync` is the cell underneath, for everything that does not wait.
    """

    def __init__(self, fqcn: str, **options: Any) -> None:
        self.sync = SyncCell(fqcn, **options)

    @property
    def fqcn(self) -> str:
        return self.sync.fqcn

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self.sync.endpoints

    @property
    def is_ready(self) -> bool:
        return self.sync.is_ready

    @property
    def downloads(self) -> Any:
        """The cell's downloads, awaited: `zcell.download.awaiting.AwaitableDownloads`."""
        # by name, as in zcell.Cell: the room above is loaded only where it is used
        return importlib.import_module("zcell.download.awaiting").AwaitableDownloads(self.sync.downloads)

    def is_connected(self, fqcn: str) -> bool:
        return self.sync.is_connected(fqcn)

    def statistics(self) -> CellStatistics:
        return self.sync.statistics()

    async def start(self) -> Cell:
        """As `zcell.Cell.start`."""
        self.sync.start()
        return self

    async def stop(self, timeout: float = 5.0) -> None:
        """As `zcell.Cell.stop`, without blocking the event loop."""
        await _in_thread(self.sync.stop, timeout)

    async def __aenter__(self) -> Cell:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def wait_ready(self, timeout: float = 30.0) -> None:
        """As `zcell.Cell.wait_ready`."""
        abort = Abort()
        try:
            await _in_thread(self.sync.wait_ready, timeout, abort)
        finally:
            abort.trigger("the wait was cancelled")

    def register(
        self, channel: str, topic: str, fn: Callable[[Request], Any], *, allow: str | Iterable[str] = "family"
    ) -> None:
        """As `zcell.Cell.register`; a coroutine function runs on the event loop that runs now."""
        if inspect.iscoroutinefunction(fn):
            loop = asyncio.get_running_loop()

            @functools.wraps(fn)
            def run(request: Request) -> Future[Any]:
                return asyncio.run_coroutine_threadsafe(fn(request), loop)

            self.sync.register(channel, topic, run, allow=allow)
        else:
            self.sync.register(channel, topic, fn, allow=allow)

    def unregister(self, channel: str, topic: str) -> bool:
        return self.sync.unregister(channel, topic)

    def handler(self, channel: str, topic: str, *, allow: str | Iterable[str] = "family") -> Callable[[F], F]:
        """`register` as a decorator."""

        def decorate(fn: F) -> F:
            self.register(channel, topic, fn, allow=allow)
            return fn

        return decorate

    async def request(
        self,
        target: str,
        channel: str,
        topic: str,
        payload: Any = None,
        *,
        timeout: float,
        headers: dict[str, Any] | None = None,
        optional: bool = False,
        secure: bool = False,
        abort: Abort | None = None,
    ) -> Reply:
        """As `zcell.Cell.request`."""
        future = self.sync.request_future(
            target,
            channel,
            topic,
            payload,
            timeout=timeout,
            headers=headers,
            optional=optional,
            secure=secure,
            abort=abort,
        )
        return await asyncio.wrap_future(future)

    async def broadcast(
        self, targets: Iterable[str], channel: str, topic: str, payload: Any = None, *, timeout: float, **options: Any
    ) -> dict[str, Reply]:
        """As `zcell.Cell.broadcast`."""
        names = list(dict.fromkeys(targets))
        replies = await asyncio.gather(*(self.request(t, channel, topic, payload, timeout=timeout, **options) for t in names))
        return dict(zip(names, replies, strict=True))

    async def send(
        self,
        targets: str | Iterable[str],
        channel: str,
        topic: str,
        payload: Any = None,
        *,
        timeout: float = 5.0,
        **options: Any,
    ) -> dict[str, ReturnCode]:
        """As `zcell.Cell.send`: at once when there is space, else waiting for it beside the event loop."""
        names = [targets] if isinstance(targets, str) else list(dict.fromkeys(targets))
        outcome = self.sync.send(names, channel, topic, payload, timeout=0, optional=True, **options)
        full = [t for t, rc in outcome.items() if rc is ReturnCode.COMM_ERROR] if timeout > 0 else []
        if full:
            outcome |= await _in_thread(
                functools.partial(self.sync.send, full, channel, topic, payload, timeout=timeout, **options)
            )
        return outcome


async def _in_thread(fn: Callable[..., T], *args: Any) -> T:
    return await asyncio.to_thread(fn, *args)
