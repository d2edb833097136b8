"""Every hyper-parameter that is out of range is refused under the user's own name for it, and changes nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from minidl import optim
from minidl.optim import SGD, averaging, lr_scheduler, schedules
from optim_cases import leaf

HUGE = 10**400  # a Python int, too large for a float


def scheduler(kind, *given, **more):
    return lambda **bad: getattr(lr_scheduler, kind)(SGD([leaf(2)], lr=0.1, momentum=0.9), *given, **{**more, **bad})


def of(kind, *given, **more):
    return lambda **bad: kind([leaf(2)], *given, **{**more, **bad})


def parts(**bad):
    optimizer = SGD([leaf(2)], lr=0.1)
    pair = [lr_scheduler.StepLR(optimizer, 3), lr_scheduler.ExponentialLR(optimizer, 0.5)]
    return lr_scheduler.SequentialLR(optimizer, pair, **bad)


def batch(**bad):
    return optim.GradientAccumulation(SGD([leaf(2)]), 2).step(**bad)


NOT_A_NUMBER = ["x", None, True, math.nan, math.inf, HUGE]
NEGATIVE = [*NOT_A_NUMBER, -1]
NOT_POSITIVE = [*NEGATIVE, 0]
NOT_A_SHARE = [*NEGATIVE, 1.5]
NO_COUNT = [*NEGATIVE[:-2], -1, 1.5]
WRONG = [
    (of(averaging.EMA), "EMA", "decay", NOT_A_SHARE),
    (of(averaging.Polyak), "Polyak", "eta", NEGATIVE),
    (of(averaging.LAWA), "LAWA", "k", [*NO_COUNT, 0]),
    (of(averaging.SWA), "SWA", "start", NO_COUNT),
    (of(averaging.SWA), "SWA", "every", [*NO_COUNT, 0]),
    (averaging.get_ema_avg_fn, "get_ema_avg_fn", "decay", NOT_A_SHARE),
    (of(optim.decay_groups), "decay_groups", "weight_decay", NEGATIVE),
    (batch, r"GradientAccumulation\.step", "samples", NOT_POSITIVE),
    (of(SGD), "SGD", "lr", NEGATIVE),
    (of(optim.AdaBound), "AdaBound", "gamma", NOT_POSITIVE),
    (scheduler("StepLR"), "StepLR", "step_size", NOT_POSITIVE),
    (scheduler("StepLR", 3), "StepLR", "gamma", NEGATIVE),
    (scheduler("MultiStepLR"), "MultiStepLR", "milestones", [5, "12", None, [-3], ["a"], [1.5], [True]]),
    (scheduler("MultiStepLR", [1]), "MultiStepLR", "gamma", NEGATIVE),
    (scheduler("ConstantLR"), "ConstantLR", "factor", NOT_A_SHARE),
    (scheduler("ConstantLR"), "ConstantLR", "total_iters", [*NO_COUNT, 0]),
    (scheduler("LinearLR"), "LinearLR", "start_factor", [*NOT_A_SHARE, 0]),
    (scheduler("LinearLR"), "LinearLR", "end_factor", NOT_A_SHARE),
    (scheduler("LinearLR"), "LinearLR", "total_iters", [*NO_COUNT, 0]),
    (scheduler("ExponentialLR"), "ExponentialLR", "gamma", NEGATIVE),
    (scheduler("PolynomialLR"), "PolynomialLR", "total_iters", NOT_POSITIVE),
    (scheduler("PolynomialLR"), "PolynomialLR", "power", NOT_POSITIVE),
    (scheduler("CosineAnnealingLR"), "CosineAnnealingLR", "T_max", NOT_POSITIVE),
    (scheduler("CosineAnnealingLR", 5), "CosineAnnealingLR", "eta_min", NEGATIVE),
    (scheduler("CosineAnnealingWarmRestarts"), "CosineAnnealingWarmRestarts", "T_0", [*NO_COUNT, 0]),
    (scheduler("CosineAnnealingWarmRestarts", 5), "CosineAnnealingWarmRestarts", "T_mult", [*NO_COUNT, 0]),
    (scheduler("CosineAnnealingWarmRestarts", 5), "CosineAnnealingWarmRestarts", "eta_min", NEGATIVE),
    (scheduler("SWALR"), "SWALR", "swa_lr", NEGATIVE),
    (scheduler("SWALR", 0.1), "SWALR", "anneal_epochs", NO_COUNT),
    (scheduler("SWALR", 0.1), "SWALR", "anneal_strategy", ["x", None, 1]),
    (scheduler("CyclicLR", max_lr=1.0), "CyclicLR", "base_lr", NEGATIVE),
    (scheduler("CyclicLR", 0.1), "CyclicLR", "max_lr", NEGATIVE),
    (scheduler("CyclicLR", 0.1, 1.0), "CyclicLR", "step_size_up", NOT_POSITIVE),
    (scheduler("CyclicLR", 0.1, 1.0), "CyclicLR", "step_size_down", [x for x in NOT_POSITIVE if x is not None]),
    (scheduler("CyclicLR", 0.1, 1.0), "CyclicLR", "gamma", NEGATIVE),
    (scheduler("CyclicLR", 0.1, 1.0), "CyclicLR", "scale_fn", [1, "x"]),
    (scheduler("CyclicLR", 0.1, 1.0), "CyclicLR", "base_momentum", [*NEGATIVE, 1.0]),
    (scheduler("CyclicLR", 0.1, 1.0), "CyclicLR", "max_momentum", [*NEGATIVE, 1.0]),
    (scheduler("OneCycleLR", total_steps=9), "OneCycleLR", "max_lr", NEGATIVE),
    (scheduler("OneCycleLR", 0.1), "OneCycleLR", "total_steps", [x for x in [*NO_COUNT, 0] if x is not None]),
    (scheduler("OneCycleLR", 0.1, steps_per_epoch=-5), "OneCycleLR", "epochs", [-1, "x", 1.5, True]),
    (scheduler("OneCycleLR", 0.1, epochs=2), "OneCycleLR", "steps_per_epoch", [-1, "x", 1.5, True]),
    (scheduler("OneCycleLR", 0.1, 9), "OneCycleLR", "pct_start", NOT_A_SHARE),
    (scheduler("OneCycleLR", 0.1, 9, three_phase=True), "OneCycleLR", "pct_start", [0.6]),
    (scheduler("OneCycleLR", 0.1, 9), "OneCycleLR", "three_phase", [1, None]),
    (scheduler("OneCycleLR", 0.1, 9), "OneCycleLR", "anneal_strategy", ["x", None]),
    (scheduler("OneCycleLR", 0.1, 9), "OneCycleLR", "base_momentum", [*NOT_POSITIVE, 1.0]),
    (scheduler("OneCycleLR", 0.1, 9), "OneCycleLR", "max_momentum", [*NOT_POSITIVE, 1.0]),
    (scheduler("OneCycleLR", 0.1, 9), "OneCycleLR", "div_factor", NOT_POSITIVE),
    (scheduler("OneCycleLR", 0.1, 9), "OneCycleLR", "final_div_factor", NOT_POSITIVE),
    (scheduler("ReduceLROnPlateau"), "ReduceLROnPlateau", "factor", [*NOT_A_SHARE, 1.0]),
    (scheduler("ReduceLROnPlateau"), "ReduceLROnPlateau", "patience", NO_COUNT),
    (scheduler("ReduceLROnPlateau"), "ReduceLROnPlateau", "cooldown", NO_COUNT),
    (scheduler("ReduceLROnPlateau"), "ReduceLROnPlateau", "threshold", NEGATIVE),
    (scheduler("ReduceLROnPlateau"), "ReduceLROnPlateau", "eps", NEGATIVE),
    (scheduler("ReduceLROnPlateau"), "ReduceLROnPlateau", "min_lr", NEGATIVE),
    (scheduler("GreedyLR"), "GreedyLR", "max_lr", NEGATIVE),
    (scheduler("GreedyLR"), "GreedyLR", "factor", [*NOT_A_SHARE, 0]),
    (scheduler("GreedyLR"), "GreedyLR", "smooth", [1, "x"]),
    (parts, "SequentialLR", "milestones", [["a"], [-2], [1.5], 3, None]),
]
CASES = [(make, who, name, value) for make, who, name, values in WRONG for value in values]


@pytest.mark.parametrize(
    ("make", "who", "name", "value"), CASES, ids=[f"{who}-{name}-{str(value)[:9]}" for _, who, name, value in CASES]
)
def test_a_bad_setting_is_named_as_the_user_named_it(make, who, name, value):
    with pytest.raises(ValueError, match=rf"^{who}: {name} must be .*, got {name}=") as error:
        make(**{name: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", NEGATIVE)
def test_one_bad_value_in_a_list_for_the_groups_is_named(value):
    optimizer = SGD([{"params": [leaf(2)]}, {"params": [leaf(3)]}], lr=0.1, momentum=0.9)
    for make in (
        lambda x: lr_scheduler.SWALR(optimizer, x),
        lambda x: lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=x),
        lambda x: lr_scheduler.OneCycleLR(optimizer, x, 9),
    ):
        with pytest.raises(ValueError, match="_lr must be a finite number >= 0, got "):
            make([0.1, value])


def test_a_schedule_with_negative_milestones_or_a_huge_number_is_refused():
    with pytest.raises(ValueError, match=r"MultiStep: milestones must be steps >= 0, got milestones=\(-3,\)"):
        schedules.MultiStep(0.1, (-3,))
    with pytest.raises(ValueError, match="Linear: steps must be a finite number > 0, got steps=1000"):
        schedules.Linear(0.1, steps=HUGE)


LINE = schedules.Linear(0.1, steps=4)


@pytest.mark.parametrize("value", ["x", None, 1, math.nan])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda x: schedules.Exponential(0.1, 0.5, staircase=x), "staircase"),
        (lambda x: schedules.InverseTime(0.1, staircase=x), "staircase"),
        (lambda x: schedules.InverseSqrt(0.1, 4, zero_first=x), "zero_first"),
        (lambda x: schedules.Polynomial(0.1, 4, cycle=x), "cycle"),
        (lambda x: schedules.OneCycle(0.1, 9, three_phase=x), "three_phase"),
        (lambda x: schedules.Warmup(LINE, 4, zero_first=x), "zero_first"),
        (lambda x: schedules.Warmup(LINE, 4, delay=x), "delay"),
        (lambda x: schedules.Join(x, ()), "schedules"),
        (lambda x: schedules.Product(x), "factors"),
        (lambda x: schedules.Sum(x), "parts"),
        (lambda x: schedules.Several(x), "parts"),
    ],
)
def test_a_schedule_names_a_flag_or_a_sequence_that_is_none(make, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be (True or False|a sequence), got {name}="):
        make(value)


def test_numbers_of_numpy_are_taken_and_saved_as_plain_ones():
    optimizer = SGD([leaf(2)], lr=0.1)
    steps = [lr_scheduler.StepLR(optimizer, np.int64(3), np.float32(0.5)),
             lr_scheduler.MultiStepLR(optimizer, np.array([3, 1])),
             lr_scheduler.MultiStepLR(optimizer, range(3))]  # fmt: skip
    assert json.loads(json.dumps([s.state_dict()["settings"] for s in steps])) == [
        {"step_size": 3, "gamma": 0.5}, {"milestones": [1, 3], "gamma": 0.1}, {"milestones": [0, 1, 2], "gamma": 0.1},
    ]  # fmt: skip


def test_options_that_do_not_go_together_are_refused_before_the_next_step_moves_anything():
    w = leaf(2)
    optimizer = SGD([w], lr=0.1)
    w.grad = np.ones(2)
    group = optimizer.param_groups[0]
    group["nesterov"] = True
    for _ in range(2):
        with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening = 0, got nesterov=True"):
            optimizer.step()
    assert (w.tolist(), optimizer.steps) == ([1.0, 1.0], 0)
    group["momentum"] = 0.5  # in whatever order they are written
    optimizer.step()
    np.testing.assert_allclose(w.data, 0.85)


# ---- schedulers within schedulers ------------------------------------------------------------------------------------


def linear(library, o):
    return library.LinearLR(o, 0.5, total_iters=2)


NESTED = {  # by hand, from lr = 1: what each of them gives, counting its own steps from 0
    "a sequence first in a sequence": (
        lambda s, o: s.SequentialLR(
            o, [s.SequentialLR(o, [linear(s, o), s.ExponentialLR(o, 0.9)], [2]), s.StepLR(o, 2, 0.5)], [4]
        ),
        [0.5, 0.75, 1.0, 0.9, 1.0, 1.0, 0.5],
    ),
    "a sequence last in a sequence": (
        lambda s, o: s.SequentialLR(
            o, [linear(s, o), s.SequentialLR(o, [s.ExponentialLR(o, 0.9), s.StepLR(o, 2, 0.5)], [2])], [2]
        ),
        [0.5, 0.75, 1.0, 0.9, 1.0, 1.0, 0.5],
    ),
    "a chain first in a sequence": (
        lambda s, o: s.SequentialLR(
            o, [s.ChainedScheduler([s.ExponentialLR(o, 0.9), s.StepLR(o, 2, 0.5)]), s.ExponentialLR(o, 0.5)], [3]
        ),
        [1.0, 0.9, 0.405, 1.0, 0.5, 0.25],
    ),
    "a chain last in a sequence": (
        lambda s, o: s.SequentialLR(
            o, [s.ExponentialLR(o, 0.5), s.ChainedScheduler([s.ExponentialLR(o, 0.9), s.StepLR(o, 2, 0.5)])], [3]
        ),
        [1.0, 0.5, 0.25, 1.0, 0.9, 0.405],
    ),
    "a sequence in a chain": (
        lambda s, o: s.ChainedScheduler(
            [s.SequentialLR(o, [linear(s, o), s.ExponentialLR(o, 0.9)], [2]), s.StepLR(o, 2, 0.5)]
        ),
        [0.5, 0.75, 0.5, 0.45, 0.2025],
    ),
    "a chain in a chain": (
        lambda s, o: s.ChainedScheduler(
            [s.ChainedScheduler([s.ExponentialLR(o, 0.9), s.StepLR(o, 2, 0.5)]), s.ExponentialLR(o, 0.5)]
        ),
        [1.0, 0.45, 0.10125],
    ),
}


def lrs_of(library, optimizer, make, count):
    scheduler = make(library, optimizer)
    lrs = [optimizer.param_groups[0]["lr"]]
    for _ in range(count - 1):
        optimizer.step()
        scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


@pytest.mark.parametrize("name", NESTED)
def test_schedulers_within_schedulers_count_their_own_steps_from_0(name):
    make, want = NESTED[name]
    np.testing.assert_allclose(lrs_of(lr_scheduler, SGD([leaf(2)], lr=1.0), make, len(want)), want, rtol=1e-14)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NESTED)
def test_within_a_chain_they_are_pytorchs_and_within_a_sequence_pytorch_is_wrong_or_raises(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
    make, want = NESTED[name]
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if name.endswith("in a chain"):
        np.testing.assert_allclose(lrs_of(torch.optim.lr_scheduler, theirs, make, len(want)), want, rtol=1e-14)
    elif name.endswith("last in a sequence"):
        with pytest.raises(NotImplementedError):
            lrs_of(torch.optim.lr_scheduler, theirs, make, len(want))
    else:  # it has taken its first step before training has
        found = lrs_of(torch.optim.lr_scheduler, theirs, make, 2)
        assert found == pytest.approx({"a sequence first in a sequence": [0.5, 1.0]}.get(name, [0.9, 0.81]))
