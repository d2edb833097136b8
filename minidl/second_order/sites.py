"""Sites: the places where parameters enter a samplewise loss, each an affine map of every sample by itself.

    z_n = W a_n       n = 1 ... N samples,  W (m, D) the parameters of the site,  a_n (D,) the site's input, z_n (m,)

A linear layer is one site, its bias the weight of a further input 1. A parameter that broadcasts over the samples (a
bias added by hand, a scale) is a site of its own: every sample gets a copy, z_n = W 1. `Replay` runs the operations of
a recorded loss again on tensors in which exactly the z are variables.

Some quantities s are treated as further parameters: functions of parameters (weights made of others), and the mean and
variance in batch normalization, through which alone it mixes samples. With a copy of s for each sample the loss
F(theta, s) is samplewise. s follows from theta by equations s_k = h_k(theta, s_1 ... s_k-1), whose right sides are
functions of parameters, or means over samples. With the multipliers lambda = dL/ds

    L'' = [I; S]' (F + lambda' h)'' [I; S],      S = ds/dtheta,      derivatives on the right by (theta, s):

the chain rule, twice, in which everything is again a sum over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine import autograd
from ..engine.backend import Array
from ..engine.modes import enable_grad
from ..engine.node import Leaf, Node, Pick
from ..engine.tensor import Tensor, wrap
from ..ops.batch import batch_norm_train
from ..ops.elementwise import sqrt
from ..ops.linalg import matmul
from ..ops.reduce import mean
from .parameters import ParameterVector
from .samples import AFFINE, ROWS, SHARED, Mixed, Reading


class Site(NamedTuple):
    """A place where parameters enter: z = W a for each sample."""

    z: Tensor  # (n, ...), m elements a sample: a node of the replayed graph
    a: Array  # (D, n)
    source: (
        Tensor | None
    )  # what a is made of, if it depends on earlier sites: (n, D), or (n, D - 1) and the 1 of a bias
    places: list[
        np.ndarray
    ]  # (m, d) each: where the elements of W are in theta, for its columns one part after another

    @property
    def width(self) -> int:
        """The number m of elements of z for each sample."""
        return len(self.places[0])

    @property
    def depth(self) -> int:
        """The number D of inputs."""
        return len(self.a)


class Replay:
    """A samplewise term, run again with its sites as variables.

    sites       : in the order in which the loss uses them.
    outputs     : the tensors, and `seeds` the weights, whose sum of products is F + lambda' h, but for `multipliers`,
                  the part of lambda that belongs to functions of parameters.
    equations   : the right sides h of the statistics.
    size        : the number of parameters and of further ones.
    """

    def __init__(self, reading: Reading, parameters: ParameterVector, factor: float):
        self.reading, self.parameters = reading, parameters
        self.xp = parameters.xp
        self.known: list[Array] | None = None
        self.multipliers: list[Array] = []
        self._run()
        self.seeds = [self.xp.full(self.outputs[0].shape, factor, parameters.dtype)]
        if self.equations or reading.functions:
            variables = [*(self.variables[node] for node in reading.functions), *self.equations]
            found = autograd.vjp(self.outputs[0], variables, self.seeds)
            gradients = [g.array for g in found]
            self.multipliers = gradients[: len(reading.functions)]
            self.seeds += gradients[len(reading.functions) :]
            self.known = [h.array for h in self.equations]
            self._run()

    def _run(self) -> None:
        """Run all operations, at first with statistics that are computed, then with those `known` as variables."""
        self.values: dict[Node, Any] = {}
        self.sites: list[Site] = []
        self.variables: dict[Node, Tensor] = {}
        self.equations: list[Tensor] = []
        self.size = self.reading.size
        self._copies: dict[tuple, Tensor] = {}
        with enable_grad():
            for node in self.reading.order:
                self.values[node] = self._value(node)
        self.outputs = [self.values[self.reading.term], *self.equations]

    def _value(self, node: Node) -> Any:
        if type(node) is Leaf:
            tensor = node.tensor()
            if tensor is None:
                raise Mixed("a tensor that wants a gradient was made by the loss and is gone")
            return wrap(tensor.array)
        if type(node) is Pick:
            return self.values[node.parents[0]][node.static["index"]]  # type: ignore[index]
        marks = [self.reading.marks[parent] for parent in node.parents]
        args = [a if p is None else self._given(p, node) for a, p in zip(node.args, node.parents, strict=True)]
        if node.op is batch_norm_train and self.reading.marks[node] == ROWS:
            return self._batch_norm(node, args, marks)
        if SHARED in marks and self.reading.marks[node] == ROWS:
            if node.op in AFFINE:
                return self._affine(node, args, marks)
            args = [self._copy(node, i, node.ndim) if mark == SHARED else args[i] for i, mark in enumerate(marks)]
        return node.op.call(*args, **node.static)

    def _given(self, parent: Node, node: Node) -> Tensor:
        """Return an operand: in the first run, a function of parameters that meets rows is a variable there."""
        value: Tensor = self.values[parent]
        if self.known is not None or parent not in self.reading.functions or self.reading.marks[node] == SHARED:
            return value
        if parent not in self.variables:
            self.variables[parent] = wrap(value.array).requires_grad_()
        return self.variables[parent]

    def _affine(self, node: Node, args: list[Any], marks: list[str]) -> Tensor:
        """Run x W' + b: a site whose input is x, with a 1 beside it for b."""
        z = node.op.call(*args, **node.static)
        z = z if z.requires_grad else z.requires_grad_()
        x, views = args[0], [self.reading.views.get(parent) for parent in node.parents]
        parts, places, source = [], [], None
        if marks[1] == SHARED:
            weight: Any = views[1]
            parts.append(getattr(x, "array", x).T)
            places.append(weight if node.op is not matmul else weight.T if weight.ndim == 2 else weight[None])
            source = x if isinstance(x, Tensor) and x.requires_grad else None
        if marks[2:] == [SHARED]:
            parts.append(self.xp.ones((1, len(z)), z.dtype))
            places.append(views[2][:, None])  # type: ignore[index]
        self.sites.append(Site(z, self.xp.concatenate(parts), source, places))
        return z

    def _copy(self, node: Node, i: int, ndim: int, spread: tuple[int, ...] | None = None) -> Tensor:
        """Return a copy for each sample of a parameter that is operand i of a result with ndim axes: a site."""
        parent: Any = node.parents[i]
        if parent in self.variables:
            return self.variables[parent] if spread is None else self.variables[parent].reshape(spread)
        value = self.values[parent].array
        value = value if spread is None else value.reshape(spread)
        key = (parent, ndim, spread)
        if key not in self._copies:
            self._copies[key] = self._variable(value, ndim, self.reading.views[parent].reshape(-1, 1))
        return self._copies[key]

    def _variable(self, value: Array, ndim: int, places: np.ndarray) -> Tensor:
        """Make a variable that is the same for all samples a site with a row for each of them."""
        axes = (1,) * (ndim - value.ndim) + value.shape
        copies = wrap(self.xp.ascontiguousarray(self.xp.broadcast_to(value.reshape(axes), (self.rows, *axes[1:]))))
        copies.requires_grad = True
        self.sites.append(Site(copies, self.xp.ones((1, self.rows), value.dtype), None, [places]))
        return copies

    @property
    def rows(self) -> int:
        """The number of samples."""
        return self.reading.rows or 1

    def _batch_norm(self, node: Node, args: list[Any], marks: list[str]) -> tuple[Tensor, None, None]:
        """Normalize by the batch with elementary operations; its mean and variance are variables in the second run."""
        x = args[0] if isinstance(args[0], Tensor) else wrap(args[0])
        axes = tuple(i for i in range(x.ndim) if i != 1)
        spread = (1, -1) + (1,) * (x.ndim - 2)
        scale, shift = (
            self._copy(node, i, x.ndim, spread) if marks[i] == SHARED else wrap(_raw(args[i]).reshape(spread))
            for i in (1, 2)
        )
        centre = self._statistic(lambda: mean(x, axis=axes), x, spread)
        variance = self._statistic(lambda: mean((x - centre) * (x - centre), axis=axes), x, spread)
        return (x - centre) / sqrt(variance + node.static["eps"]) * scale + shift, None, None

    def _statistic(self, equation: Callable[[], Tensor], x: Tensor, spread: tuple[int, ...]) -> Tensor:
        """Return a statistic of the batch: computed by its equation, or as a variable that has its value."""
        right = equation()
        if not x.requires_grad:
            return right.reshape(spread)
        self.equations.append(right)
        if self.known is None:
            return right.reshape(spread)
        places = np.arange(self.size, self.size + right.size).reshape(-1, 1)
        self.size += right.size
        value = self.known[len(self.equations) - 1]
        return self._variable(value.reshape(spread), x.ndim, places)


def _raw(x: Any) -> Any:
    return getattr(x, "array", x)
