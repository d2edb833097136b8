"""Lookahead: slow weights that follow the fast ones of another optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..compiler.record import replayed
from ..engine.backend import Array, device_of, is_array, on_device, to_device
from ..engine.node import stamp
from ..engine.tensor import Tensor, wrap
from .base import Optimizer
from .groups import Rule
from .rules import OneOf, count, fraction
from .switch import SWATS
from .vector import VectorOptimizer

MOMENTA = ("b", "m")  # the slots of running gradients


class Lookahead:
    """Slow weights, moved every k steps a part of the way to the fast (Zhang et al. 2019, arXiv:1907.08610, Alg. 1).

        every k steps of a parameter:   slow <- slow + alpha (theta - slow),   theta <- slow

    inner      the optimizer that makes the steps; its options, schedules and groups are used as ever
    momentum   what becomes of the inner running gradients (its slots b or m) then: "keep"; "reset" to 0; "pullback",
               averaged like the weights (the paper's Sec. 4.4)

    The slow weights start as the parameters are now. `with optimizer.slow_weights():` evaluates with them. It has the
    methods of an optimizer; `state` and `state_dict` are the inner one's, with the slow weights added. TypeError if
    inner is not an optimizer, or one that remembers where a line search ended (LBFGS and the like); ValueError for
    k < 1, alpha outside [0, 1], a momentum policy without momentum, and "pullback" for SWATS, whose momentum changes.

    >>> import minidl as md
    >>> from minidl.optim import SGD
    >>> w = md.tensor([0.0], requires_grad=True)
    >>> optimizer = Lookahead(SGD([w], lr=1.0), k=2, alpha=0.5)
    >>> for _ in range(3):
    ...     w.grad = md.tensor([1.0])
    ...     optimizer.step()
    >>> w  # 0, -1, (-2 + 0) / 2, -2
    tensor([-2.], requires_grad=True)
    """

    def __init__(self, inner: Optimizer, k: int = 5, alpha: float = 0.5, momentum: str = "keep"):
        if not isinstance(inner, Optimizer):
            raise TypeError(f"Lookahead: inner must be an optimizer, got {type(inner).__name__}")
        if isinstance(inner, VectorOptimizer):
            raise TypeError(
                f"Lookahead: inner must move parameters step by step, and {type(inner).__name__} continues a search "
                "from where it left them"
            )
        if isinstance(inner, SWATS) and momentum == "pullback":
            raise ValueError(
                "Lookahead: SWATS gets another momentum when it switches, and there is no mean of the two; momentum "
                "must be 'keep' or 'reset', got momentum='pullback'"
            )
        rules: dict[str, Rule] = {"k": count, "alpha": fraction, "momentum": OneOf("keep", "reset", "pullback")}
        for (name, rule), value in zip(rules.items(), (k, alpha, momentum), strict=True):
            if not rule(value):
                raise ValueError(f"Lookahead: {name} must be {rule.__doc__}, got {name}={value!r}")
        if momentum != "keep" and not all(self._momenta(inner, group) for group in inner.param_groups):
            raise ValueError(f"Lookahead: {type(inner).__name__} has no momentum, got momentum={momentum!r}")
        self.inner, self.k, self.alpha, self.momentum = inner, k, alpha, momentum
        self._slow: list[tuple[Tensor, dict[str, Array]]] = []
        self._follow()

    @staticmethod
    def _momenta(inner: Optimizer, group: Mapping[str, Any]) -> list[str]:
        return [slot for slot in inner.group_slots(group) if slot in MOMENTA]

    def _follow(self) -> None:
        """Copy the weights of parameters that are new."""
        known = {id(p) for p, _ in self._slow}
        for group in self.inner.param_groups:
            slots = self._momenta(self.inner, group) if self.momentum == "pullback" else []
            for p in group["params"]:
                if id(p) not in known:
                    xp, device = on_device(p.device)
                    with device:
                        averages = {slot: xp.zeros_like(p.array) for slot in slots}
                        self._slow.append((p, {"slow": p.array.copy(), **averages}))

    # ---- steps -------------------------------------------------------------------------------------------------------

    @replayed
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step of the inner optimizer; then bring together those weights whose k steps are over."""
        # A gradient may be gone when the step is over, by a hook; that t has grown is sure.
        before = {name: cohort.t for cohorts in self.inner._cohorts for cohort in cohorts for name in cohort.names}
        loss = self.inner.step(closure)
        slow, state = {id(p): own for p, own in self._slow}, self.inner.state
        for group in self.inner.param_groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                if name in state and state[name]["t"] != before.get(name) and state[name]["t"] % self.k == 0:
                    self._bring_together(p, slow[id(p)], state[name])
        return loss

    def _bring_together(self, p: Tensor, own: dict[str, Array], state: Mapping[str, Any]) -> None:
        targets = {"slow": p.array}
        if self.momentum != "keep":
            targets |= {slot: state[slot] for slot in MOMENTA if slot in state}
        with on_device(p.device)[1]:
            for name, fast in targets.items():
                if name != "slow" and self.momentum == "reset":
                    fast[...] = 0
                    continue
                mean = to_device(own[name], device_of(fast)).astype(fast.dtype, copy=False)
                mean += fast.dtype.type(self.alpha) * (fast - mean)
                own[name] = mean
                fast[...] = mean
        stamp(p.array)

    @contextmanager
    def slow_weights(self) -> Iterator[None]:
        """Put the slow weights in place of the fast ones for the length of a `with` block."""
        fast = [p.array.copy() for p, _ in self._slow]
        self._write([own["slow"] for _, own in self._slow])
        try:
            yield
        finally:
            self._write(fast)

    def _write(self, values: list[Array]) -> None:
        for (p, _), value in zip(self._slow, values, strict=True):
            with on_device(p.device)[1]:
                p.array[...] = to_device(value, device_of(p.array))
            stamp(p.array)

    # ---- the rest of an optimizer --------------------------------------------------------------------------------

    @property
    def param_groups(self) -> Any:
        """The inner optimizer's groups, which schedules change."""
        return self.inner.param_groups

    @property
    def step_needs(self) -> str:
        """What `step` needs: what the inner optimizer's needs."""
        return self.inner.step_needs

    @property
    def steps(self) -> int:
        """Return the number of steps taken."""
        return self.inner.steps

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or fill them with zeros."""
        self.inner.zero_grad(set_to_none)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own; their slow weights start as they are now."""
        self.inner.add_param_group(group)
        self._follow()

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The inner state by parameter name, with "slow" (and "slow_m" or "slow_b"), shared and not copied."""
        slow = {id(p): own for p, own in self._slow}
        state = self.inner.state
        for group in self.inner.param_groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                if name in state:
                    own = slow[id(p)]
                    state[name] |= {k if k == "slow" else f"slow_{k}": x for k, x in own.items()}
        return state

    def state_dict(self) -> dict[str, Any]:
        """Return copies: the inner optimizer's, and "slow": {name: {"slow": Tensor, ...}}."""
        return {**self.inner.state_dict(), "slow": {name: self._copies(own) for name, own in self._named()}}

    def _named(self) -> list[tuple[str, dict[str, Array]]]:
        slow = {id(p): own for p, own in self._slow}
        groups = self.inner.param_groups
        return [(name, slow[id(p)]) for g in groups for name, p in zip(g["names"], g["params"], strict=True)]

    @staticmethod
    def _copies(own: Mapping[str, Array]) -> dict[str, Tensor]:
        copies = {}
        for name, x in own.items():
            with on_device(device_of(x))[1]:
                copies[name] = wrap(x.copy())
        return copies

    def load_state_dict(self, state_dict: Mapping[str, Any], hyper: str = "saved") -> None:
        """Continue from a state; ValueError for one that does not fit, and then nothing has changed."""
        who = "Lookahead.load_state_dict"
        if not isinstance(state_dict, Mapping) or "slow" not in state_dict:
            raise ValueError(f"{who}: needs what Lookahead.state_dict() returned, with an entry 'slow'")
        given = {name: {k: getattr(x, "array", x) for k, x in own.items()} for name, own in state_dict["slow"].items()}
        problems = [f"missing {name}" for name, _ in self._named() if name not in given]
        problems += [f"unexpected {name}" for name in given.keys() - {name for name, _ in self._named()}]
        for name, own in self._named():
            for slot in (own.keys() | given[name].keys()) if name in given else ():
                want, got = _kind(own.get(slot)), _kind(given[name].get(slot))
                if want != got:
                    problems.append(f"{name}.{slot}: must be {want}, got {got}")
        if problems:
            raise ValueError(f"{who}: the slow weights do not fit: {'; '.join(problems)}")
        self.inner.load_state_dict({k: v for k, v in state_dict.items() if k != "slow"}, hyper)
        for name, own in self._named():
            for slot, x in given[name].items():
                with on_device(device_of(own[slot]))[1]:
                    own[slot] = to_device(x, device_of(own[slot])).copy()

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(optimizer, args, kwargs)` before each step of the inner optimizer."""
        return self.inner.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(optimizer, args, kwargs)` after each step of the inner optimizer, before weights come together."""
        return self.inner.register_step_post_hook(hook)

    def __repr__(self) -> str:
        return f"Lookahead(k={self.k}, alpha={self.alpha}, momentum={self.momentum!r}, {self.inner!r})"


def _kind(x: Any) -> str:
    return f"{x.dtype} {x.shape}" if is_array(x) else "nothing" if x is None else type(x).__name__
