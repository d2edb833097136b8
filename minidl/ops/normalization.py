"""Normalization of each sample by its own statistics: layer, group and instance norm, and that by the mean square.

All are one operation, `standardize`, over different axes. Batch normalization is in `batch`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine.op import Op
from .composed import composed
from .linalg import check_dtypes
from .reduce import mean
from .shape import reshape


def _standardize(xp: Any, x: Any, *, axes: tuple[int, ...], eps: float, centre: bool = True) -> tuple:
    n = math.prod(x.shape[i] for i in axes)
    y = x - x.sum(axis=axes, keepdims=True) / n if centre else x
    square = y * y
    rate = 1 / xp.sqrt(square.sum(axis=axes, keepdims=True) / n + eps)
    return xp.multiply(y, rate, out=square), rate


def _standardize_rule(
    gs: tuple, outs: tuple, x: Any, *, axes: tuple[int, ...], eps: float, centre: bool = True
) -> tuple:
    """Differentiate y = r (x - mean), r = (mean of (x - mean)^2 + eps)^(-1/2), over n elements: dr/dx = -r^2 y / n.

        dL/dx = r (g - mean(g)) - y (r mean(g y) + g_r r^2 / n)

    without mean(g) if x is not centred. It reads nothing but the results, which are recorded: derivatives of every
    order follow.
    """
    (g, g_rate), (y, rate) = gs, outs
    n = math.prod(x.shape[i] for i in axes)
    share = rate * (mean(g * y, axis=axes, keepdims=True) + g_rate * rate / n)
    return (rate * (g - mean(g, axis=axes, keepdims=True) if centre else g) - y * share,)


# y and r: what the mean, where it is taken away, and the mean square of y over `axes` are 0 and (nearly) 1.
_standard = Op(
    _standardize,
    joint=_standardize_rule,
    saves="out",
    name="standardize",
    samplewise=lambda shapes, *, axes, **_: 0 not in axes,
)


def _scaled(who: str, y: Any, weight: Any, bias: Any, shape: tuple[int, ...], spread: tuple[int, ...]) -> Any:
    """Return weight y + bias, where given, both of the shape that `spread` makes broadcast."""
    for name, array in (("weight", weight), ("bias", bias)):
        if array is None:
            continue
        if array.shape != shape:
            raise ValueError(f"{who}: {name} must be {shape}, got {array.shape}")
        check_dtypes(who, ("x", y), (name, array))
    y = y if weight is None else y * weight.reshape(spread)
    return y if bias is None else y + bias.reshape(spread)


def _last_axes(who: str, x: Any, normalized_shape: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not shape or x.shape[-len(shape) :] != shape or 0 in shape:
        raise ValueError(f"{who}: x {x.shape} must end in normalized_shape {shape}, which must not be empty")
    return shape, tuple(range(x.ndim - len(shape), x.ndim))


@composed
def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalize over the last axes: weight (x - mean) / sqrt(var + eps) + bias.

    Shapes: x (..., *normalized_shape), weight and bias normalized_shape or None. var has the divisor n
    (Ba et al. 2016, arXiv:1607.06450, Eq. 4).

    >>> layer_norm(tensor([[1.0, 3.0]]), 2, eps=0.0)
    tensor([[-1.,  1.]])
    """
    shape, axes = _last_axes("layer_norm", x, normalized_shape)
    return _scaled("layer_norm", _standard(x, axes=axes, eps=float(eps))[0], weight, bias, shape, shape)


@composed
def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Divide by the root of the mean square over the last axes: weight x / sqrt(mean(x^2) + eps).

    Shapes: x (..., *normalized_shape), weight normalized_shape or None. By default eps is the spacing of numbers at 1
    (Zhang & Sennrich 2019, arXiv:1910.07467, Eq. 4).

    >>> rms_norm(tensor([[1.0, 7.0]]), 2, eps=0.0)
    tensor([[0.2, 1.4]])
    """
    shape, axes = _last_axes("rms_norm", x, normalized_shape)
    eps = float(np.finfo(x.dtype).eps) if eps is None else float(eps)
    return _scaled("rms_norm", _standard(x, axes=axes, eps=eps, centre=False)[0], weight, None, shape, shape)


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
    n, c, *cells = x.shape
    y, _ = _standard(reshape(x, (n, groups, c // groups, *cells)), axes=tuple(range(2, x.ndim + 1)), eps=float(eps))
    return _scaled(who, reshape(y, x.shape), weight, bias, (c,), (-1,) + (1,) * len(cells))


# fmt: off
__all__ = [
    "group_norm", "instance_norm", "layer_norm", "rms_norm",
]
# fmt: on
