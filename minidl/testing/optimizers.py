"""What every optimizer must keep, as one function for an optimizer of one's own."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.modes import is_grad_enabled, no_grad
from ..optim.groups import FIXED
from .trial import Trial, alike, demand, unmoved, values
from .values import layouts

SHAPES = ((3, 4), (5,), (2, 3, 2), (), (0, 2))
NEEDS = ("gradient", "graph", "closure")
WINDOW = 8  # steps: an average such as Lookahead's may take a single one back


def check_optimizer(
    make: Callable[..., Any],
    formula: Callable[..., Any] | None = None,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    steps: int = 40,
    rtol: float = 1e-12,
    seed: int = 0,
    *,
    needs: str = "gradient",
    coupled: bool = False,
) -> None:
    """Raise AssertionError, saying which rule fails, unless an optimizer passes the library's own battery.

    make       `make(params, **options)`: a class, or a function that fixes some of its options
    formula    (x, g, s, t) -> new x for one element, s a dictionary for its state: the trajectory must follow it, and
               entries of s that are called like slots those
    shapes     of the parameters to try it on
    needs      "gradient"; "graph" for one that needs gradients with their graph (AdaHessian); "closure" for one that
               needs a closure, whose gradients have their graph too (PolyakSGD)
    coupled    True if a parameter's step depends on other parameters (`total_dot`, D-Adaptation)

    Parameters keep their arrays and dtype, float32 too; no graph is recorded. A step goes against the gradient; lr
    counts, and lr = 0 moves nothing. Parameters are independent of each other, of their layout in memory and of other
    dtypes; each has a step count t of its own, and without a gradient it stays, without state. Maximizing -f is
    minimizing f; loaded states, copies and pickles go on as the original, all bitwise. A closure is called once and its
    loss returned. Wrong values of options are refused by name, and nothing changes.

    TypeError for an optimizer of vectors (LBFGS, Newton): it moves all parameters along one line. ValueError for
    another word in `needs`.

    >>> from minidl.optim import SGD
    >>> check_optimizer(SGD, lambda x, g, s, t: x - 1e-3 * g)
    >>> class Decaying(SGD):
    ...     def update(self, xp, theta, g, b=None, *, lr, **numbers):
    ...         return 0.99 * theta - lr * g
    >>> check_optimizer(Decaying)
    Traceback (most recent call last):
    AssertionError: check_optimizer: lr = 0 must move nothing; parameter 0 (3, 4) moved
    """
    if needs not in NEEDS:
        raise ValueError(f"check_optimizer: needs must be one of {', '.join(map(repr, NEEDS))}, got needs={needs!r}")
    trial = Trial(make, tuple(map(tuple, shapes)), steps, seed, needs, coupled)
    trial.check_kind()
    for check in TRUTHS:
        check(trial)
    if formula is not None:
        check_formula(trial, formula, rtol)


# ---- the truths ------------------------------------------------------------------------------------------------------


def check_identity(trial: Trial) -> None:
    """A step writes into the parameters' own arrays, in their dtype, and records no graph; something moves."""
    for dtype in (np.float32, np.float64):
        params = trial.params(dtype)
        held, before = [p.data for p in params], values(params)
        optimizer = trial.make(params)
        moved = False
        for t in range(1, max(trial.steps, 3) + 1):
            trial.advance(optimizer, params, t)
            moved = moved or not all(np.array_equal(p.data, x) for p, x in zip(params, before, strict=True))
            if moved and t >= 3:
                break
        kept = all(p.data is x for p, x in zip(params, held, strict=True))
        demand(kept, "a step must write into the parameters' own arrays")
        demand(all(p.dtype == dtype for p in params), f"{dtype.__name__} parameters must stay {dtype.__name__}")
        demand(all(p.is_leaf and p.requires_grad for p in params), "a step must not record a graph")
        demand(moved, f"nothing moved in {t} steps")
        for entry in optimizer.state.values():
            good = all(x.dtype == dtype for x in entry.values() if hasattr(x, "dtype"))
            demand(good, f"the state of {dtype.__name__} parameters must be {dtype.__name__}")


