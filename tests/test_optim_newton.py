"""Newton's method with products, saddle-free Newton, Gauss-Newton: against SciPy, closed forms, and loops."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import weakref

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.optim import GaussNewton, LevenbergMarquardt, NewtonCG, SaddleFreeNewton, TrustRegion
from minidl.second_order import GaussNewtonOperator
from optim_cases import arrays, assert_same, parameter

SMOOTH = [TrustRegion, NewtonCG, SaddleFreeNewton]
KINDS = [*SMOOTH, GaussNewton, LevenbergMarquardt]
START = [-2.0, 2.0, 0.5, -1.0, 1.5]


def leaf(x):
    return md.tensor(np.array(x, float), requires_grad=True)


def chained(w):
    """Rosenbrock's function of a vector."""
    a, b = w[:-1], w[1:]
    return ((1 - a) ** 2 + 100 * (b - a * a) ** 2).sum()


def residuals(w):
    """The same as 1/2 |r|^2 of residuals."""
    a, b = w[:-1], w[1:]
    return md.concatenate([math.sqrt(2) * (1 - a), math.sqrt(200) * (b - a * a)])


def closure_of(kind, w):
    """A closure for Rosenbrock's function, as this optimizer wants it."""
    if kind is LevenbergMarquardt:
        return lambda: residuals(w)
    if kind is GaussNewton:

        def closure():
            r = residuals(w)
            return r, (r * r).sum() / 2

        return closure
    return lambda: chained(w)


def run(optimizer, closure, steps):
    return [(optimizer.step(closure), optimizer.report)[1] for _ in range(steps)]


# ---- trust region ------------------------------------------------------------------------------------------------


def test_a_trust_region_makes_the_steps_of_scipy():
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed (pip install scipy)")
    points = []
    optimize.minimize(
        optimize.rosen, START, jac=optimize.rosen_der, hessp=optimize.rosen_hess_prod, method="trust-ncg",
        callback=lambda x: points.append(x.copy()), options={"gtol": 1e-12},
    )  # fmt: skip
    w = leaf(START)
    optimizer = TrustRegion([w])
    kinds = set()
    for point in points[:50]:  # later the valley has amplified the last digits
        optimizer.step(lambda: chained(w))
        kinds.add((optimizer.report.reason, optimizer.report.accepted))
        np.testing.assert_allclose(w.data, point, rtol=0, atol=1e-9)
    assert {("boundary", True), ("boundary", False), ("converged", True)} <= kinds
    for _ in range(40):
        optimizer.step(lambda: chained(w))
    assert chained(w).item() < 1e-24 or np.abs(w.data - points[-1]).max() < 1e-8


def test_a_trust_region_takes_refuses_and_resizes_by_its_ratio():
    """L = w^2 - w^3 at w = 1 with H = 2 - 6w = -4, g = -1: m promises r + 2 r^2 along the gradient."""
    for radius in (0.1, 1.5):
        w = leaf([1.0])
        optimizer = TrustRegion([w], radius=radius)
        optimizer.step(lambda w=w: (w**2 - w**3).sum())
        report = optimizer.report
        new = 1 + radius
        assert report.achieved == pytest.approx(0 - (new**2 - new**3), rel=1e-12)
        assert report.predicted == pytest.approx(radius + 2 * radius**2, rel=1e-12)
        assert (report.accepted, report.reason) == (True, "negative curvature")
        assert (report.length, report.radius) == (pytest.approx(radius), pytest.approx(2 * radius))
    w = leaf([0.0])
    optimizer = TrustRegion([w], radius=8.0, max_radius=10.0)
    optimizer.step(lambda: (w - 0.05 * w**2 + w**4).sum())  # concave at 0, but not for long
    assert w.data.tolist() == [0.0]
    assert (optimizer.report.accepted, optimizer.report.radius) == (False, 2.0)
    w.data = np.array([100.0])
    optimizer.memory["radius"] = 8.0
    optimizer.step(lambda: (w**2).sum())
    assert optimizer.report.radius == 10.0


