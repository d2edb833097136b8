"""Sharpness-aware minimization: the gradient of a step is taken at the worst point nearby. SAM, ASAM, GSAM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._frozen import frozen_statistics
from ..compiler.record import replayed
from ..engine.backend import Array, device_of, is_array, on_device, to_numpy
from ..engine.modes import enable_grad
from ..engine.tensor import Tensor, wrap
from .accumulation import Wrapper
from .averaged_model import write
from .groups import at_least_zero
from .progress import inner

Radius = float | Callable[[int], float]


class SAM(Wrapper):
    """Steps of another optimizer with the gradient at the worst point nearby (Foret et al. 2021, arXiv:2010.01412).

        e = rho g / (|g| + 1e-12),   g the gradient at theta, |g| over all parameters        eq. 2
        a step of `inner` from theta with the gradient at theta + e                          Alg. 1

    `step` calls its closure, which computes the loss and calls backward, twice, each time from gradients of None, and
    returns the first loss. The second time dropout repeats its masks, and batch normalization leaves its running
    statistics alone: theta + e is not where they are wanted. theta is put back by copying, bit by bit, also when the
    closure raises. In a group that maximizes the worst point is the lowest.

    inner    any optimizer; its options, schedules and groups are used as ever, and its state is the only one
    rho      the length of e, or a function of the number of steps, for a schedule

    TypeError if inner is not an optimizer, or one whose step needs more than gradients (PolyakSGD, LBFGS, AdaHessian:
    putting theta back would change what the graph of a gradient has saved); ValueError for rho < 0 and for a step
    without a closure.

    >>> import minidl as md
    >>> w = md.Parameter([3.0, 4.0])
    >>> optimizer = SAM(md.optim.SGD([w], lr=0.25), rho=5.0)
    >>> def closure():
    ...     loss = (w * w).sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), w  # e = 5 w / |w| = w, so w - 0.25 (w + e)
    (12.5, tensor([1.5, 2. ], requires_grad=True))
    """

    step_needs = "a closure"
    keeps_first = False  # the gradient at theta, for `combine`

    def __init__(self, inner: Any, rho: Radius = 0.05):
        super().__init__(inner)
        self.rho = rho
        self._radius()

    def _radius(self) -> float:
        """Return rho at this step."""
        rho: float = self.rho(self.steps) if callable(self.rho) else self.rho
        if not at_least_zero(rho):
            raise ValueError(f"{type(self).__name__}: rho must be {at_least_zero.__doc__}, got rho={rho!r}")
        return rho

    def direction(self, xp: Any, theta: Array, g: Array) -> tuple[Array, Any]:
        """Return the direction of e for one parameter, and its share of the square of the norm that e is divided by."""
        return g, inner(g, g)

    def combine(self, first: dict[str, Array]) -> None:
        """Make the gradient of the step from those at theta, `first` by name, and those at theta + e, now in place."""

    @replayed
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate at theta and at theta + e, then make a step of the inner optimizer. Returns the loss at theta."""
        if closure is None:
            raise ValueError(f"{type(self).__name__}.step: needs a closure that computes the loss and calls backward")
        rho, again = self._radius(), frozen_statistics()
        loss = self._evaluate(closure)
        first = self._gradients() if self.keeps_first else {}
        kept: list[tuple[Tensor, Array]] = []
        try:
            self._climb(rho, kept)
            with again:
                self._evaluate(closure)
        finally:
            for p, theta in kept:
                write(p, theta)
        self.combine(first)
        self.inner.step()
        return loss

    def _evaluate(self, closure: Callable[[], Any]) -> Any:
        self.zero_grad()
        with enable_grad():
            return closure()

    def _gradients(self) -> dict[str, Array]:
        return {name: p.grad.array for name, p in self._named() if p.grad is not None}

    def _climb(self, rho: float, kept: list[tuple[Tensor, Array]]) -> None:
        """Go from theta to theta + e, noting copies of theta in `kept`."""
        found = []
        for group in self.param_groups:
            sign = -1.0 if group.get("maximize", False) else 1.0
            for p in group["params"]:
                if p.grad is not None:
                    xp, device = on_device(p.device)
                    with device:
                        found.append((p, sign, *self.direction(xp, p.array, p.grad.array)))
        scale = rho / (math.sqrt(total(square for *_, square in found)) + 1e-12)
        for p, sign, e, _ in found:
            with on_device(p.device)[1]:
                kept.append((p, p.array.copy()))
                write(p, p.array + sign * scale * e)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the inner optimizer: there is no other."""
        state: dict[str, Any] = self.inner.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], **options: Any) -> None:
        """Continue from a state of the inner optimizer."""
        self.inner.load_state_dict(state_dict, **options)


class ASAM(SAM):
    """SAM that measures distance in proportion to the weights (Kwon et al. 2021, arXiv:2102.11600, Alg. 1).

        e = rho T^2 g / (|T g| + 1e-12),   T = |theta| + eta

    The neighbourhood does not change when weights are scaled and the next ones scaled back. eta keeps weights near 0
    from standing still; it and rho are the authors'. Their code has T = 1 for biases. What `SAM` says of the closure
    and of inner holds here too. ValueError for rho or eta < 0.

    >>> import minidl as md
    >>> w = md.Parameter([3.0, 1.0])
    >>> optimizer = ASAM(md.optim.SGD([w], lr=1.0), rho=5.0, eta=0.0)
    >>> def closure():
    ...     ((w - md.tensor([2.0, -3.0])) ** 2).sum().backward()
    >>> optimizer.step(closure)  # g = (2, 8), T g = (6, 8), e = 0.5 (18, 8)
    >>> w
    tensor([-17., -15.], requires_grad=True)
    """

    def __init__(self, inner: Any, rho: Radius = 0.5, eta: float = 0.01):
        if not at_least_zero(eta):
            raise ValueError(f"ASAM: eta must be {at_least_zero.__doc__}, got eta={eta!r}")
        super().__init__(inner, rho)
        self.eta = eta

    def direction(self, xp: Any, theta: Array, g: Array) -> tuple[Array, Any]:
        scale = xp.abs(theta) + self.eta
        scaled = scale * g
        return scale * scaled, inner(scaled, scaled)


class GSAM(SAM):
    """SAM that also narrows the gap between the worst point's loss and its own (Zhuang et al. 2022, arXiv:2203.08065).

        g_p the gradient at theta + e,   g the one at theta, of which g' = g - <g, g_p> / <g_p, g_p> g_p lies across
        a step of `inner` from theta with the gradient g_p - alpha g'                                    Alg. 1

    Along g_p the loss of the worst point falls, and against g' the loss at theta rises to it without changing that one:
    their difference, which measures sharpness, shrinks. The authors lower rho in proportion to the lr: give it as a
    function of the number of steps. What `SAM` says of the closure and of inner holds here too. ValueError for rho or
    alpha < 0.

    >>> import minidl as md
    >>> w = md.Parameter([0.0, 4.0])
    >>> optimizer = GSAM(md.optim.SGD([w], lr=1.0), rho=5.0, alpha=0.5)
    >>> def closure():
    ...     (3 * w[0] - w[0] ** 2 / 2 + w[1] ** 2 / 2).backward()
    >>> optimizer.step(closure)  # g = e = (3, 4), g_p = (0, 8), so g' = (3, 0)
    >>> w
    tensor([ 1.5, -4. ], requires_grad=True)
    """

    keeps_first = True

    def __init__(self, inner: Any, rho: Radius = 0.05, alpha: float = 0.4):
        if not at_least_zero(alpha):
            raise ValueError(f"GSAM: alpha must be {at_least_zero.__doc__}, got alpha={alpha!r}")
        super().__init__(inner, rho)
        self.alpha = alpha

    def combine(self, first: dict[str, Array]) -> None:
        second = self._gradients()
        square = total(inner(g, g) for g in second.values())
        along = total(inner(first[name], g) for name, g in second.items() if name in first) / square if square else 0.0
        for name, p in self._named():
            if name in second:
                xp, device = on_device(p.device)
                with device:
                    across = first[name] - along * second[name] if name in first else -along * second[name]
                    p.grad = wrap(xp.asarray(second[name] - self.alpha * across))


def total(terms: Iterable[Any]) -> float:
    """Return the sum of scalars of array modules as a number, asking each device once."""
    sums: dict[str, Any] = {}
    for x in terms:
        device = device_of(x) if is_array(x) else "cpu"  # a sum of NumPy's is a scalar
        with on_device(device)[1]:
            sums[device] = sums[device] + x if device in sums else x
    return sum(float(to_numpy(x)) for x in sums.values())
