"""Activations at their kinks and far out, against closed forms and their compositions."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as md
from test_ops_fused import orders

ACTIVATIONS = [
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid", "mish", "relu6", "selu",
    "silu", "softplus", "softsign",
]  # fmt: skip


def slope(f, at, **settings):
    """Return the derivative of an activation at a number."""
    x = md.tensor(float(at), dtype="float64", requires_grad=True)
    f(x, **settings).backward()
    return x.grad.item()


# ---- compositions ----------------------------------------------------------------------------------------------------


def elu(x, alpha=1.0, rate=1.0, scale=1.0):
    return scale * md.where(x > 0, x, alpha * (md.exp(rate * md.where(x > 0, 0.0, x)) - 1.0))


TWINS = {
    "elu": (lambda x: md.elu(x, 0.5), lambda x: elu(x, 0.5)),
    "celu": (lambda x: md.celu(x, 2.0), lambda x: elu(x, 2.0, 0.5)),
    "selu": (md.selu, lambda x: elu(x, 1.6732632423543772, 1.0, 1.0507009873554805)),
    "leaky_relu": (lambda x: md.leaky_relu(x, 0.25), lambda x: md.where(x > 0, x, 0.25 * x)),
    "hardtanh": (md.hardtanh, lambda x: md.where(x > 1, 1.0, md.where(x < -1, -1.0, x))),
    "softplus": (lambda x: md.softplus(x, 2.0), lambda x: md.log(1 + md.exp(2.0 * x)) / 2.0),
    "gelu": (md.gelu, lambda x: 0.5 * x * (1 + md.erf(x * math.sqrt(0.5)))),
    "gelu, tanh": (
        lambda x: md.gelu(x, "tanh"),
        lambda x: 0.5 * x * (1 + md.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_fused_activation_is_its_composition_to_the_third_derivative(name):
    fused, composed = TWINS[name]
    x = np.linspace(-2.9, 3.1, 12)  # no kink among them
    for k, (a, b) in enumerate(zip(orders(fused, [x], 3), orders(composed, [x], 3), strict=True)):
        for mine, other in zip(a, b, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11, err_msg=f"order {k}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_finite_to_second_order_far_out(name, dtype):
    x = np.array([-1e4, -1e3, -100.0, -20.0, 20.0, 100.0, 1e3, 1e4], dtype)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for found in orders(getattr(md, name), [x], 2):
            for a in found:
                assert np.isfinite(a).all()
                assert a.dtype == dtype


# ---- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("f", "odd_part"), [("gelu", 1.0), ("silu", 1.0), ("softplus", 1.0), ("hardswish", 1.0)])
def test_the_odd_part_of_a_gated_identity_is_half_the_identity(f, odd_part):
    """x s(x) with s(x) + s(-x) = 1 has f(x) - f(-x) = x; so has log(1 + e^x)."""
    x = np.linspace(-5, 5, 11)
    f = getattr(md, f)
    np.testing.assert_allclose(f(x) - f(-x), odd_part * x, rtol=1e-12, atol=1e-14)


def test_gelu_is_exact_far_out_on_the_left():
    """-10 P(Z <= -10) with P from the continued fraction of the normal tail; (1 + erf) / 2 would be 0."""
    tail = 7.619853024160526065e-24
    assert md.gelu(np.float64(-10.0)) == pytest.approx(-10.0 * tail, rel=1e-13)


def test_selu_keeps_mean_0_and_variance_1():
    nodes, weights = np.polynomial.legendre.leggauss(400)
    halves = [(-10 + 5 * (nodes + 1)), 5 * (nodes + 1)]  # [-10, 0] and [0, 10]: smooth on each
    density = [np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * 5 * weights for z in halves]
    moments = [sum((md.selu(z) ** k * d).sum() for z, d in zip(halves, density, strict=True)) for k in (1, 2)]
    np.testing.assert_allclose(moments, [0.0, 1.0], atol=1e-7)


def test_log_sigmoid_is_the_logarithm_of_the_sigmoid():
    x = np.linspace(-30, 30, 13)
    np.testing.assert_allclose(md.log_sigmoid(x), np.log(md.sigmoid(x)), rtol=1e-13, atol=1e-16)
    assert md.log_sigmoid(np.array([-1e4])).tolist() == [-1e4]


def test_softplus_follows_the_identity_above_its_threshold_as_in_pytorch():
    x = np.array([1.9, 2.1])
    out = md.softplus(x, beta=2.0, threshold=4.0)
    np.testing.assert_allclose(out, [math.log1p(math.exp(3.8)) / 2, 2.1], rtol=1e-14)
    assert slope(md.softplus, 2.1, beta=2.0, threshold=4.0) == 1.0
    assert slope(md.softplus, 2.1, beta=2.0, threshold=math.inf) == pytest.approx(1 / (1 + math.exp(-4.2)), rel=1e-14)


def test_celu_is_smooth_at_0_for_every_alpha_and_elu_only_for_1():
    tiny = 1e-9
    for alpha in (0.5, 1.0, 3.0):
        assert slope(md.celu, -tiny, alpha=alpha) == pytest.approx(slope(md.celu, tiny, alpha=alpha), rel=1e-8)
        assert slope(md.elu, -tiny, alpha=alpha) == pytest.approx(alpha, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [("leaky_relu", 0.0, 0.01), ("relu6", 0.0, 0.0), ("relu6", 6.0, 0.0), ("hardtanh", 1.0, 0.0),
     ("hardtanh", -1.0, 0.0), ("hardsigmoid", 3.0, 0.0), ("elu", 0.0, 1.0), ("celu", 0.0, 1.0),
     ("softsign", 0.0, 1.0), ("softplus", 0.0, 0.5), ("silu", 0.0, 0.5), ("gelu", 0.0, 0.5), ("mish", 0.0, 0.6)],
)  # fmt: skip
def test_derivatives_at_kinks_and_at_0(name, at, expected):
    assert slope(getattr(md, name), at) == pytest.approx(expected, rel=1e-12)


def test_clip_and_hardtanh_differ_at_the_bounds_alone():
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    slopes = []
    for f in (md.hardtanh, lambda t: md.clip(t, -1.0, 1.0)):
        t = md.tensor(x, requires_grad=True)
        f(t).sum().backward()
        slopes.append(t.grad.tolist())
    assert slopes == [[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0, 0.0]]


def test_the_slope_of_prelu_learns_from_what_is_negative(rng):
    x, g = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 2))
    w = md.tensor([0.1, 0.2, 0.3], dtype="float64", requires_grad=True)
    md.prelu(md.tensor(x), w).backward(g)
    np.testing.assert_allclose(w.grad.numpy(), (g * np.minimum(x, 0)).sum(axis=(0, 2)), rtol=1e-12)


def test_the_gate_of_glu_is_the_second_half():
    assert md.glu(np.array([[3.0, 5.0, -1e4, 1e4]])).tolist() == [[0.0, 5.0]]


# ---- what goes in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softmin"])
def test_lists_and_integers_are_taken_as_numbers(name):
    f = getattr(md, name)
    expected = f(np.array([1.0, 2.0]))
    np.testing.assert_allclose(f([1.0, 2.0]), expected, rtol=1e-15)
    np.testing.assert_allclose(f(np.array([1, 2])), expected, rtol=1e-15)
    out = f(md.tensor(0.5))
    assert isinstance(out, md.Tensor)
    assert out.shape == ()
