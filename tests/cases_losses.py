"""Entries of minidl/ops/losses.py, vectors.py, normalization.py and attention.py, and the general cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from entry import (
    Entry,
    Error,
    Input,
    Sample,
    at,
    bools,
    fixed,
    in_torch,
    integers,
    normal,
    off_grid,
    on_grid,
    positive,
    s,
)

A, V = np.ones((2, 3)), np.ones(3)
REDUCTIONS = ("mean", "sum", "none")


def shares(*shape: int) -> Input:
    """Return numbers in [0.3, 0.7)."""
    return Input(shape, lambda rng, shape: rng.uniform(0.3, 0.7, shape))


def counts(*shape: int) -> Input:
    """Return 0.5, 1.5, ... 4.5: none is near 1."""
    return Input(shape, lambda rng, shape: rng.integers(0, 5, shape) + 0.5)


def signs(*shape: int) -> Input:
    """Return +-1, floating."""
    return Input(shape, lambda rng, shape: rng.choice([1.0, -1.0], shape))


def reduced(losses: Any, reduction: str, total: Any = None) -> Any:
    """Return the losses, their sum, or their mean."""
    if reduction == "none":
        return losses
    return (
        losses.sum()
        if reduction == "sum"
        else losses.sum() / losses.dtype.type(losses.size if total is None else total)
    )


def loss(formula: Callable) -> Callable:
    """Return a loss in NumPy from the formula of its elements."""
    return lambda *xs, reduction="mean", **settings: reduced(formula(*xs, **settings), reduction)


def alike_errors(name: str, others: int = 1) -> list[Error]:
    """Return calls of a loss with shapes, dtypes and reductions that do not fit."""
    more = [A] * (others - 1)
    return [
        Error(lambda f: f(A, np.ones((3, 2)), *more), ValueError, rf"{name}: .*\(2, 3\).*\(3, 2\).*one shape"),
        Error(lambda f: f(np.ones((4, 1)), np.ones(4), *more), ValueError, rf"{name}: .*\(4, 1\).*\(4,\)"),
        Error(lambda f: f(A, A.astype("f4"), *more), TypeError, rf"{name}: .*float64.*float32.*astype"),
        Error(lambda f: f(A, None, *more), TypeError, rf"{name}: .*NoneType"),
        Error(lambda f: f(None, A, *more), TypeError, rf"{name}: .*NoneType"),
        Error(
            lambda f: f(A, A, *[A] * (others - 1), reduction="avg"), ValueError, rf"{name}: reduction must be .*'avg'"
        ),
        Error(lambda f: f(A[:0], A[:0], *[A[:0]] * (others - 1)), ValueError, rf"{name}: the mean of an empty batch"),
    ]


def samples(*makes: Callable[..., Input], **settings: Any) -> list[Sample]:
    """Return samples of elementwise losses: all reductions, 0-d, nothing."""
    found = [s(*(make(3, 4) for make in makes), reduction=r, **settings) for r in REDUCTIONS]
    empty = [s(*(make(0, 3) for make in makes), reduction=r, **settings) for r in ("sum", "none")]
    return [*found, *empty, s(*(make() for make in makes), **settings)]


def elementwise(name: str, formula: Callable, makes: tuple, *settings: dict, **more: Any) -> Entry:
    """Return the entry of a loss that is a sum over elements."""
    found = [*samples(*makes), *(s(*(make(3, 2) for make in makes), **chosen) for chosen in settings)]
    more.setdefault("torch", f"nn.functional.{name}")
    more.setdefault("finite", [at(*FAR[: len(makes)]), at(*FAR[: len(makes)], reduction="none")])
    return Entry(
        name, loss(formula), found, **more | {"errors": alike_errors(name, len(makes) - 1) + more.get("errors", [])}
    )


FAR = ([1e4, -1e4, 1e4, 0.0], [-1e4, -1e4, 1e4, 1e-8], [1.0, 1e4, 1e-8, 1.0])

# ---- differences, probabilities, likelihoods -------------------------------------------------------------------------


def huber(x: Any, t: Any, delta: float = 1.0) -> Any:
    d = np.abs(x - t)
    return np.where(d < delta, d * d / 2, delta * (d - delta / 2))


def bce(p: Any, t: Any, weight: Any = None) -> Any:
    return -(t * np.log(p) + (1 - t) * np.log(1 - p)) * (1 if weight is None else weight)


def with_logits(x: Any, t: Any, weight: Any = None, pos_weight: Any = None) -> Any:
    positive = t if pos_weight is None else t * pos_weight
    return (positive * np.log1p(np.exp(-x)) + (1 - t) * np.log1p(np.exp(x))) * (1 if weight is None else weight)


def kl_div(x: Any, t: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    losses = np.exp(t) * (t - x) if log_target else t * (np.log(t) - x)
    return losses.sum() / len(x) if reduction == "batchmean" else reduced(losses, reduction)


def poisson(x: Any, t: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8) -> Any:
    losses = np.exp(x) - t * x if log_input else x - t * np.log(x + eps)
    return losses + np.where(t > 1, t * np.log(t) - t + np.log(2 * math.pi * t) / 2, 0) if full else losses


def gaussian(x: Any, t: Any, v: Any, full: bool = False, eps: float = 1e-6) -> Any:
    return (np.log(v) + (x - t) ** 2 / v) / 2 + (math.log(2 * math.pi) / 2 if full else 0)


def weighted_bce(f: Any, x: Any, t: Any, weight: Any, *rest: Any, **settings: Any) -> Any:
    """Call with the third input as weight=, the fourth as pos_weight=."""
    return f(x, t, weight=weight, **dict(zip(("pos_weight",), rest, strict=False)), **settings)


HALVES = ([0.0, 1.0, 0.5, 1.0], [1.0, 1.0, 0.0, 0.0])
QUIET = in_torch(
    lambda torch, x, t, reduction="mean", **k: _torch_kl(torch, x, t, reduction, k.get("log_target", False))
)


def _torch_kl(torch: Any, x: Any, t: Any, reduction: str, log_target: bool) -> Any:
    """PyTorch warns that its own "mean" is not what its name says."""
    total = torch.nn.functional.kl_div(
        x, t, reduction="sum" if reduction == "mean" else reduction, log_target=log_target
    )
    return total / x.numel() if reduction == "mean" else total


ELEMENTWISE = [
    elementwise("mse_loss", lambda x, t: (x - t) ** 2, (normal, normal)),
    elementwise("l1_loss", lambda x, t: np.abs(x - t), (off_grid, on_grid)),
    elementwise(
        "huber_loss",
        huber,
        (off_grid, on_grid),
        {"delta": 0.5},
        errors=[Error(lambda f: f(A, A, delta=0.0), ValueError, r"huber_loss: delta must be greater than 0, got 0")],
    ),
    elementwise(
        "smooth_l1_loss",
        lambda x, t, beta=1.0: huber(x, t, beta) / beta if beta else np.abs(x - t),
        (off_grid, on_grid),
        {"beta": 0.5},
        {"beta": 0.0},
        errors=[Error(lambda f: f(A, A, beta=-1.0), ValueError, r"smooth_l1_loss: beta must not be negative, got -1")],
    ),
    elementwise(
        "binary_cross_entropy",
        bce,
        (shares, shares),
        finite=[at(*HALVES), at(*HALVES, reduction="none")],
        errors=[
            Error(lambda f: f(A * 1.5, A), ValueError, r"binary_cross_entropy: input must be in \[0, 1\], got 1\.5"),
            Error(lambda f: f(-A, A), ValueError, r"binary_cross_entropy: input must be .*-1"),
            Error(lambda f: f(A * np.nan, A), ValueError, r"binary_cross_entropy: input must be .*nan"),
        ],
    ),
    Entry(
        "binary_cross_entropy",
        loss(bce),
        [s(shares(3, 2), shares(3, 2), positive(2))],
        call=weighted_bce,
        finite=[at(*HALVES, [2.0])],
    ),
    elementwise(
        "binary_cross_entropy_with_logits",
        with_logits,
        (normal, shares),
        finite=[at(FAR[0], HALVES[1], reduction="none")],
    ),
    Entry(
        "binary_cross_entropy_with_logits",
        loss(with_logits),
        [
            s(normal(3, 2), shares(3, 2), positive(2)),
            s(normal(3, 2), shares(3, 2), positive(3, 1), positive(2), reduction="sum"),
        ],
        call=weighted_bce,
        finite=[at(FAR[0], HALVES[1], [2.0], [3.0])],
    ),
    Entry(
        "kl_div",
        kl_div,
        [
            *samples(normal, shares),
            *samples(normal, normal, log_target=True),
            s(normal(3, 4), shares(3, 4), reduction="batchmean"),
        ],
        torch=QUIET,
        finite=[at(FAR[0], [0.0, 1.0, 0.5, 1e-8])],
        errors=alike_errors("kl_div"),
    ),
    elementwise(
        "poisson_nll_loss",
        poisson,
        (normal, counts),
        {"full": True},
        {"log_input": False, "eps": 3.0},
        finite=[
            at([-1e4, 80.0, 0.0], [1e4, 1e4, 0.0]),
            at([0.0, 1e4, 1.0], [0.0, 1e4, 1.0], log_input=False, full=True),
        ],
        torch=in_torch(lambda torch, x, t, **k: torch.nn.functional.poisson_nll_loss(x, t, **k)),
    ),
    elementwise(
        "gaussian_nll_loss",
        gaussian,
        (normal, normal, positive),
        {"full": True},
        finite=[at(*FAR), at([1.0], [2.0], [0.0])],
        errors=[
            Error(lambda f: f(A, A, -A), ValueError, r"gaussian_nll_loss: var must be in \[0, inf\], got -1"),
            Error(lambda f: f(A, A, A.astype("f4")), TypeError, r"gaussian_nll_loss: .*var is float32"),
        ],
    ),
]

# ---- margins ---------------------------------------------------------------------------------------------------------


def triplet(a: Any, b: Any, c: Any, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False) -> Any:
    near, far = distance(a, b, p, eps), distance(a, c, p, eps)
    return np.maximum(near - (np.minimum(far, distance(b, c, p, eps)) if swap else far) + margin, 0)


def distance(a: Any, b: Any, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False) -> Any:
    return (np.abs(a - b + eps) ** p).sum(axis=-1, keepdims=keepdims) ** (1 / p)


def cosine(a: Any, b: Any, axis: int = 1, eps: float = 1e-8) -> Any:
    lengths = [np.maximum(np.sqrt((x * x).sum(axis=axis)), eps) for x in (a, b)]
    return (a * b).sum(axis=axis) / (lengths[0] * lengths[1])


def cosine_loss(a: Any, b: Any, t: Any, margin: float = 0.0) -> Any:
    return np.where(t > 0, 1 - cosine(a, b, -1), np.maximum(cosine(a, b, -1) - margin, 0))


def multi_margin(x: Any, t: Any, weight: Any = None, p: int = 1, margin: float = 1.0) -> Any:
    rows, labels = np.atleast_2d(x), np.atleast_1d(t)
    out = np.zeros(len(rows), x.dtype)
    for n, (row, k) in enumerate(zip(rows, labels, strict=True)):
        terms = [max(0, margin - row[k] + v) ** p for j, v in enumerate(row) if j != k]
        out[n] = sum(terms) / len(row) * (1 if weight is None else weight[k])
    return out.reshape(t.shape)


def margin_call(f: Any, x: Any, t: Any, *weight: Any, **settings: Any) -> Any:
    return f(x, t, **dict(zip(("weight",), weight, strict=False)), **settings)


TRIPLES = [normal(4, 3)] * 3
MARGINS = [
    elementwise(
        "hinge_embedding_loss",
        lambda x, t, margin=1.0: np.where(t > 0, x, np.maximum(margin - x, 0)),
        (off_grid, signs),
        {"margin": 1.5},
    ),
    elementwise(
        "margin_ranking_loss",
        lambda x, y, t, margin=0.0: np.maximum(margin - t * (x - y), 0),
        (off_grid, on_grid, signs),
        {"margin": 0.5},
    ),
    Entry(
        "triplet_margin_loss",
        loss(triplet),
        [
            *(s(*TRIPLES, reduction=r) for r in REDUCTIONS),
            s(*TRIPLES, margin=3.0, p=3.0),
            s(*TRIPLES, swap=True),
            s(normal(0, 3), normal(0, 3), normal(0, 3), reduction="sum"),
        ],
        torch="nn.functional.triplet_margin_loss",
        finite=[at([[1e4, -1e4]], [[1e4, -1e4]], [[0.0, 1e4]])],
        errors=alike_errors("triplet_margin_loss", 2)[:4],
    ),
    Entry(
        "cosine_embedding_loss",
        loss(cosine_loss),
        [
            *(s(normal(4, 3), normal(4, 3), signs(4), reduction=r) for r in REDUCTIONS),
            s(normal(4, 3), normal(4, 3), signs(4), margin=0.25),
            s(normal(3), normal(3), signs()),
        ],
        torch="nn.functional.cosine_embedding_loss",
        rtol=1e-9,
        finite=[at([[1e4, -1e4], [0.0, 0.0]], [[1e4, 1e4], [1.0, 2.0]], [1.0, -1.0])],
        errors=[
            Error(lambda f: f(A, np.ones((3, 2)), V), ValueError, r"cosine_embedding_loss: .*\(2, 3\).*\(3, 2\)"),
            Error(lambda f: f(A, A, V), ValueError, r"cosine_embedding_loss: target must be \(2,\), got \(3,\)"),
        ],
    ),
    Entry(
        "multi_margin_loss",
        loss(multi_margin),
        [
            *(s(on_grid(4, 3), integers(4), margin=0.75, reduction=r) for r in REDUCTIONS),
            s(on_grid(4, 3), integers(4), positive(3), margin=1.25, p=2),
            s(on_grid(3), integers(), margin=0.75),
        ],
        call=margin_call,
        finite=[at([[1e4, -1e4, 0.0]], [1], p=2)],
        errors=[
            Error(
                lambda f: f(A, np.array([0, 3])),
                IndexError,
                r"multi_margin_loss: targets must lie in \[0, 3\), got 3 at index 1",
            ),
            Error(lambda f: f(A, np.array([0])), ValueError, r"multi_margin_loss: input must be .*\(2, 3\) \(1,\)"),
            Error(lambda f: f(A, np.array([0, 1]), p=3), ValueError, r"multi_margin_loss: p must be 1 or 2, got 3"),
            Error(lambda f: f(A, np.array([0, 1]), reduction="avg"), ValueError, r"multi_margin_loss: reduction"),
        ],
    ),
]

# ---- classes ---------------------------------------------------------------------------------------------------------


def log_softmax(x: Any, axis: int) -> Any:
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def nll(
    log_p: Any,
    t: Any,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    smoothing: float = 0.0,
) -> Any:
    axis = 0 if log_p.ndim == 1 else 1
    rows, c = np.moveaxis(log_p, axis, -1).reshape(-1, log_p.shape[axis]), log_p.shape[axis]
    w = np.ones(c, log_p.dtype) if weight is None else weight
    losses, total = np.zeros(len(rows), log_p.dtype), 0
    for n, (row, k) in enumerate(zip(rows, t.ravel(), strict=True)):
        if k != ignore_index:
            losses[n] = -(1 - smoothing) * w[k] * row[k] - smoothing / c * (w * row).sum()
            total += w[k]
    return reduced(losses.reshape(t.shape), reduction, total or 1)


def cross_entropy(x: Any, t: Any, weight: Any = None, label_smoothing: float = 0.0, **settings: Any) -> Any:
    axis = 0 if x.ndim == 1 else 1
    if t.dtype.kind != "f":
        return nll(log_softmax(x, axis), t, weight, smoothing=label_smoothing, **settings)
    q = t * (1 - label_smoothing) + label_smoothing / x.shape[axis]
    w = 1 if weight is None else weight.reshape((-1,) + (1,) * (x.ndim - axis - 1))
    return reduced(-(q * w * log_softmax(x, axis)).sum(axis=axis), settings.get("reduction", "mean"))


def theirs(name: str) -> Callable:
    """Return PyTorch's function without the ignored -100 where we ignore nothing."""
    return in_torch(
        lambda torch, x, t, **k: getattr(torch.nn.functional, name)(x, t if t.is_floating_point() else t.long(), **k)
    )


