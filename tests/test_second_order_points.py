"""Critical points: what kind they are, how they are found and left, and how far the quadratic model holds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.second_order import (
    HessianOperator,
    ParameterVector,
    classify,
    escape,
    find_critical,
    minimum_ratio,
    quadratic_model,
)

ROOT = math.sqrt(0.5)


def leaf(x, dtype=np.float64):
    return md.tensor(np.array(x, dtype), requires_grad=True)


def counts(found):
    return found.negative, found.zero, found.positive


def worst(w):
    return lambda: (1 - w[0] * w[1]) ** 2


def three_layers(w):
    return lambda: (1 - w[0] * w[1] * w[2]) ** 2


def monkey(w):
    return lambda: w[0] ** 3 - 3 * w[0] * w[1] ** 2


def rosenbrock(w):
    return lambda: 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2


# ---- surfaces with known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surface", "at", "kind", "wanted"),
    [
        (worst, [0, 0], "saddle", [-2, 2]),
        (worst, [1, 1], "degenerate", [0, 4]),  # a minimum of a valley: the second order cannot tell
        (worst, [2, 0.5], "degenerate", [0, 8.5]),
        (worst, [4, 0.25], "degenerate", [0, 32.125]),
        (worst, [1, 0.5], "not critical", [1.25 - math.sqrt(0.75**2 + 0), 2.0]),
        (three_layers, [0, 0, 0], "degenerate", [0, 0, 0]),
        (three_layers, [1, 0, 0], "saddle", [-2, 0, 2]),
        (three_layers, [1, 1, 1], "degenerate", [0, 0, 6]),
        (monkey, [0, 0], "degenerate", [0, 0]),
        (rosenbrock, [1, 1], "minimum", [501 - math.sqrt(250601), 501 + math.sqrt(250601)]),
    ],
)
def test_points_of_known_surfaces_are_what_they_are(surface, at, kind, wanted):
    w = leaf(at)
    for method in ("dense", "lanczos"):
        found = classify(surface(w), w, method=method)
        assert found.kind == kind
        if (surface, at) != (worst, [1, 0.5]):
            np.testing.assert_allclose([found.smallest, found.largest], [wanted[0], wanted[-1]], rtol=1e-9, atol=1e-9)
    dense = classify(surface(w), w)
    if (surface, at) != (worst, [1, 0.5]):
        np.testing.assert_allclose(dense.eigenvalues, wanted, rtol=1e-9, atol=1e-9)
        assert counts(dense) == tuple(sum(np.sign(np.round(wanted, 9)) == s) for s in (-1, 0, 1))
    assert w.data.tolist() == at


def test_rosenbrock_is_as_badly_conditioned_as_is_known():
    found = classify(rosenbrock(w := leaf([1, 1])), w)
    assert found.smallest == pytest.approx(0.39936, abs=1e-5)
    assert found.largest == pytest.approx(1001.6006, abs=1e-4)
    assert found.largest / found.smallest == pytest.approx(2508.0, abs=0.1)


def test_maxima_inflections_and_points_with_a_gradient():
    w = leaf([0.0, 0.0, 0.0])
    assert classify(lambda: -(w**2).sum(), w).kind == "maximum"
    assert classify(lambda: (w**2).sum(), w).kind == "minimum"
    assert classify(lambda: (w**3).sum(), w).kind == "degenerate"  # an inflection, and no minimum
    assert classify(lambda: (w**4).sum(), w).kind == "degenerate"  # a minimum, but not for its second order
    found = classify(lambda: (w**3 / 3 + w).sum(), w)  # |g| is least here, and 1
    assert (found.kind, found.gradient_norm, found.flatness) == ("not critical", pytest.approx(math.sqrt(3)), 0.0)
    w.data = np.full(3, 1e-6)
    assert classify(lambda: (w**3).sum(), w).kind == "not critical"  # |g| = 5e-12, but the point is 5e-7 away


def test_a_classification_says_what_it_used():
    w = leaf([1.0, 1.0])
    found = classify(worst(w), w)
    assert repr(found) == (
        "degenerate: 0 negative, 1 zero, 1 positive of 2 eigenvalues, from 0 to 4; zero up to 1.8e-15 (P eps max "
        "|lambda|); |g| = 0.0e+00, zero up to 1.5e-10; loss 0 (dense)"
    )
    assert found.tol == 2 * np.finfo(float).eps * 4
    given = classify(worst(w), w, tol=5.0)
    assert (counts(given), given.tol_reason) == ((0, 2, 0), "given")
    w.data = np.array([1.0 + 1e-9, 1.0])
    assert classify(worst(w), w).kind == "not critical"
    near = classify(worst(w), w, gradient_tol=1e-6)
    assert (near.kind, near.tol_reason) == ("degenerate", "P eps max |lambda| + |g|")
    np.testing.assert_allclose(near.largest_vector, [ROOT, ROOT], rtol=1e-6)
    w = leaf([0.0, 0.0], np.float32)
    assert classify(worst(w), w).kind == "saddle"
    assert classify(worst(w), w).tol == pytest.approx(2 * 2.0**-23 * 2)


def test_a_tolerance_or_method_that_is_none_is_refused():
    w = leaf([0.0, 0.0])
    for name in ("tol", "gradient_tol"):
        for value in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"classify: {name} must be a finite number >= 0, got"):
                classify(worst(w), w, **{name: value})
    with pytest.raises(ValueError, match="classify: method must be one of auto, dense, lanczos, got 'exact'"):
        classify(worst(w), w, method="exact")


# ---- the linear autoencoder: all critical points are known (Baldi & Hornik 1989) -----------------------------------

SPECTRUM = np.array([5.0, 3.0, 2.0, 1.0, 0.4])
SETS = [chosen for k in range(3) for chosen in itertools.combinations(range(5), k)]


class Autoencoder:
    """L = 1/N |X - B A X|^2 for data of covariance diag(5, 3, 2, 1, 0.4) and two hidden units."""

    def __init__(self):
        self.encoder, self.decoder = leaf(np.zeros((2, 5))), leaf(np.zeros((5, 2)))
        self.params = [self.encoder, self.decoder]
        self.data = md.tensor(np.diag(np.sqrt(SPECTRUM)))

    def __call__(self):
        rest = self.data - self.decoder @ (self.encoder @ self.data)
        return (rest * rest).sum()

    def at(self, chosen):
        """Stand at the projection onto some of the axes; hidden units that are left over are zero."""
        encoder = np.zeros((2, 5))
        encoder[range(len(chosen)), chosen] = 1.0
        self.encoder.data, self.decoder.data = encoder, encoder.T.copy()
        return self

    def at_random(self, rng):
        self.encoder.data, self.decoder.data = rng.normal(size=(2, 5)), rng.normal(size=(5, 2))
        return self


def loss_and_index(chosen):
    """The loss, and the Morse index #{(i in I, j not in I): l_j > l_i} + (p - k)(n - k)."""
    others = set(range(5)) - set(chosen)
    crossings = sum(SPECTRUM[j] > SPECTRUM[i] for i in chosen for j in others)
    return SPECTRUM.sum() - SPECTRUM[list(chosen)].sum(), crossings + (2 - len(chosen)) * (5 - len(chosen))


@pytest.mark.parametrize("chosen", SETS, ids=str)
def test_every_critical_point_of_the_linear_autoencoder_has_its_index(chosen):
    network = Autoencoder().at(chosen)
    found = classify(network, network.params)
    loss, index = loss_and_index(chosen)
    zeros = {0: 0, 1: 3, 2: 4}[len(chosen)]  # at k = 2 those of the gauge group GL(2)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert counts(found) == (index, zeros, 20 - index - zeros)
    assert found.kind == ("degenerate" if chosen == (0, 1) else "saddle")
    assert found.minimum_ratio == minimum_ratio(network, network.params) == (20 - index - zeros) / 20
    rough = classify(network, network.params, method="lanczos")
    assert rough.kind == found.kind
    assert (rough.smallest, rough.largest) == pytest.approx((found.smallest, found.largest), rel=1e-6, abs=1e-7)


def test_the_index_of_a_critical_point_rises_with_its_loss():
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed (pip install scipy)")
    network = Autoencoder()
    points = [classify(network.at(chosen), network.params) for chosen in SETS]
    losses = [round(p.loss, 9) for p in points]  # two are the same as others
    correlation = stats.spearmanr(losses, [p.negative for p in points]).statistic
    assert correlation == pytest.approx(0.97186, abs=1e-5)
    shown = {chosen: p.minimum_ratio for chosen, p in zip(SETS, points, strict=True)}
    table = {(): 0.5, (0,): 0.65, (4,): 0.45, (0, 1): 0.8, (0, 2): 0.75, (3, 4): 0.5}
    assert {chosen: shown[chosen] for chosen in table} == table


