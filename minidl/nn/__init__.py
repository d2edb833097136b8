"""Networks: Module, layers, losses, initialisation. Class names, arguments, defaults and state keys are PyTorch's."""

from ..engine.tensor import Parameter
from . import functional, init
from .containers import ModuleDict, ModuleList, Sequential
from .frozen import frozen_statistics
from .layers import Dropout, Flatten, Identity, Linear, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from .loss import CrossEntropyLoss, MSELoss
from .module import Module, Parameters
from .norm import BatchNorm1d

__all__ = [
    "BatchNorm1d", "CrossEntropyLoss", "Dropout", "Flatten", "Identity", "Linear", "LogSoftmax", "MSELoss", "Module",
    "ModuleDict", "ModuleList", "Parameter", "Parameters", "ReLU", "Sequential", "Sigmoid", "Softmax", "Tanh",
    "frozen_statistics", "functional", "init",
]  # fmt: skip
