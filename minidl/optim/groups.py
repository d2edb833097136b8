"""Parameter groups: what an optimizer may be given, and the dictionaries that hold its options.

An optimizer takes a module, its parameters, named pairs, plain tensors, or a list of dictionaries with options of their
own (PyTorch's form). Each becomes a `ParamGroup`: a dictionary that refuses a wrong value when it is written, and
evaluates options that are schedules.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from ..engine.tensor import Tensor

Named = list[tuple[str, Tensor]]
Rule = Callable[[Any], bool]
# Entries of a group that are not options: "name" is a label, "scheduled" says that it has had an lr_scheduler.
FIXED = ("params", "names", "initial_lr", "name", "scheduled")


# ---- what options may be; the docstring is the text of the error ---------------------------------------------------


def at_least_zero(x: Any) -> bool:
    """a finite number >= 0"""  # noqa: D400
    return is_number(x) and x >= 0


def below_one(x: Any) -> bool:
    """a number in [0, 1)"""  # noqa: D400
    return is_number(x) and 0 <= x < 1


def two_below_one(x: Any) -> bool:
    """two numbers in [0, 1)"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 2 and all(map(below_one, x))


def finite(x: Any) -> bool:
    """a finite number"""  # noqa: D400
    return is_number(x)


def flag(x: Any) -> bool:
    """True or False"""  # noqa: D400
    return isinstance(x, bool)


def is_number(x: Any) -> bool:
    """Tell whether something is a finite number, and no bool."""
    # An int may be too large for a float, and math.isfinite then raises OverflowError.
    return isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= sys.float_info.max


def check(who: str, rule: Rule, **settings: Any) -> None:
    """Raise ValueError naming name=value for a setting that its rule forbids; a NumPy number counts as a plain one.

    >>> check("EMA", below_one, decay=1.5)
    Traceback (most recent call last):
    ValueError: EMA: decay must be a number in [0, 1), got decay=1.5
    """
    for name, value in settings.items():
        if not rule(value.item() if isinstance(value, np.generic) else value):
            raise ValueError(f"{who}: {name} must be {rule.__doc__}, got {name}={value!r}")


RULES: dict[str, Rule] = {
    "lr": at_least_zero,
    "eps": at_least_zero,
    "weight_decay": at_least_zero,
    "betas": two_below_one,
    "momentum": at_least_zero,
    "dampening": finite,
    "nesterov": flag,
    "amsgrad": flag,
    "maximize": flag,
    "initial_lr": at_least_zero,
    "scheduled": flag,
}


class ParamGroup(dict[str, Any]):
    """Options of some parameters, as in PyTorch; "params" and "names" are tuples.

    Writing an option checks it (ValueError naming option and value). A callable is a schedule, step -> value: reading
    the option then shows its value at today's step, and writing a number over it raises. `unschedule(name)` keeps
    today's value and lets go of the schedule.

    >>> group = ParamGroup("SGD", {"lr": 0.1}, {})
    >>> group["lr"] = lambda step: 0.5**step
    >>> group.at(3)
    >>> group["lr"]
    0.125
    """

    def __init__(self, who: str, options: Mapping[str, Any], rules: Mapping[str, Rule], step: int = 0):
        super().__init__()
        self.who = who
        self.rules = {**RULES, **rules}
        self.schedules: dict[str, Callable[[int], Any]] = {}
        self.step = step
        self.late = False
        self.changed = False  # by hand, since the optimizer has seen whether its options go together
        for name, value in options.items():
            self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        if name in FIXED or not callable(value) or self._allows(name, value):
            dict.__setitem__(self, name, self.checked(name, value))
        else:
            today = self.checked(name, value(self.step), f" (at step {self.step} of its schedule)")
            dict.__setitem__(self, name, today)
            self.schedules[name] = value

    def _allows(self, name: str, value: Any) -> bool:
        return name in self.rules and self.rules[name](value)

    def checked(self, name: str, value: Any, note: str = "") -> Any:
        """Return an option's value as a plain Python one; ValueError naming both if its rule forbids it."""
        if name in ("params", "names"):
            return value
        value = value.item() if isinstance(value, np.generic) else tuple(value) if isinstance(value, list) else value
        if name in self.rules and not self.rules[name](value):
            raise ValueError(f"{self.who}: {name} must be {self.rules[name].__doc__}, got {name}={value!r}{note}")
        return value

    def at(self, step: int, strict: bool = True) -> None:
        """Evaluate the schedules at a step, the number of steps taken so far.

        Without `strict` a failing schedule is asked again at the next step: it may simply end with this one.
        """
        self.step = step
        self.late = False
        try:
            for name, schedule in self.schedules.items():
                self._set(name, schedule)
        except Exception:
            if strict:
                raise
            self.late = True

    def unschedule(self, name: str) -> None:
        """Let go of the schedule of an option, keeping its present value."""
        self.schedules.pop(name, None)

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            known = sorted(self.keys() - {"params", "names"})
            hint = f"{did_you_mean(name, known)}; options are {', '.join(known)}"
            raise ValueError(f"{self.who}: there is no option {name!r}{hint}")
        if name in ("params", "names"):
            raise ValueError(f"{self.who}: {name!r} of a group is fixed; use add_param_group, or make a new optimizer")
        if name in self.schedules and not callable(value):
            raise ValueError(
                f"{self.who}: {name} follows a schedule and would change back at the next step; call "
                f"param_groups[i].unschedule({name!r}) first, or write another schedule"
            )
        self._set(name, value)
        self.changed = True

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Write several options, each checked."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override,misc]
        self.update(other)
        return self

    def _refuse(self, *args: Any) -> NoReturn:
        raise TypeError(f"{self.who}: options of a group can be changed but not removed")

    __delitem__ = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.who, dict(self), self.rules, self.schedules, self.step, self.late)


