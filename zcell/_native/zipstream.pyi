from typing import Final, NamedTuple

from typing_extensions import Buffer

LOCAL_BYTES: Final[int]
CENTRAL_BYTES: Final[int]
END_BYTES: Final[int]
END64_BYTES: Final[int]
LOCATOR_BYTES: Final[int]

LOCAL_SIGNATURE: Final[bytes]
CENTRAL_SIGNATURE: Final[bytes]
DESCRIPTOR_SIGNATURE: Final[bytes]
END_SIGNATURE: Final[bytes]
END64_SIGNATURE: Final[bytes]
LOCATOR_SIGNATURE: Final[bytes]

ENCRYPTED_FLAG: Final[int]
DESCRIPTOR_FLAG: Final[int]
UTF8_FLAG: Final[int]
STORED: Final[int]
DEFLATED: Final[int]

class EntryRecord(NamedTuple):
    name: bytes
    flags: int
    method: int
    crc: int
    compressed_bytes: int
    size_bytes: int
    dos_time: int
    mtime: int | None
    zip64: bool
    offset: int
    attributes: int
    host: int

class EndRecord(NamedTuple):
    entries: int
    directory_bytes: int
    directory_offset: int
    comment_bytes: int

def local_header(
    name: bytes,
    *,
    flags: int,
    method: int,
    dos_time: int,
    mtime: int | None,
    crc: int = 0,
    compressed_bytes: int = 0,
    size_bytes: int = 0,
    zip64: bool = False,
) -> bytes: ...
def data_descriptor(*, crc: int, compressed_bytes: int, size_bytes: int, zip64: bool) -> bytes: ...
def central_header(
    name: bytes,
    *,
    flags: int,
    method: int,
    dos_time: int,
    mtime: int | None,
    crc: int,
    compressed_bytes: int,
    size_bytes: int,
    offset: int,
    attributes: int,
    zip64: bool,
) -> bytes: ...
def end_of_archive(*, entries: int, directory_bytes: int, directory_offset: int) -> bytes: ...
def local_tail(fixed: bytes) -> int: ...
def central_tail(fixed: bytes) -> int: ...
def parse_local(record: Buffer) -> EntryRecord: ...
def parse_central(record: Buffer) -> EntryRecord: ...
def parse_end(record: bytes) -> EndRecord: ...
def parse_end64(record: bytes) -> EndRecord: ...
def parse_locator(record: bytes) -> int: ...
