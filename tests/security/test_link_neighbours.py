"""A launched job runs someone else's code: a neighbour that knows its secret, and what it still cannot do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from tests.eventually import eventually, never
from tests.faults.rogue import NIL, Rogue, rogue
from tests.faults.strangers import junk_messages
from tests.trees import SECRET, Tree, TreeFactory
from zcell.cell import CellStatistics
from zcell.limits import KIB, MIB, Limits
from zcell.message import ReturnCode
from zcell.protocol.envelope import VERSION, Envelope, Kind, encode_batch, encode_link
from zcell.protocol.link import Lane

LIMITS = Limits(heartbeat_interval=0.1, link_timeout=20.0, message_bytes=MIB, inline_bytes=MIB, link_unread_bytes=2 * MIB)


@pytest.fixture
def cells(tree: TreeFactory) -> Tree:
    cells = tree("server", "site-1", limits=LIMITS)
    cells["server"].register("echo", "t", lambda r: [r.origin, r.payload], allow="any")
    cells["site-1"].register("echo", "t", lambda r: [r.origin, r.payload], allow="any")
    return cells


@pytest.fixture
def enemy(cells: Tree) -> Iterator[Rogue]:
    """Linked to the server as site-9."""
    with rogue("site-9", cells["server"].endpoints[0], SECRET, context=cells.context) as neighbour:
        assert neighbour.join()
        eventually(lambda: cells["server"].is_connected("site-9"))
        yield neighbour


def statistics(cells: Tree) -> CellStatistics:
    return cells["server"].statistics()


def dropped(cells: Tree, reason: str) -> Callable[[], int]:
    return lambda: statistics(cells).dropped.get(reason, 0)


def still_serves(cells: Tree) -> None:
    assert cells["site-1"].request("server", "echo", "t", 1, timeout=5).payload == ["site-1", 1]
    assert cells["server"].request("site-1", "echo", "t", 2, timeout=5).payload == ["server", 2]


def test_it_can_do_what_any_cell_can(cells: Tree, enemy: Rogue) -> None:
    """The rogue of these tests is a working neighbour: what follows is refused for what it is, not because it is broken."""
    enemy.say(Envelope(Kind.REQUEST, "site-9", "server", "echo", "t", 7, budget_ms=5000), msgpack.packb("hello"))
    reply, body = enemy.hear()
    assert (reply.kind, reply.id, reply.rc) == (Kind.REPLY, 7, "OK")
    assert msgpack.unpackb(body) == ["site-9", "hello"]


@pytest.mark.parametrize("source", ["server", "site-1", "site-1.job", "site-10", "site-90", "nobody"])
@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.EVENT, Kind.REPLY, Kind.CONTROL])
def test_a_message_under_another_name_is_dropped_and_counted(cells: Tree, enemy: Rogue, source: str, kind: Kind) -> None:
    called: list[str] = []
    cells["server"].register("guarded", "t", lambda r: called.append(r.origin), allow="any")
    before = dropped(cells, "spoofed")()
    for target in ("server", "site-1"):
        enemy.say(Envelope(kind, source, target, "guarded", "t", 1, budget_ms=1000))
    eventually(lambda: dropped(cells, "spoofed")() == before + 2)
    still_serves(cells)
    assert called == []


def test_data_under_another_name_is_dropped_too(cells: Tree, enemy: Rogue) -> None:
    stream = os.urandom(16)
    frames: list[Any] = []
    cells["server"].open_stream(stream, lambda source, frame: frames.append((source, bytes(frame))))
    enemy.data.send_multipart([Envelope(Kind.DATA, "site-1", "server", id=stream).encode(), b"forged"])
    enemy.data.send_multipart([Envelope(Kind.DATA, "site-9", "server", id=stream).encode(), b"own"])
    eventually(lambda: frames)
    assert frames == [("site-9", b"own")]
    assert dropped(cells, "spoofed")() == 1
    cells["server"].close_stream(stream)


def test_a_name_below_its_own_may_be_used(cells: Tree, enemy: Rogue) -> None:
    enemy.say(Envelope(Kind.REQUEST, "site-9.job", "server", "echo", "t", 3, budget_ms=5000))
    reply, body = enemy.hear()
    assert reply.target == "site-9.job"
    assert msgpack.unpackb(body) == ["site-9.job", None]


def test_replies_nobody_waits_for_are_counted(cells: Tree, enemy: Rogue) -> None:
    before = statistics(cells).late_replies
    for number in (0, 1, 2**64 - 1):
        enemy.say(Envelope(Kind.REPLY, "site-9", "server", "c", "t", number, rc="OK"))
    eventually(lambda: statistics(cells).late_replies == before + 3)
    still_serves(cells)


def test_a_duplicate_reply_is_counted_and_only_the_first_is_believed(cells: Tree, enemy: Rogue) -> None:
    future = cells["server"].request_future("site-9", "c", "t", timeout=10)
    asked, _ = enemy.hear()
    for answer in ("first", "second", "third"):
        enemy.say(Envelope(Kind.REPLY, "site-9", "server", "c", "t", asked.id, rc="OK"), msgpack.packb(answer))
    assert future.result(5).payload == "first"
    eventually(lambda: statistics(cells).late_replies == 2)


def test_a_reply_of_another_origin_is_not_believed(cells: Tree, enemy: Rogue) -> None:
    """site-9 guesses the id of a request that went to site-1."""
    entered, release = threading.Event(), threading.Event()

    def slow(_: object) -> str:
        entered.set()
        release.wait(20)
        return "the real one"

    cells["site-1"].register("slow", "t", slow)
    probe = cells["server"].request_future("site-9", "c", "t", timeout=10)
    first, _ = enemy.hear()
    assert isinstance(first.id, int)
    future = cells["server"].request_future("site-1", "slow", "t", timeout=20)
    assert entered.wait(5)
    for offset in range(1, 5):
        for rc in ("OK", "TARGET_UNREACHABLE", "COMM_ERROR"):
            enemy.say(Envelope(Kind.REPLY, "site-9", "server", "slow", "t", first.id + offset, rc=rc), msgpack.packb("forged"))
    eventually(lambda: statistics(cells).late_replies >= 12)
    assert not future.done()
    release.set()
    assert future.result(5).payload == "the real one"
    enemy.say(Envelope(Kind.REPLY, "site-9", "server", "c", "t", first.id, rc="OK"))
    assert probe.result(5).ok


@pytest.mark.parametrize("rc", ["", "SURE", "ok", "x" * 255])
def test_an_unknown_return_code_is_an_error_reply(cells: Tree, enemy: Rogue, rc: str) -> None:
    future = cells["server"].request_future("site-9", "c", "t", timeout=10)
    asked, _ = enemy.hear()
    enemy.say(Envelope(Kind.REPLY, "site-9", "server", "c", "t", asked.id, rc=rc))
    assert future.result(5).rc is ReturnCode.COMM_ERROR


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xd4\x05\x00", b"\xc7\x03\x04\x92\xa1x\xc0"]
)
def test_a_payload_that_is_none_is_refused_or_reported(cells: Tree, enemy: Rogue, body: bytes) -> None:
    enemy.say(Envelope(Kind.REQUEST, "site-9", "server", "echo", "t", 4, budget_ms=5000), body)
    reply, _ = enemy.hear()
    assert reply.rc == "INVALID_REQUEST"
    future = cells["server"].request_future("site-9", "c", "t", timeout=10)
    asked, _ = enemy.hear()
    enemy.say(Envelope(Kind.REPLY, "site-9", "server", "c", "t", asked.id, rc="OK"), body)
    assert future.result(5).rc is ReturnCode.COMM_ERROR
    still_serves(cells)


@pytest.mark.parametrize("seed", range(2))
def test_junk_after_the_handshake_is_counted(cells: Tree, enemy: Rogue, seed: int) -> None:
    before = statistics(cells).dropped_total
    for message in junk_messages(seed):
        enemy.control.send_multipart(message)
        enemy.data.send_multipart(message)
    eventually(lambda: statistics(cells).dropped_total > before + 20)
    still_serves(cells)


def test_broken_batches_are_counted(cells: Tree, enemy: Rogue) -> None:
    good = Envelope(Kind.EVENT, "site-9", "server", "c", "t").encode()
    frames = [
        encode_batch([]),
        encode_batch([b"", b""]),
        encode_batch([good, NIL, b"junk", NIL]),
        encode_batch([encode_batch([good, NIL]), NIL]),
        encode_batch([encode_link(Kind.BYE, {}), NIL]),
        encode_batch([Envelope(Kind.EVENT, "site-1", "server", "c", "t").encode(), NIL]),
        msgpack.packb([VERSION, int(Kind.BATCH), [1, 2]]),
        msgpack.packb([VERSION, int(Kind.BATCH), {}]),
    ]
    for frame in frames:
        enemy.control.send(frame)
    eventually(lambda: statistics(cells).dropped_total >= 6, what=lambda: statistics(cells).dropped)
    assert cells["server"].is_connected("site-9")
    still_serves(cells)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"control": 1},
        {"control": 2**60, "work": 0, "data": 0},
        {"control": -5, "work": 0, "data": 0},
        {"control": 0, "work": "x", "data": 0},
    ],
)
def test_impossible_credit_is_counted_and_not_believed(cells: Tree, enemy: Rogue, fields: dict[str, Any]) -> None:
    before = statistics(cells).dropped_total
    enemy.say_link(Kind.CREDIT, **fields)
    eventually(lambda: statistics(cells).dropped_total == before + 1)
    still_serves(cells)


def test_handshake_frames_on_a_link_that_is_up_are_counted(cells: Tree, enemy: Rogue) -> None:
    for kind in (Kind.HELLO, Kind.CHALLENGE, Kind.PROVE, Kind.WELCOME, Kind.REFUSED):
        enemy.say_link(kind, name="server", code="x", text="y")
    eventually(lambda: dropped(cells, "junk")() >= 5)
    assert statistics(cells).links == ("site-1", "site-9")


def test_one_that_never_reads_is_bounded_and_cut_off(cells: Tree, enemy: Rogue) -> None:
    """It asks for replies, takes none and gives no credit: the cell must not keep them all."""
    answer = "x" * (200 * KIB)
    cells["server"].register("big", "t", lambda _: answer, allow="any")
    cells["server"].on_link(lambda e: gone.set() if not e.up and e.peer == "site-9" else None)
    gone = threading.Event()
    for number in range(200):
        enemy.say(Envelope(Kind.REQUEST, "site-9", "server", "big", "t", number, budget_ms=60_000))
    assert gone.wait(10)
    still_serves(cells)


def test_one_that_sends_without_credit_is_held_back_or_cut_off(cells: Tree, enemy: Rogue) -> None:
    """Credit is a promise of the sender; one that breaks it may not fill the receiver's memory."""
    release, entered = threading.Event(), threading.Event()

    def block(_: object) -> None:
        entered.set()
        release.wait(30)

    cells["server"].register("block", "t", block, allow="any")
    down = threading.Event()
    cells["server"].on_link(lambda e: down.set() if not e.up and e.peer == "site-9" else None)
    body = msgpack.packb(bytes(256 * KIB))
    for _ in range(200):  # 50 MiB, twelve times the window
        enemy.say(Envelope(Kind.EVENT, "site-9", "server", "block", "t"), body)
    assert entered.wait(5)
    assert down.wait(5), "50 MiB of events lie in the receiver's memory"
    release.set()
    still_serves(cells)


