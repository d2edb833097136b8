"""Indexing. The gradient of taking elements out is putting them back, added up where an index repeats."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.backend import as_array, device_of, is_array, scatter_add, to_device
from ..engine.node import mode
from ..engine.op import Op
from ..engine.tensor import TENSORS
from .elementwise import add, astype, copy
from .shape import along, beside, device, numpy_signature, on_array, one_axis, operand, ravel, reshape


class _Place:
    """Stands in an index for the next array: arrays are inputs of the operation, the rest is a setting."""

    def __repr__(self) -> str:
        return "array"


_ARRAY = _Place()


def _fill(index: tuple, arrays: tuple) -> tuple:
    """Put the arrays back into an index."""
    if not arrays:
        return index
    rest = iter(arrays)
    return tuple(next(rest) if i is _ARRAY else i for i in index)


def _take(xp: Any, x: Any, *arrays: Any, index: tuple) -> Any:
    if xp is not np and mode.watch is not None:
        _check_bounds(x.shape, index, arrays)
    return x[_fill(index, arrays)]


def _check_bounds(shape: tuple, index: tuple, arrays: tuple) -> None:
    """Let NumPy judge an index on the host: CuPy wraps what is out of range without a word."""
    host = tuple(a.get() for a in arrays)
    np.broadcast_to(np.empty((), np.bool_), shape)[_fill(index, host)]


def _put(xp: Any, g: Any, *arrays: Any, index: tuple, shape: tuple) -> Any:
    out = xp.zeros(shape, g.dtype)
    where = _fill(index, arrays)
    if any(a.dtype.kind != "b" for a in arrays):
        scatter_add(xp, out, where, g)
    else:
        out[where] = g  # slices and masks take each element once
    return out


def _whole_rows(shapes: tuple, *, index: tuple) -> bool:
    """Tell whether an index without arrays takes all of axis 0, and leaves it the first."""
    used = [i for i in index if i is not None]
    if len(shapes) > 1 or not shapes[0] or index[:1] == (None,):
        return False
    return not used or used[0] == slice(None) or (used[0] is Ellipsis and len(used) <= len(shapes[0]))


_getitem = Op(
    _take,
    joint=lambda g, out, x, *arrays, index: (_scatter(g, *arrays, index=index, shape=x.shape), *([None] * len(arrays))),
    saves="arrays",
    samplewise=_whole_rows,
    name="getitem",
)

_scatter = Op(
    _put,
    joint=lambda g, out, x, *arrays, index, shape: (_getitem(g, *arrays, index=index), *([None] * len(arrays))),
    saves="arrays",
    name="scatter",
)


def getitem(x: Any, index: Any) -> Any:
    """Return x[index]: integers, slices, None, Ellipsis, masks, integer arrays with repeats, and tuples of them.

    The result of integers and slices alone is a view. The gradient of an element that is taken k times is the sum of k
    gradients. IndexError for an integer out of range; on a GPU an out-of-range *array* of indices wraps round silently,
    as in CuPy, except under `detect_anomaly()`.

    >>> x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> getitem(x, [0, 0, 2]).sum().backward()
    >>> x.grad
    tensor([2., 0., 1.])
    """
    parts, arrays = _parse(index, x)
    return _getitem(x, *arrays, index=parts)


def scatter(values: Any, index: Any, shape: tuple[int, ...]) -> Any:
    """Return zeros of a shape with values added at index, the adjoint of `getitem`; values broadcast.

    >>> scatter(tensor([1.0, 2.0]), [0, 0], (3,))
    tensor([3., 0., 0.])
    """
    parts, arrays = _parse(index, values)
    return _scatter(values, *arrays, index=parts, shape=tuple(shape))


def _parse(index: Any, x: Any, who: str = "getitem") -> tuple[tuple, list]:
    """Part an index into settings, with a place held for each array, and the arrays, brought beside x."""
    parts: list[Any] = []
    arrays: list[Any] = []
    for i in index if isinstance(index, tuple) else (index,):
        if i is None or i is Ellipsis or isinstance(i, (int, slice, np.integer)):
            parts.append(i)
            continue
        array = i if type(i) in TENSORS or is_array(i) else _host_index(i, x, who)
        if array.dtype.kind not in "biu":
            raise IndexError(f"{who}: indices must be integers, slices, masks or integer arrays, got {array.dtype}")
        parts.append(_ARRAY)
        arrays.append(array)
    return tuple(parts), arrays


def _host_index(index: Any, x: Any, who: str) -> Any:
    """Make a list of indices an array beside x."""
    if not isinstance(index, (list, tuple, range)):
        raise IndexError(
            f"{who}: indices must be integers, slices, masks or integer arrays, got {type(index).__name__}"
        )
    array = np.asarray(index, dtype=None if len(index) else np.int64)
    return as_array(array, device=x.device if type(x) in TENSORS else device_of(x), who=who)


# ---- along an axis -----------------------------------------------------------------------------------------------


def _along(xp: Any, indices: Any, axis: int) -> tuple:
    """Return the full index that picks `indices` along one axis and its own place along the others."""
    n = indices.ndim
    ranges = (xp.arange(k).reshape(tuple(-1 if j == i else 1 for j in range(n))) for i, k in enumerate(indices.shape))
    return tuple(indices if i == axis else r for i, r in enumerate(ranges))


def _put_along(xp: Any, g: Any, indices: Any, *, axis: int, shape: tuple) -> Any:
    out = xp.zeros(shape, g.dtype)
    scatter_add(xp, out, _along(xp, indices, axis), g)
    return out


_take_along = Op(
    lambda xp, x, indices, *, axis: xp.take_along_axis(x, indices, axis=axis),
    lambda g, out, x, indices, *, axis: add_along_axis(g, indices, axis=axis, shape=x.shape),
    None,
    saves="indices",
    name="take_along_axis",
    samplewise=lambda shapes, *, axis: axis != 0,
)

add_along_axis = Op(
    _put_along,
    lambda g, out, x, indices, *, axis, shape: _take_along(g, indices, axis=axis),
    None,
    saves="indices",
    name="add_along_axis",
    samplewise=lambda shapes, *, axis, shape: axis != 0,
)


@numpy_signature
def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    """Take from each row along axis the elements that `indices` names there; the other axes must match.

    Shapes: x (..., k, ...), indices (..., m, ...) -> (..., m, ...). Repeated indices add their gradients.

    >>> take_along_axis(tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([[1], [0]]), axis=1)
    tensor([[2.],
            [3.]])
    """
    return _take_along(x, indices, axis=_row_axis(np.shape(x), np.shape(indices), axis, "take_along_axis"))


def _row_axis(shape: tuple[int, ...], other: tuple[int, ...], axis: int, who: str) -> int:
    """Return the axis counted from the front; ValueError unless the shapes agree in the other axes."""
    axis = one_axis(axis, len(shape), who)
    if len(shape) != len(other) or any(a != b for i, (a, b) in enumerate(zip(shape, other, strict=True)) if i != axis):
        raise ValueError(f"{who}: indices must have x's shape except along axis {axis}, got {other} for {shape}")
    return axis


# ---- taking and putting ------------------------------------------------------------------------------------------


@on_array
def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """Take elements by index along axis (None: of the flattened array); repeated ones add their gradients.

    >>> take(tensor([[1.0, 2.0], [3.0, 4.0]]), [1, 1, 0], axis=1)
    tensor([[2., 2., 1.],
            [4., 4., 3.]])
    """
    if axis is None:
        x, axis = ravel(x), 0
    axis = one_axis(axis, x.ndim, "take")
    host = indices if hasattr(indices, "dtype") else np.asarray(indices, None if np.size(indices) else np.int64)
    if host.dtype.kind not in "iu":
        raise TypeError(f"take: indices must be integers, got {host.dtype}")
    if isinstance(indices, (int, np.integer)):
        return copy(getitem(x, along(axis, indices)))
    return getitem(x, along(axis, indices if host is indices else to_device(host, device(x))))


def _values(values: Any, x: Any, who: str) -> Any:
    """Return values beside x: numbers and lists as an array, and what is no float as x's dtype if that is one."""
    if not hasattr(values, "dtype") or isinstance(values, np.generic):
        host = operand(values, who)
        dtype = x.dtype if x.dtype.kind == "f" else host.dtype
        if host.ndim:
            return to_device(host.astype(dtype), device(x))
        return beside(x, lambda xp: xp.full((), host.item(), dtype))
    return astype(values, dtype=x.dtype) if x.dtype.kind == "f" and values.dtype.kind != "f" else values


