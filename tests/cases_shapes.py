"""Entries of minidl/ops/shape.py and index.py."""

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
    Entry(
        "unstack",
        lambda x, axis=0: tuple(np.moveaxis(x, axis, 0)),
        [s(normal(3, 2)), s(normal(2, 3), axis=1), s(normal(2, 3, 2), axis=-2), s(normal(4)), s(normal(2, 0))],
        numpy=getattr(np, "unstack", None),  # new in NumPy 2.1
        torch="unbind",
        errors=[
            Error(lambda f: f(np.ones(())), ValueError, r"unstack: .*one axis"),
            Error(lambda f: f(A, axis=2), np.exceptions.AxisError, r"unstack.*2"),
            Error(lambda f: f(A, dim=0), TypeError, r"axis="),
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

ENTRIES = [*SHAPES, *INDICES]