def check_without_gradient(trial: Trial) -> None:
    """A parameter without a gradient neither moves nor gets state; a step without any changes nothing at all."""
    params, everyone = trial.params(), range(len(trial.shapes))
    before = values(params)
    optimizer = trial.run(trial.make(params), params, 1, 3, skip=(0,))
    unmoved(params[:1], before[:1], "a parameter without a gradient must not move or decay")
    demand("0" not in optimizer.state, "a parameter without a gradient must get no state")
    middle, steps = values(params), optimizer.steps
    state = copy.deepcopy(optimizer.state)
    trial.advance(optimizer, params, 4, skip=everyone)
    unmoved(params, middle, "a step without any gradient must not move or decay anything")
    demand(optimizer.steps == steps, "a step without any gradient must not count as a step")
    for name, entry in optimizer.state.items():
        same = all(np.array_equal(x, state[name][slot]) for slot, x in entry.items())
        demand(same, f"a step without any gradient must not change the state; that of {name} changed")


def check_maximize(trial: Trial) -> None:
    """Maximizing -f is minimizing f, to the last bit."""
    up, down = trial.params(), trial.params()
    trial.run(trial.maximizing(up, True), up, 1, 5, sign=-1.0)
    trial.run(trial.maximizing(down, False), down, 1, 5)
    alike(up, down, "maximizing -f must be minimizing f, to the last bit")


def check_direction(trial: Trial) -> None:
    """Under a constant gradient parameters go against it, in each window of steps and not only in the first."""
    # Compared with the run under the opposite gradient: what both do, such as weight decay, is none of the gradient's.
    ways = trial.params(), trial.params()
    decays = "weight_decay" in trial.make(trial.params()).param_groups[0]
    none = {"weight_decay": 0.0} if decays else {}
    optimizers = [trial.make([{"params": params, **none}]) for params in ways]
    up = -1.0 if optimizers[0].param_groups[0].get("maximize") else 1.0
    slopes = [trial.slope(0, k, p) for k, p in enumerate(ways[0])]
    # Without curvature a method that divides by it has nothing to divide by, and with it overshoots in the end; one
    # that finds its rate doubles it again and again on a plane.
    curvature = 0.0 if trial.needs == "gradient" else 1e-3
    last = 2 * WINDOW if trial.coupled or curvature else trial.steps
    for start in range(1, last - WINDOW + 2, WINDOW):
        before = [values(params) for params in ways]
        for optimizer, params, sign in zip(optimizers, ways, (1.0, -1.0), strict=True):
            for t in range(start, start + WINDOW):
                trial.advance(optimizer, params, t, sign=sign, curvature=sign * curvature, constant=True)
        for k, (slope, p, q) in enumerate(zip(slopes, *ways, strict=True)):
            way = (p.data - before[0][k]) - (q.data - before[1][k])
            along, length = up * float((slope * way).sum()), float(np.sqrt((slope**2).sum() * (way**2).sum()))
            rule = "steps must go against the gradient"
            demand(along <= 1e-9 * length, f"{rule}; at steps {start} to {start + WINDOW - 1} parameter {k} goes along")


def check_rate(trial: Trial) -> None:
    """The lr of a group counts, and lr = 0 moves nothing or is refused."""
    lr = trial.make(trial.params()).param_groups[0].get("lr")
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not lr:
        return
    ends = []
    for rate in (lr, lr / 8, 0.0):
        params = trial.params()
        before = values(params)
        try:
            trial.run(trial.make([{"params": params, "lr": rate}]), params, 1, 12)
        except ValueError as error:
            demand(rate == 0 and "lr" in str(error), f"a group must be allowed to have lr={rate}; raised {error}")
            return
        ends.append(values(params))
    same = all(np.array_equal(x, y) for x, y in zip(*ends[:2], strict=True))
    demand(not same, f"the lr of a group must count; lr={lr / 8} gave the same steps as lr={lr}")
    unmoved(params, before, "lr = 0 must move nothing")


