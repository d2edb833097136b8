"""Schedule-Free methods: averaging of the iterates takes the place of a falling learning rate.

Three sequences: z makes the steps, x is its weighted average, the result, and gradients are taken between them, at
y = (1 - beta) z + beta x. In training the parameters are y, for evaluation x: see `train`, `eval` and `averaged`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from ..engine.backend import Array, device_of, on_device, to_device
from .averaged_model import write
from .groups import ParamGroup, at_least_zero, below_one
from .progress import Mover, Progressing
from .rules import OneOf, count_from_zero


def above_zero_to_one(x: Any) -> bool:
    """a number in (0, 1]"""  # noqa: D400
    return isinstance(x, (int, float)) and not isinstance(x, bool) and 0 < x <= 1


def interpolation_and_decay(x: Any) -> bool:
    """two numbers, in (0, 1] and in [0, 1)"""  # noqa: D400
    return isinstance(x, tuple) and len(x) == 2 and above_zero_to_one(x[0]) and below_one(x[1])


class ScheduleFree(Progressing):
    """Base: the weights of the average, and the two modes."""

    progress = ("k", "lr_max", "weight_sum", "mode")
    rules: ClassVar = {
        "warmup_steps": count_from_zero,
        "r": at_least_zero,
        "weight_lr_power": at_least_zero,
        "k": count_from_zero,
        "lr_max": at_least_zero,
        "weight_sum": at_least_zero,
        "mode": OneOf("train", "eval"),
    }

    def initial(self, slot: str, group: Mapping[str, Any], theta: Array) -> Any:
        return theta if slot == "z" else 0.0

    def beta(self, group: Mapping[str, Any]) -> float:
        """Return how far y lies on the way from z to x."""
        raise NotImplementedError

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        super().add_param_group(group)
        self.param_groups[-1]["mode"] = self.param_groups[0]["mode"]

    def measure(self, movers: Sequence[Mover]) -> list[tuple[ParamGroup, dict[str, Any]]]:
        self._demand_training()
        moving = {id(group) for _, group, _ in movers}
        return [(group, self.weigh(group)) for group in self.param_groups if id(group) in moving]

    def weigh(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the numbers of the next step of a group: its rate, and c, the weight of its z in the average."""
        k, warmup = group["k"] + 1, group["warmup_steps"]
        rate = group["lr"] * (k / warmup if k < warmup else 1.0)
        lr_max = max(rate, group["lr_max"])
        weight = k ** group["r"] * lr_max ** group["weight_lr_power"]
        weight_sum = group["weight_sum"] + weight
        c = weight / weight_sum if weight_sum else 0.0
        return {"k": k, "lr_max": lr_max, "weight_sum": weight_sum, "rate": rate, "c": c}

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        found = self.found(group) or self.weigh(group)
        # y' = (1 - beta) z' + beta ((1 - c) x + c z') with z' = z - rate g and x = (y - (1 - beta) z) / beta
        move = found["rate"] * (self.beta(group) * (1 - found["c"]) - 1)
        return {"rate": found["rate"], "c": found["c"], "move": move, "decay": group["weight_decay"] or None}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient. RuntimeError while the parameters hold the average."""
        self._demand_training()  # before the closure is called; `measure` asks again when a captured step is replayed
        return super().step(closure)

    def _demand_training(self) -> None:
        if self.param_groups[0]["mode"] == "eval":
            raise RuntimeError(
                f"{self._who}.step: the parameters hold the average x, where no gradient is to be taken; call train() "
                "before the forward pass"
            )

    # ---- the two modes -----------------------------------------------------------------------------------------------

    def eval(self) -> None:
        """Put the average x into the parameters: x = y + (1 - 1 / beta) (z - y). Does nothing if it is there."""
        self._switch("eval", lambda beta: 1 - 1 / beta)

    def train(self) -> None:
        """Put y back into the parameters: y = x + (1 - beta) (z - x), up to rounding. Does nothing if it is there."""
        self._switch("train", lambda beta: 1 - beta)

    def _switch(self, mode: str, weight: Callable[[float], float]) -> None:
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            if group["mode"] == mode:
                continue
            for cohort in cohorts:
                for p, slots in zip(cohort.tensors, cohort.state(), strict=True):
                    if slots:  # before its first step y, z and x are one
                        with on_device(p.device)[1]:
                            z = to_device(slots["z"], device_of(p.array)).astype(p.dtype, copy=False)
                            write(p, p.array + weight(self.beta(group)) * (z - p.array))
            group["mode"] = mode

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Evaluate with the average: inside `with` the parameters hold x, afterwards y again, bit by bit."""
        if self.param_groups[0]["mode"] == "eval":
            yield
            return
        kept = []
        for group in self.param_groups:
            for p in group["params"]:
                with on_device(p.device)[1]:
                    kept.append((p, p.array.copy()))
        self.eval()
        try:
            yield
        finally:
            for p, y in kept:
                write(p, y)
            for group in self.param_groups:
                group["mode"] = "train"


