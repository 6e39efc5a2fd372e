"""Which entries of a workspace stay at home. Invariant: an excluded directory takes everything below it along."""

from __future__ import annotations

import re
from collections.abc import Iterable

DEFAULT_EXCLUDES = ("local/study_data.yaml",)


class Excludes:
    """Glob patterns, matched with case, against paths relative to the root of the workspace.

    A pattern with a slash matches the whole path (``local/*.key``); one without matches a name at any depth (``*.pyc``).
    ``*`` and ``?`` stay within one name, ``**`` crosses slashes, ``[a-z]`` and ``[!a-z]`` are sets of characters.
    Raises `ValueError` for an empty or absolute pattern, `TypeError` for one that is not a string.
    """

    def __init__(self, patterns: Iterable[str] = DEFAULT_EXCLUDES) -> None:
        if isinstance(patterns, str):
            raise TypeError(f"excludes must be a sequence of patterns, not the single string {patterns!r}")
        self.patterns = tuple(patterns)
        self._regex = re.compile("|".join(_translate(p) for p in self.patterns)) if self.patterns else None

    def __call__(self, path: str) -> bool:
        """Whether the entry `path` itself is excluded; its parents are not looked at."""
        return self._regex is not None and self._regex.fullmatch(path) is not None

    def covers(self, path: str) -> bool:
        """Whether `path` or any directory above it is excluded."""
        if self._regex is None:
            return False
        end = path.find("/")
        while end >= 0:
            if self._regex.fullmatch(path, 0, end):
                return True
            end = path.find("/", end + 1)
        return self(path)


def _translate(pattern: str) -> str:
    if not isinstance(pattern, str):
        raise TypeError(f"an exclude pattern is a str, not {type(pattern).__name__}")
    stripped = pattern.rstrip("/")
    if not stripped or stripped.startswith("/"):
        raise ValueError(f"exclude pattern {pattern!r} must be relative to the workspace and not empty")
    anywhere = "" if "/" in stripped else "(?:.*/)?"
    return f"(?:{anywhere}{_glob(stripped)})"


def _glob(pattern: str) -> str:
    """The regular expression of one glob."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if pattern.startswith("*/", at):
                out.append("(?:.*/)?")
                at += 2
            elif pattern.startswith("*", at):
                out.append(".*")
                at += 1
            else:
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", at + 2 if pattern[at : at + 1] == "!" else at + 1)) > 0:
            inner, at = pattern[at:end], end + 1
            negate, inner = ("^/", inner[1:]) if inner.startswith("!") else ("", inner)
            out.append(f"[{negate}{re.escape(inner).replace(chr(92) + '-', '-')}]")
        else:
            out.append(re.escape(char))
    return "(?s:" + "".join(out) + ")"
