"""Initialisation in place: `init.xavier_uniform_(layer.weight)`. Names, arguments and formulas are PyTorch's.

Numbers are drawn on the host, in float64 and from the library's own stream (`manual_seed`), then rounded to the dtype:
the same seed gives the same parameters on every device. Nothing is recorded; every function returns its tensor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine.backend import to_device
from ..engine.tensor import Tensor
from ..random import generator
from .state import write


def _fill(tensor: Tensor, values: Any, who: str) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.dtype.kind != "f":
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{who}: needs a floating Tensor to write into, got {got}")
    if isinstance(values, np.ndarray):
        values = to_device(values.astype(tensor.dtype), tensor.device)
    write(tensor, values)
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Draw from the uniform distribution on [a, b): mean (a + b)/2, variance (b - a)^2/12.

    >>> manual_seed(0)
    >>> x = uniform_(zeros(10000), 0.0, 6.0)
    >>> round(x.mean().item(), 1), round(x.var().item(), 1)
    (3.0, 3.0)
    """
    if not (math.isfinite(a) and math.isfinite(b) and a <= b):
        raise ValueError(f"uniform_: needs finite a <= b, got a={a}, b={b}")
    return _fill(tensor, generator().uniform(a, b, tensor.shape), "uniform_")


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Draw from the normal distribution.

    >>> manual_seed(0)
    >>> round(normal_(zeros(10000), std=3.0).var().item())
    9
    """
    if not (math.isfinite(mean) and 0 <= std < math.inf):
        raise ValueError(f"normal_: needs a finite mean and a finite std >= 0, got mean={mean}, std={std}")
    return _fill(tensor, generator().normal(mean, std, tensor.shape), "normal_")


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with a number.

    >>> constant_(zeros(2), 0.5)
    tensor([0.5, 0.5])
    """
    return _fill(tensor, float(val), "constant_")


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out): how many numbers enter one unit, and how many units one number enters.

    Shape (out, in, *kernel) -> (in * kernel elements, out * kernel elements). ValueError for fewer than two axes.

    >>> fans(zeros(8, 3, 5, 5))
    (75, 200)
    """
    if tensor.ndim < 2:
        raise ValueError(f"fans: fan in and fan out need at least two axes (out, in, ...), got shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


_GAINS = dict.fromkeys(("linear", "conv1d", "conv2d", "sigmoid"), 1.0)
_GAINS |= {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return by how much weights before a nonlinearity must be larger to keep the variance of the signal.

    linear, conv1d, conv2d and sigmoid 1, tanh 5/3, relu sqrt 2, selu 3/4, leaky_relu sqrt(2 / (1 + param^2)) with param
    0.01 unless given (the values of PyTorch's torch.nn.init).

    >>> calculate_gain("leaky_relu", 1.0)
    1.0
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"calculate_gain: nonlinearity must be one of {known}, got {nonlinearity!r}")
    return _GAINS[nonlinearity]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Draw from U(-b, b), b = gain sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16).

    >>> manual_seed(0)
    >>> round(xavier_uniform_(zeros(300, 300)).max().item(), 2)
    0.1
    """
    bound = gain * math.sqrt(6 / max(sum(fans(tensor)), 1))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Draw from N(0, s^2), s = gain sqrt(2 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 12)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / max(sum(fans(tensor)), 1)))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))  # without a fan there is nothing to draw


def kaiming_uniform_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Draw from U(-b, b), b = gain sqrt(3 / fan), for layers before a rectifier.

    a: the negative slope of leaky_relu; mode: "fan_in" keeps the variance forward, "fan_out" backward (He et al. 2015,
    arXiv:1502.01852, eq. 14).

    >>> manual_seed(0)
    >>> round(kaiming_uniform_(zeros(300, 600)).max().item(), 2)
    0.1
    """
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Draw from N(0, gain^2 / fan), for layers before a rectifier (He et al. 2015, arXiv:1502.01852, eq. 10)."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Draw a matrix whose rows, or columns if those are fewer, are orthogonal and of length gain, uniformly (Haar).

    Axes after the first count as one. The sign of R's diagonal makes QR unique, without which the draw is not uniform
    (Saxe et al. 2014, arXiv:1312.6120; Mezzadri 2007, arXiv:math-ph/0609050).

    >>> manual_seed(0)
    >>> w = orthogonal_(zeros(2, 3))
    >>> abs(w @ w.T - eye(2)).max().item() < 1e-6
    True
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: needs at least two axes, got shape {tensor.shape}")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    q, r = np.linalg.qr(generator().standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diag(r) < 0, -gain, gain)
    return _fill(tensor, (q if rows >= columns else q.T).reshape(tensor.shape), "orthogonal_")


__all__ = [
    "calculate_gain", "constant_", "fans", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_",
    "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip
