"""Excludes: what a pattern keeps at home."""

from __future__ import annotations

import pytest

from zcell.workspace.patterns import Excludes


@pytest.mark.parametrize(
    ("pattern", "excluded", "kept"),
    [
        ("local/study_data.yaml", ["local/study_data.yaml"], ["local/study_data.yml", "job/local/study_data.yaml"]),
        ("*.pyc", ["a.pyc", "job/x/y.pyc"], ["a.py", "a.pyc.txt"]),
        ("job/*.bin", ["job/a.bin"], ["job/sub/a.bin"]),
        ("job/**/*.bin", ["job/a.bin", "job/sub/deep/a.bin"], ["other/a.bin"]),
        ("job/data?", ["job/data1"], ["job/data", "job/data12"]),
        ("[!a]x", ["bx"], ["ax"]),
        ("[a-c]x", ["bx", "job/cx"], ["dx", "-x"]),
        ("[x", ["[x"], ["x"]),
        ("a.b", ["a.b"], ["aXb"]),
        ("ü*", ["übung"], ["ubung"]),
    ],
)
def test_patterns_match_as_written_down(pattern: str, excluded: list[str], kept: list[str]) -> None:
    excludes = Excludes([pattern])
    assert [path for path in excluded + kept if excludes(path)] == excluded


def test_an_excluded_directory_covers_what_is_below() -> None:
    excludes = Excludes(["__pycache__/", "job/data"])
    assert excludes.covers("job/pkg/__pycache__/x.pyc")
    assert excludes.covers("job/data/a/b")
    assert not excludes.covers("job/database/a")


def test_study_data_stays_at_home_by_default() -> None:
    assert Excludes()("local/study_data.yaml")
    assert not Excludes([])("local/study_data.yaml")


@pytest.mark.parametrize("pattern", ["", "/", "/etc"])
def test_a_pattern_that_leads_nowhere_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match="relative to the workspace"):
        Excludes([pattern])


def test_a_single_string_is_not_taken_for_a_list() -> None:
    with pytest.raises(TypeError, match="single string"):
        Excludes("*.pyc")
    with pytest.raises(TypeError, match="is a str"):
        Excludes([b"x"])  # type: ignore[list-item]
