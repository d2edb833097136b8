"""Normalization of each sample by its own statistics: layer, group and instance norm, and that by the mean square.

All are one operation, `standardize`, over different axes. Batch normalization is in `batch`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine.backend import HOST
from ..engine.op import Op
from .composed import composed
from .linalg import check_dtypes
from .reduce import mean
from .shape import reshape

_LONG = 2**15  # elements, from which on the sums of BLAS lose more digits than NumPy's


def _inner(xp: Any, x: Any, y: Any) -> Any:
    if xp in HOST and x.dtype.itemsize > 2 and x.shape[-1] < _LONG:
        return xp.matmul(x[..., None, :], y[..., :, None])[..., 0]  # BLAS: a quarter of the time
    return (x * y).sum(axis=-1, keepdims=True)


# The sum of x y over the last axis, which is kept with length 1.
inner = Op(
    _inner,
    lambda g, out, x, y: g * y,
    lambda g, out, x, y: g * x,
    saves="x y",
    name="inner",
    samplewise=lambda shapes: len(shapes[0]) > 1,
)


def _standardize(xp: Any, x: Any, *, eps: float, centre: bool = True) -> tuple:
    n = x.shape[-1]
    y = x - x.sum(axis=-1, keepdims=True) / n if centre else x
    rate = 1 / xp.sqrt(_inner(xp, y, y) / n + eps)
    return (xp.multiply(y, rate, out=y) if centre else y * rate), rate


# y = r (x - mean) and r = (mean of (x - mean)^2 + eps)^(-1/2), over the last axis, or without the mean.
_standard = Op(
    _standardize,
    joint=lambda gs, outs, x, *, eps, centre=True: (_standard_gradient(*gs, *outs, centre=centre),),
    saves="out",
    name="standardize",
    samplewise=lambda shapes, **_: len(shapes[0]) > 1,
)


def _fused_gradient(xp: Any, g: Any, g_rate: Any, y: Any, rate: Any, *, centre: bool) -> Any:
    """Compute dL/dx = r (g - mean(g)) - y r (sum g y + g_r r) / n, since dr/dx = -r^2 y / n; mean(g) only to centre."""
    n = y.shape[-1]
    out = y * ((_inner(xp, g, y) + g_rate * rate) / -n)
    out += g
    if centre:
        out -= g.sum(axis=-1, keepdims=True) / n
    out *= rate
    return out


def _gradient_rule(u: Any, out: Any, g: Any, g_rate: Any, y: Any, rate: Any, *, centre: bool) -> tuple:
    """Differentiate the gradient, which is linear in g, and in that its own adjoint."""
    n = y.shape[-1]
    t, s = inner(u, y), (inner(g, y) + g_rate * rate) / n
    return (
        _standard_gradient(u, g_rate * 0.0, y, rate, centre=centre),
        t * rate * rate / -n,
        -rate * (u * s + g * (t / n)),
        inner(u, g - mean(g, axis=-1, keepdims=True) if centre else g) - t * (s + g_rate * rate / n),
    )


_standard_gradient = Op(
    _fused_gradient,
    joint=_gradient_rule,
    saves="g g_rate y rate",
    name="standardize_gradient",
    samplewise=lambda shapes, **_: len(shapes[0]) > 1,
)


def _standardized(x: Any, lead: int, groups: tuple[int, ...], eps: float, centre: bool = True) -> Any:
    """Return x with the elements of each of its groups standardized: `groups` follow the first `lead` axes."""
    rows = _as(x, (*x.shape[:lead], *groups, math.prod(x.shape[lead:]) // math.prod(groups)))
    return _as(_standard(rows, eps=float(eps), centre=centre)[0], x.shape)


def _as(x: Any, shape: tuple[int, ...]) -> Any:
    return x if x.shape == shape else reshape(x, shape)


def _affine(xp: Any, y: Any, weight: Any, bias: Any) -> Any:
    out = y * weight
    out += bias
    return out


# Elementwise, so that samples stay apart: weight and bias broadcast.
_scale_and_shift = Op(
    _affine,
    lambda g, out, y, weight, bias: g * weight,
    lambda g, out, y, weight, bias: _products(g, y, shape=weight.shape) if weight.ndim < g.ndim else g * y,
    lambda g, out, y, weight, bias: g,
    saves="y weight",
    name="scale_and_shift",
    samplewise=True,
)


def _summed_products(xp: Any, x: Any, y: Any, *, shape: tuple[int, ...]) -> Any:
    """Sum x y over the first axes, which `shape` lacks, and over the last ones, where it is 1."""
    ends = next((i for i, n in enumerate(reversed(shape)) if n != 1), len(shape))
    c, cells = math.prod(shape), math.prod(x.shape[x.ndim - ends :])
    if cells == 1:
        rows = (x * y).reshape(-1, c)
    else:
        rows = xp.einsum("ncs,ncs->nc", x.reshape(-1, c, cells), y.reshape(-1, c, cells))
    return xp.dot(xp.ones(len(rows), x.dtype), rows).reshape(shape)


_products = Op(
    _summed_products,
    lambda g, out, x, y, *, shape: g * y,
    lambda g, out, x, y, *, shape: g * x,
    saves="x y",
    name="summed_products",
)


def _scaled(who: str, y: Any, weight: Any, bias: Any, shape: tuple[int, ...], spread: tuple[int, ...]) -> Any:
    """Return weight y + bias, where given, both of the shape that `spread` makes broadcast."""
    for name, array in (("weight", weight), ("bias", bias)):
        if array is None:
            continue
        if array.shape != shape:
            raise ValueError(f"{who}: {name} must be {shape}, got {array.shape}")
        check_dtypes(who, ("x", y), (name, array))
    if weight is not None and bias is not None:
        return _scale_and_shift(y, _as(weight, spread), _as(bias, spread))
    y = y if weight is None else y * _as(weight, spread)
    return y if bias is None else y + _as(bias, spread)


def _last_axes(who: str, x: Any, normalized_shape: Any) -> tuple[int, ...]:
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not shape or x.shape[-len(shape) :] != shape or 0 in shape:
        raise ValueError(f"{who}: x {x.shape} must end in normalized_shape {shape}, which must not be empty")
    return shape


@composed
def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalize over the last axes: weight (x - mean) / sqrt(var + eps) + bias.

    Shapes: x (..., *normalized_shape), weight and bias normalized_shape or None. var has the divisor n
    (Ba et al. 2016, arXiv:1607.06450, Eq. 4).

    >>> layer_norm(tensor([[1.0, 3.0]]), 2, eps=0.0)
    tensor([[-1.,  1.]])
    """
    shape = _last_axes("layer_norm", x, normalized_shape)
    return _scaled("layer_norm", _standardized(x, x.ndim - len(shape), (), eps), weight, bias, shape, shape)