def _assign(xp: Any, x: Any, values: Any, *arrays: Any, index: tuple) -> Any:
    out = x.astype(np.promote_types(x.dtype, values.dtype))
    place = _fill(index, arrays)
    if xp is np and any(a.dtype.kind != "b" for a in arrays):
        taken = np.zeros(x.shape, np.bool_)
        taken[place] = True
        if np.count_nonzero(taken) < taken[place].size:
            raise ValueError(
                "index_set: an index repeats, and which of its values stays would be chance; see index_add"
            )
    out[place] = values
    return out


def _assign_rule(g: Any, out: Any, x: Any, values: Any, *arrays: Any, index: tuple) -> tuple:
    """Give the elements that were replaced no gradient, and their values theirs."""
    new = _getitem(g, *arrays, index=index)
    rest = _index_set(g, _values(0.0, g, "index_set"), *arrays, index=index)
    new = new if values.ndim <= new.ndim else reshape(new, (1,) * (values.ndim - new.ndim) + new.shape)
    return (rest, new, *([None] * len(arrays)))


_index_set = Op(_assign, joint=_assign_rule, saves="arrays", name="index_set")


@on_array
def index_set(x: Any, index: Any, values: Any) -> Any:
    """Return x with x[index] replaced by values: the assignment x[index] = values, as a function with derivatives.

    The replaced elements get the gradient 0. Where an index repeats: ValueError, on a GPU an undefined choice.

    >>> index_set(zeros(3), slice(1, 3), 7.0)
    tensor([0., 7., 7.])
    """
    parts, arrays = _parse(index, x, "index_set")
    return _index_set(x, _values(values, x, "index_set"), *arrays, index=parts)


@on_array
def index_add(x: Any, index: Any, values: Any) -> Any:
    """Return x with values added at x[index]; where an index repeats all its values are added.

    >>> index_add(zeros(3), [0, 0, 2], tensor([1.0, 2.0, 4.0]))
    tensor([3., 0., 4.])
    """
    return add(x, scatter(_values(values, x, "index_add"), index, x.shape))


@on_array
def put_along_axis(x: Any, indices: Any, values: Any, axis: int) -> Any:
    """Return x with values in the places that `indices` names along axis (NumPy's, without writing into x).

    Where an index repeats within a row: ValueError, on a GPU an undefined choice.

    >>> put_along_axis(tensor([[1.0, 2.0]]), tensor([[1]]), 9.0, axis=1)
    tensor([[1., 9.]])
    """
    indices = operand(indices, "put_along_axis")
    axis = _row_axis(x.shape, indices.shape, axis, "put_along_axis")
    raw = indices.array if type(indices) in TENSORS else indices
    return index_set(x, beside(x, lambda xp: _along(xp, raw, axis)), values)


# fmt: off
__all__ = [
    "getitem", "index_add", "index_set", "put_along_axis", "take", "take_along_axis",
]
# fmt: on
