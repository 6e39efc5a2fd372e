"""The sweep in one picture: how each trial learned, and where in the space of settings the good ones are."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from board import Trial

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import Normalize


def draw(trials: list[Trial], path: Path) -> None:
    """Write the picture to `path`."""
    losses = [t.loss for t in trials]
    colours = plt.get_cmap("plasma")
    scale = Normalize(min(losses), max(losses) if max(losses) > min(losses) else min(losses) + 1e-6)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    best = min(trials, key=lambda t: t.loss)
    for trial in sorted(trials, key=lambda t: t is best):
        epochs = range(1, len(trial.curve) + 1)
        look = {"color": "red", "linewidth": 2.5} if trial is best else {"color": colours(scale(trial.loss)), "alpha": 0.7}
        left.plot(epochs, trial.curve, label=f"trial {best.settings['trial']}, the best" if trial is best else None, **look)
    left.set(xlabel="epoch", ylabel="loss on held-out flowers", title="How each trial learned", yscale="log")
    left.legend(loc="upper right")
    points = right.scatter(
        [t.settings["rate"] for t in trials],
        [t.settings["momentum"] for t in trials],
        s=[20 + 6 * t.settings["hidden"] for t in trials],
        c=losses,
        cmap=colours,
        norm=scale,
        edgecolors=["red" if t is best else "black" for t in trials],
        linewidths=[2.0 if t is best else 0.5 for t in trials],
    )
    right.set(
        xlabel="learning rate",
        ylabel="momentum",
        title="Settings (size: hidden units; red: best)",
        xscale="log",
        ylim=(-0.05, 1.0),
    )
    figure.colorbar(points, ax=right, label="final loss")
    figure.savefig(path, dpi=120)
    plt.close(figure)
