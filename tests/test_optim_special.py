"""SWATS, Polyak's step, Lookahead: formulas as loops, and their exact facts; what is not in the table on the GPU."""

from __future__ import annotations

import copy
import logging
import math
import pickle

import numpy as np
import pytest

import minidl as md
import optim_by_hand as hand
from minidl.engine.backend import to_device
from minidl.optim import (
    LBFGS,
    SGD,
    SWATS,
    Adam,
    AdaptiveClip,
    GradientNoise,
    Lookahead,
    Muon,
    NonlinearCG,
    PolyakSGD,
    RMSprop,
)
from optim_cases import arrays, assert_same, parameter, parameters, set_gradients, train

# ---- SWATS -----------------------------------------------------------------------------------------------------------


def swats_by_hand(values, gradients, memory, lr, betas, eps, weight_decay, atol, rtol, scale=1.0):
    """Advance a list of numbers by one step of Keskar and Socher's algorithm 1; memory is a dictionary."""
    b1, b2 = betas
    t = memory["t"] = memory.get("t", 0) + 1
    gradients = [g + weight_decay * x for x, g in zip(values, gradients, strict=True)]
    n = len(values)
    if memory.get("rate"):
        b = memory["b"] = [b1 * old + g for old, g in zip(memory.get("b", [0.0] * n), gradients, strict=True)]
        return [x - (1 - b1) * memory["rate"] * scale * y for x, y in zip(values, b, strict=True)]
    states = memory.setdefault("adam", [{} for _ in values])
    new = [hand.adam(0.0, g, s, t, lr, betas, 0.0) for g, s in zip(gradients, states, strict=True)]
    if eps:
        root = math.sqrt(1 - b2**t)
        new = [-lr * root / (1 - b1**t) * s["m"] / (math.sqrt(s["v"]) + eps) for s in states]
    pg = sum(p * g for p, g in zip(new, gradients, strict=True))
    if pg != 0:
        gamma = -sum(p * p for p in new) / pg
        k = memory["k"] = memory.get("k", 0) + 1
        memory["L"] = b2 * memory.get("L", 0.0) + (1 - b2) * gamma
        rate = memory["L"] / (1 - b2**k)
        if k > 1 and rate > 0 and abs(rate - gamma) < atol + rtol * abs(gamma):
            memory["rate"], memory["switch"] = rate, t
    return [x + p for x, p in zip(values, new, strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.05, "switch_rtol": 0.05, "weight_decay": 0.1},
        {"lr": 0.01, "switch_rtol": 0.2, "betas": (0.8, 0.9), "eps": 1e-3},
        {"lr": 0.05},
    ],
)
def test_swats_follows_its_algorithm_through_the_switch(options, rng):
    params = [parameter(rng.standard_normal(shape)) for shape in [(3, 2), (4,), ()]]
    optimizer = SWATS(params[:2], **options)
    optimizer.add_param_group({"params": params[2:]})
    values, memory = [float(x) for p in params for x in p.data.flat], {}
    o = {"betas": (0.9, 0.999), "eps": 1e-9, "weight_decay": 0.0, "switch_rtol": 0.0, **options}
    for _ in range(60):
        set_gradients(params, rng)
        gradients = [float(g) for p in params for g in p.grad.data.flat]
        values = swats_by_hand(
            values, gradients, memory, o["lr"], o["betas"], o["eps"], o["weight_decay"], 1e-9, o["switch_rtol"]
        )
        optimizer.step()
    np.testing.assert_allclose([x for p in params for x in p.data.flat], values, rtol=1e-9)
    assert {group["switch_step"] for group in optimizer.param_groups} == {memory.get("switch", 0)}
    assert ("switch" in memory) == ("switch_rtol" in options)
    assert optimizer.state["0"].keys() == ({"t", "b"} if "switch" in memory else {"t", "m", "v"})


