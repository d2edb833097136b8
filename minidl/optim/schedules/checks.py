"""Checks of a schedule's settings: each keeps them as plain Python values and names what is wrong with them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np


def number(schedule: Any, rule: str, allowed: Callable[[float], bool], *names: str) -> None:
    """Raise ValueError naming name=value for a setting that is not a number, or not allowed."""
    for name in names:
        object.__setattr__(schedule, name, checked(schedule, rule, allowed, name, getattr(schedule, name)))


def checked(schedule: Any, rule: str, allowed: Callable[[float], bool], name: str, value: Any) -> Any:
    """Return a number as a plain Python one, if it is allowed."""
    plain = value.item() if isinstance(value, np.generic) else value
    known = isinstance(plain, (int, float)) and not isinstance(plain, bool)
    if isinstance(plain, int) and abs(plain) > sys.float_info.max:
        known = False  # too large for a float
    if not known or not allowed(plain):
        raise ValueError(f"{type(schedule).__name__}: {name} must be {rule}, got {name}={value!r}")
    return plain


def finite(schedule: Any, *names: str) -> None:
    """Check for finite numbers."""
    number(schedule, "a finite number", math.isfinite, *names)


def positive(schedule: Any, *names: str) -> None:
    """Check for numbers > 0."""
    number(schedule, "a finite number > 0", lambda x: 0 < x < math.inf, *names)


def at_least_zero(schedule: Any, *names: str) -> None:
    """Check for numbers >= 0."""
    number(schedule, "a finite number >= 0", lambda x: 0 <= x < math.inf, *names)


def at_least_one(schedule: Any, *names: str) -> None:
    """Check for numbers >= 1."""
    number(schedule, "a finite number >= 1", lambda x: 1 <= x < math.inf, *names)


def share(schedule: Any, *names: str) -> None:
    """Check for numbers in [0, 1]."""
    number(schedule, "a number in [0, 1]", lambda x: 0 <= x <= 1, *names)


def one_of(schedule: Any, name: str, choices: Iterable[str]) -> None:
    """Check for one of several words."""
    value = getattr(schedule, name)
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(f"{type(schedule).__name__}: {name} must be one of {words}, got {name}={value!r}")


def numbers(schedule: Any, name: str, increasing: bool = False) -> None:
    """Check for a sequence of finite numbers, or of steps >= 0 that increase; it becomes a tuple."""
    given = getattr(schedule, name)
    if isinstance(given, (str, dict, set)) or not isinstance(given, Iterable):
        raise ValueError(f"{type(schedule).__name__}: {name} must be a sequence of numbers, got {name}={given!r}")
    values = tuple(checked(schedule, "finite numbers", math.isfinite, name, x) for x in given)
    if increasing and (any(b <= a for a, b in pairwise(values)) or min(values, default=0) < 0):
        raise ValueError(f"{type(schedule).__name__}: {name} must be steps >= 0 that increase, got {name}={values!r}")
    object.__setattr__(schedule, name, values)


def flags(schedule: Any, *names: str) -> None:
    """Check for True or False."""
    for name in names:
        if not isinstance(value := getattr(schedule, name), bool):
            raise ValueError(f"{type(schedule).__name__}: {name} must be True or False, got {name}={value!r}")


def schedules(schedule: Any, name: str, given: Iterable[Any]) -> None:
    """Check for functions of the step; plain functions are allowed, numbers are not."""
    for x in given:
        if not callable(x) or isinstance(x, type):
            rule = f"{name} must be schedules, functions of the step"
            raise ValueError(f"{type(schedule).__name__}: {rule}, got {name}={x!r}")


def sequence(schedule: Any, name: str) -> tuple[Any, ...]:
    """Check for several things; they become a tuple."""
    given = getattr(schedule, name)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{type(schedule).__name__}: {name} must be a sequence, got {name}={given!r}")
    object.__setattr__(schedule, name, tuple(given))
    return tuple(getattr(schedule, name))
