"""The tools in every cell: ping, route, tree and statistics on the channel "zcell"."""

from __future__ import annotations

import dataclasses

import pytest

from tests.trees import TreeFactory
from zcell.message import ReturnCode

NAMES = ("server", "site-1", "site-1.job-1", "site-1.job-1.a", "site-2")


def test_ping_answers_from_everywhere_in_the_family(tree: TreeFactory) -> None:
    cells = tree(*NAMES)
    for source, target in (("server", "site-1.job-1.a"), ("site-1.job-1.a", "server"), ("site-1", "site-1")):
        reply = cells[source].request(target, "zcell", "ping", timeout=5)
        assert reply.ok
        assert reply.origin == target


def test_route_names_the_cells_on_the_way(tree: TreeFactory) -> None:
    cells = tree(*NAMES)
    down = cells["server"].request("site-1.job-1.a", "zcell", "route", timeout=5).raise_for_rc().payload
    assert down == ["server", "site-1", "site-1.job-1", "site-1.job-1.a"]
    up = cells["site-1.job-1.a"].request("site-1", "zcell", "route", timeout=5).raise_for_rc().payload
    assert up == ["site-1.job-1.a", "site-1.job-1", "site-1"]
    assert cells["site-2"].request("site-2", "zcell", "route", timeout=5).payload == ["site-2"]


def test_tree_shows_all_that_is_below(tree: TreeFactory) -> None:
    cells = tree(*NAMES)
    text = repr(cells["site-1.job-1"].request("server", "zcell", "tree", timeout=5).raise_for_rc().payload)
    for name in NAMES:
        assert name in text
    text = repr(cells["server"].request("site-1", "zcell", "tree", timeout=5).raise_for_rc().payload)
    assert "site-1.job-1.a" in text
    assert "site-2" not in text


def test_statistics_travel_as_plain_values(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    payload = cells["site-1"].request("server", "zcell", "statistics", timeout=5).raise_for_rc().payload
    assert payload["fqcn"] == "server"
    assert list(payload["links"]) == ["site-1"]
    assert set(payload) >= {f.name for f in dataclasses.fields(cells["server"].statistics())}


def test_unknown_tools_are_an_invalid_request(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    assert cells["site-1"].request("server", "zcell", "selfdestruct", timeout=5).rc is ReturnCode.INVALID_REQUEST


@pytest.mark.parametrize("payload", [7, "x", [1], {"target": 7}, {"target": "a b"}, {"depth": "x"}, b"\xff" * 100])
def test_tools_survive_any_payload(tree: TreeFactory, payload: object) -> None:
    cells = tree("server", "site-1")
    for topic in ("ping", "route", "tree", "statistics"):
        reply = cells["site-1"].request("server", "zcell", topic, payload, timeout=5)
        assert reply.rc in (ReturnCode.OK, ReturnCode.INVALID_REQUEST), (topic, reply)


def test_statistics_are_frozen_and_count(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda _: None)
    before = cells["server"].statistics()
    for _ in range(5):
        assert cells["site-1"].request("server", "c", "t", timeout=5).ok
    after = cells["server"].statistics()
    assert after.requests_handled - before.requests_handled == 5
    assert cells["site-1"].statistics().requests_sent >= 5
    assert after.links == ("site-1",)
    assert after.fqcn == "server"
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.requests_handled = 0  # type: ignore[misc]
