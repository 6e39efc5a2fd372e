"""Payloads to bytes and back. Invariant: nothing from the network is unpickled or chooses a class that was not registered here.

A payload is None, bool, int (64-bit), float, str, bytes-like, list, tuple, dict, datetime, a registered type or a `LazyValue`:
exactly these types, for what a subclass adds would be lost in silence. Only an `OrderedDict`, all of which a dict keeps, travels
as one. The body is msgpack; what msgpack lacks travels as its extension types. Buffers of at least `out_of_band_bytes` leave the body
and travel as frames of their own, uncopied; larger ones can be replaced by a reference to an object that the receiver fetches.

What comes back: `bytes` as `bytes`; other buffers (`bytearray`, `memoryview`) as `bytes`, or as a `memoryview` of the frame
when they travelled out of band; tuples as tuples; datetimes as they were (naive or aware, microseconds kept).
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import Any, TypeVar

import msgpack

from zcell.errors import CodecError

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview

_TUPLE, _DATETIME, _BUFFER, _REGISTERED, _REFERENCE = 1, 2, 3, 4, 5
_MAX_DEPTH = 256
ARRAY_PACKAGES = frozenset({"numpy", "torch"})
"""The packages whose adapters register themselves when one of their objects is met, here or from the network."""
_PLAIN = frozenset({type(None), bool, int, float, str})
_MAX_PATH = 120
"""Characters of the path to what cannot be encoded, in an error."""
_INSTEAD: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Enum, "send its value"),
    (dict, "make it a dict with dict(x)"),
    (tuple, "make it a tuple with tuple(x)"),
    (list, "make it a list with list(x)"),
    (str, "make it a str with str(x)"),
    (int, "make it an int with int(x)"),
    (float, "make it a float with float(x)"),
    (Set, "make it a list with list(x)"),
    (timedelta, "send its total_seconds()"),
    ((date, time), "send its isoformat()"),
)
"""What to do with an object that is of none of the types, by what it is."""


class RefTarget(tuple[str, str, int]):
    """(owner, ref id, size in bytes): where the bytes of a buffer can be fetched."""

    __slots__ = ()


class LazyValue:
    """An encoded value whose buffers are elsewhere: it can be forwarded untouched, or decoded once they are fetched."""

    __slots__ = ("buffers", "code", "data", "targets")

    def __init__(self, code: int, data: bytes, targets: list[RefTarget], buffers: Sequence[Buffer]) -> None:
        self.code = code
        self.data = data
        self.targets = targets
        self.buffers = buffers


@dataclasses.dataclass(frozen=True, slots=True)
class _Adapter:
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class Codec:
    """A set of registered types. One that has a `parent` also knows what is registered there."""

    def __init__(self, parent: Codec | None = None) -> None:
        self._parent = parent
        self._by_type: dict[type, _Adapter] = {}
        self._by_name: dict[str, _Adapter] = {}
        self._learned: set[str] = set()

    def register(self, cls: type[T], name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        """Let instances of exactly `cls` travel as `encode(obj)`, itself a payload, and come back as `decode(payload)`.

        `name` is what travels, at most 255 characters. Raises `ValueError` when the type or the name is taken by another, and
        `TypeError` when `cls` is no class or one of the two functions cannot be called.
        """
        if not isinstance(cls, type) or not callable(encode) or not callable(decode):
            raise TypeError("register takes a class, a name and two functions: encode and decode")
        if not isinstance(name, str) or not 0 < len(name) <= 255:
            raise ValueError(f"a registered type needs a name of 1 to 255 characters, got {name!r}")
        known = self._by_name.get(name)
        if known is not None and self._by_type.get(cls) is not known:
            raise ValueError(f"the name {name!r} is registered for another type")
        if cls in self._by_type and self._by_type[cls].name != name:
            raise ValueError(f"{cls.__qualname__} is registered as {self._by_type[cls].name!r}")
        adapter = _Adapter(name, encode, decode)
        self._by_type[cls] = adapter
        self._by_name[name] = adapter

    def register_dataclass(self, cls: type[T], name: str | None = None) -> type[T]:
        """Register a dataclass by its fields; usable as a decorator. Decoding other fields is a `CodecError`."""
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"{cls!r} is not a dataclass")
        names = [f.name for f in dataclasses.fields(cls) if f.init]

        def encode(obj: T) -> dict[str, Any]:
            return {n: getattr(obj, n) for n in names}

        def decode(payload: Any) -> Any:
            return cls(**payload)

        self.register(cls, name or f"{cls.__module__}.{cls.__qualname__}", encode, decode)
        return cls

    def adapter_for(self, cls: type) -> _Adapter | None:
        found = self._by_type.get(cls)
        if found is None and self._parent is not None:
            return self._parent.adapter_for(cls)
        if found is None and cls.__module__.partition(".")[0] in ARRAY_PACKAGES and self._learn_arrays(cls.__module__):
            found = self._by_type.get(cls)
        return found

    def adapter_named(self, name: str) -> _Adapter | None:
        found = self._by_name.get(name)
        if found is None and self._parent is not None:
            return self._parent.adapter_named(name)
        if found is None and name.partition(".")[0] in ARRAY_PACKAGES and self._learn_arrays(name):
            found = self._by_name.get(name)
        return found

    def _learn_arrays(self, name: str) -> bool:
        """Register the adapters of the array package that `name` belongs to, if it is installed and not yet known."""
        from zcell.arrays import register_arrays

        package = name.partition(".")[0]
        if package in self._learned:
            return False
        self._learned.add(package)
        return register_arrays(self, package)

    def encode(
        self,
        payload: Any,
        *,
        out_of_band_bytes: int = 65536,
        reference_over: int | None = None,
        make_reference: Callable[[memoryview], RefTarget] | None = None,
        name: str = "payload",
    ) -> tuple[bytes, list[Buffer]]:
        """The body and the out-of-band buffers of `payload`; raises `CodecError` naming the type and where it sits in `name`.

        A buffer of more than `reference_over` bytes is handed to `make_reference` and travels as what that returns.
        """
        if payload is None:
            return b"\xc0", []
        encoder = _Encoder(self, out_of_band_bytes, reference_over, make_reference)
        return encoder.encode(payload, name), encoder.buffers

    def check(self, payload: Any, name: str = "payload") -> None:
        """Raise what `encode` would raise, with `payload` called `name`; no buffer is copied or referred to for that."""
        self.encode(payload, out_of_band_bytes=0, name=name)

    def decode(
        self,
        body: Buffer,
        buffers: Sequence[Buffer] = (),
        *,
        fetch: Callable[[RefTarget], Buffer] | None = None,
        lazy: Callable[[LazyValue], Any] | None = None,
    ) -> Any:
        """The payload of `body` and `buffers`; raises `CodecError` for anything that `encode` could not have made.

        References are fetched by `fetch`, or, when `lazy` is given, handed to it unfetched as a `LazyValue`.
        """
        return _Decoder(self, buffers, fetch, lazy).decode(body)

    def decode_value(self, value: LazyValue, *, fetch: Callable[[RefTarget], Buffer]) -> Any:
        """What a `LazyValue` stands for, its references fetched by `fetch`. Raises `CodecError`."""
        return self.decode(msgpack.packb(msgpack.ExtType(value.code, value.data)), value.buffers, fetch=fetch)


class _Encoder:
    def __init__(
        self,
        codec: Codec,
        out_of_band_bytes: int,
        reference_over: int | None,
        make_reference: Callable[[memoryview], RefTarget] | None,
    ) -> None:
        self.codec = codec
        self.limit = out_of_band_bytes
        self.over = reference_over if make_reference is not None else None
        self.make_reference = make_reference
        self.buffers: list[Buffer] = []

    def encode(self, payload: Any, name: str) -> bytes:
        try:
            if type(payload) in _PLAIN:
                return self._pack(payload)
            return self._pack(self._lower(payload, 0))
        except (OverflowError, ValueError, TypeError) as e:
            where = _Encoder(self.codec, 0, None, None).locate(payload, name, 0) or name
            raise CodecError(f"{_shortened(where)} cannot be encoded: {e}") from e.__cause__

    def locate(self, value: Any, where: str, depth: int) -> str | None:
        """The path of the first thing inside `value` that cannot be encoded, None when all of it can."""
        inside: list[tuple[Any, str]] = []
        if self._is_dict(value):
            inside = [(key, f"key {key!r} of {where}") for key in value]
            inside += [(item, f"{where}[{key!r}]") for key, item in value.items()]
        elif type(value) in (list, tuple):
            inside = [(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if inside:
            if depth > _MAX_DEPTH:
                return where
            return next((found for item, path in inside if (found := self.locate(item, path, depth + 1))), None)
        try:
            self._pack(self._lower(value, depth))
        except (OverflowError, ValueError, TypeError):
            return where
        return None

    def _is_dict(self, value: Any) -> bool:
        return type(value) is dict or (type(value) is OrderedDict and self.codec.adapter_for(OrderedDict) is None)

    def _pack(self, lowered: Any) -> bytes:
        data: bytes = msgpack.packb(lowered, use_bin_type=True, strict_types=True, default=self._refuse)
        return data

    def _refuse(self, obj: Any) -> Any:
        if type(obj) is int:
            raise OverflowError("an int is from -2**63 to 2**64 - 1; send a larger one as text or bytes")
        raise TypeError(_unsupported(obj))

    def _lower(self, value: Any, depth: int) -> Any:
        """`value` in terms of what msgpack packs by itself. Containers are copied only where something in them changes."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
        if kind is dict:
            return {
                k if type(k) in _PLAIN else self._lower(k, depth + 1): v if type(v) in _PLAIN else self._lower(v, depth + 1)
                for k, v in value.items()
            }
        if kind is list:
            return [v if type(v) in _PLAIN else self._lower(v, depth + 1) for v in value]
        if kind is bytes or kind is bytearray or kind is memoryview:
            return self._lower_buffer(value)
        if kind is tuple:
            inner = [v if type(v) in _PLAIN else self._lower(v, depth + 1) for v in value]
            return msgpack.ExtType(_TUPLE, self._pack(inner))
        if kind is datetime:
            return msgpack.ExtType(_DATETIME, value.isoformat().encode())
        return self._lower_object(value, depth)

    def _lower_object(self, value: Any, depth: int) -> Any:
        if isinstance(value, LazyValue):
            return msgpack.ExtType(value.code, self._rebase(value.code, value.data, value.buffers))
        adapter = self.codec.adapter_for(type(value))
        if adapter is not None:
            try:
                plain = adapter.encode(value)
            except CodecError:
                raise
            except Exception as e:
                raise CodecError(f"encoding a {adapter.name!r} failed: {type(e).__name__}: {e}") from e
            inner = self._lower(plain, depth + 1)
            return msgpack.ExtType(_REGISTERED, self._pack([adapter.name, inner]))
        if isinstance(value, bytes | bytearray):
            return self._lower_buffer(bytes(value))
        if self._is_dict(value):
            return self._lower(dict(value), depth)
        raise CodecError(_unsupported(value)) from None

    def _lower_buffer(self, value: Buffer) -> Any:
        kind = b"b" if isinstance(value, bytes) else b"v"
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        if self.over is not None and size > self.over:
            assert self.make_reference is not None
            owner, ref_id, length = self.make_reference(_flat(value))
            return msgpack.ExtType(_REFERENCE, msgpack.packb([owner, ref_id, length, kind]))
        if size < self.limit:
            return bytes(value)
        self.buffers.append(_flat(value) if isinstance(value, memoryview) else value)
        return msgpack.ExtType(_BUFFER, msgpack.packb([len(self.buffers) - 1, kind, size]))

    def _rebase(self, code: int, data: bytes, buffers: Sequence[Buffer]) -> bytes:
        """`data` of an extension with its buffer numbers changed to fit this message."""
        if code == _BUFFER:
            index, kind, size = msgpack.unpackb(data)
            self.buffers.append(buffers[index])
            return bytes(msgpack.packb([len(self.buffers) - 1, kind, size]))
        if code in (_TUPLE, _REGISTERED):
            inner = msgpack.unpackb(
                data,
                strict_map_key=False,
                ext_hook=lambda c, d: msgpack.ExtType(c, self._rebase(c, d, buffers)),
            )
            return bytes(msgpack.packb(inner, use_bin_type=True))
        return data


