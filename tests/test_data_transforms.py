"""Transforms: exact scaling, safe standardising, and what a chain passes on."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.data.transforms import Compose, Flatten, Normalize, Standardize, ToFloat, Transform, apply
from minidl.engine import backend
from minidl.engine.tensor import Tensor

BYTES = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)


def on(device, x):
    return backend.to_device(x, device)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bytes_become_the_correctly_rounded_quotients(device, dtype):
    out = backend.to_numpy(ToFloat(dtype=dtype)(on(device, BYTES)))
    assert out.dtype == dtype
    assert out.max() == 1.0
    np.testing.assert_array_equal(out, (BYTES / 255).astype(dtype))


def test_to_float_uses_the_default_dtype_of_the_moment():
    to_float = ToFloat()
    assert to_float(BYTES).dtype == np.float32
    backend.set_default_dtype(np.float64)
    assert to_float(BYTES).dtype == np.float64


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64"])
def test_wide_integers_do_not_widen_the_result(dtype):
    out = ToFloat(16)(np.array([0, 8, 16], dtype))
    assert out.dtype == np.float32
    assert out.tolist() == [0.0, 0.5, 1.0]


def test_floats_and_bools_are_only_cast():
    assert ToFloat()(np.array([0.5, 2.0])).tolist() == [0.5, 2.0]
    assert ToFloat()(np.array([0.5, 2.0])).dtype == np.float32
    assert ToFloat()(np.array([True, False])).tolist() == [1.0, 0.0]


def test_no_transform_changes_its_argument(rng):
    x = rng.standard_normal((6, 3)).astype(np.float32)
    before = x.copy()
    for transform in (ToFloat(), Normalize(0.5, 2.0), Standardize.fit(x), Flatten(), ToFloat(dtype="float64")):
        transform(x)
        np.testing.assert_array_equal(x, before)


def test_normalize_shifts_and_scales_per_channel(device, rng):
    x = rng.standard_normal((5, 3, 2, 2)).astype(np.float32)
    mean, std = np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1), np.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)
    out = Normalize(mean, std)(on(device, x))
    assert out.dtype == np.float32
    np.testing.assert_allclose(backend.to_numpy(out), (x - mean) / std, rtol=1e-6, atol=1e-7)


def test_normalize_copies_its_numbers_to_the_device_once(fake_cuda):
    transform = Normalize(0.1307, 0.3081)
    x = on("cuda", np.ones((4, 4), np.float32))
    with backend.transfers() as seen:
        for _ in range(5):
            transform(x)
    assert seen.count == 2


def test_normalize_refuses_integers_and_a_std_of_zero_and_shapes_that_do_not_fit():
    with pytest.raises(TypeError, match=r"Normalize: needs floats, got uint8; put ToFloat\(\) before it"):
        Normalize(0.5, 0.5)(BYTES)
    for mean, std in ((0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf), (0.0, [1.0, 0.0])):
        with pytest.raises(ValueError, match="std finite and positive"):
            Normalize(mean, std)
    with pytest.raises(ValueError, match=r"mean \(3,\) and std \(3,\) do not broadcast against a batch \(2, 4\)"):
        Normalize(np.zeros(3), np.ones(3))(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="do not broadcast"):
        Normalize(np.zeros((5, 1, 1)), 1.0)(np.zeros((2, 4)))


@pytest.mark.parametrize("shape", [(50,), (50, 3), (9000, 2), (20, 2, 3)])
def test_standardized_features_have_mean_zero_and_variance_one(shape, rng):
    x = 1e4 + 3.0 * rng.standard_normal(shape)
    out = Standardize.fit(x)(x)
    np.testing.assert_allclose(out.mean(axis=0), 0.0, atol=1e-10)
    np.testing.assert_allclose(out.var(axis=0), 1.0, rtol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 + 0.1, -3e-30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_feature_becomes_zero_and_not_noise(value, dtype):
    x = np.full((1001, 2), value, dtype)
    x[:, 1] = np.arange(1001)
    fitted = Standardize.fit(x)
    out = fitted(x)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out[:, 0], 0.0)
    assert fitted.std[0] == 1.0


def test_standardize_uses_the_numbers_of_the_training_data(device):
    fitted = Standardize.fit(np.array([[0.0], [2.0]]))
    assert backend.to_numpy(fitted(on(device, np.array([[4.0]])))).tolist() == [[3.0]]


def test_standardize_on_raw_images_takes_raw_images_only():
    fitted = Standardize.fit(BYTES)
    out = fitted(BYTES)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean(axis=0), 0.0, atol=1e-6)
    with pytest.raises(TypeError, match="fitted on integers and got float32; fit and apply at the same place"):
        fitted(ToFloat()(BYTES))
    with pytest.raises(TypeError, match="fitted on floats and got uint8"):
        Standardize.fit(ToFloat()(BYTES))(BYTES)


def test_standardize_refuses_nothing_and_nan():
    with pytest.raises(ValueError, match=r"at least one sample along axis 0, got shape \(0, 3\)"):
        Standardize.fit(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="x must be finite"):
        Standardize.fit(np.array([[np.nan], [1.0]]))


@pytest.mark.parametrize(
    ("shape", "flat"), [((5, 2, 3), (5, 6)), ((5,), (5, 1)), ((0, 2, 3), (0, 6)), ((5, 6), (5, 6))]
)
def test_flatten_keeps_the_samples(device, shape, flat):
    assert Flatten()(on(device, np.zeros(shape))).shape == flat


# ---- what is passed on -------------------------------------------------------------------------------------------


def test_further_arrays_pass_through_unchanged():
    labels = np.arange(16)
    for transform in (ToFloat(), Compose([ToFloat(), Flatten()]), Flatten()):
        out, same = transform(BYTES, labels)
        assert same is labels
        assert len(out) == 16


def test_a_chain_takes_functions_that_return_one_array_or_all():
    chain = Compose([ToFloat(), lambda x, y: x + 1, lambda x, y: (x, y * 2)])
    x, y = chain(BYTES, np.arange(16))
    assert x.min() == 1.0
    assert y.tolist() == list(range(0, 32, 2))


def test_a_tensor_gives_a_tensor_and_one_with_a_gradient_is_refused():
    out = ToFloat(16)(Tensor(np.array([8], np.uint8)))
    assert type(out) is Tensor
    assert out.numpy().tolist() == [0.5]
    with pytest.raises(TypeError, match=r"ToFloat: no gradient flows through a transform; pass t.detach\(\)"):
        ToFloat()(Tensor([1.0], requires_grad=True))


def test_apply_refuses_what_is_no_array():
    for bad in (None, 3.0, [1, 2], "x"):
        with pytest.raises(TypeError, match="transform: must return an array or a tuple of arrays"):
            apply(lambda x, bad=bad: bad, (BYTES,))
    assert apply(lambda x: Tensor([1.0]), (BYTES,))[0].tolist() == [1.0]


def test_bad_transforms_are_refused():
    with pytest.raises(ValueError, match="maximum must be positive, got 0"):
        ToFloat(0)
    with pytest.raises(ValueError, match="maximum must be positive, got nan"):
        ToFloat(float("nan"))
    with pytest.raises(TypeError, match="dtype must be floating, got int32"):
        ToFloat(dtype="int32")
    with pytest.raises(TypeError, match="Compose: needs callables, got int"):
        Compose([ToFloat(), 3])
    with pytest.raises(TypeError, match="abstract"):
        Transform()
