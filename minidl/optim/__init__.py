"""Optimizers: each is its paper's equation (`update`) and its numbers (`scalars`); `Optimizer` does the rest."""

import importlib
from typing import TYPE_CHECKING, Any

from . import averaging
from .accumulation import GradientAccumulation, SkipNonFinite, decay_groups
from .adam import Adam, AdamW
from .adaptive import Adadelta, Adagrad, Adamax, RMSprop
from .base import Optimizer
from .cautious import cautious
from .classic import ASGD, OptimisticAdam, OptimisticGD, PolyakSGD, Rprop
from .curvature import AdaHessian, Sophia
from .damped import GaussNewton, LevenbergMarquardt, SaddleFreeNewton
from .differences import MARS, Adan, DiffGrad
from .dog import DoG, DoWG
from .dual import FTRL, MADGRAD
from .factored import CAME, SM3, Adafactor
from .gradients import AdaptiveClip, GradientNoise
from .large import LAMB, LARS, Fromage, NovoGrad
from .linesearch import LBFGS, NonlinearCG
from .lookahead import Lookahead
from .momenta import QHM, AdEMAMix, AggMo, QHAdam
from .moments import AdaBelief, AdaBound, NAdam, RAdam, Yogi
from .muon import Muon, muon_split
from .newton import NewtonCG, TrustRegion
from .normalized import ADOPT, AdaMod, LaProp, Padam
from .parameter_free import DAdaptAdam, DAdaptSGD, Prodigy
from .preconditioned import SOAP, Shampoo
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from .sgd import SGD, SGDW
from .sharpness_aware import ASAM, GSAM, SAM
from .sign import Lion, SignSGD, Signum
from .switch import SWATS

if TYPE_CHECKING:
    from . import lr_scheduler, schedules


def __getattr__(name: str) -> Any:
    if name in ("lr_scheduler", "schedules"):  # thirty dataclasses take 20 ms to make: loaded when first used
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ADOPT",
    "ASAM",
    "ASGD",
    "CAME",
    "FTRL",
    "GSAM",
    "LAMB",
    "LARS",
    "LBFGS",
    "MADGRAD",
    "MARS",
    "QHM",
    "SAM",
    "SGD",
    "SGDW",
    "SM3",
    "SOAP",
    "SWATS",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdaHessian",
    "AdaMod",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "AdaptiveClip",
    "AggMo",
    "DAdaptAdam",
    "DAdaptSGD",
    "DiffGrad",
    "DoG",
    "DoWG",
    "Fromage",
    "GaussNewton",
    "GradientAccumulation",
    "GradientNoise",
    "LaProp",
    "LevenbergMarquardt",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "NewtonCG",
    "NonlinearCG",
    "NovoGrad",
    "OptimisticAdam",
    "OptimisticGD",
    "Optimizer",
    "Padam",
    "PolyakSGD",
    "Prodigy",
    "QHAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SaddleFreeNewton",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "SignSGD",
    "Signum",
    "SkipNonFinite",
    "Sophia",
    "TrustRegion",
    "Yogi",
    "averaging",
    "cautious",
    "decay_groups",
    "lr_scheduler",
    "muon_split",
    "schedules",
]
