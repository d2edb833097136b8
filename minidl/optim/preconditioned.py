"""Steps in a basis of the gradients' own, one for each axis of a parameter: Shampoo, SOAP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..engine.backend import Array
from .base import Optimizer
from .groups import ParamGroup, below_one, flag
from .rules import OneOf, count, fraction, zeros
from .segment import Cohort


class Preconditioned(Optimizer):
    """Base: for each axis of a parameter a matrix of the products of its slices, flat in slot `h`, axis after axis."""

    rules: ClassVar = {"precondition_frequency": count, "max_precond_dim": count}

    def axes(self, group: Mapping[str, Any], theta: Array) -> list[tuple[int, ...]]:
        """Return for each axis the shape of its part of `h`."""
        raise NotImplementedError

    def length(self, group: Mapping[str, Any], theta: Array) -> int:
        """Return how many numbers the matrices of all axes have."""
        return sum(map(math.prod, self.axes(group, theta)))

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return 0.0 if slot in ("m", "v") else zeros(theta, (self.length(group, theta),))

    def _movers(self) -> list[tuple[Cohort, ParamGroup, list[Array]]]:
        """Refuse, before anything moves, gradients that have no eigenvectors, and matrices of other axes."""
        movers = super()._movers()
        for cohort, group, gradients in movers:
            for name, theta, g, own in zip(cohort.names, cohort.arrays, gradients, cohort.state(), strict=True):
                if type(g) is np.ndarray and not np.isfinite(g).all():  # on a GPU they become NaN, without waiting
                    raise FloatingPointError(
                        f"{self._who}: the gradient of {name!r} has elements that are not finite; clip, lower lr, or "
                        "leave such steps out with SkipNonFinite(optimizer)"
                    )
                if own and own["h"].size != self.length(group, theta):
                    raise ValueError(
                        f"{self._who}: the first step settled which axes of {name!r} {theta.shape} have matrices, and "
                        f"the options ask for others now (max_precond_dim={group['max_precond_dim']}); make a new one"
                    )
        return movers


class Shampoo(Preconditioned):
    """Scale every axis of the gradient by its own matrix (Gupta et al. 2018, arXiv:1802.09568, Alg. 2).

        h_i <- beta2 h_i + (1 - beta2) g_i g_i'            for each axis i of k; beta2 = 1: h_i <- h_i + g_i g_i'
        u = g with every axis i multiplied by (h_i + eps 1)^(-1 / 2k)
        m <- momentum m + u
        theta <- (1 - lr weight_decay) theta - lr m

    g_i has a row for each place along axis i, so that for a matrix u = (sum g g')^(-1/4) g (sum g' g)^(-1/4). With
    beta2 < 1 the roots are those of h_i / (1 - beta2^t). They are computed at the first step and at every
    precondition_frequency-th after it, and kept in slot `roots`; eps = 0 takes pseudo-inverses. An axis longer than
    max_precond_dim keeps the diagonal of h_i only.

    graft    the length that u is given: "none" leaves it its own; "sgd" |g|; "adagrad" that of g / sqrt(v + eps), v
             collecting g^2 as h does (Anil et al. 2020, arXiv:2002.09018), for rates tuned with these

    ValueError for a negative or non-finite option, and for beta2 outside [0, 1]; FloatingPointError for gradients that
    are not finite.

    >>> import minidl as md
    >>> w = md.tensor([[0.0, 0.0], [0.0, 0.0]], dtype="float64", requires_grad=True)
    >>> w.grad = md.tensor([[0.0, 100.0], [0.01, 0.0]], dtype="float64")
    >>> Shampoo([w], lr=0.5, eps=0.0).step()
    >>> w  # the matrix nearest to g with all singular values 1, times lr
    tensor([[ 0. , -0.5],
            [-0.5,  0. ]], dtype=float64, requires_grad=True)
    """

    slots = ("m", "h", "roots", "v")
    rules: ClassVar = {
        **Preconditioned.rules,
        "momentum": below_one,
        "beta2": fraction,
        "graft": OneOf("none", "sgd", "adagrad"),
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        eps: float = 1e-4,
        beta2: float = 1.0,
        precondition_frequency: int = 1,
        graft: str = "none",
        max_precond_dim: int = 1024,
        *,
        maximize: bool = False,
    ):
        options: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps}
        options |= {"beta2": beta2, "precondition_frequency": precondition_frequency, "graft": graft}
        super().__init__(params, **options, max_precond_dim=max_precond_dim, maximize=maximize)

    def axes(self, group: Mapping[str, Any], theta: Array) -> list[tuple[int, ...]]:
        return [(n, n) if n <= group["max_precond_dim"] else (n,) for n in theta.shape or (1,)]

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return self.slots if group["graft"] == "adagrad" else self.slots[:3]

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        beta2, summed = group["beta2"], group["beta2"] == 1
        return {
            "group": group,
            "keep": 1 - group["lr"] * group["weight_decay"],
            "new": 1.0 if summed else 1 - beta2,
            "scale": 1.0 if summed else 1 / (1 - beta2**t),
            "refresh": (t - 1) % group["precondition_frequency"] == 0,
        }

    def update_tensor(self, xp, theta, g, m, h, roots, v=None, *, group, keep, new, scale, refresh):
        if not theta.size:
            return theta, m, h, roots, *(() if v is None else (v,))
        axes, beta2, eps, graft = self.axes(group, theta), group["beta2"], group["eps"], group["graft"]
        x = xp.ascontiguousarray(g).reshape(g.shape or (1,))
        sums = [beta2 * a + new * products(xp, x, i, a.ndim) for i, a in enumerate(parts(h, axes))]
        powers = parts(roots, axes)
        if refresh:
            powers = [inverse_root(xp, scale * a, 2 * x.ndim, eps) for a in sums]
        u = turned(xp, x, powers).reshape(g.shape)
        if v is not None:
            v = beta2 * v + new * g * g
        if graft != "none":
            model = g if v is None else g * inverse_root(xp, scale * v.reshape(-1), 2, eps).reshape(g.shape)
            length = xp.sqrt((u * u).sum())
            u = u * (xp.sqrt((model * model).sum()) / xp.where(length > 0, length, 1))
        m = group["momentum"] * m + u
        theta = keep * theta - group["lr"] * m
        return theta, m, joined(xp, sums), joined(xp, powers), *(() if v is None else (v,))


class SOAP(Preconditioned):
    """Adam in the eigenvectors of Shampoo's matrices (Vyas et al. 2024, arXiv:2409.11321, Alg. 3, 4; authors' code).

        p = g and n = m with every axis i multiplied by q_i',   m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) p^2
        u = lr sqrt(1 - b2^s) / (1 - b1^s) n / (sqrt(v) + eps), every axis i multiplied by q_i,   s = t - 1
        theta <- (1 - lr weight_decay) (theta - u)
        h_i <- b2 h_i + (1 - b2) g_i g_i'                  for each axis i, as in Shampoo
        q_i <- Q of the QR decomposition of h_i q_i        every precondition_frequency steps, columns sorted first

    The first step moves nothing: it finds q_i, the eigenvectors of the first h_i, so that no gradient is turned by
    itself. The columns of q_i, and v with them, are sorted by falling q' h q before each power step. Vectors and
    numbers are not turned unless precondition_1d, and no axis longer than max_precond_dim: there SOAP is Adam. Slots
    `h` and `q` are flat, axis after axis. Defaults and conventions are those of the authors' code, which keeps m turned
    (the same m). ValueError for a negative or non-finite option, and for betas outside [0, 1); FloatingPointError for
    gradients that are not finite.

    >>> import minidl as md
    >>> w = md.tensor([[0.0, 0.0], [0.0, 0.0]], dtype="float64", requires_grad=True)
    >>> optimizer = SOAP([w], lr=0.5, weight_decay=0.0)
    >>> for _ in range(2):
    ...     w.grad = md.tensor([[3.0, 3.0], [1.0, -1.0]], dtype="float64")
    ...     optimizer.step()
    >>> w.data.round(6)  # -lr times the gradient with singular values 1 in place of sqrt(18) and sqrt(2)
    array([[-0.353553, -0.353553],
           [-0.353553,  0.353553]])
    """

    slots = ("m", "v", "h", "q")
    rules: ClassVar = {**Preconditioned.rules, "precondition_1d": flag}

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        precondition_1d: bool = False,
        *,
        maximize: bool = False,
    ):
        options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        options |= {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim}
        super().__init__(params, **options, precondition_1d=precondition_1d, maximize=maximize)

    def axes(self, group: Mapping[str, Any], theta: Array) -> list[tuple[int, ...]]:
        alone = theta.ndim < 2 and not group["precondition_1d"]
        longest = 0 if alone else group["max_precond_dim"]
        return [(n, n) if n <= longest else (0,) for n in theta.shape or (1,)]

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        (b1, b2), s = group["betas"], t - 1
        rate = group["lr"] * (1 - b2**s) ** 0.5 / (1 - b1**s) if s else 0.0
        refresh = s > 0 and s % group["precondition_frequency"] == 0
        return {"group": group, "rate": rate, "first": t == 1, "refresh": refresh}

    def update_tensor(self, xp, theta, g, m, v, h, q, *, group, rate, first, refresh):
        if not theta.size:
            return theta, m, v, h, q
        shape, axes, (b1, b2) = theta.shape or (1,), self.axes(group, theta), group["betas"]
        x, m, v = (xp.ascontiguousarray(a).reshape(shape) for a in (g, m, v))
        bases = parts(q, axes)
        if not first:
            m = b1 * m + (1 - b1) * x
            v = b2 * v + (1 - b2) * turned(xp, x, bases) ** 2
            u = turned(xp, turned(xp, m, bases) / (xp.sqrt(v) + group["eps"]), bases, back=True)
            theta = (1 - group["lr"] * group["weight_decay"]) * (theta - rate * u.reshape(theta.shape))
        sums = [b2 * a + (1 - b2) * products(xp, x, i, a.ndim) if a.size else a for i, a in enumerate(parts(h, axes))]
        if first:
            bases = [xp.flip(xp.linalg.eigh(a)[1], 1) if a.size else a for a in sums]
        elif refresh:
            for i, a in enumerate(sums):
                if a.size:
                    bases[i], v = power_step(xp, a, bases[i], v, i)
        return theta, m.reshape(theta.shape), v.reshape(theta.shape), joined(xp, sums), joined(xp, bases)


def power_step(xp: Any, h: Array, q: Array, v: Array, axis: int) -> tuple[Array, Array]:
    """Bring a basis nearer to the eigenvectors of h; return it, and v with its axis in the order of the new basis."""
    image = h @ q
    order = xp.argsort(-(q * image).sum(axis=0))
    return xp.linalg.qr(xp.take(image, order, 1))[0], xp.take(v, order, axis)


def parts(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Return views of the pieces of a flat array, one for each axis."""
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    return [flat[end - math.prod(shape) : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)]


