"""Schedules of Hugging Face, timm and Keras: what each of theirs is in ours, by their formulas.

Hugging Face's cosines rise again past their last step, and ours stay; up to there all are theirs.
"""

from __future__ import annotations

import math

import pytest

from minidl.optim import schedules as s

W, N = 6, 40  # steps of the warm-up, and all


def wave(x, waves=0.5):
    return (1 + math.cos(2 * math.pi * waves * x)) / 2


def warm(t, then, start=0.0):
    """Hugging Face and timm: from `start` in W steps, the first of them at `start`; x goes from 0 at W to 1 at N."""
    return start + (1 - start) * t / W if t < W else then((t - W) / (N - W))


def waited(schedule, **options):
    return s.Warmup(schedule, W, zero_first=True, **options)


REST = N - W
HUGGING_FACE = {
    "constant_with_warmup": (waited(s.Constant(0.3)), lambda t: 0.3 * warm(t, lambda x: 1)),
    "linear": (waited(s.Linear(0.3, REST)), lambda t: 0.3 * warm(t, lambda x: max(0, 1 - x))),
    "cosine": (waited(s.Cosine(0.3, REST)), lambda t: 0.3 * warm(t, lambda x: wave(x) if x < 1 else 0)),
    "cosine of three half waves": (
        waited(s.Cosine(0.3, REST, waves=1.5)),
        lambda t: 0.3 * warm(t, lambda x: wave(x, 1.5) if x < 1 else 0),
    ),
    "cosine_with_restarts": (
        waited(s.CosineRestarts(0.3, REST / 4, cycles=4)),
        lambda t: 0.3 * warm(t, lambda x: wave(4 * x % 1) if x < 1 else 0),
    ),
    "polynomial": (
        waited(s.Polynomial(0.3, REST, 1e-3, 2.5)),
        lambda t: warm(t, lambda x: 0) * 0.3 if t < W else 1e-3 + (0.3 - 1e-3) * max(0, (N - t) / REST) ** 2.5,
    ),
    "inverse_sqrt": (
        s.InverseSqrt(0.3, W, timescale=9),
        lambda t: 0.3 * (t / W if t < W else 3 / math.sqrt(t + 9 - W)),
    ),
    "cosine_with_min_lr": (
        waited(s.Cosine(0.3, REST, 0.03)),
        lambda t: 0.3 * warm(t, lambda x: 0.1 + 0.9 * (wave(x) if x < 1 else 0)),
    ),
    "cosine_warmup_with_min_lr": (
        s.Join((s.Linear(0.3 / W, W - 1, 0.3), s.Shifted(s.Cosine(0.3, REST, 0.03), -1)), (W,)),
        lambda t: 0.3 * ((t + 1) / W if t < W else 0.1 + 0.9 * (wave((t - W + 1) / REST) if t < N else 0)),
    ),
    "cosine_warmup_with_min_lr from a rate": (
        s.Join((s.Linear(0.06, W - 1, 0.3), s.Shifted(s.Cosine(0.3, REST, 0.03), -1)), (W,)),
        lambda t: 0.3 * (0.2 + 0.8 * t / (W - 1) if t < W else 0.1 + 0.9 * (wave((t - W + 1) / REST) if t < N else 0)),
    ),
    **{
        f"warmup_stable_decay, {up} and {down}": (
            waited(s.WSD(0.3, REST, 10, end=0.03, cooldown=down), kind=up, start=0.1),
            lambda t, up=up, down=down: 0.3 * (0.1 + 0.9 * (
                {"linear": t / W, "cosine": 1 - wave(t / W), "1-sqrt": 1 - math.sqrt(max(0, 1 - t / W))}[up] if t < W
                else 1 if t < N - 10 else 0 if t >= N
                else {"linear": (N - t) / 10, "cosine": wave((t - N + 10) / 10),
                      "1-sqrt": 1 - math.sqrt((t - N + 10) / 10)}[down]
            )),
        )
        for up in ("linear", "cosine", "1-sqrt")
        for down in ("linear", "cosine", "1-sqrt")
    },
}  # fmt: skip


def cycle(t, first, mul):
    """Return how many cycles are over, the steps in this one, and its length."""
    i = 0
    while t >= first * mul**i:
        t, i = t - first * mul**i, i + 1
    return i, t, first * mul**i


def timm_cosine(t, first, low, mul, decay, limit, k=1.0):
    i, passed, length = cycle(t, first, mul)
    return low + (0.3 * decay**i - low) * wave((passed / length) ** k) if i < limit else low


def timm_wsd(t, stable, fall, low=0.01, steps=40, decay=10):
    top = 0.3 * stable(t)
    x = min((t - (steps - decay)) / decay, 1)
    return top if x <= 0 else low + (top - low) * fall(x)


def restarts(first, mul, decay, limit, low):
    """Peaks that fall by `decay`, over a floor that does not."""
    return s.Restarts(s.Cosine(0.3, first), first, mul, decay, limit) + s.Restarts(
        s.Cosine(0.0, first, low), first, mul, 1.0, limit
    )


