"""Operations that act on a batch as a whole, or draw at random: batch normalization and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import random
from ..engine.backend import device_of, to_device
from ..engine.op import Op
from .elementwise import multiply, sqrt
from .linalg import check_dtypes

# ---- batch normalization -----------------------------------------------------------------------------------------


def _statistics_axes(x: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes that statistics run over, all but axis 1, and the shape in which a channel vector broadcasts."""
    axes = tuple(i for i in range(x.ndim) if i != 1)
    return axes, tuple(-1 if i == 1 else 1 for i in range(x.ndim))


def _batch_norm(xp: Any, x: Any, weight: Any, bias: Any, *, eps: float) -> tuple:
    if x.ndim < 2 or not x.size:
        raise ValueError(f"batch_norm_train: x must be (n, c, ...) with at least one element, got {x.shape}")
    check_dtypes("batch_norm_train", ("x", x), ("weight", weight), ("bias", bias))
    if not weight.shape == bias.shape == x.shape[1:2]:
        raise ValueError(
            f"batch_norm_train: weight {weight.shape} and bias {bias.shape} must be {x.shape[1:2]} for x {x.shape}"
        )
    axes, spread = _statistics_axes(x)
    n = x.size // x.shape[1]
    mean = x.sum(axis=axes) / n
    centred = x - mean.reshape(spread)
    var = (centred * centred).sum(axis=axes) / n
    centred *= (weight / xp.sqrt(var + eps)).reshape(spread)
    centred += bias.reshape(spread)
    return centred, mean, var


def _batch_norm_rule(gs: tuple, outs: tuple, x: Any, weight: Any, bias: Any, *, eps: float) -> tuple:
    """Differentiate y = weight (x - mean) / s + bias, s = sqrt(var + eps), through mean and var as well.

    With sums over a channel's n elements, A = sum g and B = sum g (x - mean):
        dL/dx = weight/s (g - A/n - (x - mean) B / (n s^2)) + g_mean/n + 2 g_var (x - mean)/n
        dL/dweight = B / s,  dL/dbias = A
    where g_mean and g_var arrive at the statistics themselves. Written with mean and var as results of this operation,
    not as saved numbers, so that the second derivative goes through them too (Ioffe & Szegedy 2015, Sec. 3).
    """
    (g, g_mean, g_var), (_, mean, var) = gs, outs
    axes, spread = _statistics_axes(x)
    n = x.size // x.shape[1]
    centred = x - mean.reshape(spread)
    inverse = 1.0 / sqrt(var + eps)
    a, b = g.sum(axis=axes), (g * centred).sum(axis=axes)
    scale = weight * inverse
    slope = g_var * (2.0 / n) - scale * inverse * inverse * b / n
    constant = (g_mean - scale * a) / n
    gx = g * scale.reshape(spread) + centred * slope.reshape(spread) + constant.reshape(spread)
    return gx, b * inverse, a


batch_norm_train = Op(
    _batch_norm,
    joint=_batch_norm_rule,
    saves="x weight out",
    doc="""Normalize each channel by the batch's own mean and variance; return (y, mean, var), var with divisor n.

    Shapes: x (n, c, ...), weight and bias (c,) -> y like x, mean (c,), var (c,).
    y = weight (x - mean) / sqrt(var + eps) + bias (Ioffe & Szegedy 2015, arXiv:1502.03167, Alg. 1).

    >>> y, mean, var = batch_norm_train(tensor([[1.0], [3.0]]), tensor([1.0]), tensor([0.0]), eps=0.0)
    >>> y.tolist(), mean.tolist(), var.tolist()
    ([[-1.0], [1.0]], [2.0], [1.0])
    """,
)


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    eps: float = 1e-5,
) -> Any:
    """Normalize each channel by given statistics: weight (x - running_mean) / sqrt(running_var + eps) + bias.

    Shapes: x (n, c, ...), the others (c,). This is batch normalization at test time.

    >>> one, zero = tensor([1.0]), tensor([0.0])
    >>> batch_norm(tensor([[3.0]]), one, tensor([4.0]), one, zero, eps=0.0)
    tensor([[1.]])
    """
    if len(x.shape) < 2 or not running_mean.shape == running_var.shape == weight.shape == bias.shape == x.shape[1:2]:
        shapes = [tuple(a.shape) for a in (running_mean, running_var, weight, bias)]
        raise ValueError(f"batch_norm: x must be (n, c, ...) and the others (c,), got x {tuple(x.shape)} and {shapes}")
    spread = (-1,) + (1,) * (x.ndim - 2)
    scale = weight / sqrt(running_var + eps)
    return x * scale.reshape(spread) + (bias - running_mean * scale).reshape(spread)


# ---- dropout -----------------------------------------------------------------------------------------------------


def _mask(xp: Any, like: Any, *, p: float) -> Any:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout_mask: p must be in [0, 1], got p={p}")
    keep = np.asarray(random.generator().random(like.shape, dtype=np.float32) >= p)
    return to_device(keep.astype(like.dtype), device_of(like)) * (1.0 / (1.0 - p) if p < 1 else 0.0)


dropout_mask = Op(
    _mask,
    effect="random",
    samplewise=True,
    doc="""Draw a mask like x: 0 with probability p, else 1 / (1 - p). A constant to derivatives.

    >>> dropout_mask(tensor([1.0, 1.0]), p=0.0)
    tensor([1., 1.])
    """,
)


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Set each element to 0 with probability p and scale the others by 1 / (1 - p), so that the mean stays.

    The mask comes from the library's random stream (`manual_seed`). Not training, or p = 0: x itself. ValueError
    unless 0 <= p <= 1 (Srivastava et al. 2014, JMLR 15).

    >>> dropout(tensor([1.0, 2.0]), p=1.0)
    tensor([0., 0.])
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p must be in [0, 1], got p={p}")
    if not training or p == 0:
        return x
    return multiply(x, dropout_mask(x, p=float(p)))


# fmt: off
__all__ = [
    "batch_norm", "batch_norm_train", "dropout", "dropout_mask",
]
# fmt: on
