"""Hooks of any optimizer that change gradients before a step: noise, clipping by the size of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.backend import Array, on_device, to_device
from ..engine.tensor import Tensor, wrap
from .groups import Rule, at_least_zero
from .rules import above_zero, count_from_zero


class GradientHook:
    """Base of hooks that replace gradients: `optimizer.register_step_pre_hook(hook)` applies one at every step."""

    def __init__(self, **options: tuple[Any, Rule]):
        for name, (value, rule) in options.items():
            if not rule(value):
                raise ValueError(f"{type(self).__name__}: {name} must be {rule.__doc__}, got {name}={value!r}")
            setattr(self, name, value)

    def change(self, p: Tensor, g: Array, index: int, step: int) -> Array:
        """Return the gradient to be used for parameter number `index`, after so many steps."""
        raise NotImplementedError

    def __call__(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Change the gradients now, or as soon as the closure has computed them."""
        closure: Callable[[], Any] | None = args[0] if args else None
        if closure is None:
            self._change_all(optimizer)
            return None
        given = closure

        def changed() -> Any:
            loss = given()
            self._change_all(optimizer)
            return loss

        return (changed,), kwargs

    def _change_all(self, optimizer: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for i, p in enumerate(params):
            if p.grad is not None:
                xp, device = on_device(p.device)
                with device:
                    p.grad = wrap(xp.asarray(self.change(p, p.grad.array, i, optimizer.steps)))


class GradientNoise(GradientHook):
    """Add normal noise to every gradient, less and less of it (Neelakantan et al. 2015, arXiv:1511.06807, eq. 1).

        g <- g + N(0, eta / (1 + t)^gamma),   t = 0, 1, ... steps taken

    The noise depends on seed, step and parameter only, so a run that is resumed has the same. The paper tries eta =
    0.01, 0.3 and 1. ValueError for a negative or non-finite eta or gamma, and for a seed that is not an int >= 0.

    >>> import minidl as md
    >>> from minidl.optim import SGD
    >>> w = md.tensor(np.zeros(10_000), requires_grad=True)
    >>> optimizer = SGD([w], lr=1.0)
    >>> handle = optimizer.register_step_pre_hook(GradientNoise(eta=0.25))
    >>> w.grad = np.ones(10_000)
    >>> optimizer.step()
    >>> f"{w.data.mean():.2f}, {w.data.std():.2f}"
    '-1.00, 0.50'
    """

    eta: float
    gamma: float
    seed: int

    def __init__(self, eta: float = 0.01, gamma: float = 0.55, seed: int = 0):
        super().__init__(eta=(eta, at_least_zero), gamma=(gamma, at_least_zero), seed=(seed, count_from_zero))

    def change(self, p: Tensor, g: Array, index: int, step: int) -> Array:
        """Return g with noise added."""
        deviation = (self.eta / (1 + step) ** self.gamma) ** 0.5
        noise = np.random.default_rng((self.seed, step, index)).standard_normal(p.shape)
        return g + to_device(np.asarray(deviation * noise, p.dtype), p.device)


class AdaptiveClip(GradientHook):
    """Clip each unit's gradient at a fraction of its weights' norm (Brock et al. 2021, arXiv:2102.06171, eq. 3).

        g_i <- g_i min(1, clip max(|w_i|, eps) / |g_i|)

    A unit is an entry along the first axis: a row of a Linear weight, a filter of a convolution. A vector or a single
    number is one unit. The paper leaves the last layer out: give it an optimizer, or hook, of its own. ValueError for
    clip or eps <= 0.

    >>> import minidl as md
    >>> from minidl.optim import SGD
    >>> w = md.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    >>> optimizer = SGD([w], lr=1.0)
    >>> handle = optimizer.register_step_pre_hook(AdaptiveClip(clip=0.5))
    >>> w.grad = md.tensor([[6.0, 8.0], [0.0, 0.0]])
    >>> optimizer.step()
    >>> w  # the gradient was shortened from 10 to 0.5 * 5
    tensor([[1.5, 2. ],
            [0. , 0. ]], requires_grad=True)
    """

    clip: float
    eps: float

    def __init__(self, clip: float = 0.01, eps: float = 1e-3):
        super().__init__(clip=(clip, above_zero), eps=(eps, above_zero))

    def change(self, p: Tensor, g: Array, index: int, step: int) -> Array:
        """Return g, its units shortened where they are too long."""
        xp = on_device(p.device)[0]
        axes = tuple(range(1, g.ndim)) if g.ndim > 1 else None
        weights, sizes = (xp.sqrt(xp.sum(x.astype("float64") ** 2, axis=axes, keepdims=True)) for x in (p.array, g))
        longest = self.clip * xp.maximum(weights, self.eps)
        # Where |g| <= longest the factor is 1 exactly; a gradient of NaN stays NaN.
        return g * (longest / xp.maximum(sizes, longest)).astype(g.dtype)
