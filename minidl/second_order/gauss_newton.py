"""Products with the Gauss-Newton matrix and with the Fisher information: curvature that is never negative.

Both are J' B J, where J = dz/dtheta is the Jacobian of the network's outputs z and B, block by block for each sample,
curvature in the outputs. J v takes two reverse passes of which the first is recorded once, J' u takes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine import autograd
from ..engine.backend import MODULES, Array, as_array, device_of, on_device, to_device, to_numpy
from ..engine.tensor import Tensor, wrap
from ..krylov import is_count
from .objective import Batches
from .operator import CurvatureOperator
from .parameters import Params

LIKELIHOODS = ("categorical", "bernoulli", "gaussian")
KINDS = ("true", "sampled", "empirical")


class _Linearized(NamedTuple):
    """The outputs of one batch around theta: products with their Jacobian are replays."""

    weight: float
    outputs: Tensor
    dummy: Tensor  # u of the recorded u' J, which is linear in it: its derivative by u in the direction v is J v
    pulled: list[Any]
    curvature: Callable[[Array], Array]  # B


class _OutputOperator(CurvatureOperator):
    """J' B J; a subclass gives B for the outputs of a batch."""

    def __init__(self, who: str, outputs_fn: Callable[..., Any], params: Params, batches: Batches):
        super().__init__(who, outputs_fn, params, batches)
        self._parts: list[_Linearized] = []
        self.refresh()
        self._check_deterministic()

    def _curvature(self, outputs: Tensor, batch: tuple, index: int) -> Callable[[Array], Array]:
        raise NotImplementedError(f"{type(self).__name__}: an operator of outputs defines _curvature")

    def _record(self) -> None:
        self._parts = []

        def visit(weight: float, outputs: Any, batch: tuple) -> None:
            who = self.objective.who
            if not isinstance(outputs, Tensor):
                raise TypeError(f"{who}: outputs_fn must return one Tensor, got {type(outputs).__name__}")
            if not np.isfinite(to_numpy(outputs.array)).all():
                raise ValueError(
                    f"{who}: the outputs are not finite at these parameters, and have no derivatives there"
                )
            dummy = wrap(MODULES[type(outputs.array)].zeros_like(outputs.array)).requires_grad_()
            pulled = self.objective.pull([outputs], [dummy], create=True)
            curvature = self._curvature(outputs.detach(), batch, len(self._parts))
            self._parts.append(_Linearized(weight, outputs, dummy, pulled, curvature))

        self.objective.each(visit)

    def _product(self, v: Array) -> Array:
        pieces = self.parameters.pieces(v)
        return self.objective.flat((part.weight, self._one(part, pieces)) for part in self._parts)

    def _one(self, part: _Linearized, pieces: list[Array]) -> list[Any]:
        reached = [i for i, p in enumerate(part.pulled) if p is not None and p.requires_grad]
        if not reached:
            return [None] * len(pieces)
        ys, vs = [part.pulled[i] for i in reached], [pieces[i] for i in reached]
        (jv,) = autograd.vjp(ys, part.dummy, vs)
        return self.objective.pull([part.outputs], [part.curvature(jv.array)], retain=True)

    def _check_deterministic(self) -> None:
        def visit(weight: float, outputs: Any, batch: tuple) -> Array:
            return outputs.array

        for part, again in zip(self._parts, self.objective.each(visit), strict=True):
            first = part.outputs.array
            xp = MODULES[type(first)]
            tolerance = float(np.finfo(first.dtype).eps) ** 0.5 * float(xp.abs(first).max() if first.size else 0)
            if first.shape != again.shape or (first.size and float(xp.abs(first - again).max()) > tolerance):
                raise RuntimeError(
                    f"{self.objective.who}: two evaluations at the same parameters give different outputs; use the "
                    "library's random stream (dropout does), fix the data, or put the layer into eval() mode"
                )


