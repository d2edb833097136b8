"""Adam that looks at how the gradient has changed since the last step: Adan, MARS, DiffGrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..compiler.formula import segment_norm
from .base import Optimizer
from .groups import at_least_zero, flag
from .rules import decay_numbers, decayed, three_below_one


class Adan(Optimizer):
    """Adam with Nesterov's look-ahead by the change of the gradient (Xie et al. 2024, arXiv:2208.06677, Alg. 1).

        d = g - g_prev                                         0 at the first step
        m <- b1 m + (1 - b1) g,   u <- b2 u + (1 - b2) d,   n <- b3 n + (1 - b3) (g + b2 d)^2
        step = (m / (1 - b1^t) + b2 u / (1 - b2^t)) / (sqrt(n / (1 - b3^t)) + eps)
        theta <- (theta - lr step) / (1 + lr weight_decay)

    betas are those of the authors' code, 1 minus the paper's. optax has 1 - b2 where b2 stands before d and u. The
    decay is a proximal step, nearly AdamW's. ValueError for a negative or non-finite option, and for betas outside
    [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = Adan([w], lr=0.1, betas=(0.0, 0.5, 0.0))
    >>> for g in (3.0, 4.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # 1 - 0.1, then - 0.1 (4 + 0.5 * 0.5 / 0.75) / 4.5
    tensor([0.80370367], requires_grad=True)
    """

    slots = ("m", "u", "n", "previous")
    rules: ClassVar = {"betas": three_below_one}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2, b3 = group["betas"]
        shrink = 1 / (1 + group["lr"] * group["weight_decay"])
        numbers = {"b1": b1, "b2": b2, "b3": b3, "c1": 1 - b1**t, "c2": 1 - b2**t, "c3": 1 - b3**t}
        numbers |= {"lr": shrink * group["lr"], "eps": group["eps"]}
        return {**numbers, "shrink": shrink if group["weight_decay"] else None, "first": t == 1}

    def update(self, xp, theta, g, m, u, n, previous, *, b1, b2, b3, c1, c2, c3, lr, eps, shrink, first):
        theta = theta if shrink is None else shrink * theta
        ahead = g
        if not first:
            d = g - previous
            u = b2 * u + (1 - b2) * d
            ahead = g + b2 * d
        m = b1 * m + (1 - b1) * g
        n = b3 * n + (1 - b3) * ahead * ahead
        return theta - lr * ((m / c1 + b2 / c2 * u) / (xp.sqrt(n / c3) + eps)), m, u, n, g


class MARS(Optimizer):
    """AdamW on gradients whose noise is reduced by their change (Yuan et al. 2024, arXiv:2411.10438, Alg. 2).

        c = g + gamma b1 / (1 - b1) (g - g_prev)               g_prev = g at the first step
        c <- c / max(|c|, 1)
        m <- b1 m + (1 - b1) c,   v <- b2 v + (1 - b2) c^2
        theta <- (1 - lr weight_decay) theta
        theta <- theta - lr m' / (sqrt(v') + eps),   m' = m / (1 - b1^t),  v' = v / (1 - b2^t)

    |c| is the norm of one parameter's c, as in the authors' code. g_prev is the gradient of the last step on its own
    batch, the paper's MARS-approx; exact variance reduction would need the last weights' gradient on this batch. Their
    code takes g_prev = 0 at first, and gives parameters with fewer than two axes to AdamW. Defaults are that code's.
    ValueError for a negative or non-finite option, and for betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([0.0, 0.0], requires_grad=True)
    >>> optimizer = MARS([w], lr=0.1, betas=(0.5, 0.0), gamma=0.5)
    >>> for g in ([0.3, 0.4], [0.5, 0.4]):
    ...     w.grad = md.tensor(g)
    ...     optimizer.step()
    >>> w  # -0.1 for the signs, then m' = (0.15 + 0.6) / 1.5 and 0.4 over v' = c^2 = (0.6, 0.4)^2
    tensor([-0.18333334, -0.20000002], requires_grad=True)
    """

    slots = ("m", "v", "previous")
    rules: ClassVar = {"gamma": at_least_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        gamma: float = 0.025,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **options, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        decay = group["lr"] * group["weight_decay"]
        numbers = {"b1": b1, "b2": b2, "lr_hat": group["lr"] / (1 - b1**t), "c2": 1 - b2**t, "eps": group["eps"]}
        change = None if t == 1 else group["gamma"] * b1 / (1 - b1)
        return {**numbers, "change": change, "shrink": 1 - decay if decay else None}

    def update(self, xp, theta, g, m, v, previous, *, b1, b2, lr_hat, c2, eps, change, shrink):
        theta = theta if shrink is None else shrink * theta
        c = g if change is None else g + change * (g - previous)
        c = c / xp.maximum(segment_norm(c), 1.0)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c * c
        return theta - lr_hat * (m / (xp.sqrt(v / c2) + eps)), m, v, g


class DiffGrad(Optimizer):
    """Adam that brakes where the gradient hardly changes (Dubey et al. 2020, arXiv:1909.11015).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        friction = 1 / (1 + exp(-|g - g_prev|))                g_prev = 0 at the first step
        theta <- theta - lr friction m' / (sqrt(v') + eps),   m' = m / (1 - b1^t),  v' = v / (1 - b2^t)

    friction is 1/2 for a gradient that stays and near 1 for one that changes by much more than 1: unlike Adam's, the
    step depends on the scale of the loss. Decay as in QHM. ValueError for a negative or non-finite option, and for
    betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = DiffGrad([w], lr=0.1)
    >>> for _ in range(2):
    ...     w.grad = md.tensor([100.0])
    ...     optimizer.step()
    >>> w  # 1 - 0.1 - 0.05
    tensor([0.84999996], requires_grad=True)
    """

    slots = ("m", "v", "previous")
    rules: ClassVar = {"decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, **options, decoupled_weight_decay=decoupled_weight_decay)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "lr_hat": group["lr"] / (1 - b1**t), "c2": 1 - b2**t, "eps": group["eps"]}
        return {**numbers, **decay_numbers(group)}

    def update(self, xp, theta, g, m, v, previous, *, b1, b2, lr_hat, c2, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        friction = 1 / (1 + xp.exp(-xp.abs(g - previous)))
        return theta - lr_hat * (friction * m / (xp.sqrt(v / c2) + eps)), m, v, g
