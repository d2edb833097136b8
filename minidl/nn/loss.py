"""Losses as modules: the functions of the same names, with their settings kept.

Arguments after the data are by name where PyTorch has others, long deprecated, before them. Weights are buffers: they
move with `to` and are saved, as in PyTorch.
"""

from __future__ import annotations

from typing import Any

from ..engine.tensor import Tensor
from . import functional as F
from .settings import Described, integer, number


class _Loss(Described):
    """A loss of an input against a target: its mean over all elements, its sum, or each."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, *, reduction: str = "mean"):
        if reduction not in self.reductions:
            known = " or ".join([", ".join(map(repr, self.reductions[:-1])), repr(self.reductions[-1])])
            raise ValueError(f"{type(self).__name__}: reduction must be {known}, got {reduction!r}")
        self.reduction = reduction

    def _weights(self, **named: Any) -> None:
        """Keep weights as buffers; TypeError for what is no array or list of numbers."""
        for name, value in named.items():
            tensor = None if value is None else Tensor(value)
            if tensor is not None and tensor.dtype.kind != "f":
                raise TypeError(f"{type(self).__name__}: {name} must be floating, got {tensor.dtype}")
            self.register_buffer(name, tensor)


# ---- classes and probabilities -----------------------------------------------------------------------------------


class CrossEntropyLoss(_Loss):
    """Cross-entropy of classes under softmax(input): -log softmax(input)_target, in nats.

    Shapes: input (n, c, ...) or (c,), target (n, ...) or () of integers in [0, c), or probabilities like input; weight
    (c,). See `functional.cross_entropy` for weight, ignore_index, label_smoothing and what raises.

    >>> nn.CrossEntropyLoss()(tensor([[0.0, 0.0]]), tensor([1]))
    tensor(0.6931472)
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__(reduction=reduction)
        self._weights(weight=weight)
        self.ignore_index = None if ignore_index is None else integer(type(self).__name__, "ignore_index", ignore_index)
        self.label_smoothing = number("CrossEntropyLoss", "label_smoothing", label_smoothing, 0, 1)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of logits against class numbers or probabilities."""
        return F.cross_entropy(input, target, self.reduction, self.weight, self.ignore_index, self.label_smoothing)


class NLLLoss(_Loss):
    """Negative log-likelihood -input_target of log-probabilities, such as those of `LogSoftmax`.

    Shapes: input (n, c, ...) or (c,), target (n, ...) or () of integers in [0, c); weight (c,). The mean is weighted.

    >>> nn.NLLLoss()(tensor([[-0.5, -1.0]]), tensor([1]))
    tensor(1.)
    """

    weight: Tensor | None

    def __init__(self, weight: Any = None, *, ignore_index: int | None = None, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self._weights(weight=weight)
        self.ignore_index = None if ignore_index is None else integer(type(self).__name__, "ignore_index", ignore_index)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of log-probabilities against class numbers."""
        return F.nll_loss(input, target, self.reduction, self.weight, self.ignore_index)