@pytest.mark.parametrize("kind", KINDS)
def test_newton_methods_end_at_the_minimum_of_rosenbrock(kind):
    w = leaf([-1.2, 1.0])
    optimizer = kind([w])
    losses = [float(optimizer.step(closure_of(kind, w)).item()) for _ in range(150 if kind is NewtonCG else 60)]
    assert losses[-1] < 1e-20
    np.testing.assert_allclose(w.data, [1.0, 1.0], rtol=0, atol=1e-9)
    accepted = [b <= a for a, b in itertools.pairwise(losses)]
    assert all(accepted), "a step that raises the loss is refused"


# ---- Newton-CG ---------------------------------------------------------------------------------------------------


def newton_direction(h, g):
    """Alg. 7.1 of Nocedal & Wright with the Hessian in hand."""
    z, r, d = np.zeros_like(g), g.copy(), -g
    goal = min(0.5, math.sqrt(np.linalg.norm(g))) * np.linalg.norm(g)
    for j in range(2 * len(g)):
        if d @ h @ d <= 0:
            return (-g if j == 0 else z), True
        alpha = r @ r / (d @ h @ d)
        z, new = z + alpha * d, r + alpha * h @ d
        if np.linalg.norm(new) < goal:
            return z, False
        d, r = -new + (new @ new) / (r @ r) * d, new
    return z, False


def test_newton_cg_has_the_direction_of_its_book():
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed (pip install scipy)")
    w = leaf(START)
    optimizer = NewtonCG([w])
    bent = 0
    for _ in range(30):
        before = w.data.copy()
        p, negative = newton_direction(optimize.rosen_hess(before), optimize.rosen_der(before))
        bent += negative
        optimizer.step(lambda: chained(w))
        moved, length = w.data - before, np.linalg.norm(w.data - before)
        assert optimizer.report.length == pytest.approx(length, rel=1e-9)
        assert moved @ p == pytest.approx(length * np.linalg.norm(p), rel=1e-9)  # parallel
        t = length / np.linalg.norm(p)
        h, g = optimize.rosen_hess(before), optimize.rosen_der(before)
        assert optimizer.report.predicted == pytest.approx(-t * g @ p - t * t / 2 * p @ h @ p, rel=1e-6, abs=1e-12)
    assert bent > 0


def test_newton_cg_converges_faster_than_linearly():
    w = leaf([0.9, 0.8])
    optimizer = NewtonCG([w])
    norms = [r.gradient_norm for r in run(optimizer, lambda: chained(w), 14)]
    assert norms[-1] < 1e-11
    small = [(a, b) for a, b in itertools.pairwise(norms) if 1e-6 < b < a < 1e-1]
    assert all(b < 0.1 * a for a, b in small)


# ---- saddle-free Newton ------------------------------------------------------------------------------------------


def quartic(w, a, c):
    return (w * (md.tensor(a) @ w)).sum() / 2 + (md.tensor(c) * w).sum() + (w**4).sum() / 4


def quartic_expansion(x, a, c):
    return (a + a.T) / 2 @ x + c + x**3, (a + a.T) / 2 + np.diag(3 * x**2)


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_saddle_free_newton_divides_by_absolute_eigenvalues(damping, rng):
    a, c, x = rng.normal(size=(6, 6)), rng.normal(size=6), 0.3 * rng.normal(size=6)
    g, h = quartic_expansion(x, a, c)
    values, vectors = np.linalg.eigh(h)
    assert values[0] < 0 < values[-1]
    bent = vectors @ np.diag(np.abs(values)) @ vectors.T
    damping *= g @ bent @ g / (g @ g)
    want = -np.linalg.solve(bent + damping * np.eye(6), g)
    for rank in (None, 6):
        w = leaf(x)
        optimizer = SaddleFreeNewton([w], damping=damping * (g @ g) / (g @ bent @ g), rank=rank)
        optimizer.step(lambda w=w: quartic(w, a, c))
        assert optimizer.report.length == pytest.approx(np.linalg.norm(want), rel=1e-9)
        assert optimizer.report.predicted == pytest.approx(-g @ want - want @ h @ want / 2, rel=1e-9)
        if optimizer.report.accepted:
            np.testing.assert_allclose(w.data, x + want, rtol=1e-9)
        assert optimizer.report.products == 6


