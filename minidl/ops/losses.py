"""Losses, made of operations: each is the mean over its elements, their sum, or all of them (`reduction`).

`cross_entropy` is in `network`, where its fused form is. No loss broadcasts: a shape that differs is a mistake.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine.op import Op
from .activations import softplus
from .composed import composed, look
from .elementwise import absolute, exp, log, minimum, sqrt, where
from .functions import xlogy
from .linalg import check_dtypes
from .network import check_reduction, expected_loss, indicator, reduced, relu
from .reduce import sum
from .rounding import clip
from .vectors import pairwise_distance

# ---- arguments ---------------------------------------------------------------------------------------------------


def check_alike(who: str, reduction: str, **named: Any) -> None:
    """Raise unless arrays have one shape (ValueError) and one dtype (TypeError), and the reduction is one."""
    check_reduction(who, reduction)
    (first, x), *others = named.items()
    for name, y in others:
        if not hasattr(y, "dtype"):
            raise TypeError(f"{who}: {name} must be a Tensor or an array, got {type(y).__name__}")
        if y.shape != x.shape:
            raise ValueError(f"{who}: {first} {x.shape} and {name} {y.shape} must have one shape; reshape one of them")
        check_dtypes(who, (first, x), (name, y))


def _values_within(who: str, name: str, x: Any, low: float, high: float) -> None:
    """Raise ValueError for values outside of [low, high], or NaN."""

    def check(array: np.ndarray) -> None:
        if array.size and not (array.min() >= low and array.max() <= high):
            wrong = array[~((array >= low) & (array <= high))]
            raise ValueError(f"{who}: {name} must be in [{low:g}, {high:g}], got {wrong[0]}")

    look(x, check)


def _check_signs(who: str, target: Any) -> None:
    """Raise ValueError for targets of 0, as classes 0 and 1 have."""

    def check(array: np.ndarray) -> None:
        if not array.all():
            raise ValueError(f"{who}: targets must be 1 or -1, got 0; of classes 0 and 1 make 2 t - 1")

    look(target, check)


def _check_weights(who: str, input: Any, **named: Any) -> None:
    """Raise unless weights are of the input's dtype (TypeError) and broadcast to its shape, no further (ValueError)."""
    for name, weight in named.items():
        if weight is not None:
            check_dtypes(who, ("input", input), (name, weight))
            ends = zip(weight.shape[::-1], input.shape[::-1], strict=False)
            if weight.ndim > input.ndim or any(n not in (1, m) for n, m in ends):
                raise ValueError(f"{who}: {name} {weight.shape} must broadcast to the input's shape {input.shape}")


# ---- differences -------------------------------------------------------------------------------------------------


@composed
def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Compute the squared error (input - target)^2.

    >>> mse_loss(tensor([1.0, 2.0]), tensor([1.0, 5.0]))
    tensor(4.5)
    """
    check_alike("mse_loss", reduction, input=input, target=target)
    difference = input - target
    return reduced("mse_loss", difference * difference, reduction)


@composed
def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Compute the absolute error |input - target|. The derivative at 0 is 0.

    >>> l1_loss(tensor([1.0, 2.0]), tensor([1.0, 5.0]))
    tensor(1.5)
    """
    check_alike("l1_loss", reduction, input=input, target=target)
    return reduced("l1_loss", absolute(input - target), reduction)


@composed
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """Compute d^2 / 2 for a difference |d| <= delta and delta (|d| - delta / 2) beyond: squared, but linear far out.

    Huber 1964, Ann. Math. Stat. 35, Sec. 9. ValueError unless delta > 0.

    >>> huber_loss(tensor([1.0, 5.0]), tensor([0.0, 0.0]), reduction="none")
    tensor([0.5, 4.5])
    """
    check_alike("huber_loss", reduction, input=input, target=target)
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be greater than 0, got {delta}")
    return reduced("huber_loss", _huber(input - target, delta), reduction)


def _huber(difference: Any, delta: float) -> Any:
    size = absolute(difference)
    return where(size <= delta, difference * difference * 0.5, (size - 0.5 * delta) * delta)


