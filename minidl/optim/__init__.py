"""Optimizers: each is its paper's equation (`update`) and its numbers (`scalars`); `Optimizer` does the rest."""

from . import lr_scheduler, schedules
from .adam import Adam, AdamW
from .adaptive import Adadelta, Adagrad, Adamax, RMSprop
from .base import Optimizer
from .classic import ASGD, OptimisticAdam, OptimisticGD, PolyakSGD, Rprop
from .gradients import AdaptiveClip, GradientNoise
from .lookahead import Lookahead
from .moments import AdaBelief, AdaBound, NAdam, RAdam, Yogi
from .sgd import SGD, SGDW
from .sign import Lion, SignSGD, Signum
from .switch import SWATS

__all__ = [
    "ASGD",
    "SGD",
    "SGDW",
    "SWATS",
    "AdaBelief",
    "AdaBound",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AdaptiveClip",
    "GradientNoise",
    "Lion",
    "Lookahead",
    "NAdam",
    "OptimisticAdam",
    "OptimisticGD",
    "Optimizer",
    "PolyakSGD",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SignSGD",
    "Signum",
    "Yogi",
    "lr_scheduler",
    "schedules",
]
