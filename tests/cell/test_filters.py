"""Filters in all four positions: they may change, answer or refuse, and the sender always learns of a refusal."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.eventually import eventually
from tests.trees import TreeFactory
from zcell.message import ReturnCode, make_reply

POSITIONS = [
    ("site-1", "outgoing", "request"),
    ("server", "incoming", "request"),
    ("server", "outgoing", "reply"),
    ("site-1", "incoming", "reply"),
]


def test_all_four_positions_may_change_headers_and_payload(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    seen: list[Any] = []

    def change(tag: str) -> Any:
        def fn(message: Any) -> None:
            message.payload = [*message.payload, tag]
            message.headers[tag] = len(message.headers)

        return fn

    for name, direction, kind in POSITIONS:
        cells[name].add_filter(direction, kind, "c", "t", change(f"{direction} {kind}"))

    def handle(request: Any) -> Any:
        seen.append((request.payload, dict(request.headers)))
        return [*request.payload, "handled"]

    cells["server"].register("c", "t", handle)
    reply = cells["site-1"].request("server", "c", "t", ["start"], timeout=5)
    assert seen[0][0] == ["start", "outgoing request", "incoming request"]
    assert {"outgoing request", "incoming request"} <= set(seen[0][1])
    assert reply.payload == ["start", "outgoing request", "incoming request", "handled", "outgoing reply", "incoming reply"]
    assert {"outgoing reply", "incoming reply"} <= set(reply.headers)


def test_filters_run_in_the_order_they_were_added_and_only_where_they_match(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    ran: list[str] = []

    def note(tag: str) -> Any:
        return lambda _: ran.append(tag)

    for tag, channel, topic in (
        ("1", "*", "*"),
        ("2", "c", "*"),
        ("3", "c", "t"),
        ("x", "d", "t"),
        ("y", "c", "u"),
        ("4", "*", "t"),
    ):
        cells["server"].add_filter("incoming", "request", channel, topic, note(tag))
    cells["server"].register("c", "t", lambda _: None)
    assert cells["site-1"].request("server", "c", "t", timeout=5).ok
    assert ran == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("name", "direction", "kind"), POSITIONS)
def test_a_filter_that_answers_ends_the_chain(tree: TreeFactory, name: str, direction: str, kind: str) -> None:
    cells = tree("server", "site-1")
    later: list[int] = []
    handled: list[int] = []
    cells["server"].register("c", "t", lambda _: handled.append(1))
    cells[name].add_filter(direction, kind, "c", "t", lambda _: make_reply(ReturnCode.AUTHENTICATION_ERROR, [1], "who are you"))
    cells[name].add_filter(direction, kind, "c", "t", lambda _: later.append(1))
    reply = cells["site-1"].request("server", "c", "t", timeout=5)
    assert (reply.rc, reply.payload, reply.error) == (ReturnCode.AUTHENTICATION_ERROR, [1], "who are you")
    assert later == []
    assert handled == ([1] if kind == "reply" else [])


@pytest.mark.parametrize(("name", "direction", "kind"), POSITIONS)
def test_a_filter_that_raises_is_a_filter_error_at_the_sender(tree: TreeFactory, name: str, direction: str, kind: str) -> None:
    """Dropped without a reply, its sender would see a timeout instead of the reason."""
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda _: None)

    def fail(_: Any) -> None:
        raise KeyError("no such token")

    cells[name].add_filter(direction, kind, "*", "*", fail)
    reply = cells["site-1"].request("server", "c", "t", timeout=20)
    assert reply.rc is ReturnCode.FILTER_ERROR
    assert "no such token" in reply.error
    assert "KeyError" in reply.error
    assert direction in reply.error
    assert "Traceback" not in reply.error


def test_a_filter_that_makes_the_payload_unsendable_is_reported(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda _: None)

    def spoil(message: Any) -> None:
        message.payload = {"model": object()}

    cells["server"].add_filter("outgoing", "reply", "c", "t", spoil)
    reply = cells["site-1"].request("server", "c", "t", timeout=5)
    assert not reply.ok
    assert "model" in reply.error


def test_authentication_by_filters_guards_even_the_first_message(tree: TreeFactory) -> None:
    cells = tree()
    server = cells.make("server")

    def authenticate(message: Any) -> Any:
        if message.headers.get("token") != "letmein":
            return make_reply(ReturnCode.AUTHENTICATION_ERROR, error="wrong token")
        del message.headers["token"]
        return None

    server.add_filter("incoming", "request", "*", "*", authenticate)
    headers: list[Any] = []
    server.register("c", "t", lambda r: headers.append(dict(r.headers)))
    with server:
        site = cells.make("site-1", parent=server.endpoints[0], listen=[])
        site.add_filter("outgoing", "request", "c", "t", lambda m: m.headers.setdefault("token", "letmein") and None)
        with site:
            site.wait_ready(10)
            assert site.request("server", "c", "t", timeout=5).ok
            assert site.request("server", "c", "t", timeout=5, headers={"token": "wrong"}).rc is ReturnCode.AUTHENTICATION_ERROR
    assert "token" not in headers[0]


def test_events_pass_the_filters_of_requests(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    got: list[Any] = []
    cells["server"].register("c", "t", lambda r: got.append(r.payload))

    def double(message: Any) -> None:
        message.payload *= 2

    def stop_odd(message: Any) -> Any:
        return make_reply(ReturnCode.INVALID_REQUEST, error="odd") if message.payload % 4 else None

    cells["site-1"].add_filter("outgoing", "request", "c", "t", double)
    cells["server"].add_filter("incoming", "request", "c", "t", stop_odd)
    for number in (1, 2, 3, 4):
        cells["site-1"].send("server", "c", "t", number)
    eventually(lambda: len(got) == 2)
    assert got == [4, 8]


def test_an_event_refused_by_an_outgoing_filter_is_reported_by_send(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["site-1"].add_filter("outgoing", "request", "c", "t", lambda _: make_reply(ReturnCode.INVALID_SESSION))
    assert cells["site-1"].send("server", "c", "t") == {"server": ReturnCode.INVALID_SESSION}

    def fail(_: Any) -> None:
        raise RuntimeError("no")

    cells["site-1"].add_filter("outgoing", "request", "d", "t", fail)
    assert cells["site-1"].send("server", "d", "t") == {"server": ReturnCode.FILTER_ERROR}


def test_a_filter_knows_what_it_looks_at(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    seen: list[Any] = []
    cells["server"].register("c", "t", lambda _: make_reply(ReturnCode.INVALID_SESSION, 5, "gone"))
    for name, direction, kind in POSITIONS:

        def note(m: Any, where: str = f"{direction} {kind}") -> None:
            seen.append((where, m.channel, m.topic, m.payload))

        cells[name].add_filter(direction, kind, "c", "t", note)
    cells["site-1"].request("server", "c", "t", 7, timeout=5)
    assert seen == [(f"{d} {k}", "c", "t", 7 if k == "request" else 5) for _, d, k in POSITIONS]


def test_filters_do_not_change_the_callers_own_headers_and_payload(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda _: None)

    def change(message: Any) -> None:
        message.headers["added"] = 1
        message.payload = "changed"

    cells["site-1"].add_filter("outgoing", "request", "c", "t", change)
    headers: dict[str, Any] = {"mine": 1}
    assert cells["site-1"].request("server", "c", "t", "payload", timeout=5, headers=headers).ok
    assert headers == {"mine": 1}


@pytest.mark.parametrize("arguments", [("sideways", "request"), ("incoming", "event"), ("", "reply"), (None, "request")])
def test_unknown_positions_are_refused(tcp_tree: TreeFactory, arguments: tuple[Any, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"direction|kind"):
        tcp_tree("server")["server"].add_filter(*arguments, "c", "t", print)


def test_requests_to_oneself_pass_the_same_filters(tree: TreeFactory) -> None:
    cell = tree("server")["server"]
    ran: list[str] = []
    for direction in ("outgoing", "incoming"):
        for kind in ("request", "reply"):
            cell.add_filter(direction, kind, "c", "t", partial(lambda where, _: ran.append(where), f"{direction} {kind}"))
    cell.register("c", "t", lambda _: None)
    assert cell.request("server", "c", "t", timeout=5).ok
    assert ran == ["outgoing request", "incoming request", "outgoing reply", "incoming reply"]