@composed
def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """Compute d^2 / (2 beta) for a difference |d| <= beta and |d| - beta / 2 beyond; beta = 0 is `l1_loss`.

    Girshick 2015, arXiv:1504.08083, Eq. 3. ValueError for a negative beta.

    >>> smooth_l1_loss(tensor([1.0, 5.0]), tensor([0.0, 0.0]), reduction="none", beta=2.0)
    tensor([0.25, 4.  ])
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    check_alike("smooth_l1_loss", reduction, input=input, target=target)
    difference = input - target
    return reduced("smooth_l1_loss", _huber(difference, beta) / beta if beta else absolute(difference), reduction)


# ---- classes and probabilities -----------------------------------------------------------------------------------


@composed
def nll_loss(
    input: Any, target: Any, reduction: str = "mean", weight: Any = None, ignore_index: int | None = None
) -> Any:
    """Compute -input_target from log-probabilities: `cross_entropy` is this of `log_softmax`, and explains the rest.

    Shapes: input (n, c, ...) or (c,), target (n, ...) or () of integers in [0, c), weight (c,).

    >>> nll_loss(tensor([[-0.5, -1.0]]), tensor([1]))
    tensor(1.)
    """
    check_reduction("nll_loss", reduction)
    axis = 0 if input.ndim == 1 else 1
    if not hasattr(target, "dtype") or target.dtype.kind not in "iu":
        raise TypeError(f"nll_loss: targets must be integer class numbers, got {getattr(target, 'dtype', target)}")
    if not input.ndim or target.shape != input.shape[:axis] + input.shape[axis + 1 :]:
        raise ValueError(f"nll_loss: target {target.shape} must be input {input.shape} without its classes")
    return expected_loss("nll_loss", input, target, reduction, weight, ignore_index, 0.0, axis)


def _log_where(xp: Any, log: Any, x: Any, end: float) -> Any:
    """log(x), and -100 where it is less, as at `end`, where it would be -inf with NumPy's warning."""
    none = x == end
    return xp.where(none, -100.0, xp.maximum(log(xp.where(none, 0.5, x)), -100.0))


def _logs_rule(gs: tuple, outs: tuple, p: Any) -> tuple:
    least = max(1e-12, float(np.finfo(p.dtype).tiny))  # float16 has no 1e12
    return (gs[0] * _rate(p, least=least) - gs[1] * _rate(1.0 - p, least=least),)


_logs = Op(  # log p and log(1 - p)
    lambda xp, p: (_log_where(xp, xp.log, p, 0.0), _log_where(xp, xp.log1p, -p, -1.0)),
    joint=_logs_rule,
    saves="p",
    name="binary_cross_entropy",
    samplewise=lambda shapes: len(shapes[0]) > 0,
)

_rate = Op(  # 1 / p
    lambda xp, p, *, least: 1.0 / xp.maximum(p, least),
    lambda g, out, p, *, least: -g * out * out,
    saves="out",
    samplewise=True,
)


@composed
def binary_cross_entropy(input: Any, target: Any, reduction: str = "mean", weight: Any = None) -> Any:
    """Compute -(t log p + (1 - t) log(1 - p)) of probabilities p = input, times weight, which broadcasts.

    As in PyTorch no logarithm is less than -100, and a share p or 1 - p less than 1e-12 counts as 1e-12 in derivatives,
    which are finite and point the right way at a wrong p of 0 or 1. At a right one, p = t, they are the loss's own,
    1 and -1 (0 in PyTorch). Better give the scores of a sigmoid to `binary_cross_entropy_with_logits`, which loses
    nothing. ValueError for p outside of [0, 1], except on a GPU.

    >>> binary_cross_entropy(tensor([0.0, 0.0]), tensor([0.0, 1.0]))
    tensor(50.)
    """
    check_alike("binary_cross_entropy", reduction, input=input, target=target)
    _values_within("binary_cross_entropy", "input", input, 0.0, 1.0)
    _check_weights("binary_cross_entropy", input, weight=weight)
    hit, miss = _logs(input)
    losses = -(target * hit + (1.0 - target) * miss)
    return reduced("binary_cross_entropy", losses if weight is None else losses * weight, reduction)


