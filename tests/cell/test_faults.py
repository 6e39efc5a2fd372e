"""Faults on the wire between two cells: cut, frozen, slow. Over tcp, through the tests' own proxy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.eventually import eventually
from tests.faults.proxy import Proxy, proxy_to
from tests.trees import Tree, TreeFactory
from zcell.limits import KIB, MIB, Limits
from zcell.message import Request, ReturnCode

QUICK = Limits(heartbeat_interval=0.1, link_timeout=0.5, reconnect_min=0.02, reconnect_max=0.2)


@pytest.fixture
def cells(tcp_tree: TreeFactory) -> Tree:
    return tcp_tree("server", limits=QUICK)


@pytest.fixture
def proxy(cells: Tree) -> Iterator[Proxy]:
    with proxy_to(cells["server"].endpoints[0]) as proxy:
        yield proxy


@pytest.fixture
def linked(cells: Tree, proxy: Proxy) -> Iterator[Tree]:
    """site-1 is linked to the server through the proxy."""
    cells.add("site-1", parent=proxy.url, limits=QUICK)
    cells["server"].register("echo", "t", lambda r: r.payload)
    yield cells
    cells.stop("site-1")


def echoes(cells: Tree) -> bool:
    return cells["site-1"].request("server", "echo", "t", 7, timeout=2).payload is not None


def test_a_cut_link_is_told_with_its_reason_and_comes_back(linked: Tree, proxy: Proxy) -> None:
    events: list[tuple[str, bool, str]] = []
    linked["site-1"].on_link(lambda e: events.append((e.peer, e.up, e.reason)))
    for _ in range(3):
        events.clear()
        proxy.cut()
        eventually(lambda: len(events) >= 2, what=lambda: events)
        assert events[0][:2] == ("server", False)
        assert events[0][2]
        assert events[1][:2] == ("server", True)
        linked["site-1"].wait_ready(5)
        eventually(lambda: echoes(linked))
    assert linked["server"].statistics().links == ("site-1",)


def test_a_half_open_link_is_noticed_by_both_sides(linked: Tree, proxy: Proxy) -> None:
    """No FIN, no RST: only silence tells."""
    downs: dict[str, list[str]] = {"server": [], "site-1": []}
    for name, reasons in downs.items():
        linked[name].on_link(partial(lambda reasons, e: None if e.up else reasons.append(e.reason), reasons))
    began = time.monotonic()
    proxy.freeze()
    eventually(lambda: all(downs.values()), 10, what=lambda: downs)
    assert 0.3 < time.monotonic() - began < 5
    assert not linked["site-1"].is_ready
    assert linked["server"].request("site-1", "zcell", "ping", timeout=5).rc is ReturnCode.TARGET_UNREACHABLE
    proxy.cut()
    proxy.thaw()
    linked["site-1"].wait_ready(10)
    eventually(lambda: echoes(linked))


def test_a_request_in_flight_when_the_link_is_cut_ends_early_with_the_reason(linked: Tree, proxy: Proxy) -> None:
    release, entered = threading.Event(), threading.Event()

    def handle(_: Request) -> None:
        entered.set()
        release.wait(20)

    linked["server"].register("slow", "t", handle)
    future = linked["site-1"].request_future("server", "slow", "t", timeout=30)
    assert entered.wait(5)
    proxy.refuse()
    began = time.monotonic()
    reply = future.result(10)
    assert time.monotonic() - began < 5
    assert reply.rc is ReturnCode.COMM_ERROR
    assert "server" in reply.error
    release.set()
    proxy.accept()
    linked["site-1"].wait_ready(10)
    eventually(lambda: echoes(linked))


def test_a_parent_that_is_away_for_a_while_is_found_again(linked: Tree, proxy: Proxy) -> None:
    proxy.refuse()
    eventually(lambda: not linked["site-1"].is_ready)
    assert linked["site-1"].request("server", "echo", "t", timeout=0.2).rc in (
        ReturnCode.TARGET_UNREACHABLE,
        ReturnCode.COMM_ERROR,
    )
    tries = proxy.accepted
    eventually(lambda: proxy.accepted >= tries + 2, 5, what="it tries again")
    proxy.accept()
    linked["site-1"].wait_ready(10)
    assert echoes(linked)


def test_reconnecting_is_spread_and_bounded(linked: Tree, proxy: Proxy) -> None:
    proxy.refuse()
    began, tries = time.monotonic(), proxy.accepted
    eventually(lambda: time.monotonic() - began > 1.0)
    assert proxy.accepted - tries < 30
    proxy.accept()
    linked["site-1"].wait_ready(10)


def test_a_slow_link_is_alive(cells: Tree, proxy: Proxy) -> None:
    """Big messages must not starve heartbeats, and a round trip longer than the heartbeat is no silence."""
    cells.add("site-1", parent=proxy.url, limits=QUICK)
    cells["server"].register("echo", "t", lambda r: len(r.payload))
    downs: list[object] = []
    cells["site-1"].on_link(downs.append)
    proxy.delay(0.15)
    data = bytes(4 * MIB)
    for _ in range(3):
        assert cells["site-1"].request("server", "echo", "t", data, timeout=20).payload == len(data)
    assert downs == []
    cells.stop("site-1")


def test_a_cut_repeats_nothing_and_holds_up_nothing_that_follows(linked: Tree, proxy: Proxy) -> None:
    """It may lose what was on the wire, and only that: no event comes twice or late, and after the link is back none is lost."""
    seen: list[int] = []
    linked["server"].register("events", "t", lambda r: seen.append(r.payload))
    ups: list[bool] = []
    linked["site-1"].on_link(lambda e: ups.append(e.up))
    for number in range(900):
        if number in (300, 600):
            eventually(lambda: seen and seen[-1] == number - 1)  # noqa: B023
            proxy.cut()
        if number in (350, 650):  # 50 events go into the cut
            eventually(lambda: ups.count(True) == (1 if number < 600 else 2))  # noqa: B023
        linked["site-1"].send("server", "events", "t", number, timeout=10, optional=True)
    eventually(lambda: seen and seen[-1] == 899, 10, what=lambda: seen[-3:])
    assert seen == sorted(set(seen)), "repeated or out of order"
    assert {*range(300), *range(350, 600), *range(650, 900)} <= set(seen), "lost although the link was up"


def test_credit_is_whole_again_after_a_cut(cells: Tree, proxy: Proxy) -> None:
    """Bytes in flight when a link died must not be missing from the next link's credit."""
    limits = Limits(
        heartbeat_interval=0.1,
        link_timeout=0.5,
        reconnect_min=0.02,
        reconnect_max=0.2,
        link_work_bytes=64 * KIB,
        link_queue_bytes=64 * KIB,
    )
    cells.add("site-1", parent=proxy.url, limits=limits)
    count = [0]

    def handle(_: Request) -> None:
        count[0] += 1

    cells["server"].register("events", "t", handle)
    data = bytes(10 * KIB)
    for _ in range(5):
        for _ in range(20):
            cells["site-1"].send("server", "events", "t", data, timeout=5)
        proxy.cut()
        eventually(lambda: cells["site-1"].request("server", "zcell", "ping", timeout=1).ok, 10)
    before = count[0]
    for _ in range(50):
        assert cells["site-1"].send("server", "events", "t", data, timeout=5)["server"] is ReturnCode.OK
    eventually(lambda: count[0] - before >= 50, 10, what=lambda: count[0] - before)
    cells.stop("site-1")


