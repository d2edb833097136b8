"""Leaving a saddle: a step along negative curvature, or a push at random and descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.backend import Array, to_device
from ..krylov import norm
from .critical import Curvature, check_tolerances, curvature, judge, one_sign
from .objective import Batches, Objective
from .parameters import ParameterVector, Params

FARTHEST = 2.0**20  # where doubling the step ends, for a loss that falls forever
OPTIONS = {"negative_curvature": {"step"}, "perturbed_descent": {"radius", "lr", "max_iter", "seed"}}


@dataclass(frozen=True, eq=False)
class Escape:
    """What an attempt to leave a point came to.

    escaped    : whether the loss is lower now; otherwise the parameters are as before, to the last bit.
    reason     : in words.
    loss, new_loss : L before and after.
    predicted  : by how much the quadratic model says the loss falls, -(g'd + 1/2 d'Hd) for the way d taken.
    step       : |d|.
    direction  : d / |d| (P,).
    eigenvalue : the smallest one of H before.
    evaluations : losses and gradients computed on the way.
    """

    escaped: bool
    reason: str
    loss: float
    new_loss: float
    predicted: float
    step: float
    direction: Array = field(repr=False)
    eigenvalue: float
    evaluations: int

    @property
    def achieved(self) -> float:
        """By how much the loss fell."""
        return self.loss - self.new_loss


def escape(
    loss_fn: Callable[..., Any],
    params: Params,
    batches: Batches = None,
    method: str = "negative_curvature",
    tol: float | None = None,
    curvature_by: str = "auto",
    **options: Any,
) -> Escape:
    """Move the parameters away from a saddle to where the loss is lower.

    method : "negative_curvature"  theta + s u, with u the eigenvector of the smallest eigenvalue lambda of H, signed so
                 that the loss falls: by -s g'u - s^2 lambda / 2 to second order.
                 step=s: by so much; without it the largest of 1, 2, 4, ..., 2^20 (or 1/2, 1/4, ...) that brings at
                 least half of what is predicted. Nothing moves where lambda >= -tol
             "perturbed_descent"   theta + xi, xi at random from the ball |xi| <= radius, then at most max_iter steps of
                 descent, until the loss is more than 1/2 radius^2 max |lambda| lower than at theta: farther than the
                 model falls within the ball (after Jin et al. 2017, arXiv:1703.00887, Alg. 1). A step is halved until
                 the loss falls by rate |g|^2 / 4; the next starts at lr=, or else at twice the last one's rate, the
                 first at 1 / max |lambda|. Works where H = 0, too. Defaults: radius=1e-2, max_iter=1000, seed=0

    tol          : an eigenvalue above -tol is not negative; as for `classify`.
    curvature_by : "dense", "lanczos" or "auto", as `method` of `classify`.

    If the loss does not fall, falls to -inf, or anything raises, the parameters are where they were, bit by bit. Other
    arguments and errors are those of `hessian`; TypeError for an option that the method does not have, ValueError for
    one <= 0.

    >>> w = tensor([0.0, 0.0], dtype="float64", requires_grad=True)
    >>> found = escape(lambda: (1 - w[0] * w[1]) ** 2, w)
    >>> found.escaped, found.eigenvalue, round(found.predicted, 9), round(found.achieved, 9)
    (True, -2.0, 1.0, 0.75)
    >>> w.data.round(4)
    array([0.7071, 0.7071])
    """
    if method not in OPTIONS:
        raise ValueError(f"escape: method must be one of {', '.join(OPTIONS)}, got {method!r}")
    for name, value in options.items():
        if name not in OPTIONS[method]:
            raise TypeError(f"escape: {method!r} has no option {name!r}; it has {', '.join(sorted(OPTIONS[method]))}")
        kind, rule = (int, "an integer") if name == "max_iter" else ((int, float), "a finite number")
        if name != "seed" and not (isinstance(value, kind) and 0 < value < math.inf):
            raise ValueError(f"escape: {name} must be {rule} > 0, got {value!r}")
    check_tolerances("escape", tol=tol)
    objective = Objective("escape", loss_fn, params, batches)
    read = None if batches is None else [batch for _, batch in objective.parts]  # a loader gives others when read again
    attempt = _Attempt(curvature("escape", loss_fn, objective.parameters, read, curvature_by), objective)
    try:
        if method == "perturbed_descent":
            return attempt.descend(**options)
        return attempt.follow(judge(attempt.here, tol).tol, **options)
    except BaseException:
        objective.parameters.set(attempt.theta)
        raise


class _Attempt:
    """A point, and ways to leave it."""

    def __init__(self, here: Curvature, objective: Objective):
        self.here, self.objective = here, objective
        self.parameters: ParameterVector = objective.parameters
        self.theta = self.parameters.get()
        self.evaluations = 0

    def loss_at(self, theta: Array) -> float:
        """Move to theta and return the loss there, nan or inf included."""
        self.parameters.set(theta)
        self.evaluations += 1
        with np.errstate(all="ignore"):
            return math.fsum(self.objective.each(lambda weight, loss, _: weight * float(loss.item())))

    def stayed(self, reason: str) -> Escape:
        """Go back, and return a result that says so."""
        here = self.here
        self.parameters.set(self.theta)
        zero = 0 * self.theta
        return Escape(False, reason, here.loss, here.loss, 0.0, 0.0, zero, float(here.values[0]), self.evaluations)

    def arrived(self, d: Array, new_loss: float, reason: str) -> Escape:
        """Go to theta + d, and return the result."""
        here, length = self.here, norm(d)
        self.parameters.set(self.theta)  # where the products are
        predicted = -float(here.gradient @ d) - float(d @ here.product(d)) / 2
        self.parameters.set(self.theta + d)
        return Escape(
            True, reason, here.loss, new_loss, predicted, length, d / length, float(here.values[0]), self.evaluations
        )

    # ---- along negative curvature ----------------------------------------------------------------------------------

    def follow(self, tol: float, step: float | None = None) -> Escape:
        """Go along the eigenvector of the smallest eigenvalue."""
        u, value = one_sign(self.here.vectors[:, 0]), float(self.here.values[0])
        if value >= -tol:
            return self.stayed(f"no eigenvalue is below {-tol:.1e}")
        slope = float(self.here.gradient @ u)
        s = 1.0 if step is None else float(step)
        sides = [(u, slope), (-u, -slope)]
        tried = [(self.loss_at(self.theta + s * d), -down, d) for d, down in sides if down <= 0]
        new, falling, d = min(tried, key=lambda x: x[0] if math.isfinite(x[0]) else math.inf)
        if step is None:
            s, new = self.sized(d, new, lambda t: t * falling - t * t * value / 2)
        if not -math.inf < new < self.here.loss:
            return self.stayed(f"the loss does not fall at the distance {s:g}")
        return self.arrived(s * d, new, "negative curvature")

    def sized(self, d: Array, new: float, predicted: Callable[[float], float]) -> tuple[float, float]:
        """Return the largest of ..., 1/2, 1, 2, ... that brings half of what is predicted, and the loss there."""
        s, first = 1.0, self.here.loss - new >= predicted(1.0) / 2
        while first and s < FARTHEST:
            further = self.loss_at(self.theta + 2 * s * d)
            if not (-math.inf < further < new and self.here.loss - further >= predicted(2 * s) / 2):
                break
            s, new = 2 * s, further
        least = float(np.finfo(d.dtype).eps) * (1 + norm(self.theta))
        while not (new > -math.inf and self.here.loss - new >= predicted(s) / 2) and s > least:
            s /= 2
            new = self.loss_at(self.theta + s * d)
        return s, new

    # ---- at random -------------------------------------------------------------------------------------------------

    def descend(self, radius: float = 1e-2, lr: float | None = None, max_iter: int = 1000, seed: int = 0) -> Escape:
        here, size = self.here, self.theta.size
        rng = np.random.default_rng(seed)
        xi = rng.standard_normal(size)
        xi *= radius * rng.random() ** (1 / size) / np.linalg.norm(xi)  # uniform in the ball
        theta = self.theta + to_device(xi.astype(self.theta.dtype), self.parameters.device)
        goal = here.loss - max(here.norm * radius**2 / 2, float(np.finfo(self.theta.dtype).eps) ** 0.5 * abs(here.loss))
        rate = lr or (1 / here.norm if here.norm else 1.0)
        new = self.loss_at(theta)
        for _ in range(max_iter):
            if -math.inf < new < goal:
                return self.arrived(theta - self.theta, new, "the loss fell further than within the ball")
            self.parameters.set(theta)
            g = self.objective.value_and_gradient()[1]
            self.evaluations += 1
            there = self.loss_at(theta - rate * g)
            while not there <= new - rate * float(g @ g) / 4 and rate * norm(g) > 1e-12 * radius:
                rate /= 2
                there = self.loss_at(theta - rate * g)
            if not -math.inf < there < new:
                break
            theta, new = theta - rate * g, there
            rate = lr or 2 * rate
        return self.stayed(f"no descent below {goal:.6g} from there: perhaps no saddle")
