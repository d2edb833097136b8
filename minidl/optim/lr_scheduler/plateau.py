"""Schedulers that listen to a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...compiler.record import replayed
from ..base import Optimizer
from ..groups import ParamGroup, at_least_zero, below_one, check, flag
from ..rules import OneOf, count, count_from_zero
from .base import LRScheduler, check_each, check_length, for_group


class ReduceLROnPlateau(LRScheduler):
    """Multiply lr by `factor` when a metric has not improved for more than `patience` steps in a row.

    mode: "min" or "max". Better than the best is: below best - threshold |best| ("rel") or below best - threshold
    ("abs"), and above for "max". PyTorch's "rel" takes best (1 - threshold), which for a negative best counts worse
    values as better; for positive ones the two are the same. NaN is never better. After a reduction `cooldown` steps
    are not counted. lr stays above `min_lr` (one for all groups or a list); reductions smaller than `eps` are left out.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr(), scheduler.best
    ([0.4], 2.0)
    """

    combinable = False

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | list[float] = 0.0, eps: float = 1e-8,
    ):  # fmt: skip
        who = self._who
        check(who, OneOf("min", "max"), mode=mode)
        check(who, OneOf("rel", "abs"), threshold_mode=threshold_mode)
        check(who, below_one, factor=factor)
        check(who, count_from_zero, patience=patience, cooldown=cooldown)
        check(who, at_least_zero, threshold=threshold, eps=eps)
        check_each(who, at_least_zero, min_lr=min_lr)
        check_length(who, "min_lr", min_lr, optimizer)
        self.mode, self.factor, self.patience, self.threshold = mode, factor, patience, threshold
        self.threshold_mode, self.cooldown, self.min_lr, self.eps = threshold_mode, cooldown, min_lr, eps
        names = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
        self.settings = {name: getattr(self, name) for name in names}
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        self._bind(optimizer, -1)

    @property
    def in_cooldown(self) -> bool:
        """Whether steps are not counted at present."""
        return self.cooldown_counter > 0

    def is_better(self, metric: float) -> bool:
        """Tell whether a metric is better than the best so far, by more than the threshold."""
        if math.isinf(self.best):
            return metric < self.best if self.mode == "min" else metric > self.best
        margin = self.threshold * (abs(self.best) if self.threshold_mode == "rel" else 1)
        return metric < self.best - margin if self.mode == "min" else metric > self.best + margin

    @replayed
    def step(self, metrics: float) -> None:
        """Take in the metric of another step, and reduce lr if it is time."""
        self._take_over()
        self._refuse_schedules()
        metric = float(metrics.item() if hasattr(metrics, "item") else metrics)
        self.last_epoch += 1
        lrs = self._decide(metric, [group["lr"] for group in self.optimizer.param_groups])
        self._write(lrs, [None] * len(lrs))

    def _decide(self, metric: float, lrs: list[float]) -> list[float]:
        """Return the new lr of every group."""
        if self.is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            lrs = [self._reduced(lr, i) for i, lr in enumerate(lrs)]
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        return lrs

    def _reduced(self, lr: float, i: int) -> float:
        new = max(lr * self.factor, for_group(self._who, "min_lr", self.min_lr, i))
        return new if lr - new > self.eps else lr

    def lrs(self, t: int) -> list[float]:
        """Return the lr of every group: those that were last written, for they depend on the metrics so far."""
        return list(self._last_lr)

    def _more_state(self) -> dict[str, Any]:
        counters = ("num_bad_epochs", "cooldown_counter")
        return {"best": self.best, **{name: getattr(self, name) for name in counters}}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self.best = float(state["best"])
        self.num_bad_epochs, self.cooldown_counter = state["num_bad_epochs"], state["cooldown_counter"]


class GreedyLR(ReduceLROnPlateau):
    """Divide lr by `factor` after a run of better metrics, multiply it by `factor` after a run of others.

    More than `patience` steps in a row that each improve on the best so far raise lr, up to `max_lr`; after that
    `warmup` steps are not counted. Those that do not lower it, as in `ReduceLROnPlateau`, down to `min_lr`. Where every
    group is at min_lr for the `reset_start`-th time that it should fall, lr and all counters begin anew. With
    `smooth` the metric is the mean of the last `window_size`. Signature and values are those of Hugging Face's GreedyLR
    (arXiv:2512.14527); what is better is as in `ReduceLROnPlateau`.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.4)
    >>> scheduler = GreedyLR(optimizer, factor=0.5, patience=1)
    >>> lrs = []
    >>> for loss in (3.0, 2.0, 1.0, 4.0, 4.0, 4.0, 4.0):
    ...     scheduler.step(loss)
    ...     lrs += scheduler.get_last_lr()
    >>> lrs
    [0.4, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2]
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.95, patience: int = 10,
        threshold: float = 1e-6, threshold_mode: str = "abs", cooldown: int = 0, warmup: int = 0,
        min_lr: float | list[float] = 1e-3, max_lr: float | list[float] = 1.0, eps: float = 1e-8,
        smooth: bool = False, window_size: int = 50, reset_start: int = 500,
    ):  # fmt: skip
        check("GreedyLR", count_from_zero, warmup=warmup)
        check("GreedyLR", count, window_size=window_size, reset_start=reset_start)
        check("GreedyLR", _inner_fraction, factor=factor)
        check("GreedyLR", flag, smooth=smooth)
        check_each("GreedyLR", at_least_zero, max_lr=max_lr)
        super().__init__(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        check_length("GreedyLR", "max_lr", max_lr, optimizer)
        self.warmup, self.max_lr, self.smooth = warmup, max_lr, smooth
        self.window_size, self.reset_start = window_size, reset_start
        names = ("warmup", "max_lr", "smooth", "window_size", "reset_start")
        self.settings = {**self.settings, **{name: getattr(self, name) for name in names}}
        self.bases()
        self._begin()

    def _begin(self) -> None:
        """Forget all metrics."""
        self.best = math.inf if self.mode == "min" else -math.inf
        self.num_bad_epochs = self.num_good_epochs = self.cooldown_counter = self.warmup_counter = 0
        self.resets_in = self.reset_start
        self.window: list[float] = []

    def initial(self, i: int, group: ParamGroup) -> float:
        return float(group["lr"])

    def _decide(self, metric: float, lrs: list[float]) -> list[float]:
        if self.smooth:
            self.window = [*self.window, metric][-self.window_size :]
            metric = sum(self.window) / len(self.window)
        waiting = "cooldown_counter" if self.cooldown_counter else "warmup_counter" if self.warmup_counter else None
        if waiting is not None:
            setattr(self, waiting, getattr(self, waiting) - 1)
            self.num_bad_epochs = self.num_good_epochs = 0
            return lrs
        better = self.is_better(metric)
        self.best = metric if better else self.best
        self.num_good_epochs = self.num_good_epochs + 1 if better else 0
        self.num_bad_epochs = 0 if better else self.num_bad_epochs + 1
        if self.num_good_epochs > self.patience:
            self.warmup_counter, self.num_good_epochs, self.resets_in = self.warmup, 0, self.reset_start
            return [self._raised(lr, i) for i, lr in enumerate(lrs)]
        if self.num_bad_epochs > self.patience:
            lrs = [self._reduced(lr, i) for i, lr in enumerate(lrs)]
            self.resets_in -= all(lr <= for_group(self._who, "min_lr", self.min_lr, i) for i, lr in enumerate(lrs))
            if self.resets_in == 0:
                self._begin()
                lrs = list(self.bases())
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        return lrs

    def _raised(self, lr: float, i: int) -> float:
        new = min(lr / self.factor, for_group(self._who, "max_lr", self.max_lr, i))
        return new if new - lr > self.eps else lr

    def _more_state(self) -> dict[str, Any]:
        counters = {name: getattr(self, name) for name in ("num_good_epochs", "warmup_counter", "resets_in")}
        return {**super()._more_state(), **counters, "window": list(self.window)}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self.num_good_epochs, self.warmup_counter = state["num_good_epochs"], state["warmup_counter"]
        self.resets_in, self.window = state["resets_in"], list(state["window"])


def _inner_fraction(x: Any) -> bool:
    """a number in (0, 1)"""  # noqa: D400
    return below_one(x) and x > 0
