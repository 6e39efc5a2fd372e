"""What is said of an engine that a user wants to know ready. Invariant: a check that failed says what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from zcell.errors import EngineUnreachableError


@dataclass(frozen=True)
class Check:
    """One thing that was looked at or tried."""

    name: str
    text: str
    """What was found."""
    failure: str = ""
    """Empty when it is as it should be; else ``usage``, ``start``, ``link``, ``transfer`` or ``verification``."""
    advice: str = ""
    """What to do; there may be some without a failure too."""

    def __post_init__(self) -> None:
        if self.failure and not self.advice:
            raise ValueError(f"the check {self.name!r} failed and does not say what to do")

    @property
    def ok(self) -> bool:
        return not self.failure


def failure_of(error: Exception) -> str:
    """The `Check.failure` that tells of `error`, with which a launch ended before it began."""
    return "link" if isinstance(error, EngineUnreachableError) else "usage"


def page_of(launcher: str) -> str:
    """Where the launcher of that name is written up."""
    return f"docs/howto-{launcher}.md" if launcher in ("docker", "slurm", "kubernetes") else "the launcher's documentation"
