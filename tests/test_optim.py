"""SGD, Adam and AdamW follow their formulas to the last digits, in every layout, together or one by one."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import minidl as md
from minidl.engine import node
from minidl.engine.backend import to_device
from minidl.optim import SGD, Adam, AdamW
from minidl.optim import segment as segments
from optim_cases import KINDS, VARIED, Case, arrays, assert_same, parameter, parameters, set_gradients, train

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


SGD_GRID = [
    {}, {"lr": 0.01}, {"lr": 0.1, "weight_decay": 0.5}, {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.01, "momentum": 0.5, "dampening": 0.25, "maximize": True},
]  # fmt: skip
ADAM_GRID = [
    {}, {"lr": 0.01}, {"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}, {"lr": 0.1, "betas": (0.0, 0.5)},
    {"lr": 0.1, "betas": (0.5, 0.0)},
    {"lr": 0.1, "eps": 0.1, "amsgrad": True, "maximize": True}, {"lr": 0.0, "weight_decay": 0.1},
]  # fmt: skip
LECTURE = [
    {"lr": 0.1, "momentum": 0.9, "lr_in_buffer": True},
    {"lr": 0.1, "momentum": 0.9, "lr_in_buffer": True, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "lr_in_buffer": True},
]  # fmt: skip
PARITY = [Case(SGD, sgd_by_hand, "SGD", o) for o in SGD_GRID]
PARITY += [Case(Adam, adam_by_hand, "Adam", o) for o in ADAM_GRID]
PARITY += [Case(AdamW, adamw_by_hand, "AdamW", o) for o in [*ADAM_GRID, {"weight_decay": 0.0}]]
CASES = PARITY + [Case(SGD, sgd_by_hand, "", o) for o in LECTURE]
NAMES = {"b": "momentum_buffer", "m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hundred_steps_follow_the_formula_written_as_loops(case, rng):
    params = parameters(rng)
    optimizer = case.make(params)
    values = arrays(params)
    states = [{i: {} for i in np.ndindex(p.shape)} for p in params]
    times = [0] * len(params)
    for step in range(100):
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
            q.grad = to_device(p.grad.data.copy("C"), "cuda:0")
        one.step()
        with md.transfers(max=0):
            two.step()
    assert_same(arrays(others), arrays(params))


def test_parameters_on_two_gpus_and_the_cpu_may_share_an_optimizer(rng, fake_cuda):
    places = ["cpu", "cuda:0", "cuda:1", "cuda:1"]
    with fake_cuda.devices(2):
        x, g = ([rng.standard_normal((3, 4)) for _ in places] for _ in range(2))
        params = [parameter(a.copy(), place) for a, place in zip(x, places, strict=True)]
        alone = [parameter(a.copy()) for a in x]
        for p, q, a in zip(params, alone, g, strict=True):
            p.grad, q.grad = to_device(a, p.device), a.copy()
        here, there = Adam(params, lr=0.1), Adam(alone, lr=0.1)
        for optimizer in (here, there):
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        assert [p.device for p in params] == places
        assert_same(arrays(params), arrays(alone))


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


@pytest.mark.parametrize(
    ("kind", "options", "steps"),
    [
        (SGD, {"lr": 0.2, "momentum": 0.5}, 60),
        (Adam, {"lr": 0.05}, 600),
        (AdamW, {"lr": 0.05, "weight_decay": 0.0}, 600),
    ],
)
def test_a_quadratic_is_minimized_to_1e_8(kind, options, steps):
    w = md.tensor(np.array([3.0, -2.0]), requires_grad=True)
    optimizer = kind([w], **options)
    for _ in range(steps):
        optimizer.zero_grad()
        ((w - 1.0) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.data, 1.0, atol=1e-8)


@pytest.mark.parametrize(("kind", "options"), [(SGD, {"lr": 1e-3, "momentum": 0.9}), (Adam, {"lr": 0.1})])
def test_rosenbrock_is_brought_under_a_thousandth(kind, options):
    w = md.tensor(np.array([-2.0, 2.0]), requires_grad=True)
    optimizer = kind([w], **options)
    for _ in range(5000):
        x, y = w.data
        w.grad = np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])
        optimizer.step()
    x, y = w.data
    assert (1 - x) ** 2 + 100 * (y - x * x) ** 2 < 1e-3


def losses_on_xor(kind, options, seed):
    """Return the losses of sixty steps of a 2-4-1 tanh network on the four cases of exclusive or."""
    x = md.tensor(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    y = md.tensor(np.array([[0.0], [1.0], [1.0], [0.0]]))
    generator = np.random.default_rng(seed)
    w1, b1, w2, b2 = params = [md.Parameter(generator.standard_normal(shape)) for shape in [(2, 4), (4,), (4, 1), (1,)]]
    optimizer = kind(params, **options)

    def closure():
        optimizer.zero_grad()
        loss = ((md.tanh(x @ w1 + b1) @ w2 + b2 - y) ** 2).mean()
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(60)]


@pytest.mark.parametrize(("kind", "lr"), [(SGD, 0.2), (Adam, 0.05), (AdamW, 0.05)])
def test_the_loss_on_xor_falls_for_twenty_seeds(kind, lr):
    for seed in range(20):
        losses = losses_on_xor(kind, {"lr": lr}, seed)
        assert losses[-1] < 0.9 * losses[0]


def test_a_tied_parameter_is_moved_once():
    layers = md.nn.Sequential(md.nn.Linear(2, 2, bias=False), md.nn.Linear(2, 2, bias=False))
    layers[1].weight = layers[0].weight
    w = layers[0].weight
    w.grad = np.ones((2, 2), np.float32)
    before = w.data.copy()
    optimizer = SGD(layers, lr=0.5)
    optimizer.step()
    np.testing.assert_array_equal(w.data, before - np.float32(0.5))
    assert optimizer.param_groups[0]["names"] == ("0.weight",)


