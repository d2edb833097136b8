"""Bound schedules resume right at every step in any order of loading, pickle, never warn, and refuse what is wrong."""

from __future__ import annotations

import itertools
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

import minidl as md
from minidl.optim import SGD, Adam, Lookahead, lr_scheduler, schedules
from minidl.optim.lr_scheduler import (
    SWALR,
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    GreedyLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)  # fmt: skip
from optim_cases import leaf

END = 24
METRICS = [5, 4, 4, 4, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def power(t):
    return 0.9**t


def slower(t):
    return 1 - 0.5 / (t + 1)


CASES = {
    "LambdaLR": lambda o: LambdaLR(o, [power, slower]),
    "MultiplicativeLR": lambda o: MultiplicativeLR(o, slower),
    "StepLR": lambda o: StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: MultiStepLR(o, [5, 12, 12], 0.5),
    "ConstantLR": lambda o: ConstantLR(o, 0.5, 7),
    "LinearLR": lambda o: LinearLR(o, 0.2, total_iters=9),
    "ExponentialLR": lambda o: ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: PolynomialLR(o, 15, 2.0),
    "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, 7, 0.001),
    "CosineAnnealingWarmRestarts": lambda o: CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: CyclicLR(o, 0.01, 0.2, 3, 4, "triangular2"),
    "OneCycleLR": lambda o: OneCycleLR(o, [0.3, 0.2], END),
    "SWALR": lambda o: SWALR(o, 0.05, 8),
    "ReduceLROnPlateau": lambda o: ReduceLROnPlateau(o, patience=1, factor=0.5, cooldown=1),
    "GreedyLR": lambda o: GreedyLR(o, "min", 0.5, 1, cooldown=1, warmup=1, smooth=True, window_size=3, reset_start=2),
    "SequentialLR": lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=4), CyclicLR(o, 0.01, 0.2, 3), MultiplicativeLR(o, slower)], [4, 15]
    ),
    "ChainedScheduler": lambda o: ChainedScheduler([CosineAnnealingLR(o, 9), ConstantLR(o, 0.1, 4), StepLR(o, 5, 0.5)]),
}


LISTENING = ("ReduceLROnPlateau", "GreedyLR")


def build(name, construct=True):
    params = [leaf(2), leaf(3)]
    optimizer = SGD([{"params": [params[0]]}, {"params": [params[1]], "lr": 0.03}], lr=0.1, momentum=0.9)
    run = SimpleNamespace(params=params, optimizer=optimizer, scheduler=None)
    if construct:
        run.scheduler = CASES[name](optimizer)
    return run


def advance(run, t):
    """Train a step, and return everything that a wrong lr or momentum would change."""
    for i, p in enumerate(run.params):
        p.grad = np.sin(np.arange(p.size) + t + i)
    run.optimizer.step()
    run.scheduler.step(*[METRICS[t]] * isinstance(run.scheduler, ReduceLROnPlateau))
    groups = [x for g in run.optimizer.param_groups for x in (g["lr"], g["momentum"])]
    return [*groups, *run.scheduler.get_last_lr(), *np.concatenate([p.data for p in run.params])]


def checkpoint(run):
    weights = [p.data.copy() for p in run.params]
    states = pickle.loads(pickle.dumps((run.optimizer.state_dict(), run.scheduler.state_dict())))
    return weights, *states


def load(name, saved, order):
    """Resume, making and loading things in an order: s, the scheduler is made; o, O, its state and the optimizer's."""
    weights, of_optimizer, of_scheduler = saved
    run = build(name, construct=False)
    for what in order:
        if what == "make":
            run.scheduler = CASES[name](run.optimizer)
        elif what == "optimizer":
            run.optimizer.load_state_dict(of_optimizer)
        else:
            run.scheduler.load_state_dict(json.loads(json.dumps(of_scheduler)))
    for p, value in zip(run.params, weights, strict=True):
        p.data[...] = value
    return run


