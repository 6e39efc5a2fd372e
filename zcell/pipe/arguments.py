"""Arguments of public calls. Invariant owned here: what makes no sense is refused by its name when it is given, not when it is used.

A wrong type is a `TypeError`, a wrong value a `ValueError`. Seconds may be any real number but NaN; what is longer than 30 years
(`math.inf` too) counts as 30 years, which every wait of the system can bear.
"""

from __future__ import annotations

import operator
import re
from numbers import Real
from typing import Any

from zcell.abort import Abort

_LONGEST = 1e9
_CHANNEL = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")


def seconds(name: str, value: Any, *, least: float | None = None, above: float | None = None, zero: str = "") -> float:
    """`value`, which must be at least `least` or above `above` if those are given; `zero`: what 0 means, for the error."""
    if type(value) is not float and not _is_number(value):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__} ({value!r})")
    if value != value:
        raise ValueError(f"{name} must be a number of seconds, got nan")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be above {above:g} seconds, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be {least:g}{zero} or more seconds, got {value!r}")
    return _LONGEST if value > _LONGEST else -_LONGEST if value < -_LONGEST else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def seconds_or_none(name: str, value: Any, *, least: float | None = None, above: float | None = None) -> float | None:
    """The same, or None."""
    return None if value is None else seconds(name, value, least=least, above=above)


def whole_number(name: str, value: Any, *, least: int | None = None) -> int:
    """`value`, a whole number of any integer type but bool, at least `least` if that is given."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__} ({value!r})")
    if least is not None and number < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value`, True or False and nothing that merely counts as one."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__} ({value!r})")
    return value


def abort_or_none(name: str, value: Any) -> Abort | None:
    """`value`, an `Abort` or None."""
    if value is not None and not isinstance(value, Abort):
        raise TypeError(f"{name} must be a zcell.Abort or None, not {type(value).__name__} ({value!r})")
    return value


def channel(name: str, value: Any) -> str:
    """`value`, the name of a pipe."""
    if not isinstance(value, str) or not _CHANNEL.match(value):
        raise ValueError(f"{name} is 1 to 63 letters, digits, '_' or '-', got {value!r}")
    return value
