"""GreedyLR goes up after a run of better metrics, down after a run of others, and begins anew at the bottom."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl.optim import SGD
from minidl.optim.lr_scheduler import GreedyLR
from optim_cases import leaf


def build(lr=0.1, other=0.03, **options):
    return GreedyLR(SGD([{"params": [leaf(2)]}, {"params": [leaf(3)], "lr": other}], lr=lr), **options)


def by_hand(metrics, sign, factor, patience, threshold, relative, cooldown, warmup, low, high, window, reset_start):
    """Yield the lr of both groups after each metric. `runs` counts up for better metrics in a row, down for others."""
    first = [0.1, 0.03]
    lrs, seen, best, runs, wait, left = first, [], math.inf, 0, 0, reset_start
    for metric in metrics:
        seen.append(sign * metric)
        value = math.fsum(seen[-window:]) / len(seen[-window:])
        if wait:
            wait, runs = wait - 1, 0
            yield lrs
            continue
        margin = 0.0 if math.isinf(best) else threshold * (abs(best) if relative else 1)
        if value < best - margin:
            best, runs = value, max(runs, 0) + 1
        else:
            runs = min(runs, 0) - 1
        if runs > patience:
            lrs = [lr if min(lr / factor, high) - lr <= 1e-8 else min(lr / factor, high) for lr in lrs]
            wait, runs, left = warmup, 0, reset_start
        elif -runs > patience:
            lrs = [lr if lr - max(lr * factor, low) <= 1e-8 else max(lr * factor, low) for lr in lrs]
            wait, runs = cooldown, 0
            left -= max(lrs) <= low
            if left == 0:
                lrs, best, left, seen = first, math.inf, reset_start, []
        yield lrs


@pytest.mark.parametrize("seed", range(20))
def test_lr_follows_the_metrics_as_by_hand(seed):
    rng = np.random.default_rng(seed)
    mode, relative = str(rng.choice(["min", "max"])), bool(rng.integers(2))
    options = {name: int(rng.integers(3)) for name in ("patience", "cooldown", "warmup")}
    options |= {"factor": float(rng.choice([0.5, 0.9])), "threshold": 0.01, "reset_start": int(rng.integers(1, 4))}
    window = int(rng.integers(1, 5))
    scheduler = build(
        mode=mode, threshold_mode="rel" if relative else "abs", min_lr=0.02, max_lr=0.4, smooth=window > 1,
        window_size=window, **options,
    )  # fmt: skip
    metrics = 2 / (1 + np.arange(120) / 10) + 0.3 * rng.standard_normal(120) + 1
    metrics = metrics if mode == "min" else -metrics
    hand = by_hand(
        metrics, 1 if mode == "min" else -1, options["factor"], options["patience"], 0.01, relative,
        options["cooldown"], options["warmup"], 0.02, 0.4, window, options["reset_start"],
    )  # fmt: skip
    for metric, lrs in zip(metrics, hand, strict=True):
        scheduler.step(float(metric))
        assert scheduler.get_last_lr() == pytest.approx(lrs, rel=1e-12)
        assert [group["lr"] for group in scheduler.optimizer.param_groups] == scheduler.get_last_lr()


def test_a_steady_improvement_raises_lr_to_its_bound_and_a_standstill_brings_it_back_to_the_start():
    scheduler = build(factor=0.5, patience=0, max_lr=[0.3, 1.0], min_lr=[0.05, 0.2], reset_start=2)
    for loss in (5.0, 4.0, 3.0):
        scheduler.step(loss)
    assert scheduler.get_last_lr() == [0.3, 0.24]
    lows = []
    for _ in range(6):
        scheduler.step(3.0)
        lows.append(scheduler.get_last_lr())
    assert lows == [[0.15, 0.2], [0.075, 0.2], [0.05, 0.2], [0.1, 0.03], [0.2, 0.06], [0.1, 0.06]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.0}, r"factor must be a number in \(0, 1\), got factor=1.0"),
        ({"factor": 0.0}, r"factor must be a number in \(0, 1\), got factor=0.0"),
        ({"warmup": -1}, "warmup must be an int >= 0, got warmup=-1"),
        ({"window_size": 0}, "window_size must be an int >= 1, got window_size=0"),
        ({"reset_start": 1.5}, "reset_start must be an int >= 1, got reset_start=1.5"),
        ({"patience": -1}, "patience must be an int >= 0, got patience=-1"),
        ({"mode": "low"}, "mode must be one of 'min', 'max', got mode='low'"),
        ({"max_lr": [1.0]}, "max_lr has 1 values and the optimizer 2 groups"),
        ({"min_lr": [1.0]}, "min_lr has 1 values and the optimizer 2 groups"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_value(options, message):
    with pytest.raises(ValueError, match=f"GreedyLR: {message}"):
        build(**options)