@composed
def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Divide by the root of the mean square over the last axes: weight x / sqrt(mean(x^2) + eps).

    Shapes: x (..., *normalized_shape), weight normalized_shape or None. By default eps is the spacing of numbers at 1
    (Zhang & Sennrich 2019, arXiv:1910.07467, Eq. 4).

    >>> rms_norm(tensor([[1.0, 7.0]]), 2, eps=0.0)
    tensor([[0.2, 1.4]])
    """
    shape = _last_axes("rms_norm", x, normalized_shape)
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    y = _standardized(x, x.ndim - len(shape), (), eps, centre=False)
    return _scaled("rms_norm", y, weight, None, shape, shape)


@composed
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalize each group of channels of each sample by its own mean and variance.

    Shapes: x (n, c, ...), weight and bias (c,) or None; num_groups must divide c (Wu & He 2018, arXiv:1803.08494,
    Eq. 1 and 7).

    >>> group_norm(tensor([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0)
    tensor([[-1.,  1., -1.,  1.]])
    """
    return _by_groups("group_norm", x, num_groups, weight, bias, eps)


@composed
def instance_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalize each channel of each sample by its own mean and variance: `group_norm` with a group a channel.

    Shapes: x (n, c, ...) with more than one element a channel, weight and bias (c,) or None
    (Ulyanov et al. 2016, arXiv:1607.08022, Eq. 1).

    >>> instance_norm(tensor([[[1.0, 3.0], [10.0, 30.0]]]), eps=0.0)
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """
    if x.ndim < 3 or math.prod(x.shape[2:]) < 2:
        raise ValueError(f"instance_norm: x must be (n, c, ...) with more than one element a channel, got {x.shape}")
    return _by_groups("instance_norm", x, x.shape[1], weight, bias, eps)


def _by_groups(who: str, x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Any:
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups or 0 in x.shape[1:]:
        raise ValueError(f"{who}: x must be (n, c, ...) with c a multiple of {groups}, nothing empty, got {x.shape}")
    return _scaled(who, _standardized(x, 1, (groups,), eps), weight, bias, x.shape[1:2], (-1,) + (1,) * (x.ndim - 2))


# fmt: off
__all__ = [
    "group_norm", "instance_norm", "layer_norm", "rms_norm",
]
# fmt: on
