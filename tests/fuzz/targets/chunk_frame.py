"""Any bytes are a chunk whose fields are in range and which encodes back to the same bytes, or a protocol error."""

from __future__ import annotations

import os

from zcell._native import chunk
from zcell.errors import ProtocolError

MAX_LENGTH = 1 << 20


def one_input(data: bytes) -> None:
    try:
        parsed = chunk.parse(data, max_length=MAX_LENGTH)
    except ProtocolError:
        return
    assert parsed.length == len(data) - chunk.HEADER_BYTES <= MAX_LENGTH
    assert parsed.offset + parsed.length < 1 << 63
    payload = bytes(parsed.payload)
    fd = os.memfd_create("stored")
    try:
        chunk.store(fd, data, tree=True, max_length=MAX_LENGTH)
    except ProtocolError:
        assert os.fstat(fd).st_size == 0, "a refused chunk was written"
        return
    except OSError:  # an offset that this file system cannot hold
        return
    finally:
        os.close(fd)
    again = chunk.encode(
        parsed.index,
        parsed.offset,
        payload,
        digest=parsed.digest,
        checksum=parsed.checksum is not None,
        flags=parsed.flags & (chunk.LAST | chunk.SEALED),
    )
    # where the digest was verified the checksum was not, so it may be any
    assert parsed.digest is not None or again == data
