"""Objective: the loss as one fixed function of the parameters, over one batch or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..engine import autograd
from ..engine.backend import Array, to_numpy
from ..engine.modes import enable_grad
from ..engine.tensor import Tensor
from ..nn.frozen import frozen_statistics
from .parameters import ParameterVector, Params

Batches = Iterable[Sequence[Any]] | None


class Objective:
    """A function of parameters and batches, evaluated so that it is the same function each time.

    Without `batches` it is `function()`. With them it is the mean over samples, sum_b n_b / N function(*batch_b), where
    n_b is the length of axis 0 of the batch's first array: batches may differ in size. Batches are read once and kept.
    Every evaluation happens inside `nn.frozen_statistics`.
    """

    def __init__(self, who: str, function: Callable[..., Any], params: Params, batches: Batches = None):
        if not callable(function):
            raise TypeError(f"{who}: the function must be callable, got {type(function).__name__}")
        self.who, self.function = who, function
        self.parameters = ParameterVector(params)
        self.frozen = frozen_statistics()
        self.parts = [(1.0, ())] if batches is None else _weighted(who, batches)

    def each(self, visit: Callable[[float, Any, tuple], Any]) -> list[Any]:
        """Return visit(weight, function's value, batch) for each batch, evaluated with the masks of all other times."""
        found = []
        with self.frozen, enable_grad():
            for weight, batch in self.parts:
                found.append(visit(weight, self.function(*batch), batch))
        return found

    def scalar(self, loss: Any) -> float:
        """Return the number that a loss is; ValueError or TypeError naming what else it is."""
        if not isinstance(loss, Tensor):
            raise TypeError(f"{self.who}: the loss must be a Tensor, got {type(loss).__name__}")
        if loss.size != 1:
            raise ValueError(
                f"{self.who}: the loss must be one number, got shape {loss.shape}; reduce it with mean() or sum()"
            )
        value = float(loss.item())
        if not math.isfinite(value):
            raise ValueError(f"{self.who}: the loss is {value} at these parameters, and has no derivatives there")
        return value

    def value(self) -> float:
        """Return the loss."""
        return math.fsum(self.each(lambda weight, loss, _: weight * self.scalar(loss)))

    def value_and_gradient(self, recorded: bool = False) -> tuple[float, Array]:
        """Return the loss and its gradient as one vector, without a graph that stays; `recorded` as for products."""

        def visit(weight: float, loss: Any, _: tuple) -> tuple[float, Array]:
            value = self.scalar(loss)
            return weight * value, self.flat([(weight, self.pull([loss], None, create=recorded))])

        found = self.each(visit)
        return math.fsum(value for value, _ in found), sum(gradient for _, gradient in found)

    def pull(self, outputs: Sequence[Any], seeds: Any, create: bool = False, retain: bool = False) -> list[Any]:
        """Return for each parameter the gradient of sum seeds * outputs, None where the outputs do not reach it."""
        reached = [i for i, y in enumerate(outputs) if y is not None and y.node is not None]
        if not reached:
            return [None] * len(self.parameters.tensors)
        us = None if seeds is None else [seeds[i] for i in reached]
        ys = [outputs[i] for i in reached]
        inputs = self.parameters.tensors
        return list(
            autograd.grad(ys, inputs, us, retain_graph=retain or create, create_graph=create, allow_unused=True)
        )

    def flat(self, weighted: Iterable[tuple[float, Sequence[Any]]]) -> Array:
        """Return the weighted sum of gradients, given one a parameter, as one vector."""
        total: Any = None
        for weight, gradients in weighted:
            vector = self.parameters.join(gradients)
            if weight != 1.0:
                vector *= weight
            total = vector if total is None else total + vector
        return total


def check_finite(who: str, what: str, flat: Array) -> Array:
    """Return a vector; ValueError if one of its elements is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = float(flat.sum())
    if not math.isfinite(total):
        wrong = int((~np.isfinite(to_numpy(flat))).sum())
        if wrong:
            raise ValueError(f"{who}: {wrong} of the {flat.size} elements of the {what} are not finite")
    return flat


def _weighted(who: str, batches: Iterable[Sequence[Any]]) -> list[tuple[float, tuple]]:
    """Return (n_b / N, batch) for each batch that has samples."""
    found = []
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or not batch:
            raise TypeError(
                f"{who}: each batch must be a tuple of the loss function's arguments, got {type(batch).__name__}; "
                "for one batch write batches=[(x, y)]"
            )
        shape = getattr(batch[0], "shape", ())
        if not shape:
            raise TypeError(f"{who}: a batch begins with an array whose axis 0 counts samples, got {batch[0]!r}")
        found.append((shape[0], tuple(batch)))
    total = sum(n for n, _ in found)
    if not total:
        raise ValueError(f"{who}: the batches hold no samples ({len(found)} batches)")
    return [(n / total, batch) for n, batch in found if n]
