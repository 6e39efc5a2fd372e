"""Waiting for a condition. Invariant: a wait ends as soon as the condition holds, and names itself when it never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST = 0.0005
_SLOWEST = 0.02


def eventually(predicate: Callable[[], T], timeout: float = 5.0, what: str | Callable[[], object] = "") -> T:
    """Return the first true value of `predicate`, polled with growing pauses, or fail after `timeout` seconds.

    `what` is named in the failure; a callable is asked only then, so that it can show the state that never came right.
    """
    pause = threading.Event()
    delay = _FIRST
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        left = end - time.monotonic()
        if left <= 0:
            shown = what() if callable(what) else what
            raise AssertionError(f"still not true after {timeout} s: {shown or predicate!r}")
        pause.wait(min(delay, left))
        delay = min(delay * 2, _SLOWEST)


def never(predicate: Callable[[], object], within: float, what: str = "") -> None:
    """Fail if `predicate` becomes true during `within` seconds. For outcomes that have no event of their own: keep it short."""
    pause = threading.Event()
    end = time.monotonic() + within
    while time.monotonic() < end:
        value = predicate()
        assert not value, f"became true: {what or predicate!r} ({value!r})"
        pause.wait(_SLOWEST)
