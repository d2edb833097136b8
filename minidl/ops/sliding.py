"""How windows slide over images: what convolution and pooling share.

Inside, the batch is the last axis in memory: (c, h, w, n). Taking what a window meets then moves whole runs of memory,
where (n, c, h, w) would move single elements wherever the stride is not 1. Results are shown as (n, c, h, w) without
being moved, and elementwise operations keep the order in memory, so only the first layer of a network copies its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .shape import reshape

Pair = tuple[int, int]
Size = int | tuple[int, ...]


class Sliding(NamedTuple):
    """How a kernel slides over an image: everything in cells, as (along h, along w)."""

    size: Pair  # of the image
    kernel: Pair
    stride: Pair
    before: Pair  # cells of padding above and to the left
    after: Pair  # below and to the right
    dilation: Pair
    out: Pair  # places of the kernel
    groups: int = 1

    def strips(self, rows: slice | None = None, columns: slice | None = None) -> Iterator[tuple[int, int, tuple]]:
        """Yield for each cell (i, j) of the kernel the index of the cells of the image that it meets.

        `rows` and `columns` restrict the places of the kernel.
        """
        for i in range(self.kernel[0]):
            down = self._strip(0, i, rows)
            for j in range(self.kernel[1]):
                yield i, j, (slice(None), down, self._strip(1, j, columns))

    def _strip(self, axis: int, cell: int, places: slice | None) -> slice:
        first, last = (places.start, places.stop - 1) if places else (0, self.out[axis] - 1)
        step, offset = self.stride[axis], cell * self.dilation[axis]
        return slice(offset + first * step, offset + last * step + 1, step)

    def span(self) -> Pair:
        """Return how many cells the kernel reaches over, with its dilation."""
        down, right = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        return down, right


# ---- images with the batch last ----------------------------------------------------------------------------------


def by_channel(xp: Any, x: Any) -> Any:
    """Return (n, c, h, w) as (c, h, w, n), contiguous: x's own memory where it lies so already."""
    return xp.ascontiguousarray(x.transpose(1, 2, 3, 0))


def by_sample(x: Any) -> Any:
    """Show (c, h, w, n) as (n, c, h, w), without moving it."""
    return x.transpose(3, 0, 1, 2)


def padded(xp: Any, x: Any, how: Sliding, value: float = 0.0) -> Any:
    """Return (n, c, h, w) as (c, h, w, n) with the padding around it."""
    if how.before == how.after == (0, 0):
        return by_channel(xp, x)
    x = x.transpose(1, 2, 3, 0)
    out = xp.full(padded_shape(x, how), value, x.dtype)
    out[_inner(how)] = x
    return out


def padded_shape(x: Any, how: Sliding, channels: int = 0) -> tuple[int, ...]:
    """Return the shape of the padded image whose places x (c, h, w, n), or its cotangent, belongs to."""
    down, right = (b + n + a for b, n, a in zip(how.before, how.size, how.after, strict=True))
    return channels or x.shape[0], down, right, x.shape[3]


def _inner(how: Sliding) -> tuple[slice, ...]:
    (top, left), (h, w) = how.before, how.size
    return slice(None), slice(top, top + h), slice(left, left + w)


def cropped(x: Any, how: Sliding) -> Any:
    """Return a padded image (c, h, w, n) as (n, c, h, w) without its padding."""
    return by_sample(x[_inner(how)])


# ---- arguments ---------------------------------------------------------------------------------------------------


def pair(who: str, name: str, value: Any, axes: int, least: int = 0) -> Pair:
    """Return an argument given as one integer or one for each axis as (along h, along w); h is idle if axes is 1.

    >>> pair("conv1d", "stride", 3, axes=1, least=1), pair("conv2d", "padding", (0, 2), axes=2)
    ((1, 3), (0, 2))
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(values) != axes or any(not isinstance(v, (int, np.integer)) or v < least for v in values):
        rule = f"an integer >= {least}" + (f", or {axes} of them" if axes > 1 else "")
        raise ValueError(f"{who}: {name} must be {rule}, got {value!r}")
    down, right = (least,) * (2 - axes) + tuple(int(v) for v in values)
    return down, right


def images(who: str, x: Any, axes: int) -> Any:
    """Return x, (n, c, *cells) or (c, *cells), as (n, c, h, w); ValueError or TypeError if it is something else."""
    if not hasattr(x, "dtype"):
        raise TypeError(f"{who}: x must be a tensor or an array, got {type(x).__name__}")
    if x.dtype.kind != "f":
        raise TypeError(f"{who}: x must be floating, got {x.dtype}; use .astype('float32')")
    if x.ndim not in (axes + 1, axes + 2):
        raise ValueError(f"{who}: x must be (n, c, {'h, w' if axes == 2 else 'l'}), n may be missing, got {x.shape}")
    shape = (1,) * (axes + 2 - x.ndim) + tuple(x.shape)
    return x if x.ndim == 4 else reshape(x, shape[:2] + (1,) * (2 - axes) + shape[2:])


def like(y: Any, x: Any, axes: int) -> Any:
    """Return y (n, c, h, w) with the axes that `images` added to x taken away again."""
    return y if x.ndim == 4 else reshape(y, y.shape[axes + 2 - x.ndim : 2] + y.shape[4 - axes :])


def sliding(
    who: str,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: tuple[Pair, Pair],
    dilation: Pair,
    groups: int = 1,
    ceil: bool = False,
    axes: int = 2,
) -> Sliding:
    """Work out the places of a kernel; ValueError if it is greater than the padded image.

    padding is (before, after). With `ceil`, places that reach beyond the padding count if they begin before it; what
    they reach over is added to the padding after.
    """
    before, after = padding
    how = Sliding(size, kernel, stride, before, after, dilation, (1, 1), groups)
    places, ends = [], []
    for n, k, s, b, a in zip(size, how.span(), stride, before, after, strict=True):
        room = b + n + a - k
        steps = -(-room // s) if ceil else room // s
        if steps < 0 or not n:
            padded = tuple(b + n + a for b, n, a in zip(before, size, after, strict=True))[2 - axes :]
            raise ValueError(
                f"{who}: kernel size {how.span()[2 - axes :]}, dilation included, is greater than the padded input "
                f"{padded}; pad it, or choose a smaller kernel"
            )
        steps -= ceil and steps * s >= b + n
        places.append(steps + 1)
        ends.append(max(a, steps * s + k - b - n))
    return how._replace(out=(places[0], places[1]), after=(ends[0], ends[1]))


def places(
    who: str, size: Pair, kernel: Any, stride: Any, padding: Any, dilation: Any, axes: int, ceil: bool = False
) -> Sliding:
    """Work out the places of a pooling window from the arguments as users give them; the stride may be None."""
    cells = pair(who, "kernel_size", kernel, axes, least=1)
    steps = cells if stride is None else pair(who, "stride", stride, axes, least=1)
    pads = pair(who, "padding", padding, axes)
    gaps = pair(who, "dilation", dilation, axes, least=1)
    return sliding(who, size, cells, steps, (pads, pads), gaps, ceil=ceil, axes=axes)
