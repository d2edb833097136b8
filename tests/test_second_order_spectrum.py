"""Eigenpairs, traces and densities against dense linear algebra, closed forms and the theory of their errors."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

import minidl as md
from minidl import nn, second_order
from minidl.second_order import HessianOperator, Spectrum, eigsh, estimate_diagonal, spectrum, trace

ENDS = ["LA", "SA", "LM", "BE"]


class Diagonal:
    """A diagonal matrix known by its products, on any device."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.products = values, (len(values),) * 2, values.dtype, 0

    def __matmul__(self, v):
        self.products += 1
        return self.values * v


def wanted(values, k, which):
    values = np.sort(values)
    if which == "LM":
        return np.sort(values[np.argsort(np.abs(values))[-k:]])
    low = {"LA": 0, "SA": k, "BE": k // 2}[which]
    return np.r_[values[:low], values[len(values) - (k - low) :]]


def network(inputs=6, hidden=8, classes=3, n=40, seed=0):
    md.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()
    x, y = md.tensor(rng.normal(size=(n, inputs))), md.tensor(rng.integers(0, classes, n))
    return model, x, y, nn.CrossEntropyLoss()


@pytest.fixture(scope="module")
def hessian():
    """The Hessian of a trained network of 1,210 parameters at the digits: operator, entries, eigenvalues."""
    md.manual_seed(0)
    images, labels = md.data.digits()
    x = md.tensor(images[:500].reshape(500, -1) / 16.0)
    y, model = md.tensor(labels[:500]), nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    loss = nn.CrossEntropyLoss()
    op = HessianOperator(lambda: loss(model(x), y), model)
    entries = second_order.hessian(lambda: loss(model(x), y), model)
    return op, entries, np.linalg.eigvalsh(entries.matrix)


# ---- eigenpairs --------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(1)
SPECTRA = {
    "spread": RNG.normal(size=1200),
    "repeated": np.r_[np.ones(5), -0.9 * np.ones(4), RNG.uniform(-0.5, 0.5, 1191)],
    "clustered": np.r_[1 - 1e-9 * np.arange(6), -0.95 - 1e-6 * np.arange(4), RNG.uniform(-0.5, 0.5, 1190)],
    "low rank": np.r_[np.arange(1.0, 12.0), np.zeros(1189)],
    "projector": np.r_[np.ones(7), np.zeros(1193)],
    "outliers": np.r_[10.0, 9, 8, 7, RNG.exponential(0.1, 1196)],
    "like a network": np.r_[1e-3 * RNG.normal(size=1180), np.geomspace(1e-2, 1, 20)],
    "zero": np.zeros(1200),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_the_right_set_is_found_whatever_the_spectrum(name):
    values = SPECTRA[name]
    scale = np.abs(values).max()
    for which in ENDS:
        for k in (1, 3, 6):
            found = eigsh(Diagonal(values), k, which)
            assert found.converged
            np.testing.assert_allclose(found.values, wanted(values, k, which), atol=1e-8 * scale)
            true = np.linalg.norm(values[:, None] * found.vectors - found.vectors * found.values, axis=0)
            np.testing.assert_allclose(found.residuals, true, atol=1e-15 * max(scale, 1))
            assert (found.residuals <= 2**-26 * scale).all()
            np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-12)


def test_a_second_eigenvalue_close_to_the_first_is_not_taken_for_it():
    values = np.r_[1.0, 0.99, 0.1 * RNG.normal(size=1198)]
    unverified, verified = (
        [eigsh(Diagonal(values), tol=1e-3, seed=seed, verify=verify) for seed in range(100)] for verify in (False, True)
    )
    assert 0 < sum(found.values[0] < 0.999 for found in unverified) < 15  # of Lanczos alone, about 5 in 100
    assert all(found.values[0] > 0.999 and found.converged for found in verified)
    assert np.mean([found.matvecs for found in verified]) < 30


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_where_the_gap_is_wide_the_search_for_missing_ones_ends_by_its_bound(which, monkeypatch):
    sign = -1 if which == "SA" else 1
    values = sign * np.r_[10.0, np.linspace(-5, 1, 1199)]
    alone = eigsh(Diagonal(values), 1, which, tol=1e-3, verify=False).matvecs
    # m steps with 1.648 sqrt(1200) exp(-sqrt(e) (2 m - 1)) <= 1e-6, where e is the gap's share of the spread
    share = 5 / 15 if which == "LM" else 9 / 15
    m = math.ceil((math.log(1.648 * math.sqrt(1200) / 1e-6) / math.sqrt(share) + 1) / 2)
    both = eigsh(Diagonal(values), 1, which, tol=1e-3)
    assert m - 2 <= both.matvecs - alone <= m + 4  # Ritz values lie inside; it looks at every eighth step or so
    monkeypatch.setattr(importlib.import_module("minidl.second_order.spectrum"), "MISSED", 1e-300)
    assert eigsh(Diagonal(values), 1, which, tol=1e-3).matvecs > both.matvecs + 10  # until the next has converged


@pytest.mark.parametrize("tol", [1e-3, 1e-6, None])
def test_a_start_at_the_wrong_eigenvector_does_not_hold_the_search(tol):
    values = np.r_[1.0, 0.95, 0.1 * RNG.normal(size=1198)]
    for seed in range(10):
        assert eigsh(Diagonal(values), tol=tol, v0=np.eye(1200)[1], seed=seed).values[0] == pytest.approx(1, abs=1e-3)


def test_a_start_at_the_right_eigenvector_saves_products():
    values = np.r_[1.0, 0.5, 0.1 * RNG.normal(size=1198)]
    start = np.eye(1200)[0] + 0.01 * np.eye(1200)[7]
    cold, warm = (eigsh(Diagonal(values), v0=v0, tol=1e-3, verify=False).matvecs for v0 in (None, start))
    assert warm <= cold - 3


@pytest.mark.parametrize("which", ENDS)
def test_eigenpairs_of_a_network_are_those_of_its_matrix(hessian, which):
    op, _, exact = hessian
    for k in (1, 10):
        found = eigsh(op, k, which)
        assert found.converged
        np.testing.assert_allclose(found.values, wanted(exact, k, which), atol=1e-10)
        product = op @ found.vectors
        np.testing.assert_allclose(product, found.vectors * found.values, atol=2**-26 * exact[-1])
    assert eigsh(op).matvecs < 60


def test_many_pairs_of_a_small_network_are_right_and_signs_count():
    model, x, y, loss = network(inputs=10, hidden=10, classes=4)  # P = 154
    op = HessianOperator(lambda: loss(model(x), y), model)
    exact = np.linalg.eigvalsh(op @ np.eye(op.size))
    assert exact[0] < -1e-3
    for method in ("exact", "lanczos"):
        for which in ENDS:
            found = eigsh(op, 20, which, method=method)
            np.testing.assert_allclose(found.values, wanted(exact, 20, which), atol=1e-9)
    assert (eigsh(op, 20, "LA").values > 0).all()


def test_small_matrices_are_solved_by_their_entries():
    op = Diagonal(np.arange(256.0))
    found = eigsh(op, 3)
    assert (found.matvecs, op.products, found.converged) == (256, 256, True)
    np.testing.assert_array_equal(found.values, [253, 254, 255])
    assert eigsh(Diagonal(np.arange(257.0)), 3).matvecs < 257
    assert eigsh(Diagonal(np.arange(257.0)), 65).matvecs == 257  # more than a quarter of them
    assert eigsh(Diagonal(np.arange(1.0, 4)), 3, method="lanczos").values.round(9).tolist() == [1, 2, 3]


def test_too_few_products_are_said_and_seen_in_the_residuals():
    values = SPECTRA["spread"]
    with pytest.warns(UserWarning, match="not converged after 11 products: residuals up to .*raise max_matvecs="):
        found = eigsh(Diagonal(values), max_matvecs=11)
    assert (found.converged, found.matvecs) == (False, 11)
    v = found.vectors[:, 0]
    assert found.residuals[0] == pytest.approx(np.linalg.norm(values * v - found.values[0] * v), rel=1e-9)
    assert found.residuals[0] > 1e-3
    with pytest.warns(UserWarning, match="missing eigenvalues are not ruled out"):
        assert not eigsh(Diagonal(SPECTRA["outliers"]), max_matvecs=20).converged
    with pytest.warns(UserWarning, match="residuals up to"):  # below rounding
        assert not eigsh(Diagonal(values), tol=1e-18, max_matvecs=2000).converged


def test_restarts_in_little_memory_find_the_same(monkeypatch):
    values = SPECTRA["spread"]
    monkeypatch.setattr(importlib.import_module("minidl.second_order.spectrum"), "BASIS_BYTES", 0)
    for which in ENDS:
        found = eigsh(Diagonal(values), 3, which)  # in 26 vectors
        assert found.converged
        np.testing.assert_allclose(found.values, wanted(values, 3, which), atol=1e-9)


def test_results_are_reproducible_and_depend_on_the_seed():
    a, b, c = (eigsh(Diagonal(SPECTRA["spread"]), 2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.vectors, b.vectors)
    assert np.abs(a.vectors - c.vectors).max() > 0


def test_operators_matrices_functions_and_hessians_are_taken(hessian):
    linalg = pytest.importorskip("scipy.sparse.linalg")
    op, entries, exact = hessian
    a = entries.matrix
    for given in (op, op.to_scipy(), entries, a, linalg.aslinearoperator(a)):
        np.testing.assert_allclose(eigsh(given, 2).values, exact[-2:], atol=1e-10)
    np.testing.assert_allclose(eigsh(lambda v: a @ v, 2, v0=np.ones(len(a))).values, exact[-2:], atol=1e-10)
    assert eigsh(entries).matvecs == 0
    theirs = linalg.eigsh(op.to_scipy(), 5, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(eigsh(op, 5).values, np.sort(theirs), atol=1e-10)


def test_eigenpairs_live_where_the_matrix_does(xp, device):
    values = SPECTRA["like a network"]
    for dtype in ("float64", "float32"):
        op = Diagonal(xp.asarray(values.astype(dtype)))
        op.parameters = type("P", (), {"device": device})  # where an operator's vectors live
        found = eigsh(op, 2, "BE")
        assert type(found.vectors) is type(op.values)
        assert found.vectors.dtype == dtype
        assert isinstance(found.values, np.ndarray)
        np.testing.assert_allclose(found.values, wanted(values, 2, "BE"), atol=1e-8 if dtype == "float64" else 1e-4)
        assert found.converged
        small = xp.asarray(np.diag(values[-5:]).astype(dtype))
        np.testing.assert_allclose(eigsh(small, 2).values, values[-2:], rtol=1e-6)
        np.testing.assert_allclose(trace(small).value, values[-5:].sum(), rtol=1e-6)
        assert trace(op, samples=2).value == pytest.approx(values.sum(), rel=1e-3)
        better = trace(op, "hutch++", samples=60)
        assert better.value == pytest.approx(values.sum(), abs=5 * better.standard_error)
        assert type(estimate_diagonal(op, samples=2).value) is type(op.values)
        density = spectrum(op, steps=20, probes=2)
        assert density.nodes.max() == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(spectrum(small).nodes[0], values[-5:], rtol=1e-6)


def test_what_eigsh_cannot_do_is_refused():
    a = np.diag(np.arange(300.0))
    for options, error, message in [
        ({"which": "SM"}, ValueError, "which must be one of LA, SA, LM, BE, got 'SM'"),
        ({"k": 0}, ValueError, "k must be an integer from 1 to 300, got 0"),
        ({"k": 301}, ValueError, "k must be an integer from 1 to 300, got 301"),
        ({"max_matvecs": 2}, ValueError, "need max_matvecs of at least 3, got 2"),
        (
            {"v0": np.ones(3)},
            ValueError,
            "v0 must be a finite vector of shape \\(300,\\), not zero, got .*\\(3,\\)",
        ),
        ({"v0": np.zeros(300)}, ValueError, "v0 must be a finite vector"),
        ({"method": "dense"}, ValueError, "method must be one of auto, exact, lanczos, got 'dense'"),
    ]:
        with pytest.raises(error, match=message):
            eigsh(a, **options)
    with pytest.raises(ValueError, match="not symmetric: A and A' differ by 1.0e\\+00"):
        eigsh(np.array([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="square matrix, got shape \\(2, 3\\)"):
        trace(np.ones((2, 3)))
    with pytest.raises(ValueError, match="elements that are not finite"):
        spectrum(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="a function does not tell its size"):
        eigsh(lambda v: v)
    with pytest.raises(TypeError, match="needs an operator, a symmetric matrix or a function v -> A v, got float"):
        eigsh(3.0)
    with pytest.raises(ValueError, match="the product with a finite vector is not finite"):
        eigsh(lambda v: v * np.nan, v0=np.ones(300))
    with pytest.raises(ValueError, match="must be such a vector"):
        eigsh(lambda v: v[:2], v0=np.ones(300))


# ---- trace and diagonal ------------------------------------------------------------------------------------------


def test_the_trace_is_exact_where_it_can_be(hessian):
    op, entries, exact = hessian
    by_products = trace(op, "exact")
    for found in (trace(entries), by_products):
        assert found.value == pytest.approx(exact.sum(), rel=1e-12)
        assert (found.standard_error, found.samples, found.method) == (0.0, 0, "exact")
    assert by_products.matvecs == op.size
    assert trace(Diagonal(np.arange(256.0))).method == "exact"
    assert trace(Diagonal(np.arange(257.0)), samples=2).method == "hutchinson"


def test_hutchinsons_variance_is_the_theory_s(hessian):
    _, entries, exact = hessian
    a = entries.matrix
    linear = type("Entries", (), {"shape": a.shape, "dtype": a.dtype, "__matmul__": lambda self, v: a @ v})()
    n = 4000
    found = trace(linear, samples=n)
    variance = 2 * ((a * a).sum() - (np.diag(a) ** 2).sum())
    # The variance of a variance is about 2 / n of its square, somewhat more with heavy tails: 5 of those.
    assert found.standard_error**2 * n == pytest.approx(variance, rel=5 * math.sqrt(2 / n) * 1.5)
    assert abs(found.value - exact.sum()) < 4 * found.standard_error
    assert (found.samples, found.matvecs) == (n, n)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_the_standard_error_covers_the_truth(method):
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    a = q * np.r_[np.geomspace(10, 0.1, 40), 0.1 * rng.normal(size=260)] @ q.T
    linear = type("Entries", (), {"shape": a.shape, "dtype": a.dtype, "__matmul__": lambda self, v: a @ v})()
    found = [trace(linear, method, samples=60, seed=seed) for seed in range(200)]
    scores = np.array([(f.value - np.trace(a)) / f.standard_error for f in found])
    assert abs(scores.mean()) < 4 / math.sqrt(200)  # unbiased
    assert 0.9 < (np.abs(scores) < 2).mean() <= 1
    assert 0.7 < scores.std() < 1.3


def test_hutch_plus_plus_is_exact_for_few_eigenvalues_and_better_for_a_steep_spectrum():
    steep = 0.8 ** np.arange(400)
    low = trace(Diagonal(np.r_[3.0, -2.0, 1.0, np.zeros(400)]), "hutch++", samples=30)
    assert low.value == pytest.approx(2, abs=1e-12)
    assert low.standard_error < 1e-12
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(400, 400)))[0]
    for values, low_ratio, high_ratio in ((steep, 0.0, 0.2), (np.tile([1.0, -1.0], 200), 1.3, 2.4)):
        a = q * values @ q.T
        linear = type("Entries", (), {"shape": a.shape, "dtype": a.dtype, "__matmul__": lambda self, v, a=a: a @ v})()
        plain, better = (
            np.std([trace(linear, method, samples=60, seed=s).value for s in range(60)])
            for method in ("hutchinson", "hutch++")
        )
        assert low_ratio < better / plain < high_ratio  # on a flat spectrum worse: a third of the samples


def test_the_trace_stops_at_the_error_asked_for():
    values = 1 + np.random.default_rng(0).random(500)
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(500, 500)))[0]
    a = q * values @ q.T
    linear = type("Entries", (), {"shape": a.shape, "dtype": a.dtype, "__matmul__": lambda self, v: a @ v})()
    errors = []
    for seed in range(30):
        found = trace(linear, samples=1000, rtol=2e-3, seed=seed)
        assert 10 <= found.samples < 1000
        assert found.standard_error <= 2e-3 * found.value
        errors.append(found.value / values.sum() - 1)
    assert np.sqrt(np.mean(np.square(errors))) < 2 * 2e-3
    assert trace(linear, samples=20, rtol=1e-9).samples == 20


def test_the_diagonal_is_estimated_with_its_error():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 300))
    a = a + a.T
    linear = type("Entries", (), {"shape": a.shape, "dtype": a.dtype, "__matmul__": lambda self, v: a @ v})()
    found = estimate_diagonal(linear, samples=400)
    theory = np.sqrt(((a * a).sum(axis=1) - np.diag(a) ** 2) / 400)
    np.testing.assert_allclose(found.standard_error, theory, rtol=6 / math.sqrt(2 * 400))
    scores = (found.value - np.diag(a)) / theory
    assert np.abs(scores).max() < 5
    assert 0.85 < scores.std() < 1.15
    assert (found.samples, found.matvecs) == (400, 400)


