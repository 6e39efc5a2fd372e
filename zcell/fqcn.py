"""Names of cells. Invariant owned here: a string that passed `FQCN.validate` is the only thing ever used as a cell's name.

A fully qualified cell name (FQCN) is one or more labels joined by dots. The root of the tree is the cell named ``server``;
every other first-level name is a child of the root, and ``a.b`` is a child of ``a``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")
_MAX_NAME = 255
_MAX_KNOWN = 4096
_known: set[str] = set()  # names found valid before: the same few are checked with every message


class FQCN:
    """Functions on fully qualified cell names; a name itself is a plain `str`."""

    ROOT_SERVER = "server"
    SEPARATOR = "."

    @staticmethod
    def validate(name: str) -> str:
        """Return `name` unchanged, or raise `ValueError` saying which label is wrong and why.

        Labels are 1 to 63 of ``A-Z a-z 0-9 _ -``; the whole name is at most 255 characters.
        """
        if FQCN.is_valid(name):
            return name
        if not isinstance(name, str):
            raise TypeError(f"a cell name is a str, not {type(name).__name__}")
        if not name:
            raise ValueError("a cell name is empty; expected labels joined by dots, such as 'site-1.job-7'")
        if len(name) > _MAX_NAME:
            raise ValueError(f"cell name of {len(name)} characters is too long; at most {_MAX_NAME} are allowed")
        for number, label in enumerate(name.split("."), 1):
            if _LABEL.match(label):
                continue
            if not label:
                why = "is empty"
            elif len(label) > 63:
                why = f"has {len(label)} characters, at most 63 are allowed"
            else:
                wrong = next(c for c in label if not _LABEL.match(c))
                why = f"has the character {wrong!r}; allowed are letters, digits, '_' and '-'"
            raise ValueError(f"cell name {name!r}: label {number} ({label[:70]!r}) {why}")
        return name

    @staticmethod
    def is_valid(name: object) -> bool:
        """Whether `validate` would accept `name`. Never raises."""
        if type(name) is not str:
            return isinstance(name, str) and FQCN.is_valid(str(name))
        if name in _known:
            return True
        if not 0 < len(name) <= _MAX_NAME or not all(_LABEL.match(x) for x in name.split(".")):
            return False
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known.add(name)
        return True

    @staticmethod
    def join(parts: Iterable[str]) -> str:
        """Join labels or names into one validated name; empty parts are skipped. Raises `ValueError`."""
        return FQCN.validate(".".join(p for p in parts if p))

    @staticmethod
    def split(name: str) -> list[str]:
        """The labels of `name`, first level first. Raises `ValueError` for an invalid name."""
        return FQCN.validate(name).split(".")

    @staticmethod
    def parent(name: str) -> str:
        """The name one label shorter, ``""`` for a first-level name. Raises `ValueError` for an invalid name."""
        return FQCN.validate(name).rpartition(".")[0]

    @staticmethod
    def root(name: str) -> str:
        """The first label of `name`. Raises `ValueError` for an invalid name."""
        return FQCN.validate(name).partition(".")[0]

    @staticmethod
    def is_ancestor(a: str, b: str) -> bool:
        """Whether `a` is strictly above `b` in the tree. The root ``server`` is above every other cell."""
        FQCN.validate(a)
        FQCN.validate(b)
        if a == b:
            return False
        return a == FQCN.ROOT_SERVER or b.startswith(a + ".")

    @staticmethod
    def is_family(a: str, b: str) -> bool:
        """Whether `a` and `b` are the same cell or one is above the other."""
        return a == b or FQCN.is_ancestor(a, b) or FQCN.is_ancestor(b, a)

    @staticmethod
    def tree_parent(name: str) -> str:
        """The cell that `name` links to in the tree: ``server`` for a first-level name, ``""`` for the root itself."""
        above = FQCN.parent(name)
        return above or ("" if name == FQCN.ROOT_SERVER else FQCN.ROOT_SERVER)
