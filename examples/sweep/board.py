"""What the sweep shows while it runs: one line an agent, and the best trials so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

BEST = 5


@dataclass
class Line:
    """What one agent is doing."""

    settings: dict[str, Any] | None = None
    epoch: int = 0
    loss: float | None = None
    accuracy: float | None = None
    done: int = 0


@dataclass
class Trial:
    """One finished trial."""

    settings: dict[str, Any]
    loss: float
    accuracy: float
    curve: Any = field(repr=False, default=None)


class Board:
    """Told what happens, from any thread; rendered several times a second."""

    def __init__(self, agents: list[str], trials: int) -> None:
        self._lock = threading.Lock()
        self._lines = {name: Line() for name in agents}
        self._trials = trials
        self.metrics = 0
        self.finished: list[Trial] = []

    def begin(self, agent: str, settings: dict[str, Any]) -> None:
        with self._lock:
            self._lines[agent] = Line(settings, done=self._lines[agent].done)

    def metric(self, agent: str, record: dict[str, Any]) -> None:
        with self._lock:
            self.metrics += 1
            line = self._lines[agent]
            if line.settings is not None and line.settings["trial"] == record["trial"]:
                line.epoch, line.loss, line.accuracy = record["epoch"], record["loss"], record["accuracy"]

    def finish(self, agent: str, trial: Trial) -> None:
        with self._lock:
            self._lines[agent].done += 1
            self._lines[agent].settings = None
            self.finished.append(trial)

    def __rich__(self) -> RenderableType:
        with self._lock:
            return Group(self._agents(), self._best())

    def _agents(self) -> Table:
        table = Table(title=f"{len(self.finished)} of {self._trials} trials, {self.metrics:,} metrics", title_justify="left")
        for name in ("agent", "done", "trial", "settings", "progress", "loss", "right"):
            table.add_column(name, justify="left" if name in ("agent", "settings", "progress") else "right", no_wrap=True)
        for name, line in self._lines.items():
            if line.settings is None:
                table.add_row(name, str(line.done), "", "", "", "", "")
                continue
            s = line.settings
            table.add_row(
                name,
                str(line.done),
                str(s["trial"]),
                _short(s),
                ProgressBar(total=s["epochs"], completed=line.epoch, width=16),
                "" if line.loss is None else f"{line.loss:.3f}",
                "" if line.accuracy is None else f"{line.accuracy:.1%}",
            )
        return table

    def _best(self) -> Table:
        table = Table(title="best so far", title_justify="left")
        for name in ("trial", "settings", "loss", "right"):
            table.add_column(name, justify="left" if name == "settings" else "right", no_wrap=True)
        for trial in sorted(self.finished, key=lambda t: t.loss)[:BEST]:
            number = str(trial.settings["trial"])
            table.add_row(number, _short(trial.settings), f"{trial.loss:.3f}", f"{trial.accuracy:.1%}")
        return table


def _short(settings: dict[str, Any]) -> str:
    return f"rate {settings['rate']:.4f}, momentum {settings['momentum']:.2f}, {settings['hidden']} hidden"
