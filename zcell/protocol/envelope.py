"""The envelope: the first frame of every message. Invariant: a decoded envelope has valid names and values within bounds.

A message on a link is ``[envelope] [body] [buffer ...]``. The envelope is a msgpack array

    [version, kind, source, target, channel, topic, id, hops, budget_ms, rc, error, headers]

`kind` below 16 is routed by every cell on the way; kinds from 16 concern one link only and have their own form
(``[version, kind, {...}]``, see `encode_link` and `decode_link`). `budget_ms` is the time its sender still waits, relative, so that
clocks of two hosts are never compared; -1 when nobody waits. `id` is a number for messages and 16 bytes for a data stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import msgpack

from zcell.errors import ProtocolError
from zcell.fqcn import FQCN

VERSION = 1
MAX_HOPS = 32
MAX_ENVELOPE_BYTES = 64 * 1024
MAX_LINK_FRAME_BYTES = 4096
MAX_BATCH_BYTES = 256 * 1024
_MAX_TEXT = 255
_MAX_BUDGET_MS = 1 << 40


class Kind(IntEnum):
    """What a message is; the number travels."""

    REQUEST = 1
    REPLY = 2
    EVENT = 3
    DATA = 4
    CONTROL = 5
    """An event of zcell's own machinery (credit, progress): small, never queued behind work."""
    HELLO = 16
    CHALLENGE = 17
    PROVE = 18
    WELCOME = 19
    REFUSED = 20
    PING = 21
    PONG = 22
    CREDIT = 23
    BYE = 24
    BATCH = 25
    """Several small routed messages in one frame: what one end had to say at one moment."""


ROUTED = frozenset({Kind.REQUEST, Kind.REPLY, Kind.EVENT, Kind.DATA, Kind.CONTROL})
WORK = frozenset({Kind.REQUEST, Kind.EVENT})
"""Kinds that need link credit; the others are bounded by what was asked for."""
_BY_NUMBER: dict[int, Kind] = {int(k): k for k in Kind}


