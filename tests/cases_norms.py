"""Entries of minidl/ops/normalization.py and attention.py, and of vectors compared (vectors.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cases_losses import A, V, cosine, distance
from entry import Entry, Error, at, bools, fixed, in_torch, normal, positive, s

# ---- vectors ---------------------------------------------------------------------------------------------------------


def normalize(x: Any, p: float = 2.0, axis: int = 1, eps: float = 1e-12) -> Any:
    return x / np.maximum((np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1 / p), x.dtype.type(eps))


def with_dim(name: str) -> Callable:
    """Return PyTorch's function, which calls the axis dim."""
    return in_torch(lambda torch, *xs, axis=1, **k: getattr(torch.nn.functional, name)(*xs, dim=axis, **k))


VECTORS = [
    Entry(
        "normalize",
        normalize,
        [s(normal(4, 3)), s(normal(4, 3), axis=0), s(normal(2, 3, 2), p=3.0), s(normal(3), axis=0), s(normal(0, 3))],
        torch=with_dim("normalize"),
        finite=[at([[0.0, 0.0], [1e4, -1e4]])],
        errors=[Error(lambda f: f(A, dim=1), TypeError, r"normalize: .*axis=")],
    ),
    Entry(
        "cosine_similarity",
        cosine,
        [
            s(normal(4, 3), normal(4, 3)),
            s(normal(4, 3), normal(4, 3), axis=0),
            s(normal(2, 3, 2), normal(1, 3, 2)),
            s(normal(3), normal(3), axis=0),
            s(normal(3), normal(2, 3), axis=0),
            s(normal(2, 1), normal(2, 3)),
        ],
        torch=with_dim("cosine_similarity"),
        finite=[at([[1e4, -1e4]], [[1e4, 1e4]])],
        errors=[
            Error(lambda f: f(A, A, axis=2), np.exceptions.AxisError, r"cosine_similarity.*axis 2"),
            Error(lambda f: f(A, A.astype("f4")), TypeError, r"cosine_similarity: .*float32"),
            Error(lambda f: f(A, A, dim=1), TypeError, r"cosine_similarity: .*axis="),
        ],
    ),
    Entry(
        "pairwise_distance",
        distance,
        [
            s(normal(4, 3), normal(4, 3)),
            s(normal(3), normal(3)),
            s(normal(4, 3), normal(4, 3), p=3.0),
            s(normal(4, 3), normal(1, 3), keepdims=True),
        ],
        torch=in_torch(
            lambda torch, a, b, p=2.0, keepdims=False: torch.nn.functional.pairwise_distance(a, b, p, keepdim=keepdims)
        ),
        finite=[at([[1e4, -1e4], [0.0, 0.0]], [[1e4, 1e4], [0.0, 0.0]])],
        errors=[Error(lambda f: f(A, A.astype("f4")), TypeError, r"pairwise_distance: .*float32")],
    ),
]

# ---- normalization and attention -------------------------------------------------------------------------------------


def standard(x: Any, axes: Any, eps: float) -> Any:
    d = x - x.mean(axis=axes, keepdims=True)
    return d / np.sqrt((d * d).mean(axis=axes, keepdims=True) + x.dtype.type(eps))


def layer_norm(x: Any, w: Any = None, b: Any = None, *, normalized_shape: Any, eps: float = 1e-5) -> Any:
    axes = tuple(range(x.ndim - np.size(normalized_shape), x.ndim))
    return standard(x, axes, eps) * (1 if w is None else w) + (0 if b is None else b)


def rms_norm(x: Any, w: Any = None, *, normalized_shape: Any, eps: float | None = None) -> Any:
    axes = tuple(range(x.ndim - np.size(normalized_shape), x.ndim))
    eps = np.finfo(x.dtype).eps if eps is None else x.dtype.type(eps)
    return x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps) * (1 if w is None else w)


