"""Optimizers without a rate, or without a schedule, with the options they are tested with; `optim_table` adds them.

Their scope is "all": the formula gets all parameters at once, because numbers of all of them take part.
"""

from __future__ import annotations

import math

import optim_by_hand_free as hand
from minidl import optim
from optim_case import grid


def prodigy(optax, o):
    names = {"betas": "betas", "beta3": "beta3", "eps": "eps", "d0": "estim_lr0", "d_coef": "estim_lr_coef"}
    names |= {"weight_decay": "weight_decay", "safeguard_warmup": "safeguard_warmup"}
    return optax.contrib.prodigy(o["lr"], **{names[k]: v for k, v in o.items() if k in names})


def dadapt_adamw(optax, o):
    names = {"betas": "betas", "eps": "eps", "d0": "estim_lr0", "weight_decay": "weight_decay"}
    return optax.contrib.dadapt_adamw(o["lr"], **{names[k]: v for k, v in o.items() if k in names})


def dog(optax, o):
    first = ("heuristic", o.get("reps_rel", 1e-6))
    return optax.contrib.dog(o["lr"], first, o.get("eps", 1e-8), o.get("weight_decay"))


def schedule_free_sgd(optax, o):
    names = {"momentum": "b1", "weight_decay": "weight_decay", "weight_lr_power": "weight_lr_power"}
    return optax.contrib.schedule_free_sgd(o["lr"], **{names[k]: v for k, v in o.items() if k in names})


def schedule_free_adamw(optax, o):
    names = {"eps": "eps", "weight_decay": "weight_decay", "weight_lr_power": "weight_lr_power"}
    more = dict(zip(("b1", "b2"), o.get("betas", ()), strict=False))
    return optax.contrib.schedule_free_adamw(o["lr"], **more, **{names[k]: v for k, v in o.items() if k in names})


ONE = {"lr": 1.0}
ALL = {"scope": "all", "rtol": 1e-9, "optax_rtol": 1e-9}
DECOUPLED = {"weight_decay": 0.1, "decoupled_weight_decay": True}
CORRECTED = {**ONE, "bias_correction": True}
FREE = [
    *grid(
        optim.DAdaptSGD, hand.dadapt_sgd,
        {**ONE, "d0": 0.01}, {}, {**ONE, "momentum": 0.9, "weight_decay": 0.1}, {"lr": 0.5, "growth_rate": 1.25},
        {"lr": 0.01, "growth_rate": 1.01, "d0": 0.1, "maximize": True},
        **ALL,
    ),
    *grid(
        optim.DAdaptAdam, hand.dadapt_adam,
        {**ONE, "d0": 0.01}, {}, {**ONE, "weight_decay": 0.1, "betas": (0.5, 0.75)}, {**ONE, **DECOUPLED, "d0": 0.01},
        {"lr": 0.5, "growth_rate": 1.25, "eps": 0.1}, {"lr": 0.1, "d0": 0.1, "maximize": True},
        {**CORRECTED, "maximize": True},
        **ALL,
    ),
    *grid(
        optim.DAdaptAdam, hand.dadapt_adam,
        CORRECTED, {**CORRECTED, **DECOUPLED, "d0": 0.01, "betas": (0.5, 0.75), "eps": 0.1},
        optax=dadapt_adamw, **ALL,
    ),
    *grid(
        optim.Prodigy, hand.prodigy,
        {**ONE, "d0": 0.01}, {}, {**ONE, "weight_decay": 0.1, "decoupled_weight_decay": False, "betas": (0.5, 0.75)},
        {**ONE, "weight_decay": 0.1, "beta3": 0.9, "d_coef": 2.0, "d0": 1e-3},
        {"lr": 0.5, "d0": 0.01, "growth_rate": 1.25}, {**ONE, "d0": 1e-3, "growth_rate": 1.02, "d_coef": 5.0},
        {"lr": 0.1, "safeguard_warmup": True, "eps": 0.1}, {**ONE, "d0": 0.1, "maximize": True, "betas": (0.0, 0.9)},
        **ALL,
    ),
    *grid(
        optim.Prodigy, hand.prodigy,
        CORRECTED, {**CORRECTED, "weight_decay": 0.1, "d0": 0.01, "betas": (0.5, 0.75), "eps": 0.1, "d_coef": 2.0},
        {**CORRECTED, "lr": 0.5, "beta3": 0.9, "safeguard_warmup": True},
        optax=prodigy, **ALL,
    ),
    *grid(
        optim.DoG, hand.dog, {**ONE, "reps_rel": 0.1}, ONE, {"lr": 0.5, "reps_rel": 1e-3, "eps": 0.1},
        {**ONE, "reps_rel": 0.01, "weight_decay": 0.1},
        optax=dog, **ALL,
    ),
    *grid(optim.DoG, hand.dog, {**ONE, "reps_rel": 0.01, "scope": "group"}, {**ONE, "maximize": True}, **ALL),
    *grid(
        optim.DoWG, hand.dowg, {"lr": 0.5, "eps": 0.01}, ONE,
        optax=lambda optax, o: optax.contrib.dowg(o["lr"], eps=o.get("eps", 1e-4)), **ALL,
    ),
    *grid(
        optim.DoWG, hand.dowg, {"lr": 0.1, "reps_rel": 0.01, "weight_decay": 0.1}, {"lr": 0.1, "maximize": True},
        {"lr": 0.5, "scope": "group"},
        **ALL,
    ),
    *grid(
        optim.ScheduleFreeSGD, hand.schedule_free_sgd,
        {"lr": 0.5}, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}, {**ONE, "momentum": 1.0},
        optax=schedule_free_sgd, scope="all",
    ),
    *grid(
        optim.ScheduleFreeSGD, hand.schedule_free_sgd,
        {}, {"lr": 0.1, "warmup_steps": 10, "weight_decay": 0.1}, {"lr": 0.1, "warmup_steps": 7, "r": 1.5},
        {"lr": 0.1, "weight_lr_power": 0.0, "r": 2.0, "momentum": 0.7}, {"lr": 0.1, "maximize": True},
        scope="all",
    ),
    *grid(
        optim.ScheduleFreeAdamW, hand.schedule_free_adamw,
        {"lr": 0.1}, {}, {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.1, "eps": 0.1},
        optax=lambda optax, o: schedule_free_adamw(optax, {"lr": 2.5e-3, **o}), scope="all",
    ),
    *grid(
        optim.ScheduleFreeAdamW, hand.schedule_free_adamw,
        {"lr": 0.1, "warmup_steps": 10, "r": 1.0}, {"lr": 0.1, "betas": (1.0, 0.0), "weight_lr_power": 1.0},
        {"lr": 0.01, "maximize": True},
        scope="all",
    ),
]  # fmt: skip

# What options of theirs may not be; `test_optim_table` has those of all other rules.
WRONG = {
    "a number > 1, or inf": [1.0, 0.5, math.nan, "2", None, True],
    "a number in [0, 1), or None": [1.0, -0.1, math.nan, math.inf, "0.5", True],
    "a finite number > 0, or None": [0.0, -1.0, math.nan, math.inf, "0.5", True],
    "a number in (0, 1]": [0.0, -0.1, 1.1, math.nan, math.inf, "0.5", None, True],
    "two numbers, in (0, 1] and in [0, 1)": [(0.0, 0.9), (1.1, 0.9), (0.9, 1.0), (math.nan, 0.9), (0.9,), 0.9, None],
}
