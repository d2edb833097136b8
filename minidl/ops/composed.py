"""How functions that are made of operations take their first argument: as operations do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ..engine.backend import MODULES
from ..engine.tensor import TENSORS
from .linalg import operands
from .shape import numpy_signature

F = TypeVar("F", bound=Callable[..., Any])


def composed(function: F) -> F:
    """Let a function take a list or a number for an array, and name axis= to those who write dim=.

    TypeError, naming the function, for anything else.
    """

    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Any:
        if args and type(args[0]) not in TENSORS and type(args[0]) not in MODULES:
            args = (*operands(function.__name__, args[0]), *args[1:])
        return function(*args, **settings)

    return numpy_signature(call)  # type: ignore[return-value]