def test_an_oversize_message_is_refused_with_its_reason(cells: Tree, enemy: Rogue) -> None:
    enemy.say(Envelope(Kind.REQUEST, "site-9", "server", "echo", "t", 5, budget_ms=5000), msgpack.packb(bytes(2 * MIB)))
    reply, _ = enemy.hear()
    assert reply.rc == "MSG_TOO_BIG"
    still_serves(cells)


def test_many_small_frames_are_no_way_around_the_limit(cells: Tree, enemy: Rogue) -> None:
    enemy.say(Envelope(Kind.REQUEST, "site-9", "server", "echo", "t", 5, budget_ms=5000), NIL, *[b"x"] * 5000)
    still_serves(cells)


def test_hops_end_a_message_that_goes_round(cells: Tree, enemy: Rogue) -> None:
    enemy.say(Envelope(Kind.REQUEST, "site-9", "site-1", "echo", "t", 6, hops=1, budget_ms=5000))
    reply, _ = enemy.hear()
    assert reply.rc == "TARGET_UNREACHABLE"
    enemy.say(Envelope(Kind.REQUEST, "site-9", "site-9.ghost", "echo", "t", 8, budget_ms=5000))
    reply, _ = enemy.hear()
    assert (reply.id, reply.rc) == (8, "TARGET_UNREACHABLE")


