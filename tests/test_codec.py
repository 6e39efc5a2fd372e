"""Payloads to bytes and back: what survives, what is refused and where it sat, and that no bytes can do harm."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import math
import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zcell import codec
from zcell.errors import CodecError

KIB = 1024
OUT_OF_BAND = 64 * KIB


def round_trip(payload: Any, out_of_band_bytes: int = OUT_OF_BAND) -> Any:
    body, buffers = codec.encode(payload, out_of_band_bytes=out_of_band_bytes)
    return codec.decode(bytes(body), [memoryview(bytes(b)) for b in buffers])


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dt.datetime):
        return bool(a == b) and a.utcoffset() == b.utcoffset()
    return bool(a == b)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=200)
    | st.datetimes()
    | st.datetimes(timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m))))
)
PAYLOADS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PAYLOADS)
@example([(), [], {}, ((),), [[]], {"": {}}])
@example({"a": (1, [2, (3, {"b": (4,)})])})
def test_every_supported_payload_survives_with_its_types(payload: Any) -> None:
    assert same(round_trip(payload), payload)


@given(PAYLOADS)
def test_the_threshold_for_separate_frames_changes_nothing_for_bytes(payload: Any) -> None:
    assert same(round_trip(payload, out_of_band_bytes=1), payload)


@pytest.mark.parametrize(
    "number", [-(2**63), -(2**63) + 1, -(2**31) - 1, -129, -33, -32, -1, 0, 127, 128, 2**32, 2**53 + 1, 2**63 - 1]
)
def test_edge_integers(number: int) -> None:
    assert same(round_trip(number), number)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_an_integer_beyond_64_bits_is_refused_where_it_sits(number: int) -> None:
    with pytest.raises(CodecError, match=r"weights.*3|3.*weights"):
        codec.encode({"weights": [0, 1, 2, number]}, out_of_band_bytes=OUT_OF_BAND)
    with pytest.raises(CodecError, match=r"from -2\*\*63 to 2\*\*64 - 1; send a larger one as text"):
        codec.encode(number, out_of_band_bytes=OUT_OF_BAND)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7976931348623157e308])
def test_edge_floats(number: float) -> None:
    assert same(round_trip(number), number)


@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime.min,
        dt.datetime.max,
        dt.datetime(1969, 12, 31, 23, 59, 59, 999999),
        dt.datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=dt.UTC),
        dt.datetime(2038, 1, 19, 3, 14, 8, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    ],
)
def test_edge_datetimes_keep_microseconds_and_zone(moment: dt.datetime) -> None:
    assert same(round_trip(moment), moment)


def test_the_order_of_a_dict_is_kept() -> None:
    assert list(round_trip({"z": 1, "a": 2, "m": 3})) == ["z", "a", "m"]


@pytest.mark.parametrize("key", [1, -5, True, None, 1.5, b"raw"])
def test_a_dict_key_that_is_no_text_comes_back_or_is_refused_by_the_sender(key: Any) -> None:
    """It must never be the receiver who finds out."""
    payload = {"config": {key: "value"}}
    refused = ""
    try:
        body, buffers = codec.encode(payload, out_of_band_bytes=OUT_OF_BAND)
    except CodecError as error:
        refused = str(error)
    assert "config" in refused if refused else same(codec.decode(body, buffers), payload)


class Opaque:
    """Something no codec knows."""


@pytest.mark.parametrize(
    ("payload", "tokens"),
    [
        (Opaque(), ["Opaque"]),
        ({"model": {"layers": [1, Opaque()]}}, ["model", "layers", "1", "Opaque"]),
        ([0, (1, 2, {"x": Opaque()})], ["1", "2", "x", "Opaque"]),
        ({"s": {1, 2}}, ["s", "set"]),
        ([1 + 2j], ["0", "complex"]),
        ({"f": len}, ["f", "builtin_function_or_method"]),
        ({"u": uuid.UUID(int=0)}, ["u", "UUID"]),
        ({"t": type}, ["t", "type"]),
        ({"d": dt.timedelta(1)}, ["d", "timedelta"]),
    ],
)
def test_an_unsupported_type_is_named_with_where_it_sits(payload: Any, tokens: list[str]) -> None:
    with pytest.raises(CodecError) as caught:
        codec.encode(payload, out_of_band_bytes=OUT_OF_BAND)
    for token in tokens:
        assert token in str(caught.value)


class Place(NamedTuple):
    x: int


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (collections.Counter("aa"), r"dict\(x\)"),
        (collections.defaultdict(int, a=1), r"dict\(x\)"),
        (Place(1), r"tuple\(x\)"),
        ({1}, r"list\(x\)"),
        (Colour.RED, "send its value"),
        (Level.LOW, "send its value"),
        (dt.date(2024, 1, 1), r"isoformat\(\)"),
        (dt.timedelta(1), r"total_seconds\(\)"),
    ],
)
def test_a_subclass_is_refused_with_what_to_do_instead(value: Any, advice: str) -> None:
    for payload in (value, {"in": [value]}):
        with pytest.raises(CodecError, match=f"type {type(value).__name__} is not supported; .*{advice}, or register it"):
            codec.encode(payload)


def test_an_ordered_dict_travels_as_a_dict_unless_it_is_registered() -> None:
    state = collections.OrderedDict(weight=[1.0], bias=collections.OrderedDict(b=b"x"))
    plain = {"weight": [1.0], "bias": {"b": b"x"}}
    assert same(round_trip(state), plain)
    assert same(round_trip([state, (state,)]), [plain, (plain,)])
    own = codec.Codec(codec.default)
    own.register(collections.OrderedDict, "test.OrderedDict", lambda d: list(d.items()), collections.OrderedDict)
    body, buffers = own.encode(state)
    assert type(own.decode(body, buffers)) is collections.OrderedDict


def test_what_cannot_be_encoded_in_an_ordered_dict_is_found() -> None:
    with pytest.raises(CodecError, match=r"^payload\['a'\]\['b'\] cannot be encoded: type Opaque"):
        codec.encode({"a": collections.OrderedDict(b=Opaque())})


def test_a_payload_is_called_what_its_owner_calls_it() -> None:
    with pytest.raises(CodecError, match=r"^result\['a'\] cannot be encoded"):
        codec.encode({"a": Opaque()}, name="result")
    with pytest.raises(CodecError, match=r"^record\[0\] cannot be encoded"):
        codec.check([Opaque()], "record")
    codec.check({"large": memoryview(bytes(1 << 20)), "small": b"x"})


@pytest.mark.parametrize("depth", [200, 300])
def test_the_path_to_what_sits_deep_is_shortened(depth: int) -> None:
    payload: Any = Opaque()
    for _ in range(depth):
        payload = [payload]
    with pytest.raises(CodecError, match=r"^payload\[0\].* \.\.\. .*\[0\] cannot be encoded: ") as caught:
        codec.encode(payload)
    assert len(str(caught.value)) < 300


def test_text_that_is_no_unicode_is_refused_by_the_sender() -> None:
    with pytest.raises(CodecError, match="name"):
        codec.encode({"name": "\ud800"}, out_of_band_bytes=OUT_OF_BAND)


def test_a_structure_that_contains_itself_is_refused_and_does_not_crash() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError, match=r"deep|nest|itself"):
        codec.encode(loop, out_of_band_bytes=OUT_OF_BAND)
    ring: dict[str, Any] = {}
    ring["again"] = (ring,)
    with pytest.raises(CodecError, match=r"deep|nest|itself"):
        codec.encode(ring, out_of_band_bytes=OUT_OF_BAND)


def test_what_the_sender_may_nest_the_receiver_can_read() -> None:
    """Whatever depth encodes must decode: else the sender hears nothing and the receiver fails."""
    deepest = 0
    for depth in (8, 16, 32, 60, 100, 200, 400, 500, 511, 600, 900, 1100):
        payload: Any = "leaf"
        for _ in range(depth):
            payload = [payload]
        try:
            body, buffers = codec.encode(payload, out_of_band_bytes=OUT_OF_BAND)
        except CodecError:
            break
        assert same(codec.decode(body, buffers), payload)
        deepest = depth
    assert deepest >= 32


class TestBuffers:
    def test_small_bytes_stay_in_the_body(self) -> None:
        body, buffers = codec.encode({"b": b"x" * (OUT_OF_BAND - 1)}, out_of_band_bytes=OUT_OF_BAND)
        assert buffers == []
        assert len(body) >= OUT_OF_BAND - 1

    def test_bytes_of_the_threshold_travel_on_their_own_uncopied(self) -> None:
        data = bytes(OUT_OF_BAND)
        body, buffers = codec.encode(["first", data, "last"], out_of_band_bytes=OUT_OF_BAND)
        assert len(body) < 200
        assert len(buffers) == 1
        assert buffers[0] is data or memoryview(buffers[0]).obj is data

    def test_bytes_come_back_as_bytes(self) -> None:
        data = bytes(range(256)) * 512
        assert same(round_trip([data, data[:10], b""]), [data, data[:10], b""])

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_other_buffers_come_back_as_memoryview_when_they_travelled_on_their_own(self, kind: Any) -> None:
        data = kind(bytes(range(256)) * 512)
        (back,) = round_trip([data])
        assert isinstance(back, memoryview)
        assert back == memoryview(data)

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_small_other_buffers_keep_their_content(self, kind: Any) -> None:
        assert bytes(round_trip([kind(b"small")])[0]) == b"small"

    def test_large_buffers_are_decoded_without_a_copy(self) -> None:
        data = bytearray(b"a" * OUT_OF_BAND)
        body, buffers = codec.encode({"x": data}, out_of_band_bytes=OUT_OF_BAND)
        back = codec.decode(body, buffers)["x"]
        data[0] = ord("z")
        assert back[0] == ord("z")

    def test_a_view_with_gaps_is_sent_as_what_it_shows(self) -> None:
        view = memoryview(bytes(range(256)) * 1024)[::2]
        assert bytes(round_trip({"v": view})["v"]) == bytes(view)

    def test_a_view_of_wider_items_is_sent_as_its_bytes(self) -> None:
        view = memoryview(bytes(range(8)) * 16384).cast("Q")
        assert bytes(round_trip({"v": view})["v"]) == bytes(view)

    def test_many_buffers_keep_their_places(self) -> None:
        parts = [bytes([n]) * OUT_OF_BAND for n in range(20)]
        payload = {"list": parts[:7], "dict": {str(n): p for n, p in enumerate(parts[7:14])}, "tuple": tuple(parts[14:])}
        assert same(round_trip(payload), payload)

    @pytest.mark.parametrize("received", [0, 1])
    def test_a_missing_buffer_is_refused(self, received: int) -> None:
        body, buffers = codec.encode([bytes(OUT_OF_BAND), bytes(OUT_OF_BAND)], out_of_band_bytes=OUT_OF_BAND)
        with pytest.raises(CodecError, match="buffer"):
            codec.decode(body, buffers[:received])


@dataclass
class Point:
    x: float
    y: float


@dataclass
class Shape:
    name: str
    points: list[Point]


codec.register(Point, "tests.Point", lambda p: [p.x, p.y], lambda v: Point(*v))
codec.register(Shape, "tests.Shape", lambda s: {"name": s.name, "points": s.points}, lambda v: Shape(**v))


class TestRegisteredTypes:
    def test_registered_types_nest(self) -> None:
        shape = Shape("triangle", [Point(0, 0), Point(1.5, 0), Point(0, -1)])
        assert same(round_trip({"shapes": [shape], "origin": Point(0, 0)}), {"shapes": [shape], "origin": Point(0, 0)})

    def test_buffers_inside_registered_types_travel_on_their_own(self) -> None:
        class Blob:
            def __init__(self, data: bytes) -> None:
                self.data = data

        codec.register(Blob, "tests.Blob", lambda b: {"data": b.data}, lambda v: Blob(v["data"]))
        body, buffers = codec.encode(Blob(bytes(OUT_OF_BAND)), out_of_band_bytes=OUT_OF_BAND)
        assert len(buffers) == 1
        assert codec.decode(body, buffers).data == bytes(OUT_OF_BAND)

    def test_an_unregistered_dataclass_is_refused_by_name(self) -> None:
        @dataclass
        class Forgotten:
            x: int

        with pytest.raises(CodecError, match="Forgotten"):
            codec.encode([Forgotten(1)], out_of_band_bytes=OUT_OF_BAND)

    def test_one_name_stands_for_one_type(self) -> None:
        class Other:
            pass

        with pytest.raises(ValueError, match=r"tests\.Point"):
            codec.register(Other, "tests.Point", lambda _: None, lambda _: Other())
        assert same(round_trip(Point(1, 2)), Point(1, 2))

    def test_a_name_that_the_receiver_does_not_know_is_an_error_that_names_it(self) -> None:
        class Temporary:
            pass

        codec.register(Temporary, "tests.Temporary", lambda _: None, lambda _: Temporary())
        body, buffers = codec.encode([Temporary()], out_of_band_bytes=OUT_OF_BAND)
        altered = bytes(body).replace(b"tests.Temporary", b"tests.Tenporary")
        with pytest.raises(CodecError, match=r"tests\.Tenporary"):
            codec.decode(altered, buffers)

    def test_a_decoder_that_raises_is_a_codec_error_that_names_the_type(self) -> None:
        class Fragile:
            pass

        def refuse(_: Any) -> Fragile:
            raise KeyError("missing")

        codec.register(Fragile, "tests.Fragile", lambda _: {}, refuse)
        body, buffers = codec.encode(Fragile(), out_of_band_bytes=OUT_OF_BAND)
        with pytest.raises(CodecError, match=r"tests\.Fragile"):
            codec.decode(body, buffers)

    def test_an_encoder_that_raises_is_a_codec_error_that_says_where(self) -> None:
        class Broken:
            pass

        codec.register(Broken, "tests.Broken", lambda _: 1 // 0, lambda _: Broken())
        with pytest.raises(CodecError, match=r"here"):
            codec.encode({"here": Broken()}, out_of_band_bytes=OUT_OF_BAND)

    @pytest.mark.parametrize(
        "arguments", [("Point", "n", str, str), (Point, 7, str, str), (Point, "", str, str), (Point, "n", None, str)]
    )
    def test_wrong_arguments_are_refused(self, arguments: tuple[Any, ...]) -> None:
        with pytest.raises((TypeError, ValueError)):
            codec.register(*arguments)


class TestHostileBytes:
    @given(st.binary(max_size=400), st.lists(st.binary(max_size=50), max_size=3))
    @example(b"", [])
    @example(b"\xc1", [])
    @example(b"\x91" * 100_000, [])
    @example(b"\x81\xa1a" * 50_000, [])
    @example(b"\xdd\xff\xff\xff\xff", [])
    @example(b"\xdf\xff\xff\xff\xff", [])
    @example(b"\xc6\xff\xff\xff\xff", [])
    @example(b"\xc9\xff\xff\xff\xff\x01", [])
    @example(b"\x81\x90\x01", [])
    @example(b"\xd6\xff\x00\x00\x00\x00", [])
    @example(b"\xc7\x0c\xff" + b"\xff" * 12, [])
    def test_any_bytes_decode_or_are_a_codec_error(self, body: bytes, buffers: list[bytes]) -> None:
        try:
            codec.decode(body, list(buffers))
        except CodecError:
            return

    @given(PAYLOADS, st.data())
    def test_altered_bytes_decode_or_are_a_codec_error(self, payload: Any, data: st.DataObject) -> None:
        body, buffers = codec.encode([payload, Point(1, 2)], out_of_band_bytes=16)
        altered = bytearray(body)
        for _ in range(data.draw(st.integers(1, 4))):
            altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
        try:
            codec.decode(bytes(altered), buffers)
        except CodecError:
            return

    @given(PAYLOADS, st.integers(0, 300))
    def test_cut_off_bytes_are_a_codec_error(self, payload: Any, cut: int) -> None:
        body, buffers = codec.encode(payload, out_of_band_bytes=OUT_OF_BAND)
        if cut < len(body):
            with pytest.raises(CodecError):
                codec.decode(bytes(body)[:cut], buffers)

    def test_trailing_bytes_are_a_codec_error(self) -> None:
        body, buffers = codec.encode([1, 2], out_of_band_bytes=OUT_OF_BAND)
        with pytest.raises(CodecError):
            codec.decode(bytes(body) + b"\x00", buffers)


class TestArrays:
    """The numpy adapter registers by itself where numpy is present."""

    np = pytest.importorskip("numpy")

    @pytest.mark.parametrize(
        "make",
        [
            lambda np: np.arange(12, dtype=np.float32).reshape(3, 4),
            lambda np: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
            lambda np: np.arange(20)[::3],
            lambda np: np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
            lambda np: np.array(3.5),
            lambda np: np.zeros((0, 5), dtype=np.int8),
            lambda np: np.arange(5, dtype=">i4"),
            lambda np: np.array([True, False]),
            lambda np: np.array([1 + 2j]),
            lambda np: np.array([0.5, np.nan], dtype=np.float16),
            lambda np: np.arange(200_000, dtype=np.float64),
            lambda np: np.array(["2024-01-01", "NaT"], dtype="datetime64[s]"),
            lambda np: np.array(["a", "bcd"], dtype="U3"),
        ],
    )
    def test_arrays_come_back_equal_with_dtype_and_shape(self, make: Any) -> None:
        array = make(self.np)
        back = round_trip({"a": [array]})["a"][0]
        assert type(back) is self.np.ndarray
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        self.np.testing.assert_array_equal(back, array)

    def test_a_large_array_travels_on_its_own_uncopied_both_ways(self) -> None:
        array = self.np.arange(100_000, dtype=self.np.float64)
        body, buffers = codec.encode(array, out_of_band_bytes=OUT_OF_BAND)
        assert len(body) < 200
        assert len(buffers) == 1
        back = codec.decode(body, buffers)
        assert self.np.shares_memory(back, array)

    @pytest.mark.parametrize("dtype", ["O", [("a", "i4"), ("b", "O")]])
    def test_python_objects_in_arrays_are_refused(self, dtype: Any) -> None:
        with pytest.raises(CodecError, match=r"weights.*object|object.*weights"):
            codec.encode({"weights": self.np.empty(3, dtype=dtype)}, out_of_band_bytes=OUT_OF_BAND)

    @pytest.mark.parametrize("dtype", ["O", "|O", "object", "O8", "V8O"])
    def test_bytes_that_ask_for_python_objects_are_refused(self, dtype: str) -> None:
        array = self.np.zeros(4, dtype="<f8")
        body, buffers = codec.encode(array, out_of_band_bytes=OUT_OF_BAND)
        assert b"\xa3<f8" in bytes(body)
        altered = bytes(body).replace(b"\xa3<f8", bytes([0xA0 + len(dtype)]) + dtype.encode())
        with pytest.raises(CodecError):
            codec.decode(altered, buffers)

    @pytest.mark.parametrize("shape", [5, 3, 0xFF, 0])
    def test_a_shape_that_does_not_fit_its_bytes_is_refused(self, shape: int) -> None:
        array = self.np.zeros(4, dtype="<f8")
        body, buffers = codec.encode(array, out_of_band_bytes=OUT_OF_BAND)
        assert bytes(body).count(b"\x91\x04") == 1
        with pytest.raises(CodecError):
            codec.decode(bytes(body).replace(b"\x91\x04", bytes([0x91, shape])), buffers)

    def test_a_subclass_of_arrays_is_not_silently_flattened(self) -> None:
        masked = self.np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
        with pytest.raises(CodecError, match="MaskedArray"):
            codec.encode({"m": masked}, out_of_band_bytes=OUT_OF_BAND)
