"""Pooling and resampling: ties, edges, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

import cases_pool
import minidl as md


def gradient(f, a, g=None):
    """Return the value of f at a and the gradient, of sum(g f) or sum(f)."""
    x = md.tensor(a, requires_grad=True)
    y = f(x)
    y.backward(np.ones(y.shape) if g is None else g)
    return y.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_is_what_loops_say(kind, seed):
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 3))
    kernel, stride = (tuple(int(v) for v in rng.integers(1, 4, axes)) for _ in range(2))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    settings = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": bool(rng.integers(2))}
    if kind == "avg":
        settings["count_include_pad"] = bool(rng.integers(2))
    size = tuple(int(k + v) for k, v in zip(kernel, rng.integers(0, 5, axes), strict=True))
    x = rng.permutation(2 * 2 * int(np.prod(size))).reshape(2, 2, *size) * 0.5
    reference = getattr(cases_pool, f"{kind}_pool")
    out, slope = gradient(lambda t: getattr(md, f"{kind}_pool{axes}d")(t, **settings), x)
    np.testing.assert_allclose(out, reference(axes, x, **settings), rtol=1e-12)
    step = np.zeros_like(x)
    place = tuple(int(rng.integers(0, n)) for n in x.shape)
    step[place] = 0.125  # less than what tells two elements apart
    change = (reference(axes, x + step, **settings) - reference(axes, x, **settings)).sum() / 0.125
    np.testing.assert_allclose(slope[place], change, rtol=1e-10, atol=1e-10)


# ---- ties ------------------------------------------------------------------------------------------------------------


def test_the_first_of_equal_elements_gets_the_whole_gradient():
    """As in PyTorch: first along rows, then down."""
    tied = np.array([[[1.0, 3.0, 0.0], [3.0, 3.0, 0.0]]])
    assert gradient(lambda x: md.max_pool2d(x, 2, stride=1), tied)[1].tolist() == [[[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]]
    assert gradient(lambda x: md.max_pool1d(x, 3), np.zeros((1, 3)))[1].tolist() == [[1.0, 0.0, 0.0]]


def test_second_derivatives_at_ties_are_those_of_the_winner():
    """d2/dx2 of sum(max^2) is 2 for each window that an element wins, and 0 elsewhere, on and off the diagonal."""
    tied = np.array([[2.0, 2.0, 1.0, 2.0]])
    h = md.func.hessian(lambda x: (md.max_pool1d(x, 2, stride=1) ** 2).sum())(tied).numpy().reshape(4, 4)
    np.testing.assert_array_equal(h, np.diag([2.0, 2.0, 0.0, 2.0]))


def test_padding_never_wins():
    value, slope = gradient(lambda x: md.max_pool1d(x, 2, padding=1), np.array([[-5.0, -3.0, -4.0]]))
    assert value.tolist() == [[-5.0, -3.0]]
    assert slope.tolist() == [[1.0, 1.0, 0.0]]


def test_a_nan_makes_its_windows_nan_and_the_first_gets_their_gradient():
    x = np.array([[[1.0, np.nan, 3.0, 2.0, np.inf], [np.nan, 5.0, 0.0, 1.0, 7.0]]])
    g = np.array([[[1.0, 2.0, 4.0, 8.0]]])
    value, slope = gradient(lambda t: md.max_pool2d(t, 2, stride=1), x, g)
    np.testing.assert_array_equal(value, [[[np.nan, np.nan, 3.0, np.inf]]])
    np.testing.assert_array_equal(slope, [[[0, 1 + 2, 4, 0, 8], [0, 0, 0, 0, 0]]])
    value, slope = gradient(lambda t: md.adaptive_max_pool1d(t, 1), x[0])
    np.testing.assert_array_equal(value, [[np.nan], [np.nan]])
    np.testing.assert_array_equal(slope, [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]])


def test_the_gradient_of_windows_with_one_nan_is_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 6, 6))
    x[:, :, 2, 3] = np.nan
    g = rng.standard_normal((2, 3, 5, 5))
    value, slope = gradient(lambda t: md.max_pool2d(t, 3, stride=1, padding=1)[:, :, :5, :5], x, g)
    t = torch.tensor(x, requires_grad=True)
    theirs = torch.nn.functional.max_pool2d(t, 3, stride=1, padding=1)[:, :, :5, :5]
    theirs.backward(torch.tensor(g))
    np.testing.assert_array_equal(value, theirs.detach().numpy())
    np.testing.assert_allclose(slope, t.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_windows_that_overlap_add_up_their_gradients(rng):
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 2, 2] = 1.0
    _, slope = gradient(lambda t: md.max_pool2d(t, 3, stride=1), x)
    assert slope[0, 0, 2, 2] == 9.0
    assert slope.sum() == 9.0


# ---- averages and sizes ----------------------------------------------------------------------------------------------


def test_what_counts_among_the_cells_of_a_window():
    ones = np.ones((1, 3))
    assert md.avg_pool1d(ones, 2, padding=1).tolist() == [[0.5, 1.0]]
    assert md.avg_pool1d(ones, 2, padding=1, count_include_pad=False).tolist() == [[1.0, 1.0]]
    assert md.avg_pool1d(ones, 2, ceil_mode=True).tolist() == [[1.0, 1.0]]  # beyond the padding nothing counts
    assert md.avg_pool2d(np.ones((1, 2, 2)), 2, divisor_override=8).tolist() == [[[0.5]]]


def test_averaging_keeps_the_sum_of_gradients(rng):
    _, slope = gradient(lambda x: md.avg_pool2d(x, (2, 3)), rng.standard_normal((2, 3, 4, 6)))
    np.testing.assert_allclose(slope, 1 / 6, rtol=1e-12)


def test_pooling_to_one_cell_is_the_mean_and_the_maximum(rng):
    x = rng.standard_normal((2, 3, 5, 7))
    np.testing.assert_allclose(md.adaptive_avg_pool2d(x, 1)[:, :, 0, 0], x.mean(axis=(2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(md.adaptive_max_pool2d(x, 1)[:, :, 0, 0], x.max(axis=(2, 3)))


def test_pooling_to_a_divisor_of_the_size_is_pooling_with_equal_windows(rng):
    x = rng.standard_normal((2, 3, 6, 8))
    np.testing.assert_allclose(md.adaptive_avg_pool2d(x, (2, 4)), md.avg_pool2d(x, (3, 2)), rtol=1e-12)
    np.testing.assert_array_equal(md.adaptive_max_pool2d(x, (2, 4)), md.max_pool2d(x, (3, 2)))


def test_unequal_windows_overlap():
    x = np.arange(5.0).reshape(1, 5)
    assert md.adaptive_avg_pool1d(x, 2).tolist() == [[1.0, 3.0]]  # cells 0 to 2 and 2 to 4
    assert md.adaptive_max_pool1d(x, 3).tolist() == [[1.0, 3.0, 4.0]]


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_pooling_to_its_own_size_changes_nothing(kind, rng):
    x = rng.standard_normal((2, 3, 4, 5))
    np.testing.assert_array_equal(getattr(md, f"adaptive_{kind}_pool2d")(x, (None, None)), x)


# ---- resampling ------------------------------------------------------------------------------------------------------


def test_linear_interpolation_reproduces_a_straight_line():
    x = np.arange(4.0).reshape(1, 1, 4)
    fine = md.interpolate(x, 7, mode="linear", align_corners=True)
    np.testing.assert_allclose(fine[0, 0], np.linspace(0, 3, 7), rtol=1e-12)
    inner = md.interpolate(x, scale_factor=2, mode="linear")[0, 0, 1:-1]
    np.testing.assert_allclose(np.diff(inner), 0.5, rtol=1e-12)


def test_bilinear_interpolation_is_linear_along_h_and_then_along_w(rng):
    x = rng.standard_normal((2, 3, 4, 5))
    rows = md.interpolate(x.transpose(0, 3, 1, 2).reshape(2, 15, 4), 7, mode="linear").reshape(2, 5, 3, 7)
    both = md.interpolate(rows.transpose(0, 3, 2, 1).reshape(2, 21, 5), 3, mode="linear").reshape(2, 7, 3, 3)
    expected = both.transpose(0, 2, 1, 3)
    np.testing.assert_allclose(md.interpolate(x, (7, 3), mode="bilinear"), expected, rtol=1e-10, atol=1e-12)


def test_the_nearest_cells_of_a_doubled_image_are_its_cells_repeated(rng):
    x = rng.standard_normal((1, 2, 3, 4))
    np.testing.assert_array_equal(md.interpolate(x, scale_factor=2), x.repeat(2, axis=2).repeat(2, axis=3))


def test_resampling_by_area_is_adaptive_averaging(rng):
    x = rng.standard_normal((2, 3, 5, 7))
    np.testing.assert_allclose(md.interpolate(x, (2, 3), mode="area"), md.adaptive_avg_pool2d(x, (2, 3)), rtol=1e-12)


def test_every_interpolation_of_a_constant_is_that_constant():
    for mode in ("nearest", "bilinear", "area"):
        out = md.interpolate(np.full((1, 1, 3, 5), 7.0), (4, 2), mode=mode)
        np.testing.assert_allclose(out, 7.0, rtol=1e-12, err_msg=mode)


def test_shuffled_pixels_go_back_where_they_came_from(rng):
    fine = rng.standard_normal((2, 3, 6, 9))
    coarse = fine.reshape(2, 3, 2, 3, 3, 3).transpose(0, 1, 3, 5, 2, 4).reshape(2, 27, 2, 3)
    np.testing.assert_array_equal(md.pixel_shuffle(coarse, 3), fine)
    assert md.pixel_shuffle(np.zeros((0, 4, 2, 3)), 2).shape == (0, 1, 4, 6)
