"""Moving, repeating and cutting: NumPy's rearrangements, composed of the operations of `shape` and `index`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from ..engine.backend import array_module, as_array, device_of, is_array
from ..engine.op import Op
from ..engine.tensor import TENSORS
from .elementwise import where
from .index import add_along_axis, getitem, scatter, take_along_axis
from .shape import broadcast_to, concatenate, numpy_signature, ravel, reshape, transpose


def _raw(x: Any) -> Any:
    """Return the raw array of a tensor, an array or a list: to ask where it lives."""
    return x.array if type(x) in TENSORS else x if is_array(x) else np.asarray(x)


# ---- axes --------------------------------------------------------------------------------------------------------


@numpy_signature
def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """Move axes to new positions; the others keep their order.

    >>> moveaxis(zeros(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    """
    ndim = np.ndim(_raw(x))
    a, b = (normalize_axis_tuple(v, ndim, "moveaxis") for v in (source, destination))
    if len(a) != len(b):
        raise ValueError(
            f"moveaxis: source and destination must name equally many axes, got {source} and {destination}"
        )
    order = [i for i in range(ndim) if i not in a]
    for place, axis in sorted(zip(b, a, strict=True)):
        order.insert(place, axis)
    return transpose(x, axes=tuple(order))


@numpy_signature
def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Exchange two axes.

    >>> swapaxes(zeros(2, 3, 4), 0, 2).shape
    (4, 3, 2)
    """
    ndim = np.ndim(_raw(x))
    order = list(range(ndim))
    a, b = (normalize_axis_index(i, ndim, "swapaxes") for i in (axis1, axis2))
    order[a], order[b] = b, a
    return transpose(x, axes=tuple(order))


def atleast_1d(x: Any) -> Any:
    """Give a 0-d array one axis.

    >>> atleast_1d(tensor(3.0))
    tensor([3.])
    """
    return x if np.ndim(_raw(x)) else reshape(x, (1,))


def atleast_2d(x: Any) -> Any:
    """Give an array leading axes of length 1 until there are two.

    >>> atleast_2d(tensor([3.0, 4.0])).shape
    (1, 2)
    """
    shape = np.shape(_raw(x))
    return x if len(shape) > 1 else reshape(x, (1, *shape) if shape else (1, 1))


def atleast_3d(x: Any) -> Any:
    """Give an array axes of length 1 until there are three: (n,) -> (1, n, 1), (m, n) -> (m, n, 1), as in NumPy.

    >>> atleast_3d(tensor([3.0, 4.0])).shape
    (1, 2, 1)
    """
    shape = np.shape(_raw(x))
    return x if len(shape) > 2 else reshape(x, ((1, 1, 1), (1, *shape, 1), (*shape, 1))[len(shape)])


# ---- order and repetition ----------------------------------------------------------------------------------------


def _sliced(ndim: int, axis: int, index: Any) -> tuple:
    return (slice(None),) * axis + (index,) + (slice(None),) * (ndim - axis - 1)


@numpy_signature
def flip(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """Reverse the order along axis (None: along all).

    >>> flip(tensor([1.0, 2.0, 3.0]))
    tensor([3., 2., 1.])
    """
    ndim = np.ndim(_raw(x))
    axes = range(ndim) if axis is None else normalize_axis_tuple(axis, ndim, "flip")
    return getitem(x, tuple(slice(None, None, -1 if i in axes else 1) for i in range(ndim)))


@numpy_signature
def roll(x: Any, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Any:
    """Move elements along axis by shift places; what leaves at the end comes in at the start. None: flattened.

    >>> roll(tensor([1.0, 2.0, 3.0]), 1)
    tensor([3., 1., 2.])
    """
    shape = np.shape(_raw(x))
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), shape)
    axes = normalize_axis_tuple(axis, len(shape), "roll", allow_duplicate=True)
    shifts = [shift] * len(axes) if isinstance(shift, int) else list(shift)
    for by, i in zip(shifts, axes, strict=True):
        k = -by % shape[i] if shape[i] else 0
        if k:
            ahead, behind = (getitem(x, _sliced(len(shape), i, s)) for s in (slice(k, None), slice(k)))
            x = concatenate([ahead, behind], axis=i)
    return x


@numpy_signature
def repeat(x: Any, repeats: int | Sequence[int], axis: int | None = None) -> Any:
    """Repeat each element (along axis; None: of the flattened array) so many times, one number or one an element.

    >>> repeat(tensor([1.0, 2.0]), 2)
    tensor([1., 1., 2., 2.])
    """
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalize_axis_index(axis, np.ndim(_raw(x)), "repeat")
    return take(x, np.repeat(np.arange(np.shape(_raw(x))[axis]), repeats), axis)


def tile(x: Any, reps: int | Sequence[int]) -> Any:
    """Lay copies side by side: reps of them along each axis, the last axes first if reps is short.

    >>> tile(tensor([1.0, 2.0]), (2, 2))
    tensor([[1., 2., 1., 2.],
            [1., 2., 1., 2.]])
    """
    shape, times = np.shape(_raw(x)), (reps,) if isinstance(reps, int) else tuple(reps)
    ndim = max(len(shape), len(times))
    shape, times = (1,) * (ndim - len(shape)) + shape, (1,) * (ndim - len(times)) + times
    spread = tuple(n for pair in zip(times, shape, strict=True) for n in pair)
    apart = reshape(x, tuple(n for size in shape for n in (1, size)))
    return reshape(broadcast_to(apart, shape=spread), tuple(t * n for t, n in zip(times, shape, strict=True)))


@numpy_signature
def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut along axis into so many equal parts, or at the places named; ValueError if equal parts are impossible.

    >>> split(tensor([1.0, 2.0, 3.0]), [1])
    [tensor([1.]), tensor([2., 3.])]
    """
    shape = np.shape(_raw(x))
    axis = normalize_axis_index(axis, len(shape), "split")
    n = shape[axis]
    if isinstance(indices_or_sections, int):
        if indices_or_sections < 1 or n % indices_or_sections:
            raise ValueError(f"split: axis {axis} of length {n} cannot be cut into {indices_or_sections} equal parts")
        cuts = list(range(0, n, n // indices_or_sections))[1:] if n else [0] * (indices_or_sections - 1)
    else:
        cuts = [operator.index(i) for i in indices_or_sections]
    bounds = zip([None, *cuts], [*cuts, None], strict=True)
    return [getitem(x, _sliced(len(shape), axis, slice(a, b))) for a, b in bounds]


# ---- padding -----------------------------------------------------------------------------------------------------

_pad_constant = Op(
    lambda xp, x, *, widths, value: xp.pad(x, widths, mode="constant", constant_values=value),
    lambda g, out, x, *, widths, value: g[tuple(slice(a, g.shape[i] - b) for i, (a, b) in enumerate(widths))],
    name="pad",
    samplewise=lambda shapes, *, widths, value: widths[0] == (0, 0),
)


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0.0) -> Any:
    """Extend an array at its edges: pad_width is a number, a pair (before, after), or a pair for each axis.

    Modes, as in NumPy: "constant" (constant_values), "edge", "reflect", "symmetric", "wrap". Those that repeat elements
    add the gradients of their copies.

    >>> pad(tensor([1.0, 2.0, 3.0]), 2, mode="reflect")
    tensor([3., 2., 1., 2., 3., 2., 1.])
    """
    shape = np.shape(_raw(x))
    try:
        widths = tuple((int(a), int(b)) for a, b in np.broadcast_to(np.asarray(pad_width), (len(shape), 2)))
    except ValueError:
        raise ValueError(
            f"pad: pad_width must be a number, a pair, or a pair for each of {len(shape)} axes, got {pad_width}"
        ) from None
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError(f"pad: widths must not be negative, got {pad_width}; cut with a slice")
    if mode == "constant":
        return _pad_constant(x, widths=widths, value=constant_values)
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        raise ValueError(f"pad: mode must be constant, edge, reflect, symmetric or wrap, got {mode!r}")
    for axis, pair in enumerate(widths):
        if pair != (0, 0):
            x = take(x, np.pad(np.arange(shape[axis]), pair, mode=mode), axis)  # type: ignore[call-overload]
    return x


# ---- taking and putting ------------------------------------------------------------------------------------------


def _beside(indices: Any, x: Any) -> Any:
    """Bring host indices (a list, or computed from shapes) to the device of x."""
    return (
        indices
        if type(indices) in TENSORS or not isinstance(indices, np.ndarray)
        else array_module(_raw(x)).asarray(indices)
    )


@numpy_signature
def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """Take elements by index along axis (None: of the flattened array); repeated ones add their gradients.

    >>> take(tensor([[1.0, 2.0], [3.0, 4.0]]), [1, 1, 0], axis=1)
    tensor([[2., 2., 1.],
            [4., 4., 3.]])
    """
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalize_axis_index(axis, np.ndim(_raw(x)), "take")
    return getitem(x, (slice(None),) * axis + (_beside(indices, x),))


@numpy_signature
def put_along_axis(x: Any, indices: Any, values: Any, axis: int) -> Any:
    """Return x with values in the places that `indices` names along axis (NumPy's, without writing into x).

    Indices must not repeat within a row: which value would win is undefined on a GPU.

    >>> put_along_axis(tensor([[1.0, 2.0]]), tensor([[1]]), 9.0, axis=1)
    tensor([[1., 9.]])
    """
    axis = normalize_axis_index(axis, np.ndim(_raw(x)), "put_along_axis")
    old = take_along_axis(x, indices, axis)
    change = broadcast_to(values, shape=old.shape) - old if np.ndim(_raw(values)) else values - old
    return x + add_along_axis(change, indices, axis=axis, shape=tuple(np.shape(_raw(x))))


def index_add(x: Any, index: Any, values: Any) -> Any:
    """Return x with values added at x[index]; where an index repeats all its values are added.

    >>> index_add(zeros(3), [0, 0, 2], tensor([1.0, 2.0, 4.0]))
    tensor([3., 0., 4.])
    """
    raw = _raw(x)
    if isinstance(values, (int, float)):
        values = as_array(values, dtype=raw.dtype, device=device_of(raw))
    return x + scatter(values, index, raw.shape)


def index_set(x: Any, index: Any, values: Any) -> Any:
    """Return x with x[index] replaced by values: the assignment x[index] = values, as a function with derivatives.

    The replaced elements get the gradient 0. Indices must not repeat.

    >>> index_set(zeros(3), slice(1, 3), 7.0)
    tensor([0., 7., 7.])
    """
    return x + scatter(values - getitem(x, index), index, _raw(x).shape)


# ---- triangles and diagonals -------------------------------------------------------------------------------------


def _triangle(x: Any, k: int) -> Any:
    """Return the mask of a lower triangle beside x."""
    raw = _raw(x)
    if raw.ndim < 2:
        raise ValueError(f"tril, triu: need at least two axes, got shape {raw.shape}")
    return array_module(raw).asarray(np.tri(raw.shape[-2], raw.shape[-1], k, dtype=bool))


def tril(x: Any, k: int = 0) -> Any:
    """Keep the lower triangle of the last two axes, up to diagonal k; zeros above.

    >>> tril(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 0.],
            [3., 4.]])
    """
    return where(_triangle(x, k), x, 0)


def triu(x: Any, k: int = 0) -> Any:
    """Keep the upper triangle of the last two axes, from diagonal k on; zeros below.

    >>> triu(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 2.],
            [0., 4.]])
    """
    return where(_triangle(x, k - 1), 0, x)


@numpy_signature
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Return the diagonal of two axes, as the last axis of the result.

    >>> diagonal(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([1., 4.])
    """
    y = moveaxis(x, (axis1, axis2), (-2, -1))
    rows, columns = y.shape[-2:]
    first = np.arange(max(0, min(rows + min(offset, 0), columns - max(offset, 0)))) - min(offset, 0)
    return getitem(y, (Ellipsis, _beside(first, x), _beside(first + offset, x)))


