"""What is known exactly about the optimizers since 2018: where they become others, and what each one promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as md
from minidl.optim import (
    ADOPT,
    MARS,
    QHM,
    SGD,
    Adam,
    AdaMod,
    AdamW,
    Adan,
    AdEMAMix,
    AggMo,
    DiffGrad,
    LaProp,
    Padam,
    QHAdam,
)
from optim_cases import arrays, assert_same, parameter, parameters, set_gradients, train
from optim_table_modern import MODERN


def path(optimizer_of, gradients, start=1.0):
    """Return where a parameter is after each of some gradients, from `start`; gradients are numbers or rows."""
    w = parameter(np.full(np.shape(gradients[0]) or 1, start))
    optimizer, places = optimizer_of([w]), [w.data.copy()]
    for g in gradients:
        w.grad = np.broadcast_to(np.asarray(g, float), w.shape).copy()
        optimizer.step()
        places.append(w.data.copy())
    return np.array(places)


def steps(optimizer_of, gradients):
    """Return the steps from 0, as numbers if there is one element."""
    return np.diff(path(optimizer_of, gradients, 0.0), axis=0).squeeze()


# ---- where one optimizer becomes another -----------------------------------------------------------------------------

B = (0.8, 0.95)
LIMITS = {
    "QHM at nu=0 is gradient descent": (
        lambda p: QHM(p, lr=0.1, nu=0.0, weight_decay=0.1), lambda p: SGD(p, lr=0.1, weight_decay=0.1),
    ),
    "QHM at nu=1 is momentum as a running mean": (
        lambda p: QHM(p, lr=0.1, nu=1.0, momentum=0.9), lambda p: SGD(p, lr=0.1 * (1 - 0.9), momentum=0.9),
    ),
    "QHM at nu=momentum is Nesterov": (
        lambda p: QHM(p, lr=0.1, nu=0.9, momentum=0.9),
        lambda p: SGD(p, lr=0.1 * (1 - 0.9), momentum=0.9, nesterov=True),
    ),
    "QHAdam at nus=1 is Adam": (
        lambda p: QHAdam(p, lr=0.1, betas=B, nus=(1.0, 1.0), eps=0.1, weight_decay=0.1),
        lambda p: Adam(p, lr=0.1, betas=B, eps=0.1, weight_decay=0.1),
    ),
    "QHAdam at nus=1 with decoupled decay is AdamW": (
        lambda p: QHAdam(p, lr=0.1, betas=B, nus=(1.0, 1.0), weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: AdamW(p, lr=0.1, betas=B, weight_decay=0.1),
    ),
    "QHAdam at nus=(0, 1) is Adam without momentum": (
        lambda p: QHAdam(p, lr=0.1, betas=B, nus=(0.0, 1.0)), lambda p: Adam(p, lr=0.1, betas=(0.0, B[1])),
    ),
    "AggMo with one beta is the heavy ball": (
        lambda p: AggMo(p, lr=0.1, betas=(0.9,)), lambda p: SGD(p, lr=0.1, momentum=0.9),
    ),
    "AggMo with equal betas is the heavy ball": (
        lambda p: AggMo(p, lr=0.1, betas=(0.9, 0.9, 0.9)), lambda p: SGD(p, lr=0.1, momentum=0.9),
    ),
    "AdEMAMix at alpha=0 is AdamW": (
        lambda p: AdEMAMix(p, lr=0.1, betas=(*B, 0.99), alpha=0.0, weight_decay=0.1),
        lambda p: AdamW(p, lr=0.1, betas=B, weight_decay=0.1),
    ),
    "LaProp without momentum is Adam without momentum": (
        lambda p: LaProp(p, lr=0.1, betas=(0.0, 0.9), eps=0.1), lambda p: Adam(p, lr=0.1, betas=(0.0, 0.9), eps=0.1),
    ),
    "Padam at partial=1/2 is AMSGrad": (
        lambda p: Padam(p, lr=0.1, betas=B, eps=0.1, partial=0.5),
        lambda p: Adam(p, lr=0.1, betas=B, eps=0.1, amsgrad=True, debias="none"),
    ),
    "Padam at partial=0 is momentum as a running mean": (
        lambda p: Padam(p, lr=0.1, betas=B, partial=0.0), lambda p: SGD(p, lr=0.1 * (1 - B[0]), momentum=B[0]),
    ),
    "AdaMod at beta3=0 is Adam": (
        lambda p: AdaMod(p, lr=0.1, betas=B, beta3=0.0), lambda p: Adam(p, lr=0.1, betas=B),
    ),
    "Adan at b2=0 is Adam": (
        lambda p: Adan(p, lr=0.1, betas=(B[0], 0.0, B[1])), lambda p: Adam(p, lr=0.1, betas=B),
    ),
    "MARS at gamma=0 is AdamW while gradients are short": (
        lambda p: MARS(p, lr=0.1, betas=B, gamma=0.0, weight_decay=0.1),
        lambda p: AdamW(p, lr=0.1, betas=B, weight_decay=0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_in_its_limit_it_is_the_other(name, rng):
    one, other = LIMITS[name]
    gradients = 0.1 * rng.standard_normal((40, 5))  # shorter than 1, where MARS begins to shorten
    np.testing.assert_allclose(path(one, gradients), path(other, gradients), rtol=1e-12, atol=1e-14)


# ---- QHM, AggMo, AdEMAMix --------------------------------------------------------------------------------------------


def test_aggmo_comes_to_the_mean_speed_of_its_betas():
    speeds = -steps(lambda p: AggMo(p, lr=1.0), [1.0] * 3000)
    assert speeds[0] == 1.0
    assert speeds[-1] == pytest.approx((1 + 10 + 100) / 3, rel=1e-12)


def test_aggmo_damps_the_oscillation_of_its_longest_memory():
    def farthest(betas):
        w = parameter(np.ones(1))
        optimizer = AggMo([w], lr=0.5, betas=betas)
        places = []
        for _ in range(300):
            w.grad = w.data.copy()
            optimizer.step()
            places.append(abs(w.item()))
        return max(places[100:])

    assert farthest((0.0, 0.9, 0.99)) < 0.05 < 0.2 < farthest((0.99,))


def test_the_long_memory_of_ademamix_fills_without_correction_and_its_weight_grows_evenly():
    options = {"lr": 1.0, "eps": 0.0, "alpha": 4.0}
    taken = -steps(lambda p: AdEMAMix(p, betas=(0.9, 0.999, 0.5), **options), [3.0] * 10)
    np.testing.assert_allclose(taken, [1 + 4 * (1 - 0.5**t) for t in range(1, 11)], rtol=1e-12)
    taken = -steps(lambda p: AdEMAMix(p, betas=(0.9, 0.999, 0.0), alpha_warmup=8, **options), [3.0] * 10)
    np.testing.assert_allclose(taken, [1 + 4 * min(t / 8, 1) for t in range(1, 11)], rtol=1e-12)


@pytest.mark.parametrize(("first", "last"), [(0.9, 0.9999), (0.5, 0.99), (0.0, 0.9)])
def test_the_half_life_of_ademamix_grows_evenly_from_the_short_to_the_long(first, last):
    w = parameter(np.zeros(1))
    optimizer = AdEMAMix([w], betas=(first, 0.999, last), beta3_warmup=5)
    kept, before = [], None
    for g in [1.0] + [0.0] * 6:  # after the first gradient m2 only forgets
        w.grad = np.array([g])
        optimizer.step()
        after = optimizer.state["0"]["m2"].item()
        if before is not None:
            kept.append(after / before)
        before = after
    lives = [math.log(0.5) / math.log(beta) for beta in kept]
    start, end = (math.log(0.5) / math.log(beta) if beta else 0.0 for beta in (first, last))
    expected = [start + (end - start) * share for share in (0.4, 0.6, 0.8, 1.0, 1.0, 1.0)]
    np.testing.assert_allclose(lives, expected, rtol=1e-9)


# ---- ADOPT, LaProp, AdaMod -------------------------------------------------------------------------------------------


def test_adopt_takes_from_the_first_gradient_nothing_but_its_size():
    w = parameter(np.array([1.0, -2.0]))
    optimizer = ADOPT([w], lr=0.5, weight_decay=0.5, decoupled_weight_decay=True)
    w.grad = np.array([3.0, -4.0])
    optimizer.step()
    assert_same([w.data, optimizer.state["0"]["m"], optimizer.state["0"]["v"]], [[1.0, -2.0], [0.0, 0.0], [9.0, 16.0]])
    w.grad = np.array([3.0, -4.0])
    optimizer.step()
    np.testing.assert_allclose(w.data, [0.75 - 0.05, -1.5 + 0.05], rtol=1e-12)


def test_adopt_clips_what_is_far_larger_than_before_and_less_as_time_goes_on():
    for clip, limits in ((0.25, [1.0, 2**0.25, 3**0.25]), (None, [10.0**6] * 3)):
        w = parameter(np.zeros(1))
        optimizer = ADOPT([w], lr=1.0, betas=(0.0, 0.999999999), clip_exponent=clip)
        for k, g in enumerate([1.0, 1e6, 1e6, 1e6]):
            before, v = w.item(), optimizer.state["0"]["v"].item() if k else 0.0
            w.grad = np.array([g])
            optimizer.step()
            if k:
                assert before - w.item() == pytest.approx(min(limits[k - 1], g / math.sqrt(v)), rel=1e-9)


@pytest.mark.parametrize(("kind", "end"), [(Adam, 1.0), (ADOPT, -1.0)])
def test_adopt_solves_the_problem_of_reddi_on_which_adam_goes_the_wrong_way(kind, end):
    """Gradients 3, -1, -1, ...: on [-1, 1] the least sum is at -1; b2 = 1 / (1 + 3^2) is that of the counterexample."""
    w = parameter(np.zeros(1))
    optimizer = kind([w], betas=(0.0, 0.1), lr=lambda step: 0.5 / math.sqrt(step + 1))
    for t in range(3000):
        w.grad = np.array([3.0 if t % 3 == 0 else -1.0])
        optimizer.step()
        w.data = np.clip(w.data, -1.0, 1.0)
    assert w.item() == pytest.approx(end, abs=0.05)


def test_after_a_spike_the_steps_of_laprop_stay_bounded_where_those_of_adam_explode():
    gradients = [1e6] + [1e-6] * 60
    betas = (0.9, 0.5)  # b1 > sqrt(b2): the memory of the spike outlives its divisor
    adam = np.abs(steps(lambda p: Adam(p, lr=1.0, betas=betas, eps=0.0), gradients))
    laprop = np.abs(steps(lambda p: LaProp(p, lr=1.0, betas=betas, eps=0.0), gradients))
    assert adam.max() > 1000
    assert laprop.max() <= 1.0 + 1e-12


def test_adamod_warms_up_as_its_memory_fills_and_follows_no_sudden_rise_of_the_rate():
    taken = -steps(lambda p: AdaMod(p, lr=1.0, beta3=0.9, eps=0.0), [5.0] * 50)
    np.testing.assert_allclose(taken, [1 - 0.9**t for t in range(1, 51)], rtol=1e-12)
    gradients = [1e3] * 20 + [1.0] * 20
    options = {"lr": 1.0, "betas": (0.0, 0.5), "eps": 0.0}
    bounded = -steps(lambda p: AdaMod(p, beta3=0.99, **options), gradients)
    free = -steps(lambda p: Adam(p, **options), gradients)
    assert free[-1] > 0.7  # Adam takes the small gradients for large ones
    assert max(bounded[20:]) < 0.05


# ---- Adan, MARS, DiffGrad --------------------------------------------------------------------------------------------


def test_adan_walks_at_lr_under_a_constant_gradient_and_decays_by_division():
    np.testing.assert_allclose(steps(lambda p: Adan(p, lr=0.1, eps=0.0), [7.0] * 30), -0.1, rtol=1e-12)
    places = path(lambda p: Adan(p, lr=0.1, weight_decay=0.5), [0.0] * 4)
    np.testing.assert_allclose(places.squeeze(), [1.05**-t for t in range(5)], rtol=1e-14)


def test_adan_sees_a_change_before_its_mean_does():
    gradients = [1.0] * 20 + [-1.0] * 3
    slow = steps(lambda p: Adan(p, lr=0.1, betas=(0.9, 0.0, 0.99)), gradients)
    fast = steps(lambda p: Adan(p, lr=0.1, betas=(0.9, 0.9, 0.99)), gradients)
    assert slow[20] < fast[20]  # both still go on, Adan with less


def test_mars_with_gamma_one_is_the_recursion_of_storm(rng):
    gradients = 0.01 * rng.standard_normal((30, 4))
    w = parameter(np.zeros(4))
    optimizer = MARS([w], betas=(0.9, 0.99), gamma=1.0)
    m, previous = 0.1 * gradients[0], gradients[0]
    for k, g in enumerate(gradients):
        w.grad = g.copy()
        optimizer.step()
        m = g + 0.9 * (m - previous) if k else m
        previous = g
        np.testing.assert_allclose(optimizer.state["0"]["m"], m, rtol=1e-12, atol=1e-15)


def test_mars_does_not_see_how_long_a_gradient_is_beyond_one(rng):
    gradients = 10 * rng.standard_normal((20, 4))
    np.testing.assert_allclose(path(MARS, 2.0**10 * gradients), path(MARS, gradients), rtol=1e-12)
    assert np.abs(path(MARS, 1e-3 * gradients) - path(MARS, gradients)).max() > 1e-4


def test_diffgrad_is_half_of_adam_where_nothing_changes_and_adam_where_all_does():
    constant, wild = [0.0, *[2.0] * 20], [1e3, -1e3] * 10
    for gradients, share in ((constant, 0.5), (wild, 1.0)):
        own, adam = (steps(lambda p, kind=kind: kind(p, lr=0.1), gradients)[2:] for kind in (DiffGrad, Adam))
        np.testing.assert_allclose(own, share * adam, rtol=1e-12)


# ---- groups ----------------------------------------------------------------------------------------------------------

KINDS = list(dict.fromkeys(case.kind for case in MODERN))


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_may_be_that_of_a_group(kind, rng):
    cases = [case for case in MODERN if case.kind is kind]
    groups = [parameters(rng) for _ in cases]
    others = [[parameter(p.data.copy("K")) for p in params] for params in groups]
    together = kind([{"params": params, **case.options} for params, case in zip(groups, cases, strict=True)])
    alone = [case.make(params) for params, case in zip(others, cases, strict=True)]
    assert {name for case in cases for name in case.options} >= together.defaults.keys() - {"weight_decay", "eps"}
    for _ in range(4):
        for params, copies in zip(groups, others, strict=True):
            set_gradients(params, rng)
            for p, q in zip(params, copies, strict=True):
                q.grad = p.grad.data.copy("K")
        for optimizer in (together, *alone):
            optimizer.step()
    for params, copies in zip(groups, others, strict=True):
        assert_same(arrays(params), arrays(copies))


def test_betas_of_aggmo_may_change_while_it_runs_and_a_memory_that_stays_is_kept(rng):
    w = parameter(np.zeros(3))
    optimizer = AggMo([w], lr=0.1, betas=(0.9, 0.0))
    train(optimizer, [w], 3)
    b0 = optimizer.state["0"]["b0"].copy()
    optimizer.param_groups[0]["betas"] = (0.5, 0.0, 0.99)
    before, g = w.data.copy(), rng.standard_normal(3)
    w.grad = g.copy()
    optimizer.step()
    assert optimizer.state["0"].keys() == {"t", "b0", "b2"}
    np.testing.assert_allclose(before - w.data, 0.1 / 3 * ((0.5 * b0 + g) + g + g), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_on_a_least_squares_problem_falls_a_hundredfold(kind):
    generator = np.random.default_rng(0)
    x, solution = md.tensor(generator.standard_normal((64, 6))), generator.standard_normal((6, 1))
    y, w = md.tensor(x.data @ solution), parameter(np.zeros((6, 1)))
    options = {QHM: {"lr": 0.5, "momentum": 0.9}, AggMo: {"lr": 0.03}, Padam: {"lr": 0.1}, AdaMod: {"beta3": 0.9}}
    optimizer, losses = kind([w], **{"lr": 0.05, **options.get(kind, {})}), []
    for _ in range(400):
        optimizer.zero_grad()
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]
