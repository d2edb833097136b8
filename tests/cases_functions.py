"""Entries of minidl/ops/functions.py, special.py and rounding.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from entry import (
    ANY,
    Entry,
    Error,
    Input,
    arithmetic,
    at,
    bools,
    elementwise,
    fixed,
    in_torch,
    inside,
    integers,
    normal,
    number_errors,
    off_grid,
    off_zero,
    on_grid,
    positive,
    s,
    unary,
)


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[float])(x).astype(x.dtype)


def _erfc(x: Any) -> Any:
    return np.vectorize(math.erfc, otypes=[float])(x).astype(x.dtype)


def _xlogy(x: Any, y: Any) -> Any:
    return x * np.log(y)


def above_one(*shape: int) -> Input:
    """Return numbers in [1.5, 3)."""
    return Input(shape, lambda rng, shape: rng.uniform(1.5, 3.0, shape))


def divisors(*shape: int) -> Input:
    """Return +-1 and +-2, by which no number of `off_grid` can be divided."""
    return Input(shape, lambda rng, shape: rng.choice([1.0, 2.0, -1.0, -2.0], shape))


def function(name: str, make: Any, finite: list, **more: Any) -> Entry:
    """Return the entry of a function that NumPy has under the same name."""
    theirs = getattr(np, name)
    return elementwise(name, theirs, make, numpy=theirs, finite=[at(finite)], **more)


SMALL, INSIDE = [-80.0, -1e-8, 0.0, 1e-8, 80.0], [-0.99, -1e-8, 0.0, 1e-8, 0.99]

ANALYSIS = [
    function("square", normal, ANY),
    function("reciprocal", off_zero, [-1e4, 1e-4, 1.0, 1e4]),
    function("cbrt", off_zero, [-1e4, 1e-4, 1.0, 1e4], torch=in_torch(lambda torch, x: x.sign() * x.abs() ** (1 / 3))),
    function("exp2", normal, [-1e4, -1e3, -1e-8, 0.0, 100.0]),
    function("expm1", normal, [-1e4, -1e3, -1e-8, 0.0, 80.0]),
    function("log1p", positive, [-0.999, -1e-8, 0.0, 1e-8, 1e4]),
    function("log2", positive, [1e-15, 1e-8, 1.0, 1e4]),
    function("log10", positive, [1e-15, 1e-8, 1.0, 1e4]),
    function("sin", normal, ANY),
    function("cos", normal, ANY),
    function("tan", inside, [-1.5, -1e-8, 0.0, 1.5]),
    function("arcsin", inside, INSIDE),
    function("arccos", inside, INSIDE),
    function("arctan", normal, ANY),
    function("sinh", normal, SMALL),
    function("cosh", normal, SMALL),
    function("arcsinh", normal, ANY),
    function("arccosh", above_one, [1.0001, 1e3, 1e4]),
    function("arctanh", inside, INSIDE),
    function("sinc", normal, ANY, rtol=1e-9),
    elementwise("erf", _erf, normal, finite=[at(ANY)], torch="special.erf"),
    elementwise("erfc", _erfc, normal, finite=[at(ANY)], torch="special.erfc"),
    arithmetic("arctan2", np.arctan2, off_zero, finite=[at(ANY, ANY), at(ANY, ANY[::-1])]),
    arithmetic("hypot", np.hypot, off_zero, finite=[at(ANY, ANY), at(ANY, ANY[::-1])]),
    arithmetic("logaddexp", np.logaddexp, normal, finite=[at(ANY, ANY), at(ANY, ANY[::-1])]),
    arithmetic("logaddexp2", np.logaddexp2, normal, finite=[at(ANY, ANY), at(ANY, ANY[::-1])]),
    arithmetic(
        "xlogy",
        _xlogy,
        normal,
        positive,
        numpy=None,
        torch="special.xlogy",
        finite=[at([0.0, 0.0, 2.0, 1e4], [0.0, 1.0, 1e-4, 1e4])],
    ),
]

# ---- flat almost everywhere ------------------------------------------------------------------------------------------


def _clipped(f: Any, x: Any, *, low: Any, high: Any) -> Any:
    return f(x, low, high)


STEPS = [
    function("floor", off_grid, ANY),
    function("ceil", off_grid, ANY),
    function("trunc", off_grid, ANY),
    Entry(
        "round",
        np.round,
        [*unary(off_grid), s(fixed([0.23, -1.17, 12.34]), decimals=1), s(fixed([12.0, -38.0]), decimals=-1)],
        numpy=np.round,
        method="round",
        torch="round",
        finite=[at(ANY)],
        errors=number_errors("round"),
    ),
    arithmetic(
        "floor_divide", np.floor_divide, off_grid, divisors, torch=None, finite=[at([0.3, 1e4, -1e4], [1e3, 3.0, 7.0])]
    ),
    arithmetic("mod", np.mod, off_grid, divisors, torch="remainder", finite=[at([0.3, 1e4, -1e4], [1e3, 3.0, 7.0])]),
    arithmetic("fmod", np.fmod, off_grid, divisors, finite=[at([0.3, 1e4, -1e4], [1e3, 3.0, 7.0])]),
    arithmetic("copysign", np.copysign, off_zero, finite=[at(ANY, ANY[::-1])]),
    Entry(
        "clip",
        np.clip,
        [
            s(off_grid(2, 3), low=-0.5, high=0.5),
            s(off_grid(4), low=None, high=1.0),
            s(off_grid(4), low=-1.0, high=None),
            s(off_grid(), low=0, high=1),
            s(off_grid(0, 3), low=0.0, high=1.0),
            s(off_grid(4), low=1.0, high=-1.0),
        ],
        call=_clipped,
        numpy=np.clip,
        method="clip",
        torch="clamp",
        finite=[at(ANY, low=-1.0, high=1e3)],
        errors=[
            Error(lambda f: f(np.ones(2)), (ValueError, TypeError), r"clip: .*min.*max|positional"),
            Error(
                lambda f: f(np.ones(2), np.zeros(2), 1.0), TypeError, r"clip: min .*(ndarray|Tensor).*minimum\(maximum"
            ),
        ],
    ),
    Entry(
        "nan_to_num",
        np.nan_to_num,
        [
            s(normal(2, 3)),
            s(fixed([1.0, np.nan, np.inf, -np.inf]), nan=7.0, posinf=1.0, neginf=-1.0, orders=1),
            s(normal(), nan=2.0),
        ],
        numpy=np.nan_to_num,
        torch="nan_to_num",
        finite=[at(ANY), at([np.nan, 1.0])],
    ),
]

SPECIALS = fixed([1.0, np.nan, np.inf, -np.inf, -0.0])

TESTS = [
    *[
        Entry(
            name,
            getattr(np, name),
            [s(SPECIALS), s(normal(2, 3)), s(normal()), s(integers(3))],
            orders=0,
            keeps_dtype=False,
            numpy=getattr(np, name),
            torch=name,
        )
        for name in ("isfinite", "isnan", "isinf", "signbit")
    ],
    *[
        arithmetic(name, getattr(np, name), on_grid, orders=0, keeps_dtype=False)
        for name in ("logical_and", "logical_or", "logical_xor")
    ],
    Entry(
        "logical_not",
        np.logical_not,
        [s(on_grid(2, 3)), s(bools(3)), s(integers(3))],
        orders=0,
        keeps_dtype=False,
        numpy=np.logical_not,
        torch="logical_not",
    ),
    Entry(
        "bitwise_xor",
        np.bitwise_xor,
        [s(bools(2, 3), bools(3)), s(integers(2, 3), integers(2, 3))],
        orders=0,
        numpy=np.bitwise_xor,
        torch="bitwise_xor",
        errors=[Error(lambda f: f(np.ones(2), np.ones(2)), TypeError, "bitwise_xor: ")],
    ),
    Entry(
        "isclose",
        np.isclose,
        [
            s(on_grid(2, 3), on_grid(3)),
            s(SPECIALS, SPECIALS),
            s(SPECIALS, SPECIALS, equal_nan=True),
            s(fixed([1.0, 1.1]), fixed([1.05, 1.05]), rtol=0.1),
            s(normal(), normal(), atol=10.0),
        ],
        orders=0,
        keeps_dtype=False,
        numpy=np.isclose,
    ),
]

ENTRIES = [*ANALYSIS, *STEPS, *TESTS]
