"""Search good settings for a small network: trials run on several agents at once, each a launched job, watched live."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from board import Board, Trial
from picture import draw
from rich.console import Console
from rich.live import Live

from zcell import Cell
from zcell.agent import aio
from zcell.launch import JobSpec
from zcell.launch.process import ProcessLauncher
from zcell.pipe import CellPipe, Mode

HERE = Path(__file__).resolve().parent
FLOWERS = HERE.parent / "train" / "iris.csv"


def read_flowers(random: np.random.Generator) -> dict[str, Any]:
    """Fisher's iris, scaled; two thirds to learn from, one third held out."""
    with FLOWERS.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    kinds = sorted({row[-1] for row in rows})
    x = np.array([[float(value) for value in row[:-1]] for row in rows])
    y = np.array([kinds.index(row[-1]) for row in rows])
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    order = random.permutation(len(y))
    learn, held = order[: len(y) * 2 // 3], order[len(y) * 2 // 3 :]
    return {"x": x[learn], "y": y[learn], "held_x": x[held], "held_y": y[held]}


def choose_settings(count: int, epochs: int, random: np.random.Generator) -> deque[dict[str, Any]]:
    """`count` points of the search space, at random."""
    return deque(
        {
            "trial": number,
            "rate": float(10 ** random.uniform(-3.5, -0.3)),
            "momentum": float(random.uniform(0.0, 0.95)),
            "hidden": int(random.choice([4, 8, 16, 32])),
            "epochs": epochs,
            "seed": number,
        }
        for number in range(1, count + 1)
    )


class Sweep:
    """The search: one exchange and one launched job for each agent, all fed from one list of settings."""

    def __init__(self, cell: Cell, launcher: ProcessLauncher, board: Board, out: Path) -> None:
        self._cell = cell
        self._launcher = launcher
        self._board = board
        self._out = out

    async def agent(self, name: str, settings: deque[dict[str, Any]], flowers: dict[str, Any]) -> None:
        """Run trials on one agent until there are none left."""
        pipes = [CellPipe(Mode.PASSIVE, "sweep", name, self._cell) for _ in range(2)]
        async with aio.TaskExchange(*pipes) as exchange:
            exchange.on_metric(lambda record: self._board.metric(name, record))
            spec = JobSpec(
                job_id=name,
                command=[sys.executable, "trial.py"],
                job_directory=HERE / "job",
                results=self._out / "jobs" / name,
                env=exchange.job_environment(),
            )
            job = self._launcher.launch(spec, self._cell)
            job.on_finished(lambda ended: exchange.sync.peer_is_gone(f"its job ended: {ended.reason or ended.exit_code}"))
            while settings:
                chosen = settings.popleft()
                self._board.begin(name, chosen)
                result = await exchange.run("trial", {"settings": chosen, "flowers": flowers})
                if not result.ok:
                    raise SystemExit(f"trial {chosen['trial']} on {name}: {result.cause.value}: {result.error}\n{job.logs()}")
                data = result.data
                self._board.finish(name, Trial(chosen, data["loss"], data["accuracy"], data["curve"]))
        await asyncio.to_thread(job.wait, 30)

    async def run(self, agents: list[str], settings: deque[dict[str, Any]], flowers: dict[str, Any]) -> None:
        """All agents at once."""
        await asyncio.gather(*(self.agent(name, settings, flowers) for name in agents))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=3, help="how many jobs run trials (default: 3)")
    parser.add_argument("--trials", type=int, default=24, help="how many settings to try (default: 24)")
    parser.add_argument("--epochs", type=int, default=150, help="epochs of each trial (default: 150)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/sweep"), help="where the results go (default: build/sweep)")
    options = parser.parse_args()
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(options.seed)
    flowers = read_flowers(random)
    agents = [f"agent-{number}" for number in range(1, options.agents + 1)]
    board = Board(agents, options.trials)
    launcher = ProcessLauncher()
    console = Console()
    try:
        with Cell("server", listen=["tcp://127.0.0.1:0"]) as cell, Live(board, console=console, refresh_per_second=8):
            sweep = Sweep(cell, launcher, board, out)
            asyncio.run(sweep.run(agents, choose_settings(options.trials, options.epochs, random), flowers))
    finally:
        launcher.close()
    trials = sorted(board.finished, key=lambda t: t.loss)
    rows = [{**t.settings, "loss": t.loss, "accuracy": t.accuracy} for t in trials]
    (out / "trials.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(trials, out / "sweep.png")
    console.print()
    console.print(f"{len(trials)} trials, {board.metrics:,} metrics; best: trial {rows[0]['trial']}, {rows[0]['accuracy']:.1%}")
    console.print(f"see {out / 'sweep.png'} and {out / 'trials.json'}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the jobs were ended, and nothing was written")
