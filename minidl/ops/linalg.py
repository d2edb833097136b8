"""The product of matrices, and what every function of matrices begins with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.linalg import LinAlgError

from ..engine.backend import as_array, checked_dtype, device_of, is_array
from ..engine.op import Op
from ..engine.tensor import TENSORS
from .shape import transpose


def check_dtypes(who: str, *named: tuple[str, Any]) -> None:
    """Raise TypeError unless all arrays of a product have one dtype: a mixed one would silently change precision."""
    (first, a), *rest = named
    for name, b in rest:
        if a.dtype != b.dtype:
            common = a.dtype if a.dtype.kind == "f" else b.dtype
            raise TypeError(
                f"{who}: {first} is {a.dtype} and {name} is {b.dtype}; convert one with .astype({str(common)!r})"
            )


def operands(who: str, *xs: Any) -> list[Any]:
    """Return operands that have a shape: tensors and arrays as they are, lists and numbers made arrays beside them.

    TypeError if their dtypes differ.
    """
    like = next((x for x in xs if type(x) in TENSORS or is_array(x)), None)
    dtype = like.dtype if like is not None and like.dtype.kind == "f" else None
    device = "cpu" if like is None else like.device if type(like) in TENSORS else device_of(like)
    found = [x if type(x) in TENSORS or is_array(x) else as_array(np.asarray(x), dtype, device, who) for x in xs]
    for x in found:
        checked_dtype(x.dtype, who)
    check_dtypes(who, *zip("abcdefghijklmnopqrstuvwxyz", found, strict=False))
    return found


def _matmul(xp: Any, a: Any, b: Any) -> Any:
    if type(a) in (int, float) or type(b) in (int, float):
        raise ValueError("matmul: needs arrays of at least one axis, got a number; use * for numbers")
    if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.dtype is b.dtype:
        return xp.dot(a, b)  # straight to BLAS; `matmul` takes seven times as long for an outer product
    check_dtypes("matmul", ("a", a), ("b", b))
    if not a.ndim or not b.ndim:
        raise ValueError(
            f"matmul: needs arrays of at least one axis, got shapes {a.shape} and {b.shape}; use * for numbers"
        )
    rows = b.shape[0] if b.ndim == 1 else b.shape[-2]
    if a.shape[-1] != rows:
        fits = b.ndim > 1 and b.shape[-1] == a.shape[-1]
        hint = "; did you mean a @ b.T?" if fits else ""
        raise ValueError(f"matmul: a has {a.shape[-1]} columns and b has {rows} rows (a {a.shape}, b {b.shape}){hint}")
    if b.ndim > 2:
        return xp.matmul(a, b)
    return xp.dot(a, b) if a.ndim < 3 else xp.dot(_rows(a), b).reshape(a.shape[:-1] + b.shape[1:])


def _rows(x: Any) -> Any:
    """Put the rows of all matrices under each other: one product instead of many."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def swap(x: Any) -> Any:
    """Exchange the last two axes."""
    return x.T if x.ndim == 2 else transpose(x, axes=(*range(x.ndim - 2), -1, -2))


def _matmul_left(g: Any, out: Any, a: Any, b: Any) -> Any:
    """dL/da = g b'. A vector b acts as a column, a vector a as a row."""
    if b.ndim == 1:
        return g * b if a.ndim == 1 else g[..., None] * b
    if a.ndim == 1:
        return matmul(g[..., None, :], swap(b))[..., 0, :]
    return matmul(g, swap(b))


def _matmul_right(g: Any, out: Any, a: Any, b: Any) -> Any:
    """dL/db = a' g."""
    if a.ndim == 1:
        return g * a if b.ndim == 1 else a[:, None] * g[..., None, :]
    if b.ndim == 1:
        return matmul(swap(a), g[..., None])[..., 0]
    if b.ndim == 2 < a.ndim:
        return matmul(_rows(a).T, _rows(g))
    return matmul(swap(a), g)


matmul = Op(
    _matmul,
    _matmul_left,
    _matmul_right,
    saves="a b",
    samplewise=lambda shapes: len(shapes[0]) > 1 and len(shapes[1]) <= 2,
    doc="""Multiply matrices: (..., n, k) @ (..., k, m) -> (..., n, m).

    Leading axes broadcast; a vector acts as a row on the left, as a column on the right. TypeError for two dtypes,
    ValueError for shapes that do not fit or a 0-d operand.

    >>> matmul(tensor([[1.0, 2.0]]), tensor([[3.0], [4.0]]))
    tensor([[11.]])
    """,
)

# ---- functions of matrices ---------------------------------------------------------------------------------------


def matrix_op(rule: Any = None, saves: str = "", square: bool = True, joint: Any = None) -> Callable[..., Op]:
    """Make an operation of a function of matrices: check their shapes and dtypes, and name it in LAPACK's refusals.

    Matrices of integers become float64; float16 is computed in float32 and rounded. What LAPACK refuses (a singular
    matrix, one that is not positive definite) is a LinAlgError on the CPU and gives NaN on a GPU, as in CuPy.
    """

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

# fmt: off
__all__ = [
    "matmul",
]
# fmt: on
