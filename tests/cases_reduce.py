"""Entries of minidl/ops/reduce.py and scan.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from entry import (
    ANY,
    ROWS,
    Entry,
    Error,
    Sample,
    at,
    axis_errors,
    bools,
    distinct,
    fixed,
    in_torch,
    integers,
    normal,
    off_zero,
    on_grid,
    reduced,
    reduction,
    s,
)

# ---- reductions ------------------------------------------------------------------------------------------------------


def _log_sum_exp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))


def _axes_of(name: str) -> Any:
    """Return PyTorch's reduction of that name with NumPy's arguments."""

    def function(torch: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        axes = tuple(range(x.ndim)) if axis is None else axis
        return getattr(torch, name)(x, axes, keepdim=keepdims)

    return in_torch(function)


REDUCTIONS = [
    reduction(
        "sum",
        np.sum,
        normal,
        samples=reduced(normal, empty=True),
        numpy=np.sum,
        method="sum",
        torch=_axes_of("sum"),
        finite=[at(ANY), at([ANY, ANY], axis=1)],
    ),
    reduction(
        "mean",
        np.mean,
        normal,
        numpy=np.mean,
        method="mean",
        torch=_axes_of("mean"),
        finite=[at(ANY)],
        errors=[Error(lambda f: f(np.ones((0, 3))), ValueError, r"mean: .*\(0, 3\)")],
    ),
    reduction(
        "var",
        np.var,
        normal,
        samples=reduced(normal) + [s(normal(4), ddof=1), s(normal(4, 3), axis=0, ddof=2)],
        numpy=np.var,
        method="var",
        torch=in_torch(
            lambda torch, x, axis=None, keepdims=False, ddof=0: torch.var(
                x, dim=axis, correction=ddof, keepdim=keepdims
            )
        ),
        finite=[at(ANY), at([1e4, 1e4, 1e4])],
        errors=[
            Error(lambda f: f(np.ones(1), ddof=1), ValueError, r"var: .*ddof=1.*1"),
            Error(lambda f: f(np.ones((2, 0)), axis=1), ValueError, r"var: .*\(2, 0\)"),
        ],
    ),
    reduction(
        "max",
        np.max,
        distinct,
        numpy=np.max,
        method="max",
        torch=_axes_of("amax"),
        finite=[at(ANY), at([1.0, 1.0, 0.0])],
        errors=[Error(lambda f: f(np.ones((0, 3))), ValueError, r"max: .*zero-size")],
    ),
    reduction(
        "logsumexp",
        _log_sum_exp,
        normal,
        method="logsumexp",
        torch=_axes_of("logsumexp"),
        finite=[at(ROWS, axis=1), at([0.0, -np.inf])],
    ),
    Entry(
        "argmax",
        np.argmax,
        [s(distinct(2, 3)), s(distinct(2, 3), axis=0), s(distinct(2, 3), axis=-1, keepdims=True)],
        orders=0,
        keeps_dtype=False,
        numpy=np.argmax,
        method="argmax",
        torch="argmax",
        errors=[axis_errors()[0], axis_errors()[2], Error(lambda f: f(np.ones(0)), ValueError, "argmax: .*empty")],
    ),
]


def _all(x: Any, axis: Any) -> Any:
    return tuple(range(x.ndim)) if axis is None else axis


def _torch_prod(x: Any, axis: Any, keepdims: bool) -> Any:
    axes = sorted((a % x.ndim for a in (_all(x, axis) if not isinstance(axis, int) else (axis,))), reverse=True)
    for a in axes:
        x = x.prod(a, keepdim=keepdims)
    return x


def _at_quantile(f: Any, x: Any, *, q: Any, **settings: Any) -> Any:
    return f(x, q, **settings)


def _torch_quantile(torch: Any, x: Any, q: Any, axis: Any, keepdims: bool) -> Any:
    if isinstance(axis, tuple):
        x = torch.movedim(x, axis, tuple(range(len(axis)))).flatten(0, len(axis) - 1)
        axis = 0
    return torch.quantile(x, torch.tensor(q, dtype=x.dtype), dim=axis, keepdim=keepdims)


def _along_in_torch(name: str) -> Any:
    def function(torch: Any, x: Any, axis: Any = None) -> Any:
        return getattr(torch, name)(x.reshape(-1) if axis is None else x, axis or 0)

    return function


def _log_cumsum_exp(x: Any, axis: Any = None) -> Any:
    return np.logaddexp.accumulate(np.ravel(x) if axis is None else x, axis=axis or 0, dtype=x.dtype)


def _topk(x: Any, k: int, axis: int = -1, largest: bool = True) -> tuple:
    order = np.argsort(x, axis=axis)
    order = np.flip(order, axis) if largest else order
    places = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, places, axis), places


# ---- more reductions -------------------------------------------------------------------------------------------------


def _ptp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.max(x, axis=axis, keepdims=keepdims) - np.min(x, axis=axis, keepdims=keepdims)


def _std_in_torch(torch: Any, x: Any, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Any:
    return torch.std(x, dim=axis, correction=ddof, keepdim=keepdims)


TRUTHS = [
    s(bools(2, 3)),
    s(bools(2, 3), axis=0),
    s(integers(2, 3, below=2), axis=(0, 1)),
    s(on_grid(4), axis=-1, keepdims=True),
    s(bools(0, 3)),
    s(bools(0, 3), axis=0),
    s(bools()),
]

MORE = [
    reduction(
        "std",
        np.std,
        normal,
        samples=reduced(normal) + [s(normal(4), ddof=1)],
        numpy=np.std,
        method="std",
        torch=in_torch(_std_in_torch),
        finite=[at(ANY), at([3.0, 3.0, 3.0])],
        errors=[Error(lambda f: f(np.ones(1), ddof=1), ValueError, r"std: .*ddof=1.*1")],
    ),
    reduction(
        "min",
        np.min,
        distinct,
        numpy=np.min,
        method="min",
        torch=_axes_of("amin"),
        finite=[at(ANY), at([1.0, 1.0, 2.0])],
        errors=[Error(lambda f: f(np.ones((0, 3))), ValueError, r"min: .*zero-size")],
    ),
    reduction(
        "ptp",
        _ptp,
        distinct,
        numpy=np.ptp,
        method="ptp",
        finite=[at(ANY)],
        torch=in_torch(
            lambda torch, x, axis=None, keepdims=False: (
                torch.amax(x, _all(x, axis), keepdim=keepdims) - torch.amin(x, _all(x, axis), keepdim=keepdims)
            )
        ),
        errors=[Error(lambda f: f(np.ones((0, 3))), ValueError, r"(max|ptp): .*zero-size")],
    ),
    Entry(
        "argmin",
        np.argmin,
        [s(distinct(2, 3)), s(distinct(2, 3), axis=0), s(distinct(2, 3), axis=-1, keepdims=True)],
        orders=0,
        keeps_dtype=False,
        numpy=np.argmin,
        method="argmin",
        torch="argmin",
        errors=[axis_errors()[0], axis_errors()[2], Error(lambda f: f(np.ones(0)), ValueError, "argmin: .*empty")],
    ),
    *[
        Entry(
            name,
            getattr(np, name),
            TRUTHS,
            orders=0,
            keeps_dtype=False,
            numpy=getattr(np, name),
            method=name,
            errors=axis_errors(),
        )
        for name in ("any", "all")
    ],
    Entry(
        "count_nonzero",
        np.count_nonzero,
        TRUTHS,
        orders=0,
        keeps_dtype=False,
        numpy=np.count_nonzero,
        errors=axis_errors(),
    ),
    reduction(
        "prod",
        np.prod,
        off_zero,
        samples=[
            *reduced(off_zero, empty=True),
            s(fixed([0.0, 2.0, 3.0])),
            s(fixed([0.0, 0.0, 3.0])),
            s(fixed([[0.0, 2.0, 3.0], [0.0, 0.0, 4.0], [1.0, 2.0, 3.0]]), axis=1),
            s(off_zero(5)),
        ],
        numpy=np.prod,
        method="prod",
        torch=in_torch(lambda torch, x, axis=None, keepdims=False: _torch_prod(x, axis, keepdims)),
        finite=[at([1e4, 1e-4, 0.0]), at([0.0, 0.0, 0.0])],
    ),
    reduction(
        "median",
        np.median,
        distinct,
        samples=[
            s(distinct(5)),
            s(distinct(4)),
            s(distinct(2, 5), axis=1),
            s(distinct(4, 3), axis=0, keepdims=True),
            s(distinct(2, 3, 2), axis=(0, -1)),
            s(distinct(2, 3)),
            s(distinct()),
        ],
        numpy=np.median,
        finite=[at(ANY)],
        errors=[Error(lambda f: f(np.ones(0)), ValueError, "quantile: .*at least one|median: ")],
    ),
    Entry(
        "quantile",
        np.quantile,
        call=_at_quantile,
        samples=[s(distinct(5), q=q) for q in (0.0, 0.25, 0.3, 1, (0.1, 0.9))]
        + [
            s(distinct(2, 5), q=0.4, axis=1, keepdims=True),
            s(distinct(2, 3, 2), q=(0.5, 0.6), axis=(0, 2)),
            s(distinct(), q=0.5),
        ],
        numpy=np.quantile,
        finite=[at(ANY, q=0.3)],
        torch=in_torch(lambda torch, x, q, axis=None, keepdims=False: _torch_quantile(torch, x, q, axis, keepdims)),
        errors=[
            Error(lambda f: f(np.ones(3), 1.5), ValueError, r"quantile: .*q=1.5"),
            Error(lambda f: f(np.ones(0), 0.5), ValueError, r"quantile: .*at least one"),
        ],
    ),
]

# ---- scans and order -------------------------------------------------------------------------------------------------

ALONG = [{}, {"axis": 0}, {"axis": -1}, {"axis": 1}]


def scanned(make: Any) -> list[Sample]:
    """Return samples of what keeps its shape along an axis."""
    return [s(make(2, 3, 2), **a) for a in ALONG] + [
        s(make(5)),
        s(make()),
        s(make(0, 3), axis=0),
        s(make(0, 3), axis=1),
        s(make(1)),
    ]


def ordered(make: Any) -> list[Sample]:
    """Return the samples of `scanned` that have an axis to sort along."""
    return [sample for sample in scanned(make) if sample.inputs[0].shape]


def scan_errors(name: str) -> list[Error]:
    """Return calls with an axis that does not exist, and with `dim`."""
    x = np.ones((2, 3))
    return [
        Error(lambda f: f(x, axis=2), np.exceptions.AxisError, rf"{name}.*axis 2"),
        Error(lambda f: f(x, dim=0), TypeError, r"axis="),
    ]


SCANS = [
    Entry(
        "cumsum",
        np.cumsum,
        scanned(normal),
        numpy=np.cumsum,
        method="cumsum",
        torch=in_torch(_along_in_torch("cumsum")),
        finite=[at(ANY)],
        errors=scan_errors("cumsum"),
    ),
    Entry(
        "cumprod",
        np.cumprod,
        [*scanned(off_zero), s(fixed([2.0, 0.0, 3.0, 0.0, 4.0]))],
        numpy=np.cumprod,
        method="cumprod",
        torch=in_torch(_along_in_torch("cumprod")),
        finite=[at([1e4, 0.0, 1e-4])],
        errors=scan_errors("cumprod"),
    ),
    Entry(
        "logcumsumexp",
        _log_cumsum_exp,
        scanned(normal),
        torch=in_torch(_along_in_torch("logcumsumexp")),
        finite=[at(ROWS, axis=1)],
        errors=scan_errors("logcumsumexp"),
    ),
    Entry(
        "sort",
        np.sort,
        [*ordered(distinct), s(distinct(2, 3), axis=None)],
        numpy=np.sort,
        torch=in_torch(lambda torch, x, axis=-1: torch.sort(x.reshape(-1) if axis is None else x, axis or 0).values),
        finite=[at(ANY)],
        errors=scan_errors("sort"),
    ),
    Entry(
        "argsort",
        np.argsort,
        [*ordered(distinct), s(distinct(2, 3), axis=None), s(fixed([1, 0, 1, 0]), axis=0)],
        orders=0,
        keeps_dtype=False,
        numpy=np.argsort,
        method="argsort",
        errors=scan_errors("argsort"),
    ),
    Entry(
        "topk",
        _topk,
        [
            s(distinct(5), k=2),
            s(distinct(5), k=0),
            s(distinct(4, 2), k=3, axis=0),
            s(distinct(2, 4), k=4, largest=False),
            s(integers(6, below=99), k=3, orders=0),
        ],
        finite=[at(ANY, k=2)],
        torch=in_torch(lambda torch, x, k, axis=-1, largest=True: torch.topk(x, k, axis, largest)),
        errors=[
            Error(lambda f: f(np.ones(3), 4), ValueError, r"topk: k .*\[0, 3\].*4"),
            Error(lambda f: f(np.ones(3), -1), ValueError, r"topk: k .*-1"),
        ],
    ),
    Entry(
        "unique",
        np.unique,
        [
            s(fixed([3, 1, 3, 2])),
            s(fixed([[1.5, -1.0], [1.5, 0.0]])),
            s(fixed([3, 1, 3]), return_counts=True),
            s(fixed([3, 1, 3]), return_index=True, return_inverse=True, return_counts=True),
        ],
        orders=0,
        waits=True,
        numpy=np.unique,
    ),
]

ENTRIES = [*REDUCTIONS, *MORE, *SCANS]
