"""Operations that rearrange elements: each rule is the inverse rearrangement of the gradient."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from ..engine.backend import checked_dtype, device_of, on_device
from ..engine.op import Op
from ..engine.tensor import TENSORS


def _keeps_rows(shapes: tuple, *, shape: Any) -> bool:
    """Tell whether a reshape keeps axis 0."""
    if not shapes[0] or not isinstance(shape, tuple) or not shape:
        return False
    rows = shapes[0][0]
    return shape[0] == rows or (shape[0] == -1 and math.prod(shape[1:]) * rows == math.prod(shapes[0]))


def _reshape(xp: Any, x: Any, *, shape: Any) -> Any:
    sizes = shape if isinstance(shape, tuple) else (shape,)
    known = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1:
        raise ValueError(f"reshape: only one axis can be -1, got {sizes}")
    if (-1 not in sizes and known != x.size) or (-1 in sizes and (known == 0 or x.size % known)):
        raise ValueError(f"reshape: cannot turn shape {x.shape} with {x.size} elements into {sizes}")
    return x.reshape(sizes)


reshape = Op(
    _reshape,
    lambda g, out, x, *, shape: g.reshape(x.shape),
    samplewise=_keeps_rows,
    doc="""Give a new shape with the same number of elements; one axis may be -1. A view where possible.

    >>> reshape(tensor([1.0, 2.0, 3.0, 4.0]), (2, -1))
    tensor([[1., 2.],
            [3., 4.]])
    """,
)

transpose = Op(
    lambda xp, x, *, axes=None: x.transpose(axes),
    lambda g, out, x, *, axes=None: transpose(g, axes=None if axes is None else inverse_order(axes, g.ndim)),
    samplewise=lambda shapes, *, axes=None: axes is not None and axes[0] == 0,
    doc="""Permute the axes (reverse them by default). A view.

    >>> transpose(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 3.],
            [2., 4.]])
    """,
)


def inverse_order(axes: Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return the permutation that undoes `axes`.

    >>> inverse_order((2, 0, 1), 3)
    (1, 2, 0)
    """
    order = normalize_axis_tuple(axes, ndim)
    return tuple(sorted(range(ndim), key=order.__getitem__))


broadcast_to = Op(
    lambda xp, x, *, shape: xp.broadcast_to(x, shape),
    lambda g, out, x, *, shape: g,  # the engine sums it back
    samplewise=lambda shapes, *, shape: shapes[0][:1] == tuple(shape)[:1] and len(shapes[0]) == len(shape) > 0,
    doc="""Repeat along axes of length 1 and new leading axes until the shape is reached. A read-only view.

    >>> broadcast_to(tensor([1.0, 2.0]), (2, 2))
    tensor([[1., 2.],
            [1., 2.]])
    """,
)


def numpy_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """Name axis= to those who write dim=."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if "dim" in kwargs or "keepdim" in kwargs:
            raise TypeError(f"{function.__name__}: dim= and keepdim= are called axis= and keepdims= here, as in NumPy")
        return function(*args, **kwargs)

    return wrapped


def operand(x: Any, who: str) -> Any:
    """Return a list or a number as an array, an array or tensor as it is."""
    x = np.asarray(x) if not hasattr(x, "dtype") or isinstance(x, np.generic) else x
    checked_dtype(x.dtype, who)
    return x


def on_array(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the first argument be a list or a number too, and name axis= to those who write dim=."""

    @functools.wraps(function)
    def wrapped(x: Any, *args: Any, **kwargs: Any) -> Any:
        return function(operand(x, function.__name__), *args, **kwargs)

    return numpy_signature(wrapped)


def device(x: Any) -> str:
    """Return the device of an array or tensor, by name."""
    return device_of(x.array if type(x) in TENSORS else x)


def beside(x: Any, make: Callable[[Any], Any]) -> Any:
    """Return make(xp), computed on the device of x."""
    xp, context = on_device(device(x))
    with context:
        return make(xp)


def integers(value: Any, who: str) -> Any:
    """Return a setting, one integer or several, as an int or a tuple; TypeError for anything else."""
    try:
        return tuple(map(operator.index, value)) if np.ndim(value) else operator.index(value)
    except TypeError:
        raise TypeError(f"{who}: needs integers, got {value!r}") from None


def one_axis(axis: Any, ndim: int, who: str) -> int:
    """Return an axis counted from the front; TypeError for anything but an integer, AxisError out of range."""
    return normalize_axis_index(integers(axis, who), ndim, who)


def some_axes(axis: Any, ndim: int, who: str, repeated: bool = False) -> tuple[int, ...]:
    """Return axes counted from the front; errors as for `one_axis`, and ValueError for an axis that comes twice."""
    return normalize_axis_tuple(integers(axis, who), ndim, who, allow_duplicate=repeated)


def along(axis: int, *index: Any) -> tuple:
    """Return the index that applies to one axis, counted from the front."""
    return (slice(None),) * axis + index


@numpy_signature
def expand_dims(x: Any, axis: int | Sequence[int]) -> Any:
    """Insert axes of length 1 at the positions they shall have in the result.

    >>> expand_dims(tensor([1.0, 2.0]), 1).shape
    (2, 1)
    """
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    ndim = len(np.shape(x)) + len(axes)
    places = some_axes(axes, ndim, "expand_dims: axis")
    lengths = iter(np.shape(x))
    return reshape(x, tuple(1 if i in places else next(lengths) for i in range(ndim)))


