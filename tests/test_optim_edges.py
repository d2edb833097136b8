"""Wrappers, hooks, schedules that end, numbers found on the way: nothing about them goes wrong in silence."""

from __future__ import annotations

import copy
import json
import math
import pickle
from itertools import permutations

import numpy as np
import pytest

import minidl as md
from minidl import optim
from minidl.optim import (
    ASAM,
    GSAM,
    LBFGS,
    SAM,
    SGD,
    SWATS,
    AdaHessian,
    GradientAccumulation,
    Lookahead,
    NewtonCG,
    NonlinearCG,
    PolyakSGD,
    SkipNonFinite,
    Sophia,
)
from minidl.optim.lr_scheduler import (
    SWALR,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from optim_cases import arrays, assert_same, leaf, parameter, parameters, set_gradients

# ---- schedulers ------------------------------------------------------------------------------------------------------


def cosine_then_average(optimizer):
    return {"first": CosineAnnealingLR(optimizer, 10), "second": SWALR(optimizer, 0.05)}


def linear_then_plateau(optimizer):
    return {"first": LinearLR(optimizer, 0.1, total_iters=10), "second": ReduceLROnPlateau(optimizer, patience=0)}


@pytest.mark.parametrize("make", [cosine_then_average, linear_then_plateau])
@pytest.mark.parametrize(("steps", "more"), [(0, 0), (6, 0), (6, 3)])
@pytest.mark.parametrize("how", ["state", "json", "pickle"])
def test_of_two_schedulers_the_one_that_drives_restores_the_lr_in_any_order(make, steps, more, how):
    optimizer = SGD([leaf(2)], lr=0.1)
    schedulers = make(optimizer)
    for _ in range(steps):
        schedulers["first"].step()
    for _ in range(more):
        schedulers["second"].step(*([1.0] if make is linear_then_plateau else []))
    lr = optimizer.param_groups[0]["lr"]
    if how == "pickle":  # who drives survives it
        optimizer, schedulers = pickle.loads(pickle.dumps((optimizer, schedulers)))
    parts = {"optimizer": optimizer, **schedulers}
    saved = {name: part.state_dict() for name, part in parts.items()}
    if how == "json":
        saved |= {name: json.loads(json.dumps(saved[name])) for name in schedulers}
    for order in permutations(saved):
        fresh = SGD([leaf(2)], lr=0.1)
        new = {"optimizer": fresh, **make(fresh)}
        for name in order:
            new[name].load_state_dict(saved[name])
        assert fresh.param_groups[0]["lr"] == lr, order


def test_a_scheduler_state_that_cannot_be_continued_changes_nothing():
    def made(total):
        optimizer = SGD([leaf(2)], lr=0.1, momentum=0.9)
        return optimizer, OneCycleLR(optimizer, 0.5, total_steps=total)

    _, long = made(10)
    for _ in range(9):
        long.step()
    optimizer, short = made(5)
    short.step()
    before, group = short.state_dict(), dict(optimizer.param_groups[0])
    with pytest.raises(ValueError, match="total_steps=5"):
        short.load_state_dict(long.state_dict(), hyper="current")
    assert (short.state_dict(), dict(optimizer.param_groups[0])) == (before, group)
    combined = SequentialLR(optimizer, [StepLR(optimizer, 3), short], [2])
    before = combined.state_dict()
    longer = SequentialLR(long.optimizer, [StepLR(long.optimizer, 3), long], [2])
    for _ in range(11):
        longer.step()
    with pytest.raises(ValueError, match="total_steps=5"):
        combined.load_state_dict(longer.state_dict(), hyper="current")
    assert combined.state_dict() == before


def test_a_scheduler_made_after_training_began_starts_from_todays_lr_as_in_pytorch():
    torch = pytest.importorskip("torch")
    w, u = leaf(1), torch.nn.Parameter(torch.ones(1))
    ours, theirs = SGD([w], lr=0.1), torch.optim.SGD([u], lr=0.1)
    w.grad, u.grad = np.ones(1), torch.ones(1)
    lrs = []
    for optimizer, kind in ((ours, StepLR), (theirs, torch.optim.lr_scheduler.StepLR)):
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.01
        scheduler = kind(optimizer, 2)
        lrs.append([])
        for _ in range(5):
            lrs[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert lrs[0] == pytest.approx(lrs[1], rel=1e-12)
    assert lrs[0][0] == 0.01
    # A state knows that a scheduler has changed its lr: one that is made afterwards begins where that one began.
    fresh = SGD([leaf(1)], lr=0.3)
    fresh.load_state_dict(ours.state_dict())
    assert fresh.param_groups[0]["lr"] < 0.01
    assert StepLR(fresh, 2).get_last_lr() == [0.01]


@pytest.mark.parametrize("kind", [SGD, LBFGS])
def test_a_schedule_that_ended_stops_the_next_step_and_copies_with_its_optimizer(kind):
    def schedule(step):
        return [0.5, 0.25][step]

    w = parameter(np.array([4.0]))
    optimizer = kind([w], lr=schedule)

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    before = w.data.copy()
    twin = copy.deepcopy(optimizer)
    for each in (optimizer, twin):
        assert each.param_groups[0]["lr"] == 0.25
        with pytest.raises(IndexError):
            each.step(closure)
    assert_same([w.data], [before])


# ---- hooks -----------------------------------------------------------------------------------------------------------


def test_a_hook_before_a_step_may_change_all_arguments_and_nothing_else():
    w = leaf(2)
    w.grad = np.ones(2)
    for returned, loss in [(((), {}), None), (((), {"closure": lambda: 7}), 7), (((lambda: 8,), {}), 8), (None, 9)]:
        optimizer = SGD([w])
        optimizer.register_step_pre_hook(lambda *_, returned=returned: returned)
        assert optimizer.step(lambda: 9) == loss
    before = w.data.copy()
    for returned in (3, (), ((1,), {}, 2), ((), {"clsure": 1}), ((1, 2), {})):
        optimizer = SGD([w])
        optimizer.register_step_pre_hook(lambda *_, returned=returned: returned)
        with pytest.raises(TypeError, match=r"a pre-step hook returns None or \(args, kwargs\)|step\(\)"):
            optimizer.step()
    search = LBFGS([w])
    search.register_step_pre_hook(lambda *_: ((), {}))
    with pytest.raises(ValueError, match="closure"):
        search.step(lambda: 1.0)
    assert_same([w.data], [before])


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: Lookahead(o, k=2)])
def test_steps_are_skipped_for_nan_that_a_hook_makes(wrap):
    w, bad = leaf(2), [False, True, False]
    inner = SGD([w], lr=1.0, momentum=0.5)
    optimizer = SkipNonFinite(wrap(inner))

    def spoil(o, args, kwargs):
        w.grad = w.grad.data * (math.nan if bad[len(seen)] else 1.0)
        seen.append(o.steps)

    seen = []
    handle = optimizer.register_step_pre_hook(spoil)
    for _ in bad:
        w.grad = np.ones(2)
        optimizer.step()
    assert (optimizer.skipped, optimizer.in_a_row, inner.steps, inner.state["0"]["t"]) == (1, 0, 2, 2)
    assert np.isfinite(w.data).all()
    handle.remove()
    assert not inner._pre_hooks


