"""Activations: the bends between affine layers. `relu`, `sigmoid`, `tanh` and `softmax` are in their own places.

Each is stable for any finite x. At a kink the derivative is that of the flat or left side, as in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

from ..engine.op import Op
from .composed import composed
from .elementwise import absolute, exp, sigmoid, tanh, where
from .network import softmax
from .shape import one_axis, parts
from .special import normal_cdf

# ---- rectifiers --------------------------------------------------------------------------------------------------


def _leaky(xp: Any, x: Any, *, negative_slope: float = 0.01) -> Any:
    """Rectify elementwise, with a slope below 0: x if x > 0, else negative_slope x (Maas et al. 2013, Sec. 2).

    >>> leaky_relu(tensor([-1.0, 2.0]), 0.5)
    tensor([-0.5,  2. ])
    """
    return xp.where(x > 0, x, x * negative_slope)


leaky_relu = Op(
    _leaky,
    lambda g, out, x, *, negative_slope=0.01: where(x > 0, g, g * negative_slope),
    saves="x",
    samplewise=True,
    name="leaky_relu",
)


@composed
def prelu(x: Any, weight: Any) -> Any:
    """Rectify with learned slopes below 0: x if x > 0, else weight x (He et al. 2015, arXiv:1502.01852, Eq. 1).

    Shapes: x (n, c, ...) or any, weight (c,), or (1,) for one common slope. ValueError for another number of slopes.

    >>> prelu(tensor([[-1.0, -2.0]]), tensor([0.5, 0.25]))
    tensor([[-0.5, -0.5]])
    """
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim != 1 or weight.size not in (1, channels):
        raise ValueError(f"prelu: weight must be (1,) or ({channels},) for x {x.shape}, got {weight.shape}")
    return where(x > 0, x, x * weight.reshape((-1,) + (1,) * max(x.ndim - 2, 0)) if x.ndim else x * weight[0])


def _exponential(xp: Any, x: Any, *, alpha: float, rate: float, scale: float) -> Any:
    return xp.where(x > 0, x * scale, xp.expm1(xp.minimum(x, 0) * rate) * (alpha * scale))


def _exponential_rule(g: Any, out: Any, x: Any, *, alpha: float, rate: float, scale: float) -> Any:
    """scale above 0; below, scale alpha rate e^(rate x), with x replaced above, where it would overflow."""
    g = g * scale
    return where(x > 0, g, g * (exp(where(x > 0, 0.0, x) * rate) * (alpha * rate)))


# scale (x if x > 0 else alpha (e^(rate x) - 1))
_elu = Op(_exponential, _exponential_rule, saves="x", samplewise=True, name="elu")


@composed
def elu(x: Any, alpha: float = 1.0) -> Any:
    """Compute x if x > 0, else alpha (e^x - 1), elementwise (Clevert et al. 2016, arXiv:1511.07289, Eq. 16).

    >>> [round(v, 4) for v in elu(tensor([-1.0, 2.0])).tolist()]
    [-0.6321, 2.0]
    """
    return _elu(x, alpha=float(alpha), rate=1.0, scale=1.0)


@composed
def selu(x: Any) -> Any:
    """Compute 1.0507 elu(x, 1.6733) elementwise, which keeps mean 0 and variance 1 through many layers.

    Klambauer et al. 2017, arXiv:1706.02515, Eq. 2 and 14.

    >>> [round(v, 4) for v in selu(tensor([-1.0, 2.0])).tolist()]
    [-1.1113, 2.1014]
    """
    return _elu(x, alpha=1.6732632423543772848170429916717, rate=1.0, scale=1.0507009873554804934193349852946)


@composed
def celu(x: Any, alpha: float = 1.0) -> Any:
    """Compute x if x > 0, else alpha (e^(x / alpha) - 1), elementwise: an `elu` smooth for every alpha.

    Barron 2017, arXiv:1704.07483. ValueError for alpha 0.

    >>> [round(v, 4) for v in celu(tensor([-1.0, 2.0]), 2.0).tolist()]
    [-0.7869, 2.0]
    """
    if not alpha:
        raise ValueError(f"celu: alpha must not be 0, got {alpha}")
    return _elu(x, alpha=float(alpha), rate=1.0 / alpha, scale=1.0)


@composed
def threshold(x: Any, threshold: float, value: float) -> Any:
    """Compute x if x > threshold, else value, elementwise.

    >>> threshold(tensor([-1.0, 2.0]), 0.5, 7.0)
    tensor([7., 2.])
    """
    return where(x > threshold, x, value)


# ---- piecewise linear --------------------------------------------------------------------------------------------


def _hardtanh(xp: Any, x: Any, *, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """Limit elementwise to [min_val, max_val]. Like `clip`, but with the derivative 0 at the bounds, as in PyTorch.

    >>> hardtanh(tensor([-3.0, 0.5, 3.0]))
    tensor([-1. ,  0.5,  1. ])
    """
    if min_val >= max_val:
        raise ValueError(f"hardtanh: min_val must be less than max_val, got {min_val} and {max_val}")
    return xp.clip(x, min_val, max_val)


hardtanh = Op(
    _hardtanh,
    lambda g, out, x, *, min_val=-1.0, max_val=1.0: g * ((out > min_val) & (out < max_val)),
    saves="out",
    samplewise=True,
    name="hardtanh",
)


@composed
def relu6(x: Any) -> Any:
    """Limit elementwise to [0, 6] (Howard et al. 2017, arXiv:1704.04861). See `hardtanh`.

    >>> relu6(tensor([-1.0, 2.0, 8.0]))
    tensor([0., 2., 6.])
    """
    return hardtanh(x, min_val=0.0, max_val=6.0)


@composed
def hardsigmoid(x: Any) -> Any:
    """Compute x / 6 + 1/2 limited to [0, 1], elementwise: a `sigmoid` of straight lines.

    >>> hardsigmoid(tensor([-4.0, 1.5, 4.0]))
    tensor([0.  , 0.75, 1.  ])
    """
    return relu6(x + 3.0) / 6.0


@composed
def hardswish(x: Any) -> Any:
    """Compute x hardsigmoid(x) elementwise (Howard et al. 2019, arXiv:1905.02244, Sec. 5.2).

    >>> hardswish(tensor([-1.5, 1.5, 4.0]))
    tensor([-0.375,  1.125,  4.   ])
    """
    return x * hardsigmoid(x)


# ---- smooth ------------------------------------------------------------------------------------------------------


def _softplus(xp: Any, x: Any, *, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Compute log(1 + e^(beta x)) / beta elementwise, and x itself where beta x > threshold, as in PyTorch.

    Nothing overflows whatever the threshold is; math.inf is the exact function.

    >>> [round(v, 4) for v in softplus(tensor([-1e4, 0.0, 1.0, 1e4])).tolist()]
    [0.0, 0.6931, 1.3133, 10000.0]
    """
    z = x * beta
    out = (xp.maximum(z, 0) + xp.log1p(xp.exp(-xp.abs(z)))) / beta
    return out if threshold == math.inf else xp.where(z > threshold, x, out)


