"""Muon follows its formula, agrees with optax, and is given only what it can take."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import minidl as md
from minidl.optim import AdamW, Muon, muon_split
from optim_cases import arrays, assert_same, parameter, set_gradients, train

SHAPES = [(4, 3), (3, 4), (5, 5), (2, 3, 2), (0, 3), (1, 4)]


def matrices(rng, dtype=np.float64):
    return [parameter(rng.standard_normal(shape).astype(dtype)) for shape in SHAPES]


def product(a, b):
    columns = transposed(b)
    return [[math.fsum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in a]


def combined(*terms):
    """Return the sum of number * matrix, element by element."""
    rows, columns = len(terms[0][1]), len(terms[0][1][0])
    return [[sum(k * m[i][j] for k, m in terms) for j in range(columns)] for i in range(rows)]


def transposed(a):
    return [list(column) for column in zip(*a, strict=True)]


def muon_by_hand(x, g, m, lr, weight_decay=0.1, momentum=0.95, nesterov=True, eps=1e-7, adjust="original",
                 ns_coefficients=(3.4445, -4.775, 2.0315), ns_steps=5, maximize=False):  # fmt: skip
    """Return new x and m, lists of lists."""
    g = combined((-1.0 if maximize else 1.0, g))
    m = combined((momentum, m), (1 - momentum, g))
    u = combined((1 - momentum, g), (momentum, m)) if nesterov else m
    rows, columns = len(u), len(u[0])
    size = max(math.sqrt(math.fsum(v * v for row in u for v in row)), eps)
    y = combined((1 / size, transposed(u) if rows > columns else u))
    a, b, c = ns_coefficients
    for _ in range(ns_steps):
        gram = product(y, transposed(y))
        y = combined((a, y), (1.0, product(combined((b, gram), (c, product(gram, gram))), y)))
    y = transposed(y) if rows > columns else y
    scale = {"original": math.sqrt(max(1, rows / columns)), "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns))}
    return combined((1 - lr * weight_decay, x), (-lr * scale.get(adjust, 1.0), y)), m


OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.1, "nesterov": False, "adjust": "match_rms_adamw"},
    {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.8, "ns_steps": 6, "adjust": "none", "maximize": True},
    {"lr": 0.1, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 10.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_forty_five_steps_follow_the_formula_written_as_loops(options, rng):
    params = matrices(rng)
    optimizer = Muon(params, **options)
    values = [x.reshape(len(x), -1).tolist() if x.size else None for x in arrays(params)]
    states = [np.zeros((p.shape[0], p.size // max(p.shape[0], 1))).tolist() for p in params]
    for _ in range(45):
        set_gradients(params, rng)
        for k, p in enumerate(params):
            if p.size:
                g = p.grad.data.reshape(len(p.data), -1).tolist()
                values[k], states[k] = muon_by_hand(values[k], g, states[k], **options)
        optimizer.step()
    for p, x, m, entry in zip(params, values, states, optimizer.state.values(), strict=True):
        if p.size:
            np.testing.assert_allclose(p.data, np.reshape(x, p.shape), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(entry["m"], np.reshape(m, p.shape), rtol=1e-9, atol=1e-12)


def test_forty_five_steps_equal_optax_without_nesterov(rng):
    # optax corrects the start of m, which the direction does not feel; its Nesterov mixes corrected terms.
    contrib = pytest.importorskip("optax.contrib", reason="optax is not installed (pip install optax)")
    jax = pytest.importorskip("jax", reason="jax is not installed (pip install jax)")
    with jax.enable_x64(True):
        params = [parameter(rng.standard_normal(shape)) for shape in [(4, 3), (3, 4), (5, 5)]]
        theirs = [jax.numpy.asarray(p.data.T.copy()) for p in params]  # optax: (in, out)
        optimizer = Muon(params, lr=0.1, nesterov=False, eps=1e-16, weight_decay=0.1)
        other = contrib.muon(0.1, nesterov=False, eps=1e-16, weight_decay=0.1)
        state, advance = other.init(theirs), jax.jit(other.update)
        for _ in range(45):
            set_gradients(params, rng)
            updates, state = advance([jax.numpy.asarray(p.grad.data.T.copy()) for p in params], state, theirs)
            optimizer.step()
            theirs = [x + u for x, u in zip(theirs, updates, strict=True)]
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p.data, np.asarray(q).T, rtol=1e-9, atol=1e-12)


def test_pytorch_differs_by_its_bfloat16_only(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
    p = parameter(rng.standard_normal((6, 4)))
    q = torch.nn.Parameter(torch.tensor(p.data.copy()))
    optimizer, other = Muon([p], lr=0.1), torch.optim.Muon([q], lr=0.1)
    for _ in range(10):
        p.grad = rng.standard_normal(p.shape)
        q.grad = torch.tensor(p.grad.data)
        optimizer.step()
        other.step()
    np.testing.assert_allclose(p.data, q.detach().numpy(), atol=0.05)


def test_newton_schulz_takes_each_singular_value_through_its_polynomial(rng):
    left, right = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    values = np.array([0.8, 0.6, 0.0])  # of norm 1, so that nothing is rescaled
    w = parameter(np.zeros((3, 3)))
    w.grad = left @ np.diag(values) @ right
    Muon([w], lr=1.0, momentum=0.0).step()
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(-w.data, left @ np.diag(values) @ right, atol=1e-13)
    w = parameter(np.zeros((3, 3)))
    w.grad = left @ np.diag([0.8, 0.6, 0.1]) @ right
    Muon([w], lr=1.0, momentum=0.0, method="svd").step()
    np.testing.assert_allclose(np.linalg.svd(w.data, compute_uv=False), 1.0, rtol=1e-12)


def test_what_holds_for_all_holds_for_muon(rng):
    params = matrices(rng)
    others, still = copy.deepcopy(params), copy.deepcopy(params)
    before = arrays(params)
    up, down = Muon(params, lr=0.1, maximize=True), Muon(others, lr=0.1)
    for _ in range(4):
        set_gradients(others, rng, skip=(1,))
        for p, q in zip(params, others, strict=True):
            p.grad = None if q.grad is None else -q.grad.data
        up.step()
        down.step()
    assert_same(arrays(params), arrays(others))
    assert_same([params[1].data], [before[1]])
    assert "1" not in up.state
    again = Muon(others)
    again.load_state_dict(down.state_dict())
    twin = copy.deepcopy(others)
    end = train(again, others, 3)
    third = Muon(twin)
    third.load_state_dict(down.state_dict())
    assert_same(train(third, twin, 3), end)
    assert_same(train(Muon(still, lr=0.0), still, 3), before)
    singles = matrices(rng, np.float32)
    train(Muon(singles, lr=0.1), singles, 3)
    assert all(p.dtype == np.float32 for p in singles)


def test_muon_refuses_vectors_by_name_and_the_splitter_finds_none_for_it():
    model = md.nn.Sequential(md.nn.Linear(4, 8), md.nn.Linear(8, 8), md.nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"at least two axes, got 0.bias, 1.bias, 2.bias; .*muon_split"):
        Muon(model)
    inner, others = muon_split(model, exclude=["0.*"])
    assert [name for name, _ in inner] == ["1.weight"]
    assert [name for name, _ in muon_split(model, last=True)[0]] == ["0.weight", "1.weight", "2.weight"]
    assert Muon(inner).param_groups[0]["names"] == ("1.weight",)
    assert len(AdamW(others).param_groups[0]["params"]) == 5
    with pytest.raises(ValueError, match=r"no parameter is called 'nothing'; there are 0.weight"):
        muon_split(model, exclude=["nothing"])
    with pytest.raises(ValueError, match="no hidden matrix"):
        muon_split(md.nn.Linear(2, 2))
