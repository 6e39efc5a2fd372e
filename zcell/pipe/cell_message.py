"""A message as a cell's payload, and back. Invariant owned here: what is large is offered once, however often it is sent."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from zcell.abort import Abort
from zcell.cell.cell import Cell
from zcell.cell.payloads import LazyRef
from zcell.codec import Buffer, RefTarget
from zcell.errors import CodecError, DownloadError
from zcell.pipe.message import TTL, Message, Topic
from zcell.pipe.offering import Offering
from zcell.pipe.shared_file import files_fetched_by, files_offered_by

_log = logging.getLogger("zcell.pipe.cell")
DEFAULT_TTL = 60.0
"""Seconds without activity after which an object sent by reference is no longer offered, unless the message says otherwise."""
_MAX_PATIENCE = 86400.0
SMALL_BYTES = 16384
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
    """Encode `message` once. Buffers above `limits.inline_bytes` become refs; all of them when the rest would be too large.

    Raises `CodecError` for data that cannot travel; nothing stays on offer then.
    """
    limits = cell.limits
    headers = {TTL: DEFAULT_TTL, **message.headers}
    headers[_PASS_THROUGH] = bool(headers.get(_PASS_THROUGH, pass_through))
    receivers = headers.pop(_RECEIVERS, None) or (1 if headers[_PASS_THROUGH] else [peer])
    offering = Offering(cell, receivers, float(headers[TTL]), message.offer_watch)
    try:
        body, buffers = _encode_data(cell, message.data, limits.inline_bytes, offering)
        if len(body) + sum(memoryview(b).nbytes for b in buffers) > limits.message_bytes // 2:
            offering.withdraw()
            offering = Offering(cell, receivers, float(headers[TTL]), message.offer_watch)
            body, buffers = _encode_data(cell, message.data, limits.out_of_band_bytes, offering)
        parts: list[Any] = [memoryview(b) for b in buffers]
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
    }
    small = not parts and len(body) <= SMALL_BYTES and len(str(headers)) <= SMALL_BYTES
    return EncodedMessage(payload, offering, small)


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


def parse(topic: str, payload: Any) -> tuple[ReceivedMessage, str]:
    """The undecoded message of `payload`, and the incarnation it came from. Raises `ValueError` for anything else."""
    try:
        headers, session, body, buffers = payload["h"], payload["s"], payload["b"], payload["v"]
        message = Message(payload["t"], topic, None, payload["i"], payload["r"], dict(headers))
    except (TypeError, KeyError) as e:
        raise ValueError(f"a pipe message without {e}") from None
    if topic in (Topic.PEER_GONE, Topic.HEARTBEAT):
        raise ValueError(f"the topic {topic!r} is not sent")
    if not isinstance(session, str) or not isinstance(buffers, list) or isinstance(body, str | dict | int | None):
        raise ValueError("a pipe message with malformed fields")
    return ReceivedMessage(message, body, buffers), session


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
        with files_fetched_by(cell):
            if message.headers.get(_PASS_THROUGH):
                message.data = cell.codec.decode(body, buffers, lazy=lambda value: LazyRef(cell, value))
            else:
                message.data = cell.codec.decode(body, buffers, fetch=fetch)
    except (CodecError, DownloadError, TypeError) as e:
        message.error = f"the data of {message.topic!r} could not be had: {e}"
        _log.warning("message %s: %s", message.msg_id, message.error)
    return message


def _target(value: list[Any]) -> RefTarget:
    if len(value) != 3 or not isinstance(value[0], str) or not isinstance(value[1], str):
        raise CodecError("a pipe message with a malformed reference")
    return RefTarget((value[0], value[1], value[2]))
