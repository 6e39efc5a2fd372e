"""What travels: every payload type over every transport, buffers uncopied, and limits that hold."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.trees import TreeFactory
from zcell import codec
from zcell.errors import CodecError
from zcell.limits import KIB, MIB, Limits
from zcell.message import Request, ReturnCode

PAYLOADS: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    1.5,
    float("inf"),
    "",
    "näme ☃ \U0001f600",
    b"",
    b"\x00\xff",
    [],
    [1, [2, [3]]],
    (),
    (1, (2, [3, (4,)])),
    {},
    {"a": {"b": {"c": (None, True)}}},
    dt.datetime(2024, 2, 29, 1, 2, 3, 456789),
    dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
    b"x" * (64 * KIB),
    {"weights": [b"a" * (64 * KIB - 1), b"b" * (64 * KIB), b"c" * (3 * MIB)], "round": 7},
]


@dataclass
class Metrics:
    loss: float
    history: list[float]


codec.register(Metrics, "tests.cell.Metrics", lambda m: (m.loss, m.history), lambda v: Metrics(*v))


def test_payloads_arrive_as_they_were_through_a_relay(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    kinds: list[type] = []

    def echo(request: Request) -> Any:
        kinds.append(type(request.payload))
        return request.payload

    cells["server"].register("c", "t", echo)
    for payload in PAYLOADS:
        back = cells["site-1.job-1"].request("server", "c", "t", payload, timeout=10).raise_for_rc().payload
        assert back == payload
        assert type(back) is type(payload)
    assert kinds == [type(p) for p in PAYLOADS]


def test_registered_types_and_arrays_travel(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda r: {"back": r.payload})
    small, large = np.arange(6, dtype=np.int16).reshape(2, 3), np.random.default_rng(1).random((300, 400))
    metrics = Metrics(0.5, [1.0, 0.75])
    back = cells["site-1"].request("server", "c", "t", [metrics, small, large], timeout=10).raise_for_rc().payload["back"]
    assert back[0] == metrics
    sent: list[Any] = [small, large]
    for array, expected in zip(back[1:], sent, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_an_array_of_objects_is_refused_and_nothing_is_sent(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    with pytest.raises(CodecError, match="object"):
        cells["site-1"].request("server", "c", "t", {"a": np.array([object()])}, timeout=5)
    with pytest.raises(CodecError, match=r"layers.*2|2.*layers"):
        cells["site-1"].send("server", "c", "t", {"layers": [1, 2, {3}]})


def test_buffers_may_be_views_of_anything(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["server"].register("c", "t", lambda r: [bytes(b) for b in r.payload])
    data = os.urandom(300 * KIB)
    parts = [
        data,
        bytearray(data),
        memoryview(data)[1000:200_000],
        memoryview(bytearray(data))[::3],
        np.frombuffer(data, np.uint8).data,
    ]
    back = cells["site-1"].request("server", "c", "t", parts, timeout=10).raise_for_rc().payload
    assert back == [bytes(p) for p in parts]


def test_a_buffer_may_be_changed_when_the_request_is_over(tree: TreeFactory) -> None:
    """The handler of a neighbour in the same process must not see what its caller does to its own memory later."""
    cells = tree("server", "site-1")
    kept: list[Any] = []
    cells["server"].register("c", "t", lambda r: kept.append(r.payload))
    data = bytearray(b"a" * (100 * KIB))
    assert cells["site-1"].request("server", "c", "t", data, timeout=5).ok
    before = bytes(kept[0][:4])
    assert before == b"aaaa"


def test_payloads_of_events_and_errors_too(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    got: list[Any] = []
    cells["server"].register("e", "t", lambda r: got.append(r.payload))
    cells["server"].register("sync", "t", lambda _: None)
    payload = {"x": (1, b"y" * (100 * KIB))}
    assert cells["site-1"].send("server", "e", "t", payload)["server"] is ReturnCode.OK
    from tests.eventually import eventually

    eventually(lambda: got)
    assert got == [payload]


BOUNDED = Limits(message_bytes=MIB, inline_bytes=512 * KIB)


@pytest.mark.parametrize(
    "payload", [["x" * (300 * KIB)] * 4, "x" * (2 * MIB), [b"y" * (400 * KIB)] * 3, {"k": ["z" * 1000] * 2000}]
)
def test_a_message_that_is_too_big_is_reported_by_the_sender(tree: TreeFactory, payload: Any) -> None:
    cells = tree("server", "site-1", limits=BOUNDED)
    called: list[int] = []
    cells["server"].register("c", "t", lambda _: called.append(1))
    reply = cells["site-1"].request("server", "c", "t", payload, timeout=10)
    assert reply.rc is ReturnCode.MSG_TOO_BIG
    assert str(MIB) in reply.error
    assert cells["site-1"].send("server", "c", "t", payload) == {"server": ReturnCode.MSG_TOO_BIG}
    assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok
    assert called == []


def test_a_reply_that_is_too_big_is_reported_to_the_caller(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=BOUNDED)
    cells["server"].register("c", "t", lambda _: "x" * (2 * MIB))
    reply = cells["site-1"].request("server", "c", "t", timeout=10)
    assert reply.rc is ReturnCode.MSG_TOO_BIG
    assert cells["site-1"].request("server", "zcell", "ping", timeout=5).ok


def test_a_receiver_with_smaller_limits_does_not_lose_its_link(tree: TreeFactory) -> None:
    """What one side may send the other may not accept: the sender learns it, and the next message passes."""
    cells = tree()
    cells.add("server", limits=BOUNDED)
    cells.add("site-1")
    cells["server"].register("c", "t", lambda _: "handled")
    reply = cells["site-1"].request("server", "c", "t", "x" * (2 * MIB), timeout=3)
    assert reply.rc is ReturnCode.MSG_TOO_BIG
    assert str(MIB) in reply.error
    assert cells["site-1"].is_ready
    assert cells["site-1"].request("server", "c", "t", "small", timeout=10).payload == "handled"


def test_just_below_the_limit_passes(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", limits=BOUNDED)
    cells["server"].register("c", "t", lambda r: len(r.payload))
    text = "x" * (MIB - 8 * KIB)
    assert cells["site-1"].request("server", "c", "t", text, timeout=10).raise_for_rc().payload == len(text)


def test_headers_travel_both_ways_and_keep_their_types(tree: TreeFactory) -> None:
    cells = tree("server", "site-1", "site-1.job-1")
    seen: list[dict[str, Any]] = []

    def handle(request: Request) -> Any:
        seen.append(request.headers)
        from zcell.message import make_reply

        return make_reply(ReturnCode.OK, headers={"done": True, "n": request.headers["n"]})

    cells["server"].register("c", "t", handle)
    headers = {"n": 2**40, "text": "é", "none": None, "list": [1, "a"], "map": {"x": 1.5}, "bytes": b"\x00"}
    reply = cells["site-1.job-1"].request("server", "c", "t", timeout=5, headers=headers)
    assert {k: seen[0][k] for k in headers} == headers
    assert reply.headers["done"] is True
    assert reply.headers["n"] == 2**40
