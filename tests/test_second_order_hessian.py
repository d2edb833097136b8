"""The Hessian as a matrix: closed forms, every method against the others and against JAX and PyTorch, limits."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.second_order import Hessian, HessianOperator, blocks, diagonal, hessian

CE = nn.CrossEntropyLoss()


def network(*layers, seed=0):
    md.manual_seed(seed)
    return nn.Sequential(*layers).double()


def data(n=20, inputs=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return md.tensor(rng.normal(size=(n, inputs))), md.tensor(rng.integers(0, classes, n))


def relative(a, b):
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))


def leaf(*values):
    return md.tensor(np.array(values), requires_grad=True)


# ---- closed forms ------------------------------------------------------------------------------------------------


def with_one(x):
    """Inputs with a 1 appended: what weight and bias of a linear layer are multiplied by."""
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def arranged(blocks_of_units, k, m):
    """A matrix over (unit, input) pairs, inputs then 1, in the order weight (m, k), bias (m,)."""
    order = [u * (k + 1) + d for u in range(m) for d in range(k)] + [u * (k + 1) + k for u in range(m)]
    return blocks_of_units[np.ix_(order, order)]


def test_squared_error_of_a_linear_model_has_the_hessian_2_xx_over_n():
    model, (x, _) = network(nn.Linear(4, 3)), data(inputs=4)
    t = md.tensor(np.random.default_rng(1).normal(size=(20, 3)))
    h = hessian(lambda: ((model(x) - t) ** 2).sum(axis=1).mean(), model)
    rows = with_one(x.numpy())
    expected = arranged(np.kron(np.eye(3), 2 / 20 * rows.T @ rows), 4, 3)
    assert h.method == "kronecker"
    assert relative(h.matrix, expected) < 1e-14


def test_logistic_regression_has_the_hessian_x_p_1_minus_p_x_over_n():
    model, (x, _) = network(nn.Linear(4, 1)), data(inputs=4)
    t = md.tensor(np.random.default_rng(1).integers(0, 2, (20, 1)).astype(float))
    h = hessian(lambda: nn.BCEWithLogitsLoss()(model(x), t), model)
    rows, p = with_one(x.numpy()), 1 / (1 + np.exp(-model(x).detach().numpy()))
    assert h.method == "kronecker"
    assert relative(h.matrix, rows.T @ (p * (1 - p) * rows) / 20) < 1e-14


def test_softmax_regression_has_the_kronecker_hessian_and_a_null_space_of_d_plus_1():
    model, (x, y) = network(nn.Linear(4, 3)), data(inputs=4)
    h = hessian(lambda: CE(model(x), y), model)
    z, rows = model(x).detach().numpy(), with_one(x.numpy())
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    expected = sum(np.kron(np.diag(q) - np.outer(q, q), np.outer(r, r)) for q, r in zip(p, rows, strict=True)) / 20
    assert h.method == "kronecker"
    assert relative(h.matrix, arranged(expected, 4, 3)) < 1e-14
    values, _ = h.eigh()
    assert (np.abs(values) < 15 * 2.2e-16 * values.max()).sum() == 5


@pytest.mark.parametrize("method", ["auto", "products"])
def test_small_surfaces_have_their_hessians(method):
    for f, at, expected in [
        (lambda w: (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2, [1.0, 1.0], [[802, -400], [-400, 200]]),
        (lambda w: w[0] ** 3 - 3 * w[0] * w[1] ** 2, [0.0, 0.0], np.zeros((2, 2))),
        (lambda w: w[0] ** 3 / 3 + w[0], [0.0], [[0]]),
        (lambda w: (1 - w[0] * w[1]) ** 2, [0.0, 0.0], [[0, -2], [-2, 0]]),
        (lambda w: (1 - w[0] * w[1]) ** 2, [4.0, 0.25], [[0.125, 2], [2, 32]]),
        (lambda w: (1 - w[0] * w[1] * w[2]) ** 2, [0.0, 0.0, 0.0], np.zeros((3, 3))),
        (lambda w: (1 - w[0] * w[1] * w[2]) ** 2, [1.0, 0.0, 0.0], [[0, 0, 0], [0, 0, -2], [0, -2, 0]]),
        (lambda w: (1 - w[0] * w[1] * w[2]) ** 2, [1.0, 1.0, 1.0], np.full((3, 3), 2)),
    ]:
        w = leaf(*at)
        h = hessian(lambda f=f, w=w: f(w), w, method=method)
        np.testing.assert_allclose(h.matrix, expected, atol=1e-12)
        assert h.method == "products"
    assert np.linalg.eigvalsh([[802, -400], [-400, 200]]) == pytest.approx([0.39936077, 1001.60063923])


def test_the_hessian_of_a_quadratic_is_its_matrix():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6))
    a, w = a + a.T, leaf(*rng.normal(size=6))
    h = hessian(lambda: 0.5 * (w @ (md.tensor(a) @ w)), w)
    assert relative(h.matrix, a) < 1e-15


def test_a_linear_autoencoder_has_the_morse_index_of_baldi_and_hornik_at_every_critical_point():
    spectrum, n, p = np.array([5, 3, 2, 1, 0.4]), 5, 2
    x = md.tensor(np.sqrt(n * spectrum)[:, None] * np.eye(n))  # rows whose covariance is diag(spectrum)
    subsets = [(), *[(i,) for i in range(n)], *[(i, j) for i in range(n) for j in range(i)]]
    assert len(subsets) == 16
    for chosen in subsets:
        basis = np.zeros((n, p))
        for k, i in enumerate(chosen):
            basis[i, k] = 1
        encoder, decoder = leaf(*basis.T), leaf(*basis)

        def loss(encoder=encoder, decoder=decoder):
            return ((x - x @ encoder.T @ decoder.T) ** 2).sum(axis=1).mean()

        h = hessian(loss, {"encoder": encoder, "decoder": decoder})
        values, _ = h.eigh()
        small, k = 20 * 2.2e-16 * np.abs(values).max(), len(chosen)
        wrong = sum(spectrum[j] > spectrum[i] for i in chosen for j in range(n) if j not in chosen)
        assert h.method == "kronecker"
        assert h.loss == pytest.approx(spectrum.sum() - sum(spectrum[i] for i in chosen), abs=1e-12)
        assert np.abs(h.gradient).max() < 1e-14
        assert (values < -small).sum() == wrong + (p - k) * (n - k)
        if k == p:
            assert (np.abs(values) <= small).sum() == p * p


def test_what_batch_norm_makes_scale_invariant_has_h_theta_equal_minus_g():
    model, (x, y) = network(nn.Linear(6, 5), nn.BatchNorm1d(5, eps=0.0), nn.Tanh(), nn.Linear(5, 3)), data()
    h = hessian(lambda: CE(model(x), y), model)
    theta = model[0].weight.detach().numpy().ravel()
    g = h.gradient[h.slices["0.weight"]]
    assert h.method == "kronecker"
    assert abs(theta @ g) < 1e-15
    assert relative(h["0.weight", "0.weight"] @ theta, -g) < 1e-13
    assert np.abs(h.gradient[h.slices["0.bias"]]).max() < 1e-15  # a shift that the mean takes away
    assert np.abs(h["0.bias", "3.weight"]).max() < 1e-14


# ---- every method against the others -----------------------------------------------------------------------------


class Residual(nn.Module):
    """A residual network that uses one layer twice."""

    def __init__(self):
        self.first, self.shared, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = md.tanh(self.first(x))
        h = h + md.tanh(self.shared(h))
        return self.last(h + md.tanh(self.shared(h)))


class Reparametrized(nn.Module):
    """Weights and scales that are functions of parameters, and a slice of the features."""

    def __init__(self):
        self.first, self.last = nn.Linear(6, 5), nn.Linear(3, 3)
        self.log_scale, self.shift = nn.Parameter([0.3] * 5), nn.Parameter([0.7])
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        h = md.tanh(self.norm(self.first(x))) * md.exp(self.log_scale) + self.shift
        w = self.last.weight
        w = w / md.sqrt((w * w).sum(axis=1, keepdims=True))
        return nn.functional.linear(h[:, 1:4], w, self.last.bias) * md.sigmoid(self.shift)


class ByHand(nn.Module):
    """Parameters that enter without a layer: products, views, broadcasting."""

    def __init__(self):
        self.w, self.v = nn.Parameter(np.linspace(-1, 1, 24)), nn.Parameter(np.linspace(0.5, 1, 4))
        self.b, self.out = nn.Parameter([[0.1, 0.2, 0.3, 0.4]]), nn.Parameter(np.linspace(-1, 1, 12).reshape(4, 3))

    def forward(self, x):
        h = md.sin(x @ self.w.reshape(6, 4)) * self.v + self.b
        return h @ self.out - (h @ self.v)[:, None]


def eval_mode(*layers):
    model = network(*layers)
    model(data(50, seed=5)[0])
    return model.eval()


NETWORKS = {
    "tanh": lambda: network(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
    "three layers": lambda: network(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)),
    "four layers": lambda: network(
        nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 4, bias=False), nn.GELU(), nn.Linear(4, 4), nn.Tanh(),
        nn.Linear(4, 3),
    ),
    "linear layers": lambda: network(nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 3)),
    "layer norm": lambda: network(nn.Linear(6, 5), nn.LayerNorm(5), nn.SiLU(), nn.Linear(5, 3)),
    "dropout": lambda: network(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)),
    "batch norm": lambda: network(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
    "two batch norms": lambda: network(
        nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Sigmoid(), nn.Linear(5, 4, bias=False),
        nn.BatchNorm1d(4, affine=False), nn.Tanh(), nn.Linear(4, 3),
    ),
    "batch norm in evaluation": lambda: eval_mode(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
    "a shared layer": lambda: (md.manual_seed(0), Residual().double())[1],
    "functions of parameters": lambda: (md.manual_seed(0), Reparametrized().double())[1],
    "by hand": lambda: ByHand().double(),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_quick_route_gives_the_hessian_of_every_samplewise_network(name):
    model, (x, y) = NETWORKS[name](), data()
    before = {key: t.numpy().copy() for key, t in model.state_dict().items()}

    def loss():
        return CE(model(x), y)

    found = {method: hessian(loss, model, method=method) for method in ("kronecker", "products", "fd")}
    exact = found["products"].matrix
    assert hessian(loss, model).method == "kronecker"
    assert relative(found["kronecker"].matrix, exact) < 1e-13
    assert relative(found["fd"].matrix, exact) < 1e-6
    assert np.array_equal(found["kronecker"].matrix, found["kronecker"].matrix.T)
    assert found["kronecker"].symmetry_error < 1e-14
    assert found["products"].symmetry_error < 1e-14
    assert relative(diagonal(loss, model), np.diag(exact)) < 1e-13
    for by in ("layer", "parameter"):
        for part in blocks(loss, model, by=by).values():
            at = np.concatenate([np.arange(exact.shape[0])[found["products"].slices[n]] for n in part.names])
            assert relative(part.matrix, exact[np.ix_(at, at)]) < 1e-12
            np.testing.assert_array_equal(part.gradient, found["products"].gradient[at])
    assert all((t.numpy() == before[key]).all() for key, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


TARGETS = md.tensor(np.random.default_rng(7).normal(size=(20, 3)))
POSITIVE = md.tensor(np.random.default_rng(7).random((20, 3)))
WEIGHT = md.tensor([0.5, 1.0, 2.0], dtype="float64")
LOSSES = {
    "mean squared error": lambda z, y: nn.MSELoss()(z, TARGETS),
    "sum of squares": lambda z, y: nn.MSELoss(reduction="sum")(z, TARGETS),
    "summed cross-entropy": nn.CrossEntropyLoss(reduction="sum"),
    "weighted, smoothed cross-entropy": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
    "ignored samples": nn.CrossEntropyLoss(ignore_index=1),
    "log softmax by hand": lambda z, y: -md.log_softmax(z, axis=1)[np.arange(20), y.numpy()].mean(),
    "logistic": lambda z, y: nn.BCEWithLogitsLoss()(z, POSITIVE),
    "Huber, smoothly": lambda z, y: (md.sqrt(1 + (z - TARGETS) ** 2) - 1).mean(axis=1).sum() / 20,
    "weight of each sample": lambda z, y: (nn.CrossEntropyLoss(reduction="none")(z, y) * POSITIVE[:, 0]).sum(),
    "by classes": lambda z, y: ((z - TARGETS) ** 2).mean(axis=0).sum(),
    "scaled and shifted": lambda z, y: 3.0 - (CE(z, y) / 2 + 1.0) * 4.0 + CE(z, y),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_quick_route_gives_the_hessian_of_every_samplewise_loss(name):
    model, (x, y) = NETWORKS["tanh"](), data()
    h = hessian(lambda: LOSSES[name](model(x), y), model)
    exact = hessian(lambda: LOSSES[name](model(x), y), model, method="products").matrix
    if name == "log softmax by hand":  # whose index takes another element of each row
        assert (h.method, h.reason) == (
            "products",
            "getitem mixes samples, or uses a parameter for many places of a sample",
        )
    else:
        assert (h.method, h.reason) == ("kronecker", "")
    assert relative(h.matrix, exact) < 1e-13


PENALTIES = {
    "weight decay": lambda m: 0.01 * sum((p**2).sum() for p in m.parameters()),
    "of means": lambda m: 0.3 * (m[0].weight ** 4).mean(),
    "a norm": lambda m: md.sqrt((m[0].weight ** 2).sum() + (m[2].bias ** 2).sum()),
    "a product": lambda m: (m[2].weight @ m[0].weight).sum(),
    "logarithms": lambda m: -0.1 * md.log(1 + m[2].weight ** 2).sum(),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_term_of_the_parameters_alone_keeps_the_quick_route(name):
    model, (x, y) = NETWORKS["tanh"](), data()

    def loss():
        return CE(model(x), y) + PENALTIES[name](model)

    h, exact = hessian(loss, model), hessian(loss, model, method="products").matrix
    assert h.method == "kronecker"
    assert relative(h.matrix, exact) < 1e-13
    assert relative(diagonal(loss, model), np.diag(exact)) < 1e-13
    assert relative(blocks(loss, model)["0"].matrix, exact[:35, :35]) < 1e-13
    assert np.abs(exact - hessian(lambda: CE(model(x), y), model).matrix).max() > 1e-3


class Convolution(nn.Module):
    def __init__(self):
        self.kernel, self.last = nn.Conv1d(1, 2, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(md.tanh(self.kernel(x.reshape(-1, 1, 6))).reshape(-1, 8))


class Standardized(nn.Module):
    """Batch normalization written by hand, which the quick route does not know."""

    def __init__(self):
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        z = self.first(x)
        return self.last(md.tanh((z - z.mean(axis=0)) / md.sqrt(z.var(axis=0) + 1e-5)))


class Positions(nn.Module):
    """One weight for several places of each sample."""

    def __init__(self):
        self.first, self.last = nn.Linear(2, 4), nn.Linear(12, 3)

    def forward(self, x):
        return self.last(md.tanh(self.first(x.reshape(-1, 3, 2))).reshape(-1, 12))


MIXED = {
    "convolution": (Convolution, lambda z, y: CE(z, y), "conv uses a parameter for many places of a sample"),
    "statistics by hand": (Standardized, lambda z, y: CE(z, y), "subtract is applied to a sum over samples"),
    "positions": (Positions, lambda z, y: CE(z, y), "linear uses its weight for many places of a sample"),
    "root of the mean": (Residual, lambda z, y: md.sqrt((z**2).mean()), "sqrt is applied to a sum over samples"),
    "pairs": (Residual, lambda z, y: ((z @ z.T) ** 2).mean(), "transpose mixes samples"),
    "the worst sample": (Residual, lambda z, y: nn.CrossEntropyLoss(reduction="none")(z, y).max(), "max mixes samples"),
    "reversed samples": (Residual, lambda z, y: (z * z[::-1]).mean(), "getitem mixes samples"),
    "one sample": (Residual, lambda z, y: (z[0] ** 2).sum(), "getitem mixes samples"),
}


@pytest.mark.parametrize("name", MIXED)
def test_where_samples_mix_the_products_take_over_and_say_why(name):
    kind, criterion, reason = MIXED[name]
    md.manual_seed(0)
    model, (x, y) = kind().double(), data()

    def loss():
        return criterion(model(x), y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the maximum over samples has a kink
        h = hessian(loss, model)
        assert h.method == "products"
        assert reason in h.reason
        assert relative(hessian(loss, model, method="fd").matrix, h.matrix) < 1e-6
        np.testing.assert_allclose(diagonal(loss, model), np.diag(h.matrix), rtol=1e-12, atol=1e-15)
        with pytest.raises(ValueError, match="hessian: method='kronecker' does not apply: .*; use method='products'"):
            hessian(loss, model, method="kronecker")


def test_a_wrong_result_of_the_quick_route_is_found_and_replaced(monkeypatch):
    model, (x, y) = NETWORKS["tanh"](), data()
    exact = hessian(lambda: CE(model(x), y), model, method="products").matrix
    monkeypatch.setattr("minidl.second_order.kronecker.inner_block", lambda *args: None)
    h = hessian(lambda: CE(model(x), y), model)
    assert h.method == "products"
    assert "differs from a Hessian-vector product by" in h.reason
    assert relative(h.matrix, exact) < 1e-15


def test_an_operation_that_wrongly_says_samplewise_is_found():
    roll = md.Op(lambda xp, x: xp.roll(x, 1, 0), lambda g, out, x: unroll(g), name="roll_rows", samplewise=True)
    unroll = md.Op(lambda xp, x: xp.roll(x, -1, 0), lambda g, out, x: roll(g), name="unroll_rows")
    model, (x, _) = NETWORKS["tanh"](), data()
    h = hessian(lambda: (md.tanh(model(x)) * roll(model(x))).mean(), model)
    assert h.method == "products"
    assert "differs from a Hessian-vector product" in h.reason


@pytest.mark.parametrize("name", ["three layers", "batch norm", "a shared layer", "by hand"])
def test_blocks_of_any_size_give_the_same_matrix(name, monkeypatch):
    model, (x, y) = NETWORKS[name](), data()
    whole = hessian(lambda: CE(model(x), y), model).matrix
    for room, passes in [(64, 1), (700, 3000), (5000, 8000)]:
        monkeypatch.setattr("minidl.second_order.contraction.BLOCK_BYTES", room)
        monkeypatch.setattr("minidl.second_order.kronecker.PASS_BYTES", passes)
        h = hessian(lambda: CE(model(x), y), model)
        assert h.method == "kronecker"
        assert relative(h.matrix, whole) < 1e-13
        assert relative(diagonal(lambda: CE(model(x), y), model), np.diag(whole)) < 1e-13


def test_batches_of_unequal_size_add_up_to_the_whole():
    model, (x, y) = NETWORKS["tanh"](), data(70)
    whole = hessian(lambda: CE(model(x), y), model)
    batches = [(x[:64], y[:64]), (x[64:], y[64:])]
    for method in ("kronecker", "products"):
        ragged = hessian(lambda x, y: CE(model(x), y), model, batches, method=method)
        assert relative(ragged.matrix, whole.matrix) < 1e-14
        assert ragged.loss == pytest.approx(whole.loss, abs=1e-15)
    assert relative(diagonal(lambda x, y: CE(model(x), y), model, batches), np.diag(whole.matrix)) < 1e-13
    normalized = NETWORKS["batch norm"]()
    quick, slow = (hessian(lambda x, y: CE(normalized(x), y), normalized, batches, m) for m in ("auto", "products"))
    assert quick.method == "kronecker"
    assert relative(quick.matrix, slow.matrix) < 1e-13


def test_the_order_of_the_parameters_is_the_order_of_the_rows():
    model, (x, y) = NETWORKS["tanh"](), data()
    h = hessian(lambda: CE(model(x), y), model)
    turned = hessian(lambda: CE(model(x), y), list(model.named_parameters())[::-1])
    assert turned.names == h.names[::-1]
    for a in h.names:
        for b in h.names:
            assert relative(turned[a, b], h[a, b]) < 1e-14
    some = hessian(lambda: CE(model(x), y), {"last": model[2].weight})
    assert relative(some.matrix, h["2.weight", "2.weight"]) < 1e-14


def test_single_precision_is_the_double_rounded():
    model, (x, y) = NETWORKS["tanh"](), data()
    exact = hessian(lambda: CE(model(x), y), model).matrix
    model.float()
    single = x.astype("float32")
    h = hessian(lambda: CE(model(single), y), model)
    assert h.method == "kronecker"
    assert h.matrix.dtype == np.float32
    assert relative(h.matrix, exact) < 1e-5


def test_recording_switched_off_outside_does_not_matter():
    model, (x, y) = NETWORKS["batch norm"](), data()
    expected = hessian(lambda: CE(model(x), y) + (model[0].weight ** 2).sum(), model).matrix
    with md.no_grad():
        for method in ("kronecker", "products"):
            h = hessian(lambda: CE(model(x), y) + (model[0].weight ** 2).sum(), model, method=method)
            assert relative(h.matrix, expected) < 1e-13


def test_one_sample_and_a_parameter_that_is_not_reached():
    model = network(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = data(1)
    spare = leaf(1.0, 2.0)
    params = {"spare": spare, **dict(model.named_parameters())}
    h = hessian(lambda: CE(model(x), y), params)
    assert h.method == "kronecker"
    assert not h["spare", "0.weight"].any()
    assert not h["spare", "spare"].any()
    assert relative(h.matrix, hessian(lambda: CE(model(x), y), params, method="products").matrix) < 1e-13
    nothing = hessian(lambda: md.tensor(3.0), spare)
    np.testing.assert_array_equal(nothing.matrix, np.zeros((2, 2)))


@pytest.mark.parametrize("name", ["three layers", "batch norm", "functions of parameters"])
def test_the_hessian_of_a_gpu_is_that_of_the_cpu(name, device):
    model, (x, y) = NETWORKS[name](), data()
    expected = hessian(lambda: CE(model(x), y), model)
    model.to(device=device)
    x, y = x.to(device), y.to(device)
    h = hessian(lambda: CE(model(x), y), model)
    assert h.method == "kronecker"
    assert relative(to_numpy(h.matrix), expected.matrix) < 1e-12
    assert relative(to_numpy(diagonal(lambda: CE(model(x), y), model)), np.diag(expected.matrix)) < 1e-12


# ---- other libraries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "batch norm"])
def test_pytorch_has_the_same_hessian(normalized):
    torch = pytest.importorskip("torch")
    model, (x, y) = NETWORKS["batch norm" if normalized else "three layers"](), data()
    h = hessian(lambda: CE(model(x), y), model)
    layers = {
        False: lambda t: [t.Linear(6, 5), t.Sigmoid(), t.Linear(5, 4), t.Tanh(), t.Linear(4, 3)],
        True: lambda t: [t.Linear(6, 5), t.BatchNorm1d(5), t.Tanh(), t.Linear(5, 3)],
    }[normalized]
    other = torch.nn.Sequential(*layers(torch.nn)).double()
    names = [name for name, _ in other.named_parameters()]
    assert names == h.names
    images, labels = torch.tensor(x.numpy()), torch.tensor(y.numpy())

    def loss(*values):
        out = torch.func.functional_call(other, dict(zip(names, values, strict=True)), (images,))
        return torch.nn.functional.cross_entropy(out, labels)

    values = tuple(torch.tensor(p.detach().numpy()) for p in model.parameters())
    found = torch.autograd.functional.hessian(loss, values)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            theirs = found[i][j].reshape(h[a, b].shape).numpy()
            np.testing.assert_allclose(h[a, b], theirs, atol=1e-14)


def test_jax_has_the_same_hessian():
    jax = pytest.importorskip("jax")
    model, (x, y) = NETWORKS["batch norm"](), data()
    h = hessian(lambda: CE(model(x), y), model)
    with jax.enable_x64(True):
        jnp = jax.numpy
        images, labels = jnp.asarray(x.numpy()), jnp.asarray(y.numpy())

        def loss(p):
            z = images @ p["0.weight"].T + p["0.bias"]
            z = (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5) * p["1.weight"] + p["1.bias"]
            scores = jnp.tanh(z) @ p["3.weight"].T + p["3.bias"]
            return -jax.nn.log_softmax(scores)[jnp.arange(20), labels].mean()

        found = jax.hessian(loss)({name: jnp.asarray(p.detach().numpy()) for name, p in model.named_parameters()})
    for a in h.names:
        for b in h.names:
            np.testing.assert_allclose(h[a, b], np.asarray(found[a][b]).reshape(h[a, b].shape), atol=1e-14)


# ---- the digits --------------------------------------------------------------------------------------------------


def test_the_digits_network_has_a_null_space_of_exactly_129_and_little_memory_is_needed():
    images, labels = md.data.digits()
    x, y = md.tensor(images.reshape(-1, 64) / 16.0), md.tensor(labels)
    model = network(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    tracemalloc.start()
    h = hessian(lambda: CE(model(x), y), model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert h.method == "kronecker"
    assert h.size == 2410
    assert peak < 3.5 * h.matrix.nbytes
    v = np.random.default_rng(1).normal(size=2410)
    assert relative(h.matrix @ v, HessianOperator(lambda: CE(model(x), y), model) @ v) < 1e-13
    values = np.linalg.eigvalsh(h.matrix)
    tolerance = 2410 * 2.2e-16 * np.abs(values).max()
    # 33 shifts of all logits, and 3 pixels that are 0 in every image, for 32 units
    assert (np.abs(values) < tolerance).sum() == 129


# ---- the result, and what is refused ------------------------------------------------------------------------------


def test_a_hessian_knows_its_parts():
    model, (x, y) = NETWORKS["tanh"](), data()
    h = hessian(lambda: CE(model(x), y), model)
    assert isinstance(h, Hessian)
    assert h.shape == (53, 53) == (h.size, h.size)
    assert h.names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert h["0.weight", "2.bias"].shape == (30, 3)
    np.testing.assert_array_equal(h.block("2.bias", "0.weight"), h["0.weight", "2.bias"].T)
    values, vectors = h.eigh()
    assert relative(vectors * values @ vectors.T, h.matrix) < 1e-13
    assert h.eigh()[0] is values
    assert h.loss == CE(model(x), y).item()
    np.testing.assert_array_equal(h @ np.ones(53), h.matrix @ np.ones(53))
    assert "P = 53, float64, method='kronecker', parameters: 0.weight (5, 6), 0.bias (5,)" in repr(h)
    with pytest.raises(KeyError, match="no parameter '0.wieght'; there are .*; did you mean '0.weight'"):
        h["0.wieght", "2.bias"]
    with pytest.raises(KeyError, match="needs the names of two parameters"):
        h["0.weight"]


def test_a_network_with_kinks_gets_a_warning():
    model, (x, y) = network(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), data()
    for function in (hessian, blocks, diagonal):
        with pytest.warns(
            UserWarning, match="the loss has kinks \\(relu\\): this is the Hessian of the smooth"
        ) as caught:
            function(lambda: CE(model(x), y), model)
        assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="kinks"):
        h = hessian(lambda: CE(model(x), y), model)
    with pytest.warns(UserWarning, match="kinks"):
        exact = hessian(lambda: CE(model(x), y), model, method="products").matrix
    assert h.method == "kronecker"
    assert relative(h.matrix, exact) < 1e-13
    with pytest.warns(UserWarning, match="\\(where, absolute\\)"):
        hessian(lambda: nn.HuberLoss(delta=0.1)(md.tanh(model[0](x)), x[:, :5]), model[0])


def test_a_matrix_that_does_not_fit_is_refused_with_its_size(monkeypatch):
    model, (x, y) = NETWORKS["tanh"](), data()
    monkeypatch.setattr("minidl.second_order.dense._memory", lambda: 20_000.0)
    with pytest.raises(ValueError, match="hessian: 53 parameters make 0.0 GB, and this machine has 0.0 GB; use Hess"):
        hessian(lambda: CE(model(x), y), model)
    assert diagonal(lambda: CE(model(x), y), model).shape == (53,)
    assert len(blocks(lambda: CE(model(x), y), model)) == 2


def test_bad_arguments_and_values_are_refused():
    model, (x, y) = NETWORKS["tanh"](), data()
    w = leaf(0.0, 1.0)
    with pytest.raises(ValueError, match="method must be one of auto, kronecker, products, fd, got 'exact'"):
        hessian(lambda: CE(model(x), y), model, method="exact")
    with pytest.raises(ValueError, match="by must be 'layer' or 'parameter', got 'unit'"):
        blocks(lambda: CE(model(x), y), model, by="unit")
    with pytest.raises(ValueError, match="the loss must be one number, got shape \\(20, 3\\)"):
        hessian(lambda: model(x), model)
    with pytest.raises(ValueError, match="the loss is nan"):
        hessian(lambda: CE(model(x * np.nan), y), model)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="3 of the 4 elements of the Hessian are not"):
        hessian(lambda: (w**1.5).sum(), w)
    with pytest.raises(ValueError, match="the batches hold no samples"):
        hessian(lambda x, y: CE(model(x), y), model, [(x[:0], y[:0])])
