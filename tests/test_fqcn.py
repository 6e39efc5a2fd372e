"""Names of cells: what is accepted, what is refused and how the refusal reads, and who is whose family."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.fqcn import FQCN

LABELS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=63)
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)


def test_the_root_is_called_server() -> None:
    assert FQCN.ROOT_SERVER == "server"


@pytest.mark.parametrize("name", ["server", "site-1", "site-1.job-7", "a.b.c.d.e", "A_b-9", "x" * 63, "-", "_", "0"])
def test_good_names_are_returned_unchanged(name: str) -> None:
    assert FQCN.validate(name) is name
    assert FQCN.is_valid(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        (".", "label 1"),
        ("a.", "label 2"),
        (".a", "label 1"),
        ("a..b", "label 2"),
        ("a b", "' '"),
        ("a/b", "'/'"),
        ("site-1.jöb", "label 2"),
        ("a.b\n", "label 2"),
        ("a\n", r"\n"),
        ("a\0", r"\x00"),
        ("x" * 64, "63"),
        ("ok." + "y" * 64, "label 2"),
        ("site-1.*", "'*'"),
        ("../etc", "label 1"),
        ("a.\u0661", "label 2"),
        (".".join(["abcdefg"] * 33), "255"),
    ],
)
def test_a_bad_name_is_refused_saying_which_label_and_why(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"name") as caught:
        FQCN.validate(name)
    assert says in str(caught.value)
    assert not FQCN.is_valid(name)


@pytest.mark.parametrize("name", [None, 7, b"server", ["server"], object()])
def test_something_that_is_no_string_is_a_type_error(name: object) -> None:
    with pytest.raises(TypeError, match="str"):
        FQCN.validate(name)  # type: ignore[arg-type]
    assert not FQCN.is_valid(name)


def test_a_name_of_255_characters_is_the_longest() -> None:
    name = ".".join(["x" * 63] * 4)
    assert len(name) == 255
    assert FQCN.validate(name) == name
    with pytest.raises(ValueError, match="256"):
        FQCN.validate(name[:-1] + ".y")


def test_a_refusal_of_a_very_long_label_stays_short() -> None:
    with pytest.raises(ValueError, match="63") as caught:
        FQCN.validate("z" * 250)
    assert len(str(caught.value)) < 500


def test_join_skips_empty_parts_and_joins_names() -> None:
    assert FQCN.join(["site-1", "", "job-7"]) == "site-1.job-7"
    assert FQCN.join(["site-1.job-7", "a"]) == "site-1.job-7.a"
    with pytest.raises(ValueError, match="empty"):
        FQCN.join([])
    with pytest.raises(ValueError, match="empty"):
        FQCN.join(["", ""])


def test_the_parent_of_a_first_level_name_is_empty() -> None:
    assert FQCN.parent("site-1.job-7") == "site-1"
    assert FQCN.parent("site-1") == ""
    assert FQCN.parent("server") == ""
    assert FQCN.root("site-1.job-7.a") == "site-1"
    assert FQCN.root("server") == "server"


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [
        ("server", "site-1", True),
        ("server", "site-1.job", True),
        ("server", "server.job", True),
        ("site-1", "site-1.job", True),
        ("site-1", "site-1.job.a", True),
        ("site-1", "site-10", False),
        ("site-1", "site-10.job", False),
        ("site-1", "site-1", False),
        ("server", "server", False),
        ("site-1", "server", False),
        ("site-1.job", "site-1", False),
        ("site-2", "site-1.job", False),
        ("server.job", "site-1", False),
    ],
)
def test_ancestors(above: str, below: str, *, expected: bool) -> None:
    assert FQCN.is_ancestor(above, below) is expected
    assert FQCN.is_family(above, below) is (expected or above == below or FQCN.is_ancestor(below, above))


def test_ancestry_of_an_invalid_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="label"):
        FQCN.is_ancestor("site 1", "site-1")
    with pytest.raises(ValueError, match="label"):
        FQCN.is_ancestor("site-1", "a..b")


def test_the_parent_in_the_tree_is_the_server_for_first_level_names() -> None:
    assert FQCN.tree_parent("server") == ""
    assert FQCN.tree_parent("site-1") == "server"
    assert FQCN.tree_parent("server.job-7") == "server"
    assert FQCN.tree_parent("site-1.job-7") == "site-1"


@given(NAMES)
def test_split_and_join_are_inverse(name: str) -> None:
    assert FQCN.join(FQCN.split(name)) == name
    assert FQCN.root(name) == FQCN.split(name)[0]


@given(NAMES, LABELS)
def test_a_name_is_below_its_parent_and_below_the_root(name: str, label: str) -> None:
    child = f"{name}.{label}"
    assert FQCN.parent(child) == name
    assert FQCN.is_ancestor(name, child)
    assert not FQCN.is_ancestor(child, name)
    assert FQCN.is_family(name, child)


@given(NAMES)
def test_following_parents_always_ends_at_the_root(name: str) -> None:
    for _ in range(6):
        if name == FQCN.ROOT_SERVER:
            return
        name = FQCN.tree_parent(name)
    assert name == FQCN.ROOT_SERVER


@given(st.text(max_size=300))
def test_any_text_is_either_a_name_or_a_value_error(text: str) -> None:
    try:
        accepted = FQCN.validate(text) == text
    except ValueError:
        accepted = False
    assert accepted is FQCN.is_valid(text)
