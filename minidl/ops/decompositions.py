"""Factorisations of matrices (..., m, n), stacked over leading axes: Cholesky, eigenvectors, singular values, QR.

Each is the rule and below it the function: `@matrix_op(rule)` makes them an operation. Where no other source is named
the rule is in Giles (2008, Collected matrix derivative results for forward and reverse mode algorithmic
differentiation). A' is the transpose, G the arriving gradient, / divides elementwise.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from .elementwise import absolute, sign, where
from .inverses import inv, solve
from .linalg import identity, lower, matrix_op, operands, swap
from .shape import concatenate

EighResult = namedtuple("EighResult", "eigenvalues eigenvectors")
SVDResult = namedtuple("SVDResult", "U S Vh")
QRResult = namedtuple("QRResult", "Q R")


def _symmetric(x: Any) -> Any:
    return 0.5 * (x + swap(x))


def _cholesky_rule(g: Any, out: Any, a: Any) -> Any:
    inverse, p = inv(out), swap(out) @ g
    return _symmetric(swap(inverse) @ (0.5 * (lower(p) + lower(p, k=-1))) @ inverse)


@matrix_op(_cholesky_rule, saves="out")
def _cholesky(xp: Any, a: Any) -> Any:
    return xp.linalg.cholesky(a)


def cholesky(a: Any, *, upper: bool = False) -> Any:
    """Factor a symmetric positive definite A = L L' with L lower triangular (upper: A = U' U, U = L').

    Only the lower triangle is read, A is taken to be symmetric and so is its gradient: the symmetric part of
    L^-1' P L^-1, P the lower triangle of L' G with half its diagonal (Murray 2016, arXiv:1602.07527).
    LinAlgError if A is not positive definite.

    >>> cholesky(tensor([[4.0, 2.0], [2.0, 2.0]]))
    tensor([[2., 0.],
            [1., 1.]])
    """
    return swap(_cholesky(swap(a))) if upper else _cholesky(a)


def _divisor(x: Any, g: Any) -> Any:
    """Return x, with 1 for 0 in those matrices whose arriving gradient g is 0: what is not used divides by no gap."""
    return where((x == 0) & (absolute(g).sum(axis=(-2, -1), keepdims=True) == 0), 1.0, x)


def _eigh_rule(g: Any, out: Any, a: Any, *, UPLO: str = "L") -> tuple:
    (gw, gv), (w, v) = g, out
    k = swap(v) @ gv
    gap = w[..., None, :] - w[..., :, None] + identity(k)
    return ((v * gw[..., None, :] + v @ (0.5 * (k - swap(k)) / _divisor(gap, gv))) @ swap(v),)


@matrix_op(joint=_eigh_rule, saves="out")
def _eigh(xp: Any, a: Any, *, UPLO: str = "L") -> tuple:
    return tuple(xp.linalg.eigh(a, UPLO))


def eigh(a: Any, UPLO: str = "L") -> EighResult:
    """Compute eigenvalues w, ascending, and orthonormal eigenvectors, the columns of V, of symmetric matrices.

    A = V diag(w) V'; shapes (..., n, n) -> (..., n), (..., n, n). Only the lower (UPLO="U": upper) triangle is read, A
    is taken to be symmetric and so is its gradient V (diag(G_w) + skew(V' G_V) / (w_j - w_i)) V'. An eigenvector is
    determined up to its sign, so what is computed from V must not depend on it. Where an eigenvalue repeats,
    derivatives of V do not exist and are inf or NaN; if only w is used the first derivative is finite, a subgradient.

    >>> eigh(tensor([[2.0, 1.0], [1.0, 2.0]])).eigenvalues.numpy().round(4)
    array([1., 3.], dtype=float32)
    """
    return EighResult(*_eigh(a, UPLO=UPLO))


def _eigvalsh_rule(g: Any, out: Any, a: Any, *, UPLO: str = "L") -> Any:
    v = _eigh(a, UPLO=UPLO)[1]
    return (v * g[..., None, :]) @ swap(v)


@matrix_op(_eigvalsh_rule, saves="a")
def eigvalsh(xp: Any, a: Any, *, UPLO: str = "L") -> Any:
    """Compute the eigenvalues of symmetric matrices, ascending: `eigh` without the eigenvectors.

    Second derivatives involve the eigenvectors: inf or NaN where an eigenvalue repeats. That is so too for a sum of
    f(w) over all of them, which has one, (f'(w_i) - f'(w_j)) / (w_i - w_j) in the limit: what arrives here does not
    tell f'', and 0 in its place would be wrong (2 for the sum of w^2). Write such sums without w, as sum(A * A).

    >>> eigvalsh(tensor([[2.0, 1.0], [1.0, 2.0]])).numpy().round(4)
    array([1., 3.], dtype=float32)
    """
    return xp.linalg.eigvalsh(a, UPLO)


def _svd_rule(g: Any, out: Any, a: Any, *, full_matrices: bool = False) -> tuple:
    (gu, gs, gvt), (u, s, vt) = g, out
    m, n = a.shape[-2:]
    if full_matrices and m != n:
        raise ValueError(
            f"svd: the vectors that full_matrices=True adds for shape {a.shape} have no derivative; "
            "pass full_matrices=False"
        )
    row, column = s[..., None, :], s[..., :, None]
    ku, kv = swap(u) @ gu, vt @ swap(gvt)
    gap = (row - column) * (row + column) + identity(ku)
    inner = (ku - swap(ku)) / _divisor(gap, gu) * row + column * ((kv - swap(kv)) / _divisor(gap, gvt))
    total = (u @ inner + u * gs[..., None, :]) @ vt
    if m > n:
        total = total + ((gu - u @ ku) / _divisor(row, gu)) @ vt
    if m < n:
        total = total + u @ ((gvt - swap(kv) @ vt) / _divisor(column, gvt))
    return (total,)


@matrix_op(joint=_svd_rule, saves="out", square=False)
def _svd(xp: Any, a: Any, *, full_matrices: bool = False) -> tuple:
    return tuple(xp.linalg.svd(a, full_matrices=full_matrices))


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """Factor A = U diag(S) Vh with orthonormal columns of U, rows of Vh, and S descending; only S if not compute_uv.

    Shapes: (..., m, n) -> U (..., m, k), S (..., k), Vh (..., k, n), k = min(m, n); with full_matrices U is (..., m, m)
    and Vh (..., n, n), which has derivatives where m = n only. The rule is that of Giles 3.2 with the terms for m != n
    of Seeger et al. (2017, arXiv:1710.08717). What is computed from U and Vh must not depend on the signs of
    their vectors; where singular values repeat, or are 0 and m != n, their derivatives are inf or NaN.

    >>> svd(tensor([[0.0, 2.0], [1.0, 0.0]])).S
    tensor([2., 1.])
    """
    return SVDResult(*_svd(a, full_matrices=full_matrices)) if compute_uv else svdvals(a)


def _svdvals_rule(g: Any, out: Any, a: Any) -> Any:
    u, _, vt = _svd(a, full_matrices=False)
    return (u * (g * sign(out))[..., None, :]) @ vt


@matrix_op(_svdvals_rule, saves="a out", square=False)
def svdvals(xp: Any, a: Any) -> Any:
    """Compute singular values, descending: (..., m, n) -> (..., min(m, n)). The derivative of one that is 0 is 0.

    >>> svdvals(tensor([[0.0, 2.0], [1.0, 0.0]]))
    tensor([2., 1.])
    """
    return xp.linalg.svd(a, compute_uv=False)


def _qr_rule(g: Any, out: Any, a: Any) -> tuple:
    (gq, gr), (q, r) = g, out
    m = r @ swap(gr) - swap(gq) @ q
    return (swap(solve(r, swap(gq + q @ (lower(m) + swap(lower(m, k=-1)))))),)


@matrix_op(joint=_qr_rule, saves="out", square=False)
def _qr(xp: Any, a: Any) -> tuple:
    return tuple(xp.linalg.qr(a))


def qr(a: Any, mode: str = "reduced") -> Any:
    """Factor A = Q R with orthonormal columns of Q and R upper triangular; only R for mode="r".

    Shapes: (..., m, n) -> Q (..., m, k), R (..., k, n), k = min(m, n). The derivative needs the first k columns of A to
    be independent: with M = R G_R' - G_Q' Q, (G_Q + Q copyltu(M)) R^-1', where copyltu mirrors the lower triangle
    (Walter & Lehmann 2010, arXiv:1001.1654; Seeger et al. 2017, arXiv:1710.08717). ValueError for other modes.

    >>> abs(qr(tensor([[3.0, 1.0], [4.0, 2.0]], dtype="float64")).R[0, 0]).item()
    5.0
    """
    (a,) = operands("qr", a)
    if mode not in ("reduced", "r"):
        raise ValueError(f"qr: mode must be 'reduced' or 'r', got {mode!r}; the others have no derivative")
    if a.ndim > 1 and a.shape[-2] < a.shape[-1]:  # the first columns make Q, the others are R's: Q' A
        m = a.shape[-2]
        q, r = _qr(a[..., :m])
        r = concatenate([r, swap(q) @ a[..., m:]], axis=-1)
    else:
        q, r = _qr(a)
    return r if mode == "r" else QRResult(q, r)
