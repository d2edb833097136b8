"""The table of derivatives, and where its entries appear: as operators, methods and NumPy functions of a Tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.calls import operator
from ..engine.op import Op, takes
from ..engine.tensor import NUMPY_FUNCTIONS, Tensor
from . import linalg
from .elementwise import (
    absolute,
    add,
    astype,
    bitwise_and,
    bitwise_or,
    copy,
    divide,
    equal,
    exp,
    greater,
    greater_equal,
    invert,
    less,
    less_equal,
    log,
    maximum,
    minimum,
    move,
    multiply,
    negative,
    not_equal,
    power,
    sigmoid,
    sign,
    sqrt,
    subtract,
    tanh,
    where,
)
from .index import getitem, take_along_axis
from .linalg import matmul
from .network import (
    batch_norm,
    batch_norm_train,
    cross_entropy,
    dropout,
    dropout_mask,
    linear,
    log_softmax,
    relu,
    softmax,
)
from .reduce import argmax, logsumexp, max, mean, sum, var
from .shape import broadcast_to, concatenate, expand_dims, ravel, reshape, squeeze, stack, transpose

abs = absolute

# ---- operators ---------------------------------------------------------------------------------------------------


BINARY = {"add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
          "and": bitwise_and, "or": bitwise_or}  # fmt: skip
COMPARISONS = {"eq": equal, "ne": not_equal, "lt": less, "le": less_equal, "gt": greater, "ge": greater_equal}
UNARY = {"neg": negative, "abs": absolute, "invert": invert}

for _name, _op in BINARY.items():
    setattr(Tensor, f"__{_name}__", operator(_op, takes))
    setattr(Tensor, f"__r{_name}__", operator(_op, takes, reflected=True))
for _name, _op in COMPARISONS.items():
    setattr(Tensor, f"__{_name}__", operator(_op, takes))
for _name, _op in UNARY.items():
    setattr(Tensor, f"__{_name}__", _op.call)
setattr(Tensor, "__getitem__", getitem)  # noqa: B010 (mypy takes an assignment for a mistake)
setattr(Tensor, "__pos__", lambda self: self)  # noqa: B010

# ---- methods -----------------------------------------------------------------------------------------------------


def _varied(function: Any, key: str) -> Callable[..., Any]:
    """Let t.reshape(2, 3) mean t.reshape((2, 3)), as in NumPy."""

    def method(self: Any, *values: Any, **named: Any) -> Any:
        if values:
            named[key] = tuple(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else values
        return function(self, **named)

    return method


def _to(self: Tensor, *target: Any, device: str | None = None, dtype: Any = None) -> Tensor:
    """Return the tensor on another device or of another dtype; itself where nothing changes. Differentiable."""
    for value in target:
        if isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"):
            device = value
        else:
            dtype = value
    out = self
    if dtype is not None and np.dtype(dtype) != out.dtype:
        out = astype(out, dtype=np.dtype(dtype))
    return out if device is None or device == out.device else move(out, device=device)


METHODS: dict[str, Callable[..., Any]] = {
    **{op.name: op.call for op in (exp, log, sqrt, tanh, sigmoid, sum, mean, var, max, argmax, copy)},
    "logsumexp": logsumexp.call,
    "squeeze": squeeze,
    "ravel": ravel,
    "flatten": lambda self: ravel(self).copy(),
    "reshape": _varied(reshape, "shape"),
    "transpose": _varied(transpose, "axes"),
    "astype": lambda self, dtype: astype(self, dtype=np.dtype(dtype)),
    "to": _to,
    "cpu": lambda self: _to(self, device="cpu"),
    "cuda": lambda self, index=0: _to(self, device=f"cuda:{index}"),
    "float": lambda self: _to(self, dtype=np.float32),
    "double": lambda self: _to(self, dtype=np.float64),
}

for _name, _function in METHODS.items():
    setattr(Tensor, _name, _function)
setattr(Tensor, "T", property(lambda self: transpose(self)))  # noqa: B010
setattr(Tensor, "mT", property(linalg.swap))  # noqa: B010

# ---- numpy.f(tensor) ---------------------------------------------------------------------------------------------

# fmt: off
__all__ = [
    "abs", "absolute", "add", "argmax", "astype", "batch_norm", "batch_norm_train", "bitwise_and", "bitwise_or",
    "broadcast_to", "concatenate", "copy", "cross_entropy", "divide", "dropout", "dropout_mask", "equal", "exp",
    "expand_dims", "getitem", "greater", "greater_equal", "invert", "less", "less_equal", "linear", "log",
    "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "minimum", "move", "multiply", "negative",
    "not_equal", "power", "ravel", "relu", "reshape", "sigmoid", "sign", "softmax", "sqrt", "squeeze", "stack",
    "subtract", "sum", "take_along_axis", "tanh", "transpose", "var", "where",
]
# fmt: on

# Every public name that NumPy has too answers to NumPy's.
for _name in __all__:
    _function = globals()[_name]
    _theirs = _function.ufunc if isinstance(_function, Op) and _function.ufunc else getattr(np, _name, None)
    if _theirs is not None:
        NUMPY_FUNCTIONS[_theirs] = _function.call if isinstance(_function, Op) else _function
NUMPY_FUNCTIONS |= {np.shape: lambda x: x.shape, np.ndim: lambda x: x.ndim, np.size: lambda x: x.size}
