"""Methods that compute the parameters anew from sums of gradients: MADGRAD, FTRL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..engine.backend import Array
from .base import Optimizer
from .groups import at_least_zero, below_one
from .rules import above_zero, decay_numbers, decayed


class MADGRAD(Optimizer):
    """Dual averaging with cube roots of squares, and momentum (Defazio & Jelassi 2022, arXiv:2101.11075, Alg. 1).

        g <- g + weight_decay theta
        s <- s + lr sqrt(t) g,   v <- v + lr sqrt(t) g^2
        theta <- theta + (1 - momentum) (z - theta),   z = x0 - s / (cbrt(v) + eps),   x0 the first theta

    The authors' code and optax add eps to lr; this is the paper. Use less weight decay than with SGD, often none.
    ValueError for a negative or non-finite option, for momentum outside [0, 1), and for eps = 0.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([8.0])
    >>> MADGRAD([w], lr=0.125, momentum=0.5).step()
    >>> w  # z = 1 - 0.125 * 8 / cbrt(8)
    tensor([0.7500001], requires_grad=True)
    """

    slots = ("s", "v", "x0")
    rules: ClassVar = {"momentum": below_one, "eps": above_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eps: float = 1e-6,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, eps=eps, maximize=maximize)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return theta if slot == "x0" else 0.0

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        numbers = {"weight": group["lr"] * t**0.5, "pull": 1 - group["momentum"], "eps": group["eps"]}
        return {**numbers, **decay_numbers(group)}

    def update(self, xp, theta, g, s, v, x0, *, weight, pull, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        s = s + weight * g
        v = v + weight * g * g
        z = x0 - s / (xp.cbrt(v) + eps)
        return theta + pull * (z - theta), s, v, x0


class FTRL(Optimizer):
    """Follow the regularized leader, for sparse linear models (McMahan et al. 2013, KDD, Alg. 1, "FTRL-Proximal").

        z <- z + g - (sqrt(n + g^2) - sqrt(n)) / lr theta,   n <- n + g^2
        theta <- -(z - clip(z, -l1, l1)) / ((beta + sqrt(n)) / lr + l2)

    theta is exactly 0 where |z| <= l1. The method starts from 0: the first step forgets most of the initial theta. n
    starts at initial_accumulator_value, 0.1 as in Keras, whose l2 is half of this one. ValueError for lr <= 0 and for a
    negative or non-finite option.

    >>> import minidl as md
    >>> w = md.tensor([0.0, 0.0], requires_grad=True)
    >>> w.grad = md.tensor([3.0, 0.5])
    >>> FTRL([w], lr=1.0, l1=1.0, initial_accumulator_value=0.0).step()
    >>> w  # -(3 - 1) / 3, and 0
    tensor([-0.6666667,  0.       ], requires_grad=True)
    """

    slots = ("z", "n")
    rules: ClassVar = {
        "lr": above_zero,
        "l1": at_least_zero,
        "l2": at_least_zero,
        "beta": at_least_zero,
        "initial_accumulator_value": at_least_zero,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        l1: float = 0.0,
        l2: float = 0.0,
        beta: float = 0.0,
        initial_accumulator_value: float = 0.1,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "l1": l1, "l2": l2, "beta": beta, "initial_accumulator_value": initial_accumulator_value}
        super().__init__(params, **options, maximize=maximize)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> float:
        return group["initial_accumulator_value"] if slot == "n" else 0.0

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        lr = group["lr"]
        return {"lr": lr, "l1": group["l1"], "added": group["beta"] / lr + group["l2"]}

    def update(self, xp, theta, g, z, n, *, lr, l1, added):
        new = n + g * g
        root = xp.sqrt(new)
        z = z + g - (root - xp.sqrt(n)) / lr * theta
        curvature = root / lr + added
        # Where nothing has been seen and nothing is added, the quotient is 0 / 0, and theta 0.
        theta = (xp.clip(z, -l1, l1) - z) / xp.where(curvature > 0, curvature, 1.0)
        return theta, z, new
