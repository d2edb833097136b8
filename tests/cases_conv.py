"""Entries of minidl/ops/conv.py and pool.py, and naive loops that say what each is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from entry import Entry, Error, Sample, at, distinct, normal, s


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

# ---- pooling ---------------------------------------------------------------------------------------------------------


def windows(axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Any:
    """Yield for each window its place (i, j) and the list of (row, column) of its cells, on the image or beyond it."""
    size = as_images(x, axes).shape[2:]
    k, d, p = pair(kernel, axes, 1), pair(dilation, axes, 1), pair(padding, axes, 0)
    t = k if stride is None else pair(stride, axes, 1)
    counts = []
    for axis in range(2):
        room = size[axis] + 2 * p[axis] - d[axis] * (k[axis] - 1) - 1
        out = (math.ceil if ceil else math.floor)(room / t[axis]) + 1
        counts.append(out - (ceil and (out - 1) * t[axis] >= size[axis] + p[axis]))
    for i, j in itertools.product(*map(range, counts)):
        rows, columns = ([q * t[a] - p[a] + e * d[a] for e in range(k[a])] for a, q in ((0, i), (1, j)))
        yield (i, j), list(itertools.product(rows, columns))


def pooled(axes: int, x: Any, found: dict) -> Any:
    """Return the image of results by place."""
    last = max(found)
    out = np.stack([np.stack([found[i, j] for j in range(last[1] + 1)], -1) for i in range(last[0] + 1)], -2)
    return like(out, x, axes)


def max_pool(
    axes: int,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """Take the largest, window by window."""
    x4 = as_images(x, axes)
    h, w = x4.shape[2:]
    places = windows(axes, x, kernel_size, stride, padding, dilation, ceil_mode)
    return pooled(
        axes,
        x,
        {p: np.max([x4[:, :, i, j] for i, j in cells if 0 <= i < h and 0 <= j < w], axis=0) for p, cells in places},
    )


def avg_pool(
    axes: int,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Average, window by window."""
    x4, p = as_images(x, axes), pair(padding, axes, 0)
    h, w = x4.shape[2:]
    found = {}
    for place, cells in windows(axes, x, kernel_size, stride, padding, 1, ceil_mode):
        total = sum(x4[:, :, i, j] for i, j in cells if 0 <= i < h and 0 <= j < w)
        e, f = p if count_include_pad else (0, 0)
        count = sum(-e <= i < h + e and -f <= j < w + f for i, j in cells)
        found[place] = total / x.dtype.type(divisor_override or count)
    return pooled(axes, x, found)


