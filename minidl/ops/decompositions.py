"""Inverses, determinants and factorisations of matrices (..., m, n), stacked over leading axes.

Each is the rule and below it the function: `@matrix_op(rule)` makes them an operation. Where no other source is named
the rule is in Giles (2008, Collected matrix derivative results for forward and reverse mode algorithmic
differentiation). A' is the transpose, G the arriving gradient, * and / act elementwise.

Matrices of integers become float64; float16 is computed in float32 and rounded. What LAPACK refuses (a singular matrix,
one that is not positive definite) is a LinAlgError on the CPU and gives NaN on a GPU, as in CuPy.
"""

from __future__ import annotations

import functools
import operator
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.linalg import LinAlgError

from ..engine.op import Op
from . import reduce
from .elementwise import absolute, sign, where
from .linalg import operands, swap
from .shape import concatenate, numpy_signature

SlogdetResult = namedtuple("SlogdetResult", "sign logabsdet")
EighResult = namedtuple("EighResult", "eigenvalues eigenvectors")
SVDResult = namedtuple("SVDResult", "U S Vh")
QRResult = namedtuple("QRResult", "Q R")


def matrix_op(rule: Any = None, saves: str = "", square: bool = True, joint: Any = None) -> Callable[..., Op]:
    """Make an operation of a function of matrices: check their shapes and dtypes, and name it in LAPACK's refusals."""

    def decorate(forward: Callable[..., Any]) -> Op:
        who = forward.__name__.strip("_")

        @functools.wraps(forward)
        def checked(xp: Any, *given: Any, **settings: Any) -> Any:
            a, *_ = arrays = operands(who, *given)
            if a.ndim < 2 or (square and a.shape[-1] != a.shape[-2]):
                needed = "square matrices (..., n, n)" if square else "matrices (..., m, n)"
                raise LinAlgError(f"{who}: needs {needed}, got shape {a.shape}")
            dtype = a.dtype if a.dtype.kind == "f" else np.dtype(np.float64)
            work = np.promote_types(dtype, np.float32)
            try:
                out = forward(xp, *(x.astype(work, copy=False) for x in arrays), **settings)
            except LinAlgError as error:
                raise LinAlgError(f"{who}: {error} (shape {a.shape})") from error
            if type(out) is tuple:
                return tuple(xp.asarray(x, dtype) for x in out)
            return xp.asarray(out, dtype)

        rules = () if rule is None else (rule,)
        return Op(checked, *rules, joint=joint, saves=saves, name=who, samplewise=_stacked)

    return decorate


def _stacked(shapes: tuple, **_: Any) -> bool:
    return all(len(s) > 2 and (len(s), s[0]) == (len(shapes[0]), shapes[0][0]) for s in shapes)


identity = Op(lambda xp, a: xp.broadcast_to(xp.eye(a.shape[-1], dtype=a.dtype), a.shape).copy())
lower = Op(
    lambda xp, x, *, k=0: xp.tril(x, k), lambda g, out, x, *, k=0: lower(g, k=k), samplewise=_stacked, name="tril"
)

# ---- inverses ----------------------------------------------------------------------------------------------------


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


def _cutoff(a: Any, s: Any, rcond: float | None) -> Any:
    """Return the size up to which singular values s of A count as 0."""
    return s[..., :1] * (max(a.shape[-2:]) * float(np.finfo(s.dtype).eps) if rcond is None else rcond)


@matrix_op(_pinv_rule, saves="a out", square=False)
def pinv(xp: Any, a: Any, *, rcond: float | None = None) -> Any:
    """Compute the pseudo-inverse (Moore-Penrose): (..., m, n) -> (..., n, m).

    Singular values up to rcond times the largest count as 0; None stands for max(m, n) eps, since NumPy's 1e-15 would
    keep noise in float32. The derivative is that at constant rank (Golub & Pereyra 1973, SIAM J. Numer. Anal. 10(2),
    Theorem 4.3): with P = A^+, -P' G P' + (I - A P) G' P P' + P' P G' (I - P A).

    >>> pinv(tensor([[2.0], [0.0]]))
    tensor([[0.5, 0. ]])
    """
    u, s, vt = xp.linalg.svd(a, full_matrices=False)
    large = s > _cutoff(a, s, rcond)
    return swap(vt) @ (xp.where(large, 1 / xp.where(large, s, 1), 0)[..., None] * swap(u))


