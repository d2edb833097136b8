"""Entries of minidl/ops/products.py, and of minidl.linalg (whose names are those in that module)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from entry import Entry, Error, Input, Sample, at, axis_errors, in_torch, normal, off_zero, positive, s

LinAlgError = np.linalg.LinAlgError
A, B = np.ones((2, 3)), np.ones((4, 5))
SINGLE = np.ones((3, 3), np.float32)

# ---- products --------------------------------------------------------------------------------------------------------


def pairs(*shapes: tuple[tuple[int, ...], tuple[int, ...]], **settings: Any) -> list[Sample]:
    """Return a sample of two arrays for each pair of shapes."""
    return [s(normal(*a), normal(*b), **settings) for a, b in shapes]


def _einsum(f: Any, *xs: Any, subscripts: str) -> Any:
    return f(subscripts, *xs)


def sums(subscripts: str, *shapes: tuple[int, ...]) -> Sample:
    """Return a sample of einsum."""
    return s(*(normal(*shape) for shape in shapes), subscripts=subscripts)


def product(name: str, reference: Any, samples: list[Sample], **more: Any) -> Entry:
    """Return the entry of a product: large and tiny numbers, two dtypes, things that are no numbers."""
    errors = [
        Error(lambda f: f(np.ones(3), np.ones(3, np.float32)), TypeError, rf"{name}: .*float64.*float32.*astype"),
        Error(lambda f: f(np.ones(3), "x"), TypeError, rf"{name}: .*<U1"),
        Error(lambda f: f(np.ones(3), np.ones(3) * 1j), TypeError, rf"{name}: .*complex"),
    ]
    more["errors"] = errors + more.get("errors", [])
    more.setdefault("finite", [at([1e4, -1e4, 0.0], [1e4, 1e-8, 1e4])])
    more.setdefault("torch", name)
    return Entry(name, reference, samples, numpy=reference, **more)


VECTORS = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 2)), ((0,), (0,))]
STACKS = [((2, 2, 3), (3,)), ((2, 2, 3), (3, 2)), ((2, 2, 3), (2, 3, 2)), ((3,), (2, 3, 2)), ((), (2,)), ((2,), ()),
          ((2, 0), (0, 3)), ((0, 2), (2, 3))]  # fmt: skip


def _torch_dot(torch: Any, a: Any, b: Any) -> Any:
    return torch.tensordot(a, b, ([-1], [max(b.ndim - 2, 0)])) if a.ndim and b.ndim else a * b


def _torch_tensordot(torch: Any, a: Any, b: Any, axes: Any = 2) -> Any:
    return torch.tensordot(a, b, axes if isinstance(axes, int) else [[i] if isinstance(i, int) else i for i in axes])


def _torch_trace(torch: Any, x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return torch.diagonal(x, offset, axis1, axis2).sum(-1) if offset < 5 else x.sum() * 0


OF_TWO = ["ij,jk->ik", "ij,jk", "ij,jk->ki", "ij,jk->", "ij,jk->i", "ij,jk->ijk", "...j,jk", "i...,jk->k...i"]
OF_ONE = ["ii", "ii->i", "ij->ji", "ba", "ij->j", "...", "i...->...i", "...j->j...", "i...->..."]
EINSUM = [
    *(sums(form, (2, 3), (3, 4)) for form in OF_TWO),
    *(sums(form, (3, 3)) for form in OF_ONE),
    sums("iij->ij", (3, 3, 2)),
    sums("iji->j", (3, 2, 3)),
    sums("iiji->j", (2, 2, 3, 2)),
    sums("ii,ij->j", (2, 2), (2, 3)),
    sums("i,i", (3,), (3,)),
    sums("i,j->ij", (3,), (2,)),
    sums("ij,ij->ij", (2, 3), (2, 3)),
    sums("ij,ij->i", (2, 3), (2, 3)),
    sums("ij,kl->", (2, 2), (2, 3)),
    sums("bhqd,bhkd->bhqk", (2, 1, 3, 4), (2, 1, 2, 4)),
    sums("bqhd,bkhd->bhqk", (2, 3, 2, 4), (2, 2, 2, 4)),
    sums("ijb,jkb->ikb", (2, 3, 2), (3, 2, 2)),
    sums("...ij,...jk->...ik", (2, 1, 2, 3), (4, 3, 2)),
    sums("...,...", (2, 3), (3,)),
    sums("i...,i...->...", (3, 2), (3, 1)),
    sums("ij,ij->ij", (1, 3), (2, 1)),  # lengths of 1 broadcast
    sums("ij,ij", (1, 3), (2, 3)),
    sums("ij,j->i", (2, 1), (3,)),
    sums("", ()),
    sums(",->", (), ()),
    sums(",ij->ij", (), (2, 3)),
    sums(" i j , j ", (2, 3), (3,)),
    sums("ab,bc,cd->ad", (2, 3), (3, 4), (4, 2)),
    sums("i,i,i", (3,), (3,), (3,)),
    sums("ab,bc,cd,de,ef,fg->ga", *[(2, 2)] * 6),
    sums("abc,cd,be,e->ad", (2, 3, 2), (2, 2), (3, 2), (2,)),
    sums("ij,jk->ik", (0, 3), (3, 2)),
    sums("ij,jk->ik", (2, 0), (0, 2)),
]
EINSUM_ERRORS = [
    Error(lambda f: f("ij,jk->ik", A, B), ValueError, r"einsum: axis 'j'.*3.*4.*\(2, 3\), \(4, 5\)"),
    Error(lambda f: f("ij,jk->ik", A), ValueError, r"einsum: .*2 operands, got 1"),
    Error(lambda f: f("ijk->i", A), ValueError, r"einsum: 'ijk'.*\(2, 3\)"),
    Error(lambda f: f("i->i", A), ValueError, r"einsum: 'i'.*ellipsis.*\(2, 3\)"),
    Error(lambda f: f("i1->i", A), ValueError, r"einsum: 'i1'"),
    Error(lambda f: f("ij->ii", A), ValueError, r"einsum: .*each once"),
    Error(lambda f: f("ij->k", A), ValueError, r"einsum: .*letters of the operands"),
    Error(lambda f: f("...j->j", A), ValueError, r"einsum: .*\.\.\."),
    Error(lambda f: f("ii", A), ValueError, r"einsum: axis 'i'"),
    Error(lambda f: f("ii", np.ones((1, 3))), ValueError, r"einsum: axis 'i'.*\(1, 3\)"),
    Error(lambda f: f("ij,ij", A, A.astype("f")), TypeError, r"einsum: .*float64.*float32"),
    Error(lambda f: f("ij,ij", A, A, optimize="fast"), ValueError, r"einsum: optimize.*'fast'"),
    Error(lambda f: f(A, [0, 1]), TypeError, r"einsum: needs a string"),
]

ENTRIES = [
    product("dot", np.dot, pairs(*VECTORS, *STACKS), torch=in_torch(_torch_dot),
            errors=[Error(lambda f: f(A, B), ValueError, r"matmul: .*\(2, 3\).*\(4, 5\)"),
                    Error(lambda f: f(A, np.ones((2, 4, 5))), ValueError, r"tensordot: .*\(2, 3\).*\(2, 4, 5\)")]),
    product("inner", np.inner,
            pairs(((3,), (3,)), ((2, 3), (3,)), ((2, 3), (4, 3)), ((2, 2, 3), (2, 3)), ((), (2,)), ((2, 0), (0,))),
            errors=[Error(lambda f: f(A, B), ValueError, r"tensordot: .*\(2, 3\).*\(4, 5\)")]),
    product("outer", np.outer, pairs(((3,), (2,)), ((2, 2), (3,)), ((), (2,)), ((0,), (2,))),
            torch=in_torch(lambda torch, a, b: torch.outer(a.ravel(), b.ravel()))),
    product("vecdot", np.vecdot,
            pairs(((3,), (3,)), ((2, 3), (3,)), ((2, 1, 3), (4, 3)), ((2, 0), (0,))) + pairs(((2, 3), (2, 1)), axis=0),
            torch=in_torch(lambda torch, a, b, axis=-1: torch.linalg.vecdot(a, b, dim=axis)),
            errors=[Error(lambda f: f(A, B), ValueError, r"vecdot: .*3 and 5"),
                    Error(lambda f: f(A, A, axis=2), np.exceptions.AxisError, r"vecdot.*2"),
                    Error(lambda f: f(A, A, dim=1), TypeError, r"axis=")]),
    product("tensordot", np.tensordot,
            pairs(((2, 3, 4), (3, 4, 2)), ((2, 3), (2, 3))) + pairs(((2, 3), (3, 4)), ((2, 0), (0, 2)), axes=1)
            + pairs(((2, 3), (2,)), axes=0) + pairs(((2, 3, 4), (4, 3)), axes=([1, 2], [1, 0]))
            + pairs(((2, 3), (4, 3)), axes=(1, 1)) + pairs(((2, 3), (4, 3)), axes=(-1, -1)),
            torch=in_torch(_torch_tensordot), finite=[at([1e4, 0.0], [1e4, 1e-8], axes=0)],
            errors=[Error(lambda f: f(A, B, axes=1), ValueError, r"tensordot: .*\(2, 3\).*\(4, 5\)"),
                    Error(lambda f: f(A, A, axes=(5, 0)), np.exceptions.AxisError, r"tensordot.*5.*2"),
                    Error(lambda f: f(A, A, axes=((0, 0), (0, 0))), ValueError, r"repeated.*tensordot")]),
    Entry("einsum", np.einsum, EINSUM, call=_einsum, numpy=np.einsum, errors=EINSUM_ERRORS,
          torch=in_torch(lambda torch, form, *xs: torch.einsum(form.replace(" ", ""), *xs)),
          finite=[at([1e4, 0.0], [1e4, 1e-8], subscripts="i,j->ij")]),
    product("kron", np.kron,
            pairs(((2,), (3,)), ((2, 3), (2, 2)), ((3,), (2, 2)), ((2, 1, 2), (2, 2)), ((), (2,)), ((0, 2), (2,)))),
    product("cross", np.cross, [*pairs(((3,), (3,)), ((2, 3), (3,)), ((2, 1, 3), (4, 3)), ((0, 3), (3,))),
                                *pairs(((3, 2), (3, 2)), axis=0), *pairs(((3, 2), (2, 3)), axisa=0, axisc=0)],
            torch=None,  # without axisa and axisc
            errors=[Error(lambda f: f(np.ones(2), np.ones(2)), ValueError, r"cross: .*3 components, got 2"),
                    Error(lambda f: f(A, A, axis=2), np.exceptions.AxisError, r"cross.*2"),
                    Error(lambda f: f(A, A, dim=1), TypeError, r"axis=")]),
    Entry("trace", np.trace,
          [s(normal(3, 3)), s(normal(2, 4), offset=1), s(normal(4, 2), offset=-2), s(normal(3, 3), offset=5),
           s(normal(2, 3, 3), axis1=-1, axis2=1), s(normal(2, 3, 2), axis1=0, axis2=2, offset=-1), s(normal(0, 0))],
          numpy=np.trace, finite=[at([[1e4, 1e-8], [1e4, -1e4]])], torch=in_torch(_torch_trace),
          errors=[Error(lambda f: f(np.ones(3)), np.exceptions.AxisError, r"moveaxis.*1"),
                  Error(lambda f: f(A, axis1=0, axis2=0), ValueError, r"repeated")]),
]  # fmt: skip

# ---- matrices --------------------------------------------------------------------------------------------------------


def regular(*shape: int) -> Input:
    """Return matrices far from singular, with singular values that differ."""
    m, n = shape[-2:]
    return Input(shape, lambda rng, shape: rng.uniform(-0.4, 0.4, shape) + np.eye(m, n) * (1.5 + np.arange(n)))


def mirrored(x: Any) -> Any:
    """Return x with its rows and columns exchanged."""
    return x.swapaxes(-1, -2)


def lapack(name: str) -> Callable:
    """Return NumPy's function, of float16 too: computed in float32, as ours is."""
    function = getattr(np.linalg, name)

    def reference(*xs: Any, **settings: Any) -> Any:
        half = xs[0].dtype == np.float16
        out = function(*(x.astype(np.float32) if half and x.dtype == np.float16 else x for x in xs), **settings)
        if not half:
            return out
        return tuple(x.astype(np.float16) for x in out) if isinstance(out, tuple) else out.astype(np.float16)

    return reference


