"""SWATS: start with Adam, end with SGD."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .groups import ParamGroup, at_least_zero, finite
from .progress import Mover, Progressing
from .rules import OneOf, count_from_zero, decay_numbers, decayed

log = logging.getLogger("minidl.optim")


class SWATS(Progressing):
    """Adam that switches to SGD with momentum, at a rate that it finds itself (Keskar & Socher 2017, Alg. 1).

        g <- g + weight_decay theta
        Adam:   m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
                p = -lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps),   theta <- theta + p
                gamma = <p, p> / -<p, g>,   L <- b2 L + (1 - b2) gamma               if <p, g> is not 0
                switch if t > 1 and |L' - gamma| < switch_atol + switch_rtol |gamma|,   L' = L / (1 - b2^t) > 0
        SGD:    b <- b1 b + g,   theta <- theta - (1 - b1) L' b

    gamma is the rate at which a step of SGD, projected on Adam's direction, is Adam's step (arXiv:1712.07628). t counts
    the steps that had a gamma. The paper's absolute 1e-9 hardly ever fires with noisy gradients, nor in float32, whose
    rounding exceeds it; switch_rtol, relative to gamma, does. scope="global" takes the inner products over all
    parameters, as the paper does, so that groups have the same betas and tolerances; "group" lets each group switch on
    its own. After the switch lr still scales the rate, by what it is over what it was.

    Progress stands in the options of each group, and is saved with them: `phase` ("adam" or "sgd"), `average` (L) of
    `averaged` steps, `sgd_scale` (L' / lr), `switch_step` (0 before). A switch is logged as INFO of "minidl.optim".
    ValueError for a negative or non-finite option, for betas outside [0, 1), for groups that differ in what they must
    share, and at a step with a gradient that is not finite before the switch; then nothing has changed.

    >>> import minidl as md
    >>> import numpy as np
    >>> w = md.tensor([0.0, 0.0], dtype="float64", requires_grad=True)
    >>> optimizer = SWATS([w], lr=0.25, eps=0.0)
    >>> for _ in range(3):
    ...     w.grad = np.array([1.0, -3.0])
    ...     optimizer.step()
    >>> [optimizer.param_groups[0][name] for name in ("phase", "switch_step")]
    ['sgd', 2]
    >>> w  # twice 0.25 along the sign, then (1 - b1) lr' g with lr' = 0.25 * 2 / (1 + 3)
    tensor([-0.5125,  0.5375], dtype=float64, requires_grad=True)
    """

    slots = ("m", "v")
    progress = ("phase", "average", "averaged", "sgd_scale", "switch_step")
    rules: ClassVar = {
        "switch_atol": at_least_zero,
        "switch_rtol": at_least_zero,
        "scope": OneOf("global", "group"),
        "phase": OneOf("adam", "sgd"),
        "average": finite,
        "averaged": count_from_zero,
        "sgd_scale": at_least_zero,
        "switch_step": count_from_zero,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        switch_atol: float = 1e-9,
        switch_rtol: float = 0.0,
        scope: str = "global",
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        options |= {"switch_atol": switch_atol, "switch_rtol": switch_rtol, "scope": scope}
        progress = {"phase": "adam", "average": 0.0, "averaged": 0, "sgd_scale": 0.0, "switch_step": 0}
        super().__init__(params, **options, **progress)

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["phase"] == "adam" else ("b",)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        if group["phase"] == "sgd":
            rate = (1 - b1) * group["sgd_scale"] * group["lr"]
            return {"phase": "sgd", "b1": b1, "rate": rate, **decay_numbers(group)}
        rate = group["lr"] * (1 - b2**t) ** 0.5 / (1 - b1**t)
        return {"phase": "adam", "b1": b1, "b2": b2, "rate": rate, "eps": group["eps"], **decay_numbers(group)}

    def update(self, xp, theta, g, *slots, phase, b1, rate, l2, shrink, b2=None, eps=None):
        theta, g = decayed(theta, g, l2, shrink)
        if phase == "sgd":
            b = b1 * slots[0] + g
            return theta - rate * b, b
        m = b1 * slots[0] + (1 - b1) * g
        v = b2 * slots[1] + (1 - b2) * g * g
        return theta - rate * (m / (xp.sqrt(v) + eps)), m, v

    def measure(self, movers: Sequence[Mover]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        together = [group for group in self.param_groups if group["scope"] == "global" and group["phase"] == "adam"]
        alone = [[g] for g in self.param_groups if g["scope"] == "group" and g["phase"] == "adam"]
        self.agree(together, ("betas", "switch_atol", "switch_rtol"))
        return [found for groups in [together, *alone] if groups for found in self._decide(movers, groups)]

    def _decide(self, movers: Sequence[Mover], groups: Sequence[ParamGroup]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        """Take this step into the average rate of some groups; switch them if it has settled."""
        pg, pp = self._products(movers, groups)
        if pg == 0 or any(group["lr"] == 0 for group in groups):
            return []
        first = groups[0]
        gamma, b2, n = -pp / pg, first["betas"][1], first["averaged"] + 1
        average = b2 * first["average"] + (1 - b2) * gamma
        rate = average / (1 - b2**n)
        numbers: dict[str, Any] = {"average": average, "averaged": n}
        if n == 1 or rate <= 0 or abs(rate - gamma) >= first["switch_atol"] + first["switch_rtol"] * abs(gamma):
            return [(group, numbers) for group in groups]
        numbers |= {"phase": "sgd", "switch_step": self.steps + 1}
        return [(group, {**numbers, "sgd_scale": rate / group["lr"]}) for group in groups]

    def _products(self, movers: Sequence[Mover], groups: Sequence[ParamGroup]) -> tuple[float, float]:
        """Return <p, g> and <p, p> of the step p that some groups are about to make, in float64."""
        rates = {id(x): self.scalars(group, cohort.t + 1)["rate"] for cohort, group, _ in movers for x in cohort.arrays}

        def terms(xp, group, theta, g, slots):
            if g is None:
                return None
            (b1, b2), g = group["betas"], g.astype("float64")
            m, v = (1 - b1) * g, (1 - b2) * g * g
            if slots:
                m, v = m + b1 * slots["m"], v + b2 * slots["v"]
            p = -rates[id(theta)] * (m / (xp.sqrt(v) + group["eps"]))
            return (p * g).sum(), (p * p).sum()

        pg, pp = self.totals(movers, terms, groups) or (0.0, 0.0)
        return pg, pp

    def after_step(self) -> None:
        switched = {}
        for group in self.param_groups:
            found = self.found(group)
            if "sgd_scale" in found:  # groups that share an average share the line
                switched[found["average"]] = found["sgd_scale"] * group["lr"]
        super().after_step()
        for rate in switched.values():
            log.info("SWATS: from Adam to SGD after step %d, learning rate %g", self.steps, rate)