@numpy_signature
def lstsq(a: Any, b: Any, rcond: float | None = None) -> tuple[Any, Any, Any, Any]:
    """Minimise |A x - b|, and |x| among several minima: returns (x, residuals, rank, singular values of A).

    Shapes: A (..., m, n), b (m,) or (..., m, k). x = A^+ b, and so are its derivatives (see `pinv`: exact at constant
    rank). The residuals, sums of squares for each column of b, are empty unless m > n.

    >>> x, residuals, rank, s = lstsq(tensor([[1.0], [1.0]]), tensor([1.0, 3.0]))
    >>> x, residuals, rank.item()
    (tensor([2.]), tensor([2.]), 1)
    """
    a, b = operands("lstsq", a, b)
    columns = b[:, None] if b.ndim == 1 else b
    if a.ndim < 2 or not b.ndim or columns.shape[-2] != a.shape[-2]:
        raise LinAlgError(f"lstsq: needs matrices a and as many rows in b, got a {a.shape} and b {b.shape}")
    m, n = a.shape[-2:]
    x, s = pinv(a, rcond=rcond) @ columns, svdvals(a)
    rest = columns - a @ x
    residuals = reduce.sum(rest * rest, axis=-2)
    rank = reduce.sum(s > _cutoff(a, s, rcond), axis=-1)
    return x[..., 0] if b.ndim == 1 else x, residuals if m > n else residuals[..., :0], rank, s


def matrix_power(a: Any, n: int) -> Any:
    """Raise square matrices to an integer power by repeated squaring; negative powers are those of the inverse.

    >>> matrix_power(tensor([[1.0, 1.0], [0.0, 1.0]]), 5)
    tensor([[1., 5.],
            [0., 1.]])
    """
    (a,) = operands("matrix_power", a)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise LinAlgError(f"matrix_power: needs square matrices (..., n, n), got shape {a.shape}")
    if operator.index(n) < 0:
        a, n = inv(a), -n
    out = None if n else identity(a)
    while n:
        if n & 1:
            out = a if out is None else out @ a
        n >>= 1
        a = a @ a if n else a
    return out


# ---- determinants ------------------------------------------------------------------------------------------------


@matrix_op()
def _det_completion(xp: Any, a: Any) -> tuple:
    """Return X, U, V with A + X regular, X = U V' but for further zeros of A, and 0 where there are such, else 1."""
    u, s, vt = xp.linalg.svd(a)
    top = xp.where(s[..., :1] > 0, s[..., :1], 1)
    small = s <= _cutoff(a, top, None)
    several = small[..., -3] if s.shape[-1] > 2 else xp.zeros(s.shape[:-1], bool)
    small[..., -2:] = True
    u = u * xp.where(small, top, 0)[..., None, :]
    return u @ vt, u[..., -2:], swap(vt)[..., -2:], xp.where(several, 0, 1)


def _cofactors(a: Any) -> Any:
    """Return det(A) A^-1', finite where A is singular.

    With M = A + U V', a change in the directions of the two smallest singular values that makes M regular, and
    B = I - V' M^-1 U (2, 2): det A = det M det B, for which U and V are constants. If three singular values are 0,
    so are the cofactors and their first derivatives.
    """
    shift, u, v, simple = _det_completion(a)
    m = a + shift
    inverse = inv(m)
    x, y = inverse @ u, swap(v) @ inverse
    b = swap(v) @ x
    b = identity(b) - b
    b11, b12, b21, b22 = b[..., 0, 0], b[..., 0, 1], b[..., 1, 0], b[..., 1, 1]
    adjugate = identity(b) * (b11 + b22)[..., None, None] - b
    scale = (det(m) * simple)[..., None, None]
    return scale * ((b11 * b22 - b12 * b21)[..., None, None] * swap(inverse) + swap(x @ adjugate @ y))


def _det_rule(g: Any, out: Any, a: Any) -> Any:
    n, g = a.shape[-1], g[..., None, None]
    return g * _cofactors(a) if n > 1 else g[..., :n, :n]


@matrix_op(_det_rule, saves="a")
def det(xp: Any, a: Any) -> Any:
    """Compute determinants: (..., n, n) -> (...). Where they might overflow, use `slogdet`.

    Rule: G times the cofactors, which are det(A) A^-1' for a regular A and finite for any. Derivatives of any order are
    exact where at most two singular values are 0, first and second ones everywhere.

    >>> x = tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
    >>> det(x).backward()
    >>> x.grad.numpy().round(4)
    array([[ 4., -2.],
           [-2.,  1.]], dtype=float32)
    """
    return xp.linalg.det(a)


@matrix_op(lambda g, out, a: g[1][..., None, None] * swap(inv(a)), saves="a")
def _slogdet(xp: Any, a: Any) -> tuple:
    return tuple(xp.linalg.slogdet(a))


def slogdet(a: Any) -> SlogdetResult:
    """Compute sign and logarithm of the absolute value of determinants: (..., n, n) -> (...), (...).

    Rule: A^-1' G. Of a singular matrix (0, -inf), whose derivative is a LinAlgError.

    >>> slogdet(tensor([[0.0, 1e30], [1e30, 0.0]])).logabsdet.numpy().round(2)
    np.float32(138.16)
    """
    return SlogdetResult(*_slogdet.apply((a,), {}))