def test_the_exact_diagonal_of_a_network_is_within_the_estimate(hessian):
    op, entries, _ = hessian
    found = estimate_diagonal(op, samples=50)
    scores = (found.value - np.diag(entries.matrix))[found.standard_error > 1e-12]
    assert np.abs(scores / found.standard_error[found.standard_error > 1e-12]).mean() < 1.2


# ---- all eigenvalues ---------------------------------------------------------------------------------------------


def test_the_exact_spectrum_is_eigvalsh(hessian):
    _, entries, exact = hessian
    found = spectrum(entries)
    np.testing.assert_allclose(found.nodes[0], exact, atol=1e-14)
    assert (found.exact, found.matvecs, found.weights[0, 0]) == (True, 0, 1 / 1210)
    below = found.mean(lambda x: x < 0)
    assert below.value == pytest.approx((exact < 0).mean(), abs=1e-3)
    assert below.standard_error == 0
    edges = np.linspace(exact[0], exact[-1], 30)
    np.testing.assert_allclose(found.histogram(edges).value, np.histogram(exact, edges)[0] / 1210, atol=2e-3)


@pytest.mark.parametrize(("steps", "probes", "bound"), [(20, 10, 5e-3), (40, 10, 3e-3), (60, 30, 2e-3)])
def test_quadrature_comes_close_to_the_exact_spectrum(hessian, steps, probes, bound):
    op, entries, exact = hessian
    found = spectrum(op, steps=steps, probes=probes)
    # Of the range; the probes alone move the mean by 8e-4 with 10 of them, by 4.6e-4 with 30.
    assert found.distance(spectrum(entries)) / (exact[-1] - exact[0]) < bound
    assert found.matvecs == steps * probes
    assert found.nodes.max() == pytest.approx(exact[-1], rel=1e-9)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)