# ---- what is around an optimizer -------------------------------------------------------------------------------------

TAKES_MORE = {PolyakSGD: "the loss", LBFGS: "a closure", NonlinearCG: "a closure", NewtonCG: "a closure"}
WITH_A_GRAPH = {AdaHessian: "gradients with a graph", Sophia: "gradients with a graph"}


@pytest.mark.parametrize("around", [SAM, ASAM, GSAM, SkipNonFinite, lambda o: GradientAccumulation(o, every=2)])
def test_what_is_around_an_optimizer_refuses_one_whose_step_needs_more(around):
    for kind, needs in (TAKES_MORE if around is SkipNonFinite else TAKES_MORE | WITH_A_GRAPH).items():
        inner = kind([leaf(2)])
        wrapped = [inner, SkipNonFinite(inner)] if kind in WITH_A_GRAPH and around is not SkipNonFinite else [inner]
        for each in wrapped:
            with pytest.raises(
                TypeError, match=f": a step of {type(each).__name__} needs {needs}, and .* gives it grad"
            ):
                around(each)
    with pytest.raises(TypeError, match="a step of SAM needs a closure"):
        around(SAM(SGD([leaf(2)])))
    assert around(SGD([leaf(2)])).steps == 0


def test_skipping_goes_with_what_measures_the_curvature():
    w = parameter(np.ones(2))
    optimizer = SkipNonFinite(AdaHessian([w], lr=1.0, eps=0.0))
    (md.tensor([0.5, 50.0]) * w * w).sum().backward(create_graph=True)
    optimizer.step()
    np.testing.assert_allclose(w.data, 0, atol=1e-12)


class Stumbling(SGD):
    """SGD that fails once."""

    def scalars(self, group, t):
        if not hasattr(self, "failed"):
            self.failed = True
            raise ZeroDivisionError
        return super().scalars(group, t)


