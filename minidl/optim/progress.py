"""Optimizers that carry a few numbers from step to step beside the state of each parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..engine.backend import Array, device_of, on_device, to_numpy
from . import state as saved
from .base import Optimizer
from .groups import ParamGroup
from .rules import decay_numbers
from .segment import Cohort, memory_order

Mover = tuple[Cohort, ParamGroup, list[Array]]  # parameters that move at a step, their group, and their gradients
Terms = Callable[..., Any]


class Progressing(Optimizer):
    """Base of optimizers that find numbers for all parameters at once, such as a step size.

    progress    names of the options of a group that hold them. They are saved and loaded like options, and by
                hyper="current" too: they are not the user's to choose
    measure     called before anything is written, with what moves at this step: the numbers of each group, those of
                `progress` as they will be after the step, and whatever else `scalars` needs of `self.found(group)`
    """

    progress: ClassVar[tuple[str, ...]] = ()

    def _reset(self) -> None:
        super()._reset()
        self._found: dict[int, dict[str, Any]] = {}

    def measure(self, movers: Sequence[Mover]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        """Return the numbers of the groups at this step."""
        raise NotImplementedError(f"{self._who}: defines measure(movers)")

    def found(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `measure` found for a group; empty between steps."""
        return self._found.get(id(group), {})

    def _movers(self) -> list[Mover]:
        self._found = {}
        movers = super()._movers()
        found = self.measure(movers) if movers else []
        for group, numbers in found:
            for name in self.progress:
                if name in numbers:
                    group.checked(name, numbers[name], " (are the gradients finite?)")
        self._found = {id(group): numbers for group, numbers in found}
        return movers

    def after_step(self) -> None:
        for group in self.param_groups:
            found = self.found(group)
            group.update({name: found[name] for name in self.progress if name in found})
        self._found = {}

    def load_state_dict(self, state_dict: Mapping[str, Any], hyper: str = "saved") -> None:
        if hyper == "current" and isinstance(state_dict, Mapping) and "param_groups" in state_dict:
            # The options of this optimizer in the form of a saved state, and in them the progress that was saved.
            mine, theirs = saved.save(self)["param_groups"], state_dict["param_groups"]
            if len(mine) == len(theirs):
                kept = ("names", *self.progress)
                pairs = zip(mine, theirs, strict=True)
                groups = [{**own, **{name: other[name] for name in kept if name in other}} for own, other in pairs]
                state_dict, hyper = {**state_dict, "param_groups": groups}, "saved"
        super().load_state_dict(state_dict, hyper)

    def agree(self, groups: Sequence[ParamGroup], names: Iterable[str]) -> None:
        """Raise ValueError if groups for which one number is found differ in options that it depends on."""
        for group in groups[1:]:
            for name in sorted(names):
                if group[name] != groups[0][name]:
                    raise ValueError(
                        f"{self._who}: one step size is found for all groups, so they have the same {name}, got "
                        f"{name}={groups[0][name]!r} and {name}={group[name]!r}; give those an optimizer of their own"
                    )

    def totals(self, movers: Sequence[Mover], terms: Terms, groups: Sequence[ParamGroup] | None = None) -> list[float]:
        """Add up, over the parameters of some groups or of all, what `terms` gives for each.

        terms   (xp, group, theta, g, slots) -> the same number of scalars of an array module each time, or None. g is
                the gradient as `gradient` gives it, None for a parameter that does not move at this step or whose lr is
                0; slots are its state by name, empty before its first step

        They are added up in float64. On a GPU each call waits for one small vector. ValueError for a sum that is not
        finite: max and min would pass over a NaN in silence.
        """
        gradients = {id(cohort): found for cohort, _, found in movers}
        sums: dict[str, Array] = {}
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            if groups is not None and all(group is not other for other in groups):
                continue
            for cohort in cohorts:
                found = gradients.get(id(cohort)) if group["lr"] else None
                device = device_of(cohort.arrays[0])
                xp, context = on_device(device)
                with context:
                    for i, (theta, slots) in enumerate(zip(cohort.arrays, cohort.state(), strict=True)):
                        g = None if found is None else gradient(group, theta, found[i])
                        given = terms(xp, group, theta, g, slots)
                        if given is not None:
                            vector = xp.stack([xp.asarray(x, "float64") for x in given])
                            sums[device] = sums[device] + vector if device in sums else vector
        vectors = [to_numpy(vector).tolist() for vector in sums.values()]
        found = [sum(column) for column in zip(*vectors, strict=True)]
        for x in found:
            if not math.isfinite(x):
                raise ValueError(
                    f"{self._who}.step: a sum over the gradients must be a finite number, got {x} (are the gradients "
                    "finite?); nothing was changed; clip, or leave such steps out with SkipNonFinite(optimizer)"
                )
        return found


def gradient(group: Mapping[str, Any], theta: Array, g: Array) -> Array:
    """Return the gradient that a formula works with: of -f if the group maximizes, and with its L2 term."""
    g = -g if group["maximize"] else g
    l2 = decay_numbers(group)["l2"]
    return g if l2 is None else g + l2 * theta


def inner(a: Array, b: Array) -> Any:
    """Return <a, b>. Arrays that lie alike in memory go to the BLAS, which needs no temporary."""
    order = memory_order(a)
    if order is None or a.strides != b.strides:
        return (a * b).sum(dtype="float64")
    if order:
        a, b = a.transpose(order), b.transpose(order)
    return a.reshape(-1).dot(b.reshape(-1))
