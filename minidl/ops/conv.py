"""Convolution in one and two dimensions, and its transpose.

All of it is one trilinear form, sum g (x * w) with an image x, kernels w and a cotangent g, and its three partial
derivatives: `_forward` (in g), `_adjoint` (in x: what transposed convolution computes) and `_kernels` (in w). Each is
linear in the two others, so the rules of each are the other two, and derivatives of every order are exact.

They are matrix products of the kernels with columns, one column for each place of the kernel on the image. Columns are
made for a block of places that fits the cache, and never all at once: they would take the memory of as many images as
the kernel has cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..engine.backend import HOST
from ..engine.op import Op
from .linalg import check_dtypes
from .sliding import Size, Sliding, by_channel, by_sample, cropped, images, like, padded, padded_shape, pair, sliding

_BLOCK = 2**19  # bytes of columns made at a time: half of the second-level cache (1 MB) on which it was measured
_SPARE = 16  # elements between the rows of a block: rows a power of two apart would compete for the same cache lines

# ---- the three forms ---------------------------------------------------------------------------------------------


def _blocks(xp: Any, how: Sliding, cells: int, n: int, dtype: Any, limit: int) -> tuple[Any, list]:
    """Return memory for a block of columns of so many cells, and the blocks of places: (rows, columns) slices."""
    down, right = how.out
    each = max(cells * n * dtype.itemsize, 1)  # bytes of one place
    limit = limit if xp in HOST else 2**28  # a GPU gains nothing from small blocks
    wide = min(right, max(1, limit // each))
    tall = min(down, max(1, limit // (each * right)))
    spare = _SPARE if xp in HOST else 0
    blocks = [
        (slice(i, min(i + tall, down)), slice(j, min(j + wide, right)))
        for i in range(0, down, tall)
        for j in range(0, right, wide)
    ]
    return xp.empty((cells, tall * wide * n + spare), dtype), blocks


def _columns(xp: Any, x: Any, how: Sliding) -> Iterator[tuple[slice, slice, Any]]:
    """Yield blocks of places (rows, columns) and what the kernel meets there: (groups, cells of the kernel, places)."""
    x = padded(xp, x, how)
    (c, _, _, n), (sc, sh, sw, sn) = x.shape, x.strides
    (dh, dw), (th, tw) = how.dilation, how.stride
    shape, strides = (c, *how.kernel, *how.out, n), (sc, dh * sh, dw * sw, th * sh, tw * sw, sn)
    windows = xp.lib.stride_tricks.as_strided(x, shape, strides)
    cells = c * how.kernel[0] * how.kernel[1]
    memory, blocks = _blocks(xp, how, cells, n, x.dtype, _BLOCK)
    for rows, columns in blocks:
        here = windows[:, :, :, rows, columns]
        block = memory[:, : here.shape[3] * here.shape[4] * n]
        block.reshape(here.shape)[...] = here
        yield rows, columns, block.reshape(how.groups, cells // how.groups, block.shape[1])


def _grouped(x: Any, how: Sliding, rows: slice, columns: slice) -> Any:
    """Show a block of places of (c, h, w, n) as (groups, c / groups, places)."""
    here = x[:, rows, columns]
    return here.reshape(how.groups, x.shape[0] // how.groups, here.shape[1] * here.shape[2] * here.shape[3])


def _forward(xp: Any, x: Any, weight: Any, bias: Any = None, *, how: Sliding) -> Any:
    m = weight.shape[0]
    kernels = weight.reshape(how.groups, m // how.groups, -1)
    out = xp.empty((m, *how.out, x.shape[0]), x.dtype)
    for rows, columns, block in _columns(xp, x, how):
        part = _grouped(out, how, rows, columns)
        xp.matmul(kernels, block, out=part)
        if bias is not None:
            xp.add(part, bias.reshape(how.groups, -1, 1), out=part)
    return by_sample(out)


def _adjoint(xp: Any, g: Any, weight: Any, *, how: Sliding) -> Any:
    m, c = weight.shape[:2]
    c *= how.groups
    g = by_channel(xp, g)
    kernels = xp.ascontiguousarray(weight.reshape(how.groups, m // how.groups, -1).swapaxes(1, 2))
    cells, n = c * how.kernel[0] * how.kernel[1], g.shape[3]
    out = xp.zeros(padded_shape(g, how, c), g.dtype)
    memory, blocks = _blocks(xp, how, cells, n, g.dtype, 4 * _BLOCK)
    for rows, columns in blocks:
        part = _grouped(g, how, rows, columns)
        block = memory[:, : part.shape[2]]
        xp.matmul(kernels, part, out=block.reshape(*kernels.shape[:2], part.shape[2]))
        spread = block.reshape(c, *how.kernel, rows.stop - rows.start, columns.stop - columns.start, n)
        for i, j, cells_met in how.strips(rows, columns):
            target = out[cells_met]
            xp.add(target, spread[:, i, j], out=target)
    return cropped(out, how)


def _kernels(xp: Any, x: Any, g: Any, *, how: Sliding) -> Any:
    m, c = g.shape[1], x.shape[1] // how.groups
    g = by_channel(xp, g)
    total: Any = None
    for rows, columns, block in _columns(xp, x, how):
        part = xp.matmul(block, _grouped(g, how, rows, columns).swapaxes(1, 2))
        total = part if total is None else xp.add(total, part, out=total)
    return total.swapaxes(1, 2).reshape(m, c, *how.kernel)


def _rows(shapes: tuple, *, how: Sliding) -> bool:
    return True


_conv = Op(
    lambda xp, x, weight, *, how: _forward(xp, x, weight, how=how),
    lambda g, out, x, weight, *, how: _conv_input(g, weight, how=how),
    lambda g, out, x, weight, *, how: _conv_weight(x, g, how=how),
    saves="x weight",
    name="conv",
    samplewise=_rows,
)

_conv_with_bias = Op(
    _forward,
    lambda g, out, x, weight, bias, *, how: _conv_input(g, weight, how=how),
    lambda g, out, x, weight, bias, *, how: _conv_weight(x, g, how=how),
    lambda g, out, x, weight, bias, *, how: g.sum(axis=(0, 2, 3)),
    saves="x weight",
    name="conv",
    samplewise=_rows,
)

_conv_input = Op(
    _adjoint,
    lambda u, out, g, weight, *, how: _conv(u, weight, how=how),
    lambda u, out, g, weight, *, how: _conv_weight(u, g, how=how),
    saves="g weight",
    name="conv_input",
    samplewise=_rows,
)

_conv_weight = Op(
    _kernels,
    lambda u, out, x, g, *, how: _conv_input(g, u, how=how),
    lambda u, out, x, g, *, how: _conv(x, u, how=how),
    saves="x g",
    name="conv_weight",
)

# ---- the functions -----------------------------------------------------------------------------------------------


def _check(who: str, axes: int, x: Any, weight: Any, bias: Any, groups: Any) -> tuple[Any, Any]:
    """Return x and weight with four axes each."""
    x4 = images(who, x, axes)
    named = [("weight", weight)] + ([] if bias is None else [("bias", bias)])
    for name, array in named:
        if not hasattr(array, "dtype"):
            raise TypeError(f"{who}: {name} must be a tensor or an array, got {type(array).__name__}")
    check_dtypes(who, ("x", x), *named)
    if weight.ndim != axes + 2 or 0 in weight.shape:
        raise ValueError(f"{who}: weight must have {axes + 2} axes, none of them empty, got {weight.shape}")
    if not isinstance(groups, (int, np.integer)) or groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{who}: groups must divide axis 0 of weight {weight.shape}, got groups={groups!r}")
    return x4, weight if axes == 2 else weight[:, :, None]


def _check_bias(who: str, bias: Any, channels: int) -> None:
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"{who}: bias must be ({channels},), one for each channel of the result, got {bias.shape}")


def _convolve(
    who: str, axes: int, x: Any, weight: Any, bias: Any, stride: Size, padding: Any, dilation: Size, groups: int
) -> Any:
    x4, w4 = _check(who, axes, x, weight, bias, groups)
    _check_bias(who, bias, weight.shape[0])
    if x4.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"{who}: x {x.shape} has {x4.shape[1]} channels, weight {weight.shape} with groups={groups} needs "
            f"{weight.shape[1] * groups}"
        )
    kernel, steps = w4.shape[2:], pair(who, "stride", stride, axes, least=1)
    gaps = pair(who, "dilation", dilation, axes, least=1)
    if padding == "same":
        if steps != (1, 1):
            raise ValueError(f"{who}: padding='same' needs stride 1, got stride={stride}; give the padding as numbers")
        extra = [d * (k - 1) for d, k in zip(gaps, kernel, strict=True)]
        before, after = (extra[0] // 2, extra[1] // 2), (extra[0] - extra[0] // 2, extra[1] - extra[1] // 2)
    else:
        before = after = pair(who, "padding", 0 if padding == "valid" else padding, axes)
    how = sliding(who, x4.shape[2:], kernel, steps, (before, after), gaps, groups, axes=axes)
    out = _conv(x4, w4, how=how) if bias is None else _conv_with_bias(x4, w4, bias, how=how)
    return like(out, x, axes)


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Any:
    """Correlate signals with kernels: y_t = bias + sum over channels and cells k of weight_k x_(t stride + k dilation).

    Shapes: x (n, c, l) or (c, l), weight (m, c / groups, k), bias (m,) -> (n, m, 1 + (l + 2 padding - span) // stride)
    with the span dilation (k - 1) + 1. See `conv2d` for the rest.

    >>> conv1d(tensor([[[1.0, 2.0, 4.0]]]), tensor([[[-1.0, 1.0]]]))
    tensor([[[1., 2.]]])
    """
    return _convolve("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Any:
    """Correlate images with kernels: each result is the bias plus the sum of kernel times image beneath it.

    Shapes: x (n, c, h, w) or (c, h, w), weight (m, c / groups, kh, kw), bias (m,) -> (n, m, oh, ow), where
    oh = 1 + (h + 2 padding - span) // stride, with the span dilation (kh - 1) + 1. As in PyTorch the kernel is not
    flipped. stride, padding and dilation are integers or (along h, along w); padding may be "valid" (none) or "same"
    (as much as keeps the size, stride 1 only; an odd cell goes below and to the right). Each of `groups` parts of the
    results sees its part of the channels of x.

    ValueError for shapes that do not fit and for a kernel greater than the padded image, TypeError for dtypes that
    differ (Dumoulin & Visin 2016, arXiv:1603.07285).

    >>> conv2d(tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), tensor([[[[1.0, 10.0]]]]), tensor([0.5]))
    tensor([[[[21.5],
              [43.5]]]])
    """
    return _convolve("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


def _transposed(
    who: str, axes: int, x: Any, weight: Any, bias: Any, stride: Size, padding: Size, output_padding: Size,
    groups: int, dilation: Size,
) -> Any:  # fmt: skip
    x4, w4 = _check(who, axes, x, weight, bias, groups)
    _check_bias(who, bias, weight.shape[1] * groups)
    if x4.shape[1] != weight.shape[0]:
        raise ValueError(
            f"{who}: x {x.shape} has {x4.shape[1]} channels, weight {weight.shape} needs {weight.shape[0]}"
        )
    steps, gaps = pair(who, "stride", stride, axes, least=1), pair(who, "dilation", dilation, axes, least=1)
    pads, more = pair(who, "padding", padding, axes), pair(who, "output_padding", output_padding, axes)
    if any(m >= max(s, d) for m, s, d in zip(more[2 - axes :], steps[2 - axes :], gaps[2 - axes :], strict=True)):
        raise ValueError(f"{who}: output_padding must be less than stride or dilation, got {output_padding}")
    places = x4.shape[2:]
    how = Sliding((0, 0), w4.shape[2:], steps, pads, pads, gaps, places, groups)
    h, w = ((p - 1) * s - 2 * b + k + m for p, s, b, k, m in zip(places, steps, pads, how.span(), more, strict=True))
    if min(h, w, *places) < 1:
        raise ValueError(f"{who}: x {x.shape} with padding={padding} gives an empty result {(h, w)[2 - axes :]}")
    out = like(_conv_input(x4, w4, how=how._replace(size=(h, w))), x, axes)
    return out if bias is None else out + bias.reshape((-1,) + (1,) * axes)


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """Spread each element of a signal as a kernel; overlaps add up. The adjoint of `conv1d`: see `conv_transpose2d`.

    Shapes: x (n, c, l) or (c, l), weight (c, m / groups, k), bias (m,) -> (n, m, (l - 1) stride - 2 padding + span +
    output_padding).

    >>> conv_transpose1d(tensor([[[1.0, 2.0]]]), tensor([[[1.0, 10.0]]]), stride=2)
    tensor([[[ 1., 10.,  2., 20.]]])
    """
    return _transposed("conv_transpose1d", 1, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """Spread each element of an image as a kernel; overlaps add up. The gradient of `conv2d` in its image.

    Shapes: x (n, c, h, w) or (c, h, w), weight (c, m / groups, kh, kw), bias (m,) -> (n, m, oh, ow), where
    oh = (h - 1) stride - 2 padding + dilation (kh - 1) + 1 + output_padding: the size that `conv2d` with the same
    arguments takes to h. With stride > 1 several sizes are; output_padding, which is less than the stride or the
    dilation, chooses among them by adding cells below and to the right.

    >>> conv_transpose2d(tensor([[[[1.0, 2.0]]]]), tensor([[[[1.0], [10.0]]]]))
    tensor([[[[ 1.,  2.],
              [10., 20.]]]])
    """
    return _transposed("conv_transpose2d", 2, x, weight, bias, stride, padding, output_padding, groups, dilation)


# fmt: off
__all__ = [
    "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d",
]
# fmt: on
