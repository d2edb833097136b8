"""Schedules made of others: warm-up, one after another, products, shifts, restarts, and several values at once."""

from __future__ import annotations

import math
import pickle
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks
from .base import Schedule, between, cosine, power
from .cycles import cycle_of

Function = Callable[[float], float]  # a schedule or any function of the step


@dataclass(frozen=True)
class Lambda(Schedule):
    """A function of the step as a schedule. It must be picklable: defined by `def` in a module, and not inside another.

    ValueError for a lambda or an inner function: a checkpoint could not name it. Better a schedule of your own, a
    frozen dataclass with `value(t)`, whose settings are then part of its text.

    >>> Lambda(math.exp)(0)
    1.0
    """

    function: Function

    def __post_init__(self) -> None:
        checks.schedules(self, "function", [self.function])
        try:
            pickle.dumps(self.function)
        except Exception as error:
            raise ValueError(
                f"Lambda: function must be picklable, defined by def at the top of a module, got "
                f"function={self.function!r} ({error})"
            ) from None

    def value(self, t: float) -> float:
        return self.function(t)

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", None)
        return f"Lambda({self.function!r})" if name is None else f"Lambda({self.function.__module__}.{name})"


@dataclass(frozen=True)
class Warmup(Schedule):
    """Raise the first value of a schedule from a small one in `steps` steps, then let the schedule begin.

    The value at t < steps is schedule(0) times a factor of x = (t + 1) / steps, or of x = t / steps with `zero_first`
    (optax, Hugging Face, timm: a first step of size 0 if start=0):

        "linear"        start + (1 - start) x                           (Goyal et al. 2017, arXiv:1706.02677, Sec. 2.2)
        "constant"      start
        "exponential"   start^(1 - x), which needs start > 0
        "cosine"        1 - (1 - start) (1 + cos(pi x)) / 2
        "1-sqrt"        1 - (1 - start) sqrt(1 - x)

    With `delay=False` the schedule does not wait: the factor multiplies schedule(t), which goes on as without it.

    >>> from minidl.optim.schedules import Linear
    >>> [Warmup(Linear(1.0, steps=2), 4)(t) for t in range(7)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0]
    """

    schedule: Function
    steps: float
    kind: str = "linear"
    start: float = 0.0
    zero_first: bool = False
    delay: bool = True

    def __post_init__(self) -> None:
        checks.schedules(self, "schedule", [self.schedule])
        checks.at_least_zero(self, "steps", "start")
        checks.one_of(self, "kind", ("linear", "constant", "exponential", "cosine", "1-sqrt"))
        checks.flags(self, "zero_first", "delay")
        if self.kind == "exponential":
            checks.positive(self, "start")

    def factor(self, t: float) -> float:
        """Compute the factor for t < steps."""
        x = min((t if self.zero_first else t + 1) / self.steps, 1)
        if self.kind == "constant":
            return self.start
        if self.kind == "exponential":
            return self.start ** (1 - x)
        risen = {"linear": x, "cosine": 1 - cosine(x), "1-sqrt": 1 - math.sqrt(1 - x)}[self.kind]
        return between(self.start, 1.0, risen)

    def value(self, t: float) -> float:
        if t >= self.steps:
            return self.schedule(t - self.steps if self.delay else t)
        return self.factor(t) * self.schedule(0 if self.delay else t)


