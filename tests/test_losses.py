"""Losses against closed forms, each other and the ends of what they are defined for."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as md

ROWS = np.array([[0.0, 0.0, 0.0], [1e4, 0.0, -1e4], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])


def gradient(f, a):
    """Return the value of a scalar f at a, and its gradient."""
    x = md.tensor(a, requires_grad=True)
    y = f(x)
    y.backward()
    return y.item(), x.grad.numpy()


# ---- cross-entropy in general ----------------------------------------------------------------------------------------


def test_the_cross_entropy_of_equal_scores_is_the_logarithm_of_the_number_of_classes():
    for smoothing in (0.0, 0.3, 1.0):
        loss = md.cross_entropy(md.zeros(4, 7, dtype="float64"), np.array([0, 3, 6, 1]), label_smoothing=smoothing)
        assert loss.item() == pytest.approx(math.log(7), rel=1e-14)


def test_classes_are_probabilities_of_0_and_1(rng):
    x, target = rng.standard_normal((5, 4)), rng.integers(0, 4, 5)
    for settings in ({}, {"label_smoothing": 0.2}, {"reduction": "none"}):
        a = md.cross_entropy(x, target, **settings)
        np.testing.assert_allclose(md.cross_entropy(x, np.eye(4)[target], **settings), a, rtol=1e-12)


def test_nll_of_log_softmax_is_cross_entropy(rng):
    x, target, weight = rng.standard_normal((5, 4, 3)), rng.integers(0, 4, (5, 3)), rng.random(4)
    for settings in ({}, {"weight": weight}, {"ignore_index": 2}, {"weight": weight, "reduction": "none"}):
        expected = md.cross_entropy(x, target, **settings)
        np.testing.assert_allclose(md.nll_loss(md.log_softmax(x, 1), target, **settings), expected, rtol=1e-12)


def test_a_weight_of_a_class_counts_its_samples_so_many_times(rng):
    x, target = rng.standard_normal((4, 3)), np.array([0, 1, 1, 2])
    more = [0, 1, 1, 2, 1, 1, 2, 2]  # class 1 twice, class 2 three times
    weighted = md.cross_entropy(x, target, weight=np.array([1.0, 2.0, 3.0]))
    repeated = md.cross_entropy(x[[0, 1, 2, 3, 1, 2, 3, 3]], np.array(more))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-12)


def test_ignored_samples_are_as_if_they_were_not_there(rng):
    x, target = rng.standard_normal((5, 3)), np.array([0, -100, 2, -100, 1])
    kept = [0, 2, 4]
    value, slope = gradient(lambda t: md.cross_entropy(t, target, ignore_index=-100), x)
    value2, slope2 = gradient(lambda t: md.cross_entropy(t, target[kept]), x[kept])
    assert value == pytest.approx(value2, rel=1e-13)
    np.testing.assert_allclose(slope[kept], slope2, rtol=1e-12)
    assert not slope[[1, 3]].any()


def test_the_mean_of_ignored_samples_alone_is_0_with_zero_gradient():
    value, slope = gradient(lambda t: md.cross_entropy(t, np.array([7, 7]), ignore_index=7), ROWS[:2])
    assert (value, slope.any()) == (0.0, False)


def test_ignoring_must_be_asked_for():
    with pytest.raises(IndexError, match=r"\[0, 3\), got -100 at index 1"):
        md.cross_entropy(ROWS[:2], np.array([0, -100]))


def test_full_smoothing_leaves_the_uniform_target(rng):
    x = rng.standard_normal((4, 3))
    loss = md.cross_entropy(x, np.array([0, 1, 2, 0]), "none", label_smoothing=1.0)
    np.testing.assert_allclose(loss, -md.log_softmax(x).mean(axis=1), rtol=1e-12)


def test_an_impossible_class_of_probability_0_costs_nothing():
    x = md.tensor([[0.0, -math.inf, 0.0]], requires_grad=True)
    loss = md.cross_entropy(x, md.tensor([[0.5, 0.0, 0.5]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    assert x.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_the_general_form_has_derivatives_in_weights_and_probabilities(rng):
    arrays = [rng.standard_normal((4, 3)), rng.uniform(0.1, 0.5, (4, 3)), rng.uniform(0.5, 2.0, 3)]
    md.check_grad(lambda x, q, w: md.cross_entropy(x, q, weight=w, label_smoothing=0.3), arrays, order=3)


def test_plain_classes_take_the_fused_way():
    x = md.tensor(ROWS, requires_grad=True)
    assert md.cross_entropy(x, np.array([0, 1, 2, 0])).node.op.name == "cross_entropy"
    assert md.cross_entropy(x, np.array([0, 1, 2, 0]), weight=md.tensor(np.ones(3))).node.op.name != "cross_entropy"


def test_a_class_out_of_range_is_nan_on_a_gpu_and_an_error_in_anomaly_mode(fake_cuda):
    x = md.tensor(ROWS, device="cuda")
    target = md.tensor([0, 3, 1, -1], device="cuda")
    for settings in ({}, {"label_smoothing": 0.1}, {"weight": md.tensor(np.ones(3), device="cuda")}):
        found = md.cross_entropy(x, target, reduction="none", **settings).cpu().numpy()
        assert np.isnan(found).tolist() == [False, True, False, True], settings
    found = md.cross_entropy(x, target, reduction="none", ignore_index=-1).cpu().numpy()
    assert np.isnan(found).tolist() == [False, True, False, False]
    with md.detect_anomaly(), pytest.raises(IndexError, match=r"\[0, 3\), got 3 at index 1"):
        md.cross_entropy(x, target, ignore_index=-1)


# ---- probabilities ---------------------------------------------------------------------------------------------------


def test_binary_cross_entropy_of_scores_is_that_of_their_sigmoid(rng):
    x, t = rng.standard_normal((4, 3)), rng.random((4, 3))
    w, p = rng.random((4, 1)), rng.random(3)
    for settings in ({}, {"weight": w}, {"reduction": "none"}):
        expected = md.binary_cross_entropy(md.sigmoid(x), t, **settings)
        np.testing.assert_allclose(md.binary_cross_entropy_with_logits(x, t, **settings), expected, rtol=1e-12)
    expected = -(p * t * np.log(md.sigmoid(x)) + (1 - t) * np.log(md.sigmoid(-x))).mean()
    np.testing.assert_allclose(md.binary_cross_entropy_with_logits(x, t, pos_weight=p), expected, rtol=1e-12)


def test_the_loss_of_a_confident_right_answer_keeps_its_digits():
    """log(1 + e^-30) in float32 is e^-30; max(x, 0) - x t + ... would have lost it in x."""
    x, t = np.array([30.0, -30.0], "f4"), np.array([1.0, 0.0], "f4")
    np.testing.assert_allclose(md.binary_cross_entropy_with_logits(x, t, "none"), math.exp(-30), rtol=1e-6)


def test_the_slope_of_binary_cross_entropy_with_logits_is_the_error():
    x = md.tensor([-1e4, -1.0, 0.0, 1e4], requires_grad=True)
    md.binary_cross_entropy_with_logits(x, md.tensor([0.0, 1.0, 0.5, 0.0]), "sum").backward()
    np.testing.assert_allclose(x.grad.numpy(), [0.0, 1 / (1 + math.e) - 1, 0.0, 1.0], rtol=1e-6)


def bce_by_derivatives(p, t):
    """Return the loss of probabilities p elementwise, its first and second derivative by p, and d2 / dp dt."""
    p, t = (md.tensor(a, requires_grad=True) for a in (p, t))
    loss = md.binary_cross_entropy(p, t, "none")
    (first,) = md.autograd.grad(loss.sum(), p, create_graph=True)
    second, mixed = md.autograd.grad(first.sum(), [p, t])
    return [a.detach().numpy() for a in (loss, first, second, mixed)]


# Wrong certainties, half wrong ones, and probabilities inside.
UNSURE = [0.0, 0.0, 1.0, 1.0, 0.3, 0.7, 1e-3, 1 - 1e-3], [1.0, 0.25, 0.0, 0.25, 0.4, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_has_pytorchs_derivatives_where_they_do_not_exist_and_inside(dtype):
    torch = pytest.importorskip("torch")
    p, t = (np.array(a, dtype) for a in UNSURE)
    found = bce_by_derivatives(p, t)
    p, t = (torch.tensor(a, requires_grad=True) for a in (p, t))
    loss = torch.nn.functional.binary_cross_entropy(p, t, reduction="none")
    (first,) = torch.autograd.grad(loss.sum(), p, create_graph=True)
    second, mixed = torch.autograd.grad(first.sum(), [p, t])
    for mine, theirs in zip(found, (loss, first, second, mixed), strict=True):  # theirs adds 1e-12 to p here and there
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-8 if dtype == "float64" else 1e-5)


def test_certainty_that_is_right_has_the_derivatives_of_the_loss():
    """-log(1 - p) at p = 0 has the derivatives 1 and 1: PyTorch's formula gives 0 and 0."""
    found = bce_by_derivatives(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    np.testing.assert_array_equal(found[:3], [[0.0, 0.0], [1.0, -1.0], [1.0, 1.0]])


def test_certainty_that_is_wrong_costs_100_and_has_a_definite_slope():
    value, slope = gradient(lambda p: md.binary_cross_entropy(p, md.tensor([1.0, 0.0])), np.array([0.0, 1.0], "f4"))
    assert value == 100.0
    np.testing.assert_allclose(slope, [-5e11, 5e11], rtol=1e-6)


def test_no_logarithm_of_a_probability_is_less_than_100():
    assert md.binary_cross_entropy(np.array([1e-50]), np.array([1.0])) == 100.0


def test_the_loss_of_a_tiny_probability_keeps_its_digits():
    assert md.binary_cross_entropy(np.array([1e-20]), np.array([0.0])) == pytest.approx(1e-20, rel=1e-15)


def test_the_slope_of_binary_cross_entropy_is_finite_in_half_precision():
    _, slope = gradient(lambda p: md.binary_cross_entropy(p, md.tensor([1.0, 0.0], dtype="f2")), np.array([0, 1], "f2"))
    np.testing.assert_array_equal(slope, [-8192.0, 8192.0])


def test_probabilities_are_not_looked_at_on_a_gpu(fake_cuda):
    p, t = md.tensor([0.5, 2.0], device="cuda"), md.tensor([1.0, 1.0], device="cuda")
    fake_cuda.stats.reset()
    loss = md.binary_cross_entropy(p, t, "none")
    assert (fake_cuda.stats.waits, fake_cuda.stats.to_host) == (0, 0)
    assert loss.cpu().numpy()[0] == pytest.approx(math.log(2), rel=1e-6)


MARGINS = {
    "hinge_embedding_loss": ([1.0, 2.0], [-1.0, -1.0], {}),
    "margin_ranking_loss": ([0.0, 3.0], [0.0, 1.0], [1.0, -1.0], {"margin": 0.0}),
    "triplet_margin_loss": ([[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 2.0]], {"eps": 0.0}),
    "cosine_embedding_loss": ([[1.0, 0.0]], [[0.0, 1.0]], [-1.0], {}),
}


@pytest.mark.parametrize("name", MARGINS)
def test_a_margin_that_is_just_kept_has_the_slope_of_a_miss(name):
    torch = pytest.importorskip("torch")
    *arrays, settings = MARGINS[name]
    mine, theirs = md.tensor(arrays[0], requires_grad=True), torch.tensor(arrays[0], requires_grad=True)
    getattr(md, name)(mine, *map(md.tensor, arrays[1:]), **settings).backward()
    getattr(torch.nn.functional, name)(theirs, *map(torch.tensor, arrays[1:]), **settings).backward()
    assert mine.grad.numpy().any()
    np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["hinge_embedding_loss", "cosine_embedding_loss"])
