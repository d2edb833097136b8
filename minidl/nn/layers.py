"""Layers: affine maps, activations, dropout. Class names, arguments and defaults are PyTorch's."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from ..engine.backend import checked_dtype, default_device, get_default_dtype, on_device
from ..engine.tensor import Parameter, wrap
from ..ops.shape import reshape
from . import functional as F
from . import init
from .module import Module


def new_parameter(shape: tuple[int, ...], device: str | None = None, dtype: Any = None, order: str = "C") -> Parameter:
    """Make a parameter whose values are still to be filled in; `order` is that of its memory, "C" or "F".

    >>> new_parameter((2, 3)).shape
    (2, 3)
    """
    kind = get_default_dtype() if dtype is None else checked_dtype(np.dtype(dtype), "Parameter")
    xp, place = on_device(device or default_device())
    with place:
        p: Parameter = wrap(xp.empty(shape, kind, order=order), cls=Parameter)
    p.requires_grad = True
    return p


def size(who: str, **named: Any) -> int:
    """Return a size given by name, such as in_features=3; ValueError naming it unless it is an integer >= 1."""
    ((name, value),) = named.items()
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{who}: {name} must be an integer of at least 1, got {value!r}")
    return number


class Linear(Module):
    """Affine map y = x W' + b, on the last axis. Shapes: x (..., in_features) -> (..., out_features).

    weight (out_features, in_features), bias (out_features,), both drawn from U(-s, s), s = 1/sqrt(in_features).
    ValueError for another length of the last axis, TypeError for another dtype.

    In memory the weight lies (in, out), the order in which x W' reads it (measured: 75 against 111 us for 784 -> 128 at
    batch 32).

    >>> layer = nn.Linear(3, 2)
    >>> layer.weight.shape, layer(ones(5, 3)).shape
    ((2, 3), (5, 2))
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: str | None = None, dtype: Any = None
    ):
        self.in_features = size("Linear", in_features=in_features)
        self.out_features = size("Linear", out_features=out_features)
        self.weight = new_parameter((self.out_features, self.in_features), device, dtype, order="F")
        self.bias = new_parameter((self.out_features,), device, dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # bound 1/sqrt(in_features), as PyTorch writes it
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        """Apply the map."""
        try:
            return F.linear(x, self.weight, self.bias)
        except (ValueError, TypeError) as error:
            raise self._explain(x, error) from error

    def _explain(self, x: Any, error: Exception) -> Exception:
        """Say what does not fit in terms of the layer; other errors pass as they are."""
        shape, dtype, mine = np.shape(getattr(x, "array", x)), getattr(x, "dtype", None), self.weight.dtype
        if shape[-1:] != (self.in_features,):
            rule = f"expected {self.in_features} input features (the last axis)"
            return ValueError(f"{self._title()}: {rule}, got shape {shape}")
        if dtype is not None and dtype != mine:
            return TypeError(f"{self._title()}: {dtypes_differ(dtype, mine)}")
        return error

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied or unpickled layer, its weight in the same order of memory."""
        vars(self).update(state)
        array = self.weight.array
        if not array.flags.f_contiguous:
            xp, place = on_device(self.weight.device)
            with place:
                self.weight.array = xp.asfortranarray(array)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def dtypes_differ(x: Any, layer: Any) -> str:
    """Return the text of an error about two dtypes.

    >>> dtypes_differ("float64", "float32")
    "the input is float64 and the layer float32; use x.astype('float32'), or .to('float64') on the layer"
    """
    other = f", or .to({str(x)!r}) on the layer" if np.dtype(x).kind == "f" else ""
    return f"the input is {x} and the layer {layer}; use x.astype({str(layer)!r}){other}"


class Identity(Module):
    """Return the input: a place holder in networks that are put together by a program.

    >>> nn.Identity()(3)
    3
    """

    def forward(self, x: Any) -> Any:
        """Return x itself."""
        return x


class Flatten(Module):
    """Make one axis of the axes start_dim to end_dim (included): by default, one row of numbers for each sample.

    >>> nn.Flatten()(zeros(5, 28, 28)).shape, nn.Flatten(0, 1)(zeros(5, 2, 3)).shape
    ((5, 784), (10, 3))
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim = operator.index(start_dim)
        self.end_dim = operator.index(end_dim)

    def forward(self, x: Any) -> Any:
        """Reshape x."""
        shape = tuple(x.shape)
        first, last = (normalize_axis_index(d, len(shape), self._title()) for d in (self.start_dim, self.end_dim))
        if first > last:
            raise ValueError(f"{self._title()}: start_dim must not come after end_dim, as it does for shape {shape}")
        return reshape(x, shape=(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class ReLU(Module):
    """Rectifier max(x, 0), elementwise; its derivative at 0 is 0.

    >>> nn.ReLU()(tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, x: Any) -> Any:
        """Rectify x."""
        return F.relu(x)


class Tanh(Module):
    """Hyperbolic tangent, elementwise.

    >>> nn.Tanh()(tensor([0.0, 100.0]))
    tensor([0., 1.])
    """

    def forward(self, x: Any) -> Any:
        """Apply tanh."""
        return F.tanh(x)


class Sigmoid(Module):
    """Logistic function 1 / (1 + e^-x), elementwise.

    >>> nn.Sigmoid()(tensor([0.0, 1000.0]))
    tensor([0.5, 1. ])
    """

    def forward(self, x: Any) -> Any:
        """Apply the logistic function."""
        return F.sigmoid(x)


class _Along(Module):
    """A function along one axis, `dim`. (PyTorch's default, to guess the axis, is not offered.)."""

    def __init__(self, dim: int = -1):
        self.dim = operator.index(dim)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"dim={self.dim}"


class Softmax(_Along):
    """Probabilities e^x_i / sum_j e^x_j along the axis `dim`, the last one by default.

    >>> nn.Softmax()(tensor([[0.0, 0.0]]))
    tensor([[0.5, 0.5]])
    """

    def forward(self, x: Any) -> Any:
        """Turn scores into probabilities."""
        return F.softmax(x, axis=self.dim)


class LogSoftmax(_Along):
    """Log-probabilities x_i - log sum_j e^x_j along the axis `dim`, finite where log(softmax(x)) is -inf.

    >>> nn.LogSoftmax()(tensor([[0.0, 1e4]]))
    tensor([[-10000.,      0.]])
    """

    def forward(self, x: Any) -> Any:
        """Turn scores into log-probabilities."""
        return F.log_softmax(x, axis=self.dim)


class Dropout(Module):
    """In training, set each element to 0 with probability p and scale the others by 1 / (1 - p); else pass x on.

    The masks come from the library's random stream (`manual_seed`). ValueError unless 0 <= p <= 1 (Srivastava et al.
    2014, JMLR 15).

    >>> nn.Dropout(0.5).eval()(tensor([1.0, 2.0])), nn.Dropout(1.0)(tensor([1.0, 2.0]))
    (tensor([1., 2.]), tensor([0., 0.]))
    """

    def __init__(self, p: float = 0.5):
        if not isinstance(p, (int, float, np.floating)) or not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be in [0, 1], got p={p!r}")
        self.p = float(p)

    def forward(self, x: Any) -> Any:
        """Drop elements in training mode."""
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"p={self.p}"
