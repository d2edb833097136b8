"""Noise and adaptive clipping follow their formulas, as hooks of any optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as md
from minidl.optim import SGD, AdaptiveClip, GradientNoise
from optim_cases import assert_same, parameter


def test_noise_has_the_variance_of_the_formula_and_depends_on_seed_step_and_parameter_only():
    noises = {}
    for seed in (0, 0, 1):
        params = [md.tensor(np.zeros(50_000), requires_grad=True) for _ in range(2)]
        optimizer = SGD(params, lr=0.0)
        optimizer.register_step_pre_hook(GradientNoise(eta=0.3, gamma=0.55, seed=seed))
        for t in range(3):
            for p in params:
                p.grad = np.full(p.shape, 2.0)
            optimizer.step()
            for i, p in enumerate(params):
                x = p.grad.data - 2.0
                assert x.var() == pytest.approx(0.3 / (1 + t) ** 0.55, rel=0.04)
                assert abs(x.mean()) < 0.02
                assert_same([noises.setdefault((seed, t, i), x)], [x])
    assert len({x[0] for x in noises.values()}) == 12


def test_hooks_of_gradients_wait_for_the_closure_and_leave_the_rest_alone():
    w, frozen = (md.tensor(np.array([3.0, 4.0]), requires_grad=True) for _ in range(2))
    optimizer = SGD([w, frozen], lr=1.0)
    handle = optimizer.register_step_pre_hook(AdaptiveClip(clip=0.1))

    def closure():
        optimizer.zero_grad()
        (10 * w).sum().backward()

    optimizer.step(closure)
    np.testing.assert_allclose(w.data, np.array([3.0, 4.0]) - 0.5 / math.sqrt(2), rtol=1e-12)
    assert frozen.grad is None
    handle.remove()
    optimizer.step(closure)
    np.testing.assert_array_equal(w.grad.data, [10.0, 10.0])


def test_adaptive_clipping_follows_its_formula_unit_by_unit(rng):
    for shape in [(4, 3), (2, 3, 2), (5,), ()]:
        w = parameter(rng.standard_normal(shape) * 0.01)
        w.grad = g = rng.standard_normal(shape) * 0.003
        want = g.copy().reshape(shape if len(shape) > 1 else (1, -1))
        rows = w.data.reshape(want.shape)
        for i in range(len(want)):
            size, weight = (math.sqrt(sum(float(x) ** 2 for x in a[i].flat)) for a in (want, rows))
            if size > 0.5 * max(weight, 0.01):
                want[i] *= 0.5 * max(weight, 0.01) / size
        optimizer = SGD([w], lr=0.0)
        optimizer.register_step_pre_hook(AdaptiveClip(clip=0.5, eps=0.01))
        optimizer.step()
        np.testing.assert_allclose(w.grad.data, want.reshape(shape), rtol=1e-12)


@pytest.mark.parametrize(
    ("hook", "options"),
    [(GradientNoise, {"eta": -1.0}), (GradientNoise, {"gamma": math.nan}), (GradientNoise, {"seed": 0.5}),
     (AdaptiveClip, {"clip": 0.0}), (AdaptiveClip, {"eps": None})],
)  # fmt: skip
def test_a_bad_option_of_a_hook_is_named_with_its_value(hook, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"^{hook.__name__}: {name} must be .*, got {name}={value!r}$"):
        hook(**options)
