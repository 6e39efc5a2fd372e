"""Envelopes and link frames: what one end writes the other reads, and any other bytes are a protocol error."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zcell.errors import ProtocolError
from zcell.protocol.envelope import (
    MAX_ENVELOPE_BYTES,
    MAX_HOPS,
    MAX_LINK_FRAME_BYTES,
    ROUTED,
    VERSION,
    Envelope,
    Kind,
    decode,
    decode_batch,
    decode_link,
    encode_batch,
    encode_link,
    kind_of,
)

NAMES = st.sampled_from(["server", "site-1", "site-1.job-7", "a.b.c.d.e.f"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXTS | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(0, 5), inner, max_size=3),
    max_leaves=6,
)
ENVELOPES = st.builds(
    Envelope,
    kind=st.sampled_from([Kind.REQUEST, Kind.REPLY, Kind.EVENT, Kind.CONTROL]),
    source=NAMES,
    target=NAMES,
    channel=TEXTS,
    topic=TEXTS,
    id=st.integers(0, 2**64 - 1),
    hops=st.integers(0, MAX_HOPS),
    budget_ms=st.integers(-1, 2**40),
    rc=TEXTS,
    error=TEXTS,
    headers=st.dictionaries(TEXTS, PLAIN, max_size=4),
)


@given(ENVELOPES)
def test_an_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    frame = envelope.encode()
    assert kind_of(frame) == envelope.kind
    assert decode(frame) == envelope


def test_a_data_envelope_carries_a_stream_id() -> None:
    envelope = Envelope(Kind.DATA, "a", "b", id=bytes(range(16)))
    assert decode(envelope.encode()) == envelope


def test_headers_that_cannot_travel_are_refused_by_the_sender() -> None:
    for headers in ({"x": object()}, {"x": "y" * MAX_ENVELOPE_BYTES}, {"x": 2**70}):
        with pytest.raises(ValueError, match="headers"):
            Envelope(Kind.REQUEST, "a", "b", headers=headers).encode()


def fields_of(**changes: Any) -> list[Any]:
    names = ["version", "kind", "source", "target", "channel", "topic", "id", "hops", "budget_ms", "rc", "error", "headers"]
    values: dict[str, Any] = dict(zip(names, [VERSION, 1, "a", "b", "c", "t", 5, 3, 100, "", "", {}], strict=True))
    values.update(changes)
    return list(values.values())


WRONG: dict[str, list[Any]] = {
    "version": [0, 2, "1", None],
    "kind": [0, 6, 16, 99, -1, "1", None, True, 1.0],
    "source": ["", "a b", 7, None, b"a", "x" * 300, "a\n", "."],
    "target": ["", "a..b", ["a"], None],
    "channel": [7, None, "x" * 256, b"c"],
    "topic": [7, None, "x" * 256],
    "id": [-1, 1.5, "5", None, b"x" * 16, True],
    "hops": [-1, MAX_HOPS + 1, "3", None, 1.0, True],
    "budget_ms": [-2, 2**41, "x", None, 0.5],
    "rc": [7, None, "x" * 256],
    "error": [7, None, b"x"],
    "headers": [None, [], "x", 7],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in WRONG.items() for v in values])
def test_a_wrong_field_is_a_protocol_error(field: str, value: Any) -> None:
    assert decode(msgpack.packb(fields_of())).source == "a"
    with pytest.raises(ProtocolError):
        decode(msgpack.packb(fields_of(**{field: value})))


@pytest.mark.parametrize("id_", [5, b"", bytes(15), bytes(17), "x" * 16])
def test_a_data_envelope_without_a_stream_id_is_a_protocol_error(id_: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(msgpack.packb(fields_of(kind=int(Kind.DATA), id=id_)))


def test_oversize_frames_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ProtocolError, match=str(MAX_ENVELOPE_BYTES)):
        decode(msgpack.packb(fields_of(error="x" * MAX_ENVELOPE_BYTES)))
    with pytest.raises(ProtocolError, match=str(MAX_LINK_FRAME_BYTES)):
        decode_link(encode_link(Kind.BYE, {"reason": "x" * MAX_LINK_FRAME_BYTES}))


@given(st.binary(max_size=300))
@example(b"\x9c" + b"\x01" * 11 + b"\x80")
@example(b"\x93\x01\x10\x80")
@example(b"\xdc\xff\xff")
@example(b"\x9c\x01\x01" + b"\x91" * 60_000)
@example(b"\x93\x01\x10" + b"\x91" * 3000 + b"\xc0")
@example(msgpack.packb(fields_of()) + b"x")
@example(msgpack.packb(fields_of(headers={"t": msgpack.Timestamp(1, 2)})))
def test_any_bytes_decode_or_are_a_protocol_error(data: bytes) -> None:
    for read in (kind_of, decode, decode_link, decode_batch):
        try:
            read(data)
        except ProtocolError:
            continue


@given(ENVELOPES, st.data())
def test_altered_and_cut_envelopes_decode_or_are_a_protocol_error(envelope: Envelope, data: st.DataObject) -> None:
    frame = bytearray(envelope.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    for piece in (bytes(frame), bytes(frame[: data.draw(st.integers(0, len(frame)))])):
        try:
            again = decode(piece)
        except ProtocolError:
            continue
        assert again.kind in ROUTED
        assert decode(again.encode()).source == again.source


def test_what_was_decoded_can_be_forwarded() -> None:
    """A relay writes the envelope anew: what it accepts it must be able to send on."""
    deep: Any = 1
    for _ in range(600):
        deep = [deep]
    frame = msgpack.Packer(autoreset=True).pack(fields_of())
    assert decode(frame).encode()
    nested = b"\x9c" + b"".join(msgpack.packb(v) for v in fields_of()[:11]) + b"\x81\xa1x" + b"\x91" * 600 + b"\x01"
    try:
        envelope = decode(nested)
    except ProtocolError:
        return
    assert envelope.encode()


@given(st.sampled_from([k for k in Kind if k not in ROUTED and k is not Kind.BATCH]), st.dictionaries(TEXTS, PLAIN, max_size=4))
def test_link_frames_come_back_as_they_were(kind: Kind, fields: dict[str, Any]) -> None:
    frame = encode_link(kind, fields)
    try:
        back = decode_link(frame)
    except ProtocolError:  # maps whose keys are no text stay out of link frames
        return
    assert back == (kind, fields)


@pytest.mark.parametrize(
    "value", [[1, 16], [1, 16, {}, 1], [2, 16, {}], [1, 1, {}], [1, 99, {}], [1, "16", {}], [1, 16, []], {}, 7]
)
def test_a_malformed_link_frame_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_link(msgpack.packb(value))


@given(st.lists(st.binary(max_size=50), max_size=10).map(lambda x: x[: len(x) // 2 * 2]))
def test_a_batch_comes_back_as_it_was(parts: list[bytes]) -> None:
    assert decode_batch(encode_batch(parts)) == parts


@pytest.mark.parametrize("parts", [[b"x"], ["x", "y"], [1, 2], [b"x", None], {}, None, [[b"x"], [b"y"]]])
def test_a_malformed_batch_is_a_protocol_error(parts: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_batch(msgpack.packb([VERSION, int(Kind.BATCH), parts]))