def test_quadrature_is_exact_for_polynomials_of_each_probe():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 60))
    a = (a + a.T) / 10
    op = Diagonal(np.linalg.eigvalsh(a))
    found = spectrum(op, "lanczos", steps=5, probes=4, seed=7)
    draws = np.random.default_rng(7)
    for row in range(4):
        z = 2 * draws.integers(0, 2, 60) - 1
        for degree in range(10):  # 2 * 5 - 1 = 9 is the last
            quadrature = (found.weights[row] * found.nodes[row] ** degree).sum()
            assert quadrature == pytest.approx((z * op.values**degree * z).sum() / 60, rel=1e-9, abs=1e-12)
    assert found.mean(lambda x: x).value * 60 == pytest.approx(np.trace(a), rel=1e-9)  # of a diagonal matrix


def test_moments_have_their_standard_error(hessian):
    op, _, exact = hessian
    scores = []
    for seed in range(6):
        found = spectrum(op, steps=30, probes=10, seed=seed)
        for power in (1, 2):
            estimate = found.mean(lambda x, power=power: x**power)
            scores.append((estimate.value - (exact**power).mean()) / estimate.standard_error)
    assert np.abs(scores).max() < 5
    assert 0.4 < np.std(scores) < 2


def test_a_space_that_closes_early_is_complete():
    values = np.r_[np.zeros(300), 2.0 * np.ones(80), 5.0 * np.ones(20)]
    found = spectrum(Diagonal(values), "lanczos", steps=50, probes=3)
    assert found.matvecs <= 4 * 3
    np.testing.assert_allclose(found.histogram([-1, 1, 3, 6]).value, [0.75, 0.2, 0.05], atol=1e-12)  # diagonal: exact
    identity = spectrum(Diagonal(np.ones(400)), "lanczos", probes=2)
    np.testing.assert_array_equal(identity.nodes, 1)
    assert not spectrum(Diagonal(np.zeros(400)), probes=2).nodes.any()


