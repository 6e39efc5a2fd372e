"""A message as a cell's payload, and back. Invariant owned here: what is large is offered once, however often it is sent.

Where many buffers that are small enough for a message are too much for it together, they travel as packs: refs of some MiB each,
since a transfer of its own for each of the thousand arrays of a model would take longer than its bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zcell.abort import Abort
from zcell.cell.cell import Cell
from zcell.cell.payloads import LazyRef
from zcell.codec import Buffer, RefTarget
from zcell.download.sources import piece_offsets
from zcell.errors import CodecError, DownloadError
from zcell.limits import MIB
from zcell.pipe.message import TTL, Message, Topic
from zcell.pipe.offering import Offering
from zcell.pipe.shared_file import files_fetched_by, files_offered_by

_log = logging.getLogger("zcell.pipe.cell")
DEFAULT_TTL = 60.0
"""Seconds without activity after which an object sent by reference is no longer offered, unless the message says otherwise."""
_MAX_PATIENCE = 86400.0
SMALL_BYTES = 16384
PACK_BYTES = 16 * MIB
"""Buffers in one pack: an array that is kept keeps its pack in memory."""
_PASS_THROUGH, _RECEIVERS = "pass_through", "receivers"


@dataclass(slots=True)
class EncodedMessage:
    """The payload that is sent, the same at every attempt, and the objects it refers to."""

    payload: dict[str, Any]
    offering: Offering
    is_small: bool = False
    """Whether it fits a handler that runs on the cell's own thread."""
    taken: bool = False


def encode(cell: Cell, message: Message, peer: str, session: str, pass_through: bool) -> EncodedMessage:
    """Encode `message` once. Buffers above `limits.inline_bytes` become refs, and the others packs when they are too much together.

    What is passed through has no packs: there each buffer is fetched by whoever needs it. Raises `CodecError` for data that cannot
    travel; nothing stays on offer then.
    """
    limits = cell.limits
    headers = {TTL: DEFAULT_TTL, **message.headers}
    headers[_PASS_THROUGH] = bool(headers.get(_PASS_THROUGH, pass_through))
    receivers = headers.pop(_RECEIVERS, None) or (1 if headers[_PASS_THROUGH] else [peer])
    offering = Offering(cell, receivers, float(headers[TTL]), message.offer_watch)
    packs: list[Any] = []
    try:
        body, buffers = _encode_data(cell, message.data, limits.inline_bytes, offering)
        parts: list[Any] = [memoryview(b) for b in buffers]
        if len(body) + sum(part.nbytes for part in parts) > limits.message_bytes // 2:
            if headers[_PASS_THROUGH]:
                offering.withdraw()
                offering = Offering(cell, receivers, float(headers[TTL]), message.offer_watch)
                body, buffers = _encode_data(cell, message.data, limits.out_of_band_bytes, offering)
                parts = [memoryview(b) for b in buffers]
            else:
                packs, parts = _pack(parts, offering), []
        whole = list(offering.add(memoryview(body))) if len(body) > limits.inline_bytes else memoryview(body)
        offering.announce()
    except BaseException:
        offering.withdraw()
        raise
    payload = {
        "t": str(message.msg_type),
        "i": message.msg_id,
        "r": message.req_id,
        "h": headers,
        "s": session,
        "b": whole,
        "v": parts,
        "p": packs,
    }
    small = not (parts or packs) and len(body) <= SMALL_BYTES and len(str(headers)) <= SMALL_BYTES
    return EncodedMessage(payload, offering, small)


def _pack(parts: list[memoryview], offering: Offering) -> list[Any]:
    """``[target, sizes]`` of each pack, in the order of the buffers."""
    packs: list[list[memoryview]] = []
    room = 0
    for part in parts:
        if part.nbytes > room:
            packs.append([])
            room = PACK_BYTES
        packs[-1].append(part)
        room -= part.nbytes
    return [[list(offering.add_pieces(pack)), [part.nbytes for part in pack]] for pack in packs]


