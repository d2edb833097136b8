"""Momentum in other mixtures: with the newest gradient (QHM, QHAdam), of several memories (AggMo, AdEMAMix)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Optimizer
from .groups import at_least_zero, below_one, flag
from .rules import count_or_none, decay_numbers, decayed, fraction, three_below_one


class QHM(Optimizer):
    """Step along the gradient and its running mean at once (Ma & Yarats 2019, arXiv:1810.06801, Sec. 3).

        g <- g + weight_decay theta
        m <- momentum m + (1 - momentum) g
        theta <- theta - lr ((1 - nu) g + nu m)

    nu = 0 is gradient descent, nu = 1 momentum as a running mean, and nu = momentum is Nesterov's method with the rate
    (1 - momentum) lr: a rate tuned for SGD with momentum 0.9 has to be ten times larger here. The defaults nu = 0.7 and
    momentum = 0.999 are the paper's rule of thumb. With decoupled_weight_decay theta <- (1 - lr weight_decay) theta
    first. ValueError for a negative or non-finite option, for momentum outside [0, 1) and nu outside [0, 1].

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([2.0])
    >>> QHM([w], lr=0.1, momentum=0.75, nu=0.5).step()
    >>> w  # 1 - 0.1 (0.5 * 2 + 0.5 * 0.25 * 2)
    tensor([0.875], requires_grad=True)
    """

    slots = ("m",)
    rules: ClassVar = {"momentum": below_one, "nu": fraction, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        momentum: float = 0.999,
        nu: float = 0.7,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "momentum": momentum, "nu": nu, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, **options, decoupled_weight_decay=decoupled_weight_decay)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {"lr": group["lr"], "beta": group["momentum"], "nu": group["nu"], **decay_numbers(group)}

    def update(self, xp, theta, g, m, *, lr, beta, nu, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = beta * m + (1 - beta) * g
        return theta - lr * ((1 - nu) * g + nu * m), m


def two_fractions(x: Any) -> bool:
    """two numbers in [0, 1]"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 2 and all(map(fraction, x))