def _restored(who: str, options: dict[str, Any], rules: Any, schedules: Any, step: int, late: bool) -> ParamGroup:
    """Return a group as it was. Its schedules are not asked: one may have ended."""
    group = ParamGroup(who, {}, rules, step)
    dict.update(group, options)
    group.schedules, group.late, group.changed = schedules, late, True
    return group


# ---- what an optimizer may be given --------------------------------------------------------------------------------


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known name closest to a wrong one, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_groups(who: str, params: Any) -> list[dict[str, Any]]:
    """Return what an optimizer was given as a list of dictionaries with "params" and perhaps options."""
    if hasattr(params, "named_parameters"):
        return [{"params": params}]
    refuse_unordered(who, params)
    names = getattr(params, "names", None)
    items = list(params)
    if not items:
        raise ValueError(f"{who}: got an empty parameter list; has the module parameters, or was an iterator used up?")
    if isinstance(items[0], Mapping):
        for item in items:
            if not isinstance(item, Mapping) or "params" not in item:
                raise TypeError(f"{who}: a list of groups holds dictionaries with 'params', got {_describe(item)}")
        return [dict(item) for item in items]
    return [{"params": items} if names is None else {"params": items, "names": names}]


def refuse_unordered(who: str, params: Any) -> None:
    """Raise TypeError for what is not an iterable of parameters in a definite order."""
    if isinstance(params, Tensor):
        raise TypeError(f"{who}: needs an iterable of parameters, got one Tensor of shape {params.shape}; pass [p]")
    if isinstance(params, (set, frozenset)):
        raise TypeError(f"{who}: a set has no fixed order, so its state could not be saved; pass a list")
    if isinstance(params, (str, Mapping)) or not isinstance(params, Iterable):
        raise TypeError(
            f"{who}: needs a module, or an iterable of parameters, of (name, parameter) pairs or of groups, "
            f"got {_describe(params)}"
        )


def read_params(who: str, group: Mapping[str, Any], first: int) -> tuple[Named, bool]:
    """Return the named parameters of one group, and whether the user chose the names.

    Unnamed parameters are called "0", "1", ..., counting from `first`.
    """
    params, names = group["params"], group.get("names")
    if hasattr(params, "named_parameters"):
        return check_params(who, list(params.named_parameters())), False
    params = [params] if isinstance(params, Tensor) else params
    refuse_unordered(who, params)
    names = getattr(params, "names", None) if names is None else names
    items = list(params)
    if names is not None:
        names = list(names)
        if len(names) != len(items):
            raise ValueError(f"{who}: a group has {len(items)} parameters and {len(names)} names")
        return check_params(who, list(zip(names, items, strict=True))), "names" in group
    if items and isinstance(items[0], tuple):
        if not all(isinstance(item, tuple) and len(item) == 2 for item in items):
            raise TypeError(f"{who}: named parameters are (name, parameter) pairs, all of them")
        return check_params(who, items), True
    return check_params(who, [(str(first + i), item) for i, item in enumerate(items)]), False


def check_params(who: str, named: Named) -> Named:
    """Raise TypeError or ValueError for what cannot be optimized."""
    for name, p in named:
        if not isinstance(name, str):
            raise TypeError(f"{who}: a parameter's name is a str, got {_describe(name)}")
        if not isinstance(p, Tensor):
            raise TypeError(f"{who}: can only optimize Tensors, got {_describe(p)} for parameter {name!r}")
        if not p.is_leaf:
            raise ValueError(
                f"{who}: parameter {name!r} {p.shape} is not a leaf: an operation made it, so it has no gradient of "
                "its own; optimize what it was made of, or detach() it and set requires_grad"
            )
        check_array(who, name, p)
    return named


def check_array(who: str, name: str, p: Tensor) -> None:
    """Raise TypeError for a parameter that is not float32 or float64, ValueError for one that cannot be written."""
    if p.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{who}: parameter {name!r} has dtype {p.dtype}; only float32 and float64 can be optimized (in float16 the "
            "small steps of training round to nothing)"
        )
    if not getattr(p.array.flags, "writeable", True):  # CuPy has no read-only arrays
        raise ValueError(f"{who}: the array of parameter {name!r} {p.shape} is read-only; set p.data = p.data.copy()")


def _describe(x: Any) -> str:
    text = repr(x)
    return type(x).__name__ + (f" {text}" if len(text) <= 40 else "")
