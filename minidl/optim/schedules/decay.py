"""Schedules that fall from a first value to a last one. Past the end they stay there."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from . import checks
from .base import Schedule, between, cosine, power


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    >>> Constant(0.1)(1000)
    0.1
    """

    at: float

    def __post_init__(self) -> None:
        checks.finite(self, "at")

    def value(self, t: float) -> float:
        return self.at


@dataclass(frozen=True)
class Step(Schedule):
    """Multiply by gamma after every so many steps: start gamma^floor(t / every) (PyTorch's StepLR).

    >>> [Step(1.0, every=2, gamma=0.5)(t) for t in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    start: float
    every: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        checks.finite(self, "start")
        checks.positive(self, "every")
        checks.at_least_zero(self, "gamma")

    def value(self, t: float) -> float:
        return self.start * power(self.gamma, t // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiply by gamma at each milestone: start gamma^(number of milestones <= t) (PyTorch's MultiStepLR).

    timm counts one step earlier. Milestones may come in any order; one named twice counts twice.

    >>> [MultiStep(1.0, milestones=(1, 3), gamma=0.5)(t) for t in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    start: float
    milestones: tuple[float, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        checks.finite(self, "start")
        checks.at_least_zero(self, "gamma")
        checks.numbers(self, "milestones")
        object.__setattr__(self, "milestones", tuple(sorted(self.milestones)))
        if min(self.milestones, default=0) < 0:
            raise ValueError(f"MultiStep: milestones must be steps >= 0, got milestones={self.milestones!r}")

    def value(self, t: float) -> float:
        return self.start * self.gamma ** bisect_right(self.milestones, t)


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiply by gamma in every `steps` steps: start gamma^((t - begin) / steps), start before `begin`.

    `staircase` rounds the exponent down. `end` is a bound: the value never passes it. PyTorch's ExponentialLR has
    steps=1; optax's exponential_decay and Keras's ExponentialDecay have all of it.

    >>> [Exponential(1.0, gamma=0.25, steps=2, end=0.1)(t) for t in range(5)]
    [1.0, 0.5, 0.25, 0.125, 0.1]
    """

    start: float
    gamma: float
    steps: float = 1
    begin: float = 0
    staircase: bool = False
    end: float | None = None

    def __post_init__(self) -> None:
        checks.finite(self, "start", *[] if self.end is None else ["end"])
        checks.at_least_zero(self, "gamma", "begin")
        checks.positive(self, "steps")
        checks.flags(self, "staircase")

    def value(self, t: float) -> float:
        x = max(t - self.begin, 0) / self.steps
        value = self.start * power(self.gamma, math.floor(x) if self.staircase else x)
        if self.end is None:
            return value
        return max(value, self.end) if self.gamma < 1 else min(value, self.end)