def stacks(*shapes: tuple[int, ...], **settings: Any) -> list[Sample]:
    """Return a sample of a matrix, or several, for each shape."""
    return [s(regular(*shape), **settings) for shape in shapes]


SHAPES = [(3, 3), (4, 2), (2, 4), (2, 3, 2), (2, 2, 3), (1, 3), (3, 1), (0, 3), (3, 0), (0, 2, 3)]
ANY_SHAPE = stacks(*SHAPES)
SQUARE = stacks((3, 3), (2, 2, 2), (1, 1), (0, 2, 2), (2, 1, 2, 2), (0, 0), (2, 0, 0))
SYSTEMS = [((3, 3), (3,)), ((3, 3), (3, 2)), ((2, 3, 3), (3,)), ((2, 3, 3), (2, 3, 2)), ((2, 2, 2), (2, 3)),
           ((2, 2), (2, 2, 3)), ((2, 1, 2, 2), (3, 2, 1)), ((0, 2, 2), (0, 2, 1)), ((2, 2), (2, 0)),
           ((0, 0), (0,))]  # fmt: skip
OBLONG = [((4, 2), (4,)), ((4, 2), (4, 3)), ((2, 4), (2,)), ((2, 4), (2, 1)), ((3, 3), (3,))]
POWERS = [((3, 3), 2), ((2, 2, 2), 5), ((3, 3), 1), ((2, 2), 0), ((2, 2), -1), ((2, 2), -3), ((0, 2, 2), 3)]
NOT_SQUARE = [
    Error(lambda f: f(A), LinAlgError, r"\w+: needs square matrices.*\(2, 3\)"),
    Error(lambda f: f(np.ones(3)), LinAlgError, r"\w+: needs square matrices.*\(3,\)"),
    Error(lambda f: f(3.0), LinAlgError, r"\w+: needs square matrices.*\(\)"),
    Error(lambda f: f(np.eye(2) * 1j), TypeError, r"\w+: .*complex"),
]
NO_MATRIX = [
    Error(lambda f: f(np.ones(3)), LinAlgError, r"\w+: needs matrices.*\(3,\)"),
    Error(lambda f: f(A * 1j), TypeError, r"\w+: .*complex"),
]
SINGULAR = Error(lambda f: f(np.ones((2, 2))), LinAlgError, r"\w+: Singular matrix \(shape \(2, 2\)\)")


