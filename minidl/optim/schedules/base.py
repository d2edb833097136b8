"""Schedule: a number as a pure function of the step; and how it combines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Schedule:
    """The base of all schedules: `schedule(t)` is the value for step t = 0, 1, 2, ..., a closed formula of t.

    A subclass is a frozen dataclass and defines `value(t)`. Nothing is remembered between calls, so training resumes
    right at any step. t may be fractional (an epoch and a half); ValueError if it is negative or not finite. A schedule
    times a number is `Scaled`, times another schedule `Product`, plus either `Sum`.

    >>> from minidl.optim.schedules import Linear
    >>> half = 0.5 * Linear(1.0, steps=4)
    >>> [half(t) for t in range(6)]
    [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    def value(self, t: float) -> float:
        """Compute the value for step t >= 0."""
        raise NotImplementedError(f"{type(self).__name__}: a schedule defines value(t)")

    def __call__(self, t: float) -> float:
        """Return the value for step t; t = 0 is the first step."""
        if not 0 <= t < math.inf:
            raise ValueError(f"{type(self).__name__}: t counts the steps from 0, got t={t!r}")
        return float(self.value(t))

    def __mul__(self, other: Any) -> Schedule:
        from .combine import Product, Scaled  # combinations are schedules themselves

        if isinstance(other, Schedule):
            return Product((self, other))
        return Scaled(self, float(other)) if isinstance(other, (int, float, np.number)) else NotImplemented

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Schedule:
        from .combine import Sum
        from .decay import Constant

        if isinstance(other, Schedule):
            return Sum((self, other))
        return Sum((self, Constant(float(other)))) if isinstance(other, (int, float, np.number)) else NotImplemented

    __radd__ = __add__


# ---- shapes that several schedules share -----------------------------------------------------------------------------


def cosine(x: float) -> float:
    """Fall from 1 at x = 0 to 0 at x = 1 along half a cosine: (1 + cos(pi x)) / 2, exactly 0 at the end."""
    return 0.0 if x == 1 else (1 + math.cos(math.pi * x)) / 2


def power(gamma: float, x: float) -> float:
    """Return gamma^x, or inf where that is too large for a float: a bound may still apply."""
    try:
        return float(gamma**x)
    except OverflowError:
        return math.inf


def between(start: float, end: float, x: float) -> float:
    """Return the point at x in [0, 1] of the way from start to end, exact at both."""
    return start * (1 - x) + end * x