def test_beyond_a_size_only_the_ends_of_the_spectrum_are_computed(monkeypatch):
    monkeypatch.setattr("minidl.second_order.critical.DENSE", 19)
    network = Autoencoder().at((0, 2))
    found = classify(network, network.params)
    assert (found.method, found.kind, counts(found), found.eigenvalues) == ("lanczos", "saddle", (None,) * 3, None)
    assert "? negative, ? zero, ? positive of 20" in repr(found)
    with pytest.raises(ValueError, match="only the extreme eigenvalues of 20 are known; use method='dense'"):
        found.minimum_ratio  # noqa: B018
    w = leaf(np.zeros(20))
    scale = md.tensor(np.linspace(1.0, 2.0, 20))
    assert counts(classify(lambda: (scale * w * w).sum(), w)) == (0, 0, 20)
    assert counts(classify(lambda: -(scale * w * w).sum(), w)) == (20, 0, 0)


# ---- the search --------------------------------------------------------------------------------------------------

METHODS = ["levenberg_marquardt", "newton", "newton_mr", "gradient_norm"]


@pytest.mark.parametrize("method", METHODS)
def test_a_search_finds_the_critical_point_nearby_and_its_kind(method):
    w = leaf([0.3, 0.1])
    found = find_critical(worst(w), w, method=method)
    assert (found.verdict, found.point.kind, found.reason) == ("critical", "saddle", "gradient")
    np.testing.assert_allclose(w.data, [0, 0], atol=1e-9)
    np.testing.assert_array_equal(found.theta, w.data)
    assert found.gradient_norm == pytest.approx(found.history[-1], rel=1e-6, abs=1e-15)
    assert len(found.history) == found.iterations + 1
    assert list(found.history) == sorted(found.history, reverse=True)


@pytest.mark.parametrize("method", ["levenberg_marquardt", "newton", "newton_mr"])
def test_newton_searches_end_at_the_minimum_of_rosenbrock(method):
    w = leaf([0.8, 0.5])
    found = find_critical(rosenbrock(w), w, method=method)
    assert (found.verdict, found.point.kind) == ("critical", "minimum")
    np.testing.assert_allclose(w.data, [1, 1], rtol=1e-12)
    late = [b / a for a, b in itertools.pairwise(found.history) if a < 1e-4]
    assert late
    assert max(late) < 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [0.5, -1.0, 3.0])
def test_a_place_where_the_gradient_is_only_least_is_no_critical_point(method, start):
    x = leaf([start])
    found = find_critical(lambda: (x**3 / 3 + x).sum(), x, method=method)
    assert found.verdict == "gradient-flat"
    assert found.gradient_norm == pytest.approx(1.0, abs=1e-9)
    assert abs(x.data[0]) < 1e-5
    assert found.log_slope < 1e-5


@pytest.mark.parametrize("most", [200, 45])
def test_an_inflection_is_never_called_a_minimum(most):
    x = leaf([1.0])
    found = find_critical(lambda: (x**3).sum(), x, method="newton", max_iter=most)  # halves x at each step
    assert x.data[0] == 0.5**found.iterations < 1e-13
    assert (found.verdict, found.point.kind) == ("critical", "degenerate")
    assert found.point.tol_reason == "the change of the eigenvalues in the last step"


