"""Bound schedules that rise and fall, and cycle the momentum with the lr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...compiler.record import replayed
from .. import schedules
from ..base import Optimizer
from ..groups import ParamGroup, at_least_zero, below_one, check, flag
from ..rules import OneOf, above_zero, count, fraction
from .base import LRScheduler, check_each, check_length, for_group, inner_of, made, noted


class CosineAnnealingWarmRestarts(LRScheduler):
    """Take lr down along a cosine, restarting after T_0, T_0 T_mult, ... more steps: `schedules.CosineRestarts`.

    `step(epoch)` takes fractions of an epoch: step(epoch + i / batches) (Loshchilov & Hutter 2017, arXiv:1608.03983).

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
    >>> scheduler.step(4)
    >>> round(scheduler.get_last_lr()[0], 9)
    0.4
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        check("CosineAnnealingWarmRestarts", count, T_0=T_0, T_mult=T_mult)
        check("CosineAnnealingWarmRestarts", at_least_zero, eta_min=eta_min)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        self.settings = {"T_0": T_0, "T_mult": T_mult, "eta_min": eta_min}
        super().__init__(optimizer, last_epoch)

    def at(self, base: float, t: int, i: int) -> float:
        return float(made(schedules.CosineRestarts, base, self.T_0, self.T_mult, self.eta_min)(t))

    @replayed
    def step(self, epoch: float | None = None) -> None:
        """Go on to the next whole epoch, or to `epoch`, which may be a fraction."""
        super().step(int(self.last_epoch) + 1 if epoch is None else epoch)


class _Cycling(LRScheduler):
    """A scheduler that may cycle momentum (or the first beta) against the lr."""

    cycle_momentum: bool
    base_momentum: Any
    max_momentum: Any

    def _check_momentum(self, optimizer: Any) -> None:
        check(self._who, flag, cycle_momentum=self.cycle_momentum)
        check_length(self._who, "base_momentum", self.base_momentum, optimizer)
        check_length(self._who, "max_momentum", self.max_momentum, optimizer)
        optimizer = inner_of(self._who, optimizer)
        if self.cycle_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
            raise ValueError(
                f"{self._who}: {type(optimizer).__name__} has neither momentum nor betas; pass cycle_momentum=False"
            )

    def _momenta(self, i: int) -> tuple[float, float]:
        """Return (max, base) momentum of group i."""
        names = ("max_momentum", "base_momentum")
        high, low = (for_group(self._who, name, getattr(self, name), i) for name in names)
        return high, low

    def _set_initial_lr(self) -> None:
        """Make the first lr of this scheduler the initial one for schedulers that are made later."""
        for group, lr in zip(self.optimizer.param_groups, self.bases(), strict=True):
            group["initial_lr"] = lr

    def _keep(self, **settings: Any) -> None:
        self.settings = {name: noted(value) for name, value in settings.items()}
        for name, value in settings.items():
            setattr(self, name, value)


class CyclicLR(_Cycling):
    """Let lr go up and down in triangles between base_lr and max_lr: `schedules.Cyclic` (Smith 2017, arXiv:1506.01186).

    mode: "triangular", "triangular2" (halved at each cycle), "exp_range" (times gamma^t). `scale_fn`, if given, takes
    their place: a function of the number of the cycle (1, 2, ...), or with scale_mode="iterations" of t. With
    `cycle_momentum`, PyTorch's default, momentum or the first beta goes from max_momentum down to base_momentum and
    back; ValueError for an optimizer without either.

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = CyclicLR(optimizer, base_lr=0.2, max_lr=0.6, step_size_up=2)
    >>> scheduler.step()
    >>> scheduler.get_last_lr(), round(optimizer.param_groups[0]["momentum"], 9)
    ([0.4], 0.85)
    """

    mode: str
    scale_fn: Callable[[float], float] | None
    scale_mode: str
    base_lr: Any
    max_lr: Any
    step_size_up: int
    step_size_down: int | None
    gamma: float

    def __init__(
        self, optimizer: Optimizer, base_lr: float | list[float], max_lr: float | list[float], step_size_up: int = 2000,
        step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle", cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8, max_momentum: float | list[float] = 0.9, last_epoch: int = -1,
    ):  # fmt: skip
        self._keep(
            base_lr=base_lr, max_lr=max_lr, step_size_up=step_size_up, step_size_down=step_size_down, mode=mode,
            gamma=gamma, scale_fn=scale_fn, scale_mode=scale_mode, cycle_momentum=cycle_momentum,
            base_momentum=base_momentum, max_momentum=max_momentum,
        )  # fmt: skip
        check("CyclicLR", OneOf("cycle", "iterations"), scale_mode=scale_mode)
        check("CyclicLR", OneOf("triangular", "triangular2", "exp_range"), mode=mode)
        check("CyclicLR", above_zero, step_size_up=step_size_up)
        if step_size_down is not None:
            check("CyclicLR", above_zero, step_size_down=step_size_down)
        check("CyclicLR", at_least_zero, gamma=gamma)
        if scale_fn is not None and not callable(scale_fn):
            raise ValueError(f"CyclicLR: scale_fn must be a function of the cycle or of t, got scale_fn={scale_fn!r}")
        check_each("CyclicLR", at_least_zero, base_lr=base_lr, max_lr=max_lr)
        check_each("CyclicLR", below_one, base_momentum=base_momentum, max_momentum=max_momentum)
        check_length("CyclicLR", "base_lr", base_lr, optimizer)
        check_length("CyclicLR", "max_lr", max_lr, optimizer)
        self._check_momentum(optimizer)
        if self._bind(optimizer, last_epoch):
            self._set_initial_lr()
        self._move(self.last_epoch)

    def initial(self, i: int, group: ParamGroup) -> float:
        return float(for_group("CyclicLR", "base_lr", self.base_lr, i))

    def _value(self, base: float, peak: float, t: int) -> float:
        lengths = (self.step_size_up, self.step_size_down)
        if self.scale_fn is None:
            return float(made(schedules.Cyclic, base, peak, *lengths, self.mode, self.gamma)(t))
        cycle, height = made(schedules.Cyclic, base, peak, *lengths).height(t)
        return base + (peak - base) * float(height * self.scale_fn(cycle + 1 if self.scale_mode == "cycle" else t))

    def at(self, base: float, t: int, i: int) -> float:
        return self._value(base, for_group("CyclicLR", "max_lr", self.max_lr, i), t)

    def momentum_at(self, t: int, i: int) -> float | None:
        return self._value(*self._momenta(i), t) if self.cycle_momentum else None