def check_independent(trial: Trial) -> None:
    """A parameter moves as it would alone, and its step count t is that of its own steps."""
    stagger = [tuple(k for k in range(len(trial.shapes)) if (t + k) % 3 == 0) for t in range(1, 10)]
    together, late = trial.params(), trial.params()
    trial.run(trial.make(together), together, 1, 9)
    optimizer = trial.make(late)
    for t, skip in enumerate(stagger, 1):
        trial.advance(optimizer, late, t, skip=skip)
    for k in range(len(late)):
        own, count = optimizer.state.get(str(k), {}), sum(k not in skip for skip in stagger)
        demand(own.get("t", count) == count, f"t must count a parameter's own steps; that of {k} is {own.get('t')}")
    if trial.coupled:
        return
    alone, alone_late = trial.params(), trial.params()
    for k, (p, q) in enumerate(zip(alone, alone_late, strict=True)):
        trial.run(trial.make([p]), [p], 1, 9, keys=[k])
        one = trial.make([q])
        for t, skip in enumerate(stagger, 1):
            trial.advance(one, [q], t, keys=[k], skip=skip)
    rule = "a parameter must move as it would alone (if others are meant to take part, pass coupled=True)"
    alike(together, alone, rule, 1e-9, 1e-12)
    # A schedule counts the steps of the optimizer, and curvature may be measured every so many of them.
    if trial.needs == "gradient" and not getattr(optimizer.param_groups[0], "schedules", None):
        alike(late, alone_late, "the step count must be a parameter's own t, not the optimizer's", 1e-9, 1e-12)


def check_layouts(trial: Trial) -> None:
    """Parameters that lie otherwise in memory move alike; float32 and float64 in one optimizer do not disturb."""
    expected = trial.params()
    trial.run(trial.make(expected), expected, 1, 4)
    names = {name for p in expected for name in layouts(p.data)} - {"read-only"}
    for name in sorted(names):
        params = trial.params()
        for p in params:
            p.data = layouts(p.data).get(name, p.data)
        trial.run(trial.make(params), params, 1, 4)
        alike(params, expected, f"the layout in memory ({name}) must not matter", 1e-9, 1e-12)
    if trial.coupled:
        return
    single = trial.params(np.float32)
    trial.run(trial.make(single), single, 1, 4)
    both = [*trial.params(np.float32), *trial.params()]
    trial.run(trial.make(both), both, 1, 4, keys=[*range(len(single))] * 2)
    alike(both, [*single, *expected], "float32 and float64 parameters in one optimizer must move as apart", 1e-5, 1e-6)


def check_closure(trial: Trial) -> None:
    """A closure is called once, with gradients enabled, and what it returns is returned."""
    expected, params = trial.params(), trial.params()
    trial.run(trial.make(expected), expected, 1, 3)
    optimizer = trial.make(params)
    for t in range(1, 4):
        calls: list[Any] = []

        def step(closure: Any, calls: list[Any] = calls) -> None:
            def counted() -> Any:
                calls.append((is_grad_enabled(), closure()))
                return calls[-1][1]

            with no_grad():
                returned = optimizer.step(counted)
            demand(len(calls) == 1, f"a closure must be called once; it was called {len(calls)} times")
            demand(calls[0][0], "a closure must be called with gradients enabled")
            demand(returned is calls[0][1], f"step must return what the closure returned; got {returned!r}")

        trial.advance(optimizer, params, t, step=step)
    alike(params, expected, "a step with a closure must be the step without")


def check_options(trial: Trial) -> None:
    """A value that an option cannot have is refused by name, in a group and when it is written, and nothing changes."""
    group = trial.make(trial.params()).param_groups[0]
    for name in [name for name in group if name not in FIXED]:
        getattr(group, "unschedule", lambda name: None)(name)
        for wrong in _wrong(name, group[name]):
            before = dict(group)
            rule = f"an option must refuse a wrong value by name (see Optimizer.rules); {name}={wrong!r}"
            for how in ("written into a group", "of a new group"):
                try:
                    if how == "written into a group":
                        group[name] = wrong
                    else:
                        trial.make([{"params": trial.params(), name: wrong}])
                except (TypeError, ValueError) as error:
                    demand(f"{name}=" in str(error), f"{rule} {how} raised {type(error).__name__}: {error}")
                else:
                    demand(False, f"{rule} {how} was accepted")
            demand(dict(group) == before, f"{rule} changed the group")