def test_a_link_cut_during_the_handshake_is_tried_again(cells: Tree, proxy: Proxy) -> None:
    proxy.refuse()
    site = cells.start("site-1", parent=proxy.url, limits=QUICK)
    eventually(lambda: proxy.accepted >= 2, 10)
    proxy.accept()
    site.wait_ready(10)
    for _ in range(5):
        proxy.cut()
        proxy.cut()
    site.wait_ready(10)
    cells.stop("site-1")


def test_a_frozen_child_does_not_stop_its_parent(linked: Tree, proxy: Proxy) -> None:
    linked.add("site-2")
    proxy.freeze()
    data = bytes(200 * KIB)
    for _ in range(40):
        linked["server"].send("site-1", "c", "t", data, timeout=0.01)
        assert linked["server"].request("site-2", "zcell", "ping", timeout=5).ok
    began = time.monotonic()
    linked["site-1"].stop(1.0)
    assert time.monotonic() - began < 3
    proxy.thaw()


def test_stop_is_bounded_when_nobody_listens_any_more(linked: Tree, proxy: Proxy) -> None:
    proxy.freeze()
    for _ in range(10):
        linked["site-1"].send("server", "echo", "t", bytes(100 * KIB), timeout=0.01)
    for name in ("site-1", "server"):
        began = time.monotonic()
        linked[name].stop(1.0)
        assert time.monotonic() - began < 3
