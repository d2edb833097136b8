"""Layers and losses as functions, without state: those of `minidl.ops.network`, and losses made of operations."""

from __future__ import annotations

from typing import Any

from ..ops.batch import batch_norm, batch_norm_train, dropout
from ..ops.elementwise import sigmoid, tanh
from ..ops.network import cross_entropy, linear, log_softmax, relu, softmax
from ..ops.reduce import mean, sum

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(who: str, reduction: str) -> str:
    """Return the reduction; ValueError naming it if it is not one.

    >>> check_reduction("MSELoss", "sum")
    'sum'
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"{who}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction


def check_alike(who: str, input: Any, target: Any) -> None:
    """Raise unless two arrays have one shape (ValueError) and one dtype (TypeError): a loss never broadcasts.

    >>> check_alike("mse_loss", ones(2, 1), ones(2, 1))
    """
    for name, x in (("input", input), ("target", target)):
        if not hasattr(x, "dtype"):
            raise TypeError(f"{who}: {name} must be a Tensor or an array, got {type(x).__name__}")
    if input.shape != target.shape:
        raise ValueError(
            f"{who}: input {input.shape} and target {target.shape} must have one shape; reshape one of them"
        )
    if input.dtype != target.dtype:
        mine = str(input.dtype)
        raise TypeError(f"{who}: input is {mine} and target {target.dtype}; use target.astype({mine!r})")


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Compute the squared error (input - target)^2: its mean over all elements, its sum, or each.

    ValueError unless the shapes are equal, and for the mean of nothing; TypeError unless the dtypes are.

    >>> mse_loss(tensor([1.0, 2.0]), tensor([1.0, 5.0]))
    tensor(4.5)
    """
    check_reduction("mse_loss", reduction)
    check_alike("mse_loss", input, target)
    difference = input - target
    losses = difference * difference
    return losses if reduction == "none" else mean(losses) if reduction == "mean" else sum(losses)


__all__ = [
    "batch_norm", "batch_norm_train", "cross_entropy", "dropout", "linear", "log_softmax", "mse_loss", "relu",
    "sigmoid", "softmax", "tanh",
]  # fmt: skip
