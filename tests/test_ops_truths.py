"""What is special about single operations: ties, zeros, infinities, networks, rounding."""

from __future__ import annotations

import numpy as np
import pytest

import battery
import minidl as md

INF, NAN = float("inf"), float("nan")


def leaf(data, dtype="float64"):
    return md.tensor(data, dtype=dtype, requires_grad=True)


def derivative(f, *xs, order=1):
    """Return the derivatives of sum(f(x)) by the first x, of the given order, as a list."""
    (x, *_), y = xs, f(*xs)
    for k in range(order):
        (y,) = md.autograd.grad(y.sum(), x, create_graph=k + 1 < order)
    return y.tolist()


# ---- ties and kinks (T16) --------------------------------------------------------------------------------------------


def test_T16_all_elements_that_attain_the_maximum_share_the_gradient_evenly():
    assert derivative(md.max, leaf([2.0, 2.0, 1.0, 2.0])) == [1 / 3, 1 / 3, 0.0, 1 / 3]
    assert derivative(lambda x: md.max(x, axis=1), leaf([[1.0, 1.0], [0.0, 2.0]])) == [[0.5, 0.5], [0.0, 1.0]]


def test_T16_two_that_tie_get_half_each():
    for op in (md.maximum, md.minimum):
        x, y = leaf([1.0, 2.0]), leaf([1.0, 2.0])
        op(x, y).sum().backward()
        assert x.grad.tolist() == y.grad.tolist() == [0.5, 0.5]


def test_T16_kinks_at_zero():
    assert derivative(md.relu, leaf([0.0, -0.0, 1.0])) == [0.0, 0.0, 1.0]
    assert derivative(md.abs, leaf([0.0, -0.0, -2.0])) == [0.0, 0.0, -1.0]
    assert derivative(md.sign, leaf([0.0, 3.0])) == [0.0, 0.0]
    assert derivative(lambda x: md.maximum(x, 0), leaf([0.0])) == [0.5]


def test_second_derivatives_of_piecewise_linear_functions_are_zero():
    for f in (md.relu, md.abs, md.max, lambda x: md.maximum(x, 0.5), lambda x: md.where(x > 0, x, -x)):
        (g,) = md.autograd.grad(f(x := leaf([1.0, -2.0])).sum(), x, create_graph=True)
        if g.requires_grad:
            (h,) = md.autograd.grad(g.sum(), x, allow_unused=True)
            assert h is None or h.tolist() == [0.0, 0.0]


# ---- zeros and infinities (T17 to T21) -------------------------------------------------------------------------------


def test_T17_the_root_has_an_infinite_slope_at_zero():
    with np.errstate(divide="ignore"):
        assert derivative(md.sqrt, leaf([0.0, 4.0])) == [INF, 0.25]


def test_T17_zero_to_the_power_zero_has_the_gradient_zero_in_both():
    for exponent in (0, 0.0, leaf([0.0])):
        assert derivative(lambda x, e=exponent: md.power(x, e), leaf([0.0])) == [0.0]
    x, y = leaf([0.0, 0.0]), leaf([0.0, 2.0])
    (x**y).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]
    assert y.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4])
def test_T17_whole_powers_are_exact_at_zero_to_the_fourth_derivative(exponent):
    factorial = float(np.prod(np.arange(1, exponent + 1)))
    for power in (exponent, float(exponent), md.tensor(float(exponent), dtype="float64")):
        for order in range(1, exponent + 1):
            expected = factorial if order == exponent else 0.0
            assert derivative(lambda x, p=power: x**p, leaf([0.0]), order=order) == [expected]


def test_T17_a_negative_base_has_a_finite_slope_for_whole_exponents():
    assert derivative(lambda x: x**3, leaf([-2.0])) == [12.0]
    assert derivative(lambda x: md.power(x, md.tensor([3.0], dtype="float64")), leaf([-2.0])) == [12.0]
    assert derivative(lambda x: x**-1, leaf([-2.0])) == [-0.25]


