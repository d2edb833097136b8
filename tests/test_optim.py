"""SGD, Adam and AdamW follow their formulas to the last digits, and the base refuses what would go wrong in silence."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import subprocess
import sys
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

import minidl as md
from minidl.compiler import segment_norm, total_dot
from minidl.engine import node
from minidl.engine.backend import to_numpy
from minidl.optim import SGD, Adam, AdamW, Optimizer
from minidl.optim import segment as segments

KINDS = [SGD, Adam, AdamW]


def parameter(array, device="cpu"):
    """Return a parameter that has this very array, layout included."""
    p = md.Parameter(np.zeros(array.shape, array.dtype))
    p.data = md.engine.backend.to_device(array, device) if device != "cpu" else array
    return p


def parameters(rng, dtype=np.float64, device="cpu"):
    """Return parameters of every layout: plain, transposed, with gaps, 0-d, empty."""
    shapes = [(3, 4), (5,), (), (0, 2), (2, 3, 2)]
    plain = [np.asarray(rng.standard_normal(shape), dtype=dtype) for shape in shapes]
    odd = [rng.standard_normal((6, 4)).astype(dtype).T, rng.standard_normal((5, 6)).astype(dtype)[::2, ::3]]
    return [parameter(x, device) for x in plain + odd]


def set_gradients(params, rng, skip=()):
    """Give each parameter the gradient of a noisy quadratic: 0.3 p + noise."""
    for i, p in enumerate(params):
        noise = np.asarray(rng.standard_normal(p.shape), dtype=p.dtype)
        p.grad = None if i in skip else to_numpy(p.array) * p.dtype.type(0.3) + noise
        if p.grad is not None and p.ndim == 2 and i % 2:
            p.grad.data = np.asfortranarray(p.grad.data)  # not laid out like its parameter


def on_device(params):
    return [md.engine.backend.to_device(np.asarray(p.grad.data), p.device) for p in params]


def arrays(params):
    return [to_numpy(p.array).copy() for p in params]


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- the formulas, written again as loops over numbers ---------------------------------------------------------------


def sgd_by_hand(x, g, s, t, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False,
                lr_in_buffer=False):  # fmt: skip
    g = -g if maximize else g
    g = g + weight_decay * x
    if momentum == 0:
        return x - lr * g
    kept = g if t == 1 else (1 - dampening) * g
    if lr_in_buffer:
        s["b"] = momentum * s.get("b", 0.0) - lr * kept
        return x + (momentum * s["b"] - lr * g if nesterov else s["b"])
    s["b"] = kept if t == 1 else momentum * s["b"] + kept
    return x - lr * (g + momentum * s["b"] if nesterov else s["b"])


def adam_by_hand(x, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
                 decoupled=False):  # fmt: skip
    g = -g if maximize else g
    if decoupled:
        x = x - lr * weight_decay * x
    else:
        g = g + weight_decay * x
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    v = s["v"]
    if amsgrad:
        v = s["v_max"] = max(s.get("v_max", 0.0), v)
    m_hat = s["m"] / (1 - betas[0] ** t)
    v_hat = v / (1 - betas[1] ** t)
    return x - lr * m_hat / (math.sqrt(v_hat) + eps)


def adamw_by_hand(x, g, s, t, weight_decay=1e-2, **options):
    return adam_by_hand(x, g, s, t, weight_decay=weight_decay, decoupled=True, **options)


@dataclass
class Case:
    kind: type
    by_hand: object
    torch: str
    options: dict

    def __str__(self):
        return f"{self.kind.__name__}-" + "-".join(f"{k}={v}" for k, v in self.options.items())

    def make(self, params, **more):
        return self.kind(params, **self.options, **more)


SGD_GRID = [
    {}, {"lr": 0.01}, {"lr": 0.1, "weight_decay": 0.5}, {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.01, "momentum": 0.5, "dampening": 0.25, "maximize": True},
]  # fmt: skip
ADAM_GRID = [
    {}, {"lr": 0.01}, {"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}, {"lr": 0.1, "betas": (0.0, 0.5)}, {"lr": 0.1, "betas": (0.5, 0.0)},
    {"lr": 0.1, "eps": 0.1, "amsgrad": True, "maximize": True}, {"lr": 0.0, "weight_decay": 0.1},
]  # fmt: skip
LECTURE = [
    {"lr": 0.1, "momentum": 0.9, "lr_in_buffer": True}, {"lr": 0.1, "momentum": 0.9, "lr_in_buffer": True, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "lr_in_buffer": True},
]  # fmt: skip
PARITY = [Case(SGD, sgd_by_hand, "SGD", o) for o in SGD_GRID]
PARITY += [Case(Adam, adam_by_hand, "Adam", o) for o in ADAM_GRID]
PARITY += [Case(AdamW, adamw_by_hand, "AdamW", o) for o in [*ADAM_GRID, {"weight_decay": 0.0}]]
CASES = PARITY + [Case(SGD, sgd_by_hand, "", o) for o in LECTURE]
NAMES = {"b": "momentum_buffer", "m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forty_five_steps_follow_the_formula_written_as_loops(case, rng):
    params = parameters(rng)
    optimizer = case.make(params)
    values = [p.numpy() if not p.requires_grad else p.detach().numpy().copy() for p in params]
    states = [{i: {} for i in np.ndindex(p.shape)} for p in params]
    times = [0] * len(params)
    for step in range(45):
        skip = (1, 4) if step in (3, 17) else ()  # these fall behind, and keep step counts of their own
        set_gradients(params, rng, skip)
        for k, p in enumerate(params):
            if k in skip:
                continue
            times[k] += 1
            for i in np.ndindex(p.shape):
                g = float(p.grad.data[i])
                values[k][i] = case.by_hand(float(values[k][i]), g, states[k][i], times[k], **case.options)
        optimizer.step()
    for k, p in enumerate(params):
        np.testing.assert_allclose(p.data, values[k], rtol=1e-12, atol=1e-15)
        own = optimizer.state[str(k)]
        assert own["t"] == times[k]
        slots = {slot for state in states[k].values() for slot in state}
        assert own.keys() - {"t"} == (slots or own.keys() - {"t"})
        for slot in slots:
            want = np.array([states[k][i][slot] for i in np.ndindex(p.shape)]).reshape(p.shape)
            np.testing.assert_allclose(own[slot], want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", PARITY, ids=str)
def test_forty_five_steps_equal_pytorch_with_every_entry_of_the_state(case, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # its step counts follow the default dtype
    try:
        params = parameters(rng)
        theirs = [torch.nn.Parameter(torch.tensor(p.data.copy("C"))) for p in params]
        optimizer, other = case.make(params), getattr(torch.optim, case.torch)(theirs, **case.options, foreach=False)
        for step in range(45):
            set_gradients(params, rng, (0, 2) if step == 3 else ())
            for p, q in zip(params, theirs, strict=True):
                q.grad = None if p.grad is None else torch.tensor(p.grad.data.copy("C"))
            optimizer.step()
            other.step()
        for k, (p, q) in enumerate(zip(params, theirs, strict=True)):
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12, atol=1e-15)
            entry = {name: x for name, x in other.state[q].items() if name != "step" and x is not None}
            own = {NAMES[slot]: x for slot, x in optimizer.state[str(k)].items() if slot != "t"}
            assert own.keys() == entry.keys()
            for name, x in own.items():
                np.testing.assert_allclose(x, entry[name].numpy(), rtol=1e-12, atol=1e-15)
    finally:
        torch.set_default_dtype(before)


# ---- what holds for all ----------------------------------------------------------------------------------------------

VARIED = [
    Case(SGD, None, "", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    Case(SGD, None, "", {"lr": 0.1}),
    Case(Adam, None, "", {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
    Case(AdamW, None, "", {"lr": 0.1}),
]


def train(optimizer, params, steps, seed=1, skip=()):
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        set_gradients(params, generator, skip)
        optimizer.step()
    return arrays(params)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_maximizing_minus_f_is_minimizing_f_bitwise(case, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    up, down = case.make(params, maximize=True), case.make(others)
    for _ in range(8):
        set_gradients(others, rng)
        for p, q in zip(params, others, strict=True):
            p.grad = -q.grad.data
        up.step()
        down.step()
    assert_same(arrays(params), arrays(others))


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_lr_zero_moves_nothing(case, rng):
    params = parameters(rng)
    before = arrays(params)
    assert_same(train(case.kind(params, **{**case.options, "lr": 0.0}), params, 5), before)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_without_a_gradient_a_parameter_neither_moves_nor_decays_nor_gets_state(case, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = case.make(params)
    optimizer.step()
    assert_same(arrays(params), before)
    assert (optimizer.state, optimizer.steps) == ({}, 0)
    after = train(optimizer, params, 3, skip=(0, 5))
    assert_same([after[0], after[5]], [before[0], before[5]])
    assert optimizer.state.keys() == {"1", "2", "3", "4", "6"}
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for p in params:
        p.grad = None
    optimizer.step()
    assert_same(arrays(params), after)
    assert optimizer.steps == 3
    for name, entry in optimizer.state.items():
        for slot, x in entry.items():
            np.testing.assert_array_equal(x, state[name][slot].data if slot != "t" else state[name][slot])


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_a_zero_gradient_without_decay_moves_nothing_at_first(case, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = case.kind(params, **{**case.options, "weight_decay": 0.0})
    for p in params:
        p.grad = np.zeros(p.shape)
    optimizer.step()
    assert_same(arrays(params), before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", VARIED, ids=str)
def test_one_by_one_together_and_in_any_order_are_bitwise_the_same(case, dtype, rng, monkeypatch):
    params = parameters(rng, dtype)
    one, order, small = (copy.deepcopy(params) for _ in range(3))
    for p, q, r, s in zip(params, one, order, small, strict=True):
        q.data, r.data, s.data = p.data.copy("K"), p.data.copy("C"), p.data.copy("F")
    together = train(case.make(params), params, 6)
    singles = [case.make([p]) for p in one]
    generator = np.random.default_rng(1)
    for _ in range(6):
        set_gradients(one, generator)
        for optimizer in singles:
            optimizer.step()
    assert_same(arrays(one), together)
    assert_same(train(case.make(order[::-1]), order, 6), together)
    monkeypatch.setattr(segments, "BLOCK_BYTES", 32)
    monkeypatch.setattr(segments, "PACK_BYTES", 3)
    assert_same(train(case.make(small), small, 6), together)


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_float32_stays_float32_in_place_and_close_to_float64(case, rng):
    params = parameters(rng, np.float32)
    others = [parameter(p.data.astype(np.float64)) for p in params]
    held, buffers = list(params), [p.data for p in params]
    train(case.make(params), params, 20)
    train(case.make(others), others, 20)
    for p, q, same, buffer in zip(params, others, held, buffers, strict=True):
        assert p is same
        assert p.data is buffer
        assert p.dtype == np.float32
        np.testing.assert_allclose(p.data, q.data, rtol=1e-5 * math.sqrt(20), atol=1e-5)
    for entry in case.make(params).state.values():
        assert all(x.dtype == np.float32 for slot, x in entry.items() if slot != "t")


@pytest.mark.parametrize("kind", KINDS)
def test_float32_and_float64_may_be_mixed_in_one_optimizer(kind, rng):
    params = [*parameters(rng, np.float32), *parameters(rng, np.float64)]
    alone32, alone64 = copy.deepcopy(params[:7]), copy.deepcopy(params[7:])
    optimizer, a, b = kind(params, lr=0.1), kind(alone32, lr=0.1), kind(alone64, lr=0.1)
    for _ in range(3):
        set_gradients(params, rng)
        for p, q in zip(params, alone32 + alone64, strict=True):
            q.grad = p.grad.data.copy()
        for each in (optimizer, a, b):
            each.step()
    assert_same(arrays(params), arrays(alone32 + alone64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_records_no_graph_and_tells_the_mutation_clock(kind):
    w = md.tensor([1.0, 2.0], requires_grad=True)
    optimizer = kind([w], lr=0.1)
    (w * w).sum().backward()
    loss = (w * w).sum()
    before = node.written(w.array)
    optimizer.step()
    assert w.is_leaf
    assert w.requires_grad
    assert node.written(w.array) > before
    with pytest.raises(RuntimeError, match="multiply|mul|square"):
        loss.backward()  # it needs the w that has been overwritten


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_with_its_own_graph_is_used_by_value(kind):
    w = md.tensor([1.0, 2.0], requires_grad=True)
    optimizer = kind([w], lr=0.1)
    (w**3).sum().backward(create_graph=True)
    optimizer.step()
    assert w.node is not None
    assert w.is_leaf


def test_a_gradient_that_is_the_parameter_itself_is_read_before_it_is_written():
    w, same = (md.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    w.grad = w.detach()
    same.grad = np.array([1.0, 2.0], np.float32)
    for optimizer in (AdamW([w], lr=0.1, weight_decay=0.5), AdamW([same], lr=0.1, weight_decay=0.5)):
        optimizer.step()
    assert_same([w.data], [same.data])


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_the_gpu_text_agree_bitwise(kind, rng, fake_cuda):
    params = parameters(rng)
    others = [parameter(p.data.copy(), "cuda:0") for p in params]
    one, two = kind(params, lr=0.1), kind(others, lr=0.1)
    for _ in range(3):
        set_gradients(params, rng)
        for p, q in zip(params, others, strict=True):
            q.grad = md.engine.backend.to_device(p.grad.data.copy("C"), "cuda:0")
        one.step()
        with md.transfers(max=0):
            two.step()
    assert_same(arrays(others), arrays(params))


# ---- known truths ----------------------------------------------------------------------------------------------------


def test_the_first_step_of_adam_is_lr_in_the_direction_of_the_sign(rng):
    w = md.tensor(np.zeros(50), requires_grad=True)
    w.grad = rng.standard_normal(50) * 10.0 ** rng.integers(-3, 3, 50)
    Adam([w], lr=0.25, eps=0.0).step()
    np.testing.assert_allclose(w.data, -0.25 * np.sign(w.grad.data), rtol=1e-12)


def test_adam_ignores_the_scale_of_the_gradient(rng):
    ends = []
    for scale in (1.0, 2.0**20):
        w = md.tensor(np.ones(5), requires_grad=True)
        optimizer = Adam([w], lr=0.1, eps=0.0)
        generator = np.random.default_rng(0)
        for _ in range(10):
            w.grad = scale * generator.standard_normal(5)
            optimizer.step()
        ends.append(w.data.copy())
    np.testing.assert_allclose(*ends, rtol=1e-13)


def test_a_spike_moves_adam_without_momentum_by_at_most_lr_over_the_root_of_one_minus_beta2():
    w = md.tensor(np.zeros(1), requires_grad=True)
    optimizer = Adam([w], lr=1.0, betas=(0.0, 0.999), eps=0.0)
    for _ in range(20_000):
        w.grad = np.ones(1)
        optimizer.step()
    before = w.data.copy()
    w.grad = np.full(1, 1e5)
    optimizer.step()
    assert before - w.data == pytest.approx(1 / math.sqrt(1 - 0.999), rel=1e-6)  # 31.6228


def test_momentum_adds_a_constant_gradient_up_to_one_over_one_minus_mu():
    w = md.tensor(np.zeros(1), requires_grad=True)
    optimizer = SGD([w], lr=1.0, momentum=0.9)
    for _ in range(400):
        before = w.data.copy()
        w.grad = np.ones(1)
        optimizer.step()
    assert before - w.data == pytest.approx(10.0)


def test_gradient_descent_on_a_quadratic_shrinks_each_coordinate_by_one_minus_lr_h():
    h = np.array([0.1, 1.0, 5.0])
    w = md.tensor(np.ones(3), requires_grad=True)
    optimizer = SGD([w], lr=0.3)
    for _ in range(25):
        w.grad = h * w.data
        optimizer.step()
    np.testing.assert_allclose(w.data, (1 - 0.3 * h) ** 25, rtol=1e-12)


def test_both_places_of_lr_agree_while_it_is_constant_and_differ_under_a_schedule():
    def path(lr, lr_in_buffer):
        w = md.tensor(np.ones(1), requires_grad=True)
        optimizer = SGD([w], lr=lr, momentum=0.9, lr_in_buffer=lr_in_buffer)
        for _ in range(5):
            w.grad = np.ones(1)
            optimizer.step()
        return w.item()

    assert path(0.1, True) == pytest.approx(path(0.1, False), rel=1e-14)
    late = [1.0, 0.0, 0.0, 0.0, 0.0].__getitem__
    assert path(late, False) == pytest.approx(0.0)
    assert path(late, True) == pytest.approx(1 - (1 + 0.9 + 0.9**2 + 0.9**3 + 0.9**4))


def test_decoupled_decay_shrinks_the_parameter_and_stays_out_of_the_state():
    w, u = (md.tensor(np.ones(1), requires_grad=True) for _ in range(2))
    decoupled, coupled = AdamW([w], lr=0.1, weight_decay=0.5), Adam([u], lr=0.1, weight_decay=0.5)
    for p, optimizer in ((w, decoupled), (u, coupled)):
        p.grad = np.zeros(1)
        optimizer.step()
    assert w.item() == pytest.approx(0.95)
    assert decoupled.state["0"]["m"].item() == 0
    assert u.item() == pytest.approx(0.9)  # the sign of the decay, times lr
    assert coupled.state["0"]["m"].item() == pytest.approx(0.05)


def test_rosenbrock_from_minus_two_two_after_a_hundred_steps():
    """Values of PyTorch 2.13 in float64: the one test with golden numbers, for machines without PyTorch."""
    golden = {
        (SGD, 1e-4, 0.0): (-1.459414999631, 2.137432753970),
        (SGD, 1e-4, 0.9): (-1.073909561780, 1.157460953851),
        (Adam, 1e-2, None): (-1.560476669148, 2.455600858807),
        (AdamW, 1e-2, None): (-1.549301965630, 2.426481734244),
    }
    for (kind, lr, momentum), end in golden.items():
        w = md.tensor(np.array([-2.0, 2.0]), requires_grad=True)
        optimizer = kind([w], lr=lr, **({} if momentum is None else {"momentum": momentum}))
        for _ in range(100):
            x, y = w.data
            w.grad = np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])
            optimizer.step()
        np.testing.assert_allclose(w.data, end, rtol=1e-11)


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


def leaf(*shape):
    return md.tensor(np.ones(shape or (2,)), requires_grad=True)


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
        "  group 0: 2 parameters, 9 elements; maximize=False, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, "
        "amsgrad=True",
        "  group 1: 1 parameters, 4 elements; maximize=False, lr=0.5, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, "
        "amsgrad=True",
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


@dataclass(frozen=True)
class Halving:
    start: float
    every: int = 2

    def __call__(self, step):
        return self.start * 0.5 ** (step // self.every)


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
    with pytest.raises(ValueError, match=r"SGD: lr must be a finite number >= 0, got lr=-1.0 \(at step 0 of its schedule\)"):
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


# ---- saving and loading ----------------------------------------------------------------------------------------------


def through_json(state):
    """Return (arrays, text): what would go into a safetensors file and its metadata."""
    tensors, plain = {}, {}
    for name, entry in state["state"].items():
        tensors |= {f"{name}/{slot}": x.data for slot, x in entry.items() if slot != "t"}
        plain[name] = entry["t"]
    return tensors, json.dumps({"steps": state["steps"], "t": plain, "param_groups": state["param_groups"]})


def from_json(tensors, text):
    plain = json.loads(text)
    state = {name: {"t": t} for name, t in plain["t"].items()}
    for key, x in tensors.items():
        name, slot = key.split("/")
        state[name][slot] = x
    return {"steps": plain["steps"], "state": state, "param_groups": plain["param_groups"]}


@pytest.mark.parametrize("case", VARIED, ids=str)
def test_save_and_continue_is_bitwise_as_if_nothing_had_happened(case, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    optimizer, first = case.make(params), case.make(others)
    train(optimizer, params, 4, skip=(1,))
    whole = train(optimizer, params, 4, seed=2)
    train(first, others, 4, skip=(1,))
    second = case.kind(others, lr=0.5)
    second.load_state_dict(from_json(*through_json(first.state_dict())))
    assert_same(train(second, others, 4, seed=2), whole)
    assert second.param_groups[0]["lr"] == 0.1
    assert [e["t"] for e in second.state.values()] == [8, 4, 8, 8, 8, 8, 8]


SCRIPT = """
import json, sys
import numpy as np
import minidl as md
from minidl import optim

folder = sys.argv[1]
tensors = dict(np.load(folder + "/tensors.npz"))
saved = json.load(open(folder + "/plain.json"))
params = [md.Parameter(tensors.pop(f"p{i}")) for i in range(saved["count"])]
state = {name: {"t": t} for name, t in saved["t"].items()}
for key, x in tensors.items():
    name, slot = key.split("/")
    state[name][slot] = x
optimizer = getattr(optim, saved["kind"])(params)
optimizer.load_state_dict({"steps": saved["steps"], "state": state, "param_groups": saved["param_groups"]})
generator = np.random.default_rng(7)
for _ in range(4):
    for p in params:
        p.grad = p.data * p.dtype.type(0.3) + generator.standard_normal(p.shape).astype(p.dtype)
    optimizer.step()
np.savez(folder + "/end.npz", *[p.data for p in params])
"""


@pytest.mark.parametrize("case", [VARIED[0], VARIED[2], VARIED[3]], ids=str)
def test_a_new_process_continues_bitwise(case, rng, tmp_path):
    params = [parameter(rng.standard_normal(shape).astype(np.float32)) for shape in [(30, 40), (7,), ()]]
    optimizer = case.make(params)
    for _ in range(5):
        set_gradients(params, rng)
        optimizer.step()
    tensors, text = through_json(optimizer.state_dict())
    np.savez(tmp_path / "tensors.npz", **tensors, **{f"p{i}": p.data for i, p in enumerate(params)})
    plain = {**json.loads(text), "kind": case.kind.__name__, "count": len(params)}
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    generator = np.random.default_rng(7)
    for _ in range(4):
        for p in params:
            p.grad = p.data * p.dtype.type(0.3) + np.asarray(generator.standard_normal(p.shape)).astype(p.dtype)
        optimizer.step()
    end = np.load(tmp_path / "end.npz")
    assert_same(arrays(params), [end[name] for name in end.files])


def test_a_saved_state_is_a_copy(rng):
    params = parameters(rng)
    optimizer = Adam(params)
    train(optimizer, params, 2)
    saved = optimizer.state_dict()
    before = saved["state"]["0"]["m"].data.copy()
    train(optimizer, params, 2)
    assert_same([saved["state"]["0"]["m"].data], [before])
    optimizer.load_state_dict(saved)
    train(optimizer, params, 2)
    assert_same([saved["state"]["0"]["m"].data], [before])


def spoiled(change):
    def make(state):
        state = copy.deepcopy(state)
        change(state)
        return state

    return make


SPOILED = [
    (spoiled(lambda s: s.pop("state")), "steps, state and param_groups"),
    (spoiled(lambda s: s["param_groups"].append(s["param_groups"][0])), "it has 2 parameter groups and the optimizer 1"),
    (spoiled(lambda s: s["param_groups"][0]["names"].pop()), r"doesn't match the size .*missing \['b'\]"),
    (spoiled(lambda s: s["param_groups"][0].update(names=["w", "c"])), r"missing \['b'\], unexpected \['c'\]"),
    (spoiled(lambda s: s["state"].update(z={"t": 1})), r"state of unknown parameters \['z'\]"),
    (spoiled(lambda s: s["state"]["w"].pop("m")), r"w: missing \['m'\], unexpected \[\]"),
    (spoiled(lambda s: s["state"]["w"].update(x=1)), r"w: missing \[\], unexpected \['x'\]"),
    (spoiled(lambda s: s["state"]["w"].update(m=np.ones(3))), r"w\.m: shape \(3,\), the parameter has \(2, 2\)"),
    (spoiled(lambda s: s["state"]["b"].update(v=np.ones(2, np.float32))), "b.v: dtype float32, the parameter has float64"),
    (spoiled(lambda s: s["state"]["b"].update(v=[1.0, 2.0])), "b.v: must be an array, got list"),
    (spoiled(lambda s: s["state"]["b"].update(t=0)), "b: t must be an int >= 1, got 0"),
    (spoiled(lambda s: s.update(steps=-1)), "steps must be an int >= 0"),
    (spoiled(lambda s: s["param_groups"][0].update(lr=-1.0)), "lr must be a finite number >= 0, got lr=-1.0"),
    (spoiled(lambda s: s["param_groups"][0].pop("betas")), r"options missing \['betas'\]"),
    (spoiled(lambda s: s["param_groups"][0].update(rho=1)), r"unexpected options \['rho'\]"),
    (spoiled(lambda s: s["param_groups"][0].update(schedules={"lr": "OneCycle"})), "schedules .*hyper='current'"),
    (spoiled(lambda s: (s["state"]["w"].update(t=0), s["state"]["b"].update(m=1.0))), "w: t must .*; b.m: must be"),
]


@pytest.mark.parametrize(("spoil", "match"), SPOILED, ids=range(len(SPOILED)))
def test_a_state_that_does_not_fit_is_refused_whole(spoil, match, rng):
    params = [("w", leaf(2, 2)), ("b", leaf(2))]
    optimizer = Adam(params, lr=0.1)
    train(optimizer, [p for _, p in params], 2)
    saved = spoil(optimizer.state_dict())
    train(optimizer, [p for _, p in params], 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert (after["steps"], after["param_groups"]) == (before["steps"], before["param_groups"])
    for name, entry in before["state"].items():
        for slot, x in entry.items():
            np.testing.assert_array_equal(getattr(after["state"][name][slot], "data", None) if slot != "t" else None,
                                          x.data if slot != "t" else None)  # fmt: skip


def test_state_goes_by_name_whatever_the_order(rng):
    w, b = leaf(2, 2), leaf(2)
    optimizer = Adam([("w", w), ("b", b)])
    train(optimizer, [w, b], 2)
    saved = optimizer.state_dict()
    other = Adam([("b", b), ("w", w)])
    other.load_state_dict(saved)
    for name in ("w", "b"):
        assert_same([other.state[name]["m"]], [optimizer.state[name]["m"]])


def test_loading_can_keep_the_options_of_this_optimizer(rng):
    w = leaf(2)
    optimizer = Adam([w], lr=0.1)
    train(optimizer, [w], 2)
    other = Adam([w], lr=0.5)
    other.load_state_dict(optimizer.state_dict(), hyper="current")
    assert (other.param_groups[0]["lr"], other.state["0"]["t"]) == (0.5, 2)
    with pytest.raises(ValueError, match="hyper must be 'saved' or 'current', got hyper='mine'"):
        other.load_state_dict(optimizer.state_dict(), hyper="mine")


def test_a_state_saved_on_the_cpu_continues_on_the_gpu(rng, fake_cuda):
    w = leaf(3)
    optimizer = Adam([w], lr=0.1)
    train(optimizer, [w], 2)
    u = parameter(w.data.copy(), "cuda:0")
    other = Adam([u])
    other.load_state_dict(optimizer.state_dict())
    w.grad = np.ones(3)
    u.grad = md.engine.backend.to_device(np.ones(3), "cuda:0")
    optimizer.step()
    other.step()
    assert_same([to_numpy(u.data)], [w.data])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("case", VARIED, ids=str)
def test_a_copied_optimizer_goes_its_own_way(case, duplicate, rng):
    params = parameters(rng)
    optimizer = case.kind(params, **{**case.options, "lr": Halving(0.1)})
    train(optimizer, params, 3)
    other, others = duplicate((optimizer, params))
    assert other.param_groups[0]["params"][0] is others[0]
    before = arrays(params)
    whole = train(other, others, 3, seed=2)
    assert_same(arrays(params), before)
    assert_same(train(optimizer, params, 3, seed=2), whole)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


# ---- optimizers of the user's own ------------------------------------------------------------------------------------


class Lars(Optimizer):
    """Layer-wise steps: the size of a step is a fraction of the norm of its parameter."""

    slots = ("b",)

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update(self, xp, theta, g, b, *, lr):
        b = 0.9 * b + segment_norm(theta) / (segment_norm(g) + 1e-9) * g
        return theta - lr * b, b


class Normalized(Optimizer):
    """One step size for all: divided by the norm of the whole gradient."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update(self, xp, theta, g, *, lr):
        return theta - lr * g / total_dot(g, g) ** 0.5


class RowScaled(Optimizer):
    """A method for matrices with a slot of another shape: Adagrad with one sum for each row."""

    slots = ("rows",)

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def initial(self, slot, group, theta):
        return np.zeros(theta.shape[:1])

    def update_tensor(self, xp, theta, g, rows, *, lr):
        rows = rows + (g * g).reshape(len(g), -1).sum(1)
        return theta - lr * g / xp.sqrt(rows)[(...,) + (None,) * (g.ndim - 1)], rows


class FromStart(Optimizer):
    """A slot that starts as the parameter itself."""

    slots = ("start",)

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def initial(self, slot, group, theta):
        return theta

    def scalars(self, group, t):
        return {"lr": group["lr"]}

    def update(self, xp, theta, g, start, *, lr):
        return theta - lr * (g + theta - start), start


def test_norms_of_parameters_and_of_everything_work_across_groups_and_dtypes(rng):
    params = [leaf(3, 2), leaf(4), parameter(rng.standard_normal((2, 2)).astype(np.float32).T)]
    grads = [rng.standard_normal(p.shape).astype(p.dtype) for p in params]
    before = arrays(params)
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    Lars(params).step()
    for p, x, g in zip(params, before, grads, strict=True):
        want = x - 0.1 * np.linalg.norm(x) / np.linalg.norm(g) * g
        np.testing.assert_allclose(p.data, want, rtol=1e-5 if p.dtype == np.float32 else 1e-8)
    before = arrays(params)
    Normalized([{"params": params[:1]}, {"params": params[1:], "lr": 0.2}]).step()
    size = math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in grads))
    for p, x, g, lr in zip(params, before, grads, (0.1, 0.2, 0.2), strict=True):
        np.testing.assert_allclose(p.data, x - lr * g / size, rtol=1e-6)  # the sum over float32 is one of float32


def test_a_matrix_method_keeps_slots_of_its_own_shape_and_can_be_resumed(rng):
    params = [parameter(rng.standard_normal((4, 3)).T), leaf(5)]
    others = copy.deepcopy(params)
    optimizer, first = RowScaled(params), RowScaled(others)
    x, rows = arrays(params), [np.zeros(3), np.zeros(5)]
    generator = np.random.default_rng(1)
    for _ in range(4):
        set_gradients(params, generator)
        for k, p in enumerate(params):
            g = p.grad.data
            rows[k] += (g * g).reshape(len(g), -1).sum(1)
            x[k] = x[k] - 0.1 * g / np.sqrt(rows[k]).reshape(-1, *[1] * (g.ndim - 1))
        optimizer.step()
    for p, want, r, entry in zip(params, x, rows, optimizer.state.values(), strict=True):
        np.testing.assert_allclose(p.data, want, rtol=1e-12)
        np.testing.assert_allclose(entry["rows"], r, rtol=1e-12)
    train(first, others, 2)
    second = RowScaled(others)
    second.load_state_dict(first.state_dict())
    assert second.state["0"]["rows"].shape == (3,)
    with pytest.raises(TypeError, match="update_tensor runs as it is written"):
        second.program()


def test_a_slot_may_start_as_the_parameter_at_its_first_step(rng):
    w = leaf(3)
    optimizer = FromStart([w])
    w.data[...] = 2.0  # after the optimizer was made, before it moves
    w.grad = np.ones(3)
    optimizer.program()
    w.data[...] = 3.0
    optimizer.step()
    np.testing.assert_array_equal(optimizer.state["0"]["start"], 3.0)
    np.testing.assert_allclose(w.data, 2.9)


def test_a_formula_that_branches_on_a_number_is_refused_at_the_first_step():
    class Wrong(FromStart):
        def update(self, xp, theta, g, start, *, lr):
            return (theta - g, start) if lr > 0.5 else (theta, start)

    w = leaf(2)
    w.grad = np.ones(2)
    with pytest.raises(TypeError, match=r"Wrong\.update: greater compares only numbers; compare them in scalars\(\)"):
        Wrong([w]).step()


def test_an_optimizer_without_scalars_says_so():
    w = leaf(2)
    w.grad = np.ones(2)
    with pytest.raises(NotImplementedError, match=r"Optimizer: an optimizer defines scalars\(group, t\)"):
        Optimizer([w]).step()
