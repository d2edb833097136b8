"""Trace and diagonal of a matrix that is known by its products, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import Array, on_device
from ..krylov import is_count
from .matrix import Matrix

DENSE = 256  # up to so many parameters P products are made, and the result is exact
METHODS = ("auto", "exact", "hutchinson", "hutch++")


class Estimate(NamedTuple):
    """A number, or an array of them, estimated from random vectors.

    value          : unbiased.
    standard_error : of value, from the spread of the samples; 0 where it is exact.
    samples        : random vectors that it is the mean over; 0 where it is exact.
    matvecs        : products used.
    method         : how.
    """

    value: Any
    standard_error: Any
    samples: int
    matvecs: int
    method: str


def trace(op: Any, method: str = "auto", *, samples: int = 100, rtol: float | None = None, seed: int = 0) -> Estimate:
    """Return the trace of a symmetric matrix, and how far off it may be.

    method  "exact"       the sum of e_i'H e_i: P products, or the entries where they are known
            "hutchinson"  the mean of z'Hz over vectors z of random signs, whose variance is 2 (|H|_F^2 - sum H_ii^2)
                          (Hutchinson 1990)
            "hutch++"     exact on the range of a third of the products, Hutchinson on the rest (Meyer, Musco, Musco &
                          Woodruff 2021, arXiv:2010.09649, Alg. 1)
            "auto"        exact up to P = 256 and for a matrix with entries, else hutchinson
    samples : products at most.
    rtol    : stop when the standard error is below rtol |value|, but not before 10 samples.

    Hutch++ is better where a few eigenvalues hold most of |H|_F, and worse by up to sqrt 3 on a flat spectrum. Measured
    on a 64-16-10 tanh network at the digits, 60 products: at its initialization 13 % error instead of Hutchinson's
    10 %, after 30 steps 1.6 % instead of 3.5 %, after 300 steps 1.0 % instead of 4.2 %.

    >>> trace(np.diag([1.0, 2.0, 3.0])).value
    6.0
    """
    least = 6 if method == "hutch++" else 2
    if not is_count(samples, least):
        raise ValueError(f"trace: samples must be an integer >= {least}, got {samples!r}")
    if rtol is not None and not 0 <= rtol < math.inf:
        raise ValueError(f"trace: rtol must be a finite number >= 0, got {rtol!r}")
    A = Matrix("trace", op)
    if is_exact("trace", method, A, METHODS):
        return Estimate(_exact(A), 0.0, 0, A.matvecs, "exact")
    rng = np.random.default_rng(seed)
    if method != "hutch++":
        return _mean(A, (_quadratic(A, A.signs(rng)) for _ in range(samples)), 0.0, rtol, "hutchinson")
    return _hutch_plus_plus(A, samples, rtol, rng)


def estimate_diagonal(op: Any, *, samples: int = 100, seed: int = 0) -> Estimate:
    """Estimate the diagonal (P,) of a symmetric matrix: the mean of z * Hz over vectors z of random signs.

    Unbiased, with the variance sum_(j != i) H_ij^2 for one sample (Bekas, Kokiopoulou & Saad 2007). Value and standard
    error are arrays of the matrix's dtype, where it lives. For a network `diagonal` gives it exactly.

    >>> estimate_diagonal(np.diag([1.0, 2.0, 3.0]), samples=2).value
    array([1., 2., 3.])
    """
    if not is_count(samples, 2):
        raise ValueError(f"estimate_diagonal: samples must be an integer >= 2, got {samples!r}")
    A, rng = Matrix("estimate_diagonal", op), np.random.default_rng(seed)
    xp, place = on_device(A.device)
    with place:
        mean, spread = xp.zeros(A.size, A.dtype), xp.zeros(A.size, A.dtype)
        for n in range(1, samples + 1):
            z = A.signs(rng)
            off = z * A(z) - mean
            mean = mean + off / n
            spread = spread + off * off * ((n - 1) / n)  # Welford: no difference of large squares
        error = xp.sqrt(spread / (samples * (samples - 1)))
    return Estimate(mean, error, samples, A.matvecs, "hutchinson")


def is_exact(who: str, method: str, A: Matrix, methods: tuple[str, ...] = ("auto", "exact", "lanczos")) -> bool:
    """Tell whether a method means to compute with all entries; ValueError for an unknown one."""
    if method not in methods:
        raise ValueError(f"{who}: method must be one of {', '.join(methods)}, got {method!r}")
    return method == "exact" or (method == "auto" and (A.entries is not None or A.size <= DENSE))


def _exact(A: Matrix) -> float:
    if A.entries is not None:
        return float(A.entries.trace())
    xp, place = on_device(A.device)
    with place:
        unit = xp.zeros(A.size, A.dtype)
        found = []
        for i in range(A.size):
            unit[i] = 1
            found.append(float(A(unit)[i]))
            unit[i] = 0
    return math.fsum(found)


def _hutch_plus_plus(A: Matrix, samples: int, rtol: float | None, rng: np.random.Generator) -> Estimate:
    xp, place = on_device(A.device)
    third = min(samples // 3, A.size)
    with place:
        sketch = xp.stack([A(A.signs(rng)) for _ in range(third)], axis=1)
        Q = xp.linalg.qr(sketch)[0].T  # (third, P)
        known = math.fsum(_quadratic(A, Q[i]) for i in range(third))

        def rest() -> float:
            z = A.signs(rng)
            return _quadratic(A, z - (Q @ z) @ Q)

        return _mean(A, (rest() for _ in range(samples - 2 * third)), known, rtol, "hutch++")


def _quadratic(A: Matrix, z: Array) -> float:
    return float(z @ A(z))


def _mean(A: Matrix, draws: Iterator[float], known: float, rtol: float | None, method: str) -> Estimate:
    """Return a known part plus the mean of the draws, of as many as it takes."""
    found: list[float] = []
    for draw in draws:
        found.append(draw)
        n = len(found)
        if n >= 10 and rtol is not None and standard_error(found) <= rtol * abs(known + math.fsum(found) / n):
            break
    value = known + math.fsum(found) / len(found)
    return Estimate(value, standard_error(found), len(found), A.matvecs, method)


def standard_error(draws: Any, axis: int = 0) -> Any:
    """Return the standard error of the mean of independent draws along an axis.

    >>> standard_error([1.0, 3.0])
    1.0
    """
    draws = np.asarray(draws)
    error = draws.std(axis=axis, ddof=1) / math.sqrt(draws.shape[axis])
    return error if error.ndim else float(error)
