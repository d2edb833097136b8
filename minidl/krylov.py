"""Krylov methods for a symmetric matrix A that is known by its products alone: CG, Steihaug, MINRES, Lanczos.

A is a function v -> A v of vectors (P,), or a matrix or operator with `@`. Vectors are NumPy or CuPy arrays, results
have their dtype and device; the coefficients of the recurrences are float64 on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from .engine.backend import Array, array_module, is_array, to_numpy

Operator = Any  # a function of a vector, or whatever has `@`
Product = Callable[[Array], Array]


class Solution(NamedTuple):
    """What an iteration for A x = b ended with, and why.

    x          : (P,).
    reason     : "converged", "max_iter", or what the method says of itself.
    iterations : products with A.
    residual   : |b - A x|, as the recurrence has it.
    decrease   : b'x - x'Ax / 2: by how much the quadratic model x'Ax / 2 - b'x falls from 0 to x.
    direction  : d (P,) with d'Ad <= 0 if one was met, else None.
    curvature  : d'Ad / d'd, nan without one.
    """

    x: Array
    reason: str
    iterations: int
    residual: float
    decrease: float
    direction: Array | None = None
    curvature: float = math.nan


def cg(
    A: Operator,
    b: Array,
    *,
    x0: Array | None = None,
    tol: float = 1e-6,
    max_iter: int | None = None,
    preconditioner: Operator | None = None,
) -> Solution:
    """Solve A x = b for a positive definite A by conjugate gradients (Hestenes & Stiefel 1952).

    Nocedal & Wright, "Numerical Optimization" (2006), Alg. 5.2, with a preconditioner Alg. 5.3. It stops at
    |b - A x| <= tol |b| ("converged"), after max_iter products ("max_iter"; 2 P by default), and at a direction d with
    d'Ad <= 0 ("negative curvature"): then A is not positive definite, and x is the iterate before d.

    x0             : where to start; zeros by default.
    preconditioner : the product with an approximation of the inverse of A; ValueError if that is not positive definite.

    >>> A = np.array([[4.0, 1.0], [1.0, 3.0]])
    >>> cg(A, np.array([1.0, 2.0])).x.round(4), cg(lambda v: -v, np.ones(2)).reason
    (array([0.0909, 0.6364]), 'negative curvature')
    """
    product, b, size = _problem("cg", A, b)
    apply = None if preconditioner is None else _product("cg: preconditioner", preconditioner, size)
    x = _zeros(b) if x0 is None else _like("cg: x0", x0, b)
    r = b if x0 is None else b - product(x)
    used, most = int(x0 is not None), 2 * size if max_iter is None else max_iter
    scale = _power(b)  # of two: the squares of r / scale neither vanish nor overflow, and no other bit changes
    x, r = x / scale, r / scale
    z = r if apply is None else apply(r)
    d, rz, goal = z, _dot(r, z), tol * norm(b) / scale
    reason, direction, curvature = "converged", None, math.nan
    while norm(r) > goal:
        if rz <= 0:
            raise ValueError(f"cg: the preconditioner must be positive definite, but r'Mr = {rz!r} for a residual r")
        if used >= most:
            reason = "max_iter"
            break
        Ad = product(d)
        used += 1
        bend = _dot(d, Ad)
        if bend <= 0:
            reason, direction, curvature = "negative curvature", d, bend / _dot(d, d)
            break
        x = x + (rz / bend) * d
        r = r - (rz / bend) * Ad
        z = r if apply is None else apply(r)
        before, rz = rz, _dot(r, z)
        d = z + (rz / before) * d
    x, r = scale * x, scale * r
    direction = None if direction is None else scale * direction
    return Solution(x, reason, used, norm(r), _dot(x, b + r) / 2, direction, curvature)


def steihaug(
    A: Operator, g: Array, radius: float, *, tol: float | None = None, max_iter: int | None = None
) -> Solution:
    """Minimize the model g'p + p'Ap / 2 in the ball |p| <= radius, nearly, by CG that stops at its edge.

    Conjugate gradients for A p = -g from p = 0 until |A p + g| <= tol |g| ("converged"), p leaves the ball
    ("boundary"), a direction has d'Ad <= 0 ("negative curvature", followed to the edge), or after max_iter products
    (2 P by default). tol is by default min(1/2, sqrt |g|), which makes Newton's method converge superlinearly.
    `decrease` is at least that of the best point along -g in the ball (Steihaug 1983; Nocedal & Wright Alg. 7.2).

    >>> A = np.diag([2.0, 1.0])
    >>> [steihaug(A, np.array([2.0, 2.0]), radius, tol=1e-9).reason for radius in (1.0, 3.0)]
    ['boundary', 'converged']
    >>> found = steihaug(np.diag([1.0, -1.0]), np.array([0.0, 1e-3]), 1.0)
    >>> found.x, found.reason, round(found.decrease, 4)
    (array([ 0., -1.]), 'negative curvature', 0.501)
    """
    product, g, size = _problem("steihaug", A, g)
    if not 0 < radius < math.inf:
        raise ValueError(f"steihaug: radius must be a finite number > 0, got {radius!r}")
    length = norm(g)
    goal = (min(0.5, math.sqrt(length)) if tol is None else tol) * length
    p, r, used, most = _zeros(g), -g, 0, 2 * size if max_iter is None else max_iter
    d, rr = r, length**2
    reason, direction, curvature = "converged", None, math.nan
    while math.sqrt(rr) > goal:
        if used >= most:
            reason = "max_iter"
            break
        Ad = product(d)
        used += 1
        bend = _dot(d, Ad)
        step = rr / bend if bend > 0 else math.inf
        if bend <= 0 or norm(p + step * d) >= radius:
            back, ahead = _crossings(p, d, radius)
            step = min((back, ahead), key=lambda t: t * t * bend / 2 - t * rr) if bend <= 0 else ahead
            reason = "boundary" if bend > 0 else "negative curvature"
            direction, curvature = (d, bend / _dot(d, d)) if bend <= 0 else (None, math.nan)
            p, r = p + step * d, r - step * Ad
            break
        p, r = p + step * d, r - step * Ad
        before, rr = rr, _dot(r, r)
        d = r + (rr / before) * d
    return Solution(p, reason, used, norm(r), _dot(p, r - g) / 2, direction, curvature)


def minres(
    A: Operator,
    b: Array,
    *,
    tol: float = 1e-6,
    max_iter: int | None = None,
    null_tol: float | None = None,
    stop_at_negative_curvature: bool = False,
) -> Solution:
    """Minimize |b - A x| for a symmetric A, definite or not, singular or not (Paige & Saunders 1975).

    reason "converged"           |b - A x| <= tol |b|
           "least squares"       |A r| <= null_tol |A| |r| for r = b - A x: b is not in the range of A; x is then the
                                 pseudo-inverse's solution, x - (x'r / r'r) r (Liu, Milzarek & Roosta 2023,
                                 arXiv:2309.17096). null_tol is by default eps^(1/2): 1.5e-8 in float64
           "max_iter"            after max_iter products, P by default
           "negative curvature"  with stop_at_negative_curvature, at the first residual r with r'Ar <= 0

    `direction` is that first residual, whether it stops there or not, found without a further product (Liu & Roosta
    2022, SIAM J. Optim. 32, Newton-MR): if A has a negative eigenvalue that b feels, one is met. All Lanczos vectors
    are kept and made orthogonal, P numbers an iteration: without, the least-squares test fails at P = 20 already.

    >>> found = minres(np.diag([2.0, -1.0, 0.0]), np.array([2.0, 3.0, -1.0]))
    >>> found.x[:2].round(6), found.reason, round(found.residual, 6)
    (array([ 1., -3.]), 'least squares', 1.0)
    """
    product, b, size = _problem("minres", A, b)
    most = size if max_iter is None else max_iter
    floor = float(np.finfo(b.dtype).eps) ** 0.5 if null_tol is None else null_tol
    phi = start = norm(b)
    x, r, reason, used = _zeros(b), b, "converged", 0
    basis = Basis(b / (start or 1.0))
    d, d_older = x, x
    c, s, delta, epsilon = -1.0, 0.0, 0.0, 0.0  # c and s of the rotations that make T triangular
    direction, curvature = None, math.nan
    while phi > tol * start:
        if used >= most:
            reason = "max_iter"
            break
        v = basis.rows[-1]
        along, below = basis.extend(product(v))
        used += 1
        alpha = float(along[-1])
        diagonal, above, delta_next = s * delta - c * alpha, c * delta + s * alpha, -c * below
        if direction is None and c * diagonal >= 0:  # r'Ar = -c diagonal r'r
            direction, curvature = r, -c * diagonal
            if stop_at_negative_curvature:
                reason = "negative curvature"
                break
        if math.hypot(diagonal, delta_next) <= floor * basis.scale:  # |A r| / |r|
            reason = "least squares"
            x = x - _dot(x, r / phi) * (r / phi)
            break
        turned = math.hypot(diagonal, below)
        d, d_older = (v - above * d - epsilon * d_older) / turned, d
        epsilon, delta = s * below, delta_next
        c, s = diagonal / turned, below / turned
        x = x + (c * phi) * d
        r = s * s * r - (phi * s * c) * basis.rows[-1]
        phi *= s
    return Solution(x, reason, used, phi, _dot(x, b + r) / 2, direction, curvature)


class Tridiagonal(NamedTuple):
    """The matrix A seen from a Krylov space: V A V' = T, with V's rows orthonormal.

    diagonal     : (m,), float64 on the host.
    off_diagonal : (m - 1,).
    basis        : V (m, P).
    rest         : beta_m in A V' = V' T + beta_m v e_m'; 0 where the space is invariant.
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    basis: Array
    rest: float

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return T's eigenvalues (m,), ascending, its eigenvectors S (m, m), and how well they serve for A (m,).

        The vectors S' V have the residuals |A u - theta u| = rest |last row of S|.
        """
        T = np.diag(self.diagonal) + np.diag(self.off_diagonal, 1) + np.diag(self.off_diagonal, -1)
        values, vectors = np.linalg.eigh(T)
        return values, vectors, self.rest * np.abs(vectors[-1])


def lanczos(A: Operator, start: Array, steps: int) -> Tridiagonal:
    """Project A onto the Krylov space of `start`, A start, A^2 start, ..., of dimension `steps` at most (Lanczos 1950).

    Each new vector is made orthogonal to all others, as often as it takes (Parlett 1998, Sec. 6.9), so that T's
    eigenvalues have no ghosts; with steps = P they are those of A. It ends early where the space is invariant.

    >>> T = lanczos(np.diag([1.0, 2.0, 3.0]), np.ones(3), 3)
    >>> T.ritz()[0].round(12), T.rest
    (array([1., 2., 3.]), 0.0)
    """
    product, start, size = _problem("lanczos", A, start)
    if not is_count(steps, 1):
        raise ValueError(f"lanczos: steps must be an integer >= 1, got {steps!r}")
    steps, length = min(steps, size), norm(start)
    if length == 0:
        raise ValueError("lanczos: the starting vector is zero")
    basis = Basis(start / length)
    diagonal, off_diagonal = [], []
    for _ in range(steps):
        along, rest = basis.extend(product(basis.rows[-1]))
        diagonal.append(along[-1])
        off_diagonal.append(rest)
        if rest == 0:
            break
    m = len(diagonal)
    return Tridiagonal(np.array(diagonal), np.array(off_diagonal[: m - 1]), basis.rows[:m], rest)


class Basis:
    """Orthonormal rows (m, P) that grow by one vector at a time, from one vector (P,) or several (m, P).

    scale : the largest coefficient so far, a lower bound of |A| where products with A are added.
    """

    def __init__(self, first: Array):
        self._array = first.reshape(-1, first.shape[-1])
        self._m = len(self._array)
        self.scale = 0.0

    @property
    def rows(self) -> Array:
        """The vectors so far, a view."""
        return self._array[: self._m]

    def extend(self, w: Array) -> tuple[np.ndarray, float]:
        """Add the part of w that is orthogonal to the rows; return w's parts along them and that part's length.

        The length is 0, and nothing is added, if it is no more than rounding, or if the rows span everything already.
        """
        w, along, rest = orthogonalize(self.rows, w)
        self.scale = max(self.scale, rest, float(np.abs(along).max()))
        if rest <= 10 * float(np.finfo(w.dtype).eps) * self.scale or self._m == w.size:
            return along, 0.0
        if self._m == len(self._array):
            old = self.rows
            self._array = array_module(w).empty((min(2 * self._m, w.size), w.size), w.dtype)
            self._array[: self._m] = old
        self._array[self._m] = w / rest
        self._m += 1
        return along, rest


def orthogonalize(basis: Array, w: Array) -> tuple[Array, np.ndarray, float]:
    """Return w without its parts along the rows of `basis` (m, P), these parts (m,), and the norm of what is left.

    >>> orthogonalize(np.array([[1.0, 0.0]]), np.array([3.0, 4.0]))
    (array([0., 4.]), array([3.]), 4.0)
    """
    parts, rest = np.zeros(len(basis)), norm(w)
    for _ in range(4):
        along = basis @ w
        w = w - along @ basis
        parts += to_numpy(along)
        before, rest = rest, norm(w)
        if rest > 0.7 * before:  # nothing was left to take away: twice is enough, but for a w that is rounding itself
            break
    return w, parts, rest


def is_count(n: Any, least: int) -> bool:
    """Tell whether n is an integer, Python's or NumPy's, of at least so much.

    >>> is_count(np.int64(2), 1), is_count(2.0, 1)
    (True, False)
    """
    return isinstance(n, Integral) and int(n) >= least


def norm(x: Array) -> float:
    """Return the Euclidean length of a vector, however small or large its elements are; nan or inf if one of them is.

    >>> norm(np.array([3e-200, 4e-200])), norm(np.array([0.0, 1e200]))
    (5e-200, 1e+200)
    """
    numbers = np.finfo(x.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        square = float(x @ x)
        if float(numbers.tiny / numbers.eps) < square < math.inf:
            return math.sqrt(square)
        top = float(abs(x).max()) if x.size else 0.0
        if not 0 < top < math.inf:
            return top
        scale = _power(x)
        return scale * math.sqrt(_dot(x / scale, x / scale))


def _problem(who: str, A: Operator, b: Array) -> tuple[Product, Array, int]:
    """Return the product with A, the vector and its length; TypeError or ValueError for a vector that is none."""
    if not is_array(b) or b.ndim != 1 or b.dtype.kind != "f" or not b.size:
        got = f"{b.dtype} {b.shape}" if is_array(b) else type(b).__name__
        raise TypeError(f"{who}: needs a floating array of shape (P,), got {got}")
    if not math.isfinite(norm(b)):
        raise ValueError(f"{who}: the vector has elements that are not finite")
    return _product(who, A, b.size), b, b.size


def _product(who: str, A: Operator, size: int) -> Product:
    """Return v -> A v, which refuses a result that is not a finite vector like v."""
    if not hasattr(A, "__matmul__") and not callable(A):
        raise TypeError(f"{who}: needs a function v -> A v, or a matrix or operator with @, got {type(A).__name__}")
    shape = tuple(getattr(A, "shape", (size, size)))
    if shape != (size, size):
        raise ValueError(f"{who}: a vector of {size} elements needs a matrix ({size}, {size}), got {shape}")

    def product(v: Array) -> Array:
        w = A @ v if hasattr(A, "__matmul__") else A(v)
        if type(w) is not type(v) or w.shape != v.shape:
            got = f"{type(w).__name__} {getattr(w, 'shape', '')}"
            raise ValueError(f"{who}: the product of A and a vector {v.shape} must be such a vector, got {got}")
        if not math.isfinite(norm(w)):
            raise ValueError(f"{who}: the product of A and a finite vector is not finite")
        return w.astype(v.dtype, copy=False)

    return product


def _like(who: str, x: Array, b: Array) -> Array:
    """Return a copy of x with b's dtype; ValueError if it is not a vector like b."""
    if type(x) is not type(b) or x.shape != b.shape:
        raise ValueError(f"{who} must be an array of shape {b.shape}, got {type(x).__name__} {getattr(x, 'shape', '')}")
    return x.astype(b.dtype)


def _zeros(b: Array) -> Array:
    return array_module(b).zeros_like(b)


def _crossings(p: Array, d: Array, radius: float) -> tuple[float, float]:
    """Return the two t, negative and positive, at which p + t d is on the sphere, for p in the ball and p'd >= 0."""
    dd, pd, room = _dot(d, d), _dot(p, d), max(radius**2 - _dot(p, p), 0.0)
    far = pd + math.sqrt(pd * pd + dd * room)  # a sum: no difference of numbers that are nearly equal
    return -far / dd, room / far if room else 0.0


def _dot(x: Array, y: Array) -> float:
    return float(x @ y)


def _power(x: Array) -> float:
    """Return the power of two that is nearest below the largest |element|, 1 for zeros."""
    top = float(abs(x).max())
    return math.ldexp(0.5, math.frexp(top)[1]) if top else 1.0