ORDERS = [
    order for order in itertools.permutations(("make", "optimizer", "scheduler"))
    if order.index("make") < order.index("scheduler")
]  # fmt: skip


def test_every_bound_schedule_has_a_case():
    assert CASES.keys() == {*lr_scheduler.__all__} - {"LRScheduler"}


@pytest.mark.parametrize("name", CASES)
def test_training_resumes_bitwise_at_every_step_in_any_order_of_loading(name):
    whole, run, saved = [], build(name), []
    for t in range(END):
        saved.append(checkpoint(run))
        whole.append(advance(run, t))
    for stop, order in itertools.product(range(END), ORDERS):
        resumed = load(name, saved[stop], order)
        for t in range(stop, min(stop + 3, END)):
            assert advance(resumed, t) == whole[t], f"resumed at {stop}, {order}"


@pytest.mark.parametrize("name", CASES)
def test_a_scheduler_pickles_with_its_optimizer_and_goes_on(name):
    run = build(name)
    for t in range(5):
        advance(run, t)
    copy = SimpleNamespace()
    copy.params, copy.optimizer, copy.scheduler = pickle.loads(pickle.dumps((run.params, run.optimizer, run.scheduler)))
    assert copy.scheduler.optimizer is copy.optimizer
    for t in range(5, 12):
        assert advance(copy, t) == advance(run, t)


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("SWALR", *LISTENING, "ChainedScheduler")])
@pytest.mark.parametrize("stop", range(1, END, 4))
def test_last_epoch_alone_resumes_too(name, stop):
    run = build(name)
    for t in range(stop):
        advance(run, t)
    again = build(name, construct=False)
    again.optimizer.load_state_dict(run.optimizer.state_dict())
    if name == "SequentialLR":
        again.scheduler = CASES[name](again.optimizer)
        again.scheduler.step(stop)
    else:
        kind, settings = type(run.scheduler), dict(run.scheduler.settings)
        settings |= {n: getattr(run.scheduler, n) for n in settings}
        again.scheduler = kind(again.optimizer, **settings, last_epoch=stop - 1)
    np.testing.assert_allclose(again.scheduler.get_last_lr(), run.scheduler.get_last_lr(), rtol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_a_state_is_plain_and_holds_no_arrays(name):
    state = build(name).scheduler.state_dict()
    assert json.loads(json.dumps(state)).keys() == state.keys()


def test_the_order_of_the_two_steps_is_free_and_nothing_warns():
    run = build("StepLR")
    run.scheduler.step()  # warnings are errors here
    advance(run, 0)
    assert run.scheduler.last_epoch == 2


def test_a_scheduler_and_a_schedule_on_one_optimizer_raise():
    optimizer = SGD([leaf(2)], lr=schedules.Cosine(0.1, 10))
    with pytest.raises(ValueError, match=r"StepLR: lr of group 0 follows the schedule Cosine\(.*\.unschedule\('lr'\)"):
        StepLR(optimizer, 3)
    optimizer.param_groups[0].unschedule("lr")
    scheduler = StepLR(optimizer, 3)
    optimizer.param_groups[0]["lr"] = schedules.Constant(0.1)
    with pytest.raises(ValueError, match=r"it has either a schedule or a scheduler"):
        scheduler.step()
    assert scheduler.last_epoch == 0


def test_a_scheduler_does_not_cycle_a_momentum_that_follows_a_schedule():
    optimizer = SGD([leaf(2)], lr=0.1, momentum=schedules.OneCycle.momentum(10))
    with pytest.raises(ValueError, match=r"CyclicLR: momentum of group 0 follows the schedule OneCycle"):
        CyclicLR(optimizer, 0.01, 0.1, 5)
    CyclicLR(optimizer, 0.01, 0.1, 5, cycle_momentum=False).step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.028)