def test_an_expired_request_is_not_handled(cells: Tree, enemy: Rogue) -> None:
    called: list[int] = []
    cells["server"].register("c", "t", lambda _: called.append(1))
    enemy.say(Envelope(Kind.REQUEST, "site-9", "server", "c", "t", 6, budget_ms=0))
    eventually(lambda: dropped(cells, "expired")() == 1)
    assert called == []


def test_its_name_can_be_taken_neither_by_nor_from_a_living_cell(cells: Tree, enemy: Rogue) -> None:
    with rogue("site-1", cells["server"].endpoints[0], SECRET, context=cells.context) as thief:
        assert not thief.join()
        assert thief.refusal == "name_taken"
    still_serves(cells)


@pytest.mark.parametrize("name", ["site-9.job", "server", "server.job.deep", "site-1.job"])
def test_it_cannot_join_where_it_does_not_belong(cells: Tree, name: str) -> None:
    with rogue(name, cells["server"].endpoints[0], SECRET, context=cells.context) as neighbour:
        assert not neighbour.join()
        assert neighbour.refusal == "wrong_place"
    still_serves(cells)


def test_a_data_lane_needs_its_own_control_lane(cells: Tree, enemy: Rogue) -> None:
    for link in (os.urandom(16), bytes(16), enemy.link):
        with rogue("site-8", cells["server"].endpoints[0], SECRET, context=cells.context) as neighbour:
            neighbour.link = link
            assert not neighbour.join(lanes=(Lane.DATA,))
            assert neighbour.refusal == "unknown_link"
    assert cells["server"].is_connected("site-9")


