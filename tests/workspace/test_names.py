"""Which names of entries are refused, by which rule, and which two names clash."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.errors import BundleError
from zcell.workspace.limits import ExtractLimits
from zcell.workspace.names import NameSet, fold, validate_entry_name


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b/c.txt",
        ".hidden",
        "...x",
        "a b",
        " leading",
        "trailing ",
        "new\nline",
        "größe/日本語/😀.txt",
        "ab:c",
        "console",
        "common/con_",
        "nullable.txt",
        "x" * 255,
        "/".join(["d" * 200] * 20),
    ],
)
def test_ordinary_names_pass(name: str) -> None:
    assert validate_entry_name(name) == tuple(name.split("/"))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        ("/etc/passwd", "relative"),
        ("//server/share", "relative"),
        ("..", "component must not be"),
        ("../x", "component must not be"),
        ("a/../../x", "component must not be"),
        ("a/.", "component must not be"),
        (".", "component must not be"),
        ("a/.. /x", "component must not be"),
        ("a/ /x", "component must not be"),
        ("a//b", "empty component"),
        ("a/", "empty component"),
        ("a\0b", "NUL"),
        ("a\\b", "backslash"),
        ("..\\x", "backslash"),
        ("C:", "drive"),
        ("c:/x", "drive"),
        ("c:x", "drive"),
        ("nul", "reserved"),
        ("a/CON", "reserved"),
        ("a/Aux.txt", "reserved"),
        ("com1.tar.gz", "reserved"),
        ("LPT9", "reserved"),
        ("com\u00b9", "reserved"),
        ("conin$", "reserved"),
        ("prn .txt", "reserved"),
        ("bad\udcff", "UTF-8"),
        ("x" * 256, "at most 255 bytes"),
        ("é" * 128, "at most 255 bytes"),
        ("/".join(["d" * 200] * 21), "at most 4095 bytes"),
        ("/".join("d" * 129), "at most 128 components"),
    ],
)
def test_a_refused_name_is_named_with_its_rule(name: str, rule: str) -> None:
    with pytest.raises(BundleError, match=rule) as refused:
        validate_entry_name(name)
    assert repr(name[:200])[1:-1] in str(refused.value)


@given(st.text() | st.text(alphabet="./\\:aC \0", max_size=12))
def test_a_name_that_passes_stays_below_its_directory(name: str) -> None:
    try:
        parts = validate_entry_name(name)
    except BundleError:
        return
    path = PurePosixPath("/root", name)
    assert path.parts == ("/", "root", *parts)
    assert ".." not in parts


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("a", "A"),
        ("dir/x", "DIR/y"),
        ("straße", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("\u212b", "\u00e5"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b/c", "a/b"),
        ("a", "A/b"),
        ("A/b", "a"),
    ],
)
def test_names_that_some_file_system_confuses_clash(first: str, second: str) -> None:
    names = NameSet()
    names.add(first, is_dir=False)
    with pytest.raises(BundleError, match="refused") as refused:
        names.add(second, is_dir=False)
    assert repr(second) in str(refused.value)


def test_a_directory_may_be_implied_first_and_named_once() -> None:
    names = NameSet()
    names.add("a/b/c", is_dir=False)
    names.add("a/b", is_dir=True)
    names.add("a", is_dir=True)
    names.add("a/d", is_dir=False)
    assert len(names) == 4
    with pytest.raises(BundleError, match="occurs twice"):
        names.add("a/b", is_dir=True)
    with pytest.raises(BundleError, match="only in case"):
        names.add("A", is_dir=True)
    with pytest.raises(BundleError, match="'a/d' above it is a file"):
        names.add("a/d/e", is_dir=False)


def test_implied_directories_count_towards_the_limits() -> None:
    with pytest.raises(BundleError, match="at most 3 entries"):
        NameSet(ExtractLimits(entries=3)).add("a/b/c/d", is_dir=False)
    with pytest.raises(BundleError, match="at most 10 bytes together"):
        NameSet(ExtractLimits(all_names_bytes=10)).add("aaaa/bbbbb", is_dir=False)


@given(st.text())
def test_folding_never_adds_or_removes_a_separator(name: str) -> None:
    assert fold(name).count("/") == name.count("/")


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_limits_out_of_range_are_refused_by_name(value: int) -> None:
    with pytest.raises(ValueError, match=r"ExtractLimits\.entries"):
        ExtractLimits(entries=value)
    with pytest.raises(ValueError, match=r"ExtractLimits\.path_bytes must be at most 65535"):
        ExtractLimits(path_bytes=65536)


@given(st.text(alphabet="aAcCoOnN01xX./:\\ _-é\0", max_size=12))
def test_the_short_way_for_plain_names_gives_what_the_rules_give(name: str) -> None:
    limits = ExtractLimits(depth=3, name_bytes=8)

    def outcome() -> tuple[str, ...] | str:
        try:
            return validate_entry_name(name, limits=limits)
        except BundleError as error:
            return str(error)

    short = outcome()
    with mock.patch("zcell.workspace.names._PLAIN", re.compile(r"(?!)")):
        assert outcome() == short
