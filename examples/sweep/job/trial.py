"""One agent of the sweep: trains a small network for each task it gets, and logs loss and accuracy after every epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zcell.agent import Agent

Floats = NDArray[np.float64]


class Network:
    """One hidden layer of tanh units and softmax, trained by gradient descent with momentum."""

    def __init__(self, inputs: int, hidden: int, classes: int, random: np.random.Generator) -> None:
        self.weights = [
            random.normal(0, inputs**-0.5, (inputs, hidden)),
            np.zeros(hidden),
            random.normal(0, hidden**-0.5, (hidden, classes)),
            np.zeros(classes),
        ]
        self._speed = [np.zeros_like(w) for w in self.weights]

    def forward(self, x: Floats) -> tuple[Floats, Floats]:
        """The hidden layer and the probability of each class, one row a flower."""
        w1, b1, w2, b2 = self.weights
        hidden = np.tanh(x @ w1 + b1)
        scores = hidden @ w2 + b2
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, scores / scores.sum(axis=1, keepdims=True)

    def step(self, x: Floats, y: NDArray[np.int64], rate: float, momentum: float) -> None:
        """Learn from one batch."""
        hidden, error = self.forward(x)
        error = error.copy()
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        back = (error @ self.weights[2].T) * (1 - hidden**2)
        gradients = [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        for weight, speed, gradient in zip(self.weights, self._speed, gradients, strict=True):
            speed *= momentum
            speed -= rate * gradient
            weight += speed

    def evaluate(self, x: Floats, y: NDArray[np.int64]) -> tuple[float, float]:
        """Cross-entropy and accuracy."""
        chances = self.forward(x)[1]
        loss = -np.log(chances[np.arange(len(y)), y] + 1e-12).mean()
        return float(loss), float((chances.argmax(axis=1) == y).mean())


def train(agent: Agent, settings: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Train with `settings`; what is known of the network in the end."""
    random = np.random.default_rng(settings["seed"])
    x, y, held_x, held_y = data["x"], data["y"], data["held_x"], data["held_y"]
    network = Network(x.shape[1], settings["hidden"], int(y.max()) + 1, random)
    curve = []
    for epoch in range(1, settings["epochs"] + 1):
        order = random.permutation(len(y))
        for start in range(0, len(y), 16):
            batch = order[start : start + 16]
            network.step(x[batch], y[batch], settings["rate"], settings["momentum"])
        loss, accuracy = network.evaluate(held_x, held_y)
        curve.append(loss)
        agent.log({"trial": settings["trial"], "epoch": epoch, "loss": loss, "accuracy": accuracy})
    return {"loss": loss, "accuracy": accuracy, "curve": np.array(curve), "weights": network.weights}


def main() -> None:
    with Agent.from_env() as agent:
        for task in agent:
            agent.submit_result(train(agent, task.data["settings"], task.data["flowers"]))


if __name__ == "__main__":
    main()