def adaptive(axes: int, reduce: Any, x: Any, output_size: Any) -> Any:
    """Reduce each of the windows that are to be so many."""
    x4 = as_images(x, axes)
    size = [n if m is None else m for m, n in zip(pair(output_size, axes, 1), x4.shape[2:], strict=True)]
    found = {}
    for place in itertools.product(*map(range, size)):
        (a, b), (c, d) = ((i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(place, x4.shape[2:], size, strict=True))
        found[place] = reduce(x4[:, :, a:b, c:d], axis=(2, 3))
    return pooled(axes, x, found)


def interpolate(
    x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool = False
) -> Any:
    """Resample one axis after the other, element by element."""
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        factor = scale_factor[axis - 2] if isinstance(scale_factor, tuple) else scale_factor
        m = int(n * factor) if size is None else pair(size, x.ndim - 2, 1)[axis - x.ndim]
        step = n / m if size is not None else 1 / factor
        taken = []
        for i in range(m):
            if mode == "area":
                taken.append(x.take(range(i * n // m, -(-(i + 1) * n // m)), axis).mean(axis))
            elif mode == "nearest":
                taken.append(x.take(min(int(i * step), n - 1), axis))
            else:
                corner = (n - 1) / max(m - 1, 1)
                place = i * corner if align_corners else min(max((i + 0.5) * step - 0.5, 0), n - 1)
                low = int(place)
                share = place - low
                taken.append(x.take(low, axis) * (1 - share) + x.take(min(low + 1, n - 1), axis) * share)
        x = np.stack(taken, axis)
    return x


def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    """Place each channel's cells, element by element."""
    r, (*lead, c, h, w) = upscale_factor, x.shape
    out = np.zeros((*lead, c // r**2, h * r, w * r), x.dtype)
    for q, i, j in itertools.product(range(c // r**2), range(h * r), range(w * r)):
        out[..., q, i, j] = x[..., q * r * r + (i % r) * r + j % r, i // r, j // r]
    return out


def pools(make: Any, axes: int) -> list[Sample]:
    """Return samples that both poolings share."""
    x = (7,) if axes == 1 else (5, 4)
    pad = 1 if axes == 1 else (1, 0)
    return [
        s(make(2, 2, *x), kernel_size=2),
        s(make(2, 2, *x), kernel_size=3, stride=2),
        s(make(2, *x), kernel_size=2, stride=1),
        s(make(2, 1, *x), kernel_size=2, padding=pad),
        s(make(2, 1, *x), kernel_size=3, stride=2, padding=1, ceil_mode=True),
        s(make(1, 1, *x), kernel_size=2, stride=3, ceil_mode=True),
        s(make(0, 2, *x), kernel_size=2),
        s(make(1, 1, *x), kernel_size=x if axes == 2 else 7),
    ]


def pool_errors(name: str, axes: int) -> list[Error]:
    """Return calls of a pooling that must fail."""
    x = np.ones((1, 1, 3, 3)[: axes + 2])
    return [
        Error(lambda f: f(x, 4), ValueError, rf"{name}: kernel size .*4.* is greater than the padded input .*3"),
        Error(lambda f: f(x, 0), ValueError, rf"{name}: kernel_size must be an integer >= 1.*got 0"),
        Error(lambda f: f(x, 2, stride=0), ValueError, rf"{name}: stride must be .*got 0"),
        Error(
            lambda f: f(x, 2, padding=2), ValueError, rf"{name}: padding must be at most half the kernel size 2, got 2"
        ),
        Error(lambda f: f(x[0, 0] if axes == 1 else x[0, 0, 0], 2), ValueError, rf"{name}: x must be \(n, c"),
        Error(lambda f: f(x.astype(int), 2), TypeError, rf"{name}: x must be floating, got int64"),
    ]


def size_errors(name: str, axes: int) -> list[Error]:
    """Return calls of a pooling to a given size that must fail."""
    x = np.ones((1, 1, 3, 3)[: axes + 2])
    return [
        Error(lambda f: f(x, 0), ValueError, rf"{name}: output_size must be an integer >= 1.*got"),
        Error(lambda f: f(x, (1, 1, 1)), ValueError, rf"{name}: output_size must .*\(1, 1, 1\)"),
        Error(lambda f: f(x[..., :0], 1), ValueError, rf"{name}: x must have at least one element"),
    ]


def sizes(make: Any, axes: int) -> list[Sample]:
    """Return samples with windows of equal length and of several lengths."""
    x = (6,) if axes == 1 else (4, 6)
    more = [] if axes == 1 else [s(make(2, 1, *x), output_size=(3, 4)), s(make(2, 1, *x), output_size=(None, 2))]
    return [
        *(s(make(2, 1, *x), output_size=n) for n in (1, 2, 4, 7)),
        s(make(1, *x), output_size=2),
        s(make(0, 1, *x), output_size=2),
        *more,
    ]


def finite_pool(axes: int, **settings: Any) -> list[Sample]:
    """Return images far out, with ties."""
    return [
        at(BIG if axes == 2 else SIGNAL, **settings),
        at([[[[1e4] * 4] * 4]] if axes == 2 else [[[1e4] * 4]], **settings),
    ]


POOLS = [
    *[
        Entry(
            f"max_pool{n}d",
            over(n, max_pool),
            [*pools(distinct, n), s(distinct(1, 1, *(7, 7)[:n]), kernel_size=3, dilation=2, stride=1)],
            torch=f"nn.functional.max_pool{n}d",
            errors=pool_errors(f"max_pool{n}d", n),
            finite=finite_pool(n, kernel_size=2, stride=1),
        )
        for n in (1, 2)
    ],
    *[
        Entry(
            f"avg_pool{n}d",
            over(n, avg_pool),
            [
                *pools(normal, n),
                s(
                    normal(1, 1, *(5, 5)[:n]),
                    kernel_size=3,
                    stride=2,
                    padding=1,
                    count_include_pad=False,
                    ceil_mode=True,
                ),
                *([s(normal(1, 1, 4, 4), kernel_size=3, divisor_override=5)] if n == 2 else []),
            ],
            torch=f"nn.functional.avg_pool{n}d",
            errors=pool_errors(f"avg_pool{n}d", n),
            finite=finite_pool(n, kernel_size=2, stride=1),
        )
        for n in (1, 2)
    ],
    *[
        Entry(
            f"adaptive_{kind}_pool{n}d",
            lambda x, output_size, n=n, f=f: adaptive(n, f, x, output_size),
            sizes(make, n),
            torch=f"nn.functional.adaptive_{kind}_pool{n}d",
            errors=size_errors(f"adaptive_{kind}_pool{n}d", n),
            finite=finite_pool(n, output_size=2),
        )
        for n in (1, 2)
        for kind, f, make in (("avg", np.mean, normal), ("max", np.max, distinct))
    ],
    Entry(
        "interpolate",
        interpolate,
        [
            *(
                s(normal(2, 1, 4), mode=m, **to)
                for m in ("nearest", "linear", "area")
                for to in ({"size": 6}, {"size": 3}, {"scale_factor": 2.0})
            ),
            *(
                s(normal(2, 1, 3, 4), mode=m, **to)
                for m in ("nearest", "bilinear")
                for to in ({"size": (5, 3)}, {"scale_factor": (2.0, 1.5)})
            ),
            s(normal(2, 1, 3), size=5, mode="linear", align_corners=True),
            s(normal(1, 2, 3, 3), size=(1, 5), mode="bilinear", align_corners=True),
            s(normal(0, 1, 4), size=2),
        ],
        torch="nn.functional.interpolate",
        finite=[at(BIG, size=(2, 4), mode="bilinear")],
        errors=[
            Error(lambda f: f(np.ones((1, 1, 3))), ValueError, r"interpolate: .*size or scale_factor"),
            Error(lambda f: f(np.ones((1, 1, 3)), 2, 2.0), ValueError, r"interpolate: .*size or scale_factor"),
            Error(lambda f: f(np.ones((1, 3)), 2), ValueError, r"interpolate: x must be"),
            Error(
                lambda f: f(np.ones((1, 1, 3)), 2, mode="bilinear"),
                ValueError,
                r"interpolate: mode must be .*'linear', got 'bilinear'",
            ),
            Error(lambda f: f(np.ones((1, 1, 3)), 0), ValueError, r"interpolate: size must be an integer >= 1"),
            Error(
                lambda f: f(np.ones((1, 1, 3)), scale_factor=0.1),
                ValueError,
                r"interpolate: size must be an integer >= 1",
            ),
        ],
    ),
    Entry(
        "pixel_shuffle",
        pixel_shuffle,
        [
            s(normal(2, 4, 2, 3), upscale_factor=2),
            s(normal(9, 1, 2), upscale_factor=3),
            s(normal(2, 2, 1, 2), upscale_factor=1),
        ],
        torch="nn.functional.pixel_shuffle",
        finite=[at([[[1e4]], [[-1e4]], [[0.0]], [[1e-8]]], upscale_factor=2)],
        errors=[
            Error(lambda f: f(np.ones((3, 2, 2)), 2), ValueError, r"pixel_shuffle: x must be .*r=2, got \(3, 2, 2\)"),
            Error(lambda f: f(np.ones((4, 2)), 2), ValueError, r"pixel_shuffle: x must be"),
        ],
    ),
]

ENTRIES = [*CONVOLUTIONS, *POOLS]
