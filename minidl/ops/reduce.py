"""Reductions: many elements to one, over all axes or some. NumPy's names: axis (int, tuple or None), keepdims."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ..engine.op import Op
from .elementwise import exp, subtract, where
from .shape import broadcast_to, integers, numpy_signature

Axis = int | tuple[int, ...] | None


def _axes(axis: Axis, ndim: int, who: str | None = None) -> tuple[int, ...]:
    if axis is None or (ndim == 0 and type(axis) is int and axis in (0, -1)):  # a number is reduced as NumPy does
        return tuple(range(ndim))
    return normalize_axis_tuple(integers(axis, who) if who else axis, ndim, who)


def count(shape: tuple[int, ...], axis: Axis) -> int:
    """Return how many elements a reduction of an array of this shape puts together.

    >>> count((2, 3, 4), (0, -1))
    8
    """
    return math.prod(shape[i] for i in _axes(axis, len(shape)))


def kept(y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """Give a reduced array y the axes of length 1 back, so that it broadcasts against x."""
    if keepdims:
        return y
    axes = _axes(axis, x.ndim)
    return y.reshape(tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def _rows_apart(shapes: tuple, *, axis: Axis = None, keepdims: bool = False, **_: Any) -> bool:
    """Tell whether a reduction leaves axis 0 alone."""
    return len(shapes[0]) > 0 and 0 not in _axes(axis, len(shapes[0]))


sum = Op(
    lambda xp, x, *, axis=None, keepdims=False: x.sum(axis=axis, keepdims=keepdims),
    lambda g, out, x, *, axis=None, keepdims=False: broadcast_to(kept(g, x, axis, keepdims), shape=x.shape),
    samplewise=_rows_apart,
    doc="""Sum the elements over axis (int, tuple; None: all). The sum of nothing is 0.

    >>> sum(tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([4., 6.])
    """,
)


def _mean(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    n = count(x.shape, axis)
    if not n:
        raise ValueError(f"mean: needs at least one element to average, got shape {x.shape} over axis {axis}")
    if x.dtype.itemsize < 4:
        return x.mean(axis=axis, keepdims=keepdims)  # float16 overflows in a plain sum; NumPy's mean adds in float32
    return x.sum(axis=axis, keepdims=keepdims) / n


mean = Op(
    _mean,
    lambda g, out, x, *, axis=None, keepdims=False: broadcast_to(
        kept(g, x, axis, keepdims) * (1.0 / count(x.shape, axis)), shape=x.shape
    ),
    samplewise=_rows_apart,
    doc="""Average the elements over axis: (1/n) sum x. ValueError if there are none.

    >>> mean(tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    tensor([1.5, 3.5])
    """,
)


def _degrees(x: Any, axis: Axis, ddof: int, who: str = "var") -> int:
    n = count(x.shape, axis) - ddof
    if not n > 0:
        raise ValueError(
            f"{who}: needs more than ddof={ddof} elements, got {n + ddof} (shape {x.shape} over axis {axis})"
        )
    return n


def _var(xp: Any, x: Any, *, axis: Axis = None, ddof: int = 0, keepdims: bool = False, root: bool = False) -> Any:
    _degrees(x, axis, ddof, "std" if root else "var")
    half = x.dtype == np.float16  # whose squares overflow
    out = (x.astype("float32") if half else x).var(axis=axis, ddof=ddof, keepdims=keepdims)
    out = xp.sqrt(out) if root else out
    return out.astype(x.dtype) if half else out


def _var_rule(g: Any, out: Any, x: Any, *, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """Differentiate the variance: dvar/dx = 2 (x - mean) / (n - ddof): the mean's own dependence on x cancels."""
    centred = x - mean(x, axis=axis, keepdims=True)
    return kept(g, x, axis, keepdims) * centred * (2.0 / _degrees(x, axis, ddof))


var = Op(
    lambda xp, x, *, axis=None, ddof=0, keepdims=False: _var(xp, x, axis=axis, ddof=ddof, keepdims=keepdims),
    _var_rule,
    saves="x",
    samplewise=_rows_apart,
    doc="""Compute the variance over axis: sum (x - mean)^2 / (n - ddof). ValueError unless n > ddof.

    >>> var(tensor([1.0, 2.0, 3.0, 4.0]))
    tensor(1.25)
    >>> var(tensor([1.0, 2.0, 3.0]), ddof=1)
    tensor(1.)
    """,
)


def _std_rule(g: Any, out: Any, x: Any, *, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """Differentiate: dstd/dx = (x - mean) / ((n - ddof) std), taken as 0 where all elements are equal."""
    total = kept(out, x, axis, keepdims)
    slope = kept(g, x, axis, keepdims) / where(total == 0, 1.0, total) * (1.0 / _degrees(x, axis, ddof))
    return slope * (x - mean(x, axis=axis, keepdims=True))


std = Op(
    lambda xp, x, *, axis=None, ddof=0, keepdims=False: _var(xp, x, axis=axis, ddof=ddof, keepdims=keepdims, root=True),
    _std_rule,
    saves="x out",
    samplewise=_rows_apart,
    doc="""Compute the standard deviation over axis, the root of `var`. The derivative at 0 is taken as 0.

    >>> std(tensor([1.0, 3.0]))
    tensor(1.)
    """,
)


def _max_rule(g: Any, out: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Share the gradient evenly among the elements that attain the maximum."""
    attains = ((x == kept(out, x, axis, keepdims)) | (x != x)).astype(g.dtype)  # a NaN attains NaN
    return kept(g, x, axis, keepdims) * (attains / attains.sum(axis=axis, keepdims=True))


max = Op(
    lambda xp, x, *, axis=None, keepdims=False: x.max(axis=axis, keepdims=keepdims),
    _max_rule,
    saves="x out",
    samplewise=_rows_apart,
    doc="""Take the largest element over axis. Elements that tie share the gradient evenly; ValueError of none.

    >>> max(tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([5., 4.])
    """,
)


min = Op(
    lambda xp, x, *, axis=None, keepdims=False: x.min(axis=axis, keepdims=keepdims),
    _max_rule,  # the same: an even share to each element that equals the result
    saves="x out",
    samplewise=_rows_apart,
    doc="""Take the smallest element over axis. Elements that tie share the gradient evenly; ValueError of none.

    >>> min(tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([1., 3.])
    """,
)


@numpy_signature
def ptp(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Compute the range over axis: max - min.

    >>> ptp(tensor([1.0, 5.0, 3.0]))
    tensor(4.)
    """
    return subtract(max(x, axis=axis, keepdims=keepdims), min(x, axis=axis, keepdims=keepdims))


def floating(x: Any) -> Any:
    """Make integers floats, as NumPy's exp would."""
    return x if x.dtype.kind == "f" else x.astype("float64")


@functools.lru_cache(maxsize=8)
def lowest(dtype: Any) -> float:
    """Return the smallest finite number of a floating dtype."""
    return float(np.finfo(dtype).min)


def shift(xp: Any, x: Any, axis: Axis) -> Any:
    """Return the maximum over axis, axes kept, that exponentials are shifted by; finite where it is -inf."""
    largest = np.maximum.reduce(x, axis, keepdims=True) if type(x) is np.ndarray else x.max(axis=axis, keepdims=True)
    return xp.maximum(largest, lowest(x.dtype))


_ADD: Any = np.add


def total(x: Any, axis: int, keepdims: bool = False) -> Any:
    """Sum a raw array over one axis: NumPy's ufunc itself, which its method calls after a detour through Python."""
    if type(x) is not np.ndarray:
        return x.sum(axis=axis, keepdims=keepdims)
    return _ADD.reduce(x, axis, keepdims=keepdims)


def _logsumexp(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    x = floating(x)
    m = xp.minimum(shift(xp, x, axis), -lowest(x.dtype))
    s = xp.exp(x - m).sum(axis=axis, keepdims=True)
    out = xp.where(s == 0, -xp.inf, xp.log(xp.where(s == 0, 1.0, s)) + m)  # all -inf: log 0, without the warning
    return out if keepdims else out.reshape(x.sum(axis=axis).shape)


def _logsumexp_rule(g: Any, out: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """The gradient is softmax(x) = e^(x - out), and 0 where out is -inf."""
    total = kept(out, x, axis, keepdims)
    return kept(g, x, axis, keepdims) * exp(x - where(total == -math.inf, 0.0, total))


logsumexp = Op(
    _logsumexp,
    _logsumexp_rule,
    saves="x out",
    samplewise=_rows_apart,
    doc="""Compute log(sum e^x) over axis, shifted by the maximum so that nothing overflows.

    Of -inf alone it is -inf, with the gradient 0.

    >>> round(logsumexp(tensor([1000.0, 1000.0])).item(), 3)
    1000.693
    """,
)

argmax = Op(
    lambda xp, x, *, axis=None, keepdims=False: x.argmax(axis=axis, keepdims=keepdims),
    samplewise=_rows_apart,
    doc="""Return the index of the first largest element over axis (of the flattened array for None).

    >>> argmax(tensor([[1.0, 5.0], [4.0, 3.0]]), axis=1)
    tensor([1, 0])
    """,
)

argmin = Op(
    lambda xp, x, *, axis=None, keepdims=False: x.argmin(axis=axis, keepdims=keepdims),
    samplewise=_rows_apart,
    doc="""Return the index of the first smallest element over axis (of the flattened array for None).

    >>> argmin(tensor([[1.0, 5.0], [4.0, 3.0]]), axis=1)
    tensor([0, 1])
    """,
)

any = Op(
    lambda xp, x, *, axis=None, keepdims=False: x.any(axis=axis, keepdims=keepdims),
    samplewise=_rows_apart,
    doc="""Tell over axis whether any element is nonzero.

    >>> any(tensor([[0.0, 1.0], [0.0, 0.0]]), axis=1)
    tensor([ True, False])
    """,
)

all = Op(
    lambda xp, x, *, axis=None, keepdims=False: x.all(axis=axis, keepdims=keepdims),
    samplewise=_rows_apart,
    doc="""Tell over axis whether all elements are nonzero.

    >>> all(tensor([[1.0, 1.0], [1.0, 0.0]]), axis=1)
    tensor([ True, False])
    """,
)

count_nonzero = Op(
    lambda xp, x, *, axis=None, keepdims=False: (x != 0).sum(axis=axis, keepdims=keepdims),
    samplewise=_rows_apart,
    doc="""Count the nonzero elements over axis.

    >>> count_nonzero(tensor([0.0, 2.0, 3.0]))
    tensor(2)
    """,
)

# fmt: off
__all__ = [
    "all", "any", "argmax", "argmin", "count_nonzero", "logsumexp", "max", "mean", "min", "ptp", "std", "sum", "var",
]
# fmt: on
