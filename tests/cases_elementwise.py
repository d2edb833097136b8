"""Entries of minidl/ops/elementwise.py, and of the activations."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl as md
from entry import (
    ANY,
    Entry,
    Error,
    arithmetic,
    at,
    bools,
    elementwise,
    fixed,
    in_torch,
    integers,
    normal,
    off_grid,
    off_zero,
    on_grid,
    positive,
    s,
)

# ---- elementwise -----------------------------------------------------------------------------------------------------


def _powered(f: Any, x: Any, *y: Any, exponent: Any = None) -> Any:
    return f(x, *(y or (exponent,)))


def _cast(f: Any, x: Any, *, dtype: str) -> Any:
    return f(x, dtype)


ELEMENTWISE = [
    arithmetic("add", np.add, normal, finite=[at(ANY, ANY)]),
    arithmetic("subtract", np.subtract, normal, finite=[at(ANY, ANY[::-1])]),
    arithmetic("multiply", np.multiply, normal, finite=[at(ANY, ANY)]),
    arithmetic("divide", np.divide, normal, off_zero, finite=[at([0.0, 1e4, -1e4, 1e-8], [1e-4, 1e-4, 1e4, -1e4])]),
    arithmetic(
        "power",
        np.power,
        positive,
        normal,
        torch="pow",
        finite=[at([0.0, 0.0, 2.0, 1e4, 1e-4], [0.0, 3.0, 0.0, 2.0, 3.0])],
    ),
    elementwise("negative", np.negative, normal, numpy=np.negative, finite=[at(ANY)]),
    elementwise("absolute", np.abs, off_zero, numpy=np.absolute, finite=[at(ANY)]),
    elementwise("sign", np.sign, off_zero, numpy=np.sign, finite=[at(ANY)]),
    elementwise("exp", np.exp, normal, numpy=np.exp, method="exp", finite=[at([-1e4, -1e3, -1e-8, 0.0, 1e-8, 80.0])]),
    elementwise("log", np.log, positive, numpy=np.log, method="log", finite=[at([1e-15, 1e-8, 1.0, 1e4])]),
    elementwise("sqrt", np.sqrt, positive, numpy=np.sqrt, method="sqrt", finite=[at([1e-15, 1e-8, 1.0, 1e4])]),
    elementwise("tanh", np.tanh, normal, numpy=np.tanh, method="tanh", finite=[at(ANY)]),
    elementwise("sigmoid", lambda x: 1 / (1 + np.exp(-x)), normal, method="sigmoid", finite=[at(ANY)]),
    elementwise("relu", lambda x: np.maximum(x, 0), off_zero, finite=[at(ANY)]),
    elementwise("copy", np.copy, normal, numpy=np.copy, method="copy", torch="clone"),
    arithmetic("maximum", np.maximum, on_grid, off_grid, finite=[at(ANY, ANY), at(ANY, ANY[::-1])]),
    arithmetic("minimum", np.minimum, on_grid, off_grid, finite=[at(ANY, ANY), at(ANY, ANY[::-1])]),
    Entry(
        "where",
        np.where,
        [
            s(bools(2, 3), normal(2, 3), normal(3)),
            s(bools(3), normal(), normal(2, 1)),
            s(bools(), normal(2), normal(2)),
            s(bools(0, 3), normal(3), normal(1, 3)),
            s(integers(2, 3, below=2), normal(2, 3), normal(2, 3)),
        ],
        numpy=np.where,
        torch=in_torch(lambda torch, c, x, y: torch.where(c.bool(), x, y)),
        finite=[at([True] * 7, ANY, ANY), at([False] * 7, ANY, ANY)],
        errors=[Error(lambda f: f(np.ones(2, bool), np.ones(3), 0.0), ValueError, r"where: .*\(2,\).*\(3,\)")],
        sample_inputs=(0, 1, 2),
    ),
    Entry(
        "astype",
        lambda x, dtype: x.astype(dtype),
        [s(normal(2, 3), dtype="float64"), s(normal(3), dtype="int64", orders=0), s(normal(3), dtype="bool", orders=0)],
        call=_cast,
        numpy=getattr(np, "astype", None),  # since NumPy 2.1
        method="astype",
        keeps_dtype=False,
        errors=[
            Error(lambda f: f(np.ones(2), dtype="complex128"), TypeError, r"complex128"),
            Error(lambda f: f(np.ones(2), dtype="object"), TypeError, r"object"),
            Error(lambda f: f(np.ones(2), dtype="U5"), TypeError, r"U5"),
        ],
    ),
    Entry(
        "move",
        lambda x, device: x,
        [s(normal(2, 3), device="cpu"), s(normal(), device="cpu")],
        transfers=1,
        errors=[Error(lambda f: f(md.ones(2), device="tpu"), ValueError, r"device: .*'tpu'")],
    ),
]

# Exponents that are numbers, and bases that are negative.
POWERS = Entry(
    "power",
    np.power,
    [s(off_zero(2, 3), exponent=n) for n in (0, 1, 2, 3, -1, -2, 2.0)]
    + [s(positive(2, 3), exponent=e) for e in (0.5, -1.5)]
    + [s(off_zero(2, 3), fixed([[2, -1, 3]], np.int8)), s(fixed([[2.0]]), normal(2, 3))],
    call=_powered,
    torch="pow",
)

COMPARISON = (
    [
        arithmetic(name, getattr(np, name), on_grid, orders=0, keeps_dtype=False, torch=torch)
        for name, torch in [
            ("equal", "eq"),
            ("not_equal", "ne"),
            ("less", "lt"),
            ("less_equal", "le"),
            ("greater", "gt"),
            ("greater_equal", "ge"),
        ]
    ]
    + [
        Entry(
            name,
            getattr(np, name),
            [s(bools(2, 3), bools(3)), s(integers(2, 3), integers(2, 3)), s(bools(), bools())],
            orders=0,
            numpy=getattr(np, name),
            torch=name,
            errors=[Error(lambda f: f(md.ones(2), md.ones(2)), TypeError, f"{name}: ")],
        )
        for name in ("bitwise_and", "bitwise_or")
    ]
    + [
        Entry(
            "invert",
            np.invert,
            [s(bools(2, 3)), s(integers(2, 3)), s(bools())],
            orders=0,
            numpy=np.invert,
            torch="bitwise_not",
            errors=[Error(lambda f: f(md.ones(2)), TypeError, "invert: ")],
        ),
    ]
)

ENTRIES = [*ELEMENTWISE, POWERS, *COMPARISON]
