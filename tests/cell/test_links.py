"""Links that come and go: told with a reason, taken up again, and only ever one under a name."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.eventually import eventually
from tests.trees import TreeFactory
from zcell.limits import Limits
from zcell.message import Request, ReturnCode

QUICK = Limits(heartbeat_interval=0.1, link_timeout=0.6, reconnect_min=0.02, reconnect_max=0.2)


def test_link_events_say_who_and_why(tree: TreeFactory) -> None:
    cells = tree("server")
    events: list[tuple[str, bool, str]] = []
    cells["server"].on_link(lambda e: events.append((e.peer, e.up, e.reason)))
    cells.add("site-1")
    eventually(lambda: ("site-1", True, "") in events, what=lambda: events)
    cells.stop("site-1")
    eventually(lambda: len(events) == 2, what=lambda: events)
    peer, up, reason = events[1]
    assert (peer, up) == ("site-1", False)
    assert reason


def test_a_child_hears_of_its_parent_too(tree: TreeFactory) -> None:
    cells = tree("server")
    events: list[tuple[str, bool, str]] = []
    site = cells.make("site-1", listen=[])
    site.on_link(lambda e: events.append((e.peer, e.up, e.reason)))
    with site:
        site.wait_ready(10)
        eventually(lambda: events)
        assert events == [("server", True, "")]
        cells.stop("server")
        eventually(lambda: len(events) == 2, what=lambda: events)
        assert events[1][:2] == ("server", False)
        assert events[1][2]
        assert not site.is_ready


def test_a_listener_can_leave_and_one_that_raises_harms_nobody(tree: TreeFactory) -> None:
    cells = tree("server")
    first: list[Any] = []
    second: list[Any] = []

    def bad(_: Any) -> None:
        raise RuntimeError("a broken listener")

    cells["server"].on_link(bad)
    leave = cells["server"].on_link(first.append)
    cells["server"].on_link(second.append)
    cells.add("site-1")
    eventually(lambda: len(second) == 1 and len(first) == 1)
    leave()
    leave()
    cells.stop("site-1")
    eventually(lambda: len(second) == 2)
    assert len(first) == 1


def test_a_listener_may_use_the_cell(tree: TreeFactory) -> None:
    """It runs on the pool, not on the I/O thread: calling back must not deadlock."""
    cells = tree("server")
    replies: list[Any] = []

    def greet(event: Any) -> None:
        if event.up:
            replies.append(cells["server"].request(event.peer, "zcell", "ping", timeout=5).rc)

    cells["server"].on_link(greet)
    cells.add("site-1")
    eventually(lambda: replies == [ReturnCode.OK], what=lambda: replies)


def test_children_relink_after_their_parent_restarted_and_messages_flow(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", "site-1.job-1", limits=QUICK)
    cells["site-1.job-1"].register("leaf", "t", lambda r: r.payload, allow="any")
    for turn in range(3):
        server = cells.restart("server")
        for name in ("site-1", "site-2"):
            cells[name].wait_ready(10)
        eventually(lambda server=server: sorted(server.statistics().links) == ["site-1", "site-2"])  # type: ignore[misc]
        assert server.request("site-1.job-1", "leaf", "t", turn, timeout=5).payload == turn
        assert cells["site-2"].request("site-1.job-1", "leaf", "t", turn, timeout=5).payload == turn


def test_a_whole_branch_recovers_when_its_middle_restarts(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1", "site-1.job-1.a", limits=QUICK)
    cells.restart("site-1")
    cells["site-1.job-1"].wait_ready(10)
    eventually(lambda: cells["site-1.job-1.a"].request("server", "zcell", "ping", timeout=2).ok, 10)
    eventually(lambda: cells["server"].request("site-1.job-1.a", "zcell", "ping", timeout=2).ok, 10)


def test_a_restarted_child_takes_its_name_over_at_once(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("who", "t", lambda r: r.origin)
    for _ in range(5):
        site = cells.restart("site-1")
        assert site.request("server", "who", "t", timeout=5).payload == "site-1"
        assert cells["server"].request("site-1", "zcell", "ping", timeout=5).ok
    assert cells["server"].statistics().links == ("site-1",)


def test_requests_in_flight_over_a_lost_link_end_with_the_reason(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1", limits=QUICK)
    release, entered = threading.Event(), threading.Event()

    def handle(_: Request) -> None:
        entered.set()
        release.wait(20)

    cells["server"].register("c", "t", handle)
    direct = cells["site-1"].request_future("server", "c", "t", timeout=30)
    assert entered.wait(5)
    release.set()
    cells.stop("server")
    assert direct.result(10).rc in (ReturnCode.OK, ReturnCode.COMM_ERROR, ReturnCode.TARGET_UNREACHABLE)


def test_many_children_come_and_go(tree: TreeFactory) -> None:
    cells = tree("server")
    ups: list[str] = []
    downs: list[str] = []
    cells["server"].on_link(lambda e: (ups if e.up else downs).append(e.peer))
    names = [f"site-{n}" for n in range(12)]
    for name in names:
        cells.add(name, listen=[])
    assert sorted(cells["server"].statistics().links) == sorted(names)
    for name in names:
        cells.stop(name)
    eventually(lambda: cells["server"].statistics().links == ())
    eventually(lambda: sorted(ups) == sorted(downs) == sorted(names))


def test_children_of_a_restarted_parent_do_not_come_back_in_the_same_moment(tcp_tree: TreeFactory) -> None:
    cells = tcp_tree("server")
    names = [f"site-{n}" for n in range(30)]
    for name in names:
        cells.add(name, listen=[])
    url = cells["server"].endpoints[0]
    cells.stop("server")
    eventually(lambda: not any(cells[name].is_ready for name in names))
    server = cells.make("server", listen=[url])
    moments: list[float] = []
    server.on_link(lambda e: moments.append(time.monotonic()) if e.up else None)
    with server:
        eventually(lambda: len(moments) == len(names), 10, what=lambda: len(moments))
        eventually(lambda: all(cells[name].is_ready for name in names))
        assert max(moments) - min(moments) > 0.02
        for name in names:
            cells.stop(name)


def test_links_stay_up_while_nothing_is_said(tree: TreeFactory) -> None:
    """Heartbeats keep a silent link alive, with the pool blocked as well."""
    cells = tree("server", "site-1", limits=Limits(heartbeat_interval=0.05, link_timeout=0.3, handler_threads=1))
    release, entered = threading.Event(), threading.Event()

    def block(_: Request) -> None:
        entered.set()
        release.wait(20)

    cells["server"].register("c", "t", block)
    future = cells["site-1"].request_future("server", "c", "t", timeout=30)
    assert entered.wait(5)
    downs: list[Any] = []
    cells["site-1"].on_link(downs.append)
    from tests.eventually import never

    never(lambda: downs or not cells["site-1"].is_ready, 1.0, "the link goes down")
    release.set()
    assert future.result(5).ok


def test_the_number_of_links_is_bounded(tree: TreeFactory) -> None:
    from zcell.errors import LinkError

    cells = tree()
    cells.add("server", limits=Limits(max_links=2))
    cells.add("site-1", listen=[])
    cells.add("site-2", listen=[])
    third = cells.start("site-3", listen=[])
    with pytest.raises(LinkError, match=r"server"):
        third.wait_ready(1)
    assert all(cells["server"].request(name, "zcell", "ping", timeout=5).ok for name in ("site-1", "site-2"))
    cells.stop("site-2")
    cells.stop("site-3")
    cells.add("site-3", listen=[])