# ---- factorisations ----------------------------------------------------------------------------------------------


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
    L^-1' P L^-1, P the lower triangle of L' G with half its diagonal (Murray 2016, arXiv:1602.07527, eq. 10).
    LinAlgError if A is not positive definite.

    >>> cholesky(tensor([[4.0, 2.0], [2.0, 2.0]]))
    tensor([[2., 0.],
            [1., 1.]])
    """
    return swap(_cholesky(swap(a))) if upper else _cholesky(a)


def _divisor(x: Any, g: Any) -> Any:
    """Return x, with 1 for 0 in those matrices whose arriving gradient g is 0: what is not used divides by no gap."""
    return where((x == 0) & (absolute(g).sum(axis=(-2, -1), keepdims=True) == 0), 1.0, x)


def _eigh_rule(g: Any, out: Any, a: Any, *, UPLO: str = "L") -> Any:
    (gw, gv), (w, v) = g, out
    k = swap(v) @ gv
    gap = w[..., None, :] - w[..., :, None] + identity(k)
    return (v * gw[..., None, :] + v @ (0.5 * (k - swap(k)) / _divisor(gap, gv))) @ swap(v)


@matrix_op(_eigh_rule, saves="out")
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

    Second derivatives, which involve the eigenvectors, do not exist where an eigenvalue repeats: inf or NaN.

    >>> eigvalsh(tensor([[2.0, 1.0], [1.0, 2.0]])).numpy().round(4)
    array([1., 3.], dtype=float32)
    """
    return xp.linalg.eigvalsh(a, UPLO)


def _svd_rule(g: Any, out: Any, a: Any, *, full_matrices: bool = False) -> Any:
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
    out = (u @ inner + u * gs[..., None, :]) @ vt
    if m > n:
        out = out + ((gu - u @ ku) / _divisor(row, gu)) @ vt
    if m < n:
        out = out + u @ ((gvt - swap(kv) @ vt) / _divisor(column, gvt))
    return out


@matrix_op(_svd_rule, saves="out", square=False)
def _svd(xp: Any, a: Any, *, full_matrices: bool = False) -> tuple:
    return tuple(xp.linalg.svd(a, full_matrices=full_matrices))


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """Factor A = U diag(S) Vh with orthonormal columns of U, rows of Vh, and S descending; only S if not compute_uv.

    Shapes: (..., m, n) -> U (..., m, k), S (..., k), Vh (..., k, n), k = min(m, n); with full_matrices U is (..., m, m)
    and Vh (..., n, n), which has derivatives where m = n only. The rule is that of Giles 3.2 with the terms for m != n
    of Seeger et al. (2017, arXiv:1710.08717, Sec. 3). What is computed from U and Vh must not depend on the signs of
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


def _qr_rule(g: Any, out: Any, a: Any, *, mode: str) -> Any:
    (gq, gr), (q, r) = g, out
    m = r @ swap(gr) - swap(gq) @ q
    return swap(solve(r, swap(gq + q @ (lower(m) + swap(lower(m, k=-1))))))


@matrix_op(_qr_rule, saves="out", square=False)
def _qr(xp: Any, a: Any, *, mode: str = "reduced") -> tuple:
    return tuple(xp.linalg.qr(a, mode))


def qr(a: Any, mode: str = "reduced") -> Any:
    """Factor A = Q R with orthonormal columns of Q and R upper triangular; only R for mode="r".

    Shapes: (..., m, n) -> Q (..., m, k), R (..., k, n), k = min(m, n). The derivative needs the first k columns of A to
    be independent: with M = R G_R' - G_Q' Q, (G_Q + Q copyltu(M)) R^-1', where copyltu mirrors the lower triangle
    (Walter & Lehmann 2018, Seeger et al. 2017, arXiv:1710.08717, Sec. 3). ValueError for other modes.

    >>> abs(qr(tensor([[3.0, 1.0], [4.0, 2.0]], dtype="float64")).R[0, 0]).item()
    5.0
    """
    (a,) = operands("qr", a)
    if mode not in ("reduced", "r"):
        raise ValueError(f"qr: mode must be 'reduced' or 'r', got {mode!r}; the others have no derivative")
    m = a.shape[-2] if a.ndim > 1 else 0
    if a.ndim > 1 and m < a.shape[-1]:  # the first columns make Q, the others are R's: Q' A
        q, r = _qr(a[..., :m], mode="reduced")
        r = concatenate([r, swap(q) @ a[..., m:]], axis=-1)
    else:
        q, r = _qr(a, mode="reduced")
    return r if mode == "r" else QRResult(q, r)