@dataclass(slots=True)
class Envelope:
    """One decoded envelope; see the module's text for the fields."""

    kind: Kind
    source: str
    target: str
    channel: str = ""
    topic: str = ""
    id: int | bytes = 0
    hops: int = MAX_HOPS
    budget_ms: int = -1
    rc: str = ""
    error: str = ""
    headers: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The frame. Raises `ValueError` when the headers cannot be packed or are too large."""
        try:
            data: bytes = msgpack.packb(
                [
                    VERSION,
                    int(self.kind),
                    self.source,
                    self.target,
                    self.channel,
                    self.topic,
                    self.id,
                    self.hops,
                    self.budget_ms,
                    self.rc,
                    self.error,
                    self.headers,
                ]
            )
        except (TypeError, ValueError, OverflowError) as e:
            raise ValueError(f"message headers must be a dict of plain values: {e}") from None
        if len(data) > MAX_ENVELOPE_BYTES:
            raise ValueError(f"message headers are too large: {len(data)} bytes of {MAX_ENVELOPE_BYTES}")
        return data


def kind_of(frame: bytes) -> int:
    """The kind of a first frame without decoding it; raises `ProtocolError` when it cannot be one."""
    # fixarray(12) or fixarray(3), then the version and the kind as positive fixints
    if len(frame) < 4 or frame[0] not in (0x9C, 0x93) or frame[1] != VERSION or frame[2] > 0x7F:
        raise ProtocolError("not a zcell frame of version 1")
    return frame[2]


def decode(frame: bytes) -> Envelope:
    """The envelope of a routed message. Raises `ProtocolError` for anything else."""
    if len(frame) > MAX_ENVELOPE_BYTES:
        raise ProtocolError(f"an envelope of {len(frame)} bytes; at most {MAX_ENVELOPE_BYTES} are allowed")
    try:
        fields = msgpack.unpackb(frame, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise ProtocolError(f"an envelope that is not msgpack: {type(e).__name__}") from None
    if type(fields) is not list or len(fields) != 12 or fields[0] != VERSION:
        raise ProtocolError("an envelope that is not a list of 12 with version 1")
    _, number, source, target, channel, topic, id_, hops, budget_ms, rc, error, headers = fields
    kind = _BY_NUMBER.get(number) if type(number) is int else None
    if kind is None or kind not in ROUTED:
        raise ProtocolError(f"an envelope of the unknown kind {number!r}")
    _check_names(source, target)
    _check_texts(channel, topic, rc)
    if type(error) is not str or type(headers) is not dict:
        raise ProtocolError("an envelope whose error or headers have the wrong type")
    if type(hops) is not int or not 0 <= hops <= MAX_HOPS:
        raise ProtocolError(f"an envelope with {hops!r} hops")
    if type(budget_ms) is not int or not -1 <= budget_ms <= _MAX_BUDGET_MS:
        raise ProtocolError(f"an envelope with the time budget {budget_ms!r}")
    if kind is Kind.DATA:
        if type(id_) is not bytes or len(id_) != 16:
            raise ProtocolError("a data envelope without a 16-byte stream id")
    elif type(id_) is not int or not 0 <= id_ < 1 << 64:
        raise ProtocolError("an envelope without a 64-bit id")
    return Envelope(kind, source, target, channel, topic, id_, hops, budget_ms, rc, error, headers)


def _check_names(source: Any, target: Any) -> None:
    if not FQCN.is_valid(source) or not FQCN.is_valid(target):
        raise ProtocolError("an envelope whose source or target is not a cell name")


def _check_texts(*texts: Any) -> None:
    for text in texts:
        if type(text) is not str or len(text) > _MAX_TEXT:
            raise ProtocolError("an envelope whose channel, topic or return code is not a short string")


def encode_link(kind: Kind, fields: dict[str, Any]) -> bytes:
    """A frame between two neighbours."""
    return bytes(msgpack.packb([VERSION, int(kind), fields]))


def decode_link(frame: bytes) -> tuple[Kind, dict[str, Any]]:
    """Kind and fields of a frame between two neighbours. Raises `ProtocolError`; values are checked by who uses them."""
    if len(frame) > MAX_LINK_FRAME_BYTES:
        raise ProtocolError(f"a link frame of {len(frame)} bytes; at most {MAX_LINK_FRAME_BYTES} are allowed")
    try:
        decoded = msgpack.unpackb(frame, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise ProtocolError(f"a link frame that is not msgpack: {type(e).__name__}") from None
    if type(decoded) is not list or len(decoded) != 3 or decoded[0] != VERSION or type(decoded[2]) is not dict:
        raise ProtocolError("a link frame that is not [version, kind, fields]")
    kind = _BY_NUMBER.get(decoded[1]) if type(decoded[1]) is int else None
    if kind is None or kind in ROUTED:
        raise ProtocolError(f"a link frame of the unknown kind {decoded[1]!r}")
    return kind, decoded[2]


def encode_batch(parts: list[bytes]) -> bytes:
    """A frame of several messages; `parts` alternates their envelopes and bodies."""
    return bytes(msgpack.packb([VERSION, int(Kind.BATCH), parts]))


def decode_batch(frame: bytes) -> list[bytes]:
    """The alternating envelopes and bodies of a batch. Raises `ProtocolError` when it is not one."""
    if len(frame) > MAX_BATCH_BYTES:
        raise ProtocolError(f"a batch of {len(frame)} bytes; at most {MAX_BATCH_BYTES} are allowed")
    try:
        decoded = msgpack.unpackb(frame, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as e:
        raise ProtocolError(f"a batch that is not msgpack: {type(e).__name__}") from None
    if type(decoded) is not list or len(decoded) != 3 or decoded[:2] != [VERSION, Kind.BATCH] or type(decoded[2]) is not list:
        raise ProtocolError("a batch that is not [version, kind, parts]")
    parts: list[bytes] = decoded[2]
    if len(parts) % 2 or not all(type(x) is bytes for x in parts):
        raise ProtocolError("a batch whose parts are not pairs of bytes")
    return parts
