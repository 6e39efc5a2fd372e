"""Manifests: what one side lists the other reads back exactly, and nothing that is not in order gets through."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.errors import BundleError
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.manifest import MAX_EXTENTS, Entry, Manifest


def file(path: str, size: int = 1, **more: Any) -> Entry:
    return Entry(path, False, more.pop("mode", 0o644), more.pop("mtime_ns", 1), size, **more)


def directory(path: str) -> Entry:
    return Entry(path, True, 0o755, 1)


def packed(*fields: object, magic: str = "zcell-manifest", version: int = 1, count: int | None = None) -> bytes:
    entries = list(fields)
    head = [magic, version, len(entries) if count is None else count]
    return b"".join(msgpack.packb(item) for item in [*head, *entries])


def test_a_manifest_reads_back_as_it_was() -> None:
    manifest = Manifest(
        [
            directory("job"),
            file("job/a", 0, mode=0),
            directory("job/b"),
            file("job/b/ü🚀", 12, digest=bytes(32), mtime_ns=-5),
            file("job/b-c", 1 << 30, extents=((4096, 100), (1 << 20, 1 << 20))),
        ]
    )
    again = Manifest.parse(manifest.packed)
    assert again.entries == manifest.entries
    assert again.digest == manifest.digest
    assert again.files == 3
    assert again.data_bytes == 12 + 100 + (1 << 20)


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ([file("a/b")], "does not list the directory"),
        ([directory("a"), file("a/b"), file("a/b/c")], "is a file"),
        ([directory("a"), directory("b"), file("a/x")], "out of order"),
        ([file("a"), file("a")], "twice"),
        ([file("A"), file("a")], "only in case"),
        ([directory("A"), file("A/x"), directory("a"), file("a/x")], "only in case"),
        ([file("caf\u00e9"), file("cafe\u0301")], "only in case or normalisation|out of order"),
        ([file("../x")], "component"),
        ([file("/etc/passwd")], "relative"),
        ([file("a\\b")], "backslash"),
        ([file("")], "empty"),
        ([file("a\0")], "NUL"),
        ([file("C:evil")], "drive"),
        ([file("x" * 256)], "255"),
        ([Entry("d", True, 0o755, 0, size=3)], "directory"),
        ([file("a", 10, extents=((0, 5), (4, 2)))], "overlap"),
        ([file("a", 10, extents=((8, 5),))], "outside"),
        ([file("a", 10, extents=((0, 2), (2, 2)))], "overlap"),
    ],
)
def test_a_manifest_that_is_not_in_order_is_refused(entries: list[Entry], rule: str) -> None:
    with pytest.raises(BundleError, match=rule):
        Manifest(entries)


def test_limits_hold_before_anything_is_written() -> None:
    limits = WorkspaceLimits(total_bytes=100, file_bytes=80, entries=3, manifest_bytes=1000)
    with pytest.raises(BundleError, match="'a' has 81 bytes, at most 80"):
        Manifest([file("a", 81)], limits)
    with pytest.raises(BundleError, match="more than 100 bytes"):
        Manifest([file("a", 60), file("b", 60)], limits)
    with pytest.raises(BundleError, match="at most 3"):
        Manifest([file(str(i)) for i in range(4)], limits)
    with pytest.raises(BundleError, match="at most 1000 are accepted"):
        Manifest.parse(bytes(1001), limits)
    with pytest.raises(BundleError, match="at most 3"):
        Manifest.parse(packed(count=4), limits)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "damaged"),
        (b"\xc1", "damaged"),
        (packed(magic="tar"), "no manifest"),
        (packed(version=2), "no manifest"),
        (packed(count=1 << 40), "announces"),
        (packed(count=True), "announces"),
        (packed(count=1), "damaged at entry 1"),
        (packed("name"), "damaged|fields"),
        (packed(["a", 0, 0o644, 0, 0]), "7 fields"),
        (packed([b"a", 0, 0o644, 0, 0, None, None]), "not a string"),
        (packed(["a", 2, 0o644, 0, 0, None, None]), "kind is 2"),
        (packed(["a", 0, 0o4755, 0, 0, None, None]), "mode is"),
        (packed(["a", 0, 0o644, 1 << 63, 0, None, None]), "mtime_ns is"),
        (packed(["a", 0, 0o644, 0, -1, None, None]), "size is -1"),
        (packed(["a", 0, 0o644, 0, 1.5, None, None]), "size is 1.5"),
        (packed(["a", 0, 0o644, 0, True, None, None]), "size is True"),
        (packed(["a", 0, 0o644, 0, 5, b"short", None]), "extents"),
        (packed(["a", 0, 0o644, 0, 5, bytes(16 * (MAX_EXTENTS + 1)), None]), "extents"),
        (packed(["a", 0, 0o644, 0, 5, None, b"x"]), "32 bytes"),
        (packed([["a"], 0, 0o644, 0, 5, None, None]), "damaged"),
        (packed([{}, 0, 0o644, 0, 5, None, None]), "not a string|damaged"),
        (packed() + b"\x00", "goes on"),
        (b"\xd9\x0ezcell-manifest" + packed()[15:], "canonical"),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes, rule: str) -> None:
    with pytest.raises(BundleError, match=rule):
        Manifest.parse(data)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_manifest_or_a_bundle_error(data: bytes) -> None:
    for candidate in (data, packed() + data, packed(count=2) + data):
        with contextlib.suppress(BundleError):
            assert Manifest.parse(candidate).packed == candidate


@given(st.data())
def test_a_damaged_manifest_gives_a_manifest_or_a_bundle_error(data: st.DataObject) -> None:
    whole = Manifest([directory("job"), file("job/a", 5, extents=((1, 2),)), file("job/b", 7, digest=bytes(32))]).packed
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(BundleError):
        assert Manifest.parse(damaged).packed == damaged
