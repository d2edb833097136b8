"""Layers of images: convolution, pooling, resampling, and norms of each sample: definitions and errors."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import nn

# ---- convolution -------------------------------------------------------------------------------------------------


def correlate(x, weight, bias, stride, dilation):
    """The sum of kernel times image at each place, by loops."""
    (n, _, h, w), (m, _, kh, kw) = x.shape, weight.shape
    oh, ow = (h - dilation * (kh - 1) - 1) // stride + 1, (w - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((n, m, oh, ow))
    for i in range(oh):
        for j in range(ow):
            rows, columns = i * stride + dilation * np.arange(kh), j * stride + dilation * np.arange(kw)
            patch = x[:, :, rows[:, None], columns]
            out[:, :, i, j] = np.einsum("nchw,mchw->nm", patch, weight) + bias
    return out


NUMPYS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", NUMPYS)
@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, 0), (2, 1, 1), (1, 2, 2), (3, 2, 1)])
def test_convolution_is_a_sum_over_each_place_of_the_padded_image(mode, stride, dilation, padding, rng):
    layer = nn.Conv2d(3, 4, (3, 2), stride, padding, dilation, padding_mode=mode, dtype="float64")
    x = rng.standard_normal((2, 3, 8, 7))
    padded = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)], mode=NUMPYS[mode])
    w, b = (p.detach().numpy() for p in (layer.weight, layer.bias))
    np.testing.assert_allclose(layer(md.tensor(x)).detach(), correlate(padded, w, b, stride, dilation), rtol=1e-10)


def test_groups_are_convolutions_side_by_side(rng):
    layer, x = nn.Conv2d(4, 6, 3, groups=2, dtype="float64"), rng.standard_normal((2, 4, 5, 5))
    w, b = (p.detach().numpy() for p in (layer.weight, layer.bias))
    halves = [correlate(x[:, 2 * g : 2 * g + 2], w[3 * g : 3 * g + 3], b[3 * g : 3 * g + 3], 1, 1) for g in (0, 1)]
    np.testing.assert_allclose(layer(md.tensor(x)).detach(), np.concatenate(halves, 1), rtol=1e-10)


@pytest.mark.parametrize("mode", NUMPYS)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_keeps_the_size(kernel, mode):
    assert nn.Conv1d(2, 3, kernel, padding="same", padding_mode=mode)(md.zeros(2, 2, 7)).shape == (2, 3, 7)
    assert nn.Conv2d(2, 3, kernel, padding="same", dilation=2, padding_mode=mode)(md.zeros(2, 9, 7)).shape == (3, 9, 7)


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "output_padding": 1}, {"padding": 1, "dilation": 2}])
def test_transposed_convolution_takes_a_result_back_to_the_shape_of_its_image(settings, rng):
    back = nn.ConvTranspose2d(3, 2, 3, **settings, bias=False, dtype="float64")
    settings.pop("output_padding", None)
    there = nn.Conv2d(2, 3, 3, **settings, bias=False, dtype="float64")
    there.weight.data = back.weight.data
    x = md.tensor(rng.standard_normal((2, 2, 10, 8)))
    y = there(x)
    u = md.tensor(rng.standard_normal(y.shape))
    assert back(u).shape == x.shape
    assert (there(x) * u).sum().item() == pytest.approx((x * back(u)).sum().item(), rel=1e-10)  # it is the adjoint


@pytest.mark.parametrize("height", [10, 11, 12])
@pytest.mark.parametrize("alone", [False, True])
def test_transposed_convolution_reaches_every_size_that_is_convolved_to_its_own(height, alone, rng):
    settings = {"stride": (3, 2), "padding": (1, 0), "dilation": (1, 2)}
    there, back = nn.Conv2d(2, 3, 3, **settings), nn.ConvTranspose2d(3, 4, 3, **settings, output_padding=1)
    x = md.zeros(2, height, 12) if alone else md.zeros(5, 2, height, 12)
    y = there(x)
    for size in ((height, 12), x.shape, list(x.shape)):
        out = back(y, output_size=size)
        assert out.shape == (*x.shape[:-3], 4, height, 12)
    plain = nn.ConvTranspose2d(3, 4, 3, **settings, output_padding=(height - 10, 1))
    plain.load_state_dict(back.state_dict())
    np.testing.assert_array_equal(out.detach().numpy(), plain(y).detach().numpy())


@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"])
def test_parameters_are_drawn_within_one_over_the_root_of_the_fan_in(kind):
    layer = getattr(nn, kind)(8, 6, 5, groups=2)
    bound = 1 / np.sqrt((3 if "T" in kind else 4) * 5 ** (1 + ("2d" in kind)))  # transposed: of the outputs, as PyTorch
    for p in layer.parameters():
        assert 0.6 * bound < abs(p.detach().numpy()).max() <= bound


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Conv2d(0, 1, 3), "Conv2d: in_channels must be an integer of at least 1, got 0"),
        (
            lambda: nn.Conv2d(1, 1, (3, 3, 3)),
            r"Conv2d: kernel_size must be an integer of at least 1, or 2 of them, got \(3,",
        ),
        (lambda: nn.Conv1d(1, 1, 3, stride=0), "Conv1d: stride must be an integer of at least 1, got 0"),
        (lambda: nn.Conv2d(4, 6, 3, groups=3), "Conv2d: groups must divide both numbers of channels, got 4, 6 and 3"),
        (
            lambda: nn.Conv2d(1, 1, 3, padding="full"),
            "Conv2d: padding, unless 'same' or 'valid', must be .* got 'full'",
        ),
        (lambda: nn.Conv2d(1, 1, 3, padding="same", stride=2), "Conv2d: padding='same' needs stride 1, got stride=2"),
        (
            lambda: nn.Conv2d(1, 1, 3, padding_mode="mirror"),
            "padding_mode must be one of zeros, reflect, replicate, circ",
        ),
        (lambda: nn.ConvTranspose2d(1, 1, 3, output_padding=1), "output_padding must be less than stride or dilation"),
        (lambda: nn.Conv2d(3, 1, 3)(md.zeros(2, 4, 5, 5)), r"Conv2d\(in_channels=3.*\(2, 4, 5, 5\) has 4 channels"),
        (lambda: nn.Conv2d(3, 1, 3)(md.zeros(5, 5)), r"Conv2d\(in_channels=3.*got \(5, 5\)"),
        (lambda: nn.Conv1d(3, 1, 7)(md.zeros(2, 3, 5)), r"Conv1d\(in_channels=3.*greater than the padded input"),
        (
            lambda: nn.Conv2d(1, 1, 3, padding=3, padding_mode="reflect")(md.zeros(1, 0, 4)),
            r"Conv2d\(.*pad: axis 1 has no element",
        ),
        (lambda: nn.ConvTranspose1d(2, 1, 3)(md.zeros(2, 3, 5)), r"ConvTranspose1d\(in_channels=2.*has 3 channels"),
        (
            lambda: nn.ConvTranspose2d(2, 1, 3, stride=2)(md.zeros(1, 2, 5, 4), output_size=(11, 11)),
            r"ConvTranspose2d\(.*output_size must lie between \(11, 9\) and \(12, 10\) for x .*, got \(11, 11",
        ),
        (
            lambda: nn.ConvTranspose1d(2, 1, 3)(md.zeros(1, 2, 5), output_size=(7, 7)),
            r"ConvTranspose1d\(.*output_size must be an integer of at least 1, got \(7, 7\)",
        ),
        (lambda: nn.ConvTranspose1d(2, 1, 3)(md.zeros(2), output_size=7), r"ConvTranspose1d\(.*got \(2,\)"),
        (lambda: nn.MaxPool2d(0), "MaxPool2d: kernel_size must be an integer of at least 1, or 2 of them, got 0"),
        (lambda: nn.MaxPool2d(2, padding=2)(md.zeros(1, 4, 4)), r"MaxPool2d\(.*padding must be at most half"),
        (lambda: nn.AvgPool2d(5)(md.zeros(1, 4, 4)), r"AvgPool2d\(kernel_size=\(5, 5\).*greater than the padded input"),
        (lambda: nn.AvgPool2d(2, divisor_override=0), "AvgPool2d: divisor_override must be an integer of at least 1"),
        (lambda: nn.AdaptiveAvgPool2d((2, 0)), r"AdaptiveAvgPool2d: output_size must .*got \(2, 0\)"),
        (lambda: nn.Upsample(), "Upsample: needs either size or scale_factor, got None and None"),
        (lambda: nn.Upsample(size=2, mode="cubic"), "Upsample: mode must be .* got 'cubic'"),
        (lambda: nn.Upsample(size=2, align_corners=True), "align_corners belongs to 'linear' and 'bilinear', got mode"),
        (lambda: nn.PixelShuffle(2)(md.zeros(3, 2, 2)), r"PixelShuffle\(upscale_factor=2\): .*got \(3, 2, 2\)"),
    ],
)
def test_errors_name_the_layer_the_rule_and_what_arrived(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 1, 2), nn.ConvTranspose2d(3, 1, 2), nn.LayerNorm(4), nn.GroupNorm(1, 3)]
)
def test_another_dtype_is_refused_naming_the_layer_and_both(layer):
    with pytest.raises(TypeError, match=rf"{type(layer).__name__}\(.*float64.*float32.*astype"):
        layer(md.zeros(2, 3, 4, 4, dtype="float64"))


def test_a_layer_of_images_names_what_is_no_array():
    for layer in (nn.Conv2d(1, 1, 1), nn.MaxPool2d(1), nn.Upsample(size=1)):
        with pytest.raises(TypeError, match=rf"{type(layer).__name__}\(.*must be a tensor or an array, got str"):
            layer("image")


# ---- pooling and resampling --------------------------------------------------------------------------------------


def test_pooling_takes_the_largest_and_the_mean_of_each_window(rng):
    x = rng.standard_normal((2, 3, 6, 4))
    windows = x.reshape(2, 3, 3, 2, 2, 2)
    assert np.array_equal(nn.MaxPool2d(2)(md.tensor(x)).numpy(), windows.max((3, 5)))
    np.testing.assert_allclose(nn.AvgPool2d(2)(md.tensor(x)).numpy(), windows.mean((3, 5)), rtol=1e-14)
    np.testing.assert_allclose(nn.AdaptiveAvgPool2d((3, 2))(md.tensor(x)).numpy(), windows.mean((3, 5)), rtol=1e-14)
    assert np.array_equal(nn.AdaptiveMaxPool2d((3, 2))(md.tensor(x)).numpy(), windows.max((3, 5)))


def test_upsampling_and_shuffling_of_known_numbers():
    x = md.tensor([[[[1.0, 2.0]]]])
    assert nn.Upsample(scale_factor=2)(x).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]
    assert nn.Upsample(size=(1, 3), mode="bilinear", align_corners=True)(x).tolist() == [[[[1, 1.5, 2]]]]
    assert nn.PixelShuffle(2)(md.arange(4.0).reshape(1, 4, 1, 1)).tolist() == [[[[0, 1], [2, 3]]]]


# ---- norms of each sample ----------------------------------------------------------------------------------------


def test_each_norm_standardizes_over_its_own_elements(rng):
    x = md.tensor(rng.standard_normal((4, 6, 5, 3)) * 7 + 3)
    for layer, axes, shape in (
        (nn.LayerNorm((5, 3), eps=0.0), (2, 3), x.shape),
        (nn.InstanceNorm2d(6, eps=0.0), (2, 3), x.shape),
        (nn.GroupNorm(2, 6, eps=0.0), (2, 3, 4), (4, 2, 3, 5, 3)),
    ):
        out = layer.double()(x).detach().numpy().reshape(shape)
        np.testing.assert_allclose(out.mean(axes), 0, atol=1e-12)
        np.testing.assert_allclose(out.std(axes), 1, rtol=1e-12)
    out = nn.RMSNorm(3, eps=0.0).double()(x).detach().numpy()
    np.testing.assert_allclose((out**2).mean(-1), 1, rtol=1e-12)


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True)]
)
@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_constant_input_gives_finite_results_and_gradients(layer, value):
    x = md.full((2, 4, 4), value, requires_grad=True)
    out = layer(x)
    (out * md.randn(2, 4, 4)).sum().backward()
    assert np.isfinite(out.detach().numpy()).all()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.LayerNorm(()), r"LayerNorm: normalized_shape must name at least one axis, got \(\)"),
        (lambda: nn.LayerNorm((3, 0)), "LayerNorm: normalized_shape must be an integer of at least 1, got 0"),
        (lambda: nn.LayerNorm(3, eps=-1), "LayerNorm: eps must be a finite number >= 0, got eps=-1"),
        (lambda: nn.GroupNorm(3, 4), "GroupNorm: num_groups must divide num_channels, got 3 and 4"),
        (lambda: nn.LayerNorm(3)(md.zeros(2, 4)), r"LayerNorm\(normalized_shape=\(3,\)\): .*\(2, 4\) must end in"),
        (
            lambda: nn.GroupNorm(2, 4)(md.zeros(2, 6)),
            r"GroupNorm\(.*expected \(n, c, ...\) with 4 channels, got .*\(2, 6\)",
        ),
        (lambda: nn.InstanceNorm2d(3)(md.zeros(3, 4)), r"InstanceNorm2d\(.*\(n, c, h, w\) or .* got shape \(3, 4\)"),
        (lambda: nn.InstanceNorm1d(3)(md.zeros(2, 3, 1)), r"InstanceNorm1d\(.*more than one element a channel"),
        (
            lambda: nn.BatchNorm2d(3)(md.zeros(2, 3, 4)),
            r"expected 4 axes with 3 channels on axis 1, got shape \(2, 3, 4\)",
        ),
    ],
)
def test_errors_of_norms_name_the_layer_the_rule_and_what_arrived(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_small_convolutional_net_learns_to_tell_bars_apart():
    md.manual_seed(0)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((64, 1, 8, 8)) * 0.3, np.arange(64) % 2
    images[labels == 0, :, 3, :] += 1
    images[labels == 1, :, :, 3] += 1
    x, y = md.tensor(images.astype("float32")), md.tensor(labels)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 2)
    )
    optimizer = md.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()
    assert (model.eval()(x).detach().numpy().argmax(1) == labels).mean() == 1
