"""L-BFGS makes PyTorch's decisions; conjugate gradients are what they are called; both can be resumed."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import minidl as md
from minidl.optim import LBFGS, NonlinearCG
from minidl.optim.linesearch import Point, strong_wolfe
from optim_cases import assert_same


def rosenbrock(x):
    """Return the value and the gradient of the chained Rosenbrock function of a vector."""
    a, b = x[:-1], x[1:]
    g = np.zeros_like(x)
    g[:-1] += -2 * (1 - a) - 400 * a * (b - a * a)
    g[1:] += 200 * (b - a * a)
    return float(((1 - a) ** 2 + 100 * (b - a * a) ** 2).sum()), g


def quadratic(x):
    h = np.linspace(1.0, 30.0, x.size)
    return float((0.5 * h * x * x - x).sum()), h * x - 1.0


def problem(function, start, sizes):
    """Return parameters that together are the vector `start`, and a closure that computes value and gradients."""
    cuts = np.cumsum(sizes)[:-1]
    params = [md.Parameter(x) for x in np.split(np.array(start, float), cuts)]
    calls = []

    def closure():
        value, g = function(np.concatenate([p.data for p in params]))
        for p, part in zip(params, np.split(g, cuts), strict=True):
            p.grad = part
        calls.append(value)
        return value

    return params, closure, calls


def joined(params):
    return np.concatenate([p.data for p in params])


START = [-2.0, 2.0, 0.5, -1.0, 1.5]


@pytest.mark.parametrize("function", [rosenbrock, quadratic])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"max_iter": 7, "history_size": 3}, {"lr": 0.5, "max_iter": 10, "max_eval": 8}, {"tolerance_grad": 1e-2},
        {"line_search_fn": None, "lr": 0.01, "max_iter": 15},
    ],
    ids=str,
)  # fmt: skip
def test_lbfgs_makes_the_same_evaluations_as_pytorch(function, options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
    params, closure, calls = problem(function, START, [2, 3])
    theirs = [torch.nn.Parameter(torch.tensor(p.data.copy())) for p in params]
    other_calls = []

    def other_closure():
        value, g = function(np.concatenate([q.detach().numpy() for q in theirs]))
        for q, part in zip(theirs, np.split(g, [2]), strict=True):
            q.grad = torch.tensor(part)
        other_calls.append(value)
        return torch.tensor(value, dtype=torch.float64)

    optimizer = LBFGS(params, **options)
    other = torch.optim.LBFGS(theirs, **{"line_search_fn": "strong_wolfe", **options})
    for _ in range(4):
        optimizer.step(closure)
        other.step(other_closure)
    assert len(calls) == len(other_calls)
    assert optimizer.memory["func_evals"] == len(calls)
    rtol = 1e-9 if function is quadratic else 1e-5  # the valley amplifies the last digits of the inner products
    np.testing.assert_allclose(calls, other_calls, rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(joined(params), np.concatenate([q.detach().numpy() for q in theirs]), rtol=rtol)


def test_lbfgs_solves_rosenbrock_in_fifty_evaluations():
    params, closure, calls = problem(rosenbrock, [-2.0, 2.0], [2])
    LBFGS(params, max_iter=100).step(closure)
    assert len(calls) == 50
    assert rosenbrock(params[0].data)[0] < 1e-11


def test_the_direction_of_lbfgs_solves_for_its_last_pair():
    params, closure, _ = problem(quadratic, np.ones(5), [5])
    optimizer = LBFGS(params, max_iter=6)
    optimizer.step(closure)
    s, y = optimizer.memory["s"][-1], optimizer.memory["y"][-1]
    optimizer.memory.update(t=0.0, g=y)
    direction, _ = optimizer.direction(optimizer.param_groups[0], y)
    np.testing.assert_allclose(direction, -s, rtol=1e-8)  # H y = s


@pytest.mark.parametrize("variant", ["fletcher-reeves", "polak-ribiere+"])
def test_conjugate_gradients_have_the_beta_of_their_name(variant):
    params, closure, _ = problem(rosenbrock, START, [5])
    optimizer = NonlinearCG(params, max_iter=1, variant=variant)
    g_old = d_old = None
    for _ in range(20):
        _, g = rosenbrock(params[0].data)
        before = params[0].data.copy()
        optimizer.step(closure)
        d = optimizer.memory["d"]
        np.testing.assert_array_equal(optimizer.memory["g"], g)
        if g_old is not None:
            taken = [0.0] * 5 if variant == "fletcher-reeves" else g_old
            top = sum(a * (a - b) for a, b in zip(g, taken, strict=True))
            beta = max(0.0, top / sum(b * b for b in g_old))
            want = [-a + beta * b for a, b in zip(g, d_old, strict=True)]
            if sum(a * b for a, b in zip(g, want, strict=True)) >= 0:
                want = -g
            np.testing.assert_allclose(d, want, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(params[0].data, before + optimizer.memory["t"] * d, rtol=1e-12)
        g_old, d_old = g, d.copy()


@pytest.mark.parametrize("variant", ["fletcher-reeves", "polak-ribiere+"])
@pytest.mark.parametrize("function", [rosenbrock, quadratic])
def test_conjugate_gradients_find_a_minimum(function, variant):
    params, closure, _ = problem(function, START, [1, 4])
    optimizer = NonlinearCG(params, max_iter=4000, variant=variant, tolerance_change=0.0, tolerance_grad=1e-6)
    optimizer.step(closure)
    assert np.abs(function(joined(params))[1]).max() < 1e-5


def test_a_line_search_ends_at_a_point_with_both_wolfe_conditions_or_the_lowest_seen():
    def line(f, slope):
        return lambda t: Point(t, f(t), np.zeros(1), slope(t))

    at = line(lambda t: (t - 3.0) ** 4, lambda t: 4 * (t - 3.0) ** 3)
    for c2 in (0.9, 0.1, 1e-3):
        for first in (1e-3, 1.0, 50.0):
            found, calls = strong_wolfe(at, at(0.0), first, 1.0, 60, c2)
            assert found.f <= at(0.0).f + 1e-4 * found.t * at(0.0).slope
            assert abs(found.slope) <= c2 * abs(at(0.0).slope)
            assert calls <= 60
    walled = line(lambda t: -t if t < 1 else math.nan, lambda t: -1.0 if t < 1 else math.nan)
    found, _ = strong_wolfe(walled, walled(0.0), 8.0, 1.0, 25, 0.9)
    assert 0.5 < found.t < 1


KINDS = [LBFGS, NonlinearCG]


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_is_resumed_bitwise(kind):
    params, closure, _ = problem(rosenbrock, START, [2, 3])
    others, other_closure, _ = problem(rosenbrock, START, [2, 3])
    optimizer, first, second = (kind(p, max_iter=3) for p in (params, others, others))
    for _ in range(4):
        optimizer.step(closure)
    for _ in range(2):
        first.step(other_closure)
    second.load_state_dict(first.state_dict())
    twin = copy.deepcopy(second)
    for _ in range(2):
        second.step(other_closure)
    assert_same([joined(others)], [joined(params)])
    assert second.steps == 4
    assert (twin.memory["g"] != second.memory["g"]).any()
    saved = second.state_dict()
    saved["memory"]["g"] = md.tensor([1.0])
    with pytest.raises(ValueError, match=r"load_state_dict: g must be float64 \(5,\), got float32 \(1,\)"):
        second.load_state_dict(saved)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_maximizes_and_leaves_what_has_no_gradient_and_a_flat_place(kind):
    params, closure, _ = problem(quadratic, START, [2, 3])
    others, other_closure, _ = problem(lambda x: tuple(-y for y in quadratic(x)), START, [2, 3])
    down, up = kind(params), kind(others, maximize=True)
    down.step(closure)
    up.step(other_closure)
    assert_same([joined(others)], [joined(params)])
    frozen = md.Parameter(np.ones(2))
    w = md.Parameter(np.ones(2))

    def flat():
        w.grad = np.zeros(2)
        return 1.0

    for _ in range(2):
        kind([w, frozen]).step(flat)
    assert_same([w.data, frozen.data], [np.ones(2), np.ones(2)])

    def half():
        w.grad = 2 * w.data
        return float((w.data**2).sum())

    optimizer = kind([w, frozen])
    optimizer.step(half)
    assert_same([frozen.data], [np.ones(2)])
    assert np.abs(w.data).max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_refuses_what_it_cannot_do(kind):
    w = md.Parameter(np.ones(2))
    with pytest.raises(ValueError, match="step: needs a closure"):
        kind([w]).step()
    with pytest.raises(ValueError, match="one parameter group"):
        kind([{"params": [w]}, {"params": [md.Parameter(np.ones(2))]}])
    with pytest.raises(ValueError, match="one dtype"):
        kind([w, md.Parameter(np.ones(2, np.float32))])
    with pytest.raises(ValueError, match="entry 'memory'"):
        kind([w]).load_state_dict({})


def test_lbfgs_with_lr_zero_stays():
    params, closure, _ = problem(rosenbrock, START, [5])
    LBFGS(params, lr=0.0).step(closure)
    assert_same([params[0].data], [np.array(START)])
