"""Entries of minidl/ops/shape.py, rearrange.py and index.py."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from entry import (
    Entry,
    Error,
    Sample,
    bools,
    fixed,
    in_torch,
    integers,
    normal,
    s,
)

# ---- shape and index -------------------------------------------------------------------------------------------------


def _joined(f: Any, *xs: Any, **settings: Any) -> Any:
    return f(xs, **settings)


def _shaped(f: Any, x: Any, *, shape: Any) -> Any:
    return f(x, shape)


def _indexed(f: Any, x: Any, *arrays: Any, index: Any) -> Any:
    return f(x, index(*arrays))


A = np.ones((2, 3))

SHAPES = [
    Entry(
        "reshape",
        np.reshape,
        [s(normal(2, 3), shape=shape) for shape in ((3, 2), (6,), (-1,), (1, -1, 2), 6, -1)]
        + [
            s(normal(), shape=(1, 1)),
            s(normal(1), shape=()),
            s(normal(0, 3), shape=(3, 0)),
            s(normal(0, 3), shape=(-1, 3)),
        ],
        call=_shaped,
        numpy=np.reshape,
        method="reshape",
        torch=in_torch(lambda torch, x, shape: torch.reshape(x, (shape,) if isinstance(shape, int) else shape)),
        errors=[
            Error(lambda f: f(A, (4, 2)), ValueError, r"reshape: .*\(2, 3\).*6.*\(4, 2\)"),
            Error(lambda f: f(A, (-1, -1)), ValueError, r"reshape: .*-1"),
            Error(lambda f: f(A, (-1, 4)), ValueError, r"reshape: .*\(2, 3\).*\(-1, 4\)"),
            Error(lambda f: f(np.ones((0, 3)), (-1, 0)), ValueError, r"reshape: "),
            Error(lambda f: f(A, (-2, -3)), ValueError, r"reshape: .*\(-2, -3\)"),
        ],
    ),
    Entry(
        "transpose",
        np.transpose,
        [
            s(normal(2, 3)),
            s(normal(2, 3, 4)),
            s(normal(3)),
            s(normal()),
            s(normal(0, 3)),
            s(normal(2, 3, 4), axes=(2, 0, 1)),
            s(normal(2, 3, 4), axes=(0, -1, 1)),
            s(normal(2, 3, 4), axes=[1, 2, 0]),
        ],
        numpy=np.transpose,
        method="transpose",
        torch=in_torch(
            lambda torch, x, axes=None: torch.permute(x, tuple(range(x.ndim))[::-1] if axes is None else axes)
        ),
        errors=[
            Error(lambda f: f(A, (0, 0)), ValueError, r"transpose: .*(repeated|match)"),
            Error(lambda f: f(A, (0, 2)), np.exceptions.AxisError, r"transpose: .*2"),
            Error(lambda f: f(A, (0,)), ValueError, r"transpose: .*axes"),
        ],
    ),
    Entry(
        "broadcast_to",
        np.broadcast_to,
        [
            s(normal(3), shape=(2, 3)),
            s(normal(2, 1), shape=(4, 2, 3)),
            s(normal(), shape=(2,)),
            s(normal(2, 3), shape=(2, 3)),
            s(normal(1, 3), shape=(0, 3)),
            s(normal(), shape=()),
        ],
        call=_shaped,
        numpy=np.broadcast_to,
        torch="broadcast_to",
        errors=[Error(lambda f: f(A, (4, 3)), ValueError, r"broadcast_to: .*\(2, ?3\).*\(4, ?3\)")],
    ),
    Entry(
        "expand_dims",
        np.expand_dims,
        [
            s(normal(2, 3), axis=0),
            s(normal(2, 3), axis=-1),
            s(normal(2, 3), axis=(0, 2)),
            s(normal(), axis=0),
            s(normal(0, 2), axis=1),
        ],
        numpy=np.expand_dims,
        errors=[
            Error(lambda f: f(A, 3), np.exceptions.AxisError, r"expand_dims.*3"),
            Error(lambda f: f(A, (0, 0)), ValueError, r"repeated axis.*expand_dims"),
            Error(lambda f: f(A, dim=0), TypeError, r"axis="),
        ],
    ),
    Entry(
        "squeeze",
        np.squeeze,
        [
            s(normal(1, 3, 1)),
            s(normal(1, 3, 1), axis=0),
            s(normal(1, 3, 1), axis=(0, -1)),
            s(normal(2)),
            s(normal(1)),
            s(normal(1, 0)),
        ],
        numpy=np.squeeze,
        method="squeeze",
        torch=in_torch(lambda torch, x, axis=None: torch.squeeze(x) if axis is None else torch.squeeze(x, axis)),
        errors=[
            Error(lambda f: f(A, 0), ValueError, r"squeeze: .*axis 0.*2.*\(2, 3\)"),
            Error(lambda f: f(A, 2), np.exceptions.AxisError, r"squeeze.*2"),
            Error(lambda f: f(A, dim=0), TypeError, r"axis="),
        ],
    ),
    Entry(
        "ravel",
        np.ravel,
        [s(normal(2, 3)), s(normal()), s(normal(0, 3)), s(normal(4))],
        numpy=np.ravel,
        method="ravel",
        torch="ravel",
    ),
    Entry(
        "concatenate",
        np.concatenate,
        [
            s(normal(2, 3), normal(1, 3)),
            s(normal(2, 3), normal(2, 1), axis=1),
            s(normal(2, 3), normal(2, 1), axis=-1),
            s(normal(2, 3), axis=0),
            s(normal(2), normal(0), normal(3)),
            s(normal(2, 3), normal(2), normal(), axis=None),
        ],
        call=_joined,
        numpy=np.concatenate,
        torch=in_torch(
            lambda torch, xs, axis=0: torch.cat([x.reshape(-1) for x in xs]) if axis is None else torch.cat(xs, axis)
        ),
        errors=[
            Error(lambda f: f([]), ValueError, r"concatenate: .*empty"),
            Error(lambda f: f([A, A, np.ones((2, 4))]), ValueError, r"concatenate: array 2 .*\(2, 4\).*\(2, 3\)"),
            Error(lambda f: f([A, np.ones(3)]), ValueError, r"concatenate: array 1 .*\(3,\).*\(2, 3\)"),
            Error(lambda f: f([np.ones(()), np.ones(())]), ValueError, r"concatenate: .*0-d.*stack"),
            Error(lambda f: f([A, A], axis=2), np.exceptions.AxisError, r"concatenate.*2"),
            Error(lambda f: f([A, A], dim=0), TypeError, r"axis="),
        ],
    ),
    Entry(
        "stack",
        np.stack,
        [
            s(normal(2, 3), normal(2, 3)),
            s(normal(3), normal(3), axis=1),
            s(normal(3), normal(3), axis=-1),
            s(normal(), normal(), normal()),
            s(normal(2)),
            s(normal(0), normal(0)),
        ],
        call=_joined,
        numpy=np.stack,
        torch="stack",
        errors=[
            Error(lambda f: f([]), ValueError, r"stack: .*empty"),
            Error(lambda f: f([A, A, np.ones(3)]), ValueError, r"stack: .*\(2, 3\).*array 2 .*\(3,\)"),
            Error(lambda f: f([A, A], axis=3), np.exceptions.AxisError, r"stack.*3"),
            Error(lambda f: f([A, A], dim=0), TypeError, r"axis="),
        ],
    ),
]


def basic(index: Any) -> Sample:
    """Return a sample of an index without arrays into a (3, 4, 2) array."""

    def given() -> Any:
        return index

    given.__name__ = str(index).replace(" ", "")
    return s(normal(3, 4, 2), index=given)


def advanced(name: str, build: Any, *arrays: Any, shape: tuple = (3, 4, 2)) -> Sample:
    """Return a sample of an index with arrays."""
    build.__name__ = name
    return s(normal(*shape), *arrays, index=build)


INDICES = [
    Entry(
        "getitem",
        operator.getitem,
        [
            *map(
                basic,
                [
                    0,
                    -1,
                    (1, 2),
                    (1, 2, 0),
                    slice(1, 3),
                    slice(None, None, 2),
                    slice(2, 0, -1),
                    (slice(None), 1),
                    ...,
                    (..., 0),
                    (0, ..., None),
                    None,
                    (None, 1, None),
                    (),
                    slice(0, 0),
                    (slice(None), slice(3, 0, -2)),
                ],
            ),
            advanced("i", lambda i: i, integers(5)),
            advanced("i,j", lambda i, j: (i, j), integers(2, 1), integers(4)),
            advanced("i,:,j", lambda i, j: (i, slice(None), j), integers(5, below=2), integers(5, below=2)),
            advanced(":,i", lambda i: (slice(None), i), integers(2, 3)),
            advanced("1,i", lambda i: (1, i), integers(2, low=-4)),
            advanced("i,1:3", lambda i: (i, slice(1, 3)), integers(4)),
            advanced("None,i,...", lambda i: (None, i, ...), integers(4)),
            advanced("0-d", lambda i: i, integers()),
            advanced("mask", lambda m: m, bools(3, 4)),
            advanced("mask,i", lambda m, i: (m, i), fixed([True, False, True]), integers(2)),
            advanced(":,mask", lambda m: (slice(None), m), fixed([True, False, True, True])),
            advanced("empty", lambda i: i, fixed([], np.int64)),
            advanced("of a 0-d array", lambda: ..., shape=()),
        ],
        call=_indexed,
        torch=in_torch(lambda torch, x, index: x[index]),
        waits=True,
        errors=[
            Error(lambda f: f(A, 2), IndexError, r"getitem: .*2.*out of bounds"),
            Error(lambda f: f(A, np.array([0, 5])), IndexError, r"getitem: .*5.*out of bounds"),
            Error(lambda f: f(A, (0, 0, 0)), IndexError, r"getitem: .*too many"),
            Error(lambda f: f(A, "x"), IndexError, r"getitem: .*str"),
            Error(lambda f: f(A, 1.0), IndexError, r"getitem: .*float"),
            Error(lambda f: f(A, np.array([0.5])), IndexError, r"getitem: .*float64"),
            Error(lambda f: f(A, [0.5]), IndexError, r"getitem: .*float64"),
            Error(lambda f: f(A, np.array([True, False, True])), IndexError, r"getitem: .*boolean"),
            Error(lambda f: f(A, (..., ...)), IndexError, r"getitem: .*ellipsis"),
        ],
    ),
    Entry(
        "take_along_axis",
        np.take_along_axis,
        [
            s(normal(2, 3), integers(2, 2), axis=1),
            s(normal(2, 3), integers(2, 5), axis=-1),
            s(normal(3, 2), integers(1, 2), axis=0),
            s(normal(3), integers(4), axis=0),
            s(normal(2, 3, 4), integers(2, 1, 4), axis=1),
            s(normal(2, 3), integers(2, 0), axis=1),
        ],
        numpy=np.take_along_axis,
        torch=in_torch(lambda torch, x, i, axis: torch.take_along_dim(x, i, axis)),
        errors=[
            Error(lambda f: f(A, np.zeros((3, 1), int), axis=1), ValueError, r"take_along_axis: .*\(3, 1\).*\(2, 3\)"),
            Error(
                lambda f: f(A, np.zeros((2, 1)), axis=1),
                (IndexError, TypeError),
                r"take_along_axis: .*(float64|integer)",
            ),
            Error(lambda f: f(A, np.full((2, 1), 3), axis=1), IndexError, r"take_along_axis: .*3.*out of bounds"),
            Error(lambda f: f(A, np.zeros((2, 1), int), axis=2), np.exceptions.AxisError, r"take_along_axis.*2"),
            Error(lambda f: f(A, np.zeros((2, 1), int), dim=1), TypeError, r"axis="),
        ],
    ),
]

# ---- rearrangements --------------------------------------------------------------------------------------------------


def _put(x: Any, values: Any, *arrays: Any, index: Any, add: bool) -> Any:
    out = x.copy()
    if add:
        np.add.at(out, index(*arrays), values)
    else:
        out[index(*arrays)] = values
    return out


def _written(f: Any, x: Any, values: Any, *arrays: Any, index: Any) -> Any:
    return f(x, index(*arrays), values)


def _writer(add: bool) -> Any:
    """Return the reference of index_set or index_add, called as they are: (x, index, values)."""

    def function(x: Any, index: Any, values: Any) -> Any:
        return _put(x, values, index=lambda: index, add=add)

    return function


def _put_along(x: Any, indices: Any, values: Any, axis: int) -> Any:
    out = x.copy()
    np.put_along_axis(out, indices, values, axis)
    return out


def _placed(f: Any, x: Any, values: Any, indices: Any, *, axis: int) -> Any:
    return f(x, indices, values, axis)


def _cut(f: Any, x: Any, *, at: Any, axis: int = 0) -> Any:
    return f(x, at, axis)


def _padded(f: Any, x: Any, *, width: Any, **settings: Any) -> Any:
    return f(x, width, **settings)


def _repeated(f: Any, x: Any, *, repeats: Any, axis: Any = None) -> Any:
    return f(x, repeats, axis)


def _torch_repeat(torch: Any, x: Any, repeats: Any, axis: Any) -> Any:
    return torch.repeat_interleave(x, torch.tensor(repeats), axis)


def writes(name: str) -> Any:
    """Return an index of a write, named for the identity of its test."""

    def choose(index: Any) -> Any:
        index.__name__ = name
        return index

    return choose


WRITES = [
    s(normal(3, 4), normal(4), index=writes("0")(lambda: 0)),
    s(normal(3, 4), normal(3, 2), index=writes(":,1:3")(lambda: (slice(None), slice(1, 3)))),
    s(normal(3, 4), normal(), index=writes("...")(lambda: ...)),
    s(normal(3, 4), normal(2, 4), fixed([2, 0]), index=writes("i")(lambda i: i)),
    s(normal(3, 4), normal(2), fixed([2, 0]), fixed([3, 1]), index=writes("i,j")(lambda i, j: (i, j))),
    s(normal(3, 4), normal(4), fixed([True, False, True]), index=writes("mask")(lambda m: m)),
    s(normal(5), normal(3), index=writes("::2")(lambda: slice(None, None, 2))),
]

B = np.ones((2, 3, 4))
CUBE = normal(2, 3, 4)


def _same(name: str, samples: list[Sample], **more: Any) -> Entry:
    """Return the entry of a function that NumPy has under the same name."""
    theirs = getattr(np, name)
    return Entry(name, theirs, samples, numpy=theirs, **more)


REARRANGEMENTS = [
    _same(
        "moveaxis",
        [
            s(CUBE, source=0, destination=-1),
            s(CUBE, source=(0, 2), destination=(1, 0)),
            s(CUBE, source=[2], destination=[0]),
        ],
        torch=in_torch(
            lambda torch, x, source, destination: torch.moveaxis(
                x, tuple(np.atleast_1d(source)), tuple(np.atleast_1d(destination))
            )
        ),
        errors=[
            Error(lambda f: f(B, 3, 0), np.exceptions.AxisError, "moveaxis.*3"),
            Error(lambda f: f(B, (0, 1), 0), ValueError, "moveaxis: .*equally many"),
            Error(lambda f: f(B, (0, 0), (1, 2)), ValueError, "repeated"),
        ],
    ),
    _same(
        "swapaxes",
        [s(CUBE, axis1=0, axis2=2), s(CUBE, axis1=-1, axis2=1), s(CUBE, axis1=1, axis2=1)],
        method="swapaxes",
        torch=in_torch(lambda torch, x, axis1, axis2: torch.swapaxes(x, axis1, axis2)),
        errors=[Error(lambda f: f(B, 0, 3), np.exceptions.AxisError, "swapaxes.*3")],
    ),
    *[
        _same(
            f"atleast_{n}d",
            [s(normal()), s(normal(3)), s(normal(2, 3)), s(CUBE), s(normal(0))],
            torch=None if n == 3 else f"atleast_{n}d",
        )
        for n in (1, 2, 3)
    ],
    _same(
        "flip",
        [s(CUBE), s(CUBE, axis=1), s(CUBE, axis=(0, -1)), s(normal()), s(normal(0, 2))],
        torch=in_torch(
            lambda torch, x, axis=None: torch.flip(
                x, tuple(range(x.ndim)) if axis is None else tuple(np.atleast_1d(axis))
            )
        ),
        errors=[
            Error(lambda f: f(B, 3), np.exceptions.AxisError, "flip.*3"),
            Error(lambda f: f(B, dim=0), TypeError, "axis="),
        ],
    ),
    _same(
        "roll",
        [
            s(normal(5), shift=2),
            s(normal(5), shift=-7),
            s(normal(2, 3), shift=1),
            s(CUBE, shift=(1, -1), axis=(0, 2)),
            s(CUBE, shift=2, axis=(0, 1)),
            s(CUBE, shift=0, axis=1),
            s(normal(0, 3), shift=1, axis=0),
            s(CUBE, shift=(1, 1), axis=(1, 1)),
            s(CUBE, shift=(1, 2), axis=(0,)),
        ],
        torch=in_torch(
            lambda torch, x, shift, axis=None: (
                torch.roll(x, shift, axis)
                if axis is None
                else torch.roll(x, *(tuple(v.tolist()) for v in np.broadcast_arrays(np.atleast_1d(shift), axis)))
            )
        ),
        errors=[
            Error(lambda f: f(B, 1, 3), np.exceptions.AxisError, "roll.*3"),
            Error(lambda f: f(B, (1, 2), (0, 1, 2)), ValueError, r"(roll|shift|broadcast)"),
        ],
    ),
    _same(
        "repeat",
        [
            s(normal(3), repeats=2),
            s(normal(2, 3), repeats=2),
            s(normal(2, 3), repeats=3, axis=-1),
            s(normal(), repeats=2),
            s(normal(2), repeats=0, axis=0),
        ],
        call=_repeated,
        method="repeat",
        torch=in_torch(_torch_repeat),
        errors=[
            Error(lambda f: f(A, 2, 2), np.exceptions.AxisError, "repeat.*2"),
            Error(lambda f: f(A, -1, 0), ValueError, "(repeat|negative)"),
            Error(lambda f: f(A, (1, 2, 3), 0), ValueError, "(repeat|broadcast)"),
        ],
    ),
    _same(
        "repeat",
        [s(normal(2, 3), repeats=(1, 0, 2), axis=1), s(normal(2), repeats=[3, 1])],
        call=_repeated,
        transfers=1,
        torch=in_torch(_torch_repeat),
    ),
    _same(
        "tile",
        [
            s(normal(2), reps=3),
            s(normal(2, 3), reps=(2, 2)),
            s(normal(2), reps=(2, 1)),
            s(CUBE, reps=2),
            s(normal(2, 3), reps=(3, 1, 2)),
            s(normal(), reps=(2,)),
            s(normal(2), reps=0),
            s(normal(2), reps=()),
        ],
        torch=in_torch(lambda torch, x, reps: torch.tile(x, (reps,) if isinstance(reps, int) else reps)),
    ),
    _same(
        "split",
        [
            s(normal(6), at=3),
            s(normal(6), at=(1, 4)),
            s(normal(2, 6), at=2, axis=1),
            s(normal(2, 6), at=(2, 2), axis=-1),
            s(normal(3), at=(5,)),
            s(normal(4), at=1),
        ],
        call=_cut,
        torch=in_torch(lambda torch, x, at, axis: torch.tensor_split(x, at, axis)),
        errors=[
            Error(lambda f: f(np.ones(5), 2), ValueError, r"split: .*5.*2 equal"),
            Error(lambda f: f(np.ones(5), 0), ValueError, r"split: .*0 equal"),
            Error(lambda f: f(A, 1, 2), np.exceptions.AxisError, "split.*2"),
            Error(lambda f: f(A, 1, dim=0), TypeError, "axis="),
        ],
    ),
    _same(
        "pad",
        [
            s(normal(3), width=1),
            s(normal(2, 3), width=(1, 2)),
            s(normal(2, 3), width=((0, 1), (2, 0)), constant_values=7.0),
            s(normal(2), width=0),
            s(normal(), width=1),
            *[s(normal(4), width=(2, 3), mode=m) for m in ("edge", "reflect", "symmetric", "wrap")],
            s(normal(3, 4), width=((1, 0), (2, 2)), mode="reflect"),
            s(normal(2), width=5, mode="wrap"),
        ],
        call=_padded,
        errors=[
            Error(lambda f: f(A, -1), ValueError, "pad: .*negative.*-1"),
            Error(lambda f: f(A, 1, mode="mirror"), ValueError, "pad: mode .*'mirror'"),
            Error(lambda f: f(A, ((1, 1), (1, 1), (1, 1))), ValueError, "pad: pad_width .*2 axes"),
        ],
    ),
    _same(
        "tril",
        [s(normal(3, 4)), s(normal(3, 4), k=1), s(normal(3, 4), k=-1), s(normal(2, 3, 3), k=-5), s(normal(0, 3))],
        torch=in_torch(lambda torch, x, k=0: torch.tril(x, k)),
        errors=[Error(lambda f: f(np.ones(3)), ValueError, r"tril.*two axes.*\(3,\)")],
    ),
    _same(
        "triu",
        [s(normal(3, 4)), s(normal(3, 4), k=1), s(normal(3, 4), k=-1), s(normal(2, 3, 3), k=5), s(normal(0, 3))],
        torch=in_torch(lambda torch, x, k=0: torch.triu(x, k)),
        errors=[Error(lambda f: f(np.ones(3)), ValueError, r"triu.*two axes.*\(3,\)")],
    ),
    _same(
        "diagonal",
        [
            s(normal(3, 4)),
            s(normal(3, 4), offset=1),
            s(normal(3, 4), offset=-2),
            s(normal(3, 4), offset=9),
            s(CUBE, axis1=2, axis2=0),
            s(CUBE, offset=-1, axis1=-1, axis2=1),
        ],
        method="diagonal",
        torch=in_torch(
            lambda torch, x, offset=0, axis1=0, axis2=1: (
                torch.diagonal(x, offset, axis1, axis2)
                if offset < 9
                else torch.zeros(0, dtype=x.dtype, requires_grad=True) * 1
            )
        ),
        errors=[
            Error(lambda f: f(np.ones(3)), (ValueError, np.exceptions.AxisError), "(diagonal|moveaxis)"),
            Error(lambda f: f(A, 0, 0, 0), ValueError, "(diagonal|repeated)"),
        ],
    ),
    _same(
        "diag",
        [s(normal(3)), s(normal(3), k=1), s(normal(3), k=-2), s(normal(3, 4)), s(normal(3, 4), k=1), s(normal(0))],
        torch=in_torch(lambda torch, x, k=0: torch.diag(x, k)),
        errors=[Error(lambda f: f(B), ValueError, r"diag: .*\(2, 3, 4\)")],
    ),
    _same(
        "meshgrid",
        [
            s(normal(2), normal(3)),
            s(normal(2), normal(3), indexing="ij"),
            s(normal(2), normal(3), normal(4)),
            s(normal(2)),
            s(normal(), normal(2)),
        ],
        torch=in_torch(
            lambda torch, *xs, indexing="xy": torch.meshgrid(*[x.reshape(-1) for x in xs], indexing=indexing)
        ),
        errors=[Error(lambda f: f(np.ones(2), indexing="zz"), ValueError, "meshgrid: indexing .*'zz'")],
    ),
    _same(
        "take",
        [
            s(CUBE, integers(2, 2, below=2), axis=0),
            s(CUBE, integers(5), axis=1),
            s(CUBE, integers(3, below=24)),
            s(CUBE, integers(), axis=-1),
            s(normal(3), fixed([], np.int64)),
        ],
        method="take",
        torch=in_torch(
            lambda torch, x, i, axis=None: (
                torch.take(x, i) if axis is None else x[(slice(None),) * (axis % x.ndim) + (i,)]
            )
        ),
        errors=[
            Error(lambda f: f(A, np.array([3]), axis=1), IndexError, "3.*out of bounds"),
            Error(lambda f: f(A, np.array([0]), axis=2), np.exceptions.AxisError, "take.*2"),
            Error(lambda f: f(A, np.array([0.5]), axis=0), (IndexError, TypeError), "float64"),
            Error(lambda f: f(A, np.array([0]), dim=0), TypeError, "axis="),
        ],
    ),
    Entry(
        "put_along_axis",
        _put_along,
        [
            s(normal(2, 3), normal(2, 1), fixed([[2], [0]]), axis=1),
            s(normal(2, 3), normal(), fixed([[2, 0], [0, 1]]), axis=-1),
            s(normal(3, 2), normal(1, 2), fixed([[2, 0]]), axis=0),
        ],
        call=_placed,
        errors=[
            Error(
                lambda f: f(A, np.zeros((3, 1), int), 0.0, 1),
                ValueError,
                r"(put|take)_along_axis: .*\(3, 1\).*\(2, 3\)",
            )
        ],
    ),
    Entry(
        "index_set",
        _writer(add=False),
        WRITES,
        call=_written,
        waits=True,
        errors=[
            Error(lambda f: f(A, 5, 0.0), IndexError, "5.*out of bounds"),
            Error(lambda f: f(A, 0, np.ones(2)), ValueError, r"\(2,\)"),
        ],
    ),
    Entry(
        "index_add",
        _writer(add=True),
        [*WRITES, s(normal(3, 4), normal(3, 4), fixed([2, 0, 2]), index=writes("repeated")(lambda i: i))],
        call=_written,
        waits=True,
        errors=[
            Error(lambda f: f(A, 5, 0.0), IndexError, "5.*out of bounds"),
            Error(lambda f: f(A, 0, np.ones(2)), ValueError, r"\(2,\)"),
        ],
    ),
    Entry(
        "nonzero",
        np.nonzero,
        [s(bools(2, 3)), s(fixed([0.0, 3.0, 0.0, 4.0])), s(integers(2, 2, 2, below=2))],
        orders=0,
        waits=True,
        numpy=np.nonzero,
        method="nonzero",
    ),
]

ENTRIES = [*SHAPES, *INDICES, *REARRANGEMENTS]
