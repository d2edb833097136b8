"""Activations as layers. `ReLU`, `Tanh`, `Sigmoid`, `Softmax` and `LogSoftmax` are in layers.py."""

from __future__ import annotations

from typing import Any

from . import functional as F
from . import init as initial
from .layers import _Along, new_parameter, size
from .settings import Described, number


class LeakyReLU(Described):
    """Rectifier with a slope below 0: x if x > 0, else negative_slope x (Maas et al. 2013, Sec. 2).

    >>> nn.LeakyReLU(0.5)(tensor([-1.0, 2.0]))
    tensor([-0.5,  2. ])
    """

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = number("LeakyReLU", "negative_slope", negative_slope)

    def forward(self, x: Any) -> Any:
        """Rectify x."""
        return F.leaky_relu(x, negative_slope=self.negative_slope)


class PReLU(Described):
    """Rectifier with learned slopes below 0: x if x > 0, else weight x (He et al. 2015, arXiv:1502.01852, eq. 1).

    Shapes: x (n, num_parameters, ...), or any for one common slope; weight (num_parameters,), filled with `init`.

    >>> nn.PReLU(2)(tensor([[-1.0, 2.0]])).tolist()
    [[-0.25, 2.0]]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: str | None = None, dtype: Any = None):
        self.num_parameters = size("PReLU", num_parameters=num_parameters)
        self.init = number("PReLU", "init", init)
        self.weight = new_parameter((self.num_parameters,), device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every slope to `init`."""
        initial.constant_(self.weight, self.init)

    def forward(self, x: Any) -> Any:
        """Rectify x."""
        return F.prelu(x, self.weight)


class ELU(Described):
    """Exponential linear unit: x if x > 0, else alpha (e^x - 1) (Clevert et al. 2016, arXiv:1511.07289, eq. 16).

    >>> nn.ELU(2.0)(tensor([-1e4, 2.0]))
    tensor([-2.,  2.])
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = number("ELU", "alpha", alpha)

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.elu(x, alpha=self.alpha)


class SELU(Described):
    """Scaled exponential linear unit, 1.0507 elu(x, 1.6733) (Klambauer et al. 2017, arXiv:1706.02515, eq. 2).

    >>> [round(v, 4) for v in nn.SELU()(tensor([-1e4, 2.0])).tolist()]
    [-1.7581, 2.1014]
    """

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.selu(x)


class CELU(Described):
    """Exponential linear unit smooth for every alpha: x if x > 0, else alpha (e^(x / alpha) - 1) (arXiv:1704.07483).

    >>> nn.CELU(2.0)(tensor([-1e4, 2.0]))
    tensor([-2.,  2.])
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = number("CELU", "alpha", alpha)
        if not self.alpha:
            raise ValueError("CELU: alpha must not be 0")

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.celu(x, alpha=self.alpha)


class ReLU6(Described):
    """Rectifier with a ceiling: x limited to [0, 6] (Howard et al. 2017, arXiv:1704.04861).

    >>> nn.ReLU6()(tensor([-1.0, 2.0, 8.0]))
    tensor([0., 2., 6.])
    """

    def forward(self, x: Any) -> Any:
        """Limit x."""
        return F.relu6(x)


class Threshold(Described):
    """Threshold: x if x > threshold, else value.

    >>> nn.Threshold(0.5, 7.0)(tensor([0.4, 0.6])).tolist()
    [7.0, 0.6000000238418579]
    """

    def __init__(self, threshold: float, value: float):
        self.threshold = number("Threshold", "threshold", threshold)
        self.value = number("Threshold", "value", value)

    def forward(self, x: Any) -> Any:
        """Replace what is not above the threshold."""
        return F.threshold(x, self.threshold, self.value)


