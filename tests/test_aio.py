"""The asyncio mirror: the same outcomes as the cell underneath, awaited; cancelling ends what was asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.trees import SECRET
from zcell import aio
from zcell.abort import Abort
from zcell.errors import CellClosedError, LinkError, LinkRefusedError
from zcell.limits import KIB, Limits
from zcell.message import Reply, Request, ReturnCode, make_reply


class Pair:
    """A server and a site of the asyncio kind."""

    def __init__(self, server: aio.Cell, site: aio.Cell) -> None:
        self.server = server
        self.site = site


Scenario = Callable[[Pair], Awaitable[None]]


@asynccontextmanager
async def linked(transport: str, directory: Path, limits: Limits | None = None) -> AsyncIterator[Pair]:
    listen = {"tcp": "tcp://127.0.0.1:0", "ipc": f"ipc://{directory}/a", "inproc": "inproc://a"}[transport]
    context: zmq.Context[Any] = zmq.Context()
    options: dict[str, Any] = {"secret": SECRET, "context": context, "limits": limits or Limits()}
    try:
        async with (
            aio.Cell("server", listen=[listen], **options) as server,
            aio.Cell("site-1", parent=server.endpoints[0], **options) as site,
        ):
            await site.wait_ready(10)
            yield Pair(server, site)
    finally:
        await asyncio.to_thread(context.term)


@pytest.fixture
def play(transport: str, short_path: Path) -> Callable[..., None]:
    """Runs a scenario on an event loop of its own with a linked pair."""

    def run(scenario: Scenario, limits: Limits | None = None) -> None:
        async def main() -> None:
            async with linked(transport, short_path, limits) as pair:
                await scenario(pair)

        asyncio.run(main())

    return run


async def until(predicate: Callable[[], object], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not predicate():
            await asyncio.sleep(0.002)


def test_plain_and_coroutine_handlers_answer(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        loop_thread = threading.get_ident()

        @pair.server.handler("c", "coroutine")
        async def coroutine(request: Request) -> Any:
            await asyncio.sleep(0)
            return [request.payload, threading.get_ident() == loop_thread]

        pair.server.register("c", "plain", lambda r: [r.payload, threading.get_ident() == loop_thread])
        assert (await pair.site.request("server", "c", "coroutine", 1, timeout=5)).payload == [1, True]
        assert (await pair.site.request("server", "c", "plain", 2, timeout=5)).payload == [2, False]

    play(scenario)


def test_a_coroutine_handler_may_return_a_reply_or_raise(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        async def refuse(_: Request) -> Reply:
            return make_reply(ReturnCode.INVALID_SESSION, error="too late")

        async def fail(_: Request) -> None:
            raise KeyError("nothing there")

        pair.server.register("c", "refuse", refuse)
        pair.server.register("c", "fail", fail)
        reply = await pair.site.request("server", "c", "refuse", timeout=5)
        assert (reply.rc, reply.error) == (ReturnCode.INVALID_SESSION, "too late")
        reply = await pair.site.request("server", "c", "fail", timeout=5)
        assert reply.rc is ReturnCode.PROCESS_EXCEPTION
        assert "KeyError" in reply.error
        assert "nothing there" in reply.error
        assert "Traceback" not in reply.error

    play(scenario)


def test_many_waits_need_no_threads(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        gate = asyncio.Event()
        waiting = 0

        async def wait(request: Request) -> Any:
            nonlocal waiting
            waiting += 1
            await gate.wait()
            return request.payload

        pair.server.register("c", "t", wait)
        tasks = [asyncio.create_task(pair.site.request("server", "c", "t", n, timeout=20)) for n in range(300)]
        await until(lambda: waiting == 300, 10)
        assert threading.active_count() < 60
        gate.set()
        assert [(await t).payload for t in tasks] == list(range(300))

    play(scenario)


def test_cancelling_a_request_ends_it_and_is_counted_as_late(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        entered, release = threading.Event(), threading.Event()

        def block(_: Request) -> None:
            entered.set()
            release.wait(20)

        pair.server.register("c", "t", block)
        task = asyncio.create_task(pair.site.request("server", "c", "t", timeout=30))
        await until(entered.is_set)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 0.1
        await until(lambda: pair.site.statistics().pending_requests == 0)
        release.set()
        await until(lambda: pair.site.statistics().late_replies == 1)
        assert (await pair.site.request("server", "zcell", "ping", timeout=5)).ok

    play(scenario)


def test_a_surrounding_timeout_cancels_too(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        gate = asyncio.Event()

        async def wait(_: Request) -> None:
            await gate.wait()

        pair.server.register("c", "t", wait)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pair.site.request("server", "c", "t", timeout=30)
        await until(lambda: pair.site.statistics().pending_requests == 0)
        gate.set()

    play(scenario)


def test_outcomes_are_those_of_the_cell_underneath(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        gate = asyncio.Event()

        async def wait(_: Request) -> None:
            await gate.wait()

        pair.server.register("c", "t", wait)
        assert (await pair.site.request("server", "c", "t", timeout=0.1)).rc is ReturnCode.TIMEOUT
        assert (await pair.site.request("nobody", "c", "t", timeout=5)).rc is ReturnCode.TARGET_UNREACHABLE
        assert (await pair.site.request("a b", "c", "t", timeout=5)).rc is ReturnCode.INVALID_TARGET
        abort = Abort()
        task = asyncio.create_task(pair.site.request("server", "c", "t", timeout=30, abort=abort))
        await until(lambda: pair.site.statistics().pending_requests)
        abort.trigger("enough")
        reply = await asyncio.wait_for(task, 1)
        assert (reply.rc, reply.error) == (ReturnCode.ABORTED, "enough")
        gate.set()
        with pytest.raises(ValueError, match="timeout"):
            await pair.site.request("server", "c", "t", timeout=0)
        with pytest.raises(TypeError, match="channel"):
            await pair.site.request("server", None, "t", timeout=1)  # type: ignore[arg-type]

    play(scenario)


def test_broadcast_and_send(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        got: list[Any] = []
        pair.site.register("c", "t", lambda r: got.append(r.payload))
        replies = await pair.server.broadcast(["site-1", "nobody", "server"], "c", "t", 1, timeout=5)
        assert {n: r.rc for n, r in replies.items()} == {
            "site-1": ReturnCode.OK,
            "nobody": ReturnCode.TARGET_UNREACHABLE,
            "server": ReturnCode.INVALID_REQUEST,
        }
        outcome = await pair.server.send(["site-1", "nobody"], "c", "t", 2)
        assert outcome == {"site-1": ReturnCode.OK, "nobody": ReturnCode.TARGET_UNREACHABLE}
        assert await pair.server.send("site-1", "c", "t", 3) == {"site-1": ReturnCode.OK}
        await until(lambda: got == [1, 2, 3])

    play(scenario)


def test_events_reach_coroutine_handlers_in_order(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        got: list[int] = []

        async def handle(request: Request) -> None:
            got.append(request.payload)

        pair.server.register("c", "t", handle)
        for number in range(200):
            await pair.site.send("server", "c", "t", number)
        await until(lambda: len(got) == 200, 10)
        assert got == list(range(200))

    play(scenario)


def test_an_event_that_fails_in_a_coroutine_is_logged(play: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(pair: Pair) -> None:
        async def fail(_: Request) -> None:
            raise RuntimeError("nobody waits for this")

        pair.server.register("c", "t", fail)
        await pair.site.send("server", "c", "t")
        await until(lambda: "RuntimeError" in caplog.text)

    play(scenario)


def test_a_full_queue_does_not_block_the_event_loop(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        release = threading.Event()
        pair.server.register("c", "t", lambda _: release.wait(20))
        data = bytes(16 * KIB)
        while (await pair.site.send("server", "c", "t", data, timeout=0.02))["server"] is ReturnCode.OK:
            pass
        task = asyncio.create_task(pair.site.send("server", "c", "t", data, timeout=10))
        ticks = 0
        began = time.monotonic()
        while time.monotonic() - began < 0.1:
            await asyncio.sleep(0.001)
            ticks += 1
        assert ticks > 20
        assert not task.done()
        release.set()
        assert (await task)["server"] is ReturnCode.OK

    play(scenario, Limits(link_work_bytes=64 * KIB, link_queue_bytes=64 * KIB))


def test_waiting_for_a_link_does_not_block_the_event_loop() -> None:
    async def main() -> None:
        async with aio.Cell("site-1", parent="tcp://127.0.0.1:9", secret=SECRET) as cell:
            task = asyncio.create_task(cell.wait_ready(0.3))
            ticks = 0
            while not task.done():
                await asyncio.sleep(0.005)
                ticks += 1
            assert ticks > 10
            with pytest.raises(LinkError, match=r"tcp://127\.0\.0\.1:9"):
                await task

    asyncio.run(main())


def test_refusals_and_closed_cells_raise_the_same_errors() -> None:
    async def main() -> None:
        cell = aio.Cell("server", listen=["tcp://127.0.0.1:0"], secret=SECRET)
        with pytest.raises(CellClosedError):
            await cell.request("server", "c", "t", timeout=1)
        async with cell, aio.Cell("site-1", parent=cell.endpoints[0], secret=b"another secret of 32 bytes here!") as site:
            with pytest.raises(LinkRefusedError, match="secret"):
                await site.wait_ready(10)
        with pytest.raises(CellClosedError):
            await cell.request("server", "c", "t", timeout=1)

    asyncio.run(main())


def test_stopping_ends_awaited_requests(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        gate = asyncio.Event()
        entered = asyncio.Event()

        async def wait(_: Request) -> None:
            entered.set()
            await gate.wait()

        pair.server.register("c", "t", wait)
        task = asyncio.create_task(pair.site.request("server", "c", "t", timeout=60))
        await asyncio.wait_for(entered.wait(), 5)
        await pair.site.stop()
        assert (await asyncio.wait_for(task, 5)).rc is ReturnCode.ABORTED
        gate.set()

    play(scenario)


def test_the_event_loop_may_end_before_its_handlers(play: Callable[..., None]) -> None:
    """A coroutine handler whose loop is gone gives an error to the caller, not a hang."""

    async def scenario(pair: Pair) -> None:
        async def never(_: Request) -> None:
            await asyncio.Event().wait()

        pair.server.register("c", "t", never)
        task = asyncio.create_task(pair.site.request("server", "c", "t", timeout=60))
        await until(lambda: pair.site.statistics().pending_requests)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(scenario)


def test_a_cancelled_coroutine_handler_answers_aborted(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        handlers: list[asyncio.Task[Any]] = []

        async def wait(_: Request) -> None:
            task = asyncio.current_task()
            assert task is not None
            handlers.append(task)
            await asyncio.Event().wait()

        pair.server.register("c", "t", wait)
        request = asyncio.create_task(pair.site.request("server", "c", "t", timeout=20))
        await until(lambda: handlers)
        handlers[0].cancel()
        assert (await asyncio.wait_for(request, 5)).rc in (ReturnCode.ABORTED, ReturnCode.PROCESS_EXCEPTION)

    play(scenario)


def test_names_and_state_are_mirrored(play: Callable[..., None]) -> None:
    async def scenario(pair: Pair) -> None:
        assert pair.site.fqcn == "site-1"
        assert pair.site.is_ready
        assert pair.server.is_connected("site-1")
        assert pair.server.statistics().links == ("site-1",)
        assert pair.server.endpoints == pair.server.sync.endpoints
        pair.server.register("c", "t", lambda _: 1)
        assert pair.server.unregister("c", "t")
        assert not pair.server.unregister("c", "t")

    play(scenario)
