"""Steps divided by the diagonal of the Hessian, measured by double backprop: AdaHessian, Sophia."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from ..engine.autograd import grad
from ..engine.backend import Array, on_device, to_device
from ..engine.tensor import Tensor, wrap
from .base import Optimizer
from .groups import ParamGroup
from .rules import OneOf, above_zero, count, count_from_zero, fraction
from .segment import Cohort


class HutchinsonOptimizer(Optimizer):
    """Base: slot `d` = z (H z), an estimate of the Hessian's diagonal, z random signs (Bekas et al. 2007).

    Its mean is diag(H), and it is diag(H) itself where H is diagonal. `step` takes it from the graph of the gradients
    that `loss.backward(create_graph=True)` leaves, before hooks change them; then it lets go of that graph, and the
    gradients are plain ones. z depends on `seed`, the step and the place of the parameter only, so a resumed run draws
    the same. A gradient without a graph, beside others that have one, is a constant, and its d is 0.
    """

    step_needs = "gradients with a graph"
    rules: ClassVar = {"seed": count_from_zero}

    def _reset(self) -> None:
        super()._reset()
        self._estimates: dict[int, Array] = {}  # id of a parameter -> d; empty between steps

    @property
    def wants_graph(self) -> bool:
        """True if the next step measures: `loss.backward(create_graph=optimizer.wants_graph)` suits every step."""
        return any(self.due(group) for group in self.param_groups)

    def due(self, group: Mapping[str, Any]) -> bool:
        """Tell whether the next step measures the curvature of a group."""
        return True

    def smoothed(self, d: Array, group: Mapping[str, Any]) -> Array:
        """Return an estimate as the formula is to have it."""
        return d

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Measure the curvature, then move every parameter that has a gradient. Returns what `closure` returned.

        RuntimeError if this step measures and no gradient has a graph; then nothing has changed.
        """
        try:
            if closure is None:
                self._measure()
                return super().step()
            given = closure
            return super().step(lambda: self._measure(given()))
        finally:
            self._estimates = {}

    def _measure(self, loss: Any = None) -> Any:
        """Estimate the diagonal for the groups that are due, cut every gradient off its graph, and return the loss."""
        everyone = [(p, group) for group in self.param_groups for p in group["params"]]
        moving = [(place, p, group) for place, (p, group) in enumerate(everyone) if p.grad is not None]
        due = [entry for entry in moving if self.due(entry[2])]
        recorded = [entry for entry in due if entry[1].requires_grad and entry[1].grad.requires_grad]
        if due and not recorded:
            raise RuntimeError(
                f"{self._who}.step: this step measures the curvature, and no gradient has the graph that this needs; "
                "call loss.backward(create_graph=True)"
            )
        if recorded:
            signs = [self._signs(*entry) for entry in recorded]
            params = [p for _, p, _ in recorded]
            products = grad([p.grad for p in params], params, signs, allow_unused=True)
            for (_, p, group), z, product in zip(recorded, signs, products, strict=True):
                if product is not None:
                    with on_device(p.device)[1]:
                        d = z.array * product.array
                        self._estimates[id(p)] = self.smoothed(-d if group["maximize"] else d, group)
        for _, p, _ in moving:
            p.grad = p.grad.detach()
        return loss

    def _signs(self, place: int, p: Tensor, group: ParamGroup) -> Tensor:
        """Return a tensor of +1 and -1 like a parameter, drawn on the host: the same on every device."""
        generator = np.random.default_rng((group["seed"], self.steps, place))
        # Eight signs a byte: for 100,000 elements 70 us, where one draw each takes 500.
        bits = np.unpackbits(generator.integers(0, 256, -(-p.size // 8), np.uint8), count=p.size).astype(p.dtype)
        return wrap(to_device((2 * bits - 1).reshape(p.shape), p.device))

    def _prepare(self, cohort: Cohort, group: ParamGroup) -> tuple[Any, Any, dict[str, Any]]:
        """Fill in the estimates, where the step will find them."""
        store, program, scalars = super()._prepare(cohort, group)
        if self.due(group):
            with store.device:
                for d, p in zip(store.slot("d"), cohort.tensors, strict=True):
                    d[...] = self._estimates.get(id(p), 0.0)
        return store, program, scalars


class AdaHessian(HutchinsonOptimizer):
    """Adam with the curvature in place of the gradient's size (Yao et al. 2021, arXiv:2006.00719, Alg. 1).

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) d^2,   d = z (H z)
        theta <- (1 - lr weight_decay) theta - lr m' / (sqrt(v')^hessian_power + eps)
                 m' = m / (1 - b1^t),  v' = v / (1 - b2^t)

    H z, z of random signs, is a gradient of the gradients, which need their graph:

        loss.backward(create_graph=True)
        optimizer.step()

    averaging    over a filter of a convolution (all axes after the second): "official" takes the mean of |d|, as the
                 authors' code does; "paper" the mean of d, in which errors cancel; "none" leaves d as it is
    seed         of z, together with the number of the step

    Slot `d` is the last estimate. A step costs about two more backward passes. Defaults are the authors'. RuntimeError
    in `step` if no gradient has a graph; ValueError for a negative or non-finite option, for betas outside [0, 1) and
    hessian_power outside [0, 1].

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = AdaHessian([w], lr=1.0, eps=0.0)
    >>> (md.tensor([0.5, 50.0]) * w * w).sum().backward(create_graph=True)
    >>> optimizer.step()
    >>> w, optimizer.state["0"]["d"]  # a diagonal Hessian is measured exactly: this is Newton's step
    (tensor([0., 0.], requires_grad=True), array([  1., 100.], dtype=float32))
    """

    slots = ("m", "v", "d")
    rules: ClassVar = {
        **HutchinsonOptimizer.rules,
        "hessian_power": fraction,
        "averaging": OneOf("official", "paper", "none"),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        hessian_power: float = 1.0,
        *,
        maximize: bool = False,
        averaging: str = "official",
        seed: int = 0,
    ):
        options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(
            params, **options, hessian_power=hessian_power, averaging=averaging, seed=seed, maximize=maximize
        )

    def smoothed(self, d: Array, group: Mapping[str, Any]) -> Array:
        if d.ndim < 3 or not d.size or group["averaging"] == "none":
            return d
        d = abs(d) if group["averaging"] == "official" else d
        return d.mean(axis=tuple(range(2, d.ndim)), keepdims=True)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        exponent = None if group["hessian_power"] == 1 else group["hessian_power"]
        numbers = {"b1": b1, "b2": b2, "lr_hat": group["lr"] / (1 - b1**t), "c2": 1 - b2**t, "eps": group["eps"]}
        return {**numbers, "exponent": exponent, "keep": 1 - group["lr"] * group["weight_decay"]}

    def update(self, xp, theta, g, m, v, d, *, b1, b2, lr_hat, c2, eps, exponent, keep):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * d * d
        size = xp.sqrt(v / c2)
        if exponent is not None:
            size = size**exponent
        return keep * theta - lr_hat * (m / (size + eps)), m, v, d


class Sophia(HutchinsonOptimizer):
    """Newton's step for each element, clipped where the curvature is small or wrong (Liu et al. 2023, Alg. 3).

        m <- b1 m + (1 - b1) g
        h <- b2 h + (1 - b2) d,   d = z (H z)              at steps 1, 1 + update_period, 1 + 2 update_period, ...
        theta <- (1 - lr weight_decay) theta - lr clip(m / max(gamma h, eps), -1, 1)

    Where h is small or negative (towards a maximum or a saddle) the step is lr sign(m), where it is large lr m / (gamma
    h). This is Sophia-H (arXiv:2305.14342), but that z has random signs in place of normal numbers: the same mean, less
    variance. The authors' code also divides m by 1 - b1^t. Only steps that measure need gradients with a graph:

        loss.backward(create_graph=optimizer.wants_graph)
        optimizer.step()

    They are counted by the optimizer: a parameter that joins in later has h = 0 until the next of them. Slot `d` is the
    last estimate. betas, gamma, eps and update_period are the paper's. RuntimeError in `step` if it measures and no
    gradient has a graph; ValueError for a negative or non-finite option, betas outside [0, 1), and gamma or eps 0.

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0, 1.0], requires_grad=True)
    >>> optimizer = Sophia([w], lr=0.5, betas=(0.0, 0.0), gamma=1.0, weight_decay=0.0)
    >>> (md.tensor([4.0, 0.5, -2.0]) * w * w - 4 * w).sum().backward(create_graph=optimizer.wants_graph)
    >>> optimizer.step()
    >>> w  # lr times Newton's step 4 / 8; -3 / 1 is clipped; with curvature -4 Newton's step would climb: lr sign(g)
    tensor([0.75, 1.5 , 1.5 ], requires_grad=True)
    """

    slots = ("m", "h", "d")
    rules: ClassVar = {
        **HutchinsonOptimizer.rules,
        "gamma": above_zero,
        "eps": above_zero,
        "update_period": count,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.96, 0.99),
        gamma: float = 0.01,
        eps: float = 1e-12,
        weight_decay: float = 0.1,
        update_period: int = 10,
        *,
        maximize: bool = False,
        seed: int = 0,
    ):
        options: dict[str, Any] = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **options, update_period=update_period, seed=seed, maximize=maximize)

    def due(self, group: Mapping[str, Any]) -> bool:
        return self.steps % group["update_period"] == 0

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "gamma": group["gamma"], "eps": group["eps"], "lr": group["lr"]}
        return {**numbers, "due": self.due(group), "keep": 1 - group["lr"] * group["weight_decay"]}

    def update(self, xp, theta, g, m, h, d, *, b1, b2, gamma, eps, lr, due, keep):
        m = b1 * m + (1 - b1) * g
        if due:
            h = b2 * h + (1 - b2) * d
        return keep * theta - lr * xp.clip(m / xp.maximum(gamma * h, eps), -1.0, 1.0), m, h, d
