"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Optimizer
from .groups import flag


class SGD(Optimizer):
    """Step against the gradient, or against its running sum (Robbins & Monro 1951; Polyak 1964; Nesterov 1983).

        g <- g + weight_decay theta
        b <- momentum b + (1 - dampening) g                    b = g at the first step
        theta <- theta - lr b                                  nesterov: theta - lr (g + momentum b)

    With momentum the steps in a constant direction add up to 1 / (1 - momentum) times as much. `lr_in_buffer` keeps the
    step itself in the buffer, v <- momentum v - lr g, theta <- theta + v (Sutskever et al. 2013, eq. 1 and 2; Keras):
    the same for a constant lr, while under a schedule past gradients keep the lr that they arrived with. With nesterov
    the parameters are the look-ahead point of Sutskever et al. (Sec. 2), as in PyTorch.

    Defaults are PyTorch's. ValueError for a negative or non-finite option, and for nesterov without momentum or with
    dampening.

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
                f"SGD: nesterov needs momentum > 0 and dampening = 0, got nesterov=True, momentum={group['momentum']}, "
                f"dampening={group['dampening']}"
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

    def update(self, xp, theta, g, b=None, *, lr, mu, keep, weight_decay, nesterov, lr_in_buffer):
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
