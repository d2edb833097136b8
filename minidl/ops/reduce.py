"""Reductions: many elements to one, over all axes or some. NumPy's names: axis (int, tuple or None), keepdims."""

from __future__ import annotations

import math
from typing import Any

from numpy.lib.array_utils import normalize_axis_tuple

from ..engine.op import Op
from .elementwise import exp, where
from .shape import broadcast_to

Axis = int | tuple[int, ...] | None


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim)


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
        kept(g, x, axis, keepdims) / count(x.shape, axis), shape=x.shape
    ),
    samplewise=_rows_apart,
    doc="""Average the elements over axis: (1/n) sum x. ValueError if there are none.

    >>> mean(tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    tensor([1.5, 3.5])
    """,
)


def _degrees(x: Any, axis: Axis, ddof: int) -> int:
    n = count(x.shape, axis) - ddof
    if n <= 0:
        raise ValueError(
            f"var: needs more than ddof={ddof} elements, got {n + ddof} (shape {x.shape} over axis {axis})"
        )
    return n


def _var(xp: Any, x: Any, *, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    _degrees(x, axis, ddof)
    return x.var(axis=axis, ddof=ddof, keepdims=keepdims)


def _var_rule(g: Any, out: Any, x: Any, *, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """Differentiate the variance: dvar/dx = 2 (x - mean) / (n - ddof): the mean's own dependence on x cancels."""
    centred = x - mean(x, axis=axis, keepdims=True)
    return kept(g, x, axis, keepdims) * centred * (2.0 / _degrees(x, axis, ddof))


var = Op(
    _var,
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


def _max_rule(g: Any, out: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Share the gradient evenly among the elements that attain the maximum."""
    attains = (x == kept(out, x, axis, keepdims)).astype(g.dtype)
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


def shift(xp: Any, x: Any, axis: Axis) -> Any:
    """Return the maximum over axis, axes kept, that exponentials are shifted by; finite where it is -inf."""
    return xp.maximum(x.max(axis=axis, keepdims=True), float(xp.finfo(x.dtype).min))


def _logsumexp(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    m = shift(xp, x, axis)
    s = xp.exp(x - m).sum(axis=axis, keepdims=True)
    out = xp.where(s > 0, xp.log(xp.where(s > 0, s, 1.0)) + m, -xp.inf)  # all -inf: log 0, without the warning
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