def test_swats_switches_at_step_two_of_a_constant_gradient_to_lr_n_over_the_sum(caplog):
    g = np.array([1.0, -3.0, 0.5])
    w = md.tensor(np.zeros(3), requires_grad=True)
    optimizer = SWATS([w], lr=0.1, eps=0.0)
    steps = []
    with caplog.at_level(logging.INFO, "minidl.optim"):
        for _ in range(5):
            before = w.data.copy()
            w.grad = g
            optimizer.step()
            steps.append((before - w.data) / g)
    rate = 0.1 * 3 / 4.5
    group = optimizer.param_groups[0]
    assert (group["phase"], group["switch_step"]) == ("sgd", 2)
    assert group["sgd_scale"] * 0.1 == pytest.approx(rate, rel=1e-12)
    np.testing.assert_allclose(steps[2:], [[(1 - 0.9**t) * rate] * 3 for t in (1, 2, 3)], rtol=1e-12)
    assert caplog.messages == ["SWATS: from Adam to SGD after step 2, learning rate 0.0666667"]


@pytest.mark.parametrize("when", [1, 3])
def test_swats_is_resumed_bitwise_before_and_after_its_switch(when, rng):
    def run(optimizer, w, steps):
        for _ in range(steps):
            w.grad = np.array([1.0, -3.0])
            optimizer.step()

    w, u = (md.tensor(np.zeros(2), requires_grad=True) for _ in range(2))
    optimizer, first, second = SWATS([w], lr=0.1, eps=0.0), SWATS([u], lr=0.1, eps=0.0), SWATS([u])
    run(optimizer, w, 8)
    run(first, u, when)
    second.load_state_dict(first.state_dict())
    run(second, u, 8 - when)
    assert_same([u.data], [w.data])


def test_groups_of_swats_may_switch_on_their_own(rng):
    a, b = (md.tensor(np.zeros(2), requires_grad=True) for _ in range(2))
    optimizer = SWATS([{"params": [a]}, {"params": [b]}], eps=0.0, scope="group")
    for _ in range(4):
        a.grad, b.grad = np.ones(2), rng.standard_normal(2)
        optimizer.step()
    assert [group["phase"] for group in optimizer.param_groups] == ["sgd", "adam"]


def test_swats_maximizes_and_stands_still_without_a_rate(rng):
    params = parameters(rng)
    others, still = copy.deepcopy(params), copy.deepcopy(params)
    before = arrays(still)
    up, down = SWATS(params, lr=0.1, maximize=True, switch_rtol=0.5), SWATS(others, lr=0.1, switch_rtol=0.5)
    for _ in range(8):
        set_gradients(others, rng)
        for p, q in zip(params, others, strict=True):
            p.grad = -q.grad.data
        up.step()
        down.step()
    assert_same(arrays(params), arrays(others))
    assert up.param_groups[0]["phase"] == "sgd"
    assert_same(train(SWATS(still, lr=0.0), still, 5), before)


# ---- Polyak ----------------------------------------------------------------------------------------------------------


def test_polyaks_step_follows_its_formula_over_all_parameters(rng):
    params = parameters(rng)
    optimizer = PolyakSGD(params[:3], lr=0.5, f_min=-2.0, eps=0.1, max_lr=0.3)
    optimizer.add_param_group({"params": params[3:]})
    values = arrays(params)
    for step in range(45):
        set_gradients(params, rng)
        loss = 10.0 * 0.7**step - 2.1
        total = sum(float(g) ** 2 for p in params for g in p.grad.data.flat)
        rate = 0.5 * min(max(loss + 2.0, 0.0) / (total + 0.1), 0.3)
        values = [x - rate * p.grad.data for x, p in zip(values, params, strict=True)]
        optimizer.step(loss=loss)
    for p, x in zip(params, values, strict=True):
        np.testing.assert_allclose(p.data, x, rtol=1e-12)


def test_polyaks_step_halves_the_distance_to_the_minimum_of_a_square_and_stays_there():
    w = md.tensor(np.array([8.0]), requires_grad=True)
    optimizer = PolyakSGD([w])

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    for k in range(1, 11):
        assert optimizer.step(closure).item() == (8.0 / 2 ** (k - 1)) ** 2
        assert w.item() == 8.0 / 2**k
    w.grad = np.zeros(1)
    optimizer.step(loss=0.0)
    assert w.item() == 8.0 / 1024


