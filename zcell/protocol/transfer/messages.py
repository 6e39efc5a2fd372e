"""What the two ends of a transfer say to each other on the control lane. Invariant: a message object holds only checked values.

Every message is a frozen dataclass with a `topic`; `to_payload` gives what the codec carries (a dict of plain values) and
`parse` checks what came from the network, field by field, and raises `ProtocolError` naming the field. Marks travel on the
data lane instead, between the chunks: `encode_mark`, `parse_mark`.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, ClassVar, TypeVar

from zcell.errors import DownloadError, ProtocolError
from zcell.protocol.transfer.chunks import DIGEST_BYTES, MAX_CHUNKS

CHANNEL = "zcell.transfer"
STREAM_BYTES = 16
MAX_TEXT = 2000
MAX_RANGES = 1024
_MAX_INT = 2**63 - 1
_MARK = struct.Struct("<4sIQ")
_MARK_MAGIC = b"ZCM1"

M = TypeVar("M", bound="Message")


class Message:
    """Base of all messages."""

    topic: ClassVar[str]
    bounds: ClassVar[dict[str, int]] = {}
    """Largest value of an int field, or greatest length of a str or bytes field, where it is not the default."""

    def to_payload(self) -> dict[str, Any]:
        """The message as plain values. A message holds no mutable state, so they may be shared."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, slots=True)
class Open(Message):
    """Receiver asks for a description and opens a stream. `verify` is tree or checksum."""

    topic: ClassVar[str] = "open"
    ref_id: str
    stream: bytes
    verify: str = "tree"


@dataclasses.dataclass(frozen=True, slots=True)
class Description(Message):
    """Sender's answer to `Open`. `failure` is a `DownloadError` reason, or "" when the object can be had.

    `kind` is bytes or steps; `size` and `root` are None while unknown; `random_access` is about steps.
    """

    topic: ClassVar[str] = "description"
    kind: str = "bytes"
    name: str = ""
    size: int | None = None
    root: bytes | None = None
    chunk_bytes: int = 1 << 20
    random_access: bool = False
    failure: str = ""
    text: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Pull(Message):
    """Receiver asks for `ranges` of (first, count). `mark`: put mark `seq` behind them. All below `floor` is stored."""

    topic: ClassVar[str] = "pull"
    stream: bytes
    seq: int
    ranges: tuple[tuple[int, int], ...]
    mark: bool
    floor: int


@dataclasses.dataclass(frozen=True, slots=True)
class AskRoot(Message):
    """Receiver asks for the root over all chunks, which the sender may have to hash first."""

    topic: ClassVar[str] = "ask_root"
    stream: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Close(Message):
    """Receiver gave up the stream; its last word on progress. `failure` is a `DownloadError` reason."""

    topic: ClassVar[str] = "close"
    stream: bytes
    sequence: int
    bytes_done: int
    items_done: int
    failure: str
    text: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress(Message):
    """Receiver tells how far it is, and that it is alive. `sequence` grows."""

    topic: ClassVar[str] = "progress"
    stream: bytes
    sequence: int
    bytes_done: int
    items_done: int
    bytes_total: int | None
    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class Digests(Message):
    """Receiver asks for `count` chunk digests from `first` on (answered by their bytes, one after the other)."""

    topic: ClassVar[str] = "digests"
    bounds: ClassVar[dict[str, int]] = {"count": 1 << 14}
    stream: bytes
    first: int
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Done(Message):
    """Receiver says that it stored and verified a ref; its last word on progress. Idempotent."""

    topic: ClassVar[str] = "done"
    ref_id: str
    stream: bytes
    sequence: int
    bytes_done: int
    items_done: int


@dataclasses.dataclass(frozen=True, slots=True)
class Root(Message):
    """Sender: the object has `size` bytes and this root; None when the receiver verifies by checksum."""

    topic: ClassVar[str] = "root"
    stream: bytes
    size: int
    root: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Busy(Message):
    """Sender is still hashing for the root: `work` grows while it does."""

    topic: ClassVar[str] = "busy"
    stream: bytes
    work: int


