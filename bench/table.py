"""The one table. Invariant: a missed target is as visible as one that is met."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figure import Figure, number

HEADINGS = ("figure", "value", "reference", "ratio", "noise", "target", "met")
Row = tuple[str, ...]


def row(figure: Figure) -> Row:
    """The cells of one line, all text."""
    reference = figure.reference_value
    return (
        figure.name,
        f"{number(figure.value)} {figure.unit}",
        "" if reference is None else f"{figure.reference} {number(reference)}",
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        f"{figure.noise:.0%}",
        "; ".join(target.text(figure.unit) for target in figure.targets),
        ", ".join("yes" if met else "NO" for met in figure.met),
    )


def groups(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """In the order in which they were measured."""
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(figure.group, []).append(figure)
    return found


def plain(figures: Sequence[Figure]) -> list[str]:
    """For a terminal."""
    rows = [HEADINGS, *(row(figure) for figure in figures)]
    widths = [max(len(cells[at]) for cells in rows) for at in range(len(HEADINGS))]

    def line(cells: Row) -> str:
        padded = [
            cell.ljust(width) if at in (0, 2, 5, 6) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    lines = [line(HEADINGS), "  ".join("-" * width for width in widths)]
    for group, members in groups(figures).items():
        lines += [f"[{group}]", *(line(row(figure)) for figure in members)]
    return [*lines, *verdict(figures)]


def verdict(figures: Sequence[Figure]) -> list[str]:
    """How many targets were met, and the notes."""
    outcomes = [met for figure in figures for met in figure.met]
    notes = [f"{figure.name}: {figure.note}" for figure in figures if figure.note]
    return [f"{sum(outcomes)} of {len(outcomes)} targets met", *notes]


def markdown(figures: Sequence[Figure]) -> list[str]:
    """For docs/performance.md."""
    lines = []
    for group, members in groups(figures).items():
        lines += [f"### {group.capitalize()}", "", "| " + " | ".join(HEADINGS) + " |", "|---|---:|---|---:|---:|---|---|"]
        lines += ["| " + " | ".join(row(figure)) + " |" for figure in members]
        lines += ["", *(f"- {figure.name}: {figure.note}" for figure in members if figure.note)]
        if lines[-1]:
            lines.append("")
    return lines
