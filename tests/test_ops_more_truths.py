"""Truths of functions, rounding, order and places: closed forms, and laws that join operations."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy import special

import minidl as md
from minidl.engine.autograd import history

INF, NAN = float("inf"), float("nan")
STRICT = {"over": "raise", "divide": "raise", "invalid": "raise"}
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("bool", "int8", "uint8", "int32", "int64")


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


def derivative(f, x, order=1):
    """Return the derivative of sum(f(x)) of the given order, as a list."""
    y = f(x)
    for k in range(order):
        (y,) = md.autograd.grad(y.sum(), x, create_graph=k + 1 < order)
    return y.tolist()


def mixed(f, x, y):
    """Return d2 f / dx dy and d2 f / dy dx, as lists."""
    first = md.autograd.grad(f(x, y).sum(), [x, y], create_graph=True)
    (xy,), (yx,) = md.autograd.grad(first[0].sum(), y, retain_graph=True), md.autograd.grad(first[1].sum(), x)
    return xy.tolist(), yx.tolist()


# ---- the error function ----------------------------------------------------------------------------------------------

GRID = np.concatenate([np.linspace(-6, 6, 4001), np.linspace(-28, 28, 2001), 10.0 ** np.linspace(-300, 1, 500), [-0.0]])


@pytest.mark.parametrize(("f", "exact"), [(md.erf, math.erf), (md.erfc, math.erfc)])
def test_the_error_function_is_right_to_the_last_digits(f, exact):
    expected = np.array([exact(v) for v in GRID])
    np.testing.assert_allclose(f(GRID), expected, rtol=2e-15, atol=1e-308)
    for dtype, ulps in (("float32", 8), ("float16", 1)):
        x = GRID.astype(dtype)
        out, expected = f(x), np.array([exact(float(v)) for v in x])
        assert out.dtype == dtype
        normal = np.abs(expected) > np.finfo(dtype).tiny
        np.testing.assert_allclose(out[normal], expected[normal], rtol=ulps * float(np.finfo(dtype).eps))


def test_the_error_function_is_odd_and_complements_itself():
    with np.errstate(**STRICT):
        np.testing.assert_array_equal(md.erf(-GRID), -md.erf(GRID))
        np.testing.assert_allclose(md.erf(GRID) + md.erfc(GRID), 1.0, rtol=4e-16)
        np.testing.assert_allclose(md.erfc(GRID) + md.erfc(-GRID), 2.0, rtol=4e-16)
        ends = leaf([INF, -INF, 1e300, -1e300])
        assert md.erf(ends).tolist() == [1.0, -1.0, 1.0, -1.0]
        assert derivative(md.erfc, ends) == derivative(md.erf, ends, order=2) == [0.0] * 4


def normal_tail(a):
    """P(Z <= -a) for a >= 0: erfc(a / sqrt(2)) / 2, corrected for rounding the argument, which far out shows much."""
    z = a * math.sqrt(0.5)
    off = float(Fraction(a) ** 2 / 2 - Fraction(z) ** 2) / (2 * z or 1.0)
    return 0.5 * math.erfc(z) * (1 - 2 * off / (math.sqrt(math.pi) * float(special.erfcx(z))))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gelu_is_right_to_the_last_digits_on_both_sides(dtype):
    x = np.concatenate([np.linspace(-37, 20, 5701), np.linspace(-1, 1, 501), [1e-300, -1e-5]]).astype(dtype)
    tails = np.array([normal_tail(abs(float(v))) for v in x])
    expected = x.astype(float) * np.where(x > 0, 1 - tails, tails)
    normal = np.abs(expected) > np.finfo(dtype).tiny * 100
    error = np.abs(md.gelu(x)[normal].astype(float) / expected[normal] - 1) / np.finfo(dtype).eps
    bound = 7.0 if dtype == "float64" else 3.0 + x[normal].astype(float) ** 2 / 4
    assert np.all(error <= bound), (error / bound).max()


def test_gelu_beyond_the_range_of_its_approximation():
    x = leaf([-1e300, -50.0, -0.0, 50.0, 1e300])
    with np.errstate(**STRICT):
        y = md.gelu(x)
        (first,) = md.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = md.autograd.grad(first.sum(), x)
    assert y.tolist() == [0.0, 0.0, 0.0, 50.0, 1e300]
    assert first.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    np.testing.assert_allclose(second.numpy(), [0, 0, math.sqrt(2 / math.pi), 0, 0], rtol=1e-15)
    assert np.isnan(md.gelu(NAN))
    assert md.gelu(np.array([-20.0, 20.0], "f4")).tolist() == [0.0, 20.0]


@pytest.mark.parametrize("f", [md.erf, md.erfc, md.gelu])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_large_arrays_are_computed_in_blocks_as_small_ones_are_at_once(f, dtype):
    x = np.linspace(-5, 5, 40006).astype(dtype)
    whole = np.concatenate([f(part) for part in np.split(x, 2)])
    np.testing.assert_array_equal(f(x), whole)
    np.testing.assert_array_equal(f(x.reshape(2, 20003).T), whole.reshape(2, 20003).T)
    np.testing.assert_array_equal(f(np.repeat(x, 2)[::2]), whole)


def test_the_error_function_of_integers_and_numbers():
    assert md.erf(np.array([0, 1])).dtype == np.float64
    assert md.erf(md.tensor([1, 2])).tolist() == [pytest.approx(math.erf(v), rel=1e-15) for v in (1, 2)]
    assert md.erf(0.5) == pytest.approx(math.erf(0.5), rel=1e-15)
    assert np.isnan(md.erfc(NAN))
    assert math.copysign(1.0, md.erf(np.array(-0.0))) == -1.0


# ---- functions at their ties and zeros -------------------------------------------------------------------------------


def test_logaddexp_has_its_curvature_where_both_are_equal():
    x, y = leaf([1.0, 0.0, -700.0]), leaf([1.0, 0.0, -700.0])
    assert derivative(lambda x: md.logaddexp(x, y), x, order=2) == [0.25] * 3
    assert mixed(md.logaddexp, x, y) == ([-0.25] * 3, [-0.25] * 3)
    np.testing.assert_allclose(derivative(lambda x: md.logaddexp2(x, y), x, order=2), [math.log(2) / 4] * 3)
    assert derivative(lambda x: md.logaddexp(x, y), x, order=3) == [0.0] * 3


def test_logaddexp_keeps_the_small_share():
    x = leaf([-500.0])
    np.testing.assert_allclose(derivative(lambda x: md.logaddexp(x, 0.0), x), [math.exp(-500)], rtol=1e-13)


def test_logaddexp2_of_infinities_has_no_nan():
    with np.errstate(**STRICT):
        for a, b, ga, gb in (
            (INF, INF, 0.5, 0.5),
            (-INF, -INF, 0.5, 0.5),
            (INF, -INF, 1.0, 0.0),
            (-INF, 3.0, 0.0, 1.0),
        ):
            x, y = leaf([a]), leaf([b])
            first = md.autograd.grad(md.logaddexp2(x, y), [x, y], create_graph=True)
            assert [g.tolist() for g in first] == [[ga], [gb]]
            assert [g.tolist() for g in md.autograd.grad(first[0], [x, y])] == [[0.0], [0.0]]


def test_xlogy_at_zero():
    with np.errstate(**STRICT):
        assert md.xlogy(np.zeros(5), np.array([0.0, -1.0, INF, 1e-300, 2.0])).tolist() == [0.0] * 5
        x, y = leaf([0.0, 0.0]), leaf([2.0, 0.25])
        assert mixed(md.xlogy, x, y) == ([0.5, 4.0], [0.5, 4.0])
        np.testing.assert_allclose(derivative(lambda x: md.xlogy(x, y), x), np.log([2.0, 0.25]))
    for dtype in FLOATS:
        a = np.array([0.0, 2.0], dtype)
        assert md.xlogy(a, 3.0).dtype == md.xlogy(3.0, a + 1).dtype == dtype
        assert md.xlogy(a, 0.5).tolist() == [0.0, (2 * np.log(np.array(0.5, dtype))).item()]


def test_the_entropy_of_a_certainty_is_zero():
    p = leaf([1.0, 0.0, 0.0])
    with np.errstate(**STRICT):
        entropy = -md.xlogy(p, p).sum()
        assert entropy.item() == 0.0
        assert md.autograd.grad(entropy, p)[0].tolist() == [-1.0, 0.0, 0.0]


def test_sinc_has_the_derivatives_of_its_series_at_zero():
    expected = [0.0, -(math.pi**2) / 3, 0.0, math.pi**4 / 5]
    for order, value in enumerate(expected, 1):
        np.testing.assert_allclose(derivative(md.sinc, leaf(0.0), order=order), value, rtol=1e-14, atol=1e-15)
    for dtype in FLOATS:
        assert md.sinc(np.zeros(2, dtype)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_two_formulas_of_sincs_derivative_meet(order):
    inner, outer = (np.array(derivative(md.sinc, leaf([v, -v]), order=order)) for v in (0.03 - 1e-12, 0.03 + 1e-12))
    np.testing.assert_allclose(inner, outer, rtol=1e-8, atol=1e-9)


def test_squares_that_would_overflow_or_vanish_do_neither():
    with np.errstate(**STRICT):
        for scale in (1e200, 1e-200):
            x, y = leaf([3 * scale]), leaf([4 * scale])
            md.hypot(x, y).sum().backward()
            np.testing.assert_allclose([x.grad.item(), y.grad.item()], [0.6, 0.8], rtol=1e-15)
            x, y = leaf([3 * scale]), leaf([4 * scale])
            md.arctan2(x, y).sum().backward()
            np.testing.assert_allclose([x.grad.item() * scale, y.grad.item() * scale], [0.16, -0.12], rtol=1e-15)
        np.testing.assert_allclose(derivative(md.arctan, leaf([1e200])), [0.0], atol=1e-300)
        np.testing.assert_allclose(derivative(md.arcsinh, leaf([1e200])), [1e-200])
        np.testing.assert_allclose(derivative(md.arccosh, leaf([1e200])), [1e-200])
        for f in (md.arctan, md.erf, md.erfc, md.arccosh, md.log10, md.log2, md.arcsinh):
            assert np.isfinite(derivative(f, leaf([3e4], "float16"))).all()


def test_roots_and_arcs_have_infinite_slopes_at_their_ends():
    with np.errstate(divide="ignore"):
        assert derivative(md.cbrt, leaf([0.0, 8.0])) == [INF, 1 / 12]
        assert derivative(md.arcsin, leaf([1.0, -1.0, 0.0])) == [INF, INF, 1.0]
        assert derivative(md.arccos, leaf([1.0, -1.0, 0.0])) == [-INF, -INF, -1.0]
        assert derivative(md.arccosh, leaf([1.0])) == [INF]
        assert derivative(md.arctanh, leaf([1.0, 0.0])) == [INF, 1.0]


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(md.sin, md.arcsin), (md.cos, md.arccos), (md.tan, md.arctan), (md.sinh, md.arcsinh), (md.tanh, md.arctanh),
     (md.expm1, md.log1p), (md.exp2, md.log2), (md.log10, lambda x: 10.0**x), (md.square, md.sqrt), (md.arcsin, md.sin),
     (md.cosh, lambda x: md.arccosh(x + 1) * 1.0), (md.reciprocal, md.reciprocal), (lambda x: x**3, md.cbrt)],
)  # fmt: skip
def test_a_function_undoes_its_inverse_and_so_do_their_derivatives(outer, inner):
    x = leaf([0.1, 0.3, 0.7])
    np.testing.assert_allclose(derivative(lambda x: outer(inner(x)), x), [1.0] * 3, rtol=1e-13)
    np.testing.assert_allclose(derivative(lambda x: outer(inner(x)), x, order=2), [0.0] * 3, atol=1e-12)


# ---- rounding and remainders -----------------------------------------------------------------------------------------


def test_halves_round_to_even():
    assert md.round(leaf([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0.0, 2.0, 2.0, -0.0, -2.0]
    assert md.round(leaf([25.0, 35.0]), -1).tolist() == [20.0, 40.0]
    assert leaf([1.26]).round(1).tolist() == [1.3]


def test_remainders_take_the_sign_of_the_divisor_and_fmods_that_of_the_dividend():
    x, y = np.array([7.0, -7.0, 7.0, -7.0]), np.array([4.0, 4.0, -4.0, -4.0])
    assert md.mod(x, y).tolist() == [3.0, 1.0, -1.0, -3.0]
    assert md.fmod(x, y).tolist() == [3.0, -3.0, 3.0, -3.0]
    assert md.floor_divide(x, y).tolist() == [1.0, -2.0, -2.0, 1.0]
    assert (leaf([-7.0]) % 4).tolist() == [1.0]
    assert (-7.0 // leaf([4.0])).tolist() == [-2.0]


@pytest.mark.parametrize("op", [md.mod, md.fmod])
def test_the_slope_of_a_remainder_is_the_quotient_that_it_left(op):
    x, y = leaf([28.2, 15.4, -28.2, 7.5]), leaf([4.7, 1.1, 4.7, -2.0])
    out = op(x, y)
    out.sum().backward()
    quotient = np.round((x - out).detach().numpy() / y.detach().numpy())
    assert y.grad.tolist() == (-quotient).tolist()
    assert x.grad.tolist() == [1.0] * 4


def test_the_sign_of_a_zero_counts():
    x, y = leaf([2.0, -2.0, 2.0, 0.0]), leaf([0.0, 0.0, -0.0, -1.0])
    out = md.copysign(x, y)
    assert out.tolist() == [2.0, 2.0, -2.0, -0.0]
    out.sum().backward()
    assert x.grad.tolist() == [1.0, -1.0, -1.0, 0.0]
    assert y.grad.tolist() == [0.0] * 4
    assert md.signbit(md.tensor([-0.0, 0.0, -INF])).tolist() == [True, False, True]


def test_the_bounds_of_clip_are_weak_numbers():
    for dtype in FLOATS:
        x = leaf([-2.0, 0.5, 2.0], dtype)
        for low, high in ((np.float64(-1), np.int64(1)), (-1, 1.0), (np.float32(-1), None)):
            assert md.clip(x, low, high).dtype == dtype
    assert md.clip(np.array([0, 5]), 1, 3).dtype == np.int64
    edge = np.array([0.1], np.float32)
    assert derivative(lambda x: md.clip(x, np.float64(0.1), 1.0), leaf(edge, "float32")) == [1.0]


def test_bounds_in_the_wrong_order_give_the_upper_one_as_in_numpy():
    x = leaf([-2.0, 0.5, 2.0])
    assert md.clip(x, 1.0, -1.0).tolist() == np.clip([-2.0, 0.5, 2.0], 1.0, -1.0).tolist() == [-1.0] * 3
    assert derivative(lambda x: md.clip(x, 1.0, -1.0), x) == [0.0] * 3


def test_bounds_that_want_a_gradient_are_refused_with_the_remedy():
    x, bound = leaf([1.0, 2.0]), leaf([1.5, 1.5])
    for call in (lambda: md.clip(x, bound), lambda: md.clip(x, max=bound), lambda: x.clip(0.0, np.ones(2))):
        with pytest.raises(TypeError, match=r"clip: .*(Tensor|ndarray).*minimum\(maximum\(x, min\), max\)"):
            call()
    md.minimum(md.maximum(x, 0.0), bound).sum().backward()
    assert (x.grad.tolist(), bound.grad.tolist()) == ([1.0, 0.0], [0.0, 1.0])


def test_what_nan_to_num_replaces_has_no_gradient():
    x = leaf([NAN, INF, -INF, 2.0])
    assert md.nan_to_num(x, nan=1.0, posinf=2.0, neginf=3.0).tolist() == [1.0, 2.0, 3.0, 2.0]
    assert derivative(lambda x: md.nan_to_num(x, posinf=1.0, neginf=1.0) ** 2, x) == [0.0, 0.0, 0.0, 4.0]
    assert md.nan_to_num(x)[1].item() == np.finfo(np.float64).max
    with pytest.raises(TypeError):
        md.nan_to_num(x, True)  # NumPy's second argument is copy=, PyTorch's is nan=


# ---- products, sums and their running forms --------------------------------------------------------------------------


def test_the_derivatives_of_a_product_are_the_products_of_the_others():
    for values in ([2.0, 3.0, 5.0], [0.0, 3.0, 5.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]):
        hessian = md.func.hessian(md.prod)(np.array(values)).numpy()
        others = lambda *gone, values=values: math.prod(v for i, v in enumerate(values) if i not in gone)  # noqa: E731
        assert hessian.tolist() == [[0.0 if i == j else others(i, j) for j in range(3)] for i in range(3)]
        assert derivative(md.prod, leaf(values)) == [others(i) for i in range(3)]
    assert derivative(md.prod, leaf([0.0, 0.0, 0.0]), order=3) == [2.0, 2.0, 2.0]


def test_the_jacobian_of_a_running_product_is_exact_at_zeros():
    for values in ([2.0, 0.0, 3.0, 4.0], [0.0, 0.0, 3.0, 4.0], [0.0, 2.0, 0.0, 1.0]):
        jacobian = md.func.jacobian(md.cumprod)(np.array(values)).numpy()
        for i in range(4):
            for j in range(4):
                rest = math.prod(v for k, v in enumerate(values[: i + 1]) if k != j)
                assert jacobian[i, j] == (rest if j <= i else 0.0)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_sums_and_products_of_short_integers_have_64_bits(dtype):
    a = np.ones((3, 40), dtype) + (np.ones((3, 40), dtype) if dtype != "bool" else False)
    for ours, theirs in ((md.prod, np.prod), (md.cumprod, np.cumprod), (md.sum, np.sum), (md.cumsum, np.cumsum)):
        for axis in (0, 1):
            got, expected = ours(a, axis=axis), theirs(a, axis=axis)
            assert got.dtype == expected.dtype
            assert got.tolist() == expected.tolist()


def test_the_gradient_of_a_running_sum_counts_the_sums_that_follow():
    assert derivative(md.cumsum, leaf([5.0, 6.0, 7.0])) == [3.0, 2.0, 1.0]
    assert derivative(lambda x: md.cumsum(x, axis=0), leaf([[1.0], [2.0]])) == [[2.0], [1.0]]


def test_logcumsumexp_is_logsumexp_of_each_beginning():
    x = np.array([-1e4, 3.0, 1e4, 1e4, -1e4])
    with np.errstate(**STRICT):
        out = md.logcumsumexp(x)
        np.testing.assert_allclose(out, [md.logsumexp(x[: i + 1]) for i in range(5)], rtol=1e-14)
        t = leaf(x)
        assert derivative(lambda x: md.logcumsumexp(x)[-1], t) == md.softmax(t).tolist()
        masked = leaf([-INF, -INF, 1.0, -INF])
        assert md.logcumsumexp(masked).tolist() == [-INF, -INF, 1.0, 1.0]
        assert derivative(lambda x: md.logcumsumexp(x)[2:], masked) == [0.0, 0.0, 2.0, 0.0]
    assert md.logcumsumexp(np.array([1, 2])).dtype == np.float64


def test_spreads_of_float16_and_int8_are_those_of_float64():
    wide = np.array([300.0, -300.0] * 2000, np.float16)
    with np.errstate(**STRICT):
        assert md.std(wide).item() == 300.0
        slope = np.array(derivative(md.std, leaf(wide, "float16")))
    np.testing.assert_allclose(slope[:2], [1 / 4000, -1 / 4000], rtol=1e-2)
    small = np.array([100, -100, 50], np.int8)
    for f, theirs in ((md.var, np.var), (md.std, np.std)):
        assert f(small).dtype == np.float64
        assert f(small).item() == pytest.approx(theirs(small.astype(float)), rel=1e-14)


# ---- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_sorting_and_choosing_keep_the_order_of_equals(dtype):
    x = np.array([1, 0, 1, 0, 1], dtype)
    assert md.argsort(x).tolist() == [1, 3, 0, 2, 4]
    assert md.topk(x, 5)[1].tolist() == [0, 2, 4, 1, 3]
    assert md.topk(x, 5, largest=False)[1].tolist() == [1, 3, 0, 2, 4]


def test_nan_is_sorted_last_and_counts_as_the_largest():
    with np.errstate(**STRICT):
        x = md.tensor([2.0, NAN, -INF, INF])
        assert md.argsort(x).tolist() == [2, 0, 3, 1]
        assert md.topk(x, 2)[1].tolist() == [1, 3]
        assert md.topk(x, 1, largest=False)[1].tolist() == [2]


def test_the_gradient_of_sorting_is_the_way_back():
    rng = np.random.default_rng(3)
    x, g = rng.standard_normal((4, 7)), rng.standard_normal((4, 7))
    t = leaf(x)
    md.sort(t, axis=1).backward(g)
    back = np.empty_like(x)
    np.put_along_axis(back, np.argsort(x, axis=1), g, axis=1)
    assert t.grad.tolist() == back.tolist()
    assert derivative(lambda x: md.sort(x) ** 3, leaf([3.0, 1.0, 2.0]), order=2) == [18.0, 6.0, 12.0]


@pytest.mark.parametrize("seed", range(20))
def test_quantiles_are_numpys(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 5, 3))
    x = rng.standard_normal(shape)
    axis = [None, 0, -1, (0, 2), (2, 1), (0, 1, 2)][rng.integers(6)]
    q = rng.random(rng.integers(1, 4))
    q[0] = rng.choice([0.0, 1.0, 0.5, q[0]])
    for keepdims in (False, True):
        np.testing.assert_allclose(
            md.quantile(x, q, axis, keepdims), np.quantile(x, q, axis, keepdims=keepdims), rtol=1e-13
        )
        np.testing.assert_allclose(md.median(x, axis, keepdims), np.median(x, axis, keepdims=keepdims), rtol=1e-13)
    t = leaf(x)
    md.quantile(t, q[0], axis).sum().backward()
    groups = md.quantile(t, q[0], axis).size
    assert t.grad.sum().item() == pytest.approx(groups, rel=1e-13)
    assert np.count_nonzero(t.grad.numpy()) <= 2 * groups


def test_infinities_do_not_spoil_the_quantiles_beside_them():
    with np.errstate(**STRICT):
        x = md.tensor([-INF, -INF, 1.0, 2.0, INF])
        assert md.median(x).item() == 1.0
        assert md.quantile(x, [0.0, 0.1, 0.3, 1.0]).tolist() == [-INF, -INF, -INF, INF]
        assert derivative(md.median, leaf([5.0, INF, 1.0, 2.0])) == [0.5, 0.0, 0.0, 0.5]


def test_the_quantiles_of_integers_are_floats_whatever_q_is():
    for dtype in INTEGERS:
        for q in (0, 0.5, 0.3, 1):
            assert md.quantile(np.array([0, 1, 1], dtype), q).dtype == np.float64


def test_errors_of_order_and_products_name_who_was_asked():
    x = np.ones((2, 3))
    for f in (
        md.prod,
        md.median,
        md.cumsum,
        md.cumprod,
        md.sort,
        md.argsort,
        md.logcumsumexp,
        lambda x, axis: md.topk(x, 1, axis),
    ):
        with pytest.raises(
            np.exceptions.AxisError, match=r"(prod|median|cumsum|cumprod|sort|logcumsumexp|topk): axis 7"
        ):
            f(x, axis=7)
        with pytest.raises(TypeError, match=r"(prod|median|cumsum|cumprod|sort|logcumsumexp|topk): .*1.5"):
            f(x, axis=1.5)
    with pytest.raises(ValueError, match=r"median: .*at least one element.*\(0,\)"):
        md.median(np.ones(0))
    with pytest.raises(TypeError, match=r"topk: .*1.5"):
        md.topk(x, 1.5)


# ---- places ----------------------------------------------------------------------------------------------------------

PAD_MODES = ("constant", "linear_ramp", "edge", "reflect", "symmetric", "wrap", "maximum", "minimum", "mean", "median")


@pytest.mark.parametrize("mode", PAD_MODES)
def test_padding_is_numpys_however_far_it_goes(mode):
    rng = np.random.default_rng(5)
    for dtype in ("float32", "float64", "int64", "uint8"):
        for shape in ((1,), (2,), (5,), (2, 3), (1, 2, 3)):
            for _ in range(4):
                a = (rng.standard_normal(shape) * 5 + 20).astype(dtype)
                widths = rng.integers(0, 12, (len(shape), 2))
                got, expected = md.pad(a, widths, mode), np.pad(a, widths, mode)
                assert got.dtype == expected.dtype
                np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_settings_of_another_mode_of_padding_are_refused():
    for mode, name in (("edge", "constant_values"), ("constant", "end_values"), ("mean", "end_values")):
        with pytest.raises(ValueError, match=rf"pad: .*{name}.*{mode}"):
            md.pad(np.ones(3), 1, mode, **{name: 2.0})
    with pytest.raises(ValueError, match=r"pad: mode must be one of .*'empty'"):
        md.pad(np.ones(3), 0, mode="empty")


MOVES = {
    "flip": lambda x: md.flip(x, (0, -1)),
    "roll": lambda x: md.roll(x, (5, -1), (0, 1)),
    "roll flat": lambda x: md.roll(x, 4),
    "repeat": lambda x: md.repeat(x, 3, axis=1),
    "repeat each": lambda x: md.repeat(x, [2, 0, 1], axis=1),
    "tile": lambda x: md.tile(x, (2, 1, 3)),
    "pad": lambda x: md.pad(x, ((1, 2), (3, 0)), constant_values=7.0),
    "edge": lambda x: md.pad(x, 4, "edge"),
    "reflect": lambda x: md.pad(x, 9, "reflect"),
    "wrap": lambda x: md.pad(x, 9, "wrap"),
    "ramp": lambda x: md.pad(x, 3, "linear_ramp", end_values=2.0),
    "mean": lambda x: md.pad(x, (0, 2), "mean"),
    "take": lambda x: md.take(x, [[0, -1], [2, 2]], axis=1),
    "take flat": lambda x: md.take(x, [5, 0, 5]),
    "take one": lambda x: md.take(x, -1, axis=0),
    "moveaxis": lambda x: md.moveaxis(x, 0, -1),
    "swapaxes": lambda x: md.swapaxes(x, 0, -1),
    "split": lambda x: md.concatenate(md.split(x, [1], axis=1)[::-1], axis=1),
    "unstack": lambda x: md.stack(md.unstack(x, axis=1)[1:], axis=0),
    "tril": lambda x: md.tril(x, 1),
    "triu": lambda x: md.triu(x, 1),
    "diagonal": lambda x: md.diagonal(x, 1),
    "diag": lambda x: md.diag(md.ravel(x), -2),
    "atleast_3d": md.atleast_3d,
    "meshgrid": lambda x: md.stack(md.meshgrid(x[0], x[1])),
    "cumsum": lambda x: md.cumsum(x, axis=1),
    "index_add": lambda x: md.index_add(x, ([0, 0], [1, 1]), x[:, 0]),
    "index_set": lambda x: md.index_set(x, (0, slice(2)), x[1, 1:]),
    "put_along_axis": lambda x: md.put_along_axis(x, [[2], [0]], x[:, :1], axis=1),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_the_gradient_of_a_move_is_its_transpose_and_does_not_depend_on_where_it_is_taken(move):
    rng = np.random.default_rng(7)
    x, v, t = (rng.integers(-9, 9, (2, 3)).astype(float) for _ in range(3))
    zero = move(md.tensor(np.zeros((2, 3)))).numpy()
    y = move(leaf(x))
    u = rng.integers(-9, 9, y.shape).astype(float)
    grads = []
    for at in (x, t, x * np.inf):
        with np.errstate(invalid="ignore"):
            p = leaf(at)
            move(p).backward(u)
            grads.append(p.grad.numpy())
    np.testing.assert_array_equal(grads[0], grads[1])
    np.testing.assert_array_equal(grads[0], grads[2])  # infinite values pass by: their gradient is no 0 * inf
    image = move(md.tensor(v)).numpy() - zero
    np.testing.assert_allclose((u * image).sum(), (grads[0] * v).sum(), rtol=1e-13)


CUTS = {
    "split": lambda x: md.split(x, 50),
    "split at places": lambda x: md.split(x, [3, 60], axis=1),
    "unstack": md.unstack,
    "iteration": list,
    "the gradient of concatenate": lambda x: recorded_gradients(md.concatenate, [x, x * 2.0, x * 3.0]),
    "the gradient of stack": lambda x: recorded_gradients(md.stack, [x, x * 2.0, x * 3.0]),
}


def recorded_gradients(join, xs):
    joined = join(xs)
    return md.autograd.grad(joined, xs, leaf(np.ones(joined.shape)), create_graph=True)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_all_parts_of_an_array_are_cut_off_in_one_node(cut):
    nodes = history([part.node for part in cut(leaf(np.ones((100, 100))))])
    names = [node.op.name for node in nodes if getattr(node.op, "name", None) in ("getitem", "split", "unstack")]
    assert names in (["split"], ["unstack"])  # k indices would cost k gradients of the whole


def test_parts_that_are_not_used_have_the_gradient_zero():
    x = leaf(np.arange(6.0))
    (md.split(x, 3)[1] ** 2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0, 4, 6, 0, 0])


VIEWS = ("flip", "moveaxis", "swapaxes", "atleast_3d", "split", "unstack", "meshgrid")
COPIES = {name: move for name, move in MOVES.items() if name not in VIEWS} | {
    "roll by 0": lambda x: md.roll(x, 0),
    "roll around": lambda x: md.roll(x, 3, axis=1),
    "repeat once": lambda x: md.repeat(x, 1, axis=0),
    "tile once": lambda x: md.tile(x, 1),
    "pad by 0": lambda x: md.pad(x, 0, "edge"),
    "cumprod of one": lambda x: md.cumprod(x[:, :1], axis=1),
    "prod of one": lambda x: md.prod(x[:, :1], axis=1),
    "logcumsumexp of one": lambda x: md.logcumsumexp(x[:, :1], axis=1),
    "median of one": lambda x: md.median(x[:, :1], axis=1),
    "sort": md.sort,
    "clip": lambda x: md.clip(x, -99.0, 99.0),
    "round": md.round,
}  # fmt: skip


@pytest.mark.parametrize("f", COPIES.values(), ids=COPIES.keys())
def test_what_numpy_copies_is_a_copy(f):
    a = np.arange(6.0).reshape(2, 3)
    before = a.copy()
    out = f(a)
    assert out.flags.writeable
    out[...] = -1.0
    assert a.tolist() == before.tolist()
    t = md.tensor(before)
    assert not np.shares_memory(f(t).array, t.array)


def test_shifts_counts_and_places_may_be_any_integers():
    x, two = md.tensor([1.0, 2.0, 3.0]), np.int64(2)
    assert md.roll(x, two).tolist() == md.roll(x, [2]).tolist() == [2.0, 3.0, 1.0]
    assert (
        md.roll(md.tile(x, (2, 1)), 1, (0, 1)).tolist() == np.roll(np.tile([1.0, 2.0, 3.0], (2, 1)), 1, (0, 1)).tolist()
    )
    assert md.repeat(x, two).tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert md.repeat(x, md.tensor([0, 1, 2])).tolist() == md.repeat(x, np.array([0, 1, 2])).tolist() == [2.0, 3.0, 3.0]
    assert md.tile(x, two).tolist() == [1.0, 2.0, 3.0] * 2
    assert [p.tolist() for p in md.split(x, np.array([1, two]))] == [[1.0], [2.0], [3.0]]
    assert [p.tolist() for p in md.split(md.zeros(4), two)] == [[0.0, 0.0]] * 2
    assert md.topk(x, two)[1].tolist() == [2, 1]
    assert md.pad(x, two).shape == (7,)
    assert md.take(x, two).item() == md.take(x, md.tensor(2)).item() == 3.0
    for call in (lambda: md.roll(x, 1.5), lambda: md.repeat(x, 1.5), lambda: md.tile(x, 1.5), lambda: md.split(x, 1.5)):
        with pytest.raises(TypeError, match=r"(roll|repeat|tile|split): needs integers, got 1.5"):
            call()


def test_bools_are_no_places():
    x = np.arange(3.0)
    for indices in ([True, False, True], np.array([True, False, True]), True):
        with pytest.raises(TypeError, match=r"take: indices must be integers, got bool"):
            md.take(x, indices)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_triangles_keep_their_dtype_and_forget_what_lies_outside(dtype):
    a = np.ones((3, 4), dtype)
    for ours, theirs in ((md.tril, np.tril), (md.triu, np.triu)):
        for k in (-4, -1, 0, 2, 5):
            assert ours(a, k).dtype == dtype
            assert ours(a, k).tolist() == theirs(a, k).tolist()
    bad = leaf([[1.0, NAN], [INF, 1.0]])
    assert md.tril(md.triu(bad)).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert derivative(lambda x: md.tril(md.triu(x)), bad) == [[1.0, 0.0], [0.0, 1.0]]


def test_a_matrix_made_of_a_diagonal_has_it():
    x = leaf([1.0, 2.0, 3.0])
    for k in (-2, 0, 3):
        assert md.diag(md.diag(x, k), k).tolist() == x.tolist()
        assert derivative(lambda x, k=k: md.diag(md.diag(x, k), k) ** 2, x) == [2.0, 4.0, 6.0]
        assert md.diagonal(md.diag(x, k), k + 1).sum().item() == 0.0


# ---- writing without writing -----------------------------------------------------------------------------------------


def test_a_place_that_is_named_twice_cannot_be_set():
    x = leaf(np.zeros((2, 3)))
    for index in ([0, 0], ([0, 0], [1, 1]), ([0, 1, 0], 2), np.array([1, -1]), (slice(None), [2, 2])):
        with pytest.raises(ValueError, match=r"index_set: .*repeats.*index_add"):
            md.index_set(x, index, 1.0)
    with pytest.raises(ValueError, match=r"index_set: .*repeats"):
        md.put_along_axis(x, np.array([[0, 0], [0, 1]]), 1.0, axis=1)
    assert md.index_add(x, [0, 0], 1.0).tolist() == [[2.0] * 3, [0.0] * 3]


def test_what_is_written_takes_the_dtype_of_what_it_is_written_into():
    for f in (md.index_set, md.index_add):
        for dtype in FLOATS:
            x = np.zeros(3, dtype)
            for values in (1, 2.5, [1, 2], [1.5, 2.5], np.float64(1), np.array([1, 2]), np.array([True, False])):
                assert f(x, [0, 1], values).dtype == f(md.tensor(x), [0, 1], values).dtype == dtype
        assert f(np.zeros(3, np.float32), 0, np.ones((), np.float64)).dtype == np.float64  # two arrays promote
        assert f(np.zeros(3, np.int64), 0, 0.5).tolist() == [0.5, 0.0, 0.0]  # and nothing is cut off
        with pytest.raises(TypeError, match=r"index_(set|add): "):
            f(np.zeros(3), 0, "x")
        with pytest.raises(IndexError, match=r"(index_set|getitem|scatter): .*out of bounds"):
            f(np.zeros(3), 3, 1.0)


def test_both_derivatives_of_a_write_are_exact_and_linear():
    x, v = leaf([1.0, 2.0, 3.0]), leaf([5.0, 7.0])
    out = md.index_set(x, [2, 0], v) ** 2
    first = md.autograd.grad(out.sum(), [x, v], create_graph=True)
    assert [g.tolist() for g in first] == [[0.0, 4.0, 0.0], [10.0, 14.0]]
    (xx,) = md.autograd.grad(first[0].sum(), x, retain_graph=True)
    (vv,) = md.autograd.grad(first[1].sum(), v)
    assert (xx.tolist(), vv.tolist()) == ([0.0, 2.0, 0.0], [2.0, 2.0])
    row = leaf([[5.0]])
    md.index_set(x, 1, row[0, 0]).sum().backward()
    assert row.grad.tolist() == [[1.0]]
    assert x.tolist() == [1.0, 2.0, 3.0]


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_what_is_computed_on_the_way_lies_on_the_gpu_of_its_operand(fake_cuda):
    with fake_cuda.devices(2):
        x = md.tensor(np.arange(6.0).reshape(2, 3), device="cuda:1", requires_grad=True)
        i = md.tensor([[2], [0]], device="cuda:1")
        results = [move(x) for name, move in MOVES.items() if name != "put_along_axis"]
        results += [md.put_along_axis(x, i, 1.0, axis=1), md.quantile(x, 0.3, axis=1), md.prod(x), *md.topk(x, 2)]
        results += [md.unique(x), md.clip(x, 1, 2), md.erf(x), md.sinc(x), md.logcumsumexp(x), md.xlogy(x, 2.0)]
        for y in results:
            assert y.device == "cuda:1"
            if y.requires_grad:
                assert md.autograd.grad(y.sum(), x)[0].device == "cuda:1"


ANY = np.array([-INF, -1e300, -1e4, -1.0, -1e-8, -0.0, 0.0, 1e-8, 0.5, 1.0, 1e4, 1e300, INF])
ONE = "arctan arcsinh erf erfc cbrt sign floor ceil trunc round isfinite nan_to_num sort argsort median min tanh"
TWO = "copysign logaddexp logaddexp2 arctan2 isclose"


@pytest.mark.parametrize("name", [*ONE.split(), "logcumsumexp", *TWO.split()])
def test_no_legal_number_warns(name):
    arrays = [ANY, ANY[::-1].copy()] if name in TWO.split() else [ANY]
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        for dtype in (np.float32, np.float64):
            getattr(md, name)(*(np.clip(a, -1e30, 1e30).astype(dtype) for a in arrays))
            if dtype == np.float64:
                getattr(md, name)(*arrays)