def test_a_search_that_is_cut_short_says_so_and_one_at_a_critical_point_stays():
    w = leaf([-1.2, 1.0])
    found = find_critical(rosenbrock(w), w, max_iter=2)
    assert (found.verdict, found.reason, found.iterations) == ("not converged", "max_iter", 2)
    assert found.log_slope > 1
    w.data = np.array([1.0, 1.0])
    found = find_critical(rosenbrock(w), w)
    assert (found.verdict, found.iterations, w.data.tolist()) == ("critical", 0, [1.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "starts"), [("levenberg_marquardt", 40), ("newton", 40), ("newton_mr", 12)])
def test_what_a_search_calls_critical_is_among_the_known_points(method, starts):
    """Newton with the pseudo-inverse converges from 113 of 300 starts; Levenberg-Marquardt from all, to more levels."""
    rng, network, losses = np.random.default_rng(1), Autoencoder(), []
    known = {}
    for chosen in SETS:
        loss, index = loss_and_index(chosen)
        known.setdefault(round(loss, 6), set()).add(index)
    for _ in range(starts):
        found = find_critical(network.at_random(rng), network.params, method=method, max_iter=60)
        if found.verdict == "critical":
            assert found.gradient_norm**2 < 1e-16
            assert found.point.negative in known[round(found.loss, 6)]
            losses.append(round(found.loss, 6))
    if method == "levenberg_marquardt":
        assert len(losses) == starts
        assert len(set(losses)) >= 9
    assert losses
    if method == "newton":
        error = math.sqrt(0.377 * 0.623 / starts)
        assert abs(len(losses) / starts - 0.377) < 3 * error


def test_a_search_without_the_hessian_finds_the_same_points(monkeypatch):
    monkeypatch.setattr("minidl.second_order.search.DENSE", 5)
    rng, network = np.random.default_rng(3), Autoencoder()
    losses = {round(loss_and_index(chosen)[0], 6) for chosen in SETS}
    for _ in range(4):
        found = find_critical(network.at_random(rng), network.params)
        assert found.verdict == "critical"
        assert round(found.loss, 6) in losses


def test_a_search_through_a_network_with_batches_and_a_loader_that_shuffles():
    rng = np.random.default_rng(0)
    md.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, y = md.tensor(rng.normal(size=(10, 2))), md.tensor(rng.normal(size=(10, 1)))

    def loss(a, b):
        return ((net(a) - b) ** 2).mean() + 1e-2 * sum((p * p).sum() for p in net.parameters())

    def once():
        yield x[:7], y[:7]
        yield x[7:], y[7:]

    vector = ParameterVector(net)
    with vector.restored():
        found = find_critical(loss, net, once())
        whole = classify(loss, net, [(x, y)])
    assert found.verdict == "critical"
    assert whole.kind == found.point.kind
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    np.testing.assert_allclose(whole.eigenvalues, found.point.eigenvalues, rtol=1e-9, atol=1e-12)


def test_a_search_that_raises_leaves_the_parameters_where_they_were():
    w = leaf([-1.2, 1.0])
    calls = []

    def loss():
        calls.append(0)
        if len(calls) > 12:
            raise KeyError
        return rosenbrock(w)()

    with pytest.raises(KeyError):
        find_critical(loss, w)
    assert w.data.tolist() == [-1.2, 1.0]
    with pytest.raises(ValueError, match="find_critical: method must be one of levenberg_marquardt, newton, "):
        find_critical(rosenbrock(w), w, method="bfgs")
    with pytest.raises(ValueError, match="max_iter must be an integer >= 0, got -1"):
        find_critical(rosenbrock(w), w, max_iter=-1)


