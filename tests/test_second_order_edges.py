"""Curvature where it is easily told wrong: inflections, tiny and huge numbers, no samples, random masks."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import minidl as md
from minidl import krylov, nn, optim
from minidl import second_order as so


def leaf(values, dtype=np.float64):
    return md.tensor(np.array(values, dtype), requires_grad=True)


SURFACES = {
    "x^3": (1, lambda w: (w**3).sum()),
    "x^3 + y^2": (2, lambda w: w[0] ** 3 + w[1] ** 2),
    "monkey": (2, lambda w: w[0] ** 3 - 3 * w[0] * w[1] ** 2),
}


@pytest.mark.parametrize("method", ["levenberg_marquardt", "newton", "newton_mr"])
@pytest.mark.parametrize("name", SURFACES)
def test_an_inflection_is_never_called_a_minimum(name, method):
    size, surface = SURFACES[name]
    rng = np.random.default_rng(0)
    for start in [np.full(size, 0.5), *rng.normal(0, 0.5, (8, size))]:
        w = leaf(start)
        found = so.find_critical(lambda w=w: surface(w), w, method=method)
        assert (found.verdict, found.point.kind) == ("critical", "degenerate")


def test_a_minimum_is_still_one():
    for start in np.random.default_rng(1).normal(0, 0.5, (8, 2)):
        w = leaf(start)
        found = so.find_critical(lambda w=w: (w**2).sum() + 0.3 * (w**3).sum() + (w**4).sum(), w)
        assert (found.verdict, found.point.kind) == ("critical", "minimum")


# ---- masks and averages --------------------------------------------------------------------------------------------


def network():
    md.manual_seed(0)
    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)
    return nn.Sequential(*layers).double()


OPTIMIZERS = {
    "TrustRegion": lambda p: optim.TrustRegion(p, radius=0.1),
    "TrustRegion refused": lambda p: optim.TrustRegion(p, radius=0.1, eta=0.99),
    "NewtonCG": optim.NewtonCG,
    "SaddleFreeNewton": lambda p: optim.SaddleFreeNewton(p, damping=10.0, rank=5),
    "GaussNewton": lambda p: optim.GaussNewton(p, damping=10.0),
    "LevenbergMarquardt": lambda p: optim.LevenbergMarquardt(p, damping=10.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_compares_losses_under_one_mask_and_moves_averages_once(name):
    rng = np.random.default_rng(0)
    x, y = md.tensor(rng.normal(size=(16, 4))), md.tensor(rng.normal(size=(16, 2)))
    model, once = network(), network()
    optimizer, values = OPTIMIZERS[name](model.parameters()), []

    def closure():
        z = model(x)
        loss = ((z - y) ** 2).sum() / 2
        values.append(loss.item())
        return (z, loss) if name == "GaussNewton" else (z - y) if name == "LevenbergMarquardt" else loss

    state = md.random.get_state()
    optimizer.step(closure)
    after = md.random.get_state()
    assert len(values) > 1
    md.random.set_state(state)
    once(x)  # one evaluation: the averages and the random stream go on from there as if it were all
    assert md.random.get_state() == after
    np.testing.assert_array_equal(model[1].running_mean.numpy(), once[1].running_mean.numpy())
    assert int(model[1].num_batches_tracked.item()) == 1
    if optimizer.report.accepted:  # the loss at the trial point under the mask of the first evaluation
        md.random.set_state(state)
        with nn.frozen_statistics():
            there = ((model(x) - y) ** 2).sum().item() / 2
        assert there == pytest.approx(optimizer.report.new_loss, rel=1e-12)


# ---- endless descent, no samples -----------------------------------------------------------------------------------


def test_an_escape_ends_where_numbers_are_finite():
    w = leaf([0.0, 0.0])
    found = so.escape(lambda: w[0] ** 2 - w[1] ** 2, w)
    assert found.escaped
    assert found.step == 2.0**20
    assert found.new_loss == -(2.0**40)
    assert np.isfinite(w.data).all()
    w.data = np.zeros(2)
    found = so.escape(lambda: w[0] ** 2 - w[1] ** 2, w, step=1e200)
    assert not found.escaped
    assert found.new_loss == 0
    assert w.data.tolist() == [0, 0]
    found = so.escape(lambda: -(w**2).sum(), w, method="perturbed_descent", lr=1e306)
    assert not found.escaped
    assert w.data.tolist() == [0, 0]


def test_no_samples_have_no_curvature():
    md.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y, measure = md.tensor(np.zeros((0, 3))), md.tensor(np.zeros(0, np.int64)), nn.CrossEntropyLoss(reduction="sum")

    def loss():
        return measure(model(x), y)

    for method in ("auto", "kronecker", "products"):
        h = so.hessian(loss, model, method=method)
        assert h.shape == (26, 26)
        assert not h.matrix.any()
    assert not so.diagonal(loss, model).any()
    assert so.classify(loss, model).kind == "degenerate"
    decayed = so.hessian(lambda: loss() + sum((p**2).sum() for p in model.parameters()), model, method="kronecker")
    np.testing.assert_array_equal(decayed.matrix, 2 * np.eye(26))


@pytest.mark.parametrize("solver", ["auto", "dense", "cg"])
def test_no_residuals_are_a_loss_of_zero(solver):
    w = leaf([1.0, 2.0])
    optimizer = optim.LevenbergMarquardt([w], solver=solver)
    loss = optimizer.step(lambda: md.tensor(np.zeros((0, 2))) @ w)
    assert (loss.item(), optimizer.report.reason, w.data.tolist()) == (0.0, "gradient", [1.0, 2.0])


# ---- tiny and huge numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e-24), (np.float64, 1e-170), (np.float64, 1e170)])
def test_a_gradient_is_not_lost_in_its_square(dtype, scale):
    w = leaf([1.5, 0.5], dtype)
    found = so.classify(lambda: (scale * (w - 1) ** 2).sum(), w)
    assert found.kind == "not critical"
    assert found.gradient_norm == pytest.approx(scale * math.sqrt(2), rel=1e-6)
    assert found.flatness == pytest.approx(1, rel=1e-6)
    w.data = np.ones(2, dtype)
    assert so.classify(lambda: (scale * (w - 1) ** 2).sum(), w).kind == "minimum"


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_krylov_methods_do_not_depend_on_the_scale(scale):
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    a, b = (q * np.linspace(1, 9, 30)) @ q.T, rng.normal(size=30)
    a, x = (a + a.T) / 2, np.linalg.solve(a, b)
    for solve in (krylov.cg, krylov.minres):
        with np.errstate(all="ignore"):  # the decrease, scale^2, is no number of float64
            found = solve(a, scale * b, tol=1e-10)
            other = solve(lambda v: scale * (a @ v), b, tol=1e-10)
        assert found.reason == other.reason == "converged"
        np.testing.assert_allclose(found.x / scale, x, rtol=1e-7)
        np.testing.assert_allclose(other.x * scale, x, rtol=1e-7)
        assert found.residual <= 1.1e-10 * krylov.norm(scale * b)
    values = so.eigsh(scale * a, 2, method="lanczos").values
    np.testing.assert_allclose(values / scale, np.linalg.eigvalsh(a)[-2:], rtol=1e-7)
    nodes = so.spectrum(scale * a, "lanczos", steps=30).nodes
    np.testing.assert_allclose(nodes[0] / scale, np.linspace(1, 9, 30), rtol=1e-9)
    assert so.eigsh(scale * a, 2, method="exact").residuals.max() < 1e-13 * 9 * scale
    T = krylov.lanczos(scale * a, scale * b, 30)
    np.testing.assert_allclose(T.ritz()[0] / scale, np.linspace(1, 9, 30), rtol=1e-9)


def test_the_norm_has_no_square():
    for dtype, small, large in ((np.float64, 1e-300, 1e300), (np.float32, 1e-40, 1e38)):
        for scale in (small, 1.0, large):
            assert krylov.norm(np.array([0.3, -0.4], dtype) * dtype(scale)) == pytest.approx(0.5 * scale, rel=1e-4)
    assert krylov.norm(np.zeros(3)) == krylov.norm(np.zeros(0)) == 0.0
    assert krylov.norm(np.array([1.0, -math.inf])) == math.inf
    assert math.isnan(krylov.norm(np.array([1.0, math.nan])))


# ---- kinks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f",
    [
        nn.SELU(),
        lambda z: z * md.sign(z),
        lambda z: md.fmod(z, 0.3),
        lambda z: z % 0.3,
        lambda z: md.copysign(z, z),
        lambda z: z * md.floor(z),
    ],
)
def test_a_kink_is_warned_of_where_the_caller_stands(f):
    w = leaf([0.5, -1.0, 2.0])
    for call in (so.hessian, so.classify, so.find_critical, so.diagonal):
        with pytest.warns(UserWarning, match="kinks") as caught:
            call(lambda: (f(w) ** 2 + w**2).sum(), w)
        assert [c.filename for c in caught if "kinks" in str(c.message)] == [__file__]


@pytest.mark.parametrize(
    "f",
    [
        nn.Softsign(),
        nn.ELU(),
        nn.CELU(),
        nn.Tanh(),
        lambda z: md.normalize(z[None]),
        lambda z: md.cosine_similarity(z[None], z[None] ** 2),
    ],
)
def test_a_smooth_function_is_not_warned_of(f):
    w = leaf([0.5, -1.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        so.hessian(lambda: (f(w) ** 2).sum(), w)


# ---- arguments -----------------------------------------------------------------------------------------------------


def test_a_class_out_of_range_is_named():
    w = leaf(np.zeros((2, 3)))
    x = md.tensor(np.ones((4, 2)))
    for wrong in (3, -1):
        targets = np.array([0, 2, wrong, 1])
        with pytest.raises(IndexError, match=rf"fisher: targets must lie in \[0, 3\), got {wrong} at index 2"):
            so.FisherOperator(lambda x: x @ w, w, [(x,)], kind="empirical", targets=lambda x, t=targets: t)


def test_a_vector_that_is_not_finite_is_refused():
    w = leaf([1.0, 2.0])
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="1 of the 2 elements of the vector are not finite"):
            so.hvp(lambda: (w**3).sum(), w, [1.0, wrong])


def test_tolerances_counts_and_shapes_are_checked():
    a = np.diag([1.0, 2.0, 3.0])
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="trace: rtol must be a finite number >= 0, got"):
            so.trace(a, rtol=wrong)
        with pytest.raises(ValueError, match="eigsh: tol must be a finite number >= 0, got"):
            so.eigsh(a, tol=wrong)
    assert so.eigsh(a, np.int64(2)).values.tolist() == [2, 3]
    assert so.trace(a, "hutchinson", samples=np.int64(5)).value == 6
    assert so.estimate_diagonal(a, samples=np.int64(5)).value.tolist() == [1, 2, 3]
    assert so.spectrum(a, "lanczos", steps=np.int64(3), probes=np.int64(2)).nodes.shape == (2, 3)
    for solve in (krylov.cg, krylov.minres):
        with pytest.raises(ValueError, match=rf"{solve.__name__}: a vector of 2 elements needs a matrix \(2, 2\)"):
            solve(np.eye(3), np.ones(2))