def test_the_krylov_step_is_the_saddle_free_step_within_its_space(rng):
    a, c, x = rng.normal(size=(8, 8)), rng.normal(size=8), 0.1 * rng.normal(size=8)
    g, h = quartic_expansion(x, a, c)
    v = np.linalg.qr(np.stack([g, h @ g, h @ h @ g], axis=1))[0]
    values, vectors = np.linalg.eigh(v.T @ h @ v)
    want = -(v @ vectors) @ ((v @ vectors).T @ g / np.abs(values))
    w = leaf(x)
    optimizer = SaddleFreeNewton([w], rank=3)
    optimizer.step(lambda: quartic(w, a, c))
    assert optimizer.report.length == pytest.approx(np.linalg.norm(want), rel=1e-9)
    assert optimizer.report.accepted
    np.testing.assert_allclose(w.data, x + want, rtol=1e-8)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("start", [1e-2, 1e-4, 1e-8, 1e-12])
def test_saddle_free_newton_leaves_the_saddle_of_the_worst_network_in_the_expected_steps(start, rank):
    """L = (1 - a^2)^2 along w1 = w2 = a: each step adds |L' / L''|, so a doubles until L < 1/2."""
    edge = math.sqrt(1 - math.sqrt(0.5))
    w = leaf([start, start])
    optimizer = SaddleFreeNewton([w], rank=rank)
    a, expected = start, 0
    while a < edge:
        a += abs(4 * a * (1 - a * a) / (12 * a * a - 4))
        expected += 1
    steps = 0
    while optimizer.step(lambda: (1 - w[0] * w[1]) ** 2).item() >= 0.5:
        steps += 1
    assert steps == expected
    assert abs(steps - math.log2(edge / start)) < 1  # plain descent with lr .05: 44, 92, 189, 286
    for _ in range(30):
        loss = optimizer.step(lambda: (1 - w[0] * w[1]) ** 2).item()
    assert loss < 1e-12


def test_saddle_free_newton_without_curvature_starts_damping_and_goes_on():
    w = leaf([0.0])
    optimizer = SaddleFreeNewton([w])
    reports = run(optimizer, lambda: (w**3 / 3 + w).sum(), 2)  # g = 1, H = 0
    assert [r.accepted for r in reports] == [False, True]
    assert (reports[0].length, reports[0].damping) == (0.0, 1.0)
    assert w.data.tolist() == [-1.0]


def test_a_hessian_that_does_not_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr("minidl.optim.damped.DENSE_BYTES", 1 << 20)
    big = md.zeros((600,), requires_grad=True)
    with pytest.raises(
        ValueError, match=r"SaddleFreeNewton: the Hessian of 600 parameters takes 0.0013 GiB; choose rank"
    ):
        SaddleFreeNewton([big])
    SaddleFreeNewton([big], rank=5)
    w = leaf(np.ones(400))
    with pytest.raises(ValueError, match=r"J is 400 x 400 and takes 0.0012 GiB; use solver='cg'"):
        LevenbergMarquardt([w], solver="dense").step(lambda: w * w)
    LevenbergMarquardt([w]).step(lambda: w * w)


# ---- least squares -----------------------------------------------------------------------------------------------