class GaussNewtonOperator(_OutputOperator):
    """The generalized Gauss-Newton matrix by its products: G = J' H_z J, the Hessian without the outputs' curvature.

    J = dz/dtheta for the outputs z = outputs_fn(*batch), and H_z = d2L/dz dz' for the loss loss_of_outputs(z, *batch),
    one number, the mean over the batch's samples (without `batches`: outputs_fn() and loss_of_outputs(z)). For a loss
    convex in z, as cross-entropy and squared error are, G is positive semi-definite; it equals the Hessian where z is
    linear in theta or the residuals are 0 (Schraudolph 2002, "Fast curvature matrix-vector products", Eq. 5).

    >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> GaussNewtonOperator(lambda: w**2, lambda z: (z**2).sum(), w) @ np.array([1.0, 1.0])
    array([ 8., 32.])
    """

    def __init__(
        self,
        outputs_fn: Callable[..., Any],
        loss_of_outputs: Callable[..., Any],
        params: Params,
        batches: Batches = None,
    ):
        self._loss_of_outputs = loss_of_outputs
        super().__init__("ggn", outputs_fn, params, batches)

    def _curvature(self, outputs: Tensor, batch: tuple, index: int) -> Callable[[Array], Array]:
        z = outputs.requires_grad_()
        loss = self._loss_of_outputs(z, *batch)
        self.objective.scalar(loss)
        (g,) = autograd.grad(loss, z, create_graph=True, allow_unused=True) if loss.requires_grad else (None,)

        def product(u: Array) -> Array:
            if g is None or not g.requires_grad:
                return 0 * u
            (found,) = autograd.grad(g, z, u, retain_graph=True, allow_unused=True)
            return 0 * u if found is None else found.array

        return product


class FisherOperator(_OutputOperator):
    """The Fisher information of a network's predictive distribution by its products: F = 1/N sum_n J_n' B_n J_n.

    outputs_fn(*batch) returns the distribution's parameters z, one row a sample; s = d log p(y | z) / dz:

    likelihood "categorical"  z (n, c) logits of softmax,  s = e_y - p
               "bernoulli"    z (n, ...) logits of sigmoid, s = y - p
               "gaussian"     z (n, ...) means, variance 1, s = y - z
    kind       "true"         B = E[s s'] over the model's own y: diag(p) - p p', diag(p (1 - p)), I
               "sampled"      the mean of s s' over `samples` labels y drawn from the model, with `seed`
               "empirical"    s s' at the given labels `targets(*batch)`: no expectation, and not the Fisher
                              information (Kunstner et al. 2019, arXiv:1905.12558)

    The true Fisher equals the Gauss-Newton matrix of the mean negative log-likelihood (Martens 2014, arXiv:1412.1193,
    Sec. 9.2). For nn.MSELoss, which averages over c outputs without the factor 1/2, that matrix is 2/c times this one.

    >>> w = tensor([0.0], dtype="float64", requires_grad=True)
    >>> FisherOperator(lambda: w * tensor([1.0, 3.0], dtype="float64"), w, likelihood="bernoulli") @ np.array([1.0])
    array([1.25])
    """

    def __init__(
        self,
        outputs_fn: Callable[..., Any],
        params: Params,
        batches: Batches = None,
        likelihood: str = "categorical",
        kind: str = "true",
        targets: Callable[..., Any] | None = None,
        samples: int = 1,
        seed: int = 0,
    ):
        for name, value, known in (("likelihood", likelihood, LIKELIHOODS), ("kind", kind, KINDS)):
            if value not in known:
                raise ValueError(f"fisher: {name} must be one of {', '.join(known)}, got {value!r}")
        if (kind == "empirical") != (targets is not None):
            raise ValueError("fisher: kind='empirical' needs targets=, a function of the batch, and no other kind does")
        if not is_count(samples, 1):
            raise ValueError(f"fisher: samples must be an integer >= 1, got {samples!r}")
        self.likelihood, self.kind, self.targets, self.samples, self.seed = likelihood, kind, targets, samples, seed
        super().__init__("fisher", outputs_fn, params, batches)

    def _curvature(self, outputs: Tensor, batch: tuple, index: int) -> Callable[[Array], Array]:
        z = outputs.array
        if not z.ndim or not z.size or (self.likelihood == "categorical" and z.ndim != 2):
            rule = "logits (n, c)" if self.likelihood == "categorical" else "outputs (n, ...), one row a sample"
            raise ValueError(f"fisher: likelihood {self.likelihood!r} needs {rule}, got shape {z.shape}")
        xp, n = MODULES[type(z)], len(z)
        mean = _mean(xp, z, self.likelihood)
        if self.kind == "true":
            return lambda u: _expected(mean, u, self.likelihood) / n
        if self.kind == "empirical":
            draws = [self._given(batch, mean)]
        else:
            rng = np.random.default_rng([self.seed, index])
            host = [_drawn(rng, to_numpy(mean), self.likelihood) for _ in range(self.samples)]
            draws = [to_device(y.astype(z.dtype), device_of(z)) for y in host]
        scores = [(y - mean).reshape(n, -1) for y in draws]

        def product(u: Array) -> Array:
            rows = u.reshape(n, -1)
            total = sum(s * (s * rows).sum(axis=1, keepdims=True) for s in scores)
            return total.reshape(u.shape) / (n * len(scores))

        return product

    def _given(self, batch: tuple, mean: Array) -> Array:
        """Return the given labels in the form of `mean`: classes as indicators."""
        xp, place = on_device(device_of(mean))
        y = self.targets(*batch)  # type: ignore[misc]
        y = as_array(getattr(y, "array", y), device=device_of(mean), who="fisher: targets")
        if self.likelihood == "categorical":
            if y.shape != mean.shape[:1] or y.dtype.kind not in "iu":
                raise ValueError(f"fisher: targets must be {mean.shape[:1]} integer classes, got {y.shape} {y.dtype}")
            wrong = to_numpy((y < 0) | (y >= mean.shape[1])).nonzero()[0]
            if len(wrong):
                n = int(wrong[0])
                raise IndexError(f"fisher: targets must lie in [0, {mean.shape[1]}), got {int(y[n])} at index {n}")
            with place:
                return (y[:, None] == xp.arange(mean.shape[1])).astype(mean.dtype)
        if y.shape != mean.shape:
            raise ValueError(f"fisher: targets must have the outputs' shape {mean.shape}, got {y.shape}")
        return y.astype(mean.dtype)