def _unsupported(value: Any) -> str:
    found = next((f"{advice}, or " for kinds, advice in _INSTEAD if isinstance(value, kinds)), "")
    return f"type {type(value).__qualname__} is not supported; {found}register it with codec.register"


def _shortened(where: str) -> str:
    """The path `where` without its middle, when it is too long to be read."""
    return where if len(where) <= _MAX_PATH else f"{where[: _MAX_PATH // 2]} ... {where[-_MAX_PATH // 2 :]}"


def _flat(value: Buffer) -> memoryview:
    view = memoryview(value)
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return view.cast("B") if view.nbytes else memoryview(b"")


class _Decoder:
    def __init__(
        self,
        codec: Codec,
        buffers: Sequence[Buffer],
        fetch: Callable[[RefTarget], Buffer] | None,
        lazy: Callable[[LazyValue], Any] | None,
    ) -> None:
        self.codec = codec
        self.buffers = buffers
        self.fetch = fetch
        self.lazy = lazy
        self.depth = 0

    def decode(self, body: Buffer) -> Any:
        try:
            return self._unpack(body)
        except CodecError:
            raise
        except (ValueError, TypeError, RecursionError, KeyError, IndexError, OverflowError, msgpack.UnpackException) as e:
            raise CodecError(f"a payload that cannot be decoded: {type(e).__name__}: {e}") from None

    def _unpack(self, data: Buffer) -> Any:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise CodecError(f"a payload nested deeper than {_MAX_DEPTH} extension types")
        try:
            return msgpack.unpackb(data, raw=False, strict_map_key=False, ext_hook=self._extension)
        finally:
            self.depth -= 1

    def _extension(self, code: int, data: bytes) -> Any:
        if code == _TUPLE:
            return tuple(_typed(self._unpack(data), list))
        if code == _DATETIME:
            return datetime.fromisoformat(data.decode())
        if code == _BUFFER:
            return self._buffer(data)
        if code == _REFERENCE:
            return self._reference(data)
        if code == _REGISTERED:
            return self._registered(data)
        raise CodecError(f"a payload with the unknown extension type {code}")

    def _buffer(self, data: bytes) -> Any:
        index, kind, size = _typed(msgpack.unpackb(data), list)
        if type(index) is not int or not 0 <= index < len(self.buffers):
            raise CodecError(f"a payload names buffer {index!r} of {len(self.buffers)}")
        view = memoryview(self.buffers[index])
        if view.nbytes != size:
            raise CodecError(f"buffer {index} has {view.nbytes} bytes where the payload says {size!r}")
        if kind != b"b":
            return view
        whole = self.buffers[index]
        return whole if type(whole) is bytes else bytes(view)

    def _reference(self, data: bytes) -> Any:
        owner, ref_id, size, kind = _typed(msgpack.unpackb(data), list)
        if not (isinstance(owner, str) and isinstance(ref_id, str) and type(size) is int and size >= 0):
            raise CodecError("a payload with a malformed reference")
        target = RefTarget((owner, ref_id, size))
        if self.lazy is not None:
            return self.lazy(LazyValue(_REFERENCE, data, [target], ()))
        if self.fetch is None:
            raise CodecError(f"a payload refers to {ref_id} of {owner}, which cannot be fetched here")
        value = self.fetch(target)
        return bytes(value) if kind == b"b" and not isinstance(value, bytes) else value

    def _registered(self, data: bytes) -> Any:
        if self.lazy is not None:
            targets = _targets(data)
            if targets:
                return self.lazy(LazyValue(_REGISTERED, data, targets, self.buffers))
        name, inner = _typed(self._unpack(data), list)
        adapter = self.codec.adapter_named(name) if isinstance(name, str) else None
        if adapter is None:
            raise CodecError(f"a payload of type {name!r}, which is not registered here; use codec.register")
        try:
            return adapter.decode(inner)
        except Exception as e:
            raise CodecError(f"decoding a {name!r} failed: {type(e).__name__}: {e}") from e


def _targets(data: bytes) -> list[RefTarget]:
    """The references inside encoded extension `data`."""
    found: list[RefTarget] = []

    def look(code: int, inner: bytes) -> None:
        if code == _REFERENCE:
            owner, ref_id, size, _ = msgpack.unpackb(inner)
            found.append(RefTarget((owner, ref_id, size)))
        elif code in (_TUPLE, _REGISTERED):
            msgpack.unpackb(inner, strict_map_key=False, ext_hook=look)

    msgpack.unpackb(data, strict_map_key=False, ext_hook=look)
    return found


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise CodecError(f"a payload has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


default = Codec()
"""What `register` adds to: types that every cell of this process can exchange."""
register = default.register
register_dataclass = default.register_dataclass
encode = default.encode
decode = default.decode
check = default.check
