"""What all optimizers share refuses what would go wrong in silence: parameters, options, schedules, steps, hooks."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import numpy as np
import pytest

import minidl as md
from minidl.engine.backend import to_numpy
from minidl.optim import SGD, Adam, AdamW
from optim_cases import KINDS, VARIED, Halving, assert_same, leaf, parameters, train

# ---- what an optimizer may be given ----------------------------------------------------------------------------------


class Named(list):
    """What `module.parameters()` returns: a list that carries names."""

    def __init__(self, pairs):
        super().__init__(p for _, p in pairs)
        self.names = [name for name, _ in pairs]


class Module:
    def __init__(self, **params):
        self.params = params

    def named_parameters(self):
        return iter(self.params.items())

    def parameters(self):
        return Named(list(self.params.items()))


def test_parameters_may_come_as_module_list_pairs_tensors_or_groups():
    w, b = leaf(3, 2), leaf(3)
    net = Module(weight=w, bias=b)
    for params in (net, net.parameters(), net.named_parameters(), [("weight", w), ("bias", b)], [{"params": net}]):
        assert SGD(params).param_groups[0]["names"] == ("weight", "bias")
    for params in ([w, b], iter([w, b]), (p for p in (w, b)), [{"params": [w, b]}], [{"params": iter((w, b))}]):
        assert SGD(params).param_groups[0]["names"] == ("0", "1")
    groups = SGD([{"params": w, "lr": 0.5}, {"params": [b], "momentum": 0.9}], lr=0.1).param_groups
    assert [(g["lr"], g["momentum"], g["names"], g["initial_lr"]) for g in groups] == [
        (0.5, 0.0, ("0",), 0.5),
        (0.1, 0.9, ("1",), 0.1),
    ]


def test_two_modules_with_the_same_names_are_told_apart_by_their_group():
    first, second = Module(weight=leaf(2)), Module(weight=leaf(3))
    optimizer = SGD([{"params": first.parameters()}, {"params": second.parameters(), "lr": 0.1}])
    assert [g["names"] for g in optimizer.param_groups] == [("weight",), ("1.weight",)]


W = leaf(2)
REFUSED = [
    ([], ValueError, "empty parameter list"),
    ((), ValueError, "empty parameter list"),
    ([{"params": []}], ValueError, "empty parameter list"),
    (iter(()), ValueError, "empty parameter list"),
    (W, TypeError, r"needs an iterable of parameters, got one Tensor of shape \(2,\); pass \[p\]"),
    ({W}, TypeError, "a set has no fixed order"),
    ("weights", TypeError, "got str"),
    ({"w": W}, TypeError, "got dict"),
    (3, TypeError, "got int 3"),
    ([W, W], ValueError, r"duplicate parameter: '1' \(2,\) is '0' once more"),
    ([("a", W), ("b", W)], ValueError, "duplicate parameter: 'b' .* is 'a' once more"),
    ([{"params": [W]}, {"params": [W]}], ValueError, "duplicate parameter"),
    ([("a", W), ("a", leaf(3))], ValueError, "two parameters are called 'a'"),
    ([W, np.ones(2)], TypeError, "can only optimize Tensors, got ndarray .* '1'"),
    ([("a", W), leaf(3)], TypeError, r"pairs, all of them"),
    ([(1, W)], TypeError, "name is a str, got int 1"),
    ([W * 2], ValueError, r"parameter '0' \(2,\) is not a leaf"),
    ([md.tensor([1, 2])], TypeError, "dtype int64; only float32 and float64"),
    ([md.tensor(np.ones(2, np.float16))], TypeError, "dtype float16"),
    ([{"params": [W], "learning_rate": 1}], ValueError, "no option 'learning_rate'"),
    ([{"params": [W], "momentun": 1}], ValueError, r"no option 'momentun' \(did you mean 'momentum'\?\)"),
    ([{"parameters": [W]}], TypeError, "dictionaries with 'params'"),
    ([{"params": [W]}, W], TypeError, "dictionaries with 'params'"),
    ([{"params": {W}}], TypeError, "a set has no fixed order"),
    ([{"params": [W], "names": ["a", "b"]}], ValueError, "1 parameters and 2 names"),
]


@pytest.mark.parametrize(("params", "error", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_optimized_is_refused(params, error, match):
    with pytest.raises(error, match=match):
        SGD(params)


def test_a_parameter_that_cannot_be_written_is_refused():
    w = leaf(2)
    w.data = np.broadcast_to(np.ones(1), (2,))
    with pytest.raises(ValueError, match=r"parameter '0' \(2,\) is read-only; set p\.data = p\.data\.copy\(\)"):
        SGD([w])


def test_two_tensors_that_share_one_array_are_one_parameter():
    w = leaf(2)
    u = leaf(2)
    u.data = w.data
    with pytest.raises(ValueError, match="duplicate parameter"):
        SGD([w, u])


BAD = [math.nan, math.inf, -1e-3, "0.1", None, True]
WRONG = [(kind, {"lr": x}) for kind in KINDS for x in BAD]
WRONG += [(kind, {"weight_decay": x}) for kind in KINDS for x in BAD]
WRONG += [(SGD, {"momentum": x}) for x in BAD] + [(SGD, {"dampening": x}) for x in (math.nan, math.inf, "1", None)]
WRONG += [(kind, {"eps": x}) for kind in (Adam, AdamW) for x in BAD]
WRONG += [(kind, {"betas": x}) for kind in (Adam, AdamW) for x in [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan),
                                                                   (0.9,), 0.9, None, "ab", (0.9, "0.9")]]  # fmt: skip
WRONG += [(SGD, {"nesterov": 1}), (SGD, {"lr_in_buffer": "yes"}), (Adam, {"amsgrad": 0}), (SGD, {"maximize": None})]


@pytest.mark.parametrize(("kind", "option"), WRONG, ids=[f"{k.__name__}-{o}" for k, o in WRONG])
def test_a_bad_option_is_named_with_its_value(kind, option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: {name} must be .*, got {name}=") as error:
        kind([leaf()], **option)
    assert str(error.value).endswith(repr(value))
    with pytest.raises(ValueError, match=f"got {name}="):
        kind([{"params": [leaf()], **option}])
    optimizer = kind([leaf()])
    before = dict(optimizer.param_groups[0])
    with pytest.raises(ValueError, match=f"got {name}="):
        optimizer.param_groups[0][name] = value
    assert dict(optimizer.param_groups[0]) == before


@pytest.mark.parametrize("option", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_without_momentum_or_with_dampening_is_refused(option):
    with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening = 0, got nesterov=True, momentum="):
        SGD([leaf()], nesterov=True, **option)


def test_a_group_cannot_be_given_an_unknown_option_nor_lose_one_nor_change_its_parameters():
    group = SGD([leaf()]).param_groups[0]
    with pytest.raises(ValueError, match=r"no option 'moment' \(did you mean 'momentum'\?\)"):
        group["moment"] = 0.1
    with pytest.raises(ValueError, match="'params' of a group is fixed; use add_param_group"):
        group["params"] = []
    with pytest.raises(TypeError, match="not removed"):
        del group["lr"]
    with pytest.raises(ValueError, match="lr must be"):
        group.update(lr=-1.0)
    with pytest.raises(ValueError, match="lr must be"):
        group |= {"lr": -1.0}
    assert group["lr"] == 1e-3


def test_a_group_added_later_starts_its_own_count(rng):
    w, u = leaf(3), leaf(2)
    optimizer = Adam([w], lr=0.1)
    train(optimizer, [w], 3)
    optimizer.add_param_group({"params": [("u", u)], "lr": 0.5})
    train(optimizer, [w, u], 2)
    assert [optimizer.state[name]["t"] for name in ("0", "u")] == [5, 2]
    with pytest.raises(ValueError, match="duplicate parameter"):
        optimizer.add_param_group({"params": [u]})
    with pytest.raises(ValueError, match="lr must be"):
        optimizer.add_param_group({"params": [leaf()], "lr": -1})
    with pytest.raises(TypeError, match="'params' entry"):
        optimizer.add_param_group([leaf()])
    assert len(optimizer.param_groups) == 2


def test_numpy_numbers_and_lists_become_plain_python():
    group = Adam([leaf()], lr=np.float32(0.5), betas=[0.5, np.float64(0.25)]).param_groups[0]
    assert (type(group["lr"]), group["betas"]) == (float, (0.5, 0.25))


# ---- steps, gradients, hooks -----------------------------------------------------------------------------------------


def test_the_closure_runs_once_with_gradients_enabled_and_its_loss_is_returned():
    w = leaf(2)
    optimizer = SGD([w], lr=0.1)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        calls.append(md.is_grad_enabled())
        return loss

    with md.no_grad():
        loss = optimizer.step(closure)
    assert (calls, loss.item()) == ([True], 2.0)
    np.testing.assert_allclose(w.data, 0.8)
    assert optimizer.step() is None


def test_zero_grad_forgets_or_fills_with_zeros():
    w, u = leaf(2), leaf(3)
    (w * w * w).sum().backward(create_graph=True)
    optimizer = SGD([w, u])
    kept = w.grad
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0, 0]
    assert w.grad.node is None
    assert kept.tolist() == [0, 0]  # in place, as in PyTorch
    assert u.grad is None
    optimizer.zero_grad()
    assert w.grad is None


def test_a_frozen_parameter_stays_and_a_thawed_one_moves(rng):
    w = leaf(2)
    w.requires_grad = False
    optimizer = SGD([w], lr=0.1)
    optimizer.step()
    w.requires_grad = True
    (w * w).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(w.data, 0.8)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_a_rebound_parameter_is_followed_with_its_state_in_the_new_dtype_and_layout(case, rng):
    params = parameters(rng, np.float32)
    optimizer = case.make(params)
    train(optimizer, params, 3)
    for p in params:
        p.data = p.data.astype(np.float64)
    params[0].data = np.asfortranarray(params[0].data)
    others = copy.deepcopy(params)
    state = optimizer.state_dict()
    for entry in state["state"].values():
        entry.update({slot: x.data.astype(np.float64) for slot, x in entry.items() if slot != "t"})
    reference = case.make(others)
    reference.load_state_dict(state)
    assert_same(train(optimizer, params, 3, seed=2), train(reference, others, 3, seed=2))
    slots = {(x.dtype, x.shape) for x in optimizer.state["0"].values() if not isinstance(x, int)}
    assert slots <= {(np.dtype(np.float64), (3, 4))}


def test_a_parameter_that_moves_to_the_gpu_takes_its_state_along(rng, fake_cuda):
    w, u = leaf(3), leaf(3)
    one, two = Adam([w], lr=0.1), Adam([u], lr=0.1)
    for step in range(4):
        if step == 2:
            w.data = md.engine.backend.to_device(w.data, "cuda:0")
        u.grad = rng.standard_normal(3)
        w.grad = md.engine.backend.to_device(u.grad.data, w.device)
        one.step()
        two.step()
    assert_same([to_numpy(w.data)], [u.data])
    assert md.engine.backend.device_of(one.state["0"]["m"]) == "cuda:0"


def test_a_rebinding_to_half_precision_is_refused_before_anything_moves(rng):
    w, u = leaf(3), leaf(2)
    optimizer = Adam([w, u])
    train(optimizer, [w, u], 2)
    u.data = u.data.astype(np.float16)
    w.grad, u.grad = np.ones(3), np.ones(2, np.float16)
    before = w.data.copy()
    with pytest.raises(TypeError, match="parameter '1' has dtype float16"):
        optimizer.step()
    assert_same([w.data], [before])


def test_hooks_run_before_and_after_a_step_until_removed():
    w = leaf(2)
    w.grad = np.ones(2)
    optimizer = SGD([w], lr=1.0)
    seen = []
    before = optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("before", w.data[0])))
    after = optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("after", w.data[0])))
    optimizer.step()
    assert seen == [("before", 1.0), ("after", 0.0)]
    before.remove()
    after.remove()
    optimizer.step()
    assert len(seen) == 2
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((lambda: 42,), {}))
    assert optimizer.step() == 42


def test_an_error_in_the_closure_changes_nothing(rng):
    w = leaf(2)
    w.grad = np.ones(2)
    optimizer = Adam([w])
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert (w.data.tolist(), optimizer.state, optimizer.steps) == ([1, 1], {}, 0)


def test_an_optimizer_is_freed_without_the_collector(rng):
    params = parameters(rng)
    optimizer = Adam(params)
    train(optimizer, params, 2)
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


def test_the_text_shows_groups_options_and_sizes():
    optimizer = Adam([{"params": [leaf(3, 2), leaf(3)]}, {"params": [leaf(4)], "lr": 0.5}], amsgrad=True)
    assert repr(optimizer).splitlines() == [
        "Adam(",
        "  group 0: 2 parameters, 9 elements; maximize=False, lr=0.001, betas=(0.9, 0.999), eps=1e-08, "
        "weight_decay=0.0, amsgrad=True, debias='torch'",
        "  group 1: 1 parameters, 4 elements; maximize=False, lr=0.5, betas=(0.9, 0.999), eps=1e-08, "
        "weight_decay=0.0, amsgrad=True, debias='torch'",
        ")",
    ]


def test_the_program_of_adam_is_its_formula():
    lines = str(Adam([leaf()]).program()).splitlines()
    assert lines[0] == "def Adam_update(blocks, typed, b1, b2, lr_hat, eps_hat):"
    equations = [line.partition("# ")[2] for line in lines if ")  " in line]
    assert equations == [
        "m = b1 * m", "r0 = c0 * g", "m = m + r0", "v = b2 * v", "r0 = c1 * g", "r0 = r0 * g", "v = v + r0",
        "r0 = sqrt(v)", "r0 = r0 + eps_hat", "r0 = m / r0", "r0 = lr_hat * r0", "theta = theta - r0",
    ]  # fmt: skip
    assert "theta = theta - r0" in str(SGD([leaf()]).program())


# ---- schedules -------------------------------------------------------------------------------------------------------


def test_a_schedule_is_a_function_of_the_steps_taken_and_lr_shows_todays_value():
    w = leaf(1)
    optimizer = SGD([w], lr=Halving(1.0))
    group = optimizer.param_groups[0]
    seen = []
    for _ in range(5):
        seen.append(group["lr"])
        before = w.item()
        w.grad = np.ones(1)
        optimizer.step()
        assert before - w.item() == seen[-1]
    assert seen == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert group["initial_lr"] == 1.0
    optimizer.zero_grad()
    optimizer.step()  # nothing moved: the schedule waits too
    assert optimizer.steps == 5
    assert "lr=Halving(start=1.0, every=2)" in repr(optimizer)


def test_writing_a_number_over_a_schedule_raises_with_the_remedy():
    group = SGD([leaf()], lr=Halving(1.0)).param_groups[0]
    with pytest.raises(ValueError, match=r"lr follows a schedule .*\.unschedule\('lr'\) first"):
        group["lr"] = 0.1
    assert group["lr"] == 1.0
    group["lr"] = Halving(8.0)
    assert group["lr"] == 8.0
    group.unschedule("lr")
    group["lr"] = 0.1
    assert group["lr"] == 0.1


def test_any_option_may_follow_a_schedule():
    w = leaf(1)
    optimizer = Adam([w], betas=lambda step: (0.9, 0.9 if step else 0.5))
    w.grad = np.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)


def test_a_schedule_with_a_wrong_value_is_named_with_its_step():
    with pytest.raises(ValueError, match=r"lr must be a finite number >= 0, got lr=-1.0 \(at step 0 of its schedule\)"):
        SGD([leaf()], lr=lambda step: -1.0)


def test_a_schedule_that_ends_stops_the_step_after_its_last_and_not_its_last():
    w = leaf(1)
    optimizer = SGD([w], lr=[1.0, 0.5].__getitem__)
    for _ in range(2):
        w.grad = np.ones(1)
        optimizer.step()
    assert w.item() == -0.5
    with pytest.raises(IndexError):
        optimizer.step()
    assert w.item() == -0.5


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_schedule_resumes_right_at_every_step(stop):
    def run(optimizer, w, steps):
        lrs = []
        for _ in range(steps):
            lrs.append(optimizer.param_groups[0]["lr"])
            w.grad = np.ones(2)
            optimizer.step()
        return lrs

    w = leaf(2)
    whole = run(SGD([w], lr=Halving(1.0)), w, 8)
    u = leaf(2)
    optimizer = SGD([u], lr=Halving(1.0))
    first = run(optimizer, u, stop)
    state = optimizer.state_dict()
    resumed = SGD([u], lr=Halving(1.0))
    resumed.load_state_dict(state)
    assert first + run(resumed, u, 8 - stop) == whole
    assert_same([u.data], [w.data])


def test_parameters_that_overlap_in_memory_are_refused():
    base = np.ones(4, np.float32)
    a, b = (md.tensor(np.ones(2, np.float32), requires_grad=True) for _ in range(2))
    a.data, b.data = base[:2], base[1:3]
    a.grad, b.grad = md.ones(2), md.ones(2)
    with pytest.raises(ValueError, match="share memory"):
        md.optim.SGD([a, b], lr=0.1).step()
    assert base.tolist() == [1.0] * 4
    a.data, b.data = base[::2], base[1::2]  # interleaved, and apart
    md.optim.SGD([a, b], lr=0.5).step()
    assert base.tolist() == [0.5] * 4


@pytest.mark.parametrize("n", [10, 200_000])
def test_a_gradient_that_is_a_view_of_a_parameter_is_read_before_the_parameter_changes(n):
    a = md.tensor(np.arange(float(n)), requires_grad=True)
    a.grad = md.from_numpy(a.array[::-1])
    md.optim.SGD([a], lr=1.0).step()
    assert a.tolist() == (np.arange(float(n)) - np.arange(float(n))[::-1]).tolist()
    p, q = (md.tensor(np.full(n, value), requires_grad=True) for value in (1.0, 2.0))
    p.grad, q.grad = q.detach(), p.detach()
    md.optim.SGD([p, q], lr=1.0).step()
    assert (p.tolist()[0], q.tolist()[-1]) == (-1.0, 1.0)
