"""A symmetric matrix however it is given: by its products, or by its entries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.backend import Array, array_module, device_of, is_array, on_device, to_device
from ..engine.tensor import Tensor
from ..krylov import norm


class Matrix:
    """A symmetric P x P matrix with its products counted.

    `given` is an operator (`HessianOperator` and its like, a SciPy LinearOperator: anything with `shape` and `@`), an
    object with its entries as `.matrix`, a matrix (P, P), or a function v -> A v beside `like`, a vector (P,) which
    tells the size, dtype and device. TypeError or ValueError for anything else.

    >>> A = Matrix("doc", np.diag([1.0, 2.0]))
    >>> A(np.ones(2)), A.matvecs
    (array([1., 2.]), 1)
    """

    def __init__(self, who: str, given: Any, like: Array | None = None):
        self.who, self.matvecs = who, 0
        given = given.array if isinstance(given, Tensor) else given
        entries = given if is_array(given) else getattr(given, "matrix", None)
        self.entries: Array | None = entries if is_array(entries) else None
        self.size, self.dtype, self.device = _described(who, given, self.entries, like)
        if self.entries is not None:
            self.entries = _symmetric(who, self.entries)
        source = given if self.entries is None else self.entries
        self._product: Callable[[Array], Array] = source.__matmul__ if hasattr(source, "__matmul__") else source

    def __call__(self, v: Array) -> Array:
        """Return the product with a vector (P,), in the matrix's dtype; ValueError unless it is finite and a vector."""
        self.matvecs += 1
        w = self._product(v)
        if not is_array(w) or w.shape != v.shape:
            got = f"{type(w).__name__} {getattr(w, 'shape', '')}"
            raise ValueError(f"{self.who}: the product with a vector {v.shape} must be such a vector, got {got}")
        if not math.isfinite(norm(w)):
            raise ValueError(f"{self.who}: the product with a finite vector is not finite")
        return w.astype(self.dtype, copy=False)

    def dense(self) -> Array:
        """Return the entries (P, P), symmetric: by P products where they are not known."""
        if self.entries is not None:
            return self.entries
        xp, place = on_device(self.device)
        with place:
            columns = xp.empty((self.size, self.size), self.dtype)
            identity = xp.eye(self.size, dtype=self.dtype)
            for i in range(self.size):
                columns[i] = self(identity[i])
            return (columns + columns.T) / 2

    def normal(self, rng: np.random.Generator) -> Array:
        """Return a vector (P,) of standard normal numbers, drawn on the host."""
        return to_device(rng.standard_normal(self.size).astype(self.dtype), self.device)

    def signs(self, rng: np.random.Generator) -> Array:
        """Return a vector (P,) of signs -1 and 1, drawn on the host."""
        return to_device((2 * rng.integers(0, 2, self.size) - 1).astype(self.dtype), self.device)


def _described(who: str, given: Any, entries: Array | None, like: Array | None) -> tuple[int, np.dtype, str]:
    """Return size, dtype and device."""
    source = given if entries is None else entries
    shape = getattr(source, "shape", None)
    if shape is None:
        if not callable(given):
            raise TypeError(
                f"{who}: needs an operator, a symmetric matrix or a function v -> A v, got {type(given).__name__}"
            )
        if like is None:
            raise ValueError(f"{who}: a function does not tell its size; pass an operator with `shape` and `@`, or v0=")
        return like.size, np.dtype(like.dtype), device_of(like)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"{who}: needs a square matrix, got shape {tuple(shape)}")
    device = device_of(source) if is_array(source) else getattr(getattr(given, "parameters", None), "device", "cpu")
    dtype = np.dtype(getattr(source, "dtype", None) or np.float64)
    return shape[0], dtype if dtype.kind == "f" else np.dtype(np.float64), device


def _symmetric(who: str, a: Array) -> Array:
    """Return (A + A') / 2 of floating numbers; ValueError if A is not symmetric up to rounding, or not finite."""
    a = a if a.dtype.kind == "f" else a.astype(np.float64)
    xp = array_module(a)
    scale, off = float(xp.abs(a).max()), float(xp.abs(a - a.T).max())
    if not scale < np.inf:
        raise ValueError(f"{who}: the matrix has elements that are not finite")
    if off > float(np.finfo(a.dtype).eps) ** 0.5 * scale:
        raise ValueError(f"{who}: the matrix is not symmetric: A and A' differ by {off:.1e} of {scale:.1e}")
    return (a + a.T) / 2
