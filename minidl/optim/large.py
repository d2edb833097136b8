"""Steps in proportion to the norm of a parameter, for large batches: LARS, LAMB, NovoGrad, Fromage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..compiler.formula import segment_norm
from ..engine.backend import Array
from .base import Optimizer
from .groups import below_one, flag
from .rules import nothing_or_at_least_zero, zeros


class LARS(Optimizer):
    """Momentum on gradients scaled to the norm of their parameter (You et al. 2017, arXiv:1708.03888, Alg. 1).

        q = trust |theta| / (|g| + weight_decay |theta| + eps)          1 where |theta| or |g| is 0
        b <- momentum b + q (g + weight_decay theta)
        theta <- theta - lr b

    Biases and the scales of normalization are to be left out (`trust=None` in a group of their own: q = 1). optax has
    |g + weight_decay theta| in the denominator, which is not the paper's. ValueError for a negative or non-finite
    option, and for momentum outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([3.0, 4.0], requires_grad=True)
    >>> w.grad = md.tensor([0.0, 10.0])
    >>> LARS([w], lr=1.0, trust=0.1).step()
    >>> w  # 0.1 * 5 / 10 of the gradient
    tensor([3. , 3.5], requires_grad=True)
    """

    slots = ("b",)
    rules: ClassVar = {"momentum": below_one, "trust": nothing_or_at_least_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float | None = 1e-3,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps, "maximize": maximize}
        super().__init__(params, **options, trust=trust)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        numbers = {"lr": group["lr"], "mu": group["momentum"], "eps": group["eps"], "trust": group["trust"]}
        return {**numbers, "decay": group["weight_decay"]}

    def update(self, xp, theta, g, b, *, lr, mu, eps, trust, decay):
        step = g + decay * theta
        if trust is not None:
            weight, size = segment_norm(theta), segment_norm(g)
            known = (weight > 0) & (size > 0)
            # Where a norm is 0 the quotient is not used; 1 in its place keeps 0 / 0 from being computed.
            step = xp.where(known, trust * weight / xp.where(known, size + decay * weight + eps, 1.0), 1.0) * step
        b = mu * b + step
        return theta - lr * b, b


class LAMB(Optimizer):
    """Adam's direction scaled, for each parameter, to its norm (You et al. 2020, arXiv:1904.00962, Alg. 2).

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        r = m' / (sqrt(v') + eps) + weight_decay theta,   m' = m / (1 - b1^t),  v' = v / (1 - b2^t)
        theta <- theta - lr |theta| / |r| r                    the ratio of norms is 1 where one of them is 0

    As the paper, without clipping gradients first, and adapting parameters without decay too. ValueError for a negative
    or non-finite option, and for betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([3.0, 4.0], requires_grad=True)
    >>> w.grad = md.tensor([100.0, 0.1])
    >>> LAMB([w], lr=0.1, eps=0.0).step()
    >>> w  # 5 / sqrt(2) along the signs
    tensor([2.6464467, 3.6464467], requires_grad=True)
    """

    slots = ("m", "v")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "c1": 1 - b1**t, "c2": 1 - b2**t, "eps": group["eps"], "lr": group["lr"]}
        return {**numbers, "decay": group["weight_decay"] or None}

    def update(self, xp, theta, g, m, v, *, b1, b2, c1, c2, eps, lr, decay):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        r = m / c1 / (xp.sqrt(v / c2) + eps)
        if decay is not None:
            r = r + decay * theta
        weight, size = segment_norm(theta), segment_norm(r)
        known = (weight > 0) & (size > 0)
        return theta - lr * xp.where(known, weight / xp.where(known, size, 1.0), 1.0) * r, m, v


class NovoGrad(Optimizer):
    """Momentum on gradients divided by their running norm (Ginsburg et al. 2019, arXiv:1905.11286, Alg. 1).

        v <- b2 v + (1 - b2) |g|^2                             v = |g|^2 at the first step
        m <- b1 m + g / (sqrt(v) + eps) + weight_decay theta
        theta <- theta - lr m

    v is one number for each parameter. averaged=True has 1 - b1 times the new term in m. Betas are the paper's.
    ValueError for a negative or non-finite option, and for betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([0.0, 0.0], requires_grad=True)
    >>> w.grad = md.tensor([30.0, 40.0])
    >>> NovoGrad([w], lr=1.0).step()
    >>> w
    tensor([-0.6, -0.8], requires_grad=True)
    """

    slots = ("m", "v")
    rules: ClassVar = {"averaged": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        averaged: bool = False,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "averaged": averaged}
        super().__init__(params, **options, maximize=maximize)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return 0.0 if slot == "m" else zeros(theta, ())

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2 if t > 1 else 0.0, "new": 1 - b1 if group["averaged"] else 1.0}
        return {**numbers, "lr": group["lr"], "eps": group["eps"], "decay": group["weight_decay"]}

    def update_tensor(self, xp, theta, g, m, v, *, b1, b2, new, lr, eps, decay):
        v = b2 * v + (1 - b2) * (g * g).sum()
        root = xp.sqrt(v) + eps
        step = g / xp.where(root > 0, root, 1) + decay * theta
        m = b1 * m + new * step
        return theta - lr * m, m, xp.asarray(v, theta.dtype)


class Fromage(Optimizer):
    """Steps of one relative size that do not lengthen the weights (Bernstein et al. 2020, arXiv:2002.03432, Alg. 1).

        theta <- (theta - lr |theta| / |g| g) / sqrt(1 + lr^2)          the ratio of norms is 1 where one of them is 0

    Without a gradient's length, |g| = 0, the weights still shrink. ValueError for a negative or non-finite lr.

    >>> import minidl as md
    >>> w = md.tensor([3.0, 4.0], requires_grad=True)
    >>> w.grad = md.tensor([-40.0, 30.0])
    >>> Fromage([w], lr=0.75).step()
    >>> w  # a right angle: the norm stays 5
    tensor([4.8, 1.4], requires_grad=True)
    """

    def __init__(self, params: Any, lr: float = 1e-2, *, maximize: bool = False):
        super().__init__(params, lr=lr, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {"lr": group["lr"], "scale": 1 / (1 + group["lr"] ** 2) ** 0.5}

    def update(self, xp, theta, g, *, lr, scale):
        weight, size = segment_norm(theta), segment_norm(g)
        known = (weight > 0) & (size > 0)
        return scale * (theta - lr * xp.where(known, weight / xp.where(known, size, 1.0), 1.0) * g)
