"""How functions that are made of operations take and return arrays: as operations do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..engine import backend
from ..engine.backend import MODULES
from ..engine.op import takes
from ..engine.tensor import TENSORS, wrap
from .linalg import operands

F = TypeVar("F", bound=Callable[..., Any])


def composed(function: F) -> F:
    """Let a function of tensors take arrays, lists and numbers first, and name axis= to those who write dim=.

    Where no argument is a tensor the result is an array: NumPy's own operators would make 0-d arrays numbers.
    TypeError, naming the function, for anything else in the first place.
    """

    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Any:
        if settings and ("dim" in settings or "keepdim" in settings):
            raise TypeError(f"{function.__name__}: dim= and keepdim= are called axis= and keepdims= here, as in NumPy")
        if not args or type(args[0]) in TENSORS:
            return function(*args, **settings)
        if not takes(args[0]):
            kind = type(args[0]).__name__
            raise TypeError(f"{function.__name__}: needs tensors, arrays or real numbers, got {kind}")
        first = args[0] if type(args[0]) in MODULES else operands(function.__name__, args[0])[0]
        out = function(wrap(first), *args[1:], **settings)
        return out if any(type(x) in TENSORS for x in (*args[1:], *settings.values())) else out.array

    return call  # type: ignore[return-value]


def look(x: Any, check: Callable[[np.ndarray], None]) -> None:
    """Check values on the CPU, at each replay of a captured step too. On a GPU nobody looks: it would wait."""
    array = getattr(x, "array", x)
    if type(array) is np.ndarray:
        check(array)
    elif isinstance(array, np.ndarray):
        backend.recorder.look(check, array)
