"""Every schedule with its formula, written once more in another way: by loops, tables, recurrences, complex numbers."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np

from minidl.optim import schedules as s


@dataclass
class Case:
    schedule: object
    formula: object  # t -> value
    until: int = 40

    def __str__(self):
        return repr(self.schedule).replace(" ", "")


def half_turn(x):
    """The real part of a point that goes round half a circle, from 1 to 0."""
    return ((1 + cmath.exp(1j * math.pi * min(x, 1))) / 2).real


def turned(x, end):
    """The same for a point that goes on to `end` half circles."""
    return ((1 + cmath.exp(1j * math.pi * min(x, end))) / 2).real


def repeated(start, factor, times):
    value = start
    for _ in range(times):
        value *= factor
    return value


def triangle(t, up, down):
    """Return (cycle, height), walking through the cycles step by step."""
    cycle = passed = 0
    for _ in range(t):
        passed += 1
        if passed == up + down:
            cycle, passed = cycle + 1, 0
    return cycle, np.interp(passed, [0, up, up + down], [0.0, 1.0, 0.0])


def restart(t, first, mul):
    """Return (cycle, steps into it, its length) from a list of all restarts."""
    starts = [0]
    while starts[-1] <= t:
        starts.append(starts[-1] + first * mul ** (len(starts) - 1))
    cycle = len(starts) - 2
    return cycle, t - starts[cycle], starts[cycle + 1] - starts[cycle]


def one_cycle(t, points, values, kind):
    """The one cycle through points, by interpolation in the angle for cosines."""
    t = min(t, points[-1])
    for (a, b), (u, v) in zip(zip(points, points[1:]), zip(values, values[1:]), strict=True):  # noqa: RUF007, B905
        if t <= b:
            x = (t - a) / (b - a)
            return u + (v - u) * x if kind == "linear" else v + (u - v) * half_turn(x)
    raise AssertionError(t)


def chebyshev(t, low, high, order):
    """One over a root of the Chebyshev polynomial of the interval, as the eigenvalue of a matrix."""
    n = len(order)
    beside = np.array([math.sqrt(2), *[1] * (n - 2)]) / 2  # the Jacobi matrix
    roots = np.linalg.eigvalsh(np.diag(beside, 1) + np.diag(beside, -1))
    return 1 / ((high + low) / 2 + (high - low) / 2 * roots[order[t % n] - 1])


def decay_of_function(t):
    return 1.0 / (1 + t) ** 2


def keras_inverse_time(t, start, steps, rate):
    return start / (1 + rate * math.floor(t / steps))


def warm(kind, start, x):
    return {
        "linear": start + (1 - start) * x,
        "constant": start,
        "exponential": math.exp((1 - x) * math.log(start)) if start else None,
        "cosine": start + (1 - start) * math.sin(math.pi * x / 2) ** 2,
        "1-sqrt": 1 - (1 - start) * (1 - x) ** 0.5,
    }[kind]


def noisy(t, std, seed, limit):
    generator = np.random.default_rng([seed, t])
    return 2.0 * (1 + next(z for z in iter(lambda: std * generator.standard_normal(), None) if abs(z) <= limit))


COOLDOWNS = ("linear", "cosine", "1-sqrt", "1-square")
LINE = s.Linear(0.8, 10, 0.2)


def line(t):
    return float(np.interp(t, [0, 10], [0.8, 0.2]))


def joined(t):
    return 0.3 if t < 5 else line(t - 5) if t < 12 else repeated(0.5, 0.9, t - 12)


def steady(t, cooldown):
    x = np.clip((t - 20) / 10, 0, 1)
    slopes = {"linear": 1 - x, "cosine": half_turn(x), "1-sqrt": 1 - x**0.5, "1-square": (1 - x) * (1 + x)}
    return 2.0 * (t + 1) / 4 if t < 4 else 0.1 + 1.9 * slopes[cooldown]


CASES = [
    Case(s.Constant(0.3), lambda t: 0.3),
    Case(s.Step(0.5, 7), lambda t: repeated(0.5, 0.1, t // 7)),
    Case(s.Step(0.5, 1, 0.9), lambda t: repeated(0.5, 0.9, t)),
    Case(s.MultiStep(0.5, (30, 3, 12, 12), 0.3), lambda t: repeated(0.5, 0.3, (t >= 3) + 2 * (t >= 12) + (t >= 30))),
    Case(s.MultiStep(0.5, ()), lambda t: 0.5),
    Case(s.Exponential(0.5, 0.9), lambda t: repeated(0.5, 0.9, t)),
    Case(s.Exponential(0.5, 0.9, 4, 6, True), lambda t: repeated(0.5, 0.9, max(t - 6, 0) // 4)),
    Case(s.Exponential(0.5, 0.9, 4, end=0.3), lambda t: max(0.3, 0.5 * math.exp(math.log(0.9) * t / 4))),
    Case(s.Exponential(0.5, 1.1, 4, end=0.7), lambda t: min(0.7, 0.5 * math.exp(math.log(1.1) * t / 4))),
    Case(s.Linear(0.8, 10, 0.2, 5), lambda t: line(max(t - 5, 0))),
    Case(s.Linear(0.0, 10, 1.0), lambda t: min(t, 10) / 10),
    Case(s.Polynomial(0.8, 10, 0.2, 3.0), lambda t: 0.2 + 0.6 * max(0, 10 - t) ** 3 / 1000),
    Case(s.Polynomial(0.8, 10, power=0.5, begin=5), lambda t: 0.8 * math.sqrt(min(max(0, 15 - t), 10) / 10)),
    Case(
        s.Polynomial(0.8, 10, 0.2, 2.0, cycle=True),
        lambda t: 0.2 + 0.6 * (1 - t / next(n for n in range(10, 100, 10) if t <= n)) ** 2,
    ),
    Case(s.Cosine(0.8, 10, 0.2), lambda t: 0.2 + 0.6 * half_turn(t / 10)),
    Case(s.Cosine(0.8, 13, 0.2, 2.0), lambda t: 0.2 + 0.6 * half_turn(t / 13) ** 2),
    Case(s.Cosine(0.8, 10, 0.2, waves=1.5), lambda t: 0.2 + 0.6 * turned(3 * t / 10, 3)),
    Case(s.Cosine(0.8, 10, 0.2, 2.0, waves=0.75), lambda t: 0.2 + 0.6 * turned(1.5 * t / 10, 1.5) ** 2),
    Case(s.InverseTime(0.8), lambda t: 0.8 / (t + 1)),
    Case(s.InverseTime(0.8, power=0.5), lambda t: 0.8 / math.sqrt(t + 1)),
    Case(s.InverseTime(0.8, 4, 0.5, staircase=True), lambda t: keras_inverse_time(t, 0.8, 4, 0.5)),
    Case(s.InverseSqrt(0.8, 9), lambda t: 0.8 * t / 9 if t < 9 else 0.8 * 3 / math.sqrt(t)),
    Case(
        s.InverseSqrt(0.8, 9, timescale=4, zero_first=False),
        lambda t: 0.8 * (t + 1) / 9 if t < 9 else 0.8 * 2 / math.sqrt(t - 5),
    ),
    Case(s.InverseSqrt(0.8, 0, 25), lambda t: 0.8 * 5 / math.sqrt(t + 25)),
    Case(s.Noam(64, 9, 2.0), lambda t: 0.25 * min(1 / math.sqrt(t + 1), (t + 1) / 27)),
    Case(s.REX(0.8, 10, 0.2), lambda t: 0.2 + 0.6 * (10 - min(t, 10)) / (10 - min(t, 10) / 2)),
    Case(
        s.Tanh(0.8, 12, 0.2, -5.0, 2.5),
        lambda t: 0.2 + 0.6 / (1 + math.exp(2 * (-5 + 7.5 * min(t, 12) / 12))),
    ),
    Case(s.FlatCosine(0.8, 20, 0.5, 0.2), lambda t: 0.8 if t < 10 else 0.2 + 0.6 * half_turn((t - 10) / 10)),
    Case(s.FlatCosine(0.8, 20, 0.0), lambda t: 0.8 * half_turn(t / 20)),
    Case(s.FlatCosine(0.8, 20, 1.0), lambda t: 0.8 if t < 20 else 0.0),
    *[
        Case(s.WSD(2.0, 30, 10, 4, 0.1, kind), lambda t, kind=kind: steady(t, kind))
        for kind in ("linear", "cosine", "1-sqrt", "1-square")
    ],
    Case(s.WSD(2.0, 5, 0), lambda t: 2.0 if t < 5 else 0.0),
    Case(
        s.CosineRestarts(0.8, 5, 2, 0.2, 0.5),
        lambda t: 0.2 + 0.6 * 0.5 ** restart(t, 5, 2)[0] * half_turn(restart(t, 5, 2)[1] / restart(t, 5, 2)[2]),
    ),
    Case(s.CosineRestarts(0.8, 7), lambda t: 0.8 * half_turn(t % 7 / 7)),
    Case(s.CosineRestarts(0.8, 7, end=0.1, cycles=3), lambda t: 0.1 + 0.7 * half_turn(t % 7 / 7) * (t < 21)),
    # Hugging Face: 3 cycles in 30 steps
    Case(s.CosineRestarts(0.8, 10, cycles=3), lambda t: 0.8 * half_turn(3 * t / 30 % 1) if t < 30 else 0.0),
    Case(s.Cyclic(0.2, 0.8, 5), lambda t: 0.2 + 0.6 * triangle(t, 5, 5)[1]),
    Case(
        s.Cyclic(0.2, 0.8, 3, 6, "triangular2"),
        lambda t: 0.2 + 0.6 * triangle(t, 3, 6)[1] / 2 ** triangle(t, 3, 6)[0],
    ),
    Case(s.Cyclic(0.9, 0.8, 3, 1, "exp_range", 0.9), lambda t: 0.9 - 0.1 * triangle(t, 3, 1)[1] * repeated(1, 0.9, t)),
    Case(s.OneCycle(1.0, 30), lambda t: one_cycle(t, [0, 8, 29], [0.04, 1.0, 4e-6], "cos")),
    Case(
        s.OneCycle(1.0, 25, 0.25, "linear", 10.0, 100.0, True),
        lambda t: one_cycle(t, [0, 5.25, 10.5, 24], [0.1, 1.0, 0.1, 1e-3], "linear"),
    ),
    Case(s.OneCycle(1.0, 10, 0.1), lambda t: one_cycle(t, [0, 9], [1.0, 4e-6], "cos")),
    Case(s.OneCycle.momentum(30), lambda t: one_cycle(t, [0, 8, 29], [0.95, 0.85, 0.95], "cos")),
    Case(
        s.OneCycle.momentum(30, pct_start=0.2, three_phase=True),
        lambda t: one_cycle(t, [0, 5, 10, 29], [0.95, 0.85, 0.95, 0.95], "cos"),
    ),
    Case(s.Chebyshev(0.5, 4.0, 8), lambda t: chebyshev(t, 0.5, 4.0, (1, 8, 4, 5, 2, 7, 3, 6))),
    Case(s.Chebyshev(0.5, 4.0, 1), lambda t: 1 / 2.25),
    Case(s.PiecewiseConstant((3, 9), (0.8, 0.4, 0.5)), lambda t: [0.8, 0.4, 0.5][sum(t >= b for b in (3, 9))]),
    Case(
        s.PiecewiseInterpolate((2, 8, 20), (0.8, 0.4, 0.5)),
        lambda t: float(np.interp(t, [2, 8, 20], [0.8, 0.4, 0.5])),
    ),
    Case(
        s.PiecewiseInterpolate((0, 10), (0.8, 0.2), "cosine"),
        lambda t: 0.2 + 0.6 * half_turn(t / 10),
    ),
    Case(s.Lambda(decay_of_function), lambda t: 1 / (t * t + 2 * t + 1)),
    *[
        Case(
            s.Warmup(LINE, 6, kind, 0.1, zero_first),
            lambda t, kind=kind, first=1 - zero_first: 0.8 * warm(kind, 0.1, (t + first) / 6) if t < 6 else line(t - 6),
        )
        for kind in ("linear", "constant", "exponential", "cosine", "1-sqrt")
        for zero_first in (False, True)
    ],
    Case(s.Warmup(LINE, 6, delay=False), lambda t: line(t) * min((t + 1) / 6, 1)),
    Case(s.Warmup(LINE, 0), line),
    Case(s.Join((s.Constant(0.3), LINE, s.Exponential(0.5, 0.9)), (5, 12)), joined),
    Case(s.Product((LINE, s.Exponential(0.5, 0.9))), lambda t: line(t) * repeated(0.5, 0.9, t)),
    Case(s.Sum((LINE, s.Exponential(0.5, 0.9))), lambda t: line(t) + repeated(0.5, 0.9, t)),
    Case(s.Scaled(LINE, 0.5), lambda t: line(t) / 2),
    Case(s.Shifted(LINE, 4), lambda t: line(max(t - 4, 0))),
    Case(s.Shifted(LINE, -4), lambda t: line(t + 4)),
    Case(s.Every(LINE, 3), lambda t: line(sum(range(3, t + 1, 3)) and len(range(3, t + 1, 3)))),
    Case(
        s.Restarts(LINE, 10, 2, 0.5, 2),
        lambda t: line(t) if t < 10 else 0.5 * line((t - 10) / 2) if t < 30 else 0.5 * 0.2,
    ),
    Case(s.Restarts(s.Cosine(0.8, 5), 5, 3), lambda t: s.CosineRestarts(0.8, 5, 3)(t)),
    Case(s.KDecay(s.Cosine(0.8, 10), 10, 2.0), lambda t: 0.8 * half_turn(t * t / 100)),
    Case(s.Noisy(s.Constant(2.0), 0.3, 7, 0.4), lambda t: noisy(t, 0.3, 7, 0.4)),
    Case(s.Noisy(s.Constant(2.0), 0.3, 7, begin=10), lambda t: noisy(t, 0.3, 7, 0.67) if t >= 10 else 2.0),
    Case(s.Several((LINE, 0.999)), lambda t: (line(t), 0.999)),
]
