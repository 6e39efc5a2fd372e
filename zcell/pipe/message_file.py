"""A message as a file. Invariant owned here: no length in a file is believed before it adds up to the file's size.

Layout, little endian: magic ``ZPM1``, u32 length of the header; the header, a msgpack list of [type, topic, msg_id, req_id,
headers, body length, [buffer lengths]]; the body; the buffers, one after the other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from zcell import codec
from zcell.errors import CodecError, ProtocolError
from zcell.pipe.message import Message
from zcell.pipe.standing import Standing

_PREFIX = struct.Struct("<4sI")
_MAGIC = b"ZPM1"
_MAX_HEADER = 1 << 20
_SLICE = 8 << 20


@dataclass(slots=True)
class EncodedMessage:
    """What `put` writes into a file; buffers are the message's own, uncopied."""

    head: bytes
    body: bytes
    buffers: Sequence[codec.Buffer]
    standing: Standing | None = None
    """The sender's, when it began."""

    def slices(self) -> Iterator[memoryview]:
        """The file's content in pieces of at most 8 MiB."""
        for part in (self.head, self.body, *self.buffers):
            view = memoryview(part).cast("B")
            for start in range(0, len(view), _SLICE):
                yield view[start : start + _SLICE]


def encode(message: Message) -> EncodedMessage:
    """Raises `CodecError` for data that cannot travel."""
    body, buffers = codec.encode(message.data)
    lengths = [memoryview(b).nbytes for b in buffers]
    fields = [str(message.msg_type), message.topic, message.msg_id, message.req_id, message.headers, len(body), lengths]
    header = msgpack.packb(fields)
    return EncodedMessage(_PREFIX.pack(_MAGIC, len(header)) + header, body, buffers)


def put(encoded: EncodedMessage, directory: Path, stem: str, is_given_up: Callable[[], bool]) -> bool:
    """Put `encoded` there as ``STEM.msg``, a name that it gets when all of it is on disk; False as soon as it `is_given_up`.

    Raises `OSError`, and leaves nothing then.
    """
    hidden = directory / f".{stem}.tmp"
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for piece in encoded.slices():
            while piece:
                piece = piece[os.write(fd, piece) :]
            if is_given_up():
                return False
        os.fsync(fd)
        hidden.rename(directory / f"{stem}.msg")
    finally:
        os.close(fd)
        hidden.unlink(missing_ok=True)
    return True


def take(path: Path) -> Message:
    """The message in file `path`, which is removed. Raises `OSError`, and what `read` raises."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        path.unlink()  # the open file stays readable; should this process die now, nothing is left
        return read(fd)
    finally:
        os.close(fd)


def read(fd: int) -> Message:
    """The message in file `fd`. Raises `ProtocolError` for a file that is none; data that cannot be decoded is an `error`."""
    size = os.fstat(fd).st_size
    header, offset = _read_header(fd, size)
    try:
        kind, topic, msg_id, req_id, headers, body_length, lengths = header
        total = offset + sum(_length(n) for n in (body_length, *lengths))
        message = Message(kind, topic, None, msg_id, req_id, dict(headers))
    except (TypeError, ValueError) as e:
        raise ProtocolError(f"a message file with a malformed header: {e}") from None
    if total != size:
        raise ProtocolError(f"a message file of {size} bytes whose header adds up to {total}")
    body = _read_exactly(fd, body_length, offset)
    buffers: list[codec.Buffer] = []
    offset += body_length
    for length in lengths:
        buffers.append(_read_exactly(fd, length, offset))
        offset += length
    try:
        message.data = codec.decode(body, buffers)
    except CodecError as e:
        message.error = str(e)
    return message


def _read_header(fd: int, size: int) -> tuple[Any, int]:
    prefix = os.pread(fd, _PREFIX.size, 0)
    if len(prefix) < _PREFIX.size:
        raise ProtocolError(f"a message file of only {size} bytes")
    magic, length = _PREFIX.unpack(prefix)
    if magic != _MAGIC or not 0 < length <= min(_MAX_HEADER, size):
        raise ProtocolError("a file that does not start as a message")
    try:
        fields = msgpack.unpackb(_read_exactly(fd, length, _PREFIX.size))
    except (ValueError, msgpack.UnpackException) as e:
        raise ProtocolError(f"a message file with a malformed header: {e}") from None
    return fields, _PREFIX.size + length


def _length(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a length")
    return value


def _read_exactly(fd: int, length: int, offset: int) -> bytearray:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        count = os.preadv(fd, [view[done:]], offset + done)
        if not count:
            raise ProtocolError("a message file that ends early")
        done += count
    return data