@composed
def binary_cross_entropy_with_logits(
    input: Any, target: Any, reduction: str = "mean", weight: Any = None, pos_weight: Any = None
) -> Any:
    """Compute `binary_cross_entropy` of sigmoid(x) from the scores x = input, exact to rounding for any finite score.

    weight (pos_weight t log(1 + e^-x) + (1 - t) log(1 + e^x)) with the target t; weight and pos_weight broadcast.

    >>> binary_cross_entropy_with_logits(tensor([-1e4, 1e4]), tensor([1.0, 1.0]), reduction="none")
    tensor([10000.,     0.])
    """
    check_alike("binary_cross_entropy_with_logits", reduction, input=input, target=target)
    _check_weights("binary_cross_entropy_with_logits", input, weight=weight, pos_weight=pos_weight)
    miss = target * softplus(-input, threshold=math.inf)
    losses = (miss if pos_weight is None else miss * pos_weight) + (1.0 - target) * softplus(input, threshold=math.inf)
    return reduced("binary_cross_entropy_with_logits", losses if weight is None else losses * weight, reduction)


@composed
def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """Compute the terms q (log q - log p) of the divergence KL(q || p), from log p = input and q = target.

    With log_target the target is log q. "batchmean" divides the sum by the number of rows, which makes it the
    divergence itself; "mean" divides by the number of elements, as in PyTorch. 0 log 0 = 0.

    >>> round(kl_div(log(tensor([[0.5, 0.5]])), tensor([[1.0, 0.0]]), reduction="batchmean").item(), 5)
    0.69315
    """
    check_reduction("kl_div", reduction, "batchmean")
    batch = reduction == "batchmean"
    check_alike("kl_div", "sum" if batch else reduction, input=input, target=target)
    losses = exp(target) * (target - input) if log_target else xlogy(target, target) - target * input
    total = reduced("kl_div", losses, "sum" if batch else reduction)
    return total / input.shape[0] if batch and input.ndim else total


# ---- margins -----------------------------------------------------------------------------------------------------
# One that is just kept has the slope of a miss, as in PyTorch: scores that start equal could not part otherwise.


@composed
def hinge_embedding_loss(input: Any, target: Any, margin: float = 1.0, reduction: str = "mean") -> Any:
    """Compute x where the target is 1 and max(0, margin - x) where it is -1, of distances x = input.

    ValueError for a target of 0, except on a GPU.

    >>> hinge_embedding_loss(tensor([0.5, 0.75]), tensor([1.0, -1.0]), reduction="none")
    tensor([0.5 , 0.25])
    """
    check_alike("hinge_embedding_loss", reduction, input=input, target=target)
    _check_signs("hinge_embedding_loss", target)
    return reduced("hinge_embedding_loss", where(target > 0, input, clip(margin - input, 0.0)), reduction)


