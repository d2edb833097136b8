"""Moving, repeating and cutting: NumPy's rearrangements, composed of the operations of `shape` and `index`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..engine.backend import to_device
from ..engine.op import Op
from .elementwise import where as choose
from .index import getitem, scatter, take
from .shape import (
    along,
    beside,
    broadcast_to,
    device,
    integers,
    on_array,
    one_axis,
    operand,
    parts,
    ravel,
    reshape,
    some_axes,
    transpose,
)

# ---- axes --------------------------------------------------------------------------------------------------------


@on_array
def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """Move axes to new positions; the others keep their order.

    >>> moveaxis(zeros(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    """
    a, b = (some_axes(v, x.ndim, "moveaxis") for v in (source, destination))
    if len(a) != len(b):
        raise ValueError(
            f"moveaxis: source and destination must name equally many axes, got {source} and {destination}"
        )
    order = [i for i in range(x.ndim) if i not in a]
    for place, axis in sorted(zip(b, a, strict=True)):
        order.insert(place, axis)
    return transpose(x, axes=tuple(order))


@on_array
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Exchange two axes.

    >>> swapaxes(zeros(2, 3, 4), 0, 2).shape
    (4, 3, 2)
    """
    order = list(range(x.ndim))
    a, b = (one_axis(i, x.ndim, "swapaxes") for i in (axis1, axis2))
    order[a], order[b] = b, a
    return transpose(x, axes=tuple(order))


@on_array
def atleast_1d(x: Any) -> Any:
    """Give a 0-d array one axis.

    >>> atleast_1d(tensor(3.0))
    tensor([3.])
    """
    return x if x.ndim else reshape(x, (1,))


@on_array
def atleast_2d(x: Any) -> Any:
    """Give an array leading axes of length 1 until there are two.

    >>> atleast_2d(tensor([3.0, 4.0])).shape
    (1, 2)
    """
    return x if x.ndim > 1 else reshape(x, (1, *x.shape) if x.ndim else (1, 1))


@on_array
def atleast_3d(x: Any) -> Any:
    """Give an array axes of length 1 until there are three: (n,) -> (1, n, 1), (m, n) -> (m, n, 1), as in NumPy.

    >>> atleast_3d(tensor([3.0, 4.0])).shape
    (1, 2, 1)
    """
    return x if x.ndim > 2 else reshape(x, ((1, 1, 1), (1, *x.shape, 1), (*x.shape, 1))[x.ndim])


# ---- order and repetition ----------------------------------------------------------------------------------------


@on_array
def flip(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """Reverse the order along axis (None: along all). A view.

    >>> flip(tensor([1.0, 2.0, 3.0]))
    tensor([3., 2., 1.])
    """
    axes = range(x.ndim) if axis is None else some_axes(axis, x.ndim, "flip")
    return getitem(x, tuple(slice(None, None, -1 if i in axes else 1) for i in range(x.ndim)))


_roll = Op(
    lambda xp, x, *, shift, axis: xp.roll(x, shift, axis),
    lambda g, out, x, *, shift, axis: _roll(g, shift=tuple(-s for s in shift), axis=axis),
    name="roll",
    samplewise=lambda shapes, *, shift, axis: axis is not None and 0 not in axis,
)


@on_array
def roll(x: Any, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Any:
    """Move elements along axis by shift places; what leaves at the end comes in at the start. None: flattened.

    >>> roll(tensor([1.0, 2.0, 3.0]), 1)
    tensor([3., 1., 2.])
    """
    shifts = integers(shift, "roll")
    axes = None if axis is None else some_axes(axis, x.ndim, "roll", repeated=True)
    return _roll(x, shift=(shifts,) if isinstance(shifts, int) else shifts, axis=axes)


_repeat = Op(
    lambda xp, x, *, times, axis: xp.repeat(x, times, axis),
    lambda g, out, x, *, times, axis: g.reshape((*x.shape[: axis + 1], times, *x.shape[axis + 1 :])).sum(axis=axis + 1),
    name="repeat",
    samplewise=lambda shapes, *, times, axis: axis != 0,
)


@on_array
def repeat(x: Any, repeats: int | Sequence[int], axis: int | None = None) -> Any:
    """Repeat each element (along axis; None: of the flattened array) so many times, one number or one an element.

    >>> repeat(tensor([1.0, 2.0]), 2)
    tensor([1., 1., 2., 2.])
    """
    if axis is None:
        x, axis = ravel(x), 0
    axis = one_axis(axis, x.ndim, "repeat")
    times, n = integers(repeats, "repeat"), x.shape[axis]
    if np.min(times, initial=0) < 0 or np.shape(times) not in ((), (1,), (n,)):
        raise ValueError(f"repeat: needs one number, or one for each of {n} elements, none negative, got {repeats}")
    if isinstance(times, int):
        return _repeat(x, times=times, axis=axis)
    return take(x, to_device(np.repeat(np.arange(n), times), device(x)), axis)


def _untile(g: Any, out: Any, x: Any, *, reps: tuple[int, ...]) -> Any:
    """Add up the gradients of the copies."""
    shape = (1,) * (len(reps) - x.ndim) + x.shape
    apart = g.reshape(tuple(n for pair in zip(reps, shape, strict=True) for n in pair))
    return apart.sum(axis=tuple(range(0, 2 * len(reps), 2))).reshape(x.shape)


_tile = Op(lambda xp, x, *, reps: xp.tile(x, reps), _untile, name="tile")


@on_array
def tile(x: Any, reps: int | Sequence[int]) -> Any:
    """Lay copies side by side: reps of them along each axis, the last axes first if reps is short.

    >>> tile(tensor([1.0, 2.0]), (2, 2))
    tensor([[1., 2., 1., 2.],
            [1., 2., 1., 2.]])
    """
    times = integers(reps, "tile")
    times = (times,) if isinstance(times, int) else times
    if any(n < 0 for n in times):
        raise ValueError(f"tile: reps must not be negative, got {reps}")
    return _tile(x, reps=(1,) * (x.ndim - len(times)) + times)


@on_array
def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut along axis into so many equal parts, or at the places named; ValueError if equal parts are impossible.

    The parts are views.

    >>> split(tensor([1.0, 2.0, 3.0]), [1])
    [tensor([1.]), tensor([2., 3.])]
    """
    axis = one_axis(axis, x.ndim, "split")
    n, cuts = x.shape[axis], integers(indices_or_sections, "split")
    if isinstance(cuts, int):
        if cuts < 1 or n % cuts:
            raise ValueError(f"split: axis {axis} of length {n} cannot be cut into {cuts} equal parts")
        cuts = tuple(n // cuts * i for i in range(1, cuts))
    bounds = (0, *(slice(cut).indices(n)[1] for cut in cuts), n)
    if any(a > b for a, b in pairwise(bounds)):  # parts that overlap
        return [getitem(x, along(axis, slice(a, b))) for a, b in pairwise(bounds)]
    return list(parts(x, bounds=bounds, axis=axis))


# ---- triangles and diagonals -------------------------------------------------------------------------------------


def _triangle(x: Any, k: int, who: str) -> Any:
    """Return the mask of a lower triangle beside x."""
    if x.ndim < 2:
        raise ValueError(f"{who}: needs at least two axes, got shape {x.shape}")
    return beside(x, lambda xp: xp.tri(*x.shape[-2:], integers(k, f"{who}: k"), dtype=np.bool_))


@on_array
def tril(x: Any, k: int = 0) -> Any:
    """Keep the lower triangle of the last two axes, up to diagonal k; zeros above.

    >>> tril(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 0.],
            [3., 4.]])
    """
    return choose(_triangle(x, k, "tril"), x, False)


@on_array
def triu(x: Any, k: int = 0) -> Any:
    """Keep the upper triangle of the last two axes, from diagonal k on; zeros below.

    >>> triu(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 2.],
            [0., 4.]])
    """
    return choose(_triangle(x, k - 1, "triu"), False, x)


def _diagonal(xp: Any, *, n: int, k: int) -> tuple[Any, Any]:
    """Return the rows and the columns of the first n places of diagonal k."""
    i = xp.arange(n)
    return i + max(-k, 0), i + max(k, 0)


@on_array
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Return the diagonal of two axes, as the last axis of the result.

    >>> diagonal(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([1., 4.])
    """
    offset = integers(offset, "diagonal: offset")
    y = moveaxis(x, some_axes((axis1, axis2), x.ndim, "diagonal"), (-2, -1))
    rows, columns = y.shape[-2:]
    n = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    return getitem(y, (Ellipsis, *beside(x, partial(_diagonal, n=n, k=offset))))


