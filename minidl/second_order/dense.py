"""The Hessian of a network as one symmetric matrix: whole, in blocks, or its diagonal."""

from __future__ import annotations

import difflib
import math
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.backend import Array, array_module
from .canvas import Canvas, DiagonalCanvas
from .kronecker import add_hessian
from .objective import Batches, check_finite
from .operator import FiniteDifferenceOperator, HessianOperator
from .parameters import ParameterVector, Params
from .samples import Mixed, kinks

METHODS = ("auto", "kronecker", "products", "fd")


class Hessian:
    """A Hessian as a matrix, with the names of its parts and how it came about.

    matrix         : (P, P), symmetric: d2L / dtheta_i dtheta_j at the present parameters.
    names          : of the parameters, in the order of their blocks; `slices` has the rows of each.
    loss, gradient : L and dL/dtheta (P,) there.
    method         : "kronecker", "products" or "fd"; `reason` says why it was not another.
    symmetry_error : how far from symmetric what was computed is, max |A - A'| / max |A|: of the matrix, or, for
                     "kronecker", of the curvature of the samples that it is made of.

    >>> layer = nn.Linear(2, 1).double()
    >>> h = second_order.hessian(lambda: (layer(tensor([[1.0, 2.0]], dtype="float64")) ** 2).sum(), layer)
    >>> h
    Hessian(P = 3, float64, method='kronecker', parameters: weight (1, 2), bias (1,))
    >>> h["weight", "bias"]
    array([[2.],
           [4.]])
    """

    def __init__(
        self,
        matrix: Array,
        shapes: dict[str, tuple[int, ...]],
        loss: float,
        gradient: Array,
        method: str,
        reason: str,
        symmetry_error: float,
    ):
        self.matrix, self.shapes, self.loss, self.gradient = matrix, shapes, loss, gradient
        self.method, self.reason, self.symmetry_error = method, reason, symmetry_error
        self.slices: dict[str, slice] = {}
        start = 0
        for name, shape in shapes.items():
            self.slices[name] = slice(start, start + int(np.prod(shape)))
            start = self.slices[name].stop
        self._eigen: tuple[Array, Array] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the parameters in order."""
        return list(self.shapes)

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.matrix.shape

    @property
    def size(self) -> int:
        """The number P of parameters."""
        return len(self.matrix)

    def block(self, row: str, column: str) -> Array:
        """Return the block d2L / d(row) d(column) of two parameters by name, a view; `h[row, column]` is the same."""
        for name in (row, column):
            if name not in self.slices:
                close = difflib.get_close_matches(str(name), self.names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise KeyError(f"Hessian.block: no parameter {name!r}; there are {', '.join(self.names)}{hint}")
        return self.matrix[self.slices[row], self.slices[column]]

    def __getitem__(self, names: tuple[str, str]) -> Array:
        if not isinstance(names, tuple) or len(names) != 2:
            raise KeyError(f"Hessian: needs the names of two parameters, h['fc1.weight', 'fc2.bias'], got {names!r}")
        return self.block(*names)

    def __matmul__(self, v: Any) -> Array:
        return self.matrix @ v

    def eigh(self) -> tuple[Array, Array]:
        """Return the eigenvalues (P,), ascending, and the eigenvectors (P, P), one a column; computed once."""
        if self._eigen is None:
            xp = array_module(self.matrix)
            values, vectors = xp.linalg.eigh(self.matrix)
            self._eigen = (values, vectors)
        return self._eigen

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        return f"Hessian(P = {self.size}, {self.matrix.dtype}, method={self.method!r}, parameters: {parts})"


def hessian(loss_fn: Callable[..., Any], params: Params, batches: Batches = None, method: str = "auto") -> Hessian:
    """Return the Hessian of a loss by the parameters of a network as one matrix, exact to rounding.

    loss_fn, params, batches : as for `HessianOperator`: loss_fn() without batches, else loss_fn(*batch), the mean over
        the batch's samples.
    method : "products"   one recorded gradient, one pass for each of its P elements: the definition, for any loss;
             "kronecker"  for a loss that is a sum over independent samples: one pass for each unit of each layer, and
                          matrix products over the samples. Batch normalization in training mode included;
             "fd"         differences of gradients, an oracle with 9 right digits (`FiniteDifferenceOperator`);
             "auto"       "kronecker", checked by a product with a random vector, where it applies, else "products";
                          the result says which, and why.

    ValueError for a matrix that does not fit into memory, a loss or Hessian that is not finite, a loss that is not one
    number, and for "kronecker" where it does not apply. A UserWarning names operations with kinks (ReLU): the Hessian
    is then that of the region around the parameters, and the curvature of the kinks themselves is in no derivative.

    >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> second_order.hessian(lambda: w[0] ** 2 * w[1], w).matrix
    array([[4., 2.],
           [2., 0.]])
    """
    work = _Work("hessian", loss_fn, params, batches, method)
    canvas = work.fill(lambda parameters: Canvas(parameters, [np.arange(parameters.size)]))
    return work.result(canvas, 0, work.parameters.names)


def blocks(
    loss_fn: Callable[..., Any], params: Params, batches: Batches = None, by: str = "layer", method: str = "auto"
) -> dict[str, Hessian]:
    """Return the blocks on the Hessian's diagonal alone, without the whole: name -> `Hessian` of one layer.

    by : "layer", all parameters whose names agree up to the last dot, or "parameter", each by itself. The other
    arguments and errors are those of `hessian`.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    >>> found = second_order.blocks(lambda: model(ones(4, 3, dtype="float64")).mean(), model)
    >>> {name: h.shape for name, h in found.items()}
    {'0': (8, 8), '2': (3, 3)}
    """
    if by not in ("layer", "parameter"):
        raise ValueError(f"blocks: by must be 'layer' or 'parameter', got {by!r}")
    work = _Work("blocks", loss_fn, params, batches, method)
    members: dict[str, list[str]] = {}
    for name in work.parameters.names:
        members.setdefault((name.rpartition(".")[0] or name) if by == "layer" else name, []).append(name)
    everywhere = np.arange(work.parameters.size)
    groups = [np.concatenate([everywhere[work.parameters.slices[n]] for n in names]) for names in members.values()]
    canvas = work.fill(lambda parameters: Canvas(parameters, groups))
    return {layer: work.result(canvas, i, names) for i, (layer, names) in enumerate(members.items())}


def diagonal(loss_fn: Callable[..., Any], params: Params, batches: Batches = None, method: str = "auto") -> Array:
    """Return the exact diagonal d2L / dtheta_i^2 (P,) of the Hessian, without the whole.

    Where samples are independent it costs a pass for each unit of each layer, and no estimate is needed. The arguments
    and errors are those of `hessian`.

    >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> second_order.diagonal(lambda: (w**3).sum(), w)
    array([ 6., 12.])
    """
    work = _Work("diagonal", loss_fn, params, batches, method)
    canvas: Any = work.fill(DiagonalCanvas)
    return canvas.values


class _Work:
    """What the three functions share: the choice of a method, its check, and the way back to products."""

    def __init__(self, who: str, loss_fn: Callable[..., Any], params: Params, batches: Batches, method: str):
        if method not in METHODS:
            raise ValueError(f"{who}: method must be one of {', '.join(METHODS)}, got {method!r}")
        operator = FiniteDifferenceOperator if method == "fd" else HessianOperator
        self.who, self.asked, self.method, self.reason = who, method, method, ""
        self.operator = operator(loss_fn, params, batches)
        self.parameters = self.operator.parameters
        self.asymmetry = 0.0
        self._warn_of_kinks()

    def _warn_of_kinks(self) -> None:
        each = self.operator.objective.each(lambda weight, loss, _: [] if loss.node is None else kinks(loss.node))
        names = list(dict.fromkeys(name for found in each for name in found))
        if names:
            warnings.warn(
                f"{self.who}: the loss has kinks ({', '.join(names)}): this is the Hessian of the smooth region around "
                "the parameters, and says nothing of the kinks between regions",
                UserWarning,
                stacklevel=_caller(),
            )

    def fill(self, make: Callable[[ParameterVector], Canvas]) -> Canvas:
        """Return what is wanted of the Hessian, by the method asked for or the best that applies."""
        if self.asked in ("auto", "kronecker"):
            try:
                return self._by_samples(make)
            except Mixed as error:
                self.reason = str(error)
            if self.asked == "kronecker":
                raise ValueError(f"{self.who}: method='kronecker' does not apply: {self.reason}; use method='products'")
        self.method = "fd" if self.asked == "fd" else "products"
        canvas = self._allocate(make)
        xp = self.parameters.xp
        unit = xp.zeros(self.parameters.size, self.parameters.dtype)
        for k in range(self.parameters.size):
            unit[k] = 1
            canvas.add_row(k, slice(0, self.parameters.size), self.operator.matvec(unit))
            unit[k] = 0
        self.asymmetry = canvas.symmetrize()
        return self._finite(canvas)

    def _by_samples(self, make: Callable[[ParameterVector], Canvas]) -> Canvas:
        canvas = self._allocate(make)
        found = self.operator.objective.each(lambda weight, loss, _: add_hessian(canvas, loss, weight))
        self.asymmetry = max(found)
        error = canvas.compare(self.operator)
        if not error < float(np.finfo(self.parameters.dtype).eps) ** 0.5:
            raise Mixed(f"the result differs from a Hessian-vector product by {error:.1e}")
        if not canvas.even:
            canvas.symmetrize()
        self.method = "kronecker"
        return self._finite(canvas)

    def _allocate(self, make: Callable[[ParameterVector], Canvas]) -> Canvas:
        canvas = make(self.parameters)
        needed, there = canvas.nbytes, _memory()
        if self.parameters.device == "cpu" and needed > there:
            raise ValueError(
                f"{self.who}: {self.parameters.size:,} parameters make {needed / 1e9:,.1f} GB, and this machine has "
                f"{there / 1e9:,.1f} GB; use HessianOperator (products), blocks() or diagonal()"
            )
        canvas.allocate()
        return canvas

    def _finite(self, canvas: Canvas) -> Canvas:
        for array in canvas.arrays:
            check_finite(self.who, "Hessian", array)
        return canvas

    def result(self, canvas: Canvas, group: int, names: list[str]) -> Hessian:
        """Return one of the matrices, whose parameters have these names, with all that is known of it."""
        places = canvas.groups[group]
        shapes = {n: t.shape for n, t in zip(self.parameters.names, self.parameters.tensors, strict=True) if n in names}
        loss, gradient = self.operator.loss_and_gradient()
        how = (self.method, self.reason, self.asymmetry)
        return Hessian(canvas.arrays[group], shapes, loss, gradient[self.parameters.xp.asarray(places)], *how)


def _caller() -> int:
    """Return the `stacklevel` at which a warning of the function that calls this names the line outside the library."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(__package__):
        frame, level = frame.f_back, level + 1
    return level


def _memory() -> float:
    """Return the bytes of memory of this machine, infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf
