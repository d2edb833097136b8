"""Optimizers that find their step size, and those that need no schedule: closed forms, theorems, groups, modes."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import minidl as md
from minidl.engine.backend import to_device
from minidl.optim import DAdaptAdam, DAdaptSGD, DoG, DoWG, Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD, averaging
from minidl.optim.progress import Progressing
from minidl.optim.schedules import Linear
from optim_cases import arrays, assert_same, parameter, parameters, set_gradients, train

ONE_DISTANCE = [DAdaptSGD, DAdaptAdam, Prodigy]
OVER_GRADIENTS = [DoG, DoWG]
FREE = [ScheduleFreeSGD, ScheduleFreeAdamW]


def told(optimizer):
    """Return what an optimizer has found out, group by group."""
    return [[group[name] for name in optimizer.progress] for group in optimizer.param_groups]


# ---- closed forms and theorems ---------------------------------------------------------------------------------------


def test_dog_on_an_absolute_value_goes_by_a_product(rng):
    w = parameter(np.array([100.0]))
    optimizer = DoG([w], reps_rel=1e-3, eps=0.0)
    way = 0.0
    for t in range(40):
        w.grad = np.array([5.0])  # of 5 |w|: the slope is of no account
        optimizer.step()
        way = 0.101 if t == 0 else way * (1 + 1 / math.sqrt(t + 1))
        assert 100.0 - w.item() == pytest.approx(way, rel=1e-12)


def test_dowg_on_an_absolute_value_weighs_gradients_by_the_way(rng):
    w = parameter(np.array([100.0]))
    optimizer = DoWG([w], reps_rel=1e-3, eps=1e-30)
    way, weighed = 0.0, 0.0
    for _ in range(40):
        w.grad = np.array([5.0])
        optimizer.step()
        r = max(way, 0.101)
        weighed += r**2
        way += r**2 / math.sqrt(weighed)
        assert 100.0 - w.item() == pytest.approx(way, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "options", "factor"),
    [(Prodigy, {}, 1), (Prodigy, {"betas": (0.0, 0.9), "beta3": 0.99}, 1), (DAdaptSGD, {}, 2)],
)
def test_on_a_convex_function_d_grows_and_never_exceeds_the_distance(kind, options, factor, rng):
    slopes, target = rng.standard_normal((30, 6)), rng.standard_normal(6)
    w = parameter(np.zeros(6))
    optimizer = kind([w], **options)
    distance = np.max(np.abs(target)) if kind is Prodigy else math.sqrt(np.sum(target**2))
    seen = []
    for _ in range(400):
        w.grad = slopes.T @ np.sign(slopes @ (w.data - target))  # of sum |slopes (w - target)|, exactly
        optimizer.step()
        seen.append(optimizer.param_groups[0]["d"])
    assert np.all(np.diff(seen) >= 0)
    assert 0.05 * distance < seen[-1] <= factor * distance


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS)
def test_the_scale_of_the_gradient_is_of_no_account(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    tiny = {} if kind is DAdaptSGD else {"eps": 1e-30}
    one, two = kind(params, **tiny), kind(others, **tiny)
    for _ in range(30):
        set_gradients(params, rng)
        for p, q in zip(params, others, strict=True):
            q.grad = p.grad.data * 1024.0
        one.step()
        two.step()
    for p, q in zip(params, others, strict=True):
        np.testing.assert_allclose(q.data, p.data, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("steps", [10, 100])
def test_schedule_free_keeps_its_bound_for_convex_functions(beta, steps):
    w = parameter(np.array([1.0]))
    optimizer = ScheduleFreeSGD([w], lr=1 / math.sqrt(steps), momentum=beta)
    for _ in range(steps):
        w.grad = np.sign(w.data)
        optimizer.step()
    optimizer.eval()
    assert abs(w.item()) <= 1 / math.sqrt(steps)  # D G / sqrt(T), Theorem 1


def test_schedule_free_with_momentum_one_takes_gradients_at_the_polyak_average(rng):
    params = parameters(rng)
    optimizer = ScheduleFreeSGD(params, lr=0.3, momentum=1.0)
    z, sums = arrays(params), [np.zeros(p.shape) for p in params]
    for t in range(1, 41):
        set_gradients(params, rng)
        for i, p in enumerate(params):
            z[i] = z[i] - 0.3 * p.grad.data
            sums[i] += z[i]
        optimizer.step()
        for p, total in zip(params, sums, strict=True):
            np.testing.assert_allclose(p.data, total / t, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("options", [{}, {"warmup_steps": 10}, {"r": 1.5, "weight_lr_power": 1.0, "warmup_steps": 4}])
def test_schedule_free_evaluates_with_the_weighted_mean_of_its_steps(kind, options, rng):
    params = parameters(rng)
    optimizer = kind(params, lr=0.1, weight_decay=0.1, **options)
    weighed, total = [np.zeros(p.shape) for p in params], 0.0
    for k in range(1, 41):
        set_gradients(params, rng)
        optimizer.step()
        rate = 0.1 * min(1, k / options.get("warmup_steps", 1))
        weight = k ** options.get("r", 0) * rate ** options.get("weight_lr_power", 2)
        total += weight
        for i, state in enumerate(optimizer.state.values()):
            weighed[i] += weight * state["z"]
    optimizer.eval()
    for p, x in zip(params, weighed, strict=True):
        np.testing.assert_allclose(p.data, x / total, rtol=1e-11, atol=1e-14)


def test_after_the_largest_rate_schedule_free_weighs_all_steps_alike(rng):
    params = parameters(rng)
    optimizer = ScheduleFreeSGD(params, lr=Linear(0.2, steps=20, end=0.05), warmup_steps=5)
    weights, steps = [], []
    for k in range(40):
        set_gradients(params, rng)
        weights.append(max([*weights, ((0.2 - 0.0075 * min(k, 20)) * min(1, (k + 1) / 5)) ** 2]))
        optimizer.step()
        steps.append([state["z"].copy() for state in optimizer.state.values()])
    optimizer.eval()
    for p, *z in zip(params, *steps, strict=True):
        mean = sum(w * x for w, x in zip(weights, z, strict=True)) / sum(weights)
        np.testing.assert_allclose(p.data, mean, rtol=1e-11, atol=1e-14)


def test_dog_with_the_authors_average_ends_nearer_than_its_last_iterate(rng):
    w = parameter(np.zeros(5))
    optimizer, average = DoG([w], reps_rel=1e-3), averaging.Polyak([w], eta=8)
    target, mean = np.ones(5), np.zeros(5)
    for t in range(1, 2001):
        w.grad = w.data - target + rng.standard_normal(5)
        optimizer.step()
        average.update()
        mean = (1 - 9 / (t + 8)) * mean + 9 / (t + 8) * w.data
    np.testing.assert_allclose(average.averages()["0"].data, mean, rtol=1e-11)
    last = np.sum((w.data - target) ** 2)
    with average.applied():
        assert np.sum((w.data - target) ** 2) < 0.5 * last


# ---- numbers of all parameters, and groups ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS)
def test_what_is_found_is_found_over_all_groups(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    one = kind(params)
    two = kind([{"params": others[:3]}, {"params": others[3:]}])
    for a, b in zip(train(one, params, 30), train(two, others, 30), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)
    assert told(two)[0] == told(two)[1] == pytest.approx(told(one)[0], rel=1e-12)


@pytest.mark.parametrize("kind", OVER_GRADIENTS)
def test_with_the_scope_of_a_group_each_goes_by_itself(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    both = kind([{"params": params[:3]}, {"params": params[3:], "reps_rel": 0.01}], scope="group")
    first, second = kind(others[:3]), kind(others[3:], reps_rel=0.01)
    for _ in range(20):
        set_gradients(params, rng)
        for p, q in zip(params, others, strict=True):
            q.grad = p.grad.data.copy("K")
        for optimizer in (both, first, second):
            optimizer.step()
    for p, q in zip(params, others, strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-12)


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS)
def test_a_group_with_lr_zero_stands_still_and_adds_nothing(kind, rng):
    params, alone = parameters(rng), parameters(rng)[:3]
    for p, q in zip(params, alone, strict=False):
        q.data[...] = p.data
    before = arrays(params)
    scope = {"scope": "group"} if kind in OVER_GRADIENTS else {}  # r = reps_rel (1 + |x0|) sees the weights of others
    with_frozen = kind([{"params": params[:3]}, {"params": params[3:], "lr": 0.0}], weight_decay=0.1, **scope)
    without = kind(alone, weight_decay=0.1)
    for _ in range(20):
        set_gradients(params, rng)
        for p, q in zip(params, alone, strict=False):
            q.grad = p.grad.data.copy("K")
        with_frozen.step()
        without.step()
    assert_same(arrays(params[3:]), before[3:])
    assert_same(arrays(params[:3]), arrays(alone))
    assert told(with_frozen)[0] == told(without)[0]


@pytest.mark.parametrize("kind", ONE_DISTANCE)
def test_a_decoupled_decay_leaves_a_group_with_lr_zero_alone(kind, rng):
    params = parameters(rng)
    before = arrays(params)
    decay = {"weight_decay": 0.1} | ({} if kind is DAdaptSGD else {"decoupled_weight_decay": True})
    optimizer = kind([{"params": params[:3]}, {"params": params[3:], "lr": 0.0}], d0=0.1, **decay)
    train(optimizer, params, 5)
    assert_same(arrays(params[3:]), before[3:])
    assert not np.array_equal(params[0].data, before[0])


@pytest.mark.parametrize("kind", ONE_DISTANCE)
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lr": 0.5}, "the same lr, or 0 to stand still, got lr=1.0 and lr=0.5"),
        ({"growth_rate": 2.0}, "the same growth_rate, got growth_rate=inf and growth_rate=2.0"),
        ({"d0": 0.1}, "the same d0, got d0=1e-06 and d0=0.1"),
    ],
)
def test_groups_that_differ_in_what_they_share_are_refused_before_anything_changes(kind, option, message, rng):
    params = parameters(rng)
    optimizer = kind([{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.1}])
    after, found = train(optimizer, params, 3), told(optimizer)
    optimizer.param_groups[1].update(option)
    set_gradients(params, rng)
    with pytest.raises(ValueError, match=f"{kind.__name__}: one step size is found for all groups, .* {message}; give"):
        optimizer.step()
    assert_same(arrays(params), after)
    assert (told(optimizer), optimizer.steps) == (found, 3)


@pytest.mark.parametrize("kind", OVER_GRADIENTS)
def test_groups_under_one_scope_share_what_r_depends_on(kind, rng):
    params = parameters(rng)
    optimizer = kind([{"params": params[:3]}, {"params": params[3:], "eps": 0.5}])
    set_gradients(params, rng)
    with pytest.raises(ValueError, match="have the same eps, got eps=.* and eps=0.5"):
        optimizer.step()
    assert optimizer.state == {}


@pytest.mark.parametrize("kind", ONE_DISTANCE)
def test_all_momenta_are_shared(kind, rng):
    params = parameters(rng)
    name, value = ("momentum", 0.5) if kind is DAdaptSGD else ("betas", (0.5, 0.9))
    optimizer = kind([{"params": params[:3]}, {"params": params[3:], name: value}])
    set_gradients(params, rng)
    with pytest.raises(ValueError, match=f"the same {name}, got"):
        optimizer.step()


# ---- what counts, and what is kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS)
def test_steps_before_the_first_gradient_do_not_count(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    first, second = kind(params), kind(others)
    for _ in range(3):
        for p in params:
            p.grad = np.zeros(p.shape)
        first.step()
    assert told(first) == told(second)
    assert_same(train(first, params, 10), train(second, others, 10))
    assert told(first) == told(second)


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS)
def test_a_warm_up_from_zero_gets_going(kind, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = kind(params, lr=Linear(0.0, steps=4, end=1.0))
    assert_same(train(optimizer, params, 1), before)
    assert optimizer.param_groups[0]["lr"] == 0.25
    train(optimizer, params, 1)
    assert not np.array_equal(params[0].data, before[0])


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused_before_anything_changes(kind, bad, rng):
    params = parameters(rng)
    optimizer = kind(params)
    after, found, state = train(optimizer, params, 4), told(optimizer), copy.deepcopy(optimizer.state_dict()["state"])
    set_gradients(params, rng)
    params[0].grad.data[0, 0] = bad
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"must be a finite number.*\(are the gradients"):
        optimizer.step()
    assert_same(arrays(params), after)
    assert (told(optimizer), optimizer.steps) == (found, 4)
    for name, entry in optimizer.state.items():
        for slot, x in entry.items():
            np.testing.assert_array_equal(x, state[name][slot].data if slot != "t" else state[name][slot])
    set_gradients(params, rng)
    optimizer.step()


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS + FREE)
def test_current_options_go_on_from_saved_progress(kind, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    optimizer = kind(params, lr=0.5, weight_decay=0.1)
    train(optimizer, params, 5)
    saved = optimizer.state_dict()
    other = kind(others, lr=1.0)
    other.load_state_dict(pickle.loads(pickle.dumps(saved)), hyper="current")
    assert told(other) == told(optimizer)
    assert (other.param_groups[0]["lr"], other.param_groups[0]["weight_decay"]) == (1.0, 0.0)
    for p, q in zip(params, others, strict=True):
        q.data[...] = p.data
    optimizer.param_groups[0].update(lr=1.0, weight_decay=0.0)
    assert_same(train(other, others, 5), train(optimizer, params, 5))


@pytest.mark.parametrize("hyper", ["saved", "current"])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(hyper, rng):
    params = parameters(rng)
    optimizer = Prodigy(params)
    train(optimizer, params, 3)
    saved, before = optimizer.state_dict(), told(optimizer)
    saved["param_groups"][0]["d"] = -1.0
    with pytest.raises(ValueError, match="d must be a finite number >= 0, got d=-1.0"):
        optimizer.load_state_dict(saved, hyper)
    for wrong in ({**saved, "param_groups": saved["param_groups"] * 2}, {"state": {}}, None):
        with pytest.raises(ValueError, match="load_state_dict"):
            optimizer.load_state_dict(wrong, hyper)
    del saved["param_groups"][0]["d"]
    saved["param_groups"][0]["names"][0] = "other"
    with pytest.raises(ValueError, match="missing .'0'., unexpected .'other'."):
        optimizer.load_state_dict(saved, hyper)
    assert told(optimizer) == before


def test_hooks_after_a_step_see_what_it_has_found(rng):
    params = parameters(rng)
    optimizer = Prodigy(params)
    seen = []
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(o.param_groups[0]["k"]))
    train(optimizer, params, 3)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("kind", ONE_DISTANCE + OVER_GRADIENTS + FREE)
def test_a_program_can_be_shown_before_and_between_steps(kind, rng):
    params = parameters(rng)
    optimizer = kind(params)
    assert "def " in str(optimizer.program())
    train(optimizer, params, 2)
    assert "def " in str(optimizer.program())


def test_a_subclass_says_what_it_measures():
    with pytest.raises(NotImplementedError, match=r"Progressing: defines measure\(movers\)"):
        Progressing([parameter(np.ones(1))]).measure([])


def test_parameters_that_move_later_start_from_where_they_are(rng):
    params = parameters(rng)
    optimizer = Prodigy(params, d0=0.1)
    train(optimizer, params, 5, skip=(0, 5))
    before = arrays(params)
    train(optimizer, params, 1)
    assert_same([optimizer.state["0"]["x0"], optimizer.state["5"]["x0"]], [before[0], before[5]])
    optimizer.add_param_group({"params": [parameter(np.ones(2))]})
    last = optimizer.param_groups[1]["params"][0]
    last.grad = np.ones(2)
    train(optimizer, params, 1)
    assert told(optimizer)[0] == told(optimizer)[1]
    assert last.data[0] < 1.0


# ---- the modes of Schedule-Free --------------------------------------------------------------------------------------


def means(optimizer, params, beta):
    """Return x from y and z."""
    state = optimizer.state
    return [(p.data - (1 - beta) * state[str(i)]["z"]) / beta for i, p in enumerate(params)]


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_hold_y_for_training_and_x_for_evaluation(kind, dtype, rng):
    params = parameters(rng, dtype)
    optimizer = kind(params, lr=0.1)
    y = train(optimizer, params, 7)
    x = means(optimizer, params, 0.9)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    optimizer.train()
    assert_same(arrays(params), y)
    for _ in range(2):
        optimizer.eval()
        for p, mean in zip(params, x, strict=True):
            assert p.dtype == dtype
            np.testing.assert_allclose(p.data, mean, **close)
    optimizer.train()
    for p, old in zip(params, y, strict=True):
        np.testing.assert_allclose(p.data, old, **close)


@pytest.mark.parametrize("kind", FREE)
def test_averaged_shows_x_for_the_length_of_a_block_and_puts_y_back_bit_by_bit(kind, rng):
    params = parameters(rng)
    optimizer = kind(params, lr=0.1)
    y, state = train(optimizer, params, 7), copy.deepcopy(optimizer.state_dict())
    inside = []

    def look():
        with optimizer.averaged():
            inside.extend(arrays(params))
            with optimizer.averaged():
                assert_same(arrays(params), inside)
            assert_same(arrays(params), inside)
            raise KeyError

    with pytest.raises(KeyError):
        look()
    assert_same(arrays(params), y)
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    for mean, x in zip(means(optimizer, params, 0.9), inside, strict=True):
        np.testing.assert_allclose(x, mean, rtol=1e-12, atol=1e-14)
    train(optimizer, params, 1)


@pytest.mark.parametrize("kind", FREE)
def test_a_step_while_the_parameters_hold_the_average_is_refused(kind, rng):
    params = parameters(rng)
    optimizer = kind(params)
    train(optimizer, params, 2)
    set_gradients(params, rng)
    optimizer.eval()
    x, called = arrays(params), []
    with pytest.raises(RuntimeError, match=rf"{kind.__name__}.step: the parameters hold .* call train\(\)"):
        optimizer.step(lambda: called.append(1))
    assert called == []
    assert_same(arrays(params), x)
    optimizer.train()
    optimizer.step()
    assert optimizer.steps == 3


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("hyper", ["saved", "current"])
def test_a_state_saved_in_either_mode_goes_on_bitwise(kind, hyper, rng):
    params = parameters(rng)
    optimizer = kind(params, lr=0.1, warmup_steps=3)
    train(optimizer, params, 5)
    optimizer.eval()
    others = copy.deepcopy(params)
    other = kind(others, lr=0.1, warmup_steps=3)
    other.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())), hyper)
    with pytest.raises(RuntimeError, match="the average"):
        other.step()
    for each in (optimizer, other):
        each.train()
    assert_same(train(other, others, 5, seed=3), train(optimizer, params, 5, seed=3))
    optimizer.eval()
    other.eval()
    assert_same(arrays(others), arrays(params))


def test_groups_that_are_added_have_the_mode_of_the_others(rng):
    params = parameters(rng)
    optimizer = ScheduleFreeSGD(params[:3], lr=0.1)
    train(optimizer, params, 3)
    optimizer.eval()
    optimizer.add_param_group({"params": params[3:], "momentum": 0.5})
    assert [group["mode"] for group in optimizer.param_groups] == ["eval", "eval"]
    optimizer.train()
    train(optimizer, params, 3)
    assert [group["k"] for group in optimizer.param_groups] == [6, 3]


def test_an_lr_of_zero_weighs_nothing(rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = ScheduleFreeSGD(params, lr=Linear(0.0, steps=2, end=0.2))
    assert_same(train(optimizer, params, 1), before)
    train(optimizer, params, 2)
    assert optimizer.param_groups[0]["weight_sum"] == pytest.approx(0.1**2 + 0.2**2)


def test_batch_statistics_of_the_average_are_made_in_eval_mode(rng):
    model = md.nn.Sequential(md.nn.Linear(3, 2), md.nn.BatchNorm1d(2)).to(dtype="float64")
    optimizer = ScheduleFreeSGD(model, lr=0.5)
    x = md.tensor(rng.standard_normal((16, 3)))
    for _ in range(6):
        optimizer.zero_grad()
        (model(x) * md.tensor(rng.standard_normal((16, 2)))).sum().backward()
        optimizer.step()
    optimizer.eval()
    averaging.update_bn([x], model)
    mean = np.mean(x.data @ model[0].weight.data.T + model[0].bias.data, axis=0)
    np.testing.assert_allclose(model[1].running_mean.data, mean, rtol=1e-12)


@pytest.mark.parametrize("kind", FREE)
def test_the_modes_run_on_the_gpu_text(kind, rng, fake_cuda):
    params = parameters(rng)
    others = [parameter(p.data.copy(), "cuda:0") for p in params]
    one, two = kind(params, lr=0.1), kind(others, lr=0.1)
    for _ in range(4):
        set_gradients(params, rng)
        for p, q in zip(params, others, strict=True):
            q.grad = to_device(p.grad.data.copy("C"), "cuda:0")
        one.step()
        two.step()
    ends = [arrays(params), arrays(others)]
    for optimizer, own in ((one, params), (two, others)):
        with optimizer.averaged():
            ends.append(arrays(own))
        optimizer.eval()
        ends.append(arrays(own))
    for a, b in ((0, 1), (2, 4), (3, 5), (2, 3)):  # y, and x in both ways, here and there
        assert_same(ends[a], ends[b])


def test_parameters_that_change_dtype_keep_their_average(rng):
    params = parameters(rng, np.float32)
    optimizer = ScheduleFreeSGD(params, lr=0.1)
    train(optimizer, params, 4)
    x = means(optimizer, params, 0.9)
    for p in params:
        p.data = p.data.astype(np.float64)
    optimizer.eval()
    for p, mean in zip(params, x, strict=True):
        assert p.dtype == np.float64
        np.testing.assert_allclose(p.data, mean, rtol=1e-5, atol=1e-6)
