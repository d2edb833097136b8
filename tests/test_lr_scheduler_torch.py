"""Bound schedules and averages have PyTorch's values at every step, past the end too."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import minidl as md
from minidl.optim import lr_scheduler

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with", exc_type=ImportError)

STEPS = 61


def power(t):
    return 0.9**t


def slow(t):
    return 1 / (1 + 0.1 * t)


def one_minus(t):
    return 1 - 0.5 / (t + 1)


# (name, make(names, optimizer)): `names` has PyTorch's classes, or ours.
CASES = {
    "lambda": lambda n, o: n.LambdaLR(o, power),
    "lambda per group": lambda n, o: n.LambdaLR(o, [power, slow]),
    "multiplicative": lambda n, o: n.MultiplicativeLR(o, one_minus),
    "multiplicative per group": lambda n, o: n.MultiplicativeLR(o, [one_minus, slow]),
    "step": lambda n, o: n.StepLR(o, 7),
    "step gamma": lambda n, o: n.StepLR(o, 3, gamma=0.5),
    "multistep": lambda n, o: n.MultiStepLR(o, [5, 12, 12, 30]),
    "multistep gamma": lambda n, o: n.MultiStepLR(o, [1, 2], gamma=0.7),
    "constant": lambda n, o: n.ConstantLR(o),
    "constant long": lambda n, o: n.ConstantLR(o, factor=0.5, total_iters=20),
    "linear": lambda n, o: n.LinearLR(o),
    "linear down": lambda n, o: n.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=30),
    "linear to 0": lambda n, o: n.LinearLR(o, start_factor=0.5, end_factor=0.0, total_iters=30),
    "exponential": lambda n, o: n.ExponentialLR(o, 0.9),
    "polynomial": lambda n, o: n.PolynomialLR(o),
    "polynomial power": lambda n, o: n.PolynomialLR(o, total_iters=40, power=2.5),
    "cosine": lambda n, o: n.CosineAnnealingLR(o, 10),
    "cosine eta_min": lambda n, o: n.CosineAnnealingLR(o, 17, eta_min=0.01),
    "cosine above": lambda n, o: n.CosineAnnealingLR(o, 17, eta_min=0.5),
    "restarts": lambda n, o: n.CosineAnnealingWarmRestarts(o, 7),
    "restarts mult": lambda n, o: n.CosineAnnealingWarmRestarts(o, 5, T_mult=2, eta_min=0.001),
    "restarts thrice": lambda n, o: n.CosineAnnealingWarmRestarts(o, 1, T_mult=3),
    "cyclic": lambda n, o: n.CyclicLR(o, 0.01, 0.3, step_size_up=5),
    "cyclic asymmetric": lambda n, o: n.CyclicLR(o, [0.01, 0.02], [0.3, 0.1], 5, 8, mode="triangular2"),
    "cyclic exp": lambda n, o: n.CyclicLR(o, 0.01, 0.3, 7, 3, mode="exp_range", gamma=0.97),
    "cyclic scale_fn": lambda n, o: n.CyclicLR(o, 0.01, 0.3, 5, scale_fn=slow),
    "cyclic scale_fn iterations": lambda n, o: n.CyclicLR(o, 0.01, 0.3, 5, scale_fn=slow, scale_mode="iterations"),
    "cyclic momenta": lambda n, o: n.CyclicLR(o, 0.01, 0.3, 5, base_momentum=[0.5, 0.6], max_momentum=[0.9, 0.8]),
    "cyclic without momentum": lambda n, o: n.CyclicLR(o, 0.01, 0.3, 5, cycle_momentum=False),
    "one-cycle": lambda n, o: n.OneCycleLR(o, 0.3, total_steps=STEPS - 1),
    "one-cycle per group": lambda n, o: n.OneCycleLR(o, [0.3, 0.1], epochs=6, steps_per_epoch=10),
    "one-cycle linear": lambda n, o: n.OneCycleLR(
        o, 0.3, total_steps=60, pct_start=0.25, anneal_strategy="linear", div_factor=10.0, final_div_factor=100.0
    ),
    "one-cycle three phases": lambda n, o: n.OneCycleLR(o, 0.3, total_steps=60, pct_start=0.4, three_phase=True),
    "one-cycle linear three phases": lambda n, o: n.OneCycleLR(
        o, 0.3, total_steps=60, anneal_strategy="linear", three_phase=True, base_momentum=0.8, max_momentum=0.9
    ),
    "one-cycle without momentum": lambda n, o: n.OneCycleLR(o, 0.3, total_steps=60, cycle_momentum=False),
    "one-cycle from 0": lambda n, o: n.OneCycleLR(o, 0.3, total_steps=60, pct_start=0.0),
    "swalr": lambda n, o: n.SWALR(o, 0.05),
    "swalr linear": lambda n, o: n.SWALR(o, [0.05, 0.5], anneal_epochs=20, anneal_strategy="linear"),
    "swalr at once": lambda n, o: n.SWALR(o, 0.05, anneal_epochs=0),
    "warm-up, then cosine": lambda n, o: n.SequentialLR(
        o, [n.LinearLR(o, 0.1, total_iters=5), n.CosineAnnealingLR(o, 10)], milestones=[5]
    ),
    "three in sequence": lambda n, o: n.SequentialLR(
        o,
        [n.ConstantLR(o, 0.1, total_iters=40), n.ExponentialLR(o, 0.9), n.StepLR(o, 4, 0.5)],
        milestones=[8, 20],
    ),
    "sequence of restarts": lambda n, o: n.SequentialLR(
        o, [n.PolynomialLR(o, 10), n.CosineAnnealingWarmRestarts(o, 4, 2), n.LambdaLR(o, power)], milestones=[6, 30]
    ),
    "sequence from its second": lambda n, o: n.SequentialLR(
        o, [n.LinearLR(o), n.MultiStepLR(o, [3, 9], 0.5)], milestones=[0]
    ),
    "sequence ending in linear": lambda n, o: n.SequentialLR(
        o, [n.ExponentialLR(o, 0.9), n.LinearLR(o, 0.5, total_iters=20)], milestones=[10]
    ),
    "sequence with a cyclic one": lambda n, o: n.SequentialLR(
        o, [n.LinearLR(o, 0.1, total_iters=4), n.CyclicLR(o, 0.01, 0.2, 3), n.ExponentialLR(o, 0.9)], milestones=[4, 15]
    ),
    "sequence that begins with a cyclic one": lambda n, o: n.SequentialLR(
        o, [n.CyclicLR(o, 0.01, 0.2, 3), n.ExponentialLR(o, 0.9)], milestones=[15]
    ),
    "sequence that goes on by factors": lambda n, o: n.SequentialLR(
        o, [n.LinearLR(o, 0.1, total_iters=8), n.MultiplicativeLR(o, [one_minus, slow])], milestones=[5]
    ),
    "sequence of factors": lambda n, o: n.SequentialLR(
        o,
        [n.MultiplicativeLR(o, slow), n.MultiplicativeLR(o, one_minus), n.ExponentialLR(o, 0.9)],
        milestones=[4, 12],
    ),
    "sequence with factors between": lambda n, o: n.SequentialLR(
        o,
        [n.CosineAnnealingWarmRestarts(o, 7), n.MultiplicativeLR(o, one_minus), n.CyclicLR(o, 0.01, 0.2, 3)],
        milestones=[10, 20],
    ),
    "sequence of factors from its second": lambda n, o: n.SequentialLR(
        o, [n.LinearLR(o), n.MultiplicativeLR(o, one_minus), n.MultiplicativeLR(o, slow)], milestones=[0, 9]
    ),
    "chain with a sequence that goes on by factors": lambda n, o: n.ChainedScheduler(
        [
            n.SequentialLR(o, [n.LinearLR(o, 0.1, total_iters=5), n.MultiplicativeLR(o, one_minus)], milestones=[5]),
            n.StepLR(o, 7, 0.5),
        ]
    ),
    "sequence with a one-cycle": lambda n, o: n.SequentialLR(
        o, [n.LinearLR(o, 0.1, total_iters=4), n.OneCycleLR(o, 0.2, 20), n.StepLR(o, 9)], milestones=[4, 20]
    ),
    "chain of factors": lambda n, o: n.ChainedScheduler(
        [n.ConstantLR(o, 0.1, total_iters=4), n.ExponentialLR(o, 0.9), n.StepLR(o, 7, 0.5)]
    ),
    "chain of lines": lambda n, o: n.ChainedScheduler(
        [n.LinearLR(o, 0.2, total_iters=9), n.PolynomialLR(o, 30), n.MultiplicativeLR(o, one_minus)]
    ),
    "chain with cosine": lambda n, o: n.ChainedScheduler([n.CosineAnnealingLR(o, 9, 0.01), n.ExponentialLR(o, 0.97)]),
    "chain with lambda": lambda n, o: n.ChainedScheduler([n.LambdaLR(o, slow), n.ExponentialLR(o, 0.97)]),
    "chain with restarts": lambda n, o: n.ChainedScheduler(
        [n.CosineAnnealingWarmRestarts(o, 5), n.MultiStepLR(o, [3, 8], 0.5)]
    ),
    "chain with a sequence": lambda n, o: n.ChainedScheduler(
        [
            n.SequentialLR(o, [n.LinearLR(o, 0.1, total_iters=5), n.ExponentialLR(o, 0.9)], milestones=[5]),
            n.StepLR(o, 7, 0.5),
        ]
    ),
    "chain of one": lambda n, o: n.ChainedScheduler([n.StepLR(o, 7)]),
}
CYCLING = [name for name in CASES if name.startswith(("cyclic", "one-cycle"))]


class Torch:
    """PyTorch's classes, those of swa_utils with the others."""

    def __getattr__(self, name):
        return torch.optim.swa_utils.SWALR if name == "SWALR" else getattr(torch.optim.lr_scheduler, name)


def our_optimizer(kind="SGD"):
    params = [md.Parameter(np.zeros(2)), md.Parameter(np.zeros(3))]
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(md.optim, kind)([{"params": params[0]}, {"params": params[1], "lr": 0.03}], lr=0.1, **options)


def their_optimizer(kind="SGD"):
    params = [torch.nn.Parameter(torch.zeros(n)) for n in (2, 3)]
    options = {"momentum": 0.9} if kind == "SGD" else {}
    groups = [{"params": params[0]}, {"params": params[1], "lr": 0.03}]
    return getattr(torch.optim, kind)(groups, lr=0.1, **options)


def told(optimizer):
    """Return lr and momentum or betas of all groups."""
    rows = [(g["lr"], *([g["momentum"]] if "momentum" in g else g["betas"])) for g in optimizer.param_groups]
    return [float(x) for row in rows for x in row]


def trace(names, optimizer, make, steps=STEPS):
    scheduler = make(names, optimizer)
    rows = [[*told(optimizer), *scheduler.get_last_lr()]]
    for _ in range(steps - 1):
        scheduler.step()
        rows.append([*told(optimizer), *scheduler.get_last_lr()])
    return np.array(rows, dtype=float)


def quiet_trace(optimizer, make, steps=STEPS):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch complains that optimizer.step() was not called
        return trace(Torch(), optimizer, make, steps)


