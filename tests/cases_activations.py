"""Entries of minidl/ops/activations.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from entry import ANY, Entry, Error, Input, at, in_torch, normal, number_errors, off_zero, s, unary


def between(*shape: int) -> Input:
    """Return numbers halfway between integers, from -7.5 to 7.5: all kinks lie at integers."""
    return Input(shape, lambda rng, shape: rng.integers(-8, 8, shape) + 0.5)


def erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[float])(x).astype(x.dtype)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return np.where(x * beta > threshold, x, np.logaddexp(x.dtype.type(0), x * beta) / beta)


def elu(x: Any, alpha: float = 1.0) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(x))


def gelu(x: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        return x * (1 + erf(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def prelu(x: Any, weight: Any) -> Any:
    slopes = np.broadcast_to(weight, x.shape[1:2] if x.ndim > 1 else (1,))
    return np.where(x > 0, x, x * slopes.reshape((-1,) + (1,) * max(x.ndim - 2, 0))).reshape(x.shape)


def softmin(x: Any, axis: int = -1) -> Any:
    return np.exp(-x) / np.exp(-x).sum(axis=axis, keepdims=True)


def glu(x: Any, axis: int = -1) -> Any:
    a, b = np.split(x, 2, axis)
    return a * sigmoid(b)


def function(name: str, reference: Any, make: Any, *settings: dict, **more: Any) -> Entry:
    """Return the entry of an activation, with and without its settings."""
    samples = unary(make) + [s(make(3, 4), **chosen) for chosen in settings]
    more.setdefault("torch", f"nn.functional.{name}")
    more.setdefault("finite", [at(ANY)] + [at(ANY, **chosen) for chosen in settings])
    return Entry(name, reference, samples, **more | {"errors": number_errors(name) + more.get("errors", [])})


SELU = 1.6732632423543772, 1.0507009873554805
SIXTH = in_torch(lambda torch, x: torch.nn.functional.relu6(x + 3) / 6)  # its own has a sixth in float32

ENTRIES = [
    function(
        "leaky_relu",
        lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x),
        off_zero,
        {"negative_slope": 0.5},
    ),
    function("elu", elu, off_zero, {"alpha": 0.5}),
    function("selu", lambda x: SELU[1] * elu(x, SELU[0]), off_zero),
    function(
        "celu",
        lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(x / alpha)),
        off_zero,
        {"alpha": 2.0},
        errors=[Error(lambda f: f(np.ones(2), alpha=0), ValueError, r"celu: alpha must not be 0")],
    ),
    function("relu6", lambda x: np.clip(x, 0, 6), between),
    function(
        "hardtanh",
        lambda x, min_val=-1.0, max_val=1.0: np.clip(x, min_val, max_val),
        between,
        {"min_val": -3.0, "max_val": 2.0},
        errors=[
            Error(
                lambda f: f(np.ones(2), min_val=1.0, max_val=1.0),
                ValueError,
                r"hardtanh: min_val must be less.*1.0 and 1.0",
            )
        ],
    ),
    function("hardsigmoid", lambda x: np.clip(x + 3, 0, 6) / 6, between, torch=SIXTH),
    function("hardswish", lambda x: x * np.clip(x + 3, 0, 6) / 6, between),
    function(
        "softplus",
        softplus,
        between,
        {"beta": 0.5},
        {"beta": 2.0, "threshold": 4.0},
        {"threshold": math.inf},
        torch=in_torch(lambda torch, x, **k: torch.nn.functional.softplus(x, **k)),
    ),
    function("log_sigmoid", lambda x: np.log(sigmoid(x)), normal, torch="nn.functional.logsigmoid"),
    function("silu", lambda x: x * sigmoid(x), normal),
    function("mish", lambda x: x * np.tanh(softplus(x)), normal),
    function(
        "gelu",
        gelu,
        normal,
        {"approximate": "tanh"},
        errors=[Error(lambda f: f(np.ones(2), approximate="erf"), ValueError, r"gelu: approximate must be .*'erf'")],
    ),
    function("softsign", lambda x: x / (1 + np.abs(x)), off_zero),
    Entry(
        "threshold",
        lambda x, threshold, value: np.where(x > threshold, x, x.dtype.type(value)),
        [
            s(between(3, 4), threshold=1.0, value=7.0),
            s(between(), threshold=0.0, value=-2.0),
            s(between(0), threshold=0.0, value=0.0),
        ],
        torch="nn.functional.threshold",
        finite=[at(ANY, threshold=1.0, value=2.0)],
        errors=[Error(lambda f: f("x", 1.0, 2.0), TypeError, r"threshold: .*str")],
    ),
    Entry(
        "prelu",
        prelu,
        [
            s(off_zero(2, 3), normal(3)),
            s(off_zero(2, 3, 2), normal(3)),
            s(off_zero(2, 3), normal(1)),
            s(off_zero(3), normal(1)),
            s(off_zero(), normal(1)),
            s(off_zero(0, 3), normal(3)),
        ],
        torch="nn.functional.prelu",
        finite=[at([ANY], [1e4] * 7), at(ANY, [1e-8])],
        errors=[
            Error(
                lambda f: f(np.ones((2, 3)), np.ones(2)), ValueError, r"prelu: weight must be \(1,\) or \(3,\).*\(2,\)"
            ),
            Error(lambda f: f("x", np.ones(2)), TypeError, r"prelu: .*str"),
        ],
    ),
    Entry(
        "softmin",
        softmin,
        [s(normal(4, 3)), s(normal(4, 3), axis=0), s(normal(3)), s(normal(0, 3))],
        torch=in_torch(lambda torch, x, axis=-1: torch.nn.functional.softmin(x, axis)),
        finite=[at([ANY, ANY[::-1]])],
        errors=[Error(lambda f: f(np.ones(3), dim=0), TypeError, r"softmin: dim=.*axis=")],
    ),
    Entry(
        "glu",
        glu,
        [
            s(normal(3, 4)),
            s(normal(4, 3), axis=0),
            s(normal(2)),
            s(normal(2, 4, 2), axis=-2),
            s(normal(0, 2)),
            s(normal(2, 0)),
        ],
        torch=in_torch(lambda torch, x, axis=-1: torch.nn.functional.glu(x, axis)),
        finite=[at([ANY + ANY]), at([ANY + ANY[::-1]])],
        errors=[
            Error(lambda f: f(np.ones((2, 3))), ValueError, r"glu: the length along axis 1 must be even, got \(2, 3\)"),
            Error(lambda f: f(np.ones(4), axis=1), np.exceptions.AxisError, r"glu"),
            Error(lambda f: f(np.ones(4), dim=0), TypeError, r"glu: dim=.*axis="),
        ],
    ),
]
