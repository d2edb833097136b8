"""Eigenvalues: the extreme ones with their vectors, and the density of all of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import Array, array_module, is_array, on_device, to_device, to_numpy
from ..krylov import Basis, is_count, lanczos, norm
from .estimate import Estimate, is_exact, standard_error
from .matrix import Matrix

BASIS_BYTES = 1 << 28  # how much memory the vectors of a Krylov space may take
NOISE = 0.1  # how much of a random vector is mixed into the one given to start from, relative to its length
CLOSER = 0.1  # of the tolerance: to which the next eigenpair converges before none is taken to be missing
MISSED = 1e-6  # the probability of not seeing an eigenvalue that is there
ENDS = ("LA", "SA", "LM", "BE")


class Eigenpairs(NamedTuple):
    """Some eigenpairs of a symmetric matrix.

    values    : (k,), ascending, float64 on the host.
    vectors   : (P, k), orthonormal, one a column; in the matrix's dtype, where it lives.
    residuals : (k,), |A v - value v|, computed with one more product each: an eigenvalue is that close to each value.
    converged : whether the residuals are within the tolerance and no eigenvalue of the set is missing.
    matvecs   : products used, all in all.
    """

    values: np.ndarray
    vectors: Array
    residuals: np.ndarray
    converged: bool
    matvecs: int


def eigsh(
    op: Any,
    k: int = 1,
    which: str = "LA",
    *,
    tol: float | None = None,
    max_matvecs: int = 3000,
    v0: Any = None,
    seed: int = 0,
    method: str = "auto",
    verify: bool = True,
) -> Eigenpairs:
    """Return k extreme eigenvalues of a symmetric matrix with their vectors, and whether they are the right ones.

    op          : an operator, a symmetric matrix, an object with `.matrix`, or a function v -> A v beside v0.
    which       : "LA" the largest, "SA" the smallest, "LM" the largest in absolute value, "BE" half from both ends, of
                  an odd k one more from above. Signs count: a negative eigenvalue is never among the largest by "LA".
    tol         : converged means |A v - value v| <= tol * (largest |eigenvalue| seen), by default with tol = sqrt(eps);
                  the value itself is then off by about tol^2 over the gap to the next one, at most by tol.
    max_matvecs : products of "lanczos" at most; if they do not suffice, a warning and converged=False.
    v0          : (P,) where to start, such as the vector found a few steps of training ago; some noise is mixed in.
    method      : "exact" computes all entries, and `eigh` decides; "lanczos"; "auto" is exact up to P = 256, for a
                  matrix with entries, and where k is more than P / 4.
    verify      : look for missing eigenvalues, which doubles the products of a small k.

    Lanczos' method has full reorthogonalization and thick restarts (Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22).
    Small residuals do not tell that the right eigenvalues were found: a Krylov space shows a repeated one once, and of
    two that are close the second first if the starting vector happens to lean that way. Therefore the pairs found are
    taken out and the rest is searched from a new random vector, until a missing one would have shown itself with
    probability 1 - 1e-6 (Kuczynski & Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13, Theorem 4.2), or the next one
    has converged. Without that, one search in 20 for the largest of (1, 0.99, ...) with tol = 1e-3 returned 0.99.

    >>> found = eigsh(np.diag([3.0, -4.0, 3.0, 1.0]), k=2)
    >>> found.values, eigsh(np.diag([3.0, -4.0, 3.0, 1.0]), k=1, which="LM").values
    (array([3., 3.]), array([-4.]))
    """
    rng = np.random.default_rng(seed)
    start = None if v0 is None else _vector(v0)
    A = Matrix("eigsh", op, start)
    _check(A, k, which, tol, start, max_matvecs)
    with on_device(A.device)[1]:
        if is_exact("eigsh", method, A) or (method == "auto" and 4 * k > A.size):
            return _by_entries(A, k, which)
        tol = float(np.finfo(A.dtype).eps) ** 0.5 if tol is None else tol
        search = _Search(A, k, which, tol, max_matvecs, verify, rng)
        values, rows, found = search.run(_mixed(A, start, rng))
        residuals = np.array([norm(A(rows[i]) - float(values[i]) * rows[i]) for i in range(k)])
    exact_enough = bool((residuals <= tol * search.scale).all())
    if not (exact_enough and found):
        left = f"residuals up to {residuals.max():.1e}, and not {tol * search.scale:.1e}"
        why = "missing eigenvalues are not ruled out" if exact_enough else left
        warnings.warn(
            f"eigsh: not converged after {A.matvecs} products: {why}; raise max_matvecs= or tol=", stacklevel=2
        )
    return Eigenpairs(values, rows.T, residuals, exact_enough and found, A.matvecs)


def _wanted(values: np.ndarray, k: int, which: str) -> np.ndarray:
    """Return where among ascending values the k wanted ones are, in ascending order."""
    n = len(values)
    if which == "LM":
        return np.sort(np.argsort(np.abs(values), kind="stable")[n - k :])
    low = {"LA": 0, "SA": k, "BE": k // 2}[which]
    return np.r_[:low, n - (k - low) : n]


def _by_entries(A: Matrix, k: int, which: str) -> Eigenpairs:
    H = A.dense()
    values, vectors = array_module(H).linalg.eigh(H)
    chosen = _wanted(to_numpy(values), k, which)
    vectors = vectors[:, to_device(chosen, A.device)]
    host = to_numpy(values)[chosen].astype(np.float64)
    rest = H @ vectors - vectors * to_device(host.astype(A.dtype), A.device)
    residuals = np.array([norm(rest[:, i]) for i in range(k)])
    return Eigenpairs(host, vectors, residuals, True, A.matvecs)


class _Search:
    """Thick-restart Lanczos for the wanted eigenpairs, and the search for missing ones."""

    def __init__(self, A: Matrix, k: int, which: str, tol: float, most: int, verify: bool, rng: np.random.Generator):
        self.A, self.k, self.which, self.tol, self.verify, self.rng = A, k, which, tol, verify, rng
        self.most = most - k  # products are left for the residuals
        self.room = min(A.size, max(2 * k + 20, min(BASIS_BYTES // (A.size * A.dtype.itemsize), 300)))
        self.scale = 0.0  # the largest |Ritz value|
        self.kept: np.ndarray | None = None  # the wanted values when the search for missing ones began
        self.fresh = 0.0  # products since the last random vector; -inf after a restart

    def run(self, start: Array) -> tuple[np.ndarray, Array, bool]:
        """Return the wanted values, the vectors as rows, and whether they converged with none missing."""
        basis, T, left = Basis(start / norm(start)), np.zeros((0, 0)), 0
        while True:
            along, rest = basis.extend(self.A(basis.rows[len(T)]))
            m = len(T) + 1
            T = np.pad(T, (0, 1))
            T[m - 1, :] = T[:, m - 1] = along
            self.fresh += 1
            left -= 1
            out_of_products, whole = self.A.matvecs >= self.most, m == self.A.size
            if rest == 0 and not whole:  # an invariant space: the matrix does not lead out of it, so chance must
                basis.extend(self.A.normal(self.rng))
                self.fresh = 0
            if m < self.k or (left > 0 and rest and not out_of_products and m < self.room):
                continue
            left = max(1, m // 8)
            values, S = np.linalg.eigh(T)
            self.scale = max(self.scale, float(np.abs(values).max()))
            residuals = rest * np.abs(S[-1])
            chosen = _wanted(values, self.k, self.which)
            done = bool((residuals[chosen] <= self.tol * self.scale).all())
            found = done and (whole or self._none_missing(values, residuals, chosen))
            if found or out_of_products:
                return values[chosen], self._rows(basis, S[:, chosen]), found
            if done and self._is_new(values[chosen]):
                self.kept, self.fresh = values[chosen], 0
                basis, T = Basis(self._rows(basis, S[:, chosen])), np.diag(values[chosen])
                basis.extend(self.A.normal(self.rng))
            elif m == self.room:
                keep = _wanted(values, self.k + (m - self.k) // 2, self.which)
                rows = self._rows(basis, S[:, keep])
                last = basis.rows[m]
                basis, T = Basis(rows), np.diag(values[keep])
                basis.extend(last)
                self.fresh = -math.inf

    def _rows(self, basis: Basis, S: np.ndarray) -> Array:
        """Return the Ritz vectors S' V."""
        on = to_device(np.ascontiguousarray(S.T).astype(self.A.dtype), self.A.device)
        return on @ basis.rows[: len(S)]

    def _is_new(self, values: np.ndarray) -> bool:
        return self.kept is None or float(np.abs(values - self.kept).max()) > self.tol * self.scale

    def _none_missing(self, values: np.ndarray, residuals: np.ndarray, chosen: np.ndarray) -> bool:
        """Tell whether an eigenvalue beyond the wanted ones would have been seen, were there one."""
        at_ends = {
            "LA": (0, self.k),
            "SA": (self.k, 0),
            "LM": (self.k, self.k),
            "BE": (self.k // 2, self.k - self.k // 2),
        }
        low, high = at_ends[self.which]
        if not self.verify:
            return True
        if self._is_new(values[chosen]) or len(values) == self.k:
            return False
        others = np.setdiff1d(np.arange(len(values)), chosen)
        ends = []
        if high:
            bound = np.abs(values[chosen]).min() if self.which == "LM" else values[chosen][-high:].min()
            ends.append((bound - values[others[-1]], bound - values[0], residuals[others[-1]]))
        if low:
            bound = -np.abs(values[chosen]).min() if self.which == "LM" else values[chosen][:low].max()
            ends.append((values[others[0]] - bound, values[-1] - bound, residuals[others[0]]))
        close = CLOSER * self.tol * self.scale
        return all(self._seen(gap, spread) or residual <= close for gap, spread, residual in ends)

    def _seen(self, gap: float, spread: float) -> bool:
        """Tell whether `fresh` steps would have come closer to an end further out by `gap`, but with a chance MISSED.

        From a random vector, P(lambda_max - theta > e (lambda_max - lambda_min)) <= 1.648 sqrt(P) e^{-sqrt(e) (2m-1)}.
        """
        if not 0 < gap <= spread:
            return False
        return math.sqrt(gap / spread) * (2 * self.fresh - 1) >= math.log(1.648 * math.sqrt(self.A.size) / MISSED)


def _mixed(A: Matrix, start: Array | None, rng: np.random.Generator) -> Array:
    """Return the vector to start from: random, or the one given with some noise."""
    noise = A.normal(rng)
    return noise if start is None else start.astype(A.dtype) / norm(start) + (NOISE / norm(noise)) * noise


def _check(A: Matrix, k: int, which: str, tol: float | None, start: Array | None, max_matvecs: int) -> None:
    if which not in ENDS:
        raise ValueError(f"eigsh: which must be one of {', '.join(ENDS)}, got {which!r}")
    if not is_count(k, 1) or k > A.size:
        raise ValueError(f"eigsh: k must be an integer from 1 to {A.size}, got {k!r}")
    if tol is not None and not 0 <= tol < math.inf:
        raise ValueError(f"eigsh: tol must be a finite number >= 0, got {tol!r}")
    if max_matvecs < 2 * k + 1:
        raise ValueError(f"eigsh: k = {k} eigenpairs need max_matvecs of at least {2 * k + 1}, got {max_matvecs!r}")
    if start is not None and (start.shape != (A.size,) or not 0 < norm(start) < math.inf):
        raise ValueError(f"eigsh: v0 must be a finite vector of shape ({A.size},), not zero, got shape {start.shape}")


def _vector(v: Any) -> Array:
    v = getattr(v, "array", v)
    return v if is_array(v) and v.dtype.kind == "f" else np.asarray(v, dtype=np.float64)


class Spectrum:
    """All eigenvalues of a symmetric matrix as a distribution: nodes with weights, for each of several probes.

    nodes   : (probes, m), float64; of an exact spectrum (1, P), the eigenvalues.
    weights : (probes, m), the sum of each row is 1.
    exact   : whether the nodes are the eigenvalues.
    size    : P.
    matvecs : products used.
    """

    def __init__(self, nodes: np.ndarray, weights: np.ndarray, exact: bool, size: int, matvecs: int):
        self.nodes, self.weights, self.exact, self.size, self.matvecs = nodes, weights, exact, size, matvecs

    def __repr__(self) -> str:
        how = "exact" if self.exact else f"{len(self.nodes)} probes of {self.nodes.shape[1]} nodes"
        return f"Spectrum(P = {self.size}, {how}, from {self.nodes.min():.4g} to {self.nodes.max():.4g})"

    def mean(self, f: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Return the mean of f over the eigenvalues, tr f(H) / P; f takes and returns arrays.

        >>> spectrum(np.diag([1.0, 2.0, 6.0])).mean(lambda x: x).value
        3.0
        """
        values = f(self.nodes)
        if np.shape(values) != self.nodes.shape:
            raise ValueError(f"mean: f must return one number a node {self.nodes.shape}, got {np.shape(values)}")
        return self._estimate((self.weights * values).sum(axis=1))

    def density(self, grid: Any, width: float) -> Estimate:
        """Return the density at the points of a grid: each eigenvalue a Gaussian of standard deviation `width`.

        Its integral is 1. The standard error is that of the random probes, and does not know of the smoothing.
        """
        x = np.asarray(grid, dtype=np.float64)
        if x.ndim != 1 or not 0 < width < math.inf:
            raise ValueError(f"density: needs a grid (n,) and a width > 0, got shape {x.shape} and {width!r}")
        rows = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            kernel = np.exp(-0.5 * ((x[:, None] - nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))
            rows.append(kernel @ weights)
        return self._estimate(np.array(rows))

    def histogram(self, edges: Any) -> Estimate:
        """Return the share of the eigenvalues in each bin; like NumPy's, the last bin contains its right edge.

        >>> spectrum(np.diag([1.0, 2.0, 2.0, 6.0])).histogram([0, 2, 6]).value
        array([0.25, 0.75])
        """
        pairs = zip(self.nodes, self.weights, strict=True)
        return self._estimate(np.array([np.histogram(nodes, edges, weights=weights)[0] for nodes, weights in pairs]))

    def distance(self, other: Spectrum) -> float:
        """Return the Wasserstein-1 distance, the integral of |F - G| of the two distribution functions.

        It has the unit of the eigenvalues, and no kernel or bin on which it depends.

        >>> spectrum(np.diag([1.0, 2.0])).distance(spectrum(np.diag([1.0, 5.0])))
        1.5
        """
        x = np.sort(np.concatenate([self.nodes.ravel(), other.nodes.ravel()]))
        return float((np.abs(self._share(x) - other._share(x))[:-1] * np.diff(x)).sum())

    def _share(self, x: np.ndarray) -> np.ndarray:
        """Return the share of the eigenvalues up to each x."""
        order = np.argsort(self.nodes, axis=None)
        shares = np.concatenate([[0.0], np.cumsum(self.weights.ravel()[order]) / len(self.nodes)])
        return shares[np.searchsorted(self.nodes.ravel()[order], x, side="right")]

    def _estimate(self, rows: np.ndarray) -> Estimate:
        mean = rows.mean(axis=0)
        error = 0 * mean if self.exact else standard_error(rows)
        value, error = (mean, error) if mean.ndim else (float(mean), float(error))
        method = "exact" if self.exact else "lanczos"
        return Estimate(value, error, 0 if self.exact else len(rows), self.matvecs, method)


def spectrum(op: Any, method: str = "auto", *, steps: int = 80, probes: int = 10, seed: int = 0) -> Spectrum:
    """Return the distribution of all eigenvalues of a symmetric matrix.

    method "exact"    all eigenvalues, by `eigvalsh` of the entries (P products where they are not known)
           "lanczos"  stochastic Lanczos quadrature: of each of several vectors of random signs the Krylov space of
                      `steps` dimensions, whose T gives nodes, its eigenvalues, and weights, the squared first elements
                      of its eigenvectors (Golub & Welsch 1969; Lin, Saad & Yang 2016, arXiv:1308.5467, Sec. 3.2)
           "auto"     exact up to P = 256 and for a matrix with entries, else lanczos

    Each probe gives z'p(H)z / P exactly for polynomials p of degree 2 steps - 1. The ends of the spectrum are found
    first, a gap in its middle last; a repeated eigenvalue is one node of more weight.

    >>> spectrum(np.diag([3.0, 1.0, 3.0])).nodes
    array([[1., 3., 3.]])
    """
    for name, value, least in (("steps", steps, 1), ("probes", probes, 2)):
        if not is_count(value, least):
            raise ValueError(f"spectrum: {name} must be an integer >= {least}, got {value!r}")
    A, rng = Matrix("spectrum", op), np.random.default_rng(seed)
    with on_device(A.device)[1]:
        if is_exact("spectrum", method, A):
            H = A.dense()
            values = to_numpy(array_module(H).linalg.eigvalsh(H)).astype(np.float64)
            return Spectrum(values[None], np.full((1, A.size), 1 / A.size), True, A.size, A.matvecs)
        nodes, weights = np.zeros((probes, min(steps, A.size))), np.zeros((probes, min(steps, A.size)))
        for row in range(probes):
            values, vectors, _ = lanczos(A, A.signs(rng), steps).ritz()
            m = len(values)  # fewer than `steps` where the space is invariant: then the last node stands with weight 0
            nodes[row, :m], nodes[row, m:] = values, values[-1]
            weights[row, :m] = vectors[0] ** 2
    return Spectrum(nodes, weights, False, A.size, A.matvecs)
