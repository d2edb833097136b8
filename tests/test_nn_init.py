"""Initialisation: distributions, fans, reproducibility; PyTorch's defaults in the layers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.nn import init

SHAPE = (200, 300)


def std_of_uniform(bound):
    return bound / math.sqrt(3)


XAVIER = math.sqrt(2 / 500)
CASES = {  # how to draw, the mean, the standard deviation, the bound (None: there is none)
    "uniform": (lambda t: init.uniform_(t, -1.0, 3.0), 1.0, 4 / math.sqrt(12), 2.0),
    "normal": (lambda t: init.normal_(t, 2.0, 0.5), 2.0, 0.5, None),
    "xavier_uniform": (init.xavier_uniform_, 0.0, XAVIER, math.sqrt(3) * XAVIER),
    "xavier_uniform 2": (lambda t: init.xavier_uniform_(t, 2.0), 0.0, 2 * XAVIER, math.sqrt(12) * XAVIER),
    "xavier_normal": (init.xavier_normal_, 0.0, XAVIER, None),
    "kaiming_uniform": (init.kaiming_uniform_, 0.0, math.sqrt(2 / 300), math.sqrt(6 / 300)),
    "kaiming_uniform fan_out": (lambda t: init.kaiming_uniform_(t, 0, "fan_out", "relu"), 0.0, 0.1, math.sqrt(3) * 0.1),
    "kaiming_uniform sqrt 5": (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), 0.0, 1 / 30, 1 / math.sqrt(300)),
    "kaiming_normal": (lambda t: init.kaiming_normal_(t, nonlinearity="relu"), 0.0, math.sqrt(2 / 300), None),
    "kaiming_normal leaky": (lambda t: init.kaiming_normal_(t, a=0.5), 0.0, math.sqrt(2 / 1.25 / 300), None),
    "kaiming_normal linear": (lambda t: init.kaiming_normal_(t, nonlinearity="linear"), 0.0, math.sqrt(1 / 300), None),
    "orthogonal": (lambda t: init.orthogonal_(t, 3.0), 0.0, 3 / math.sqrt(300), None),
}


@pytest.mark.parametrize("name", CASES)
def test_mean_deviation_and_bound_are_those_of_the_formula_within_5_sigma(name):
    draw, mean, std, bound = CASES[name]
    t = md.zeros(SHAPE, dtype="float64")
    assert draw(t) is t
    x, n = t.numpy(), t.size
    assert abs(x.mean() - mean) < 5 * std / math.sqrt(n)
    # The variance of a sample variance is at most 2 std^4 / n for these distributions (that of the normal one).
    assert abs(x.var() - std**2) < 5 * std**2 * math.sqrt(2 / n)
    if bound is not None:
        assert np.abs(x - mean).max() <= bound
        assert np.abs(x - mean).max() > 0.999 * bound


def test_constants_fill():
    t = md.randn(3, 2)
    assert init.constant_(t, 0.25) is t
    assert (t.numpy() == 0.25).all()
    assert (init.ones_(t).numpy() == 1).all()
    assert (init.zeros_(t).numpy() == 0).all()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (6, 2, 3), (2, 3, 4)])
def test_orthogonal_rows_or_columns_are_orthonormal_times_the_gain(shape):
    w = init.orthogonal_(md.zeros(shape, dtype="float64"), gain=2.0).numpy().reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)


def test_orthogonal_draws_either_sign_alike():
    """Without fixing the sign of QR the first entry would always be negative."""
    signs = [np.sign(init.orthogonal_(md.zeros(2, 2)).numpy()[0, 0]) for _ in range(200)]
    assert abs(sum(signs)) < 5 * math.sqrt(200)


def test_fans_count_inputs_and_kernel_elements():
    assert init.fans(md.zeros(8, 3)) == (3, 8)
    assert init.fans(md.zeros(8, 3, 5, 2)) == (30, 80)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_fewer_than_two_axes_have_no_fan(shape):
    draws = (init.xavier_uniform_, init.xavier_normal_, init.kaiming_uniform_, init.kaiming_normal_, init.orthogonal_)
    for draw in draws:
        t = md.ones(shape)
        with pytest.raises(ValueError, match=rf"at least two axes.*{shape}".replace("(", r"\(").replace(")", r"\)")):
            draw(t)
        assert (t.numpy() == 1).all()


@pytest.mark.parametrize(
    ("name", "param", "gain"),
    [
        ("linear", None, 1), ("conv2d", None, 1), ("sigmoid", None, 1), ("tanh", None, 5 / 3), ("selu", None, 0.75),
        ("relu", None, math.sqrt(2)), ("leaky_relu", None, math.sqrt(2 / 1.0001)), ("leaky_relu", 2, math.sqrt(2 / 5)),
    ],
)  # fmt: skip
def test_gains(name, param, gain):
    assert init.calculate_gain(name, param) == pytest.approx(gain, rel=1e-15)


def test_wrong_arguments_are_named_and_change_nothing():
    t = md.ones(2, 2)
    for call, text in (
        (lambda: init.calculate_gain("swishh"), "nonlinearity must be one of .*leaky_relu, got 'swishh'"),
        (lambda: init.kaiming_normal_(t, mode="fan"), "mode must be 'fan_in' or 'fan_out', got 'fan'"),
        (lambda: init.uniform_(t, 1.0, 0.0), "a <= b, got a=1.0, b=0.0"),
        (lambda: init.normal_(t, 0.0, -1.0), "std >= 0, got mean=0.0, std=-1.0"),
        (lambda: init.uniform_(t, 0.0, math.inf), "finite"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    for wrong, text in ((np.ones((2, 2)), "got ndarray"), (md.tensor([[1]]), "got int64")):
        with pytest.raises(TypeError, match=f"normal_: needs a floating Tensor to write into, {text}"):
            init.normal_(wrong)
    assert (t.numpy() == 1).all()


def test_a_parameter_is_filled_in_place_without_recording_and_the_graph_notices():
    w = nn.Parameter(np.ones((2, 2)))
    array = w.array
    loss = (w * w).sum()
    assert init.normal_(w) is w
    assert w.is_leaf
    assert w.requires_grad
    assert w.array is array
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        loss.backward()


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_bits_on_every_device(name, fake_cuda):
    drawn = []
    for device in ("cpu", "cuda"):
        md.manual_seed(7)
        drawn.append(to_numpy(CASES[name][0](md.zeros(SHAPE, device=device)).array))
    assert drawn[0].tobytes() == drawn[1].tobytes()


def test_layers_start_with_pytorchs_defaults():
    layer = nn.Linear(400, 500)
    for p in layer.parameters():
        x = p.data.astype(np.float64)
        assert np.abs(x).max() <= 1 / 20
        assert np.abs(x).max() > 0.99 / 20
        assert abs(x.mean()) < 5 * std_of_uniform(1 / 20) / math.sqrt(x.size)
    norm = nn.BatchNorm1d(3)
    assert [t.tolist() for t in norm.state_dict().values()] == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1], 0]


def test_the_same_seed_gives_the_same_network():
    def draw():
        md.manual_seed(12)
        return [
            p.data.tobytes() for p in nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).parameters()
        ]

    first = draw()
    assert draw() == first
    md.manual_seed(13)
    assert nn.Linear(3, 4).weight.data.tobytes() != first[0]


def test_two_parameters_never_start_equal():
    layer = nn.Linear(4, 4)
    other = nn.Linear(4, 4)
    assert not np.array_equal(layer.weight.data, other.weight.data)
    assert not np.array_equal(layer.weight.data[0], layer.bias.data)