def _definite(f: Any, x: Any, **settings: Any) -> Any:
    """Call f with a symmetric positive definite matrix."""
    return f(x @ mirrored(x), **settings)


def _eigh(f: Any, x: Any, **settings: Any) -> tuple:
    """Call f with a symmetric matrix and return what does not depend on the signs of eigenvectors."""
    w, v = f(x + mirrored(x), **settings)
    return w, v * v * v * v, (v * (1 / (2 + w * w))[..., None, :]) @ mirrored(v)


def _eigvalsh(f: Any, x: Any, **settings: Any) -> Any:
    return f(x + mirrored(x), **settings)


def _svd(f: Any, x: Any, **settings: Any) -> tuple:
    """Call f and return what does not depend on the signs of singular vectors."""
    u, sv, vt = f(x, **settings)
    return u * u, sv, vt * vt * vt * vt, (u * (1 / (2 + sv * sv))[..., None, :]) @ vt


def _qr(f: Any, x: Any, **settings: Any) -> Any:
    return tuple(f(x, **settings)) if settings.get("mode") != "r" else f(x, **settings)


def _slogdet(f: Any, x: Any) -> Any:
    return f(x)[1]


def _lstsq(f: Any, a: Any, b: Any) -> Any:
    return f(a, b)[0]


def _lstsq_reference(a: Any, b: Any) -> tuple:
    """Return the first result of NumPy's, of float16 too (whose rank is a number)."""
    x = np.linalg.lstsq(a.astype(np.promote_types(a.dtype, "f")), b.astype(np.promote_types(b.dtype, "f")))[0]
    return (x.astype(a.dtype),)


