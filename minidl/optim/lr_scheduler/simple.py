"""Bound schedules that multiply the initial lr: PyTorch's names, signatures and values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ...compiler.record import replayed
from .. import schedules
from ..base import Optimizer
from ..groups import ParamGroup, at_least_zero, check
from ..rules import OneOf, above_zero, count, count_from_zero, fraction
from .base import LRScheduler, check_each, check_length, for_group, made, noted

Factor = Callable[[int], float]


class _Scheduled(LRScheduler):
    """The schedule `schedule(base)`, proportional to its base."""

    multiplies = True

    def schedule(self, base: float) -> schedules.Schedule:
        """Return the schedule of a group whose initial lr is `base`."""
        raise NotImplementedError

    def _begin(self, optimizer: Optimizer, last_epoch: int, **settings: Any) -> None:
        self.settings = settings
        for name, value in settings.items():
            setattr(self, name, value)
        super().__init__(optimizer, last_epoch)

    def at(self, base: float, t: int, i: int) -> float:
        """Return the schedule's value."""
        return self.schedule(base)(t)

    def advance(self, lr: float, t: int, i: int) -> float:
        """Multiply by the ratio of two factors, as PyTorch does."""
        schedule = self.schedule(1.0)
        if t == 0:
            return lr * schedule(0)
        before, now = schedule(t - 1), schedule(t)
        if before == 0 and now != 0:
            raise ValueError(f"{self._who}: in a ChainedScheduler a factor of 0 cannot be left again, as at t={t}")
        return lr * (now / before) if before else lr


class StepLR(_Scheduled):
    """Multiply lr by gamma every `step_size` steps: `schedules.Step`.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
    >>> for _ in range(4):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.2]
    """

    step_size: int
    gamma: float

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        check("StepLR", above_zero, step_size=step_size)
        check("StepLR", at_least_zero, gamma=gamma)
        self._begin(optimizer, last_epoch, step_size=step_size, gamma=gamma)

    def schedule(self, base: float) -> schedules.Schedule:
        schedule: schedules.Schedule = made(schedules.Step, base, self.step_size, self.gamma)
        return schedule


class MultiStepLR(_Scheduled):
    """Multiply lr by gamma at each milestone: `schedules.MultiStep`.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
    >>> for _ in range(3):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.2]
    """

    milestones: tuple[int, ...]
    gamma: float

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        check("MultiStepLR", at_least_zero, gamma=gamma)
        steps = tuple(sorted(steps_of("MultiStepLR", milestones)))
        self._begin(optimizer, last_epoch, milestones=steps, gamma=gamma)

    def schedule(self, base: float) -> schedules.Schedule:
        schedule: schedules.Schedule = made(schedules.MultiStep, base, self.milestones, self.gamma)
        return schedule


class ConstantLR(_Scheduled):
    """Multiply lr by `factor` for `total_iters` steps, then no more.

    ValueError unless factor is in [0, 1], and for total_iters=0, with which PyTorch keeps the factor for ever.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> ConstantLR(optimizer, factor=0.25, total_iters=2).get_last_lr()
    [0.2]
    """

    factor: float
    total_iters: int

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        check("ConstantLR", fraction, factor=factor)
        check("ConstantLR", count, total_iters=total_iters)
        self._begin(optimizer, last_epoch, factor=factor, total_iters=total_iters)

    def schedule(self, base: float) -> schedules.Schedule:
        schedule: schedules.Schedule = made(
            schedules.PiecewiseConstant, (self.total_iters,), (base * self.factor, base)
        )
        return schedule


class LinearLR(_Scheduled):
    """Multiply lr by a factor that goes in a line from start_factor to end_factor in total_iters steps, and stays.

    ValueError unless start_factor is in (0, 1] and end_factor in [0, 1], and for total_iters=0, with which PyTorch
    keeps start_factor for ever.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> scheduler.step()
    >>> round(scheduler.get_last_lr()[0], 9)
    0.6
    """

    start_factor: float
    end_factor: float
    total_iters: int

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5,
        last_epoch: int = -1,
    ):  # fmt: skip
        check("LinearLR", _start_fraction, start_factor=start_factor)
        check("LinearLR", fraction, end_factor=end_factor)
        check("LinearLR", count, total_iters=total_iters)
        settings = {"start_factor": start_factor, "end_factor": end_factor, "total_iters": total_iters}
        self._begin(optimizer, last_epoch, **settings)

    def schedule(self, base: float) -> schedules.Schedule:
        schedule: schedules.Schedule = made(
            schedules.Linear, base * self.start_factor, self.total_iters, base * self.end_factor
        )
        return schedule


