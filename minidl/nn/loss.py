"""Losses as modules. Arguments after the data are `reduction="mean|sum|none"`, by name."""

from __future__ import annotations

from typing import Any

from .functional import check_reduction, cross_entropy, mse_loss
from .module import Module


class _Loss(Module):
    def __init__(self, *, reduction: str = "mean"):
        self.reduction = check_reduction(type(self).__name__, reduction)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """Cross-entropy of classes under softmax(input): -log softmax(input)_target, in nats.

    Shapes: input (n, c, ...) or (c,), target (n, ...) or () of integers in [0, c). See `functional.cross_entropy` for
    what raises.

    >>> nn.CrossEntropyLoss()(tensor([[0.0, 0.0]]), tensor([1]))
    tensor(0.6931472)
    """

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of logits against class numbers."""
        return cross_entropy(input, target, self.reduction)


class MSELoss(_Loss):
    """Squared error (input - target)^2. Shapes and dtypes must be equal: nothing is broadcast.

    >>> nn.MSELoss(reduction="sum")(tensor([1.0, 2.0]), tensor([1.0, 5.0]))
    tensor(9.)
    """

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of a prediction against its target."""
        return mse_loss(input, target, self.reduction)
