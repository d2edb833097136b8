"""Linear algebra under NumPy's names: `md.linalg.solve(a, b)`, `md.linalg.norm(x)`.

Results that are complex are not offered: eig and eigvals are refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .engine.op import Op
from .engine.tensor import NUMPY_FUNCTIONS
from .ops.decompositions import cholesky, eigh, eigvalsh, qr, svd, svdvals
from .ops.inverses import det, inv, matrix_power, pinv, slogdet, solve
from .ops.linalg import matmul
from .ops.norms import lstsq, norm
from .ops.products import cross, outer, tensordot, vecdot
from .ops.products import trace as trace_of_axes

LinAlgError = np.linalg.LinAlgError

__all__ = [
    "LinAlgError", "cholesky", "cross", "det", "eigh", "eigvalsh", "inv", "lstsq", "matmul", "matrix_power", "norm",
    "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot",
]  # fmt: skip


def trace(x: Any, /, *, offset: int = 0) -> Any:
    """Sum the diagonal of the last two axes: (..., m, n) -> (...). `md.trace` takes other axes, by default the first.

    >>> trace([[1.0, 2.0], [3.0, 4.0]]).item()
    5.0
    """
    return trace_of_axes(x, offset, -2, -1)


# numpy.linalg.solve(tensor, ...) is ours.
for _name in __all__[1:]:
    _function = globals()[_name]
    NUMPY_FUNCTIONS[getattr(np.linalg, _name)] = _function.call if isinstance(_function, Op) else _function


def __getattr__(name: str) -> Any:
    if name in ("eig", "eigvals"):
        raise AttributeError(
            f"linalg.{name}: eigenvalues of a matrix that is not symmetric are complex, and tensors are real; "
            "for a symmetric one use eigh or eigvalsh"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
