"""What constructors of layers share: checked settings, and a text made of them."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.tensor import Parameter
from .module import Module


class Described(Module):
    """A module whose constructor's arguments are its attributes: its text is the call that makes it.

    Arguments at their defaults, `device` and `dtype` are left out; a Parameter stands for True.

    >>> nn.Conv1d(2, 3, 5, bias=False)
    Conv1d(in_channels=2, out_channels=3, kernel_size=(5,), bias=False)  # weight (3, 2, 5): 30 parameters
    """

    def extra_repr(self) -> str:
        """Return the settings."""
        shown = []
        for name, argument in inspect.signature(type(self)).parameters.items():
            value, default = vars(self).get(name), argument.default
            if isinstance(default, bool):
                value = value is not None and (isinstance(value, Parameter) or bool(value))
            usual = value == default or (isinstance(value, tuple) and set(value) == {default})
            if name not in ("device", "dtype") and not usual:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)

    def _call(self, function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        """Call a function of arrays; what it raises begins with the layer."""
        try:
            return function(*args, **settings)
        except (ValueError, TypeError, IndexError) as error:
            raise type(error)(f"{self._title()}: {error}") from error


def sizes(who: str, name: str, value: Any, n: int, least: int = 1) -> tuple[int, ...]:
    """Return n integers, of which one may stand for all; ValueError naming the setting if they are no such.

    >>> sizes("Conv2d", "stride", 2, 2), sizes("Conv2d", "stride", (2, 1), 2)
    ((2, 2), (2, 1))
    """
    given = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * n
    try:
        numbers = tuple(map(operator.index, given))
    except TypeError:
        numbers = ()
    if len(numbers) != n or min(numbers, default=least) < least or any(isinstance(v, bool) for v in given):
        rule = f"an integer of at least {least}" + (f", or {n} of them" if n > 1 else "")
        raise ValueError(f"{who}: {name} must be {rule}, got {value!r}")
    return numbers


def integer(who: str, name: str, value: Any) -> int:
    """Return an integer; TypeError naming the setting for anything else.

    >>> integer("NLLLoss", "ignore_index", np.int64(-1))
    -1
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{who}: {name} must be an integer or None, got {value!r}") from None


def number(who: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number in [low, high] as a float; ValueError naming the setting for anything else.

    >>> number("Dropout", "p", 1, 0, 1)
    1.0
    """
    real = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and low <= value <= high):
        ends = f" in [{low:g}, {high:g}]" if high < math.inf else f" >= {low:g}" if low > -math.inf else ""
        raise ValueError(f"{who}: {name} must be a finite number{ends}, got {name}={value!r}")
    return float(value)
