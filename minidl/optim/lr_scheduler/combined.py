"""Bound schedules one after another, and several at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from ..base import Optimizer
from .base import LRScheduler, inner_of
from .simple import steps_of


class _Combined(LRScheduler):
    """What SequentialLR and ChainedScheduler share."""

    schedulers: list[LRScheduler]

    def _take(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> Optimizer:
        """Keep the schedulers, if they are of one optimizer and can be combined; return the optimizer."""
        if not isinstance(schedulers, (list, tuple)) or not schedulers:
            raise ValueError(f"{self._who}: needs a list of at least one scheduler, got {schedulers!r}")
        for k, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"{self._who}: scheduler {k} must be an LRScheduler, got {type(scheduler).__name__}")
            if not scheduler.combinable:
                raise ValueError(f"{self._who}: scheduler {k} is a {scheduler._who}, which steps only by itself")
        optimizer = schedulers[0].optimizer if optimizer is None else inner_of(self._who, optimizer)
        for k, scheduler in enumerate(schedulers):
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"{self._who}: scheduler {k}, a {scheduler._who}, belongs to another optimizer")
        self.schedulers = list(schedulers)
        return optimizer

    def bases(self) -> list[float]:
        """Return the initial lr of every group, which each scheduler keeps for itself."""
        for scheduler in self.schedulers:
            scheduler.bases()
        return super().bases()

    def _more_state(self) -> dict[str, Any]:
        return {"schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def _problems(self, state: Mapping[str, Any], hyper: str) -> list[str]:
        found = super()._problems(state, hyper)
        if found:
            return found
        if len(state["schedulers"]) != len(self.schedulers):
            return [f"it has {len(state['schedulers'])} schedulers, here are {len(self.schedulers)}"]
        parts = list(zip(self.schedulers, state["schedulers"], strict=True))
        return [f"scheduler {k}: {text}" for k, (s, part) in enumerate(parts) for text in s._problems(part, hyper)]

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        for scheduler, part in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler._load(part)


class SequentialLR(_Combined):
    """Follow schedulers[0] up to milestones[0], then schedulers[1], which begins with its t = 0, and so on.

    Each begins from the initial lr, except that a MultiplicativeLR goes on from what the one before it left, which it
    multiplies by lr_lambda(0) at its t = 0, as in PyTorch. The last one goes on for ever. One scheduler more than
    milestones, which are ints >= 0 that increase.

    It may hold SequentialLR and ChainedScheduler, each of which counts its own steps from t = 0. PyTorch 2.13 starts
    one that is first a step too far, and raises NotImplementedError for one that is not.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> from minidl.optim.lr_scheduler import ExponentialLR, LinearLR
    >>> warmup, decay = LinearLR(optimizer, 0.25, total_iters=2), ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = SequentialLR(optimizer, [warmup, decay], milestones=[2])
    >>> lrs = [scheduler.get_last_lr()[0]]
    >>> for _ in range(4):
    ...     scheduler.step()
    ...     lrs += scheduler.get_last_lr()
    >>> lrs
    [0.2, 0.5, 0.8, 0.4, 0.2]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ):
        groups = self._take(schedulers, optimizer).param_groups
        milestones = steps_of("SequentialLR", milestones)
        if len(milestones) != len(schedulers) - 1 or milestones != sorted(milestones):
            raise ValueError(
                f"SequentialLR: needs increasing milestones, one fewer than schedulers, got {len(schedulers)} "
                f"schedulers and milestones={milestones!r}"
            )
        self.milestones = milestones
        self.settings = {"milestones": milestones}
        first, _ = self._now(0)
        if first.multiplies:  # PyTorch starts it from the initial lr, which a OneCycleLR made later has changed
            first.base_lrs = [group["initial_lr"] for group in groups]
        super().__init__(optimizer, last_epoch)

    def _now(self, t: int) -> tuple[LRScheduler, int]:
        """Return the scheduler that is followed at t, and its own t."""
        k = bisect_right(self.milestones, t)
        return self.schedulers[k], t - self.milestones[k - 1] if k else t

    def lrs(self, t: int) -> list[float]:
        """Return the lr of every group at t."""
        self.bases()
        scheduler, own = self._now(t)
        if not scheduler.follows or own == t:
            return scheduler.lrs(own)
        left = self.lrs(t - own - 1)
        return [float(scheduler.at(scheduler.enter(lr, i), own, i)) for i, lr in enumerate(left)]

    def momentum_at(self, t: int, i: int) -> float | None:
        scheduler, own = self._now(t)
        return scheduler.momentum_at(own, i)

    def advance(self, lr: float, t: int, i: int) -> float:
        scheduler, own = self._now(t)
        return scheduler.advance(lr, own, i) if own or not t else scheduler.enter(lr, i)


class ChainedScheduler(_Combined):
    """Follow several schedulers at once: each multiplies or replaces what the ones before it in the list left.

    StepLR, MultiStepLR, ConstantLR, LinearLR, ExponentialLR, PolynomialLR and MultiplicativeLR multiply, so that their
    factors do; CosineAnnealingLR scales the distance from eta_min; the others replace.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> from minidl.optim.lr_scheduler import ConstantLR, ExponentialLR
    >>> constant, decay = ConstantLR(optimizer, 0.25, total_iters=2), ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler = ChainedScheduler([constant, decay])
    >>> lrs = [scheduler.get_last_lr()[0]]
    >>> for _ in range(2):
    ...     scheduler.step()
    ...     lrs += scheduler.get_last_lr()
    >>> lrs
    [0.2, 0.1, 0.2]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None):
        optimizer = self._take(schedulers, optimizer)
        self._known: tuple[int, list[float]] = (-1, [])  # the last t and its lrs: so that a step is one step
        super().__init__(optimizer)

    def lrs(self, t: int) -> list[float]:
        """Return the lr of every group at t, going there from the last t known, or from the start."""
        bases = self.bases()
        known, lrs = self._known
        if known > t or len(lrs) != len(bases):
            known, lrs = -1, list(self.schedulers[0].base_lrs)
        for now in range(known + 1, t + 1):
            lrs = [self._step(lr, now, i) for i, lr in enumerate(lrs)]
        self._known = (t, list(lrs))
        return lrs

    def _step(self, lr: float, t: int, i: int) -> float:
        for scheduler in self.schedulers:
            lr = scheduler.advance(lr, t, i)
        return lr

    def advance(self, lr: float, t: int, i: int) -> float:
        return self._step(lr, t, i)

    def momentum_at(self, t: int, i: int) -> float | None:
        wanted = [m for m in (scheduler.momentum_at(t, i) for scheduler in self.schedulers) if m is not None]
        return wanted[-1] if wanted else None

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        self._known = (self.last_epoch, list(self._last_lr))
