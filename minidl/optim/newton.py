"""Newton's method with Hessian-vector products: in a trust region, and with a line search. The Hessian is never formed.

These optimizers differentiate the loss themselves, twice. Their closure returns the loss as a Tensor with its graph and
does not call backward:

    optimizer.step(lambda: cross_entropy(model(x), y))

They are for full batches, or for one batch a step: the closure must be the same function each time it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._frozen import frozen_statistics
from ..engine import autograd
from ..engine.backend import Array
from ..engine.modes import enable_grad
from ..engine.tensor import Tensor
from ..krylov import Solution, cg, norm, steihaug
from .groups import at_least_zero, below_one
from .linesearch import Point, strong_wolfe
from .rules import above_zero, count_or_none
from .vector import VectorOptimizer


class StepReport(NamedTuple):
    """What one step of a Newton method did.

    loss, new_loss : at the parameters before, and at those that were tried (nan if none were).
    gradient_norm  : |g| before.
    accepted       : whether the parameters moved there; otherwise they are as before, to the last bit.
    reason         : why the inner iteration ended, or "gradient" where |g| <= tolerance_grad.
    length         : |p|, the distance tried.
    predicted      : by how much the model said the loss would fall.
    products       : products with the Hessian (or what stands for it) that it took.
    radius         : of the trust region at the next step, nan without one.
    damping        : added to the curvature at the next step, nan without one.
    """

    loss: float
    new_loss: float
    gradient_norm: float
    accepted: bool
    reason: str
    length: float = 0.0
    predicted: float = 0.0
    products: int = 0
    radius: float = math.nan
    damping: float = math.nan

    @property
    def achieved(self) -> float:
        """By how much the loss fell, or would have fallen."""
        return self.loss - self.new_loss


class Expansion(NamedTuple):
    """A loss around the present parameters, for minimizing: value, gradient (P,), product with the curvature."""

    returned: Any  # what step returns
    value: float
    gradient: Array
    product: Callable[[Array], Array]

    @property
    def gradient_norm(self) -> float:
        """|g|."""
        return norm(self.gradient)


class NewtonOptimizer(VectorOptimizer):
    """Base: a closure that returns the loss with its graph, and its expansion to second order.

    report   what the last step did, a `StepReport`; None before the first
    """

    closure_rule = "returns the loss as a Tensor with its graph, without calling backward"
    report: StepReport | None = None

    def expand(self, xp: Any, closure: Callable[[], Any]) -> Expansion:
        """Return the loss, its gradient and the product with its Hessian at the present parameters."""
        with enable_grad():
            loss = self.with_graph(closure(), "the loss")
            if loss.size != 1:
                raise ValueError(f"{self._who}.step: the loss must be one number, got shape {loss.shape}")
            gradients = self.pull(loss, None, create_graph=True)
        sign = -1.0 if self.param_groups[0]["maximize"] else 1.0
        outputs = [(i, g) for i, g in enumerate(gradients) if g is not None and g.requires_grad]

        def product(v: Array) -> Array:
            pieces = self._pieces(v)
            if not outputs:
                return 0 * v
            found = self.pull([g for _, g in outputs], [pieces[i] for i, _ in outputs], retain_graph=True)
            return sign * self.join(xp, found)

        return self.checked(loss, sign * loss.item(), sign * self.join(xp, gradients), product)

    def checked(self, returned: Any, value: float, gradient: Array, product: Callable[[Array], Array]) -> Expansion:
        """Return an expansion; ValueError if the loss or its gradient is not finite."""
        here = Expansion(returned, value, gradient, product)
        if not math.isfinite(value) or not math.isfinite(here.gradient_norm):
            raise ValueError(
                f"{self._who}.step: the loss is {value} and |gradient| {here.gradient_norm}; nothing was changed"
            )
        return here

    def with_graph(self, result: Any, what: str) -> Tensor:
        """Return a tensor that the closure returned; TypeError or RuntimeError if its graph is not there."""
        if not isinstance(result, Tensor):
            raise TypeError(f"{self._who}.step: {what} must be a Tensor with its graph, got {type(result).__name__}")
        if result.node is None or result.node.args is None:
            lost = "does not depend on any parameter" if result.node is None else "was freed by a backward()"
            raise RuntimeError(
                f"{self._who}.step: the graph of {what} {lost}; the closure must return it as computed, without "
                "backward(): this optimizer differentiates it itself"
            )
        return result

    def pull(self, outputs: Any, seeds: Any, **options: bool) -> list[Any]:
        """Return for each parameter the gradient of sum seeds * outputs; None where they do not reach it."""
        params = self.param_groups[0]["params"]
        wanted = [i for i, p in enumerate(params) if p.requires_grad]
        found: list[Any] = [None] * len(params)
        gradients = autograd.grad(outputs, [params[i] for i in wanted], seeds, allow_unused=True, **options)
        for i, g in zip(wanted, gradients, strict=True):
            found[i] = g
        return found

    def join(self, xp: Any, parts: Sequence[Any]) -> Array:
        """Return gradients, one a parameter, as one vector; zeros for None."""
        params = self.param_groups[0]["params"]
        return xp.concatenate(
            [
                xp.zeros(p.size, p.dtype) if g is None else g.array.reshape(-1)
                for p, g in zip(params, parts, strict=True)
            ]
        )

    def value(self, closure: Callable[[], Any]) -> float:
        """Return the loss for minimizing at the present parameters, whatever number it is."""
        with enable_grad(), np.errstate(all="ignore"):
            value = self.number(closure())
        return -value if self.param_groups[0]["maximize"] else value

    def number(self, result: Any) -> float:
        """Return the loss as a number, from what the closure returned."""
        return float(result.item())

    def attempt(self, x: Array, p: Array, closure: Callable[[], Any]) -> float:
        """Move from x to x + p and return the loss there; back to x if the closure raises."""
        self._write(x + p)
        try:
            return self.value(closure)
        except BaseException:
            self._write(x)
            raise


def fixed(closure: Callable[[], Any]) -> Callable[[], Any]:
    """Return the closure as one function of the parameters, for a step that compares several of its values.

    The first call is as always, and moves running averages once; later ones repeat its random masks and move nothing.
    """
    frozen, called = frozen_statistics(), False

    def evaluate() -> Any:
        nonlocal called
        if not called:
            called = True
            return closure()
        with frozen:
            return closure()

    return evaluate


def ratio(here: Expansion, new_value: float, predicted: float) -> float:
    """Return achieved / predicted decrease; -inf for a loss that is not finite.

    Both get 10 eps |loss| more, so that near a minimum the rounding of the loss does not decide (Conn, Gould & Toint
    2000, "Trust-region methods", Sec. 17.4.2).
    """
    if not math.isfinite(new_value):
        return -math.inf
    rounding = max(10 * float(np.finfo(here.gradient.dtype).eps) * abs(here.value), float(np.finfo(np.float64).tiny))
    return (here.value - new_value + rounding) / (predicted + rounding)


class TrustRegion(NewtonOptimizer):
    """Newton's method where its model can be trusted (Nocedal & Wright 2006, Alg. 4.1 and 7.2; Steihaug 1983).

        p minimizes m(p) = L + g'p + 1/2 p'Hp over |p| <= radius, nearly: CG that stops at the edge of the region, and
        follows a direction of negative curvature there
        ratio = (L(theta) - L(theta + p)) / (m(0) - m(p))
        radius <- radius / 4 if ratio < 1/4;  min(2 radius, max_radius) if ratio > 3/4 and |p| = radius
        theta <- theta + p if ratio > eta

    One step is one p, taken or refused; `report` says which. radius is where the memory starts, max_iter the most
    products for a p (None: one for each parameter element). The inner iteration stops at a residual of
    min(1/2, sqrt |g|) |g|. Unlike a pure Newton method it does not converge to saddles and maxima, unless it starts
    where g = 0 (`second_order.escape` leads on from there). Where |g| <= tolerance_grad nothing moves.

    Constants are those of SciPy's trust-ncg, whose steps it makes. ValueError for a negative or non-finite option, for
    a second parameter group, for parameters of several dtypes, and for a loss that is not finite where a step begins.

    >>> import minidl as md
    >>> w = md.tensor([-1.2, 1.0], dtype="float64", requires_grad=True)
    >>> optimizer = TrustRegion([w])
    >>> def loss():
    ...     return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
    >>> for _ in range(31):
    ...     value = optimizer.step(loss)
    >>> w.data.round(9), optimizer.report.accepted
    (array([1., 1.]), True)
    """

    rules: ClassVar = {
        "radius": above_zero,
        "max_radius": above_zero,
        "eta": below_one,
        "max_iter": count_or_none,
        "tolerance_grad": at_least_zero,
    }
    remembered = frozenset({"radius"})

    def __init__(
        self,
        params: Any,
        radius: float = 1.0,
        max_radius: float = 1000.0,
        eta: float = 0.15,
        max_iter: int | None = None,
        tolerance_grad: float = 0.0,
        *,
        maximize: bool = False,
    ):
        options: dict[str, Any] = {"radius": radius, "max_radius": max_radius, "eta": eta, "max_iter": max_iter}
        super().__init__(params, **options, tolerance_grad=tolerance_grad, maximize=maximize)

    def advance(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Any:
        closure = fixed(closure)
        here = self.expand(xp, closure)
        radius = self.memory.get("radius", group["radius"])
        if here.gradient_norm <= group["tolerance_grad"]:
            self.report = StepReport(here.value, math.nan, here.gradient_norm, False, "gradient", radius=radius)
            return here.returned
        found = steihaug(here.product, here.gradient, radius, max_iter=group["max_iter"])
        x = self._read(xp)
        new = self.attempt(x, found.x, closure)
        gained = ratio(here, new, found.decrease)
        accepted = gained > group["eta"]
        if not accepted:
            self._write(x)
        if gained < 0.25:
            radius = radius / 4
        elif gained > 0.75 and found.reason in ("boundary", "negative curvature"):
            radius = min(2 * radius, group["max_radius"])
        self.memory["radius"] = radius
        self.report = reported(here, new, accepted, found, radius=radius)
        return here.returned


class NewtonCG(NewtonOptimizer):
    """Newton's direction by conjugate gradients, and a line search along it (Nocedal & Wright 2006, Alg. 7.1).

        H p = -g by CG, until |H p + g| <= min(1/2, sqrt |g|) |g|, or until a direction d has d'Hd <= 0:
        then p is what has been found so far, -g if nothing
        theta <- theta + t p,   t from a line search with the strong Wolfe conditions, starting at lr

    p always descends, so it converges to minima, if slowly past saddles; `TrustRegion` follows negative curvature
    instead. max_iter: the most products for a p (None: two for each parameter element). A search that finds no lower
    loss leaves the parameters where they were. ValueError as for `TrustRegion`, and for lr = 0.

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> optimizer = NewtonCG([w])
    >>> for _ in range(7):
    ...     loss = optimizer.step(lambda: (w * w * md.tensor([1.0, 10.0])).sum() + (w**4).sum())
    >>> bool(loss.item() < 1e-12), optimizer.report.accepted
    (True, True)
    """

    rules: ClassVar = {"lr": above_zero, "max_iter": count_or_none, "tolerance_grad": at_least_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: int | None = None,
        tolerance_grad: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, max_iter=max_iter, tolerance_grad=tolerance_grad, maximize=maximize)

    def advance(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Any:
        closure = fixed(closure)
        here = self.expand(xp, closure)
        g, size = here.gradient, here.gradient_norm
        if size <= group["tolerance_grad"]:
            self.report = StepReport(here.value, math.nan, size, False, "gradient")
            return here.returned
        found = cg(here.product, -g, tol=min(0.5, math.sqrt(size)), max_iter=group["max_iter"])
        p, bend = found.x, -2 * found.decrease - 2 * float(g @ found.x)  # p'Hp
        if found.reason == "negative curvature" and found.iterations == 1:
            p, bend = -g, found.curvature * size**2
        x = self._read(xp)

        def at(t: float) -> Point:
            self._write(x + t * p)
            with np.errstate(all="ignore"):
                there = self._slope(xp, closure)
            return Point(t, *there, float(there[1] @ p))

        try:
            end, _ = strong_wolfe(
                at, Point(0.0, here.value, g, float(g @ p)), group["lr"], float(abs(p).max()), 25, 0.9
            )
        except BaseException:
            self._write(x)
            raise
        accepted = end.t > 0
        self._write(x + end.t * p if accepted else x)
        length, predicted = end.t * norm(p), -end.t * float(g @ p) - end.t**2 / 2 * bend
        self.report = StepReport(here.value, end.f, size, accepted, found.reason, length, predicted, found.iterations)
        return here.returned

    def _slope(self, xp: Any, closure: Callable[[], Any]) -> tuple[float, Array]:
        """Return the loss for minimizing and its gradient, whatever numbers they are."""
        with enable_grad():
            loss = self.with_graph(closure(), "the loss")
        sign = -1.0 if self.param_groups[0]["maximize"] else 1.0
        return sign * loss.item(), sign * self.join(xp, self.pull(loss, None))


def reported(
    here: Expansion, new: float, accepted: bool, found: Solution, radius: float = math.nan, damping: float = math.nan
) -> StepReport:
    """Return the report of a step x -> x + p for a p that an iteration found."""
    return StepReport(
        here.value, new, here.gradient_norm, accepted, found.reason, norm(found.x), found.decrease, found.iterations,
        radius, damping,
    )  # fmt: skip
