"""Inverses, solutions, powers and determinants of matrices (..., n, n), stacked over leading axes.

Each is the rule and below it the function: `@matrix_op(rule)` makes them an operation. Where no other source is named
the rule is in Giles (2008, Collected matrix derivative results for forward and reverse mode algorithmic
differentiation). A' is the transpose, G the arriving gradient.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
from numpy.linalg import LinAlgError

from . import reduce
from .linalg import identity, matrix_op, operands, swap

SlogdetResult = namedtuple("SlogdetResult", "sign logabsdet")


@matrix_op(lambda g, out, a: -(swap(out) @ g @ swap(out)), saves="out")
def inv(xp: Any, a: Any) -> Any:
    """Invert square matrices: (..., n, n) -> (..., n, n). To multiply by an inverse, `solve` is faster and safer.

    Rule: -A^-1' G A^-1'.

    >>> inv(tensor([[2.0, 0.0], [0.0, 4.0]]))
    tensor([[0.5 , 0.  ],
            [0.  , 0.25]])
    """
    return xp.linalg.inv(a)


def _solve_rule(g: Any, out: Any, a: Any, b: Any) -> tuple:
    gb = _solve(swap(a), g)
    return -gb @ swap(out), gb


@matrix_op(joint=_solve_rule, saves="a out")
def _solve(xp: Any, a: Any, b: Any) -> Any:
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"solve: b must have as many rows as a, got a {a.shape} and b {b.shape}")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    # CuPy does not broadcast, and reads b as matrices only where it has as many axes as a.
    a, b = (x if x.shape[:-2] == lead else xp.broadcast_to(x, lead + x.shape[-2:]) for x in (a, b))
    return xp.linalg.solve(a, b)


def solve(a: Any, b: Any) -> Any:
    """Solve A x = b: (..., n, n) with one vector b (n,) or matrices (..., n, k); leading axes broadcast.

    Rule: G_b = A'^-1 G, G_A = -G_b x'.

    >>> solve(tensor([[2.0, 0.0], [0.0, 4.0]]), tensor([1.0, 1.0]))
    tensor([0.5 , 0.25])
    """
    a, b = operands("solve", a, b)
    if not b.ndim:
        raise ValueError(f"solve: b must be a vector or matrices, got shape {b.shape}")
    return _solve(a, b[:, None])[..., 0] if b.ndim == 1 else _solve(a, b)


def _pinv_rule(g: Any, out: Any, a: Any, *, rcond: float | None = None) -> Any:
    p, pt, gt = out, swap(out), swap(g)
    left = (gt - a @ (p @ gt)) @ p @ pt
    right = pt @ p @ (gt - (gt @ p) @ a)
    return left + right - pt @ g @ pt


def cutoff(a: Any, s: Any, rcond: float | None) -> Any:
    """Return the size up to which singular values s of A count as 0."""
    return s[..., :1] * (max(a.shape[-2:]) * float(np.finfo(s.dtype).eps) if rcond is None else rcond)


@matrix_op(_pinv_rule, saves="a out", square=False)
def pinv(xp: Any, a: Any, *, rcond: float | None = None) -> Any:
    """Compute the pseudo-inverse (Moore-Penrose): (..., m, n) -> (..., n, m).

    Singular values up to rcond times the largest count as 0; None stands for max(m, n) eps, since NumPy's 1e-15 would
    keep noise in float32. The derivative is that at constant rank (Golub & Pereyra 1973, SIAM J. Numer. Anal. 10(2)):
    with P = A^+, -P' G P' + (I - A P) G' P P' + P' P G' (I - P A).

    >>> pinv(tensor([[2.0], [0.0]]))
    tensor([[0.5, 0. ]])
    """
    u, s, vt = xp.linalg.svd(a, full_matrices=False)
    large = s > cutoff(a, s, rcond)
    return swap(vt) @ (xp.where(large, 1 / xp.where(large, s, 1), 0)[..., None] * swap(u))


def matrix_power(a: Any, n: int) -> Any:
    """Raise square matrices to an integer power by repeated squaring; negative powers are those of the inverse.

    A^0 is the identity, with the derivative 0.

    >>> matrix_power(tensor([[1.0, 1.0], [0.0, 1.0]]), 5)
    tensor([[1., 5.],
            [0., 1.]])
    """
    (a,) = operands("matrix_power", a)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise LinAlgError(f"matrix_power: needs square matrices (..., n, n), got shape {a.shape}")
    if not isinstance(n, (int, np.integer)):
        raise TypeError(f"matrix_power: n must be an integer, got {n!r}")
    if n < 0:
        a, n = inv(a), -n
    out = None if n else identity(a) * a**0  # a constant that a gradient, which is 0, can reach a from
    while n:
        if n & 1:
            out = a if out is None else out @ a
        n >>= 1
        a = a @ a if n else a
    return out


# ---- determinants ------------------------------------------------------------------------------------------------


_DIRECTIONS = 4  # of singular values that are 0 for which derivatives of a determinant of any order are right


@matrix_op()
def _det_completion(xp: Any, a: Any) -> tuple:
    """Return X, U, V, simple: A + X is regular; X = U V', or A has more zeros than U columns and simple is 0, not 1."""
    u, s, vt = xp.linalg.svd(a)
    top = xp.where(s[..., :1] > 0, s[..., :1], 1)
    small = s <= cutoff(a, top, None)
    few, k = s.shape[-1] <= _DIRECTIONS, _DIRECTIONS
    simple = xp.ones(s.shape[:-1], bool) if few else ~small[..., -k - 1]
    u = u * xp.where(small, top, 0)[..., None, :]
    return u @ vt, u[..., -k:], swap(vt)[..., -k:], simple