@composed
def margin_ranking_loss(input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Any:
    """Compute max(0, margin - t (x1 - x2)): 0 if x1 leads by the margin for t = 1, or x2 does for t = -1.

    >>> margin_ranking_loss(tensor([1.0, 1.0]), tensor([3.0, 3.0]), tensor([1.0, -1.0]), reduction="none")
    tensor([2., 0.])
    """
    check_alike("margin_ranking_loss", reduction, input1=input1, input2=input2, target=target)
    return reduced("margin_ranking_loss", clip(margin - target * (input1 - input2), 0.0), reduction)


@composed
def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """Compute max(0, d(anchor, positive) - d(anchor, negative) + margin) with d the `pairwise_distance`.

    Shapes: all (n, k), or (k,) -> (n,) or () before the reduction. With swap, the negative counts as near if it is near
    the positive (Balntas et al. 2016, BMVC, Sec. 2.2).

    >>> round(triplet_margin_loss(tensor([[0.0]]), tensor([[3.0]]), tensor([[1.0]])).item(), 4)
    3.0
    """
    check_alike("triplet_margin_loss", reduction, anchor=anchor, positive=positive, negative=negative)
    apart = pairwise_distance(anchor, negative, p, eps)
    if swap:
        apart = minimum(apart, pairwise_distance(positive, negative, p, eps))
    losses = clip(pairwise_distance(anchor, positive, p, eps) - apart + margin, 0.0)
    return reduced("triplet_margin_loss", losses, reduction)


@composed
def cosine_embedding_loss(input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Any:
    """Compute 1 - cos where the target is 1 and max(0, cos - margin) where it is -1, for the angle of two vectors.

    Shapes: input1 and input2 (n, k), target (n,); or (k,) and (). A zero vector has the cosine 0. ValueError for a
    target of 0, except on a GPU.

    >>> cosine_embedding_loss(tensor([[1.0, 0.0]]), tensor([[0.0, 2.0]]), tensor([1.0]))
    tensor(1.)
    """
    check_alike("cosine_embedding_loss", reduction, input1=input1, input2=input2)
    if target.shape != input1.shape[:-1]:
        raise ValueError(f"cosine_embedding_loss: target must be {input1.shape[:-1]}, got {target.shape}")
    _check_signs("cosine_embedding_loss", target)
    tiny = 1e-12  # as in PyTorch: it keeps the root away from 0
    squares = (sum(input1 * input1, axis=-1) + tiny) * (sum(input2 * input2, axis=-1) + tiny)
    cosine = sum(input1 * input2, axis=-1) / sqrt(squares)
    return reduced("cosine_embedding_loss", where(target > 0, 1.0 - cosine, clip(cosine - margin, 0.0)), reduction)


@composed
def multi_margin_loss(
    input: Any, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean"
) -> Any:
    """Compute the hinge loss of several classes: (1/c) sum over j != t of weight_t max(0, margin - x_t + x_j)^p.

    Shapes: input (n, c) or (c,), target (n,) or () of integers in [0, c), weight (c,). p is 1 or 2 (Crammer & Singer
    2001 take the largest term instead of the sum).

    >>> round(multi_margin_loss(tensor([[1.0, 0.5, 3.0]]), tensor([0])).item(), 5)
    1.16667
    """
    check_reduction("multi_margin_loss", reduction)
    if input.ndim not in (1, 2) or target.shape != input.shape[:-1]:
        raise ValueError(
            f"multi_margin_loss: input must be (n, c) or (c,) and target without c, got {input.shape} {target.shape}"
        )
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p must be 1 or 2, got {p}")
    _check_weights("multi_margin_loss", input, weight=weight)
    settings = {"classes": input.shape[-1], "axis": input.ndim - 1, "ignored": None, "who": "multi_margin_loss"}
    hot: Any = indicator(target, dtype=input.dtype.name, **settings)
    gaps = relu(margin + input - sum(input * hot, axis=-1, keepdims=True))
    terms = (gaps if p == 1 else gaps * gaps) * (1.0 - hot)
    losses = sum(terms, axis=-1) / input.shape[-1]
    return reduced("multi_margin_loss", losses if weight is None else losses * sum(hot * weight, axis=-1), reduction)


# ---- likelihoods -------------------------------------------------------------------------------------------------


@composed
def poisson_nll_loss(
    input: Any,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Any:
    """Compute -log of the Poisson probability of counts t: e^x - t x for the logarithm x of the rate.

    Without log_input, input is the rate itself: x - t log(x + eps). `full` adds Stirling's form of log t!, for t > 1.

    >>> poisson_nll_loss(tensor([0.0]), tensor([3.0]))
    tensor(1.)
    """
    check_alike("poisson_nll_loss", reduction, input=input, target=target)
    losses = exp(input) - target * input if log_input else input - target * log(input + eps)
    if full:
        many = where(target > 1, target, 1.0)
        losses = losses + where(target > 1, many * log(many) - many + 0.5 * log(many * (2 * math.pi)), 0.0)
    return reduced("poisson_nll_loss", losses, reduction)


@composed
def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """Compute -log of the Gaussian density of the target t: (log v + (x - t)^2 / v) / 2, v = max(var, eps), x = input.

    Shapes: var like input, or broadcasting against it. `full` adds log(2 pi) / 2. Where var < eps its derivative is 0.
    ValueError for a negative variance, except on a GPU (Nix & Weigend 1994, Eq. 3).

    >>> gaussian_nll_loss(tensor([1.0]), tensor([4.0]), tensor([1.0]))
    tensor(4.5)
    """
    check_alike("gaussian_nll_loss", reduction, input=input, target=target)
    check_dtypes("gaussian_nll_loss", ("input", input), ("var", var))
    _values_within("gaussian_nll_loss", "var", var, 0.0, math.inf)
    v = clip(var, min=eps)
    difference = input - target
    losses = (log(v) + difference * difference / v) * 0.5
    return reduced("gaussian_nll_loss", losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


# fmt: off
__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "gaussian_nll_loss",
    "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss", "multi_margin_loss",
    "nll_loss", "poisson_nll_loss", "smooth_l1_loss", "triplet_margin_loss",
]
# fmt: on
