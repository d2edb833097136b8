"""Pooling: the largest or the average element of windows, which makes images smaller."""

from __future__ import annotations

import math
from typing import Any

from ..engine.op import Op
from .index import getitem
from .linalg import matmul, swap
from .reduce import mean
from .resample import resampling
from .shape import reshape
from .sliding import (
    Size,
    Sliding,
    by_channel,
    by_sample,
    cropped,
    images,
    like,
    padded,
    padded_shape,
    pair,
    places,
)

# ---- the largest element of each window --------------------------------------------------------------------------


def _largest(xp: Any, x: Any, *, how: Sliding) -> Any:
    x, best = padded(xp, x, how, -math.inf), None
    for _, _, cells in how.strips():
        best = x[cells].copy() if best is None else xp.maximum(best, x[cells], out=best)
    return by_sample(best)


def _winners(xp: Any, x: Any, best: Any, how: Sliding) -> Any:
    """Yield for each cell of the window its index in the image, and where it is the first that equals the largest."""
    x, best, taken = padded(xp, x, how, -math.inf), by_channel(xp, best), None
    best = xp.where(best == best, best, math.inf)  # not less than inf is what is NaN
    for _, _, cells in how.strips():
        wins = xp.logical_not(x[cells] < best)
        if taken is None:
            taken = wins
        else:
            wins = xp.greater(wins, taken)  # and not taken
            taken = xp.logical_or(wins, taken)
        yield cells, wins


def _put_back(xp: Any, g: Any, x: Any, best: Any, *, how: Sliding) -> Any:
    g = by_channel(xp, g)
    out = xp.zeros(padded_shape(g, how), g.dtype)
    for cells, wins in _winners(xp, x, best, how):
        target = out[cells]
        xp.add(target, g * wins, out=target)
    return cropped(out, how)


def _take_out(xp: Any, u: Any, x: Any, best: Any, *, how: Sliding) -> Any:
    u, out = padded(xp, u, how), None
    for cells, wins in _winners(xp, x, best, how):
        out = u[cells] * wins if out is None else xp.add(out, u[cells] * wins, out=out)
    return by_sample(out)


def _rows(shapes: tuple, *, how: Sliding) -> bool:
    return True


_max_pool = Op(
    _largest,
    lambda g, out, x, *, how: _unpool(g, x, out, how=how),
    saves="x out",
    name="max_pool",
    samplewise=_rows,
)

# Which element won is constant almost everywhere: putting a gradient back and taking it out are linear, and adjoint.
_unpool = Op(
    _put_back,
    lambda u, out, g, x, best, *, how: _pick(u, x, best, how=how),
    None,
    None,
    saves="x best",
    name="max_pool_gradient",
    samplewise=_rows,
)

_pick = Op(
    _take_out,
    lambda v, out, u, x, best, *, how: _unpool(v, x, best, how=how),
    None,
    None,
    saves="x best",
    name="max_pool_pick",
    samplewise=_rows,
)


def _max(who: str, axes: int, x: Any, kernel: Size, stride: Any, padding: Size, dilation: Size, ceil: bool) -> Any:
    x4 = images(who, x, axes)
    how = places(who, x4.shape[2:], kernel, stride, padding, dilation, axes, ceil)
    if any(2 * p > k for p, k in zip(how.before, how.span(), strict=True)):
        raise ValueError(f"{who}: padding must be at most half the kernel size {kernel}, got {padding}")
    return like(_max_pool(x4, how=how), x, axes)


