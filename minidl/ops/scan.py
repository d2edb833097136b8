"""Running sums and products, sorting, and what is read off a sorted array.

Products are trees of ordinary multiplications (and running ones a scan of them), so that zeros among the factors need
no special case: the derivative of a product is exact to every order whatever vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.op import Op
from .elementwise import add, astype, copy, equal, multiply, subtract, where
from .functions import logaddexp
from .index import getitem, take_along_axis
from .rearrange import flip, moveaxis
from .reduce import Axis, _axes, floating, sum
from .shape import along, concatenate, integers, on_array, one_axis, ravel, reshape, stack


def _one_axis(x: Any, axis: int | None, who: str) -> tuple[Any, int]:
    """Resolve axis as NumPy does: None flattens."""
    if axis is None:
        return ravel(x), 0
    return x, one_axis(axis, x.ndim, who)


def _front(x: Any, axis: Axis, who: str) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """Return x with the axes that a reduction takes away as one, in front, and the shapes it leaves: kept and not."""
    axes = _axes(axis, x.ndim, who)
    rest = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    n = math.prod(x.shape[i] for i in axes)
    keep = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return reshape(moveaxis(x, axes, range(len(axes))), (n, *rest)), keep, rest


def _wide(x: Any) -> Any:
    """Make short integers 64 bits long, as NumPy's sums and products do."""
    return x if x.dtype.kind == "f" else astype(x, dtype="uint64" if x.dtype.kind == "u" else "int64")


# ---- products ----------------------------------------------------------------------------------------------------


@on_array
def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Multiply the elements over axis; the product of nothing is 1.

    Computed as a tree of pairwise products: [0, 2, 3] has the gradient [6, 0, 0].

    >>> x = tensor([0.0, 2.0, 3.0], requires_grad=True)
    >>> prod(x).backward()
    >>> x.grad
    tensor([6., 0., 0.])
    """
    y, keep, rest = _front(_wide(x), axis, "prod")
    if y.shape[0] < 2:
        y = copy(y) if y.shape[0] else add(sum(y, axis=0, keepdims=True), 1)
    while y.shape[0] > 1:
        half, odd = divmod(y.shape[0], 2)
        pairs = multiply(y[:half], y[half : 2 * half])
        y = concatenate([pairs, y[2 * half :]]) if odd else pairs
    return reshape(y, keep if keepdims else rest)


def _scan(x: Any, axis: int, combine: Callable[[Any, Any], Any]) -> Any:
    """Return the running combination along an axis in log2(n) steps (Hillis & Steele 1986)."""
    n, step = x.shape[axis], 1
    if n < 2:
        return copy(x)
    while step < n:
        head, earlier, later = (along(axis, s) for s in (slice(step), slice(n - step), slice(step, None)))
        x = concatenate([x[head], combine(x[earlier], x[later])], axis=axis)
        step *= 2
    return x


@on_array
def cumprod(x: Any, axis: int | None = None) -> Any:
    """Multiply up along axis (None: of the flattened array): y_i = x_0 x_1 ... x_i. Zeros need no special case.

    >>> cumprod(tensor([2.0, 3.0, 4.0]))
    tensor([ 2.,  6., 24.])
    """
    x, axis = _one_axis(_wide(x), axis, "cumprod")
    return _scan(x, axis, multiply)


@on_array
def logcumsumexp(x: Any, axis: int | None = None) -> Any:
    """Compute log(e^x_0 + ... + e^x_i) along axis without overflow.

    >>> [round(v, 3) for v in logcumsumexp(tensor([1000.0, 1000.0])).tolist()]
    [1000.0, 1000.693]
    """
    x, axis = _one_axis(floating(x), axis, "logcumsumexp")
    return _scan(x, axis, logaddexp)


_cumsum = Op(
    lambda xp, x, *, axis: x.cumsum(axis=axis),
    lambda g, out, x, *, axis: flip(_cumsum(flip(g, axis), axis=axis), axis),
    name="cumsum",
    samplewise=lambda shapes, *, axis: axis != 0,
)


@on_array
def cumsum(x: Any, axis: int | None = None) -> Any:
    """Add up along axis (None: of the flattened array): y_i = x_0 + x_1 + ... + x_i.

    >>> cumsum(tensor([1.0, 2.0, 3.0]))
    tensor([1., 3., 6.])
    """
    x, axis = _one_axis(x, axis, "cumsum")
    return _cumsum(x, axis=axis)


# ---- order -------------------------------------------------------------------------------------------------------

_argsort = Op(
    lambda xp, x, *, axis: xp.argsort(x, axis=axis, kind="stable"),
    name="argsort",
    samplewise=lambda shapes, *, axis: axis != 0,
)


@on_array
def argsort(x: Any, axis: int | None = -1) -> Any:
    """Return the indices that sort along axis, equal elements in their old order.

    >>> argsort(tensor([3.0, 1.0, 2.0]))
    tensor([1, 2, 0])
    """
    x, axis = _one_axis(x, axis, "argsort")
    return _argsort(x, axis=axis)


@on_array
def sort(x: Any, axis: int | None = -1) -> Any:
    """Sort along axis, ascending; the gradient goes back to where each element came from.

    >>> sort(tensor([3.0, 1.0, 2.0]))
    tensor([1., 2., 3.])
    """
    x, axis = _one_axis(x, axis, "sort")
    return take_along_axis(x, _argsort(x, axis=axis), axis)


@on_array
def topk(x: Any, k: int, axis: int | None = -1, largest: bool = True) -> tuple[Any, Any]:
    """Return the k largest (or smallest) elements along axis, best first, and their indices; ValueError unless k fits.

    Equal elements come in their old order; NaN counts as the largest number.

    >>> topk(tensor([3.0, 1.0, 2.0]), 2)
    (tensor([3., 2.]), tensor([0, 2]))
    """
    x, axis = _one_axis(x, axis, "topk")
    n = x.shape[axis]
    if not 0 <= integers(k, "topk") <= n:
        raise ValueError(f"topk: k must be in [0, {n}] along axis {axis}, got {k}")
    # Read backwards, for -x would wrap around for unsigned integers; and ties must keep their order.
    order = _argsort(flip(x, axis) if largest else x, axis=axis)
    order = subtract(n - 1, flip(order, axis)) if largest else order
    indices = getitem(order, along(axis, slice(k)))
    return take_along_axis(x, indices, axis), indices


def _at(y: Any, place: float) -> Any:
    """Interpolate between the rows of y."""
    low = int(place)
    weight = place - low
    row = getitem(y, low)
    return add(multiply(row, 1 - weight), multiply(getitem(y, low + 1), weight)) if weight else copy(row)


@on_array
def quantile(x: Any, q: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Compute quantiles over axis by linear interpolation between order statistics (NumPy's default method).

    q is a number in [0, 1], or an array of them, whose axes come first in the result. The gradient goes to the one or
    two elements between which the quantile lies. NaN if there is a NaN. ValueError of nothing.

    >>> quantile(tensor([1.0, 2.0, 4.0]), 0.75)
    tensor(3.)
    """
    qs = np.asarray(q, np.float64)
    if not qs.size or not np.all((qs >= 0) & (qs <= 1)):
        raise ValueError(f"quantile: q must be in [0, 1], got q={q}")
    return _quantile(x, qs, axis, keepdims, "quantile")


