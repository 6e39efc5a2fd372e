"""Finding the way: every direction through a tree of four levels and more."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.eventually import eventually
from tests.trees import Tree, TreeFactory
from zcell.message import Request, ReturnCode

NAMES = ("server", "server.job-9", "site-1", "site-1.job-1", "site-1.job-1.a", "site-1.job-1.a.b", "site-2", "site-2.job-1")


def answer_with_name(cells: Tree) -> None:
    for name in cells:
        cells[name].register("who", "are you", lambda r: [r.target, r.origin, r.payload], allow="any")


def test_every_cell_reaches_every_cell(tree: TreeFactory) -> None:
    cells = tree(*NAMES)
    answer_with_name(cells)
    futures = {
        (source, target): cells[source].request_future(target, "who", "are you", number, timeout=20)
        for number, (source, target) in enumerate(itertools.product(NAMES, NAMES))
    }
    for number, ((source, target), future) in enumerate(futures.items()):
        reply = future.result(20)
        assert reply.rc is ReturnCode.OK, (source, target, reply)
        assert reply.payload == [target, source, number]
        assert reply.origin == target


def test_events_travel_every_way_too(tree: TreeFactory) -> None:
    cells = tree(*NAMES)
    seen: dict[str, set[str]] = {name: set() for name in NAMES}
    for name in NAMES:
        cells[name].register("hello", "*", lambda r: seen[r.target].add(r.origin), allow="any")
    for name in NAMES:
        assert set(cells[name].send(NAMES, "hello", "all").values()) == {ReturnCode.OK}
    eventually(lambda: all(len(origins) == len(NAMES) for origins in seen.values()), what=lambda: seen)


def test_a_request_to_oneself_needs_no_link(tree: TreeFactory) -> None:
    cell = tree().start("site-1", parent=None)
    cell.register("c", "t", lambda r: (r.origin, r.target, r.payload))
    reply = cell.request("site-1", "c", "t", {"a": (1,)}, timeout=5)
    assert reply.payload == ("site-1", "site-1", {"a": (1,)})
    assert reply.origin == "site-1"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("site-1.job-1.a", "site-9"),
        ("site-1.job-1.a", "site-1.job-2"),
        ("site-1.job-1.a", "site-2.job-1.nobody.at.all"),
        ("site-1", "site-1.nobody"),
        ("server", "nobody"),
        ("server", "server.nobody"),
        ("site-2", "site-1.job-1.a.c"),
    ],
)
def test_a_target_that_is_not_there_is_unreachable_at_once(tree: TreeFactory, source: str, target: str) -> None:
    cells = tree("server", "site-1", "site-1.job-1", "site-1.job-1.a", "site-2", "site-2.job-1")
    began = time.monotonic()
    reply = cells[source].request(target, "c", "t", timeout=30)
    assert time.monotonic() - began < 3
    assert reply.rc is ReturnCode.TARGET_UNREACHABLE
    assert target in reply.error


def test_a_cell_that_left_is_unreachable_at_once(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    cells.stop("site-1.job-1")
    eventually(lambda: not cells["site-1"].is_connected("site-1.job-1"))
    reply = cells["server"].request("site-1.job-1", "zcell", "ping", timeout=30)
    assert reply.rc is ReturnCode.TARGET_UNREACHABLE


@pytest.mark.parametrize("target", ["", "a b", "site-1.", "x" * 64, "site-1.*"])
def test_a_target_that_is_no_name_is_an_invalid_target(tree: TreeFactory, target: str) -> None:
    cell = tree("server")["server"]
    reply = cell.request(target, "c", "t", timeout=1)
    assert reply.rc is ReturnCode.INVALID_TARGET
    assert repr(target) in reply.error
    assert cell.send(["server", target], "c", "t") == {"server": ReturnCode.OK, target: ReturnCode.INVALID_TARGET}
    assert cell.broadcast([target], "c", "t", timeout=1)[target].rc is ReturnCode.INVALID_TARGET


def test_an_address_that_no_handler_has_is_an_invalid_request(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("known", "t", lambda _: None)
    for channel, topic in (("unknown", "t"), ("known", "u")):
        reply = cells["site-1"].request("server", channel, topic, timeout=5)
        assert reply.rc is ReturnCode.INVALID_REQUEST
        assert channel in reply.error
        assert topic in reply.error
        assert reply.origin == "server"


def test_is_connected_tells_neighbours_from_others(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    assert cells["site-1"].is_connected("server")
    assert cells["site-1"].is_connected("site-1.job-1")
    assert cells["server"].is_connected("site-1")
    assert not cells["server"].is_connected("site-9")
    assert cells["site-1.job-1"].is_connected("site-9"), "the way up is open; whether it ends there is not known here"
    cells.stop("site-1")
    eventually(lambda: not cells["site-1.job-1"].is_connected("site-9"))
    assert not cells["site-1.job-1"].is_connected("server")


def test_relays_forward_without_handling(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1", "site-2")
    answer_with_name(cells)
    before = cells["site-1"].statistics()
    for _ in range(10):
        assert cells["site-2"].request("site-1.job-1", "who", "are you", timeout=5).ok
    after = cells["site-1"].statistics()
    assert after.messages_forwarded - before.messages_forwarded >= 20
    assert after.requests_handled == before.requests_handled


def test_a_deep_tree(tree: TreeFactory) -> None:
    cells = tree("server")
    name = "s"
    cells.add(name)
    for depth in range(8):
        name += f".l{depth}"
        cells.add(name)
    answer_with_name(cells)
    reply = cells[name].request("server", "who", "are you", timeout=10)
    assert reply.payload == ["server", name, None]
    assert cells["server"].request(name, "who", "are you", timeout=10).payload == [name, "server", None]


def test_siblings_whose_names_share_a_prefix_are_told_apart(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-10", "site-1.a", "site-10.a")
    answer_with_name(cells)
    for name in ("site-1", "site-10", "site-1.a", "site-10.a"):
        assert cells["server"].request(name, "who", "are you", timeout=5).payload[0] == name


def test_the_remaining_time_and_the_names_reach_the_handler(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    requests: list[Request] = []
    cells["server"].register("c", "t", lambda r: requests.append(r), allow="any")
    assert cells["site-1.job-1"].request("server", "c", "t", 5, timeout=7, headers={"round": 3}).ok
    cells["site-1.job-1"].send("server", "c", "t", 6)
    eventually(lambda: len(requests) == 2)
    request, event = requests
    assert (request.origin, request.target, request.channel, request.topic) == ("site-1.job-1", "server", "c", "t")
    assert request.headers["round"] == 3
    assert request.is_event is False
    assert request.remaining is not None
    assert 5 < request.remaining <= 7
    assert event.is_event is True
    assert event.remaining is None
