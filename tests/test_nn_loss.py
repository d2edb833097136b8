"""Losses: closed forms, reductions, and no silent broadcasting."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy

F = nn.functional
LOSSES = {
    nn.MSELoss: lambda rng: (rng.standard_normal((4, 3)), rng.standard_normal((4, 3))),
    nn.CrossEntropyLoss: lambda rng: (rng.standard_normal((4, 3)), rng.integers(0, 3, 4)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_mean_and_sum_reduce_what_none_returns(loss, rng, device):
    x, target = (md.tensor(a, device=device) for a in LOSSES[loss](rng))
    each = to_numpy(loss(reduction="none")(x, target).array)
    assert to_numpy(loss()(x, target).array) == pytest.approx(each.mean(), rel=1e-14)
    assert to_numpy(loss(reduction="sum")(x, target).array) == pytest.approx(each.sum(), rel=1e-14)
    assert each.shape in ((4, 3), (4,))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_derivatives_to_the_third_order_agree_with_differences(loss, reduction, rng):
    x, target = LOSSES[loss](rng)
    md.check_grad(loss(reduction=reduction), [x, target], order=3)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_unknown_reduction_is_refused_when_the_loss_is_made(loss):
    with pytest.raises(ValueError, match=rf"{loss.__name__}: reduction must be 'mean', 'sum' or 'none', got 'avg'"):
        loss(reduction="avg")
    with pytest.raises(TypeError):
        loss("sum")  # PyTorch has other arguments before it


@pytest.mark.parametrize("loss", LOSSES)
def test_the_text_shows_the_reduction(loss):
    assert repr(loss(reduction="sum")) == f"{loss.__name__}(reduction='sum')"


def test_squared_error_of_known_numbers(device):
    loss = nn.MSELoss()(md.tensor([1.0, 2.0, 3.0], device=device), md.tensor([1.0, 4.0, 0.0], device=device))
    assert loss.item() == pytest.approx(13 / 3)


@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (3,)), ((2,), (3,)), ((1,), ())])
def test_squared_error_never_broadcasts(shapes):
    a, b = (md.ones(s) for s in shapes)
    with pytest.raises(ValueError, match=r"mse_loss: input \(.*\) and target \(.*\) must have one shape"):
        nn.MSELoss()(a, b)


def test_squared_error_of_two_dtypes_names_both():
    with pytest.raises(TypeError, match=r"input is float32 and target float64; use target.astype\('float32'\)"):
        nn.MSELoss()(md.ones(3), np.ones(3))
    with pytest.raises(TypeError, match="target must be a Tensor or an array, got list"):
        nn.MSELoss()(md.ones(3), [1.0, 1.0, 1.0])


def test_losses_of_nothing():
    assert F.mse_loss(md.zeros(0, 2), md.zeros(0, 2), reduction="sum").item() == 0
    for empty in (
        lambda: F.mse_loss(md.zeros(0, 2), md.zeros(0, 2)),
        lambda: F.cross_entropy(md.zeros(0, 2), md.zeros(0, dtype="int64")),
    ):
        with pytest.raises(ValueError, match="at least one|empty batch"):
            empty()


def test_cross_entropy_is_minus_log_softmax_at_the_target(rng):
    x, target = md.tensor(rng.standard_normal((6, 4)) * 5), rng.integers(0, 4, 6)
    by_hand = -F.log_softmax(x, axis=1).numpy()[np.arange(6), target]
    np.testing.assert_allclose(nn.CrossEntropyLoss(reduction="none")(x, target).numpy(), by_hand, rtol=1e-12)


def test_cross_entropy_is_exact_for_logits_of_ten_thousand():
    x = md.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = nn.CrossEntropyLoss(reduction="none")(x, md.tensor([0, 0]))
    assert loss.tolist() == [0.0, 2e4]
    loss.sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_cross_entropy_names_what_is_wrong_with_the_targets():
    x, loss = md.zeros(4, 3), nn.CrossEntropyLoss()
    with pytest.raises(IndexError, match=r"targets must lie in \[0, 3\), got 3 at index 2"):
        loss(x, md.tensor([0, 1, 3, 2]))
    with pytest.raises(IndexError, match="got -1 at index 0"):
        loss(x, md.tensor([-1, 1, 0, 2]))
    with pytest.raises(TypeError, match="integer class numbers, got float32"):
        loss(x, md.zeros(4))
    with pytest.raises(ValueError, match=r"\(4, 3\).*need targets \(4,\), got \(5,\)"):
        loss(x, md.tensor([0, 1, 0, 2, 1]))


def test_on_a_gpu_a_target_out_of_range_makes_the_loss_nan_without_waiting(fake_cuda):
    x, target = md.zeros(4, 3, device="cuda"), md.tensor([0, 1, 3, 2], device="cuda")
    fake_cuda.stats.reset()
    with md.transfers(max=0):
        loss = nn.CrossEntropyLoss()(x, target)
    assert fake_cuda.stats.waits == 0
    assert np.isnan(loss.item())
    with pytest.raises(TypeError, match="cross_entropy: all arrays must be on one device"):
        nn.CrossEntropyLoss()(x, np.array([0, 1, 2, 2]))
