"""Entries of minidl/ops/conv.py, and naive loops that say what convolution is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from entry import Entry, Error, Sample, at, normal, s


def pair(value: Any, axes: int, idle: int) -> tuple[int, int]:
    """Return an argument for h and w; a signal lies along w."""
    values = value if isinstance(value, (tuple, list)) else (value,) * axes
    return (*(idle,) * (2 - axes), *values)  # type: ignore[return-value]


def as_images(x: np.ndarray, axes: int) -> np.ndarray:
    """Return x as (n, c, h, w)."""
    shape = (1,) * (axes + 2 - x.ndim) + x.shape
    return x.reshape(shape[:2] + (1,) * (2 - axes) + shape[2:])


def like(y: np.ndarray, x: np.ndarray, axes: int) -> np.ndarray:
    """Undo `as_images`."""
    return y.reshape(y.shape[axes + 2 - x.ndim : 2] + y.shape[4 - axes :])


# ---- convolution -----------------------------------------------------------------------------------------------------


def same(kernel: tuple, gaps: tuple) -> tuple:
    """Return the padding before and after that keeps the size."""
    extra = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
    return tuple(e // 2 for e in extra), tuple(e - e // 2 for e in extra)


def convolve(
    axes: int, x: Any, w: Any, b: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Correlate, one product at a time."""
    x4, w4 = as_images(x, axes), w.reshape(w.shape[:2] + (1,) * (2 - axes) + w.shape[2:])
    (sh, sw), (dh, dw) = pair(stride, axes, 1), pair(dilation, axes, 1)
    before = after = pair(0 if padding in ("same", "valid") else padding, axes, 0)
    if padding == "same":
        before, after = same(w4.shape[2:], (dh, dw))
    x4 = np.pad(x4, ((0, 0), (0, 0), (before[0], after[0]), (before[1], after[1])))
    m, c, kh, kw = w4.shape
    oh, ow = (x4.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x4.shape[3] - dw * (kw - 1) - 1) // sw + 1
    out = np.zeros((len(x4), m, oh, ow), x.dtype)
    for n, o, i, j in itertools.product(*map(range, out.shape)):
        first = o // (m // groups) * c
        for q, a, e in itertools.product(range(c), range(kh), range(kw)):
            out[n, o, i, j] += w4[o, q, a, e] * x4[n, first + q, i * sh + a * dh, j * sw + e * dw]
        out[n, o, i, j] += 0 if b is None else b[o]
    return like(out, x, axes)