def test_kinks_are_warned_of_once_a_search():
    md.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double(), md.ones(5, 3, dtype="float64")
    with pytest.warns(UserWarning, match="kinks .relu.") as caught:
        find_critical(lambda: ((net(x) - 1) ** 2).mean(), net, max_iter=4)
    assert len(caught) == 1


def test_a_step_into_nowhere_is_shortened():
    x = leaf([4.0])
    for method in ("levenberg_marquardt", "newton"):
        x.data = np.array([4.0])
        found = find_critical(lambda: (x - md.log(x)).sum(), x, method=method)  # Newton's step leads to x = -8
        assert (found.verdict, found.point.kind) == ("critical", "minimum")
        assert x.data[0] == pytest.approx(1.0)


# ---- leaving a saddle --------------------------------------------------------------------------------------------


def test_the_decrease_along_negative_curvature_is_what_the_model_says_and_then_less():
    for step in (1e-3, 1e-2, 0.1, 0.5):
        for by in ("dense", "lanczos"):
            w = leaf([0.0, 0.0])
            found = escape(worst(w), w, step=step, curvature_by=by)
            assert (found.escaped, found.evaluations) == (True, 2)
            assert (found.eigenvalue, found.step) == pytest.approx((-2.0, step), rel=1e-12)
            assert found.predicted == pytest.approx(step**2, rel=1e-9)  # 1/2 |lambda| s^2
            assert found.achieved == pytest.approx(step**2 - step**4 / 4, rel=1e-9)
            np.testing.assert_allclose(np.abs(w.data), step * ROOT, rtol=1e-9)


def test_the_step_without_a_length_is_as_long_as_the_model_holds_half():
    w = leaf([0.0, 0.0])
    found = escape(worst(w), w)
    assert (found.step, found.achieved) == pytest.approx((1.0, 0.75))
    for scale, step in ((1e-3, 1024.0), (1e3, 2.0**-10)):  # L = (1 - scale^2 w1 w2)^2: |d| <= sqrt(2) / scale
        w.data = np.zeros(2)
        found = escape(lambda s=scale: (1 - (s * w[0]) * (s * w[1])) ** 2, w)
        assert found.step == pytest.approx(step)
        assert found.achieved >= found.predicted / 2


def test_every_saddle_of_the_linear_autoencoder_can_be_left():
    network = Autoencoder()
    for chosen in SETS:
        found = escape(network.at(chosen), network.params, step=1e-3)
        saddle = loss_and_index(chosen)[1] > 0
        assert found.escaped == saddle
        assert network().item() < found.loss or not saddle
        if saddle:
            assert found.achieved == pytest.approx(-found.eigenvalue * 1e-6 / 2, rel=1e-2)


def test_plain_descent_goes_to_the_saddle_and_one_step_frees_it():
    """L = (1 - w1 w2)^2 from (.5, -.5), on the stable manifold; steps to L < .5 from (e, e) with lr .05."""

    def descend(w, most):
        for step in range(most):
            if worst(w)().item() < 0.5:
                return step
            (g,) = md.autograd.grad(worst(w)(), w)
            w.data = w.data - 0.05 * g.array
        return most

    w = leaf([0.5, -0.5])
    descend(w, 420)
    assert np.abs(w.data).max() < 1e-15
    assert escape(worst(w), w, step=0.1).escaped
    assert descend(w, 100) < 50
    expected = {1e-2: 44, 1e-4: 92, 1e-8: 189, 1e-12: 286}
    assert {e: descend(leaf([e, e]), 400) for e in expected} == expected


def test_a_slope_decides_the_side():
    w = leaf([0.1, 0.05])
    found = escape(worst(w), w, step=0.01)
    assert found.achieved == pytest.approx(found.predicted, rel=1e-3)
    assert found.predicted > 0.01**2  # the gradient helps
    assert w.data.sum() > 0.15


@pytest.mark.parametrize("method", ["negative_curvature", "perturbed_descent"])
def test_a_minimum_is_not_left_nor_moved(method):
    w = leaf([1.0, 1.0])
    found = escape(rosenbrock(w), w, method=method)
    assert (found.escaped, found.achieved, found.step) == (False, 0.0, 0.0)
    assert w.data.tolist() == [1.0, 1.0]
    assert found.reason


