"""Optimizers that find their step size: D-Adaptation and Prodigy estimate the distance to the solution.

Each keeps a number d that grows as the gradients show that the solution is farther away: an estimate from below of its
distance from the first parameters. d is the step size; lr scales it, and is 1 unless a schedule says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..engine.backend import Array
from .groups import ParamGroup, at_least_zero, below_one, finite, flag, is_number
from .progress import Mover, Progressing, inner
from .rules import above_zero, count_from_zero, decayed


def growth(x: Any) -> bool:
    """a number > 1, or inf"""  # noqa: D400
    return isinstance(x, (int, float)) and (x == math.inf or (is_number(x) and x > 1))


def nothing_or_below_one(x: Any) -> bool:
    """a number in [0, 1), or None"""  # noqa: D400
    return x is None or below_one(x)


class OneDistance(Progressing):
    """Base: one distance d for the parameters of all groups; a group whose lr is 0 stands still."""

    own = ("lr", "weight_decay", "eps", "maximize")  # what groups may differ in
    rules: ClassVar = {
        "d0": above_zero,
        "growth_rate": growth,
        "decoupled_weight_decay": flag,
        "bias_correction": flag,
        "d": at_least_zero,
        "numerator": finite,
        "k": count_from_zero,
    }

    def common_lr(self) -> float:
        """Return the lr of the groups that move; ValueError if groups differ in what they must share."""
        self.agree(self.param_groups, self.defaults.keys() - {*self.own, *self.progress})
        lr: float = max(group["lr"] for group in self.param_groups)
        for group in self.param_groups:
            if group["lr"] not in (lr, 0.0):
                raise ValueError(
                    f"{self._who}: one step size is found for all groups, so they have the same lr, or 0 to stand "
                    f"still, got lr={lr!r} and lr={group['lr']!r}; give those an optimizer of their own"
                )
        return lr

    def everywhere(self, **numbers: Any) -> list[tuple[ParamGroup, dict[str, Any]]]:
        """Return the same numbers for every group."""
        return [(group, numbers) for group in self.param_groups]

    def rate(self, group: Mapping[str, Any]) -> float:
        """Return the step size of this step: 0 for a group that stands still, and where no gradient has been seen."""
        rate: float = self.found(group).get("rate", 0.0)
        return rate if group["lr"] else 0.0

    def decay(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return weight decay as numbers of `decayed`; if decoupled, in proportion to the step size."""
        weight = group["weight_decay"] or None
        if weight is None or not group["decoupled_weight_decay"]:
            return {"l2": weight, "shrink": None}
        return {"l2": None, "shrink": 1 - self.rate(group) * weight}