@numpy_signature
def squeeze(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """Remove axes of length 1: all of them, or those named; ValueError for one that is longer.

    >>> squeeze(tensor([[[1.0], [2.0]]])).shape
    (2,)
    """
    shape = np.shape(x)
    gone = [i for i, n in enumerate(shape) if n == 1] if axis is None else some_axes(axis, len(shape), "squeeze: axis")
    for i in gone:
        if shape[i] != 1:
            raise ValueError(f"squeeze: axis {i} must have length 1, got {shape[i]} (shape {shape})")
    return reshape(x, tuple(n for i, n in enumerate(shape) if i not in gone))


def ravel(x: Any) -> Any:
    """Flatten to one axis, in C order.

    >>> ravel(tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([1., 2., 3., 4.])
    """
    return reshape(x, (-1,) if np.size(x) else (0,))


# ---- joining -----------------------------------------------------------------------------------------------------


def _concatenate(xp: Any, *xs: Any, axis: int = 0) -> Any:
    first = xs[0].shape
    for i, x in enumerate(xs):
        fits = x.ndim == len(first) and all(
            a == b for k, (a, b) in enumerate(zip(first, x.shape, strict=True)) if k != axis % len(first)
        )
        if not x.ndim or not fits:
            raise ValueError(
                f"concatenate: array {i} of shape {x.shape} does not fit array 0 of shape {first} along axis {axis}; "
                "all other axes must agree, and 0-d arrays need stack"
            )
    return xp.concatenate(xs, axis=axis)


def _cut(xp: Any, x: Any, *, bounds: tuple[int, ...], axis: int) -> tuple:
    return tuple(x[along(axis, slice(a, b))] for a, b in pairwise(bounds))


# All parts x[bounds[i]:bounds[i + 1]] along an axis; an index for each would cost a gradient of x's size for each.
parts = Op(
    _cut,
    joint=lambda gs, outs, x, *, bounds, axis: (_concatenate_op(*gs, axis=axis),),
    name="split",
    samplewise=lambda shapes, *, bounds, axis: axis != 0,
)


def _concatenate_rule(g: Any, out: Any, *xs: Any, axis: int = 0) -> tuple:
    axis = normalize_axis_index(axis, g.ndim)
    return parts(g, bounds=tuple(accumulate((x.shape[axis] for x in xs), initial=0)), axis=axis)


_concatenate_op = Op(
    _concatenate, joint=_concatenate_rule, name="concatenate", samplewise=lambda shapes, *, axis=0: axis != 0
)


@numpy_signature
def concatenate(arrays: Sequence[Any], axis: int | None = 0) -> Any:
    """Join a sequence of arrays along an existing axis; None flattens them first.

    ValueError for an empty sequence, or naming the first array whose other axes differ.

    >>> concatenate([tensor([1.0]), tensor([2.0, 3.0])])
    tensor([1., 2., 3.])
    """
    xs = _sequence(arrays, "concatenate")
    if axis is None:
        return _concatenate_op(*map(ravel, xs), axis=0)
    ndim = len(np.shape(xs[0]))
    return _concatenate_op(*xs, axis=one_axis(axis, ndim, "concatenate") if ndim else axis)


def _stack(xp: Any, *xs: Any, axis: int = 0) -> Any:
    for i, x in enumerate(xs):
        if x.shape != xs[0].shape:
            raise ValueError(f"stack: all arrays must have the shape {xs[0].shape} of array 0, array {i} has {x.shape}")
    return xp.stack(xs, axis=axis)


_unstack = Op(
    lambda xp, x, *, axis: tuple(x[along(axis, i, ...)] for i in range(x.shape[axis])),
    joint=lambda gs, outs, x, *, axis: (_stack_op(*gs, axis=axis),),
    name="unstack",
    samplewise=lambda shapes, *, axis: axis != 0,
)

_stack_op = Op(
    _stack,
    joint=lambda g, out, *xs, axis=0: _unstack(g, axis=normalize_axis_index(axis, g.ndim)),
    name="stack",
    samplewise=lambda shapes, *, axis=0: axis != 0,
)


@numpy_signature
def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Join arrays of one shape along a new axis; ValueError naming the first whose shape differs.

    >>> stack([tensor([1.0, 2.0]), tensor([3.0, 4.0])])
    tensor([[1., 2.],
            [3., 4.]])
    """
    xs = _sequence(arrays, "stack")
    return _stack_op(*xs, axis=one_axis(axis, len(np.shape(xs[0])) + 1, "stack"))


@on_array
def unstack(x: Any, axis: int = 0) -> tuple[Any, ...]:
    """Return the slices along an axis, views of x without that axis: the inverse of `stack`.

    ValueError for a 0-d array, which has none.

    >>> unstack(tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    (tensor([1., 3.]), tensor([2., 4.]))
    """
    if not x.ndim:
        raise ValueError("unstack: needs at least one axis, got shape ()")
    axis = one_axis(axis, x.ndim, "unstack")
    return _unstack(x, axis=axis) if x.shape[axis] else ()


def _sequence(arrays: Any, who: str) -> list:
    xs = list(arrays) if isinstance(arrays, (list, tuple)) else list(iter(arrays))
    if not xs:
        raise ValueError(f"{who}: needs at least one array, got an empty sequence")
    return xs


# fmt: off
__all__ = [
    "broadcast_to", "concatenate", "expand_dims", "ravel", "reshape", "squeeze", "stack", "transpose", "unstack",
]
# fmt: on