def test_two_schedulers_that_both_step_raise_and_one_after_the_other_do_not():
    optimizer = SGD([leaf(2)], lr=0.1)
    first, second = ExponentialLR(optimizer, 0.5), StepLR(optimizer, 3)
    for _ in range(3):
        first.step()
    second.step()
    second.step()
    with pytest.raises(ValueError, match=r"ExponentialLR: StepLR has stepped this optimizer too"):
        first.step()
    del second
    first.step()
    assert first.get_last_lr() == [0.1 * 0.5**4]


def test_groups_added_later_join_with_their_own_initial_lr():
    for name in ("StepLR", "CosineAnnealingLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"):
        run, late = build(name), build(name)
        late.optimizer.add_param_group({"params": [leaf(1)], "lr": 0.3})
        both = build(name, construct=False)
        both.optimizer.add_param_group({"params": [leaf(1)], "lr": 0.3})
        both.scheduler = CASES[name](both.optimizer) if name != "CyclicLR" else None
        for _ in range(6):
            for r in (run, late, both):
                r.scheduler.step()
        assert late.scheduler.get_last_lr() == both.scheduler.get_last_lr()
        assert late.scheduler.get_last_lr()[:2] == run.scheduler.get_last_lr()
    one_each = build("OneCycleLR")
    one_each.optimizer.add_param_group({"params": [leaf(1)]})
    with pytest.raises(ValueError, match=r"OneCycleLR: max_lr has 2 values and the optimizer a group 2"):
        one_each.scheduler.step()


def test_chains_and_sequences_nest():
    def chain(o):
        return ChainedScheduler([ExponentialLR(o, 0.5), ChainedScheduler([StepLR(o, 2, 0.1), ExponentialLR(o, 0.5)])])

    optimizer = SGD([leaf(2)], lr=1.0)
    scheduler = SequentialLR(optimizer, [ConstantLR(optimizer, 0.5, 9), chain(optimizer)], [3])
    lrs = scheduler.get_last_lr()
    for _ in range(6):
        scheduler.step()
        lrs += scheduler.get_last_lr()
    np.testing.assert_allclose(lrs, [0.5, 0.5, 0.5, 1.0, 0.25, 0.00625, 0.0015625], rtol=1e-15)
    twin = SequentialLR(optimizer, [ConstantLR(optimizer, 0.5, 9), chain(optimizer)], [3])
    twin.load_state_dict(scheduler.state_dict())
    assert twin.get_last_lr() == scheduler.get_last_lr()


def test_an_lr_written_by_hand_lasts_until_the_next_step():
    run = build("ExponentialLR")
    run.optimizer.param_groups[0]["lr"] = 7.0
    run.scheduler.step()
    assert run.optimizer.param_groups[0]["lr"] == 0.1 * 0.9


def test_a_scheduler_finds_the_optimizer_inside_of_a_wrapper():
    inner = SGD([leaf(2)], lr=0.1)
    scheduler = ChainedScheduler([StepLR(Lookahead(inner), 1)], Lookahead(inner))
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.1 * 0.1


def test_a_subclass_needs_only_its_formula():
    class Half(LRScheduler):
        def at(self, base, t, i):
            return base / 2**t

    scheduler = Half(SGD([leaf(2)], lr=1.0), last_epoch=1)
    assert scheduler.get_last_lr() == scheduler.get_lr() == [0.25]
    with pytest.raises(NotImplementedError, match=r"LRScheduler: a scheduler defines at\(base, t, i\)"):
        LRScheduler(SGD([leaf(2)], lr=1.0))


def test_one_step_more_than_the_one_cycle_has_raises_and_changes_nothing():
    run = build("OneCycleLR")
    for _ in range(END):
        run.scheduler.step()
    lr = run.scheduler.get_last_lr()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"OneCycleLR: tried to step 25 times, but total_steps=24"):
            run.scheduler.step()
    assert run.scheduler.get_last_lr() == lr
    assert run.scheduler.last_epoch == END


