"""Optimizers that search for the step along one direction of all parameters: L-BFGS, conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from ..engine.backend import Array
from ..engine.modes import enable_grad
from .groups import at_least_zero
from .rules import OneOf, above_zero, count, count_or_none
from .vector import VectorOptimizer


class Point(NamedTuple):
    """A point x + t d of a line, with the value, the gradient and the slope <g, d> there."""

    t: float
    f: float
    g: Array
    slope: float


def cubic_minimum(a: Point, b: Point, low: float, high: float) -> float:
    """Return where the cubic through two points with their slopes is least, within bounds; the middle if nowhere."""
    a, b = (a, b) if a.t <= b.t else (b, a)
    middle = (low + high) / 2
    if a.t == b.t:
        return middle
    d1 = a.slope + b.slope - 3 * (a.f - b.f) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return middle
    d2 = math.sqrt(square)
    below = b.slope - a.slope + 2 * d2
    return min(max(b.t - (b.t - a.t) * ((b.slope + d2 - d1) / below), low), high) if below else middle


def strong_wolfe(
    at: Callable[[float], Point], start: Point, t: float, width: float, most: int, c2: float, tolerance: float = 1e-9
) -> tuple[Point, int]:
    """Find a point with f(t) <= f(0) + c1 t f'(0) and |f'(t)| <= c2 |f'(0)|, c1 = 1e-4.

    at      evaluates a point of the line; t is the first to try, `width` the largest element of the direction
    most    how many points at most; then the lowest so far is returned

    Returns the point and the number of evaluations (Nocedal & Wright 2006, Alg. 3.5 and 3.6). A value that is not
    finite counts as too high.
    """

    def trial(t: float) -> Point:
        point = at(t)
        return point if math.isfinite(point.f) else point._replace(f=math.inf)

    c1, tried, previous, new = 1e-4, 0, start, trial(t)
    bracket = [start, new]
    done = False
    while tried < most:
        too_high = new.f > start.f + c1 * new.t * start.slope or (tried > 1 and new.f >= previous.f)
        if not too_high and abs(new.slope) <= -c2 * start.slope:
            bracket, done = [new], True
            break
        if too_high or new.slope >= 0:
            bracket = [previous, new]
            break
        step = cubic_minimum(previous, new, new.t + 0.01 * (new.t - previous.t), 10 * new.t)
        previous, new = new, trial(step)
        bracket = [start, new]
        tried += 1
    calls = tried + 1
    stuck = False
    low, high = (0, -1) if bracket[0].f <= bracket[-1].f else (-1, 0)
    while not done and tried < most and abs(bracket[1].t - bracket[0].t) * width >= tolerance:
        left, right = sorted(point.t for point in bracket)
        t = cubic_minimum(bracket[0], bracket[1], left, right)
        margin = 0.1 * (right - left)
        near = min(right - t, t - left) < margin
        if near and (stuck or t >= right or t <= left):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            near = False
        stuck = near
        new = trial(t)
        calls, tried = calls + 1, tried + 1
        if new.f > start.f + c1 * t * start.slope or new.f >= bracket[low].f:
            bracket[high] = new
            low, high = (0, -1) if bracket[0].f <= bracket[-1].f else (-1, 0)
            continue
        done = abs(new.slope) <= -c2 * start.slope
        if not done and new.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = new
    return bracket[low], calls


class LineSearcher(VectorOptimizer):
    """Base: the loop of directions and line searches of one call of `step`, which makes up to max_iter of them."""

    rules: ClassVar = {"max_iter": count, "tolerance_grad": at_least_zero, "tolerance_change": at_least_zero}
    remembered = frozenset({"t", "d", "g", "func_evals"})
    c2 = 0.9

    def direction(self, group: Mapping[str, Any], g: Array) -> tuple[Array, float]:
        """Return the direction to search from where the gradient is g, and the first step to try; note both."""
        raise NotImplementedError

    def advance(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Any:
        loss, f, g = self._evaluate(xp, closure)
        calls, most, tolerance = 1, self._most(group), group["tolerance_change"]
        for iteration in range(group["max_iter"]):
            if not g.size or float(abs(g).max()) <= group["tolerance_grad"] or calls >= most:
                break
            d, t = self.direction(group, g)
            slope, before = float(g @ d), f
            self.memory["t"] = 0.0
            if slope > -tolerance:
                break
            x = self._read(xp)
            width = float(abs(d).max())
            if group.get("line_search_fn", "strong_wolfe") is None:
                self._write(x + t * d)
                if iteration + 1 < group["max_iter"]:
                    _, f, g = self._evaluate(xp, closure)
                    calls += 1
            else:
                at = self._line(xp, closure, x, d)
                left = 25 if most == math.inf else int(most) - calls
                found, used = strong_wolfe(at, Point(0.0, f, g, slope), t, width, left, self.c2)
                _, f, g, _ = found
                t, calls = found.t, calls + used
                self._write(x + t * d)
            self.memory["t"] = t
            if width * t <= tolerance or abs(f - before) < tolerance:
                break
        self.memory["func_evals"] = self.memory.get("func_evals", 0) + calls
        return loss

    def moved(self) -> bool:
        return any(p.grad is not None for p in self.param_groups[0]["params"])

    @staticmethod
    def _most(group: Mapping[str, Any]) -> float:
        """Return how often the closure may be called in a step."""
        return (group["max_eval"] or group["max_iter"] * 5 // 4) if "max_eval" in group else math.inf

    def _line(self, xp: Any, closure: Callable[[], Any], x: Array, d: Array) -> Callable[[float], Point]:
        def at(t: float) -> Point:
            self._write(x + t * d)
            _, f, g = self._evaluate(xp, closure)
            return Point(t, f, g, float(g @ d))

        return at

    def _evaluate(self, xp: Any, closure: Callable[[], Any]) -> tuple[Any, float, Array]:
        """Return what the closure returned, its value and the gradient as a vector, for minimizing."""
        with enable_grad():
            loss = closure()
        group = self.param_groups[0]
        sign = -1.0 if group["maximize"] else 1.0
        value = sign * float(loss.item() if hasattr(loss, "item") else loss)
        parts = [xp.zeros(p.size, p.dtype) if p.grad is None else p.grad.array.reshape(-1) for p in group["params"]]
        return loss, value, sign * xp.concatenate(parts)


def line_search(x: Any) -> bool:
    """'strong_wolfe' or None"""  # noqa: D400
    return x is None or (isinstance(x, str) and x == "strong_wolfe")


class LBFGS(LineSearcher):
    """Newton-like steps from the last changes of the gradient (Nocedal & Wright 2006, Alg. 7.4 and 7.5; Liu 1989).

        s_i = x_(i+1) - x_i,   y_i = g_(i+1) - g_i             the last history_size pairs with <y, s> > 1e-10
        d = -H g by the two-loop recursion, starting from <y, s> / <y, y> of the newest pair
        x <- x + t d,   t from a line search with the strong Wolfe conditions, starting at lr

    For full batches: the closure must be the same function each time it is called, up to max_eval times in a step
    (None: 1.25 max_iter) of up to max_iter iterations. The very first t tried is lr min(1, 1 / |g|_1). It stops when
    no |g_i| > tolerance_grad, or when the loss or every element changes by less than tolerance_change. Defaults are
    PyTorch's, but for the line search: with line_search_fn=None, its default, t = lr always, which often diverges.

    ValueError for a negative or non-finite option, for a second parameter group, and for parameters of several dtypes.

    >>> import minidl as md
    >>> w = md.tensor([-2.0, 2.0], dtype="float64", requires_grad=True)
    >>> optimizer = LBFGS([w], max_iter=100)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     x, y = w[0], w[1]
    ...     loss = (1 - x) ** 2 + 100 * (y - x * x) ** 2
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), bool(closure().item() < 1e-11), optimizer.memory["func_evals"]
    (409.0, True, 50)
    """

    rules: ClassVar = {
        **LineSearcher.rules,
        "max_eval": count_or_none,
        "history_size": count,
        "line_search_fn": line_search,
    }
    remembered = LineSearcher.remembered | {"s", "y"}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = "strong_wolfe",
        *,
        maximize: bool = False,
    ):
        options: dict[str, Any] = {"lr": lr, "max_iter": max_iter, "max_eval": max_eval}
        options |= {"tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change, "maximize": maximize}
        super().__init__(params, **options, history_size=history_size, line_search_fn=line_search_fn)

    def direction(self, group: Mapping[str, Any], g: Array) -> tuple[Array, float]:
        own = self.memory
        if "d" not in own:
            own.update(d=-g, g=g, s=[], y=[])
            return own["d"], group["lr"] * min(1.0, 1.0 / float(abs(g).sum()))
        y, s = g - own["g"], own["t"] * own["d"]
        if float(y @ s) > 1e-10:
            own["y"] = [*own["y"], y][-group["history_size"] :]
            own["s"] = [*own["s"], s][-group["history_size"] :]
        pairs = [(a, b, 1.0 / float(a @ b)) for a, b in zip(own["y"], own["s"], strict=True)]
        d, weights = -g, []
        for a, b, rho in reversed(pairs):
            weights.append(rho * float(b @ d))
            d = d - weights[-1] * a
        if pairs:
            a, _, rho = pairs[-1]
            d = d * (1.0 / rho / float(a @ a))
        for (a, b, rho), weight in zip(pairs, reversed(weights), strict=True):
            d = d + (weight - rho * float(a @ d)) * b
        own.update(d=d, g=g)
        return d, group["lr"]


class NonlinearCG(LineSearcher):
    """Conjugate directions for any smooth function (Fletcher & Reeves 1964; Polak & Ribiere 1969).

        d <- -g + beta d,   beta = <g, g> / <g_old, g_old>                              variant="fletcher-reeves"
                            beta = max(0, <g, g - g_old> / <g_old, g_old>)              variant="polak-ribiere+"
        x <- x + t d,   t from a line search with the strong Wolfe conditions, c2 = 0.1

    The first t tried is lr min(1, 1 / |g|_1), and then such that the change expected to first order is the last one's
    (Nocedal & Wright 2006, Sec. 3.5 and 5.2). A direction that does not descend gives way to -g. For full batches, as
    LBFGS. ValueError for lr <= 0 and for a negative or non-finite option.

    >>> import minidl as md
    >>> w = md.tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> optimizer = NonlinearCG([w])
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (w * w * md.tensor([1.0, 10.0])).sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), bool(closure().item() < 1e-12)
    (11.0, True)
    """

    rules: ClassVar = {
        **LineSearcher.rules,
        "lr": above_zero,
        "variant": OneOf("polak-ribiere+", "fletcher-reeves"),
    }
    c2 = 0.1

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: int = 20,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        variant: str = "polak-ribiere+",
        *,
        maximize: bool = False,
    ):
        options: dict[str, Any] = {"lr": lr, "max_iter": max_iter, "tolerance_grad": tolerance_grad}
        super().__init__(params, **options, tolerance_change=tolerance_change, variant=variant, maximize=maximize)

    def direction(self, group: Mapping[str, Any], g: Array) -> tuple[Array, float]:
        own = self.memory
        if "d" not in own:
            own.update(d=-g, g=g)
            return own["d"], group["lr"] * min(1.0, 1.0 / float(abs(g).sum()))
        old, d, size = own["g"], own["d"], float(own["g"] @ own["g"])
        reeves = group["variant"] == "fletcher-reeves"
        beta = float(g @ g) / size if reeves else max(0.0, float(g @ (g - old)) / size)
        new = -g + beta * d
        if float(g @ new) >= 0:
            new = -g
        t = own["t"] * float(old @ d) / float(g @ new) or group["lr"]
        own.update(d=new, g=g)
        return new, t
