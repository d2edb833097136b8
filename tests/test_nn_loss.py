"""Losses: closed forms, reductions, and no silent broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.engine.backend import to_numpy
from minidl.testing import modules as truths

F = nn.functional


class Case(NamedTuple):
    kind: str
    data: Callable[[np.random.Generator], tuple]
    options: Mapping[str, Any] = {}
    weighted: bool = False  # the mean is not that of what reduction="none" gives

    def make(self, reduction="mean"):
        return getattr(nn, self.kind)(reduction=reduction, **self.options).double()

    def __str__(self):
        return self.kind + "".join(f" {name}={value}" for name, value in self.options.items())


def normal(*shape, count=2):
    return lambda rng: tuple(rng.standard_normal(shape) for _ in range(count))


def classes(*shape, c=3):
    """Scores of c classes, and targets of shape."""
    return lambda rng: (rng.standard_normal((*shape[:1], c, *shape[1:])), rng.integers(0, c, shape))


def probabilities(*shape):
    return lambda rng: (rng.uniform(0.4, 0.6, shape), rng.uniform(0, 1, shape))


def divergence(rng, log=False):
    p, q = (rng.dirichlet(np.full(3, 30.0), 4) for _ in range(2))
    return np.log(p), np.log(q) if log else q


def signs(rng):
    return rng.choice([-1.0, 1.0], 6)


W = (0.5, 2.0, 1.0)
CASES = [
    Case("CrossEntropyLoss", classes(4)),
    Case("CrossEntropyLoss", classes()),
    Case("CrossEntropyLoss", classes(2, 4)),
    Case("CrossEntropyLoss", classes(5), {"weight": W}, weighted=True),
    Case("CrossEntropyLoss", classes(5), {"ignore_index": 1}, weighted=True),
    Case("CrossEntropyLoss", classes(5, 2), {"weight": W, "ignore_index": 0, "label_smoothing": 0.3}, weighted=True),
    Case("CrossEntropyLoss", lambda rng: (rng.standard_normal((4, 3)), rng.dirichlet(np.ones(3), 4)), weighted=True),
    Case("CrossEntropyLoss", lambda rng: (rng.standard_normal((4, 3)), rng.dirichlet(np.ones(3), 4)),
         {"weight": W, "label_smoothing": 0.3}, weighted=True),
    Case("NLLLoss", classes(4)),
    Case("NLLLoss", classes(4, 2), {"weight": W, "ignore_index": 2}, weighted=True),
    Case("MSELoss", normal(4, 3)),
    Case("L1Loss", normal(4, 3)),
    Case("SmoothL1Loss", normal(4, 3)),
    Case("SmoothL1Loss", normal(4, 3), {"beta": 0.3}),
    Case("SmoothL1Loss", normal(4, 3), {"beta": 0.0}),
    Case("HuberLoss", normal(4, 3)),
    Case("HuberLoss", normal(4, 3), {"delta": 0.6}),
    Case("BCELoss", probabilities(4, 3)),
    Case("BCELoss", probabilities(4, 3), {"weight": W}),
    Case("BCEWithLogitsLoss", probabilities(4, 3)),
    Case("BCEWithLogitsLoss", probabilities(4, 3), {"weight": W, "pos_weight": (3.0, 1.0, 0.5)}),
    Case("KLDivLoss", divergence),
    Case("KLDivLoss", lambda rng: divergence(rng, log=True), {"log_target": True}),
    Case("HingeEmbeddingLoss", lambda rng: (rng.standard_normal(6), signs(rng))),
    Case("HingeEmbeddingLoss", lambda rng: (rng.standard_normal(6), signs(rng)), {"margin": 0.3}),
    Case("MarginRankingLoss", lambda rng: (*rng.standard_normal((2, 6)), signs(rng)), {"margin": 0.5}),
    Case("TripletMarginLoss", normal(4, 3, count=3)),
    Case("TripletMarginLoss", normal(4, 3, count=3), {"margin": 2.0, "p": 3.0, "swap": True, "eps": 1e-3}),
    Case("CosineEmbeddingLoss", lambda rng: (*rng.standard_normal((2, 6, 3)), signs(rng)), {"margin": 0.2}),
    Case("MultiMarginLoss", classes(4)),
    Case("MultiMarginLoss", classes(4), {"p": 2, "margin": 0.7, "weight": W}),
    Case("PoissonNLLLoss", lambda rng: (rng.standard_normal(6), rng.integers(0, 5, 6) + 0.0)),
    Case("PoissonNLLLoss", lambda rng: (rng.uniform(0.5, 2, 6), rng.choice([0.0, 2.0, 3.0, 5.0], 6)),
         {"log_input": False, "full": True, "eps": 1e-3}),
    Case("GaussianNLLLoss", lambda rng: (*rng.standard_normal((2, 6)), rng.uniform(0.5, 2, 6))),
    Case("GaussianNLLLoss", lambda rng: (*rng.standard_normal((2, 6)), rng.uniform(0.5, 2, 6)), {"full": True}),
]  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_loss = pytest.mark.parametrize("kind", sorted({case.kind for case in CASES}))


# ---- every loss --------------------------------------------------------------------------------------------------


def test_every_loss_is_in_the_table():
    assert {name for name in nn.__all__ if name.endswith("Loss")} == {case.kind for case in CASES}


@each_case
def test_mean_and_sum_reduce_what_none_returns(case, rng, device):
    xs = [md.tensor(a, device=device) for a in case.data(rng)]
    each = to_numpy(case.make("none").to(device)(*xs).array)
    mean, total = (to_numpy(case.make(reduction).to(device)(*xs).array) for reduction in ("mean", "sum"))
    assert total == pytest.approx(each.sum(), rel=1e-13)
    assert case.weighted or mean == pytest.approx(each.mean(), rel=1e-13)
    assert each.ndim <= xs[0].ndim


@each_case
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_derivatives_to_the_third_order_agree_with_differences(case, reduction, rng):
    xs = case.data(rng)
    loss = case.make(reduction)
    md.check_grad(loss, xs, order=3)


@each_case
def test_a_loss_passes_the_battery_of_modules(case, rng):
    for truth in truths.TRUTHS[1:]:
        if truth is not truths.check_float32:  # whose cast takes probabilities above 1
            truth(case.make(), list(case.data(rng)))


@each_case
def test_float32_stays_float32(case, rng):
    xs = [md.tensor(a.astype("float32") if a.dtype.kind == "f" else a) for a in case.data(rng)]
    xs[0].requires_grad = True
    loss = case.make("mean").float()(*xs)
    loss.backward()
    assert loss.dtype == xs[0].grad.dtype == np.float32


@each_loss
def test_an_unknown_reduction_is_refused_when_the_loss_is_made(kind):
    with pytest.raises(ValueError, match=rf"{kind}: reduction must be 'mean', 'sum'.* or 'none', got 'avg'"):
        getattr(nn, kind)(reduction="avg")
    if kind not in ("HuberLoss", "PoissonNLLLoss"):
        with pytest.raises((TypeError, ValueError)):
            getattr(nn, kind)("sum")  # PyTorch has other arguments before it


@each_loss
def test_the_text_shows_the_settings_that_are_not_usual(kind):
    assert repr(getattr(nn, kind)(reduction="sum")) == f"{kind}(reduction='sum')"
    assert repr(getattr(nn, kind)()) == f"{kind}()"


@pytest.mark.parametrize("kind", ["MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss",
                                  "KLDivLoss", "HingeEmbeddingLoss", "PoissonNLLLoss"])  # fmt: skip
def test_no_loss_broadcasts_or_mixes_dtypes(kind):
    loss = getattr(nn, kind)()
    with pytest.raises(ValueError, match=r"\(4, 1\) and target \(4,\) must have one shape"):
        loss(md.zeros(4, 1), md.zeros(4))
    with pytest.raises(TypeError, match="float32 and target is float64"):
        loss(md.zeros(4), md.zeros(4, dtype="float64"))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.HuberLoss(delta=0.0), "HuberLoss: delta must be > 0, got 0.0"),
        (lambda: nn.SmoothL1Loss(beta=-1.0), "SmoothL1Loss: beta must be a finite number >= 0, got beta=-1.0"),
        (lambda: nn.CrossEntropyLoss(label_smoothing=1.5), r"label_smoothing must be .* in \[0, 1\], got .*1.5"),
        (lambda: nn.MultiMarginLoss(p=3), "MultiMarginLoss: p must be 1 or 2, got 3"),
        (lambda: nn.CosineEmbeddingLoss(np.nan), "CosineEmbeddingLoss: margin must be a finite number, got margin=nan"),
        (lambda: nn.KLDivLoss(reduction="avg"), "'mean', 'sum', 'batchmean' or 'none', got 'avg'"),
    ],
)
def test_settings_out_of_range_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_weights_are_buffers_and_checked():
    loss = nn.BCEWithLogitsLoss([1.0, 2.0], pos_weight=md.tensor([3.0, 4.0]))
    assert {name: t.tolist() for name, t in loss.state_dict().items()} == {
        "weight": [1.0, 2.0], "pos_weight": [3.0, 4.0],
    }  # fmt: skip
    assert loss.double().pos_weight.dtype == np.float64
    assert nn.NLLLoss().state_dict() == {}
    with pytest.raises(TypeError, match="CrossEntropyLoss: weight must be floating, got int64"):
        nn.CrossEntropyLoss(weight=[1, 2, 3])
    for kind, target in (("CrossEntropyLoss", [0, 1]), ("NLLLoss", [0, 1]), ("MultiMarginLoss", [0, 1]),
                         ("BCELoss", np.zeros((2, 2), "f")), ("BCEWithLogitsLoss", np.zeros((2, 2), "f"))):  # fmt: skip
        with pytest.raises(TypeError, match="float32 and weight is float64"):
            getattr(nn, kind)(weight=np.ones(2))(md.zeros(2, 2), md.tensor(target))
    with pytest.raises(ValueError, match=r"weight \(2,\) must broadcast to the input's shape \(2, 1\)"):
        nn.BCEWithLogitsLoss(pos_weight=[1.0, 2.0])(md.zeros(2, 1), md.zeros(2, 1))
    with pytest.raises(ValueError, match=r"cross_entropy: weight must be \(3,\), one for each class, got \(2,\)"):
        nn.CrossEntropyLoss(weight=[1.0, 2.0])(md.zeros(4, 3), md.tensor([0, 1, 2, 0]))


# ---- one by one --------------------------------------------------------------------------------------------------


def test_binary_cross_entropy_of_logits_is_exact_far_out():
    x = md.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    loss = nn.BCEWithLogitsLoss(reduction="none")(x, md.tensor([0.0, 1.0, 1.0, 0.0]))
    assert loss.tolist() == [0.0, 0.0, 1e4, 1e4]
    loss.sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, -1.0, 1.0]


def test_probabilities_outside_of_zero_to_one_are_refused():
    for wrong in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"binary_cross_entropy: input must be in \[0, 1\], got"):
            nn.BCELoss()(md.tensor([0.5, wrong]), md.tensor([1.0, 0.0]))


def test_the_divergence_of_two_distributions_is_the_batch_mean(rng):
    log_p, q = divergence(rng)
    expected = (q * (np.log(q) - log_p)).sum(1).mean()
    assert nn.KLDivLoss(reduction="batchmean")(md.tensor(log_p), md.tensor(q)).item() == pytest.approx(expected)


def test_ignoring_every_target_gives_zero_and_zero_gradients():
    x = md.tensor(np.eye(3), requires_grad=True)
    loss = nn.CrossEntropyLoss(ignore_index=-100)(x, md.tensor([-100, -100, -100]))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.numpy().any()


def test_a_target_of_minus_100_is_not_ignored_unasked():
    with pytest.raises(IndexError, match="got -100 at index 1"):
        nn.CrossEntropyLoss()(md.zeros(2, 3), md.tensor([0, -100]))


def test_smoothed_targets_are_the_probabilities_they_stand_for(rng):
    x, target = md.tensor(rng.standard_normal((5, 4))), rng.integers(0, 4, 5)
    q = 0.7 * np.eye(4)[target] + 0.3 / 4
    a = nn.CrossEntropyLoss(label_smoothing=0.3)(x, md.tensor(target))
    assert a.item() == pytest.approx(nn.CrossEntropyLoss()(x, md.tensor(q)).item(), rel=1e-13)


def test_the_weighted_mean_of_one_class_is_the_unweighted_one(rng):
    x, target = md.tensor(rng.standard_normal((5, 3))), md.tensor([1, 1, 1, 1, 1])
    weighted = nn.CrossEntropyLoss(weight=[9.0, 0.1, 9.0]).double()(x, target).item()
    assert weighted == pytest.approx(nn.CrossEntropyLoss()(x, target).item(), rel=1e-13)


def test_squared_error_of_known_numbers(device):
    loss = nn.MSELoss()(md.tensor([1.0, 2.0, 3.0], device=device), md.tensor([1.0, 4.0, 0.0], device=device))
    assert loss.item() == pytest.approx(13 / 3)


@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (3,)), ((2,), (3,)), ((1,), ())])
def test_squared_error_never_broadcasts(shapes):
    a, b = (md.ones(s) for s in shapes)
    with pytest.raises(ValueError, match=r"mse_loss: input \(.*\) and target \(.*\) must have one shape"):
        nn.MSELoss()(a, b)


def test_squared_error_of_two_dtypes_names_both():
    with pytest.raises(
        TypeError, match=r"input is float32 and target is float64; convert one with .astype\('float32'\)"
    ):
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