@pytest.mark.parametrize("seed", range(5))
def test_a_push_at_random_leaves_saddles_degenerate_ones_too(seed):
    w = leaf([0.0, 0.0])
    found = escape(worst(w), w, method="perturbed_descent", seed=seed)
    assert found.achieved > 0.5 * 1e-2**2 * 2
    assert found.achieved == pytest.approx(1 - worst(w)().item())
    assert found.predicted == pytest.approx(2 * w.data[0] * w.data[1], rel=1e-9)
    w = leaf([0.0, 0.0, 0.0])
    assert not escape(three_layers(w), w).escaped  # H = 0
    found = escape(three_layers(w), w, method="perturbed_descent", seed=seed, radius=0.1)
    assert found.escaped
    assert three_layers(w)().item() < 1
    again = leaf([0.0, 0.0, 0.0])
    escape(three_layers(again), again, method="perturbed_descent", seed=seed, radius=0.1)
    np.testing.assert_array_equal(again.data, w.data)


def test_an_escape_that_fails_or_raises_leaves_the_parameters_where_they_were():
    w = leaf([0.0, 0.0])
    found = escape(worst(w), w, step=5.0)  # much too far: L = (1 - 12.5)^2
    assert (found.escaped, w.data.tolist()) == (False, [0.0, 0.0])
    calls = []

    def raising():
        calls.append(0)
        if len(calls) > 5 and w.data.any():
            raise KeyError
        return worst(w)()

    for method in ("negative_curvature", "perturbed_descent"):
        with pytest.raises(KeyError):
            escape(raising, w, method=method)
        assert w.data.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="escape: method must be one of negative_curvature, perturbed_descent"):
        escape(worst(w), w, method="noise")
    with pytest.raises(TypeError, match="'negative_curvature' has no option 'radius'; it has step"):
        escape(worst(w), w, radius=1.0)
    with pytest.raises(ValueError, match="escape: step must be a finite number > 0, got -1"):
        escape(worst(w), w, step=-1)
    with pytest.raises(ValueError, match="escape: max_iter must be an integer > 0, got 2.5"):
        escape(worst(w), w, method="perturbed_descent", max_iter=2.5)


# ---- the quadratic model -----------------------------------------------------------------------------------------