class OneCycleLR(_Cycling):
    """Let lr rise from max_lr / div_factor to max_lr and fall far below, once: `schedules.OneCycle`.

    Momentum or the first beta goes the other way, from max_momentum to base_momentum and back, unless
    cycle_momentum=False. As in PyTorch t = total_steps is still allowed, a little past the end, and a step further a
    ValueError; `schedules.OneCycle` stays at its end instead. Where PyTorch's lr is negative there, or its momentum 1
    or more, the last step's holds (Smith & Topin 2018, arXiv:1708.07120).

    >>> import minidl as md
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.8)
    >>> scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
    >>> scheduler.get_last_lr(), optimizer.param_groups[0]["momentum"]
    ([0.02], 0.95)
    """

    max_lr: Any
    total_steps: int
    pct_start: float
    anneal_strategy: str
    div_factor: float
    final_div_factor: float
    three_phase: bool

    def __init__(
        self, optimizer: Optimizer, max_lr: float | list[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4,
        three_phase: bool = False, last_epoch: int = -1,
    ):  # fmt: skip
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: needs either total_steps, or epochs and steps_per_epoch")
            check("OneCycleLR", count, epochs=epochs, steps_per_epoch=steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        check("OneCycleLR", count, total_steps=total_steps)
        check("OneCycleLR", OneOf("cos", "linear"), anneal_strategy=anneal_strategy)
        check("OneCycleLR", flag, three_phase=three_phase)
        check("OneCycleLR", _half if three_phase else fraction, pct_start=pct_start)
        check("OneCycleLR", above_zero, div_factor=div_factor, final_div_factor=final_div_factor)
        check_each("OneCycleLR", at_least_zero, max_lr=max_lr)
        check_each("OneCycleLR", _momentum, base_momentum=base_momentum, max_momentum=max_momentum)
        self._keep(
            max_lr=max_lr, total_steps=total_steps, pct_start=pct_start, anneal_strategy=anneal_strategy,
            cycle_momentum=cycle_momentum, base_momentum=base_momentum, max_momentum=max_momentum,
            div_factor=div_factor, final_div_factor=final_div_factor, three_phase=three_phase,
        )  # fmt: skip
        check_length("OneCycleLR", "max_lr", max_lr, optimizer)
        self._check_momentum(optimizer)
        self._bind(optimizer, last_epoch)
        if last_epoch == -1:
            self._set_initial_lr()
        self._move(self.last_epoch)

    def initial(self, i: int, group: ParamGroup) -> float:
        return float(for_group("OneCycleLR", "max_lr", self.max_lr, i)) / self.div_factor

    def _schedule(self, peak: float, div: float, final_div: float) -> schedules.OneCycle:
        settings = (self.total_steps, self.pct_start, self.anneal_strategy, div, final_div, self.three_phase)
        schedule: schedules.OneCycle = made(schedules.OneCycle, peak, *settings)
        return schedule

    def at(self, base: float, t: int, i: int) -> float:
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: tried to step {t} times, but total_steps={self.total_steps}")
        peak = for_group("OneCycleLR", "max_lr", self.max_lr, i)
        schedule = self._schedule(peak, self.div_factor, self.final_div_factor)
        value = schedule.unclamped(t)
        return value if value >= 0 else schedule(t)

    def momentum_at(self, t: int, i: int) -> float | None:
        if not self.cycle_momentum:
            return None
        high, low = self._momenta(i)
        schedule = self._schedule(low, low / high, 1.0)
        value = schedule.unclamped(t)
        return value if value < 1 else schedule(t)


def _half(x: Any) -> bool:
    """a number in [0, 0.5] with three_phase"""  # noqa: D400
    return fraction(x) and x <= 0.5


def _momentum(x: Any) -> bool:
    """a number in (0, 1)"""  # noqa: D400
    return below_one(x) and x > 0