@pytest.mark.parametrize(
    "kwargs", [{}, {"loss": math.nan}, {"closure": lambda: math.inf}, {"closure": int, "loss": 1.0}]
)
def test_polyaks_step_needs_one_finite_loss(kwargs):
    w = md.tensor(np.ones(1), requires_grad=True)
    w.grad = np.ones(1)
    with pytest.raises(ValueError, match="loss"):
        PolyakSGD([w]).step(**kwargs)
    assert w.item() == 1.0


def test_polyaks_step_equals_optax(rng):
    optax = pytest.importorskip("optax", reason="optax is not installed (pip install optax)")
    jax = pytest.importorskip("jax", reason="jax is not installed (pip install jax)")
    with jax.enable_x64(True):
        w = parameter(rng.standard_normal(5))
        theirs = jax.numpy.asarray(w.data.copy())
        optimizer, other = PolyakSGD([w], max_lr=0.2), optax.polyak_sgd(0.2)
        state = other.init(theirs)
        for step in range(45):
            set_gradients([w], rng)
            gradient = jax.numpy.asarray(w.grad.data.copy())
            optimizer.step(loss=0.8**step)
            updates, state = other.update(gradient, state, theirs, value=0.8**step)
            theirs = optax.apply_updates(theirs, updates)
        np.testing.assert_allclose(w.data, np.asarray(theirs), rtol=1e-12)


# ---- Lookahead -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["keep", "reset", "pullback"])
def test_lookahead_follows_its_formula_with_each_policy_for_momentum(policy, rng):
    params = parameters(rng)
    optimizer = Lookahead(SGD(params, lr=0.1, momentum=0.9), k=3, alpha=0.25, momentum=policy)
    fast, slow = arrays(params), arrays(params)
    b, slow_b = ([np.zeros(p.shape) for p in params] for _ in range(2))
    times = [0] * len(params)
    for step in range(45):
        skip = (1, 4) if step in (2, 17) else ()
        set_gradients(params, rng, skip)
        for i, p in enumerate(params):
            if i in skip:
                continue
            times[i] += 1
            b[i] = 0.9 * b[i] + p.grad.data
            fast[i] = fast[i] - 0.1 * b[i]
            if times[i] % 3 == 0:
                slow[i] = fast[i] = slow[i] + 0.25 * (fast[i] - slow[i])
                if policy == "pullback":
                    slow_b[i] = b[i] = slow_b[i] + 0.25 * (b[i] - slow_b[i])
                b[i] = 0 * b[i] if policy == "reset" else b[i]
        optimizer.step()
    for i, p in enumerate(params):
        np.testing.assert_allclose(p.data, fast[i], rtol=1e-12)
        np.testing.assert_allclose(optimizer.state[str(i)]["slow"], slow[i], rtol=1e-12)
        np.testing.assert_allclose(optimizer.state[str(i)]["b"], b[i], rtol=1e-12, atol=1e-15)