def test_a_silent_cell_is_given_up(tree: TreeFactory) -> None:
    cells = tree("server", limits=Limits(heartbeat_interval=0.1, link_timeout=0.5))
    with rogue("site-5", cells["server"].endpoints[0], SECRET, context=cells.context) as silent:
        assert silent.join()
        eventually(lambda: cells["server"].is_connected("site-5"))
        eventually(lambda: not cells["server"].is_connected("site-5"))


def test_a_dead_cell_makes_room_for_its_next_incarnation(cells: Tree) -> None:
    endpoint = cells["server"].endpoints[0]
    with rogue("site-5", endpoint, SECRET, context=cells.context) as old:
        assert old.join()
        with rogue("site-5", endpoint, SECRET, context=cells.context) as new:
            assert new.join(), "the old one does not answer: it is dead"
            old.say(Envelope(Kind.REQUEST, "site-5", "server", "echo", "t", 1, budget_ms=5000))
            new.say(Envelope(Kind.REQUEST, "site-5", "server", "echo", "t", 2, budget_ms=5000))
            assert new.hear()[0].id == 2
            with pytest.raises(zmq.Again):
                old.hear(0.3)
    still_serves(cells)


def test_another_version_is_told_so(cells: Tree) -> None:
    context = cells.context or zmq.Context()
    with context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(cells["server"].endpoints[0])
        sock.send(msgpack.packb([VERSION + 1, int(Kind.HELLO), {"name": "site-7"}]))
        assert sock.poll(5000)
        _, kind, fields = msgpack.unpackb(sock.recv())
    assert kind == Kind.REFUSED
    assert fields["code"] == "wrong_version"
    assert str(VERSION) in fields["text"]
    if cells.context is None:
        context.term()
    still_serves(cells)


def test_wait_ready_says_when_the_parent_speaks_another_version(tree: TreeFactory) -> None:
    from zcell.errors import LinkRefusedError

    cells = tree()
    url = cells.listen_url("server")
    context = cells.context or zmq.Context()
    with context.socket(zmq.ROUTER) as parent:
        parent.linger = 0
        parent.bind(url)
        site = cells.start("site-1", parent=parent.getsockopt_string(zmq.LAST_ENDPOINT), listen=[])
        routing_id, _ = parent.recv_multipart()
        text = "this cell speaks version 7"
        parent.send_multipart([routing_id, encode_link(Kind.REFUSED, {"code": "wrong_version", "text": text})])
        with pytest.raises(LinkRefusedError, match="version 7"):
            site.wait_ready(10)
    cells.stop("site-1")
    if cells.context is None:
        context.term()


def test_floods_of_events_leave_the_others_alone(cells: Tree, enemy: Rogue) -> None:
    """No handler, no route, not allowed: each is cheap, and none stops anybody."""
    for number in range(3000):
        target = ("server", "nobody", "site-1")[number % 3]
        enemy.say(Envelope(Kind.EVENT, "site-9", target, "no such channel", "t"))
    for _ in range(20):
        still_serves(cells)
    eventually(lambda: dropped(cells, "no_handler")() >= 1000 and dropped(cells, "no_route")() >= 1000)
    never(lambda: not cells["site-1"].is_ready, 0.1)
