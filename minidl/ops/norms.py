"""Norms of vectors and matrices, and least squares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.linalg import LinAlgError

from ..engine.op import Op
from . import reduce
from .decompositions import svdvals
from .elementwise import absolute, power, where
from .inverses import cutoff, pinv
from .linalg import operands
from .rearrange import moveaxis
from .shape import numpy_signature


def _euclidean_rule(g: Any, out: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    """x / |x|, taken as 0 at 0 with all its derivatives."""
    length = reduce.kept(out, x, axis, keepdims)
    return x * where(length == 0, 0.0, reduce.kept(g, x, axis, keepdims) / where(length == 0, 1.0, length))


euclidean = Op(
    lambda xp, x, *, axis=None, keepdims=False: xp.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    _euclidean_rule,
    saves="x out",
    name="norm",
)


def _vector_norm(x: Any, ord: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if ord is None or ord == 2:
        return euclidean(x, axis=axis, keepdims=keepdims)
    if isinstance(ord, str):
        raise ValueError(f"norm: the order of a vector norm must be a number, got {ord!r}")
    size, none = absolute(x), x == 0
    if ord == 0:
        return reduce.sum(where(none, 0.0, x**0), axis=axis, keepdims=keepdims)  # x^0 is 1 with the derivative 0
    if abs(ord) == math.inf:
        return (reduce.max if ord > 0 else reduce.min)(size, axis=axis, keepdims=keepdims)
    if ord == 1:
        return reduce.sum(size, axis=axis, keepdims=keepdims)
    powers = where(none, 0.0 if ord > 0 else math.inf, where(none, 1.0, size) ** ord)
    total = reduce.sum(powers, axis=axis, keepdims=keepdims)
    return where(total == 0, 0.0, power(where(total == 0, 1.0, total), 1 / ord))


def _matrix_norm(x: Any, ord: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if ord in (None, "fro", "f"):
        return euclidean(x, axis=axis, keepdims=keepdims)
    if ord in ("nuc", 2, -2):
        s = svdvals(moveaxis(x, axis, (-2, -1)))
        out = (reduce.sum if ord == "nuc" else reduce.max if ord == 2 else reduce.min)(s, axis=-1)
    elif ord in (1, -1, math.inf, -math.inf):
        first, second = axis if abs(ord) == 1 else axis[::-1]
        sums = reduce.sum(absolute(x), axis=first, keepdims=True)
        out = (reduce.max if ord > 0 else reduce.min)(sums, axis=(first, second))
    else:
        raise ValueError(f"norm: the order of a matrix norm must be 'fro', 'nuc', +-1, +-2 or +-inf, got {ord!r}")
    return reduce.kept(out, x, axis, False) if keepdims else out


@numpy_signature
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Compute the norm of vectors (axis an int) or matrices (a pair of axes); of the whole array without axis.

    Vectors: (sum |x_i|^ord)^(1/ord), by default 2; inf and -inf the largest and smallest |x_i|; 0 counts what is not 0,
    with the derivative 0. Matrices: "fro" (default) the root of the sum of squares, "nuc", 2, -2 sum, largest and
    smallest of the singular values; 1 and inf the largest sum of |x| down a column and along a row, -1 and -inf the
    smallest.

    The derivative at 0 is 0: |x| has none there, and NaN would spread. Likewise for x_i or singular values that are 0.
    As in NumPy the squares overflow beyond 1e19 in float32. ValueError for an order that does not fit the axes.

    >>> norm(tensor([3.0, 4.0])), norm(tensor([3.0, 4.0]), 1), norm(tensor([3.0, 4.0]), math.inf)
    (tensor(5.), tensor(7.), tensor(4.))
    """
    (x,) = operands("norm", x)
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    if axis is None and ord is None:
        return euclidean(x, axis=None, keepdims=keepdims)
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim, "norm: axis")
    if len(axes) not in (1, 2):
        raise ValueError(f"norm: needs one axis (vectors) or two (matrices), got axis={axis} for shape {x.shape}")
    return (_vector_norm if len(axes) == 1 else _matrix_norm)(x, ord, axes, keepdims)


def lstsq(a: Any, b: Any, rcond: float | None = None) -> tuple[Any, Any, Any, Any]:
    """Minimise |A x - b|, and |x| among several minima: returns (x, residuals, rank, singular values of A).

    Shapes: A (..., m, n), b (m,) or (..., m, k). x = A^+ b, and so are its derivatives (see `pinv`: exact at constant
    rank). The residuals, sums of squares for each column of b, are empty unless m > n.

    >>> x, residuals, rank, s = lstsq(tensor([[1.0], [1.0]]), tensor([1.0, 3.0]))
    >>> x.numpy().round(4), residuals.numpy().round(4), rank.item()
    (array([2.], dtype=float32), array([2.], dtype=float32), 1)
    """
    a, b = operands("lstsq", a, b)
    columns = b[:, None] if b.ndim == 1 else b
    if a.ndim < 2 or not b.ndim or columns.shape[-2] != a.shape[-2]:
        raise LinAlgError(f"lstsq: needs matrices a and as many rows in b, got a {a.shape} and b {b.shape}")
    m, n = a.shape[-2:]
    x, s = pinv(a, rcond=rcond) @ columns, svdvals(a)
    rest = columns - a @ x
    residuals = reduce.sum(rest * rest, axis=-2)
    rank = reduce.sum(s > cutoff(a, s, rcond), axis=-1)
    return x[..., 0] if b.ndim == 1 else x, residuals if m > n else residuals[..., :0], rank, s
