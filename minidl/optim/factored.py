"""Second moments that need less memory than the parameters: Adafactor, CAME, SM3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..engine.backend import Array
from .base import Optimizer
from .groups import at_least_zero, below_one
from .rules import above_zero, at_most_zero, three_below_one, zeros


def one_or_more(x: Any) -> bool:
    """a finite number >= 1"""  # noqa: D400
    return above_zero(x) and x >= 1


def two_epsilons(x: Any) -> bool:
    """two numbers >= 0, the first perhaps None"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 2 and (x[0] is None or at_least_zero(x[0])) and at_least_zero(x[1])


def two_above_zero(x: Any) -> bool:
    """two numbers > 0"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 2 and all(map(above_zero, x))


class Adafactor(Optimizer):
    """Second moments of a matrix as rows times columns (Shazeer & Stern 2018, arXiv:1804.04235, Alg. 4, 5).

        theta <- (1 - lr weight_decay) theta
        r <- r + t^beta2_decay (mean over rows of g^2 - r),   c likewise over columns,   v = r c / mean(r)
        u = g / sqrt(max(v, eps1^2)),   u <- u / max(1, rms(u) / d)
        theta <- theta - max(eps2, rms(theta)) min(lr, 1 / sqrt(t)) u

    rms(theta) is that before the decay. Vectors and numbers have a full v; tensors with more axes are matrices over
    their last two. eps = (eps1, eps2); eps1 = None is the spacing of the dtype at 1. Slot r holds r, or v where there
    is no matrix; c is then a single 0. Defaults and conventions are PyTorch's. ValueError for a negative or non-finite
    option, d < 1, and beta2_decay > 0.

    >>> import minidl as md
    >>> w = md.tensor([[1.0, 1.0], [1.0, 1.0]], requires_grad=True)
    >>> w.grad = md.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> Adafactor([w], lr=0.1).step()
    >>> w  # g^2 is an outer product, so u is 1 everywhere
    tensor([[0.9, 0.9],
            [0.9, 0.9]], requires_grad=True)
    """

    slots = ("r", "c")
    rules: ClassVar = {"beta2_decay": at_most_zero, "eps": two_epsilons, "d": one_or_more}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(params, **options, maximize=maximize)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return first_factor(slot, theta)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        eps1, eps2 = group["eps"]
        return {
            "share": t ** group["beta2_decay"],
            "rate": min(group["lr"], 1 / math.sqrt(t)),
            "eps1": eps1,
            "eps2": eps2,
            "d": group["d"],
            "keep": 1 - group["lr"] * group["weight_decay"],
        }

    def update_tensor(self, xp, theta, g, r, c, *, share, rate, eps1, eps2, d, keep):
        if not theta.size:
            return theta, r, c
        eps1 = float(np.finfo(theta.dtype).eps) if eps1 is None else eps1
        size = xp.maximum(xp.sqrt((theta * theta).mean()), eps2)
        square = g * g
        if theta.ndim < 2:
            v = r = r + share * (square - r)
        else:
            r, c = moved_factors(square, r, c, share)
            v = r * c / xp.maximum(r.mean(axis=-2, keepdims=True), eps1)
        u = g / xp.sqrt(xp.maximum(v, eps1 * eps1))
        u = u / xp.maximum(xp.sqrt((u * u).mean()) / d, 1.0)
        return xp.asarray(keep * theta - size * rate * u, theta.dtype), r, c


class CAME(Optimizer):
    """Adafactor with momentum that is trusted less where steps disagree (Luo et al. 2023, arXiv:2307.02047, Alg. 2).

        theta <- (1 - lr weight_decay) theta
        r <- b2 r + (1 - b2) mean over rows of (g^2 + eps1),   c likewise over columns,   v = r c / mean(r)
        u = g / sqrt(v),   u <- u / max(1, rms(u) / clip_threshold),   m <- b1 m + (1 - b1) u
        ru <- b3 ru + (1 - b3) mean over rows of ((u - m)^2 + eps2),   cu likewise,   s = ru cu / mean(ru)
        theta <- theta - lr m / sqrt(s)

    betas = (b1, b2, b3), eps = (eps1, eps2). Nothing is corrected for the zeros at the start: the first s is so small
    that a matrix moves by |m| / (|u - m| sqrt(1 - b3)), about 11 lr, at its first step. Vectors and numbers have a full
    v in slot r, and move by lr m; tensors with more axes are matrices over their last two. Defaults are the authors'.
    ValueError for a negative or non-finite option, for betas outside [0, 1), and for eps or clip_threshold <= 0.

    >>> import minidl as md
    >>> w = md.tensor([[1.0, 1.0], [1.0, 1.0]], requires_grad=True)
    >>> w.grad = md.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> CAME([w], lr=0.01, betas=(0.5, 0.9, 0.75)).step()
    >>> w  # g^2 is an outer product: u = 1 everywhere, m = u - m = 1/2, s = 1/4 of 1/4
    tensor([[0.98, 0.98],
            [0.98, 0.98]], requires_grad=True)
    """

    slots = ("m", "r", "c", "ru", "cu")
    rules: ClassVar = {"betas": three_below_one, "eps": two_above_zero, "clip_threshold": above_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 2e-4,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "clip_threshold": clip_threshold}
        super().__init__(params, **options, weight_decay=weight_decay, maximize=maximize)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        if theta.ndim < 2 and slot in ("ru", "cu"):
            return zeros(theta, ())
        return 0.0 if slot == "m" else first_factor(slot[0], theta)

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        names = ("lr", "betas", "eps", "clip_threshold")
        return {**{name: group[name] for name in names}, "keep": 1 - group["lr"] * group["weight_decay"]}

    def update_tensor(self, xp, theta, g, m, r, c, ru, cu, *, lr, betas, eps, clip_threshold, keep):
        if not theta.size:
            return theta, m, r, c, ru, cu
        b1, b2, b3 = betas
        square = g * g + eps[0]
        if theta.ndim < 2:
            r = b2 * r + (1 - b2) * square
            u = g / xp.sqrt(r)
        else:
            r, c = moved_factors(square, r, c, 1 - b2)
            u = divided_by_root(xp, g, r, c)
        u = u / xp.maximum(xp.sqrt((u * u).mean()) / clip_threshold, 1.0)
        m = b1 * m + (1 - b1) * u
        if theta.ndim < 2:
            return keep * theta - lr * m, m, r, c, ru, cu
        ru, cu = moved_factors((u - m) ** 2 + eps[1], ru, cu, 1 - b3)
        return keep * theta - lr * divided_by_root(xp, m, ru, cu), m, r, c, ru, cu


def divided_by_root(xp: Any, x: Array, r: Array, c: Array) -> Array:
    """Return x / sqrt(r c / mean(r)). Roots first: r c of a row and a column without gradients is 0 in float32."""
    return x / (xp.sqrt(r) * xp.sqrt(c)) * xp.sqrt(r.mean(axis=-2, keepdims=True))


def first_factor(slot: str, theta: Array) -> Any:
    """Return slot r or c before the first step: zeros for the rows or columns of a matrix; r alone for a vector."""
    if theta.ndim < 2:
        return 0.0 if slot == "r" else zeros(theta, ())
    *front, rows, columns = theta.shape
    return zeros(theta, (*front, rows, 1) if slot == "r" else (*front, 1, columns))


def moved_factors(square: Array, r: Array, c: Array, share: float) -> tuple[Array, Array]:
    """Move r and c a share of the way to the means of the rows and of the columns."""
    r = (1 - share) * r + share * square.mean(axis=-1, keepdims=True)
    return r, (1 - share) * c + share * square.mean(axis=-2, keepdims=True)


class SM3(Optimizer):
    """Adagrad whose sums are kept for slices, not elements (Anil et al. 2019, arXiv:1901.11150, Alg. SM3-II).

        n = min over axes of the element's covers + g^2
        covers of each axis <- max of n over the other axes
        m <- momentum m + (1 - momentum) g / sqrt(n + eps)     0 where n = 0
        theta <- theta - lr m

    A tensor of shape (i, j, ...) needs i + j + ... numbers (slot `covers`, axis after axis), a number 1. ValueError for
    a negative or non-finite option, and for momentum outside [0, 1).

    >>> import minidl as md
    >>> w = md.tensor([[0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    >>> optimizer = SM3([w], lr=1.0, momentum=0.0, eps=0.0)
    >>> for _ in range(2):
    ...     w.grad = md.tensor([[3.0, 0.0], [0.0, 0.0]])
    ...     optimizer.step()
    >>> w, optimizer.state["0"]["covers"]  # 1 + 1 / sqrt(2)
    (tensor([[-1.7071068,  0.       ],
            [ 0.       ,  0.       ]], requires_grad=True), array([18.,  0., 18.,  0.], dtype=float32))
    """

    slots = ("m", "covers")
    rules: ClassVar = {"momentum": below_one}

    def __init__(
        self, params: Any, lr: float = 1e-1, momentum: float = 0.9, eps: float = 1e-8, *, maximize: bool = False
    ):
        super().__init__(params, lr=lr, momentum=momentum, eps=eps, maximize=maximize)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return 0.0 if slot == "m" else zeros(theta, (sum(theta.shape) if theta.ndim else 1,))

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {"lr": group["lr"], "beta": group["momentum"], "eps": group["eps"]}

    def update_tensor(self, xp, theta, g, m, covers, *, lr, beta, eps):
        if not theta.size:
            return theta, m, covers
        shape = theta.shape or (1,)
        ends = np.cumsum(shape).tolist()
        n = xp.full(shape, np.inf, theta.dtype)
        for axis, (end, length) in enumerate(zip(ends, shape, strict=True)):
            along = [length if i == axis else 1 for i in range(len(shape))]
            n = xp.minimum(n, covers[end - length : end].reshape(along))
        n = n + (g * g).reshape(shape)
        axes = [tuple(j for j in range(len(shape)) if j != i) for i in range(len(shape))]
        covers = xp.concatenate([n.max(axis=others) if others else n for others in axes])
        n = n.reshape(theta.shape)
        step = xp.where(n > 0, g / xp.sqrt(xp.where(n > 0, n, 1) + eps), 0)
        m = beta * m + (1 - beta) * step
        return theta - lr * m, m, covers