def _cofactors(a: Any) -> Any:
    """Return det(A) A^-1', finite where A is singular.

    With M = A + U V', a change in the directions of singular values that are 0, M is regular and det A = det M det B,
    B = I - V' M^-1 U (k, k), where U and V are constants. The rule of det B is the adjugate of B, a polynomial, found
    with det B by the recurrence of Faddeev and LeVerrier. If more than k are 0, derivatives up to order k are 0.
    """
    shift, u, v, simple = _det_completion(a)
    m = a + shift
    inverse = inv(m)
    x, y = inverse @ u, swap(v) @ inverse
    b = swap(v) @ x
    one = identity(b)
    b = one - b
    adjugate, c = one, reduce.sum(b * one, axis=(-2, -1), keepdims=True)
    for j in range(2, b.shape[-1] + 1):
        adjugate = c * one - b @ adjugate
        c = reduce.sum(b @ adjugate * one, axis=(-2, -1), keepdims=True) / j
    return (det(m) * simple)[..., None, None] * (c * swap(inverse) + swap(x @ adjugate @ y))


@matrix_op(lambda g, out, a: g[..., None, None] * _cofactors(a), saves="a")
def det(xp: Any, a: Any) -> Any:
    """Compute determinants: (..., n, n) -> (...). Where they might overflow, use `slogdet`.

    Rule: G times the cofactors, which are det(A) A^-1' for a regular A and finite for any. Derivatives are exact up to
    order 4 for any A, and of all orders unless five singular values are 0.

    >>> x = tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
    >>> det(x).backward()
    >>> x.grad.numpy().round(4)
    array([[ 4., -2.],
           [-2.,  1.]], dtype=float32)
    """
    return xp.linalg.det(a)


@matrix_op(joint=lambda g, out, a: (g[1][..., None, None] * swap(inv(a)),), saves="a")
def _slogdet(xp: Any, a: Any) -> tuple:
    return tuple(xp.linalg.slogdet(a))


def slogdet(a: Any) -> SlogdetResult:
    """Compute sign and logarithm of the absolute value of determinants: (..., n, n) -> (...), (...).

    Rule: A^-1' G. Of a singular matrix (0, -inf), whose derivative is a LinAlgError.

    >>> slogdet(tensor([[0.0, 1e30], [1e30, 0.0]])).logabsdet.numpy().round(2)
    np.float32(138.16)
    """
    return SlogdetResult(*_slogdet(a))
