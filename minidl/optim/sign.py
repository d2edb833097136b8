"""Steps of one size for every element, in the direction of a sign: signSGD, Signum, Lion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Optimizer
from .groups import below_one


class SignSGD(Optimizer):
    """Step by lr against the sign of the gradient (Bernstein et al. 2018, arXiv:1802.04434, Alg. 1 and 2).

        m <- momentum m + (1 - momentum) g                     Signum, with momentum > 0
        theta <- theta - lr (sign(m) + weight_decay theta)     sign(0) = 0

    ValueError for a negative or non-finite option, and for momentum outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0, 1.0], requires_grad=True)
    >>> w.grad = md.tensor([1e-3, -1e3, 0.0])
    >>> SignSGD([w], lr=0.25).step()
    >>> w
    tensor([0.75, 1.25, 1.  ], requires_grad=True)
    """

    slots = ("m",)
    rules: ClassVar = {"momentum": below_one}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize)

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["momentum"] else ()

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        decay = group["lr"] * group["weight_decay"]
        return {"lr": group["lr"], "beta": group["momentum"] or None, "shrink": 1 - decay if decay else None}

    def update(self, xp, theta, g, m=None, *, lr, beta, shrink):
        theta = theta if shrink is None else shrink * theta
        if beta is None:
            return theta - lr * xp.sign(g)
        m = beta * m + (1 - beta) * g
        return theta - lr * xp.sign(m), m


class Signum(SignSGD):
    """Step by lr against the sign of the mean gradient: SignSGD with momentum 0.9 (Bernstein et al. 2018, Alg. 2).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = Signum([w], lr=0.25)
    >>> for g in (1.0, -5.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # the mean was 0.1, then -0.41
    tensor([1.], requires_grad=True)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, momentum, weight_decay, maximize=maximize)


class Lion(Optimizer):
    """Step by lr along a sign, of two running means in one (Chen et al. 2023, arXiv:2302.06675, Alg. 2).

        theta <- theta - lr (sign(b1 m + (1 - b1) g) + weight_decay theta)
        m <- b2 m + (1 - b2) g

    Every element moves by lr: the paper's lr is 3 to 10 times smaller than AdamW's, its decay as much larger.
    ValueError for a negative or non-finite option, and for betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = Lion([w], lr=0.25, betas=(0.5, 0.75))
    >>> for g in (4.0, -2.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # m = 1, then 0.5 * 1 - 0.5 * 2 < 0
    tensor([1.], requires_grad=True)
    """

    slots = ("m",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        decay = group["lr"] * group["weight_decay"]
        return {"b1": b1, "b2": b2, "lr": group["lr"], "shrink": 1 - decay if decay else None}

    def update(self, xp, theta, g, m, *, b1, b2, lr, shrink):
        theta = theta if shrink is None else shrink * theta
        return theta - lr * xp.sign(b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g
