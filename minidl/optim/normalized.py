"""Adam's parts in another order or measure: normalized first (ADOPT, LaProp), in part (Padam), bounded (AdaMod)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Optimizer
from .groups import below_one, flag
from .rules import above_zero, decay_numbers, decayed, fraction


def fraction_or_none(x: Any) -> bool:
    """a number in [0, 1], or None"""  # noqa: D400
    return x is None or fraction(x)


class ADOPT(Optimizer):
    """Adam that converges for every b2, dividing each gradient by the v before it (Taniguchi et al. 2024).

        g <- g + weight_decay theta
        v <- g^2 and nothing else                              at the first step
        m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), -c, c),   c = (t - 1)^clip_exponent
        theta <- theta - lr m,   then v <- b2 v + (1 - b2) g^2

    In Adam a gradient and its divisor depend on each other; here they do not (arXiv:2411.02853). The first gradient
    only gives v its size: theta neither moves nor decays. clip_exponent=None does not clip, the paper's plain form.
    Decay as in QHM; defaults are the authors'. ValueError for a negative or non-finite option, betas outside [0, 1),
    eps = 0, and clip_exponent outside [0, 1].

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = ADOPT([w], lr=0.5, betas=(0.5, 0.9))
    >>> for g in (2.0, 3.0, -1.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # m = 0, then 0.5 min(3 / 2, 1), then 0.25 - 0.5 / sqrt(4.5)
    tensor([0.74285114], requires_grad=True)
    """

    slots = ("m", "v")
    rules: ClassVar = {"eps": above_zero, "clip_exponent": fraction_or_none, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        clip_exponent: float | None = 0.25,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        options |= {"clip_exponent": clip_exponent, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, **options, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        (b1, b2), exponent, decay = group["betas"], group["clip_exponent"], decay_numbers(group)
        if t == 1:
            decay["shrink"] = None
        bound = None if exponent is None else (t - 1) ** exponent
        return {"b1": b1, "b2": b2, "lr": group["lr"], "eps": group["eps"], "bound": bound, "first": t == 1, **decay}

    def update(self, xp, theta, g, m, v, *, b1, b2, lr, eps, bound, first, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        if first:
            return theta, m, g * g
        n = g / xp.maximum(xp.sqrt(v), eps)
        m = b1 * m + (1 - b1) * (n if bound is None else xp.clip(n, -bound, bound))
        return theta - lr * m, m, b2 * v + (1 - b2) * g * g


class LaProp(Optimizer):
    """Momentum on gradients that have been divided by their running size (Ziyin et al. 2020, arXiv:2002.04839, Alg. 1).

        g <- g + weight_decay theta
        v <- b2 v + (1 - b2) g^2
        m <- b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps)
        theta <- theta - lr m / (1 - b1^t)

    Adam divides old gradients by today's v, and can diverge for b1 > sqrt(b2); here each keeps the divisor of its day.
    The authors' code has lr inside m, which is the same while lr is constant. Defaults are that code's; decay as in
    QHM. ValueError for a negative or non-finite option, and for betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = LaProp([w], lr=0.1, betas=(0.5, 0.0))
    >>> for g in (7.0, -0.01):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # 1 - 0.1 - 0.1 (0.25 - 0.5) / 0.75
    tensor([0.93333334], requires_grad=True)
    """

    slots = ("m", "v")
    rules: ClassVar = {"decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
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

    def update(self, xp, theta, g, m, v, *, b1, b2, lr_hat, c2, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        v = b2 * v + (1 - b2) * g * g
        m = b1 * m + (1 - b1) * (g / (xp.sqrt(v / c2) + eps))
        return theta - lr_hat * m, m, v


def at_most_half(x: Any) -> bool:
    """a number in [0, 0.5]"""  # noqa: D400
    return below_one(x) and x <= 0.5


class Padam(Optimizer):
    """AMSGrad that divides by a smaller power, between it and SGD (Chen et al. 2020, arXiv:1806.06763, Alg. 1).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   v_max <- max(v_max, v)
        theta <- theta - lr m / (sqrt(v_max) + eps)^(2 partial)

    partial = 1/2 is AMSGrad, 0 is momentum as a running mean; 1/8, the paper's, allows SGD's large lr. Nothing is
    corrected for the start, as in the paper; the authors' code does, as Adam. Decay as in QHM. ValueError for a
    negative or non-finite option, betas outside [0, 1), and partial outside [0, 0.5].

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([16.0])
    >>> Padam([w], lr=0.1, betas=(0.0, 0.0), partial=0.25).step()
    >>> w  # 1 - 0.1 * 16 / sqrt(16)
    tensor([0.6], requires_grad=True)
    """

    slots = ("m", "v", "v_max")
    rules: ClassVar = {"partial": at_most_half, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        partial: float = 0.125,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "partial": partial}
        super().__init__(params, **options, maximize=maximize, decoupled_weight_decay=decoupled_weight_decay)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "lr": group["lr"], "eps": group["eps"], "exponent": 2 * group["partial"]}
        return {**numbers, **decay_numbers(group)}

    def update(self, xp, theta, g, m, v, v_max, *, b1, b2, lr, eps, exponent, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        v_max = xp.maximum(v_max, v)
        return theta - lr * (m / (xp.sqrt(v_max) + eps) ** exponent), m, v, v_max


class AdaMod(Optimizer):
    """Adam whose rate for each element is at most the running mean of its rates (Ding et al. 2019, arXiv:1910.12249).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        r = lr / (sqrt(v / (1 - b2^t)) + eps),   s <- beta3 s + (1 - beta3) r
        theta <- theta - min(r, s) m / (1 - b1^t)

    s starts at 0 and is not corrected: a warm-up over some 1 / (1 - beta3) steps, and no sudden long steps afterwards.
    The authors' code has the 1 / (1 - b1^t) in r. Decay as in QHM. ValueError for a negative or non-finite option, and
    for betas or beta3 outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([4.0])
    >>> AdaMod([w], lr=0.5, beta3=0.75).step()
    >>> w  # a quarter of Adam's step
    tensor([0.875], requires_grad=True)
    """

    slots = ("m", "v", "s")
    rules: ClassVar = {"beta3": below_one, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "beta3": beta3, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **options, maximize=maximize, decoupled_weight_decay=decoupled_weight_decay)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "b3": group["beta3"], "c1": 1 - b1**t, "c2": 1 - b2**t}
        return {**numbers, "lr": group["lr"], "eps": group["eps"], **decay_numbers(group)}

    def update(self, xp, theta, g, m, v, s, *, b1, b2, b3, c1, c2, lr, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        r = lr / (xp.sqrt(v / c2) + eps)
        s = b3 * s + (1 - b3) * r
        return theta - xp.minimum(r, s) * m / c1, m, v, s
