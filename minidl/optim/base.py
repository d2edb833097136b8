"""Optimizer: what every optimizer shares, so that each is its formula and little else.

A subclass names its slots (state arrays with the shape of the parameter) and gives two pure functions:

- `scalars(group, t)`: the numbers of step t, in ordinary Python (float64, once a step);
- `update(xp, theta, g, *slots, **scalars)`: the new theta and slots, in elementwise operations.

`update` is read once and made into a kernel (`minidl.compiler.fuse`; `print(optimizer.program())` shows it). Parameters
that have always moved together form a `Cohort` with one step count t, and a kernel runs over a cohort at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..compiler.fuse import Program, fuse
from ..engine.backend import Array, device_of, to_device
from ..engine.hooks import Handle
from ..engine.modes import enable_grad
from ..engine.node import stamp
from ..engine.tensor import Tensor
from . import state as saved
from .groups import FIXED, ParamGroup, check_dtype, did_you_mean, read_groups, read_params
from .segment import Segment, Separate, run_together


class Cohort:
    """Parameters of one group, of one dtype and device, that have always moved together: t steps so far."""

    def __init__(self, names: Sequence[str], tensors: Sequence[Tensor], t: int = 0):
        self.names = list(names)
        self.tensors = list(tensors)
        self.t = t
        self.arrays = [p.array for p in tensors]
        self.store: Segment | Separate | None = None  # made at the first step: before it there is no state

    def gradients(self) -> list[Array] | None:
        """Return the gradients; [] if there are none; None if not all move now or an array was rebound."""
        found = []
        for p, array in zip(self.tensors, self.arrays, strict=True):
            grad = p.grad
            if grad is None or p.array is not array:
                break
            raw = grad.array
            # A gradient that is the parameter itself (p.grad = p.detach()) would change while it is being read.
            found.append(raw.copy() if raw is array else raw)
        else:
            return found
        return [] if all(p.grad is None for p in self.tensors) else None

    def state(self) -> list[dict[str, Array]]:
        """Return for each parameter its slots by name, shared and shaped like the parameter; empty before its first step."""
        if self.store is None or not self.t:
            return [{} for _ in self.names]
        columns = {slot: self.store.slot(slot) for slot in self.store.slots}
        return [{slot: column[i] for slot, column in columns.items()} for i in range(len(self.names))]


class Optimizer:
    """Base of all optimizers. `params`: a module, its parameters, (name, parameter) pairs, tensors, or a list of groups.

    slots            names of the state arrays; they have the parameter's shape and dtype and start at `initial`
    rules            option -> function that tells whether a value is allowed; its docstring says what is (see `groups`)
    scalars(group, t)  -> dict of the numbers that step t (1, 2, ...) needs. A bool, str or None is a setting: `update` may
                     branch on it, and each combination of settings gets a kernel of its own
    update(xp, theta, g, *slots, **scalars)  -> (new theta, *new slots), elementwise. For numbers of a whole parameter
                     there are `segment_norm`, `segment_dot` and, over all parameters of the step, `total_dot`
                     (`minidl.compiler`). It must depend on nothing but its arguments
    update_tensor(xp, theta, g, *slots, **scalars)  takes the place of `update` in methods that are not elementwise: it is
                     called with the arrays of one parameter at a time, as they are, and returns new ones

    A parameter without a gradient at a step neither moves nor decays, and its t does not advance. An option may be a
    schedule, a function of the number of steps taken: `param_groups[i]["lr"]` always shows today's value.

    >>> class SignDescent(Optimizer):
    ...     def __init__(self, params, lr=0.1):
    ...         super().__init__(params, lr=lr)
    ...     def scalars(self, group, t):
    ...         return {"lr": group["lr"]}
    ...     def update(self, xp, theta, g, *, lr):
    ...         return theta - lr * xp.sign(g)
    >>> w = Tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = np.array([5.0, -0.1], dtype=np.float32)
    >>> SignDescent([w]).step()
    >>> w
    tensor([ 0.9, -1.9], requires_grad=True)
    """

    slots: tuple[str, ...] = ()
    rules: Mapping[str, Callable[[Any], bool]] = {}
    update: Callable[..., Any]
    update_tensor: Callable[..., Any] | None = None

    def __init__(self, params: Any, **defaults: Any):
        self.defaults = {"maximize": False, **defaults}
        self.param_groups: list[ParamGroup] = []
        self.steps = 0
        self._reset()
        for group in read_groups(self._who, params):
            self.add_param_group(group)
        if not any(group["params"] for group in self.param_groups):
            raise ValueError(f"{self._who}: got an empty parameter list")

    def _reset(self) -> None:
        self._cohorts: list[list[Cohort]] = []  # those of each group
        self._programs: dict[tuple, Program] = {}
        self._pre_hooks: dict[Handle, Callable] = {}
        self._post_hooks: dict[Handle, Callable] = {}

    @property
    def _who(self) -> str:
        return type(self).__name__

    # ---- what a subclass may give --------------------------------------------------------------------------------

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        """Return the numbers and settings that `update` needs at step t of a parameter."""
        raise NotImplementedError(f"{self._who}: an optimizer defines scalars(group, t)")

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the slots that a group needs with its options; all unless a subclass says otherwise."""
        return self.slots

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        """Return the value of a slot before the first step: a number, or an array (with `update_tensor`, of any shape)."""
        return 0.0

    def check_group(self, group: Mapping[str, Any]) -> None:  # noqa: B027
        """Raise ValueError if options that are allowed singly do not go together."""

    # ---- groups --------------------------------------------------------------------------------------------------

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own: {"params": ..., "lr": ...}; options not given are the constructor's.

        ValueError for an option that does not exist or has a wrong value, and for a parameter that is here already.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{self._who}: a group is a dictionary with a 'params' entry, got {type(group).__name__}")
        for option in group.keys() - self.defaults.keys() - {*FIXED}:
            raise ValueError(f"{self._who}: there is no option {option!r}{did_you_mean(option, self.defaults)}")
        seen = {name: p for other in self.param_groups for name, p in zip(other["names"], other["params"], strict=True)}
        named, chosen = read_params(self._who, group, len(seen))
        if not chosen and any(name in seen for name, _ in named):
            named = [(f"{len(self.param_groups)}.{name}", p) for name, p in named]  # two modules with a "weight" each
        arrays = {id(p.array): name for name, p in seen.items()}
        for name, p in named:
            if name in seen:
                raise ValueError(f"{self._who}: two parameters are called {name!r}; names must differ, state is saved by name")
            if id(p.array) in arrays:
                raise ValueError(f"{self._who}: duplicate parameter: {name!r} {p.shape} is {arrays[id(p.array)]!r} again")
            seen[name] = p
            arrays[id(p.array)] = name
        options = {"params": tuple(p for _, p in named), "names": tuple(name for name, _ in named), **self.defaults}
        options |= {name: value for name, value in group.items() if name not in ("params", "names")}
        new = ParamGroup(self._who, options, self.rules, self.steps)
        if "lr" in new:
            dict.setdefault(new, "initial_lr", new["lr"])
        self.check_group(new)
        self.param_groups.append(new)
        self._cohorts.append(self._divide(new, Cohort(new["names"], new["params"])))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none or p.grad is None:
                    p.grad = None
                else:
                    p.grad = p.grad.detach()
                    p.grad.array[...] = 0
                    stamp(p.grad.array)

    # ---- a step --------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient. Returns what `closure` returned, or None.

        closure: if given, called first, with gradients enabled: it computes the loss and calls backward.
        """
        for hook in tuple(self._pre_hooks.values()):
            changed = hook(self, (closure,), {})
            closure = closure if changed is None else changed[0][0]
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        work = [(cohort, gradients, *self._prepare(group, cohort)) for group, cohort, gradients in self._movers()]
        run_together([cohort.store.start(program, gradients, numbers) for cohort, gradients, program, numbers in work])
        for cohort, *_ in work:
            cohort.t += 1
            for array in cohort.arrays:
                stamp(array)
        if work:
            self.steps += 1
            for group in self.param_groups:
                group.at(self.steps, strict=False)
        for hook in tuple(self._post_hooks.values()):
            hook(self, (closure,), {})
        return loss

    def _movers(self) -> list[tuple[ParamGroup, Cohort, list[Array]]]:
        """Return the cohorts that have gradients, dividing those of which only a part has."""
        movers = []
        for k, group in enumerate(self.param_groups):
            if group.late:
                group.at(self.steps)
            found = [cohort.gradients() for cohort in self._cohorts[k]]
            if None in found:
                parts = [[c] if g is not None else self._divide(group, c) for c, g in zip(self._cohorts[k], found, strict=True)]
                self._cohorts[k] = [cohort for part in parts for cohort in part]
                found = [cohort.gradients() for cohort in self._cohorts[k]]
            movers += [(group, c, g) for c, g in zip(self._cohorts[k], found, strict=True) if g]
        return movers

    def _divide(self, group: ParamGroup, cohort: Cohort) -> list[Cohort]:
        """Part a cohort by who moves now, and by the dtypes and devices that the parameters have now."""
        parts: dict[tuple, list[int]] = {}
        for i, (name, p) in enumerate(zip(cohort.names, cohort.tensors, strict=True)):
            check_dtype(self._who, name, p)
            parts.setdefault((p.grad is None, p.dtype, p.device), []).append(i)
        state = cohort.state()
        return [
            self.make_cohort(group, [cohort.names[i] for i in part], [cohort.tensors[i] for i in part], cohort.t, [state[i] for i in part])
            for part in parts.values()
        ]

    def make_cohort(
        self, group: ParamGroup, names: Sequence[str], tensors: Sequence[Tensor], t: int, state: Sequence[Mapping[str, Array]]
    ) -> Cohort:
        """Return a cohort with given state, copied and converted to the parameters' dtype, device and layout."""
        cohort = Cohort(names, tensors, t)
        if t:
            self._make_store(group, cohort, state)
        return cohort

    def _make_store(self, group: ParamGroup, cohort: Cohort, state: Sequence[Mapping[str, Array]]) -> None:
        """Make the slots of a cohort: those in `state` keep their value, the others start at `initial`."""
        slots = self.group_slots(group)

        def value(slot: str, i: int) -> Any:
            theta = cohort.arrays[i]
            return to_device(state[i][slot], device_of(theta)) if slot in state[i] else self.initial(slot, group, theta)

        kind = Segment if self.update_tensor is None else Separate
        cohort.store = kind(cohort.arrays, {slot: [value(slot, i) for i in range(len(cohort.arrays))] for slot in slots})

    def _prepare(self, group: ParamGroup, cohort: Cohort) -> tuple[Any, dict[str, Any]]:
        """Return what to run for a cohort at its next step, and the numbers to run it with."""
        scalars = self.scalars(group, cohort.t + 1)
        if cohort.store is None or not cohort.t or cohort.store.slots != self.group_slots(group):
            self._make_store(group, cohort, cohort.state())
        if self.update_tensor is not None:
            return self._maximized(self.update_tensor, group), scalars
        return self._kernel(group, scalars)

    def _kernel(self, group: ParamGroup, scalars: dict[str, Any]) -> tuple[Program, dict[str, Any]]:
        """Return the program for these settings, and the numbers among the scalars."""
        slots = self.group_slots(group)
        settings = tuple((name, x if x is None or isinstance(x, (bool, str)) else ...) for name, x in scalars.items())
        key = (slots, group["maximize"], settings)
        program = self._programs.get(key)
        if program is None:
            formula = self._maximized(self.update, group)
            arrays, writes = ("theta", "g", *slots), ("theta", *slots)
            numbers = [name for name, x in settings if x is ...]
            fixed = {name: x for name, x in settings if x is not ...}
            program = self._programs[key] = fuse(formula, arrays, numbers, writes, fixed, f"{self._who}.update")
        return program, scalars

    @staticmethod
    def _maximized(formula: Callable[..., Any], group: ParamGroup) -> Callable[..., Any]:
        """Return the formula, given -g in place of g if the group maximizes."""
        if not group["maximize"]:
            return formula
        return lambda xp, theta, g, *slots, **scalars: formula(xp, theta, -g, *slots, **scalars)

    def program(self, group: int = 0) -> Program:
        """Return the kernel of a group at its next step. `print(optimizer.program())` shows its source."""
        if self.update_tensor is not None:
            raise TypeError(f"{self._who}: update_tensor runs as it is written, not as a fused program")
        options = self.param_groups[group]
        return self._kernel(options, self.scalars(options, self._cohorts[group][0].t + 1))[0]

    # ---- hooks, state, text --------------------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` before each step; it may return (args, kwargs) to replace the closure."""
        return Handle(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., None]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` after each step."""
        return Handle(self._post_hooks, hook)

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The state by parameter name: {"t": steps so far, slot: array, ...}, shared with the optimizer, not copied."""
        state = {}
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            found = {name: {"t": c.t, **slots} for c in cohorts if c.t for name, slots in zip(c.names, c.state(), strict=True)}
            state |= {name: found[name] for name in group["names"] if name in found}
        return state

    def state_dict(self) -> dict[str, Any]:
        """Return the state as copies: {"steps", "state": {name: {"t", slot: Tensor}}, "param_groups": [options]}.

        It holds tensors and plain numbers only. A schedule is noted by name, not saved: it belongs to the constructor.
        """
        return saved.save(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], hyper: str = "saved") -> None:
        """Continue from a state: what `state_dict` returned, perhaps through a file.

        hyper: "saved" takes the options (lr, ...) from the state, "current" keeps those of this optimizer. ValueError lists
        everything that does not fit (names, slots, shapes, dtypes, options); then nothing has changed.
        """
        saved.load(self, state_dict, hyper)

    def __getstate__(self) -> dict[str, Any]:
        own = {k: v for k, v in self.__dict__.items() if k not in ("_cohorts", "_programs", "_pre_hooks", "_post_hooks")}
        return {**own, "cohorts": [[(c.names, c.tensors, c.t, c.state()) for c in cohorts] for cohorts in self._cohorts]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        cohorts = state.pop("cohorts")
        self.__dict__.update(state)
        self._reset()
        for group, parts in zip(self.param_groups, cohorts, strict=True):
            self._cohorts.append([self.make_cohort(group, *part) for part in parts])

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            options = (f"{k}={group.schedules.get(k, v)}" for k, v in group.items() if k not in ("params", "names", "initial_lr"))
            count = sum(p.size for p in group["params"])
            lines.append(f"  group {i}: {len(group['params'])} parameters, {count:,} elements; {', '.join(options)}")
        return "\n".join([f"{self._who}(", *lines, ")"])
