"""More samples of the operations on numbers, order and places: kinks, ties, zeros, seams, and settings seldom used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cases_rearrange import _padded, _written
from entry import (
    Entry,
    at,
    bools,
    distinct,
    fixed,
    in_torch,
    integers,
    normal,
    off_zero,
    positive,
    s,
)

# ---- functions: where one formula takes over from another ------------------------------------------------------------

SEAMS_OF_ERF = [0.0, 1e-9, 0.46, 0.46875, 0.47, -0.46875, 3.99, 4.0, 4.01, -4.0]
SEAMS_OF_SINC = [0.0, 1e-9, 1e-3, 0.0299, 0.03, 0.0301, -0.03, 1.0, -2.0, 0.5]


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[float])(x)


def _erfc(x: Any) -> Any:
    return np.vectorize(math.erfc, otypes=[float])(x)


def _sinc(x: Any) -> Any:
    return np.sinc(x.astype(np.float64)).astype(x.dtype)  # NumPy 2.0's own divides by 0 in float16


def _xlogy(x: Any, y: Any) -> Any:
    return np.where(x == 0, 0.0, x * np.log(y)).astype(np.result_type(x, y))


SEAMS = [
    Entry("erf", _erf, [at(SEAMS_OF_ERF)], finite=[at([-30.0, -27.0, 26.5, 30.0])], rtol=2e-15, torch="erf"),
    Entry("erfc", _erfc, [at(SEAMS_OF_ERF)], finite=[at([-30.0, -27.0, 26.5, 30.0])], rtol=2e-15, torch="erfc"),
    Entry("sinc", _sinc, [at(SEAMS_OF_SINC)], finite=[at(SEAMS_OF_SINC)], torch=None, tolerance={"rtol": 1e-5}),
    Entry(
        "logaddexp",
        np.logaddexp,
        [at([1.0, -3.0, 0.0], [1.0, -3.0, 0.0]), at([0.0, 0.0], [50.0, -50.0])],
        finite=[at([-np.inf, 3.0, 1e4], [3.0, -np.inf, 1e4])],
        torch="logaddexp",
    ),
    Entry(
        "logaddexp2",
        np.logaddexp2,
        [at([1.0, -3.0, 0.0], [1.0, -3.0, 0.0]), at([0.0, 0.0], [50.0, -50.0])],
        finite=[at([-np.inf, 3.0, 1e4], [3.0, -np.inf, 1e4])],
        torch="logaddexp2",
    ),
    Entry(
        "xlogy",
        _xlogy,
        [at([0.0, 0.0, 1.0], [2.0, 0.5, 1.0]), s(off_zero(2, 1), positive(3))],
        torch="xlogy",
        finite=[at([0.0, 0.0, 0.0], [0.0, -2.0, 1e-8])],
    ),
    Entry(
        "arctan2",
        np.arctan2,
        [at([1.0, -1.0, 1.0, 2.0, -2.0], [-3.0, -3.0, 0.5, 0.0, 0.0])],
        torch="arctan2",
        finite=[at([0.0, 0.0, 1e30, 1e30], [1e30, -1.0, 1e30, 0.0])],
    ),
    Entry(
        "hypot",
        np.hypot,
        [at([3.0, 0.0, -2.0], [4.0, 1.0, 0.0])],
        torch="hypot",
        finite=[at([1e30, 1e-15, 0.0], [1e30, 0.0, 1e-15])],
    ),
    Entry("mod", np.mod, [at([-7.5, 7.5, -7.5, -0.25], [2.0, -2.0, -2.0, 4.0])], torch="remainder"),
    Entry("fmod", np.fmod, [at([-7.5, 7.5, -7.5, -0.25], [2.0, -2.0, -2.0, 4.0])], torch="fmod"),
    Entry("floor_divide", np.floor_divide, [at([-7.5, 7.5, -7.5, -0.25], [2.0, -2.0, -2.0, 4.0])]),
    Entry(
        "copysign",
        np.copysign,
        [at([2.0, -2.0, 2.0, -2.0], [1.0, 1.0, -1.0, -1.0])],
        torch="copysign",
        finite=[at([0.0, -0.0, 1.0, -1.0], [-0.0, 1.0, -0.0, 0.0])],
    ),
]

# ---- order -----------------------------------------------------------------------------------------------------------


def _log_cumulative(x: Any, axis: Any = None) -> Any:
    return np.logaddexp.accumulate(x, axis=axis or 0, dtype=x.dtype)


def _unrolled(f: Any, x: Any, *, q: Any, **settings: Any) -> Any:
    return f(x, np.asarray(q), **settings)


ZEROS = [[[0.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [0.0, 5.0]], [[1.0, 2.0], [3.0, 4.0]]]

ORDER = [
    Entry(
        "prod",
        np.prod,
        [
            at(ZEROS),
            at(ZEROS, axis=0),
            at(ZEROS, axis=(1, 2)),
            at(ZEROS, axis=(-1, 0), keepdims=True),
            at([0.0, 0.0, 0.0]),
            at([[0.0]]),
            at([0.0], axis=0),
            s(normal(9)),
            s(normal(2, 0, 3), axis=(0, 1)),
        ],
    ),
    Entry(
        "cumprod",
        np.cumprod,
        [at(ZEROS), at(ZEROS, axis=0), at(ZEROS, axis=-2), at([0.0, 0.0, 0.0, 2.0]), s(normal(9))],
    ),
    Entry(
        "logcumsumexp",
        _log_cumulative,
        [s(normal(9)), at([[1.0, 1.0], [1.0, 1.0]], axis=1)],
        finite=[at([-1e4, 1e4, -1e4, 0.0]), at([0.0, -np.inf, 1e4])],
    ),
    Entry(
        "std",
        np.std,
        [s(normal(5), ddof=4), s(normal(1, 4), axis=1, ddof=1, keepdims=True), s(normal(1)), s(normal(3), axis=())],
        finite=[at([[1e4, 1e4], [0.0, 1e-4]], axis=1)],
    ),
    Entry(
        "quantile",
        np.quantile,
        [
            s(distinct(7), q=[[0.1, 0.2], [0.9, 1.0]]),
            s(distinct(2, 4), q=[0.0, 1 / 3], axis=-1, keepdims=True),
            s(distinct(1), q=0.7),
            s(distinct(3, 1, 2), q=[0.25], axis=(0, 1)),
            s(distinct(3, 0, 2), q=0.5, axis=0),
        ],
        call=_unrolled,
        finite=[at([-np.inf, 0.0, 1.0, 2.0, np.inf], q=0.5)],
    ),
    Entry(
        "median",
        np.median,
        [s(distinct(3, 0, 2), axis=0), s(distinct(2, 2, 2), axis=(1, -1), keepdims=True)],
        finite=[at([-np.inf, 0.0, np.inf])],
    ),
    Entry(
        "unique",
        np.unique,
        [s(integers(3, 4), return_inverse=True, return_index=True), s(fixed([], float)), s(bools(5))],
        orders=0,
        waits=True,
    ),
]

# ---- places ----------------------------------------------------------------------------------------------------------


def _rolled(f: Any, x: Any, *, shift: Any, axis: Any = None) -> Any:
    return f(x, shift, axis)


def _tiled(f: Any, x: Any, *, reps: Any) -> Any:
    return f(x, reps)


def index(name: str, choose: Any) -> Any:
    """Return an index of a write, named for the identity of its test."""
    choose.__name__ = name
    return choose


def _assigned(x: Any, index: Any, values: Any) -> Any:
    out = x.copy()
    out[index] = values
    return out


def _added(x: Any, index: Any, values: Any) -> Any:
    out = x.copy()
    np.add.at(out, index, values)
    return out


def _assigned_in_torch(torch: Any, x: Any, index: Any, values: Any) -> Any:
    y = x.clone()
    y[index] = values
    return y


EDGES = ((2, 0), (0, 7))
PADDED = [
    s(normal(2, 3), width=width, mode=mode)
    for mode in ("edge", "reflect", "symmetric", "wrap", "linear_ramp", "mean")
    for width in (1, EDGES)
]
PADDED += [s(distinct(2, 5), width=EDGES, mode=mode) for mode in ("maximum", "minimum", "median")]
PADDED += [s(normal(1, 2), width=4, mode=mode) for mode in ("reflect", "symmetric", "wrap", "linear_ramp")]
PADDED += [
    s(normal(3), width=(1, 2), mode="linear_ramp", end_values=5.0),
    s(normal(0, 2), width=((0, 0), (1, 1)), mode="wrap"),
]
PADDED += [s(normal(3), width=0, mode="mean"), s(normal(3), width=2, mode="constant", constant_values=(1.0, 2.0))]

OVERLAP = fixed([[0, 1], [1, 0]])
PLACES = [
    Entry("pad", np.pad, PADDED, call=_padded),
    Entry(
        "roll",
        np.roll,
        [
            s(normal(2, 3), shift=(1, 2), axis=1),
            s(normal(2, 3), shift=(1, 1), axis=(0, -1)),
            s(normal(3), shift=-7),
            s(normal(2, 3), shift=1, axis=(0, 1)),
            s(normal(2, 3), shift=(2, 3)),
            s(normal(), shift=2),
            s(normal(3, 0), shift=4, axis=1),
            s(normal(3), shift=0),
        ],
        call=_rolled,
    ),
    Entry(
        "tile",
        np.tile,
        [
            s(normal(2, 3), reps=2),
            s(normal(3), reps=(2, 1, 2)),
            s(normal(2, 3), reps=(0, 2)),
            s(normal(), reps=3),
            s(normal(0, 2), reps=(3, 2)),
            s(normal(2), reps=()),
            s(normal(2, 2), reps=(1, 1)),
        ],
        call=_tiled,
    ),
    Entry(
        "index_set",
        _assigned,
        [
            s(normal(3, 4), normal(1, 4), index=index("0", lambda: 0)),
            s(normal(3, 4), normal(1, 1, 2), index=index("1,:2", lambda: (1, slice(2)))),
            s(normal(3, 4), normal(2, 4), index=index("[::-2]", lambda: slice(None, None, -2))),
            s(normal(), normal(), index=index("()", lambda: ())),
            s(normal(2, 3), normal(2, 1), OVERLAP, index=index("i,None", lambda i: (i[0], None, i[0]))),
            s(normal(2, 3), normal(2, 2), OVERLAP, index=index("i,j", lambda i: (i, [[0, 1], [2, 1]]))),
            s(normal(2, 3), normal(2, 3), index=index("none", lambda: ...)),
            s(normal(0, 3), normal(3), index=index(":", lambda: slice(None))),
        ],
        call=_written,
        transfers=1,
    ),
    Entry(
        "index_set",
        _assigned,
        [s(normal(2, 3), normal(3), fixed([1, 0]), index=index("i", lambda i: i))],
        call=_written,
        torch=in_torch(_assigned_in_torch),
    ),
    Entry(
        "index_add",
        _added,
        [
            s(normal(3, 4), normal(4), fixed([0, 0, 1]), index=index("i", lambda i: i)),
            s(normal(3), normal(2, 2), OVERLAP, index=index("2-d", lambda i: i)),
            s(normal(3, 4), normal(), fixed([0, 0, 1]), index=index("i,0", lambda i: (i, 0))),
            s(normal(), normal(), index=index("()", lambda: ())),
        ],
        call=_written,
    ),
]

ENTRIES = [*SEAMS, *ORDER, *PLACES]
