"""Second order: the Hessian of a network and its products, exact, by double backprop."""

from .critical import Classification, classify, minimum_ratio
from .dense import Hessian, blocks, diagonal, hessian
from .estimate import Estimate, estimate_diagonal, trace
from .gauss_newton import FisherOperator, GaussNewtonOperator, fisher_vp, ggnvp
from .operator import CurvatureOperator, FiniteDifferenceOperator, HessianOperator, hvp
from .parameters import ParameterVector
from .saddles import Escape, escape
from .search import CriticalPoint, find_critical
from .sharpness import EdgeOfStability, Reading, Sharpness, sharpness
from .slices import (
    Interpolation,
    LossSlice,
    TrajectoryPlane,
    interpolate,
    loss_slice,
    random_direction,
    trajectory_plane,
)
from .spectrum import Eigenpairs, Spectrum, eigsh, spectrum
from .taylor import ErrorCurve, QuadraticModel, quadratic_model

__all__ = [
    "Classification",
    "CriticalPoint",
    "CurvatureOperator",
    "EdgeOfStability",
    "Eigenpairs",
    "ErrorCurve",
    "Escape",
    "Estimate",
    "FiniteDifferenceOperator",
    "FisherOperator",
    "GaussNewtonOperator",
    "Hessian",
    "HessianOperator",
    "Interpolation",
    "LossSlice",
    "ParameterVector",
    "QuadraticModel",
    "Reading",
    "Sharpness",
    "Spectrum",
    "TrajectoryPlane",
    "blocks",
    "classify",
    "diagonal",
    "eigsh",
    "escape",
    "estimate_diagonal",
    "find_critical",
    "fisher_vp",
    "ggnvp",
    "hessian",
    "hvp",
    "interpolate",
    "loss_slice",
    "minimum_ratio",
    "quadratic_model",
    "random_direction",
    "sharpness",
    "spectrum",
    "trace",
    "trajectory_plane",
]