class ScheduleFreeSGD(ScheduleFree):
    """SGD that needs no schedule (Defazio et al. 2024, arXiv:2405.15682, eq. 3 to 5; the weights of the authors' code).

        y = (1 - momentum) z + momentum x                 where the gradient g is taken, and where decay acts
        z <- z - rate (g + weight_decay y)                rate = lr min(1, k / warmup_steps) at the k-th step
        x <- (1 - c) x + c z                              c = w / (sum of w so far), w = k^r lr_max^weight_lr_power

    lr_max is the largest rate so far. With the defaults and a constant lr x is the mean of all z; with momentum=1
    gradients are taken at that mean itself. k counts the steps of the group: a parameter that begins to move later
    joins its average. The authors advise an lr 10 to 50 times that of SGD with a schedule.

    Parameters hold y for training and x for evaluation and for keeping:

        model.eval(); optimizer.eval()            ...and before the next step: model.train(); optimizer.train()
        with optimizer.averaged(): ...            the same for a block

    The running statistics of batch normalization belong to y: before an evaluation make those of x, by
    `averaging.update_bn(batches, model)` in eval mode of the optimizer. state_dict notes the mode, and what it says is
    right if it is loaded with the parameters that were saved at the same time, in either mode.

    The state is z; `k`, `lr_max`, `weight_sum` and `mode` stand in the options of each group, and are saved with them.
    ValueError for a negative or non-finite option, and for momentum outside (0, 1].

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> optimizer = ScheduleFreeSGD([w], lr=1.0, momentum=0.5)
    >>> for g in (-4.0, -2.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w.item()  # z = 4, 6; x = 4, 5; y between
    5.5
    >>> with optimizer.averaged():
    ...     w.item()
    5.0
    """

    slots = ("z",)
    rules: ClassVar = {**ScheduleFree.rules, "momentum": above_zero_to_one}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "warmup_steps": warmup_steps, "r": r}
        options |= {"weight_lr_power": weight_lr_power, "maximize": maximize}
        super().__init__(params, **options, k=0, lr_max=0.0, weight_sum=0.0, mode="train")

    def beta(self, group: Mapping[str, Any]) -> float:
        momentum: float = group["momentum"]
        return momentum

    def update(self, xp, y, g, z, *, rate, c, move, decay):
        if decay is not None:
            g = g + decay * y
        return y + c * (z - y) + move * g, z - rate * g


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW that needs no schedule (Defazio et al. 2024, arXiv:2405.15682, Alg. 1; the weights of the authors' code).

        v <- b2 v + (1 - b2) g^2,   u = g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay y
        y = (1 - b1) z + b1 x,   z <- z - rate u,   x <- (1 - c) x + c z

    rate, c, the two modes and what is saved are those of `ScheduleFreeSGD`; x takes the place of a first moment, so the
    state is z and v. The authors advise an lr 1 to 10 times that of AdamW with a schedule, and a warm-up. ValueError
    for a negative or non-finite option, and for betas outside (0, 1] and [0, 1).

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> optimizer = ScheduleFreeAdamW([w], lr=0.5, betas=(0.5, 0.0), eps=0.0)
    >>> for g in (-4.0, -2.0):
    ...     w.grad = md.tensor([g])
    ...     optimizer.step()
    >>> w.item()  # z = 0.5, 1; x = 0.5, 0.75
    0.875
    """

    slots = ("z", "v")
    rules: ClassVar = {**ScheduleFree.rules, "betas": interpolation_and_decay}

    def __init__(
        self,
        params: Any,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "warmup_steps": warmup_steps}
        options |= {"r": r, "weight_lr_power": weight_lr_power, "maximize": maximize}
        super().__init__(params, **options, k=0, lr_max=0.0, weight_sum=0.0, mode="train")

    def beta(self, group: Mapping[str, Any]) -> float:
        b1: float = group["betas"][0]
        return b1

    def scalars(self, group: Mapping[str, Any], t: int) -> dict[str, Any]:
        b2 = group["betas"][1]
        return {**super().scalars(group, t), "b2": b2, "c2": 1 - b2**t, "eps": group["eps"]}

    def update(self, xp, y, g, z, v, *, rate, c, move, decay, b2, c2, eps):
        v = b2 * v + (1 - b2) * g * g
        u = g / (xp.sqrt(v / c2) + eps)
        if decay is not None:
            u = u + decay * y
        return y + c * (z - y) + move * u, z - rate * u, v
