"""Sharpness, the edge of stability, and slices of the loss, against closed forms, enumeration and theory."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.second_order import (
    EdgeOfStability,
    HessianOperator,
    ParameterVector,
    eigsh,
    interpolate,
    loss_slice,
    random_direction,
    sharpness,
    trajectory_plane,
)


def parameter(*values):
    return md.tensor(list(values), dtype="float64", requires_grad=True)


def quadratic(eigenvalues, seed=0, at=0.0):
    """A loss (w - c)'A(w - c) / 2 with A of given eigenvalues; its parameters at the minimum c, and A."""
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    a = q * np.asarray(eigenvalues, dtype=float) @ q.T
    c = at * np.random.default_rng(seed).normal(size=n)
    w, matrix, center = parameter(*c), md.tensor((a + a.T) / 2), md.tensor(c)
    return lambda: ((w - center) @ (matrix @ (w - center))) / 2, w, (a + a.T) / 2


def network(*layers, seed=0):
    md.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = nn.Sequential(*layers).double()
    x, y = md.tensor(rng.normal(size=(40, 6))), md.tensor(rng.integers(0, 3, 40))
    return model, x, y, nn.CrossEntropyLoss()


def small(seed=0):
    return network(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), seed=seed)


def descend(loss, params, lr, steps):
    optimizer = md.optim.SGD(params, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


# ---- four measures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("w1", "w2", "expected"), [(1, 1, 4.0), (2, 0.5, 8.5), (4, 0.25, 32.125)])
def test_the_sharpness_of_the_minima_of_a_product_is_known(w1, w2, expected):
    w = parameter(w1, w2)
    for kind in ("lambda_max", "trace"):  # the other eigenvalue is 0
        found = sharpness(lambda: (1 - w[0] * w[1]) ** 2, w, kind=kind)
        assert found.value == pytest.approx(expected, rel=1e-12)
        assert found.converged
    direction = sharpness(lambda: (1 - w[0] * w[1]) ** 2, w).direction
    assert abs(direction @ [w2, w1]) / math.hypot(w1, w2) == pytest.approx(1, rel=1e-12)


def test_batches_of_unequal_size_give_the_sharpness_of_all_samples():
    model, x, y, loss = small()
    for kind in ("lambda_max", "trace", "keskar", "sam"):
        whole = sharpness(lambda: loss(model(x), y), model, kind=kind)
        parts = sharpness(lambda x, y: loss(model(x), y), model, [(x[:33], y[:33]), (x[33:], y[33:])], kind=kind)
        assert parts.value == pytest.approx(whole.value, rel=1e-8)


@pytest.mark.parametrize("n", [2, 5, 10])
def test_the_box_of_keskar_is_searched_nearly_to_its_best_corner(n):
    # A convex function is highest at a corner, and which is hard to know: all 2^n are tried.
    shares = []
    for seed in range(12):
        loss, w, a = quadratic(np.random.default_rng(seed).exponential(size=n), seed, at=2.0)
        theta, epsilon = w.detach().numpy().copy(), 0.1
        half = epsilon * (np.abs(theta) + 1)
        best = max((half * s) @ a @ (half * s) / 2 for s in itertools.product([-1, 1], repeat=n))
        found = sharpness(loss, w, kind="keskar", epsilon=epsilon, starts=8)
        shares.append(found.value / (100 * best))  # L = 0 at the minimum
        assert found.converged
        np.testing.assert_allclose(np.abs(found.direction), half)
        np.testing.assert_array_equal(w.detach().numpy(), theta)
    assert max(shares) <= 1 + 1e-9
    assert min(shares) > 0.8
    assert np.mean(shares) > 0.97
    assert np.mean(np.array(shares) > 0.9999) >= 0.5


def test_keskars_number_is_that_of_its_definition():
    w = parameter(3.0, -1.0)
    found = sharpness(lambda: 2 * w[0] - 5 * w[1] + 1, w, kind="keskar", epsilon=0.01)
    rise = 2 * 0.01 * (3 + 1) + 5 * 0.01 * (1 + 1)  # at the corner epsilon (|w| + 1)
    assert found.value == pytest.approx(100 * rise / (1 + 12), rel=1e-9)
    np.testing.assert_allclose(found.direction, [0.04, -0.02])
    assert math.isnan(found.error)
    by_default = sharpness(lambda: 2 * w[0] - 5 * w[1] + 1, w, kind="keskar")
    assert by_default.value == pytest.approx(found.value / 10, rel=1e-9)


def test_the_highest_point_inside_the_box_is_found():
    w = parameter(0.0, 0.0)
    found = sharpness(lambda: 1 - (w[0] - 0.003) ** 2 - (w[1] + 0.006) ** 2, w, kind="keskar", epsilon=0.01, steps=50)
    assert found.value == pytest.approx(100 * 4.5e-5 / 2, rel=0.02)
    np.testing.assert_allclose(found.direction, [0.003, -0.006], atol=1e-3)


def test_keskars_search_finds_as_much_as_scipys_with_ten_iterations():
    optimize = pytest.importorskip("scipy.optimize")
    model, x, y, loss = small()
    descend(lambda: loss(model(x), y), model.parameters(), 0.5, 200)
    vector = ParameterVector(model)
    theta = vector.get()
    op = HessianOperator(lambda: loss(model(x), y), model)
    half = 1e-2 * (np.abs(theta) + 1)

    def negative(e):
        vector.set(theta + e)
        value, g = op.loss_and_gradient()
        return -value, -g

    box = list(zip(-half, half, strict=True))
    theirs = optimize.minimize(negative, 0 * theta, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 10})
    vector.set(theta)
    base = op.loss()
    found = sharpness(lambda: loss(model(x), y), model, kind="keskar", epsilon=1e-2)
    assert found.value >= 100 * (-theirs.fun - base) / (1 + base) * (1 - 1e-6)
    assert (np.abs(found.direction) <= half * (1 + 1e-12)).all()
    vector.set(theta + found.direction)
    assert 100 * (op.loss() - base) / (1 + base) == pytest.approx(found.value, rel=1e-9)


def test_keskars_random_subspace_stays_in_it():
    loss, w, _ = quadratic(np.arange(1.0, 9))
    full = sharpness(loss, w, kind="keskar", epsilon=0.1, starts=8).value
    found = [sharpness(loss, w, kind="keskar", epsilon=0.1, dimensions=2, seed=seed) for seed in range(3)]
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    y = np.linalg.lstsq(rows.T, found[0].direction, rcond=None)[0]
    np.testing.assert_allclose(y @ rows, found[0].direction, atol=1e-12)
    np.testing.assert_allclose(np.abs(y), 0.1)
    assert all(0 < f.value < full for f in found)
    assert len({f.value for f in found}) == 3


def test_sams_sharpness_is_its_formula_and_its_ascent_ends_at_the_largest_eigenvalue():
    w = parameter(3.0, 4.0)
    found = sharpness(lambda: (w * w).sum() / 2, w, kind="sam", rho=0.5)
    assert found.value == pytest.approx(5.5**2 / 2 - 5**2 / 2, rel=1e-12)
    np.testing.assert_allclose(found.direction, [0.3, 0.4])
    assert sharpness(lambda: (w * w).sum() / 2, w, kind="sam").value == pytest.approx(5.05**2 / 2 - 5**2 / 2, rel=1e-12)
    loss, w, _ = quadratic([5.0, 3.0, 1.0, 0.0])
    found = sharpness(loss, w, kind="sam", rho=0.1, steps=60)
    assert found.value == pytest.approx(5 * 0.1**2 / 2, rel=1e-9)
    assert np.linalg.norm(found.direction) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="steps along the gradient, which is 0 here; use steps > 1"):
        sharpness(loss, w, kind="sam")