def group_norm(x: Any, w: Any = None, b: Any = None, *, num_groups: int, eps: float = 1e-5) -> Any:
    groups = x.reshape((len(x), num_groups, x.shape[1] // num_groups, *x.shape[2:]))
    y = standard(groups, tuple(range(2, groups.ndim)), eps).reshape(x.shape)
    w, b = (v if v is None else v.reshape((-1,) + (1,) * (x.ndim - 2)) for v in (w, b))
    return y * (1 if w is None else w) + (0 if b is None else b)


def named(f: Any, x: Any, *rest: Any, **settings: Any) -> Any:
    """Call with weight and bias by name."""
    return f(x, **dict(zip(("weight", "bias"), rest, strict=False)), **settings)


def by_name(f: Callable) -> Callable:
    return lambda x, weight=None, bias=None, **k: f(
        x, *(() if weight is None else (weight,)), *(() if bias is None else (bias,)), **k
    )


def attention(q: Any, k: Any, v: Any, mask: Any = None, is_causal: bool = False, scale: float | None = None) -> Any:
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    allowed = np.ones(scores.shape, bool)
    if mask is not None and mask.dtype.kind == "b":
        allowed &= mask
    elif mask is not None:
        scores = scores + mask
    if is_causal:
        allowed &= np.tri(*scores.shape[-2:], dtype=bool)
    e = np.where(allowed, np.exp(scores), 0)
    total = e.sum(axis=-1, keepdims=True)
    return np.matmul(e / np.where(total == 0, 1, total).astype(e.dtype), v).astype(v.dtype)


KEYS = [normal(2, 3, 2), normal(2, 4, 2), normal(2, 4, 3)]
FORBIDDEN = fixed([[True, False, True, True], [False] * 4, [True, True, False, False]])

NORMS = [
    Entry(
        "layer_norm",
        by_name(layer_norm),
        [
            s(normal(4, 3), positive(3), normal(3), normalized_shape=3),
            s(normal(4, 3), normalized_shape=(3,)),
            s(normal(2, 3, 2), positive(3, 2), normal(3, 2), normalized_shape=(3, 2), eps=0.1),
            s(normal(3), normalized_shape=3),
            s(normal(0, 3), normalized_shape=3),
            s(normal(4, 3), positive(3), normalized_shape=3),
        ],
        call=named,
        torch=in_torch(
            lambda torch, x, normalized_shape, **k: torch.nn.functional.layer_norm(
                x, np.atleast_1d(normalized_shape).tolist(), **k
            )
        ),
        finite=[at([[1e4, -1e4, 0.0], [5.0, 5.0, 5.0]], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0], normalized_shape=3)],
        errors=[
            Error(lambda f: f(A, 2), ValueError, r"layer_norm: x \(2, 3\) must end in normalized_shape \(2,\)"),
            Error(lambda f: f(A, ()), ValueError, r"layer_norm: x .* must end"),
            Error(lambda f: f(A, 3, np.ones(2)), ValueError, r"layer_norm: weight must be \(3,\), got \(2,\)"),
            Error(lambda f: f(A, 3, V, V.astype("f4")), TypeError, r"layer_norm: .*bias is float32"),
        ],
    ),
    Entry(
        "rms_norm",
        by_name(rms_norm),
        [
            s(normal(4, 3), positive(3), normalized_shape=3),
            s(normal(2, 3, 2), normalized_shape=(3, 2), eps=0.1),
            s(normal(3), normalized_shape=3),
            s(normal(0, 3), normalized_shape=3),
        ],
        call=named,
        torch=in_torch(
            lambda torch, x, normalized_shape, **k: torch.nn.functional.rms_norm(
                x, np.atleast_1d(normalized_shape).tolist(), **k
            )
        ),
        finite=[
            at([[1e4, -1e4, 0.0], [5.0, 5.0, 5.0]], [1.0, 2.0, 3.0], normalized_shape=3),
            at([[0.0, 0.0]], normalized_shape=2, eps=1e-5),
        ],
        errors=[
            Error(lambda f: f(A, 2), ValueError, r"rms_norm: x \(2, 3\) must end"),
            Error(lambda f: f(A, 3, np.ones(2)), ValueError, r"rms_norm: weight must be"),
        ],
    ),
    Entry(
        "group_norm",
        by_name(group_norm),
        [
            s(normal(2, 4, 3), positive(4), normal(4), num_groups=2),
            s(normal(2, 4), num_groups=2, eps=0.1),
            s(normal(2, 4, 2, 2), positive(4), normal(4), num_groups=1),
            s(normal(0, 4, 2), num_groups=2),
        ],
        call=named,
        torch="nn.functional.group_norm",
        finite=[at([[1e4, -1e4, 5.0, 5.0]], num_groups=2)],
        errors=[
            Error(lambda f: f(np.ones((2, 4, 3)), 3), ValueError, r"group_norm: .*multiple of 3.*\(2, 4, 3\)"),
            Error(lambda f: f(V, 1), ValueError, r"group_norm: x must be"),
            Error(lambda f: f(np.ones((2, 4, 3)), 2, np.ones(2)), ValueError, r"group_norm: weight must be \(4,\)"),
        ],
    ),
    Entry(
        "instance_norm",
        by_name(lambda x, *rest, eps=1e-5: group_norm(x, *rest, num_groups=x.shape[1], eps=eps)),
        [s(normal(2, 2, 3), positive(2), normal(2)), s(normal(2, 2, 2, 2), eps=0.1)],
        call=named,
        torch="nn.functional.instance_norm",
        finite=[at([[[1e4, -1e4], [5.0, 5.0]]])],
        errors=[
            Error(lambda f: f(A), ValueError, r"instance_norm: x must be .*\(2, 3\)"),
            Error(lambda f: f(np.ones((2, 3, 1))), ValueError, r"instance_norm: .*more than one element"),
        ],
    ),
    Entry(
        "scaled_dot_product_attention",
        attention,
        [
            s(*KEYS),
            s(*KEYS, is_causal=True),
            s(*KEYS, scale=0.5),
            s(*KEYS, FORBIDDEN),
            s(*KEYS, normal(3, 4)),
            s(normal(3, 2), normal(4, 2), normal(4, 3)),
            s(normal(2, 1, 3, 2), normal(2, 4, 2), normal(2, 4, 3)),
            s(*KEYS, bools(2, 3, 4)),
            s(normal(0, 3, 2), normal(0, 4, 2), normal(0, 4, 3)),
        ],
        torch=in_torch(lambda torch, q, k, v, *mask, **rest: attention_in_torch(torch, q, k, v, *mask, **rest)),
        finite=[
            at([[1e4, -1e4], [0.0, 1e4]], [[1e4, 1e4], [-1e4, 0.0]], [[1e4], [-1e4]]),
            at([[1e4], [0.0]], [[1e4], [1.0]], [[1.0], [2.0]], [[False, False], [True, False]]),
            at([[1e4], [0.0]], [[1e4], [1.0]], [[1.0], [2.0]], [[-np.inf, -np.inf], [0.0, -np.inf]]),
        ],
        errors=[
            Error(
                lambda f: f(A, np.ones((2, 4)), A),
                ValueError,
                r"scaled_dot_product_attention: query and key .*\(2, 3\) and \(2, 4\)",
            ),
            Error(lambda f: f(A, A, V[:, None]), ValueError, r"scaled_dot_product_attention: .*as many keys as values"),
            Error(lambda f: f(A, A.astype("f4"), A), TypeError, r"scaled_dot_product_attention: .*key is float32"),
            Error(
                lambda f: f(A, A, A, np.ones((2, 2), int)),
                TypeError,
                r"scaled_dot_product_attention: attn_mask must be bool.*int64",
            ),
        ],
    ),
]


def attention_in_torch(
    torch: Any, q: Any, k: Any, v: Any, mask: Any = None, is_causal: bool = False, scale: float | None = None
) -> Any:
    """Write it out: PyTorch's own has NaN in the gradients of queries that may look nowhere."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    allowed = torch.tril(torch.ones_like(scores)).bool() if is_causal else torch.ones_like(scores).bool()
    if mask is not None and mask.dtype == torch.bool:
        allowed = allowed & mask
    elif mask is not None:
        scores = scores + mask
    e = torch.where(allowed, torch.exp(scores), 0.0)
    total = e.sum(-1, keepdim=True)
    return (e / torch.where(total == 0, 1.0, total)) @ v


ENTRIES = [*VECTORS, *NORMS]
