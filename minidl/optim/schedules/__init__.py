"""Schedules: a learning rate, momentum, beta or weight decay as a pure, closed function of the step.

    optimizer = md.optim.Adam(model, lr=md.optim.schedules.OneCycle(1e-2, total_steps=1000))

`schedule(t)` is the value for step t = 0, 1, ...; nothing is remembered between calls, so training resumes right at any
step and in any order of loading. Schedules are frozen dataclasses: they compare, print and pickle. Past their end they
stay at their last value; `optim.lr_scheduler` has the bound forms with PyTorch's names and PyTorch's values there.

>>> from minidl.optim.schedules import Cosine, Warmup
>>> schedule = Warmup(Cosine(0.1, steps=100), steps=5)
>>> [round(schedule(t), 6) for t in (0, 4, 5, 55, 105)]
[0.02, 0.1, 0.1, 0.05, 0.0]
"""

from .base import Schedule
from .combine import Every, Join, KDecay, Lambda, Noisy, Product, Restarts, Scaled, Several, Shifted, Sum, Warmup
from .cycles import Chebyshev, CosineRestarts, Cyclic, OneCycle, PiecewiseConstant, PiecewiseInterpolate
from .decay import (
    REX,
    WSD,
    Constant,
    Cosine,
    Exponential,
    FlatCosine,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    Noam,
    Polynomial,
    Step,
    Tanh,
)

__all__ = [
    "REX", "WSD", "Chebyshev", "Constant", "Cosine", "CosineRestarts", "Cyclic", "Every", "Exponential", "FlatCosine",
    "InverseSqrt", "InverseTime", "Join", "KDecay", "Lambda", "Linear", "MultiStep", "Noam", "Noisy", "OneCycle",
    "PiecewiseConstant", "PiecewiseInterpolate", "Polynomial", "Product", "Restarts", "Scaled", "Schedule", "Several",
    "Shifted", "Step", "Sum", "Tanh", "Warmup",
]  # fmt: skip
