"""Deflate, inflate and CRC-32 from the fastest library that is installed. Invariant: raw deflate streams only (RFC 1951), and
whichever library is used, the other one reads what it wrote."""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import Any, Protocol

_RAW = -zlib.MAX_WBITS


def _load() -> tuple[str, Any, int]:
    """Name, module (both have the interface of `zlib`) and the level at which speed still counts most."""
    try:
        return "isal", import_module("isal.isal_zlib"), 2
    except ImportError:  # no wheel for this platform
        return "zlib", zlib, 1


LIBRARY, _codec, _LEVEL = _load()
INFLATE_ERRORS: tuple[type[Exception], ...] = (_codec.error,)


class Deflater(Protocol):
    """Compresses one stream, piece by piece."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Inflater(Protocol):
    """Decompresses one stream, with at most `max_length` bytes out of each call."""

    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int = 0, /) -> bytes: ...


def deflater() -> Deflater:
    """A compressor of one stream."""
    stream: Deflater = _codec.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    return stream


def inflater() -> Inflater:
    """A decompressor of one stream. Its `decompress` raises one of `INFLATE_ERRORS` for bytes that are no deflate stream."""
    stream: Inflater = _codec.decompressobj(_RAW)
    return stream


def deflate(data: bytes | memoryview) -> bytes:
    """`data` as one whole stream."""
    packed: bytes = _codec.compress(data, _LEVEL, _RAW)
    return packed


def crc32(data: bytes | memoryview, value: int = 0) -> int:
    """CRC-32 of `data`, continued from `value`."""
    crc: int = _codec.crc32(data, value)
    return crc
