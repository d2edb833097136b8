"""Optimizers: each is its paper's equation (`update`) and its numbers (`scalars`); `Optimizer` does the rest."""

from .adam import Adam, AdamW
from .base import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]
