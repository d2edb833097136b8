"""Entries of minidl/ops/losses.py, but for those of classes."""

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
    a, b = np.broadcast_arrays(a, b)
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

ENTRIES = [*ELEMENTWISE, *MARGINS]
