"""Adam and AdamW: steps scaled by the gradient's own running size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Optimizer
from .rules import OneOf, relative_lr

DEBIAS = OneOf("torch", "vhat", "none", "keras")


class Adam(Optimizer):
    """Scale the gradient by its own running size (Kingma & Ba 2015, arXiv:1412.6980, Alg. 1; defaults Sec. 2).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        theta <- theta - lr m' / (sqrt(v') + eps),   m' = m / (1 - b1^t),  v' = v / (1 - b2^t)

    The size of a step is about lr whatever the scale of the gradient; the first is lr sign(g). It is computed in the
    order of the end of Sec. 2, with sqrt(1 - b2^t) drawn out of the quotient, which saves an operation in twelve.
    `amsgrad` divides by the largest v so far (Reddi, Kale & Kumar 2018, arXiv:1904.09237, Alg. 2). `debias` says what
    the zeros at the start of m and v are corrected to:

        "torch"   v' = max v / (1 - b2^t), which can shrink while b2^t fades; PyTorch, Keras
        "vhat"    v' = max (v / (1 - b2^t)); optax
        "none"    m' = m, v' = v or max v: the papers' AMSGrad, without any correction
        "keras"   as "torch", with eps added to sqrt(v) instead of sqrt(v'): the "epsilon hat" of the end of Sec. 2

    ValueError for a negative or non-finite option, for betas outside [0, 1), and for an unknown `debias`.

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0], requires_grad=True)
    >>> (w * md.tensor([1e-3, -1e3])).sum().backward()
    >>> Adam([w], lr=0.25).step()
    >>> w
    tensor([0.7500025, 1.25     ], requires_grad=True)
    """

    slots = ("m", "v", "v_max")
    rules: ClassVar = {"debias": DEBIAS}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        debias: str = "torch",
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, **options, maximize=maximize, debias=debias)

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["amsgrad"] else self.slots[:2]

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {**_debiased(group, t), "weight_decay": group["weight_decay"] or None}

    def update(self, xp, theta, g, m, v, v_max=None, *, b1, b2, lr_hat, eps_hat, v_scale, weight_decay):
        if weight_decay is not None:
            g = g + weight_decay * theta
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        if v_max is None:
            return theta - lr_hat * (m / (xp.sqrt(v) + eps_hat)), m, v
        v_max = xp.maximum(v_max, v if v_scale is None else v_scale * v)
        return theta - lr_hat * (m / (xp.sqrt(v_max) + eps_hat)), m, v, v_max


class AdamW(Optimizer):
    """Adam with weight decay kept out of the gradient (Loshchilov & Hutter 2019, arXiv:1711.05101, Alg. 2).

        theta <- (1 - lr weight_decay) theta
        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
        theta <- theta - lr m' / (sqrt(v') + eps),   m' = m / (1 - b1^t),  v' = v / (1 - b2^t)

    The decay of a step is lr times weight_decay, as in PyTorch (decay="lr"), whose default 1e-2 this is. With
    decay="schedule" it is weight_decay times lr / initial lr, the paper's: it follows a schedule of lr, and choosing
    another lr leaves it as it is. `amsgrad`, `debias` and errors as in Adam.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> (0 * w).sum().backward()
    >>> AdamW([w], lr=0.1, weight_decay=0.5).step()
    >>> w
    tensor([0.95], requires_grad=True)
    """

    slots = ("m", "v", "v_max")
    rules: ClassVar = {"debias": DEBIAS, "decay": OneOf("lr", "schedule")}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        debias: str = "torch",
        decay: str = "lr",
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, **options, maximize=maximize, debias=debias, decay=decay)

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["amsgrad"] else self.slots[:2]

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        rate = group["lr"] if group["decay"] == "lr" else relative_lr(self._who, group)
        decay = rate * group["weight_decay"]
        return {**_debiased(group, t), "shrink": 1 - decay if decay else None}

    def update(self, xp, theta, g, m, v, v_max=None, *, b1, b2, lr_hat, eps_hat, v_scale, shrink):
        if shrink is not None:
            theta = shrink * theta
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        if v_max is None:
            return theta - lr_hat * (m / (xp.sqrt(v) + eps_hat)), m, v
        v_max = xp.maximum(v_max, v if v_scale is None else v_scale * v)
        return theta - lr_hat * (m / (xp.sqrt(v_max) + eps_hat)), m, v, v_max


def _debiased(group: Mapping[str, Any], t: int) -> dict[str, Any]:
    """Return the numbers of step t.

    m / (1 - b1^t) and v / (1 - b2^t) undo the weight that the zeros at the start still have in m and v:
    lr m' / (sqrt(v') + eps) = lr_hat m / (sqrt(v) + eps_hat).
    """
    b1, b2 = group["betas"]
    lr, eps, debias = group["lr"], group["eps"], group["debias"]
    if debias == "none":
        return {"b1": b1, "b2": b2, "lr_hat": lr, "eps_hat": eps, "v_scale": None}
    if debias == "vhat" and group["amsgrad"]:
        return {"b1": b1, "b2": b2, "lr_hat": lr / (1 - b1**t), "eps_hat": eps, "v_scale": 1 / (1 - b2**t)}
    root = (1 - b2**t) ** 0.5
    eps_hat = eps if debias == "keras" else eps * root
    return {"b1": b1, "b2": b2, "lr_hat": lr * root / (1 - b1**t), "eps_hat": eps_hat, "v_scale": None}