class DAdaptSGD(OneDistance):
    """SGD with the step size of D-Adaptation (Defazio & Mishchenko 2023, arXiv:2301.07733, Alg. 4).

        g <- g + weight_decay theta,   rate = d lr / |g_1|
        num <- num + rate <g, s>,   s <- s + rate g
        theta <- momentum theta + (1 - momentum) (x0 - s)                    x0 the first theta
        d <- max(d, min(2 num / |s|, growth_rate d))                         d0 at first

    Norms and products are over the parameters of all groups: these have the same lr, or 0 to stand still. What is found
    stands in the options of each group, and is saved with them: `d` (0 before the first step), `numerator`, and
    `g_norm` (|g_1|). While all gradients are 0 nothing counts. On a GPU a step waits for one small vector. Defaults are
    the authors' code's. ValueError for an option out of its range, for groups that differ in what they must share, and
    at a step with a gradient that is not finite; then nothing has changed.

    >>> import minidl as md
    >>> w = md.Parameter([1.0])
    >>> optimizer = DAdaptSGD([w], d0=0.125)
    >>> for _ in range(3):
    ...     w.grad = md.tensor([4.0])
    ...     optimizer.step()
    >>> w.item(), optimizer.param_groups[0]["d"]  # s = 3/8; num = 0 + 1/64 + 1/32, d = 2 num / s
    (0.625, 0.25)
    """

    slots = ("s", "x0")
    progress = ("d", "numerator", "g_norm")
    rules: ClassVar = {**OneDistance.rules, "momentum": below_one, "g_norm": at_least_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        growth_rate: float = math.inf,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "d0": d0, "growth_rate": growth_rate}
        super().__init__(params, **options, maximize=maximize, d=0.0, numerator=0.0, g_norm=0.0)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return theta if slot == "x0" else 0.0

    def measure(self, movers: Sequence[Mover]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        lr, first = self.common_lr(), self.param_groups[0]
        d = first["d"] or first["d0"]
        g_norm = first["g_norm"] or math.sqrt((self.totals(movers, _square) or [0.0])[0])
        if not lr or not g_norm:
            return []
        rate = d * lr / g_norm

        def terms(xp, group, theta, g, slots):
            if g is None:
                return (0.0, inner(slots["s"], slots["s"])) if slots else None
            new = slots["s"] + rate * g if slots else rate * g
            return inner(g, slots["s"]) if slots else 0.0, inner(new, new)

        product, square = self.totals(movers, terms)
        numerator = first["numerator"] + rate * product
        d_hat = 2 * numerator / math.sqrt(square) if square else d
        d = max(d, min(d_hat, first["growth_rate"] * d))
        return self.everywhere(d=d, numerator=numerator, g_norm=g_norm, rate=rate)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        rate = self.rate(group)
        numbers = {"still": rate == 0, "rate": rate, "pull": 1 - group["momentum"]}
        return {**numbers, "l2": group["weight_decay"] or None}

    def update(self, xp, theta, g, s, x0, *, still, rate, pull, l2):
        if still:
            return theta, s, x0
        theta, g = decayed(theta, g, l2, None)
        s = s + rate * g
        return theta + pull * (x0 - s - theta), s, x0


def _square(xp: Any, group: ParamGroup, theta: Array, g: Array | None, slots: Mapping[str, Array]) -> Any:
    return None if g is None else (inner(g, g),)


class DAdaptAdam(OneDistance):
    """Adam with the step size of D-Adaptation (Defazio & Mishchenko 2023, arXiv:2301.07733, Alg. 5).

        g <- g + weight_decay theta,   rate = d lr
        num <- r num + (1 - r) rate <g, s / (sqrt(v) + eps)>                 r = sqrt(b2); s and v are the old ones
        m <- b1 m + (1 - b1) rate g,   v <- b2 v + (1 - b2) g^2,   s <- r s + (1 - r) rate g
        theta <- theta - m / (sqrt(v) + eps)
        d <- max(d, min(num / ((1 - r) |s|_1), growth_rate d))               d0 at first

    bias_correction=True has rate = d lr sqrt(1 - b2^k) / (1 - b1^k) at the k-th step, as in optax; without it, the
    authors' default, d grows elsewhere: the two differ by far more than Adam's do. With decoupled_weight_decay
    theta <- (1 - rate weight_decay) theta in place of the term in g.

    Sums are over the parameters of all groups: these have the same lr, or 0 to stand still. What is found stands in the
    options of each group, and is saved with them: `d` (0 before the first step), `numerator` and `k`, the steps so far.
    While all gradients are 0 nothing counts. On a GPU a step waits for one small vector. ValueError for an option out
    of its range, for groups that differ in what they must share, and at a step with a gradient that is not finite; then
    nothing has changed.

    >>> import minidl as md
    >>> w = md.Parameter([1.0])
    >>> optimizer = DAdaptAdam([w], betas=(0.0, 0.25), d0=0.125)
    >>> for _ in range(3):
    ...     w.grad = md.tensor([4.0])
    ...     optimizer.step()
    >>> round(optimizer.param_groups[0]["d"], 6)  # s = 7/16, num = 1/16 / sqrt(12) + 3/32 / sqrt(15), d = 2 num / s
    0.151896
    """

    slots = ("m", "v", "s")
    progress = ("d", "numerator", "k")
    rules: ClassVar = {**OneDistance.rules, "eps": above_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = False,
        d0: float = 1e-6,
        growth_rate: float = math.inf,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        options |= {"decoupled_weight_decay": decoupled_weight_decay, "bias_correction": bias_correction}
        super().__init__(params, **options, d0=d0, growth_rate=growth_rate, d=0.0, numerator=0.0, k=0)

    def measure(self, movers: Sequence[Mover]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        lr, first = self.common_lr(), self.param_groups[0]
        d, k, root = first["d"] or first["d0"], first["k"] + 1, first["betas"][1] ** 0.5
        rate = d * lr * bias(first, k)

        def terms(xp, group, theta, g, slots):
            if g is None:
                return (0.0, xp.abs(slots["s"]).sum()) if slots else None
            new = (1 - root) * rate * g
            if slots:
                new += root * slots["s"]
            product = inner(g, slots["s"] / (xp.sqrt(slots["v"]) + group["eps"])) if slots else 0.0
            return product, xp.abs(new).sum()

        product, size = self.totals(movers, terms) or (0.0, 0.0)
        if not lr or not size:
            return []
        numerator = root * first["numerator"] + (1 - root) * rate * product
        d = max(d, min(numerator / ((1 - root) * size), first["growth_rate"] * d))
        return self.everywhere(d=d, numerator=numerator, k=k, rate=rate)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        (b1, b2), rate = group["betas"], self.rate(group)
        numbers = {"still": rate == 0, "b1": b1, "b2": b2, "root": b2**0.5, "rate": rate, "eps": group["eps"]}
        return {**numbers, **self.decay(group)}

    def update(self, xp, theta, g, m, v, s, *, still, b1, b2, root, rate, eps, l2, shrink):
        if still:
            return theta, m, v, s
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * rate * g
        v = b2 * v + (1 - b2) * g * g
        s = root * s + (1 - root) * rate * g
        return theta - m / (xp.sqrt(v) + eps), m, v, s


class Prodigy(OneDistance):
    """Adam with a distance estimate that grows faster (Mishchenko & Defazio 2024, arXiv:2306.06101, Alg. 4).

        g <- g + weight_decay theta,   rate = d lr
        num <- b3 num + d rate / d0 <g, x0 - theta>,   s <- b3 s + d rate / d0 g         x0 the first theta
        m <- b1 m + (1 - b1) d g,   v <- b2 v + (1 - b2) d^2 g^2
        d' = max(d, d_coef num / |s|_1)                                                  d0 at first
        theta <- theta - rate m / (sqrt(v) + d' eps),   d <- d'

    b3 is sqrt(b2) unless given. growth_rate bounds d' / d after the first growth; d_coef is the way to make all steps
    larger or smaller. bias_correction=True has rate = d lr sqrt(1 - b2^k) / (1 - b1^k) at the k-th step, as in optax;
    without it, the authors' default, d grows elsewhere: the two differ by far more than Adam's do. safeguard_warmup has
    d^2 / d0 g in s, for warm-ups of lr. Decay is decoupled as in AdamW, theta <- (1 - rate weight_decay) theta, or with
    decoupled_weight_decay=False the term in g.

    Sums are over the parameters of all groups: these have the same lr, or 0 to stand still. What is found stands in the
    options of each group, and is saved with them: `d` (0 before the first step), `d_max`, `numerator` and `k`, the
    steps so far. While all gradients are 0 nothing counts. On a GPU a step waits for one small vector. ValueError for
    an option out of its range, for groups that differ in what they must share, and at a step with a gradient that is
    not finite; then nothing has changed.

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> optimizer = Prodigy([w])
    >>> for _ in range(100):
    ...     w.grad = md.tensor([1.0 if w.item() > 10 else -1.0])
    ...     optimizer.step()
    >>> round(optimizer.param_groups[0]["d"], 1)  # the minimum was 10 away: for a convex function d never exceeds that
    7.4
    """

    slots = ("m", "v", "s", "x0")
    progress = ("d", "d_max", "numerator", "k")
    rules: ClassVar = {
        **OneDistance.rules,
        "eps": above_zero,
        "beta3": nothing_or_below_one,
        "d_coef": above_zero,
        "d_max": at_least_zero,
        "safeguard_warmup": flag,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = True,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "beta3": beta3, "eps": eps, "weight_decay": weight_decay, "d0": d0}
        options |= {"decoupled_weight_decay": decoupled_weight_decay, "bias_correction": bias_correction}
        options |= {"safeguard_warmup": safeguard_warmup, "d_coef": d_coef, "growth_rate": growth_rate}
        super().__init__(params, **options, maximize=maximize, d=0.0, d_max=0.0, numerator=0.0, k=0)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return theta if slot == "x0" else 0.0

    def measure(self, movers: Sequence[Mover]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        lr, first = self.common_lr(), self.param_groups[0]
        d0, d, k, b3 = first["d0"], first["d"] or first["d0"], first["k"] + 1, _beta3(first)
        rate = d * lr * bias(first, k)
        weight = d / d0 * (d if first["safeguard_warmup"] else rate)

        def terms(xp, group, theta, g, slots):
            if g is None:
                return (0.0, xp.abs(slots["s"]).sum()) if slots else None
            new = weight * g + b3 * slots["s"] if slots else weight * g
            return inner(g, slots["x0"] - theta) if slots else 0.0, xp.abs(new).sum()

        product, size = self.totals(movers, terms) or (0.0, 0.0)
        if not lr or not size:
            return []
        numerator = b3 * first["numerator"] + d / d0 * rate * product
        d_hat = first["d_coef"] * numerator / size
        d_max = max(d_hat, first["d_max"] or d0)
        d_new = min(d_max, (max(d, d_hat) if d == d0 else d) * first["growth_rate"])
        return self.everywhere(d=d_new, d_max=d_max, numerator=numerator, k=k, rate=rate, weight=weight, old=d)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        (b1, b2), rate, found = group["betas"], self.rate(group), self.found(group)
        d, weight = found.get("old", 0.0), found.get("weight", 0.0)
        numbers = {"still": rate == 0, "b1": b1, "b2": b2, "b3": _beta3(group), "d": d, "weight": weight, "rate": rate}
        return {**numbers, "eps": found.get("d", 0.0) * group["eps"], **self.decay(group)}

    def update(self, xp, theta, g, m, v, s, x0, *, still, b1, b2, b3, d, weight, rate, eps, l2, shrink):
        if still:
            return theta, m, v, s, x0
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d * d * g * g
        s = weight * g + b3 * s
        return theta - rate * m / (xp.sqrt(v) + eps), m, v, s, x0


def _beta3(group: Mapping[str, Any]) -> float:
    beta3: float = group["betas"][1] ** 0.5 if group["beta3"] is None else group["beta3"]
    return beta3


def bias(group: Mapping[str, Any], k: int) -> float:
    """Return the factor of the step size that corrects Adam's moments for their start, 1 without the correction."""
    b1, b2 = group["betas"]
    correction: float = (1 - b2**k) ** 0.5 / (1 - b1**k)
    return correction if group["bias_correction"] else 1.0
