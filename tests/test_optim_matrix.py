"""Shampoo, SOAP and CAME in closed form: what they do to singular values, to diagonals, and to turned coordinates."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from minidl.optim import CAME, SOAP, Adagrad, Adam, Shampoo, SkipNonFinite
from optim_cases import arrays, assert_same, parameter, parameters, train


def steps(optimizer, params, gradients):
    """Take a step with each of some gradients, given as one array for each parameter."""
    for each in gradients:
        for p, g in zip(params, each, strict=True):
            p.grad = np.array(g)
        optimizer.step()


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


# ---- Shampoo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (5, 2), (2, 5), (1, 4), (4, 1)])
def test_shampoos_first_step_makes_every_singular_value_one(shape, rng):
    g = rng.standard_normal(shape)
    w = parameter(np.zeros(shape))
    steps(Shampoo([w], lr=1.0, eps=0.0), [w], [[g]])
    left, _, right = np.linalg.svd(g, full_matrices=False)
    np.testing.assert_allclose(-w.data, left @ right, atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-13), (np.float32, 1e-6)])
def test_shampoos_first_step_leaves_out_what_the_gradient_does_not_have(dtype, atol, rng):
    left, right = orthogonal(rng, 40), orthogonal(rng, 40)
    g = left[:, :2] @ np.diag([3.0, 1.0]) @ right[:2]
    w = parameter(np.zeros((40, 40), dtype))
    steps(Shampoo([w], lr=1.0, eps=0.0), [w], [[g.astype(dtype)]])
    np.testing.assert_allclose(-w.data, left[:, :2] @ right[:2], atol=atol)  # 38 roots of rounding errors would show


def test_shampoos_first_step_on_vectors_numbers_and_outer_products_has_length_one(rng):
    vector, number = rng.standard_normal(4), np.array(-3.0)
    outer = np.einsum("i,j,k->ijk", *(rng.standard_normal(n) for n in (2, 3, 4)))
    params = [parameter(np.zeros(g.shape)) for g in (vector, number, outer)]
    steps(Shampoo(params, lr=1.0, eps=0.0), params, [[vector, number, outer]])
    for p, g in zip(params, (vector, number, outer), strict=True):
        np.testing.assert_allclose(-p.data, g / np.sqrt((g * g).sum()), atol=1e-12)


def test_shampoo_on_diagonal_gradients_is_adagrad_on_the_diagonal(rng):
    w, d = parameter(np.zeros((4, 4))), parameter(np.zeros(4))
    shampoo, adagrad = Shampoo([w], lr=0.1, eps=0.0), Adagrad([d], lr=0.1, eps=0.0)
    for _ in range(40):
        g = rng.standard_normal(4)
        steps(shampoo, [w], [[np.diag(g)]])
        steps(adagrad, [d], [[g]])
    np.testing.assert_allclose(w.data, np.diag(d.data), rtol=1e-12, atol=1e-14)


def test_shampoo_without_matrices_is_adagrad_on_vectors(rng):
    a, b = parameter(np.zeros(5)), parameter(np.zeros(5))
    gradients = [[rng.standard_normal(5)] for _ in range(40)]
    steps(Shampoo([a], lr=0.1, eps=0.5, max_precond_dim=4), [a], gradients)
    steps(Adagrad([b], lr=0.1, eps=0.5, eps_in_sqrt=True), [b], gradients)
    np.testing.assert_allclose(a.data, b.data, rtol=1e-12)


TURNING = [
    (Shampoo, {"lr": 0.1, "beta2": 0.9, "precondition_frequency": 3, "graft": "sgd", "weight_decay": 0.1}, 1e-9),
    (SOAP, {"lr": 0.1, "precondition_frequency": 3}, 1e-9),
]


@pytest.mark.parametrize(("kind", "options", "rtol"), TURNING)
def test_turned_coordinates_are_followed(kind, options, rtol, rng):
    left, right, start = orthogonal(rng, 4), orthogonal(rng, 3), rng.standard_normal((4, 3))
    gradients = [rng.standard_normal((4, 3)) for _ in range(40)]
    straight, turned = parameter(start.copy()), parameter(left @ start @ right)
    steps(kind([straight], **options), [straight], [[g] for g in gradients])
    steps(kind([turned], **options), [turned], [[left @ g @ right] for g in gradients])
    np.testing.assert_allclose(turned.data, left @ straight.data @ right, rtol=rtol, atol=1e-10)


def test_shampoos_roots_change_at_the_first_and_every_following_third_step(rng):
    params = parameters(rng)
    optimizer = Shampoo(params, lr=0.1, precondition_frequency=3)
    changed, before = [], None
    for _ in range(9):
        train(optimizer, params, 1, seed=int(rng.integers(1000)))
        now = optimizer.state["0"]["roots"].copy()
        changed.append(before is None or not np.array_equal(now, before))
        before = now
    assert changed == [True, False, False] * 3


@pytest.mark.parametrize("beta2", [1.0, 0.5])
def test_a_grafted_step_has_the_length_of_the_method_it_is_taken_from(beta2, rng):
    gradients = [rng.standard_normal((4, 3)) for _ in range(5)]
    collected, seen = np.zeros((4, 3)), []
    for graft in ("sgd", "adagrad"):
        w = parameter(np.zeros((4, 3)))
        optimizer = Shampoo([w], lr=0.5, graft=graft, beta2=beta2, eps=0.25)
        for t, g in enumerate(gradients, 1):
            before = w.data.copy()
            steps(optimizer, [w], [[g]])
            collected = g * g + (beta2 * collected if t > 1 else 0)
            sums = collected if beta2 == 1 else collected * (1 - beta2) / (1 - beta2**t)
            want = np.linalg.norm(g if graft == "sgd" else g / np.sqrt(sums + 0.25))
            seen.append(np.linalg.norm(w.data - before) / (0.5 * want))
    np.testing.assert_allclose(seen, 1.0, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"graft": "sgd"}, {"graft": "adagrad", "beta2": 0.5}])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_shampoo_stands_still_on_gradients_of_zero(options, eps, rng):
    params = parameters(rng)
    before = arrays(params)
    optimizer = Shampoo(params, eps=eps, **options)
    steps(optimizer, params, [[np.zeros(p.shape) for p in params]] * 3)
    assert_same(arrays(params), before)


# ---- SOAP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 1), {}),
        ((1, 1), {"precondition_frequency": 1}),
        ((5,), {}),
        ((), {}),
        ((1,), {"precondition_1d": True}),
        ((3, 4), {"max_precond_dim": 2}),
    ],
)
def test_soap_is_adam_without_the_first_gradient_where_nothing_can_be_turned(shape, options, rng):
    a, b = parameter(np.zeros(shape)), parameter(np.zeros(shape))
    gradients = [[rng.standard_normal(shape)] for _ in range(40)]
    steps(SOAP([a], lr=0.1, weight_decay=0.0, eps=0.1, **options), [a], gradients)
    steps(Adam([b], lr=0.1, betas=(0.95, 0.95), eps=0.1, debias="keras"), [b], gradients[1:])
    np.testing.assert_allclose(a.data, b.data, rtol=1e-12, atol=1e-15)


def test_soap_moves_one_axis_only_in_its_eigenvectors_where_the_other_is_too_long(rng):
    # Rows that are all multiples of one another: seen from the short axis there is one direction with a gradient.
    column, row = rng.standard_normal(3), rng.standard_normal(9)
    w = parameter(np.zeros((3, 9)))
    steps(SOAP([w], lr=1.0, weight_decay=0.0, max_precond_dim=3), [w], [[np.outer(column, row)]] * 2)
    np.testing.assert_allclose(-w.data, np.outer(column / np.linalg.norm(column), np.sign(row)), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3), (2, 6), (6, 2), (2, 3, 2)])
def test_soap_follows_a_constant_gradient_with_all_singular_values_one(shape, rng):
    # Of a wide axis the first matrix has eigenvalues of 0, whose eigenvectors are anybody's choice: none may show.
    g = rng.standard_normal(shape) if len(shape) == 2 else np.einsum("i,j,k->ijk", *map(rng.standard_normal, shape))
    w = parameter(np.zeros(shape))
    steps(SOAP([w], lr=0.5, weight_decay=0.0, precondition_frequency=2), [w], [[g]] * 8)
    if len(shape) == 2:
        left, _, right = np.linalg.svd(g, full_matrices=False)
        want = left @ right
    else:
        want = g / np.linalg.norm(g)
    np.testing.assert_allclose(-w.data, 7 * 0.5 * want, atol=1e-6)


def test_soap_turns_vectors_if_asked(rng):
    g = rng.standard_normal(4)
    w = parameter(np.zeros(4))
    steps(SOAP([w], lr=1.0, weight_decay=0.0, precondition_1d=True), [w], [[g]] * 2)
    np.testing.assert_allclose(-w.data, g / np.linalg.norm(g), atol=1e-6)


def test_soaps_bases_are_orthonormal_and_become_the_eigenvectors_in_falling_order(rng):
    left, right = orthogonal(rng, 6), orthogonal(rng, 3)
    w = parameter(np.zeros((6, 3)))
    optimizer = SOAP([w], precondition_frequency=1, betas=(0.9, 0.99))
    sizes = np.outer([32.0, 16.0, 8.0, 4.0, 2.0, 1.0], [9.0, 3.0, 1.0])
    for _ in range(300):
        steps(optimizer, [w], [[left @ (sizes * rng.standard_normal((6, 3))) @ right]])
    own = optimizer.state["0"]
    for h, q, n in [(own["h"][:36], own["q"][:36], 6), (own["h"][36:], own["q"][36:], 3)]:
        h, q = h.reshape(n, n), q.reshape(n, n)
        np.testing.assert_allclose(q.T @ q, np.eye(n), atol=1e-12)
        seen = np.diag(q.T @ h @ q)
        np.testing.assert_allclose(seen, np.linalg.eigvalsh(h)[::-1], rtol=0.02)
        assert (np.diff(seen) < 0).all()


def test_soap_sorts_v_with_its_columns(rng):
    # The first gradient makes column 0 the larger one, the others column 1: at the power step they change places.
    w = parameter(np.zeros((1, 2)))
    optimizer = SOAP([w], precondition_frequency=2, betas=(0.5, 0.5), weight_decay=0.0)
    steps(optimizer, [w], [[[[2.0, 1e-3]]], [[[1e-3, 8.0]]]])
    before = optimizer.state["0"]["v"].copy()
    assert before[0, 0] < before[0, 1]
    steps(optimizer, [w], [[[[1e-3, 8.0]]]])
    after = optimizer.state["0"]["v"]
    assert after[0, 0] > after[0, 1]
    np.testing.assert_allclose(after[0, 0], 0.5 * before[0, 1] + 0.5 * 64, rtol=1e-2)


# ---- both ------------------------------------------------------------------------------------------------------------

MADE = [
    (Shampoo, {"lr": 0.1, "momentum": 0.9, "precondition_frequency": 3, "graft": "adagrad", "beta2": 0.9}),
    (SOAP, {"lr": 0.1, "precondition_frequency": 3}),
]


@pytest.mark.parametrize(("kind", "options"), MADE)
@pytest.mark.parametrize("when", range(1, 8))
def test_a_run_is_resumed_bitwise_between_any_two_steps(kind, options, when, rng):
    params = parameters(rng)
    others = copy.deepcopy(params)
    whole, first, second = kind(params, **options), kind(others, **options), kind(others, **options)
    train(whole, params, when)
    train(first, others, when)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert_same(train(second, others, 7, seed=2), train(whole, params, 7, seed=2))


@pytest.mark.parametrize(("kind", "options"), MADE)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused_by_name_and_nothing_has_changed(kind, options, bad, rng):
    params = parameters(rng)
    optimizer = kind([(f"p{i}", p) for i, p in enumerate(params)], **options)
    train(optimizer, params, 2)
    before, state = arrays(params), copy.deepcopy(optimizer.state_dict())
    params[4].grad.data[0, 1, 1] = bad
    with pytest.raises(
        FloatingPointError, match=rf"{kind.__name__}: the gradient of 'p4' .*SkipNonFinite\(optimizer\)"
    ):
        optimizer.step()
    assert SkipNonFinite(optimizer).step() is None
    assert_same(arrays(params), before)
    for name, own in optimizer.state_dict()["state"].items():
        for slot, x in own.items():
            want = state["state"][name][slot]
            assert_same([x if slot == "t" else x.data], [want if slot == "t" else want.data])


@pytest.mark.parametrize(("kind", "options"), MADE)
def test_which_axes_have_matrices_is_settled_by_the_first_step(kind, options, rng):
    params = parameters(rng)
    optimizer = kind(params, **options)
    optimizer.param_groups[0]["max_precond_dim"] = 3
    train(optimizer, params, 1)
    before = arrays(params)
    optimizer.param_groups[0]["max_precond_dim"] = 4
    with pytest.raises(
        ValueError, match=rf"{kind.__name__}: the first step settled .* '0' \(3, 4\) .*max_precond_dim=4"
    ):
        optimizer.step()
    assert_same(arrays(params), before)
    with pytest.raises(ValueError, match=r"0.h: shape \(\d+,\), must be"):
        kind(params, **options).load_state_dict({**optimizer.state_dict()}, hyper="current")


# ---- CAME ------------------------------------------------------------------------------------------------------------


def test_cames_steps_on_a_constant_outer_product_are_known(rng):
    g = np.outer([1.0, -2.0, 3.0], [4.0, 5.0])
    w = parameter(np.zeros((3, 2)))
    optimizer = CAME([w], lr=0.5, betas=(0.8, 0.9, 0.7), eps=(1e-30, 1e-12))
    s, moved = 0.0, 0.0
    for t in range(1, 21):
        steps(optimizer, [w], [[g]])
        s = 0.7 * s + 0.3 * (0.8 ** (2 * t) + 1e-12)  # u = sign(g), u - m = 0.8^t u
        moved += 0.5 * (1 - 0.8**t) / math.sqrt(s)
        np.testing.assert_allclose(-w.data, moved * np.sign(g), rtol=1e-9)


def test_came_remembers_rows_and_columns_only(rng):
    params = parameters(rng, np.float32)
    optimizer = CAME(params)
    train(optimizer, params, 1)
    sizes = [{slot: x.size for slot, x in own.items() if slot != "t"} for own in optimizer.state.values()]
    assert sizes[0] == {"m": 12, "r": 3, "c": 4, "ru": 3, "cu": 4}
    assert sizes[1] == {"m": 5, "r": 5, "c": 1, "ru": 1, "cu": 1}
    assert sizes[4] == {"m": 12, "r": 6, "c": 4, "ru": 6, "cu": 4}


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e12])
def test_came_in_float32_bears_gradients_of_any_size(size, rng):
    w = parameter(np.zeros((3, 2), np.float32))
    optimizer = CAME([w], lr=0.1)
    steps(optimizer, [w], [[np.full((3, 2), size, np.float32)]] * 3)
    assert np.isfinite(w.data).all()
    assert (w.data == 0).all() == (size == 0)


def test_came_in_float32_leaves_rows_and_columns_without_gradients_alone(rng):
    g = rng.standard_normal((4, 5)).astype(np.float32)
    g[1], g[:, 2:4] = 0, 0
    w = parameter(np.ones((4, 5), np.float32))
    steps(CAME([w], lr=0.1), [w], [[g]] * 5)
    np.testing.assert_array_equal(w.data == 1, g == 0)
    assert np.isfinite(w.data).all()
