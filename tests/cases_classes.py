"""Entries of losses of classes, the general cross-entropy among them, and of classes as vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cases_losses import REDUCTIONS, A, V, margin_call, reduced, shares
from entry import Entry, Error, at, fixed, in_torch, integers, normal, positive, s

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

ENTRIES = CLASSES
