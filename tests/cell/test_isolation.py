"""Slow handlers delay nobody else: not other channels, not routing, not the links."""

from __future__ import annotations

import statistics
import threading
import time

from tests.trees import TreeFactory
from zcell.limits import Limits
from zcell.message import Request


def test_a_handler_that_takes_a_second_delays_no_other_channel(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    entered, never_set = threading.Event(), threading.Event()

    def slow(_: Request) -> str:
        entered.set()
        never_set.wait(1.0)
        return "slow"

    cells["server"].register("slow", "t", slow)
    cells["server"].register("fast", "t", lambda r: r.payload)
    assert cells["site-1"].request("server", "fast", "t", timeout=5).ok
    future = cells["site-1"].request_future("server", "slow", "t", timeout=10)
    assert entered.wait(5)
    waits = []
    for number in range(20):
        began = time.monotonic()
        assert cells["site-1"].request("server", "fast", "t", number, timeout=5).payload == number
        waits.append(time.monotonic() - began)
    assert not future.done()
    assert statistics.median(waits) < 0.05, waits
    assert future.result(5).payload == "slow"


def test_slow_events_of_one_channel_delay_no_other_channel(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    release, entered, fast = threading.Event(), threading.Event(), threading.Event()

    def slow(_: Request) -> None:
        entered.set()
        release.wait(20)

    cells["server"].register("slow", "t", slow)
    cells["server"].register("fast", "t", lambda _: fast.set())
    for _ in range(100):
        cells["site-1"].send("server", "slow", "t")
    assert entered.wait(5)
    began = time.monotonic()
    cells["site-1"].send("server", "fast", "t")
    assert fast.wait(5)
    assert time.monotonic() - began < 0.5
    release.set()


def test_a_blocked_pool_delays_neither_routing_nor_links(tree: TreeFactory) -> None:
    """A pool whose every thread hangs must not take the tree with it."""
    cells = tree()
    cells.add("server", limits=Limits(handler_threads=2, heartbeat_interval=0.1, link_timeout=1.0))
    for name in ("site-1", "site-2"):
        cells.add(name)
    release, entered = threading.Event(), threading.Semaphore(0)

    def block(_: Request) -> None:
        entered.release()
        release.wait(30)

    for channel in ("a", "b", "c"):
        cells["server"].register(channel, "t", block)
    cells["site-2"].register("echo", "t", lambda r: r.payload, allow="any")
    stuck = [cells["site-1"].request_future("server", channel, "t", timeout=30) for channel in "abcabc"]
    for _ in range(2):
        assert entered.acquire(timeout=5)
    for number in range(10):
        assert cells["site-1"].request("site-2", "echo", "t", number, timeout=5).payload == number
    assert cells["server"].request("site-2", "echo", "t", "from the blocked one", timeout=5).ok
    assert cells["site-1"].is_ready
    assert cells["server"].statistics().links == ("site-1", "site-2")
    release.set()
    assert all(f.result(10).ok for f in stuck)


def test_a_slow_cell_delays_no_sibling(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=Limits(link_work_bytes=65536, link_queue_bytes=65536))
    release = threading.Event()
    cells["site-1"].register("c", "t", lambda _: release.wait(30))
    cells["site-2"].register("c", "t", lambda r: len(r.payload))
    data = bytes(16 * 1024)
    while cells["server"].send("site-1", "c", "t", data, timeout=0.02)["site-1"] == "OK":
        pass
    began = time.monotonic()
    for _ in range(20):
        assert cells["server"].request("site-2", "c", "t", data, timeout=5).payload == len(data)
    assert time.monotonic() - began < 3
    release.set()


def test_a_caller_may_block_in_a_filter_without_stopping_others(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    release, entered = threading.Event(), threading.Event()

    def wait(message: object) -> None:
        entered.set()
        release.wait(20)

    cells["server"].add_filter("incoming", "request", "blocked", "*", wait)
    cells["server"].register("*", "t", lambda r: r.payload)
    future = cells["site-1"].request_future("server", "blocked", "t", 1, timeout=20)
    assert entered.wait(5)
    assert cells["site-1"].request("server", "free", "t", 2, timeout=5).payload == 2
    release.set()
    assert future.result(5).payload == 1
