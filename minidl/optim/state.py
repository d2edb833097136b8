"""Saving and loading an optimizer's state, by parameter name, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..engine.backend import device_of, is_array, on_device
from ..engine.tensor import Tensor, wrap
from .groups import FIXED, finite
from .segment import Cohort

if TYPE_CHECKING:
    from .base import Optimizer
    from .groups import ParamGroup


def save(optimizer: Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer as copies: tensors, numbers, strings and tuples of them."""
    state = {name: {slot: _copy(x) for slot, x in entry.items()} for name, entry in optimizer.state.items()}
    groups = []
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name not in ("params", "names")}
        if group.schedules:
            options["schedules"] = {name: schedule_name(schedule) for name, schedule in group.schedules.items()}
        groups.append({"names": list(group["names"]), **options})
    return {"steps": optimizer.steps, "state": state, "param_groups": groups}


def _copy(x: Any) -> Any:
    """Return a tensor with a copy of an array, on its device; numbers as they are."""
    if not is_array(x):
        return x
    with on_device(device_of(x))[1]:
        return wrap(x.copy())


def schedule_name(schedule: Any) -> str:
    """Return a text that is the same for the same schedule in every process: a function's name, or an object's repr."""
    if hasattr(schedule, "__qualname__"):
        return f"{schedule.__module__}.{schedule.__qualname__}"
    text = repr(schedule)
    return type(schedule).__qualname__ if " at 0x" in text else text


def load(optimizer: Optimizer, saved: Mapping[str, Any], hyper: str) -> None:
    """Give an optimizer a saved state; ValueError listing all that does not fit, and then nothing has changed."""
    who = f"{type(optimizer).__name__}.load_state_dict"
    if hyper not in ("saved", "current"):
        raise ValueError(f"{who}: hyper must be 'saved' or 'current', got hyper={hyper!r}")
    if not isinstance(saved, Mapping) or not {"steps", "state", "param_groups"} <= saved.keys():
        raise ValueError(f"{who}: needs what state_dict() returned, a dictionary with steps, state and param_groups")
    problems = _names(optimizer, saved)
    options: list[dict[str, Any]] = [{} for _ in optimizer.param_groups]
    if not problems:
        for i, group in enumerate(optimizer.param_groups):
            options[i] = _options(group, saved["param_groups"][i], f"group {i}", problems) if hyper == "saved" else {}
            merged = {**group, **options[i]}
            try:
                optimizer.check_group(merged)
            except ValueError as error:
                problems.append(f"group {i}: {error}")
            _state(optimizer, merged, saved["state"], problems)
        if not _is_count(saved["steps"], 0):
            problems.append(f"steps must be an int >= 0, got {saved['steps']!r}")
    if problems:
        raise ValueError(f"{who}: the state does not fit this optimizer: " + "; ".join(problems))
    _commit(optimizer, saved, options)


