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
from .functions import (
    arccos,
    arccosh,
    arcsin,
    arcsinh,
    arctan,
    arctan2,
    arctanh,
    cbrt,
    cos,
    cosh,
    erf,
    erfc,
    exp2,
    expm1,
    hypot,
    log1p,
    log2,
    log10,
    logaddexp,
    logaddexp2,
    reciprocal,
    sin,
    sinc,
    sinh,
    square,
    tan,
    xlogy,
)
from .index import (
    getitem,
    take_along_axis,
)
from .linalg import (
    matmul,
)
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
from .rearrange import (
    atleast_1d,
    atleast_2d,
    atleast_3d,
    diag,
    diagonal,
    flip,
    index_add,
    index_set,
    meshgrid,
    moveaxis,
    nonzero,
    pad,
    put_along_axis,
    repeat,
    roll,
    split,
    swapaxes,
    take,
    tile,
    tril,
    triu,
)
from .reduce import (
    all,
    any,
    argmax,
    argmin,
    count_nonzero,
    logsumexp,
    max,
    mean,
    min,
    ptp,
    std,
    sum,
    var,
)
from .rounding import (
    allclose,
    bitwise_xor,
    ceil,
    clip,
    copysign,
    floor,
    floor_divide,
    fmod,
    isclose,
    isfinite,
    isinf,
    isnan,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    mod,
    nan_to_num,
    round,
    signbit,
    trunc,
)
from .scan import (
    argsort,
    cumprod,
    cumsum,
    logcumsumexp,
    median,
    prod,
    quantile,
    sort,
    topk,
    unique,
)
from .shape import (
    broadcast_to,
    concatenate,
    expand_dims,
    ravel,
    reshape,
    squeeze,
    stack,
    transpose,
)

abs = absolute

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

# fmt: off
__all__ = [
    "abs",
    "absolute",
    "add",
    "all",
    "allclose",
    "any",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "argmax",
    "argmin",
    "argsort",
    "astype",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "batch_norm",
    "batch_norm_train",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "broadcast_to",
    "cbrt",
    "ceil",
    "clip",
    "concatenate",
    "copy",
    "copysign",
    "cos",
    "cosh",
    "count_nonzero",
    "cross_entropy",
    "cumprod",
    "cumsum",
    "diag",
    "diagonal",
    "divide",
    "dropout",
    "dropout_mask",
    "equal",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expand_dims",
    "expm1",
    "flip",
    "floor",
    "floor_divide",
    "fmod",
    "getitem",
    "greater",
    "greater_equal",
    "hypot",
    "index_add",
    "index_set",
    "invert",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "linear",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_softmax",
    "logaddexp",
    "logaddexp2",
    "logcumsumexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsumexp",
    "matmul",
    "max",
    "maximum",
    "mean",
    "median",
    "meshgrid",
    "min",
    "minimum",
    "mod",
    "move",
    "moveaxis",
    "multiply",
    "nan_to_num",
    "negative",
    "nonzero",
    "not_equal",
    "pad",
    "power",
    "prod",
    "ptp",
    "put_along_axis",
    "quantile",
    "ravel",
    "reciprocal",
    "relu",
    "repeat",
    "reshape",
    "roll",
    "round",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinc",
    "sinh",
    "softmax",
    "sort",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "swapaxes",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tile",
    "topk",
    "transpose",
    "tril",
    "triu",
    "trunc",
    "unique",
    "var",
    "where",
    "xlogy",
]
# fmt: on

# Every public name that NumPy has too answers to NumPy's.
for _name in __all__:
    _function = globals()[_name]
    _theirs = _function.ufunc if isinstance(_function, Op) and _function.ufunc else getattr(np, _name, None)
    if isinstance(_function, Op):
        _function.call.__name__ = _function.call.__qualname__ = _name  # in Python's own messages
    if _theirs is not None:
        NUMPY_FUNCTIONS[_theirs] = _function.call if isinstance(_function, Op) else _function
NUMPY_FUNCTIONS |= {np.shape: lambda x: x.shape, np.ndim: lambda x: x.ndim, np.size: lambda x: x.size}
