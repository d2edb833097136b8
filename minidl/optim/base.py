"""Optimizer: what every optimizer shares, so that each is its formula and little else.

A subclass names its slots (state arrays with the shape of the parameter) and gives two pure functions:

- `scalars(group, t)`: the numbers of step t, in ordinary Python (float64, once a step);
- `update(xp, theta, g, *slots, **scalars)`: the new theta and slots, in elementwise operations.

`update` is read once and made into a kernel (`minidl.compiler.fuse`; `print(optimizer.program())` shows it). Parameters
that have always moved together form a `Cohort` with one step count t, and a kernel runs over a cohort at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ..compiler.fuse import Program, fuse
from ..compiler.record import replayed
from ..engine.backend import Array, device_of, on_device, to_device
from ..engine.hooks import Handle
from ..engine.modes import enable_grad
from ..engine.node import stamp, stamp_all
from ..engine.tensor import Tensor
from . import state as saved
from .groups import FIXED, ParamGroup, Rule, check_array, did_you_mean, read_groups, read_params
from .segment import Cohort, Segment, Separate, run_together


class Optimizer:
    """Base of all optimizers. `params`: a module, its parameters, named pairs, tensors, or a list of groups.

    slots      names of the state arrays; they have the parameter's shape and dtype and start at `initial`
    rules      option -> function that tells whether a value is allowed; its docstring says what is
    scalars    (group, t) -> dict of the numbers that step t = 1, 2, ... needs. A bool, str or None is a setting:
               `update` may branch on it, and each combination of settings gets a kernel of its own
    update     (xp, theta, g, *slots, **scalars) -> (new theta, *new slots), elementwise, of nothing but its arguments.
               `minidl.compiler` has `segment_norm`, `segment_dot` and `total_dot` for numbers of a whole parameter, and
               of all parameters of the step
    update_tensor   instead of `update`, for a method that is not elementwise: called with the arrays of one parameter
               at a time, as they are; it returns new ones

    A parameter without a gradient at a step neither moves nor decays, and its t does not advance. An option may be a
    schedule, a function of the number of steps taken: `param_groups[i]["lr"]` always shows today's value.

    >>> class SignDescent(Optimizer):
    ...     def __init__(self, params, lr=0.1):
    ...         super().__init__(params, lr=lr)
    ...     def scalars(self, group, t):
    ...         return {"lr": group["lr"]}
    ...     def update(self, xp, theta, g, *, lr):
    ...         return theta - lr * xp.sign(g)
    >>> import minidl as md
    >>> w = md.tensor([1.0, -2.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> SignDescent([w]).step()
    >>> w
    tensor([ 0.9, -1.9], requires_grad=True)
    """

    slots: tuple[str, ...] = ()
    rules: ClassVar[Mapping[str, Rule]] = {}
    update: Callable[..., Any]
    update_tensor: Callable[..., Any] | None = None
    step_needs: ClassVar[str] = "gradients"  # what `step` needs: what is around an optimizer may have no more to give
    _around: Callable[..., Any] | None = None  # update -> the formula that is run in its place; see `cautious`

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "step" in vars(cls):
            setattr(cls, "step", replayed(vars(cls)["step"]))  # noqa: B010

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
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._pre_hooks: dict[int, Callable[..., Any]] = {}
        self._post_hooks: dict[int, Callable[..., Any]] = {}

    @property
    def _who(self) -> str:
        return type(self).__name__

    # ---- what a subclass may give ------------------------------------------------------------------------------------

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        """Return the numbers and settings that `update` needs at step t of a parameter."""
        raise NotImplementedError(f"{self._who}: an optimizer defines scalars(group, t)")

    def group_slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the slots that a group needs with its options; all unless a subclass says otherwise."""
        return self.slots

    def group_numbers(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Return numbers that parameters carry beside their slots, with their first values; see `cohort_scalars`."""
        return {}

    def cohort_scalars(self, cohort: Cohort, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the scalars of the next step of a cohort: those of `scalars`, unless they depend on more than t.

        An entry that `group_numbers` names is what `cohort.numbers` will hold after the step.
        """
        return self.scalars(group, cohort.t + 1)

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        """Return a slot before the first step: a number or an array (of any shape with `update_tensor`)."""
        return 0.0

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError if options that are allowed singly do not go together."""

    def after_step(self) -> None:
        """Note what a step has found out, once the parameters have moved and before the hooks see them."""

    # ---- groups ------------------------------------------------------------------------------------------------------

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own: {"params": ..., "lr": ...}; the others are the constructor's.

        ValueError for an option that does not exist or has a wrong value, and for a parameter that is here already.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{self._who}: a group is a dictionary with a 'params' entry, got {type(group).__name__}")
        for option in group.keys() - self.defaults.keys() - {*FIXED}:
            raise ValueError(f"{self._who}: there is no option {option!r}{did_you_mean(option, self.defaults)}")
        named = self._name(group)
        options = {"params": tuple(p for _, p in named), "names": tuple(name for name, _ in named), **self.defaults}
        options |= {name: value for name, value in group.items() if name not in ("params", "names")}
        new = ParamGroup(self._who, options, self.rules, self.steps)
        if "lr" in new:
            dict.setdefault(new, "initial_lr", new["lr"])
        self.check_group(new)
        self.param_groups.append(new)
        self._cohorts.append(self._divide(Cohort(new["names"], new["params"]), new))

    def _name(self, group: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
        """Return the named parameters of a new group; ValueError if a name or a parameter occurs twice."""
        seen = {name: p for other in self.param_groups for name, p in zip(other["names"], other["params"], strict=True)}
        named, chosen = read_params(self._who, group, len(seen))
        if not chosen and any(name in seen for name, _ in named):
            named = [(f"{len(self.param_groups)}.{name}", p) for name, p in named]  # two modules with a "weight" each
        owners = {id(p.array): name for name, p in seen.items()}
        for name, p in named:
            owner = owners.setdefault(id(p.array), name)
            if owner != name:
                raise ValueError(f"{self._who}: duplicate parameter: {name!r} {p.shape} is {owner!r} once more")
            if name in seen:
                raise ValueError(f"{self._who}: two parameters are called {name!r}, but state is saved by name")
            seen[name] = p
        return named

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none or p.grad is None:
                    p.grad = None
                else:
                    p.grad = p.grad.detach()
                    with on_device(p.device)[1]:
                        p.grad.array[...] = 0
                    stamp(p.grad.array)

    # ---- a step ------------------------------------------------------------------------------------------------------

    @replayed
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient. Returns what `closure` returned, or None.

        closure: if given, called first, with gradients enabled: it computes the loss and calls backward.
        """
        closure = self._after_hooks(closure)
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        # Everything that can be wrong is found before the first array is written.
        work = [(cohort, *self._prepare(cohort, group), found) for cohort, group, found in self._movers()]
        run_together([(store, store.start(program, found, scalars)) for _, store, program, scalars, found in work])
        for cohort, _, _, scalars, _ in work:
            cohort.t += 1
            cohort.numbers = {name: scalars[name] for name in cohort.numbers}
            stamp_all(cohort.arrays)
        if work:
            self.steps += 1
            self.after_step()
            for group in self.param_groups:
                group.at(self.steps, strict=False)
        for hook in tuple(self._post_hooks.values()):
            hook(self, (closure,), {})
        return loss

    def _after_hooks(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """Call the hooks before a step, which may change its arguments; return the closure."""

        def step(closure: Callable[[], Any] | None = None) -> Callable[[], Any] | None:
            return closure

        for hook in tuple(self._pre_hooks.values()):
            changed = hook(self, (closure,), {})
            if changed is not None:
                if not isinstance(changed, tuple) or len(changed) != 2:
                    raise TypeError(f"{self._who}: a pre-step hook returns None or (args, kwargs), got {changed!r}")
                args, kwargs = changed
                closure = step(*args, **kwargs)
        return closure

    def _movers(self) -> list[tuple[Cohort, ParamGroup, list[Array]]]:
        """Return the cohorts that have gradients, dividing those of which only a part has."""
        movers = []
        for k, group in enumerate(self.param_groups):
            self._ready(group)
            cohorts = self._cohorts[k]
            found = [cohort.gradients() for cohort in cohorts]
            if None in found:
                parts = [self._divide(c, group) if g is None else [c] for c, g in zip(cohorts, found, strict=True)]
                cohorts = self._cohorts[k] = [cohort for part in parts for cohort in part]
                found = [cohort.gradients() for cohort in cohorts]
            movers += [(cohort, group, grads) for cohort, grads in zip(cohorts, found, strict=True) if grads]
        return movers

    def _ready(self, group: ParamGroup) -> None:
        """Raise the error of a schedule that has ended, or of options changed by hand that do not go together."""
        if group.late:
            group.at(self.steps)
        if group.changed:
            self.check_group(group)
            group.changed = False

    def _divide(self, cohort: Cohort, group: ParamGroup) -> list[Cohort]:
        """Part a cohort by who moves now, and by the dtypes and devices that the parameters have now."""
        parts: dict[tuple[Any, ...], list[int]] = {}
        for i, (name, p) in enumerate(zip(cohort.names, cohort.tensors, strict=True)):
            check_array(self._who, name, p)
            parts.setdefault((p.grad is None, p.dtype, p.device), []).append(i)
        state = cohort.state()
        divided = []
        for part in parts.values():
            names, tensors = [cohort.names[i] for i in part], [cohort.tensors[i] for i in part]
            new = Cohort(names, tensors, cohort.t, cohort.numbers)
            divided.append(self.fill(new, group, [state[i] for i in part]))
        return divided

    def fill(self, cohort: Cohort, group: Mapping[str, Any], state: Sequence[Mapping[str, Array]]) -> Cohort:
        """Give a cohort that has moved its state, copied to the dtype, device and layout that its parameters have."""
        if cohort.t:
            cohort.store = self._make_store(cohort, group, state)
        return cohort

    def _make_store(
        self, cohort: Cohort, group: Mapping[str, Any], state: Sequence[Mapping[str, Array]]
    ) -> Segment | Separate:
        """Make the slots of a cohort: those in `state` keep their values, the others start at `initial`."""

        def value(slot: str, theta: Array, known: Mapping[str, Array]) -> Any:
            return to_device(known[slot], device_of(theta)) if slot in known else self.initial(slot, group, theta)

        kind = Segment if self.update_tensor is None else Separate
        pairs = list(zip(cohort.arrays, state, strict=True))
        slots = self.group_slots(group)
        return kind(cohort.arrays, {slot: [value(slot, theta, known) for theta, known in pairs] for slot in slots})

    def _prepare(self, cohort: Cohort, group: ParamGroup) -> tuple[Any, Any, dict[str, Any]]:
        """Return the store of a cohort, what to run on it at its next step, and the scalars to run it with."""
        numbers = self.group_numbers(group)
        if cohort.numbers.keys() != numbers.keys():
            cohort.numbers = {**numbers, **{name: x for name, x in cohort.numbers.items() if name in numbers}}
        scalars = self.cohort_scalars(cohort, group)
        store = cohort.store
        if store is None or not cohort.t or store.slots != self.group_slots(group):
            store = cohort.store = self._make_store(cohort, group, cohort.state())
        if self.update_tensor is not None:
            return store, self._maximized(self.update_tensor, group), scalars
        return store, self._program(group, scalars), scalars

    def _program(self, group: ParamGroup, scalars: Mapping[str, Any]) -> Program:
        """Return the program for the settings among the scalars, fusing it the first time."""
        slots = self.group_slots(group)
        settings = tuple((k, x if x is None or isinstance(x, (bool, str)) else ...) for k, x in scalars.items())
        key = (slots, group["maximize"], self._around, settings)
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = fuse(
                self._maximized(self.update if self._around is None else self._around(self.update), group),
                arrays=("theta", "g", *slots),
                numbers=[name for name, x in settings if x is ...],
                writes=("theta", *slots),
                settings={name: x for name, x in settings if x is not ...},
                name=f"{self._who}.update",
            )
        return program

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
        return self._program(options, self.scalars(options, self._cohorts[group][0].t + 1))

    # ---- hooks, state, text ------------------------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` before each step; it may return other (args, kwargs) for it."""
        return Handle(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(optimizer, args, kwargs)` after each step."""
        return Handle(self._post_hooks, hook)

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The state by parameter name, {"t": its steps so far, slot: array, ...}, shared and not copied.

        NAdam has a number in it too.
        """
        state: dict[str, dict[str, Any]] = {}
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            moved = [c for c in cohorts if c.t]
            pairs = [(c, *pair) for c in moved for pair in zip(c.names, c.state(), strict=True)]
            found = {name: {"t": c.t, **c.numbers, **own} for c, name, own in pairs}
            state |= {name: found[name] for name in group["names"] if name in found}
        return state

    def state_dict(self) -> dict[str, Any]:
        """Return copies: {"steps": n, "state": {name: {"t": t, slot: Tensor}}, "param_groups": [options]}.

        It holds tensors and plain numbers only, so that `md.save` can write it to a file. A schedule is noted by name:
        it belongs to the constructor.
        """
        return saved.save(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], hyper: str = "saved") -> None:
        """Continue from a state: what `state_dict` returned, perhaps through `md.save` and `md.load`.

        hyper: "saved" takes the options (lr, ...) from the state, "current" keeps those of this optimizer. ValueError
        lists everything that does not fit (names, slots, shapes, dtypes, options); then nothing has changed.
        """
        saved.load(self, state_dict, hyper)

    def __getstate__(self) -> dict[str, Any]:
        made = ("_cohorts", "_programs", "_pre_hooks", "_post_hooks")
        kept = {k: v for k, v in self.__dict__.items() if k not in made}
        cohorts = [[(c.names, c.tensors, c.t, c.numbers, c.state()) for c in cs] for cs in self._cohorts]
        return {**kept, "cohorts": cohorts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({k: v for k, v in state.items() if k != "cohorts"})
        self._reset()
        for group, parts in zip(self.param_groups, state["cohorts"], strict=True):
            self._cohorts.append([self.fill(Cohort(*part), group, slots) for *part, slots in parts])

    def __repr__(self) -> str:
        lines = [] if self._around is None else [f"  formula: {self._around.__name__}(update)"]
        for i, group in enumerate(self.param_groups):
            shown = {k: group.schedules.get(k, v) for k, v in group.items() if k in self.defaults}
            count = f"{len(group['params'])} parameters, {sum(p.size for p in group['params']):,} elements"
            lines.append(f"  group {i}: {count}; {', '.join(f'{k}={v!r}' for k, v in shown.items())}")
        return "\n".join([f"{self._who}(", *lines, ")"])
