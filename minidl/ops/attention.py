"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

from ..engine.op import Op
from .batch import dropout
from .composed import composed
from .elementwise import where
from .linalg import check_dtypes, matmul, swap
from .network import softmax

earlier = Op(lambda xp, scores: xp.tri(*scores.shape[-2:], dtype="bool"), name="causal_mask")


@composed
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    """Average values with the weights softmax(scale query key' + mask): softmax over the keys, for each query.

    Shapes: query (..., l, e), key (..., s, e), value (..., s, v) -> (..., l, v); leading axes broadcast. attn_mask
    broadcasts to (..., l, s): True where a query may look, or numbers that are added to the scores (-inf forbids).
    is_causal lets query i look at keys 0 to i; both masks together let it look where both do. scale is 1 / sqrt(e) by
    default. Weights are dropped with probability dropout_p, here as everywhere scaling the others up.

    A query that may look nowhere gets zeros, with zero gradients (Vaswani et al. 2017, arXiv:1706.03762, Eq. 1).

    >>> query, key, value = tensor([[0.0], [1e4]]), tensor([[1.0], [2.0]]), tensor([[1.0], [3.0]])
    >>> scaled_dot_product_attention(query, key, value)
    tensor([[2.],
            [3.]])
    """
    who = "scaled_dot_product_attention"
    check_dtypes(who, ("query", query), ("key", key), ("value", value))
    if min(query.ndim, key.ndim, value.ndim) < 2 or query.shape[-1] != key.shape[-1] or not key.shape[-1]:
        raise ValueError(f"{who}: query and key must be (..., l, e) and (..., s, e), got {query.shape} and {key.shape}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"{who}: there must be as many keys as values, got key {key.shape} and value {value.shape}")
    scores = matmul(query * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale), swap(key))
    if attn_mask is not None:
        if attn_mask.dtype.kind not in "bf":
            raise TypeError(
                f"{who}: attn_mask must be bool (True: may look) or floating (added), got {attn_mask.dtype}"
            )
        scores = where(attn_mask, scores, -math.inf) if attn_mask.dtype.kind == "b" else scores + attn_mask
    if is_causal:
        scores = where(earlier(scores), scores, -math.inf)
    return matmul(dropout(softmax(scores, axis=-1), dropout_p), value)


# fmt: off
__all__ = [
    "scaled_dot_product_attention",
]
# fmt: on