def test_classes_0_and_1_are_no_signs(name):
    inputs = [np.ones(2)] if name.startswith("hinge") else [np.ones((2, 3))] * 2
    with pytest.raises(ValueError, match=rf"{name}: targets must be 1 or -1, got 0; .*2 t - 1"):
        getattr(md, name)(*inputs, np.array([1.0, 0.0]))


def test_the_divergence_of_a_distribution_from_itself_is_0(rng):
    q = md.softmax(rng.standard_normal((3, 4)))
    np.testing.assert_allclose(md.kl_div(np.log(q), q, "none").sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(md.kl_div(np.log(q), np.log(q), "none", log_target=True), 0, atol=1e-15)


def test_the_divergence_is_the_batchmean_and_the_mean_is_less(rng):
    p, q = (md.softmax(rng.standard_normal((3, 4))) for _ in range(2))
    expected = (q * np.log(q / p)).sum(axis=1).mean()
    np.testing.assert_allclose(md.kl_div(np.log(p), q, "batchmean"), expected, rtol=1e-12)
    np.testing.assert_allclose(md.kl_div(np.log(p), q), expected / 4, rtol=1e-12)


# ---- differences, margins, likelihoods -------------------------------------------------------------------------------


def test_huber_is_squared_within_and_absolute_beyond(rng):
    x, t = rng.standard_normal((2, 20))
    np.testing.assert_allclose(md.huber_loss(x, t, delta=1e6), md.mse_loss(x, t) / 2, rtol=1e-12)
    np.testing.assert_allclose(md.huber_loss(x, t, delta=1e-9) / 1e-9, md.l1_loss(x, t), rtol=1e-7)
    np.testing.assert_allclose(md.smooth_l1_loss(x, t, beta=0.3), md.huber_loss(x, t, delta=0.3) / 0.3, rtol=1e-12)


def test_losses_never_broadcast():
    """(4, 1) against (4,) would be 16 differences; PyTorch only warns."""
    for name in ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "poisson_nll_loss", "kl_div"):
        with pytest.raises(ValueError, match=rf"{name}: .*\(4, 1\).*\(4,\)"):
            getattr(md, name)(np.ones((4, 1)), np.ones(4))