def test_accumulated_batches_survive_an_error_of_the_step():
    w, u = leaf(2), leaf(2)
    optimizer, whole = GradientAccumulation(Stumbling([w], lr=1.0), every=2), SGD([u], lr=1.0)
    w.grad = np.array([1.0, 2.0])
    optimizer.step(samples=1)
    w.grad = np.array([4.0, 8.0])
    with pytest.raises(ZeroDivisionError):
        optimizer.step(samples=3)
    assert (optimizer.batches, optimizer.samples, w.grad) == (2, 4, None)
    assert optimizer.flush()
    u.grad = np.array([13.0, 26.0]) / 4
    whole.step()
    np.testing.assert_allclose(w.data, u.data, rtol=1e-14)
    assert (optimizer.batches, optimizer.flush()) == (0, False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_may_be_rebound_between_accumulated_batches(dtype):
    w = md.tensor(np.zeros(2, np.float64 if dtype is np.float32 else np.float32), requires_grad=True)
    optimizer = GradientAccumulation(SGD([w], lr=1.0), every=3)
    w.grad = np.array([1.0, 2.0], w.dtype)
    optimizer.step()
    w.data = np.zeros(2, dtype)
    w.grad = np.array([5.0, 4.0], dtype)
    assert not optimizer.step()
    assert {x.dtype for x in optimizer._means.values()} == {np.dtype(dtype)}
    w.grad = np.array([3.0, 3.0], dtype)
    assert optimizer.step()
    assert (w.dtype, optimizer.batches) == (dtype, 0)
    np.testing.assert_allclose(w.data, [-3.0, -3.0], rtol=1e-6)


def test_a_step_that_moved_nothing_is_none():
    w = leaf(2)
    optimizer = GradientAccumulation(SkipNonFinite(SGD([w], lr=1.0)), every=1)
    w.grad = np.full(2, math.nan)
    assert optimizer.step() is False
    assert optimizer.step() is False  # no gradient at all
    w.grad = np.ones(2)
    assert optimizer.step() is True


@pytest.mark.parametrize(
    ("make", "entry", "value"),
    [
        (lambda o: GradientAccumulation(o, 4), "batches", -5),
        (lambda o: GradientAccumulation(o, 4), "batches", 1.5),
        (lambda o: GradientAccumulation(o, 4), "samples", "x"),
        (lambda o: GradientAccumulation(o, 4), "samples", math.nan),
        (SkipNonFinite, "skipped", "x"),
        (SkipNonFinite, "in_a_row", -1),
    ],
)
def test_counters_of_a_state_are_checked_before_anything_changes(make, entry, value):
    w = leaf(2)
    optimizer = make(SGD([w], lr=1.0))
    w.grad = np.ones(2)
    optimizer.step()
    state = optimizer.state_dict()
    state["optimizer"]["steps"] = 7
    before = repr(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"load_state_dict: {entry} must be .*, got {entry}={value!r}"):
        optimizer.load_state_dict({**state, entry: value})
    assert repr(optimizer.state_dict()) == before


def test_lookahead_brings_weights_together_though_a_hook_has_cleared_the_gradients(rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    plain, cleared = Lookahead(SGD(params, lr=0.1), k=2), Lookahead(SGD(others, lr=0.1), k=2)
    cleared.register_step_post_hook(lambda o, args, kwargs: o.zero_grad())
    for _ in range(5):
        set_gradients(params, rng, skip=(1,))
        for p, q in zip(params, others, strict=True):
            q.grad = None if p.grad is None else p.grad.data.copy()
        plain.step()
        cleared.step()
    assert_same(arrays(others), arrays(params))


def test_lookahead_refuses_what_remembers_where_it_was_and_a_mean_of_two_momenta():
    for kind in (LBFGS, NonlinearCG, NewtonCG, optim.TrustRegion):
        with pytest.raises(TypeError, match=f"^Lookahead: .* {kind.__name__} continues a search"):
            Lookahead(kind([leaf(2)]))
    with pytest.raises(ValueError, match="^Lookahead: SWATS .* got momentum='pullback'"):
        Lookahead(SWATS([leaf(2)]), momentum="pullback")
    w = leaf(2)
    for momentum in ("keep", "reset"):
        optimizer = Lookahead(SWATS([w], lr=0.1, eps=0.0), k=3, momentum=momentum)
        for _ in range(7):
            w.grad = np.array([1.0, -3.0])
            optimizer.step()
        assert optimizer.param_groups[0]["phase"] == "sgd"
