"""LRScheduler: a schedule bound to an optimizer, with PyTorch's methods."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...compiler.record import replayed
from ..base import Optimizer
from ..groups import ParamGroup, Rule, check
from ..state import schedule_name

# Which scheduler of an optimizer stepped last; an optimizer is here once it has had one. Nobody is kept alive by it.
_drivers: weakref.WeakKeyDictionary[Optimizer, weakref.ref[LRScheduler] | None] = weakref.WeakKeyDictionary()
# Which one wrote last, perhaps when it was made: the lr is its own, and it alone restores it.
_writers: weakref.WeakKeyDictionary[Optimizer, weakref.ref[LRScheduler]] = weakref.WeakKeyDictionary()


class LRScheduler:
    """The base of bound schedules: writes `lr` of every group, as a closed form of the number of calls of `step`.

    A subclass defines `at(base, t, i)`, the lr of group i at t if its initial lr is `base`; t = 0 holds before the
    first `step()`. Values are PyTorch's. What differs from PyTorch:

    - `load_state_dict` writes the lr, if it was this scheduler's when its state was saved: training resumes right at
      every t, whatever is loaded or made first;
    - the order of `optimizer.step()` and `scheduler.step()` is yours; there are no warnings;
    - an lr written into a group by hand lasts until the next `step()`;
    - groups that are added later join in with their own initial lr;
    - two schedulers that both step one optimizer raise: only ChainedScheduler and SequentialLR combine them, and so do
      a schedule in `param_groups` and a scheduler.

    >>> import minidl as md
    >>> class Halving(LRScheduler):
    ...     def at(self, base, t, i):
    ...         return base * 0.5**t
    >>> optimizer = md.optim.SGD([md.tensor([1.0], requires_grad=True)], lr=0.4)
    >>> scheduler = Halving(optimizer)
    >>> scheduler.step()
    >>> scheduler.get_last_lr(), optimizer.param_groups[0]["lr"]
    ([0.2], 0.2)
    """

    combinable = True  # in SequentialLR and ChainedScheduler
    multiplies = False  # the lr that is there, as against setting another
    follows = False  # in a SequentialLR, on what the scheduler before it left and not from the initial lr
    settings: Mapping[str, Any] = {}  # what the constructor was given, as it is saved
    _stepped = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        self._bind(optimizer, last_epoch)
        self._move(self.last_epoch)

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _bind(self, optimizer: Optimizer, last_epoch: int) -> bool:
        """Take the optimizer; tell whether this is its first scheduler, which settles its initial lr."""
        check(self._who, _is_epoch, last_epoch=last_epoch)
        self.optimizer = optimizer = inner_of(self._who, optimizer)
        self._refuse_schedules()
        groups = optimizer.param_groups
        first = last_epoch == -1 and not any(group.get("scheduled") for group in groups)
        for group in groups:
            if first:  # it may have been changed since the optimizer was made
                group["initial_lr"] = group["lr"]
            dict.update(group, scheduled=True)  # saved with the group: what is there now may not be the initial lr
        _drivers.setdefault(optimizer, None)
        self.last_epoch = last_epoch + 1
        self.base_lrs: list[float] = []
        self._last_lr: list[float] = [group["lr"] for group in optimizer.param_groups]
        self._last_momentum: list[float | None] = [None for _ in optimizer.param_groups]
        return first

    def _refuse_schedules(self, names: Iterable[str] = ("lr",)) -> None:
        for i, group in enumerate(self.optimizer.param_groups):
            for name in names if group.schedules else ():
                if name in group.schedules:
                    raise ValueError(
                        f"{self._who}: {name} of group {i} follows the schedule "
                        f"{schedule_name(group.schedules[name])}; it has either a schedule or a scheduler: call "
                        f"param_groups[{i}].unschedule({name!r}) first"
                    )

    # ---- what a subclass may give ------------------------------------------------------------------------------------

    def at(self, base: float, t: int, i: int) -> float:
        """Return the lr of group i at t, if its initial lr is `base`."""
        raise NotImplementedError(f"{self._who}: a scheduler defines at(base, t, i)")

    def initial(self, i: int, group: ParamGroup) -> float:
        """Return the initial lr of group i."""
        return float(group["initial_lr"])

    def advance(self, lr: float, t: int, i: int) -> float:
        """Return the lr of group i at t from the one at t - 1, which others in a ChainedScheduler may have changed."""
        return self.at(self.base_lrs[i], t, i)

    def enter(self, left: float, i: int) -> float:
        """Return the lr of group i at t = 0 in a SequentialLR where the scheduler before this one left `left`."""
        return self.lrs(0)[i]

    def momentum_at(self, t: int, i: int) -> float | None:
        """Return momentum (or the first beta) of group i at t; None if it is left alone."""
        return None

    # ---- a step ------------------------------------------------------------------------------------------------------

    def bases(self) -> list[float]:
        """Return the initial lr of every group, asking for those of new groups."""
        groups = self.optimizer.param_groups
        for i in range(len(self.base_lrs), len(groups)):
            self.base_lrs.append(self.initial(i, groups[i]))
        return self.base_lrs

    def lrs(self, t: int) -> list[float]:
        """Return the lr of every group at t."""
        return [float(self.at(base, t, i)) for i, base in enumerate(self.bases())]

    def momenta(self, t: int) -> list[float | None]:
        """Return the momentum of every group at t."""
        return [self.momentum_at(t, i) for i in range(len(self.optimizer.param_groups))]

    @replayed
    def step(self, epoch: int | None = None) -> None:
        """Go on to the next t, or to t = epoch, and write the lr of every group."""
        self._take_over()
        self._move(self.last_epoch + 1 if epoch is None else epoch)

    def _take_over(self) -> None:
        driver = _drivers.get(self.optimizer)
        other = None if driver is None else driver()
        if other is self:
            return
        if self._stepped and other is not None:
            raise ValueError(
                f"{self._who}: {other._who} has stepped this optimizer too, and each would undo the other; combine "
                "them with ChainedScheduler or SequentialLR, or delete the one that has done its work"
            )
        self._stepped = True
        _drivers[self.optimizer] = weakref.ref(self)

    def _move(self, t: int) -> None:
        """Compute everything for t, then write it: an error changes nothing."""
        self._write(self.lrs(t), self.momenta(t))
        self.last_epoch = t

    def _write(self, lrs: Sequence[float], momenta: Sequence[float | None]) -> None:
        groups = self.optimizer.param_groups
        self._refuse_schedules(("lr",) if all(m is None for m in momenta) else ("lr", "momentum", "betas"))
        new = []
        for group, lr, momentum in zip(groups, lrs, momenta, strict=True):
            options: dict[str, Any] = {"lr": group.checked("lr", lr)}
            if momentum is not None:
                name = "betas" if "betas" in group else "momentum"
                options[name] = group.checked(name, (momentum, *group[name][1:]) if name == "betas" else momentum)
            new.append(options)
        for group, options in zip(groups, new, strict=True):
            dict.update(group, options)  # it has been checked
        _writers[self.optimizer] = weakref.ref(self)
        self._last_lr = list(lrs)
        before = self._last_momentum + [None] * len(lrs)
        self._last_momentum = [old if new is None else new for old, new in zip(before, momenta, strict=False)]

    def get_last_lr(self) -> list[float]:
        """Return the lr that was last written into each group."""
        return list(self._last_lr)

    def get_lr(self) -> list[float]:
        """Return the lr of each group at the present t."""
        return self.lrs(self.last_epoch)

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state: plain numbers, strings and lists. Functions are noted by name."""
        return {
            "kind": self._who, "settings": _plain(self.settings), "last_epoch": self.last_epoch,
            "base_lrs": list(self.bases()), "last_lr": list(self._last_lr), "last_momentum": list(self._last_momentum),
            "drives": self._drives(), **self._more_state(),
        }  # fmt: skip

    def _drives(self) -> bool:
        """Tell whether the lr is what this scheduler wrote, and not what another one did."""
        writer = _writers.get(self.optimizer)
        return writer is None or writer() is self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "drives": self._drives()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "drives"})
        if state["drives"]:
            _writers[self.optimizer] = weakref.ref(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], hyper: str = "saved") -> None:
        """Continue from a state, before or after the optimizer's state is loaded, writing the lr if it was this one's.

        ValueError if the state is of another kind of scheduler, of other settings, or of another number of groups; then
        nothing has changed. hyper="current" keeps the settings of this scheduler where they differ.
        """
        if hyper not in ("saved", "current"):
            raise ValueError(f"{self._who}.load_state_dict: hyper must be 'saved' or 'current', got hyper={hyper!r}")
        problems = self._problems(state_dict, hyper)
        if problems:
            raise ValueError(f"{self._who}.load_state_dict: the state does not fit: {'; '.join(problems)}")
        self._refuse_schedules()
        before = self.state_dict()
        try:
            self._load(state_dict)
            lrs = self.lrs(self.last_epoch)
            if state_dict["drives"]:
                self._write(lrs, self._last_momentum)
        except Exception:
            self._load(before)
            raise

    def _problems(self, state: Mapping[str, Any], hyper: str) -> list[str]:
        """Return what is wrong with a state."""
        if not isinstance(state, Mapping) or not self.state_dict().keys() <= state.keys():
            return ["it must be what state_dict() returned"]
        if state["kind"] != self._who:
            return [f"it is one of {state['kind']}"]
        found = []
        groups = len(self.optimizer.param_groups)
        if len(state["base_lrs"]) != groups:
            found.append(f"it has {len(state['base_lrs'])} groups and the optimizer {groups}")
        if hyper == "saved" and _plain(state["settings"]) != _plain(self.settings):
            names = [n for n, x in self.settings.items() if _plain(state["settings"].get(n)) != _plain(x)]
            pairs = [f"{n}={state['settings'].get(n)!r}, here {n}={self.settings[n]!r}" for n in names]
            found.append(f"saved with {'; '.join(pairs)}; pass the same, or hyper='current' to keep the present ones")
        return found

    def _load(self, state: Mapping[str, Any]) -> None:
        """Take over a state that has been found good."""
        self.last_epoch = state["last_epoch"]
        self.base_lrs = list(state["base_lrs"])
        self._last_lr = list(state["last_lr"])
        self._last_momentum = list(state["last_momentum"])

    def _more_state(self) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"{self._who}({type(self.optimizer).__name__}{settings})  # last_epoch={self.last_epoch}"


