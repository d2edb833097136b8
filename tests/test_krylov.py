"""CG, Steihaug, MINRES and Lanczos against dense linear algebra, closed forms and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl import krylov
from minidl.engine.backend import to_numpy
from minidl.krylov import cg, lanczos, minres, steihaug


def symmetric(eigenvalues, rng):
    """A dense matrix with given eigenvalues and random eigenvectors."""
    n = len(eigenvalues)
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    a = q * np.asarray(eigenvalues) @ q.T
    return (a + a.T) / 2


def model(a, b, x):
    """b'x - x'Ax / 2: how far the quadratic falls from 0 to x."""
    return b @ x - x @ a @ x / 2


# ---- conjugate gradients -----------------------------------------------------------------------------------------


def test_cg_solves_and_reports_the_true_residual_and_decrease(rng):
    a, b = symmetric(np.linspace(1, 50, 40), rng), rng.normal(size=40)
    found = cg(a, b, tol=1e-12)
    exact = np.linalg.solve(a, b)
    np.testing.assert_allclose(found.x, exact, rtol=1e-10, atol=1e-12)
    assert found.reason == "converged"
    assert found.residual <= 1e-12 * np.linalg.norm(b)
    assert found.decrease == pytest.approx(model(a, b, exact), rel=1e-12)
    early = cg(a, b, tol=0.0, max_iter=5)
    assert (early.reason, early.iterations) == ("max_iter", 5)
    assert early.residual == pytest.approx(np.linalg.norm(b - a @ early.x), rel=1e-12)
    assert early.decrease == pytest.approx(model(a, b, early.x), rel=1e-12)


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_cg_needs_as_many_products_as_there_are_different_eigenvalues(distinct, rng):
    a = symmetric(np.repeat(np.arange(1.0, distinct + 1), 6), rng)
    assert cg(a, rng.normal(size=6 * distinct), tol=1e-10).iterations == distinct


def test_cg_falls_as_fast_as_the_chebyshev_bound(rng):
    condition = 100.0
    a, b = symmetric(np.linspace(1, condition, 60), rng), rng.normal(size=60)
    exact = np.linalg.solve(a, b)
    for k in (5, 10, 20):
        off = cg(a, b, tol=0.0, max_iter=k).x - exact
        rate = (math.sqrt(condition) - 1) / (math.sqrt(condition) + 1)
        assert off @ a @ off <= 4 * rate ** (2 * k) * (exact @ a @ exact)


def test_cg_iterates_are_scipys(rng):
    linalg = pytest.importorskip("scipy.sparse.linalg")
    a, b, x0 = symmetric(np.geomspace(1, 1e3, 30), rng), rng.normal(size=30), rng.normal(size=30)
    jacobi = np.diag(1 / np.diag(a))
    for options in ({}, {"x0": x0}, {"M": jacobi}):
        theirs, _ = linalg.cg(a, b, rtol=0, maxiter=7, **options)
        ours = {"preconditioner" if name == "M" else name: value for name, value in options.items()}
        steps = 7 + ("x0" in options)  # the product for the first residual counts
        np.testing.assert_allclose(cg(a, b, tol=0.0, max_iter=steps, **ours).x, theirs, rtol=1e-9)


def test_the_exact_inverse_as_preconditioner_ends_cg_in_one_step(rng):
    a, b = symmetric(np.geomspace(1, 1e6, 20), rng), rng.normal(size=20)
    found = cg(a, b, preconditioner=np.linalg.inv(a), tol=1e-8)
    assert found.iterations == 1
    np.testing.assert_allclose(a @ found.x, b, atol=1e-7)
    with pytest.raises(ValueError, match="preconditioner must be positive definite"):
        cg(a, b, preconditioner=lambda r: -r)


def test_cg_names_a_direction_of_negative_curvature(rng):
    a, b = symmetric([3, 2, 1, -0.5], rng), rng.normal(size=4)
    found = cg(a, b, tol=1e-12)
    d = found.direction
    assert found.reason == "negative curvature"
    assert found.curvature == pytest.approx(d @ a @ d / (d @ d), abs=1e-12)
    assert found.curvature <= 0
    assert cg(symmetric([3, 2, 1, 0.5], rng), b).direction is None


def test_the_zero_vector_is_solved_by_zero():
    for found in (cg(np.eye(3), np.zeros(3)), minres(np.eye(3), np.zeros(3)), steihaug(np.eye(3), np.zeros(3), 1.0)):
        assert found[1:5] == ("converged", 0, 0.0, 0.0)
        assert not found.x.any()


# ---- trust region ------------------------------------------------------------------------------------------------


def exact_step(a, g, radius):
    """The minimizer of g'p + p'Ap / 2 in the ball, by eigenvalues and bisection of |p(shift)| = radius."""
    values, vectors = np.linalg.eigh(a)
    along = vectors.T @ g

    def step(shift):
        return -vectors @ (along / (values + shift))

    if values[0] > 0 and np.linalg.norm(step(0)) <= radius:
        return step(0)
    low, high = max(0.0, -values[0]) + 1e-14, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(step(middle)) > radius else (low, middle)
    return step(high)


def test_steihaug_is_newtons_step_where_the_ball_is_large(rng):
    a, g = symmetric(np.linspace(1, 9, 20), rng), rng.normal(size=20)
    found = steihaug(a, g, 100.0, tol=1e-12)
    assert found.reason == "converged"
    np.testing.assert_allclose(found.x, -np.linalg.solve(a, g), rtol=1e-9)


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 3.0])
def test_steihaug_reaches_half_of_the_best_decrease_where_the_model_is_convex(radius, rng):
    # Yuan 2000, "On the truncated conjugate gradient method"
    for _ in range(10):
        a, g = symmetric(rng.exponential(size=15) + 1e-3, rng), rng.normal(size=15)
        found, best = steihaug(a, g, radius, tol=1e-10), exact_step(a, g, radius)
        assert np.linalg.norm(found.x) <= radius * (1 + 1e-12)
        assert found.decrease == pytest.approx(model(a, -g, found.x), rel=1e-9)
        assert found.decrease >= model(a, -g, best) / 2


@pytest.mark.parametrize("radius", [0.01, 1.0, 10.0])
def test_steihaug_follows_negative_curvature_to_the_edge(radius, rng):
    for _ in range(10):
        a, g = symmetric(rng.normal(size=12), rng), rng.normal(size=12)
        found = steihaug(a, g, radius, tol=1e-10)
        assert np.linalg.norm(found.x) == pytest.approx(radius, rel=1e-10)
        assert found.decrease == pytest.approx(model(a, -g, found.x), rel=1e-9)
        bend, length = g @ a @ g, np.linalg.norm(g)
        along = radius / length if bend <= 0 else min(radius / length, length**2 / bend)
        assert found.decrease >= model(a, -g, -along * g) * (1 - 1e-12)  # the Cauchy point's
        if found.reason == "negative curvature":
            d = found.direction
            assert found.curvature == pytest.approx(d @ a @ d / (d @ d), rel=1e-9)
            other = found.x - 2 * (found.x @ d) / (d @ d) * d  # where the line leaves the ball on the other side
            assert found.decrease >= model(a, -g, other) - 1e-12


def test_steihaug_in_one_dimension_is_exact():
    for curvature, radius, expected in [(2.0, 1.0, -0.5), (2.0, 0.25, -0.25), (-3.0, 0.5, -0.5), (0.0, 2.0, -2.0)]:
        assert steihaug(np.array([[curvature]]), np.array([1.0]), radius, tol=1e-9).x == expected


def test_steihaug_by_default_stops_at_a_residual_that_shrinks_with_the_gradient(rng):
    a, g = symmetric(np.geomspace(1, 1e3, 100), rng), rng.normal(size=100)
    for length in (1e-2, 1e-6):
        found = steihaug(a, g / np.linalg.norm(g) * length, 1e9)
        assert found.residual <= math.sqrt(length) * length
    assert steihaug(a, g, 1e9, tol=0.0, max_iter=3)[1:3] == ("max_iter", 3)


# ---- minimum residuals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 20, 60, 200])
def test_minres_solves_indefinite_systems(n, rng):
    a, b = symmetric(np.r_[np.linspace(-3, -1, n // 2), np.linspace(1, 7, n - n // 2)], rng), rng.normal(size=n)
    found = minres(a, b, tol=1e-12)
    np.testing.assert_allclose(found.x, np.linalg.solve(a, b), rtol=1e-8, atol=1e-10)
    assert found.iterations <= n
    assert found.residual <= 1e-12 * np.linalg.norm(b)
    assert found.decrease == pytest.approx(model(a, b, found.x), rel=1e-9)


@pytest.mark.parametrize("n", [5, 20, 60, 200])
@pytest.mark.parametrize("condition", [10.0, 1e4])
def test_minres_is_the_pseudo_inverse_of_a_singular_matrix(n, condition, rng):
    null = n // 4
    signs = np.where(np.arange(n - null) % 2, -1, 1)
    a = symmetric(np.r_[np.zeros(null), signs * np.geomspace(1, condition, n - null)], rng)
    b = rng.normal(size=n)
    pseudo = np.linalg.pinv(a, rcond=1e-9, hermitian=True)
    outside = minres(a, b, tol=1e-12)
    assert outside.reason == "least squares"
    assert np.linalg.norm(outside.x - pseudo @ b) <= 1e-4 * np.linalg.norm(pseudo @ b)
    assert outside.residual == pytest.approx(np.linalg.norm(b - a @ pseudo @ b), rel=1e-6)
    inside = minres(a, a @ b, tol=1e-12)
    assert inside.reason == "converged"
    assert np.linalg.norm(inside.x - pseudo @ a @ b) <= 1e-7 * np.linalg.norm(pseudo @ a @ b)


def test_minres_residuals_are_the_smallest_of_the_krylov_space(rng):
    a, b = symmetric(rng.normal(size=30), rng), rng.normal(size=30)
    for k in (1, 2, 5, 9):
        found = minres(a, b, tol=0.0, max_iter=k)
        space = np.linalg.qr(np.stack([np.linalg.matrix_power(a, i) @ b for i in range(k)], axis=1))[0]
        best = np.linalg.lstsq(a @ space, b, rcond=None)[0]
        assert (found.reason, found.iterations) == ("max_iter", k)
        assert found.residual == pytest.approx(np.linalg.norm(b - a @ space @ best), rel=1e-7)
        assert np.linalg.norm(b - a @ found.x) == pytest.approx(found.residual, rel=1e-9)


def test_minres_finds_negative_curvature_exactly_where_there_is_some(rng):
    for smallest in (0.1, -0.1, -2.0):
        a, b = symmetric(np.r_[smallest, np.linspace(1, 5, 24)], rng), rng.normal(size=25)
        found = minres(a, b, tol=1e-12)
        assert (found.direction is None) == (smallest > 0)
        if smallest < 0:
            d = found.direction
            assert found.reason == "converged"
            assert found.curvature == pytest.approx(d @ a @ d / (d @ d), rel=1e-6)
            assert smallest <= found.curvature <= 0
            stopped = minres(a, b, tol=1e-12, stop_at_negative_curvature=True)
            assert stopped.reason == "negative curvature"
            assert stopped.iterations < found.iterations
            np.testing.assert_array_equal(stopped.direction, d)
            np.testing.assert_allclose(b - a @ stopped.x, d, rtol=1e-9)  # the residual of the iterate


def test_minres_iterates_are_scipys(rng):
    linalg = pytest.importorskip("scipy.sparse.linalg")
    a, b = symmetric(np.r_[np.linspace(-2, -1, 10), np.linspace(1, 4, 20)], rng), rng.normal(size=30)
    theirs, _ = linalg.minres(a, b, rtol=1e-12, maxiter=200)
    np.testing.assert_allclose(minres(a, b, tol=1e-12).x, theirs, rtol=1e-8)


# ---- Lanczos -----------------------------------------------------------------------------------------------------


def test_lanczos_of_full_order_has_the_eigenvalues_of_the_matrix(rng):
    a = symmetric(np.r_[np.geomspace(1e-8, 1e4, 60), -np.geomspace(1e-8, 1e2, 40)], rng)
    values, small, residuals = lanczos(a, rng.normal(size=100), 100).ritz()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a), atol=1e-14 * 1e4 * 10)
    np.testing.assert_array_equal(residuals, 0)
    assert small.shape == (100, 100)


def test_lanczos_keeps_its_vectors_orthonormal_and_its_relation(rng):
    a = symmetric(np.r_[1e6, np.linspace(0, 1, 199)], rng)  # converges at once: without reorthogonalization, ghosts
    found = lanczos(a, rng.normal(size=200), 60)
    v, m = found.basis, len(found.diagonal)
    t = np.diag(found.diagonal) + np.diag(found.off_diagonal, 1) + np.diag(found.off_diagonal, -1)
    np.testing.assert_allclose(v @ v.T, np.eye(m), atol=1e-14)
    np.testing.assert_allclose(v @ a @ v.T, t, atol=1e-9)
    left = a @ v.T - v.T @ t
    np.testing.assert_allclose(left[:, :-1], 0, atol=1e-8)
    assert np.linalg.norm(left[:, -1]) == pytest.approx(found.rest, rel=1e-6)
    assert (np.sort(found.ritz()[0])[:-1] < 1.1).all()  # one copy of the outlier


def test_ritz_residuals_are_the_true_ones(rng):
    a = symmetric(rng.normal(size=50), rng)
    found = lanczos(a, rng.normal(size=50), 12)
    values, small, residuals = found.ritz()
    vectors = found.basis.T @ small
    np.testing.assert_allclose(np.linalg.norm(a @ vectors - vectors * values, axis=0), residuals, atol=1e-13)


def test_lanczos_of_a_tridiagonal_matrix_from_the_first_unit_vector_is_that_matrix():
    n = 30
    a = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    found = lanczos(a, np.eye(n)[0], n)
    np.testing.assert_array_equal(found.diagonal, 2)
    np.testing.assert_array_equal(found.off_diagonal, 1)
    expected = 2 - 2 * np.cos(np.arange(1, n + 1) * np.pi / (n + 1))
    np.testing.assert_allclose(found.ritz()[0], expected, atol=1e-13)


def test_lanczos_ends_where_the_space_is_invariant(rng):
    q = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    a = q * np.r_[np.arange(1.0, 4.0), np.zeros(37)] @ q.T
    for columns, size in (([1], 1), ([0, 2], 2), (range(40), 4)):
        found = lanczos(a, q[:, list(columns)].sum(axis=1), 40)
        assert (len(found.diagonal), found.rest) == (size, 0.0)
    assert lanczos(np.zeros((5, 5)), np.ones(5), 5).ritz()[0].tolist() == [0]


# ---- what is taken, what is refused ------------------------------------------------------------------------------


def test_functions_matrices_and_operators_give_the_same(rng):
    linalg = pytest.importorskip("scipy.sparse.linalg")
    a, b = symmetric(np.linspace(1, 3, 10), rng), rng.normal(size=10)
    for given in (lambda v: a @ v, linalg.aslinearoperator(a)):
        np.testing.assert_allclose(cg(given, b).x, cg(a, b).x, rtol=1e-14)


def test_every_method_runs_where_the_vector_lives_and_keeps_its_dtype(xp):
    rng = np.random.default_rng(0)
    host, g = symmetric([4, 3, 2, 1, 0.5], rng), rng.normal(size=5)
    for dtype, tolerance in (("float64", 1e-9), ("float32", 2e-4)):
        a, b = xp.asarray(host.astype(dtype)), xp.asarray(g.astype(dtype))
        exact = np.linalg.solve(host, g)
        for found in (cg(a, b), minres(a, b), steihaug(a, -b, 100.0, tol=1e-6)):
            assert type(found.x) is type(b)
            assert found.x.dtype == dtype
            np.testing.assert_allclose(to_numpy(found.x), exact, rtol=max(tolerance, 1e-5))
        krylov_space = lanczos(lambda v, a=a: a @ v, b, 5)
        assert type(krylov_space.basis) is type(b)
        np.testing.assert_allclose(krylov_space.ritz()[0], [0.5, 1, 2, 3, 4], rtol=tolerance)
        out = minres(xp.asarray(np.diag([1.0, 0.0]).astype(dtype)), xp.asarray(np.ones(2, dtype)))
        assert out.reason == "least squares"
        np.testing.assert_allclose(to_numpy(out.x), [1, 0], atol=1e-6)


def test_what_is_no_vector_or_no_product_is_refused():
    b = np.ones(3)
    for call in (cg, minres, lambda a, v: steihaug(a, v, 1.0), lambda a, v: lanczos(a, v, 2)):
        for bad in ([1.0, 2.0], np.ones(3, int), np.ones((3, 1)), np.ones(0)):
            with pytest.raises(TypeError, match="needs a floating array of shape \\(P,\\), got"):
                call(np.eye(3), bad)
        with pytest.raises(ValueError, match="not finite"):
            call(np.eye(3), np.array([1.0, np.nan, 0.0]))
        with pytest.raises(ValueError, match="product of A and a finite vector is not finite"):
            call(lambda v: v * np.inf, b)
        with pytest.raises(ValueError, match="must be such a vector, got ndarray \\(3, 1\\)"):
            call(lambda v: v[:, None], b)
        with pytest.raises(TypeError, match="needs a function v -> A v, or a matrix or operator with @, got float"):
            call(3.0, b)
    with pytest.raises(ValueError, match="cg: x0 must be an array of shape \\(3,\\), got ndarray \\(1,\\)"):
        cg(np.eye(3), b, x0=np.ones(1))
    for radius in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="radius must be a finite number > 0"):
            steihaug(np.eye(3), b, radius)
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        lanczos(np.eye(3), b, 0)
    with pytest.raises(ValueError, match="starting vector is zero"):
        lanczos(np.eye(3), np.zeros(3), 2)


def test_nothing_given_is_changed(rng):
    a, b, x0 = symmetric([3.0, -2.0, 1.0], rng), rng.normal(size=3), rng.normal(size=3)
    kept = [v.copy() for v in (a, b, x0)]
    cg(a, b, x0=x0)
    minres(a, b)
    steihaug(a, b, 1.0)
    krylov.orthogonalize(np.eye(3)[:2], lanczos(a, b, 3).basis[2])
    for before, after in zip(kept, (a, b, x0), strict=True):
        np.testing.assert_array_equal(before, after)