def test_the_gaussian_loss_is_the_logarithm_of_the_density(rng):
    x, t, v = rng.standard_normal(6), rng.standard_normal(6), rng.uniform(0.5, 2.0, 6)
    density = np.exp(-((x - t) ** 2) / (2 * v)) / np.sqrt(2 * math.pi * v)
    np.testing.assert_allclose(md.gaussian_nll_loss(x, t, v, full=True, reduction="none"), -np.log(density), rtol=1e-12)


def test_the_poisson_loss_is_least_where_the_rate_is_the_count():
    for log_input, at in ((True, math.log(3)), (False, 3.0)):
        _, slope = gradient(
            lambda x, k=log_input: md.poisson_nll_loss(x, md.tensor([3.0], dtype="float64"), k), np.array([at])
        )
        np.testing.assert_allclose(slope, 0.0, atol=1e-7)


def test_the_full_poisson_loss_is_near_the_logarithm_of_the_probability():
    counts = np.array([5.0, 20.0])
    exact = [3.0 - k * math.log(3.0) + math.lgamma(k + 1) for k in counts]
    found = md.poisson_nll_loss(np.full(2, math.log(3.0)), counts, full=True, reduction="none")
    np.testing.assert_allclose(found, exact, atol=1 / 50)  # Stirling leaves 1 / (12 k)


