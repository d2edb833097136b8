"""What is known exactly about optimizers: rates and limits on quadratics, counterexamples, golden trajectories."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as md
from minidl.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)


def leaf(x):
    return md.tensor(np.array(x, float), requires_grad=True)


# ---- quadratics ------------------------------------------------------------------------------------------------------

LOW, HIGH = 1.0, 100.0
KAPPA = HIGH / LOW
ROOT = math.sqrt(KAPPA)
S = math.sqrt(3 * KAPPA + 1)
RATES = {
    "gd-1/L": ({"lr": 1 / HIGH}, 1 - 1 / KAPPA),
    "gd-2/(L+mu)": ({"lr": 2 / (HIGH + LOW)}, (KAPPA - 1) / (KAPPA + 1)),
    "nesterov-1/L": ({"lr": 1 / HIGH, "momentum": (ROOT - 1) / (ROOT + 1), "nesterov": True}, 1 - 1 / ROOT),
    "nesterov-best": ({"lr": 4 / (3 * HIGH + LOW), "momentum": (S - 2) / (S + 2), "nesterov": True}, 1 - 2 / S),
    "heavy ball": (
        {"lr": 4 / (math.sqrt(HIGH) + math.sqrt(LOW)) ** 2, "momentum": ((ROOT - 1) / (ROOT + 1)) ** 2},
        (ROOT - 1) / (ROOT + 1),
    ),
}


@pytest.mark.parametrize("name", RATES)
def test_a_quadratic_is_solved_at_the_rate_of_theory(name):
    options, rate = RATES[name]
    h = np.linspace(LOW, HIGH, 20)
    w = leaf(np.ones(20))
    optimizer = SGD([w], **options)
    sizes = []
    for _ in range(600):
        w.grad = h * w.data
        optimizer.step()
        sizes.append(np.linalg.norm(w.data))
    assert (sizes[599] / sizes[299]) ** (1 / 300) == pytest.approx(rate, abs=3e-3)


BETA = 0.9
LIMITS = {
    "gd": ({}, 2.0),
    "heavy ball": ({"momentum": BETA}, 2 * (1 + BETA)),
    "nesterov": ({"momentum": BETA, "nesterov": True}, 2 * (1 + BETA) / (1 + 2 * BETA)),
    "running mean": ({"momentum": BETA, "dampening": BETA}, 2 * (1 + BETA) / (1 - BETA)),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("curvature", [1.0, 8.0])
def test_descent_is_stable_below_its_limit_and_no_further(name, curvature):
    options, limit = LIMITS[name]
    for factor, falls in [(0.998, True), (1.002, False)]:
        w = leaf([1.0])
        optimizer = SGD([w], lr=factor * limit / curvature, **options)
        sizes = []
        for _ in range(3000):
            w.grad = curvature * w.data
            optimizer.step()
            sizes.append(abs(w.item()))
        assert (max(sizes[2800:]) < 0.9 * max(sizes[800:1000])) is falls
        assert (max(sizes[2800:]) > 1.1 * max(sizes[800:1000])) is not falls


def test_nesterovs_two_sequences_are_one_with_the_look_ahead_point():
    h, lr, mu = np.array([1.0, 10.0]), 0.05, 0.8
    w, x, y = leaf([1.0, 1.0]), np.ones(2), np.ones(2)
    optimizer = SGD([w], lr=lr, momentum=mu, nesterov=True)
    for _ in range(50):
        w.grad = h * w.data
        optimizer.step()
        before, x = x, y - lr * h * y
        y = x + mu * (x - before)
        np.testing.assert_allclose(w.data, y, rtol=1e-10, atol=1e-14)


# ---- saddle points and goldens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [0.1, 0.01])
def test_descent_leaves_a_saddle_after_exactly_the_steps_of_its_growth(lr):
    w = leaf([1.0, 1e-6])
    optimizer = SGD([w], lr=lr)
    while abs(w.data[1]) < 0.5:
        w.grad = w.data * np.array([1.0, -1.0])
        optimizer.step()
    assert optimizer.steps == math.ceil(math.log(0.5 / 1e-6) / math.log(1 + lr))


# PyTorch 2.13, float64: x after 100 steps on Rosenbrock from (-2, 2); steps until |y| > 0.5 on the saddle
# x^2 / 2 - y^2 / 2 + y^4 / 4 from (1, 1e-6). So they hold where PyTorch is not installed.
GOLDEN = {
    (SGD, 1e-4, "momentum"): ((-1.073909561780, 1.157460953851), 13396),
    (SGD, 1e-4, "nesterov"): ((-1.318962694557, 1.747345064698), 13384),
    (Adagrad, 0.1, ""): ((-1.562935839173, 2.448667462014), 7),
    (RMSprop, 1e-2, ""): ((-1.561329508841, 2.443668836372), 7),
    (Adadelta, 1.0, ""): ((-1.727657821924, 2.285711312709), 37),
    (Adam, 1e-2, ""): ((-1.560476669148, 2.455600858807), 44),
    (Adam, 1e-2, "amsgrad"): ((-1.560600720616, 2.455556192210), 44),
    (AdamW, 1e-2, ""): ((-1.549301965630, 2.426481734244), 44),
    (Adamax, 1e-2, ""): ((-1.600343766689, 2.432401484615), 67),
    (NAdam, 1e-2, ""): ((-1.574371871963, 2.449211326967), 38),
    (RAdam, 1e-2, ""): (None, 165),
    (Rprop, 1e-2, ""): ((-1.379220447873, 1.902965024569), 14),
    (ASGD, 1e-4, ""): ((-1.459414157185, 2.137430407300), None),
}
MORE = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}, "amsgrad": {"amsgrad": True}}


def rosenbrock_gradient(w):
    x, y = w.data
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


@pytest.mark.parametrize(("kind", "lr", "more"), GOLDEN)
def test_trajectories_end_at_the_golden_numbers(kind, lr, more):
    end, steps = GOLDEN[kind, lr, more]
    if end is not None:
        w = leaf([-2.0, 2.0])
        optimizer = kind([w], lr=lr, **MORE.get(more, {}))
        for _ in range(100):
            w.grad = rosenbrock_gradient(w)
            optimizer.step()
        np.testing.assert_allclose(w.data, end, rtol=1e-11)
    if steps is not None:
        w = leaf([1.0, 1e-6])
        optimizer = kind([w], lr=lr, **MORE.get(more, {}))
        while abs(w.data[1]) <= 0.5:
            x, y = w.data
            w.grad = np.array([x, -y + y**3])
            optimizer.step()
        assert optimizer.steps == steps


# ---- RAdam -----------------------------------------------------------------------------------------------------------


def test_the_first_unadapted_steps_of_radam_explode_on_rosenbrock_and_the_authors_skip_them():
    ends = {}
    for variant in ("torch", "official"):
        w = leaf([-2.0, 2.0])
        optimizer = RAdam([w], lr=1e-2, variant=variant)
        for _ in range(5):
            w.grad = rosenbrock_gradient(w)
            optimizer.step()
        ends[variant] = np.abs(w.data).max()
    assert ends["torch"] > 1e50
    assert ends["official"] == 2.0


@pytest.mark.parametrize(("variant", "first"), [("torch", 6), ("paper", 5), ("official", 6)])
def test_radam_warms_up_by_the_rectification_of_its_paper(variant, first):
    w = leaf([0.0])
    optimizer = RAdam([w], lr=1.0, eps=0.0, variant=variant)
    rates = []
    for _ in range(2000):
        before = w.item()
        w.grad = np.ones(1)
        optimizer.step()
        rates.append(before - w.item())
    early = rates[: first - 1]
    np.testing.assert_allclose(early, 0.0 if variant == "official" else 1.0, rtol=1e-12)
    assert rates[first - 1] < 0.03
    want = {6: 0.0258, 10: 0.049, 100: 0.2153, 1000: 0.6453, 2000: 0.8284}
    np.testing.assert_allclose([rates[t - 1] for t in want], [*want.values()], atol=5e-5)


# ---- where Adam fails (Reddi, Kale & Kumar 2018) ---------------------------------------------------------------------


def online(gradient, steps, alpha, start, **options):
    """Play x in [-1, 1] against linear losses; return x and the average regret against x = -1."""
    w = leaf([start])
    optimizer = Adam([w], lr=lambda step: alpha / math.sqrt(step + 1), eps=0.0, **options)
    regret = 0.0
    for t in range(1, steps + 1):
        g = gradient(t)
        regret += g * (w.item() + 1)
        w.grad = np.array([g])
        optimizer.step()
        if abs(w.item()) > 1:
            with md.no_grad():
                w.fill_(math.copysign(1.0, w.item()))
    return w.item(), regret / steps


def test_adam_goes_to_the_worst_point_of_theorem_1_and_amsgrad_to_the_best():
    def gradient(t):
        return 3.0 if t % 3 == 1 else -1.0

    x, regret = online(gradient, 1000, 1.0, 1.0, betas=(0.0, 0.1), debias="none")
    assert x == pytest.approx(0.967, abs=1e-3)
    assert regret == pytest.approx(0.667, abs=0.05)
    x, regret = online(gradient, 1000, 1.0, 1.0, betas=(0.0, 0.1), debias="none", amsgrad=True)
    assert x == pytest.approx(-1.0, abs=5e-2)
    assert regret == pytest.approx(0.048, abs=1e-3)


SLOW = pytest.mark.slow
PLAYS = [(10_000, 0.9476, -0.9008), pytest.param(100_000, 0.9928, -0.9984, marks=SLOW)]


@pytest.mark.parametrize(("steps", "adam", "amsgrad"), PLAYS)
def test_adam_forgets_the_rare_large_gradient_of_section_5_and_amsgrad_does_not(steps, adam, amsgrad):
    def gradient(t):
        return 1010.0 if t % 101 == 1 else -10.0

    x, _ = online(gradient, steps, 0.5, 0.0, betas=(0.9, 0.99))
    assert x == pytest.approx(adam, abs=1e-4)
    x, _ = online(gradient, steps, 0.5, 0.0, betas=(0.9, 0.99), amsgrad=True)
    assert x == pytest.approx(amsgrad, abs=1e-4)


# ---- the marginal value of adaptive methods (Wilson et al. 2017, Sec. 3.3) -------------------------------------------


def wilson_data(n, positive):
    """Return features of n examples, and their labels: x1 = y, x2 = x3 = 1, and 1 or 5 features of their own."""
    y = np.where(np.arange(n) < positive, 1.0, -1.0)
    x = np.zeros((n, 3 + 5 * n))
    x[:, 0], x[:, 1], x[:, 2] = y, 1.0, 1.0
    for i in range(n):
        x[i, 3 + 5 * i : 3 + 5 * i + (1 if y[i] > 0 else 5)] = 1.0
    return x, y


@pytest.mark.parametrize(
    ("kind", "options", "test_share"),
    [
        (SGD, {"lr": 1e-3}, 1.0),
        (SGD, {"lr": 1e-3, "momentum": 0.9}, 1.0),
        (Adagrad, {"lr": 0.02}, 0.575),
        (RMSprop, {"lr": lambda step: 0.01 / (1 + 0.05 * step)}, 0.575),
        (Adam, {"lr": lambda step: 0.01 / (1 + 0.01 * step)}, 0.575),
    ],
)
def test_adaptive_methods_fit_wilsons_data_and_predict_the_majority(kind, options, test_share):
    n, positive = 80, 46  # 57.5 % positive, of the test data too
    x, y = wilson_data(n, positive)
    w = leaf(np.zeros(x.shape[1]))
    optimizer = kind([w], **options)
    for _ in range(3000):
        w.grad = x.T @ (x @ w.data - y)
        optimizer.step()
    assert np.mean(np.sign(x @ w.data) == y) == 1.0
    unseen = y * w.data[0] + w.data[1] + w.data[2]  # an example's own features have not been trained
    assert np.mean(np.sign(unseen) == y) == test_share
    if test_share < 1:
        used = x.any(axis=0)
        np.testing.assert_allclose(np.abs(w.data[used]), 0.25, atol=0.02)  # X sign(X'y) = 4 y
        np.testing.assert_array_equal(np.sign(w.data[used]), np.sign((x.T @ y)[used]))
