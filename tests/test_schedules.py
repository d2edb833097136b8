"""Schedules: each equals its formula at every step, pickles, stays at its end, refuses wrong settings."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest

import minidl as md
from minidl.optim import SGD, Adam, AdamW, schedules
from optim_cases import leaf
from schedule_cases import CASES, LINE, decay_of_function

CLASSES = {name: getattr(schedules, name) for name in schedules.__all__ if name != "Schedule"}
A_LAMBDA = lambda t: 0.1  # noqa: E731


def has_end(schedule):
    kinds = (
        schedules.Constant, schedules.Linear, schedules.Cosine, schedules.REX, schedules.Tanh, schedules.FlatCosine,
        schedules.WSD, schedules.OneCycle, schedules.PiecewiseConstant, schedules.PiecewiseInterpolate,
        schedules.KDecay,
    )  # fmt: skip
    return isinstance(schedule, kinds)


def test_every_schedule_has_a_case():
    assert CLASSES.keys() - {type(case.schedule).__name__ for case in CASES} == set()


def test_every_schedule_there_is_is_public():
    modules = [schedules.base, schedules.decay, schedules.cycles, schedules.combine]
    found = {name for m in modules for name, x in vars(m).items() if isinstance(x, type) and name[0].isupper()}
    assert {name for name in found if issubclass(getattr(schedules, name, int), schedules.Schedule)} | {"Several"} == {
        *CLASSES, "Schedule",
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_schedule_equals_its_formula_at_every_step(case):
    got = np.array([case.schedule(t) for t in range(case.until)])
    want = np.array([case.formula(t) for t in range(case.until)], dtype=float)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_schedule_gives_python_floats_at_any_kind_of_step(case):
    values = [case.schedule(t) for t in (np.int64(3), np.int32(3), 3.0)]
    assert values == [case.schedule(3)] * 3
    assert all(type(x) is float for x in (case.schedule(3), *values) if not isinstance(x, tuple))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_schedule_pickles_compares_and_cannot_be_changed(case):
    copy = pickle.loads(pickle.dumps(case.schedule))
    assert copy == case.schedule
    assert hash(copy) == hash(case.schedule)
    assert [copy(t) for t in range(20)] == [case.schedule(t) for t in range(20)]
    assert " at 0x" not in repr(copy)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(copy, dataclasses.fields(copy)[0].name, 1)


@pytest.mark.parametrize("case", [c for c in CASES if has_end(c.schedule)], ids=str)
def test_a_schedule_stays_at_its_last_value(case):
    assert case.schedule(10**9) == case.schedule(100)


def test_a_growing_schedule_keeps_to_its_bound_where_the_power_is_too_large_for_a_float():
    assert schedules.Exponential(0.1, 2.0, end=0.5)(10**6) == 0.5
    w = leaf(2)
    with pytest.raises(ValueError, match=r"lr must be a finite number >= 0, got lr=inf \(at step 0"):
        SGD([w], lr=schedules.Shifted(schedules.Step(0.1, 1, 10.0), -400))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_schedule_written_as_text_can_be_read_again(case):
    names = {**CLASSES, "schedule_cases": __import__("schedule_cases")}
    assert eval(repr(case.schedule), names) == case.schedule


@pytest.mark.parametrize("t", [-1, -0.5, math.nan, math.inf])
def test_a_step_before_the_first_is_refused(t):
    with pytest.raises(ValueError, match=r"Linear: t counts the steps from 0, got t="):
        LINE(t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.Constant("a"), r"Constant: at must be a finite number, got at='a'"),
        (lambda: schedules.Constant(True), r"Constant: at must be a finite number, got at=True"),
        (lambda: schedules.Step(0.1, 0), r"Step: every must be a finite number > 0, got every=0"),
        (lambda: schedules.Step(0.1, 2, -1.0), r"Step: gamma must be a finite number >= 0, got gamma=-1.0"),
        (lambda: schedules.MultiStep(0.1, 30), r"MultiStep: milestones must be a sequence .* got milestones=30"),
        (lambda: schedules.MultiStep(0.1, ("a",)), r"MultiStep: milestones must be finite numbers, got milestones='a'"),
        (lambda: schedules.Exponential(math.nan, 0.9), r"Exponential: start must be .* got start=nan"),
        (lambda: schedules.Exponential(1.0, 0.9, end=math.inf), r"Exponential: end must be .* got end=inf"),
        (lambda: schedules.Linear(1.0, 0), r"Linear: steps must be a finite number > 0, got steps=0"),
        (lambda: schedules.Linear(1.0, 2, begin=-1), r"Linear: begin must be .* got begin=-1"),
        (lambda: schedules.Polynomial(1.0, 2, power=0), r"Polynomial: power must be .* got power=0"),
        (lambda: schedules.Cosine(1.0, -3), r"Cosine: steps must be .* got steps=-3"),
        (lambda: schedules.InverseTime(1.0, rate=-1), r"InverseTime: rate must be .* got rate=-1"),
        (lambda: schedules.InverseSqrt(1.0, 0), r"InverseSqrt: timescale must be .* got timescale=None"),
        (lambda: schedules.Noam(0), r"Noam: d_model must be .* got d_model=0"),
        (lambda: schedules.Tanh(1.0, 3, upper=-7.0), r"Tanh: upper must be above lower=-6.0, got upper=-7.0"),
        (lambda: schedules.FlatCosine(1.0, 3, 1.5), r"FlatCosine: flat must be a number in \[0, 1\], got flat=1.5"),
        (lambda: schedules.WSD(1.0, 10, 8, 3), r"cooldown_steps must be at most .* = 7, got cooldown_steps=8"),
        (lambda: schedules.WSD(1.0, 10, 8, cooldown="x"), r"WSD: cooldown must be one of 'linear', .* cooldown='x'"),
        (lambda: schedules.CosineRestarts(1.0, 5, 0.5), r"CosineRestarts: t_mul must be .* >= 1, got t_mul=0.5"),
        (lambda: schedules.Cyclic(0.1, 1.0, 5, mode="square"), r"Cyclic: mode must be one of .* got mode='square'"),
        (lambda: schedules.OneCycle(1.0, 0), r"OneCycle: total_steps must be .* >= 1, got total_steps=0"),
        (lambda: schedules.OneCycle(1.0, 9, anneal="cosine"), r"OneCycle: anneal must be one of 'cos', 'linear', got"),
        (lambda: schedules.OneCycle(1.0, 9, 0.6, three_phase=True), r"pct_start must be at most 0.5 with three_phase"),
        (lambda: schedules.PiecewiseConstant((3,), (1.0,)), r"one value more than boundaries, got 1 boundaries and"),
        (
            lambda: schedules.PiecewiseConstant((3, 3), (1.0, 2, 3)),
            r"must be steps >= 0 that increase, got bound",
        ),
        (lambda: schedules.PiecewiseInterpolate((), ()), r"as many values as steps, at least one, got steps=\(\)"),
        (lambda: schedules.Lambda(3), r"Lambda: function must be schedules, functions of the step, got function=3"),
        (lambda: schedules.Lambda(A_LAMBDA), r"Lambda: function must be picklable, defined by def at the top"),
        (
            lambda: schedules.Warmup(0.1, 5),
            r"Warmup: schedule must be schedules, functions of the step, got schedule=0.1",
        ),
        (lambda: schedules.Warmup(LINE, -1), r"Warmup: steps must be .* got steps=-1"),
        (lambda: schedules.Warmup(LINE, 5, "exponential"), r"Warmup: start must be a finite number > 0, got start=0.0"),
        (lambda: schedules.Join((LINE,), (3,)), r"Join: needs one schedule more than boundaries, got 1 schedules"),
        (
            lambda: schedules.Product((LINE, 0.1)),
            r"Product: factors must be schedules, functions of the step, got factors=0.1",
        ),
        (lambda: schedules.Sum((LINE, 0.1)), r"Sum: parts must be schedules, functions of the step, got parts=0.1"),
        (lambda: schedules.Cosine(1.0, 3, waves=0), r"Cosine: waves must be a finite number > 0, got waves=0"),
        (lambda: schedules.Chebyshev(0.0, 1.0, 4), r"Chebyshev: lowest must be a finite number > 0, got lowest=0.0"),
        (lambda: schedules.Chebyshev(2.0, 1.0, 4), r"Chebyshev: highest must be above lowest=2.0, got highest=1.0"),
        (lambda: schedules.Chebyshev(1.0, 2.0, 6), r"Chebyshev: steps must be a power of 2, got steps=6"),
        (lambda: schedules.Chebyshev(1.0, 2.0, 4.0), r"Chebyshev: steps must be a power of 2, got steps=4.0"),
        (lambda: schedules.Restarts(LINE, 5, limit=0), r"Restarts: limit must be .* got limit=0"),
        (lambda: schedules.KDecay(LINE, 5, 0), r"KDecay: k must be .* got k=0"),
        (lambda: schedules.Noisy(LINE, 1.0), r"Noisy: std must be in \[0, limit=0.67\], got std=1.0"),
        (lambda: schedules.Several(("a",)), r"Several: parts must be finite numbers or schedules, got parts='a'"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numpy_settings_become_plain_numbers():
    assert repr(schedules.Linear(np.float32(0.5), np.int64(4))) == "Linear(start=0.5, steps=4, end=0.0, begin=0)"


def test_a_schedule_times_a_number_or_a_schedule_is_one():
    assert 0.5 * LINE == LINE * 0.5 == schedules.Scaled(LINE, 0.5)
    assert LINE * schedules.Constant(2) == schedules.Product((LINE, schedules.Constant(2)))
    with pytest.raises(TypeError):
        LINE * "a"


def test_the_schedule_without_a_formula_says_so():
    with pytest.raises(NotImplementedError, match=r"Schedule: a schedule defines value\(t\)"):
        schedules.Schedule()(0)


def test_restarts_are_found_by_counting_where_a_logarithm_is_a_cycle_off():
    starts = [sum(10 * 3**i for i in range(n)) for n in range(30)]
    assert [schedules.cycles.cycle_of(t, 10, 3)[:2] for t in starts] == [(n, 0) for n in range(30)]
    assert [schedules.cycles.cycle_of(t - 1, 10, 3)[0] for t in starts[1:]] == list(range(29))


# ---- on an optimizer ---------------------------------------------------------------------------------------------


def moved(optimizer, w):
    w.grad = np.ones(2)
    optimizer.step()


def test_lr_momentum_decay_and_betas_follow_schedules():
    w = leaf(2)
    betas = schedules.Several((schedules.Linear(0.9, 4, 0.5), 0.99))
    optimizer = AdamW([w], lr=schedules.Cosine(0.1, 4), betas=betas, weight_decay=schedules.Linear(0.2, 4))
    sgd = SGD([w], lr=0.1, momentum=schedules.OneCycle.momentum(4))
    for t in range(6):
        group = optimizer.param_groups[0]
        assert group["lr"] == schedules.Cosine(0.1, 4)(t)
        assert group["betas"] == betas(t)
        assert group["weight_decay"] == schedules.Linear(0.2, 4)(t)
        assert sgd.param_groups[0]["momentum"] == schedules.OneCycle.momentum(4)(t)
        moved(optimizer, w)
        moved(sgd, w)


@pytest.mark.parametrize("stop", range(9))
def test_training_under_schedules_resumes_bitwise_at_every_step(stop):
    def build():
        w = leaf(2)
        lr = schedules.Warmup(schedules.CosineRestarts(0.1, 2, 2), 3)
        return w, Adam([w], lr=lr, betas=schedules.Several((schedules.OneCycle.momentum(9), 0.99)))

    w, optimizer = build()
    whole = []
    for t in range(9):
        if t == stop:
            saved, values = pickle.loads(pickle.dumps(optimizer.state_dict())), w.data.copy()
        moved(optimizer, w)
        whole.append(w.data.copy())
    again, resumed = build()
    with md.no_grad():
        again.copy_(values)
    resumed.load_state_dict(saved)
    for t in range(stop, 9):
        moved(resumed, again)
        np.testing.assert_array_equal(again.data, whole[t])


def test_a_plain_function_of_a_module_may_stand_for_a_schedule():
    schedule = schedules.Warmup(decay_of_function, 2)
    assert [schedule(t) for t in range(4)] == [0.5, 1.0, 1.0, 0.25]


def test_chebyshev_rates_take_each_error_down_by_the_chebyshev_polynomial():
    curvatures = np.array([0.5, 0.7, 1.9, 3.0, 4.0])
    w = md.Parameter(np.ones(5))
    optimizer = SGD([w], lr=schedules.Chebyshev(0.5, 4.0, steps=16))
    for _ in range(16):
        w.grad = curvatures * w.data
        optimizer.step()
    inside = np.cos(16 * np.arccos(np.clip((4.5 - 2 * curvatures) / 3.5, -1, 1)))
    np.testing.assert_allclose(w.data, inside / math.cosh(16 * math.acosh(4.5 / 3.5)), rtol=1e-9)


def test_chebyshev_rates_in_their_order_do_not_blow_up_rounding():
    curvatures = np.linspace(1e-3, 1.0, 200)
    w = md.Parameter(np.ones(200))
    optimizer = SGD([w], lr=schedules.Chebyshev(1e-3, 1.0, steps=256))
    largest = 0.0
    for _ in range(256):
        w.grad = curvatures * w.data
        optimizer.step()
        largest = max(largest, float(np.max(np.abs(w.data))))
    assert largest < 1e3  # in increasing order of i it is 1e27
    assert np.max(np.abs(w.data)) <= 1.001 / math.cosh(256 * math.acosh(1.001 / 0.999))


def test_schedules_and_numbers_add_up_in_any_order():
    a, b = schedules.Linear(1.0, steps=4), schedules.Exponential(0.5, 0.9)
    for t in (0, 1, 3, 9):
        assert (a + b)(t) == (b + a)(t) == a(t) + b(t)
        assert (a + 1)(t) == (1 + a)(t) == a(t) + 1
        assert sum([a, b])(t) == a(t) + b(t)
        assert (2 * a + b * a)(t) == pytest.approx(2 * a(t) + b(t) * a(t), rel=1e-15)
    with pytest.raises(TypeError, match="unsupported operand"):
        a + "b"
