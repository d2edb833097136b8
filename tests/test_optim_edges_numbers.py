"""Numbers that optimizers find or carry, and vectors that they remember: exact, checked, saved, as in PyTorch."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import minidl as md
from minidl import optim
from minidl.optim import (
    LBFGS,
    SGD,
    SWATS,
    DAdaptAdam,
    DAdaptSGD,
    NAdam,
    NewtonCG,
    NonlinearCG,
    Prodigy,
    cautious,
)
from optim_cases import assert_same, leaf, parameter, train

# ---- numbers that are found on the way -------------------------------------------------------------------------------

ONE_DISTANCE = [DAdaptSGD, DAdaptAdam, Prodigy]


@pytest.mark.parametrize("kind", ONE_DISTANCE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_refused_at_the_first_step_and_where_a_parameter_joins(kind, bad):
    w, late = leaf(2), leaf(2)
    optimizer = kind([w, late])
    w.grad = np.array([1.0, bad])
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="are the gradients finite"):
        optimizer.step()
    assert (optimizer.steps, optimizer.state, w.tolist()) == (0, {}, [1.0, 1.0])
    for _ in range(2):
        w.grad = np.array([1.0, 2.0])
        optimizer.step()
    before, group = w.data.copy(), dict(optimizer.param_groups[0])
    late.grad = np.array([bad, 1.0])
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="are the gradients finite"):
        optimizer.step()
    assert_same([w.data, late.data], [before, np.ones(2)])
    assert (dict(optimizer.param_groups[0]), optimizer.steps) == (group, 2)


def settling(w, **options):
    """Return SWATS that switches at step 2, and the closure-less loop of its steps."""
    optimizer = SWATS([w], lr=0.1, eps=0.0, **options)

    def run(steps, each=None):
        for _ in range(steps):
            w.grad = np.array([1.0, -3.0])
            (each or optimizer).step()

    return optimizer, run


@pytest.mark.parametrize("when", [1, 3])
def test_swats_keeps_its_progress_when_options_are_not_taken_over(when):
    w, u = leaf(2), leaf(2)
    _, run = settling(w)
    run(8)
    first, run = settling(u)
    run(when)
    second = SWATS([u], lr=0.1, eps=0.0)
    second.load_state_dict(first.state_dict(), hyper="current")
    assert dict(second.param_groups[0]) == dict(first.param_groups[0])
    run(8 - when, second)
    assert_same([u.data], [w.data])


def test_hooks_after_a_step_of_swats_see_what_it_found_and_may_clear_gradients():
    w = leaf(2)
    optimizer, run = settling(w)
    seen = []

    def look(o, args, kwargs):
        group = o.param_groups[0]
        seen.append((group["phase"], group["averaged"], group["switch_step"]))
        o.zero_grad()

    optimizer.register_step_post_hook(look)
    run(3)
    assert seen == [("adam", 1, 0), ("sgd", 2, 2), ("sgd", 2, 2)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_swats_refuses_what_is_not_finite_before_anything_moves(bad):
    w = leaf(2)
    optimizer, run = settling(w, switch_atol=0.0)
    run(1)
    before, state = w.data.copy(), repr(optimizer.state_dict())
    w.grad = np.array([1.0, bad])
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="are the gradients finite"):
        optimizer.step()
    assert_same([w.data], [before])
    assert repr(optimizer.state_dict()) == state


@pytest.mark.parametrize("other", [{"betas": (0.5, 0.9)}, {"switch_rtol": 0.3}, {"switch_atol": 0.3}])
def test_groups_of_swats_under_one_rate_share_what_it_depends_on(other):
    for scope in ("global", "group"):
        a, b = leaf(2), leaf(2)
        optimizer = SWATS([{"params": [a]}, {"params": [b], **other}], scope=scope)
        a.grad = b.grad = np.ones(2)
        if scope == "group":
            optimizer.step()
        else:
            with pytest.raises(ValueError, match=f"SWATS: .* the same {next(iter(other))}, got"):
                optimizer.step()
            assert a.tolist() == b.tolist() == [1.0, 1.0]


def test_nadam_under_a_schedule_of_its_first_beta_is_pytorchs_and_resumes_bitwise(rng):
    torch = pytest.importorskip("torch")
    start, gradients = rng.standard_normal(5), rng.standard_normal((20, 5))

    def pair(module, p):
        optimizer = module.NAdam([p], lr=0.01, momentum_decay=0.1)
        scheduler = module.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=30)
        return optimizer, scheduler

    w, u = parameter(start), torch.nn.Parameter(torch.tensor(start))
    ours, theirs = pair(optim, w), pair(torch.optim, u)
    for step, g in enumerate(gradients):
        w.grad, u.grad = g.copy(), torch.tensor(g)
        for each in (*ours, *theirs):
            each.step()
        np.testing.assert_allclose(w.data, u.detach().numpy(), rtol=2e-6)  # PyTorch keeps the product in float32
        if step == 9:
            again = parameter(w.data.copy())
            resumed = pair(optim, again)
            for mine, other in zip(resumed, ours, strict=True):
                mine.load_state_dict(other.state_dict())
        elif step > 9:
            again.grad = g.copy()
            for each in resumed:
                each.step()
    assert_same([again.data], [w.data])
    product = ours[0].state["0"]["mu_product"]
    assert product == pytest.approx(float(theirs[0].state[u]["mu_product"]), rel=1e-5)
    assert product == resumed[0].state["0"]["mu_product"]


def test_parameters_of_nadam_with_other_pasts_have_products_of_their_own(rng):
    params = [leaf(2), leaf(2)]
    optimizer = NAdam(params)
    for betas, mover in (((0.9, 0.999), 0), ((0.5, 0.999), 1)):  # each has moved once when the state is saved
        optimizer.param_groups[0]["betas"] = betas
        for k, p in enumerate(params):
            p.grad = np.ones(2) if k == mover else None
        optimizer.step()
    twins = copy.deepcopy(params)
    loaded, copied = NAdam(twins), pickle.loads(pickle.dumps(optimizer))
    loaded.load_state_dict(optimizer.state_dict())
    mu = [b1 * (1 - 0.5 * 0.96**0.004) for b1 in (0.9, 0.5)]
    for each in (optimizer, loaded, copied):
        assert [own["mu_product"] for own in each.state.values()] == pytest.approx(mu, rel=1e-14)
    theirs = list(copied.param_groups[0]["params"])
    ends = [train(*pair, 3) for pair in ((optimizer, params), (loaded, twins), (copied, theirs))]
    assert_same(ends[1], ends[0])
    assert_same(ends[2], ends[0])
    for wrong, problem in (({}, "missing"), ({"mu_product": "x"}, "0.mu_product: must be a finite number, got 'x'")):
        state = optimizer.state_dict()
        del state["state"]["0"]["mu_product"]
        state["state"]["0"] |= wrong
        with pytest.raises(ValueError, match=problem):
            loaded.load_state_dict(state)


@pytest.mark.parametrize("lr_in_buffer", [False, True])
def test_dampening_leaves_out_the_first_gradient_of_a_buffer_that_is_made_later(lr_in_buffer, rng):
    torch = pytest.importorskip("torch")
    start = rng.standard_normal(4)
    w, u = parameter(start), torch.nn.Parameter(torch.tensor(start))
    ours, theirs = (
        SGD([w], lr=0.1, dampening=0.5, lr_in_buffer=lr_in_buffer),
        torch.optim.SGD([u], lr=0.1, dampening=0.5),
    )
    for step in range(8):
        g = rng.standard_normal(4)
        w.grad, u.grad = g.copy(), torch.tensor(g)
        for each in (ours, theirs):
            each.param_groups[0]["momentum"] = 0.0 if step < 3 else 0.9
            each.step()
        np.testing.assert_allclose(w.data, u.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("kind", [DAdaptSGD])
def test_cautious_looks_at_the_formula_that_moves(kind):
    w = leaf(2)
    optimizer = kind([w])
    with pytest.raises(TypeError, match=f"^cautious: {kind.__name__}.update must give theta - step"):
        cautious(optimizer)
    w.grad = np.ones(2)
    optimizer.step()
    assert (w.data < 1).all()
    for good in (DAdaptAdam, Prodigy):
        u = leaf(2)
        optimizer = cautious(good([u]))
        for _ in range(3):
            u.grad = np.ones(2)
            optimizer.step()
        assert (u.data < 1).all()


# ---- optimizers of vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LBFGS, NonlinearCG])
def test_a_search_follows_its_parameters_to_another_dtype(kind):
    w = parameter(np.array([3.0, -2.0]))
    optimizer = kind([w], max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = ((w * w) * md.tensor(np.array([1.0, 7.0], w.dtype)) + w).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    w.data = w.data.astype(np.float32)
    losses = [optimizer.step(closure).item() for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(-0.25 - 1 / 28, rel=1e-5)
    vectors = [x for v in optimizer.memory.values() for x in (v if isinstance(v, list) else [v])]
    assert {x.dtype for x in vectors if isinstance(x, np.ndarray)} == {np.dtype(np.float32)}
    fresh = kind([md.tensor(w.data.copy(), requires_grad=True)], max_iter=2)
    fresh.load_state_dict(optimizer.state_dict())


def test_a_search_over_parameters_rebound_to_several_dtypes_is_refused():
    a, b = leaf(2), leaf(2)
    optimizer = LBFGS([a, b])
    a.data = a.data.astype(np.float32)
    with pytest.raises(ValueError, match="LBFGS: all parameters must have one dtype"):
        optimizer.step(lambda: 1.0)


@pytest.mark.parametrize("kind", [LBFGS, NonlinearCG])
def test_a_search_in_which_nothing_has_a_gradient_is_no_step(kind):
    w, lrs = leaf(2), []
    optimizer = kind([w], lr=lambda step: 0.5 / (step + 1))
    for _ in range(3):
        assert optimizer.step(lambda: 1.0) == 1.0
        lrs.append(optimizer.param_groups[0]["lr"])
    assert (optimizer.steps, lrs, w.tolist()) == (0, [0.5] * 3, [1.0, 1.0])
    assert "d" not in optimizer.memory


@pytest.mark.parametrize("kind", [SGD, optim.Adafactor, optim.Shampoo, LBFGS, NewtonCG])
def test_parameters_that_share_memory_are_refused_by_all(kind):
    memory = np.ones((3, 2))
    a, b = (md.Parameter(np.ones((2, 2))) for _ in range(2))
    a.data, b.data = memory[:2], memory[1:]
    a.grad, b.grad = np.ones((2, 2)), np.ones((2, 2))
    with pytest.raises(ValueError, match="share memory"):
        kind([a, b]).step()
    assert (memory == 1).all()
