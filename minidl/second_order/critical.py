"""What kind of point the parameters are at: minimum, maximum, saddle, degenerate, or no critical point at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import Array, to_numpy
from ..krylov import norm
from .dense import Hessian, hessian
from .objective import Batches
from .operator import HessianOperator
from .parameters import ParameterVector, Params
from .spectrum import eigsh

DENSE = 3000  # up to so many parameters all eigenvalues are computed, beyond it the extreme ones
METHODS = ("auto", "dense", "lanczos")


class Curvature(NamedTuple):
    """A loss around a point: value, gradient, and the ends of the Hessian's spectrum, or all of it.

    values, vectors : all eigenpairs, ascending, or (Lanczos) the smallest and the largest.
    slack           : by how much a value may be wrong: the largest residual of an eigenpair.
    product         : v -> H v.
    """

    loss: float
    gradient: Array
    values: np.ndarray
    vectors: Array
    slack: float
    product: Callable[[Array], Array]

    @property
    def norm(self) -> float:
        """|H|, the largest absolute eigenvalue."""
        return float(np.abs(self.values).max())

    @property
    def rounding(self) -> float:
        """P eps |H|: below it an eigenvalue is 0 for all that the arithmetic can tell."""
        return self.gradient.size * float(np.finfo(self.gradient.dtype).eps) * self.norm


@dataclass(frozen=True, repr=False, eq=False)
class Classification:
    """What kind of point it is, and the numbers that say so.

    kind            : "minimum", "maximum", "saddle", "degenerate" or "not critical".
    negative, zero, positive : how many eigenvalues are below -tol, within, above tol; None where only the extreme ones
                      are known and do not decide it.
    tol, tol_reason : what counts as zero, and why.
    loss, gradient_norm, gradient_tol : L, |g|, and up to where |g| counts as zero.
    flatness        : |H g| / (|H| |g|), 0 where g = 0: small where |g| itself is stationary.
    smallest, largest, smallest_vector, largest_vector : the extreme eigenpairs; vectors (P,) have length 1, and their
                      largest element is positive.
    eigenvalues     : all of them, ascending, on the host; None from "lanczos".
    method          : "dense" or "lanczos".
    """

    kind: str
    negative: int | None
    zero: int | None
    positive: int | None
    tol: float
    tol_reason: str
    loss: float
    gradient_norm: float
    gradient_tol: float
    flatness: float
    smallest: float
    largest: float
    smallest_vector: Array = field(repr=False)
    largest_vector: Array = field(repr=False)
    eigenvalues: np.ndarray | None = field(repr=False)
    method: str

    @property
    def size(self) -> int:
        """The number P of parameters."""
        return self.smallest_vector.size

    @property
    def minimum_ratio(self) -> float:
        """Positive eigenvalues / all P eigenvalues; ValueError where they are not all known.

        Zeros count as not positive: a minimum with flat directions has less than 1.
        """
        if self.positive is None:
            raise ValueError(
                f"minimum_ratio: only the extreme eigenvalues of {self.size} are known; use method='dense'"
            )
        return self.positive / self.size

    def __repr__(self) -> str:
        shown = ["?" if n is None else str(n) for n in (self.negative, self.zero, self.positive)]
        return (
            f"{self.kind}: {shown[0]} negative, {shown[1]} zero, {shown[2]} positive of {self.size} eigenvalues, from "
            f"{self.smallest:.4g} to {self.largest:.4g}; zero up to {self.tol:.1e} ({self.tol_reason}); |g| = "
            f"{self.gradient_norm:.1e}, zero up to {self.gradient_tol:.1e}; loss {self.loss:.6g} ({self.method})"
        )


def classify(
    loss_fn: Callable[..., Any],
    params: Params,
    batches: Batches = None,
    tol: float | None = None,
    gradient_tol: float | None = None,
    method: str = "auto",
) -> Classification:
    """Tell what kind of point the parameters are at, by the eigenvalues of the Hessian. Nothing moves.

    "not critical"  |g| > gradient_tol
    "minimum"       every eigenvalue > tol          "maximum"  every eigenvalue < -tol
    "saddle"        some > tol and some < -tol, whatever the others are
    "degenerate"    none of these: with an eigenvalue of 0 and the others of one sign (or 0) the second order leaves the
                    question open. Minima of networks are mostly of this kind, for symmetries make them flat along
                    some directions: see the counts

    tol          : an eigenvalue counts as zero up to it. By default P eps max |lambda|, which is what rounding makes of
                   a zero (as in `matrix_rank`), and at a critical point |g| more, which is about what the distance to
                   the exact one makes of it; with "lanczos" at least the residual of the eigenpairs.
    gradient_tol : by default eps^(2/3) max |lambda|: |g| / |lambda| is how far off a critical point must be at least.
                   It is strict (3.7e-11 in float64) because |g|^2 < 1e-8 is not enough to trust the signs (Frye et al.
                   2019, arXiv:1901.10603).
    method       : "dense" computes all eigenvalues (`hessian`), "lanczos" the two extreme ones by products (`eigsh`);
                   "auto" is dense up to P = 3000.

    Arguments and errors are those of `hessian`; ValueError for a tolerance that is negative or not finite.

    >>> w = tensor([0.0, 0.0], dtype="float64", requires_grad=True)
    >>> found = classify(lambda: (1 - w[0] * w[1]) ** 2, w)
    >>> found.kind, (found.negative, found.zero, found.positive), found.smallest, found.smallest_vector.round(4)
    ('saddle', (1, 0, 1), -2.0, array([0.7071, 0.7071]))
    >>> a = tensor([0.0, 0.0, 0.0], dtype="float64", requires_grad=True)
    >>> classify(lambda: (1 - a[0] * a[1] * a[2]) ** 2, a).kind  # g = 0 and H = 0
    'degenerate'
    """
    check_tolerances("classify", tol=tol, gradient_tol=gradient_tol)
    return judge(curvature("classify", loss_fn, params, batches, method), tol, gradient_tol)


def minimum_ratio(
    loss_fn: Callable[..., Any], params: Params, batches: Batches = None, tol: float | None = None
) -> float:
    """Return the share of positive eigenvalues of the Hessian among all P, as `classify` counts them.

    At a critical point it tells how much of a minimum it is; against the loss it is the picture of Dauphin et al. 2014
    (arXiv:1406.2572, Fig. 1). Zeros count as not positive.

    >>> w = tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> minimum_ratio(lambda: (1 - w[0] * w[1]) ** 2, w)  # eigenvalues 0 and 4
    0.5
    """
    return classify(loss_fn, params, batches, tol, method="dense").minimum_ratio


def curvature(who: str, loss_fn: Callable[..., Any], params: Params, batches: Batches, method: str) -> Curvature:
    """Return the loss around the present parameters; by all eigenpairs where P is small or `method` wants it."""
    if method not in METHODS:
        raise ValueError(f"{who}: method must be one of {', '.join(METHODS)}, got {method!r}")
    vector = ParameterVector(params)
    if method == "dense" or (method == "auto" and vector.size <= DENSE):
        return of_matrix(hessian(loss_fn, vector, batches))
    operator = HessianOperator(loss_fn, vector, batches)
    found = eigsh(operator, min(2, operator.size), "BE")
    loss, gradient = operator.loss_and_gradient()
    return Curvature(loss, gradient, found.values, found.vectors, float(found.residuals.max()), operator.matvec)


def of_matrix(h: Hessian) -> Curvature:
    """Return what a whole Hessian says."""
    values, vectors = h.eigh()
    return Curvature(h.loss, h.gradient, to_numpy(values).astype(np.float64), vectors, 0.0, h.__matmul__)


def judge(
    here: Curvature, tol: float | None = None, gradient_tol: float | None = None, unsettled: float = 0.0
) -> Classification:
    """Return the classification of what is known of a point; `unsettled`: how far its eigenvalues may yet move."""
    size, values, length = here.gradient.size, here.values, norm(here.gradient)
    critical = float(np.finfo(here.gradient.dtype).eps) ** (2 / 3) * here.norm if gradient_tol is None else gradient_tol
    reason = "given"
    if tol is None:
        tol, reason = here.rounding, "P eps max |lambda|"
        if 0 < length <= critical:
            tol, reason = tol + length, "P eps max |lambda| + |g|"
        if unsettled > tol:
            tol, reason = unsettled, "the change of the eigenvalues in the last step"
    if here.slack > tol:
        tol, reason = here.slack, "the residual of the eigenpairs"
    negative, positive = int((values < -tol).sum()), int((values > tol).sum())
    counts: tuple[int | None, int | None, int | None] = (negative, len(values) - negative - positive, positive)
    whole = len(values) == size
    if not whole:
        counts = (0, 0, size) if values[0] > tol else (size, 0, 0) if values[-1] < -tol else (None, None, None)
    if not length <= critical:
        kind = "not critical"
    elif negative and positive:
        kind = "saddle"
    else:
        kind = "minimum" if positive == len(values) else "maximum" if negative == len(values) else "degenerate"
    return Classification(
        kind=kind,
        negative=counts[0],
        zero=counts[1],
        positive=counts[2],
        tol=tol,
        tol_reason=reason,
        loss=here.loss,
        gradient_norm=length,
        gradient_tol=critical,
        flatness=flatness(here),
        smallest=float(values[0]),
        largest=float(values[-1]),
        smallest_vector=one_sign(here.vectors[:, 0]),
        largest_vector=one_sign(here.vectors[:, -1]),
        eigenvalues=values if whole else None,
        method="dense" if whole else "lanczos",
    )


def flatness(here: Curvature) -> float:
    """Return |H g| / (|H| |g|), 0 where H g = 0."""
    length = norm(here.gradient)
    bent = norm(here.product(here.gradient / length)) if length else 0.0
    return bent / here.norm if bent else 0.0


def one_sign(v: Array) -> Array:
    """Return v or -v: that of which the largest element is positive, so that runs and machines agree."""
    top = v[int(abs(v).argmax())]
    return v if float(top) > 0 else -v


def check_tolerances(who: str, **given: float | None) -> None:
    """Raise ValueError for a number that is negative or not finite."""
    for name, value in given.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{who}: {name} must be a finite number >= 0, got {value!r}")