def _torch_solve(torch: Any, a: Any, b: Any) -> Any:
    return torch.linalg.solve(a, b) if b.ndim != 1 else torch.linalg.solve(a, b[:, None])[..., 0]


def _torch_norm(torch: Any, x: Any, axis: Any = None, keepdims: bool = False, **order: Any) -> Any:
    return torch.linalg.norm(x, order.get("ord"), axis, keepdims)


def norms(make: Any, *orders: Any, **settings: Any) -> list[Sample]:
    """Return a sample for each order of a norm."""
    return [s(make, ord=o, **settings) for o in orders]


INF = float("inf")
POINTS = [[0.0, 0.0, 0.0], [3.0, 0.0, -4.0], [1e4, -1e4, 1e-8]]
DEFECTIVE = [np.ones((3, 3)), np.zeros((3, 3)), [[1.0, 2.0], [2.0, 4.0]], [[0.0]], np.diag([0.0, 0.0, 2.0])]
MATRICES = [
    Entry("inv", lapack("inv"), SQUARE, torch="linalg.inv", errors=[*NOT_SQUARE, SINGULAR]),
    Entry("det", lapack("det"), SQUARE, torch="linalg.det", errors=NOT_SQUARE, finite=list(map(at, DEFECTIVE))),
    Entry("slogdet", lapack("slogdet"), SQUARE, call=_slogdet, torch="linalg.slogdet", errors=NOT_SQUARE,
          finite=[at(np.eye(3) * 1e4)]),
    Entry("solve", lapack("solve"), [s(regular(*a), normal(*b)) for a, b in SYSTEMS], torch=in_torch(_torch_solve),
          errors=[Error(lambda f: f(np.eye(3), np.ones(4)), ValueError, r"solve: .*\(3, 3\).*\(4, 1\)"),
                  Error(lambda f: f(np.eye(3), SINGLE), TypeError, r"solve: .*float64.*float32.*astype"),
                  Error(lambda f: f(np.eye(3), 1.0), ValueError, r"solve: .*\(\)"),
                  Error(lambda f: f(A, np.ones(2)), LinAlgError, r"solve: needs square matrices"),
                  Error(lambda f: f(np.ones((2, 2)), np.ones(2)), LinAlgError, r"solve: Singular")]),
    Entry("matrix_power", lapack("matrix_power"),
          [s(regular(*shape), n=n) for shape, n in POWERS],
          torch=in_torch(lambda torch, x, n: torch.linalg.matrix_power(x, n)),
          finite=[at(np.zeros((2, 2)), n=n) for n in (0, 3)],
          errors=[Error(lambda f: f(A, 2), LinAlgError, r"matrix_power: .*\(2, 3\)"),
                  Error(lambda f: f(np.eye(2), 0.5), TypeError, r"matrix_power: .*0\.5")]),
    Entry("pinv", lapack("pinv"), ANY_SHAPE, torch="linalg.pinv", errors=NO_MATRIX, finite=[at(np.zeros((2, 3)))]),
    Entry("lstsq", _lstsq_reference, [s(regular(*a), normal(*b)) for a, b in OBLONG], call=_lstsq,
          errors=[Error(lambda f: f(A, np.ones(3)), LinAlgError, r"lstsq: .*\(2, 3\).*\(3,\)"),
                  Error(lambda f: f(A, np.ones(2, np.float32)), TypeError, r"lstsq: .*float64.*float32")]),
    Entry("cholesky", lapack("cholesky"), [*SQUARE, s(regular(3, 3), upper=True)], call=_definite,
          torch=in_torch(lambda torch, x, upper=False: torch.linalg.cholesky(x, upper=upper)),
          errors=[*NOT_SQUARE, Error(lambda f: f(-np.eye(2)), LinAlgError, r"cholesky: .*not positive.*\(2, 2\)")]),
    Entry("eigh", lapack("eigh"), [*SQUARE, s(regular(3, 3), UPLO="U")], call=_eigh, errors=NOT_SQUARE,
          torch=in_torch(lambda torch, x, UPLO="L": torch.linalg.eigh(x, UPLO))),
    Entry("eigvalsh", lapack("eigvalsh"), [*SQUARE, s(regular(3, 3), UPLO="U")], call=_eigvalsh,
          torch=in_torch(lambda torch, x, UPLO="L": torch.linalg.eigvalsh(x, UPLO)),
          errors=[*NOT_SQUARE, Error(lambda f: f(np.eye(2), UPLO="X"), ValueError, r"eigvalsh: UPLO")]),
    Entry("svd", lapack("svd"), stacks(*SHAPES, full_matrices=False) + stacks((3, 3), full_matrices=True), call=_svd,
          torch=in_torch(lambda torch, x, full_matrices: torch.linalg.svd(x, full_matrices)), errors=NO_MATRIX),
    Entry("svdvals", lapack("svdvals"), ANY_SHAPE, torch="linalg.svdvals", errors=NO_MATRIX,
          finite=[at(np.zeros((2, 3)))]),
    Entry("qr", lapack("qr"), [*ANY_SHAPE, s(regular(3, 2), mode="r"), s(regular(2, 3), mode="r")], call=_qr,
          errors=[*NO_MATRIX, Error(lambda f: f(A, mode="complete"), ValueError, r"qr: .*'complete'")]),
    Entry("norm", lapack("norm"), [
        *norms(off_zero(4), None, 2, 1, INF, -INF, 0), *norms(off_zero(4), 3, 2.5, 0.5), *norms(positive(4), -1, -2),
        *norms(normal(2, 3, 2), None, 2, 1, INF, 3, axis=1),
        *norms(regular(3, 4), None, "fro", "nuc", 1, -1, 2, -2, INF, -INF),
        *norms(normal(2, 3, 2), "fro", "nuc", 1, 2, -INF, axis=(0, -1)),
        *norms(normal(2, 3, 2), None, 1, "nuc", axis=(2, 0), keepdims=True),
        *(s(normal(*shape)) for shape in ((2, 3, 2), (), (0, 3))), s(normal(2, 3, 2), keepdims=True),
        s(normal(2, 3), ord=1, axis=0, keepdims=True), s(normal(0, 3), axis=1),
    ], torch=in_torch(_torch_norm),
          finite=[*(at(POINTS, ord=o, axis=1) for o in (None, 1, 3, 1.5, 0.5, 0, INF, -INF)),
                  *(at(np.zeros((2, 3)), ord=o) for o in ("fro", "nuc", 2, 1, INF))],
          errors=[*axis_errors(), Error(lambda f: f(np.ones(3), "fro"), ValueError, r"norm: .*vector.*'fro'"),
                  Error(lambda f: f(A, 3), ValueError, r"norm: .*matrix.*3"),
                  Error(lambda f: f(np.ones((2, 2, 2)), 1), ValueError, r"norm: .*\(2, 2, 2\)"),
                  Error(lambda f: f(A * 1j), TypeError, r"norm: .*complex")]),
]  # fmt: skip

LINALG = [replace(entry, numpy=getattr(np.linalg, entry.name)) for entry in MATRICES]
