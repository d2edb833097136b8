"""SAM, ASAM and GSAM: the exact step on a quadratic, loops over numbers, and what an evaluation must leave alone."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import minidl as md
import optim_by_hand as hand
from minidl.engine.backend import to_device, to_numpy
from minidl.optim import ASAM, GSAM, LBFGS, SAM, SGD, Adam, GradientAccumulation, Lookahead, SkipNonFinite, lr_scheduler
from optim_cases import arrays, assert_same, parameter, parameters

KINDS = [SAM, ASAM, GSAM]


def quartic(params, scale=1.0):
    """Return a closure of scale times the sum of p^4 / 4 + p^2, and its gradient of one number."""

    def closure():
        loss = sum((p**4).sum() / 4 + (p * p).sum() for p in params) * scale
        loss.backward()
        return loss

    return closure, lambda x: scale * (x**3 + 2 * x)


def worst(kind, xs, slope, rho, sign=1.0, eta=0.01):
    """Return where the second gradient is taken: lists of numbers, parameter by parameter."""
    scales = [[1.0 if kind is not ASAM else abs(x) + eta for x in part] for part in xs]
    parts = [[(x, t, slope(x)) for x, t in zip(*pair, strict=True)] for pair in zip(xs, scales, strict=True)]
    norm = math.sqrt(math.fsum((t * g) ** 2 for part in parts for _, t, g in part)) + 1e-12
    return [[x + sign * rho * t * t * g / norm for x, t, g in part] for part in parts]


def gradients(kind, xs, slope, rho, alpha=0.4, eta=0.01):
    """Return the gradients that the base optimizer gets."""
    new = [[slope(x) for x in part] for part in worst(kind, xs, slope, rho, eta=eta)]
    if kind is not GSAM:
        return new
    old = [[slope(x) for x in part] for part in xs]
    pairs = [pair for parts in zip(old, new, strict=True) for pair in zip(*parts, strict=True)]
    share = math.fsum(a * b for a, b in pairs) / math.fsum(b * b for _, b in pairs)
    return [[b - alpha * (a - share * b) for a, b in zip(*parts, strict=True)] for parts in zip(old, new, strict=True)]


# ---- what a step is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_forty_steps_follow_the_formula_over_all_groups(kind, rng):
    params = parameters(rng)
    optimizer = kind(Adam([{"params": params[:3]}, {"params": params[3:], "lr": 0.01}], lr=0.05), rho=0.3)
    closure, slope = quartic(params)
    xs, states = [[float(x) for x in p.data.flat] for p in params], [[{} for _ in range(p.size)] for p in params]
    for t in range(1, 41):
        for k, gs in enumerate(gradients(kind, xs, slope, 0.3)):
            rate = 0.05 if k < 3 else 0.01
            together = zip(xs[k], gs, states[k], strict=True)
            xs[k] = [hand.adam(x, g, s, t, lr=rate) for x, g, s in together]
        optimizer.step(closure)
    for p, x in zip(params, xs, strict=True):
        np.testing.assert_allclose(p.data, np.reshape(x, p.shape), rtol=1e-9)


def test_on_a_quadratic_a_step_is_a_times_x_plus_e(rng):
    root = rng.standard_normal((6, 4))
    a = root.T @ root
    w = parameter(rng.standard_normal(4))
    x = w.data.copy()
    optimizer, matrix = SAM(SGD([w], lr=0.02), rho=0.5), md.tensor(a)

    def closure():
        loss = w @ (matrix @ w) / 2
        loss.backward()
        return loss

    for _ in range(40):
        loss = optimizer.step(closure)
        assert loss.item() == pytest.approx(x @ a @ x / 2, rel=1e-12)
        g = a @ x
        x = x - 0.02 * a @ (x + 0.5 * g / (np.sqrt(g @ g) + 1e-12))
        np.testing.assert_allclose(w.data, x, rtol=1e-12)


def test_sam_equals_optax(rng):
    optax = pytest.importorskip("optax", reason="optax is not installed (pip install optax)")
    jax = pytest.importorskip("jax", reason="jax is not installed (pip install jax)")
    with jax.enable_x64(True):
        params = [parameter(rng.standard_normal(shape)) for shape in ((3, 4), (5,))]
        theirs = [jax.numpy.asarray(p.data.copy()) for p in params]
        ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
        transformation = optax.contrib.sam(optax.adam(0.05), ascent, sync_period=2, opaque_mode=True)
        state = transformation.init(theirs)
        slopes = jax.jit(jax.grad(lambda ps: sum((p**4).sum() / 4 + (p * p).sum() for p in ps)))
        advance = jax.jit(lambda g, s, ps: transformation.update(g, s, ps, grad_fn=lambda ps, _: slopes(ps)))
        optimizer, (closure, _) = SAM(Adam(params, lr=0.05), rho=0.3), quartic(params)
        for _ in range(40):
            optimizer.step(closure)
            updates, state = advance(slopes(theirs), state, theirs)
            theirs = optax.apply_updates(theirs, updates)
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p.data, np.asarray(q), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_radius_of_zero_is_the_base_optimizer(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    optimizer, base = kind(SGD(params, lr=0.01, momentum=0.9), rho=0.0), SGD(others, lr=0.01, momentum=0.9)
    for _ in range(5):
        optimizer.step(quartic(params)[0])
        base.zero_grad()
        base.step(quartic(others)[0])
    for p, q in zip(params, others, strict=True):  # GSAM's part across is 0 up to rounding
        np.testing.assert_allclose(p.data, q.data, rtol=1e-13 if kind is GSAM else 0)


def test_gsam_without_alpha_is_sam(rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    one, two = GSAM(SGD(params, lr=0.01), rho=0.3, alpha=0.0), SAM(SGD(others, lr=0.01), rho=0.3)
    for _ in range(5):
        one.step(quartic(params)[0])
        two.step(quartic(others)[0])
    assert_same(arrays(params), arrays(others))


def test_asam_sees_no_difference_where_one_weight_is_scaled_and_the_next_scaled_back():
    losses = []
    for scale in (1.0, 64.0):
        u, v = parameter(np.array([0.5 * scale, -2.0 * scale])), parameter(np.array([3.0 / scale, 1.5 / scale]))
        seen = []

        def closure(u=u, v=v, seen=seen):
            loss = (((u * v).sum() - 5) ** 2).sum()
            loss.backward()
            seen.append(loss.item())

        ASAM(SGD([u, v], lr=0.0), rho=0.2, eta=0.0).step(closure)
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][1] > losses[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_maximizing_minus_f_is_minimizing_f_bitwise(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    up, down = kind(SGD(params, lr=0.01, maximize=True), rho=0.3), kind(SGD(others, lr=0.01), rho=0.3)
    for _ in range(5):
        up.step(quartic(params, -1.0)[0])
        down.step(quartic(others)[0])
    assert_same(arrays(params), arrays(others))


@pytest.mark.parametrize("kind", KINDS)
def test_the_radius_may_follow_a_schedule(kind, rng):
    params = parameters(rng)
    asked = []

    def radius(step):
        asked.append(step)
        return 0.3 / (1 + step)

    optimizer = kind(SGD(params, lr=0.01), radius)
    values, (closure, slope) = [[float(x) for x in p.data.flat] for p in params], quartic(params)
    for step in range(3):
        found = gradients(kind, values, slope, 0.3 / (1 + step))
        values = [[x - 0.01 * g for x, g in zip(*pair, strict=True)] for pair in zip(values, found, strict=True)]
        optimizer.step(closure)
    assert asked == [0, 0, 1, 2]
    for p, x in zip(params, values, strict=True):
        np.testing.assert_allclose(p.data, np.reshape(x, p.shape), rtol=1e-12)


# ---- what is left alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_come_back_bit_by_bit(kind, dtype, rng):
    params = parameters(rng, dtype)
    held, before = [p.data for p in params], arrays(params)
    optimizer = kind(SGD(params, lr=0.0), rho=0.7)
    visited = []

    def closure():
        visited.append(arrays(params))
        quartic(params)[0]()

    optimizer.step(closure)
    assert_same(arrays(params), before)
    assert all(p.data is x and p.dtype == dtype and p.grad.dtype == dtype for p, x in zip(params, held, strict=True))
    assert len(visited) == 2
    assert not np.array_equal(visited[1][0], before[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failing", [1, 2])
def test_a_closure_that_raises_leaves_parameters_and_random_numbers_where_they_were(kind, failing, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = kind(Adam(params), rho=0.7)
    calls = []

    def closure():
        calls.append(md.random.get_state()["draws"])
        quartic(params)[0]()
        md.random.generator()
        if len(calls) == failing:
            raise KeyError("stop")

    start = md.random.get_state()["draws"]
    with pytest.raises(KeyError, match="stop"):
        optimizer.step(closure)
    assert_same(arrays(params), before)
    assert (optimizer.state, optimizer.steps) == ({}, 0)
    assert calls == [start] * failing
    assert md.random.get_state()["draws"] == start + 1


@pytest.mark.parametrize("kind", KINDS)
def test_batch_statistics_are_those_of_the_first_evaluation_and_masks_repeat(kind, rng):
    model = md.nn.Sequential(md.nn.Linear(4, 5), md.nn.BatchNorm1d(5), md.nn.Dropout(0.5), md.nn.Linear(5, 1))
    twin, x = copy.deepcopy(model), md.tensor(rng.standard_normal((8, 4)).astype(np.float32))
    optimizer, masks = kind(SGD(model, lr=0.1), rho=0.5), []

    def closure():
        masks.append(model[2](md.ones((100,))).tolist())
        loss = (model(x) ** 2).mean()
        loss.backward()
        return loss

    state = md.random.get_state()
    loss = optimizer.step(closure)
    after = md.random.get_state()
    md.random.set_state(state)
    twin[2](md.ones((100,)))
    assert loss.item() == (twin(x) ** 2).mean().item()
    assert md.random.get_state() == after
    assert masks[0] == masks[1]
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        np.testing.assert_array_equal(getattr(model[1], name).data, getattr(twin[1], name).data)
    assert model[1].num_batches_tracked.item() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_taken_anew_whether_or_not_the_closure_clears_them(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    one, two = kind(SGD(params, lr=0.01), rho=0.3), kind(SGD(others, lr=0.01), rho=0.3)
    closure = quartic(others)[0]

    def clearing():
        two.zero_grad(set_to_none=False)
        return closure()

    for _ in range(4):
        with md.no_grad():
            one.step(quartic(params)[0])
        two.step(clearing)
    assert_same(arrays(params), arrays(others))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_a_gradient_stay(kind, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = kind(Adam(params, lr=0.1), rho=0.3)
    optimizer.step(quartic(params[1:])[0])
    assert_same(arrays(params[:1]), before[:1])
    assert "0" not in optimizer.state


def test_gsam_takes_a_gradient_that_comes_or_goes_as_zero():
    u, v = (parameter(np.array([x])) for x in (3.0, 4.0))
    optimizer = GSAM(SGD([u, v], lr=1.0), rho=0.0, alpha=0.5)
    calls = []

    def closure():
        calls.append(1)
        (3 * u if len(calls) == 1 else 2 * u + 4 * v).sum().backward()

    optimizer.step(closure)  # g = (3, 0), g_p = (2, 4): <g, g_p> / <g_p, g_p> = 0.3, across (2.4, -1.2)
    np.testing.assert_allclose([u.item(), v.item()], [3 - (2 - 1.2), 4 - (4 + 0.6)], rtol=1e-12)
    calls.clear()

    def fading():
        calls.append(1)
        (u + v if len(calls) == 1 else 2 * u).sum().backward()

    before = [u.item(), v.item()]
    optimizer.step(fading)  # g = (1, 1), g_p = (2, none): across (0, none)
    assert [u.item(), v.item()] == [before[0] - 2, before[1]]


# ---- the rest of an optimizer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_resumed_bitwise(kind, rng):
    params = parameters(rng)
    optimizer = kind(Adam(params, lr=0.05), rho=0.3)
    for _ in range(3):
        optimizer.step(quartic(params)[0])
    others = copy.deepcopy(params)
    other = kind(Adam(others), rho=0.3)
    other.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    for _ in range(3):
        optimizer.step(quartic(params)[0])
        other.step(quartic(others)[0])
    assert_same(arrays(others), arrays(params))
    assert (other.steps, other.param_groups[0]["lr"]) == (6, 0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_the_gpu_text_agree(kind, rng, fake_cuda):
    params = parameters(rng)
    others = [parameter(p.data.copy(), "cuda:0") for p in params]
    one, two = kind(SGD(params, lr=0.01), rho=0.3), kind(SGD(others, lr=0.01), rho=0.3)
    slope = quartic(params)[1]

    def closure():
        for p, q in zip(params, others, strict=True):
            p.grad = slope(p.data)
            q.grad = to_device(np.asarray(slope(to_numpy(q.array))), "cuda:0")

    for _ in range(3):
        one.step(closure)
        two.step(closure)
    for a, b in zip(arrays(others), arrays(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_wrappers_of_wrappers_have_the_methods_of_an_optimizer(rng):
    params = parameters(rng)
    optimizer = SAM(Lookahead(SGD(params[:3], lr=0.1), k=2), rho=0.1)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.add_param_group({"params": params[3:], "lr": 0.01})
    seen = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    optimizer.step(quartic(params)[0])
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]
    assert seen == ["before", "after"]
    assert optimizer.steps == 1
    assert repr(optimizer).startswith("SAM(Lookahead(k=2")
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    for wrapper in (GradientAccumulation(SGD(params[:1]), 2), SkipNonFinite(SGD(params[:1]))):
        wrapper.add_param_group({"params": params[1:]})
        assert len(wrapper.param_groups) == 2
        assert wrapper.steps == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused(kind, rng):
    params = parameters(rng)
    name = kind.__name__
    with pytest.raises(TypeError, match=f"{name}: needs an optimizer, got list"):
        kind(params)
    for rho in (-0.1, math.nan, math.inf, "0.1", None, lambda step: -1.0):
        with pytest.raises(ValueError, match=f"{name}: rho must be a finite number >= 0, got rho="):
            kind(SGD(params), rho)
    before = arrays(params)
    with pytest.raises(ValueError, match=f"{name}.step: needs a closure"):
        kind(SGD(params)).step()
    with pytest.raises(TypeError, match=f"^{name}: a step of LBFGS needs a closure, and {name} gives it gradients$"):
        kind(LBFGS(params))
    assert_same(arrays(params), before)


@pytest.mark.parametrize(("kind", "option"), [(ASAM, "eta"), (GSAM, "alpha")])
@pytest.mark.parametrize("value", [-0.1, math.nan, None])
def test_other_options_are_checked(kind, option, value, rng):
    with pytest.raises(ValueError, match=f"{kind.__name__}: {option} must be a finite number >= 0, got {option}="):
        kind(SGD(parameters(rng)), **{option: value})
