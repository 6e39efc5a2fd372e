"""How a download is to be done. Invariant: options are checked before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from zcell.abort import Abort
from zcell.download.progress import ProgressEvent
from zcell.fqcn import FQCN

ProgressFn = Callable[[ProgressEvent], None]
IDLE_TIMEOUT = 60.0


class FetchOptions(TypedDict, total=False):
    """Keyword arguments that all ways of fetching share."""

    progress: ProgressFn | None
    """Called with a `ProgressEvent` at most ten times a second, on the pool."""
    idle_timeout: float
    """Seconds without progress by the owner after which it fails with reason idle (or link); 60."""
    deadline: float | None
    """Seconds it may take in all; None: as long as it makes progress."""
    verify: str
    """"tree" (every chunk and the whole against the SHA-256 tree) or "checksum" (XXH3-64 a chunk)."""
    secure: bool
    """Seal end to end; needs kits."""
    optional: bool
    """Do not log a failure as a warning."""
    abort: Abort | None
    """Ends it with reason aborted within 100 ms."""


def checked_options(owner: str, options: FetchOptions) -> FetchOptions:
    """All options with their defaults. Raises `ValueError` or `TypeError` naming the argument."""
    FQCN.validate(owner)
    unknown = set(options) - set(FetchOptions.__annotations__)
    if unknown:
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}; there are {', '.join(sorted(FetchOptions.__annotations__))}")
    whole: FetchOptions = {
        "progress": None, "idle_timeout": IDLE_TIMEOUT, "deadline": None, "verify": "tree",
        "secure": False, "optional": False, "abort": None,
    }  # fmt: skip
    whole.update(options)
    whole["idle_timeout"] = seconds("idle_timeout", whole["idle_timeout"])
    if whole["deadline"] is not None:
        whole["deadline"] = seconds("deadline", whole["deadline"])
    if whole["verify"] not in ("tree", "checksum"):
        raise ValueError(f"verify must be 'tree' or 'checksum', got {whole['verify']!r}")
    if whole["secure"]:
        raise ValueError("secure: end-to-end sealing needs kits, which this version does not have")
    return whole


def seconds(name: str, value: float) -> float:
    """`value` as a float above 0, or `ValueError` naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} must be a number of seconds above 0, got {value!r}")
    return float(value)