def trained_network(steps=40):
    md.manual_seed(0)
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = md.tensor(rng.normal(size=(50, 6))), md.tensor(rng.integers(0, 3, 50))
    criterion = nn.CrossEntropyLoss()
    optimizer = md.optim.Adam(net, lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()
    return net, lambda a, b: criterion(net(a), b), [(x[:31], y[:31]), (x[31:], y[31:])]


@pytest.mark.parametrize("seed", range(3))
def test_the_remainders_fall_as_the_second_and_third_power(seed):
    net, loss, batches = trained_network()
    model = quadratic_model(loss, net, batches)
    v = np.random.default_rng(seed).normal(size=model.theta.size)
    before = model.theta.copy()
    curve = model.error_curve(v)
    assert curve.slope(1) == pytest.approx(2.0, abs=0.03)
    assert curve.slope(2) == pytest.approx(3.0, abs=0.05)
    small = curve.steps * np.linalg.norm(v) < 1e-5
    assert (curve.errors(2)[small] < curve.rounding[small]).all(), "the floor of rounding"
    assert (curve.errors(2)[-20:] > curve.rounding[-20:]).all()
    np.testing.assert_array_equal(model.parameters.get(), before)
    unit = model.error_curve(v / np.linalg.norm(v))
    np.testing.assert_allclose(unit.losses, curve.losses, rtol=1e-12)


def test_the_model_of_a_quadratic_is_the_quadratic(rng):
    a, x0 = rng.normal(size=(5, 5)), rng.normal(size=5)
    w = leaf(x0)
    model = quadratic_model(lambda: (w * (md.tensor(a) @ w)).sum() + w.sum(), w)
    v = rng.normal(size=5)
    curve = model.error_curve(v)
    assert (curve.errors(2) <= curve.rounding).all()
    assert math.isnan(curve.slope(2))
    x = x0 + v
    assert model.predict(v) == pytest.approx(x @ a @ x + x.sum(), rel=1e-12)
    g = (a + a.T) @ x0 + 1
    assert model.predict(v, order=1) == pytest.approx(x0 @ a @ x0 + x0.sum() + g @ v, rel=1e-12)
    np.testing.assert_allclose(model.coefficients(v), [g @ v, v @ (a + a.T) @ v], rtol=1e-12)


def test_a_model_stays_what_it_was_when_the_parameters_move():
    net, loss, batches = trained_network(5)
    model = quadratic_model(loss, net, batches)
    v = np.random.default_rng(0).normal(size=model.theta.size)
    first, curve = model.predict(v), model.error_curve(v, [0.1, 1.0])
    parts = model.parameters.split(v)
    model.parameters.set(model.theta + 1.0)
    elsewhere = model.parameters.get()
    assert model.predict(v) == first
    assert model.predict(parts) == first
    again = model.error_curve(v, [0.1, 1.0])
    np.testing.assert_array_equal(again.losses, curve.losses)
    np.testing.assert_array_equal(again.quadratic, curve.quadratic)
    np.testing.assert_array_equal(model.parameters.get(), elsewhere)


def test_a_curve_runs_into_places_without_a_loss_and_refuses_what_is_no_direction():
    w = leaf([1.0])
    model = quadratic_model(lambda: (w * md.log(w)).sum(), w)
    curve = model.error_curve([-1.0])
    assert np.isnan(curve.losses[curve.steps > 1]).all()
    assert curve.slope(2) == pytest.approx(3.0, abs=0.05)
    assert w.data.tolist() == [1.0]
    with pytest.raises(ValueError, match=r"the direction must be a finite vector that is not 0, got \|v\| = 0"):
        model.error_curve([0.0])
    with pytest.raises(ValueError, match="steps must be finite numbers"):
        model.error_curve([1.0], steps=[math.inf])
    for call in (lambda: model.predict([1.0], order=3), lambda: curve.errors(0)):
        with pytest.raises(ValueError, match="order must be 1 or 2"):
            call()


# ---- on the GPU text ---------------------------------------------------------------------------------------------


def test_points_are_classified_found_and_left_on_the_gpu_text(device):
    w = md.tensor(np.array([0.3, 0.1]), device=device, requires_grad=True)
    for method in METHODS:
        with ParameterVector(w).restored():
            assert find_critical(worst(w), w, method=method).point.kind == "saddle"
    found = find_critical(worst(w), w)
    assert classify(worst(w), w, method="lanczos").kind == "saddle"
    assert found.point.smallest == pytest.approx(-2.0)
    assert quadratic_model(worst(w), w).error_curve([1.0, 1.0]).slope(1) == pytest.approx(2.0, abs=0.05)
    for method in ("negative_curvature", "perturbed_descent"):
        with ParameterVector(w).restored():
            assert escape(worst(w), w, method=method).escaped


def test_searching_and_leaving_do_not_touch_gradients_or_statistics():
    md.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1)).double()
    x = md.tensor(np.random.default_rng(0).normal(size=(12, 3)))
    buffers = {name: b.numpy().copy() for name, b in net.named_buffers()}

    def loss():
        return (net(x) ** 2).mean() + 0.1 * sum((p * p).sum() for p in net.parameters())

    first = HessianOperator(loss, net).loss()
    found = find_critical(loss, net, max_iter=30)
    assert found.gradient_norm < 1e-2 * found.history[0]
    classify(loss, net)
    escape(loss, net, method="perturbed_descent", max_iter=5)
    assert HessianOperator(loss, net).loss() <= first
    for name, b in net.named_buffers():
        np.testing.assert_array_equal(b.numpy(), buffers[name])
    assert all(p.grad is None for p in net.parameters())