TIMM = {
    "cosine": (
        waited(s.Cosine(0.3, N, 0.01), start=0.1),
        lambda t: 0.03 + 0.27 * t / W if t < W else timm_cosine(t - W, N, 0.01, 1, 1, 1),
    ),
    "cosine without a prefix": (
        s.Join((s.Linear(0.03, W, 0.3), s.Shifted(s.Cosine(0.3, N, 0.01), -W)), (W,)),
        lambda t: 0.03 + 0.27 * t / W if t < W else timm_cosine(t, N, 0.01, 1, 1, 1),
    ),
    "cosine in cycles": (restarts(8, 2, 0.5, 3, 0.01), lambda t: timm_cosine(t, 8, 0.01, 2, 0.5, 3)),
    "cosine with k-decay": (
        s.KDecay(s.Cosine(0.3, N, 0.01), N, 1.7),
        lambda t: timm_cosine(t, N, 0.01, 1, 1, 1, 1.7),
    ),
    "tanh": (
        s.Join((s.Tanh(0.3, N, 0.01, -7.0, 3.0), s.Constant(0.01)), (N,)),
        lambda t: 0.01 + 0.29 * (1 - math.tanh(-7 * (1 - t / N) + 3 * t / N)) / 2 if t < N else 0.01,
    ),
    "poly": (
        s.KDecay(s.Polynomial(0.3, N, 0.01, 0.5), N, 1.5),
        lambda t: 0.01 + 0.29 * (1 - (t / N) ** 1.5) ** 0.5 if t < N else 0.01,
    ),
    "step": (waited(s.Step(0.3, 7, 0.5)), lambda t: 0.3 * t / W if t < W else 0.3 * 0.5 ** ((t - W) // 7)),
    "multistep": (
        s.Shifted(s.MultiStep(0.3, (10, 20), 0.5), -1),
        lambda t: 0.3 * 0.5 ** sum(t + 1 >= milestone for milestone in (10, 20)),
    ),
    "wsd": (s.WSD(0.3, 40, 10, end=0.01, cooldown="1-sqrt"), lambda t: timm_wsd(t, lambda t: 1, lambda x: 1 - x**0.5)),
    "wsd that falls as 1 / sqrt(t)": (
        s.InverseTime(0.3, 5, power=0.5) * s.WSD(1.0, 40, 10) + s.WSD(0.0, 40, 10, end=0.01),
        lambda t: timm_wsd(t, lambda t: (1 + t / 5) ** -0.5, lambda x: 1 - x),
    ),
    "wsd with a power": (
        s.Join((s.Constant(0.3), s.KDecay(s.Linear(0.3, 10, 0.01), 10, 0.7)), (30,)),
        lambda t: timm_wsd(t, lambda t: 1, lambda x: 1 - x**0.7),
    ),
    "wsd with an exponential": (
        s.Join((s.Constant(0.3), s.Exponential(0.29 / 0.9, 0.1, 10, end=0.029 / 0.9) + (0.01 - 0.029 / 0.9)), (30,)),
        lambda t: timm_wsd(t, lambda t: 1, lambda x: (0.1**x - 0.1) / 0.9),
    ),
}
KERAS = {
    "ExponentialDecay": (s.Exponential(0.3, 0.8, 7), lambda t: 0.3 * 0.8 ** (t / 7)),
    "ExponentialDecay by steps": (s.Exponential(0.3, 0.8, 7, staircase=True), lambda t: 0.3 * 0.8 ** (t // 7)),
    "PiecewiseConstantDecay": (
        s.PiecewiseConstant((10 + 1, 20 + 1), (0.3, 0.2, 0.1)),
        lambda t: 0.3 if t <= 10 else 0.2 if t <= 20 else 0.1,
    ),
    "PolynomialDecay": (
        s.Polynomial(0.3, 15, 0.01, 0.5),
        lambda t: 0.01 + 0.29 * (1 - min(t, 15) / 15) ** 0.5,
    ),
    "PolynomialDecay in cycles": (
        s.Polynomial(0.3, 15, 0.01, 0.5, cycle=True),
        lambda t: 0.01 + 0.29 * (1 - t / (15 * max(1, math.ceil(t / 15)))) ** 0.5,
    ),
    "InverseTimeDecay": (s.InverseTime(0.3, 7, 0.5), lambda t: 0.3 / (1 + 0.5 * t / 7)),
    "InverseTimeDecay by steps": (s.InverseTime(0.3, 7, 0.5, staircase=True), lambda t: 0.3 / (1 + 0.5 * (t // 7))),
    "CosineDecay": (s.Cosine(0.3, 15, 0.03), lambda t: 0.3 * (0.9 * wave(min(t, 15) / 15) + 0.1)),
    "CosineDecay with a warm-up": (
        s.Join((s.Linear(0.1, W, 0.3), s.Cosine(0.3, 15, 0.03)), (W,)),
        lambda t: 0.1 + 0.2 * t / W if t < W else 0.3 * (0.9 * wave(min(t - W, 15) / 15) + 0.1),
    ),
    "CosineDecayRestarts": (
        s.CosineRestarts(0.3, 8, 2, 0.03, 0.5),
        lambda t: 0.3 * (0.9 * 0.5 ** cycle(t, 8, 2)[0] * wave(cycle(t, 8, 2)[1] / cycle(t, 8, 2)[2]) + 0.1),
    ),
}
ALL = {
    f"{who}: {name}": pair
    for who, table in (("Hugging Face", HUGGING_FACE), ("timm", TIMM), ("Keras", KERAS))
    for name, pair in table.items()
}


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_of_another_library_is_one_of_ours(name):
    ours, theirs = ALL[name]
    assert [ours(t) for t in range(60)] == pytest.approx([theirs(t) for t in range(60)], rel=1e-12, abs=1e-16)
