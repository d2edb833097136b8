"""Cautious steps: an optimizer moves only those elements whose step agrees with today's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..compiler.formula import Symbol, segment_dot
from .base import Optimizer
from .switch import SWATS

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)
Formula = Callable[..., Any]


def cautious(optimizer: AnyOptimizer) -> AnyOptimizer:
    """Make an optimizer cautious, and return it (Liang et al. 2024, arXiv:2411.16085, Alg. 1).

        u = theta - theta_new, the step of the optimizer's own formula
        a = 1 where u g > 0, 0 elsewhere
        theta <- theta - u a / max(mean of a, 0.001)                         the mean over one parameter

    Momentum carries on where the gradient has turned around; these elements wait, and the others go farther by as much.
    g is the gradient as it was given, before weight decay is added. Decoupled decay, the number `shrink` of a formula,
    happens everywhere, as in the authors' code, which applies it last. All else is as before: state, options,
    schedules, and checkpoints, which do not say that the optimizer is cautious. `print(optimizer.program())` shows what
    runs.

    It suits an optimizer whose `update` reads theta - step or theta + step: SGD, Adam, Lion, LAMB and most others.
    TypeError for one that moves whole matrices (Muon), computes theta anew (FTRL, MADGRAD), averages its path (ASGD) or
    has a step of its own (LBFGS) or measures it (SWATS); then nothing has changed.

    >>> import minidl as md
    >>> from minidl.optim import SGD
    >>> w = md.tensor([0.0, 0.0], requires_grad=True)
    >>> optimizer = cautious(SGD([w], lr=1.0, momentum=0.5))
    >>> for g in ([2.0, 2.0], [1.0, -0.5]):
    ...     w.grad = md.tensor(g)
    ...     optimizer.step()
    >>> w  # -2, -2; then steps of 2 and 0.5, of which the second waits and the first is doubled
    tensor([-6., -2.], requires_grad=True)
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"cautious: needs an optimizer, got {type(optimizer).__name__}; what is around an optimizer goes around "
            "the cautious one: Lookahead(cautious(SGD(...)))"
        )
    who = type(optimizer).__name__
    if optimizer.update_tensor is not None:
        raise TypeError(f"cautious: {who} moves a parameter as a whole (update_tensor), not element by element")
    if type(optimizer).step is not Optimizer.step:
        raise TypeError(f"cautious: {who} has a `step` of its own, which may depend on the whole step being taken")
    if isinstance(optimizer, SWATS):
        raise TypeError(f"cautious: {who} measures its step, and takes the whole of it to be made")
    before, optimizer._around = optimizer._around, masked
    try:
        for group in optimizer.param_groups:
            scalars = optimizer.scalars(group, 2)
            if "still" in scalars:  # a formula that moves nothing while no gradient has been seen
                scalars["still"] = False
            optimizer._program(group, scalars)
    except Exception:
        optimizer._around = before
        raise
    return optimizer


def masked(update: Formula) -> Formula:
    """Return a formula with its steps masked; what it does to theta beside them, decay by `shrink`, stays."""

    def formula(xp: Any, theta: Any, g: Any, *slots: Any, **scalars: Any) -> Any:
        if scalars.get("shrink") is not None:
            theta = scalars["shrink"] * theta
            scalars["shrink"] = None
        result = update(xp, theta, g, *slots, **scalars)
        new, *states = result if isinstance(result, tuple) else (result,)
        if new.value is theta.value:  # it does not move at this step
            return result
        u = _step(update.__qualname__, theta, new, states)
        moves = xp.maximum(xp.sign(u) * xp.sign(g), 0.0)  # 1 or 0; the product of u and g themselves could round to 0
        waits = 1.0 - moves
        moving, waiting = segment_dot(moves, moves), segment_dot(waits, waits)
        share = moving / xp.maximum(moving + waiting, 1.0)  # of an empty parameter 0, not 0 / 0
        return theta - moves * u / xp.maximum(share, 1e-3), *states

    return formula


def _step(who: str, theta: Symbol, new: Symbol, states: Sequence[Symbol]) -> Symbol:
    """Return the step u of a formula that reads theta - u; TypeError if it does more with theta than that."""
    code, value, old = theta.trace.code, new.value, theta.value
    sums = [x for x in code if x.op in ("add", "subtract") and old in x.inputs]
    used = any(value in x.inputs for x in code) or any(x.value is value for x in states)
    if sums != [value] or used or (value.op == "subtract" and value.inputs[0] is not old):
        raise TypeError(
            f"cautious: {who} must give theta - step or theta + step, and use neither old nor new theta in other sums: "
            "only then is a part of the step as good as the whole"
        )
    first, second = value.inputs
    if value.op == "subtract":
        return Symbol(theta.trace, second)
    return theta.trace.call("negative", Symbol(theta.trace, second if first is old else first))
