"""nn.utils: clipping, parameters as one vector, weight and spectral normalization."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.testing import check_module

utils = nn.utils


def parameters(*gradients, device="cpu", dtype="float64"):
    """Parameters with given gradients."""
    made = []
    for g in gradients:
        p = nn.Parameter(md.zeros(np.shape(g), dtype=dtype, device=device))
        p.grad = md.tensor(np.asarray(g, dtype), device=device)
        made.append(p)
    return made


def gradients(ps):
    return [to_numpy(p.grad.array).tolist() for p in ps]


# ---- clipping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm_type", "norm"), [(2, 13.0), (1, 19.0), (math.inf, 12.0), (3, 1819 ** (1 / 3))])
def test_the_norm_returned_is_that_of_all_gradients_before_clipping(norm_type, norm, device):
    ps = parameters([3.0, -4.0], [[-12.0]], device=device)
    found = utils.clip_grad_norm_(ps, 1.0, norm_type=norm_type)
    assert (found.shape, found.device) == ((), device)
    assert found.item() == pytest.approx(norm, rel=1e-14)
    again = utils.clip_grad_norm_(ps, 1.0, norm_type=norm_type)
    assert again.item() == pytest.approx(1.0, rel=1e-5)


def test_clipping_keeps_directions_and_leaves_small_gradients_alone():
    ps = parameters([3.0, -4.0])
    utils.clip_grad_norm_(ps, 2.0)
    np.testing.assert_allclose(ps[0].grad.numpy(), [1.2, -1.6], rtol=1e-6)
    ps = parameters([3.0, -4.0])
    utils.clip_grad_norm_(ps, 5.1)
    assert gradients(ps) == [[3.0, -4.0]]
    assert utils.clip_grad_norm_(ps, math.inf).item() == 5.0


def test_clipping_works_without_gradients_on_zeros_and_on_one_tensor():
    assert utils.clip_grad_norm_([nn.Parameter([1.0])], 1.0).item() == 0
    assert utils.clip_grad_norm_([], 1.0).item() == 0
    ps = parameters([0.0, 0.0], np.zeros((0, 2)))
    assert utils.clip_grad_norm_(ps, 1.0).item() == 0
    assert gradients(ps) == [[0.0, 0.0], []]
    (p,) = parameters([3.0, 4.0])
    assert utils.clip_grad_norm_(p, 1.0).item() == 5
    assert utils.clip_grad_norm_((q for q in [p]), 1.0).item() == pytest.approx(1, rel=1e-6)


def test_a_tied_parameter_counts_once():
    (p,) = parameters([3.0, 4.0])
    assert utils.clip_grad_norm_([p, p], 1.0).item() == 5
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8], rtol=1e-6)


def test_norms_beyond_the_range_of_squares_of_float32_are_right():
    ps = parameters([3e25, 4e25], [1e-30], dtype="float32")
    norm = utils.clip_grad_norm_(ps, 1.0)
    assert (norm.dtype, norm.item()) == (np.float32, pytest.approx(5e25))
    np.testing.assert_allclose(ps[0].grad.numpy(), [0.6, 0.8], rtol=1e-6)
    assert ps[0].grad.dtype == np.float32


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_raises_if_asked_and_changes_nothing(wrong):
    ps = parameters([1.0, wrong], [2.0])
    with pytest.raises(RuntimeError, match=f"clip_grad_norm_: the norm of the gradients is {wrong}; no gradient"):
        utils.clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(ps[0].grad.numpy(), [1.0, wrong])
    assert not np.isfinite(utils.clip_grad_norm_(ps, 1.0).item())
    assert not np.isfinite(ps[0].grad.numpy()[1])


def test_clipping_waits_for_no_gpu(fake_cuda):
    ps = parameters([3.0, -4.0], [[-12.0]], device="cuda")
    fake_cuda.stats.reset()
    with md.transfers(max=0):
        utils.clip_grad_norm_(ps, 1.0)
        utils.clip_grad_value_(ps, 0.1)
    assert fake_cuda.stats.waits == 0


def test_a_gradient_that_is_part_of_a_graph_gives_way_to_a_clipped_copy():
    w = nn.Parameter([3.0])
    (w**3).sum().backward(create_graph=True)
    graph = w.grad
    utils.clip_grad_norm_([w], 1.0)
    assert graph.item() == 27
    assert not w.grad.requires_grad
    assert w.grad.item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda ps: utils.clip_grad_norm_(ps, 0.0), ValueError, "clip_grad_norm_: max_norm must be > 0, got 0.0"),
        (lambda ps: utils.clip_grad_norm_(ps, -1), ValueError, "max_norm must be > 0, got -1"),
        (
            lambda ps: utils.clip_grad_norm_(ps, np.nan),
            ValueError,
            "max_norm must be a finite number, got max_norm=nan",
        ),
        (lambda ps: utils.clip_grad_norm_(ps, 1.0, norm_type=0), ValueError, "norm_type must be > 0 or inf, got 0"),
        (lambda ps: utils.clip_grad_norm_(None, 1.0), TypeError, "a Tensor or an iterable of them, .* got NoneType"),
        (lambda ps: utils.clip_grad_norm_(["w"], 1.0), TypeError, "got str"),
        (lambda ps: utils.clip_grad_value_(ps, -1.0), ValueError, "clip_value must be a finite number >= 0"),
    ],
)
def test_what_cannot_be_clipped_is_named(call, kind, text):
    ps = parameters([1.0])
    with pytest.raises(kind, match=text):
        call(ps)
    assert gradients(ps) == [[1.0]]


def test_values_are_clipped_one_by_one(device):
    ps = parameters([3.0, -4.0, 0.5], [[-0.1]], device=device)
    utils.clip_grad_value_(ps, 1)
    assert gradients(ps) == [[1.0, -1.0, 0.5], [[-0.1]]]


# ---- parameters as one vector ------------------------------------------------------------------------------------


def test_parameters_go_to_a_vector_and_back():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    vector = utils.parameters_to_vector(model.parameters())
    assert vector.shape == (11,)
    (vector * vector).sum().backward()
    for p in model.parameters():
        np.testing.assert_allclose(p.grad.numpy(), 2 * p.detach().numpy())
    before = model[0].weight
    utils.vector_to_parameters(md.arange(11.0, dtype="float64"), model.parameters())
    assert model[0].weight is before
    assert before.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert utils.parameters_to_vector(model.parameters()).tolist() == list(range(11))


def test_a_vector_that_does_not_fit_changes_nothing():
    layer = nn.Linear(3, 2)
    before = layer.weight.data.copy()
    with pytest.raises(ValueError, match=r"vector_to_parameters: the parameters have 8 elements, the vector \(9,\)"):
        utils.vector_to_parameters(md.zeros(9), layer.parameters())
    with pytest.raises(TypeError, match="the vector is float64 and a parameter float32"):
        utils.vector_to_parameters(md.zeros(8, dtype="float64"), layer.parameters())
    assert np.array_equal(layer.weight.data, before)


# ---- weight normalization ----------------------------------------------------------------------------------------

NORMED = {
    "Linear": (lambda: nn.Linear(3, 4), (5, 3)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 2), (2, 2, 4, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 2), (2, 2, 4)),
    "LSTM": (lambda: nn.LSTM(3, 4), (5, 2, 3)),
}


def result(layer, x):
    out = layer(x)
    return (out[0] if isinstance(out, tuple) else out).detach().numpy()


def name_of(kind):
    return "weight_hh_l0" if kind == "LSTM" else "weight"


@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_parts_a_weight_into_lengths_and_directions(kind, dim, rng):
    make, shape = NORMED[kind]
    layer, x, name = make().double(), md.tensor(rng.standard_normal(shape)), name_of(kind)
    before, weight = result(layer, x), getattr(layer, name).detach().numpy().copy()
    assert utils.weight_norm(layer, name, dim) is layer
    np.testing.assert_allclose(result(layer, x), before, rtol=1e-12)
    axes = None if dim is None else tuple(i for i in range(weight.ndim) if i != dim)
    lengths = np.sqrt((weight**2).sum(axes, keepdims=dim is not None))
    np.testing.assert_allclose(layer.get_parameter(f"{name}_g").detach().numpy(), lengths, rtol=1e-13)
    with md.no_grad():
        layer.get_parameter(f"{name}_v").copy_(weight * 7)  # a direction has no length
    np.testing.assert_allclose(result(layer, x), before, rtol=1e-12)
    assert utils.remove_weight_norm(layer, name) is layer
    np.testing.assert_allclose(result(layer, x), before, rtol=1e-12)
    assert sorted(layer.parameters().names) == sorted(make().parameters().names)
    assert layer._hooks == ({}, {})


@pytest.mark.parametrize("norm", [utils.weight_norm, utils.spectral_norm])
@pytest.mark.parametrize("kind", NORMED)
def test_layers_with_computed_weights_pass_the_battery(norm, kind, rng):
    make, shape = NORMED[kind]
    check_module(norm(make(), name_of(kind)), rng.standard_normal(shape))


def test_a_normed_layer_trains_and_can_be_copied_and_pickled_between_steps(rng):
    model = nn.Sequential(utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), utils.spectral_norm(nn.Linear(4, 1))).double()
    optimizer = md.optim.SGD(model.parameters(), lr=0.1)
    x, y = md.tensor(rng.standard_normal((20, 3))), md.tensor(rng.standard_normal((20, 1)))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.MSELoss()(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        model = pickle.loads(pickle.dumps(model)) if len(losses) == 10 else model
        optimizer = md.optim.SGD(model.parameters(), lr=0.1) if len(losses) == 10 else optimizer
        copy.deepcopy(model)
    assert losses[-1] < losses[9] < losses[0]


# ---- spectral normalization --------------------------------------------------------------------------------------


def test_the_largest_singular_value_becomes_1():
    layer, x = utils.spectral_norm(nn.Conv2d(2, 3, 3)).double(), md.randn(1, 2, 4, 4, dtype="float64")
    for _ in range(200):
        layer(x)
    assert np.linalg.norm(layer.weight.numpy().reshape(3, -1), 2) == pytest.approx(1, rel=1e-9)
    largest = np.linalg.norm(layer.weight_orig.detach().numpy().reshape(3, -1), 2)
    np.testing.assert_allclose(layer.weight.numpy(), layer.weight_orig.detach().numpy() / largest, rtol=1e-9)


def test_converged_vectors_give_the_derivative_of_the_singular_value():
    layer, x = utils.spectral_norm(nn.Linear(3, 2, bias=False)).double(), md.eye(3, dtype="float64")
    for _ in range(300):
        layer(x)
    w = layer.weight_orig.detach()
    c = md.randn(3, 2, dtype="float64")
    (layer(x) * c).sum().backward()
    md_w = md.tensor(w.numpy(), requires_grad=True)
    ((md_w / md.linalg.svdvals(md_w).max()).T * c).sum().backward()
    np.testing.assert_allclose(layer.weight_orig.grad.numpy(), md_w.grad.numpy(), rtol=1e-8, atol=1e-10)


def test_vectors_follow_in_training_alone_and_not_in_frozen_statistics():
    layer, x = utils.spectral_norm(nn.Linear(30, 20)), md.randn(4, 30)
    for change in (lambda: layer.train(), lambda: layer.eval()):
        change()
        before = layer.weight_u.data.copy()
        with nn.frozen_statistics():
            layer(x)
        assert np.array_equal(layer.weight_u.data, before)
        layer(x)
        assert np.array_equal(layer.weight_u.data, before) == (not layer.training)


def test_removing_it_keeps_the_weight_and_counts_transposed_convolution_by_its_outputs():
    layer = utils.spectral_norm(nn.ConvTranspose2d(2, 3, 2)).double()
    assert (layer.weight_u.shape, layer.weight_v.shape) == ((3,), (8,))
    layer.eval()
    x = md.randn(1, 2, 3, 3, dtype="float64")
    before = result(layer, x)
    utils.remove_spectral_norm(layer)
    np.testing.assert_allclose(result(layer, x), before, rtol=1e-12)
    assert list(layer.state_dict()) == ["bias", "weight"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: utils.weight_norm(nn.ReLU()), "weight_norm: ReLU has no parameter 'weight'"),
        (lambda: utils.weight_norm(utils.weight_norm(nn.Linear(2, 2))), "or it is computed already"),
        (
            lambda: utils.weight_norm(nn.Linear(2, 2), dim=2),
            r"dim must be an axis of weight \(2, 2\), counted from 0, got 2",
        ),
        (lambda: utils.weight_norm(nn.Linear(2, 2), dim=-1), "counted from 0, got -1"),
        (lambda: utils.remove_weight_norm(nn.Linear(2, 2)), "remove_weight_norm: Linear.weight is not computed by it"),
        (lambda: utils.remove_weight_norm(utils.spectral_norm(nn.Linear(2, 2))), "is not computed by it"),
        (lambda: utils.spectral_norm(nn.Linear(2, 2), n_power_iterations=0), "n_power_iterations must be an integer"),
        (lambda: utils.spectral_norm(nn.Linear(2, 2), "gain"), "spectral_norm: Linear has no parameter 'gain'"),
    ],
)
def test_what_cannot_be_normed_is_named_and_stays_as_it_is(call, text):
    with pytest.raises(ValueError, match=text):
        call()
