"""What options of several optimizers may be, and weight decay in its two forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.backend import Array, device_of, on_device
from .groups import at_least_zero, below_one, is_number


class OneOf:
    """Rule of an option that is one of a few words.

    >>> OneOf("lr", "schedule")("step")
    False
    """

    def __init__(self, *choices: str):
        self.choices = choices
        self.__doc__ = f"one of {', '.join(map(repr, choices))}"

    def __call__(self, x: Any) -> bool:
        return isinstance(x, str) and x in self.choices


def above_zero(x: Any) -> bool:
    """a finite number > 0"""  # noqa: D400
    return is_number(x) and x > 0


def count(x: Any) -> bool:
    """an int >= 1"""  # noqa: D400
    return isinstance(x, int) and not isinstance(x, bool) and x >= 1


def count_from_zero(x: Any) -> bool:
    """an int >= 0"""  # noqa: D400
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0


def count_or_none(x: Any) -> bool:
    """an int >= 1, or None"""  # noqa: D400
    return x is None or count(x)


def fraction(x: Any) -> bool:
    """a number in [0, 1]"""  # noqa: D400
    return is_number(x) and 0 <= x <= 1


def at_most_zero(x: Any) -> bool:
    """a finite number <= 0"""  # noqa: D400
    return is_number(x) and x <= 0


def three_below_one(x: Any) -> bool:
    """three numbers in [0, 1)"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 3 and all(map(below_one, x))


def relative_lr(who: str, group: Mapping[str, Any]) -> float:
    """Return lr / initial_lr, how far a schedule has brought the rate; ValueError if it began at 0."""
    if group["lr"] == 0:
        return 0.0
    if group["initial_lr"] == 0:
        raise ValueError(
            f"{who}: these options refer to the initial lr, which was 0 (a warm-up?); give the group its full rate as "
            f"'initial_lr', got initial_lr=0 and lr={group['lr']}"
        )
    return group["lr"] / group["initial_lr"]


def decay_numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return weight decay as numbers of a formula: `l2`, added to the gradient, or `shrink`, a factor of theta."""
    rate = group["weight_decay"] or None
    if rate is None or not group.get("decoupled_weight_decay", False):
        return {"l2": rate, "shrink": None}
    return {"l2": None, "shrink": 1 - group["lr"] * rate}


def decayed(theta: Any, g: Any, l2: Any, shrink: Any) -> tuple[Any, Any]:
    """Return theta and g with weight decay: g + l2 theta, or shrink theta."""
    if shrink is not None:
        theta = shrink * theta
    if l2 is not None:
        g = g + l2 * theta
    return theta, g


def zeros(theta: Array, shape: tuple[int, ...]) -> Array:
    """Return zeros of another shape, of the dtype and on the device of a parameter."""
    xp, device = on_device(device_of(theta))
    with device:
        return xp.zeros(shape, theta.dtype)


def nothing_or_at_least_zero(x: Any) -> bool:
    """a finite number >= 0, or None"""  # noqa: D400
    return x is None or at_least_zero(x)
