"""Padding: arrays extended at their edges, in NumPy's modes that have a derivative (all but "empty")."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import numpy as np

from ..engine.op import Op
from .elementwise import add, astype, copy, multiply, subtract
from .index import getitem, take
from .reduce import max, mean, min
from .rounding import floor, round
from .scan import median
from .shape import along, beside, broadcast_to, concatenate, on_array, reshape

_pad_constant = Op(
    lambda xp, x, *, widths, value: xp.pad(x, widths, mode="constant", constant_values=value),
    lambda g, out, x, *, widths, value: g[tuple(slice(a, g.shape[i] - b) for i, (a, b) in enumerate(widths))],
    name="pad",
    samplewise=lambda shapes, *, widths, value: widths[:1] == ((0, 0),),
)

_STATISTICS: dict[str, Any] = {"maximum": max, "minimum": min, "mean": mean, "median": median}
_COPIES = ("edge", "reflect", "symmetric", "wrap")


def _source(xp: Any, *, n: int, pair: tuple[int, int], mode: str) -> Any:
    """Return, for each place of an axis of length n that was padded, the index of the element it shows."""
    i = xp.arange(-pair[0], n + pair[1])
    if mode == "edge" or n == 1:
        return xp.clip(i, 0, n - 1)
    if mode == "wrap":
        return i % n
    last = 2 * n - 1 if mode == "symmetric" else 2 * n - 2  # of the period that goes there and back again
    i = i % (last + (mode == "symmetric"))
    return xp.minimum(i, last - i)


def _statistic(x: Any, axis: int, pair: tuple[int, int], mode: str) -> Any:
    """Extend x by a number that describes each of its rows along axis."""
    value = _STATISTICS[mode](x, axis=axis, keepdims=True)
    value = value if x.dtype.kind == "f" else astype(round(value), dtype=x.dtype)
    before, after = (broadcast_to(value, shape=(*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in pair)
    return concatenate([before, x, after], axis=axis)


def _ascent(xp: Any, *, n: int, step: int, dtype: np.dtype) -> Any:
    """Return 0, 1/n, ..., (n-1)/n, or the same backwards."""
    return (xp.arange(n)[::step] / n).astype(dtype)


def _ramp(x: Any, axis: int, pair: tuple[int, int], end: float) -> Any:
    """Extend x by straight lines from its edges along axis to `end`, which the outermost places show."""
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    sides = []
    for n, edge, step in zip(pair, (slice(1), slice(-1, None)), (1, -1), strict=True):
        weight = reshape(beside(x, partial(_ascent, n=n, step=step, dtype=dtype)), (n,) + (1,) * (x.ndim - axis - 1))
        side = add(multiply(getitem(x, along(axis, edge)), weight), multiply(end, subtract(1.0, weight)))
        sides.append(side if x.dtype.kind == "f" else astype(floor(side), dtype=x.dtype))
    return concatenate([sides[0], x, sides[1]], axis=axis)


def _widths(pad_width: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    """Return a pair of widths for each axis."""
    try:
        pairs = np.broadcast_to(np.asarray(pad_width), (ndim, 2)).tolist()
        widths = tuple((operator.index(a), operator.index(b)) for a, b in pairs)
    except (TypeError, ValueError):
        raise ValueError(
            f"pad: pad_width must be an integer, a pair, or a pair for each of {ndim} axes, got {pad_width}"
        ) from None
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError(f"pad: widths must not be negative, got {pad_width}; cut with a slice")
    return widths


@on_array
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0.0, end_values: float = 0.0) -> Any:
    """Extend an array at its edges: pad_width is a number, a pair (before, after), or a pair for each axis.

    Modes, as in NumPy: "constant" (constant_values), "linear_ramp" (to end_values), "edge", "reflect", "symmetric",
    "wrap", and the "maximum", "minimum", "mean" or "median" of each row. Where an element is shown several times its
    gradients add up.

    >>> pad(tensor([1.0, 2.0, 3.0]), 2, mode="reflect")
    tensor([3., 2., 1., 2., 3., 2., 1.])
    """
    if mode not in ("constant", "linear_ramp", *_COPIES, *_STATISTICS):
        known = ", ".join(("constant", "linear_ramp", *_COPIES, *_STATISTICS))
        raise ValueError(f"pad: mode must be one of {known}, got {mode!r}")
    if (mode != "constant" and constant_values != 0.0) or (mode != "linear_ramp" and end_values != 0.0):
        raise ValueError(f"pad: constant_values is for 'constant' and end_values for 'linear_ramp', got mode {mode!r}")
    widths = _widths(pad_width, x.ndim)
    if not any(map(any, widths)):
        return copy(x)
    if mode == "constant":
        return _pad_constant(x, widths=widths, value=constant_values)
    for axis, pair in enumerate(widths):
        if pair == (0, 0):
            continue
        n = x.shape[axis]
        if not n:
            raise ValueError(f"pad: axis {axis} has no element that mode {mode!r} could repeat, got {x.shape}")
        if mode in _COPIES:
            x = take(x, beside(x, partial(_source, n=n, pair=pair, mode=mode)), axis)
        else:
            x = _ramp(x, axis, pair, end_values) if mode == "linear_ramp" else _statistic(x, axis, pair, mode)
    return x


__all__ = ["pad"]
