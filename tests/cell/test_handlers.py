"""Who answers: the most exact match; who may ask: the allow rule; and what handlers may give back."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from tests.trees import Tree, TreeFactory
from zcell.message import Reply, Request, ReturnCode, make_reply


def test_the_most_exact_match_wins(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    patterns = [("c", "t"), ("c", "*"), ("*", "t"), ("*", "*")]
    for pattern in reversed(patterns):
        cells["server"].register(*pattern, partial(lambda p, _: p, pattern))

    def answered_by(channel: str, topic: str) -> Any:
        return cells["site-1"].request("server", channel, topic, timeout=5).payload

    assert answered_by("c", "t") == ("c", "t")
    assert answered_by("c", "u") == ("c", "*")
    assert answered_by("d", "t") == ("*", "t")
    assert answered_by("d", "u") == ("*", "*")
    cells["server"].unregister("c", "t")
    assert answered_by("c", "t") == ("c", "*")
    cells["server"].unregister("c", "*")
    assert answered_by("c", "t") == ("*", "t")
    cells["server"].unregister("*", "t")
    assert answered_by("c", "t") == ("*", "*")


def test_a_wildcard_handler_sees_the_real_address(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("*", "*", lambda r: [r.channel, r.topic])
    assert cells["site-1"].request("server", "some", "thing", timeout=5).payload == ["some", "thing"]


def test_wildcards_do_not_shadow_the_builtin_channel(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("*", "*", lambda _: "mine")
    assert cells["site-1"].request("server", "zcell", "ping", timeout=5).payload != "mine"


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "text",
        b"bytes",
        [1],
        {"a": None},
        make_reply(ReturnCode.OK, 7, headers={"h": 1}),
        make_reply("INVALID_SESSION"),
    ],
)
def test_a_handler_returns_a_payload_a_reply_or_nothing(tree: TreeFactory, value: Any) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda _: value)
    reply = cells["site-1"].request("server", "c", "t", timeout=5)
    expected = value if isinstance(value, Reply) else make_reply(ReturnCode.OK, value)
    assert (reply.rc, reply.payload, reply.error) == (expected.rc, expected.payload, expected.error)
    assert reply.headers.items() >= expected.headers.items()
    assert reply.origin == "server"


def test_a_decorated_function_stays_itself(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")

    @cells["server"].handler("c", "double")
    def double(request: Request) -> Any:
        return 2 * request.payload

    assert double(Request("a", "b", "c", "t", 4)) == 8
    assert cells["site-1"].request("server", "c", "double", 21, timeout=5).payload == 42


def test_a_raising_handler_gives_type_and_text_and_no_traceback(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")

    def broken(_: Request) -> None:
        raise ZeroDivisionError("the answer was zero")

    cells["server"].register("c", "t", broken)
    reply = cells["site-1"].request("server", "c", "t", timeout=5)
    assert reply.rc is ReturnCode.PROCESS_EXCEPTION
    assert "ZeroDivisionError" in reply.error
    assert "the answer was zero" in reply.error
    assert "Traceback" not in reply.error
    assert __file__ not in reply.error
    assert "broken" not in reply.error
    assert reply.payload is None


def test_an_exception_with_a_huge_text_or_none_still_gives_a_reply(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")

    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("even str fails")

    def raise_it(request: Request) -> None:
        if request.payload == "huge":
            raise ValueError("x" * 1_000_000)
        if request.payload == "nasty":
            raise Nasty
        raise SystemExit(3)

    cells["server"].register("c", "t", raise_it)
    for kind, name in (("huge", "ValueError"), ("nasty", "Nasty"), ("exit", "SystemExit")):
        reply = cells["site-1"].request("server", "c", "t", kind, timeout=5)
        assert reply.rc is ReturnCode.PROCESS_EXCEPTION, kind
        assert name in reply.error
        assert len(reply.error) < 20_000


def test_a_payload_that_cannot_travel_back_is_reported_to_the_caller(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda _: {"model": object()})
    reply = cells["site-1"].request("server", "c", "t", timeout=5)
    assert reply.rc is ReturnCode.PROCESS_EXCEPTION
    assert "model" in reply.error
    assert "object" in reply.error


def test_a_handler_is_not_replaced_silently(tree: TreeFactory) -> None:
    cell = tree("server")["server"]
    cell.register("c", "t", lambda _: 1)
    with pytest.raises(ValueError, match="c"):
        cell.register("c", "t", lambda _: 2)
    assert cell.request("server", "c", "t", timeout=5).payload == 1
    cell.unregister("c", "t")
    cell.register("c", "t", lambda _: 2)
    assert cell.request("server", "c", "t", timeout=5).payload == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("c", "t", None), TypeError),
        (("", "t", print), ValueError),
        (("c", "", print), ValueError),
        (("c" * 256, "t", print), ValueError),
        ((7, "t", print), (TypeError, ValueError)),
    ],
)
def test_wrong_registrations_are_refused(tcp_tree: TreeFactory, arguments: tuple[Any, ...], error: Any) -> None:
    with pytest.raises(error):
        tcp_tree("server")["server"].register(*arguments)


@pytest.mark.parametrize("allow", ["everybody", "site-1", ["a b"], ["*"], [""], 7, ["site-1.*.x"]])
def test_wrong_allow_rules_are_refused(tcp_tree: TreeFactory, allow: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"allow|name|label"):
        tcp_tree("server")["server"].register("c", "t", print, allow=allow)


NAMES = ("server", "site-1", "site-1.job-1", "site-1.job-1.a", "site-1.job-2", "site-2", "site-2.job-1")


def callers_of(cells: Tree, target: str, allow: Any) -> set[str]:
    """The cells that an allow rule at `target` lets in; everybody else must be told UNAUTHENTICATED."""
    cells[target].register("guarded", "t", lambda _: "in", allow=allow)
    replies = {name: cells[name].request(target, "guarded", "t", timeout=5) for name in NAMES}
    cells[target].unregister("guarded", "t")
    for name, reply in replies.items():
        assert reply.rc in (ReturnCode.OK, ReturnCode.UNAUTHENTICATED), (name, reply)
        assert reply.payload == ("in" if reply.ok else None)
        assert reply.ok or "guarded" in reply.error
    return {name for name, reply in replies.items() if reply.ok}


def test_allow_rules(tree: TreeFactory) -> None:
    cells = tree(*NAMES)
    family = {"server", "site-1", "site-1.job-1", "site-1.job-1.a"}
    assert callers_of(cells, "site-1.job-1", "family") == family
    assert callers_of(cells, "server", "family") == set(NAMES)
    assert callers_of(cells, "site-2.job-1", "family") == {"server", "site-2", "site-2.job-1"}
    assert callers_of(cells, "site-1.job-1", "any") == set(NAMES)
    assert callers_of(cells, "site-2", ["site-1"]) == {"site-1", "site-2"}
    assert callers_of(cells, "site-2", ["site-1.job-1.*"]) >= {"site-1.job-1.a", "site-2"}
    assert callers_of(cells, "site-2", ["site-1.job-1.*"]) <= {"site-1.job-1", "site-1.job-1.a", "site-2"}
    assert callers_of(cells, "site-2", ["site-1.job-2", "server"]) == {"site-1.job-2", "server", "site-2"}


def test_family_is_the_default_and_events_obey_the_rule_too(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2")
    handled: list[str] = []
    seen = threading.Event()

    @cells["site-1"].handler("c", "t")
    def handle(request: Request) -> None:
        handled.append(request.origin)
        if request.origin == "server":
            seen.set()

    assert cells["site-2"].request("site-1", "c", "t", timeout=5).rc is ReturnCode.UNAUTHENTICATED
    cells["site-2"].send("site-1", "c", "t")
    assert cells["site-2"].request("site-1", "c", "t", timeout=5).rc is ReturnCode.UNAUTHENTICATED
    cells["server"].send("site-1", "c", "t")
    assert seen.wait(5)
    assert handled == ["server"]
    assert cells["site-1"].statistics().dropped_total >= 1


def test_a_name_that_looks_alike_is_not_family(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-10")
    cells["site-1"].register("c", "t", lambda _: "in")
    assert cells["site-10"].request("site-1", "c", "t", timeout=5).rc is ReturnCode.UNAUTHENTICATED


def test_handlers_may_call_other_cells_and_themselves(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    cells["site-1.job-1"].register("leaf", "t", lambda r: r.payload + 1, allow="any")
    cells["site-1"].register("mid", "t", lambda r: cells["site-1"].request("site-1.job-1", "leaf", "t", r.payload, timeout=5))
    cells["server"].register(
        "top", "t", lambda r: cells["server"].request("site-1", "mid", "t", r.payload * 2, timeout=5).payload
    )
    assert cells["site-1.job-1"].request("server", "top", "t", 20, timeout=5).payload == 41


def test_requests_of_one_caller_are_handled_concurrently(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    barrier = threading.Barrier(4)
    cells["server"].register("meet", "t", lambda _: barrier.wait(10))
    futures = [cells["site-1"].request_future("server", "meet", "t", timeout=15) for _ in range(4)]
    assert sorted(f.result(15).payload for f in futures) == [0, 1, 2, 3]
