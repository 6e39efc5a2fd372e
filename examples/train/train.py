"""Fit a small neural network to Fisher's iris measurements; write a model, metrics and a plot into the working directory."""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")  # a job has no screen
from matplotlib import pyplot as plt

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
HIDDEN = 12
HELD_OUT = 0.3


@dataclass(frozen=True)
class Flowers:
    """Measurements in centimetres, one row a flower, and the index of each flower's species."""

    lengths: Floats
    species: Ints


def read(path: Path) -> tuple[Flowers, list[str]]:
    """The data set and the names of its species."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    names = sorted({row[-1] for row in rows})
    lengths = np.array([[float(value) for value in row[:-1]] for row in rows])
    return Flowers(lengths, np.array([names.index(row[-1]) for row in rows])), names


def split(flowers: Flowers, random: np.random.Generator) -> tuple[Flowers, Flowers]:
    """Training and held-out flowers, the same share of each species in both."""
    held_out = np.zeros(len(flowers.species), dtype=bool)
    for kind in np.unique(flowers.species):
        members = random.permutation(np.flatnonzero(flowers.species == kind))
        held_out[members[: round(len(members) * HELD_OUT)]] = True
    return (
        Flowers(flowers.lengths[~held_out], flowers.species[~held_out]),
        Flowers(flowers.lengths[held_out], flowers.species[held_out]),
    )


class Network:
    """One hidden layer of tanh units, softmax on top, trained by Adam (Kingma and Ba, 2015)."""

    def __init__(self, inputs: int, classes: int, random: np.random.Generator) -> None:
        self.weights = [
            random.normal(0, inputs**-0.5, (inputs, HIDDEN)),
            np.zeros(HIDDEN),
            random.normal(0, HIDDEN**-0.5, (HIDDEN, classes)),
            np.zeros(classes),
        ]
        self._mean = [np.zeros_like(w) for w in self.weights]
        self._square = [np.zeros_like(w) for w in self.weights]
        self._steps = 0

    def probabilities(self, x: Floats) -> tuple[Floats, Floats]:
        """The hidden layer and the probability of each class, one row a flower."""
        w1, b1, w2, b2 = self.weights
        hidden = np.tanh(x @ w1 + b1)
        scores = hidden @ w2 + b2
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, scores / scores.sum(axis=1, keepdims=True)

    def evaluate(self, x: Floats, species: Ints) -> tuple[float, float]:
        """Cross-entropy and accuracy."""
        chances = self.probabilities(x)[1]
        loss = -np.log(chances[np.arange(len(species)), species] + 1e-12).mean()
        return float(loss), float((chances.argmax(axis=1) == species).mean())

    def step(self, x: Floats, species: Ints, rate: float) -> None:
        """One step of Adam down the gradient of these flowers."""
        hidden, error = self.probabilities(x)
        error[np.arange(len(species)), species] -= 1
        error /= len(species)
        back = (error @ self.weights[2].T) * (1 - hidden**2)
        gradients = [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        self._steps += 1
        for weight, gradient, mean, square in zip(self.weights, gradients, self._mean, self._square, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            corrected = mean / (1 - 0.9**self._steps)
            weight -= rate * corrected / (np.sqrt(square / (1 - 0.999**self._steps)) + 1e-8)


def plot(path: Path, history: list[dict[str, float]], network: Network, x: Floats, flowers: Flowers, names: list[str]) -> None:
    """The learning curves, and each held-out flower with what the network made of it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = [h["epoch"] for h in history]
    left.plot(epochs, [h["train_loss"] for h in history], color="tab:blue", label="loss, training")
    left.plot(epochs, [h["test_loss"] for h in history], color="tab:blue", linestyle="--", label="loss, held out")
    left.plot(epochs, [h["test_accuracy"] for h in history], color="tab:green", label="accuracy, held out")
    left.set(xlabel="epoch", title="Learning", ylim=(0, 1.2))
    left.legend()
    guessed = network.probabilities(x)[1].argmax(axis=1)
    for kind, name in enumerate(names):
        members = flowers.species == kind
        right.scatter(flowers.lengths[members, 2], flowers.lengths[members, 3], label=name, alpha=0.8)
    wrong = guessed != flowers.species
    right.scatter(
        flowers.lengths[wrong, 2], flowers.lengths[wrong, 3], s=120, facecolors="none", edgecolors="red", label="mistaken"
    )
    right.set(
        xlabel="petal length (cm)", ylabel="petal width (cm)", title=f"Held out: {len(x) - wrong.sum()} of {len(x)} right"
    )
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--rate", type=float, default=0.02, help="step size of Adam")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    flowers, names = read(Path("iris.csv"))
    train, test = split(flowers, random)
    mean, scale = train.lengths.mean(axis=0), train.lengths.std(axis=0)
    x_train, x_test = (train.lengths - mean) / scale, (test.lengths - mean) / scale
    network = Network(x_train.shape[1], len(names), random)
    history: list[dict[str, float]] = []
    with Path("metrics.jsonl").open("w") as metrics:
        for epoch in range(1, options.epochs + 1):
            for batch in np.array_split(random.permutation(len(x_train)), 7):
                network.step(x_train[batch], train.species[batch], options.rate)
            train_loss, train_accuracy = network.evaluate(x_train, train.species)
            test_loss, test_accuracy = network.evaluate(x_test, test.species)
            record = {
                "epoch": epoch,
                "train_loss": round(train_loss, 6),
                "train_accuracy": round(train_accuracy, 6),
                "test_loss": round(test_loss, 6),
                "test_accuracy": round(test_accuracy, 6),
            }
            history.append(record)
            metrics.write(json.dumps(record) + "\n")
            if epoch % max(1, options.epochs // 6) == 0 or epoch == options.epochs:
                print(
                    f"epoch {epoch:4}  loss {train_loss:.4f}  held out {test_loss:.4f}  accuracy {test_accuracy:.1%}",
                    flush=True,
                )
    w1, b1, w2, b2 = network.weights
    np.savez("model.npz", w1=w1, b1=b1, w2=w2, b2=b2, mean=mean, scale=scale, species=np.array(names))
    plot(Path("training.png"), history, network, x_test, test, names)


if __name__ == "__main__":
    main()