@dataclass(frozen=True)
class Join(Schedule):
    """One schedule after another: schedules[i] from boundaries[i - 1] on, counting its own steps from there.

    optax's join_schedules, PyTorch's SequentialLR. One schedule more than boundaries.

    >>> from minidl.optim.schedules import Constant, Linear
    >>> [Join((Constant(0.1), Linear(1.0, steps=2)), boundaries=(2,))(t) for t in range(5)]
    [0.1, 0.1, 1.0, 0.5, 0.0]
    """

    schedules: tuple[Function, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        checks.schedules(self, "schedules", checks.sequence(self, "schedules"))
        checks.numbers(self, "boundaries", increasing=True)
        if len(self.schedules) != len(self.boundaries) + 1:
            raise ValueError(
                f"Join: needs one schedule more than boundaries, got {len(self.schedules)} schedules and "
                f"boundaries={self.boundaries!r}"
            )

    def value(self, t: float) -> float:
        i = bisect_right(self.boundaries, t)
        return self.schedules[i](t - self.boundaries[i - 1] if i else t)


@dataclass(frozen=True)
class Product(Schedule):
    """The product of schedules, a * b.

    >>> from minidl.optim.schedules import Constant, Linear
    >>> (Linear(1.0, steps=4) * Constant(0.5))(1)
    0.375
    """

    factors: tuple[Function, ...]

    def __post_init__(self) -> None:
        checks.schedules(self, "factors", checks.sequence(self, "factors"))

    def value(self, t: float) -> float:
        return math.prod(factor(t) for factor in self.factors)


@dataclass(frozen=True)
class Sum(Schedule):
    """The sum of schedules, a + b.

    >>> from minidl.optim.schedules import Constant, Linear
    >>> (Linear(1.0, steps=4) + Constant(0.5))(1), (Linear(1.0, steps=4) + 0.5)(1)
    (1.25, 1.25)
    """

    parts: tuple[Function, ...]

    def __post_init__(self) -> None:
        checks.schedules(self, "parts", checks.sequence(self, "parts"))

    def value(self, t: float) -> float:
        return sum(part(t) for part in self.parts)


@dataclass(frozen=True)
class Scaled(Schedule):
    """A schedule times a number: 0.1 * schedule.

    >>> from minidl.optim.schedules import Linear
    >>> Scaled(Linear(1.0, steps=4), 0.1)(2)
    0.05
    """

    schedule: Function
    factor: float

    def __post_init__(self) -> None:
        checks.schedules(self, "schedule", [self.schedule])
        checks.finite(self, "factor")

    def value(self, t: float) -> float:
        return self.factor * self.schedule(t)


@dataclass(frozen=True)
class Shifted(Schedule):
    """A schedule that begins later, schedule(t - steps), at its first value before; or earlier, if steps < 0.

    >>> from minidl.optim.schedules import Linear
    >>> [Shifted(Linear(1.0, steps=4), 2)(t) for t in (0, 2, 3)], Shifted(Linear(1.0, steps=4), -2)(0)
    ([1.0, 1.0, 0.75], 0.5)
    """

    schedule: Function
    steps: float

    def __post_init__(self) -> None:
        checks.schedules(self, "schedule", [self.schedule])
        checks.finite(self, "steps")

    def value(self, t: float) -> float:
        return self.schedule(max(t - self.steps, 0))


@dataclass(frozen=True)
class Every(Schedule):
    """A schedule that counts in units of several steps, such as epochs: schedule(floor(t / steps)).

    >>> from minidl.optim.schedules import Exponential
    >>> [Every(Exponential(1.0, 0.5), steps=100)(t) for t in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """

    schedule: Function
    steps: float

    def __post_init__(self) -> None:
        checks.schedules(self, "schedule", [self.schedule])
        checks.positive(self, "steps")

    def value(self, t: float) -> float:
        return self.schedule(int(t // self.steps))


@dataclass(frozen=True)
class Restarts(Schedule):
    """Any schedule of `steps` steps, over and over: decay^n schedule(steps T_cur / T_n), T_n = steps t_mul^n.

    T_cur steps have passed in cycle n, which stretches the schedule to its length (timm's cycle_mul, cycle_decay and
    cycle_limit: after `limit` cycles the value is the schedule's last one).

    >>> from minidl.optim.schedules import Linear
    >>> [Restarts(Linear(1.0, steps=2), steps=2, decay=0.5)(t) for t in range(6)]
    [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]
    """

    schedule: Function
    steps: float
    t_mul: float = 1
    decay: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        checks.schedules(self, "schedule", [self.schedule])
        checks.positive(self, "steps")
        checks.at_least_one(self, "t_mul", *[] if self.limit is None else ["limit"])
        checks.at_least_zero(self, "decay")

    def value(self, t: float) -> float:
        n, passed, length = cycle_of(t, self.steps, self.t_mul)
        if self.limit is not None and n >= self.limit:
            return self.decay ** (self.limit - 1) * self.schedule(self.steps)
        return power(self.decay, n) * self.schedule(passed * (self.steps / length))


@dataclass(frozen=True)
class KDecay(Schedule):
    """Hold a schedule longer near its start: schedule(steps (t / steps)^k) (Zhang & Li 2020, arXiv:2004.05909).

    k = 1 changes nothing. With `Cosine` and `Polynomial` these are timm's schedulers with k_decay.

    >>> from minidl.optim.schedules import Linear
    >>> [KDecay(Linear(1.0, steps=4), steps=4, k=2)(t) for t in range(5)]
    [1.0, 0.9375, 0.75, 0.4375, 0.0]
    """

    schedule: Function
    steps: float
    k: float

    def __post_init__(self) -> None:
        checks.schedules(self, "schedule", [self.schedule])
        checks.positive(self, "steps", "k")

    def value(self, t: float) -> float:
        return self.schedule(self.steps * min(t / self.steps, 1) ** self.k)


@dataclass(frozen=True)
class Noisy(Schedule):
    """A schedule with noise, schedule(t) (1 + std z), z standard normal with |std z| <= limit (timm's lr noise).

    z is a pure function of (seed, t), so that the noise is the same after a resume. It begins at step `begin`.

    >>> from minidl.optim.schedules import Constant
    >>> noisy = Noisy(Constant(1.0), std=0.1, seed=0)
    >>> noisy(5) == noisy(5), noisy(5) == noisy(6)
    (True, False)
    """

    schedule: Function
    std: float
    seed: int = 0
    limit: float = 0.67
    begin: float = 0

    def __post_init__(self) -> None:
        checks.schedules(self, "schedule", [self.schedule])
        checks.at_least_zero(self, "begin")
        checks.positive(self, "limit")
        checks.number(self, f"in [0, limit={self.limit}]", lambda x: 0 <= x <= self.limit, "std")
        checks.number(self, "an int >= 0", lambda x: isinstance(x, int) and x >= 0, "seed")

    def value(self, t: float) -> float:
        if t < self.begin:
            return self.schedule(t)
        generator = np.random.default_rng([self.seed, int(t)])
        noise = self.std * generator.standard_normal()
        while abs(noise) > self.limit:
            noise = self.std * generator.standard_normal()
        return self.schedule(t) * (1 + noise)


@dataclass(frozen=True)
class Several:
    """Several values at once, each a number or a schedule, for an option that is a tuple: betas, for one.

    >>> from minidl.optim.schedules import Linear
    >>> Several((Linear(0.9, steps=10, end=0.8), 0.999))(5)
    (0.8500000000000001, 0.999)
    """

    parts: tuple[Any, ...]

    def __post_init__(self) -> None:
        for part in checks.sequence(self, "parts"):
            if not callable(part):
                checks.checked(self, "finite numbers or schedules", math.isfinite, "parts", part)

    def __call__(self, t: float) -> tuple[Any, ...]:
        """Return the values for step t."""
        return tuple(part(t) if callable(part) else part for part in self.parts)
