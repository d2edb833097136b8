"""Every optimizer with the options it is tested with, its formula as loops, and the libraries it must agree with."""

from __future__ import annotations

import optim_by_hand as hand
from minidl import optim
from optim_case import DECOUPLED, EDGE, L2, LOW, MAX, MOMENTS, Case, grid
from optim_table_free import FREE
from optim_table_matrix import CURVATURE, MATRIX
from optim_table_modern import MODERN

TABLE: list[Case] = [
    *grid(
        optim.SGDW, hand.sgdw,
        {}, {"lr": 0.1, "weight_decay": 0.5}, {**MAX, "dampening": 0.5}, {"lr": 0.1, "nesterov": True},
        {"lr": 0.1, "lr_in_buffer": True, "decay": "schedule"}, {"lr": 0.1, "momentum": 0.0},
    ),
    *grid(
        optim.Adam, hand.adam,
        {"lr": 0.1, "amsgrad": True, "debias": "torch"}, {"lr": 0.1, "amsgrad": True, "debias": "none"},
        {"lr": 0.1, "weight_decay": 0.1, "debias": "none"}, {"lr": 0.1, "eps": 0.1, "debias": "keras"},
        {"lr": 0.1, "eps": 0.1, "debias": "vhat"},
    ),
    *grid(
        optim.Adam, hand.adam, {"lr": 0.1, "eps": 0.1, "amsgrad": True, "debias": "vhat"},
        optax=lambda optax, o: optax.amsgrad(o["lr"], eps=o["eps"]),
    ),
    *grid(
        optim.AdamW, hand.adamw,
        {"lr": 0.1, "decay": "schedule"}, {"lr": 0.1, "amsgrad": True, "debias": "none"},
    ),
    *grid(
        optim.Adagrad, hand.adagrad,
        {}, L2, {**MAX, "initial_accumulator_value": 0.1}, {"lr": 0.1, "lr_decay": 0.5},
        {"lr": 0.1, "mean": True}, {"lr": 0.1, "mean": True, "eps": 0.1, "lr_decay": 0.1},
        torch="Adagrad", names={"s": "sum"}, only={"mean"},
    ),
    *grid(
        optim.Adagrad, hand.adagrad,
        {"lr": 0.1, "eps": 1e-7, "eps_in_sqrt": True, "initial_accumulator_value": 0.1},
        optax=lambda optax, o: optax.adagrad(o["lr"]),
    ),
    *grid(
        optim.RMSprop, hand.rmsprop,
        {}, L2, {**MAX, "centered": True}, {"centered": True, "momentum": 0.1, "eps": 0.1},
        {"lr": 0.1, "momentum": 0.9}, {"alpha": 0.5, "initial_accumulator_value": 1.0},
        torch="RMSprop", names={"v": "square_avg", "c": "grad_avg", "b": "momentum_buffer"},
        only={"initial_accumulator_value"},
    ),
    *grid(
        optim.RMSprop, hand.rmsprop,
        {"lr": 0.1, "alpha": 0.9, "eps": 0.1, "eps_in_sqrt": True, "lr_in_buffer": True, "momentum": 0.9},
        {"lr": 0.1, "alpha": 0.9, "eps": 0.1, "eps_in_sqrt": True, "lr_in_buffer": True, "momentum": 0.9,
         "centered": True},
        optax=lambda optax, o: optax.rmsprop(o["lr"], o["alpha"], o["eps"], centered=o.get("centered", False),
                                             momentum=o["momentum"]),
    ),
    *grid(
        optim.Adadelta, hand.adadelta, {}, {"lr": 0.5, "eps": 0.1},
        torch="Adadelta", names={"v": "square_avg", "u": "acc_delta"},
        optax=lambda optax, o: optax.adadelta(o.get("lr", 1.0), eps=o.get("eps", 1e-6)),
    ),
    *grid(
        optim.Adadelta, hand.adadelta, {"rho": 0.95, "weight_decay": 0.9}, {"maximize": True},
        torch="Adadelta", names={"v": "square_avg", "u": "acc_delta"},
    ),
    *grid(
        optim.Adamax, hand.adamax, {}, L2, MAX, LOW, EDGE,
        torch="Adamax", names={"m": "exp_avg", "u": "exp_inf"},
    ),
    *grid(
        optim.NAdam, hand.nadam,
        {}, L2, MAX, DECOUPLED, LOW, EDGE, {"lr": 0.1, "momentum_decay": 0.006}, {"momentum_decay": 1.0},
        torch="NAdam", names=MOMENTS,
    ),
    *grid(optim.NAdam, hand.nadam, {"lr": 0.1, "variant": "timm", "eps": 0.1}),
    *grid(
        optim.NAdam, hand.nadam, {"lr": 0.1, "variant": "optax", "eps": 0.1},
        optax=lambda optax, o: optax.nadam(o["lr"], eps=o["eps"]),
    ),
    *grid(
        optim.RAdam, hand.radam,
        {}, L2, MAX, DECOUPLED, LOW, EDGE, {"eps": 0.1}, {"lr": 0.1, "betas": (0.9, 0.5)},
        {"lr": 0.1, "variant": "paper"}, {"lr": 0.1, "variant": "official"}, {**DECOUPLED, "variant": "official"},
        torch="RAdam", names=MOMENTS, only={"variant"},
    ),
    *grid(
        optim.AdaBound, hand.adabound,
        {}, L2, MAX, DECOUPLED, LOW, {"lr": 0.1, "gamma": 0.1, "amsbound": True, "final_lr": 0.2},
    ),
    *grid(optim.Yogi, hand.yogi, {}, L2, MAX, DECOUPLED, {**LOW, "initial_accumulator_value": 0.0}),
    *grid(
        optim.AdaBelief, hand.adabelief, {"lr": 0.1, "eps": 0.1, "eps_root": 0.01}, {}, LOW,
        optax=lambda optax, o: optax.adabelief(o.get("lr", 1e-3), *o.get("betas", (0.9, 0.999)), o.get("eps", 1e-16),
                                               o.get("eps_root", 1e-16)),
    ),
    *grid(optim.AdaBelief, hand.adabelief, L2, MAX, DECOUPLED),
    *grid(
        optim.ASGD, hand.asgd,
        {}, {"lr": 0.02, "lambd": 0.1, "t0": 10}, L2, MAX, {"lr": 0.1, "t0": 0, "alpha": 0.5},
        torch="ASGD", names={"ax": "ax"},
    ),
    *grid(
        optim.Rprop, hand.rprop,
        {}, {"etas": (0.5, 1.5), "step_sizes": (2e-6, 100.0)}, MAX, {"lr": 2.0, "step_sizes": (0.5, 1.0)},
        torch="Rprop", names={"previous": "prev", "d": "step_size"},
    ),
    *grid(
        optim.OptimisticGD, hand.optimistic_gd, {}, {"lr": 0.1, "alpha": 0.5, "beta": 2.0},
        optax=lambda optax, o: optax.optimistic_gradient_descent(o.get("lr", 1e-3), o.get("alpha", 1.0),
                                                                 o.get("beta", 1.0)),
    ),
    *grid(optim.OptimisticGD, hand.optimistic_gd, MAX),
    *grid(
        optim.OptimisticAdam, hand.optimistic_adam, {}, {"lr": 0.1, "alpha": 0.5, "beta": 2.0, "eps": 0.1},
        optax=lambda optax, o: optax.optimistic_adam_v2(o.get("lr", 1e-3), alpha=o.get("alpha", 1.0),
                                                        beta=o.get("beta", 1.0), eps=o.get("eps", 1e-8),
                                                        nesterov=False),
    ),
    *grid(optim.OptimisticAdam, hand.optimistic_adam, MAX, LOW),
    *grid(
        optim.SignSGD, hand.sign_sgd, {}, optax=lambda optax, o: optax.sign_sgd(1e-3),
    ),
    *grid(optim.SignSGD, hand.sign_sgd, L2, {**MAX, "momentum": 0.5}),
    *grid(optim.Signum, hand.signum, {"lr": 0.1}, optax=lambda optax, o: optax.signum(o["lr"])),
    *grid(optim.Signum, hand.signum, L2),
    *grid(
        optim.Lion, hand.lion, {}, {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.1},
        optax=lambda optax, o: optax.lion(o.get("lr", 1e-4), *o.get("betas", (0.9, 0.99)),
                                          weight_decay=o.get("weight_decay", 0.0)),
    ),
    *grid(optim.Lion, hand.lion, MAX),
    *grid(
        optim.MADGRAD, hand.madgrad, {"lr": 0.1}, {"momentum": 0.5, "eps": 0.1},
        # optax adds eps to lr, as the authors' code does, and takes the root of the step in float32
        optax=lambda optax, o: optax.contrib.madgrad(o.get("lr", 1e-2) - o.get("eps", 1e-6), o.get("momentum", 0.9),
                                                     eps=o.get("eps", 1e-6)),
        optax_rtol=5e-6,
    ),
    *grid(optim.MADGRAD, hand.madgrad, L2, MAX, {"lr": 0.1, "momentum": 0.0}),
    *grid(
        optim.FTRL, hand.ftrl,
        {"lr": 0.1}, {"lr": 0.1, "l1": 0.5, "l2": 0.1, "beta": 1.0}, MAX, {"lr": 0.5, "initial_accumulator_value": 0.0},
    ),
    *grid(
        optim.LAMB, hand.lamb, {"lr": 0.1}, {"lr": 0.1, "weight_decay": 0.1, "betas": (0.5, 0.75), "eps": 0.1},
        optax=lambda optax, o: optax.lamb(o["lr"], *o.get("betas", (0.9, 0.999)), o.get("eps", 1e-6),
                                          weight_decay=o.get("weight_decay", 0.0)),
        scope="parameter",
    ),
    *grid(optim.LAMB, hand.lamb, MAX, scope="parameter"),
    *grid(
        optim.LARS, hand.lars,
        {"lr": 0.1}, {**L2, "trust": 0.1, "eps": 0.1}, {**MAX, "momentum": 0.5}, {**L2, "trust": None},
        scope="parameter",
    ),
    *grid(
        optim.NovoGrad, hand.novograd, {"lr": 0.1}, {"lr": 0.1, "weight_decay": 0.1, "betas": (0.5, 0.75), "eps": 0.1},
        optax=lambda optax, o: optax.novograd(o["lr"], *o.get("betas", (0.95, 0.98)), o.get("eps", 1e-8),
                                              weight_decay=o.get("weight_decay", 0.0)),
        scope="parameter",
    ),
    *grid(optim.NovoGrad, hand.novograd, MAX, {"averaged": True}, scope="parameter"),
    *grid(optim.Fromage, hand.fromage, {"lr": 0.1}, MAX, scope="parameter"),
    *grid(
        optim.Adafactor, hand.adafactor,
        {"lr": 0.1}, L2, MAX, {"lr": 0.1, "beta2_decay": -1.0, "d": 1.5}, {"lr": 0.5, "eps": (0.5, 0.2)},
        torch="Adafactor", names={"r": "row_var", "c": "col_var"}, scope="parameter", rtol=1e-9,
        leave_out=(3,),
    ),
    *grid(
        optim.SM3, hand.sm3, {"lr": 0.1}, {"lr": 0.5, "momentum": 0.5}, scope="parameter",
        optax=lambda optax, o: optax.sm3(o["lr"], o.get("momentum", 0.9)), leave_out=(2, 3),
    ),
    *grid(optim.SM3, hand.sm3, {**MAX, "eps": 0.1}, scope="parameter"),
    *FREE,
    *MATRIX,
    *MODERN,
]  # fmt: skip

NEWTON = [optim.TrustRegion, optim.NewtonCG, optim.SaddleFreeNewton, optim.GaussNewton, optim.LevenbergMarquardt]

# One case each that needs more than a gradient; the file of its trajectory tests.
SPECIAL = {
    optim.PolyakSGD: "test_optim_special.py",
    optim.SWATS: "test_optim_special.py",
    optim.LBFGS: "test_optim_linesearch.py",
    optim.NonlinearCG: "test_optim_linesearch.py",
    **dict.fromkeys(NEWTON, "test_optim_newton.py"),
    optim.Muon: "test_optim_muon.py",
    **CURVATURE,
}
KINDS = list(dict.fromkeys([case.kind for case in TABLE]))
VARIED = [next(c for c in TABLE if c.kind is kind and c.options.get("lr", 0) >= 0.1) for kind in KINDS
          if any(c.kind is kind and c.options.get("lr", 0) >= 0.1 for c in TABLE)]  # fmt: skip
