"""minidl: automatic differentiation from scratch, exact to any order, on NumPy or CuPy.

>>> import minidl as md
>>> x = md.tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> loss = (x * x).sum()
>>> loss.backward()
>>> x.grad
tensor([2., 4., 6.])
"""

import importlib as _importlib
from typing import TYPE_CHECKING

from numpy import bool_, float16, float32, float64, int8, int16, int32, int64, uint8

from . import creation, data, func, io, linalg, nn, ops, optim, random
from ._threads import threads
from .creation import *
from .engine import autograd
from .engine.anomaly import detect_anomaly
from .engine.backend import Device as device
from .engine.backend import get_default_dtype, set_default_dtype, transfers
from .engine.check import check_grad
from .engine.explain import ELSEWHERE
from .engine.modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .engine.op import Op
from .engine.tensor import Parameter, Tensor, live_tensors
from .io import load, save
from .ops import *

if TYPE_CHECKING:
    from . import second_order
    from .compiler.capture import capture

__version__ = "0.1.0"
# fmt: off
__all__ = [
    "Op", "Parameter", "Tensor", "__version__", "autograd", "bool_", "capture", "check_grad", "data", "detect_anomaly",
    "device", "enable_grad", "float16", "float32", "float64", "func", "get_default_dtype", "int8",
    "int16", "int32", "int64", "io", "is_grad_enabled", "linalg",
    "live_tensors", "load", "nn", "no_grad", "ops", "optim",
    "random", "save", "second_order", "set_default_dtype", "set_grad_enabled", "threads", "transfers", "uint8",
    *creation.__all__, *ops.__all__,
]
# fmt: on


def __getattr__(name: str) -> object:
    if name == "capture":  # steps as programs: loaded when first used
        return _importlib.import_module(f"{__name__}.compiler.capture").capture
    if name == "second_order":  # curvature, spectra, critical points: loaded when first used
        return _importlib.import_module(f"{__name__}.{name}")
    hint = f"; here it is {ELSEWHERE[name]}" if name in ELSEWHERE else ""
    raise AttributeError(f"module 'minidl' has no attribute {name!r}{hint}")
