"""Schedules have optax's values at every step."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from minidl.optim import SGD
from minidl.optim import schedules as s
from minidl.optim.lr_scheduler import ReduceLROnPlateau
from optim_cases import leaf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about its own dependencies
    optax = pytest.importorskip("optax", reason="optax is not installed: nothing to compare with", exc_type=ImportError)
    jax = pytest.importorskip("jax", reason="jax is not installed: nothing to compare with", exc_type=ImportError)

try:
    enable_x64 = jax.enable_x64
except AttributeError:  # before jax 0.8
    from jax.experimental import enable_x64
PIECES = {5: 0.5, 12: 0.1, 30: 3.0}


def cumulative(start, scales):
    return tuple(np.cumprod([start, *scales.values()]).tolist())


CASES = {
    "constant": (lambda: optax.constant_schedule(0.3), s.Constant(0.3)),
    "linear": (lambda: optax.linear_schedule(0.1, 0.9, 20, 5), s.Linear(0.1, 20, 0.9, begin=5)),
    "polynomial": (lambda: optax.polynomial_schedule(0.9, 0.1, 2.5, 30, 3), s.Polynomial(0.9, 30, 0.1, 2.5, begin=3)),
    "exponential": (lambda: optax.exponential_decay(0.9, 7, 0.8, 4), s.Exponential(0.9, 0.8, 7, begin=4)),
    "staircase": (
        lambda: optax.exponential_decay(0.9, 7, 0.8, 4, staircase=True, end_value=0.5),
        s.Exponential(0.9, 0.8, 7, begin=4, staircase=True, end=0.5),
    ),
    "growing": (
        lambda: optax.exponential_decay(0.9, 7, 1.2, end_value=2.0),
        s.Exponential(0.9, 1.2, 7, end=2.0),
    ),
    "cosine": (
        lambda: optax.cosine_decay_schedule(0.9, 30, alpha=0.1, exponent=1.7),
        s.Cosine(0.9, 30, end=0.09, exponent=1.7),
    ),
    "piecewise constant": (
        lambda: optax.piecewise_constant_schedule(0.9, PIECES),
        s.PiecewiseConstant(tuple(PIECES), cumulative(0.9, PIECES)),
    ),
    "piecewise linear": (
        lambda: optax.piecewise_interpolate_schedule("linear", 0.9, PIECES),
        s.PiecewiseInterpolate((0, *PIECES), cumulative(0.9, PIECES)),
    ),
    "piecewise cosine": (
        lambda: optax.piecewise_interpolate_schedule("cosine", 0.9, PIECES),
        s.PiecewiseInterpolate((0, *PIECES), cumulative(0.9, PIECES), "cosine"),
    ),
    "linear one-cycle": (
        lambda: optax.linear_onecycle_schedule(40, 0.9),
        s.PiecewiseInterpolate((0, 12, 34, 40), (0.9 / 25, 0.9, 0.9 / 25, 0.9 / 25e4)),
    ),
    "cosine one-cycle": (
        lambda: optax.cosine_onecycle_schedule(40, 0.9),
        s.PiecewiseInterpolate((0, 12, 40), (0.9 / 25, 0.9, 0.9 / 25e4), "cosine"),
    ),
    "warm-up": (
        lambda: optax.warmup_constant_schedule(0.09, 0.9, 8),
        s.Warmup(s.Constant(0.9), 8, start=0.1, zero_first=True),
    ),
    "warm-up and cosine": (
        lambda: optax.warmup_cosine_decay_schedule(0.0, 0.9, 8, 40, 0.01, 1.3),
        s.Warmup(s.Cosine(0.9, 32, 0.01, 1.3), 8, zero_first=True),
    ),
    "warm-up and exponential": (
        lambda: optax.warmup_exponential_decay_schedule(0.09, 0.9, 8, 5, 0.8),
        s.Warmup(s.Exponential(0.9, 0.8, 5), 8, start=0.1, zero_first=True),
    ),
    "sgdr": (
        lambda: optax.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": 0.9, "decay_steps": 10, "warmup_steps": 3},
                {"init_value": 0.0, "peak_value": 0.4, "decay_steps": 20, "warmup_steps": 5},
            ]
        ),
        s.Join(
            (s.Warmup(s.Cosine(0.9, 7), 3, zero_first=True), s.Warmup(s.Cosine(0.4, 15), 5, zero_first=True)), (10,)
        ),
    ),
    "join": (
        lambda: optax.join_schedules([optax.constant_schedule(0.2), optax.linear_schedule(0.9, 0.1, 10)], [7]),
        s.Join((s.Constant(0.2), s.Linear(0.9, 10, 0.1)), (7,)),
    ),
}


PLATEAUS = [
    {"patience": 3, "factor": 0.5},
    {"patience": 1, "factor": 0.9, "cooldown": 2},
    {"patience": 2, "factor": 0.3, "rtol": 0.1, "min_scale": 0.1},
    {"patience": 4, "factor": 0.5, "rtol": 0.0, "atol": 0.05},
]


@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_a_plateau_is_found_where_optax_finds_it(options, rng):
    o = {"rtol": 1e-4, "atol": 0.0, "cooldown": 0, "min_scale": 0.0, **options}
    optimizer = SGD([leaf(2)], lr=0.8)
    ours = ReduceLROnPlateau(
        optimizer, factor=o["factor"], patience=o["patience"] - 1, cooldown=o["cooldown"], min_lr=0.8 * o["min_scale"],
        threshold=o["rtol"] or o["atol"], threshold_mode="rel" if o["rtol"] else "abs", eps=0.0,
    )  # fmt: skip
    found, expected = [], []
    with enable_x64(True):
        theirs, zero = optax.contrib.reduce_on_plateau(**o), jax.numpy.zeros(1)
        state = theirs.init(zero)
        advance = jax.jit(lambda state, value: theirs.update(zero, state, value=value)[1])
        for metric in np.round(3 / (1 + np.arange(60) / 5) + 0.3 * rng.standard_normal(60), 1) + 0.05:
            ours.step(metric)
            state = advance(state, metric)
            found += ours.get_last_lr()
            expected.append(0.8 * float(state.scale))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len({*found}) > 2


def test_every_schedule_of_optax_is_compared():
    names = {name for name in dir(optax.schedules) if name.endswith(("_schedule", "_decay", "_schedules"))} - {
        "_schedule"
    }
    used = {n for make, _ in CASES.values() for n in make.__code__.co_names}
    assert names - used == set()


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_has_optaxs_values_at_every_step(name):
    make, ours = CASES[name]
    with warnings.catch_warnings(), enable_x64(True):
        warnings.simplefilter("ignore")
        theirs = jax.vmap(make())(jax.numpy.arange(60.0)) if name != "constant" else np.full(60, make()(0))
    np.testing.assert_allclose([ours(t) for t in range(60)], np.asarray(theirs), rtol=1e-12, atol=1e-15)
    assert math.isfinite(ours(10**6))