def test_lookahead_with_alpha_one_is_its_inner_optimizer(rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    wrapped = train(Lookahead(Adam(params, lr=0.1), alpha=1.0), params, 12)
    for a, b in zip(wrapped, train(Adam(others, lr=0.1), others, 12), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("policy", ["keep", "pullback"])
@pytest.mark.parametrize("when", range(1, 7))
def test_lookahead_is_resumed_bitwise_at_every_step(when, policy, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    optimizer, first = (Lookahead(Adam(x, lr=0.1), 3, 0.5, policy) for x in (params, others))
    train(optimizer, params, when)
    whole = train(optimizer, params, 7, seed=2)
    train(first, others, when)
    saved = first.state_dict()
    second = Lookahead(Adam(others), 3, 0.5, policy)
    second.load_state_dict(pickle.loads(pickle.dumps(saved)))
    assert_same(train(second, others, 7, seed=2), whole)


def test_lookahead_shows_its_slow_weights_for_the_length_of_a_block(rng):
    params = parameters(rng)
    optimizer = Lookahead(SGD(params, lr=0.1), k=2)
    fast = train(optimizer, params, 3)
    with optimizer.slow_weights():
        assert_same(arrays(params), [optimizer.state[str(i)]["slow"] for i in range(len(params))])
    assert_same(arrays(params), fast)


def test_lookahead_refuses_what_does_not_fit_and_then_changes_nothing(rng):
    params = parameters(rng)
    with pytest.raises(TypeError, match="inner must be an optimizer, got list"):
        Lookahead(params)
    for options in ({"k": 0}, {"k": 2.0}, {"alpha": 1.5}, {"alpha": math.nan}, {"momentum": "other"}):
        ((name, value),) = options.items()
        with pytest.raises(ValueError, match=f"Lookahead: {name} must be .*, got {name}={value!r}"):
            Lookahead(SGD(params), **options)
    with pytest.raises(ValueError, match="RMSprop has no momentum"):
        Lookahead(RMSprop(params), momentum="reset")
    optimizer = Lookahead(SGD(params, lr=0.1))
    train(optimizer, params, 2)
    saved, before = optimizer.state_dict(), copy.deepcopy(optimizer.state_dict())
    del saved["slow"]["1"]
    saved["slow"]["0"]["slow"] = md.tensor([1.0])
    with pytest.raises(ValueError, match=r"missing 1; 0.slow: must be float64 \(3, 4\), got float32 \(1,\)"):
        optimizer.load_state_dict(saved)
    for name, own in before["slow"].items():
        np.testing.assert_array_equal(optimizer.state[name]["slow"], own["slow"].data)
    with pytest.raises(ValueError, match="entry 'slow'"):
        optimizer.load_state_dict(SGD(params).state_dict())


def test_lookahead_follows_a_schedule_and_new_groups(rng):
    params = parameters(rng)
    optimizer = Lookahead(SGD(params[:3], lr=lambda step: 0.5**step), k=2)
    optimizer.add_param_group({"params": params[3:], "lr": 0.1})
    train(optimizer, params, 4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0625, 0.1]
    assert optimizer.steps == 4
    assert optimizer.state.keys() == {str(i) for i in range(7)}
    assert repr(optimizer).startswith("Lookahead(k=2, alpha=0.5, momentum='keep', SGD(")
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


# ---- the GPU text ----------------------------------------------------------------------------------------------------


def of_swats(params):
    return SWATS(params, lr=0.1, switch_rtol=0.9)


def of_lookahead(params):
    return Lookahead(SGD(params, lr=0.1, momentum=0.9), k=2, momentum="pullback")


def of_muon(params):
    return Muon([p for p in params if p.ndim > 1], lr=0.1)


def of_clipped(params):
    optimizer = SGD(params, lr=0.1)
    optimizer.register_step_pre_hook(AdaptiveClip())
    optimizer.register_step_pre_hook(GradientNoise())
    return optimizer


@pytest.mark.parametrize("make", [of_swats, of_lookahead, of_muon, of_clipped])
def test_numpy_and_the_gpu_text_agree(make, rng, fake_cuda):
    params = parameters(rng)
    others = [parameter(p.data.copy(), "cuda:0") for p in params]
    one, two = make(params), make(others)
    for _ in range(6):
        set_gradients(params, rng)
        for p, q in zip(params, others, strict=True):
            q.grad = to_device(p.grad.data.copy("C"), "cuda:0")
        one.step()
        two.step()
    for a, b in zip(arrays(others), arrays(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    two.load_state_dict(two.state_dict())


@pytest.mark.parametrize("kind", [LBFGS, NonlinearCG])
def test_a_line_search_runs_on_the_gpu_text(kind, fake_cuda):
    ends = []
    for device in ("cpu", "cuda:0"):
        w = parameter(np.array([-2.0, 2.0]), device)

        def closure(w=w):
            w.grad = None
            x, y = w[0], w[1]
            loss = (1 - x) ** 2 + 100 * (y - x * x) ** 2
            loss.backward()
            return loss

        optimizer = kind([w])
        optimizer.step(closure)
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step(closure)
        ends.append(arrays([w])[0])
    np.testing.assert_allclose(*ends, rtol=1e-9)
