"""Entries of minidl/ops/pool.py and resample.py, and naive loops that say what each is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from cases_conv import BIG, SIGNAL, as_images, like, over, pair
from entry import Entry, Error, Sample, at, distinct, normal, s

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
                lambda f: f(np.ones((1, 1, 3)), scale_factor=(2, 2)),
                ValueError,
                r"interpolate: scale_factor must be 1.*2, 2",
            ),
            Error(lambda f: f(np.ones((1, 1, 3)), scale_factor=-1), ValueError, r"interpolate: scale_factor must .*-1"),
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

ENTRIES = POOLS