def _softplus_rule(g: Any, out: Any, x: Any, *, beta: float = 1.0, threshold: float = 20.0) -> Any:
    z = x * beta
    return g * sigmoid(z) if threshold == math.inf else where(z > threshold, g, g * sigmoid(z))


softplus = Op(_softplus, _softplus_rule, saves="x", samplewise=True, name="softplus")


@composed
def log_sigmoid(x: Any) -> Any:
    """Compute log(1 / (1 + e^-x)) elementwise, finite where the sigmoid rounds to 0.

    >>> log_sigmoid(tensor([-1e4, 1e4])).tolist(), round(log_sigmoid(tensor(0.0)).item(), 4)
    ([-10000.0, -0.0], -0.6931)
    """
    return -softplus(-x, threshold=math.inf)


@composed
def silu(x: Any) -> Any:
    """Compute x sigmoid(x) elementwise, also called swish (Elfwing et al. 2018, arXiv:1702.03118, Eq. 5).

    >>> [round(v, 4) for v in silu(tensor([-1.0, 2.0])).tolist()]
    [-0.2689, 1.7616]
    """
    return x * sigmoid(x)


@composed
def mish(x: Any) -> Any:
    """Compute x tanh(softplus(x)) elementwise (Misra 2019, arXiv:1908.08681, Eq. 1).

    >>> [round(v, 4) for v in mish(tensor([-1.0, 2.0])).tolist()]
    [-0.3034, 1.944]
    """
    return x * tanh(softplus(x))


@composed
def gelu(x: Any, approximate: str = "none") -> Any:
    """Compute x P(Z <= x) elementwise for a standard normal Z (Hendrycks & Gimpel 2016, arXiv:1606.08415, Sec. 2).

    approximate="none" is right to a few roundings, relatively, far out on the left too (in float32 to x^2 / 4 more of
    them, which rounding x^2 costs); "tanh" is their approximation
    x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    >>> [round(gelu(tensor(1.0), approximate=a).item(), 4) for a in ("none", "tanh")]
    [0.8413, 0.8412]
    """
    if approximate == "none":
        return x * normal_cdf(x)
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    rate = 2.0 * math.sqrt(2.0 / math.pi)
    return x * sigmoid(x * (rate + x * x * (0.044715 * rate)))  # (1 + tanh u) / 2 = sigmoid(2 u)


@composed
def softsign(x: Any) -> Any:
    """Compute x / (1 + |x|) elementwise.

    >>> softsign(tensor([-3.0, 1.0]))
    tensor([-0.75,  0.5 ])
    """
    return x / (1.0 + absolute(x))


# ---- along an axis -----------------------------------------------------------------------------------------------


@composed
def softmin(x: Any, axis: int = -1) -> Any:
    """Compute softmax(-x) along axis.

    >>> softmin(tensor([0.0, 1e4]))
    tensor([1., 0.])
    """
    return softmax(-x, axis=axis)


@composed
def glu(x: Any, axis: int = -1) -> Any:
    """Let one half of x along axis gate the other: a sigmoid(b) for x = [a, b] (Dauphin et al. 2017, arXiv:1612.08083).

    Shapes: (..., 2 k, ...) -> (..., k, ...). ValueError for an odd length.

    >>> glu(tensor([3.0, 4.0, 0.0, 1e4]))
    tensor([1.5, 4. ])
    """
    axis = one_axis(axis, len(x.shape), "glu")
    half, odd = divmod(x.shape[axis], 2)
    if odd:
        raise ValueError(f"glu: the length along axis {axis} must be even, got {x.shape}")
    a, b = parts(x, bounds=(0, half, 2 * half), axis=axis)
    return a * sigmoid(b)


# fmt: off
__all__ = [
    "celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid", "mish", "prelu",
    "relu6", "selu", "silu", "softmin", "softplus", "softsign", "threshold",
]
# fmt: on