@on_array
def diag(x: Any, k: int = 0) -> Any:
    """Make a matrix with a vector on diagonal k, or read diagonal k off a matrix.

    >>> diag(tensor([1.0, 2.0]))
    tensor([[1., 0.],
            [0., 2.]])
    """
    k = integers(k, "diag: k")
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ValueError(f"diag: needs a vector or a matrix, got shape {x.shape}")
    n = x.shape[0] + abs(k)
    return scatter(x, beside(x, partial(_diagonal, n=x.shape[0], k=k)), (n, n))


def meshgrid(*xs: Any, indexing: str = "xy") -> list[Any]:
    """Return coordinate arrays over the grid of vectors, in matrix ("ij") or Cartesian ("xy") order: read-only views.

    >>> meshgrid(tensor([1.0, 2.0]), tensor([3.0, 4.0, 5.0]))[0].shape
    (3, 2)
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    xs = tuple(ravel(operand(x, "meshgrid")) for x in xs)
    sizes = tuple(x.size for x in xs)
    grids = [
        broadcast_to(reshape(x, tuple(-1 if i == j else 1 for j in range(len(xs)))), shape=sizes)
        for i, x in enumerate(xs)
    ]
    return [swapaxes(grid, 0, 1) for grid in grids] if indexing == "xy" and len(xs) > 1 else grids


_nonzero = Op(lambda xp, x: tuple(xp.nonzero(x)), name="nonzero")


def nonzero(x: Any) -> tuple[Any, ...]:
    """Return the indices of the nonzero elements, an integer vector for each axis. On a GPU this waits for the device.

    >>> nonzero(tensor([0.0, 3.0, 4.0]))
    (tensor([1, 2]),)
    """
    return _nonzero(atleast_1d(x))


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """Choose elementwise: x where condition is true, y elsewhere; of a condition alone, the indices where it is true.

    The one that is not chosen gets the gradient 0, but 0 times its own derivative may be NaN: `where(x > 0, log(x), 0)`
    has a NaN gradient at x = 0; write `log(where(x > 0, x, 1))`.

    >>> where(tensor([True, False]), tensor([1.0, 2.0]), 0.0)
    tensor([1., 0.])
    """
    if x is None and y is None:
        return nonzero(condition)
    if x is None or y is None:
        raise TypeError("where: give both x and y, or neither")
    return choose(condition, x, y)


# fmt: off
__all__ = [
    "atleast_1d", "atleast_2d", "atleast_3d", "diag", "diagonal", "flip", "meshgrid", "moveaxis", "nonzero", "repeat",
    "roll", "split", "swapaxes", "tile", "tril", "triu", "where",
]
# fmt: on
