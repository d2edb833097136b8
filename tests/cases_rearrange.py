"""Entries of minidl/ops/rearrange.py: what only moves, repeats or replaces elements."""

from __future__ import annotations

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

A = np.ones((2, 3))

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
            s(normal(4), at=()),
            s(normal(0, 3), at=(1,)),
            s(normal(5), at=(-2,)),
            s(normal(6), at=(4, 2)),
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

ENTRIES = REARRANGEMENTS