def max_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:
    """Take the largest element of each window of a signal, (n, c, l) or (c, l). See `max_pool2d`.

    >>> max_pool1d(tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[3., 2.]])
    """
    return _max("max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:
    """Take the largest element of each window of an image.

    Shapes: x (n, c, h, w) or (c, h, w) -> (n, c, oh, ow), oh = 1 + (h + 2 padding - span) // stride with the span
    dilation (kernel_size - 1) + 1. The stride is the kernel size by default. Padding, at most half the kernel, never
    wins. With `ceil_mode` windows that reach over the edge count too if they begin before it.

    The first of several equal elements, along rows, gets the whole gradient. A NaN makes the results of its windows
    NaN, and the first in a window gets the gradient. ValueError for a kernel greater than the padded image.

    >>> max_pool2d(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]), 2, stride=1)
    tensor([[[6., 5.]]])
    """
    return _max("max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode)


# ---- the sum of each window --------------------------------------------------------------------------------------


def _totals(xp: Any, x: Any, *, how: Sliding) -> Any:
    x, total = padded(xp, x, how), None
    for _, _, cells in how.strips():
        total = x[cells].copy() if total is None else xp.add(total, x[cells], out=total)
    return by_sample(total)


def _spread(xp: Any, g: Any, *, how: Sliding) -> Any:
    g = by_channel(xp, g)
    out = xp.zeros(padded_shape(g, how), g.dtype)
    for _, _, cells in how.strips():
        target = out[cells]
        xp.add(target, g, out=target)
    return cropped(out, how)


_window_sum = Op(_totals, lambda g, out, x, *, how: _window_spread(g, how=how), name="sum_pool", samplewise=_rows)
_window_spread = Op(
    _spread, lambda u, out, g, *, how: _window_sum(u, how=how), name="sum_pool_gradient", samplewise=_rows
)

# How many cells of each window lie on the image, or on its padding: (1, 1, oh, ow), of x's dtype.
_counts = Op(lambda xp, x, *, how: _totals(xp, xp.ones((1, 1, *how.size), x.dtype), how=how), name="avg_pool_counts")


def _average(
    who: str, axes: int, x: Any, kernel: Size, stride: Any, padding: Size, ceil: bool, pads: bool, divisor: int | None
) -> Any:
    x4 = images(who, x, axes)
    how = places(who, x4.shape[2:], kernel, stride, padding, 1, axes, ceil)
    if any(2 * p > k for p, k in zip(how.before, how.kernel, strict=True)):
        raise ValueError(f"{who}: padding must be at most half the kernel size {kernel}, got {padding}")
    if divisor is not None and not divisor:
        raise ValueError(f"{who}: divisor_override must not be 0")
    total = _window_sum(x4, how=how)
    if divisor or how.after == (0, 0) or (pads and how.after == how.before):
        return like(total / (divisor or math.prod(how.kernel)), x, axes)
    if pads:  # the padding counts, but not what lies beyond it
        (h, w), (top, left) = how.size, how.before
        over = (how.after[0] - top, how.after[1] - left)
        how = how._replace(size=(h + 2 * top, w + 2 * left), before=(0, 0), after=over)
    return like(total / _counts(x4, how=how), x, axes)


def avg_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """Average each window of a signal, (n, c, l) or (c, l). See `avg_pool2d`.

    >>> avg_pool1d(tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[2., 1.]])
    """
    return _average("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Average each window of an image: the sum divided by the number of cells, or by `divisor_override`.

    Shapes: x (n, c, h, w) or (c, h, w) -> (n, c, oh, ow) as for `max_pool2d`. Padding is zeros that count among the
    cells, unless count_include_pad is False; what a window covers beyond the padding (`ceil_mode`) never counts.

    >>> avg_pool2d(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]), 2, stride=1)
    tensor([[[3.5, 3.5]]])
    """
    return _average("avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# ---- to a given size ---------------------------------------------------------------------------------------------


_bins = Op(
    lambda xp, x, *, n, m, most: xp.minimum(
        (xp.arange(m) * n // m)[:, None] + xp.arange(most), -(-(xp.arange(m)[:, None] + 1) * n // m) - 1
    ).reshape(m * most),
    name="adaptive_bins",
    doc="""Return the cells of m bins of n cells, the last of each repeated until all have `most`.""",
)


def _adaptive(who: str, axes: int, x: Any, output_size: Any) -> tuple[Any, tuple[int, int]]:
    x4 = images(who, x, axes)
    given = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    size = x4.shape[4 - axes :]
    filled = tuple(n if m is None else m for m, n in zip(given, size, strict=True)) if len(given) == axes else given
    out = pair(who, "output_size", filled, axes, least=1)
    if 0 in x4.shape[1:]:
        raise ValueError(f"{who}: x must have at least one element a sample, got {x.shape}")
    return x4, out


def _adaptive_average(who: str, axes: int, x: Any, output_size: Any) -> Any:
    x4, (oh, ow) = _adaptive(who, axes, x, output_size)
    n, c, h, w = x4.shape
    if h % oh == 0 and w % ow == 0:
        out = mean(reshape(x4, (n, c, oh, h // oh, ow, w // ow)), axis=(3, 5)) if n else x4[:, :, :oh, :ow]
    else:
        rows, columns = resampling(x4, n=h, m=oh, mode="area"), resampling(x4, n=w, m=ow, mode="area")
        out = matmul(rows, matmul(x4, swap(columns)))
    return like(out, x, axes)


def _adaptive_max(who: str, axes: int, x: Any, output_size: Any) -> Any:
    x4, out = _adaptive(who, axes, x, output_size)
    kernel = []
    for axis, (n, m) in enumerate(zip(x4.shape[2:], out, strict=True), 2):
        most = max(-(-(i + 1) * n // m) - i * n // m for i in range(m))
        if n != m * most:
            x4 = getitem(x4, (slice(None),) * axis + (_bins(x4, n=n, m=m, most=most),))
        kernel.append(most)
    how = places(who, x4.shape[2:], tuple(kernel), None, 0, 1, 2)
    return like(_max_pool(x4, how=how), x, axes)


def adaptive_avg_pool1d(x: Any, output_size: int | None) -> Any:
    """Average a signal, (n, c, l) or (c, l), in `output_size` windows. See `adaptive_avg_pool2d`.

    >>> adaptive_avg_pool1d(tensor([[1.0, 2.0, 3.0]]), 2)
    tensor([[1.5, 2.5]])
    """
    return _adaptive_average("adaptive_avg_pool1d", 1, x, output_size)


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """Average an image in as many windows as the result shall have cells: an integer, or (along h, along w).

    Shapes: x (n, c, h, w) or (c, h, w) -> (n, c, oh, ow); None keeps a size. Window i covers the cells from
    floor(i h / oh) up to ceil((i + 1) h / oh), so windows overlap where oh does not divide h.

    >>> adaptive_avg_pool2d(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]), (1, 3))
    tensor([[[3.5, 3.5, 3.5]]])
    """
    return _adaptive_average("adaptive_avg_pool2d", 2, x, output_size)


def adaptive_max_pool1d(x: Any, output_size: int | None) -> Any:
    """Take the largest elements of a signal, (n, c, l) or (c, l), in the windows of `adaptive_avg_pool1d`.

    >>> adaptive_max_pool1d(tensor([[1.0, 2.0, 3.0]]), 2)
    tensor([[2., 3.]])
    """
    return _adaptive_max("adaptive_max_pool1d", 1, x, output_size)


def adaptive_max_pool2d(x: Any, output_size: Any) -> Any:
    """Take the largest element of an image in each window of `adaptive_avg_pool2d`; the first of equal ones.

    >>> adaptive_max_pool2d(tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]), (1, 2))
    tensor([[[6., 5.]]])
    """
    return _adaptive_max("adaptive_max_pool2d", 2, x, output_size)


# fmt: off
__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "max_pool1d", "max_pool2d",
]
# fmt: on
