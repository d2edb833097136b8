"""Matrix methods and measured curvature with the options they are tested with; `optim_table` adds them to its own."""

from __future__ import annotations

import optim_by_hand_matrix as hand
from minidl import optim
from optim_case import MAX, grid

# A wide axis makes a first matrix with several eigenvalues of 0, whose eigenvectors are anybody's choice: the cases of
# SOAP leave out axes of more than 4 places, and test_optim_matrix.py has what holds for any choice.
SOAP = {"lr": 0.1, "max_precond_dim": 4}

MATRIX = [
    *grid(
        optim.Shampoo, hand.shampoo,
        {"lr": 0.1, "eps": 0.1}, {}, {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9}, {**MAX, "eps": 1e-2},
        {"lr": 0.1, "beta2": 0.9, "precondition_frequency": 3, "eps": 1e-2}, {"lr": 0.1, "max_precond_dim": 3},
        {"lr": 0.1, "graft": "sgd", "momentum": 0.5},
        {"lr": 0.1, "graft": "adagrad", "precondition_frequency": 4}, {"lr": 0.1, "graft": "adagrad", "beta2": 0.75},
        scope="parameter", rtol=1e-9,
    ),
    *grid(
        optim.SOAP, hand.soap,
        {**SOAP, "eps": 0.1}, SOAP, {**SOAP, "precondition_frequency": 3, "betas": (0.5, 0.75)},
        {**SOAP, "weight_decay": 0.5, "precondition_frequency": 1}, {**SOAP, **MAX, "max_precond_dim": 2},
        {"max_precond_dim": 4, "weight_decay": 0.0},
        scope="parameter", rtol=1e-9,
    ),
    *grid(
        optim.CAME, hand.came,
        {"lr": 0.1}, {}, {"lr": 0.1, "weight_decay": 0.1, "betas": (0.5, 0.75, 0.9)}, {**MAX, "clip_threshold": 0.5},
        {"lr": 0.1, "eps": (0.1, 0.2)}, {"lr": 0.1, "betas": (0.5, 0.0, 0.0)},
        scope="parameter", rtol=1e-9,
    ),
]  # fmt: skip

CURVATURE = {
    optim.AdaHessian: "test_optim_curvature.py",
    optim.Sophia: "test_optim_curvature.py",
}
