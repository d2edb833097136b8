"""Averaged SGD, Rprop, optimistic steps against rotation, and Polyak's step size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..compiler.formula import total_dot
from ..engine.backend import Array
from .base import Optimizer
from .groups import at_least_zero, finite
from .rules import above_zero, decay_numbers, decayed


class ASGD(Optimizer):
    """SGD that also keeps the average of its path (Polyak & Juditsky 1992; the rates of Bottou's sgd, via PyTorch).

        g <- g + weight_decay theta
        theta <- (1 - lambd eta_t) theta - eta_t g,   eta_t = lr / (1 + lambd lr (t - 1))^alpha
        ax <- ax + mu_t (theta - ax),   mu_t = 1 / max(1, t - 1 - t0)

    The average, the result to be used, is `optimizer.state[name]["ax"]`; before step t0 it is theta itself. Defaults
    are PyTorch's, which keeps eta and mu in float32, and computes eta_(t+1) at the end of step t: there a change of lr
    takes hold one step later. ValueError for a negative or non-finite option.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = ASGD([w], lr=1.0, lambd=0.0, t0=0)
    >>> for _ in range(4):
    ...     w.grad = md.tensor([1.0])
    ...     optimizer.step()
    >>> w, optimizer.state["0"]["ax"]  # the mean of -1, -2 and -3
    (tensor([-3.], requires_grad=True), array([-2.], dtype=float32))
    """

    slots = ("ax",)
    rules: ClassVar = {"lambd": at_least_zero, "alpha": finite, "t0": at_least_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        super().__init__(params, **options, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        eta = group["lr"] / (1 + group["lambd"] * group["lr"] * (t - 1)) ** group["alpha"]
        mu = 1 / max(1, t - 1 - group["t0"])
        return {"eta": eta, "keep": 1 - group["lambd"] * eta, "mu": mu if mu != 1 else None, **decay_numbers(group)}

    def update(self, xp, theta, g, ax, *, eta, keep, mu, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        theta = keep * theta - eta * g
        return theta, theta if mu is None else ax + mu * (theta - ax)


def shrink_and_grow(x: Any) -> bool:
    """two numbers, 0 < shrink < 1 < grow"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 2 and all(map(above_zero, x)) and x[0] < 1 < x[1]


def least_and_largest(x: Any) -> bool:
    """two numbers > 0, the least and the largest step"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 2 and all(map(above_zero, x)) and x[0] <= x[1]


class Rprop(Optimizer):
    """Steps that use only the sign of the gradient, for full batches (Riedmiller & Braun 1993, as Rprop- of Igel 2000).

        s = g g_prev
        d <- clip(1.2 d where s > 0, 0.5 d where s < 0, d, least, largest)       d = lr before the first step
        g <- 0 where s < 0,   theta <- theta - sign(g) d,   g_prev <- g

    lr is the first step and nothing else: a schedule of it has no effect. `etas` = (shrink, grow), `step_sizes` =
    (least, largest); defaults are PyTorch's. ValueError for lr <= 0 and for wrong etas or step_sizes.

    >>> import minidl as md
    >>> w = md.tensor([0.3], requires_grad=True)
    >>> optimizer = Rprop([w], lr=0.1)
    >>> for _ in range(3):
    ...     w.grad = 2 * w.detach()
    ...     optimizer.step()
    >>> w  # 0.3 - 0.1 - 0.12 - 0.144
    tensor([-0.064], requires_grad=True)
    """

    slots = ("previous", "d")
    rules: ClassVar = {"lr": above_zero, "etas": shrink_and_grow, "step_sizes": least_and_largest}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, etas=etas, step_sizes=step_sizes, maximize=maximize)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> float:
        return group["initial_lr"] if slot == "d" else 0.0

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        (shrink, grow), (least, largest) = group["etas"], group["step_sizes"]
        return {"down": shrink, "up": grow, "least": least, "largest": largest}

    def update(self, xp, theta, g, previous, d, *, down, up, least, largest):
        # Signs, not the product itself: that of two small gradients would round to 0.
        agree = xp.sign(g) * xp.sign(previous)
        d = xp.clip(d * xp.where(agree > 0, up, xp.where(agree < 0, down, 1.0)), least, largest)
        g = xp.where(agree < 0, 0.0, g)
        return theta - xp.sign(g) * d, g, d


class OptimisticGD(Optimizer):
    """Gradient steps that expect the next gradient to change as the last one did (Daskalakis et al. 2018, Sec. 2).

        theta <- theta - lr ((alpha + beta) g - beta g_prev)                     g_prev = g at the first step

    In a game of two players, where plain descent circles away from the equilibrium, it converges (arXiv:1711.00141;
    alpha and beta are those of Mokhtari et al. 2019, arXiv:1901.08511). ValueError for a negative or non-finite option.

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = OptimisticGD([w], lr=0.5)
    >>> for g in (1.0, 3.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # 1 - 0.5 - 0.5 (2 * 3 - 1)
    tensor([-2.], requires_grad=True)
    """

    slots = ("previous",)
    rules: ClassVar = {"alpha": at_least_zero, "beta": at_least_zero}

    def __init__(self, params: Any, lr: float = 1e-3, alpha: float = 1.0, beta: float = 1.0, *, maximize: bool = False):
        super().__init__(params, lr=lr, alpha=alpha, beta=beta, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {"lr": group["lr"], "alpha": group["alpha"], "beta": None if t == 1 else group["beta"]}

    def update(self, xp, theta, g, previous, *, lr, alpha, beta):
        if beta is None:
            return theta - lr * alpha * g, g
        return theta - lr * ((alpha + beta) * g - beta * previous), g


class OptimisticAdam(Optimizer):
    """Optimistic steps along Adam's direction (Daskalakis et al. 2018, arXiv:1711.00141, Alg. 1).

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        theta <- theta - lr ((alpha + beta) u - beta u_prev)                     u_prev = u at the first step

    With alpha = beta = 1 the paper's 2 lr u_t - lr u_(t-1). ValueError for a negative or non-finite option, and for
    betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> optimizer = OptimisticAdam([w], lr=0.1, betas=(0.0, 0.0))
    >>> for g in (5.0, -2.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w  # 1 - 0.1 + 0.1 (2 + 1)
    tensor([1.2], requires_grad=True)
    """

    slots = ("m", "v", "previous")
    rules: ClassVar = {"alpha": at_least_zero, "beta": at_least_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        alpha: float = 1.0,
        beta: float = 1.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, alpha=alpha, beta=beta, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        numbers = {"b1": b1, "b2": b2, "c1": 1 - b1**t, "c2": 1 - b2**t, "eps": group["eps"]}
        beta = None if t == 1 else group["beta"]
        return {**numbers, "lr": group["lr"], "alpha": group["alpha"], "beta": beta}

    def update(self, xp, theta, g, m, v, previous, *, b1, b2, c1, c2, eps, lr, alpha, beta):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        u = m / c1 / (xp.sqrt(v / c2) + eps)
        if beta is None:
            return theta - lr * alpha * u, m, v, u
        return theta - lr * ((alpha + beta) * u - beta * previous), m, v, u


class PolyakSGD(Optimizer):
    """Gradient descent with Polyak's step size (Polyak 1969; stochastic: Loizou et al. 2021, arXiv:2002.10542, eq. 6).

        theta <- theta - lr min(max(f - f_min, 0) / (|g|^2 + eps), max_lr) g

    f is the loss: give `step` a closure that returns it, or `step(loss=f)`. f_min is its least possible value, 0 for
    a model that can fit its data; with `maximize` it is that of -f. |g| is the norm over all parameters. On a quadratic
    in one variable the step is half of Newton's. ValueError without a loss, for one that is not finite, and for a
    negative or non-finite option (f_min may be negative).

    >>> import minidl as md
    >>> w = md.tensor([8.0], requires_grad=True)
    >>> optimizer = PolyakSGD([w])
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     loss = (w * w).sum()
    ...     loss.backward()
    ...     optimizer.step(loss=loss)
    >>> w
    tensor([1.], requires_grad=True)
    """

    step_needs = "the loss"
    rules: ClassVar = {"max_lr": above_zero, "f_min": finite}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_lr: float = 1.0,
        f_min: float = 0.0,
        eps: float = 0.0,
        *,
        maximize: bool = False,
    ):
        self._loss = 0.0
        super().__init__(params, lr=lr, max_lr=max_lr, f_min=f_min, eps=eps, maximize=maximize)

    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """Move every parameter that has a gradient, given the loss or a closure that returns it."""
        if (closure is None) == (loss is None):
            raise ValueError(f"{self._who}.step: needs either a closure that returns the loss, or loss=...")

        def take(loss: Any) -> Any:
            self._loss = float(loss.item() if hasattr(loss, "item") else loss)
            if not math.isfinite(self._loss):
                raise ValueError(f"{self._who}.step: the loss must be finite, got {self._loss}")
            return loss

        if closure is None:
            take(loss)
            return super().step()
        given = closure
        return super().step(lambda: take(given()))

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        gap = max((-self._loss if group["maximize"] else self._loss) - group["f_min"], 0.0)
        return {"gap": gap, "lr": group["lr"], "max_lr": group["max_lr"], "eps": group["eps"]}

    def update(self, xp, theta, g, *, gap, lr, max_lr, eps):
        # Where all gradients are 0 the rate is max_lr, and the step 0.
        rate = xp.minimum(gap / xp.maximum(total_dot(g, g) + eps, 1e-300), max_lr)
        return theta - lr * rate * g
