"""SGD whose step size is the distance covered so far over the gradients seen so far: DoG, DoWG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..engine.backend import Array
from .groups import ParamGroup, at_least_zero
from .progress import Mover, Progressing, inner
from .rules import OneOf, above_zero, decay_numbers, decayed


def nothing_or_above_zero(x: Any) -> bool:
    """a finite number > 0, or None"""  # noqa: D400
    return x is None or above_zero(x)


class DistanceOverGradients(Progressing):
    """Base: the largest distance r from the first parameters, and a sum of squares of gradients."""

    slots = ("x0",)
    progress = ("distance", "squares")
    rules: ClassVar = {
        "reps_rel": above_zero,
        "scope": OneOf("global", "group"),
        "distance": at_least_zero,
        "squares": at_least_zero,
    }

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return theta

    def first_distance(self, group: Mapping[str, Any], size: float) -> float:
        """Return r before the first step, for |x0| = size."""
        r: float = group["reps_rel"] * (1 + size)
        return r

    def advance(self, group: Mapping[str, Any], squares: float, r: float, square: float) -> tuple[float, float]:
        """Return the new sum of squares and the step size, given the old sum, r and |g|^2."""
        raise NotImplementedError

    def measure(self, movers: Sequence[Mover]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        together = [group for group in self.param_groups if group["scope"] == "global"]
        self.agree(together, ("reps_rel", "eps"))
        found: list[tuple[ParamGroup, dict[str, Any]]] = []
        for groups in [together, *([group] for group in self.param_groups if group["scope"] == "group")]:
            numbers = self._numbers(movers, groups) if groups else {}
            found += [(group, numbers) for group in groups]
        return found

    def _numbers(self, movers: Sequence[Mover], groups: Sequence[ParamGroup]) -> dict[str, float]:
        """Return the numbers of some groups at this step; none while their gradients have all been 0."""
        r = max(group["distance"] for group in groups)
        begun = r > 0

        def terms(xp, group, theta, g, slots):
            square = 0.0 if g is None else inner(g, g)
            way = theta if not begun else theta - slots["x0"] if slots else None
            return square, 0.0 if way is None else inner(way, way)

        square, way = self.totals(movers, terms, groups)
        if not begun and square == 0:
            return {}
        r = max(r, math.sqrt(way)) if begun else self.first_distance(groups[0], math.sqrt(way))
        squares, rate = self.advance(groups[0], max(group["squares"] for group in groups), r, square)
        return {"distance": r, "squares": squares, "rate": rate}

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        return {"rate": group["lr"] * self.found(group).get("rate", 0.0), "l2": decay_numbers(group)["l2"]}

    def update(self, xp, theta, g, x0, *, rate, l2):
        theta, g = decayed(theta, g, l2, None)
        return theta - rate * g, x0


class DoG(DistanceOverGradients):
    """SGD with the step size distance over gradients (Ivgi, Hinder & Carmon 2023, arXiv:2302.12022, Sec. 1).

        g <- g + weight_decay theta
        r <- max(r, |theta - x0|),   G <- G + |g|^2         at first r = reps_rel (1 + |x0|), G = 0; x0 the first theta
        theta <- theta - lr r / sqrt(G + eps) g

    There is no rate to tune: lr is 1. With batch normalization the authors take reps_rel=1e-4. The step does not shrink
    of itself, so evaluate with an average of the iterates, which is essential: `averaging.Polyak(model, eta=8)` is
    theirs; call its `update()` after each step, and evaluate `with average.applied():`.

    Norms are over all parameters; scope="group" takes those of each group by themselves, as the authors' code does.
    What is found stands in the options of each group, and is saved with them: `distance` (r) and `squares` (G). While
    all gradients are 0 nothing counts. On a GPU a step waits for one small vector. ValueError for an option out of its
    range, for groups under one scope with different reps_rel or eps, and at a step with a gradient that is not finite;
    then nothing has changed.

    >>> import minidl as md
    >>> w = md.Parameter([3.0, 4.0])
    >>> optimizer = DoG([w], reps_rel=0.25, eps=0.0)
    >>> w.grad = md.tensor([0.0, 2.0])
    >>> optimizer.step()
    >>> w  # r = 0.25 (1 + 5), step r / 2
    tensor([3. , 2.5], requires_grad=True)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        reps_rel: float = 1e-6,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        scope: str = "global",
    ):
        options = {"lr": lr, "reps_rel": reps_rel, "eps": eps, "weight_decay": weight_decay, "scope": scope}
        super().__init__(params, **options, maximize=maximize, distance=0.0, squares=0.0)

    def advance(self, group: Mapping[str, Any], squares: float, r: float, square: float) -> tuple[float, float]:
        squares += square
        return squares, r / math.sqrt(squares + group["eps"])


class DoWG(DistanceOverGradients):
    """SGD with the step size distance over weighted gradients (Khaled et al. 2023, arXiv:2305.16284, Alg. 1).

        g <- g + weight_decay theta
        r <- max(r, |theta - x0|),   v <- v + r^2 |g|^2          at first r = sqrt(eps), v = 0; x0 the first theta
        theta <- theta - lr r^2 / (sqrt(v) + eps) g

    Bolder than `DoG`, since late gradients weigh more; it adapts to smooth problems too. With reps_rel the first r is
    reps_rel (1 + |x0|). What `DoG` says of averages, groups, scope and progress holds here too (`squares` is v).

    >>> import minidl as md
    >>> w = md.Parameter([3.0, 4.0])
    >>> optimizer = DoWG([w], eps=0.25)
    >>> w.grad = md.tensor([0.0, 2.0])
    >>> optimizer.step()
    >>> w  # r = 0.5, step 0.25 / (1 + 0.25)
    tensor([3. , 3.6], requires_grad=True)
    """

    rules: ClassVar = {**DistanceOverGradients.rules, "reps_rel": nothing_or_above_zero, "eps": above_zero}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        reps_rel: float | None = None,
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        scope: str = "global",
    ):
        options = {"lr": lr, "reps_rel": reps_rel, "eps": eps, "weight_decay": weight_decay, "scope": scope}
        super().__init__(params, **options, maximize=maximize, distance=0.0, squares=0.0)

    def first_distance(self, group: Mapping[str, Any], size: float) -> float:
        return math.sqrt(group["eps"]) if group["reps_rel"] is None else super().first_distance(group, size)

    def advance(self, group: Mapping[str, Any], squares: float, r: float, square: float) -> tuple[float, float]:
        squares += r * r * square
        return squares, r * r / (math.sqrt(squares) + group["eps"])
