"""BatchNorm1d: statistics, running averages, derivatives through the batch; frozen statistics."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.nn import norm
from minidl.nn.norm import _BatchNorm


def statistics(layer):
    return [to_numpy(b.array).copy() for b in layer.buffers()]


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_without_weight_and_bias_makes_its_constants_once(training, monkeypatch):
    layer, plain = (nn.BatchNorm1d(3, affine=affine).double().train(training) for affine in (False, True))
    full, made = norm._full, []
    monkeypatch.setattr(norm, "_full", lambda *args: made.append(args) or full(*args))
    xs = md.randn(6, 3, dtype="float64"), md.randn(4, 3, dtype="float64")
    for x in (*xs, *xs):
        np.testing.assert_array_equal(layer(x).numpy(), plain(x).detach().numpy())
    assert len(made) == 2
    assert list(layer.state_dict()) == ["running_mean", "running_var", "num_batches_tracked"]


def test_a_layer_without_any_state_takes_every_float():
    layer = nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    for dtype in ("float32", "float64", "float32"):
        assert layer(md.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
def test_each_channel_of_the_result_has_mean_bias_and_deviation_weight(shape, rng):
    layer = nn.BatchNorm1d(3, eps=0.0, dtype="float64")
    layer.weight.data, layer.bias.data = np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.0, 5.0])
    out = layer(md.tensor(rng.standard_normal(shape) * 7 + 3)).detach().numpy()
    axes = (0, 2)[: len(shape) - 1]
    np.testing.assert_allclose(out.mean(axes), [-1.0, 0.0, 5.0], atol=1e-12)
    np.testing.assert_allclose(out.std(axes), [1.0, 2.0, 3.0], rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, 0.0, None])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
def test_running_averages_over_ten_steps_match_the_formula(momentum, shape, rng, device):
    layer = nn.BatchNorm1d(3, momentum=momentum, device=device, dtype="float64")
    mean, var, axes = np.zeros(3), np.ones(3), (0, 2)[: len(shape) - 1]
    for k in range(1, 11):
        x = rng.standard_normal(shape) * k
        layer(md.tensor(x, device=device))
        share = 1 / k if momentum is None else momentum
        mean = (1 - share) * mean + share * x.mean(axes)
        var = (1 - share) * var + share * x.var(axes, ddof=1)
    np.testing.assert_allclose(to_numpy(layer.running_mean.array), mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(to_numpy(layer.running_var.array), var, rtol=1e-12)
    assert layer.num_batches_tracked.item() == 10
    assert (layer.num_batches_tracked.shape, layer.num_batches_tracked.dtype) == ((), np.int64)


def test_evaluation_uses_the_running_averages_and_takes_a_batch_of_one():
    layer = nn.BatchNorm1d(2, eps=0.0, dtype="float64").eval()
    layer.load_state_dict({
        "weight": np.array([2.0, 3.0]), "bias": np.array([0.5, -0.5]), "running_mean": np.array([1.0, -1.0]),
        "running_var": np.array([4.0, 9.0]), "num_batches_tracked": np.array(7),
    })  # fmt: skip
    out = layer(md.tensor([[3.0, 2.0]], dtype="float64"))
    np.testing.assert_allclose(out.detach().numpy(), [[2.5, 2.5]], rtol=1e-15)
    assert layer.num_batches_tracked.item() == 7


def test_averages_move_without_recording_too_and_not_in_evaluation():
    layer = nn.BatchNorm1d(2)
    with md.no_grad():
        layer(md.randn(4, 2))
    assert layer.num_batches_tracked.item() == 1
    before = statistics(layer)
    layer.eval()(md.randn(4, 2))
    assert all(map(np.array_equal, statistics(layer), before))
    layer.reset_running_stats()
    assert [s.tolist() for s in statistics(layer)] == [[0.0, 0.0], [1.0, 1.0], 0]


def test_without_running_averages_the_batch_is_used_in_evaluation_too():
    layer = nn.BatchNorm1d(2, track_running_stats=False)
    x = md.randn(6, 2)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert np.array_equal(layer(x).detach().numpy(), layer.eval()(x).detach().numpy())


def test_without_affine_there_are_no_parameters(device):
    layer = nn.BatchNorm1d(2, affine=False, device=device)
    assert layer.parameters() == []
    assert list(layer.state_dict()) == ["running_mean", "running_var", "num_batches_tracked"]
    out = to_numpy(layer(md.randn(50, 2, device=device)).array)
    np.testing.assert_allclose(out.std(0), 1, rtol=1e-4)


def test_updating_the_averages_copies_nothing_to_the_host(fake_cuda):
    for momentum in (0.1, None):
        layer, x = nn.BatchNorm1d(3, momentum=momentum).cuda(), md.randn(5, 3, device="cuda")
        fake_cuda.stats.reset()
        with md.transfers(max=0):
            layer(x).sum().backward()
        assert fake_cuda.stats.waits == 0


def test_constant_input_gives_finite_results_and_gradients():
    layer, x = nn.BatchNorm1d(2), md.full((5, 2), 3.0, requires_grad=True)
    out = layer(x)
    (out * md.randn(5, 2)).sum().backward()
    assert not out.detach().numpy().any()
    assert np.isfinite(x.grad.numpy()).all()
    assert np.isfinite(layer.weight.grad.numpy()).all()


# ---- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (1, 3, 1), (5, 3, 0)])
def test_training_with_less_than_two_values_a_channel_is_refused(shape):
    layer = nn.BatchNorm1d(3)
    before = statistics(layer)
    with pytest.raises(
        ValueError, match=r"BatchNorm1d\(3, .*expected more than 1 value per channel when training, got \d"
    ):
        layer(md.zeros(shape))
    assert all(map(np.array_equal, statistics(layer), before))


@pytest.mark.parametrize("shape", [(4,), (4, 5), (3, 4), (4, 3, 2, 2)])
def test_a_wrong_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"expected 2 or 3 axes with 3 channels on axis 1, got shape \(.*\)"):
        nn.BatchNorm1d(3)(md.zeros(shape))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"affine": False, "track_running_stats": False}])
def test_a_wrong_dtype_is_named(options):
    with pytest.raises(TypeError, match=r"BatchNorm1d\(.*the input is int64 and the layer float32; use x.astype"):
        nn.BatchNorm1d(2, **options)(md.tensor([[1, 2], [3, 4]]))
    if options != {"affine": False, "track_running_stats": False}:
        with pytest.raises(
            TypeError, match=r"the input is float64 and the layer float32; use x.astype\('float32'\), or .to"
        ):
            nn.BatchNorm1d(2, **options)(md.ones(4, 2, dtype="float64"))
    with pytest.raises(TypeError, match="needs a Tensor or an array, got list"):
        nn.BatchNorm1d(2, **options)([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_features": 0}, "num_features must be an integer of at least 1, got 0"),
        ({"num_features": 2, "eps": -1.0}, "eps must be a finite number >= 0, got eps=-1.0"),
        ({"num_features": 2, "eps": np.inf}, "eps must be"),
        (
            {"num_features": 2, "momentum": 1.5},
            r"momentum must be in \[0, 1\], or None to average all batches, got 1.5",
        ),
    ],
)
def test_wrong_settings_are_named(options, text):
    with pytest.raises(ValueError, match=f"BatchNorm1d: {text}"):
        nn.BatchNorm1d(**options)


# ---- derivatives -------------------------------------------------------------------------------------------------


def network():
    md.manual_seed(11)
    return nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)
    ).double()


def flat_gradient(model, loss_of, create_graph=False):
    return md.autograd.grad(loss_of(model), list(model.parameters()), create_graph=create_graph)


def test_a_hessian_vector_product_through_batch_norm_in_training_equals_differences_of_gradients(rng):
    model, x, y = network(), md.tensor(rng.standard_normal((7, 5))), md.tensor(rng.integers(0, 2, 7))

    def loss_of(model):
        return nn.functional.cross_entropy(model(x), y)

    params = list(model.parameters())
    v = [rng.standard_normal(p.shape) for p in params]
    gradient = flat_gradient(model, loss_of, create_graph=True)
    inner = sum((g * u).sum() for g, u in zip(gradient, v, strict=True))
    exact = np.concatenate([h.numpy().ravel() for h in md.autograd.grad(inner, params)])

    start = [p.data.copy() for p in params]
    moved = []
    for step in (1e-5, -1e-5):
        for p, p0, u in zip(params, start, v, strict=True):
            p.data = p0 + step * u
        moved.append(np.concatenate([g.numpy().ravel() for g in flat_gradient(model, loss_of)]))
    numeric = (moved[0] - moved[1]) / 2e-5
    assert np.abs(exact - numeric).max() < 1e-7 * np.abs(exact).max()


def test_the_hessian_through_batch_norm_is_symmetric_and_has_the_null_vector_of_a_shifted_input(rng):
    """Batch norm ignores a shift of its input: the loss is flat along the bias before it."""
    model, x, y = network(), md.tensor(rng.standard_normal((7, 5))), md.tensor(rng.integers(0, 2, 7))
    params = list(model.parameters())
    gradient = flat_gradient(model, lambda m: nn.functional.cross_entropy(m(x), y), create_graph=True)
    rows = []
    for g in gradient:
        for i in range(g.size):
            row = md.autograd.grad(g.reshape(-1)[i], params, retain_graph=True, allow_unused=True)
            rows.append(
                np.concatenate(
                    [np.zeros(p.size) if r is None else r.numpy().ravel() for r, p in zip(row, params, strict=True)]
                )
            )
    hessian = np.array(rows)
    assert np.abs(hessian - hessian.T).max() < 1e-13
    bias = slice(20, 24)  # of the first linear layer, after its (4, 5) weight
    assert np.abs(hessian[bias]).max() < 1e-13
    assert np.abs(hessian).max() > 0.01


def test_updating_the_averages_is_no_part_of_the_derivative(rng):
    layer = nn.BatchNorm1d(3, momentum=1.0, dtype="float64")
    x = md.tensor(rng.standard_normal((6, 3)), requires_grad=True)
    layer(x)
    assert not layer.running_mean.requires_grad
    assert layer.running_mean.node is None
    layer(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 0, atol=1e-15)  # the sum of normalized values is constant


def test_a_backward_after_the_averages_it_used_have_moved_is_refused():
    layer, x = nn.BatchNorm1d(2), md.randn(4, 2)
    loss = (layer.eval()(x) ** 2).sum()
    layer.train()(x)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        loss.backward()


# ---- frozen statistics -------------------------------------------------------------------------------------------


def test_frozen_statistics_keep_the_averages_and_repeat_the_masks(device):
    model = nn.Sequential(nn.Linear(4, 30, device=device), nn.BatchNorm1d(30, device=device), nn.Dropout(0.5))
    x, frozen = md.randn(6, 4, device=device), nn.frozen_statistics()
    before, results = statistics(model), []
    for _ in range(3):
        md.rand(1)
        state = md.random.get_state()
        with frozen:
            results.append(to_numpy(model(x).array))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert all(map(np.array_equal, statistics(model), before))
    assert md.random.get_state() == state
    model(x)
    assert model[1].num_batches_tracked.item() == 1


def test_frozen_statistics_still_differentiate_through_the_batch(rng):
    layer = nn.BatchNorm1d(2, eps=0.0, dtype="float64")
    x = md.tensor(rng.standard_normal((5, 2)), requires_grad=True)
    with nn.frozen_statistics():
        out = layer(x)
    (out * out).sum().backward()  # the sum of squares of normalized values is constant
    assert np.abs(x.grad.numpy()).max() < 1e-13
    layer.eval()
    x.grad = None
    out = layer(x)
    (out * out).sum().backward()
    assert np.abs(x.grad.numpy()).max() > 0.1


def test_frozen_statistics_nest_end_with_an_error_and_concern_one_thread():
    layer, x, frozen = nn.BatchNorm1d(2), md.randn(4, 2), nn.frozen_statistics()
    with frozen:
        with frozen:
            layer(x)
        layer(x)
        other = threading.Thread(target=lambda: layer(x))
        other.start()
        other.join()
    assert layer.num_batches_tracked.item() == 1  # the other thread's
    with pytest.raises(KeyError), frozen:
        raise KeyError("inside")
    layer(x)
    assert layer.num_batches_tracked.item() == 2


def test_batch_norm_for_images_is_a_class_of_two_lines(rng):
    class BatchNorm2d(_BatchNorm):
        ndims = (4,)

    layer = BatchNorm2d(3, eps=0.0, dtype="float64")
    x = rng.standard_normal((4, 3, 2, 5))
    out = layer(md.tensor(x)).detach().numpy()
    spread = (1, 3, 1, 1)
    expected = (x - x.mean((0, 2, 3)).reshape(spread)) / x.std((0, 2, 3)).reshape(spread)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"BatchNorm2d\(.*expected 4 axes"):
        layer(md.zeros(4, 3, dtype="float64"))
