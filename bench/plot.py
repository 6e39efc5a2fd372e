"""The picture of a run. Invariant: it shows the same ratios as the table, with the same targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.figure import Figure


def draw(figures: Sequence[Figure], to: Path) -> None:
    """One bar a figure that has a reference: value / reference, its noise as a whisker, its target as a mark; SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [figure for figure in figures if figure.ratio][::-1]
    if not shown:
        return
    height = 1.2 + 0.3 * len(shown)
    canvas, axes = pyplot.subplots(figsize=(11, height), layout="constrained")
    for at, figure in enumerate(shown):
        ratio = figure.ratio or 0.0
        colour = "#888888" if not figure.targets else "#2a7f5f" if all(figure.met) else "#b5442e"
        axes.barh(at, ratio, color=colour, height=0.65)
        axes.errorbar(
            ratio, at, xerr=[[min(ratio * figure.noise / 2, ratio * 0.99)], [ratio * figure.noise / 2]], color="black", lw=0.8
        )
        for target in figure.targets:
            if target.of == "ratio":
                axes.plot([target.bound] * 2, [at - 0.45, at + 0.45], color="black", lw=2)
    axes.axvline(1.0, color="black", lw=0.6, ls=":")
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [f"{figure.name} / {figure.reference}" for figure in shown], fontsize=7)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("value / reference of the same run; black marks are targets; green: met, red: missed, grey: no target")
    canvas.savefig(to)
    pyplot.close(canvas)