def without_negative(theirs):
    """The linear one-cycle of PyTorch has a negative lr after its end: ours stays where it is."""
    theirs[-1] = np.where(theirs[-1] < 0, theirs[-2], theirs[-1])
    return theirs


def test_every_bound_schedule_is_compared():
    used = "".join(__import__("inspect").getsource(__import__(__name__)).split("CYCLING")[0])
    missing = {name for name in lr_scheduler.__all__ if f"n.{name}(" not in used}
    assert missing == {"LRScheduler", "ReduceLROnPlateau", "GreedyLR"}  # the second below; PyTorch lacks the third


@pytest.mark.parametrize("name", CASES)
def test_a_bound_schedule_has_pytorchs_values_at_every_step(name):
    ours, theirs = trace(lr_scheduler, our_optimizer(), CASES[name]), quiet_trace(their_optimizer(), CASES[name])
    np.testing.assert_allclose(ours, without_negative(theirs), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CYCLING)
def test_the_first_beta_is_cycled_as_in_pytorch(name):
    ours = trace(lr_scheduler, our_optimizer("Adam"), CASES[name])
    theirs = without_negative(quiet_trace(their_optimizer("Adam"), CASES[name]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("epoch", [0.0, 0.5, 3.75, 5.0, 14.999, 15.0, 40.25])
def test_warm_restarts_take_fractions_of_an_epoch_as_in_pytorch(epoch):
    found = []
    for names, optimizer in ((lr_scheduler, our_optimizer()), (Torch(), their_optimizer())):
        scheduler = names.CosineAnnealingWarmRestarts(optimizer, 5, T_mult=2, eta_min=0.01)
        scheduler.step(epoch)
        found.append(scheduler.get_last_lr())
    np.testing.assert_allclose(*found, rtol=1e-12)


PLATEAUS = [
    {},
    {"patience": 2, "factor": 0.5},
    {"patience": 0, "cooldown": 3, "min_lr": [0.01, 0.02]},
    {"mode": "max", "patience": 1, "threshold": 0.1},
    {"threshold_mode": "abs", "threshold": 0.05, "patience": 1},
    {"mode": "max", "threshold_mode": "abs", "threshold": 0.05, "patience": 1, "min_lr": 1e-3},
    {"patience": 0, "factor": 0.1, "eps": 1e-3},
]


@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_a_plateau_is_found_where_pytorch_finds_it(options, rng):
    metrics = np.abs(np.round(3 / (1 + np.arange(60) / 5) + rng.standard_normal(60), 1))
    metrics[[7, 30]] = np.nan
    found = []
    for names, optimizer in ((lr_scheduler, our_optimizer()), (Torch(), their_optimizer())):
        scheduler = names.ReduceLROnPlateau(optimizer, **options)
        rows = []
        for metric in metrics:
            scheduler.step(metric)
            rows.append(
                [*told(optimizer), *scheduler.get_last_lr(), scheduler.best, scheduler.num_bad_epochs,
                 scheduler.cooldown_counter, scheduler.last_epoch]
            )  # fmt: skip
        found.append(np.array(rows, dtype=float))
    np.testing.assert_allclose(*found, rtol=1e-12)
    assert len(np.unique(found[0][:, 0])) > 1


def test_a_changed_lr_is_the_base_of_the_first_scheduler_as_in_pytorch():
    found = []
    for names, optimizer in ((lr_scheduler, our_optimizer()), (Torch(), their_optimizer())):
        optimizer.param_groups[0]["lr"] = 0.5
        found.append(
            trace(names, optimizer, CASES["step"]) if names is lr_scheduler else quiet_trace(optimizer, CASES["step"])
        )
    np.testing.assert_allclose(*found, rtol=1e-12)
