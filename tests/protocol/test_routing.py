"""Routing and credit without sockets: one way through the tree, and counters that cannot be cheated."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.errors import ProtocolError
from zcell.fqcn import FQCN
from zcell.protocol.credit import MESSAGE_COST, ReceiveCredit, SendCredit, cost_of
from zcell.protocol.routing import HERE, NOWHERE, may_come_from, next_hop, on_path, path_between

LABELS = st.sampled_from(["server", "site-1", "site-10", "job", "a"])
CELLS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


class Everyone:
    """A set of children that contains all names."""

    def __contains__(self, name: object) -> bool:
        return True


@given(CELLS, CELLS)
def test_following_next_hops_walks_the_one_path(a: str, b: str) -> None:
    here, walked = a, [a]
    while here != b:
        here = next_hop(here, b, Everyone(), has_parent=here != FQCN.ROOT_SERVER)
        assert here not in walked
        walked.append(here)
    assert next_hop(here, b, Everyone(), has_parent=True) == HERE
    assert walked == path_between(a, b)
    assert all(on_path(a, b, cell) for cell in walked)
    assert path_between(b, a) == walked[::-1]


@given(CELLS, CELLS)
def test_messages_on_their_path_are_believed_and_no_others(a: str, b: str) -> None:
    path = path_between(a, b)
    for before, here in itertools.pairwise(path):
        assert may_come_from(before, here, a)
        if here != a:
            assert not may_come_from(before, here, here)


@pytest.mark.parametrize(
    ("neighbour", "me", "source", "believed"),
    [
        ("site-1", "server", "site-1", True),
        ("site-1", "server", "site-1.job", True),
        ("site-1", "server", "site-2", False),
        ("site-1", "server", "site-10", False),
        ("site-1", "server", "server", False),
        ("site-1", "server", "server.job", False),
        ("server", "site-1", "server", True),
        ("server", "site-1", "site-2", True),
        ("server", "site-1", "site-1", False),
        ("server", "site-1", "site-1.job", False),
        ("site-1.job", "site-1", "site-1.job-2", False),
        ("site-1.job", "site-1", "site-1.job.a", True),
        ("site-1.job", "site-1", "server", False),
    ],
)
def test_a_source_is_the_links_cell_or_below_it(neighbour: str, me: str, source: str, *, believed: bool) -> None:
    assert may_come_from(neighbour, me, source) is believed


def test_without_a_link_there_is_no_way() -> None:
    assert next_hop("site-1", "site-1.job", set(), has_parent=True) == NOWHERE
    assert next_hop("site-1", "site-2", {"site-1.job"}, has_parent=False) == NOWHERE
    assert next_hop("server", "site-1.job", {"site-2"}, has_parent=False) == NOWHERE
    assert next_hop("server", "site-1.job", {"site-1"}, has_parent=False) == "site-1"


def test_work_stops_when_the_window_is_unfinished_and_goes_on_when_it_is() -> None:
    credit = SendCredit(1000)
    may = [credit.may_send_work]
    credit.work_sent += 5000  # a message larger than the window may go, but alone
    may.append(credit.may_send_work)
    for finished in (4000, 4001):
        credit.on_report({"control": 0, "work": finished, "data": 0})
        may.append(credit.may_send_work)
    assert may == [True, False, False, True]


@pytest.mark.parametrize("name", ["control", "work", "data"])
@pytest.mark.parametrize("value", [-1, 101, 49, None, "50", 50.0, True, 2**70])
def test_an_impossible_report_is_a_protocol_error_and_changes_nothing(name: str, value: Any) -> None:
    credit = SendCredit(1000)
    credit.control_sent = credit.work_sent = credit.data_sent = 100
    good = {"control": 50, "work": 50, "data": 50}
    credit.on_report(good)
    with pytest.raises(ProtocolError, match=name):
        credit.on_report({**good, name: value})
    credit.on_report({"control": 60, "work": 60, "data": 60})
    assert (credit.control_read, credit.work_done, credit.data_read) == (60, 60, 60)


def test_repeated_and_missing_reports_harm_nothing() -> None:
    credit = SendCredit(1000)
    credit.work_sent = 900
    for _ in range(3):
        credit.on_report({"control": 0, "work": 300, "data": 0})
    credit.on_report({"control": 0, "work": 900, "data": 0})
    assert credit.work_sent - credit.work_done == 0


def test_a_receiver_reports_before_the_sender_starves() -> None:
    """Whatever the sizes of messages, a full window is never left unreported."""
    for size in (1, 100, 1000, 5000):
        send, receive = SendCredit(8000), ReceiveCredit(8000)
        for _ in range(200):
            assert send.may_send_work, f"stuck with messages of {size} bytes"
            send.work_sent += size
            receive.work += size
            if receive.is_due:
                send.on_report({**receive.report(), "control": 0, "data": 0})


def test_a_receiver_knows_when_its_window_is_ignored() -> None:
    receive = ReceiveCredit(1000)
    receive.arrived = 1000 + 500
    assert not receive.is_exceeded(500), "a window and one message: as agreed"
    receive.arrived = 10_000
    assert receive.is_exceeded(500)
    receive.work = 9_000
    assert not receive.is_exceeded(500)


def test_every_message_costs_more_than_nothing() -> None:
    assert cost_of([]) == MESSAGE_COST > 0
    assert cost_of([b"abc", memoryview(b"de")]) == MESSAGE_COST + 5