def _mean(xp: Any, z: Array, likelihood: str) -> Array:
    if likelihood == "gaussian":
        return z
    if likelihood == "bernoulli":
        return xp.exp(-xp.logaddexp(0, -z)).astype(z.dtype)
    e = xp.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _expected(mean: Array, u: Array, likelihood: str) -> Array:
    """Return E[s s'] u, row by row."""
    if likelihood == "gaussian":
        return u
    if likelihood == "bernoulli":
        return mean * (1 - mean) * u
    return mean * (u - (mean * u).sum(axis=1, keepdims=True))


def _drawn(rng: np.random.Generator, mean: np.ndarray, likelihood: str) -> np.ndarray:
    if likelihood == "gaussian":
        return mean + rng.standard_normal(mean.shape)
    if likelihood == "bernoulli":
        return rng.random(mean.shape) < mean
    chosen = (rng.random((len(mean), 1)) * mean.sum(axis=1, keepdims=True) > mean.cumsum(axis=1)).sum(axis=1)
    return np.eye(mean.shape[1])[np.minimum(chosen, mean.shape[1] - 1)]


def ggnvp(
    outputs_fn: Callable[..., Any],
    loss_of_outputs: Callable[..., Any],
    params: Params,
    v: Any,
    batches: Batches = None,
) -> Array:
    """Return G v, the Gauss-Newton matrix times one vector (P,); see `GaussNewtonOperator`.

    >>> w = tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> ggnvp(lambda: w**2, lambda z: (z**2).sum(), w, [1.0, 1.0])
    array([ 8., 32.])
    """
    return GaussNewtonOperator(outputs_fn, loss_of_outputs, params, batches).matvec(v)


def fisher_vp(outputs_fn: Callable[..., Any], params: Params, v: Any, batches: Batches = None, **options: Any) -> Array:
    """Return F v, the Fisher information times one vector (P,); the options are those of `FisherOperator`.

    >>> w = tensor([0.0], dtype="float64", requires_grad=True)
    >>> fisher_vp(lambda: w * tensor([1.0, 3.0], dtype="float64"), w, [2.0], likelihood="bernoulli")
    array([2.5])
    """
    return FisherOperator(outputs_fn, params, batches, **options).matvec(v)
