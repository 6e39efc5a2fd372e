"""Several sites average a model: each learns from flowers nobody else sees, and only the model's arrays travel, by reference."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# sites share this machine: their libraries' own threads would only wait for each other
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "job"))
from model import Floats, Ints, Weights, accuracy, new_weights, train  # noqa: E402  the same file that travels to the sites

from zcell import Cell  # noqa: E402
from zcell.agent import TaskExchange  # noqa: E402
from zcell.launch import JobHandle, JobSpec  # noqa: E402
from zcell.launch.process import ProcessLauncher  # noqa: E402
from zcell.pipe import CellPipe, Mode  # noqa: E402

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

FLOWERS = HERE.parent / "train" / "iris.csv"
MIB = 1 << 20


def read_flowers(random: np.random.Generator) -> tuple[Floats, Ints]:
    """Fisher's iris, scaled, in random order; the last column is the constant 1."""
    with FLOWERS.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    kinds = sorted({row[-1] for row in rows})
    x = np.array([[float(value) for value in row[:-1]] for row in rows])
    x = np.hstack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones((len(x), 1))]).astype(np.float32)
    y = np.array([kinds.index(row[-1]) for row in rows])
    order = random.permutation(len(y))
    return x[order], y[order]


def deal_out(y: Ints, sites: int) -> list[Ints]:
    """Which flowers each site has: nearly all of one species, and none of another, so that no site can learn alone."""
    shares: list[list[int]] = [[] for _ in range(sites)]
    for kind in np.unique(y):
        for place, index in enumerate(np.flatnonzero(y == kind)):
            shares[(int(kind) + (place % 5 == 0)) % sites].append(int(index))
    return [np.array(share) for share in shares]


class Site:
    """One site, seen from the parent: a launched job and the exchange with it."""

    def __init__(self, name: str, cell: Cell, launcher: ProcessLauncher, out: Path, stack: ExitStack) -> None:
        self.name = name
        self.loss = float("nan")
        self.job: JobHandle | None = None
        stack.callback(self._wait)  # after the exchange has said that it is over
        pipes = [CellPipe(Mode.PASSIVE, "federated", name, cell) for _ in range(2)]
        self.exchange = stack.enter_context(TaskExchange(*pipes))
        self.exchange.on_metric(self._on_metric)
        spec = JobSpec(
            job_id=name,
            command=[sys.executable, "member.py"],
            job_directory=HERE / "job",
            results=out / "jobs" / name,
            env=self.exchange.job_environment(),
        )
        self.job = launcher.launch(spec, cell)
        self.job.on_finished(lambda ended: self.exchange.peer_is_gone(f"its job ended: {ended.reason or ended.exit_code}"))

    def _wait(self) -> None:
        if self.job is not None:
            self.job.wait(30)

    def _on_metric(self, record: dict[str, Any]) -> None:
        self.loss = record["loss"]

    def ask(self, task: str, data: Any, **options: Any) -> Any:
        """Have `task` done; its result. Ends the program when it cannot be had."""
        result = self.exchange.run(task, data, **options)
        if not result.ok:
            logs = self.job.logs() if self.job is not None else ""
            raise SystemExit(f"{task} at {self.name}: {result.cause.value}: {result.error}\n{logs}")
        return result.data


def average(answers: Sequence[dict[str, Any]]) -> Weights:
    """Federated averaging: each site's model counts as much as it has flowers."""
    total = sum(answer["count"] for answer in answers)
    shares = [np.float32(answer["count"] / total) for answer in answers]
    columns = zip(*(answer["weights"] for answer in answers), strict=True)
    return [sum(share * w for share, w in zip(shares, column, strict=True)) for column in columns]


