"""How the battery for optimizers drives one: the same parameters, gradients and closures each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..creation import tensor
from ..engine.tensor import Parameter
from ..optim.vector import VectorOptimizer


@dataclass(frozen=True)
class Trial:
    """An optimizer to be tried: how it is made, on what, and what its steps need."""

    make: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    steps: int
    seed: int
    needs: str
    coupled: bool

    def params(self, dtype: Any = np.float64) -> list[Any]:
        """Return new parameters, the same each time."""
        rng = np.random.default_rng(self.seed)
        return [Parameter(np.asarray(rng.standard_normal(shape), dtype)) for shape in self.shapes]

    def maximizing(self, params: Sequence[Any], maximize: bool) -> Any:
        """Make an optimizer that maximizes or not, by its group if the constructor has no such argument."""
        try:
            return self.make(params, maximize=maximize)
        except TypeError:
            return self.make([{"params": params, "maximize": maximize}])

    def noise(self, t: int, k: int, p: Any) -> Any:
        """Return what is added to the gradient of parameter k at step t, whoever else is in its optimizer."""
        return np.asarray(np.random.default_rng((self.seed, t, k)).standard_normal(p.shape), p.dtype)

    def slope(self, t: int, k: int, p: Any) -> Any:
        """Return a constant gradient so large that weight decay, or an L2 term, is small beside it."""
        n = self.noise(0, k, p)
        return np.asarray(n + 10 * np.sign(n), p.dtype)

    def advance(
        self,
        optimizer: Any,
        params: Sequence[Any],
        t: int,
        keys: Sequence[int] | None = None,
        skip: Sequence[int] = (),
        sign: float = 1.0,
        curvature: float = 0.3,
        constant: bool = False,
        step: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        """Take step t on the sum of sign (curvature / 2 |p|^2 + <noise, p>); those in `skip` have no gradient.

        constant: the noise is the same large one at every step. step: what takes the step, given a closure.
        """
        keys = range(len(params)) if keys is None else keys
        noise = self.slope if constant else self.noise
        pairs = [(p, noise(t, k, p)) for k, p in zip(keys, params, strict=True)]
        moving = [pair for k, pair in zip(keys, pairs, strict=True) if k not in skip]
        for p in params:
            p.grad = None

        def closure() -> Any:
            if self.needs == "gradient" or not moving:
                for p, n in moving:
                    p.grad = np.asarray(sign * (curvature * p.data + n), p.dtype)
                return tensor(1.0)
            loss = sum((sign * (curvature / 2) * (p * p) + sign * n * p).sum() for p, n in moving)
            loss.backward(create_graph=True)
            return loss

        if step is not None:
            step(closure)
        elif self.needs == "closure":
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()

    def run(self, optimizer: Any, params: Sequence[Any], first: int, last: int, **how: Any) -> Any:
        """Take the steps first, ..., last; return the optimizer."""
        for t in range(first, last + 1):
            self.advance(optimizer, params, t, **how)
        return optimizer

    def check_kind(self) -> None:
        """Refuse what the battery is not made for, and say what another optimizer needs."""
        params = self.params()
        optimizer = self.make(params)
        if isinstance(optimizer, VectorOptimizer):
            raise TypeError(
                f"check_optimizer: {type(optimizer).__name__} moves all parameters along one line and calls its closure"
                " many times; this battery is for optimizers that move each parameter by its gradient"
            )
        try:
            self.advance(optimizer, params, 1)
        except (RuntimeError, TypeError, ValueError) as error:
            raise AssertionError(
                f"check_optimizer: a step with needs={self.needs!r} raised {type(error).__name__}: {error} (if it needs"
                " the graph of the gradients, or a closure, pass needs='graph' or needs='closure')"
            ) from error


def demand(holds: bool, what: str) -> None:
    """Raise AssertionError unless something holds."""
    if not holds:
        raise AssertionError(f"check_optimizer: {what}")


def alike(found: Sequence[Any], expected: Sequence[Any], rule: str, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Demand that parameters, or arrays, are equal."""
    for k, (x, y) in enumerate(zip(found, expected, strict=True)):
        x, y = getattr(x, "data", x) if isinstance(x, Parameter) else x, y.data if isinstance(y, Parameter) else y
        good = np.allclose(x, y, rtol, atol) if rtol or atol else np.array_equal(x, y)
        demand(good, f"{rule}; parameter {k} {np.shape(x)} differs")


def values(params: Sequence[Any]) -> list[Any]:
    """Return copies of what parameters hold."""
    return [p.data.copy() for p in params]


def unmoved(params: Sequence[Any], before: Sequence[Any], rule: str) -> None:
    """Demand that parameters hold what they did."""
    for k, (p, x) in enumerate(zip(params, before, strict=True)):
        demand(np.array_equal(p.data, x), f"{rule}; parameter {k} {p.shape} moved")
