"""Sharpness: how fast the loss rises around a point, by four measures, and against the learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import Array, to_device
from .estimate import trace
from .objective import Batches, Objective
from .operator import HessianOperator
from .parameters import Params
from .spectrum import eigsh

POWER = 2  # steps of power iteration before an ascent; with more the starts become one


class Sharpness(NamedTuple):
    """How sharp a point is.

    value     : in the unit of the loss for "sam", of the loss over squared parameters for "lambda_max" and "trace", in
                percent for "keskar".
    error     : of "lambda_max" the residual, of "trace" the standard error; nan for "keskar" and "sam", whose values
                are lower bounds: the highest loss that was found.
    direction : (P,) the eigenvector, or the step to the highest loss; None for "trace".
    converged : whether the search ended by its own rule, and not because its steps were used up.
    """

    value: float
    error: float
    direction: Array | None
    converged: bool


def sharpness(
    loss_fn: Callable[..., Any], params: Params, batches: Batches = None, kind: str = "lambda_max", **options: Any
) -> Sharpness:
    """Return how sharp the loss is at the parameters. They are the same afterwards, bit by bit.

    kind "lambda_max"  the largest eigenvalue of the Hessian; options tol, max_matvecs, v0, seed of `eigsh`
         "trace"       the sum of its eigenvalues; options samples, rtol, method, seed of `trace`
         "keskar"      100 (max L(theta + A y) - L(theta)) / (1 + L(theta)) over |y_i| <= epsilon (|(A+ theta)_i| + 1)
                       (Keskar et al. 2017, arXiv:1609.04836, Metric 2.1): epsilon = 1e-3; A is the identity or, with
                       dimensions=p, p random unit vectors; steps = 10 of ascent from the point and from `starts` = 4
                       others, each random signs, drawn with `seed`, after two steps of power iteration
         "sam"         L(theta + rho g / |g|) - L(theta), g the gradient (Foret et al. 2021, arXiv:2010.01412, Eq. 2),
                       rho = 0.05; with steps > 1 more ascent in the ball |e| <= rho (at a minimum, where rho is small,
                       that gives lambda_max rho^2 / 2)

    Ascent is the method of Frank and Wolfe: towards the corner, or the point of the sphere, where the linear model is
    highest, halved until the loss has risen; where the loss is convex every step is a whole one. ValueError for "sam"
    of one step where the gradient is 0, and for an option that the kind does not have.

    "keskar" and "sam" contain the slope where the gradient is not 0, as where small batches end. That small batches
    end in flatter minima does not show on the digits: for batches of 16, 128 and all 1,297 (64-32-10, cross-entropy,
    3,000 steps of 0.1, 3 seeds) lambda_max was 1.32 +- 0.07, 1.35 +- 0.03 and 1.37 +- 0.04, test accuracy 98 % each.

    >>> w = tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> found = sharpness(lambda: (1 - w[0] * w[1]) ** 2, w)
    >>> round(found.value, 12), abs(found.direction).round(3)
    (4.0, array([0.707, 0.707]))
    """
    kinds: dict[str, Callable[..., Sharpness]] = {
        "lambda_max": _lambda_max,
        "keskar": _keskar,
        "sam": _sam,
        "trace": _trace,
    }
    if kind not in kinds:
        raise ValueError(f"sharpness: kind must be one of {', '.join(kinds)}, got {kind!r}")
    known = [p.name for p in inspect.signature(kinds[kind]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(f"sharpness: kind {kind!r} takes {', '.join(known)}, got {', '.join(unknown)}")
    return kinds[kind](loss_fn, params, batches, **options)


def _lambda_max(
    loss_fn: Any,
    params: Any,
    batches: Any,
    *,
    tol: float | None = None,
    max_matvecs: int = 3000,
    v0: Any = None,
    seed: int = 0,
) -> Sharpness:
    op = HessianOperator(loss_fn, params, batches)
    found = eigsh(op, 1, "LA", tol=tol, max_matvecs=max_matvecs, v0=v0, seed=seed)
    return Sharpness(float(found.values[0]), float(found.residuals[0]), found.vectors[:, 0], found.converged)


def _trace(
    loss_fn: Any,
    params: Any,
    batches: Any,
    *,
    samples: int = 100,
    rtol: float | None = None,
    method: str = "auto",
    seed: int = 0,
) -> Sharpness:
    op = HessianOperator(loss_fn, params, batches)
    found = trace(op, method, samples=samples, rtol=rtol, seed=seed)
    reached = rtol is None or found.standard_error <= rtol * abs(found.value)
    return Sharpness(found.value, found.standard_error, None, reached)


def _keskar(
    loss_fn: Any,
    params: Any,
    batches: Any,
    *,
    epsilon: float = 1e-3,
    steps: int = 10,
    starts: int = 4,
    dimensions: int | None = None,
    seed: int = 0,
) -> Sharpness:
    objective, rng = Objective("sharpness", loss_fn, params, batches), np.random.default_rng(seed)
    _positive("epsilon", epsilon)
    _whole("steps", steps, 1)
    _whole("starts", starts, 0)
    parameters = objective.parameters
    theta, xp = parameters.get(), parameters.xp
    rows: Any = None  # A' with unit rows; None is the identity
    center = theta
    if dimensions is not None:
        _whole("dimensions", dimensions, 1)
        host = rng.standard_normal((dimensions, parameters.size))
        host /= np.linalg.norm(host, axis=1, keepdims=True)
        pseudo = np.linalg.pinv(host.T).astype(parameters.dtype)
        rows = to_device(host.astype(parameters.dtype), parameters.device)
        center = to_device(pseudo, parameters.device) @ theta
    half = epsilon * (xp.abs(center) + 1)
    climb = _Ascent(objective, theta, rows, lambda g: half * xp.sign(g))
    zero = xp.zeros_like(half)
    found = [climb.run(zero, steps)]
    flat = climb.at(zero)[1]
    for _ in range(starts):
        u = to_device((2 * rng.integers(0, 2, half.size) - 1).astype(half.dtype), parameters.device)
        for _ in range(POWER):  # towards the directions that bend most, in units of the box
            bent = half * (climb.at(half * u)[1] - flat)
            u = bent / float(xp.abs(bent).max()) if xp.abs(bent).max() > 0 else u
        found.append(climb.run(half * u, steps))
    loss = climb.base
    highest, y, converged = max(found, key=lambda f: f[0])
    return Sharpness(100 * (highest - loss) / (1 + loss), math.nan, climb.step(y), converged)


def _sam(loss_fn: Any, params: Any, batches: Any, *, rho: float = 0.05, steps: int = 1, seed: int = 0) -> Sharpness:
    objective = Objective("sharpness", loss_fn, params, batches)
    _positive("rho", rho)
    _whole("steps", steps, 1)
    theta, xp = objective.parameters.get(), objective.parameters.xp

    def farthest(g: Array) -> Array:
        length = float(g @ g) ** 0.5
        return (rho / length) * g if length else 0 * g

    climb = _Ascent(objective, theta, None, farthest)
    loss, g = climb.at(xp.zeros_like(theta))
    flat = not bool(xp.abs(g).max() > 0)
    if flat and steps == 1:
        raise ValueError("sharpness: kind 'sam' steps along the gradient, which is 0 here; use steps > 1")
    host = np.random.default_rng(seed).standard_normal(theta.size).astype(theta.dtype)
    start = farthest(to_device(host, objective.parameters.device) if flat else g)
    if steps == 1:
        return Sharpness(climb.at(start)[0] - loss, math.nan, start, True)
    highest, e, converged = climb.run(start, steps - 1)
    return Sharpness(highest - loss, math.nan, e, converged)


class _Ascent:
    """Frank-Wolfe ascent of the loss in a convex set around theta, known by its farthest point along a direction."""

    def __init__(self, objective: Objective, theta: Array, rows: Array | None, farthest: Callable[[Array], Array]):
        self.objective, self.theta, self.rows, self.farthest = objective, theta, rows, farthest
        self.base = objective.value()

    def step(self, y: Array) -> Array:
        """Return A y, the step in the space of the parameters."""
        return y if self.rows is None else y @ self.rows

    def at(self, y: Array) -> tuple[float, Array]:
        """Return the loss and its gradient by y."""
        with self.objective.parameters.restored() as parameters:
            parameters.set(self.theta + self.step(y))
            loss, g = self.objective.value_and_gradient()
        return loss, g if self.rows is None else self.rows @ g

    def run(self, y: Array, steps: int) -> tuple[float, Array, bool]:
        """Return the highest loss, where it is, and whether no step led higher."""
        f, g = self.at(y)
        for _ in range(steps):
            towards, t = self.farthest(g) - y, 1.0
            slope = float(g @ towards)
            if slope <= 1e-12 * abs(f):
                return f, y, True
            new, g_new = self.at(y + towards)
            while new < f + 1e-4 * t * slope and t > 1e-3:
                t /= 2
                new, g_new = self.at(y + t * towards)
            if new <= f:
                return f, y, True
            y, f, g = y + t * towards, new, g_new
        return f, y, False


class Reading(NamedTuple):
    """What `EdgeOfStability` measured at one step.

    loss      : at the parameters.
    sharpness : lambda_max, the largest eigenvalue of the Hessian.
    lr        : the learning rate of that step.
    ratio     : lambda_max over the largest that the optimizer can hold, lambda_max lr / 2 for gradient descent.
    matvecs   : products it took.
    """

    step: int
    loss: float
    sharpness: float
    lr: float
    ratio: float
    matvecs: int


class EdgeOfStability:
    """Measure the sharpness during training, against the largest that the learning rate can hold.

        gradient descent               lambda_max < 2 / lr
        with momentum beta             lambda_max < (2 + 2 beta) / lr
        with Nesterov's momentum beta  lambda_max < (2 + 2 beta) / ((1 + 2 beta) lr)

    On a quadratic beyond these it diverges. Full-batch training of a network often goes there and stays, the ratio near
    1 and the loss falling in leaps (Cohen et al. 2021, arXiv:2103.00065): seen for squared error, where training is
    long and the rate not small. With cross-entropy on the digits the sharpness falls instead.

    loss_fn, params, batches : the loss that training descends, as for `HessianOperator`.
    lr      : a number, a function of the step, or the optimizer: then its first group's `lr` at that time.
    every   : measure at every so many calls; the other calls return None.
    tol     : of the eigenvalue, relative, as in `eigsh`. Each search starts from the last vector: about 5 products.
    verify  : at every so many readings look for a larger eigenvalue that has overtaken unseen: about 20 products.
    history : the list of all readings.

    >>> w = tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> monitor = EdgeOfStability(lambda: (1 - w[0] * w[1]) ** 2, w, lr=0.5)
    >>> reading = monitor()
    >>> round(reading.sharpness, 6), round(reading.ratio, 6), len(monitor.history)
    (4.0, 1.0, 1)
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        params: Params,
        lr: Any,
        batches: Batches = None,
        *,
        every: int = 1,
        momentum: float = 0.0,
        nesterov: bool = False,
        tol: float = 1e-3,
        verify: int = 10,
        seed: int = 0,
    ):
        _whole("every", every, 1, "EdgeOfStability")
        _whole("verify", verify, 1, "EdgeOfStability")
        if not 0 <= momentum < 1:
            raise ValueError(f"EdgeOfStability: momentum must be in [0, 1), got {momentum!r}")
        self.lr, self.every, self.tol, self.verify, self.seed = lr, every, tol, verify, seed
        self.factor = (2 + 2 * momentum) / (1 + 2 * momentum if nesterov else 1)  # of 1 / lr: the largest sharpness
        self.calls = 0
        self.history: list[Reading] = []
        self._vector: Any = None
        self._op = HessianOperator(loss_fn, params, batches)

    def __call__(self, step: int | None = None) -> Reading | None:
        """Measure, if it is this call's turn; `step` is by default the number of calls before."""
        turn = self.calls % self.every == 0
        step = self.calls if step is None else step
        self.calls += 1
        if not turn:
            return None
        seed, verify = self.seed + self.calls, len(self.history) % self.verify == 0
        found = eigsh(self._op, 1, "LA", tol=self.tol, v0=self._vector, seed=seed, method="lanczos", verify=verify)
        self._vector = found.vectors[:, 0]
        value, lr = float(found.values[0]), self._rate(step)
        reading = Reading(step, self._op.loss(), value, lr, value * lr / self.factor, found.matvecs)
        self.history.append(reading)
        return reading

    def _rate(self, step: int) -> float:
        if hasattr(self.lr, "param_groups"):
            return float(self.lr.param_groups[0]["lr"])
        return float(self.lr(step) if callable(self.lr) else self.lr)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"sharpness: {name} must be a finite number > 0, got {value!r}")


def _whole(name: str, value: int, least: int, who: str = "sharpness") -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{who}: {name} must be an integer >= {least}, got {value!r}")