def show(rounds: list[dict[str, Any]], sites: list[Site], total: int, size_bytes: int) -> Table:
    title = f"round {len(rounds)} of {total}; the model has {size_bytes / MIB:.1f} MiB"
    table = Table(title=title, title_justify="left")
    for name in ("round", *(f"loss at {s.name}" for s in sites), "right together", "seconds"):
        table.add_column(name, justify="right")
    for row in rounds[-12:]:
        losses = [f"{value:.3f}" for value in row["losses"]]
        table.add_row(str(row["round"]), *losses, f"{row['accuracy']:.1%}", f"{row['seconds']:.2f}")
    return table


def draw(rounds: list[dict[str, Any]], alone: dict[str, float], path: Path) -> None:
    """Accuracy round by round, against what each site reaches alone."""
    figure, axes = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    numbers = [row["round"] for row in rounds]
    axes.plot(numbers, [row["accuracy"] for row in rounds], marker="o", color="tab:blue", label="all sites together")
    for (name, value), style in zip(alone.items(), [":", "--", "-."] * len(alone), strict=False):
        axes.axhline(value, color="tab:orange", linestyle=style, label=f"{name} alone, as many steps")
    axes.set(
        xlabel="round", ylabel="held-out flowers told right", title="What averaging is worth", ylim=(0, 1.03), xticks=numbers
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=3, help="how many sites (default: 3)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of averaging (default: 12)")
    parser.add_argument("--steps", type=int, default=3, help="steps each site takes a round (default: 3)")
    parser.add_argument("--width", type=int, default=450_000, help="hidden units (default: 450,000, a model of 13.7 MiB)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/federated"), help="where the results go")
    options = parser.parse_args()
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(options.seed)
    x, y = read_flowers(random)
    held_x, held_y, x, y = x[:45], y[:45], x[45:], y[45:]
    shares = deal_out(y, options.sites)
    weights = new_weights(x.shape[1] - 1, options.width, 3, random)
    size_bytes = sum(w.nbytes for w in weights)
    rounds: list[dict[str, Any]] = []
    console = Console()
    launcher = ProcessLauncher()
    with ExitStack() as stack:
        stack.callback(launcher.close)
        cell = stack.enter_context(Cell("server", listen=["tcp://127.0.0.1:0"]))
        pool = stack.enter_context(ThreadPoolExecutor(options.sites))
        sites = [Site(f"site-{n}", cell, launcher, out, stack) for n in range(1, options.sites + 1)]
        list(pool.map(lambda s, share: s.ask("your_flowers", {"x": x[share], "y": y[share]}), sites, shares))
        with Live(console=console, auto_refresh=False) as live:
            for number in range(1, options.rounds + 1):
                began = time.perf_counter()
                data = {"weights": weights, "steps": options.steps}
                about = {"current_round": number, "total_rounds": options.rounds}
                answers = list(pool.map(lambda site: site.ask("round", data, **about), sites))  # noqa: B023  awaited here
                weights = average(answers)
                row = {"round": number, "accuracy": accuracy(weights, held_x, held_y), "losses": [s.loss for s in sites]}
                rounds.append(row | {"seconds": time.perf_counter() - began})
                live.update(show(rounds, sites, options.rounds, size_bytes), refresh=True)
    # the width does not change how fast it learns, so a tenth of it is enough to know what a site reaches alone
    narrow = new_weights(x.shape[1] - 1, max(1000, options.width // 10), 3, random)
    steps = options.rounds * options.steps
    alone = {
        site.name: accuracy(train(narrow, x[share], y[share], steps)[0], held_x, held_y)
        for site, share in zip(sites, shares, strict=True)
    }
    np.savez(out / "model.npz", *weights)
    (out / "rounds.json").write_text(json.dumps({"rounds": rounds, "alone": alone}, indent=1) + "\n")
    draw(rounds, alone, out / "federated.png")
    console.print()
    moved = 2 * options.rounds * options.sites * size_bytes / MIB
    console.print(f"{rounds[-1]['accuracy']:.1%} together; alone {', '.join(f'{n} {v:.1%}' for n, v in alone.items())}")
    console.print(f"{moved:,.0f} MiB of models moved; see {out / 'federated.png'}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the jobs were ended, and nothing was written")