def joined(xp: Any, pieces: Sequence[Array]) -> Array:
    """Return pieces as one flat array."""
    return xp.concatenate([piece.reshape(-1) for piece in pieces])


def products(xp: Any, x: Array, axis: int, ndim: int) -> Array:
    """Return the products of the slices along an axis with one another, or with ndim=1 only with themselves."""
    rows = xp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    return rows @ rows.T if ndim == 2 else (rows * rows).sum(axis=1)


def turned(xp: Any, x: Array, factors: Sequence[Array], back: bool = False) -> Array:
    """Multiply every axis by its matrix, transposed unless `back`, by its diagonal, or by nothing if that is empty."""
    for a in factors:  # each axis in turn is the first, is multiplied and becomes the last: in the end all are in order
        if a.ndim == 2:
            x = xp.tensordot(x, a, ((0,), (1 if back else 0,)))
        else:
            x = xp.moveaxis(x, 0, -1)
            x = x * a if a.size else x
    return x


def inverse_root(xp: Any, h: Array, degree: int, eps: float) -> Array:
    """Return (h + eps 1)^(-1 / degree) of a symmetric matrix or of a diagonal; with eps = 0 that of its range alone."""
    values, vectors = xp.linalg.eigh(h) if h.ndim == 2 else (h, None)
    values = xp.maximum(values, 0) + eps
    least = 0 if eps else values.max() * (len(h) * float(np.finfo(h.dtype).eps))  # below it an eigenvalue is rounding
    kept = values > least
    powers = xp.where(kept, xp.where(kept, values, 1) ** (-1 / degree), 0)
    return powers if vectors is None else (vectors * powers) @ vectors.T
