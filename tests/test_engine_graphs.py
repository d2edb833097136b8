"""Gradients through graphs of every form, and derivatives of derivatives."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl.engine.autograd import grad, jvp, vjp


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


# ---- graphs of every form (A8) ---------------------------------------------------------------------------------------


def test_A8_a_tensor_used_k_times_gets_the_sum():
    x = leaf([3.0])
    y = x
    for _ in range(9):
        y = y + x
    y.backward()
    assert x.grad.item() == 10.0


def test_A8_every_rule_runs_once_however_many_paths_lead_through_it():
    calls = []
    step = md.Op(lambda xp, x: x * 1.0, lambda g, out, x: (calls.append(1), g)[1], name="step")
    x = leaf([1.0])
    y = x
    for _ in range(40):  # 2**40 paths
        y = step(y)
        y = y + y
    y.backward()
    assert len(calls) == 40
    assert x.grad.item() == 2.0**40


def test_the_sum_of_two_uses_goes_on_not_each_use():
    """b = a + a, c = b + b: the gradient of a is 4, which needs the reverse of the order of making."""
    a = leaf([1.0])
    b = a + a
    (b + b).backward()
    assert a.grad.item() == 4.0


def test_A8_results_of_other_threads_of_time_are_ordered_right():
    """An old result used by the newest operation still waits for everybody who uses it."""
    x = leaf([2.0])
    old = x * x
    new = old * 3
    last = new * old  # = 3 x^4
    last.backward()
    assert x.grad.item() == 96.0


UNARY = [
    (md.tanh, lambda v, t: (np.tanh(v), t * (1 - np.tanh(v) ** 2))),
    (md.sigmoid, lambda v, t: (1 / (1 + np.exp(-v)), t * np.exp(-v) / (1 + np.exp(-v)) ** 2)),
    (lambda x: x * x, lambda v, t: (v * v, 2 * v * t)),
    (md.negative, lambda v, t: (-v, -t)),
    (lambda x: x.sum(axis=0, keepdims=True), lambda v, t: (v.sum(0, keepdims=True), t.sum(0, keepdims=True))),
    (lambda x: x.T, lambda v, t: (v.T, t.T)),
    (lambda x: x[::-1, [0, 0, 2]], lambda v, t: (v[::-1, [0, 0, 2]], t[::-1, [0, 0, 2]])),
]
BINARY = [
    (md.add, lambda a, s, b, t: (a + b, s + t)),
    (md.subtract, lambda a, s, b, t: (a - b, s - t)),
    (md.multiply, lambda a, s, b, t: (a * b, s * b + a * t)),
]


def random_program(seed, xs, tangents):
    """Run a random program on tensors and, beside it, on values with tangents (forward mode)."""
    rng = np.random.default_rng(seed)
    pool = [(x, x.detach().numpy(), t) for x, t in zip(xs, tangents, strict=True)]
    for _ in range(25):
        if rng.random() < 0.5:
            f, dual = UNARY[rng.integers(len(UNARY))]
            x, v, t = pool[rng.integers(len(pool))]
            if x.shape != (3, 3):
                continue
            new = (f(x), *dual(v, t))
        else:
            f, dual = BINARY[rng.integers(len(BINARY))]
            (x, a, s), (y, b, t) = (pool[rng.integers(len(pool))] for _ in range(2))
            new = (f(x, y), *dual(a, s, b, t))
        scale = 2.0 ** -max(0.0, np.ceil(np.log2(np.abs(new[1]).max() + 1e-30)))  # constant nearby
        pool.append((new[0] * scale, new[1] * scale, new[2] * scale))
    return pool


@pytest.mark.parametrize("seed", range(30))
def test_A8_reverse_mode_equals_forward_mode_on_random_programs(seed):
    rng = np.random.default_rng(seed + 1000)
    xs = [leaf(rng.standard_normal((3, 3))) for _ in range(3)]
    vs = [rng.standard_normal((3, 3)) for _ in xs]
    pool = random_program(seed, xs, vs)[-4:]
    us = [rng.standard_normal(y.shape) for y, _, _ in pool]
    forward = sum((u * t).sum() for u, (_, _, t) in zip(us, pool, strict=True))
    outputs = [(y, u) for (y, _, _), u in zip(pool, us, strict=True) if y.requires_grad]
    grads = grad([y for y, _ in outputs], xs, [u for _, u in outputs], retain_graph=True, allow_unused=True)
    reverse = sum((g.numpy() * v).sum() for g, v in zip(grads, vs, strict=True) if g is not None)
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
    (pushed,) = jvp(pool[-1][0], xs, [md.tensor(v) for v in vs])
    np.testing.assert_allclose(pushed.numpy(), pool[-1][2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_A16_second_derivatives_of_random_programs_are_those_of_differences(seed):
    rng = np.random.default_rng(seed)

    def f(*xs):
        return random_program(seed, xs, [np.zeros((3, 3))] * 2)[-1][0]

    md.check_grad(f, [rng.standard_normal((3, 3)) * 0.5 for _ in range(2)], order=2)


def test_A27_the_same_program_gives_the_same_bits():
    def gradients():
        rng = np.random.default_rng(7)
        xs = [leaf(rng.standard_normal((3, 3))) for _ in range(3)]
        y = random_program(3, xs, [np.zeros((3, 3))] * 3)[-1][0]
        return [g.numpy().tobytes() for g in grad(y.sum(), xs, allow_unused=True) if g is not None]

    assert gradients() == gradients()


# ---- derivatives of derivatives (A16 to A18) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "derivatives"),
    [
        (lambda x: x**4, lambda v: [4 * v**3, 12 * v**2, 24 * v, 24]),
        (md.exp, lambda v: [np.exp(v)] * 4),
        (lambda x: x * x * x * x, lambda v: [4 * v**3, 12 * v**2, 24 * v, 24]),
        (lambda x: 1 / x, lambda v: [-(v**-2.0), 2 * v**-3.0, -6 * v**-4.0, 24 * v**-5.0]),
        (md.log, lambda v: [1 / v, -(v**-2.0), 2 * v**-3.0, -6 * v**-4.0]),
    ],
    ids=["x^4", "exp", "x x x x", "1/x", "log"],
)
def test_A16_four_derivatives_by_backward_on_backward(f, derivatives):
    x = leaf(1.7)
    y = f(x)
    for expected in derivatives(1.7):
        (y,) = grad(y, x, create_graph=True)
        np.testing.assert_allclose(y.item(), expected, rtol=1e-12)


def test_A16_the_second_derivative_by_two_backwards_accumulates_into_grad():
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    x.grad = None
    first.backward()
    assert x.grad.item() == 12.0


def test_A17_gradients_are_recorded_only_if_asked_for():
    x = leaf([2.0])
    for create in (False, True):
        x.grad = None
        (x * x * x).backward(create_graph=create)
        assert x.grad.requires_grad is create
        assert grad(x * x * x, x, create_graph=create)[0].requires_grad is create


def test_A17_a_recorded_gradient_added_to_an_old_one_keeps_its_graph():
    x = leaf([2.0])
    (x * 5).backward()
    (x * x * x).backward(create_graph=True)
    assert x.grad.tolist() == [17.0]
    assert grad(x.grad, x)[0].tolist() == [12.0]


def test_the_derivative_by_the_cotangent_is_the_jacobian():
    x, u = leaf([1.0, 2.0]), leaf([1.0, 1.0])
    (g,) = grad(x * x, x, u, create_graph=True)
    assert grad(g, u, np.array([1.0, 10.0]))[0].tolist() == [2.0, 40.0]


def test_A18_a_gradient_penalty_has_the_closed_form_of_a_linear_model():
    w, x = leaf([[3.0, 4.0]]), leaf([[1.0, 2.0], [0.5, -1.0]])
    out = md.linear(x, w)
    (g,) = grad(out.sum(), x, create_graph=True)
    penalty = (((g * g).sum(axis=1) ** 0.5 - 1.0) ** 2).mean()  # (|w| - 1)^2
    penalty.backward()
    assert penalty.item() == 16.0
    np.testing.assert_allclose(w.grad.numpy(), [[2 * 4 * 3 / 5, 2 * 4 * 4 / 5]])


def test_A18_a_gradient_penalty_trains():
    rng = np.random.default_rng(0)
    w1, w2 = leaf(rng.standard_normal((4, 2))), leaf(rng.standard_normal((1, 4)))
    x = leaf(rng.standard_normal((8, 2)))
    losses = []
    for _ in range(100):
        out = md.linear(md.tanh(md.linear(x, w1)), w2)
        (g,) = grad(out.sum(), x, create_graph=True)
        loss = (((g * g).sum(axis=1) - 1.0) ** 2).mean()
        steps = grad(loss, [w1, w2])
        with md.no_grad():
            for w, step in zip((w1, w2), steps, strict=True):
                w -= 0.02 * step
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_vjp_and_jvp_are_adjoint(rng):
    a = rng.standard_normal((4, 3))
    x = leaf(rng.standard_normal(3))
    y = md.tanh(md.tensor(a) @ x)
    u, v = rng.standard_normal(4), rng.standard_normal(3)
    (pulled,) = vjp(y, x, u)
    (pushed,) = jvp(y, x, v)
    np.testing.assert_allclose((pulled * v).sum().item(), (pushed * u).sum().item(), rtol=1e-12)
    other = leaf(np.ones(2))
    assert vjp(y, other, u)[0].tolist() == [0.0, 0.0]
    assert jvp(y, other, np.ones(2))[0].tolist() == [0.0] * 4
