"""The optimizers since 2018 with the options they are tested with; joined to the table in optim_table.py."""

from __future__ import annotations

import optim_by_hand_modern as hand
from minidl import optim
from optim_case import DECOUPLED, EDGE, L2, LOW, MAX, grid


def adopt(optax, o):
    exponent = o.get("clip_exponent", 0.25)
    clip = {"use_clipping": False} if exponent is None else {"clip_value_fn": lambda t: t**exponent}
    return optax.contrib.adopt(o.get("lr", 1e-3), *o.get("betas", (0.9, 0.9999)), o.get("eps", 1e-6), **clip)


def ademamix(optax, o):
    b1, b2, b3 = o.get("betas", (0.9, 0.999, 0.9999))
    alpha, steps = o.get("alpha", 5.0), o.get("alpha_warmup", 1)
    # its schedules count from 0, ours from 1
    return optax.contrib.ademamix(
        o.get("lr", 1e-3), b1, b2, b3, alpha=lambda t: alpha * ((t.astype(float) + 1) / steps).clip(0, 1),
        eps=o.get("eps", 1e-8), weight_decay=o.get("weight_decay", 0.0),
    )  # fmt: skip


HALF = {"lr": 0.1, "betas": (0.5, 0.75, 0.5)}
MODERN = [
    *grid(
        optim.QHM, hand.qhm,
        {}, L2, MAX, DECOUPLED, {"lr": 0.1, "momentum": 0.9, "nu": 0.0}, {"lr": 0.1, "momentum": 0.0, "nu": 1.0},
    ),
    *grid(
        optim.QHAdam, hand.qhadam,
        {}, L2, MAX, DECOUPLED, LOW, EDGE, {"lr": 0.1, "nus": (0.25, 0.5), "eps": 0.1}, {"lr": 0.1, "nus": (0.0, 0.0)},
    ),
    *grid(
        optim.AggMo, hand.aggmo,
        {}, L2, MAX, DECOUPLED, {"lr": 0.1, "betas": (0.5,)}, {"lr": 0.1, "betas": (0.0,)},
        {"lr": 0.01, "betas": (0.99, 0.0, 0.5, 0.99, 0.0)},
    ),
    *grid(
        optim.AdEMAMix, hand.ademamix,
        {}, {**HALF, "eps": 0.1}, {"lr": 0.1, "alpha": 2.0, "alpha_warmup": 20, "weight_decay": 0.1},
        optax=ademamix,
    ),
    *grid(
        optim.AdEMAMix, hand.ademamix,
        MAX, {**HALF, "beta3_warmup": 30}, {"lr": 0.1, "alpha_warmup": 60, "beta3_warmup": 60},
        {"lr": 0.1, "alpha_warmup": 1, "beta3_warmup": 1}, {"lr": 0.1, "betas": (0.0, 0.0, 0.0)},
    ),
    *grid(
        optim.ADOPT, hand.adopt,
        {}, {**LOW, "eps": 0.1}, {"lr": 0.1, "clip_exponent": None}, {"lr": 0.1, "clip_exponent": 0.0}, EDGE,
        optax=adopt,
    ),
    *grid(optim.ADOPT, hand.adopt, L2, MAX, DECOUPLED),
    *grid(optim.LaProp, hand.laprop, {}, L2, MAX, DECOUPLED, {**LOW, "eps": 0.1}, EDGE),
    *grid(
        optim.Padam, hand.padam,
        {}, L2, MAX, DECOUPLED, LOW, {"lr": 0.1, "partial": 0.0, "eps": 0.1}, {"lr": 0.1, "partial": 0.5, "eps": 0.1},
    ),
    *grid(
        optim.AdaMod, hand.adamod, {}, L2, MAX, DECOUPLED, {**LOW, "beta3": 0.5, "eps": 0.1}, {"lr": 0.1, "beta3": 0.0},
    ),
    *grid(
        optim.Adan, hand.adan,
        {}, L2, MAX, {**HALF, "eps": 0.1}, {"lr": 0.1, "betas": (0.0, 0.0, 0.0)},
    ),
    *grid(optim.DiffGrad, hand.diffgrad, {}, L2, MAX, DECOUPLED, {**LOW, "eps": 0.1}),
    *grid(
        optim.MARS, hand.mars,
        {"lr": 0.1}, L2, MAX, {**LOW, "gamma": 0.5, "eps": 0.1}, {"lr": 0.1, "gamma": 0.0}, EDGE,
        scope="parameter",
    ),
]  # fmt: skip