def decay_problem(rng):
    t = np.linspace(0, 3, 30)
    y = 2 * np.exp(-1.3 * t) + 0.5 * np.cos(2 * t) + 0.01 * rng.normal(size=30)

    def r(w):
        return w[0] * md.exp(-w[1] * md.tensor(t)) + w[2] * md.cos(w[3] * md.tensor(t)) - md.tensor(y)

    def on_arrays(x):
        return x[0] * np.exp(-x[1] * t) + x[2] * np.cos(x[3] * t) - y

    def jacobian(x):
        e, c, s = np.exp(-x[1] * t), np.cos(x[3] * t), np.sin(x[3] * t)
        return np.stack([e, -x[0] * t * e, c, -x[2] * t * s], axis=1)

    return r, on_arrays, jacobian


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_levenberg_marquardt_ends_where_scipy_does(solver, rng):
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed (pip install scipy)")
    r, on_arrays, jacobian = decay_problem(rng)
    start = [1.5, 1.0, 0.7, 1.8]
    want = optimize.least_squares(on_arrays, start, jacobian, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    w = leaf(start)
    optimizer = LevenbergMarquardt([w], solver=solver)
    for _ in range(40):
        loss = optimizer.step(lambda: r(w))
    np.testing.assert_allclose(w.data, want.x, rtol=1e-7)
    assert loss.item() == pytest.approx(want.cost, rel=1e-12)


def test_levenberg_marquardt_follows_its_algorithm_written_with_arrays(rng):
    r, on_arrays, jacobian = decay_problem(rng)
    w, x = leaf(np.ones(4)), np.ones(4)
    optimizer = LevenbergMarquardt([w], damping=0.01)
    mu, grow, refused = None, 2.0, 0
    for _ in range(25):
        residual, j = on_arrays(x), jacobian(x)
        g = j.T @ residual
        mu = 0.01 * float(np.sum((j @ g) ** 2) / (g @ g)) if mu is None else mu
        p = -np.linalg.solve(j.T @ j + mu * np.eye(4), g)
        cost, new = residual @ residual / 2, np.sum(on_arrays(x + p) ** 2) / 2
        predicted = -g @ p - np.sum((j @ p) ** 2) / 2
        rounding = 10 * np.finfo(float).eps * cost
        gained = (cost - new + rounding) / (predicted + rounding)
        optimizer.step(lambda: r(w))
        report = optimizer.report
        assert report.accepted == (gained > 0)
        assert (report.loss, report.new_loss) == (pytest.approx(cost, rel=1e-9), pytest.approx(new, rel=1e-9))
        assert report.predicted == pytest.approx(predicted, rel=1e-4, abs=1e-17)
        if gained > 0:
            x, mu, grow = x + p, mu * max(1 / 3, 1 - (2 * min(gained, 2.0) - 1) ** 3), 2.0
        else:
            mu, grow, refused = mu * grow, 2 * grow, refused + 1
        np.testing.assert_allclose(w.data, x, rtol=1e-7)
        assert report.damping == pytest.approx(mu, rel=1e-5)
    assert refused


@pytest.mark.parametrize("shape", [(3, 7), (9, 4)], ids=["more columns", "more rows"])
def test_without_damping_linear_residuals_take_one_gauss_newton_step(shape, rng):
    a, b = rng.normal(size=shape), rng.normal(size=shape[0])
    want = np.linalg.lstsq(a, b, rcond=None)[0]  # the shortest
    for solver in ("dense", "cg"):
        w, other = leaf(np.zeros(shape[1] - 2)), leaf(np.zeros(2))
        optimizer = LevenbergMarquardt([w, other], damping=0.0, solver=solver, cg_tol=1e-12)
        optimizer.step(lambda w=w, other=other: md.tensor(a) @ md.concatenate([w, other]) - md.tensor(b))
        np.testing.assert_allclose(np.concatenate([w.data, other.data]), want, rtol=1e-8, atol=1e-10)
        assert optimizer.report.reason == ("dense" if solver == "dense" else "converged")


def network_problem(seed=0):
    md.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    rng = np.random.default_rng(seed)
    return net, md.tensor(rng.normal(size=(30, 5))), md.tensor(rng.integers(0, 3, 30))


def test_gauss_newton_solves_with_the_gauss_newton_matrix():
    net, x, y = network_problem()
    ce = nn.CrossEntropyLoss()
    operator = GaussNewtonOperator(lambda: net(x), lambda z: ce(z, y), net)
    matrix, theta = operator @ np.eye(operator.size), operator.parameters.get()
    loss = ce(net(x), y)
    g = operator.parameters.join(md.autograd.grad(loss, list(net.parameters())))
    damping = 0.1 * g @ matrix @ g / (g @ g)
    want = -np.linalg.solve(matrix + damping * np.eye(len(g)), g)
    optimizer = GaussNewton(net, damping=0.1, cg_tol=1e-12)

    def closure():
        z = net(x)
        return z, ce(z, y)

    assert optimizer.step(closure).item() == pytest.approx(loss.item(), rel=1e-14)
    assert optimizer.report.accepted
    np.testing.assert_allclose(operator.parameters.get() - theta, want, rtol=1e-8, atol=1e-12)
    assert optimizer.report.predicted == pytest.approx(-g @ want - want @ matrix @ want / 2, rel=1e-9)


def test_gauss_newton_has_the_gradient_of_what_the_loss_has_besides_outputs():
    w = leaf([1.0, 2.0])
    optimizer = GaussNewton([w], damping=1.0, cg_tol=1e-12)

    def closure():
        z = w * md.tensor([1.0, 3.0])
        return z, (z * z).sum() / 2 + 10 * w.sum()

    optimizer.step(closure)
    g, b = np.array([1.0 + 10, 18.0 + 10]), np.array([1.0, 9.0])
    damping = (b * g * g).sum() / (g * g).sum()
    np.testing.assert_allclose(w.data, np.array([1.0, 2.0]) - g / (b + damping), rtol=1e-10)


# ---- what all keep -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_newton_method_is_resumed_bitwise(kind):
    w, other = leaf(START), leaf(START)
    one, first, second = kind([w]), kind([other]), kind([other])
    run(one, closure_of(kind, w), 12)
    run(first, closure_of(kind, other), 5)
    second.load_state_dict(first.state_dict())
    twin = copy.deepcopy(second)
    run(second, closure_of(kind, other), 7)
    assert_same([other.data], [w.data])
    assert (second.steps, second.memory) == (12, one.memory)
    assert kind is NewtonCG or twin.memory != second.memory
    saved = second.state_dict()
    saved["memory"]["momentum"] = 1.0
    with pytest.raises(ValueError, match=f"{kind.__name__}.load_state_dict: the memory holds momentum, which"):
        second.load_state_dict(saved)
    assert second.memory == one.memory


@pytest.mark.parametrize("kind", SMOOTH)
def test_maximizing_is_minimizing_the_negative(kind):
    w, other = leaf(START), leaf(START)
    up, down = kind([w], maximize=True), kind([other])
    for _ in range(8):
        assert up.step(lambda: -chained(w)).item() == -down.step(lambda: chained(other)).item()
    assert_same([w.data], [other.data])
    assert up.report == down.report


@pytest.mark.parametrize("kind", [GaussNewton, LevenbergMarquardt])
def test_a_sum_of_squares_is_not_maximized(kind):
    with pytest.raises(ValueError, match="maximize must be False: a sum of squares has no maximum"):
        kind([{"params": [leaf([1.0])], "maximize": True}])


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_every_layout_move_and_the_unreached_stay(kind, rng):
    matrix = parameter(np.asfortranarray(rng.normal(size=(3, 2))))
    number, empty = parameter(np.array(0.5)), parameter(np.zeros((0, 2)))
    unreached, frozen = parameter(np.ones(3)), parameter(np.ones(2))
    frozen.requires_grad = False
    params = [matrix, number, empty, unreached, frozen]
    held, before = [p.array for p in params], arrays(params)

    def closure():
        r = md.concatenate([(matrix * frozen[0] - 1).reshape(-1), (number * number - 2).reshape(1)])
        loss = (r * r).sum() / 2
        return r if kind is LevenbergMarquardt else (r, loss) if kind is GaussNewton else loss

    optimizer = kind(params)
    for _ in range(12):
        optimizer.step(closure)
    np.testing.assert_allclose(matrix.data, np.ones((3, 2)), rtol=1e-6)
    np.testing.assert_allclose(number.data, math.sqrt(2), rtol=1e-6)
    assert_same([unreached.data, frozen.data], before[3:])
    assert all(p.array is x for p, x in zip(params, held, strict=True))
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_parameters_stay_float32(kind):
    w = md.tensor(np.array([-1.2, 1.0], np.float32), requires_grad=True)
    optimizer = kind([w])
    for _ in range(150 if kind is NewtonCG else 60):
        loss = optimizer.step(closure_of(kind, w))
    assert w.dtype == np.float32
    assert loss.dtype == np.float32
    np.testing.assert_allclose(w.data, [1.0, 1.0], atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_into_nowhere_is_undone(kind):
    """sqrt(w) at w near 0 on the left of it is nan; a closure that raises leaves the parameters alone."""
    w = leaf([1.0])

    def r():
        return md.sqrt(w) + 0.5 * w

    def closure():
        return r() if kind is LevenbergMarquardt else (r(), (r() ** 2).sum()) if kind is GaussNewton else r().sum()

    def consistent():
        z = r()
        return z if kind is LevenbergMarquardt else (z, (z**2).sum()) if kind is GaussNewton else z.sum()

    optimizer = kind(
        [w], **({"radius": 3.0} if kind is TrustRegion else {"damping": 0.0} if kind is not NewtonCG else {})
    )
    optimizer.step(consistent)
    assert optimizer.report.accepted == (0 <= w.data[0] < 1)
    assert w.data[0] >= 0
    calls = []

    def raising():
        calls.append(0)
        if len(calls) == 2:
            raise KeyError
        return consistent()

    w.data = np.array([1.0])
    with pytest.raises(KeyError):
        optimizer.step(raising)
    assert w.data.tolist() == [1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flat_place_is_left_alone(kind):
    w = leaf([0.0, 0.0])
    optimizer = kind([w])

    def closure():
        z = w * w
        return z if kind is LevenbergMarquardt else (z, (z * z).sum()) if kind is GaussNewton else z.sum()

    optimizer.step(closure)
    assert w.data.tolist() == [0.0, 0.0]
    assert (optimizer.report.accepted, optimizer.report.reason) == (False, "gradient")
    w.data = np.array([0.1, 0.0])
    strict = kind([w], tolerance_grad=10.0)
    strict.step(closure)
    assert w.data.tolist() == [0.1, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_closure_may_not_do_is_said(kind):
    w = leaf([1.0, 2.0])
    optimizer = kind([w])
    before = w.data.copy()

    def give(r, loss):
        return r if kind is LevenbergMarquardt else (r, loss) if kind is GaussNewton else loss

    def backward():
        r = w * w
        loss = (r * r).sum()
        loss.backward()
        return give(r, loss)

    def not_finite():
        r = w / 0.0
        return give(r, r.sum())

    with pytest.raises(ValueError, match=f"{kind.__name__}.step: needs a closure that returns"):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"was freed by a backward\(\); the closure must return it as computed"):
        optimizer.step(backward)
    with pytest.raises(RuntimeError, match="does not depend on any parameter"):
        optimizer.step(lambda: give(md.ones(2), md.ones(())))
    with pytest.raises(TypeError, match=r"must be a Tensor with its graph, got float|returns \(outputs, loss\)"):
        optimizer.step(lambda: 1.0)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="nothing was changed"):
        optimizer.step(not_finite)
    if kind is not LevenbergMarquardt:
        with pytest.raises(ValueError, match=r"the loss must be one number, got shape \(2,\)"):
            optimizer.step(lambda: give(w * w, w * w))
    if kind is GaussNewton:
        with pytest.raises(RuntimeError, match="the loss was not computed from the outputs"):
            optimizer.step(lambda: (w * w, (w * w).sum()))
    with pytest.raises(ValueError, match="one parameter group"):
        kind([{"params": [leaf([1.0])]}, {"params": [leaf([1.0])]}])
    assert_same([w.data], [before])
    assert optimizer.steps == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["dense", "cg"])
def test_newton_methods_run_on_the_gpu_text(kind, option, fake_cuda):
    options = {LevenbergMarquardt: {"solver": option}, SaddleFreeNewton: {"rank": 2 if option == "cg" else None}}
    ends = []
    for device in ("cpu", "cuda:0"):
        w = parameter(np.array([-1.2, 1.0]), device)
        optimizer = kind([w], **options.get(kind, {}))
        run(optimizer, closure_of(kind, w), 4)
        optimizer.load_state_dict(optimizer.state_dict())
        run(optimizer, closure_of(kind, w), 4)
        ends.append(arrays([w])[0])
    np.testing.assert_allclose(*ends, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_leaves_no_graph_behind(kind):
    w = leaf(START)
    nodes = []
    make = closure_of(kind, w)

    def closure():
        found = make()
        loss = found[1] if isinstance(found, tuple) else found
        nodes.append(weakref.ref(loss.node))
        return found

    optimizer = kind([w])
    gc.disable()
    try:
        for _ in range(3):
            optimizer.step(closure)
        assert [ref() for ref in nodes] == [None] * len(nodes)
    finally:
        gc.enable()
