"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Optimizer
from .groups import flag
from .rules import OneOf, relative_lr
from .segment import Cohort


class SGD(Optimizer):
    """Step against the gradient, or against its running sum (Robbins & Monro 1951; Polyak 1964; Nesterov 1983).

        g <- g + weight_decay theta
        b <- momentum b + (1 - dampening) g                    b = g where the buffer is new
        theta <- theta - lr b                                  nesterov: theta - lr (g + momentum b)

    With momentum the steps in a constant direction add up to 1 / (1 - momentum) times as much. `lr_in_buffer` keeps the
    step itself in the buffer, v <- momentum v - lr g, theta <- theta + v (Sutskever et al. 2013, eq. 1 and 2; Keras):
    the same for a constant lr, while under a schedule past gradients keep the lr that they arrived with. With nesterov
    the parameters are the look-ahead point of Sutskever et al. (Sec. 2), as in PyTorch.

    A buffer is new where momentum has just been switched on, too. Defaults are PyTorch's. ValueError for a negative or
    non-finite option, and for nesterov without momentum or with dampening.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.5, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     w.sum().backward()
    ...     optimizer.step()
    >>> w
    tensor([-0.45], requires_grad=True)
    """

    slots = ("b",)
    rules: ClassVar = {"lr_in_buffer": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        lr_in_buffer: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            lr_in_buffer=lr_in_buffer,
        )

    def check_group(self, group: Mapping[str, Any]) -> None:
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                f"{self._who}: nesterov needs momentum > 0 and dampening = 0, got nesterov=True, "
                f"momentum={group['momentum']}, dampening={group['dampening']}"
            )

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["momentum"] else ()

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {
            "lr": group["lr"],
            "mu": group["momentum"] or None,
            "keep": (1 if t == 1 else 1 - group["dampening"]) if group["dampening"] else None,
            "weight_decay": group["weight_decay"] or None,
            "nesterov": group["nesterov"],
            "lr_in_buffer": group["lr_in_buffer"],
        }

    def cohort_scalars(self, cohort: Cohort, group: Mapping[str, Any]) -> dict[str, Any]:
        scalars = self.scalars(group, cohort.t + 1)
        if scalars["keep"] is not None and (cohort.store is None or "b" not in cohort.store.slots):
            scalars["keep"] = 1
        return scalars

    def update(self, xp, theta, g, b=None, *, lr, mu, keep, weight_decay, nesterov, lr_in_buffer, shrink=None):
        if shrink is not None:
            theta = shrink * theta
        if weight_decay is not None:
            g = g + weight_decay * theta
        if mu is None:
            return theta - lr * g
        kept = g if keep is None else keep * g
        if lr_in_buffer:
            b = mu * b - lr * kept
            return theta + (mu * b - lr * g if nesterov else b), b
        b = mu * b + kept
        return theta - lr * (g + mu * b if nesterov else b), b


class SGDW(SGD):
    """SGD with weight decay kept out of the gradient (Loshchilov & Hutter 2019, arXiv:1711.05101, Alg. 1).

        theta <- (1 - lr weight_decay) theta                   decay="schedule": lr / initial lr in place of lr
        b <- momentum b + (1 - dampening) g                    b = g where the buffer is new
        theta <- theta - lr b                                  nesterov: theta - lr (g + momentum b)

    The paper's form is lr_in_buffer=True with decay="schedule". The decay of the default, decay="lr", is in proportion
    to lr, as in PyTorch's AdamW. Errors as in SGD, and where decay="schedule" finds an initial lr of 0.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([2.0])
    >>> SGDW([w], lr=0.1, weight_decay=0.5).step()
    >>> w
    tensor([0.75], requires_grad=True)
    """

    rules: ClassVar = {**SGD.rules, "decay": OneOf("lr", "schedule")}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 1e-2,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        lr_in_buffer: bool = False,
        decay: str = "lr",
    ):
        options: dict[str, Any] = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        options |= {"nesterov": nesterov, "maximize": maximize, "lr_in_buffer": lr_in_buffer, "decay": decay}
        Optimizer.__init__(self, params, **options)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        rate = group["lr"] if group["decay"] == "lr" else relative_lr(self._who, group)
        lost = rate * group["weight_decay"]
        return {**super().scalars(group, t), "weight_decay": None, "shrink": 1 - lost if lost else None}
