"""What is special about a pipe between cells: names, shared cells, who is heard, and what costs what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.eventually import eventually
from zcell import Cell, LazyRef, ReturnCode
from zcell.errors import CellClosedError, LinkError
from zcell.pipe import CellPipe, Message, Mode, Pipe, Topic, cell_message


@pytest.fixture
def server() -> Iterator[Cell]:
    with Cell("server", listen=["tcp://127.0.0.1:0"]) as cell:
        yield cell


@pytest.fixture
def both(server: Cell) -> Iterator[tuple[CellPipe, CellPipe]]:
    with (
        CellPipe(Mode.ACTIVE, "site-1", "job-7", server) as active,
        CellPipe(Mode.PASSIVE, "site-1", "job-7", server) as passive,
    ):
        active.open("task")
        passive.open("task")
        yield active, passive


def _next(pipe: Pipe, timeout: float = 10.0) -> Message:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        message = pipe.receive(0.2)
        if message is not None and message.topic != Topic.HEARTBEAT:
            return message
    raise AssertionError("no message arrived")


def test_ends_are_named_after_site_token_and_mode(both: tuple[CellPipe, CellPipe]) -> None:
    active, passive = both
    assert (active.fqcn, active.peer_fqcn) == ("site-1_job-7_active", "site-1_job-7_passive")
    assert (passive.fqcn, passive.peer_fqcn) == (active.peer_fqcn, active.fqcn)
    assert active.cell.fqcn == active.fqcn


def test_below_another_cell_than_the_server_the_ends_carry_its_name(server: Cell) -> None:
    with Cell("site-1", parent=server.endpoints[0], listen=["tcp://127.0.0.1:0"]) as site:
        site.wait_ready(10)
        with CellPipe(Mode.PASSIVE, "a", "b", site) as passive:
            passive.open("task")
            assert passive.fqcn == "site-1.a_b_passive"
            with CellPipe(Mode.ACTIVE, "a", "b", parent=site.endpoints[0], parent_fqcn="site-1") as active:
                active.open("task")
                assert active.send(Message.new_request("t", 1), 10)
                assert _next(passive).data == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"site_name": ""}, "site_name"),
        ({"token": "a.b"}, "token"),
        ({"site_name": "x" * 60}, "63"),
        ({"mode": "BOTH"}, "BOTH"),
        ({"parent": "tcp://127.0.0.1:1"}, "either"),
        ({"cell": None}, "either"),
    ],
)
def test_wrong_arguments_are_named(server: Cell, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CellPipe(**{"mode": Mode.ACTIVE, "site_name": "s", "token": "t", "cell": server, **arguments})


def test_pipes_of_one_end_share_its_cell_and_the_last_one_stops_it(server: Cell) -> None:
    task = CellPipe(Mode.ACTIVE, "s", "t", server)
    metric = CellPipe(Mode.ACTIVE, "s", "t", server)
    by_cell = CellPipe(Mode.ACTIVE, "s", "t", task.cell)
    cell = task.cell
    assert metric.cell is cell
    assert by_cell.cell is cell
    task.open("task")
    metric.open("metric")
    task.close()
    by_cell.close()
    assert cell.is_ready
    metric.close()
    with pytest.raises(CellClosedError):
        cell.request("server", "x", "y", timeout=1)
    with CellPipe(Mode.ACTIVE, "s", "t", server) as again:
        again.open("task")
        assert again.cell is not cell


def test_a_cell_that_was_given_is_not_stopped(server: Cell) -> None:
    with Cell("s_t_active", parent=server.endpoints[0]) as own:
        own.wait_ready(10)
        pipe = CellPipe(Mode.ACTIVE, "s", "t", own)
        pipe.open("task")
        assert pipe.cell is own
        pipe.close()
        assert own.is_ready


def test_two_pipes_of_one_end_need_channels_of_their_own(server: Cell) -> None:
    with CellPipe(Mode.ACTIVE, "s", "t", server) as one, CellPipe(Mode.ACTIVE, "s", "t", server) as two:
        one.open("task")
        with pytest.raises(ValueError, match="open as 'task' in this process already"):
            two.open("task")


def test_only_the_peer_is_heard(server: Cell, both: tuple[CellPipe, CellPipe]) -> None:
    active, passive = both
    assert passive.send(Message.new_request("t", 1), 10)
    assert _next(active).data == 1
    with Cell("stranger", parent=server.endpoints[0]) as stranger:
        stranger.wait_ready(10)
        for who in (stranger, server):
            for channel in ("zcell.pipe.task", "zcell.pipe.task.small"):
                reply = who.request(active.fqcn, channel, "t", {"anything": 1}, timeout=10, optional=True)
                assert reply.rc is ReturnCode.UNAUTHENTICATED
    assert passive.send(Message.new_request("t", 2), 10)
    assert _next(active).data == 2


@pytest.mark.parametrize(
    "payload",
    [None, 1, [], {}, {"t": "REQUEST"}, {"t": "X", "i": "1", "r": None, "h": {}, "s": "s", "b": b"", "v": [], "p": []}],
)
def test_junk_from_the_peer_is_refused_and_the_pipe_goes_on(both: tuple[CellPipe, CellPipe], payload: Any) -> None:
    active, passive = both
    for channel in ("zcell.pipe.task", "zcell.pipe.task.small"):
        for topic in ("t", Topic.HEARTBEAT, Topic.PEER_GONE):
            passive.cell.request(active.fqcn, channel, topic, payload, timeout=10, optional=True)
    assert passive.send(Message.new_request("t", 1), 10)
    assert _next(active).data == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"b": b"\xc1"},
        {"b": ["server", "nothing", 5]},
        {"b": [1, 2]},
        {"v": ["text"]},
        {"p": [["text"]]},
        {"h": {"ttl": "soon"}, "b": b"\xc1"},
    ],
)
def test_data_that_cannot_be_had_is_an_error_of_its_message(both: tuple[CellPipe, CellPipe], changes: dict[str, Any]) -> None:
    active, passive = both
    payload = {"t": "REQUEST", "i": "1", "r": None, "h": {}, "s": passive._session, "b": b"\xc3", "v": [], "p": []} | changes
    assert passive.cell.request(active.fqcn, "zcell.pipe.task", "t", payload, timeout=10).ok
    got = _next(active)
    assert got.error
    assert got.data is None


def test_an_end_that_nobody_takes_waits_five_seconds_at_most(server: Cell) -> None:
    with CellPipe(Mode.PASSIVE, "s", "t", server) as passive:
        passive.open("task")
        begun = time.monotonic()
        assert not passive.send(Message.new_request(Topic.END), 60)
        assert time.monotonic() - begun < 5.5
        assert "TARGET_UNREACHABLE" in passive.last_error


def test_a_full_inbox_refuses_and_takes_again_when_it_is_read(both: tuple[CellPipe, CellPipe]) -> None:
    active, passive = both
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda n: passive.send(Message.new_request("t", n), 30), range(1100)))
    assert sent.count(False) >= 100
    assert "unread" in passive.last_error
    before = active.last_peer_active_time
    for number in range(1, 100):
        assert passive.send(Message.new_request(Topic.HEARTBEAT, number))
    eventually(lambda: active.last_peer_active_time > before)
    assert len(active._received) == 1000, "nor is a heartbeat one message too many"
    for _ in range(150):  # heartbeats that are still on their way may take some of the room
        assert active.receive(5) is not None
    assert passive.send(Message.new_request("t", "room"), 10)


def test_what_was_sent_to_pass_through_arrives_as_a_reference(both: tuple[CellPipe, CellPipe]) -> None:
    active, passive = both
    active.pass_through_on_send = True
    assert active.send(Message.new_reply("t", {"w": np.arange(2_000_000), "n": 1}, req_msg_id="1"), 10)
    got = _next(passive)
    assert got.data["n"] == 1
    assert isinstance(got.data["w"], LazyRef)
    assert got.data["w"].owner == active.fqcn
    assert got.headers["ttl"] == 60.0
    np.testing.assert_array_equal(got.data["w"].fetch(), np.arange(2_000_000))


def test_many_arrays_that_are_too_much_for_one_message_travel_as_a_few_packs(server: Cell) -> None:
    """A model of many layers: a transfer for each of them would take seconds."""
    with CellPipe(Mode.PASSIVE, "s", "t", server) as passive, CellPipe(Mode.ACTIVE, "s", "t", server) as active:
        passive.open("task")
        active.open("task")
        layers = {f"layer{n}": np.full(9_000 + n, n, dtype=np.float64) for n in range(700)}
        message = Message.new_reply("t", {"layers": layers, "large": np.arange(2_000_000), "b": b"x" * 100_001}, req_msg_id="1")
        assert active.send(message, 60)
        assert len(message.encoded.offering._refs) == 1 + 4, "the large one, and packs of 16 MiB"
        got = _next(passive).data
        assert got["b"] == b"x" * 100_001
        np.testing.assert_array_equal(got["large"], np.arange(2_000_000))
        assert list(got["layers"]) == list(layers)
        for name, layer in layers.items():
            np.testing.assert_array_equal(got["layers"][name], layer)
            assert got["layers"][name].flags.aligned


@pytest.mark.parametrize("pack", [7, [1], [["o", "r"], [1]], [["o", "r", 1], [-1]], [["o", "r", 1], ["1"]], [["o", "r", 1], 1]])
def test_a_malformed_pack_is_an_error_of_its_message(server: Cell, pack: object) -> None:
    with CellPipe(Mode.PASSIVE, "s", "t", server) as passive, CellPipe(Mode.ACTIVE, "s", "t", server) as active:
        passive.open("task")
        active.open("task")
        message = Message.new_request("t", 1)
        message.encoded = cell_message.encode(active.cell, message, passive.fqcn, active._session, False)
        message.encoded.payload["p"] = [pack]
        assert active.send(message, 10)
        assert "malformed" in _next(passive).error


def test_what_a_message_that_was_not_taken_refers_to_is_withdrawn(server: Cell) -> None:
    with CellPipe(Mode.PASSIVE, "s", "t", server) as passive:
        passive.open("task")
        message = Message.new_request("t", np.ones(2_000_000))
        assert not passive.send(message, 1)
        transaction = message.encoded.offering._transaction
        assert transaction.status.value == "ACTIVE"
        passive.release_send_cache(message)
        assert transaction.status.value == "DELETED"


def test_a_parent_that_is_not_there_is_named() -> None:
    pipe = CellPipe(Mode.ACTIVE, "s", "t", parent="tcp://127.0.0.1:9", connect_timeout=0.3)
    with pipe, pytest.raises(LinkError, match=r"127\.0\.0\.1:9"):
        pipe.open("task")


def test_a_cell_that_listens_nowhere_has_no_ends_below_it() -> None:
    with Cell("server") as silent, pytest.raises(ValueError, match="does not listen"):
        CellPipe(Mode.PASSIVE, "s", "t", silent)


def test_a_pipe_whose_cell_was_stopped_is_broken(server: Cell) -> None:
    pipe = CellPipe(Mode.ACTIVE, "s", "t", server)
    pipe.open("task")
    pipe.cell.stop()
    with pytest.raises(BrokenPipeError, match="does not run"):
        pipe.send(Message.new_request("t"), 1)
    pipe.close()


def test_ends_stop_with_the_cell_above_them() -> None:
    with Cell("server", listen=["tcp://127.0.0.1:0"]) as above:
        pipe = CellPipe(Mode.ACTIVE, "s", "t", above)
        pipe.open("task")
        cell = pipe.cell
    eventually(lambda: not cell.is_ready)
    pipe.close()


def test_a_peer_that_is_not_open_is_named_in_the_users_words(server: Cell) -> None:
    with CellPipe(Mode.PASSIVE, "s", "t", server) as passive, CellPipe(Mode.ACTIVE, "s", "t", server) as active:
        passive.open("task")
        active.cell.wait_ready(10)
        assert not passive.send(Message.new_request("t"), 0.2)
        assert passive.last_error == "the other end of the pipe, s_t_active, is not open"


def test_an_end_that_is_open_already_is_named_as_its_user_did(server: Cell) -> None:
    with CellPipe(Mode.PASSIVE, "s", "t", server) as first, CellPipe(Mode.PASSIVE, "s", "t", server) as second:
        first.open("task")
        with pytest.raises(ValueError, match=r"^the pipe 's', 't' is open as 'task' in this process already"):
            second.open("task")
        second.open("metric")


def test_an_end_that_could_not_be_opened_leaves_nothing_running(server: Cell) -> None:
    pipe = CellPipe(Mode.ACTIVE, "s", "t", parent=server.endpoints[0], parent_fqcn="another", connect_timeout=5)
    with pytest.raises(LinkError):
        pipe.open("task")
    with pytest.raises(BrokenPipeError, match="closed"):
        pipe.send(Message.new_request("t"), 1)
    assert not any(t.name == f"zcell-io-{pipe.fqcn}" for t in threading.enumerate())