class QHAdam(Optimizer):
    """Adam with the newest gradient mixed into both of its means (Ma & Yarats 2019, arXiv:1810.06801, Sec. 5).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   m' = m / (1 - b1^t),   v' = v / (1 - b2^t)
        theta <- theta - lr ((1 - n1) g + n1 m') / (sqrt((1 - n2) g^2 + n2 v') + eps),   (n1, n2) = nus

    nus = (1, 1) is Adam. Defaults of betas and nus are those the authors recommend for Adam's place. Decay as in QHM.
    ValueError for a negative or non-finite option, betas outside [0, 1) and nus outside [0, 1].

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = QHAdam([w], lr=0.1, betas=(0.5, 0.0), nus=(0.75, 1.0))
    >>> for g in (2.0, -4.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # 1 - 0.1, then m' = -2 and + 0.1 (0.25 * 4 + 0.75 * 2) / 4
    tensor([0.9625], requires_grad=True)
    """

    slots = ("m", "v")
    rules: ClassVar = {"nus": two_fractions, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.995, 0.999),
        nus: tuple[float, float] = (0.7, 1.0),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "nus": nus, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **options, maximize=maximize, decoupled_weight_decay=decoupled_weight_decay)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        (b1, b2), (n1, n2) = group["betas"], group["nus"]
        numbers = {"b1": b1, "b2": b2, "n1": n1, "n2": n2, "c1": 1 - b1**t, "c2": 1 - b2**t}
        return {**numbers, "lr": group["lr"], "eps": group["eps"], **decay_numbers(group)}

    def update(self, xp, theta, g, m, v, *, b1, b2, n1, n2, c1, c2, lr, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        square = g * g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * square
        size = xp.sqrt((1 - n2) * square + n2 / c2 * v)
        return theta - lr * (((1 - n1) * g + n1 / c1 * m) / (size + eps)), m, v


def some_below_one(x: Any) -> bool:
    """one or more numbers in [0, 1)"""  # noqa: D400
    return isinstance(x, tuple) and len(x) > 0 and all(map(below_one, x))


class AggMo(Optimizer):
    """Step along the mean of several momenta, of short memory and long (Lucas et al. 2019, arXiv:1804.00325, Sec. 3).

        g <- g + weight_decay theta
        b_i <- beta_i b_i + g                                  for each of K betas, b_i = 0 before the first step
        theta <- theta - lr / K (b_1 + ... + b_K)

    The long memory makes the pace, the short ones damp its oscillations. The slot of beta i (from 0) is called "b<i>";
    a beta of 0 has none. One beta is SGD with that momentum. The default betas 1 - 0.1^i are the authors'. Decay as in
    QHM. ValueError for a negative or non-finite option, for betas outside [0, 1) and for none.

    >>> import minidl as md
    >>> w = md.tensor([0.0], requires_grad=True)
    >>> optimizer = AggMo([w], lr=1.0, betas=(0.0, 0.5))
    >>> for _ in range(2):
    ...     w.grad = md.tensor([1.0])
    ...     optimizer.step()
    >>> w, sorted(optimizer.state["0"])  # -(1 + 1) / 2 - (1 + 1.5) / 2
    (tensor([-2.25], requires_grad=True), ['b1', 't'])
    """

    rules: ClassVar = {"betas": some_below_one, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, ...] = (0.0, 0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, **options, decoupled_weight_decay=decoupled_weight_decay)

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(f"b{i}" for i, beta in enumerate(group["betas"]) if beta)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        betas = {f"beta{i}": beta or None for i, beta in enumerate(group["betas"])}
        return {"rate": group["lr"] / len(betas), **decay_numbers(group), **betas}

    def update(self, xp, theta, g, *slots, rate, l2, shrink, **betas):
        theta, g = decayed(theta, g, l2, shrink)
        kept = iter(slots)
        momenta = [g if beta is None else beta * next(kept) + g for beta in betas.values()]
        new = [b for b, beta in zip(momenta, betas.values(), strict=True) if beta is not None]
        return theta - rate * sum(momenta[1:], momenta[0]), *new


class AdEMAMix(Optimizer):
    """AdamW with a second running mean, of very long memory (Pagliardini et al. 2025, arXiv:2409.03137, Alg. 1).

        m1 <- b1 m1 + (1 - b1) g,   m2 <- b3 m2 + (1 - b3) g,   v <- b2 v + (1 - b2) g^2
        theta <- (1 - lr weight_decay) theta
        theta <- theta - lr (m1 / (1 - b1^t) + alpha m2) / (sqrt(v / (1 - b2^t)) + eps)

    m2 remembers some 1 / (1 - b3) = 10,000 steps, fills slowly, and is not corrected for its start. Two warm-ups, the
    paper's as long as the training, keep it from pulling too hard at first:

    alpha_warmup   steps in which alpha grows from 0 in proportion to t; None for none
    beta3_warmup   steps in which the half-life of m2, ln(1/2) / ln(b3), grows evenly from that of b1; None for none

    alpha is 5 as in optax, 2 in the authors' code. ValueError for a negative or non-finite option, betas outside [0, 1)
    and a warm-up that is not an int >= 1.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([-3.0])
    >>> AdEMAMix([w], lr=0.1, betas=(0.9, 0.999, 0.75), alpha=4.0).step()
    >>> w  # 1 + 0.1 (1 + 4 * 0.25)
    tensor([1.2], requires_grad=True)
    """

    slots = ("m1", "m2", "v")
    rules: ClassVar = {
        "betas": three_below_one,
        "alpha": at_least_zero,
        "alpha_warmup": count_or_none,
        "beta3_warmup": count_or_none,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        alpha_warmup: int | None = None,
        beta3_warmup: int | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        options: dict[str, Any] = {"lr": lr, "betas": betas, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        options |= {"alpha_warmup": alpha_warmup, "beta3_warmup": beta3_warmup}
        super().__init__(params, **options, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2, b3 = group["betas"]
        alpha, decay = group["alpha"], group["lr"] * group["weight_decay"]
        if t < (group["alpha_warmup"] or 0):
            alpha *= t / group["alpha_warmup"]
        if t < (group["beta3_warmup"] or 0):
            b3 = _between(b1, b3, t / group["beta3_warmup"])
        numbers = {"b1": b1, "b2": b2, "b3": b3, "c1": 1 - b1**t, "c2": 1 - b2**t, "alpha": alpha}
        return {**numbers, "lr": group["lr"], "eps": group["eps"], "shrink": 1 - decay if decay else None}

    def update(self, xp, theta, g, m1, m2, v, *, b1, b2, b3, c1, c2, alpha, lr, eps, shrink):
        theta = theta if shrink is None else shrink * theta
        m1 = b1 * m1 + (1 - b1) * g
        m2 = b3 * m2 + (1 - b3) * g
        v = b2 * v + (1 - b2) * g * g
        return theta - lr * ((m1 / c1 + alpha * m2) / (xp.sqrt(v / c2) + eps)), m1, m2, v


def _between(first: float, last: float, share: float) -> float:
    """Return the beta whose half-life lies so far between those of two others; that of 0 is 0."""
    lives = [1 / math.log(beta) if beta else 0.0 for beta in (first, last)]
    life = (1 - share) * lives[0] + share * lives[1]
    return math.exp(1 / life) if life else 0.0