def _quantile(x: Any, qs: np.ndarray, axis: Axis, keepdims: bool, who: str) -> Any:
    y, keep, rest = _front(floating(x), axis, who)
    n = y.shape[0]
    if not n:
        raise ValueError(f"{who}: needs at least one element, got shape {x.shape} over axis {axis}")
    y = sort(y, 0)
    last = getitem(y, -1)  # a NaN, if there is one
    shape = keep if keepdims else rest
    values = [reshape(where(equal(last, last), _at(y, v * (n - 1)), last), shape) for v in qs.ravel().tolist()]
    return reshape(stack(values), qs.shape + shape) if qs.ndim else values[0]


@on_array
def median(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Compute the median over axis: the middle element, or the mean of the two middle ones; NaN if there is a NaN.

    >>> median(tensor([1.0, 9.0, 2.0, 4.0]))
    tensor(3.)
    """
    return _quantile(x, np.array(0.5), axis, keepdims, "median")


@on_array
def unique(x: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """Return the sorted distinct elements, and what else is asked for, as NumPy does; a constant to derivatives.

    >>> unique(tensor([3, 1, 3]), return_counts=True)
    (tensor([1, 3]), tensor([1, 2]))
    """
    wanted = {"return_index": return_index, "return_inverse": return_inverse, "return_counts": return_counts}
    return _unique(x, **wanted)


_unique = Op(
    lambda xp, x, *, return_index, return_inverse, return_counts: xp.unique(
        x, return_index=return_index, return_inverse=return_inverse, return_counts=return_counts
    ),
    name="unique",
)

# fmt: off
__all__ = [
    "argsort", "cumprod", "cumsum", "logcumsumexp", "median", "prod", "quantile", "sort", "topk", "unique",
]
# fmt: on
