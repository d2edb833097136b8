"""The quadratic model of a loss, and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import Array
from ..krylov import norm
from .objective import Batches
from .operator import HessianOperator
from .parameters import Params


class ErrorCurve(NamedTuple):
    """A loss along a line theta + h v, beside its models of first and second order.

    steps     : (n,) h.
    losses    : (n,) L(theta + h v); nan or inf where it is not finite.
    linear    : (n,) L + h g'v.
    quadratic : (n,) L + h g'v + 1/2 h^2 v'Hv.
    rounding  : (n,) errors below it are rounding, of the loss or of the parameters:
                100 eps (max(|L(theta)|, |L(theta + h v)|) + |theta| |g + h H v|), or a little more.
    """

    steps: np.ndarray
    losses: np.ndarray
    linear: np.ndarray
    quadratic: np.ndarray
    rounding: np.ndarray

    def errors(self, order: int = 2) -> np.ndarray:
        """Return |L(theta + h v) - model| (n,) for the model of order 1 or 2."""
        if order not in (1, 2):
            raise ValueError(f"errors: order must be 1 or 2, got {order!r}")
        return np.abs(self.losses - (self.linear if order == 1 else self.quadratic))

    def slope(self, order: int = 2) -> float:
        """Return the power of h with which the error falls as h does: order + 1, unless that derivative is 0.

        Fitted in log-log over the decade of the smallest |h| whose errors are above rounding; nan where fewer than
        three steps are.
        """
        errors, size = self.errors(order), np.abs(self.steps)
        good = (size > 0) & np.isfinite(errors) & (errors > self.rounding)
        if good.any():
            good &= size <= 10 * size[good].min()
        if good.sum() < 3:
            return math.nan
        return float(np.polyfit(np.log(size[good]), np.log(errors[good]), 1)[0])


class QuadraticModel:
    """m(theta + v) = L + g'v + 1/2 v'Hv around the parameters theta at which it was made.

    loss, gradient, theta : L, g (P,) and theta (P,) there. The model stays what it is when the parameters move.
    """

    def __init__(self, loss_fn: Callable[..., Any], params: Params, batches: Batches = None):
        self.operator = HessianOperator(loss_fn, params, batches)
        self.parameters = self.operator.parameters
        self.loss, self.gradient = self.operator.loss_and_gradient()
        self.theta = self.parameters.get()

    def __repr__(self) -> str:
        return f"QuadraticModel(P = {self.operator.size}, loss {self.loss:.6g}, |g| = {norm(self.gradient):.3g})"

    def coefficients(self, v: Any) -> tuple[float, float]:
        """Return g'v and v'Hv for a vector (P,), or parts by parameter name."""
        v = self._vector(v)
        return float(self.gradient @ v), float(v @ self._product(v))

    def _product(self, v: Array) -> Array:
        """Return H v with the H of the model, wherever the parameters are now."""
        if bool((self.parameters.get() == self.theta).all()):
            return self.operator.matvec(v)
        with self.parameters.restored():
            self.parameters.set(self.theta)
            return self.operator.matvec(v)

    def predict(self, v: Any, order: int = 2) -> float:
        """Return m(theta + v), or the linear model with order=1, for a vector (P,), or parts by parameter name."""
        if order not in (1, 2):
            raise ValueError(f"predict: order must be 1 or 2, got {order!r}")
        slope, bend = self.coefficients(v)
        return self.loss + slope + (bend / 2 if order == 2 else 0.0)

    def error_curve(self, direction: Any, steps: Sequence[float] | None = None) -> ErrorCurve:
        """Compare the models with the loss at theta + h v. The parameters are where they were afterwards.

        direction : v (P,), or parts by parameter name; not normalized. ValueError if it is 0.
        steps     : h; by default 57 from 1e-6 to 10, eight a decade, times 1 / |v|.
        """
        v = self._vector(direction)
        length = norm(v)
        if not 0 < length < math.inf:
            raise ValueError(f"error_curve: the direction must be a finite vector that is not 0, got |v| = {length}")
        h = np.logspace(-6, 1, 57) / length if steps is None else np.asarray(steps, dtype=np.float64)
        if h.ndim != 1 or not h.size or not np.isfinite(h).all():
            raise ValueError(f"error_curve: steps must be finite numbers (n,), got shape {h.shape}")
        image = self._product(v)
        slope, bend = float(self.gradient @ v), float(v @ image)
        losses = []
        with self.parameters.restored(), np.errstate(all="ignore"):
            for step in h.tolist():
                self.parameters.set(self.theta + step * v)
                losses.append(self._loss())
        found, linear = np.array(losses), self.loss + h * slope
        moved = norm(self.theta) * (norm(self.gradient) + np.abs(h) * norm(image))  # theta + h v is rounded, too
        rounding = 100 * float(np.finfo(v.dtype).eps) * (np.fmax(abs(self.loss), np.abs(found)) + moved)
        return ErrorCurve(h, found, linear, linear + h * h * bend / 2, rounding)

    def _loss(self) -> float:
        return math.fsum(self.operator.objective.each(lambda weight, loss, _: weight * float(loss.item())))

    def _vector(self, v: Any) -> Array:
        parts = self.parameters.join(v) if isinstance(v, dict) else v
        return self.parameters.vector(parts, "quadratic_model")


def quadratic_model(loss_fn: Callable[..., Any], params: Params, batches: Batches = None) -> QuadraticModel:
    """Return the Taylor model of second order of a loss around the present parameters, by products with H.

    L(theta + v) ~ L + g'v + 1/2 v'Hv. Its error along a line falls as h^3 (that of the linear model as h^2) until it
    meets the rounding of the loss: see `error_curve`. Arguments and errors are those of `HessianOperator`.

    >>> w = tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> model = quadratic_model(lambda: (1 - 2 * w[0] * w[1]) ** 2, w)
    >>> model.predict([0.1, 0.0]), model.predict([0.1, 0.0], order=1)
    (1.44, 1.4)
    >>> curve = model.error_curve([1.0, 1.0])
    >>> round(curve.slope(1), 1), round(curve.slope(2), 1)
    (2.0, 3.0)
    """
    return QuadraticModel(loss_fn, params, batches)
