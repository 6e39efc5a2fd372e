"""The parts of the transfer machines on their own: messages, journal, window, ledger, states, sender."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcell.errors import ProtocolError
from zcell.protocol.transfer import messages as msg
from zcell.protocol.transfer import states
from zcell.protocol.transfer.chunks import ChunkTable, chunk_count, chunk_length, runs
from zcell.protocol.transfer.journal import (
    HEADER_BYTES,
    RECORD_BYTES,
    JournalHeader,
    decode_journal,
    encode_record,
)
from zcell.protocol.transfer.ledger import GAP, Ledger
from zcell.protocol.transfer.sender import HashNext, PutMark, Sender, Serve
from zcell.protocol.transfer.window import FIRST_BYTES, Window

STREAM = bytes(range(16))
MIB = 1 << 20
HEADER = JournalHeader(MIB, 10 * MIB, None, bytes(32), b"boot")

EXAMPLES: list[msg.Message] = [
    msg.Open("ref", STREAM),
    msg.Description(size=7, root=bytes(32), name="a"),
    msg.Description(failure="gone", text="over"),
    msg.Pull(STREAM, 3, ((0, 2), (9, 1)), True, 0),
    msg.AskRoot(STREAM),
    msg.Close(STREAM, 2, 3, 4, "aborted"),
    msg.Progress(STREAM, 1, 2, 3, None, "ACTIVE"),
    msg.Digests(STREAM, 0, 4096),
    msg.Done("ref", STREAM, 7, 5, 1),
    msg.Root(STREAM, 9, None),
    msg.Busy(STREAM, 4),
    msg.End(STREAM, 100),
    msg.SourceFailed(STREAM, "source_failed", "changed"),
    msg.UnknownStream(STREAM),
    msg.Step("ref", STREAM, 2, {"at": 3}),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message: msg.Message) -> None:
    assert msg.parse(type(message), message.to_payload()) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_field_of_another_type_is_named(message: msg.Message) -> None:
    for name in message.to_payload():
        payload = message.to_payload() | {name: object()}
        with pytest.raises(ProtocolError, match=name.replace("_", ".")):
            msg.parse(type(message), payload)


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        (msg.Open("r", STREAM), {"stream": b"short"}, "stream must be 16 bytes"),
        (msg.Open("r", STREAM), {"verify": "no"}, "verify must be one of"),
        (msg.Open("r", STREAM), {"ref_id": "x" * 200}, "ref_id has 200"),
        (msg.Pull(STREAM, 1, (), False, 0), {"seq": -1}, "seq is out of range"),
        (msg.Pull(STREAM, 1, (), False, 0), {"ranges": [(0, 0)]}, r"range \(0, 0\)"),
        (msg.Pull(STREAM, 1, (), False, 0), {"ranges": [(0, 1 << 60)]}, "range"),
        (msg.Pull(STREAM, 1, (), False, 0), {"ranges": [(0,)]}, "range"),
        (msg.Pull(STREAM, 1, (), False, 0), {"ranges": [(0, 1)] * 2000}, "ranges"),
        (msg.Digests(STREAM, 0, 1), {"count": 1 << 20}, "count is out of range"),
        (msg.Root(STREAM, 1, None), {"root": b"x"}, "root must be 32"),
    ],
)
def test_values_out_of_range_are_named(kind: msg.Message, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        msg.parse(type(kind), kind.to_payload() | change)


@pytest.mark.parametrize("payload", [None, 3, [], "x"])
def test_a_payload_that_is_no_dict_is_refused(payload: object) -> None:
    with pytest.raises(ProtocolError, match="expected a dict"):
        msg.parse(msg.Open, payload)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ProtocolError, match="stream is missing"):
        msg.parse(msg.AskRoot, {})


def test_marks_are_told_from_chunks() -> None:
    assert msg.parse_mark(msg.encode_mark(77)) == 77
    assert msg.parse_mark(memoryview(msg.encode_mark(77))) == 77
    assert msg.parse_mark(b"ZCK1" + bytes(12)) is None
    assert msg.parse_mark(b"") is None


@given(st.lists(st.integers(0, 200)), st.lists(st.integers(0, 200)))
def test_a_chunk_table_is_a_set_with_digests(added: list[int], dropped: list[int]) -> None:
    table, model = ChunkTable(), dict[int, bytes]()
    for index in added:
        table.add(index, digest := bytes([index]) * 32)
        model[index] = digest
    for index in dropped:
        assert table.drop(index) == (model.pop(index, None) is not None)
    assert table.count == len(model)
    assert list(table.held_from(0)) == sorted(model)
    assert all(table.digest(i) == model.get(i) for i in range(210))
    for start in (0, 5, 300):
        assert table.next_missing(start) == next(i for i in range(start, 1000) if i not in model)


@given(st.sets(st.integers(0, 60)))
def test_runs_cover_exactly_their_indices(indices: set[int]) -> None:
    found = list(runs(sorted(indices)))
    assert [i for first, count in found for i in range(first, first + count)] == sorted(indices)
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(found))


@given(st.integers(0, 10_000), st.integers(1, 999))
def test_chunk_lengths_add_up_to_the_size(size: int, chunk_bytes: int) -> None:
    assert sum(chunk_length(i, size, chunk_bytes) for i in range(chunk_count(size, chunk_bytes))) == size


@given(st.one_of(st.none(), st.integers(0, 2**50)), st.one_of(st.none(), st.binary(min_size=32, max_size=32).filter(any)))
def test_a_journal_header_survives_the_disk(size: int | None, root: bytes | None) -> None:
    header = JournalHeader(1 << 16, size, root, b"r" * 32, b"boot-id", "checksum")
    data = header.encode()
    assert len(data) == HEADER_BYTES
    assert JournalHeader.decode(data) == header


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=30), st.integers(0, 3000), st.data())
def test_a_damaged_journal_is_believed_up_to_the_damage_and_no_further(
    records: list[tuple[int, bool]], cut: int, data: st.DataObject
) -> None:
    written = HEADER.encode()
    states_after: list[dict[int, bytes]] = [{}]
    for index, dropped in records:
        digest = random.Random(index).randbytes(32)
        written += encode_record(HEADER.check, index, digest, dropped=dropped)
        now = dict(states_after[-1])
        if dropped:
            now.pop(index, None)
        else:
            now[index] = digest
        states_after.append(now)
    torn = bytearray(written[: max(HEADER_BYTES, len(written) - cut)])
    whole = (len(torn) - HEADER_BYTES) // RECORD_BYTES
    if whole and data.draw(st.booleans()):
        at = data.draw(st.integers(HEADER_BYTES, HEADER_BYTES + whole * RECORD_BYTES - 1))
        torn[at] ^= 0xFF
        whole = (at - HEADER_BYTES) // RECORD_BYTES
    journal = decode_journal(bytes(torn))
    assert {i: journal.table.digest(i) for i in journal.table.held_from(0)} == states_after[whole]
    assert journal.sound_bytes == HEADER_BYTES + whole * RECORD_BYTES


def test_records_of_another_journal_never_count() -> None:
    other = JournalHeader(MIB, 11 * MIB, None, bytes(32), b"boot")
    data = HEADER.encode() + encode_record(other.check, 0, bytes(32))
    assert decode_journal(data).table.count == 0


def test_an_index_far_beyond_the_records_costs_no_memory() -> None:
    data = HEADER.encode() + encode_record(HEADER.check, 1 << 39, bytes(32))
    assert decode_journal(data).table.count == 0


@pytest.mark.parametrize("data", [b"", b"x" * HEADER_BYTES, HEADER.encode()[:-1], HEADER.encode()[:-1] + b"\0"])
def test_a_journal_without_a_sound_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="journal"):
        decode_journal(data)


def test_the_window_grows_with_bandwidth_times_delay_up_to_its_limit() -> None:
    window = Window(64 * MIB, MIB)
    now = 0.0
    for _ in range(2000):  # 1 GiB/s with 50 ms of delay: what is on its way is 51 MiB
        now += 0.001
        window.arrived(MIB, now - 0.05, now)
    assert window.size_bytes == 64 * MIB


def test_the_window_stays_small_on_a_short_path() -> None:
    window = Window(64 * MIB, MIB)
    now = 0.0
    for _ in range(2000):
        now += 0.001
        window.arrived(MIB, now - 0.001, now)
    assert window.size_bytes == FIRST_BYTES


def test_a_window_holds_two_chunks_however_large_they_are() -> None:
    assert Window(4 * MIB, 16 * MIB).size_bytes == 32 * MIB


def test_a_chunk_overtaken_by_many_is_given_up_and_welcome_when_it_comes_late() -> None:
    ledger = Ledger(ChunkTable(), 1000, 1, Window(200, 1))
    ledger.ask(1, 0.0)
    for index in range(1, GAP + 1):
        assert ledger.take_in_hand(index)
        ledger.stored(index, bytes(32), 0.1)
    assert ledger.asked_again == 0
    assert ledger.take_in_hand(GAP + 1)
    assert ledger.take_in_hand(0)
    assert not ledger.take_in_hand(0)
    assert ledger.asked_bytes <= 200


def test_a_state_without_an_edge_refuses_the_event() -> None:
    with pytest.raises(states.LocalProtocolError, match="opening cannot take"):
        states.next_receiver_state(states.ReceiverState.OPENING, states.ReceiverEvent.PUBLISHED)
    with pytest.raises(states.LocalProtocolError, match="closed cannot take"):
        states.next_sender_state(states.SenderState.CLOSED, states.SenderEvent.CLOSE)


def test_diagrams_show_every_edge() -> None:
    drawn = states.diagram(states.RECEIVER)
    assert drawn.count("-->") >= len(states.RECEIVER)
    assert "[*] --> opening" in drawn
    assert "completed --> [*]" in drawn
    assert "serving --> failed: fail" in states.diagram(states.SENDER)


def pull(seq: int, *ranges: tuple[int, int], mark: bool = False) -> msg.Pull:
    return msg.Pull(STREAM, seq, ranges, mark, 0)


def test_a_mark_waits_for_what_is_in_work() -> None:
    sender = Sender(STREAM, 100, 10, 100)
    sender.pull(pull(1, (0, 2), mark=True))
    assert sender.next_work() == Serve(0)
    assert sender.next_work() == Serve(1)
    assert sender.next_work() is None
    sender.done(1)
    assert sender.next_work() is None
    sender.done(0)
    assert sender.next_work() == PutMark(1)
    assert sender.next_work() is None
    sender.mark_done()
    assert sender.next_work() is None


def test_a_repeat_of_what_is_still_queued_is_ignored() -> None:
    sender = Sender(STREAM, 100, 10, 100)
    sender.pull(pull(1, (0, 2)))
    sender.next_work()
    sender.pull(pull(2, (0, 3)))
    assert [sender.next_work(), sender.next_work(), sender.next_work()] == [Serve(1), Serve(2), None]


def test_asking_for_more_than_any_window_breaks_the_protocol() -> None:
    sender = Sender(STREAM, None, 10, 100)
    with pytest.raises(ProtocolError, match="more than 100"):
        sender.pull(pull(1, (0, 1 << 39)))


def test_asking_beyond_the_end_is_answered_by_the_end() -> None:
    sender = Sender(STREAM, 95, 10, 100)
    assert sender.pull(pull(1, (9, 2))) == msg.End(STREAM, 95)
    assert sender.next_work() == Serve(9)


def test_a_stream_waits_for_its_source_and_learns_its_end() -> None:
    sender = Sender(STREAM, None, 10, 100)
    sender.pull(pull(1, (0, 3)))
    assert sender.next_work() == Serve(0)
    sender.wait(0)
    assert sender.next_work() is None
    assert sender.wanted == 2
    assert sender.ended(5) == msg.End(STREAM, 5)
    assert sender.next_work() == Serve(0)
    sender.done(0)
    assert sender.next_work() is None
    sender.ask_root()
    assert sender.next_work() == HashNext()
    sender.root_sent()
    assert sender.next_work() is None


def test_workers_that_come_back_in_any_order_leave_the_order_as_it_was_asked_for() -> None:
    sender = Sender(STREAM, None, 10, 100)
    sender.pull(pull(1, (0, 4)))
    assert [sender.next_work() for _ in range(3)] == [Serve(0), Serve(1), Serve(2)]
    assert sender.wait(1) == 1
    assert sender.wait(0) == 0, "chunk 0 was asked for before: it is the one to wait for"
    assert sender.wait(2) == 0
    sender.available()
    assert [sender.next_work() for _ in range(4)] == [Serve(0), Serve(1), Serve(2), Serve(3)]


def test_a_chunk_that_lies_beyond_the_end_found_meanwhile_is_not_waited_for() -> None:
    sender = Sender(STREAM, None, 10, 100)
    sender.pull(pull(1, (0, 2)))
    assert [sender.next_work() for _ in range(2)] == [Serve(0), Serve(1)]
    assert sender.ended(10) == msg.End(STREAM, 10)
    assert sender.wait(1) is None
    assert sender.wait(0) == 0
    sender.available()
    assert sender.next_work() == Serve(0)
    sender.done(0)
    assert sender.next_work() is None


def test_a_closed_sender_serves_nothing() -> None:
    sender = Sender(STREAM, 100, 10, 100)
    sender.pull(pull(1, (0, 2)))
    sender.close()
    sender.fail()
    assert sender.next_work() is None
    assert sender.pull(pull(2, (0, 2))) is None
    assert sender.state is states.SenderState.CLOSED