def test_measuring_changes_nothing_of_the_network():
    model, x, y, loss = network(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 3))
    state = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    draws = md.random.get_state()
    for kind in ("lambda_max", "trace", "keskar", "sam"):
        values = [sharpness(lambda: loss(model(x), y), model, kind=kind).value for _ in range(2)]
        assert values[0] == values[1]  # the same masks each time
    for name, t in model.state_dict().items():
        assert t.numpy().tobytes() == state[name].tobytes()
    assert all(p.grad is None for p in model.parameters())
    assert md.random.get_state() == draws


def test_sharpness_names_the_options_it_has():
    loss, w, _ = quadratic([1.0, 2.0])
    for options, message in [
        ({"kind": "flatness"}, "kind must be one of lambda_max, keskar, sam, trace, got 'flatness'"),
        ({"kind": "sam", "epsilon": 1.0}, "kind 'sam' takes rho, steps, seed, got epsilon"),
        ({"kind": "lambda_max", "rho": 1.0}, "kind 'lambda_max' takes tol, max_matvecs, v0, seed, got rho"),
        ({"kind": "keskar", "epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"kind": "keskar", "starts": -1}, "starts must be an integer >= 0, got -1"),
        ({"kind": "keskar", "dimensions": 0}, "dimensions must be an integer >= 1, got 0"),
        ({"kind": "sam", "steps": 0}, "steps must be an integer >= 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            sharpness(loss, w, **options)


# ---- the edge of stability ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)])
def test_the_ratio_is_1_where_a_quadratic_begins_to_diverge(momentum, nesterov):
    for factor, falls in ((0.999, True), (1.001, False)):
        loss, w, _ = quadratic([1.0, 0.3])
        lr = factor * (2 + 2 * momentum) / (1 + 2 * momentum if nesterov else 1)
        monitor = EdgeOfStability(loss, w, lr, momentum=momentum, nesterov=nesterov)
        assert monitor().ratio == pytest.approx(factor, rel=1e-6)
        ParameterVector(w).set([1.0, 1.0])
        optimizer = md.optim.SGD([w], lr=lr, momentum=momentum, nesterov=nesterov)
        for _ in range(20_000):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            if not 1e-8 < value.item() < 1e4:
                break
        assert (value.item() < 1) == falls


def test_the_monitor_follows_the_parameters_and_the_rate():
    w = parameter(1.0, 1.0)
    optimizer = md.optim.SGD([w], lr=0.1)
    monitor = EdgeOfStability(lambda: (1 - w[0] * w[1]) ** 2, w, optimizer, every=2)
    first = monitor()
    assert (first.step, first.loss, first.lr) == (0, 0.0, 0.1)
    assert first.ratio == pytest.approx(4 * 0.1 / 2, rel=1e-6)
    assert monitor() is None
    ParameterVector(w).set([2.0, 0.5])
    optimizer.param_groups[0]["lr"] = 0.2
    assert monitor(step=70).ratio == pytest.approx(8.5 * 0.2 / 2, rel=1e-6)
    assert [reading.step for reading in monitor.history] == [0, 70]
    scheduled = EdgeOfStability(lambda: (1 - w[0] * w[1]) ** 2, w, lambda step: 1 / (1 + step))
    assert [scheduled().lr, scheduled().lr] == [1.0, 0.5]


def test_the_monitor_is_right_while_the_sharpest_direction_changes():
    loss_scale = md.tensor(np.zeros(400))
    w = parameter(*np.zeros(400))
    monitor = EdgeOfStability(lambda: (loss_scale * w * w).sum() / 2, w, lr=1.0, tol=1e-3)
    base = 0.1 * np.random.default_rng(0).random(400)
    readings = []
    for t in np.linspace(0, 1, 41):  # the first two directions change places in the middle
        scale = base.copy()
        scale[:2] = 1 - 0.5 * t, 0.5 + 0.5 * t
        with md.no_grad():
            loss_scale[...] = scale
        monitor._op.refresh()  # what moves here is the loss, not the parameters
        readings.append((monitor().sharpness, scale.max()))
    off = np.array([found / true - 1 for found, true in readings])
    assert (off < 1e-6).all()
    assert (off > -0.02).mean() > 0.9
    assert off[-1] > -1e-3
    assert np.mean([reading.matvecs for reading in monitor.history]) < 12


def chebyshev(degree, inverse, steps, every, seed=0):
    """The set-up of Cohen et al. 2021, Appendix: a tanh network 1-50-50-1 that fits a Chebyshev polynomial."""
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, 20)[:, None]
    inputs, targets = md.tensor(x), md.tensor(np.polynomial.chebyshev.Chebyshev.basis(degree)(x))
    model = nn.Sequential(nn.Linear(1, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 1)).double()
    ParameterVector(model).set(
        np.concatenate(
            [
                rng.normal(size=p.size) / math.sqrt(p.shape[1]) if p.ndim == 2 else np.zeros(p.size)
                for p in model.parameters()
            ]
        )
    )

    def loss():
        return ((model(inputs) - targets) ** 2).mean() / 2

    optimizer = md.optim.SGD(model.parameters(), lr=2 / inverse)
    monitor, losses = EdgeOfStability(loss, model, optimizer, every=every), []
    for step in range(steps):
        monitor(step)
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    ratios = np.array([reading.ratio for reading in monitor.history])
    return monitor.history, ratios[len(ratios) // 2 :], np.array(losses)


def test_full_batch_descent_goes_to_the_edge_of_stability_and_stays():
    history, late, losses = chebyshev(3, 20.0, 1500, 30)
    assert history[0].ratio < 0.8
    assert any(reading.ratio > 1 for reading in history)
    assert late.mean() == pytest.approx(1, abs=0.02)
    assert late.std() < 0.02
    assert (np.diff(losses[750:]) > 0).mean() > 0.3  # the loss leaps,
    assert losses[-1] < losses[750]  # and falls
    assert np.mean([reading.matvecs for reading in history]) < 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_edge_of_stability_of_another_task_and_other_starts(seed):
    history, late, losses = chebyshev(4, 20.0, 5000, 25, seed)
    assert history[0].ratio < 0.8
    assert 200 < next(reading.step for reading in history if reading.ratio > 1) < 2000
    assert late.mean() == pytest.approx(1, abs=0.02)
    assert (np.diff(losses[2500:]) > 0).mean() > 0.03


def test_with_cross_entropy_on_the_digits_the_sharpness_falls_instead():
    images, labels = md.data.digits()
    x, y = md.tensor(images[:300].reshape(300, -1) / 16.0), md.tensor(labels[:300])
    md.manual_seed(0)
    model, loss = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double(), nn.CrossEntropyLoss()
    monitor = EdgeOfStability(lambda: loss(model(x), y), model, lr=0.25)
    monitor()
    descend(lambda: loss(model(x), y), model.parameters(), 0.25, 600)
    late = monitor()
    assert late.sharpness < monitor.history[0].sharpness
    assert late.ratio < 0.5


def test_the_monitor_refuses_what_makes_no_sense():
    loss, w, _ = quadratic([1.0, 2.0])
    for options, message in [
        ({"every": 0}, "EdgeOfStability: every must be an integer >= 1, got 0"),
        ({"verify": 0}, "verify must be an integer >= 1, got 0"),
        ({"momentum": 1.0}, "momentum must be in \\[0, 1\\), got 1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            EdgeOfStability(loss, w, 0.1, **options)


# ---- slices ------------------------------------------------------------------------------------------------------


def test_a_slice_is_the_loss_there_and_contains_the_point():
    model, x, y, loss = small()
    vector = ParameterVector(model)
    theta, op = vector.get(), HessianOperator(lambda: loss(model(x), y), model)
    d, e = random_direction(model, seed=1), random_direction(model, seed=2)
    line = loss_slice(lambda: loss(model(x), y), model, d, span=0.5, points=5)
    plane = loss_slice(lambda: loss(model(x), y), model, [d, e], span=[0.5, 2.0], points=5)
    np.testing.assert_array_equal(line.coordinates[0], [-0.5, -0.25, 0, 0.25, 0.5])
    np.testing.assert_array_equal(plane.coordinates[1], [-2, -1, 0, 1, 2])
    assert line.center == plane.center == op.loss()  # bit by bit
    np.testing.assert_array_equal(plane.losses[:, 2], line.losses)
    for i, a in enumerate(plane.coordinates[0]):
        for j, b in enumerate(plane.coordinates[1]):
            with vector.restored():
                vector.set(theta + a * d + b * e)
                assert plane.losses[i, j] == pytest.approx(op.loss(), rel=1e-12)
    assert line.lengths == (pytest.approx(np.linalg.norm(d)),)
    named = loss_slice(lambda: loss(model(x), y), model, vector.split(d), span=0.5, points=5)
    np.testing.assert_array_equal(named.losses, line.losses)


def test_a_slice_along_an_eigenvector_bends_as_its_eigenvalue_says():
    model, x, y, loss = small()
    op = HessianOperator(lambda: loss(model(x), y), model)
    pairs = eigsh(op, 2, "BE")
    assert pairs.values[0] < -1e-3 < 1e-3 < pairs.values[1]
    for value, direction in zip(pairs.values, pairs.vectors.T, strict=True):
        h = 1e-3
        left, middle, right = loss_slice(lambda: loss(model(x), y), model, direction, span=h, points=3).losses
        assert (left - 2 * middle + right) / h**2 == pytest.approx(value, abs=1e-5)


def test_a_minimum_in_a_slice_may_be_a_saddle():
    w = parameter(*np.zeros(200))
    scale = md.tensor(np.r_[-1.0, np.ones(199)])
    losses = [
        loss_slice(lambda: (scale * w * w).sum(), w, np.random.default_rng(seed).normal(size=200)).losses
        for seed in range(20)
    ]
    assert all(row.argmin() == 25 for row in losses)
    assert eigsh(HessianOperator(lambda: (scale * w * w).sum(), w), 1, "SA").values[0] == pytest.approx(-2)


def test_random_directions_are_as_long_as_each_filter():
    md.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()
    with md.no_grad():
        model[0].weight[1] = 0.0
    vector = ParameterVector(model)
    own, d = vector.split(vector.get()), vector.split(random_direction(model))
    for name in ("0.weight", "3.weight"):
        axes = tuple(range(1, own[name].ndim))
        lengths, expected = (np.sqrt((part[name] ** 2).sum(axis=axes)) for part in (d, own))
        np.testing.assert_allclose(lengths, expected, rtol=1e-12)
    assert not d["0.weight"][1].any()  # a filter of zeros
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        assert not d[name].any()
    moving = vector.split(random_direction(model, biases=True))
    assert np.linalg.norm(moving["3.bias"]) == pytest.approx(np.linalg.norm(own["3.bias"]))
    assert not moving["1.bias"].any()  # it is 0
    layer = vector.split(random_direction(model, normalize="layer"))
    assert np.linalg.norm(layer["3.weight"]) == pytest.approx(np.linalg.norm(own["3.weight"]))
    assert layer["0.weight"][1].any()
    whole = random_direction(model, normalize="whole")
    assert np.linalg.norm(whole) == pytest.approx(np.linalg.norm(vector.get()))
    assert np.abs(random_direction(model, seed=1) - random_direction(model)).max() > 0
    with pytest.raises(ValueError, match="normalize must be one of filter, layer, whole, got 'none'"):
        random_direction(model, normalize="none")


def test_scaling_the_layers_of_a_rectified_network_does_not_change_the_picture():
    # Li et al. 2018, Sec. 4: without normalization the same function looks flat or sharp at will.
    model, x, y, loss = network(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    before = loss_slice(lambda: loss(model(x), y), model, random_direction(model), points=11).losses
    with md.no_grad():
        model[0].weight *= 10.0
        model[2].weight /= 10.0
    after = loss_slice(lambda: loss(model(x), y), model, random_direction(model), points=11).losses
    np.testing.assert_allclose(after, before, rtol=1e-10)
    plain = np.random.default_rng(0).normal(size=72)
    assert loss_slice(lambda: loss(model(x), y), model, plain, points=11).losses.max() > 2 * after.max()


def test_nothing_is_changed_by_a_slice_even_if_the_loss_raises():
    model, x, y, loss = network(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 3))
    state = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    arrays = [p.array for p in model.parameters()]
    d, calls = random_direction(model), []

    def breaking():
        calls.append(1)
        if len(calls) == 4:
            raise KeyError("data")
        return loss(model(x), y)

    first = loss_slice(lambda: loss(model(x), y), model, d, points=7).losses
    np.testing.assert_array_equal(loss_slice(lambda: loss(model(x), y), model, d, points=7).losses, first)
    for call in (
        lambda: loss_slice(breaking, model, d, points=7),
        lambda: interpolate(breaking, model, d, 2 * d),
        lambda: sharpness(breaking, model, kind="keskar"),
    ):
        calls.clear()
        with pytest.raises(KeyError):
            call()
    for name, t in model.state_dict().items():
        assert t.numpy().tobytes() == state[name].tobytes()
    assert all(p.array is array for p, array in zip(model.parameters(), arrays, strict=True))


def test_a_loss_that_overflows_is_shown_as_it_is():
    w = parameter(0.0)
    losses = loss_slice(lambda: md.exp(w * w).sum(), w, [1.0], span=100.0, points=3).losses
    assert losses.tolist() == [math.inf, 1.0, math.inf]


def test_interpolation_meets_its_ends_and_knows_the_barrier():
    w = parameter(5.0, 5.0)

    def loss():
        return (1 - w[0] * w[1]) ** 2

    found = interpolate(loss, w, [1.0, 1.0], [-1.0, -1.0], alphas=np.linspace(-0.5, 1.5, 41))
    np.testing.assert_allclose(found.losses, (1 - (1 - 2 * found.alphas) ** 2) ** 2, atol=1e-12)
    assert (found.ends, found.barrier) == ((0.0, 0.0), pytest.approx(1.0))  # through the saddle at 0
    along = interpolate(loss, w, [1.0, 1.0], [2.0, 0.5])
    assert len(along.losses) == 25
    assert 0 < along.barrier < 0.1
    assert w.tolist() == [5, 5]
    one = parameter(0.0)
    bump = interpolate(lambda: 10 - ((one - 1.5) ** 2).sum(), one, [1.0], [3.0], alphas=[0.25, 0.5, 0.75])
    assert (bump.ends, bump.barrier) == ((9.75, 7.75), pytest.approx(1.0))  # above the line from end to end
    convex = interpolate(lambda: (w * w).sum(), w, [1.0, 1.0], [-3.0, 2.0])
    assert (convex.barrier, convex.ends) == (0.0, (2.0, 13.0))
    by_name = interpolate(loss, {"w": w}, {"w": np.ones(2)}, {"w": -np.ones(2)})
    assert by_name.barrier == pytest.approx(1.0)


def test_the_components_of_a_path_are_those_of_its_covariance():
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(size=(30, 12)) * np.geomspace(3, 0.1, 12), axis=0)
    found = trajectory_plane(list(path), k=3)
    values, vectors = np.linalg.eigh(np.cov(path.T))
    np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum(), rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.directions @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-10)
    np.testing.assert_allclose(found.coordinates, (path - path[-1]) @ found.directions.T, atol=1e-12)
    assert not found.coordinates[-1].any()


def test_two_components_explain_most_of_any_random_walk():
    # Antognini & Sohl-Dickstein 2018: 6 / (pi k)^2 of the k-th in many dimensions
    path = np.cumsum(np.random.default_rng(0).normal(size=(300, 5000)), axis=0)
    found = trajectory_plane(path, k=3)
    np.testing.assert_allclose(found.explained, 6 / (math.pi * np.arange(1, 4)) ** 2, atol=0.01)


def test_a_path_of_training_lies_in_the_plane_that_is_shown():
    w = parameter(1.0, 0.7, 0.3)
    vector, path = ParameterVector(w), []
    scale = md.tensor([1.0, 3.0, 0.001], dtype="float64")
    for _ in range(20):
        path.append(vector.get())
        descend(lambda: (scale * w * w).sum(), [w], 0.1, 1)
    path.append(vector.get())
    plane = trajectory_plane(path)
    assert plane.explained.sum() > 0.9999
    spans = np.abs(plane.coordinates).max(axis=0)
    shown = loss_slice(lambda: (scale * w * w).sum(), w, list(plane.directions), span=list(spans), points=11)
    assert shown.losses.argmin() == 60
    corner = np.abs(plane.coordinates[0] / spans)
    assert corner.max() == 1


def test_slices_refuse_what_they_cannot_show():
    w = parameter(1.0, 2.0)

    def loss():
        return (w * w).sum()

    for call, error, message in [
        (lambda: loss_slice(loss, w, [1.0, 0.0], points=50), ValueError, "points must be an odd integer >= 3.*got 50"),
        (lambda: loss_slice(loss, w, [1.0, 0.0, 0.0]), ValueError, "a vector of the 2 parameters, got shape \\(3,\\)"),
        (lambda: loss_slice(loss, w, np.eye(2), span=[1.0, 1.0, 1.0]), ValueError, "span must be a finite number > 0"),
        (lambda: loss_slice(loss, w, [1.0, 0.0], span=0.0), ValueError, "span must be a finite number > 0"),
        (lambda: loss_slice(loss, w, [np.ones(2)] * 3), ValueError, "needs one direction or two, got 3"),
        (lambda: loss_slice(loss, w, [np.nan, 0.0]), ValueError, "a direction has elements that are not finite"),
        (lambda: loss_slice(lambda: w, w, [1.0, 0.0]), ValueError, "the loss must be one number, got shape \\(2,\\)"),
        (lambda: loss_slice(lambda: 1.0, w, [1.0, 0.0]), TypeError, "the loss must be a Tensor, got float"),
        (
            lambda: interpolate(loss, w, [1.0], [1.0, 2.0]),
            ValueError,
            "interpolate: needs a vector of the 2 parameters",
        ),
        (lambda: interpolate(loss, w, w, w, alphas=[np.inf]), ValueError, "alphas must be finite numbers"),
        (lambda: trajectory_plane(np.ones((3, 2))), ValueError, "all points are the same"),
        (lambda: trajectory_plane(np.eye(2), k=2), ValueError, "k must be from 1 to 1 for 2 points, got 2"),
        (lambda: trajectory_plane(np.ones(3)), ValueError, "needs finite points \\(n, P\\), got shape \\(3,\\)"),
    ]:
        with pytest.raises(error, match=message):
            call()
    assert w.tolist() == [1, 2]


def test_everything_runs_on_a_gpu_and_stays_there(fake_cuda):
    model, x, y, loss = small()
    expected = {
        kind: sharpness(lambda: loss(model(x), y), model, kind=kind) for kind in ("lambda_max", "keskar", "sam")
    }
    line = loss_slice(lambda: loss(model(x), y), model, random_direction(model), points=5).losses
    model.to(device="cuda")
    x, y = x.to(device="cuda"), y.to(device="cuda")
    for kind, value in expected.items():
        found = sharpness(lambda: loss(model(x), y), model, kind=kind)
        assert found.value == pytest.approx(value.value, rel=1e-6)
        assert type(found.direction).__module__ != "numpy"
    direction = random_direction(model)
    np.testing.assert_allclose(
        loss_slice(lambda: loss(model(x), y), model, direction, points=5).losses, line, rtol=1e-12
    )
    monitor = EdgeOfStability(lambda: loss(model(x), y), model, lr=0.1)
    assert monitor().sharpness == pytest.approx(expected["lambda_max"].value, rel=1e-4)
    points = [ParameterVector(model).get() * s for s in (3.0, 2.0, 1.0)]
    plane = trajectory_plane(points, k=1)
    assert type(plane.directions) is type(direction)
    assert plane.explained[0] == pytest.approx(1)
    assert interpolate(lambda: loss(model(x), y), model, points[0], points[1]).losses.shape == (25,)
