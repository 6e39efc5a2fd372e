"""A very wide network whose parameters are large arrays; sites and parent use the same file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Weights = list[Floats]
RATE = 1.0
BLOCK = 16384


def new_weights(inputs: int, width: int, classes: int, random: np.random.Generator) -> Weights:
    """Parameters of about unit size; the scale is in `_hidden`, so that the width does not change how fast it learns."""
    first = random.standard_normal((width, inputs + 1), dtype=np.float32)
    return [first, np.zeros((width, classes), dtype=np.float32)]


def _blocks(width: int) -> Iterator[slice]:
    """The hidden units in pieces that stay in the processor's cache."""
    return (slice(start, start + BLOCK) for start in range(0, width, BLOCK))


def _hidden(first: Floats, x: Floats, block: slice) -> Floats:
    return np.maximum(x @ first[block].T, 0) * np.float32(len(first) ** -0.5)


def _chances(weights: Weights, x: Floats) -> Floats:
    """The probability of each class, one row a flower."""
    first, second = weights
    scores = np.zeros((len(x), second.shape[1]), dtype=np.float32)
    for block in _blocks(len(first)):
        scores += _hidden(first, x, block) @ second[block]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def train(weights: Weights, x: Floats, y: Ints, steps: int) -> tuple[Weights, float]:
    """`steps` of gradient descent on all of `x`; the new parameters, and the loss before the last step."""
    first, second = (w.copy() for w in weights)
    scale = np.float32(len(first) ** -0.5)
    for _ in range(steps):
        error = _chances([first, second], x)
        loss = float(-np.log(error[np.arange(len(y)), y] + 1e-9).mean())
        error[np.arange(len(y)), y] -= 1
        error /= np.float32(len(y))
        for block in _blocks(len(first)):
            hidden = _hidden(first, x, block)
            back = (error @ second[block].T) * (hidden > 0) * scale
            second[block] -= RATE * (hidden.T @ error)
            first[block] -= RATE * (back.T @ x)
    return [first, second], loss


def accuracy(weights: Weights, x: Floats, y: Ints) -> float:
    """The share of rows whose class is told right."""
    return float((_chances(weights, x).argmax(axis=1) == y).mean())
