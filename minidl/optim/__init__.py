"""Optimizers: each is its paper's equation (`update`) and its numbers (`scalars`); `Optimizer` does the rest."""

import importlib
from typing import TYPE_CHECKING, Any

from . import averaging
from .accumulation import GradientAccumulation, SkipNonFinite, decay_groups
from .adam import Adam, AdamW
from .adaptive import Adadelta, Adagrad, Adamax, RMSprop
from .base import Optimizer
from .classic import ASGD, OptimisticAdam, OptimisticGD, PolyakSGD, Rprop
from .dual import FTRL, MADGRAD
from .factored import SM3, Adafactor
from .gradients import AdaptiveClip, GradientNoise
from .large import LAMB, LARS, Fromage, NovoGrad
from .linesearch import LBFGS, NonlinearCG
from .lookahead import Lookahead
from .moments import AdaBelief, AdaBound, NAdam, RAdam, Yogi
from .muon import Muon, muon_split
from .sgd import SGD, SGDW
from .sign import Lion, SignSGD, Signum
from .switch import SWATS

if TYPE_CHECKING:
    from . import lr_scheduler, schedules


def __getattr__(name: str) -> Any:
    if name in ("lr_scheduler", "schedules"):  # thirty dataclasses take 20 ms to make: loaded when first used
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "LBFGS",
    "MADGRAD",
    "SGD",
    "SGDW",
    "SM3",
    "SWATS",
    "AdaBelief",
    "AdaBound",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AdaptiveClip",
    "Fromage",
    "GradientAccumulation",
    "GradientNoise",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "NonlinearCG",
    "NovoGrad",
    "OptimisticAdam",
    "OptimisticGD",
    "Optimizer",
    "PolyakSGD",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SignSGD",
    "Signum",
    "SkipNonFinite",
    "Yogi",
    "averaging",
    "decay_groups",
    "lr_scheduler",
    "muon_split",
    "schedules",
]
