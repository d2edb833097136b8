"""Attention with its masks, and normalization by a sample's own statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as md
from test_ops_fused import orders

attend = md.scaled_dot_product_attention


def draw(rng, *lead, queries=3, keys=4, features=2):
    """Return query, key and value."""
    shapes = ((*lead, queries, features), (*lead, keys, features), (*lead, keys, 3))
    return [rng.standard_normal(shape) for shape in shapes]


# ---- masks -----------------------------------------------------------------------------------------------------------

NOWHERE = np.array([[True, False, True, True], [False] * 4, [False, True, False, False]])


@pytest.mark.parametrize("mask", [NOWHERE, np.where(NOWHERE, 0.0, -np.inf)], ids=["bool", "added"])
def test_a_query_that_may_look_nowhere_gets_zeros_and_no_nan_to_third_order(mask, rng):
    arrays = draw(rng, 2)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        found = orders(lambda q, k, v: attend(q, k, v, md.tensor(mask)), arrays, 3)
    value, first = found[0][0], found[1]
    assert not value[:, 1].any()
    assert not first[0][:, 1].any()
    for order in found:
        assert all(np.isfinite(a).all() for a in order)


def test_masks_of_true_and_false_are_added_infinities(rng):
    arrays = draw(rng, 2)
    as_bool = orders(lambda q, k, v: attend(q, k, v, md.tensor(NOWHERE)), arrays, 2)
    added = orders(lambda q, k, v: attend(q, k, v, md.tensor(np.where(NOWHERE, 0.0, -np.inf))), arrays, 2)
    for a, b in zip(as_bool, added, strict=True):
        for mine, other in zip(a, b, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-14)


def test_a_query_sees_only_what_its_mask_allows(rng):
    """It gets what it would get from the allowed keys alone."""
    q, k, v = draw(rng)
    out = attend(q, k, v, NOWHERE)
    for i in (0, 2):
        seen = NOWHERE[i]
        np.testing.assert_allclose(out[i], attend(q[i : i + 1], k[seen], v[seen])[0], rtol=1e-12)


def test_causal_attention_does_not_see_the_future(rng):
    q, k, v = draw(rng, queries=4)
    before = attend(q, k, v, is_causal=True)
    np.testing.assert_array_equal(before[0], v[0])
    k[2:], v[2:] = 7.0, -7.0
    after = attend(q, k, v, is_causal=True)
    np.testing.assert_array_equal(after[:2], before[:2])
    assert not np.array_equal(after[2:], before[2:])


def test_both_masks_together_allow_what_both_allow(rng):
    q, k, v = draw(rng, queries=4)
    mask = rng.random((4, 4)) < 0.6
    expected = attend(q, k, v, mask & np.tri(4, dtype=bool))
    np.testing.assert_array_equal(attend(q, k, v, mask, is_causal=True), expected)


def test_an_added_mask_can_be_learned(rng):
    arrays = [*draw(rng), rng.standard_normal((3, 4))]
    md.check_grad(attend, arrays, order=3)


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_equal_scores_average_the_values(rng):
    _, k, v = draw(rng)
    np.testing.assert_allclose(attend(np.zeros((5, 2)), k, v), np.tile(v.mean(axis=0), (5, 1)), rtol=1e-12)


def test_large_scores_pick_one_value():
    q, k = np.array([[1e4]]), np.array([[1.0], [-1.0], [0.0]])
    assert attend(q, k, np.array([[3.0], [5.0], [7.0]])).tolist() == [[3.0]]


def test_the_order_of_keys_does_not_matter_and_that_of_queries_carries_over(rng):
    q, k, v = draw(rng, 2)
    keys, queries = rng.permutation(4), rng.permutation(3)
    out = attend(q, k, v)
    np.testing.assert_allclose(attend(q[:, queries], k[:, keys], v[:, keys]), out[:, queries], rtol=1e-12)


def test_the_scale_is_one_over_the_root_of_the_features(rng):
    q, k, v = draw(rng, features=16)
    np.testing.assert_allclose(attend(q, k, v), attend(q * 0.25, k, v, scale=1.0), rtol=1e-12)


def test_dropped_weights_keep_the_mean():
    """With values of 1, each result is the sum of the kept weights: 1 on average."""
    q, k, v = np.zeros((200, 1)), np.zeros((50, 1)), np.ones((50, 1))
    md.manual_seed(3)
    out = attend(q, k, v, dropout_p=0.5)
    spread = math.sqrt(1 / 50 / 200)  # variance of a weight: p / (1 - p) / 50^2
    assert abs(out.mean() - 1) < 5 * spread
    assert out.std() > 0.1
    md.manual_seed(3)
    np.testing.assert_array_equal(attend(q, k, v, dropout_p=0.5), out)
    assert not attend(q, k, v, dropout_p=1.0).any()
    with pytest.raises(ValueError, match=r"dropout: p must be in \[0, 1\], got p=1\.5"):
        attend(q, k, v, dropout_p=1.5)


# ---- normalization ---------------------------------------------------------------------------------------------------


def standardized(x, axes, eps, centre=True):
    """Elementary operations only, as in a textbook."""
    d = x - md.mean(x, axis=axes, keepdims=True) if centre else x
    return d / md.sqrt(md.mean(d * d, axis=axes, keepdims=True) + eps)


TWINS = {
    "layer_norm": (
        lambda x, w, b: md.layer_norm(x, (2, 2), w, b, 0.1),
        lambda x, w, b: standardized(x, (-2, -1), 0.1) * w + b,
        [(3, 4, 2, 2), (2, 2), (2, 2)],
    ),
    "rms_norm": (
        lambda x, w: md.rms_norm(x, 4, w, 0.1),
        lambda x, w: standardized(x, (-1,), 0.1, centre=False) * w,
        [(3, 4), (4,)],
    ),
    "group_norm": (
        lambda x, w, b: md.group_norm(x, 2, w, b, 0.1),
        lambda x, w, b: standardized(x.reshape(3, 2, -1), (2,), 0.1).reshape(3, 4, 2) * w[:, None] + b[:, None],
        [(3, 4, 2), (4,), (4,)],
    ),
    "instance_norm": (
        lambda x, w, b: md.instance_norm(x, w, b, 0.1),
        lambda x, w, b: standardized(x, (2,), 0.1) * w[:, None] + b[:, None],
        [(3, 4, 3), (4,), (4,)],
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_fused_norm_is_its_composition_to_the_third_derivative(name, rng):
    fused, composed, shapes = TWINS[name]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    for k, (a, b) in enumerate(zip(orders(fused, arrays, 3), orders(composed, arrays, 3), strict=True)):
        for mine, other in zip(a, b, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11, err_msg=f"order {k}")


def test_normalized_rows_have_mean_0_and_variance_1(rng):
    y = md.layer_norm(rng.standard_normal((5, 100)) * 7 + 3, 100, eps=0.0)
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=1), 1, rtol=1e-12)


def test_constant_rows_give_zeros_and_finite_derivatives():
    x = np.full((2, 4), 1e4, "f4")
    for order in orders(lambda t: md.layer_norm(t, 4), [x], 2):
        assert np.isfinite(order[0]).all()
    assert not md.layer_norm(x, 4).any()


def test_no_gradient_goes_along_a_shift_or_a_scaling_of_the_row(rng):
    """layer_norm(a x + b) = layer_norm(x): so dL/dx is orthogonal to ones and, without eps, to x."""
    x = md.tensor(rng.standard_normal((3, 6)), requires_grad=True)
    md.layer_norm(x, 6, eps=0.0).backward(rng.standard_normal((3, 6)))
    np.testing.assert_allclose(x.grad.numpy().sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose((x.grad.numpy() * x.detach().numpy()).sum(axis=1), 0, atol=1e-12)


def test_one_group_is_a_layer_norm_and_a_group_a_channel_an_instance_norm(rng):
    x = rng.standard_normal((2, 6, 4))
    np.testing.assert_allclose(md.group_norm(x, 1), md.layer_norm(x, (6, 4)), rtol=1e-12)
    np.testing.assert_allclose(md.group_norm(x, 6), md.instance_norm(x), rtol=1e-12)


def test_rms_norm_ignores_the_scale_of_a_row_and_keeps_its_direction(rng):
    x = rng.standard_normal((3, 5))
    y = md.rms_norm(x, 5, eps=0.0)
    np.testing.assert_allclose(md.rms_norm(1e3 * x, 5, eps=0.0), y, rtol=1e-12)
    np.testing.assert_allclose((y * y).mean(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(y / x, (y / x)[:, :1] * np.ones(5), rtol=1e-12)
