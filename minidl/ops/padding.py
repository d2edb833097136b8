"""Padding: arrays extended at their edges, in NumPy's modes that have a derivative (all but "empty")."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import numpy as np

from ..engine.op import Op
from .elementwise import astype, copy
from .index import getitem, take
from .reduce import max, mean, min
from .rounding import round
from .scan import median
from .shape import along, beside, broadcast_to, concatenate, on_array, reshape

_pad_constant = Op(
    lambda xp, x, *, widths, value: xp.pad(x, widths, mode="constant", constant_values=value),
    lambda g, out, x, *, widths, value: g[tuple(slice(a, g.shape[i] - b) for i, (a, b) in enumerate(widths))],
    name="pad",
    samplewise=lambda shapes, *, widths, value: widths[:1] == ((0, 0),),
)

_STATISTICS = {"maximum": max, "minimum": min, "mean": mean, "median": median}
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


def _ramp(x: Any, axis: int, pair: tuple[int, int], end: float) -> Any:
    """Extend x by straight lines from its edges, along axis, to `end` at the outermost places."""
    sides = []
    for n, edge in zip(pair, (slice(1), slice(-1, None)), strict=True):
        ascent = beside(x, lambda xp, n=n: xp.arange(n) / builtin_max(n, 1))
        ascent = ascent if edge.start is None else ascent[::-1]
        weight = reshape(astype(ascent, dtype=x.dtype if x.dtype.kind == "f" else "float64"), (-1,) + (1,) * (x.ndim - axis - 1))
        side = getitem(x, along(axis, edge)) * weight + end * (1 - weight)
        sides.append(side if x.dtype.kind == "f" else astype(side, dtype=x.dtype))
    return concatenate([sides[0], x, sides[1]], axis=axis)