def test_the_spectrum_of_a_covariance_is_marchenko_and_pasturs():
    n, p = 2000, 500
    x = np.random.default_rng(0).normal(size=(n, p))
    linear = type("Gram", (), {"shape": (p, p), "dtype": x.dtype, "__matmul__": lambda self, v: x.T @ (x @ v) / n})()
    found = spectrum(linear, steps=60, probes=10)
    low, high = (1 - math.sqrt(p / n)) ** 2, (1 + math.sqrt(p / n)) ** 2
    assert found.nodes.min() == pytest.approx(low, abs=0.02)
    assert found.nodes.max() == pytest.approx(high, abs=0.04)
    grid = np.linspace(low, high, 20001)
    middle = (grid[1:] + grid[:-1]) / 2
    law = np.sqrt((high - middle) * (middle - low)) / (2 * math.pi * (p / n) * middle)
    weights = law / law.sum()
    assert law.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-3)
    theory = Spectrum(middle[None], weights[None], True, p, 0)
    assert found.distance(theory) < 0.03  # three standard errors of the mean, sqrt(2 p (p / n) / probes) / p = 0.01
    assert found.mean(lambda x: x * x).value == pytest.approx(1 + p / n, rel=0.02)


def test_density_integrates_to_one_and_is_the_sum_of_its_kernels():
    found = spectrum(np.diag([0.0, 0.0, 1.0, 3.0]))
    grid = np.linspace(-2, 5, 2001)
    density = found.density(grid, 0.1)
    assert np.trapezoid(density.value, grid) == pytest.approx(1, abs=1e-9)
    peak = 1 / (0.1 * math.sqrt(2 * math.pi))
    assert found.density([0.0], 0.1).value[0] == pytest.approx(peak / 2, rel=1e-9)
    assert not density.standard_error.any()
    estimated = spectrum(Diagonal(SPECTRA["spread"]), steps=30, probes=5).density(grid, 0.2)
    assert estimated.value.shape == estimated.standard_error.shape == (2001,)
    assert np.trapezoid(estimated.value, grid) < 1  # half of it lies below the grid


