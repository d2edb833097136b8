"""Entries of minidl/ops/linalg.py and network.py."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl as md
from entry import ROWS, Entry, Error, Sample, at, axis_errors, fixed, in_torch, integers, normal, positive, s
from minidl import random

A, V = np.ones((2, 3)), np.ones(3)

# ---- products --------------------------------------------------------------------------------------------------------

MATRICES = [
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((1, 3), (3, 1)),
    ((5, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (3, 3, 2)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((0, 3), (3, 2)),
    ((2, 0), (0, 3)),
    ((2, 3), (3, 0)),
    ((0,), (0,)),
    ((0, 2, 3), (3, 1)),
]

PRODUCTS = [
    Entry(
        "matmul",
        np.matmul,
        [s(normal(*a), normal(*b)) for a, b in MATRICES],
        numpy=np.matmul,
        torch="matmul",
        finite=[at([[1e4, -1e4], [1e-8, 0.0]], [[1e4, 1e4], [1e4, -1e-8]])],
        errors=[
            Error(lambda f: f(A, np.ones((4, 5))), ValueError, r"matmul: .*3 columns.*4 rows.*\(2, 3\).*\(4, 5\)"),
            Error(lambda f: f(A, A), ValueError, r"matmul: .*\(2, 3\).*\(2, 3\).*did you mean a @ b\.T"),
            Error(lambda f: f(A, np.ones(())), ValueError, r"matmul: .*\(2, 3\).*\(\)"),
            Error(lambda f: f(A, 2.0), (TypeError, ValueError), r"matmul: .*(\*|number|0-d)"),
            Error(lambda f: f(V, np.ones(2)), ValueError, r"matmul: .*\(3,\).*\(2,\)"),
            Error(
                lambda f: f(np.ones((2, 2, 3)), np.ones((3, 3, 4))), ValueError, r"matmul: .*\(2, 2, 3\).*\(3, 3, 4\)"
            ),
            Error(lambda f: f(A, A.T.astype("f4")), TypeError, r"matmul: .*float64.*float32.*astype"),
        ],
    ),
    Entry(
        "linear",
        lambda x, w, b=None: x @ w.T + (0 if b is None else b),
        [
            s(normal(4, 3), normal(2, 3), normal(2)),
            s(normal(4, 3), normal(2, 3)),
            s(normal(3), normal(2, 3), normal(2)),
            s(normal(3), normal(2, 3)),
            s(normal(5, 4, 3), normal(2, 3), normal(2)),
            s(normal(5, 4, 3), normal(2, 3)),
            s(normal(0, 3), normal(2, 3), normal(2)),
            s(normal(1, 3), normal(1, 3), normal(1)),
            s(normal(3, 3), normal(3, 3), normal(3)),
        ],
        torch="nn.functional.linear",
        finite=[at([[1e4, -1e4]], [[1e4, 1e4], [1e-8, 0.0]], [1e4, -1e4])],
        errors=[
            Error(lambda f: f(A, np.ones((4, 5)), np.ones(4)), ValueError, r"linear: .*\(2, 3\).*5.*\(4, 5\)"),
            Error(lambda f: f(A, np.ones((4, 3)), np.ones(5)), ValueError, r"linear: .*\(5,\)"),
            Error(lambda f: f(A, np.ones((4, 3)), np.ones((2, 4))), ValueError, r"linear: .*\(2, 4\)"),
            Error(lambda f: f(A, np.ones(3), np.ones(3)), ValueError, r"linear: .*\(3,\)"),
            Error(lambda f: f(A, np.ones((4, 3), "f4"), np.ones(4)), TypeError, r"linear: .*float64.*float32.*astype"),
            Error(lambda f: f(A, np.ones((4, 3)), np.ones(4, "f4")), TypeError, r"linear: .*float64.*float32.*astype"),
        ],
    ),
]

# ---- softmax ---------------------------------------------------------------------------------------------------------


def _softmax(x: Any, axis: int = -1) -> Any:
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def _log_softmax(x: Any, axis: int = -1) -> Any:
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def _cross_entropy(x: Any, target: Any, reduction: str = "mean") -> Any:
    axis = 0 if x.ndim == 1 else 1
    picked = np.take_along_axis(_log_softmax(x, axis), np.expand_dims(target, axis), axis)
    losses = -np.squeeze(picked, axis)
    return {"mean": losses.mean, "sum": losses.sum, "none": losses.copy}[reduction]()


SCORES = [
    s(normal(4, 3)),
    s(normal(4, 3), axis=0),
    s(normal(2, 3, 4), axis=1),
    s(normal(2, 3, 4), axis=-2),
    s(normal(3)),
    s(normal(1)),
    s(normal(0, 3)),
    s(normal(3, 1), axis=1),
]
LABELS = [0, 1, 2, 0, 1]

SOFTMAX = [
    Entry(
        "softmax",
        _softmax,
        SCORES,
        torch=in_torch(lambda torch, x, axis=-1: torch.softmax(x, axis)),
        finite=[at(ROWS), at([0.0, -np.inf]), at([[-np.inf, -np.inf], [0.0, 1.0]])],
        errors=[*axis_errors()[:1], axis_errors()[2]],
    ),
    Entry(
        "log_softmax",
        _log_softmax,
        SCORES,
        torch=in_torch(lambda torch, x, axis=-1: torch.log_softmax(x, axis)),
        finite=[at(ROWS)],
        errors=[*axis_errors()[:1], axis_errors()[2]],
    ),
    Entry(
        "cross_entropy",
        _cross_entropy,
        [s(normal(4, 3), integers(4), reduction=r) for r in ("mean", "sum", "none")]
        + [
            s(normal(3), integers()),
            s(normal(2, 3, 4), integers(2, 4), reduction="none"),
            s(normal(2, 3, 2, 2), integers(2, 2, 2)),
            s(normal(0, 3), integers(0), reduction="sum"),
            s(normal(0, 3), integers(0), reduction="none"),
            s(normal(2, 1), integers(2, below=1)),
            s(normal(3), integers(), reduction="none"),
            s(normal(3, 3), fixed([2, 0, 1], np.uint8)),
            s(normal(3, 3), fixed([2, 0, 1], np.int32), reduction="sum"),
        ],
        torch=in_torch(lambda torch, x, t, **settings: torch.nn.functional.cross_entropy(x, t.long(), **settings)),
        finite=[
            at(ROWS, LABELS),
            at(ROWS, LABELS, reduction="sum"),
            at(ROWS, LABELS, reduction="none"),
            at(ROWS, LABELS[::-1], reduction="none"),
        ],
        errors=[
            Error(lambda f: f(A, np.array([0, 3])), IndexError, r"cross_entropy: .*\[0, 3\).*3.*index 1"),
            Error(lambda f: f(A, np.array([-1, 0])), IndexError, r"cross_entropy: .*\[0, 3\).*-1.*index 0"),
            Error(lambda f: f(A, np.array([0, 300], np.uint16)), IndexError, r"cross_entropy: .*300.*index 1"),
            Error(lambda f: f(A, np.array([0.0, 1.0])), TypeError, r"cross_entropy: .*integer.*float64"),
            Error(lambda f: f(A, np.array([True, False])), TypeError, r"cross_entropy: .*integer.*bool"),
            Error(lambda f: f(A, np.array([0, 1, 2])), ValueError, r"cross_entropy: .*\(2, 3\).*\(2,\).*\(3,\)"),
            Error(lambda f: f(A, np.array([[0], [1]])), ValueError, r"cross_entropy: .*\(2,\).*\(2, 1\)"),
            Error(lambda f: f(A, np.array([0, 1]), reduction="avg"), ValueError, r"cross_entropy: .*reduction.*'avg'"),
            Error(lambda f: f(np.ones(()), np.array(0)), ValueError, r"cross_entropy: "),
            Error(lambda f: f(np.ones((0, 3)), np.zeros(0, int)), ValueError, r"cross_entropy: .*(empty|at least one)"),
            Error(lambda f: f(np.ones((2, 3), int), np.array([0, 1])), TypeError, r"cross_entropy: .*int64"),
        ],
    ),
]

# ---- batch normalization and dropout ---------------------------------------------------------------------------------


def _spread(v: Any, x: Any) -> Any:
    return v.reshape((-1,) + (1,) * (x.ndim - 2))


def _batch_norm(x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    mean, var, weight, bias = (_spread(v, x) for v in (mean, var, weight, bias))
    return (x - mean) / np.sqrt(var + x.dtype.type(eps)) * weight + bias


def _batch_norm_train(x: Any, weight: Any, bias: Any, eps: float) -> tuple:
    axes = tuple(i for i in range(x.ndim) if i != 1)
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    return _batch_norm(x, mean, var, weight, bias, eps), mean, var


def _torch_batch_norm_train(torch: Any, x: Any, weight: Any, bias: Any, eps: float) -> tuple:
    axes = [i for i in range(x.ndim) if i != 1]
    y = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    return y, x.mean(axes), x.var(axes, correction=0)


def _channels(*shape: int, statistics: bool = False, **settings: Any) -> Sample:
    vectors = [normal(shape[1]), positive(shape[1])] if statistics else []
    return s(normal(*shape), *vectors, positive(shape[1]), normal(shape[1]), **settings)


def _seeded(f: Any, *xs: Any, **settings: Any) -> Any:
    md.manual_seed(11)
    return f(*xs, **settings)


def _mask(x: Any, p: float) -> Any:
    keep = random.generator().random(x.shape, dtype=np.float32) >= p
    return (keep / (1 - p) if p < 1 else keep * 0.0).astype(x.dtype)


def _dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    return x * _mask(x, p) if training and p else x


OUT_OF_RANGE = [Error(lambda f, p=p: f(A, p=p), ValueError, rf"p must be .*{p}") for p in (-0.1, 1.5, float("nan"))]

NORMS = [
    Entry(
        "batch_norm_train",
        _batch_norm_train,
        [
            _channels(4, 3, eps=1e-5),
            _channels(4, 3, eps=0.1),
            _channels(2, 3, 4, eps=1e-3),
            _channels(2, 3, 2, 2, eps=1e-3),
            _channels(3, 1, eps=1e-5),
        ],
        torch=in_torch(_torch_batch_norm_train),
        sample_inputs=(),
        finite=[
            at([[1e4, -1e4], [-1e4, 1e3], [0.0, 0.0]], [1.0, 2.0], [0.0, 1.0], eps=1e-5),
            at([[1.0, 5.0], [1.0, 5.0]], [1.0, 2.0], [0.0, 1.0], eps=1e-5),
        ],
        errors=[
            Error(lambda f: f(V, V, V, eps=1e-5), ValueError, r"batch_norm_train: .*\(3,\)"),
            Error(lambda f: f(np.ones((0, 3)), V, V, eps=1e-5), ValueError, r"batch_norm_train: .*\(0, 3\)"),
            Error(lambda f: f(A, np.ones(2), V, eps=1e-5), ValueError, r"batch_norm_train: .*\(2,\)"),
            Error(lambda f: f(A, V, np.ones(2), eps=1e-5), ValueError, r"batch_norm_train: .*\(2,\)"),
            Error(lambda f: f(A, V.astype("f4"), V, eps=1e-5), TypeError, r"batch_norm_train: .*float64.*float32"),
        ],
    ),
    Entry(
        "batch_norm",
        _batch_norm,
        [
            _channels(4, 3, statistics=True),
            _channels(2, 3, 4, statistics=True, eps=0.1),
            _channels(1, 3, statistics=True),
            _channels(0, 3, statistics=True),
        ],
        torch=in_torch(
            lambda torch, x, m, v, w, b, eps=1e-5: (
                (x - _spread(m, x)) / (_spread(v, x) + eps).sqrt() * _spread(w, x) + _spread(b, x)
            )
        ),
        finite=[at([[1e4], [-1e4]], [1e4], [0.0], [1.0], [0.0]), at([[1e4], [-1e4]], [0.0], [1e4], [1.0], [0.0])],
        errors=[
            Error(lambda f: f(V, V, V, V, V), ValueError, r"batch_norm: .*\(3,\)"),
            Error(lambda f: f(A, V, V, np.ones(2), V), ValueError, r"(batch_norm|divide|multiply): .*\(2,\)"),
        ],
    ),
    Entry(
        "dropout",
        _dropout,
        [
            s(normal(4, 3)),
            s(normal(4, 3), p=0.2),
            s(normal(4), p=0.0),
            s(normal(4), p=1.0),
            s(normal()),
            s(normal(0, 3)),
            s(normal(4), p=0.9, training=False),
        ],
        call=_seeded,
        transfers=1,
        rtol=1e-7,
        errors=OUT_OF_RANGE,
    ),
    Entry(
        "dropout_mask",
        _mask,
        [s(normal(4, 3), p=0.5), s(normal(3), p=1.0), s(normal(0), p=0.5)],
        call=_seeded,
        orders=0,
        transfers=1,
        rtol=1e-7,
        errors=OUT_OF_RANGE,
    ),
]

ENTRIES = [*PRODUCTS, *SOFTMAX, *NORMS]
