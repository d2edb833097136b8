"""Schedules that rise and fall: restarts, triangles, the one cycle, and those given by points."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from . import checks
from .base import Schedule, between, cosine, power


def cycle_of(t: float, first: float, t_mul: float) -> tuple[int, float, float]:
    """Return (n, steps into cycle n, its length) if cycle n is first t_mul^n steps long.

    By counting and not by a logarithm, which is a cycle off at some restarts.

    >>> cycle_of(34, 10, 2)
    (2, 4, 40)
    """
    if t_mul == 1:
        passed = t % first  # exact
        return round((t - passed) / first), passed, first
    n, length = 0, first
    while t >= length:
        n, t, length = n + 1, t - length, length * t_mul
    return n, t, length


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Fall along half a cosine, jump back, and again: SGDR (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5).

        end + (start - end) m_mul^n (1 + cos(pi T_cur / T_n)) / 2,    T_n = first t_mul^n

    T_cur steps have passed in cycle n. PyTorch's CosineAnnealingWarmRestarts has m_mul=1, Keras's CosineDecayRestarts
    t_mul=2. After `cycles` cycles, if given, the value stays at `end` (Hugging Face's cosine_with_restarts).

    >>> [round(CosineRestarts(1.0, first=2, t_mul=2)(t), 6) for t in range(7)]
    [1.0, 0.5, 1.0, 0.853553, 0.5, 0.146447, 1.0]
    """

    start: float
    first: float
    t_mul: float = 1
    end: float = 0.0
    m_mul: float = 1.0
    cycles: int | None = None

    def __post_init__(self) -> None:
        checks.finite(self, "start", "end")
        checks.positive(self, "first")
        checks.at_least_one(self, "t_mul", *[] if self.cycles is None else ["cycles"])
        checks.at_least_zero(self, "m_mul")

    def value(self, t: float) -> float:
        n, passed, length = cycle_of(t, self.first, self.t_mul)
        if self.cycles is not None and n >= self.cycles:
            return self.end
        peak = self.start if self.m_mul == 1 else self.end + (self.start - self.end) * power(self.m_mul, n)
        return between(self.end, peak, cosine(passed / length))


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Go up and down in triangles between base and peak (Smith 2017, arXiv:1506.01186, Sec. 3.2).

        base + (peak - base) h s,   h = height in the triangle, from 0 over 1 after `steps_up` to 0 after `steps_down`

    s = 1 ("triangular"), 2^-n in cycle n = 0, 1, ... ("triangular2"), gamma^t ("exp_range"). `steps_down` is `steps_up`
    unless given. Momentum goes the other way: Cyclic(0.9, 0.8, ...).

    >>> [Cyclic(0.0, 1.0, steps_up=2, mode="triangular2")(t) for t in range(8)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """

    base: float
    peak: float
    steps_up: float
    steps_down: float | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        checks.finite(self, "base", "peak")
        checks.positive(self, "steps_up", *[] if self.steps_down is None else ["steps_down"])
        checks.at_least_zero(self, "gamma")
        checks.one_of(self, "mode", ("triangular", "triangular2", "exp_range"))

    def height(self, t: float) -> tuple[int, float]:
        """Return the number of cycles before t, and the height in the present triangle."""
        down = self.steps_up if self.steps_down is None else self.steps_down
        n, passed, length = cycle_of(t, self.steps_up + down, 1)
        return n, passed / self.steps_up if passed <= self.steps_up else (length - passed) / down

    def value(self, t: float) -> float:
        n, height = self.height(t)
        scale = {"triangular": 1.0, "triangular2": 0.5**n, "exp_range": power(self.gamma, t)}[self.mode]
        return between(self.base, self.peak, height * scale)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rise to the peak and fall far below the start, once (Smith & Topin 2018, arXiv:1708.07120; PyTorch's OneCycleLR).

    From peak / div_factor to peak in the steps up to pct_start total_steps - 1, from there to
    peak / (div_factor final_div_factor) at the last step, total_steps - 1, along cosines or lines (`anneal`). With
    `three_phase` the way down is as long as the way up and ends at the start; then comes the third phase. The defaults
    are PyTorch's. `OneCycle.momentum` is the momentum that goes with it.

    >>> [round(OneCycle(1.0, total_steps=11, pct_start=0.5, anneal="linear", div_factor=10)(t), 6) for t in (0, 2, 10)]
    [0.1, 0.5, 1e-05]
    """

    peak: float
    total_steps: float
    pct_start: float = 0.3
    anneal: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        checks.finite(self, "peak")
        checks.at_least_one(self, "total_steps")
        checks.positive(self, "div_factor", "final_div_factor")
        checks.share(self, "pct_start")
        checks.one_of(self, "anneal", ("cos", "linear"))
        checks.flags(self, "three_phase")
        if self.three_phase:
            checks.number(self, "at most 0.5 with three_phase", lambda x: x <= 0.5, "pct_start")

    @classmethod
    def momentum(
        cls, total_steps: float, base: float = 0.85, max: float = 0.95, pct_start: float = 0.3, anneal: str = "cos",
        three_phase: bool = False,
    ) -> OneCycle:  # fmt: skip
        """Return the momentum of the one cycle: from max down to base while the learning rate rises, and back.

        >>> [round(OneCycle.momentum(11, pct_start=0.5)(t), 6) for t in (0, 10)]
        [0.95, 0.95]
        """
        return cls(base, total_steps, pct_start, anneal, base / max, 1.0, three_phase)

    def unclamped(self, t: float) -> float:
        """Compute the value for step t, going on past the last step on the curve of the last phase."""
        top, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        start = self.peak / self.div_factor
        final = start / self.final_div_factor
        if t <= top:
            begin, end, first, last = 0.0, top, start, self.peak
        elif not self.three_phase:
            begin, first, last = top, self.peak, final
        elif t <= 2 * top:
            begin, end, first, last = top, 2 * top, self.peak, start
        else:
            begin, first, last = 2 * top, start, final
        x = (t - begin) / (end - begin) if end > begin else 1.0
        return between(first, last, x if self.anneal == "linear" else 1 - cosine(x))

    def value(self, t: float) -> float:
        return self.unclamped(min(t, self.total_steps - 1))


@dataclass(frozen=True)
class Chebyshev(Schedule):
    """The best rates for gradient descent on a quadratic whose curvatures lie between two numbers, over and over.

        1 / rate = (highest + lowest) / 2 - (highest - lowest) / 2 cos(pi (i - 1/2) / steps),   i = 1, ..., steps

    In `steps` steps the distance to the minimum shrinks by cosh(steps arccosh c), c = (highest + lowest) / (highest -
    lowest): no other rates promise more. Single ones are far above 2 / highest, and i comes in an order in which they
    do not blow up rounding errors (Agarwal, Goel & Zhang 2021, arXiv:2103.01338, Sec. 2). It exists for powers of 2:
    ValueError for other `steps`, and unless 0 < lowest < highest.

    >>> [round(Chebyshev(1.0, 3.0, steps=2)(t), 6) for t in range(3)]  # 1 / (2 - sqrt(1/2)), 1 / (2 + sqrt(1/2))
    [0.773459, 0.369398, 0.773459]
    """

    lowest: float
    highest: float
    steps: int

    def __post_init__(self) -> None:
        checks.positive(self, "lowest", "highest")
        checks.number(self, f"above lowest={self.lowest}", lambda x: x > self.lowest, "highest")
        checks.number(self, "a power of 2", lambda x: isinstance(x, int) and x > 0 and x & (x - 1) == 0, "steps")

    def value(self, t: float) -> float:
        i = _interlaced(int(t) % self.steps, self.steps)
        middle, half = (self.highest + self.lowest) / 2, (self.highest - self.lowest) / 2
        return 1 / (middle - half * math.cos(math.pi * (i - 0.5) / self.steps))


def _interlaced(t: int, n: int) -> int:
    """Return place t of 1, ..., n in the order s(1) = [1], s(2 n) = s(n) interlaced with 2 n + 1 - s(n).

    >>> [_interlaced(t, 8) for t in range(8)]
    [1, 8, 4, 5, 2, 7, 3, 6]
    """
    if n == 1:
        return 1
    i = _interlaced(t // 2, n // 2)
    return n + 1 - i if t % 2 else i


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """Give values[i] from step boundaries[i - 1] on: one value more than boundaries (optax's piecewise_constant).

    Keras changes one step later, at t > boundary.

    >>> [PiecewiseConstant(boundaries=(2, 3), values=(0.1, 0.02, 0.001))(t) for t in range(5)]
    [0.1, 0.1, 0.02, 0.001, 0.001]
    """

    boundaries: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        checks.numbers(self, "boundaries", increasing=True)
        checks.numbers(self, "values")
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"PiecewiseConstant: needs one value more than boundaries, got {len(self.boundaries)} boundaries and "
                f"values={self.values!r}"
            )

    def value(self, t: float) -> float:
        return self.values[bisect_right(self.boundaries, t)]


@dataclass(frozen=True)
class PiecewiseInterpolate(Schedule):
    """Go from point to point, values[i] at step steps[i], in lines or half cosines; constant before and after them.

    optax's piecewise_interpolate_schedule, with values and not scales; it makes optax's linear and cosine one-cycle.

    >>> [PiecewiseInterpolate(steps=(0, 2, 6), values=(0.0, 1.0, 0.5))(t) for t in (0, 1, 2, 4, 9)]
    [0.0, 0.5, 1.0, 0.75, 0.5]
    """

    steps: tuple[float, ...]
    values: tuple[float, ...]
    kind: str = "linear"

    def __post_init__(self) -> None:
        checks.numbers(self, "steps", increasing=True)
        checks.numbers(self, "values")
        checks.one_of(self, "kind", ("linear", "cosine"))
        if len(self.values) != len(self.steps) or not self.steps:
            raise ValueError(
                f"PiecewiseInterpolate: needs as many values as steps, at least one, got steps={self.steps!r} and "
                f"values={self.values!r}"
            )

    def value(self, t: float) -> float:
        i = bisect_right(self.steps, t)
        if i in (0, len(self.steps)):
            return self.values[max(i - 1, 0)]
        x = (t - self.steps[i - 1]) / (self.steps[i] - self.steps[i - 1])
        return between(self.values[i - 1], self.values[i], x if self.kind == "linear" else 1 - cosine(x))
