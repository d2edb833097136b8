"""Cautious optimizers: the formula around many others, the facts it promises, and whom it does not suit."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import minidl as md
import optim_by_hand as hand
import optim_by_hand_modern as modern
from minidl import optim
from minidl.engine.backend import to_device
from minidl.optim import SGD, Adam, AdamW, Lookahead, cautious
from minidl.testing import check_optimizer
from optim_cases import Halving, arrays, assert_same, parameter, parameters, set_gradients, train

ADAMW = {"lr": 0.1, "weight_decay": 0.1, "betas": (0.8, 0.95)}
CASES = [
    (optim.SGDW, hand.sgdw, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.SGDW, hand.sgdw, {"lr": 0.1, "weight_decay": 0.0, "lr_in_buffer": True}),
    (optim.Adam, hand.adam, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.AdamW, hand.adamw, ADAMW),
    (optim.AdamW, hand.adamw, {**ADAMW, "maximize": True}),
    (optim.NAdam, hand.nadam, {"lr": 0.1}),
    (optim.RAdam, hand.radam, {"lr": 0.1, "variant": "official"}),
    (optim.Lion, hand.lion, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.Rprop, hand.rprop, {"lr": 0.1}),
    (optim.QHM, modern.qhm, {"lr": 0.1, "momentum": 0.9}),
    (optim.AdEMAMix, modern.ademamix, {"lr": 0.1, "betas": (0.9, 0.95, 0.99), "weight_decay": 0.1}),
    (optim.ADOPT, modern.adopt, {"lr": 0.1, "betas": (0.9, 0.99)}),
    (optim.Adan, modern.adan, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.LAMB, hand.lamb, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.MARS, modern.mars, {"lr": 0.1, "weight_decay": 0.1}),
]


def decayed(kind, x, lr, weight_decay=0.0, **options):
    """Return theta after decoupled decay, which is no part of the step."""
    if kind is optim.Adan:
        return x / (1 + lr * weight_decay)
    return x * (1 - lr * weight_decay) if kind in (optim.SGDW, AdamW, optim.Lion, optim.AdEMAMix, optim.MARS) else x


def by_hand(kind, formula, options, x, g, states, t):
    """Return the new values of a parameter by the loops of an optimizer, masked in the end."""
    if kind in (optim.LAMB, optim.MARS):
        new = np.reshape(formula(x, g, states, t, **options), x.shape)
    else:
        new = np.empty(x.shape)
        for i in np.ndindex(x.shape):
            new[i] = formula(float(x[i]), float(g[i]), states.setdefault(i, {}), t, **options)
    start = decayed(kind, x, **options)
    u = np.array(start - new)
    u[np.abs(u) < 1e-15] = 0.0  # what rounding leaves of a step of 0
    mask = (u * (-g if options.get("maximize") else g) > 0).astype(float)
    return np.array(start - u * mask / max(mask.mean(), 1e-3) if mask.size else start)


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_fifty_cautious_steps_follow_the_formula_written_as_loops(kind, formula, options, rng):
    params = parameters(rng)
    optimizer = cautious(kind(params, **options))
    values, states, times = arrays(params), [{} for _ in params], [0] * len(params)
    waited = 0
    for step in range(50):
        skip = (1, 4) if step in (3, 17) else ()
        set_gradients(params, rng, skip)
        if step == 5:
            params[0].grad = np.zeros(params[0].shape)
        for k, p in enumerate(params):
            if k not in skip:
                times[k] += 1
                new = by_hand(kind, formula, options, values[k], p.grad.data, states[k], times[k])
                waited += int((new == decayed(kind, values[k], **options)).sum())
                values[k] = new
        optimizer.step()
    assert waited > 100 or kind is optim.Rprop  # whose steps all agree
    for p, x in zip(params, values, strict=True):
        np.testing.assert_allclose(p.data, x, rtol=1e-11, atol=1e-13)


def test_a_cautious_step_never_goes_up_the_gradient_where_momentum_does(rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    optimizers = cautious(SGD(params, lr=0.1, momentum=0.9)), SGD(others, lr=0.1, momentum=0.9)
    least = [0.0, 0.0]
    for _ in range(30):
        for n, (optimizer, own) in enumerate(zip(optimizers, (params, others), strict=True)):
            set_gradients(own, rng)
            before = arrays(own)
            optimizer.step()
            for p, x in zip(own, before, strict=True):
                least[n] = min(least[n], ((x - p.data) * p.grad.data).min(initial=0.0))
    assert least[0] >= 0
    assert least[1] < -0.1


def test_the_heavy_ball_rolls_past_the_minimum_and_back_and_the_cautious_one_stops_there():
    def places(optimizer_of):
        w = parameter(np.ones(1))
        optimizer, found = optimizer_of([w]), []
        for _ in range(200):
            w.grad = w.data.copy()
            optimizer.step()
            found.append(w.item())
        return found

    ball = places(lambda p: SGD(p, lr=0.01, momentum=0.95))
    careful = places(lambda p: cautious(SGD(p, lr=0.01, momentum=0.95)))
    assert min(ball) < -0.4
    assert min(careful) > -0.2
    assert abs(careful[-1]) < abs(ball[-1])


def test_where_all_elements_agree_it_is_the_optimizer_itself(rng):
    w, u = parameter(np.zeros(5)), parameter(np.zeros(5))
    one, other = cautious(Adam([w], lr=0.1)), Adam([u], lr=0.1)
    for _ in range(20):
        w.grad = np.abs(rng.standard_normal(5)) + 0.1
        u.grad = w.grad.data.copy()
        one.step()
        other.step()
    np.testing.assert_allclose(w.data, u.data, rtol=1e-14)


def test_the_elements_that_move_go_farther_but_a_thousandfold_at_most():
    w = parameter(np.zeros(5000))
    optimizer = cautious(SGD([w], lr=1.0, momentum=0.5))
    w.grad = np.ones(5000)
    optimizer.step()
    w.grad = np.where(np.arange(5000) < 2, 1.0, -0.25)  # all momenta stay positive; two gradients agree
    optimizer.step()
    np.testing.assert_allclose(w.data[:2], -1 - 1.5 * 1000)
    assert_same([w.data[2:]], [np.full(4998, -1.0)])


def test_a_step_is_compared_by_its_sign_where_its_product_with_the_gradient_would_round_to_0():
    w = parameter(np.zeros(2, np.float32))
    w.grad = np.array([1e-30, -1e-30], np.float32)
    cautious(SGD([w], lr=1.0)).step()
    assert_same([w.data], [np.array([-1e-30, 1e-30], np.float32)])


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, optim.Lion, optim.LAMB, optim.AdEMAMix, optim.ADOPT])
def test_a_cautious_optimizer_passes_the_battery_of_optimizers(kind):
    check_optimizer(lambda params, **options: cautious(kind(params, lr=0.1, **options)))


@pytest.mark.parametrize("kind", [SGD, AdamW, optim.MARS])
def test_one_by_one_and_together_are_the_same_and_lr_0_stands_still(kind, rng):
    params = parameters(rng, np.float32)
    before, one = arrays(params), copy.deepcopy(params)
    assert_same(train(cautious(kind(params, lr=0.0)), params, 3), before)
    together = train(cautious(kind(params, lr=0.1)), params, 6)
    singles, generator = [cautious(kind([p], lr=0.1)) for p in one], np.random.default_rng(1)
    for _ in range(6):
        set_gradients(one, generator)
        for optimizer in singles:
            optimizer.step()
    tolerance = 1e-6 if kind is optim.MARS else 0  # its norm is a sum; what the mask counts is exact
    for a, b in zip(arrays(one), together, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance)


def test_a_checkpoint_fits_both_the_cautious_and_the_other(rng):
    params = parameters(rng)
    plain = AdamW(params, lr=0.1)
    train(plain, params, 3)
    others = copy.deepcopy(params)
    careful = cautious(AdamW(others))
    careful.load_state_dict(plain.state_dict())
    assert careful.state_dict()["state"].keys() == plain.state_dict()["state"].keys()
    want = train(cautious(plain), params, 3, seed=5)
    assert_same(train(careful, others, 3, seed=5), want)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_cautious_optimizer_is_cautious(duplicate, rng):
    params = parameters(rng)
    optimizer = cautious(AdamW(params, lr=0.1))
    train(optimizer, params, 2)
    twin = duplicate(optimizer)
    theirs = [p for group in twin.param_groups for p in group["params"]]
    assert_same(train(twin, theirs, 4), train(optimizer, params, 4))
    assert "formula: masked(update)" in repr(twin)


def test_it_is_still_the_optimizer_with_schedules_groups_hooks_and_wrappers(rng):
    params = parameters(rng)
    inner = AdamW(params[:3], lr=Halving(0.4, 1))
    optimizer = cautious(inner)
    assert optimizer is inner
    assert cautious(optimizer) is inner  # twice is once
    optimizer.add_param_group({"params": params[3:], "lr": 0.1})
    seen = []
    optimizer.register_step_post_hook(lambda *args: seen.append(optimizer.steps))
    around = Lookahead(optimizer, k=2)
    train(around, params, 3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    assert seen == [1, 2, 3]
    assert "sign" in str(optimizer.program())
    other = copy.deepcopy(params)
    scheduler = optim.lr_scheduler.StepLR(cautious(SGD(other, lr=0.1)), 1)
    scheduler.step()
    assert scheduler.get_last_lr() == [pytest.approx(0.01)]


@pytest.mark.parametrize("kind", [AdamW, optim.MARS])
def test_numpy_and_the_gpu_text_agree(kind, rng, fake_cuda):
    params = parameters(rng)
    others = [parameter(p.data.copy(), "cuda:0") for p in params]
    one, two = cautious(kind(params, lr=0.1)), cautious(kind(others, lr=0.1))
    for _ in range(4):
        set_gradients(params, rng)
        for p, q in zip(params, others, strict=True):
            q.grad = to_device(p.grad.data.copy("C"), "cuda:0")
        one.step()
        with md.transfers(max=0):
            two.step()
    for a, b in zip(arrays(others), arrays(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


class Averaging(optim.Optimizer):
    """An optimizer of one's own that averages where it has been."""

    slots = ("mean",)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update(self, xp, theta, g, mean, *, lr):
        theta = theta - lr * g
        return theta, 0.9 * mean + 0.1 * theta


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (optim.Muon, "Muon moves a parameter as a whole"),
        (optim.Adafactor, "Adafactor moves a parameter as a whole"),
        (optim.LBFGS, "LBFGS has a `step` of its own"),
        (optim.SWATS, "SWATS measures its step"),
        (optim.DAdaptSGD, "DAdaptSGD.update must give theta - step"),
        (optim.ASGD, "ASGD.update must give theta - step"),
        (optim.FTRL, "FTRL.update must give theta - step"),
        (optim.MADGRAD, "MADGRAD.update must give theta - step"),
        (optim.Fromage, "Fromage.update must give theta - step"),
        (lambda p: Averaging(p, lr=0.1), "Averaging.update must give theta - step"),
    ],
)
def test_it_refuses_optimizers_for_which_half_a_step_is_none_and_changes_nothing(kind, reason):
    w, u = (parameter(np.ones((2, 2))) for _ in range(2))
    optimizer, other = kind([w]), kind([u])
    with pytest.raises(TypeError, match=f"^cautious: {reason}"):
        cautious(optimizer)
    assert repr(optimizer) == repr(other)
    if not isinstance(optimizer, optim.LBFGS):
        for p, each in ((w, optimizer), (u, other)):
            p.grad = np.array([[1.0, -2.0], [3.0, 0.5]])
            each.step()
        assert_same([w.data], [u.data])


def test_it_takes_an_optimizer_and_nothing_else():
    w = parameter(np.ones(2))
    for wrong in ([w], SGD, Lookahead(SGD([w]))):
        with pytest.raises(TypeError, match=f"cautious: needs an optimizer, got {type(wrong).__name__}"):
            cautious(wrong)