def transpose_convolve(
    axes: int,
    x: Any,
    w: Any,
    b: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Spread each element as a kernel, one product at a time."""
    x4, w4 = as_images(x, axes), w.reshape(w.shape[:2] + (1,) * (2 - axes) + w.shape[2:])
    (sh, sw), (dh, dw) = pair(stride, axes, 1), pair(dilation, axes, 1)
    (ph, pw), (eh, ew) = pair(padding, axes, 0), pair(output_padding, axes, 0)
    c, m, kh, kw = w4.shape
    n, _, h, width = x4.shape
    full = np.zeros(
        (n, m * groups, (h - 1) * sh + dh * (kh - 1) + 1 + eh, (width - 1) * sw + dw * (kw - 1) + 1 + ew), x.dtype
    )
    for k, q, i, j in itertools.product(*map(range, x4.shape)):
        first = q // (c // groups) * m
        for o, a, e in itertools.product(range(m), range(kh), range(kw)):
            full[k, first + o, i * sh + a * dh, j * sw + e * dw] += x4[k, q, i, j] * w4[q, o, a, e]
    out = full[:, :, ph : full.shape[2] - ph, pw : full.shape[3] - pw]
    return like(out if b is None else out + b.reshape(-1, 1, 1), x, axes)


def over(axes: int, f: Any) -> Any:
    """Return f for signals or images."""
    return lambda *arrays, **settings: f(axes, *arrays, **settings)


def shape_errors(axes: int, transposed: bool = False) -> list[Error]:
    """Return calls that must fail, of a convolution over 1 or 2 axes."""
    x, w, b = np.ones((2, 4, 5, 5)[: axes + 2]), np.ones((4, 4, 3, 3)[: axes + 2]), np.ones(4)
    name = f"conv{'_transpose' * transposed}{axes}d"
    found = [
        Error(lambda f: f(x[0, 0, ..., 0] if axes == 2 else x[0, 0], w), ValueError, rf"{name}: x must be \(n, c"),
        Error(lambda f: f(x, w[0]), ValueError, rf"{name}: weight must have {axes + 2} axes"),
        Error(lambda f: f(x, w[:, :, :0]), ValueError, rf"{name}: weight must .*empty"),
        Error(lambda f: f(x[:, :3], w), ValueError, rf"{name}: x .* has 3 channels, weight .* needs 4"),
        Error(lambda f: f(x, w, b[:3]), ValueError, rf"{name}: bias must be \(4,\).*\(3,\)"),
        Error(lambda f: f(x, w, groups=3), ValueError, rf"{name}: groups must divide.*groups=3"),
        Error(lambda f: f(x, w, groups=0), ValueError, rf"{name}: groups must divide.*groups=0"),
        Error(lambda f: f(x, w, stride=0), ValueError, rf"{name}: stride must be an integer >= 1.*got 0"),
        Error(lambda f: f(x, w, stride=(1, 1, 1)), ValueError, rf"{name}: stride must .*\(1, 1, 1\)"),
        Error(lambda f: f(x, w, dilation=1.5), ValueError, rf"{name}: dilation must .*1\.5"),
        Error(lambda f: f(x, w, padding=-1), ValueError, rf"{name}: padding must .*-1"),
        Error(lambda f: f(x, w.astype("f4")), TypeError, rf"{name}: x is float64 and weight is float32.*astype"),
        Error(lambda f: f(x, w, b.astype("f4")), TypeError, rf"{name}: x is float64 and bias is float32"),
        Error(lambda f: f(x.astype(int), w.astype(int)), TypeError, rf"{name}: x must be floating, got int64"),
        Error(lambda f: f([1.0], w), TypeError, rf"{name}: x must be a tensor or an array, got list"),
        Error(lambda f: f(x, [1.0]), TypeError, rf"{name}: weight must be a tensor or an array, got list"),
    ]
    if transposed:
        return [
            *found,
            Error(lambda f: f(x, w, output_padding=1), ValueError, rf"{name}: output_padding must be less .*got 1"),
            Error(lambda f: f(x, w, padding=9), ValueError, rf"{name}: .*padding=9 gives an empty result"),
        ]
    return [
        *found,
        Error(lambda f: f(x, w, padding="same", stride=2), ValueError, rf"{name}: padding='same' needs stride 1"),
        Error(lambda f: f(x, w, padding="some"), ValueError, rf"{name}: padding must .*'some'"),
        Error(
            lambda f: f(x, w, dilation=3),
            ValueError,
            rf"{name}: kernel size .*7.* is greater than the padded input .*5",
        ),
    ]


def convolutions(axes: int) -> list[Sample]:
    """Return samples: stride, padding, dilation, groups, one sample, no sample, the kernel as large as the image."""
    w = (3,) if axes == 1 else (3, 2)
    x = (5,) if axes == 1 else (4, 5)
    two, gaps, odd = (2, 2, w) if axes == 1 else ((2, 1), (1, 2), (3, 3))
    return [
        s(normal(2, 2, *x), normal(3, 2, *w), normal(3)),
        s(normal(2, 2, *x), normal(3, 2, *w)),
        s(normal(2, *x), normal(1, 2, *w)),
        s(normal(1, 2, *x), normal(2, 2, *x), normal(2)),
        s(normal(0, 2, *x), normal(3, 2, *w), normal(3)),
        s(normal(2, 4, *x), normal(2, 2, *w), normal(2), groups=2),
        s(normal(2, 2, *x), normal(4, 1, *w), groups=2, padding=1),
        s(normal(2, 1, *x), normal(2, 1, *w), normal(2), stride=two, padding=1),
        s(normal(2, 1, *x), normal(1, 1, *w), dilation=gaps),
        s(normal(2, 1, *x), normal(1, 1, *w), stride=2, dilation=2, padding=2),
        s(normal(2, 1, *x), normal(1, 1, *odd), padding="same"),
        s(normal(2, 1, *x), normal(1, 1, *odd), padding="same", dilation=3),
        s(normal(2, 1, *x), normal(1, 1, *w), padding="valid"),
    ]


def transposed(axes: int) -> list[Sample]:
    """Return samples of transposed convolution."""
    w = (3,) if axes == 1 else (3, 2)
    x = (3,) if axes == 1 else (2, 3)
    two = 2 if axes == 1 else (2, 1)
    return [
        s(normal(2, 2, *x), normal(2, 3, *w), normal(3)),
        s(normal(2, 2, *x), normal(2, 3, *w)),
        s(normal(2, *x), normal(2, 1, *w)),
        s(normal(0, 2, *x), normal(2, 3, *w), normal(3)),
        s(normal(2, 4, *x), normal(4, 1, *w), normal(2), groups=2),
        s(normal(2, 1, *x), normal(1, 2, *w), normal(2), stride=two, padding=1),
        s(normal(2, 1, *x), normal(1, 1, *w), dilation=two),
        s(normal(2, 1, *x), normal(1, 1, *w), stride=2, output_padding=1),
        s(normal(1, 1, *x), normal(1, 1, *w), dilation=3, output_padding=2),
    ]


BIG = [[[[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [0.0, 1e-8, 1e4]]]]
SMALL = [[[[1e4, -1e4], [1e-8, 0.0]]]]
SIGNAL = [[[1e4, -1e4, 1e-8, 0.0]]]

CONVOLUTIONS = [
    *[
        Entry(
            f"conv{n}d",
            over(n, convolve),
            convolutions(n),
            torch=f"nn.functional.conv{n}d",
            errors=shape_errors(n),
            finite=[at(SIGNAL, [[[1e4, -1e4]]]) if n == 1 else at(BIG, SMALL, [1e4])],
        )
        for n in (1, 2)
    ],
    *[
        Entry(
            f"conv_transpose{n}d",
            over(n, transpose_convolve),
            transposed(n),
            torch=f"nn.functional.conv_transpose{n}d",
            errors=shape_errors(n, transposed=True),
            finite=[at(SIGNAL, [[[1e4, -1e4]]]) if n == 1 else at(BIG, SMALL, [1e4])],
        )
        for n in (1, 2)
    ],
]

ENTRIES = CONVOLUTIONS
