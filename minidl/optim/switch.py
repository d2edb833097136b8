"""SWATS: start with Adam, end with SGD."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ..engine.backend import on_device
from .base import Optimizer
from .groups import ParamGroup, at_least_zero, finite
from .rules import OneOf, count_from_zero, decay_numbers, decayed

log = logging.getLogger("minidl.optim")


class SWATS(Optimizer):
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
    parameters, as the paper does; "group" lets each group switch on its own. After the switch lr still scales the rate,
    by what it is over what it was.

    Progress stands in the options of each group, and is saved with them: `phase` ("adam" or "sgd"), `average` (L) of
    `averaged` steps, `sgd_scale` (L' / lr), `switch_step` (0 before). A switch is logged as INFO of "minidl.optim".
    ValueError for a negative or non-finite option, and for betas outside [0, 1).

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

    slots = ("m", "v", "p")
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
        p = -rate * (m / (xp.sqrt(v) + eps))
        return theta + p, m, v, p

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient; then decide whether to switch."""
        before = self.steps
        loss = super().step(closure)
        if self.steps > before:
            together = [g for g in self.param_groups if g["scope"] == "global" and g["phase"] == "adam"]
            alone = [[g] for g in self.param_groups if g["scope"] == "group" and g["phase"] == "adam"]
            for groups in [*([together] if together else []), *alone]:
                self._decide(groups)
        return loss

    def _decide(self, groups: Sequence[ParamGroup]) -> None:
        """Take the last step into the average rate of some groups; switch them if it has settled."""
        pg, pp = (sum(x) for x in zip(*(self._products(group) for group in groups), strict=True))
        first = groups[0]
        if pg == 0 or any(group["lr"] == 0 for group in groups):
            return
        gamma, b2, n = -pp / pg, first["betas"][1], first["averaged"] + 1
        average = b2 * first["average"] + (1 - b2) * gamma
        rate = average / (1 - b2**n)
        close = abs(rate - gamma) < first["switch_atol"] + first["switch_rtol"] * abs(gamma)
        for group in groups:
            group.update(average=average, averaged=n)
            if close and n > 1 and rate > 0:
                group.update(phase="sgd", sgd_scale=rate / group["lr"], switch_step=self.steps)
        if first["phase"] == "sgd":
            log.info("SWATS: from Adam to SGD after step %d, learning rate %g", self.steps, rate)

    def _products(self, group: ParamGroup) -> tuple[float, float]:
        """Return <p, g> and <p, p> of the last step of a group, in float64."""
        state, pg, pp = self.state, 0.0, 0.0
        for name, tensor in zip(group["names"], group["params"], strict=True):
            if tensor.grad is None:
                continue
            xp, device = on_device(tensor.device)
            with device:
                p = state[name]["p"].astype("float64")
                g = tensor.grad.array.astype("float64") * (-1.0 if group["maximize"] else 1.0)
                g += group["weight_decay"] * (tensor.array - p)  # at theta before the step
                pg += float(xp.sum(p * g))
                pp += float(xp.sum(p * p))
        return pg, pp
