"""One measured figure. Invariant: value, reference and ratio come from samples that were taken in turn, and the noise is theirs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on the value of a figure, or on its ratio to the reference."""

    of: Literal["value", "ratio"]
    bound: float
    at_most: bool = False

    def met(self, figure: Figure) -> bool:
        measured = figure.value if self.of == "value" else figure.ratio
        if measured is None:
            return False
        return measured <= self.bound if self.at_most else measured >= self.bound

    def text(self, unit: str) -> str:
        bound = f"{number(self.bound)} {unit}" if self.of == "value" else f"{self.bound:g} x"
        return f"{'<=' if self.at_most else '>='} {bound}"


def at_least(bound: float) -> Target:
    """The value reaches `bound`."""
    return Target("value", bound)


def at_most(bound: float) -> Target:
    """The value stays within `bound`."""
    return Target("value", bound, at_most=True)


def ratio_at_least(bound: float) -> Target:
    """Value / reference reaches `bound`."""
    return Target("ratio", bound)


def ratio_at_most(bound: float) -> Target:
    """Value / reference stays within `bound`."""
    return Target("ratio", bound, at_most=True)


@dataclass(frozen=True, slots=True)
class Figure:
    """`samples` and `reference_samples` are in `unit`, one of each a round."""

    group: str
    name: str
    unit: str
    samples: Sequence[float]
    reference: str = ""
    reference_samples: Sequence[float] = ()
    targets: Sequence[Target] = ()
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def reference_value(self) -> float | None:
        return statistics.median(self.reference_samples) if self.reference_samples else None

    @property
    def ratio(self) -> float | None:
        """How many times the reference the value is; whether more is better depends on the unit."""
        return self.value / self.reference_value if self.reference_value else None

    @property
    def noise(self) -> float:
        """Spread of the middle half of the samples over their median: of value or reference, whichever is worse."""
        return max(spread(self.samples), spread(self.reference_samples))

    @property
    def met(self) -> list[bool]:
        """One for each target."""
        return [target.met(self) for target in self.targets]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        derived = {"value": self.value, "reference_value": self.reference_value, "ratio": self.ratio, "noise": self.noise}
        return asdict(self) | derived | {"met": self.met}


def spread(samples: Sequence[float]) -> float:
    """Interquartile range over the median; 0 where there is nothing to compare."""
    if len(samples) < 2 or not statistics.median(samples):
        return 0.0
    first, middle, last = statistics.quantiles(samples, n=4, method="inclusive")
    return (last - first) / middle


def number(value: float) -> str:
    """Three significant digits, thousands marked, no exponent."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
