"""Large payloads: by reference beyond `inline_bytes`, fetched by the receiver, never held by a relay."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from tests.eventually import eventually
from tests.trees import TreeFactory
from zcell.cell import LazyRef
from zcell.limits import KIB, MIB, Limits
from zcell.message import Request

LIMITS = Limits(inline_bytes=256 * KIB, message_bytes=MIB)
BIG = 3 * MIB + 17


def test_a_buffer_over_the_limit_is_fetched_by_the_receiver(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1", limits=LIMITS)
    data = os.urandom(BIG)
    got: list[Any] = []

    def handle(request: Request) -> Any:
        got.append(request.payload)
        return len(request.payload["model"])

    cells["server"].register("c", "t", handle)
    reply = cells["site-1.job-1"].request("server", "c", "t", {"model": data, "round": (1,)}, timeout=30)
    assert reply.raise_for_rc().payload == BIG
    assert got[0]["model"] == data
    assert type(got[0]["model"]) is bytes
    assert got[0]["round"] == (1,)


def test_a_large_reply_is_fetched_by_the_caller(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1", limits=LIMITS)
    data = os.urandom(BIG)
    cells["server"].register("c", "t", lambda _: [data, b"small", data[: 300 * KIB]])
    reply = cells["site-1.job-1"].request("server", "c", "t", timeout=30)
    assert reply.raise_for_rc().payload == [data, b"small", data[: 300 * KIB]]


def test_large_events_and_broadcasts(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=LIMITS)
    data = os.urandom(BIG)
    got: list[Any] = []
    for name in ("site-1", "site-2"):
        cells[name].register("c", "t", lambda r: got.append(r.payload == data))
    assert all(rc == "OK" for rc in cells["server"].send(["site-1", "site-2"], "c", "t", data).values())
    eventually(lambda: len(got) == 2, 30)
    replies = cells["server"].broadcast(["site-1", "site-2"], "c", "t", data, timeout=30)
    assert all(r.ok for r in replies.values())
    assert got == [True] * 4


def test_large_arrays_come_back_as_arrays(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=LIMITS)
    array = np.random.default_rng(7).random((500, 1000))
    cells["server"].register("c", "t", lambda r: {"sum": float(r.payload["w"].sum()), "w": r.payload["w"] * 2})
    reply = cells["site-1"].request("server", "c", "t", {"w": array}, timeout=30).raise_for_rc()
    assert reply.payload["sum"] == pytest.approx(float(array.sum()))
    np.testing.assert_array_equal(reply.payload["w"], array * 2)


def test_with_pass_through_the_receiver_gets_references_it_can_fetch(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=LIMITS)
    data = os.urandom(BIG)
    array = np.arange(200_000, dtype=np.float64)
    got: list[Any] = []

    def handle(request: Request) -> Any:
        got.append(request.payload)
        return [bytes(request.payload["model"].fetch()) == data, float(request.payload["array"].fetch().sum())]

    cells["server"].register("c", "t", handle)
    payload = {"model": data, "array": array, "small": b"s" * 100, "n": 5}
    reply = cells["site-1"].request("server", "c", "t", payload, timeout=30, headers={"pass_through": True})
    assert reply.raise_for_rc().payload == [True, float(array.sum())]
    assert isinstance(got[0]["model"], LazyRef)
    assert isinstance(got[0]["array"], LazyRef)
    assert got[0]["small"] == b"s" * 100
    assert got[0]["n"] == 5


def test_a_forwarded_reference_is_pulled_from_its_owner(tree: TreeFactory) -> None:
    """The cell in the middle handles the message and never holds the object."""
    cells = tree("server", "site-1", "site-2", limits=LIMITS)
    data = os.urandom(BIG)

    def relay(request: Request) -> Any:
        payload = {**request.payload, "via": "server"}
        return cells["server"].request("site-2", "c", "t", payload, timeout=30, headers=request.headers).raise_for_rc().payload

    def leaf(request: Request) -> Any:
        assert request.payload["via"] == "server"
        return bytes(request.payload["model"].fetch()) == data

    cells["server"].register("c", "t", relay)
    cells["site-2"].register("c", "t", leaf)
    before = cells["server"].statistics()
    reply = cells["site-1"].request("server", "c", "t", {"model": data}, timeout=30, headers={"pass_through": True})
    assert reply.raise_for_rc().payload is True
    after = cells["server"].statistics()
    assert after.messages_forwarded > before.messages_forwarded
    assert after.data_frames_received == before.data_frames_received, "the cell in the middle fetched it itself"
    assert cells["site-2"].statistics().data_frames_received > 0


def test_a_forwarded_reference_is_fetched_where_pass_through_ends(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-2", limits=LIMITS)
    data = os.urandom(BIG)

    def relay(request: Request) -> Any:
        return cells["server"].request("site-2", "c", "t", request.payload, timeout=30).raise_for_rc().payload

    cells["server"].register("c", "t", relay)
    cells["site-2"].register("c", "t", lambda r: r.payload["model"] == data)
    reply = cells["site-1"].request("server", "c", "t", {"model": data}, timeout=30, headers={"pass_through": True})
    assert reply.raise_for_rc().payload is True


def test_a_reference_whose_owner_left_is_an_error_and_no_hang(tree: TreeFactory) -> None:
    from zcell.errors import DownloadError

    cells = tree("server", "site-1", limits=LIMITS)
    refs: list[LazyRef] = []
    cells["server"].register("c", "t", lambda r: refs.append(r.payload))
    assert cells["site-1"].request("server", "c", "t", os.urandom(BIG), timeout=30, headers={"pass_through": True}).ok
    cells.stop("site-1")
    with pytest.raises(DownloadError) as caught:
        refs[0].fetch(idle_timeout=0.5)
    assert caught.value.reason in ("link", "idle")


def test_no_single_message_is_large(tree: TreeFactory) -> None:
    """20 buffers that do not fit a message together, each by reference."""
    cells = tree("server", "site-1", limits=LIMITS)
    parts = [os.urandom(300 * KIB) for _ in range(20)]
    cells["server"].register("c", "t", lambda r: r.payload == parts)
    assert cells["site-1"].request("server", "c", "t", parts, timeout=30).raise_for_rc().payload is True


def test_many_large_requests_at_once_leave_room_for_small_ones(tree: TreeFactory) -> None:
    """The pool that fetches must not be the pool that everything else waits for."""
    cells = tree("server", "site-1", limits=Limits(inline_bytes=256 * KIB, message_bytes=MIB, handler_threads=4))
    data = os.urandom(MIB)
    cells["server"].register("c", "t", lambda r: len(r.payload))
    cells["server"].register("small", "t", lambda r: r.payload)
    futures = [cells["site-1"].request_future("server", "c", "t", data, timeout=30) for _ in range(12)]
    assert cells["site-1"].request("server", "small", "t", 1, timeout=10).payload == 1
    assert [f.result(30).raise_for_rc().payload for f in futures] == [MIB] * 12