class ExponentialLR(_Scheduled):
    """Multiply lr by gamma at every step: `schedules.Exponential`.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.4]
    """

    gamma: float

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        check("ExponentialLR", at_least_zero, gamma=gamma)
        self._begin(optimizer, last_epoch, gamma=gamma)

    def schedule(self, base: float) -> schedules.Schedule:
        schedule: schedules.Schedule = made(schedules.Exponential, base, self.gamma)
        return schedule


class PolynomialLR(_Scheduled):
    """Multiply lr by (1 - t / total_iters)^power, 0 past the end: `schedules.Polynomial`.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = PolynomialLR(optimizer, total_iters=4, power=2.0)
    >>> scheduler.step(2)
    >>> scheduler.get_last_lr()
    [0.2]
    """

    total_iters: int
    power: float

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        check("PolynomialLR", above_zero, total_iters=total_iters, power=power)
        self._begin(optimizer, last_epoch, total_iters=total_iters, power=power)

    def schedule(self, base: float) -> schedules.Schedule:
        schedule: schedules.Schedule = made(schedules.Polynomial, base, self.total_iters, 0.0, self.power)
        return schedule


class CosineAnnealingLR(_Scheduled):
    """Take lr down to eta_min along a cosine, and up again after T_max.

        eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2

    `schedules.Cosine` stays at the end instead (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = CosineAnnealingLR(optimizer, T_max=3)
    >>> scheduler.step(5)
    >>> round(scheduler.get_last_lr()[0], 9)
    0.6
    """

    T_max: int
    eta_min: float

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        check("CosineAnnealingLR", above_zero, T_max=T_max)
        check("CosineAnnealingLR", at_least_zero, eta_min=eta_min)
        self._begin(optimizer, last_epoch, T_max=T_max, eta_min=eta_min)

    def schedule(self, base: float) -> schedules.Schedule:
        schedule: schedules.Schedule = made(schedules.Cosine, base, self.T_max, self.eta_min)
        return schedule

    def at(self, base: float, t: int, i: int) -> float:
        """Mirror the half cosine at T_max."""
        passed = t % (2 * self.T_max)
        return self.schedule(base)(min(passed, 2 * self.T_max - passed))

    def advance(self, lr: float, t: int, i: int) -> float:
        """Follow PyTorch's recurrence, which scales the distance of lr from eta_min."""
        T, end = self.T_max, self.eta_min
        if t == 0:
            return lr
        if (t - 1 - T) % (2 * T) == 0:
            return lr + (self.base_lrs[i] - end) * (1 - math.cos(math.pi / T)) / 2
        return (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T)) * (lr - end) + end


