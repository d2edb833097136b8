"""Relatives of Adam: other corrections of its start (NAdam, RAdam), other second moments (Yogi, AdaBelief), bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ..engine.backend import Array
from .base import Optimizer
from .groups import at_least_zero, flag
from .rules import OneOf, above_zero, decay_numbers, decayed, relative_lr
from .segment import Cohort


class NAdam(Optimizer):
    """Adam with Nesterov's look-ahead in its first moment (Dozat 2016, Alg. 2 and Sec. 3.2).

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        theta <- theta - lr (cm m + cg g) / (sqrt(v / (1 - b2^t)) + eps)

    `variant` says what cm and cg are; three different algorithms go by this name:

        "torch"   mu_t = b1 (1 - 0.96^(t momentum_decay) / 2), P_t = mu_1 ... mu_t (the paper's schedule):
                  cm = mu_(t+1) / (1 - P_t mu_(t+1)), cg = (1 - mu_t) / (1 - P_t). Keras has momentum_decay=1
        "optax"   mu_t = b1 always: cm = b1 / (1 - b1^(t+1)), cg = (1 - b1) / (1 - b1^t)
        "timm"    cm = b1 / (1 - b1^t), cg = (1 - b1) / (1 - b1^t), the baseline NAdamW of AlgoPerf

    P_t is kept in the state of a parameter as the number `mu_product`, so that a schedule may change b1.
    weight_decay is added to the gradient, or with decoupled_weight_decay theta <- (1 - lr weight_decay) theta first.
    Defaults are PyTorch's. ValueError for a negative or non-finite option, betas outside [0, 1), an unknown variant.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([5.0])
    >>> NAdam([w], lr=0.1, betas=(0.5, 0.5), variant="optax").step()
    >>> w  # 1 - 0.1 (0.5 0.5 / 0.75 + 1)
    tensor([0.8666667], requires_grad=True)
    """

    slots = ("m", "v")
    rules: ClassVar = {
        "momentum_decay": at_least_zero,
        "decoupled_weight_decay": flag,
        "variant": OneOf("torch", "optax", "timm"),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        variant: str = "torch",
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        options |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, **options, variant=variant)

    def group_numbers(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"mu_product": 1.0} if group["variant"] == "torch" else {}

    def cohort_scalars(self, cohort: Cohort, group: Mapping[str, Any]) -> dict[str, Any]:
        return self.scalars(group, cohort.t + 1, cohort.numbers.get("mu_product"))

    def scalars(self, group: Mapping[str, Any], t: int, product: float | None = None) -> dict[str, Any]:
        """Return the numbers of step t; product is P_(t-1), computed with the present b1 if it is not given."""
        b1, b2 = group["betas"]
        extra = {}
        if group["variant"] == "torch":
            decay = group["momentum_decay"]
            mu, following = _mu(b1, decay, t), _mu(b1, decay, t + 1)
            product = mu * (math.prod(_mu(b1, decay, i) for i in range(1, t)) if product is None else product)
            cm, cg = following / (1 - product * following), (1 - mu) / (1 - product)
            extra["mu_product"] = product
        else:
            ahead = group["variant"] == "optax"
            cm, cg = b1 / (1 - b1 ** (t + ahead)), (1 - b1) / (1 - b1**t)
        numbers = {"b1": b1, "b2": b2, "cm": group["lr"] * cm, "cg": group["lr"] * cg, "c2": 1 - b2**t}
        return {**numbers, **extra, "eps": group["eps"], **decay_numbers(group)}

    def update(self, xp, theta, g, m, v, *, b1, b2, cm, cg, c2, eps, l2, shrink, mu_product=None):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        return theta - (cm * m + cg * g) / (xp.sqrt(v / c2) + eps), m, v


def _mu(b1: float, decay: float, t: int) -> float:
    return b1 * (1 - 0.5 * 0.96 ** (t * decay))


class RAdam(Optimizer):
    """Adam that waits until its second moment can be trusted (Liu et al. 2020, arXiv:1908.03265, Alg. 2).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   m' = m / (1 - b1^t),   v' = v / (1 - b2^t)
        rho = rho_max - 2 t b2^t / (1 - b2^t),   rho_max = 2 / (1 - b2) - 1
        r = sqrt((rho - 4) (rho - 2) rho_max / ((rho_max - 4) (rho_max - 2) rho))
        theta <- theta - lr r m' / (sqrt(v') + eps)            if rho is large enough, and otherwise, by `variant`:

        "torch"      rho > 5, else theta - lr m': plain momentum, whose steps grow with the gradient
        "paper"      rho > 4, else the same; one step earlier
        "official"   rho >= 5, else no step: the authors' default, safe where gradients are large

    For b2 = 0.999 the first step with r is the sixth, r = 0.026; r is a warm-up over some 2 / (1 - b2) steps. eps is
    added to sqrt(v), as in PyTorch. For b2 <= 0.6 rho never exceeds 4 and no step is ever adapted. Decay as in NAdam;
    with "official" there is none while there is no step. Defaults are PyTorch's. ValueError for a negative or
    non-finite option, betas outside [0, 1), an unknown variant.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = RAdam([w], lr=0.1)
    >>> for _ in range(6):
    ...     w.grad = md.tensor([1.0])
    ...     optimizer.step()
    >>> w  # five steps of 0.1, and one of 0.1 r
    tensor([0.4974178], requires_grad=True)
    """

    slots = ("m", "v")
    rules: ClassVar = {"decoupled_weight_decay": flag, "variant": OneOf("torch", "paper", "official")}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        variant: str = "torch",
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, **options, decoupled_weight_decay=decoupled_weight_decay, variant=variant)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "lr_hat": group["lr"] / (1 - b1**t), "eps": group["eps"], **decay_numbers(group)}
        root = _rectified(group["variant"], b2, t)
        adapt = "yes" if root else "no" if group["variant"] == "official" else "momentum"
        if adapt == "yes":
            numbers["lr_hat"] *= root * (1 - b2**t) ** 0.5
        return {**numbers, "adapt": adapt, "shrink": None if adapt == "no" else numbers["shrink"]}

    def update(self, xp, theta, g, m, v, *, b1, b2, lr_hat, eps, adapt, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        if adapt == "no":
            return theta, m, v
        return theta - lr_hat * (m / (xp.sqrt(v) + eps) if adapt == "yes" else m), m, v


def _rectified(variant: str, b2: float, t: int) -> float:
    """Return r of RAdam, or 0 while the second moment cannot be trusted."""
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    if not {"torch": length > 5, "paper": length > 4, "official": length >= 5}[variant]:
        return 0.0
    return ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5


class AdaBound(Optimizer):
    """Adam whose rate for each element is held between bounds that close on a common one (Luo et al. 2019, Alg. 2).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        s = clip(lr sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + eps), f (1 - 1 / (gamma t + 1)), f (1 + 1 / (gamma t)))
        theta <- theta - s m,   f = final_lr lr / initial lr

    It begins as Adam and ends as SGD with momentum and rate f (arXiv:1902.09843; the form of the authors' code).
    `amsbound` has the largest v so far in place of v: AMSBound. The initial lr of a group is its first one, or its
    "initial_lr". The paper's gamma is 1 - b2, the default. ValueError for a negative or non-finite option, betas
    outside [0, 1), gamma = 0, and when the initial lr is 0.

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0], requires_grad=True)
    >>> w.grad = md.tensor([1.0, 100.0])
    >>> AdaBound([w], lr=0.1, final_lr=0.25, gamma=1.0).step()
    >>> w  # m = 0.1 g at rates 0.25 (1 + 1) and 0.25 / 2; Adam would have moved both by 0.1
    tensor([ 0.95, -0.25], requires_grad=True)
    """

    slots = ("m", "v", "v_max")
    rules: ClassVar = {"final_lr": at_least_zero, "gamma": above_zero, "amsbound": flag, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsbound: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "final_lr": final_lr, "gamma": gamma, "eps": eps, "amsbound": amsbound}
        options |= {"weight_decay": weight_decay, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, **options, maximize=maximize)

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["amsbound"] else self.slots[:2]

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        final = group["final_lr"] * relative_lr(self._who, group)
        return {
            "b1": b1,
            "b2": b2,
            "lr_hat": group["lr"] * (1 - b2**t) ** 0.5 / (1 - b1**t),
            "eps": group["eps"],
            "low": final * (1 - 1 / (group["gamma"] * t + 1)),
            "high": final * (1 + 1 / (group["gamma"] * t)),
            **decay_numbers(group),
        }

    def update(self, xp, theta, g, m, v, v_max=None, *, b1, b2, lr_hat, eps, low, high, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        largest = v if v_max is None else xp.maximum(v_max, v)
        theta = theta - xp.clip(lr_hat / (xp.sqrt(largest) + eps), low, high) * m
        return (theta, m, v) if v_max is None else (theta, m, v, largest)


class Yogi(Optimizer):
    """Adam whose second moment moves by steps of bounded size (Zaheer et al. 2018, NeurIPS, Alg. 2).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- v - (1 - b2) sign(v - g^2) g^2
        theta <- theta - lr m' / (sqrt(v') + eps),   m' = m / (1 - b1^t),  v' = v / (1 - b2^t)

    v starts at initial_accumulator_value, and after large gradients falls by (1 - b2) g^2 a step where Adam's falls by
    (1 - b2) v: the rate does not shoot up. Corrected for the start as in optax and the authors' code. ValueError for a
    negative or non-finite option, and for betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([2.0])
    >>> Yogi([w], lr=0.1, eps=0.5, initial_accumulator_value=0.0).step()
    >>> w  # 1 - 0.1 * 2 / 2.5
    tensor([0.92], requires_grad=True)
    """

    slots = ("m", "v")
    rules: ClassVar = {"initial_accumulator_value": at_least_zero, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 1e-6,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        options |= {"initial_accumulator_value": initial_accumulator_value}
        super().__init__(params, **options, decoupled_weight_decay=decoupled_weight_decay)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> float:
        return group["initial_accumulator_value"] if slot == "v" else 0.0

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "lr_hat": group["lr"] / (1 - b1**t), "c2": 1 - b2**t, "eps": group["eps"]}
        return {**numbers, **decay_numbers(group)}

    def update(self, xp, theta, g, m, v, *, b1, b2, lr_hat, c2, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        square = g * g
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * xp.sign(v - square) * square
        return theta - lr_hat * (m / (xp.sqrt(v / c2) + eps)), m, v


class AdaBelief(Optimizer):
    """Adam that divides by how far gradients stray from their mean (Zhuang et al. 2020, arXiv:2010.07468, Alg. 2).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   s <- b2 s + (1 - b2) (g - m)^2 + eps_root
        theta <- theta - lr m' / (sqrt(s') + eps),   m' = m / (1 - b1^t),  s' = s / (1 - b2^t)

    Long steps where gradients agree, short ones where they do not; a first step is lr / b1. `eps_root` is added to the
    state at each step. Defaults are the authors' code's. ValueError for a negative or non-finite option, and for betas
    outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([5.0])
    >>> AdaBelief([w], lr=0.1, betas=(0.5, 0.9)).step()
    >>> w
    tensor([0.8], requires_grad=True)
    """

    slots = ("m", "s")
    rules: ClassVar = {"eps_root": at_least_zero, "decoupled_weight_decay": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        eps_root: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
        super().__init__(params, **options, maximize=maximize, decoupled_weight_decay=decoupled_weight_decay)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "lr_hat": group["lr"] / (1 - b1**t), "c2": 1 - b2**t, "eps": group["eps"]}
        return {**numbers, "eps_root": group["eps_root"], **decay_numbers(group)}

    def update(self, xp, theta, g, m, s, *, b1, b2, lr_hat, c2, eps, eps_root, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) * (g - m) + eps_root
        return theta - lr_hat * (m / (xp.sqrt(s / c2) + eps)), m, s
