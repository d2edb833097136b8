"""Accumulated gradients are those of all samples, steps with NaN are left out, biases and norms do not decay."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.optim import SGD, AdamW, GradientAccumulation, Lookahead, SkipNonFinite, decay_groups, schedules
from minidl.optim.lr_scheduler import StepLR
from optim_cases import leaf


def regression(rng, n=11):
    return rng.standard_normal((n, 3)), rng.standard_normal(n)


def backward(w, x, y):
    error = md.tensor(x, device=w.device) @ w - md.tensor(y, device=w.device)
    (error * error).mean().backward()


def weights(device="cpu"):
    return md.tensor(np.array([0.3, -0.2, 0.7]), requires_grad=True, device=device)


@pytest.mark.parametrize("sizes", [[4, 4, 3], [11], [1] * 11, [10, 1]])
def test_accumulated_batches_of_any_size_step_like_one_batch_of_all(rng, sizes, device):
    x, y = regression(rng)
    whole, parts = weights(device), weights(device)
    backward(whole, x, y)
    SGD([whole], lr=0.1).step()
    optimizer = GradientAccumulation(SGD([parts], lr=0.1), every=len(sizes))
    ends = np.cumsum(sizes)
    moved = []
    for end, n in zip(ends, sizes, strict=True):
        backward(parts, x[end - n : end], y[end - n : end])
        moved.append(optimizer.step(samples=n))
    assert moved == [False] * (len(sizes) - 1) + [True]
    assert parts.grad is None
    np.testing.assert_allclose(to_numpy(parts.array), to_numpy(whole.array), rtol=1e-13)


def test_one_batch_at_a_time_is_bitwise_the_inner_optimizer(rng):
    a, b = weights(), weights()
    plain, wrapped = AdamW([a], lr=0.1), GradientAccumulation(AdamW([b], lr=0.1), every=1)
    for _ in range(5):
        g = rng.standard_normal(3)
        a.grad, b.grad = g.copy(), g.copy()
        plain.step()
        wrapped.step(samples=7)
    np.testing.assert_array_equal(a.data, b.data)


def test_what_is_left_at_the_end_of_an_epoch_is_flushed():
    w = leaf(2)
    optimizer = GradientAccumulation(SGD([w], lr=1.0), every=4)
    for value, n in ((1.0, 3), (5.0, 1)):
        w.grad = np.full(2, value)
        optimizer.step(samples=n)
    assert optimizer.flush()
    assert w.tolist() == [-1.0, -1.0]  # 1 - (3 * 1 + 1 * 5) / 4
    assert not optimizer.flush()


def test_a_parameter_without_a_gradient_in_a_batch_counts_as_0_there():
    w, early, late, never = leaf(2), leaf(2), leaf(2), leaf(2)
    optimizer = GradientAccumulation(SGD([w, early, late, never], lr=1.0, weight_decay=0.5), every=2)
    w.grad, early.grad = np.full(2, 2.0), np.full(2, 2.0)
    optimizer.step(samples=1)
    w.grad, late.grad = np.full(2, 2.0), np.full(2, 2.0)
    optimizer.step(samples=3)
    assert [p.tolist()[0] for p in (w, early, late, never)] == [-1.5, 0.0, -1.0, 1.0]  # 0.5 - (2, 2/4, 6/4), unmoved


def test_accumulation_does_not_keep_the_users_gradient():
    w = leaf(2)
    optimizer = GradientAccumulation(SGD([w], lr=1.0), every=2)
    mine = md.tensor(np.ones(2))
    w.grad = mine
    optimizer.step()
    mine.data[...] = 9.0
    w.grad = md.tensor(np.ones(2))
    optimizer.step()
    assert w.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("stop", range(7))
def test_accumulation_continues_bitwise_in_the_middle_of_a_window(rng, stop):
    def build():
        w = weights()
        lr = schedules.Cosine(0.1, 10)
        return w, GradientAccumulation(AdamW([w], lr=lr), every=3)

    gradients = rng.standard_normal((9, 3))
    w, optimizer = build()
    again, restored = build()
    for k, g in enumerate(gradients):
        if k == stop:
            restored.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
            again.data[...] = w.data
        w.grad = g.copy()
        optimizer.step(samples=k + 1)
        if k >= stop:
            again.grad = g.copy()
            restored.step(samples=k + 1)
    np.testing.assert_array_equal(again.data, w.data)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(bad, device):
    w, other = weights(device), weights(device)
    optimizer = SkipNonFinite(AdamW([w, other], lr=schedules.Linear(0.1, 10)))
    w.grad = other.grad = md.tensor(np.ones(3), device=device)
    optimizer.step()
    before, state = [to_numpy(p.array).copy() for p in (w, other)], pickle.dumps(optimizer.inner.state_dict())
    other.grad = md.tensor(np.array([0.0, bad, 1.0]), device=device)
    optimizer.step()
    assert (optimizer.skipped, optimizer.in_a_row, optimizer.inner.steps) == (1, 1, 1)
    for p, want in zip((w, other), before, strict=True):
        np.testing.assert_array_equal(to_numpy(p.array), want)
    if device == "cpu":
        assert pickle.dumps(optimizer.inner.state_dict()) == state
    other.grad = md.tensor(np.ones(3), device=device)
    optimizer.step()
    assert (optimizer.skipped, optimizer.in_a_row, optimizer.inner.steps) == (1, 0, 2)


def test_too_many_skipped_steps_in_a_row_raise_naming_the_parameter():
    layer = nn.Linear(2, 1)
    optimizer = SkipNonFinite(SGD(layer, lr=0.1), limit=2)
    layer.weight.grad = md.tensor(np.ones((1, 2), "float32"))
    layer.bias.grad = md.tensor(np.full(1, math.nan, "float32"))
    optimizer.step()
    optimizer.step()
    with pytest.raises(FloatingPointError, match=r"not finite 3 times in a row, at last those of bias; lower lr"):
        optimizer.step()
    patient = SkipNonFinite(SGD(layer, lr=0.1), limit=None)
    for _ in range(20):
        patient.step()
    assert patient.skipped == 20


def test_the_closure_is_called_once_and_its_value_returned():
    w = leaf(2)
    optimizer, calls = SkipNonFinite(SGD([w], lr=0.1)), []

    def closure():
        optimizer.zero_grad()
        loss = (w * (math.nan if len(calls) == 1 else 1.0)).sum()
        loss.backward()
        calls.append(loss.item())
        return calls[-1]

    assert optimizer.step(closure) == 2.0
    assert math.isnan(optimizer.step(closure))
    assert len(calls) == 2
    assert w.tolist() == [0.9, 0.9]


def test_the_counters_are_saved():
    w = leaf(2)
    optimizer, again = SkipNonFinite(SGD([w], lr=0.1)), SkipNonFinite(SGD([w], lr=0.1))
    w.grad = np.full(2, math.nan)
    optimizer.step()
    again.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    assert (again.skipped, again.in_a_row) == (1, 1)


def test_wrappers_compose_and_schedulers_find_the_optimizer():
    w = leaf(2)
    optimizer = GradientAccumulation(SkipNonFinite(Lookahead(SGD([w], lr=1.0), k=5)), every=2)
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    for value in (1.0, 3.0, math.nan, 1.0, 2.0, 2.0):
        w.grad = np.full(2, value)
        if optimizer.step(samples=1):
            scheduler.step()
    assert w.tolist() == [1.0 - 2.0 - 0.5 * 2] * 2  # the window with NaN moved nothing, so the schedule waited
    assert optimizer.inner.skipped == 1
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.state["0"]["t"] == 2
    assert repr(optimizer).startswith("GradientAccumulation(SkipNonFinite(")


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = AdamW(decay_groups(model, 0.5), lr=0.1)
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = np.zeros(p.shape, p.dtype)
    optimizer.step()
    for name, p in model.named_parameters():
        share = 0.95 if name in ("0.weight", "2.weight") else 1.0
        np.testing.assert_allclose(p.data, before[name] * np.float32(share), rtol=1e-6)
    assert set(optimizer.state) == set(before)


def test_the_split_can_be_chosen_and_leaves_out_empty_groups():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1, bias=False))
    groups = decay_groups(model, 0.1, decays=lambda name, p: name.startswith("1"), lr=0.5)
    assert [(g["names"], g["weight_decay"], g["lr"]) for g in groups] == [
        (["1.weight"], 0.1, 0.5),
        (["0.weight", "0.bias"], 0.0, 0.5),
    ]
    assert [g["name"] for g in decay_groups(nn.Linear(2, 2, bias=False), 0.1)] == ["decay"]
    model[1].weight = model[0].weight = nn.Parameter(np.ones((3, 3)))
    assert [g["names"] for g in decay_groups(model, 0.1)] == [["0.weight"], ["0.bias"]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: GradientAccumulation(o, 0), ValueError, r"every must be an int >= 1, got every=0"),
        (
            lambda o: GradientAccumulation(leaf(2), 1),
            TypeError,
            r"GradientAccumulation: needs an optimizer, got Tensor",
        ),
        (
            lambda o: GradientAccumulation(o, 2).step(0),
            ValueError,
            r"samples must be a finite number > 0, got samples=0",
        ),
        (
            lambda o: GradientAccumulation(o, 2).load_state_dict({}),
            ValueError,
            r"it must be what state_dict\(\) returned",
        ),
        (
            lambda o: GradientAccumulation(o, 2).load_state_dict(
                {**GradientAccumulation(o, 2).state_dict(), "means": {"0": np.zeros(7)}}
            ),
            ValueError,
            r"0 is no parameter of shape \(7,\)",
        ),
        (lambda o: SkipNonFinite(o, -1), ValueError, r"limit must be an int >= 0 or None, got limit=-1"),
        (lambda o: SkipNonFinite(o).load_state_dict({}), ValueError, r"the state must be what state_dict\(\) returned"),
        (lambda o: decay_groups([1], 0.1), TypeError, r"decay_groups: can only optimize Tensors, got int 1"),
    ],
)
def test_what_is_wrong_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(SGD([leaf(2)], lr=0.1))