@lru_cache(maxsize=1024)
def made(kind: Callable[..., Any], *settings: Any) -> Any:
    """Return a schedule, made and checked once and not at each step."""
    return kind(*settings)


def _plain(x: Any) -> Any:
    """Return settings in a form in which tuples and lists, and what a file made of them, compare equal."""
    if isinstance(x, Mapping):
        return {name: _plain(value) for name, value in x.items()}
    if isinstance(x, np.generic):
        return x.item()
    return [_plain(item) for item in x] if isinstance(x, (list, tuple)) else x


def noted(x: Any) -> Any:
    """Return a setting as it is saved: functions by name."""
    if isinstance(x, (list, tuple)):
        return [noted(item) for item in x]
    return schedule_name(x) if callable(x) else x


def check_each(who: str, rule: Rule, **settings: Any) -> None:
    """Check settings that are one value for all groups, or a list with one for each."""
    for name, value in settings.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            check(who, rule, **{name: one})


def _is_epoch(x: Any) -> bool:
    """an int >= -1"""  # noqa: D400
    return isinstance(x, int) and not isinstance(x, bool) and x >= -1


def for_group(who: str, name: str, value: Any, i: int) -> Any:
    """Return what group i gets of a setting that is one value for all, or a list with one for each."""
    if not isinstance(value, (list, tuple)):
        return value
    if i >= len(value):
        raise ValueError(f"{who}: {name} has {len(value)} values and the optimizer a group {i}; give one for each")
    return value[i]


def inner_of(who: str, optimizer: Any) -> Optimizer:
    """Return the optimizer inside of wrappers such as Lookahead; TypeError if there is none."""
    inner = optimizer
    while not isinstance(inner, Optimizer) and hasattr(inner, "inner"):
        inner = inner.inner
    if not isinstance(inner, Optimizer):
        raise TypeError(f"{who}: needs an Optimizer, got {type(optimizer).__name__}")
    return inner


def check_length(who: str, name: str, value: Any, optimizer: Any) -> None:
    """Raise ValueError if a list does not have one entry for each group."""
    groups = inner_of(who, optimizer).param_groups
    if isinstance(value, (list, tuple)) and len(value) != len(groups):
        raise ValueError(f"{who}: {name} has {len(value)} values and the optimizer {len(groups)} groups")