def _names(optimizer: Optimizer, saved: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the groups and the names in them."""
    groups = saved["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        return [f"it has {len(groups)} parameter groups and the optimizer {len(optimizer.param_groups)}"]
    problems = []
    for i, (group, other) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        mine, theirs = list(group["names"]), list(other.get("names", ()))
        missing, unexpected = [n for n in mine if n not in theirs], [n for n in theirs if n not in mine]
        if len(mine) != len(theirs):
            sizes = f"{len(theirs)} parameters and {len(mine)}"
            problems.append(f"group {i} doesn't match the size of the optimizer's group ({sizes})")
        if missing or unexpected:
            problems.append(f"group {i}: missing {missing}, unexpected {unexpected}")
    known = {name for group in optimizer.param_groups for name in group["names"]}
    unknown = [name for name in saved["state"] if name not in known]
    return problems + ([f"state of unknown parameters {unknown}"] if unknown else [])


def _options(group: ParamGroup, saved: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """Return the saved options of a group, adding to problems what is wrong with them."""
    mine = {name for name in group if name not in ("params", "names")}
    theirs = {name: value for name, value in saved.items() if name not in ("names", "schedules")}
    if mine - theirs.keys() - {*FIXED}:
        problems.append(f"{where}: options missing {sorted(mine - theirs.keys())}")
    if theirs.keys() - mine - {*FIXED}:
        problems.append(f"{where}: unexpected options {sorted(theirs.keys() - mine)}")
    schedules = {name: schedule_name(schedule) for name, schedule in group.schedules.items()}
    if schedules != saved.get("schedules", {}):
        problems.append(
            f"{where}: schedules {saved.get('schedules', {})} were saved and the optimizer has {schedules}; give its "
            "constructor the same schedules, or pass hyper='current'"
        )
    options = {}
    for name, value in theirs.items():
        try:
            options[name] = group.checked(name, value)
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return options


def _state(optimizer: Optimizer, group: Mapping[str, Any], saved: Mapping[str, Any], problems: list[str]) -> None:
    """Add to problems what is wrong with the state of a group's parameters."""
    slots, numbers = set(optimizer.group_slots(group)), optimizer.group_numbers(group).keys()
    for name, p in zip(group["names"], group["params"], strict=True):
        entry = saved.get(name)
        if not isinstance(entry, Mapping):
            if entry is not None:  # None: it has not moved yet
                problems.append(f"{name}: must be a dictionary, got {type(entry).__name__}")
            continue
        if not _is_count(entry.get("t"), 1):
            problems.append(f"{name}: t must be an int >= 1, got {entry.get('t')!r}")
        found = entry.keys() - {"t"}
        if found != slots | numbers:
            missing, unexpected = (slots | numbers) - found, found - slots - numbers
            problems.append(f"{name}: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
        for number in sorted(found & numbers):
            if not finite(entry[number]):
                problems.append(f"{name}.{number}: must be {finite.__doc__}, got {entry[number]!r}")
        for slot in sorted(found & slots):
            x = _raw(entry[slot])
            if not is_array(x):
                problems.append(f"{name}.{slot}: must be an array, got {type(x).__name__}")
            elif x.dtype != p.dtype:
                problems.append(f"{name}.{slot}: dtype {x.dtype}, the parameter has {p.dtype}")
            elif x.shape != (shape := _shape(optimizer.initial(slot, group, p.array), p)):
                problems.append(f"{name}.{slot}: shape {x.shape}, must be {shape}")


def _shape(first: Any, p: Tensor) -> tuple[int, ...]:
    """Return the shape of a slot, given its first value: an array of that shape, or a number for the parameter's."""
    return first.shape if is_array(first) else p.shape


def _commit(optimizer: Optimizer, saved: Mapping[str, Any], options: list[dict[str, Any]]) -> None:
    """Take over a state that has been found good."""
    cohorts: list[list[Cohort]] = []
    for group, new in zip(optimizer.param_groups, options, strict=True):
        merged = {**group, **new}
        parts: dict[tuple[Any, ...], list[tuple[str, Tensor]]] = {}
        for name, p in zip(group["names"], group["params"], strict=True):
            entry = saved["state"].get(name, {"t": 0})
            numbers = tuple((k, entry[k]) for k in optimizer.group_numbers(merged) if k in entry)
            parts.setdefault((entry["t"], numbers, p.dtype, p.device), []).append((name, p))
        cohorts.append([])
        for (t, numbers, *_), named in parts.items():
            state = [{k: _raw(x) for k, x in saved["state"].get(name, {}).items() if k != "t"} for name, _ in named]
            cohort = Cohort([name for name, _ in named], [p for _, p in named], t, dict(numbers))
            cohorts[-1].append(optimizer.fill(cohort, merged, state))
    optimizer._cohorts = cohorts
    optimizer.steps = saved["steps"]
    for group, new in zip(optimizer.param_groups, options, strict=True):
        for name, value in new.items():
            dict.__setitem__(group, name, value)
        group.at(optimizer.steps, strict=False)


def _raw(x: Any) -> Any:
    return x.array if isinstance(x, Tensor) else x


def _is_count(x: Any, least: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= least
