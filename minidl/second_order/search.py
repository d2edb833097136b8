"""Searching critical points of any index: points where |g| = 0, not where the loss is low."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.backend import Array
from ..krylov import Product, cg, is_count, minres, norm
from .critical import DENSE, Classification, Curvature, check_tolerances, curvature, judge
from .dense import hessian
from .objective import Batches, Objective
from .operator import HessianOperator
from .parameters import Params


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """Where a search for a critical point ended.

    verdict        : "critical"      |g| <= gradient_tol: `point` says of which kind
                     "gradient-flat" |g| is not 0, but stationary: no step reduces it, and this is no critical point
                     "not converged" neither
    gradient_norm  : |g|.
    flatness       : |H g| / (|H| |g|), small at gradient-flat points, and along flat directions.
    log_slope      : |H g| (1 + |theta|) / |g|^2, the relative change of |g| with that of theta: near 0 at gradient-flat
                     points only.
    loss           : L.
    point          : its `Classification`.
    theta          : the parameters there (P,).
    iterations, evaluations : steps taken, and gradients computed on the way.
    reason         : why it stopped: "gradient", "stationary" (the direction vanished), "line search" or "max_iter".
    history        : |g| at the start and after each step.
    """

    verdict: str
    gradient_norm: float
    flatness: float
    log_slope: float
    loss: float
    point: Classification
    theta: Array = field(repr=False)
    iterations: int
    evaluations: int
    reason: str
    history: tuple[float, ...] = field(repr=False)


def find_critical(
    loss_fn: Callable[..., Any],
    params: Params,
    batches: Batches = None,
    method: str = "levenberg_marquardt",
    max_iter: int | None = None,
    tol: float | None = None,
    gradient_tol: float | None = None,
) -> CriticalPoint:
    """Move the parameters to a critical point near them, a saddle as readily as a minimum, and say whether it is one.

    method : "levenberg_marquardt"  p = -(H^2 + damping 1)^-1 H g, least squares for the equations g = 0; by all
                                    eigenpairs up to P = 3000, beyond by CG. More damping until |g| falls
             "newton"               p = -H^+ g, by all eigenpairs; |lambda| <= P eps max |lambda| counts as 0
             "newton_mr"            H p = -g by MINRES, the same but for a tolerance that falls with |g| (Roosta et al.
                                    2018, arXiv:1810.00303)
             "gradient_norm"        p = -H g, descent on 1/2 |g|^2, from the step of Barzilai & Borwein (1988)

    The last three go to theta + t p with the first t of 1, 1/2, 1/4, ... (a step of its own for "gradient_norm") at
    which |g|^2 falls enough, |g(theta + t p)|^2 <= |g|^2 + 2e-4 t p'Hg (Armijo).

    From 150 random starts of a linear autoencoder (5-2-5, 14 levels of the loss at critical points) and in 200 steps,
    Levenberg-Marquardt converged from all, to 12 levels, and the pseudo-inverse from 62, to 6: where H is nearly
    singular its steps are long, and then cut to nothing. Any search gives a biased sample of all critical points, and
    one that follows a valley of |g|, or ends at a gradient-flat point, finds none (Frye et al. 2020,
    arXiv:2003.10397). Count only points with verdict "critical".

    max_iter          : steps at most; 200, for "gradient_norm" 3000.
    tol, gradient_tol : as for `classify`, which judges the point. By default an eigenvalue also counts as zero up to
                        the change of the eigenvalues in the last step, 4 times that where |g| did not fall to a tenth
                        in it: at x^3 it is up to 2 times that, and falls on.

    The parameters end at the point found, whatever the verdict; `ParameterVector(params).restored()` around the call
    brings them back. If anything raises they are where they were, bit by bit. Arguments and errors are those of
    `hessian` and `classify`.

    >>> w = tensor([0.6, 0.2], dtype="float64", requires_grad=True)
    >>> found = find_critical(lambda: (1 - w[0] * w[1]) ** 2, w)
    >>> found.verdict, found.point.kind, bool(found.gradient_norm < 1e-10)
    ('critical', 'saddle', True)
    >>> x = tensor([0.5], dtype="float64", requires_grad=True)
    >>> find_critical(lambda: (x**3 / 3 + x).sum(), x).verdict  # g = x^2 + 1 is never 0, but least at x = 0
    'gradient-flat'
    """
    if method not in SEARCHES:
        raise ValueError(f"find_critical: method must be one of {', '.join(SEARCHES)}, got {method!r}")
    most = (3000 if method == "gradient_norm" else 200) if max_iter is None else max_iter
    if not is_count(most, 0):
        raise ValueError(f"find_critical: max_iter must be an integer >= 0, got {max_iter!r}")
    check_tolerances("find_critical", tol=tol, gradient_tol=gradient_tol)
    operator = HessianOperator(loss_fn, params, batches)
    read = None if batches is None else [batch for _, batch in operator.objective.parts]  # a loader gives others again
    start = operator.parameters.get()
    try:
        search = SEARCHES[method](loss_fn, operator, read)
        reason = search.run(most, gradient_tol)
        return _judged(search, reason, tol, gradient_tol)
    except BaseException:
        operator.parameters.set(start)
        raise


def _judged(search: Search, reason: str, tol: float | None, gradient_tol: float | None) -> CriticalPoint:
    """Return the result at the present parameters, with the Hessian of the step before to see what is settled."""
    parameters, theta = search.parameters, search.parameters.get()
    parameters.set(search.before)
    earlier = search.curvature().values
    parameters.set(theta)
    here = search.curvature(quiet=False)
    point = judge(here, tol, gradient_tol, search.unsettled * float(np.abs(here.values - earlier).max()))
    length, bent = point.gradient_norm, norm(here.product(here.gradient))
    slope = bent / length * (1 + norm(theta)) / length if length else 0.0
    flat = slope <= search.eps ** (1 / 3)
    return CriticalPoint(
        verdict="critical" if point.kind != "not critical" else "gradient-flat" if flat else "not converged",
        gradient_norm=length,
        flatness=point.flatness,
        log_slope=slope,
        loss=point.loss,
        point=point,
        theta=theta,
        iterations=len(search.history) - 1,
        evaluations=search.evaluations,
        reason=reason,
        history=tuple(search.history),
    )


class Search:
    """Descent on |g|: a subclass says how."""

    def __init__(self, loss_fn: Callable[..., Any], operator: HessianOperator, batches: Batches):
        self.loss_fn, self.operator, self.batches = loss_fn, operator, batches
        self.parameters = operator.parameters
        self.eps = float(np.finfo(operator.dtype).eps)
        self.history: list[float] = []
        self.evaluations = 1
        self.scale = 0.0  # a lower bound of |H|, from the latest step
        self.before = self.parameters.get()  # where the latest step began

    def step(self, g: Array) -> Array | str:
        """Move to where |g| is less and return the gradient there; or why it cannot be, without moving."""
        raise NotImplementedError

    def run(self, most: int, gradient_tol: float | None) -> str:
        """Move until |g| is small and falls no more, nothing reduces it, or `most` steps are taken; return which."""
        g, reason = self.operator.gradient(), "max_iter"
        self.history.append(norm(g))
        while len(self.history) <= most:
            theta = self.parameters.get()
            found = self.step(g) if self.history[-1] else "gradient"
            if isinstance(found, str):
                reason = found
                break
            g, self.before = found, theta
            self.history.append(norm(g))
            if self.is_small(gradient_tol) and self.history[-1] > self.history[-2] / 2:
                break
        return "gradient" if self.is_small(gradient_tol) else reason

    def is_small(self, gradient_tol: float | None) -> bool:
        """Tell whether |g| counts as zero; once it does, Newton's steps halve it a few times more, to rounding."""
        return self.history[-1] <= (self.eps ** (2 / 3) * self.scale if gradient_tol is None else gradient_tol)

    @property
    def unsettled(self) -> float:
        """How many times their last change the eigenvalues may yet move: an error that falls by q a step, q / (1 - q).

        At x^3, where H is worst, q^2 is the factor of |g|: 1 is enough where that is below a tenth, 4 up to q = 0.8.
        """
        return 1.0 if len(self.history) > 1 and self.history[-1] < self.history[-2] / 10 else 4.0

    def curvature(self, quiet: bool = True) -> Curvature:
        """Return what is known of the Hessian here; unless `quiet`, a warning says so where the network has kinks."""
        with warnings.catch_warnings():
            if quiet:
                warnings.filterwarnings("ignore", ".*has kinks", UserWarning)
            return curvature("find_critical", self.loss_fn, self.parameters, self.batches, "auto")

    def eigenpairs(self) -> tuple[Array, Array]:
        """Return all eigenpairs of the Hessian."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*has kinks", UserWarning)
            values, vectors = hessian(self.loss_fn, self.parameters, self.batches).eigh()
        self.scale = float(abs(values).max())
        return values, vectors

    def gradient_at(self, theta: Array) -> Array:
        """Move to theta and return the gradient there, nan or inf included."""
        self.parameters.set(theta)
        self.evaluations += 1
        return gradient_there(self.operator.objective)

    def shortened(self, g: Array, p: Array, bent: Array, t: float = 1.0) -> Array | str:
        """Move by the first of t p, t p / 2, ... that reduces |g|^2 enough; `bent` is H g."""
        theta, slope = self.parameters.get(), float(p @ bent)
        if not slope < 0:
            return "stationary"
        least = self.eps * (1 + norm(theta)) / norm(p)
        while t > least:
            found = self.gradient_at(theta + t * p)
            if square(found) <= square(g) + 2e-4 * t * slope:
                return found
            t /= 2
        self.parameters.set(theta)
        return "line search"


class _LevenbergMarquardt(Search):
    """p = -(H^2 + damping)^-1 H g: least squares for the equations g = 0, with the damping of Nielsen 1999."""

    damping: float | None = None

    def step(self, g: Array) -> Array | str:
        bent, product, solve = self.dense(g) if self.parameters.size <= DENSE else self.krylov(g)
        if not norm(bent):
            return "stationary"
        self.damping = 1e-3 * self.scale**2 if self.damping is None else self.damping
        theta, grow = self.parameters.get(), 2.0
        while True:
            p = solve(self.damping)
            if norm(p) <= self.eps * (1 + norm(theta)):
                self.parameters.set(theta)
                return "line search"
            model = g + product(p)
            promised = square(g) - square(model)
            if not promised > 0:
                return "line search"  # all that is left is rounding
            found = self.gradient_at(theta + p)
            ratio = (square(g) - square(found)) / promised
            if ratio > 0:
                self.damping *= max(1 / 3, 1 - (2 * min(ratio, 2.0) - 1) ** 3)
                return found
            self.damping *= grow
            grow *= 2
            self.parameters.set(theta)  # where the products are

    def dense(self, g: Array) -> tuple[Array, Product, Callable[[float], Array]]:
        """Return H g, v -> H v, and how to solve for p, by all eigenpairs."""
        values, vectors = self.eigenpairs()
        bent = values * (vectors.T @ g)
        return (
            vectors @ bent,
            lambda v: vectors @ (values * (vectors.T @ v)),
            lambda damping: -(vectors @ (bent / (values * values + damping))),
        )

    def krylov(self, g: Array) -> tuple[Array, Product, Callable[[float], Array]]:
        """Return the same by products: CG, to |residual| <= |H g| min(0.1, |g| / |g at the start|)."""
        H, tol = self.operator.matvec, min(0.1, self.history[-1] / self.history[0])
        bent = H(g)
        self.scale = norm(bent) / norm(g)
        return bent, H, lambda damping: cg(lambda v: H(H(v)) + damping * v, -bent, tol=tol).x


class _Newton(Search):
    """p = -H^+ g by all eigenpairs."""

    def step(self, g: Array) -> Array | str:
        values, vectors = self.eigenpairs()
        along = vectors.T @ g
        kept = abs(values) > g.size * self.eps * self.scale
        inverse = kept / (values + ~kept)  # 0 where the eigenvalue is none
        return self.shortened(g, -(vectors @ (inverse * along)), vectors @ (values * along))


class _NewtonMR(Search):
    """p = -H^+ g by MINRES, to |H p + g| <= |g| min(0.1, |g| / |g at the start|)."""

    def step(self, g: Array) -> Array | str:
        bent = self.operator.matvec(g)
        self.scale = norm(bent) / norm(g)
        found = minres(self.operator, -g, tol=min(0.1, self.history[-1] / self.history[0]))
        return self.shortened(g, found.x, bent)


class _GradientNorm(Search):
    """p = -H g, which descends on 1/2 |g|^2."""

    last: tuple[Array, Array] | None = None

    def step(self, g: Array) -> Array | str:
        bent, theta = self.operator.matvec(g), self.parameters.get()
        self.scale = norm(bent) / norm(g)
        image = self.operator.matvec(bent)
        t = square(bent) / square(image) if square(image) else 1.0  # exact where H is constant
        if self.last is not None:
            s, y = theta - self.last[0], bent - self.last[1]
            along = float(s @ y)
            t = square(s) / along if along > 0 else t
        self.last = (theta, bent)
        return self.shortened(g, -bent, bent, t)


SEARCHES: dict[str, type[Search]] = {
    "levenberg_marquardt": _LevenbergMarquardt,
    "newton": _Newton,
    "newton_mr": _NewtonMR,
    "gradient_norm": _GradientNorm,
}


def gradient_there(objective: Objective) -> Array:
    """Return the gradient at the present parameters, nan or inf included: a trial may go too far."""
    with np.errstate(all="ignore"):
        found = objective.each(lambda weight, loss, _: objective.flat([(weight, objective.pull([loss], None))]))
    return sum(found)


def square(v: Array) -> float:
    """Return |v|^2; inf or nan for a vector that is not finite."""
    with np.errstate(all="ignore"):
        return float(v @ v)