def test_a_triplet_in_order_costs_nothing():
    a, p, n = np.zeros((1, 2)), np.full((1, 2), 0.1), np.full((1, 2), 5.0)
    assert md.triplet_margin_loss(a, p, n) == 0.0
    assert md.triplet_margin_loss(a, n, p) == pytest.approx(4.9 * math.sqrt(2) + 1, rel=1e-5)


def test_a_triplet_of_equal_points_has_a_finite_slope():
    a = md.zeros(2, 3, requires_grad=True)
    md.triplet_margin_loss(a, md.zeros(2, 3), md.zeros(2, 3)).backward()
    assert np.isfinite(a.grad.numpy()).all()


def test_multi_margin_has_pytorchs_first_derivative(rng):
    torch = pytest.importorskip("torch")
    x, t, w = rng.standard_normal((5, 4)), rng.integers(0, 4, 5), rng.random(4)
    for p in (1, 2):
        theirs = torch.tensor(x, requires_grad=True)
        f = torch.nn.functional.multi_margin_loss
        f(theirs, torch.tensor(t), p=p, margin=0.7, weight=torch.tensor(w)).backward()
        _, slope = gradient(lambda u, p=p: md.multi_margin_loss(u, md.tensor(t), p, 0.7, md.tensor(w)), x)
        np.testing.assert_allclose(slope, theirs.grad.numpy(), rtol=1e-12)


# ---- classes as vectors, vectors compared ----------------------------------------------------------------------------


def test_a_row_looked_up_twice_adds_up_its_gradients_and_padding_gets_none(rng):
    w = md.tensor(rng.standard_normal((4, 2)), requires_grad=True)
    y = md.embedding(np.array([[1, 1], [3, 0]]), w, padding_idx=-1)
    np.testing.assert_array_equal(y.detach().numpy()[1, 0], w.detach().numpy()[3])
    y.backward(np.ones((2, 2, 2)))
    assert w.grad.tolist() == [[1.0, 1.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0]]


def test_an_embedding_is_the_product_with_one_hot_codes(rng):
    w, ids = rng.standard_normal((5, 3)), rng.integers(0, 5, (2, 4))
    np.testing.assert_allclose(md.embedding(ids, w), md.one_hot(ids, 5) @ w, rtol=1e-15)


def test_vectors_of_length_0_stay_0_and_have_finite_slopes():
    x = np.array([[0.0, 0.0], [3.0, 4.0]])
    value, slope = gradient(lambda t: md.normalize(t).sum(), x)
    assert value == pytest.approx(1.4, rel=1e-12)
    assert np.isfinite(slope).all()
    value, slope = gradient(lambda t: md.cosine_similarity(t, md.tensor(x[::-1].copy())).sum(), x)
    assert (value, np.isfinite(slope).all()) == (0.0, True)


def test_the_cosine_does_not_depend_on_lengths(rng):
    a, b = rng.standard_normal((2, 5, 3))
    scaled = md.cosine_similarity(a * 1e3, b * 1e-3)
    np.testing.assert_allclose(scaled, md.cosine_similarity(a, b), rtol=1e-12)
    np.testing.assert_allclose(md.cosine_similarity(a, -a), -1.0, rtol=1e-12)


def test_the_distance_of_equal_vectors_has_a_finite_slope():
    a = md.ones(2, 3, requires_grad=True)
    md.pairwise_distance(a, md.ones(2, 3)).sum().backward()
    assert np.isfinite(a.grad.numpy()).all()
