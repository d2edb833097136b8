"""Products with the Hessian, the Gauss-Newton matrix and the Fisher information, each by two independent routes."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.second_order import (
    FiniteDifferenceOperator,
    FisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    ParameterVector,
    fisher_vp,
    ggnvp,
    hvp,
)


def network(*layers, seed=0):
    md.manual_seed(seed)
    return nn.Sequential(*layers).double()


def data(n=20, inputs=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return md.tensor(rng.normal(size=(n, inputs))), md.tensor(rng.integers(0, classes, n))


def small(seed=0):
    return network(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), seed=seed)


def relative(a, b):
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))


CE = nn.CrossEntropyLoss()


# ---- the vector of parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["module", "parameters", "pairs", "dict", "tensors"])
def test_parameters_are_one_vector_however_they_are_given(given):
    model = small()
    params = {
        "module": model,
        "parameters": model.parameters(),
        "pairs": list(model.named_parameters()),
        "dict": dict(model.named_parameters()),
        "tensors": [p for _, p in model.named_parameters()],
    }[given]
    vector = ParameterVector(params)
    names = ["0", "1", "2", "3"] if given == "tensors" else ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert vector.names == names
    assert vector.size == 6 * 5 + 5 + 5 * 3 + 3 == sum(p.size for p in model.parameters())
    theta = vector.get()
    np.testing.assert_array_equal(theta[vector.slices[names[2]]], model[2].weight.detach().numpy().ravel())
    np.testing.assert_array_equal(vector.join(vector.split(theta)), theta)
    vector.set(2 * theta)
    np.testing.assert_array_equal(vector.get(), 2 * theta)
    assert vector.split(theta)[names[0]].shape == (5, 6)


def test_setting_parameters_is_seen_by_a_recorded_graph():
    w = md.tensor([1.0, 2.0], requires_grad=True)
    y = (w * w).sum()
    ParameterVector(w).set([3.0, 4.0])
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        y.backward()


def test_parameters_are_restored_bitwise_after_an_exception_and_a_rebinding():
    model = small()
    vector = ParameterVector(model)
    before, array = vector.get(), model[0].weight.array

    def spoil():
        with vector.restored():
            vector.set(before + 1e-3)
            model[0].weight.data = np.zeros((5, 6))
            raise KeyError

    with pytest.raises(KeyError):
        spoil()
    assert model[0].weight.array is array
    assert vector.get().tobytes() == before.tobytes()


def test_tied_parameters_count_once_and_frozen_ones_not_at_all():
    model = small()
    tied = ParameterVector([("a", model[0].weight), ("b", model[0].weight), ("c", model[2].bias)])
    assert tied.names == ["a", "c"]
    model[0].weight.requires_grad = False
    assert ParameterVector(model).names == ["0.bias", "2.weight", "2.bias"]


def test_parameters_refuse_what_is_not_one_vector():
    a, b = md.tensor([1.0], requires_grad=True), md.tensor([1.0], dtype="float64", requires_grad=True)
    with pytest.raises(TypeError, match="one dtype and device, but 'a' is float32 on cpu and 'b' is float64"):
        ParameterVector({"a": a, "b": b})
    with pytest.raises(ValueError, match="'0' does not require a gradient; set requires_grad=True"):
        ParameterVector([md.tensor([1.0])])
    with pytest.raises(ValueError, match="is a result; pass its leaf"):
        ParameterVector([a * 2])
    with pytest.raises(ValueError, match="at least one parameter"):
        ParameterVector([])
    with pytest.raises(TypeError, match="must be a Tensor, got ndarray"):
        ParameterVector([np.ones(2)])
    vector = ParameterVector(a)
    for call in (vector.set, vector.split):
        with pytest.raises(ValueError, match="needs a vector of the 1 parameters, got shape \\(2,\\)"):
            call(np.ones(2))
    with pytest.raises(ValueError, match="0 must have its parameter's shape \\(1,\\), got \\(3,\\)"):
        vector.join([np.ones(3)])
    with pytest.raises(ValueError, match="needs a part for each of"):
        vector.join({"other": np.ones(1)})


# ---- products ----------------------------------------------------------------------------------------------------

LAYERS = {
    "tanh": lambda: [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)],
    "softplus": lambda: [nn.Linear(6, 4), nn.Softplus(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3)],
    "dropout": lambda: [nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)],
    "batch norm": lambda: [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)],
    "layer norm": lambda: [nn.Linear(6, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)],
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_agree_with_differences_and_the_hessian_is_symmetric(name):
    model = network(*LAYERS[name]())
    x, y = data()
    buffers = {key: t.numpy().copy() for key, t in model.named_buffers()}
    state = md.random.get_state()
    op = HessianOperator(lambda: CE(model(x), y), model)
    v = np.random.default_rng(1).normal(size=op.size)
    assert relative(op @ v, FiniteDifferenceOperator(lambda: CE(model(x), y), model) @ v) < 1e-7
    matrix = op @ np.eye(op.size)
    assert np.abs(matrix - matrix.T).max() < 1e-14
    np.testing.assert_array_equal(op @ v, op @ v)
    assert relative(matrix @ v, op @ v) < 1e-13
    assert all((t.numpy() == buffers[key]).all() for key, t in model.named_buffers())
    assert md.random.get_state() == state
    assert all(p.grad is None for p in model.parameters())


def test_batches_of_unequal_size_weigh_by_their_samples():
    model = small()
    x, y = data(70)
    whole = HessianOperator(lambda: CE(model(x), y), model)
    ragged = HessianOperator(lambda x, y: CE(model(x), y), model, [(x[:64], y[:64]), (x[64:], y[64:])])
    v = np.random.default_rng(1).normal(size=whole.size)
    assert relative(ragged @ v, whole @ v) < 1e-14
    assert abs(ragged.loss() - whole.loss()) < 1e-15
    assert relative(ragged.gradient(), whole.gradient()) < 1e-14


def test_batches_beyond_the_memory_for_graphs_are_recorded_again(monkeypatch):
    model, (x, y) = network(*LAYERS["dropout"]()), data(30)
    batches = [(x[:7], y[:7]), (x[7:19], y[7:19]), (x[19:], y[19:])]
    kept = HessianOperator(lambda x, y: CE(model(x), y), model, batches)
    v = np.random.default_rng(1).normal(size=kept.size)
    monkeypatch.setattr("minidl.second_order.operator.GRAPH_BYTES", 6000)
    again = HessianOperator(lambda x, y: CE(model(x), y), model, batches)
    assert [g is None for g in again._graphs] == [False, True, True]
    assert relative(again @ v, kept @ v) < 1e-14


def test_a_parameter_that_the_loss_does_not_reach_has_zeros():
    a = md.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    b = md.tensor([5.0], dtype="float64", requires_grad=True)
    c = md.tensor([5.0], dtype="float64", requires_grad=True)
    op = HessianOperator(lambda: (a**2).sum() + c.sum(), {"b": b, "a": a, "c": c})
    np.testing.assert_array_equal(op @ np.eye(4), np.diag([0.0, 2.0, 2.0, 0.0]))
    np.testing.assert_array_equal(op.gradient(), [0, 2, 4, 1])
    constant = HessianOperator(lambda: md.tensor(3.0), a)
    np.testing.assert_array_equal(constant @ np.ones(2), [0, 0])


@pytest.mark.parametrize("how", ["set", "data", "behind the back", "rebound"])
def test_a_product_follows_the_parameters(how):
    w = md.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    op = HessianOperator(lambda: (w**3).sum(), w)
    if how == "set":
        op.parameters.set([3.0, 4.0])
    elif how == "data":
        with md.no_grad():
            w[:] = np.array([3.0, 4.0])
    elif how == "behind the back":
        w.array[:] = [3.0, 4.0]
    else:
        w.data = np.array([3.0, 4.0])
    np.testing.assert_array_equal(op @ np.ones(2), [18, 24])
    assert op.loss() == 27 + 64


def test_refresh_sees_what_else_has_changed():
    w = md.tensor([1.0], dtype="float64", requires_grad=True)
    scale = [1.0]
    op = HessianOperator(lambda: (w**2).sum() * scale[0], w)
    scale[0] = 3.0
    assert (op @ np.ones(1)).item() == 2
    op.refresh()
    assert (op @ np.ones(1)).item() == 6


def test_a_hundred_products_leave_no_memory_behind():
    model, (x, y) = small(), data()
    op = HessianOperator(lambda: CE(model(x), y), model)
    v = np.random.default_rng(1).normal(size=op.size)
    op @ v
    gc.collect()
    gc.disable()
    try:
        before = md.live_tensors()
        for _ in range(100):
            op @ v
        assert md.live_tensors() == before
        del op
        graph_gone = md.live_tensors()
        assert graph_gone < before
    finally:
        gc.enable()
    gc.collect()
    assert md.live_tensors() == graph_gone


def test_scipy_finds_the_extreme_eigenvalues():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    model, (x, y) = small(), data()
    op = HessianOperator(lambda: CE(model(x), y), model)
    dense = np.linalg.eigvalsh(op @ np.eye(op.size))
    found = linalg.eigsh(op.to_scipy(), 2, which="LA", return_eigenvectors=False, v0=np.ones(op.size))
    np.testing.assert_allclose(np.sort(found), dense[-2:], rtol=1e-10)
    operator = op.to_scipy()
    v = np.random.default_rng(1).normal(size=(op.size, 3))
    np.testing.assert_array_equal(operator @ v, op @ v)
    np.testing.assert_array_equal(operator.H @ v[:, 0], op @ v[:, 0])
    assert operator.dtype == np.float64


def test_single_precision_stays_and_agrees_with_double():
    model, (x, y) = small(), data()
    exact = HessianOperator(lambda: CE(model(x), y), model)
    v = np.random.default_rng(1).normal(size=exact.size)
    expected = exact @ v
    model.float()
    single = x.astype("float32")
    op = HessianOperator(lambda: CE(model(single), y), model)
    found = op @ v
    assert found.dtype == op.dtype == op.gradient().dtype == np.float32
    assert relative(found, expected) < 1e-5
    fd = FiniteDifferenceOperator(lambda: CE(model(single), y), model)
    assert relative(fd @ v, expected) < 1e-2


def test_a_single_product_by_either_method():
    w = md.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    assert hvp(lambda: (w**3).sum(), w, [1, 2]).tolist() == [6, 24]
    np.testing.assert_allclose(hvp(lambda: (w**3).sum(), w, [1, 2], method="fd"), [6, 24], rtol=1e-8)
    np.testing.assert_array_equal(hvp(lambda: (w**3).sum(), w, [0, 0], method="fd"), [0, 0])
    with pytest.raises(ValueError, match="method must be 'products' or 'fd', got 'exact'"):
        hvp(lambda: (w**3).sum(), w, [1, 2], method="exact")


def test_the_step_of_differences_is_scaled_by_the_vector():
    w = md.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    op = FiniteDifferenceOperator(lambda: (w**3).sum(), w)
    for size in (1e-8, 1.0, 1e8):
        np.testing.assert_allclose(op @ (size * np.array([1.0, 2.0])), size * np.array([6, 24]), rtol=1e-8)
    assert w.tolist() == [1, 2]


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_a_loss_that_changes_between_evaluations_is_refused():
    w = md.tensor([0.0, 0.0], dtype="float64", requires_grad=True)
    rng = np.random.default_rng(0)
    with pytest.raises(RuntimeError, match="two evaluations at the same parameters differ"):
        HessianOperator(lambda: (w * md.tensor(rng.normal(size=2))).sum(), w)  # the loss itself is 0 each time
    with pytest.raises(RuntimeError, match="give different outputs"):
        GaussNewtonOperator(lambda: w + md.tensor(rng.normal(size=2)), lambda z: (z * z).sum(), w)


def test_bad_losses_and_data_are_refused_with_the_reason():
    w = md.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    x = np.ones((3, 2))
    for loss, error, message in [
        (lambda: w * 2, ValueError, "the loss must be one number, got shape \\(2,\\); reduce it"),
        (lambda: 3.0, TypeError, "the loss must be a Tensor, got float"),
        (lambda: (w * np.nan).sum(), ValueError, "the loss is nan at these parameters"),
        (lambda: md.sqrt(w - 1).sum(), ValueError, "1 of the 2 elements of the gradient are not finite"),
    ]:
        with np.errstate(divide="ignore"), pytest.raises(error, match=message):
            HessianOperator(loss, w)
    for batches, error, message in [
        ([], ValueError, "the batches hold no samples \\(0 batches\\)"),
        ([(x[:0],)], ValueError, "the batches hold no samples \\(1 batches\\)"),
        ((x, x), TypeError, "each batch must be a tuple .*, got ndarray; for one batch write batches=\\[\\(x, y\\)\\]"),
        ([(3.0, x)], TypeError, "begins with an array whose axis 0 counts samples, got 3.0"),
    ]:
        with pytest.raises(error, match=message):
            HessianOperator(lambda *batch: (w * w).sum(), w, batches)
    op = HessianOperator(lambda x: (x * w * w).mean(), w, [(x[:0],), (x,)])
    np.testing.assert_allclose(op @ np.ones(2), [1, 1])
    with pytest.raises(ValueError, match="needs a vector of the 2 parameters, got shape \\(3,\\)"):
        op @ np.ones(3)
    with pytest.raises(ValueError, match="needs a matrix with 2 rows, got \\(3, 2\\)"):
        op @ np.ones((3, 2))


# ---- Gauss-Newton and Fisher -------------------------------------------------------------------------------------


def jacobian_of_outputs(model, x):
    """dz / dtheta (n, c, P), one reverse pass an output."""
    z, params = model(x), model.parameters()
    rows = []
    for i in range(z.size):
        seed = np.zeros(z.shape)
        seed.flat[i] = 1
        found = md.autograd.grad(z, params, seed, retain_graph=True)
        rows.append(np.concatenate([g.numpy().ravel() for g in found]))
    return z.detach().numpy(), np.array(rows).reshape(*z.shape, -1)


def softmax_of(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_gauss_newton_is_the_jacobian_around_the_curvature_of_the_loss():
    model, (x, y) = small(), data()
    z, j = jacobian_of_outputs(model, x)
    p = softmax_of(z)
    blocks = np.einsum("nc,cd->ncd", p, np.eye(3)) - p[:, :, None] * p[:, None, :]
    expected = np.einsum("ncp,ncd,ndq->pq", j, blocks, j) / len(x)
    batches = [(x[:13], y[:13]), (x[13:], y[13:])]
    op = GaussNewtonOperator(lambda x, y: model(x), lambda z, x, y: CE(z, y), model, batches)
    found = op @ np.eye(op.size)
    assert relative(found, expected) < 1e-14
    assert np.linalg.eigvalsh(found).min() > -1e-15
    np.testing.assert_array_equal(
        ggnvp(lambda x, y: model(x), lambda z, x, y: CE(z, y), model, np.ones(op.size), batches), op @ np.ones(op.size)
    )
    fisher = FisherOperator(lambda x, y: model(x), model, batches)
    assert relative(fisher @ np.eye(op.size), expected) < 1e-14


def test_gauss_newton_is_the_hessian_of_a_linear_model_and_zero_for_a_linear_loss():
    model, (x, y) = network(nn.Linear(6, 3)), data()
    v = np.random.default_rng(1).normal(size=21)
    exact = hvp(lambda: CE(model(x), y), model, v)
    assert relative(ggnvp(lambda: model(x), lambda z: CE(z, y), model, v), exact) < 1e-14
    assert not ggnvp(lambda: model(x), lambda z: z.sum(), model, v).any()
    assert not ggnvp(lambda: x, lambda z: (z * z).sum(), model, v).any()


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_the_sampled_fisher_tends_to_the_true_one(likelihood):
    model, (x, _) = small(), data()
    true = FisherOperator(lambda: model(x), model, likelihood=likelihood)
    matrix = true @ np.eye(true.size)
    samples = 4000
    sampled = FisherOperator(lambda: model(x), model, likelihood=likelihood, kind="sampled", samples=samples)
    error = np.abs(sampled @ np.eye(true.size) - matrix).max() / np.abs(matrix).max()
    assert 1e-4 < error < 6 / np.sqrt(samples)
    one = FisherOperator(lambda: model(x), model, likelihood=likelihood, kind="sampled", seed=3)
    v = np.ones(true.size)
    np.testing.assert_array_equal(one @ v, one @ v)
    same = fisher_vp(lambda: model(x), model, v, likelihood=likelihood, kind="sampled", seed=3)
    np.testing.assert_array_equal(one @ v, same)
    other = fisher_vp(lambda: model(x), model, v, likelihood=likelihood, kind="sampled", seed=4)
    assert np.abs(one @ v - other).max() > 0


def test_the_true_fisher_of_each_likelihood_is_the_gauss_newton_matrix_of_its_loss():
    model, (x, _) = small(), data()
    t = md.tensor(np.random.default_rng(2).random((20, 3)))
    v = np.random.default_rng(1).normal(size=small().parameters() and sum(p.size for p in model.parameters()))
    bernoulli = ggnvp(lambda: model(x), lambda z: nn.BCEWithLogitsLoss(reduction="sum")(z, t) / 20, model, v)
    assert relative(fisher_vp(lambda: model(x), model, v, likelihood="bernoulli"), bernoulli) < 1e-13
    mse = ggnvp(lambda: model(x), lambda z: nn.MSELoss()(z, t), model, v)
    assert relative(2 / 3 * fisher_vp(lambda: model(x), model, v, likelihood="gaussian"), mse) < 1e-13


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_the_empirical_fisher_is_the_second_moment_of_the_gradients_of_samples(likelihood):
    model, (x, y) = small(), data()
    t = y if likelihood == "categorical" else md.tensor(np.random.default_rng(2).random((20, 3)))
    loss = {
        "categorical": lambda z, t: CE(z, t),
        "bernoulli": nn.BCEWithLogitsLoss(reduction="sum"),
        "gaussian": lambda z, t: ((z - t) ** 2).sum() / 2,
    }[likelihood]
    each = []
    for i in range(20):
        found = md.autograd.grad(loss(model(x[i : i + 1]), t[i : i + 1]), model.parameters())
        each.append(np.concatenate([g.numpy().ravel() for g in found]))
    each = np.array(each)
    op = FisherOperator(lambda x, t: model(x), model, [(x, t)], likelihood, "empirical", targets=lambda x, t: t)
    assert relative(op @ np.eye(op.size), each.T @ each / 20) < 1e-13


def test_the_fisher_refuses_what_it_does_not_know():
    model, (x, y) = small(), data()
    for options, message in [
        ({"likelihood": "poisson"}, "likelihood must be one of categorical, bernoulli, gaussian, got 'poisson'"),
        ({"kind": "exact"}, "kind must be one of true, sampled, empirical, got 'exact'"),
        ({"kind": "empirical"}, "kind='empirical' needs targets="),
        ({"kind": "sampled", "samples": 0}, "samples must be an integer >= 1, got 0"),
        ({"kind": "empirical", "targets": lambda: y[:3]}, "targets must be \\(20,\\) integer classes, got \\(3,\\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            FisherOperator(lambda: model(x), model, **options)
    with pytest.raises(ValueError, match="needs logits \\(n, c\\)"):
        FisherOperator(lambda: model(x).sum(), model)
