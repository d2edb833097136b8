"""A case of the table of optimizers: one optimizer with options, its formula, and what else must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One optimizer with options.

    hand      its formula as loops (None: it has tests of its own, because it needs more than a gradient)
    scope     what the formula is given: an "element", or a "parameter" (lists)
    torch     the class of torch.optim that must agree, state and all; None for none
    optax     (optax, options) -> the transformation that must agree; None for none
    names     slot -> entry of PyTorch's state
    leave_out which parameters the other library cannot take (2: a number, 3: an empty array)
    rtol      of the comparison with the formula: 1e-12, or 1e-9 where sums of many elements take part
    """

    kind: type
    options: dict[str, Any]
    hand: Callable[..., Any] | None = None
    scope: str = "element"
    torch: str | None = None
    optax: Callable[..., Any] | None = None
    names: dict[str, str] = field(default_factory=dict)
    rtol: float = 1e-12
    optax_rtol: float = 1e-11
    leave_out: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.kind.__name__, *(f"{k}={v}" for k, v in self.options.items())])

    def make(self, params: Any, **more: Any) -> Any:
        return self.kind(params, **{**self.options, **more})


def grid(kind, by_hand, *options, torch=None, optax=None, names=None, only=None, **more):
    """Return a case for each of some options; `only` are the options that PyTorch does not have."""
    cases = []
    for chosen in options:
        known = torch if not chosen.keys() & (only or set()) else None
        cases.append(Case(kind, chosen, by_hand, torch=known, optax=optax, names=names or {}, **more))
    return cases


MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq", "b": "momentum_buffer"}
MAX = {"lr": 0.01, "maximize": True}
L2 = {"lr": 0.1, "weight_decay": 0.1}
DECOUPLED = {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}
LOW = {"lr": 0.1, "betas": (0.5, 0.75)}
EDGE = {"lr": 0.1, "betas": (0.0, 0.0)}