def _encode_data(cell: Cell, data: Any, reference_over: int, offering: Offering) -> tuple[bytes, list[Buffer]]:
    with files_offered_by(offering):
        return cell.codec.encode(
            data,
            out_of_band_bytes=cell.limits.out_of_band_bytes,
            reference_over=reference_over,
            make_reference=offering.add,
        )


@dataclass(slots=True)
class ReceivedMessage:
    """A message that arrived and is not decoded yet."""

    message: Message
    body: Any
    buffers: list[Any]
    packs: Sequence[Any] = ()


def parse(topic: str, payload: Any) -> tuple[ReceivedMessage, str]:
    """The undecoded message of `payload`, and the incarnation it came from. Raises `ValueError` for anything else."""
    try:
        headers, session, body, buffers, packs = (payload[name] for name in ("h", "s", "b", "v", "p"))
        message = Message(payload["t"], topic, None, payload["i"], payload["r"], dict(headers))
    except (TypeError, KeyError) as e:
        raise ValueError(f"a pipe message without {e}") from None
    if topic in (Topic.PEER_GONE, Topic.HEARTBEAT):
        raise ValueError(f"the topic {topic!r} is not sent")
    lists = isinstance(buffers, list) and isinstance(packs, list)
    if not isinstance(session, str) or not lists or isinstance(body, str | dict | int | None):
        raise ValueError("a pipe message with malformed fields")
    return ReceivedMessage(message, body, buffers, packs), session


def decode(cell: Cell, received: ReceivedMessage, abort: Abort) -> Message:
    """The message with its data: what was sent by reference is fetched now, or becomes `LazyRef`s when passed through.

    Data that cannot be had is an `error` of the message, which says why.
    """
    message = received.message
    ttl = message.headers.get(TTL, DEFAULT_TTL)
    idle = float(ttl) if isinstance(ttl, int | float) and 0 < ttl < _MAX_PATIENCE else DEFAULT_TTL

    def fetch(target: RefTarget) -> Buffer:
        owner, ref_id, _ = target
        data: Buffer = cell.downloads.fetch_bytes(owner, ref_id, idle_timeout=idle, abort=abort)
        return data

    try:
        body = received.body
        if isinstance(body, list):
            body = fetch(_target(body))
        buffers = [memoryview(b) for b in received.buffers]
        for pack in received.packs:
            buffers += _unpack(pack, fetch)
        with files_fetched_by(cell):
            if message.headers.get(_PASS_THROUGH):
                message.data = cell.codec.decode(body, buffers, lazy=lambda value: LazyRef(cell, value))
            else:
                message.data = cell.codec.decode(body, buffers, fetch=fetch)
    except (CodecError, DownloadError, TypeError) as e:
        message.error = f"the data of {message.topic!r} could not be had: {e}"
        _log.warning("message %s: %s", message.msg_id, message.error)
    return message


def _unpack(pack: Any, fetch: Callable[[RefTarget], Buffer]) -> list[memoryview]:
    """The buffers of one pack, as parts of what was fetched."""
    if not (isinstance(pack, list) and len(pack) == 2 and all(isinstance(part, list) for part in pack)):
        raise CodecError("a pipe message with a malformed pack")
    target, sizes = _target(pack[0]), pack[1]
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise CodecError("a pipe message with a pack of malformed sizes")
    whole = memoryview(fetch(target))
    offsets, length = piece_offsets(sizes)
    if length != whole.nbytes:
        raise CodecError(f"a pack of {whole.nbytes} bytes where the message says {length}")
    return [whole[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


def _target(value: list[Any]) -> RefTarget:
    if len(value) != 3 or not isinstance(value[0], str) or not isinstance(value[1], str):
        raise CodecError("a pipe message with a malformed reference")
    return RefTarget((value[0], value[1], value[2]))