def test_T17_the_exponent_of_zero_has_no_nan():
    y = leaf([0.0, 1.0, 2.5])
    (md.zeros(3, dtype="float64") ** y).sum().backward()
    assert y.grad.tolist() == [0.0, 0.0, 0.0]
    y = leaf([2.0])
    (0.0**y).sum().backward()
    assert y.grad.tolist() == [0.0]
    z = leaf([3.0])
    (2.0**z).sum().backward()
    np.testing.assert_allclose(z.grad.tolist(), [8 * np.log(2)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_T18_softmax_and_its_kin_are_exact_at_ten_thousand(dtype):
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        x = leaf([1e4, 0.0], dtype)
        assert md.softmax(x).tolist() == [1.0, 0.0]
        assert md.log_softmax(x).tolist() == [0.0, -1e4]
        assert md.logsumexp(x).item() == 1e4
        assert md.cross_entropy(x, np.array(1)).item() == 1e4
        assert derivative(lambda x: md.cross_entropy(x, np.array(1)), x) == [1.0, -1.0]


def test_T18_each_row_is_shifted_by_its_own_maximum():
    rows = leaf([[0.0, 0.0], [1e3, 1e3], [-1e3, -1e3]], "float32")
    assert md.softmax(rows, axis=1).tolist() == [[0.5, 0.5]] * 3
    assert md.softmax(rows.T, axis=0).tolist() == [[0.5] * 3] * 2


def test_T18_a_row_of_minus_infinity_is_no_class_and_leaves_the_others_alone():
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        x = leaf([[-INF, -INF], [0.0, 0.0]])
        assert md.softmax(x).tolist() == [[0.0, 0.0], [0.5, 0.5]]
        weights = md.tensor([[1.0, 2.0], [1.0, 3.0]], dtype="float64")
        assert derivative(lambda x: md.softmax(x) * weights, x) == [[0.0, 0.0], [-0.5, 0.5]]
        assert md.logsumexp(x, axis=1).tolist() == [-INF, np.log(2)]
        assert derivative(lambda x: md.logsumexp(x, axis=1), x) == [[0.0, 0.0], [0.5, 0.5]]
        assert derivative(lambda x: md.logsumexp(x, axis=1), x, order=2)[0] == [0.0, 0.0]


def test_T18_classes_that_are_masked_by_minus_infinity_get_no_gradient():
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        x = leaf([0.0, 1.0, -INF])
        assert md.softmax(x).tolist()[2] == 0.0
        assert derivative(lambda x: md.softmax(x)[0], x)[2] == 0.0
        assert derivative(md.logsumexp, x)[2] == 0.0
        assert derivative(lambda x: md.cross_entropy(x, np.array(0)), x)[2] == 0.0
        assert derivative(lambda x: md.cross_entropy(x, np.array(0)), x, order=2)[2] == 0.0


def test_logsumexp_of_infinity_is_infinity():
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert md.logsumexp(md.tensor([INF, 0.0])).item() == INF
        assert md.logsumexp(md.tensor([[INF, INF], [0.0, 0.0]]), axis=1).tolist() == [INF, np.float32(np.log(2))]


@pytest.mark.parametrize("f", [md.softmax, md.log_softmax, md.logsumexp, md.sigmoid, md.tanh, md.max, md.mean, md.relu])
def test_nan_goes_in_and_nan_comes_out(f):
    with np.errstate(invalid="ignore"):
        assert np.isnan(f(md.tensor([NAN, 1.0])).numpy()).any()


def test_T19_the_ends_of_the_sigmoid_and_tanh_give_no_warning():
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for dtype in ("float16", "float32", "float64"):
            x = leaf([-1000.0, 1000.0], dtype)
            assert md.sigmoid(x).tolist() == [0.0, 1.0]
            assert md.tanh(x).tolist() == [-1.0, 1.0]
            assert derivative(md.sigmoid, x) == [0.0, 0.0]


def test_sigmoid_keeps_its_small_values():
    np.testing.assert_allclose(md.sigmoid(md.tensor(-700.0, dtype="float64")).item(), np.exp(-700.0), rtol=1e-12)
    np.testing.assert_allclose(derivative(md.sigmoid, leaf(-700.0)), np.exp(-700.0), rtol=1e-12)


def test_T20_the_branch_not_taken_poisons_the_gradient_unless_its_input_is_safe():
    x = leaf([0.0, 2.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        trap = derivative(lambda x: md.where(x > 0, md.log(x), 0.0), x)
    assert np.isnan(trap[0])
    assert trap[1] == 0.5
    assert derivative(lambda x: md.where(x > 0, md.log(md.where(x > 0, x, 1.0)), 0.0), x) == [0.0, 0.5]


def test_T21_the_variance_needs_more_elements_than_ddof():
    for n, ddof in ((1, 1), (2, 2), (0, 0), (2, 3)):
        with pytest.raises(ValueError, match=rf"var: .*ddof={ddof}.*{n}"):
            md.var(md.ones(n), ddof=ddof)
    assert derivative(lambda x: md.var(x, ddof=1), leaf([1.0, 3.0])) == [-2.0, 2.0]


# ---- reductions of nothing (T6, T7) ----------------------------------------------------------------------------------


def test_T7_the_sum_of_nothing_is_zero_with_an_empty_gradient():
    x = leaf(np.zeros((0, 3)))
    y = x.sum()
    assert y.item() == 0
    y.backward()
    assert x.grad.shape == (0, 3)
    assert x.sum(axis=0).tolist() == [0.0, 0.0, 0.0]


def test_T7_the_mean_and_the_maximum_of_nothing_are_errors():
    for f, text in ((md.mean, "mean: .*at least one"), (md.max, "max: .*zero-size"), (md.argmax, "argmax: .*empty")):
        with pytest.raises(ValueError, match=text):
            f(md.zeros(0))


def test_T6_no_axes_reduce_nothing():
    x = md.tensor([[1.0, 2.0]])
    for f in (md.sum, md.mean, md.max, md.logsumexp):
        np.testing.assert_allclose(f(x, axis=()).numpy(), x.numpy())
    assert md.var(x, axis=()).tolist() == [[0.0, 0.0]]


def test_T11_the_gradient_of_an_input_that_met_nothing_is_zero():
    x, y = leaf(np.ones((4, 0))), leaf(np.ones((4, 1)))
    (x + y).sum().backward()
    assert y.grad.tolist() == [[0.0]] * 4
    assert x.grad.shape == (4, 0)


def test_float16_means_do_not_overflow():
    x = leaf(np.full(3000, 100.0, np.float16), "float16")
    assert x.mean().item() == 100.0
    assert md.var(x).item() == 0.0


# ---- network ---------------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_repeats_with_its_seed():
    x = md.ones(200, 100)
    md.manual_seed(0)
    y = md.dropout(x, 0.3)
    assert set(np.unique(y.numpy())) == {np.float32(0), np.float32(1 / 0.7)}
    sigma = np.sqrt(0.3 / 0.7 / x.size)
    assert abs(y.mean().item() - 1) < 5 * sigma
    md.manual_seed(0)
    assert md.dropout(x, 0.3).tolist() == y.tolist()
    assert md.dropout(x, 0.3).tolist() != y.tolist()


def test_the_gradient_of_dropout_is_its_mask():
    x = leaf(np.full(50, 3.0))
    y = md.dropout(x, 0.5)
    y.sum().backward()
    assert (x.grad * 3).tolist() == y.tolist()
    (md.dropout(x, 1.0) * x).sum().backward()  # p = 1 drops everything, without a warning


def test_dropout_masks_are_the_same_bits_on_a_gpu(fake_cuda):
    masks = []
    for device in ("cpu", "cuda"):
        md.manual_seed(3)
        masks.append(md.dropout(md.ones(5, 4, device=device), 0.5).cpu().tolist())
    assert masks[0] == masks[1]


def test_batch_norm_of_a_constant_batch_is_the_bias_with_finite_gradients():
    x = leaf(np.full((4, 2), 3.0))
    y, mean, var = md.batch_norm_train(x, leaf([1.0, 2.0]), leaf([0.5, -0.5]), eps=1e-5)
    assert y.tolist() == [[0.5, -0.5]] * 4
    assert (mean.tolist(), var.tolist()) == ([3.0, 3.0], [0.0, 0.0])
    (y * y).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_the_gradient_of_cross_entropy_is_softmax_minus_one_hot():
    x, target = leaf(np.random.default_rng(0).standard_normal((4, 3))), np.array([0, 2, 1, 2])
    (g,) = md.autograd.grad(md.cross_entropy(x, target, reduction="sum"), x)
    np.testing.assert_allclose(g.numpy(), md.softmax(x).detach().numpy() - np.eye(3)[target], rtol=1e-12, atol=1e-15)


def test_cross_entropy_takes_targets_as_tensors_arrays_and_lists():
    x = md.tensor([[1.0, 2.0], [0.0, 5.0]])
    values = {
        md.cross_entropy(x, t).item() for t in ([1, 0], np.array([1, 0]), md.tensor([1, 0]), np.array([1, 0], np.uint8))
    }
    assert len(values) == 1


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 0), ()])
def test_results_of_all_dtypes_are_arrays_never_numpy_scalars(shape):
    x = np.ones(shape)
    for f in (
        md.exp,
        md.sum,
        md.sigmoid,
        md.relu,
        md.ravel,
        lambda x: md.add(x, x),
        lambda x: md.sum(md.multiply(x, 2)),
        md.copy,
        md.negative,
    ):
        assert type(f(x)) is np.ndarray
        assert type(f(md.tensor(x)).array) is np.ndarray
    battery.assert_equal(md.sum(x), x.sum())


# ---- rounding, order, writing ----------------------------------------------------------------------------------------


def test_allclose_is_a_python_bool():
    x = md.tensor([1.0, 2.0])
    assert md.allclose(x, x + 1e-7) is True
    assert md.allclose(x, x + 1e-2) is False
    assert md.allclose(x, np.array([1.0, 2.1]), rtol=0.2) is True
    assert md.allclose(np.ones(2), 1.0) is True
    assert md.allclose(1.0, 1.0) is True
    nan = md.tensor([NAN])
    assert (md.allclose(nan, nan), md.allclose(nan, nan, equal_nan=True)) == (False, True)


@pytest.mark.parametrize(("x", "v"), [(1e20, 1.0), (3.0, 0.1), (INF, 0.0), (NAN, 2.0), (1.0, INF)])
def test_what_is_written_is_exactly_what_is_there_afterwards(x, v):
    for dtype in ("float32", "float64"):
        base, value = md.tensor([x, 5.0], dtype=dtype), md.tensor([v], dtype=dtype)
        expected = [value.tolist()[0], 5.0]
        assert md.index_set(base, [0], value).tolist() == expected
        assert md.index_set(base, 0, v).tolist() == expected
        assert md.index_set(base, slice(0, 1), value).tolist() == expected
        assert md.index_set(base, np.array([True, False]), value).tolist() == expected
        assert md.put_along_axis(base, np.array([0]), value, axis=0).tolist() == expected


def test_nan_in_a_median_is_nan():
    with np.errstate(invalid="ignore"):
        x = md.tensor([[1.0, NAN, 2.0], [1.0, 3.0, 2.0]])
        assert np.isnan(md.median(x).item())
        assert np.isnan(md.quantile(x[0], 0.1).item())
        assert [np.isnan(v) for v in md.median(x, axis=1).tolist()] == [True, False]
        for f in (
            md.max,
            md.min,
            md.sum,
            md.prod,
            md.std,
            md.ptp,
            lambda x: md.cumsum(x)[-1],
            lambda x: md.sort(x)[-1],
        ):
            assert np.isnan(f(x[0]).item())


def test_topk_of_every_integer_dtype_is_ordered():
    for dtype in ("uint8", "int8", "int32", "int64"):
        low = np.iinfo(dtype).min
        x = md.tensor(np.array([low, 5, 7, 1], dtype))
        values, indices = md.topk(x, 3)
        assert values.tolist() == [7, 5, 1]
        assert indices.tolist() == [2, 1, 3]
        assert md.topk(x, 2, largest=False)[0].tolist() == [low, 1]
    assert md.topk(md.tensor([True, False, True]), 1)[0].tolist() == [True]


def test_quantiles_may_be_a_list_a_tuple_or_an_array():
    x = md.tensor([1.0, 2.0, 4.0])
    for q in ([0.25, 0.75], (0.25, 0.75), np.array([0.25, 0.75])):
        assert md.quantile(x, q).tolist() == [1.5, 3.0]
    assert md.quantile(x, np.float64(0.5)).item() == 2.0


@pytest.mark.parametrize(
    "f",
    [
        md.cumsum,
        md.cumprod,
        md.sort,
        md.argsort,
        md.prod,
        md.median,
        md.logcumsumexp,
        md.ptp,
        md.flip,
        lambda x: md.topk(x, 1)[0],
        lambda x: md.take(x, 0),
        md.std,
        md.tril,
        md.diag,
    ],
)
def test_lists_are_arrays_in_the_making(f):
    data = [[1.0, 3.0], [2.0, 4.0]]
    assert np.asarray(f(data)).tolist() == np.asarray(f(np.array(data))).tolist()


def test_T16_edges_of_clip_pass_the_gradient():
    assert derivative(lambda x: md.clip(x, 0.0, 1.0), leaf([-1.0, 0.0, 0.5, 1.0, 2.0])) == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert derivative(lambda x: md.clip(x, min=0.0), leaf([-1.0, 0.0, 2.0])) == [0.0, 1.0, 1.0]
    assert derivative(lambda x: md.clip(x, max=0.0), leaf([-1.0, 0.0, 2.0])) == [1.0, 1.0, 0.0]


def test_T17_a_product_with_zeros_has_the_gradient_of_the_others():
    assert derivative(md.prod, leaf([0.0, 2.0, 3.0])) == [6.0, 0.0, 0.0]
    assert derivative(md.prod, leaf([0.0, 0.0, 3.0])) == [0.0, 0.0, 0.0]
    assert derivative(md.prod, leaf([0.0, 0.0, 3.0]), order=2) == [3.0, 3.0, 0.0]


def test_T21_the_standard_deviation_of_equal_numbers_has_the_gradient_zero():
    assert derivative(md.std, leaf([2.0, 2.0])) == [0.0, 0.0]


def test_equal_elements_share_extremes_and_keep_their_order_in_sorting():
    assert derivative(md.min, leaf([1.0, 1.0, 2.0])) == [0.5, 0.5, 0.0]
    assert derivative(md.ptp, leaf([1.0, 1.0, 2.0])) == [-0.5, -0.5, 1.0]
    assert md.argsort(md.tensor([1.0, 0.0, 1.0, 0.0])).tolist() == [1, 3, 0, 2]
    assert derivative(lambda x: md.sort(x)[2:], leaf([1.0, 0.0, 1.0, 0.0])) == [1.0, 0.0, 1.0, 0.0]


def test_a_samplewise_reshape_keeps_the_number_of_samples():
    assert md.reshape.is_samplewise(((4, 3),), {"shape": (4, -1)})
    assert md.reshape.is_samplewise(((4, 3, 2),), {"shape": (-1, 6)})
    assert not md.reshape.is_samplewise(((4, 3),), {"shape": (-1, 2)})
    assert not md.reshape.is_samplewise(((4, 3),), {"shape": (-1,)})
    assert not md.reshape.is_samplewise(((4, 3),), {"shape": 12})


def test_the_special_functions_are_exact_to_rounding_where_differences_are_not():
    x = np.array([1e-10, 1e-5, 0.3, 0.46, 0.47, 3.9, 4.1, 8.0, 26.0])
    import math

    for f, reference in ((md.erf, math.erf), (md.erfc, math.erfc)):
        np.testing.assert_allclose(f(x), [reference(v) for v in x], rtol=1e-13)
        np.testing.assert_allclose(f(-x), [reference(-v) for v in x], rtol=1e-13)
    assert md.erfc(md.tensor(np.array([1e300, -1e300, INF, -INF]))).tolist() == [0.0, 2.0, 0.0, 2.0]
    for f, reference in ((md.expm1, math.expm1), (md.log1p, math.log1p)):
        np.testing.assert_allclose(f(x[:5]), [reference(v) for v in x[:5]], rtol=1e-14)
    near = np.array([0.0, 1e-9, 1e-4, 0.0299, 0.0301])
    slope = md.func.grad(lambda x: md.sinc(x).sum())(near).numpy()
    z = np.pi * near
    np.testing.assert_allclose(slope, np.pi * (-z / 3 + z**3 / 30 - z**5 / 840), rtol=1e-8, atol=1e-16)


def test_derivatives_at_the_origin_are_the_documented_ones():
    for f in (md.hypot, md.arctan2):
        x, y = leaf([0.0]), leaf([0.0])
        f(x, y).sum().backward()
        assert (x.grad.tolist(), y.grad.tolist()) == ([0.0], [0.0])
    x, y = leaf([0.0, 0.0]), leaf([0.0, -1.0])
    md.xlogy(x, y).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([0.0, 0.0], [0.0, 0.0])
    assert np.isnan(md.xlogy(md.tensor(0.0), md.tensor(NAN)).item())


def test_logaddexp_of_infinities_has_no_nan():
    with np.errstate(invalid="raise"):
        for a, b, ga, gb in ((INF, INF, 0.5, 0.5), (-INF, -INF, 0.5, 0.5), (INF, 0.0, 1.0, 0.0), (-INF, 0.0, 0.0, 1.0)):
            x, y = leaf([a]), leaf([b])
            md.logaddexp(x, y).sum().backward()
            assert (x.grad.tolist(), y.grad.tolist()) == ([ga], [gb])


def test_the_mean_of_many_float16_numbers_has_a_gradient():
    x = np.ones(70_000, np.float16)
    g = md.func.grad(md.mean)(x)
    assert (g.dtype, bool((g > 0).all())) == (np.float16, True)
    logits, classes = np.zeros((70_000, 2), np.float16), np.zeros(70_000, np.int64)
    g = md.func.grad(lambda z: md.nn.functional.cross_entropy(z, classes))(logits)
    assert bool((g[:, 0] < 0).all())
    assert md.nn.functional.cross_entropy(logits, classes) == pytest.approx(0.6931, rel=2e-3)