def test_a_value_that_no_group_may_have_changes_no_group():
    run = build("StepLR", construct=False)
    scheduler = LambdaLR(run.optimizer, [power, lambda t: 1 - t])
    with pytest.raises(ValueError, match=r"lr must be a finite number >= 0, got lr=-0.03"):
        scheduler.step(2)
    assert [g["lr"] for g in run.optimizer.param_groups] == scheduler.get_last_lr() == [0.1, 0.03]


def test_a_worse_negative_metric_is_no_improvement():
    scheduler = ReduceLROnPlateau(SGD([leaf(2)], lr=0.1), threshold=0.1)
    for metric in (-1.0, -0.95):  # PyTorch takes -0.95 for better than -1, because -0.95 < -1 (1 - 0.1)
        scheduler.step(metric)
    assert scheduler.best == -1.0
    scheduler.step(md.tensor(-1.2))
    assert scheduler.best == pytest.approx(-1.2)


def test_restarts_and_milestones_are_exact_after_a_million_steps():
    optimizer = SGD([leaf(2)], lr=0.1)
    scheduler = CosineAnnealingWarmRestarts(optimizer, 1000)
    scheduler.step(10**6)
    assert scheduler.get_last_lr() == [0.1]
    scheduler = CosineAnnealingLR(optimizer, 1000)
    scheduler.step(10**6)
    assert scheduler.get_last_lr() == [0.1]  # PyTorch's recurrence has drifted


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: StepLR(leaf(2), 3), TypeError, r"StepLR: needs an Optimizer, got Tensor"),
        (lambda o: StepLR(o, 0), ValueError, r"^StepLR: step_size must be a finite number > 0, got step_size=0"),
        (lambda o: StepLR(o, 3, last_epoch=-2), ValueError, r"last_epoch must be an int >= -1, got last_epoch=-2"),
        (lambda o: LinearLR(o, 0.0), ValueError, r"start_factor must be a number in \(0, 1\], got start_factor=0.0"),
        (
            lambda o: LinearLR(o, end_factor=1.5),
            ValueError,
            r"end_factor must be a number in \[0, 1\], got end_factor=1.5",
        ),
        (lambda o: ConstantLR(o, 2.0), ValueError, r"ConstantLR: factor must be a number in \[0, 1\], got factor=2.0"),
        (lambda o: LambdaLR(o, [power]), ValueError, r"LambdaLR: lr_lambda has 1 values and the optimizer 2 groups"),
        (lambda o: LambdaLR(o, 0.1), TypeError, r"LambdaLR: lr_lambda must be a function of t, got float"),
        (lambda o: CosineAnnealingWarmRestarts(o, 0), ValueError, r"T_0 must be an int >= 1, got T_0=0"),
        (lambda o: CyclicLR(o, 0.1, 1.0, mode="x"), ValueError, r"^CyclicLR: mode must be one of .*, got mode='x'"),
        (lambda o: CyclicLR(o, 0.1, 1.0, scale_mode="x"), ValueError, r"scale_mode must be .* got scale_mode='x'"),
        (lambda o: CyclicLR(o, [0.1], 1.0), ValueError, r"CyclicLR: base_lr has 1 values and the optimizer 2 groups"),
        (lambda o: OneCycleLR(o, 0.1), ValueError, r"OneCycleLR: needs either total_steps, or epochs and steps_per"),
        (lambda o: OneCycleLR(o, 0.1, 0), ValueError, r"total_steps must be an int >= 1, got total_steps=0"),
        (
            lambda o: OneCycleLR(o, 0.1, 9, cycle_momentum=1),
            ValueError,
            r"cycle_momentum must be True or False, got cycle_momentum=1",
        ),
        (lambda o: SWALR(o, 0.1, -1), ValueError, r"SWALR: anneal_epochs must be an int >= 0, got anneal_epochs=-1"),
        (lambda o: SWALR(o, 0.1, 1, "x"), ValueError, r"anneal_strategy must be .* got anneal_strategy='x'"),
        (lambda o: ReduceLROnPlateau(o, "x"), ValueError, r"mode must be one of 'min', 'max', got mode='x'"),
        (
            lambda o: ReduceLROnPlateau(o, factor=1.0),
            ValueError,
            r"factor must be a number in \[0, 1\), got factor=1.0",
        ),
        (lambda o: ReduceLROnPlateau(o, patience=-1), ValueError, r"patience must be .* got patience=-1"),
        (lambda o: SequentialLR(o, [], []), ValueError, r"SequentialLR: needs a list of at least one scheduler"),
        (
            lambda o: SequentialLR(o, [StepLR(o, 3)], [3]),
            ValueError,
            r"one fewer than schedulers, got 1 schedulers and",
        ),
        (lambda o: ChainedScheduler([StepLR(o, 3), 1]), TypeError, r"scheduler 1 must be an LRScheduler, got int"),
        (lambda o: ChainedScheduler([SWALR(o, 3)]), ValueError, r"scheduler 0 is a SWALR, which steps only by itself"),
        (
            lambda o: ChainedScheduler([StepLR(o, 3), StepLR(SGD([leaf(2)]), 3)]),
            ValueError,
            r"ChainedScheduler: scheduler 1, a StepLR, belongs to another optimizer",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_value(make, error, message):
    with pytest.raises(error, match=message):
        make(build("StepLR", construct=False).optimizer)


def test_cycling_the_momentum_needs_one():
    class Plain(md.optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, lr=lr)

    with pytest.raises(ValueError, match=r"CyclicLR: Plain has neither momentum nor betas; pass cycle_momentum=False"):
        CyclicLR(Plain([leaf(2)]), 0.1, 1.0)
    CyclicLR(Plain([leaf(2)]), 0.1, 1.0, cycle_momentum=False).step()
    assert Adam([leaf(2)]).param_groups[0]["betas"] == (0.9, 0.999)


def test_a_chain_cannot_leave_a_factor_of_0():
    optimizer = SGD([leaf(2)], lr=0.1)
    chain = ChainedScheduler([ConstantLR(optimizer, 0.0, 2)])
    chain.step()
    with pytest.raises(ValueError, match=r"a factor of 0 cannot be left again, as at t=2"):
        chain.step()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("last_epoch"), r"it must be what state_dict\(\) returned"),
        (lambda s: s.update(kind="LinearLR"), r"it is one of LinearLR"),
        (lambda s: s.update(base_lrs=[0.1]), r"it has 1 groups and the optimizer 2"),
        (lambda s: s["settings"].update(gamma=0.3), r"saved with gamma=0.3, here gamma=0.5; pass the same, or hyper="),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(spoil, message):
    run, other = build("StepLR"), build("StepLR")
    for t in range(4):
        advance(run, t)
    state = run.scheduler.state_dict()
    spoil(state)
    with pytest.raises(ValueError, match=message):
        other.scheduler.load_state_dict(state)
    assert other.scheduler.state_dict() == build("StepLR").scheduler.state_dict()
    if "settings" in message or "gamma" in message:
        other.scheduler.load_state_dict(state, hyper="current")
        assert other.scheduler.get_last_lr() == run.scheduler.get_last_lr()
    with pytest.raises(ValueError, match=r"hyper must be 'saved' or 'current', got hyper='x'"):
        other.scheduler.load_state_dict(state, hyper="x")


def test_a_state_of_other_parts_does_not_fit():
    optimizer = SGD([leaf(2)], lr=0.1)
    one = ChainedScheduler([StepLR(optimizer, 3)])
    two = ChainedScheduler([StepLR(optimizer, 3), StepLR(optimizer, 4)])
    with pytest.raises(ValueError, match=r"it has 1 schedulers, here are 2"):
        two.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match=r"scheduler 0: saved with step_size=3, here step_size=4"):
        ChainedScheduler([StepLR(optimizer, 4)]).load_state_dict(one.state_dict())


def test_a_scheduler_shows_its_settings():
    assert repr(build("StepLR").scheduler) == "StepLR(SGD, step_size=3, gamma=0.5)  # last_epoch=0"