def diag(x: Any, k: int = 0) -> Any:
    """Make a matrix with a vector on diagonal k, or read diagonal k off a matrix.

    >>> diag(tensor([1.0, 2.0]))
    tensor([[1., 0.],
            [0., 2.]])
    """
    shape = np.shape(_raw(x))
    if len(shape) == 2:
        return diagonal(x, k)
    if len(shape) != 1:
        raise ValueError(f"diag: needs a vector or a matrix, got shape {shape}")
    n = shape[0] + abs(k)
    places = _beside(np.arange(shape[0]), x)
    return scatter(x, (places + max(-k, 0), places + max(k, 0)), (n, n))


def meshgrid(*xs: Any, indexing: str = "xy") -> list[Any]:
    """Return coordinate arrays over the grid of vectors, in matrix ("ij") or Cartesian ("xy") order.

    >>> meshgrid(tensor([1.0, 2.0]), tensor([3.0, 4.0, 5.0]))[0].shape
    (3, 2)
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    sizes = tuple(np.size(_raw(x)) for x in xs)
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


# fmt: off
__all__ = [
    "atleast_1d", "atleast_2d", "atleast_3d", "diag", "diagonal", "flip", "index_add", "index_set", "meshgrid",
    "moveaxis", "nonzero", "pad", "put_along_axis", "repeat", "roll", "split", "swapaxes", "take", "tile", "tril",
    "triu",
]
# fmt: on
