"""Step sizes from the squares of past gradients: Adagrad, RMSprop, Adadelta, Adamax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..engine.backend import Array
from .base import Optimizer
from .groups import at_least_zero, below_one, flag
from .rules import decay_numbers, decayed


class Adagrad(Optimizer):
    """Divide each gradient by the root of the sum of its squares so far (Duchi, Hazan & Singer 2011, Fig. 1).

        g <- g + weight_decay theta
        s <- s + g^2                                           s = initial_accumulator_value before the first step
        theta <- theta - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    Steps shrink like 1 / sqrt(t). `mean` divides by the root of the mean square, sqrt(s / t), as in lectures that let
    lr itself decay: the same direction, no decay. `eps_in_sqrt` has sqrt(s + eps), the form of Keras and optax (with
    initial_accumulator_value=0.1 and eps=1e-7). Defaults are PyTorch's.

    ValueError for a negative or non-finite option.

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = Adagrad([w], lr=0.5)
    >>> for _ in range(2):
    ...     w.grad = md.tensor([3.0, -0.1])
    ...     optimizer.step()
    >>> w  # 0.5 (1 + 1 / sqrt(2)) whatever the size of the gradient
    tensor([0.14644659, 1.8535534 ], requires_grad=True)
    """

    slots = ("s",)
    rules: ClassVar = {
        "lr_decay": at_least_zero,
        "initial_accumulator_value": at_least_zero,
        "mean": flag,
        "eps_in_sqrt": flag,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        mean: bool = False,
        eps_in_sqrt: bool = False,
    ):
        options = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps, "maximize": maximize}
        options |= {"initial_accumulator_value": initial_accumulator_value, "mean": mean, "eps_in_sqrt": eps_in_sqrt}
        super().__init__(params, **options)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> float:
        return group["initial_accumulator_value"]

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {
            "lr": group["lr"] / (1 + (t - 1) * group["lr_decay"]),
            "eps": group["eps"],
            "t": t if group["mean"] else None,
            "inside": group["eps_in_sqrt"],
            **decay_numbers(group),
        }

    def update(self, xp, theta, g, s, *, lr, eps, t, inside, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        s = s + g * g
        square = s if t is None else s / t
        return theta - lr * (g / (xp.sqrt(square + eps) if inside else xp.sqrt(square) + eps)), s


class RMSprop(Optimizer):
    """Divide each gradient by the root of a running mean of its square (Hinton 2012, Lecture 6e, slide 29).

        g <- g + weight_decay theta
        v <- alpha v + (1 - alpha) g^2                         v = initial_accumulator_value before the first step
        theta <- theta - lr g / (sqrt(v) + eps)

    centered   v - c^2 in place of v, with c <- alpha c + (1 - alpha) g: the variance (Graves 2013, arXiv:1308.0850,
               eq. 38-45). A variance that rounding makes negative counts as 0
    momentum   b <- momentum b + g / (sqrt(v) + eps), theta <- theta - lr b
    eps_in_sqrt, lr_in_buffer   sqrt(v + eps), and b <- momentum b + lr g / sqrt(v + eps): the form of Keras and
               TensorFlow; TensorFlow 1 has initial_accumulator_value=1

    v starts at 0 without correction, so the first steps are up to 1 / sqrt(1 - alpha) = 10 times lr. Defaults are
    PyTorch's. ValueError for a negative or non-finite option, and for alpha outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([7.0])
    >>> RMSprop([w], lr=0.01).step()
    >>> w
    tensor([0.9], requires_grad=True)
    """

    slots = ("v", "c", "b")
    rules: ClassVar = {
        "alpha": below_one,
        "centered": flag,
        "initial_accumulator_value": at_least_zero,
        "eps_in_sqrt": flag,
        "lr_in_buffer": flag,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        initial_accumulator_value: float = 0.0,
        eps_in_sqrt: bool = False,
        lr_in_buffer: bool = False,
    ):
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        options |= {"centered": centered, "initial_accumulator_value": initial_accumulator_value, "maximize": maximize}
        super().__init__(params, **options, eps_in_sqrt=eps_in_sqrt, lr_in_buffer=lr_in_buffer)

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("v", *["c"] * group["centered"], *["b"] * (group["momentum"] != 0))

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> float:
        return group["initial_accumulator_value"] if slot == "v" else 0.0

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {
            "lr": group["lr"],
            "alpha": group["alpha"],
            "eps": group["eps"],
            "mu": group["momentum"] or None,
            "centered": group["centered"],
            "inside": group["eps_in_sqrt"],
            "lr_in_buffer": group["lr_in_buffer"],
            **decay_numbers(group),
        }

    def update(self, xp, theta, g, v, *rest, lr, alpha, eps, mu, centered, inside, lr_in_buffer, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        square = v = alpha * v + (1 - alpha) * g * g
        new = [v]
        if centered:
            c = alpha * rest[0] + (1 - alpha) * g
            square = xp.maximum(v - c * c, 0.0)
            new.append(c)
        step = g / (xp.sqrt(square + eps) if inside else xp.sqrt(square) + eps)
        if mu is None:
            return theta - lr * step, *new
        b = mu * rest[-1] + (lr * step if lr_in_buffer else step)
        return theta - (b if lr_in_buffer else lr * b), *new, b


class Adadelta(Optimizer):
    """Scale each gradient by the running sizes of steps over gradients (Zeiler 2012, arXiv:1212.5701, Alg. 1).

        g <- g + weight_decay theta
        v <- rho v + (1 - rho) g^2
        d = sqrt(u + eps) / sqrt(v + eps) g,   u <- rho u + (1 - rho) d^2
        theta <- theta - lr d

    A step has the unit of theta, so lr = 1; it starts from sqrt(eps), which is why the first steps are small. Defaults
    are PyTorch's. ValueError for a negative or non-finite option, and for rho outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0], requires_grad=True)
    >>> w.grad = md.tensor([1.0])
    >>> Adadelta([w], eps=1e-2).step()
    >>> w  # 1 - sqrt(0.01 / (0.1 + 0.01))
    tensor([0.69848865], requires_grad=True)
    """

    slots = ("v", "u")
    rules: ClassVar = {"rho": below_one}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {"lr": group["lr"], "rho": group["rho"], "eps": group["eps"], **decay_numbers(group)}

    def update(self, xp, theta, g, v, u, *, lr, rho, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        v = rho * v + (1 - rho) * g * g
        d = xp.sqrt(u + eps) / xp.sqrt(v + eps) * g
        return theta - lr * d, v, rho * u + (1 - rho) * d * d


class Adamax(Optimizer):
    """Adam with the decayed largest |g| in place of the root mean square (Kingma & Ba 2015, arXiv:1412.6980, Alg. 2).

        g <- g + weight_decay theta
        m <- b1 m + (1 - b1) g,   u <- max(b2 u, |g| + eps)
        theta <- theta - lr / (1 - b1^t) m / u

    u needs no correction: the zero at its start never wins. `eps` is added to |g|, as in PyTorch, whose defaults these
    are. ValueError for a negative or non-finite option, and for betas outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0], requires_grad=True)
    >>> w.grad = md.tensor([0.01, -100.0])
    >>> Adamax([w], lr=0.25).step()
    >>> w
    tensor([0.75000024, 1.25      ], requires_grad=True)
    """

    slots = ("m", "u")

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b1, b2 = group["betas"]
        return {"b1": b1, "b2": b2, "lr_hat": group["lr"] / (1 - b1**t), "eps": group["eps"], **decay_numbers(group)}

    def update(self, xp, theta, g, m, u, *, b1, b2, lr_hat, eps, l2, shrink):
        theta, g = decayed(theta, g, l2, shrink)
        m = b1 * m + (1 - b1) * g
        u = xp.maximum(b2 * u, xp.abs(g) + eps)
        return theta - lr_hat * (m / u), m, u