def _wrong(name: str, value: Any) -> list[Any]:
    """Return values that no option of the name, or of the kind of this value, may have."""
    if isinstance(value, bool):
        return ["x", None]
    if isinstance(value, (int, float)):
        more = [-1.0, math.inf, True] if name in ("lr", "weight_decay", "eps") else []
        return [math.nan, "x", *([10**400] if isinstance(value, float) else []), *more]
    if isinstance(value, tuple) and value and isinstance(value[0], float):
        return [(math.nan, *value[1:]), ("x", *value[1:]), (), "x"]
    return []


def check_resume(trial: Trial) -> None:
    """A loaded state, a deep copy and a pickle go on as the original would have, to the last bit."""
    params, others = trial.params(), trial.params()
    whole = trial.run(trial.make(params), params, 1, 4)
    first = trial.run(trial.make(others), others, 1, 4)
    saved = copy.deepcopy(first.state_dict())
    twins = _copied(first, others)
    second = trial.make(others)
    second.load_state_dict(saved)
    trial.run(whole, params, 5, 9)
    trial.run(second, others, 5, 9)
    alike(others, params, "a loaded state must go on as if nothing had happened, to the last bit")
    for what, twin in twins.items():
        for a, b in zip(twin[0].param_groups, first.param_groups, strict=True):
            changed = [name for name in b if name not in FIXED and a[name] != b[name]]
            demand(not changed, f"{what} must keep the options; it changed {', '.join(changed)}")
        trial.run(twin[0], twin[1], 5, 9)
        alike(twin[1], params, f"{what} must go on as the original, to the last bit")


def _copied(optimizer: Any, params: Sequence[Any]) -> dict[str, Any]:
    """Return copies of an optimizer with its parameters, by each way to make one."""
    ways: dict[str, Callable[[Any], Any]] = {
        "a deep copy": copy.deepcopy,
        "a pickle": lambda x: pickle.loads(pickle.dumps(x)),
    }
    copies = {}
    for what, way in ways.items():
        try:
            copies[what] = way((optimizer, params))
        except Exception as error:  # no pickle can name a class that is local to a function
            demand("local" in str(error), f"{what} of an optimizer must be possible; {type(error).__name__}: {error}")
    return copies


TRUTHS = (
    check_identity, check_without_gradient, check_maximize, check_direction, check_rate, check_independent,
    check_layouts, check_closure, check_options, check_resume,
)  # fmt: skip


def check_formula(trial: Trial, formula: Callable[..., Any], rtol: float) -> None:
    """The trajectory is that of a formula for one element, and so are the slots that its state names."""
    params = trial.params()
    expected = values(params)
    states: list[dict[Any, Any]] = [{i: {} for i in np.ndindex(p.shape)} for p in params]
    optimizer = trial.make(params)
    for t in range(1, trial.steps + 1):
        gradients = [0.3 * p.data + trial.noise(t, k, p) for k, p in enumerate(params)]
        trial.advance(optimizer, params, t)
        for x, state, g in zip(expected, states, gradients, strict=True):
            for i, s in state.items():
                x[i] = formula(float(x[i]), float(g[i]), s, t)
        for k, (p, x) in enumerate(zip(params, expected, strict=True)):
            close = np.allclose(p.data, x, rtol=rtol, atol=1e-14)
            demand(close, f"at step {t} parameter {k} {p.shape} is not where the formula says")
            for slot, own in optimizer.state.get(str(k), {}).items():
                for i, s in states[k].items():
                    here = own[i] if np.shape(own) else own
                    close = slot == "t" or slot not in s or np.allclose(here, s[slot], rtol=rtol, atol=1e-14)
                    demand(close, f"at step {t} slot {slot!r} of parameter {k} {p.shape} is not what the formula says")