@dataclasses.dataclass(frozen=True, slots=True)
class End(Message):
    """Sender: the stream turned out to have `size` bytes."""

    topic: ClassVar[str] = "end"
    stream: bytes
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFailed(Message):
    """Sender cannot go on. `failure` is a `DownloadError` reason."""

    topic: ClassVar[str] = "source_failed"
    stream: bytes
    failure: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class UnknownStream(Message):
    """Sender does not know the stream, as after a restart: the receiver opens again."""

    topic: ClassVar[str] = "unknown_stream"
    stream: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Step(Message):
    """Receiver asks a producer for one step. `state` is what the last step returned; `step` its number."""

    topic: ClassVar[str] = "step"
    ref_id: str
    stream: bytes
    step: int
    state: dict[Any, Any] | None


_CHOICES = {
    "verify": ("tree", "checksum"),
    "kind": ("bytes", "steps"),
    "state": ("ACTIVE", "COMPLETED", "FAILED", "ABORTED"),
    "failure": ("", *sorted(DownloadError.REASONS)),
}
_LENGTHS = {"stream": STREAM_BYTES, "root": DIGEST_BYTES}
_MOST = {"text": MAX_TEXT, "ref_id": 128, "name": 255, "floor": MAX_CHUNKS, "first": MAX_CHUNKS, "step": MAX_CHUNKS}


def parse(kind: type[M], payload: object) -> M:
    """A message of class `kind` from what the codec decoded, or `ProtocolError` naming the message and the field."""
    if not isinstance(payload, dict):
        raise ProtocolError(f"{kind.topic}: expected a dict, got {type(payload).__name__}")
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name not in payload:
            if item.default is dataclasses.MISSING:
                raise ProtocolError(f"{kind.topic}: {item.name} is missing")
            continue
        values[item.name] = _checked(kind, item.name, str(item.type), payload[item.name])
    return kind(**values)


def _checked(kind: type[Message], name: str, wanted: str, value: Any) -> Any:
    if value is None and wanted.endswith("| None"):
        return None
    if name == "ranges":
        return _ranges(kind, value)
    base = wanted.removesuffix(" | None")
    plain: type = {"int": int, "str": str, "bytes": bytes, "bool": bool, "dict[Any, Any]": dict}[base]
    fits: bool = type(value) is plain
    if not fits:
        raise ProtocolError(f"{kind.topic}: {name} must be {wanted}, got {type(value).__name__}")
    if plain is int and not 0 <= value <= kind.bounds.get(name, _MOST.get(name, _MAX_INT)):
        raise ProtocolError(f"{kind.topic}: {name} is out of range: {value}")
    if plain is bytes and len(value) != _LENGTHS[name]:
        raise ProtocolError(f"{kind.topic}: {name} must be {_LENGTHS[name]} bytes, got {len(value)}")
    if plain is str and name in _CHOICES and value not in _CHOICES[name]:
        raise ProtocolError(f"{kind.topic}: {name} must be one of {_CHOICES[name]}, got {value[:40]!r}")
    if plain is str and len(value) > _MOST.get(name, MAX_TEXT):
        raise ProtocolError(
            f"{kind.topic}: {name} has {len(value)} characters, at most {_MOST.get(name, MAX_TEXT)} are allowed"
        )
    return value


def _ranges(kind: type[Message], value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_RANGES:
        raise ProtocolError(f"{kind.topic}: ranges must be a list of at most {MAX_RANGES} pairs")
    checked = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(x) is int for x in pair):
            raise ProtocolError(f"{kind.topic}: a range must be (first, count)")
        first, count = pair
        if first < 0 or count < 1 or first + count > MAX_CHUNKS:
            raise ProtocolError(f"{kind.topic}: range ({first}, {count}) is out of bounds")
        checked.append((first, count))
    return tuple(checked)


def encode_mark(seq: int) -> bytes:
    """A mark for the data lane: 16 bytes, magic ``ZCM1``, reserved u32 0, u64 seq, little endian."""
    return _MARK.pack(_MARK_MAGIC, 0, seq)


def parse_mark(frame: bytes | memoryview) -> int | None:
    """The seq of a mark, or None when the frame is something else (a chunk)."""
    if len(frame) != _MARK.size or bytes(frame[:4]) != _MARK_MAGIC:
        return None
    seq: int = _MARK.unpack(frame)[2]
    return seq