@dataclass(frozen=True)
class Linear(Schedule):
    """Go from start to end in a straight line: start + (end - start) x, x = min((t - begin) / steps, 1).

    Warm-up if end > start. PyTorch's LinearLR, optax's linear_schedule.

    >>> [Linear(0.0, steps=4, end=1.0)(t) for t in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    start: float
    steps: float
    end: float = 0.0
    begin: float = 0

    def __post_init__(self) -> None:
        checks.finite(self, "start", "end")
        checks.positive(self, "steps")
        checks.at_least_zero(self, "begin")

    def value(self, t: float) -> float:
        return between(self.start, self.end, min(max(t - self.begin, 0) / self.steps, 1))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Fall as a power of the steps that are left: end + (start - end) (1 - x)^power, x = min((t - begin) / steps, 1).

    With `cycle` steps doubles, triples, ... as often as needed for x <= 1, so that the value rises again (Keras's
    PolynomialDecay). PyTorch's PolynomialLR and optax's polynomial_schedule are without it.

    >>> [Polynomial(1.0, steps=4, power=2.0)(t) for t in (0, 2, 4, 9)]
    [1.0, 0.25, 0.0, 0.0]
    """

    start: float
    steps: float
    end: float = 0.0
    power: float = 1.0
    begin: float = 0
    cycle: bool = False

    def __post_init__(self) -> None:
        checks.finite(self, "start", "end")
        checks.positive(self, "steps", "power")
        checks.at_least_zero(self, "begin")
        checks.flags(self, "cycle")

    def value(self, t: float) -> float:
        t = max(t - self.begin, 0)
        length = self.steps * (max(math.ceil(t / self.steps), 1) if self.cycle else 1)
        return between(self.end, self.start, (1 - min(t / length, 1)) ** self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Fall along half a cosine: end + (start - end) ((1 + cos(2 pi waves x)) / 2)^exponent, x = min(t / steps, 1).

    (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.) PyTorch's CosineAnnealingLR rises again after
    `steps`; this one stays where it is, as optax's cosine_decay_schedule, whose alpha is end / start. With waves=1.5 it
    falls, rises and falls in the same steps (Hugging Face's num_cycles).

    >>> [round(Cosine(1.0, steps=3, end=0.2)(t), 6) for t in range(5)]
    [1.0, 0.8, 0.4, 0.2, 0.2]
    """

    start: float
    steps: float
    end: float = 0.0
    exponent: float = 1.0
    waves: float = 0.5

    def __post_init__(self) -> None:
        checks.finite(self, "start", "end")
        checks.positive(self, "steps", "exponent", "waves")

    def value(self, t: float) -> float:
        return between(self.end, self.start, cosine(2 * self.waves * min(t / self.steps, 1)) ** self.exponent)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """Divide by the time: start / (1 + rate t / steps)^power (Robbins & Monro 1951; Keras's InverseTimeDecay, power 1).

    The defaults give start / (t + 1), power=0.5 gives start / sqrt(t + 1). `staircase` rounds t / steps down.

    >>> [InverseTime(1.0, power=0.5)(t) for t in (0, 3, 8)]
    [1.0, 0.5, 0.3333333333333333]
    """

    start: float
    steps: float = 1
    rate: float = 1.0
    power: float = 1.0
    staircase: bool = False

    def __post_init__(self) -> None:
        checks.finite(self, "start")
        checks.positive(self, "steps", "power")
        checks.at_least_zero(self, "rate")
        checks.flags(self, "staircase")

    def value(self, t: float) -> float:
        x = t / self.steps
        return self.start / (1 + self.rate * (math.floor(x) if self.staircase else x)) ** self.power


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """Rise in a line for `warmup_steps`, then fall as 1 / sqrt(t): peak min(t / W, sqrt(W / t)).

    `timescale` sets how fast it falls, peak / sqrt((t - W + timescale) / timescale), and is W unless given (Hugging
    Face's inverse_sqrt). The first step has the value 0: `zero_first=False` counts it (t + 1) / W.

    >>> [InverseSqrt(1.0, warmup_steps=4)(t) for t in (0, 1, 4, 16)]
    [0.0, 0.25, 1.0, 0.5]
    """

    peak: float
    warmup_steps: float
    timescale: float | None = None
    zero_first: bool = True

    def __post_init__(self) -> None:
        checks.finite(self, "peak")
        checks.at_least_zero(self, "warmup_steps")
        checks.flags(self, "zero_first")
        if self.timescale is not None or not self.warmup_steps:
            checks.positive(self, "timescale")

    def value(self, t: float) -> float:
        if t < self.warmup_steps:
            return self.peak * min((t if self.zero_first else t + 1) / self.warmup_steps, 1)
        scale = self.warmup_steps if self.timescale is None else self.timescale
        return self.peak / math.sqrt((t - self.warmup_steps + scale) / scale)


@dataclass(frozen=True)
class Noam(Schedule):
    """The Transformer's: factor d_model^-0.5 min(s^-0.5, s W^-1.5), s = t + 1 (Vaswani et al. 2017, eq. 3).

    W = warmup_steps; the largest value, factor / sqrt(d_model W), is that of t = W - 1.

    >>> round(Noam(512, warmup_steps=4000)(3999), 9)
    0.000698771
    """

    d_model: float
    warmup_steps: float = 4000
    factor: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, "d_model", "warmup_steps")
        checks.finite(self, "factor")

    def value(self, t: float) -> float:
        s = t + 1
        return self.factor * self.d_model**-0.5 * min(s**-0.5, s * self.warmup_steps**-1.5)


@dataclass(frozen=True)
class REX(Schedule):
    """Stay high, then fall fast: end + (start - end) (1 - x) / (1 - x / 2), x = min(t / steps, 1).

    (Chen, Wolfe & Kyrillidis 2021, arXiv:2107.04197, Sec. 3: the profile "reflected exponential".)

    >>> [round(REX(1.0, steps=4)(t), 6) for t in range(6)]
    [1.0, 0.857143, 0.666667, 0.4, 0.0, 0.0]
    """

    start: float
    steps: float
    end: float = 0.0

    def __post_init__(self) -> None:
        checks.finite(self, "start", "end")
        checks.positive(self, "steps")

    def value(self, t: float) -> float:
        x = min(t / self.steps, 1)
        return between(self.end, self.start, (1 - x) / (1 - x / 2))


@dataclass(frozen=True)
class Tanh(Schedule):
    """Fall along a hyperbolic tangent: end + (start - end) (1 - tanh(lower + (upper - lower) x)) / 2.

    x = min(t / steps, 1) (Hsueh, Li & Wu 2019, arXiv:1806.01593, eq. 5; HTD(-6, 3) is its best setting). Neither end is
    reached exactly: the last value is (1 - tanh(3)) / 2 = 0.25 % of the way above `end`.

    >>> [round(Tanh(1.0, steps=9)(t), 6) for t in (0, 6, 9)]
    [0.999994, 0.5, 0.002473]
    """

    start: float
    steps: float
    end: float = 0.0
    lower: float = -6.0
    upper: float = 3.0

    def __post_init__(self) -> None:
        checks.finite(self, "start", "end", "lower", "upper")
        checks.positive(self, "steps")
        checks.number(self, f"above lower={self.lower}", lambda x: x > self.lower, "upper")

    def value(self, t: float) -> float:
        x = self.lower + (self.upper - self.lower) * min(t / self.steps, 1)
        return between(self.end, self.start, (1 - math.tanh(x)) / 2)


@dataclass(frozen=True)
class FlatCosine(Schedule):
    """Hold for a share of the steps, then fall along half a cosine (fastai's fit_flat_cos; 0.75 is its default).

    >>> [round(FlatCosine(1.0, total_steps=8, flat=0.5)(t), 6) for t in (0, 4, 6, 8)]
    [1.0, 1.0, 0.5, 0.0]
    """

    start: float
    total_steps: float
    flat: float = 0.75
    end: float = 0.0

    def __post_init__(self) -> None:
        checks.finite(self, "start", "end")
        checks.positive(self, "total_steps")
        checks.share(self, "flat")

    def value(self, t: float) -> float:
        held = self.flat * self.total_steps
        if t <= held and t < self.total_steps:
            return self.start
        rest = self.total_steps - held
        return between(self.end, self.start, cosine((t - held) / rest) if t < self.total_steps else 0.0)


COOLDOWNS: dict[str, Any] = {
    "linear": lambda x: 1 - x,
    "cosine": cosine,
    "1-sqrt": lambda x: 1 - math.sqrt(x),
    "1-square": lambda x: 1 - x * x,
}


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm up, hold, cool down: a trapezoid over `total_steps`, of which the first and the last have slopes.

    Warm-up: peak (t + 1) / warmup_steps, so that no step is wasted; cool-down over the last `cooldown_steps`, with x
    from 0 to 1 at t = total_steps: end + (peak - end) f(x), f = 1 - x, (1 + cos(pi x)) / 2, 1 - sqrt(x) (the best of
    them in the source) or 1 - x^2 (Hu et al. 2024, arXiv:2404.06395, Sec. 4; Haegele et al. 2024, arXiv:2405.18392,
    eq. 1). ValueError if the two slopes do not fit.

    >>> [WSD(1.0, total_steps=8, cooldown_steps=4, warmup_steps=2, cooldown="1-sqrt")(t) for t in (0, 1, 4, 5, 8)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    peak: float
    total_steps: float
    cooldown_steps: float
    warmup_steps: float = 0
    end: float = 0.0
    cooldown: str = "linear"

    def __post_init__(self) -> None:
        checks.finite(self, "peak", "end")
        checks.positive(self, "total_steps")
        checks.at_least_zero(self, "warmup_steps", "cooldown_steps")
        checks.one_of(self, "cooldown", COOLDOWNS)
        rest = self.total_steps - self.warmup_steps
        checks.number(self, f"at most total_steps - warmup_steps = {rest}", lambda x: x <= rest, "cooldown_steps")

    def value(self, t: float) -> float:
        if t < self.warmup_steps:
            return self.peak * min((t + 1) / self.warmup_steps, 1)
        left = self.total_steps - t
        if left >= self.cooldown_steps and left > 0:
            return self.peak
        x = 1 - left / self.cooldown_steps if left > 0 else 1.0
        return between(self.end, self.peak, COOLDOWNS[self.cooldown](x))
