"""Classes as vectors, and vectors compared: one-hot codes, embeddings, lengths, angles, distances."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.backend import array_module
from ..engine.tensor import TENSORS
from .composed import composed
from .elementwise import maximum, where
from .index import getitem
from .linalg import check_dtypes
from .network import check_classes, indicator
from .norms import norm
from .reduce import sum
from .shape import broadcast_to, integers, one_axis


def _integers(who: str, ids: Any) -> None:
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{who}: needs integer class numbers, got {ids.dtype}; use .astype('int64')")


@composed
def one_hot(target: Any, num_classes: int) -> Any:
    """Return 1 at the class and 0 elsewhere, of dtype int64: (...) -> (..., num_classes).

    A class outside of [0, num_classes) is an IndexError; on a GPU, where looking would wait, zeros.

    >>> one_hot(tensor([2, 0]), 3)
    tensor([[0, 0, 1],
            [1, 0, 0]])
    """
    _integers("one_hot", target)
    classes = integers(num_classes, "one_hot: num_classes")
    if classes < 1:
        raise ValueError(f"one_hot: num_classes must be at least 1, got {num_classes}")
    return indicator(target, classes=classes, axis=target.ndim, dtype="int64", ignored=None, who="one_hot")


@composed
def embedding(ids: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Look up rows of a table: weight[ids]. A row looked up several times adds up its gradients.

    Shapes: ids (...) of integers, weight (m, k) -> (..., k). The row padding_idx (from the end if negative) gets no
    gradient. An id outside of [0, m) is an IndexError; on a GPU, where looking would wait, another row.

    >>> embedding(tensor([1, 1]), tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[3., 4.],
            [3., 4.]])
    """
    _integers("embedding", ids)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight must be (m, k), got {weight.shape}")
    raw, rows = getattr(ids, "array", ids), weight.shape[0]
    check_classes("embedding", array_module(raw), raw, rows)
    found = getitem(weight, ids)
    if padding_idx is None:
        return found
    if not -rows <= padding_idx < rows:
        raise ValueError(f"embedding: padding_idx must be in [-{rows}, {rows}), got {padding_idx}")
    still = found.detach() if type(found) in TENSORS else found
    return where((ids == padding_idx % rows)[..., None], still, found)


@composed
def normalize(x: Any, p: float = 2.0, axis: int = 1, eps: float = 1e-12) -> Any:
    """Divide the vectors along axis by their p-norm, or by eps where that is greater.

    >>> normalize(tensor([[3.0, 4.0]])).tolist() == tensor([[0.6, 0.8]]).tolist()
    True
    """
    return x / maximum(norm(x, p, axis=axis, keepdims=True), eps)


@composed
def cosine_similarity(x1: Any, x2: Any, axis: int = 1, eps: float = 1e-8) -> Any:
    """Compute the cosine of the angle between vectors along axis: x1 x2 / (max(|x1|, eps) max(|x2|, eps)).

    The shapes broadcast. Of a zero vector it is 0, with a finite gradient.

    >>> cosine_similarity(tensor([[1.0, 0.0]]), tensor([[3.0, 4.0]]))
    tensor([0.6])
    """
    check_dtypes("cosine_similarity", ("x1", x1), ("x2", x2))
    try:
        shape = np.broadcast_shapes(x1.shape, x2.shape)
    except ValueError:
        raise ValueError(f"cosine_similarity: x1 {x1.shape} and x2 {x2.shape} must broadcast") from None
    axis = one_axis(axis, len(shape), "cosine_similarity")
    x1, x2 = (x if x.shape == shape else broadcast_to(x, shape=shape) for x in (x1, x2))
    return sum(normalize(x1, axis=axis, eps=eps) * normalize(x2, axis=axis, eps=eps), axis=axis)


@composed
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False) -> Any:
    """Compute the p-norm of x1 - x2 + eps over the last axis; eps keeps the derivative of equal vectors defined.

    >>> pairwise_distance(tensor([1.0, 2.0]), tensor([4.0, 6.0]), eps=0.0)
    tensor(5.)
    """
    check_dtypes("pairwise_distance", ("x1", x1), ("x2", x2))
    return norm(x1 - x2 + eps, p, axis=-1, keepdims=keepdims)


# fmt: off
__all__ = [
    "cosine_similarity", "embedding", "normalize", "one_hot", "pairwise_distance",
]
# fmt: on
