"""The table of derivatives, and where its entries appear: as operators, methods and NumPy functions of a Tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.backend import Device
from ..engine.calls import operator
from ..engine.op import Op, takes
from ..engine.tensor import NUMPY_FUNCTIONS, Tensor
from . import (
    activations,
    attention,
    batch,
    conv,
    elementwise,
    functions,
    index,
    linalg,
    losses,
    network,
    normalization,
    padding,
    pool,
    products,
    rearrange,
    reduce,
    resample,
    rounding,
    scan,
    shape,
    vectors,
)
from .activations import *
from .attention import *
from .batch import *
from .conv import *
from .elementwise import *
from .functions import *
from .index import *
from .linalg import *
from .losses import *
from .network import *
from .normalization import *
from .padding import *
from .pool import *
from .products import *
from .rearrange import *
from .reduce import *
from .resample import *
from .rounding import *
from .scan import *
from .shape import *
from .vectors import *

# ---- operators ---------------------------------------------------------------------------------------------------


# fmt: off
BINARY = {"add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
          "floordiv": floor_divide, "mod": mod, "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor}
# fmt: on
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
setattr(Tensor, "__iter__", lambda self: iter(unstack(self) if len(self) else ()))  # noqa: B010
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
    return out if device is None or Device(device) == out.device else move(out, device=device)


_SAME = (
    exp, log, sqrt, tanh, sigmoid, sum, mean, var, std, prod, max, min, ptp, argmax, argmin, any, all, cumsum, cumprod,
    logsumexp, copy, clip, round, squeeze, ravel, swapaxes, repeat, take, diagonal, argsort, nonzero,
)  # fmt: skip
METHODS: dict[str, Callable[..., Any]] = {
    **{f.name if isinstance(f, Op) else f.__name__: f.call if isinstance(f, Op) else f for f in _SAME},
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

__all__ = [
    *activations.__all__,
    *attention.__all__,
    *batch.__all__,
    *conv.__all__,
    *elementwise.__all__,
    *functions.__all__,
    *index.__all__,
    *linalg.__all__,
    *losses.__all__,
    *network.__all__,
    *normalization.__all__,
    *padding.__all__,
    *pool.__all__,
    *products.__all__,
    *rearrange.__all__,
    *reduce.__all__,
    *resample.__all__,
    *rounding.__all__,
    *scan.__all__,
    *shape.__all__,
    *vectors.__all__,
]

# Every public name that NumPy has too answers to NumPy's.
for _name in __all__:
    _function = globals()[_name]
    _theirs = _function.ufunc if isinstance(_function, Op) and _function.ufunc else getattr(np, _name, None)
    if isinstance(_function, Op):
        _function.call.__name__ = _function.call.__qualname__ = _name  # in Python's own messages
    if _theirs not in (None, np.put_along_axis):  # which writes into its argument, where ours returns a new array
        NUMPY_FUNCTIONS[_theirs] = _function.call if isinstance(_function, Op) else _function
NUMPY_FUNCTIONS |= {np.shape: lambda x: x.shape, np.ndim: lambda x: x.ndim, np.size: lambda x: x.size}