class Hardtanh(Described):
    """Limit x to [min_val, max_val]; the derivative at the bounds is 0.

    >>> nn.Hardtanh()(tensor([-3.0, 0.5, 3.0]))
    tensor([-1. ,  0.5,  1. ])
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        self.min_val = number("Hardtanh", "min_val", min_val)
        self.max_val = number("Hardtanh", "max_val", max_val)
        if not self.min_val < self.max_val:
            raise ValueError(f"Hardtanh: min_val must be less than max_val, got {min_val} and {max_val}")

    def forward(self, x: Any) -> Any:
        """Limit x."""
        return F.hardtanh(x, min_val=self.min_val, max_val=self.max_val)


class Hardsigmoid(Described):
    """Sigmoid of straight lines: x / 6 + 1/2 limited to [0, 1].

    >>> nn.Hardsigmoid()(tensor([-4.0, 1.5, 4.0]))
    tensor([0.  , 0.75, 1.  ])
    """

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.hardsigmoid(x)


class Hardswish(Described):
    """Swish of straight lines: x times `Hardsigmoid` of x (Howard et al. 2019, arXiv:1905.02244, Sec. 5.2).

    >>> nn.Hardswish()(tensor([-4.0, 1.5, 4.0]))
    tensor([-0.   ,  1.125,  4.   ])
    """

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.hardswish(x)


class Softplus(Described):
    """Smooth rectifier log(1 + e^(beta x)) / beta; x itself where beta x > threshold, as in PyTorch.

    >>> [round(v, 4) for v in nn.Softplus()(tensor([-1e4, 0.0, 1e4])).tolist()]
    [0.0, 0.6931, 10000.0]
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self.beta, self.threshold = number("Softplus", "beta", beta), number("Softplus", "threshold", threshold)
        if not self.beta:
            raise ValueError("Softplus: beta must not be 0")

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.softplus(x, beta=self.beta, threshold=self.threshold)


class LogSigmoid(Described):
    """Logarithm of the logistic function, log(1 / (1 + e^-x)), finite where that rounds to 0.

    >>> nn.LogSigmoid()(tensor([-1e4])).tolist()
    [-10000.0]
    """

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.log_sigmoid(x)


class SiLU(Described):
    """Swish: x sigmoid(x) (Elfwing et al. 2018, arXiv:1702.03118, eq. 5).

    >>> [round(v, 4) for v in nn.SiLU()(tensor([-1.0, 2.0])).tolist()]
    [-0.2689, 1.7616]
    """

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.silu(x)


class Mish(Described):
    """Mish: x tanh(log(1 + e^x)) (Misra 2019, arXiv:1908.08681, eq. 1).

    >>> [round(v, 4) for v in nn.Mish()(tensor([-1.0, 2.0])).tolist()]
    [-0.3034, 1.944]
    """

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.mish(x)


class GELU(Described):
    """Gaussian error linear unit: x P(Z <= x) for a standard normal Z (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    approximate="tanh" is their approximation by a tanh.

    >>> round(nn.GELU()(tensor(1.0)).item(), 4), round(nn.GELU("tanh")(tensor(1.0)).item(), 4)
    (0.8413, 0.8412)
    """

    def __init__(self, approximate: str = "none"):
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.gelu(x, approximate=self.approximate)


class Softsign(Described):
    """Softsign: x / (1 + |x|).

    >>> nn.Softsign()(tensor([-3.0, 1.0]))
    tensor([-0.75,  0.5 ])
    """

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return F.softsign(x)


class Softmin(_Along):
    """Softmax of -x along the axis `dim`, the last one by default.

    >>> nn.Softmin()(tensor([[0.0, 1e4]]))
    tensor([[1., 0.]])
    """

    def forward(self, x: Any) -> Any:
        """Turn costs into probabilities."""
        return F.softmin(x, axis=self.dim)


class GLU(_Along):
    """Gated linear unit: a sigmoid(b) for the halves a, b of x along the axis `dim` (Dauphin et al. 2017, Sec. 2).

    ValueError for an odd length.

    >>> nn.GLU()(tensor([3.0, 4.0, 0.0, 1e4]))
    tensor([1.5, 4. ])
    """

    def forward(self, x: Any) -> Any:
        """Gate one half by the other."""
        return F.glu(x, axis=self.dim)


__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "ReLU6",
    "SiLU",
    "Softmin",
    "Softplus",
    "Softsign",
    "Threshold",
]  # fmt: skip
