"""Archives with any field forged, built by `struct` alone so that they share nothing with the code they are to deceive."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Member:
    """One entry; what is None follows from the rest. `local` and `central` override single fields of that header only."""

    name: bytes
    data: bytes = b""
    method: int = 0
    flags: int = 0x800
    attributes: int = 0o100644 << 16
    extra: bytes = b""
    packed: bytes | None = None
    descriptor: bytes | None = None
    local: dict[str, int | bytes] = field(default_factory=dict)
    central: dict[str, int | bytes] = field(default_factory=dict)

    def raw(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.data) if self.method == 8 else self.data

    def fields(self, changed: dict[str, int | bytes]) -> dict[str, int | bytes]:
        values: dict[str, int | bytes] = {
            "name": self.name,
            "method": self.method,
            "flags": self.flags,
            "crc": zlib.crc32(self.data),
            "compressed": len(self.raw()),
            "size": len(self.data),
            "extra": self.extra,
            "attributes": self.attributes,
            "disk": 0,
        }
        return values | changed


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def local_header(member: Member) -> bytes:
    f = member.fields(member.local)
    assert isinstance(f["name"], bytes)
    assert isinstance(f["extra"], bytes)
    sizes = (f["crc"], f["compressed"], f["size"], len(f["name"]), len(f["extra"]))
    return struct.pack("<4s5HIIIHH", b"PK\3\4", 20, f["flags"], f["method"], 0, 0x21, *sizes) + f["name"] + f["extra"]


def central_header(member: Member, offset: int) -> bytes:
    place: dict[str, int | bytes] = {"offset": offset}
    f = member.fields(place | member.central)
    assert isinstance(f["name"], bytes)
    assert isinstance(f["extra"], bytes)
    sizes = (f["crc"], f["compressed"], f["size"], len(f["name"]), len(f["extra"]))
    head = struct.pack("<4s6HIIIHH", b"PK\1\2", 0x32D, 20, f["flags"], f["method"], 0, 0x21, *sizes)
    return head + struct.pack("<HHHII", 0, f["disk"], 0, f["attributes"], f["offset"]) + f["name"] + f["extra"]


def archive(members: Sequence[Member], *, listed: Sequence[Member] | None = None, tail: bytes = b"", **end: int) -> bytes:
    """The archive of `members`; `listed` are those of the central directory, `end` overrides fields of the end record."""
    out = bytearray()
    offsets: dict[int, int] = {}
    for member in members:
        offsets[id(member)] = len(out)
        out += local_header(member) + member.raw() + (member.descriptor or b"")
    start = len(out)
    listed = members if listed is None else listed
    for member in listed:
        out += central_header(member, offsets.get(id(member), 0))
    values = {
        "disk": 0,
        "here": len(listed),
        "entries": len(listed),
        "size": len(out) - start,
        "offset": start,
        "comment": 0,
    } | end
    out += struct.pack(
        "<4s4HIIH",
        b"PK\5\6",
        values["disk"],
        0,
        values["here"],
        values["entries"],
        values["size"],
        values["offset"],
        values["comment"],
    )
    return bytes(out) + tail