def test_distances_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (Spectrum(rng.normal(size=(3, n)), rng.dirichlet(np.ones(n), 3), False, 9, 0) for n in (4, 9))
        theirs = stats.wasserstein_distance(a.nodes.ravel(), b.nodes.ravel(), a.weights.ravel(), b.weights.ravel())
        assert a.distance(b) == pytest.approx(theirs, rel=1e-12)
        assert a.distance(a) == 0


def test_estimates_refuse_what_they_cannot_do():
    a = np.eye(3)
    for call, message in [
        (lambda: trace(a, "xtrace"), "method must be one of auto, exact, hutchinson, hutch\\+\\+, got 'xtrace'"),
        (lambda: trace(a, samples=1), "samples must be an integer >= 2, got 1"),
        (lambda: trace(a, "hutch++", samples=5), "samples must be an integer >= 6, got 5"),
        (lambda: estimate_diagonal(a, samples=1), "samples must be an integer >= 2, got 1"),
        (lambda: spectrum(a, "kpm"), "method must be one of auto, exact, lanczos, got 'kpm'"),
        (lambda: spectrum(a, steps=0), "steps must be an integer >= 1, got 0"),
        (lambda: spectrum(a, probes=1), "probes must be an integer >= 2, got 1"),
        (lambda: spectrum(a).density([0.0], 0.0), "needs a grid \\(n,\\) and a width > 0"),
        (lambda: spectrum(a).mean(lambda x: x.sum()), "f must return one number a node \\(1, 3\\), got \\(\\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


# ---- what is known of the spectra of networks --------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 4, 6])
def test_a_mixture_of_classes_has_one_outlier_less_than_classes(classes):
    # Sagun et al. 2017; Papyan 2019; Ghorbani et al. 2019
    rng = np.random.default_rng(classes)
    means = rng.normal(size=(classes, 20))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    labels = rng.integers(0, classes, 1000)
    x, y = md.tensor(means[labels] + 0.3 * rng.normal(size=(1000, 20))), md.tensor(labels)
    md.manual_seed(classes)
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    loss, optimizer = nn.CrossEntropyLoss(), md.optim.SGD(model.parameters(), lr=0.5)
    for step in range(301):
        if step in (30, 100, 300):
            values = eigsh(second_order.hessian(lambda: loss(model(x), y), model), 13).values[::-1]
            ratios = values[:-1] / values[1:]
            assert ratios.argmax() == classes - 2  # of lambda_k / lambda_(k+1), k = 1 ... 12, the one at C - 1
            assert ratios.max() > 1.5
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
