"""Optimizers: each is its paper's equation (`update`) and its numbers (`scalars`); `Optimizer` does the rest."""

from . import averaging, lr_scheduler, schedules
from .accumulation import GradientAccumulation, SkipNonFinite, decay_groups
from .adam import Adam, AdamW
from .adaptive import Adadelta, Adagrad, Adamax, RMSprop
from .base import Optimizer
from .classic import ASGD, OptimisticAdam, OptimisticGD, PolyakSGD, Rprop
from .dual import FTRL, MADGRAD
from .factored import SM3, Adafactor
from .gradients import AdaptiveClip, GradientNoise
from .large import LAMB, LARS, Fromage, NovoGrad
from .lookahead import Lookahead
from .moments import AdaBelief, AdaBound, NAdam, RAdam, Yogi
from .muon import Muon, muon_split
from .sgd import SGD, SGDW
from .sign import Lion, SignSGD, Signum
from .switch import SWATS

__all__ = [
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
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