class BCELoss(_Loss):
    """Binary cross-entropy -(t log p + (1 - t) log(1 - p)) of probabilities p = input, times weight.

    log 0 is taken as -100. ValueError for p outside of [0, 1], except on a GPU, where looking would wait for it.

    >>> nn.BCELoss(reduction="none")(tensor([0.5, 0.0]), tensor([1.0, 1.0]))
    tensor([  0.6931472, 100.       ])
    """

    weight: Tensor | None

    def __init__(self, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self._weights(weight=weight)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of probabilities against targets in [0, 1]."""
        return F.binary_cross_entropy(input, target, self.reduction, self.weight)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of sigmoid(input), exact for any finite input; pos_weight multiplies the part of t = 1.

    >>> nn.BCEWithLogitsLoss()(tensor([-1e4, 1e4]), tensor([1.0, 1.0]))
    tensor(5000.)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None):
        super().__init__(reduction=reduction)
        self._weights(weight=weight, pos_weight=pos_weight)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of scores against targets in [0, 1]."""
        return F.binary_cross_entropy_with_logits(input, target, self.reduction, self.weight, self.pos_weight)


class KLDivLoss(_Loss):
    """Terms q (log q - log p) of the divergence KL(q || p), from log p = input and q = target, or log q (log_target).

    reduction="batchmean" divides their sum by the number of rows and is the divergence; "mean" divides by that of
    elements, as in PyTorch.

    >>> nn.KLDivLoss(reduction="batchmean")(md.log(tensor([[0.5, 0.5]])), tensor([[1.0, 0.0]]))
    tensor(0.6931472)
    """

    reductions = ("mean", "sum", "batchmean", "none")

    def __init__(self, *, reduction: str = "mean", log_target: bool = False):
        super().__init__(reduction=reduction)
        self.log_target = bool(log_target)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of log-probabilities against probabilities."""
        return F.kl_div(input, target, self.reduction, self.log_target)


# ---- differences -------------------------------------------------------------------------------------------------


class MSELoss(_Loss):
    """Squared error (input - target)^2. Shapes and dtypes must be equal: nothing is broadcast.

    >>> nn.MSELoss(reduction="sum")(tensor([1.0, 2.0]), tensor([1.0, 5.0]))
    tensor(9.)
    """

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of a prediction against its target."""
        return F.mse_loss(input, target, self.reduction)


class L1Loss(_Loss):
    """Absolute error |input - target|; its derivative at 0 is 0.

    >>> nn.L1Loss()(tensor([1.0, 2.0]), tensor([1.0, 5.0]))
    tensor(1.5)
    """

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of a prediction against its target."""
        return F.l1_loss(input, target, self.reduction)


class SmoothL1Loss(_Loss):
    """Error d^2 / (2 beta) for a difference |d| <= beta, |d| - beta / 2 beyond (Girshick 2015, arXiv:1504.08083).

    >>> nn.SmoothL1Loss(reduction="none", beta=2.0)(tensor([1.0, 5.0]), tensor([0.0, 0.0]))
    tensor([0.25, 4.  ])
    """

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction=reduction)
        self.beta = number("SmoothL1Loss", "beta", beta, low=0)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of a prediction against its target."""
        return F.smooth_l1_loss(input, target, self.reduction, self.beta)


class HuberLoss(_Loss):
    """Error d^2 / 2 for a difference |d| <= delta, delta (|d| - delta / 2) beyond (Huber 1964, Ann. Math. Stat. 35).

    >>> nn.HuberLoss("none")(tensor([1.0, 5.0]), tensor([0.0, 0.0]))
    tensor([0.5, 4.5])
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction=reduction)
        self.delta = number("HuberLoss", "delta", delta)
        if self.delta <= 0:
            raise ValueError(f"HuberLoss: delta must be > 0, got {delta}")

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of a prediction against its target."""
        return F.huber_loss(input, target, self.reduction, self.delta)


# ---- margins -----------------------------------------------------------------------------------------------------


class HingeEmbeddingLoss(_Loss):
    """Distance x where the target is 1, and max(0, margin - x) where it is -1.

    >>> nn.HingeEmbeddingLoss(reduction="none")(tensor([0.5, 0.75]), tensor([1.0, -1.0]))
    tensor([0.5 , 0.25])
    """

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.margin = number(type(self).__name__, "margin", margin)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of distances against targets of 1 and -1."""
        return F.hinge_embedding_loss(input, target, self.margin, self.reduction)


class MarginRankingLoss(_Loss):
    """Ranking loss max(0, margin - t (x1 - x2)): 0 if x1 leads by the margin for t = 1, or x2 does for t = -1.

    >>> nn.MarginRankingLoss(reduction="none")(tensor([1.0, 1.0]), tensor([3.0, 3.0]), tensor([1.0, -1.0]))
    tensor([2., 0.])
    """

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.margin = number(type(self).__name__, "margin", margin)

    def forward(self, input1: Any, input2: Any, target: Any) -> Any:
        """Return the loss of two scores against targets of 1 and -1."""
        return F.margin_ranking_loss(input1, input2, target, self.margin, self.reduction)


class TripletMarginLoss(_Loss):
    """Triplet loss max(0, d(anchor, positive) - d(anchor, negative) + margin), d the p-norm of the difference + eps.

    Shapes: three of (n, k) -> (n,), reduced. With swap, the negative counts as near if it is near the positive (Balntas
    et al. 2016, BMVC, Sec. 2.2).

    >>> round(nn.TripletMarginLoss()(tensor([[0.0]]), tensor([[3.0]]), tensor([[1.0]])).item(), 4)
    3.0
    """

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, *, reduction: str = "mean"
    ):
        super().__init__(reduction=reduction)
        self.margin = number(type(self).__name__, "margin", margin)
        self.p = number(type(self).__name__, "p", p)
        self.eps = number(type(self).__name__, "eps", eps)
        self.swap = bool(swap)

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Any:
        """Return the loss of vectors, others that should be near to them, and others that should be far."""
        settings = (self.margin, self.p, self.eps, self.swap, self.reduction)
        return F.triplet_margin_loss(anchor, positive, negative, *settings)


class CosineEmbeddingLoss(_Loss):
    """1 - cos of the angle of two vectors where the target is 1, and max(0, cos - margin) where it is -1.

    Shapes: two of (n, k) and a target (n,), or (k,) and ().

    >>> nn.CosineEmbeddingLoss()(tensor([[1.0, 0.0]]), tensor([[0.0, 2.0]]), tensor([1.0]))
    tensor(1.)
    """

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.margin = number(type(self).__name__, "margin", margin)

    def forward(self, input1: Any, input2: Any, target: Any) -> Any:
        """Return the loss of pairs of vectors against targets of 1 and -1."""
        return F.cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


class MultiMarginLoss(_Loss):
    """Hinge loss of several classes: (1/c) sum over j != t of weight_t max(0, margin - x_t + x_j)^p, p = 1 or 2.

    Shapes: input (n, c) or (c,), target (n,) or () of integers in [0, c), weight (c,).

    >>> round(nn.MultiMarginLoss()(tensor([[1.0, 0.5, 3.0]]), tensor([0])).item(), 4)
    1.1667
    """

    weight: Tensor | None

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        if p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: p must be 1 or 2, got {p!r}")
        self.p = p
        self.margin = number(type(self).__name__, "margin", margin)
        self._weights(weight=weight)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of scores against class numbers."""
        return F.multi_margin_loss(input, target, self.p, self.margin, self.weight, self.reduction)


# ---- likelihoods -------------------------------------------------------------------------------------------------


class PoissonNLLLoss(_Loss):
    """Negative logarithm of the Poisson probability of counts t: e^x - t x for the logarithm x of the rate.

    Without log_input, input is the rate itself: x - t log(x + eps). `full` adds Stirling's form of log t!, for t > 1.

    >>> nn.PoissonNLLLoss()(tensor([0.0]), tensor([3.0]))
    tensor(1.)
    """

    def __init__(self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.log_input, self.full = bool(log_input), bool(full)
        self.eps = number(type(self).__name__, "eps", eps)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss of rates, or their logarithms, against counts."""
        return F.poisson_nll_loss(input, target, self.log_input, self.full, self.eps, self.reduction)


class GaussianNLLLoss(_Loss):
    """Negative logarithm of the Gaussian density of the target: (log v + (x - t)^2 / v) / 2, v = max(var, eps).

    `full` adds log(2 pi) / 2. ValueError for a negative variance, except on a GPU (Nix & Weigend 1994, eq. 3).

    >>> nn.GaussianNLLLoss()(tensor([1.0]), tensor([4.0]), tensor([1.0]))
    tensor(4.5)
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.full = bool(full)
        self.eps = number(type(self).__name__, "eps", eps)

    def forward(self, input: Any, target: Any, var: Any) -> Any:
        """Return the loss of a mean and a variance against the target."""
        return F.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)


__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CosineEmbeddingLoss", "CrossEntropyLoss", "GaussianNLLLoss", "HingeEmbeddingLoss",
    "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "MarginRankingLoss", "MultiMarginLoss", "NLLLoss", "PoissonNLLLoss",
    "SmoothL1Loss", "TripletMarginLoss",
]  # fmt: skip
