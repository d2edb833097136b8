"""Convolution against loops and closed forms; what it costs in memory and on a GPU."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import cases_conv
import minidl as md
from minidl.ops import conv, sliding


def draw_case(rng, transposed=False):
    """Return the number of axes, the arrays x, weight, bias and the settings of a random convolution that exists."""
    axes, groups = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    n, c, m = int(rng.integers(1, 4)), groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3))
    kernel, stride, dilation, padding = (
        tuple(int(v) for v in rng.integers(low, high, axes)) for low, high in ((1, 4), (1, 4), (1, 3), (0, 3))
    )
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    least = [1 + 2 * p if transposed else max(1, k - 2 * p) for k, p in zip(spans, padding, strict=True)]
    size = tuple(int(s + v) for s, v in zip(least, rng.integers(0, 4, axes), strict=True))
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        settings["output_padding"] = tuple(
            int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)
        )
    channels, results = (m, c) if transposed else (c, m)
    shapes = ((n, channels, *size), (m, c // groups, *kernel), (results,))
    return axes, [rng.standard_normal(s) for s in shapes], settings


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_convolution_is_what_loops_say(seed):
    axes, arrays, settings = draw_case(np.random.default_rng(seed))
    out = getattr(md, f"conv{axes}d")(*arrays, **settings)
    np.testing.assert_allclose(out, cases_conv.convolve(axes, *arrays, **settings), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_transposed_convolution_is_what_loops_say(seed):
    axes, arrays, settings = draw_case(np.random.default_rng(seed), transposed=True)
    out = getattr(md, f"conv_transpose{axes}d")(*arrays, **settings)
    np.testing.assert_allclose(out, cases_conv.transpose_convolve(axes, *arrays, **settings), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_gradients_of_convolution_are_those_of_its_trilinear_form(seed):
    """L = sum g conv(x, w) is linear in x and in w: x dL/dx = w dL/dw = L, and any step changes it by its slope."""
    rng = np.random.default_rng(seed)
    axes, (a, b, _), settings = draw_case(rng)
    x, w = (md.tensor(v, requires_grad=True) for v in (a, b))
    y = getattr(md, f"conv{axes}d")(x, w, **settings)
    g = rng.standard_normal(y.shape)
    y.backward(g)
    value = (g * y.detach().numpy()).sum()
    np.testing.assert_allclose([(x.grad.numpy() * a).sum(), (w.grad.numpy() * b).sum()], value, rtol=1e-10, atol=1e-10)
    for t, base in ((x, a), (w, b)):
        step = np.zeros_like(base)
        place = tuple(int(rng.integers(0, k)) for k in base.shape)
        step[place] = 1.0
        moved = [base + step if t is u else v for u, v in ((x, a), (w, b))]
        change = (g * (getattr(md, f"conv{axes}d")(*moved, **settings) - y.detach().numpy())).sum()
        np.testing.assert_allclose(t.grad.numpy()[place], change, rtol=1e-9, atol=1e-9)


def test_transposed_convolution_is_the_adjoint_of_convolution(rng):
    """sum y conv(x) = sum conv_transpose(y) x, with the same weight."""
    w = rng.standard_normal((4, 3, 3, 2))
    settings = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
    x = rng.standard_normal((2, 3, 7, 6))
    y = rng.standard_normal(md.conv2d(x, w, **settings).shape)
    back = md.conv_transpose2d(y, w, **settings)
    assert back.shape == x.shape
    np.testing.assert_allclose((back * x).sum(), (md.conv2d(x, w, **settings) * y).sum(), rtol=1e-12)


def test_a_kernel_of_one_cell_is_a_matrix_product_for_each_pixel(rng):
    x, w, b = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((6, 3, 1, 1)), rng.standard_normal(6)
    expected = np.einsum("nchw,mc->nmhw", x, w[:, :, 0, 0], optimize=True) + b[:, None, None]
    np.testing.assert_allclose(md.conv2d(x, w, b), expected, rtol=1e-12)


def test_a_kernel_as_large_as_the_image_is_a_linear_layer(rng):
    x, w, b = rng.standard_normal((4, 3, 5, 6)), rng.standard_normal((7, 3, 5, 6)), rng.standard_normal(7)
    out = md.conv2d(x, w, b)
    assert out.shape == (4, 7, 1, 1)
    np.testing.assert_allclose(out[:, :, 0, 0], md.linear(x.reshape(4, -1), w.reshape(7, -1), b), rtol=1e-12)


def test_a_difference_kernel_finds_the_edge_and_is_not_flipped():
    image = np.zeros((1, 1, 1, 5))
    image[..., 3:] = 1.0
    assert md.conv2d(image, np.array([[[[-1.0, 1.0]]]])).tolist() == [[[[0.0, 0.0, 1.0, 0.0]]]]


def test_same_padding_puts_the_odd_cell_after():
    assert md.conv1d(np.ones((1, 1, 3)), np.array([[[1.0, 10.0]]]), padding="same").tolist() == [[[11.0, 11.0, 1.0]]]


def test_groups_keep_channels_apart(rng):
    x, w = rng.standard_normal((2, 4, 5, 5)), rng.standard_normal((6, 2, 3, 3))
    parts = [md.conv2d(x[:, :2], w[:3]), md.conv2d(x[:, 2:], w[3:])]
    np.testing.assert_allclose(md.conv2d(x, w, groups=2), np.concatenate(parts, axis=1), rtol=1e-12)


def test_an_image_without_a_batch_axis_is_a_batch_of_one(rng):
    x, w, b = rng.standard_normal((3, 5, 5)), rng.standard_normal((2, 3, 3, 3)), rng.standard_normal(2)
    np.testing.assert_array_equal(md.conv2d(x, w, b), md.conv2d(x[None], w, b)[0])
    v = rng.standard_normal((3, 4, 3))
    np.testing.assert_array_equal(md.conv_transpose1d(x[:, 0], v), md.conv_transpose1d(x[None, :, 0], v)[0])


# ---- derivatives -----------------------------------------------------------------------------------------------------


def test_the_second_derivative_mixes_image_and_kernel_alone(rng):
    """L = sum g conv(x, w) has no curvature in x or in w; d2L/dx dw v is the gradient in x with v for w."""
    x, w = (md.tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 2, 4, 4), (3, 2, 2, 2)))
    g, v = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((3, 2, 2, 2))
    dx, dw = md.autograd.grad([md.conv2d(x, w)], [x, w], [md.tensor(g)], create_graph=True)
    cross, none = md.autograd.grad([dw], [x, w], [md.tensor(v)], allow_unused=True)
    assert none is None
    u = md.tensor(x.detach().numpy(), requires_grad=True)
    md.conv2d(u, md.tensor(v)).backward(g)
    np.testing.assert_allclose(cross.numpy(), u.grad.numpy(), rtol=1e-12, atol=1e-12)
    assert md.autograd.grad([dx], [x], [md.ones_like(dx)], allow_unused=True) == (None,)


def test_a_gradient_penalty_trains_through_convolution(rng):
    """d/dw of |d sum(conv(x, w)^2) / dx|^2 agrees with differences."""
    x = rng.standard_normal((2, 2, 5, 5))

    def penalty(w):
        with md.enable_grad():
            image = md.tensor(x, requires_grad=True)
            y = md.conv2d(image, w, stride=2, padding=1)
            (slope,) = md.autograd.grad([(y * y).sum()], [image], create_graph=True)
            return (slope * slope).sum()

    md.check_grad(penalty, [rng.standard_normal((3, 2, 3, 3))], order=2)


# ---- how it is computed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 1000, 4000, 10**9])
def test_the_size_of_a_block_does_not_matter(limit, rng, monkeypatch):
    arrays = [rng.standard_normal(s) for s in ((3, 4, 7, 6), (4, 2, 3, 2), (4,))]
    settings = {"stride": (1, 2), "padding": 1, "groups": 2}

    def run():
        xs = [md.tensor(a, requires_grad=True) for a in arrays]
        y = md.conv2d(*xs, **settings)
        y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        return [y.detach().numpy(), *(x.grad.numpy() for x in xs)]

    expected = run()
    monkeypatch.setattr(conv, "_BLOCK", limit)
    for a, b in zip(run(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_columns_never_exist_all_at_once(rng):
    """The columns of this image would take 25 times its memory, forward and backward."""
    x = md.tensor(rng.standard_normal((8, 16, 40, 40)).astype("f4"), requires_grad=True)
    w = md.tensor(rng.standard_normal((16, 16, 5, 5)).astype("f4"), requires_grad=True)
    tracemalloc.start()
    y = md.conv2d(x, w)
    y.backward(y.detach())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * x.array.nbytes + 2**23


def test_the_batch_lies_last_in_memory_and_stays_there(rng):
    """So that a layer takes the result of the one before without moving it."""
    x, w = rng.standard_normal((4, 2, 6, 6)).astype("f4"), rng.standard_normal((3, 2, 3, 3)).astype("f4")
    y = md.relu(md.conv2d(x, w))
    z = md.max_pool2d(y, 2)
    for a in (y, z):
        inner = sliding.by_channel(np, a)
        assert np.shares_memory(inner, a)
        assert inner.flags.c_contiguous


def test_a_convolution_makes_its_columns_in_one_launch(fake_cuda, rng):
    x, w, b = (md.tensor(rng.standard_normal(s), device="cuda") for s in ((4, 3, 9, 9), (5, 3, 5, 5), (5,)))
    fake_cuda.stats.reset()
    md.conv2d(x, w, b)
    assert fake_cuda.stats.launches <= 6
    assert (fake_cuda.stats.waits, fake_cuda.stats.to_device, fake_cuda.stats.to_host) == (0, 0, 0)


def test_a_small_network_of_convolutions_learns_to_tell_bars_apart(rng):
    """Bars down and bars across at random places, in noise: only shared kernels generalise from so few."""
    images = 0.1 * rng.standard_normal((60, 1, 8, 8))
    labels = np.arange(60) % 2
    for image, label in zip(images, labels, strict=True):
        k = rng.integers(0, 8)
        image[0][(slice(None), k) if label else (k, slice(None))] += 1.0
    shapes = ((4, 1, 3, 3), (4,), (2, 16), (2,))
    parameters = [md.tensor(0.3 * rng.standard_normal(s), requires_grad=True) for s in shapes]

    def logits(x):
        k, c, w, b = parameters
        h = md.max_pool2d(md.relu(md.conv2d(md.tensor(x), k, c)), 3)
        return md.linear(h.reshape(len(x), -1), w, b)

    for _ in range(200):
        loss = md.cross_entropy(logits(images[:30]), md.tensor(labels[:30]))
        for p, g in zip(parameters, md.autograd.grad(loss, parameters), strict=True):
            with md.no_grad():
                p.copy_(p - 0.3 * g)
    accuracy = (logits(images[30:]).detach().numpy().argmax(axis=1) == labels[30:]).mean()
    assert loss.item() < 0.1
    assert accuracy >= 0.9