class LambdaLR(LRScheduler):
    """Multiply the initial lr by lr_lambda(t): one function for all groups, or a list with one for each.

    `state_dict` notes functions by name, and `load_state_dict` refuses others. With functions defined by `def` in a
    module the scheduler pickles.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = LambdaLR(optimizer, lambda t: 1 / (1 + t))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.4]
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | list[Factor], last_epoch: int = -1):
        check_length(self._who, "lr_lambda", lr_lambda, optimizer)
        for function in lr_lambda if isinstance(lr_lambda, (list, tuple)) else [lr_lambda]:
            if not callable(function):
                raise TypeError(f"{self._who}: lr_lambda must be a function of t, got {type(function).__name__}")
        self.lr_lambda = lr_lambda
        self.settings = {"lr_lambda": noted(lr_lambda)}
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int, i: int) -> float:
        """Return lr_lambda(t) of group i."""
        return float(for_group(self._who, "lr_lambda", self.lr_lambda, i)(t))

    def at(self, base: float, t: int, i: int) -> float:
        return base * self.factor(t, i)


class MultiplicativeLR(LambdaLR):
    """Multiply lr at every step by lr_lambda(t): lr(t) = lr lr_lambda(1) lr_lambda(2) ... lr_lambda(t).

    Later in a SequentialLR, lr is what the scheduler before it left, times lr_lambda(0).

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = MultiplicativeLR(optimizer, lambda t: 1 / t)
    >>> scheduler.step(4)
    >>> round(scheduler.get_last_lr()[0] * 24, 9)
    0.8
    """

    multiplies = True
    follows = True

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | list[Factor], last_epoch: int = -1):
        self._known: dict[int, tuple[int, float, float]] = {}  # group -> t, base, lr: so that a step is one product
        super().__init__(optimizer, lr_lambda, last_epoch)

    def at(self, base: float, t: int, i: int) -> float:
        known, start, lr = self._known.get(i, (0, base, base))
        if known > t or start != base:
            known, lr = 0, base
        for k in range(known + 1, t + 1):
            lr *= self.factor(k, i)
        self._known[i] = (t, base, lr)
        return lr

    def advance(self, lr: float, t: int, i: int) -> float:
        return lr * self.factor(t, i) if t else lr

    def enter(self, left: float, i: int) -> float:
        return left * self.factor(0, i)


class SWALR(LRScheduler):
    """Take lr from where it is at the first step to swa_lr, in anneal_epochs steps, along a cosine or a line.

        lr(t) = (1 - a) lr(0) + a swa_lr,    a = (1 - cos(pi x)) / 2 or x,  x = min(t / anneal_epochs, 1)

    For averaging the weights at a constant lr (Izmailov et al. 2018, arXiv:1803.05407); it steps alone, after the
    scheduler of the training before.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = SWALR(optimizer, swa_lr=0.2, anneal_epochs=2)
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    combinable = False

    def __init__(
        self, optimizer: Optimizer, swa_lr: float | list[float], anneal_epochs: int = 10, anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ):  # fmt: skip
        check_length("SWALR", "swa_lr", swa_lr, optimizer)
        check_each("SWALR", at_least_zero, swa_lr=swa_lr)
        check("SWALR", OneOf("cos", "linear"), anneal_strategy=anneal_strategy)
        check("SWALR", count_from_zero, anneal_epochs=anneal_epochs)
        self.swa_lr, self.anneal_epochs, self.anneal_strategy = swa_lr, anneal_epochs, anneal_strategy
        names = ("swa_lr", "anneal_epochs", "anneal_strategy")
        self.settings = {name: getattr(self, name) for name in names}
        super().__init__(optimizer, last_epoch)

    def initial(self, i: int, group: ParamGroup) -> float:
        return float(group["lr"])

    @replayed
    def step(self, epoch: int | None = None) -> None:
        """Go on to the next t; the first time lr(0) is the lr that the groups have then."""
        if not self._stepped and self.last_epoch == 0:
            self.base_lrs = []
        super().step(epoch)

    def at(self, base: float, t: int, i: int) -> float:
        end = for_group("SWALR", "swa_lr", self.swa_lr, i)
        if not self.anneal_epochs:
            return float(end)
        kind = "cosine" if self.anneal_strategy == "cos" else "linear"
        return float(made(schedules.PiecewiseInterpolate, (0, self.anneal_epochs), (base, end), kind)(t))


def _start_fraction(x: Any) -> bool:
    """a number in (0, 1]"""  # noqa: D400
    return fraction(x) and x > 0


def steps_of(who: str, milestones: Any) -> list[int]:
    """Return milestones as plain ints; ValueError unless they are steps >= 0."""
    several = isinstance(milestones, Iterable) and not isinstance(milestones, str)
    plain = [x.item() if isinstance(x, np.generic) else x for x in milestones] if several else milestones
    check(who, _are_steps, milestones=plain)
    return list(plain)


def _are_steps(x: Any) -> bool:
    """a list of ints >= 0"""  # noqa: D400
    return isinstance(x, list) and all(map(count_from_zero, x))