SPECIAL: list[dict] = [
    {"ignore_index": 1},
    {"ignore_index": -1, "reduction": "sum"},
    {"ignore_index": 0, "reduction": "none"},
]
SMOOTH: list[dict] = [
    {"label_smoothing": 0.25},
    {"label_smoothing": 1.0, "reduction": "none"},
    {"label_smoothing": 0.1, "ignore_index": 2},
]
LABELS = fixed([0, -1, 1, 2])
ROWS = [[0.0, 0.0, 0.0], [1e4, 0.0, -1e4], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]]

CLASSES = [
    Entry(
        "nll_loss",
        nll,
        [s(normal(4, 3), integers(4), reduction=r) for r in REDUCTIONS]
        + [
            s(normal(2, 3, 2), integers(2, 2)),
            s(normal(3), integers()),
            *(
                s(normal(4, 3), fixed([0, 2, 1, 2]), **k)
                for k in ({"ignore_index": 2}, {"ignore_index": 1, "reduction": "sum"})
            ),
        ],
        torch=theirs("nll_loss"),
        finite=[at(ROWS, [0, 1, 2, 0])],
        errors=[
            Error(
                lambda f: f(A, np.array([0, 3])),
                IndexError,
                r"nll_loss: targets must lie in \[0, 3\), got 3 at index 1",
            ),
            Error(
                lambda f: f(A, np.array([0, -7]), ignore_index=-1), IndexError, r"nll_loss: targets .*got -7 at index 1"
            ),
            Error(lambda f: f(A, np.array([0.0, 1.0])), TypeError, r"nll_loss: targets must be integer.*float64"),
            Error(lambda f: f(A, V.astype(int)), ValueError, r"nll_loss: target \(3,\) must be input \(2, 3\)"),
            Error(
                lambda f: f(A, np.array([0, 1]), weight=np.ones(2)),
                ValueError,
                r"nll_loss: weight must be \(3,\).*\(2,\)",
            ),
            Error(lambda f: f(A, np.array([0, 1]), reduction="avg"), ValueError, r"nll_loss: reduction"),
            Error(lambda f: f(np.ones((0, 3)), np.zeros(0, int)), ValueError, r"nll_loss: the mean of an empty batch"),
        ],
    ),
    # PyTorch has no derivative in the weights: those are compared with NumPy alone.
    Entry(
        "nll_loss",
        nll,
        [s(normal(2, 3, 2), integers(2, 2), positive(3)), s(normal(4, 3), LABELS, positive(3), ignore_index=-1)],
        call=margin_call,
        finite=[at(ROWS, [0, 1, 2, 0], [1e4, 0.0, 1.0])],
    ),
    Entry(
        "cross_entropy",
        cross_entropy,
        [
            s(normal(4, 3), LABELS, positive(3), ignore_index=-1),
            s(normal(2, 3, 2), integers(2, 2), positive(3)),
            s(normal(2, 3, 2), shares(2, 3, 2), positive(3), label_smoothing=0.5),
        ],
        call=margin_call,
        finite=[at(ROWS, [0, 1, 2, 0], [1e4, 0.0, 1.0])],
    ),
    Entry(
        "cross_entropy",
        cross_entropy,
        [
            *(s(normal(4, 3), fixed([0, 2, 1, 2]), **k) for k in SPECIAL + SMOOTH),
            *(s(normal(4, 3), shares(4, 3), reduction=r) for r in REDUCTIONS),
            s(normal(3), shares(3)),
            s(normal(3), integers(), label_smoothing=0.5),
            s(normal(0, 3), integers(0), reduction="sum", label_smoothing=0.5),
        ],
        torch=theirs("cross_entropy"),
        finite=[
            at(ROWS, [0, 1, 2, 0], label_smoothing=0.1),
            at(ROWS, [0, 1, 2, 0], ignore_index=0),
            at(ROWS, [1, 1, 1, 1], ignore_index=1),
            at(ROWS, [[0.0, 1.0, 0.0]] * 4),
            at([[0.0, -np.inf, 1.0]], [[0.5, 0.0, 0.5]]),
        ],
        errors=[
            Error(
                lambda f: f(A, np.array([0, 3]), label_smoothing=0.1),
                IndexError,
                r"cross_entropy: .*\[0, 3\).*3.*index 1",
            ),
            Error(lambda f: f(A, np.array([-1, -7]), ignore_index=-1), IndexError, r"cross_entropy: .*-7 at index 1"),
            Error(
                lambda f: f(A, np.array([0, 1]), label_smoothing=1.5),
                ValueError,
                r"cross_entropy: label_smoothing must be in \[0, 1\], got 1\.5",
            ),
            Error(
                lambda f: f(A, np.array([0, 1]), weight=np.ones(2)),
                ValueError,
                r"cross_entropy: weight must be \(3,\).*\(2,\)",
            ),
            Error(lambda f: f(A, A, ignore_index=1), ValueError, r"cross_entropy: ignore_index needs .*classes"),
            Error(lambda f: f(A, A.astype("f4")), TypeError, r"cross_entropy: .*float64.*float32"),
            Error(
                lambda f: f(A, np.array([0.0, 1.0]), label_smoothing=0.1),
                TypeError,
                r"cross_entropy: targets must be integer",
            ),
            Error(
                lambda f: f(A, np.array([0, 1, 2]), weight=V), ValueError, r"cross_entropy: .*\(2, 3\).*\(2,\).*\(3,\)"
            ),
            Error(lambda f: f(A[:0], A[:0]), ValueError, r"cross_entropy: the mean of an empty batch"),
        ],
    ),
    Entry(
        "one_hot",
        lambda t, num_classes: np.eye(num_classes, dtype=np.int64)[t],
        [
            s(integers(4), num_classes=3),
            s(integers(2, 3), num_classes=5),
            s(integers(), num_classes=3),
            s(integers(0), num_classes=2),
        ],
        orders=0,
        torch="nn.functional.one_hot",
        errors=[
            Error(
                lambda f: f(np.array([0, 3]), 3), IndexError, r"one_hot: targets must lie in \[0, 3\), got 3 at index 1"
            ),
            Error(lambda f: f(np.array([-1]), 3), IndexError, r"one_hot: .*-1 at index 0"),
            Error(lambda f: f(np.array([0]), 0), ValueError, r"one_hot: num_classes must be at least 1, got 0"),
            Error(lambda f: f(V, 3), TypeError, r"one_hot: needs integer .*float64"),
        ],
    ),
    Entry(
        "embedding",
        lambda i, w, padding_idx=None: w[i],
        [
            s(integers(4), normal(3, 2)),
            s(integers(2, 3), normal(3, 2)),
            s(integers(), normal(3, 2)),
            s(integers(0), normal(3, 2)),
            s(fixed([1, 1, 1]), normal(3, 2)),
        ],
        torch="nn.functional.embedding",
        finite=[at([0, 1, 1], [[1e4], [-1e4]])],
        errors=[
            Error(lambda f: f(np.array([0, 2]), A), IndexError, r"embedding: .*\[0, 2\), got 2 at index 1"),
            Error(lambda f: f(np.array([-1]), A), IndexError, r"embedding: .*-1 at index 0"),
            Error(lambda f: f(np.array([0]), V), ValueError, r"embedding: weight must be \(m, k\), got \(3,\)"),
            Error(
                lambda f: f(np.array([0]), A, padding_idx=2),
                ValueError,
                r"embedding: padding_idx must be in \[-2, 2\), got 2",
            ),
            Error(lambda f: f(V, A), TypeError, r"embedding: needs integer"),
        ],
    ),
]

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
TORCH_ATTENTION = "nn.functional.scaled_dot_product_attention"

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


ENTRIES = [*ELEMENTWISE, *MARGINS, *CLASSES, *VECTORS, *NORMS]
