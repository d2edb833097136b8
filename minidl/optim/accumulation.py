"""Around an optimizer: gradients of several batches as one, steps that are skipped, parameters that do not decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..compiler.record import replayed
from ..engine.backend import Array, is_array, on_device, scalar, to_device
from ..engine.modes import enable_grad
from ..engine.tensor import Tensor, wrap
from .groups import at_least_zero, check, read_params
from .rules import above_zero, count, count_from_zero


class Wrapper:
    """An optimizer around another one, `inner`; schedulers bind to that.

    gives    what inner's step is given here. TypeError for an inner optimizer that needs more: a loss, a closure
    """

    gives: ClassVar[tuple[str, ...]] = ("gradients",)

    def __init__(self, inner: Any):
        who = type(self).__name__
        if not hasattr(inner, "param_groups") or not hasattr(inner, "step"):
            raise TypeError(f"{who}: needs an optimizer, got {type(inner).__name__}")
        needs = getattr(inner, "step_needs", "gradients")
        if needs not in self.gives:
            raise TypeError(
                f"{who}: a step of {type(inner).__name__} needs {needs}, and {who} gives it {' or '.join(self.gives)}"
            )
        self.inner = inner

    @property
    def step_needs(self) -> str:
        """What `step` needs: what the inner optimizer's needs."""
        needs: str = getattr(self.inner, "step_needs", "gradients")
        return needs

    @property
    def param_groups(self) -> list[Any]:
        """The groups of the inner optimizer."""
        groups: list[Any] = self.inner.param_groups
        return groups

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The state of the inner optimizer."""
        state: dict[str, dict[str, Any]] = self.inner.state
        return state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters."""
        self.inner.zero_grad(set_to_none)

    @property
    def steps(self) -> int:
        """The number of steps of the inner optimizer."""
        steps: int = self.inner.steps
        return steps

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own."""
        self.inner.add_param_group(group)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(optimizer, args, kwargs)` before each step of the inner optimizer."""
        return self.inner.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(optimizer, args, kwargs)` after each step of the inner optimizer."""
        return self.inner.register_step_post_hook(hook)

    def _named(self) -> list[tuple[str, Tensor]]:
        pairs = (zip(group["names"], group["params"], strict=True) for group in self.param_groups)
        return [pair for group in pairs for pair in group]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"


class GradientAccumulation(Wrapper):
    """Collect the gradients of `every` batches, weighted by their numbers of samples, and step once with the mean.

        g = sum_k n_k g_k / sum_k n_k,    g_k the gradient of the mean loss over batch k, of n_k samples

    which is the gradient of the mean over all samples, a short last batch included. A parameter without a gradient in a
    batch counts as 0 there. Call `flush()` at the end of an epoch, so that no batch is left for the next. After an
    error in the inner step the batches are still there, for another `flush()`. TypeError for an inner optimizer whose
    step needs more than gradients.

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> optimizer = GradientAccumulation(md.optim.SGD([w], lr=1.0), every=2)
    >>> moved = []
    >>> for batch in ([1.0, 2.0, 3.0], [10.0]):
    ...     (w * md.tensor(batch)).mean().backward()
    ...     moved.append(optimizer.step(samples=len(batch)))
    >>> moved, w.item()  # -(1 + 2 + 3 + 10) / 4
    ([False, True], -4.0)
    """

    def __init__(self, inner: Any, every: int):
        check("GradientAccumulation", count, every=every)
        super().__init__(inner)
        self.every = every
        self._forget()

    def _forget(self) -> None:
        self.batches = 0
        self.samples: float = 0
        self._means: dict[str, Array] = {}

    @replayed
    def step(self, samples: float = 1) -> bool:
        """Take the gradients of a batch with that many samples; tell whether the parameters moved."""
        check("GradientAccumulation.step", above_zero, samples=samples)
        total = self.samples + samples
        means = {}
        for name, p in self._named():
            xp, device = on_device(p.device)
            with device:
                parts = [(_as_of(p, mean), self.samples) for mean in [self._means.get(name)] if mean is not None]
                if p.grad is not None:
                    parts.append((_as_of(p, p.grad.array), samples))
                weighted = [xp.asarray(x * (n / total)) for x, n in parts]  # of 0 axes NumPy makes scalars
                if weighted:
                    means[name] = weighted[0] if len(weighted) == 1 else xp.asarray(weighted[0] + weighted[1])
        self.inner.zero_grad()
        self._means, self.batches, self.samples = means, self.batches + 1, total
        return self.flush() if self.batches >= self.every else False

    def flush(self) -> bool:
        """Step with what there is; tell whether the parameters moved."""
        if not self.batches:
            return False
        before = self.steps
        for name, p in self._named():
            p.grad = wrap(_as_of(p, self._means[name])) if name in self._means else None
        try:
            self.inner.step()
            self._forget()
        finally:
            self.inner.zero_grad()
        return self.steps > before

    def state_dict(self) -> dict[str, Any]:
        """Return the inner state and copies of what has been collected."""
        means = {name: wrap(mean.copy()) for name, mean in self._means.items()}
        return {"optimizer": self.inner.state_dict(), "batches": self.batches, "samples": self.samples, "means": means}

    def load_state_dict(self, state_dict: Mapping[str, Any], **options: Any) -> None:
        """Continue from a state; ValueError if it does not fit, and then nothing has changed."""
        rule = "GradientAccumulation.load_state_dict: the state does not fit"
        if not {"optimizer", "batches", "samples", "means"} <= state_dict.keys():
            raise ValueError(f"{rule}: it must be what state_dict() returned")
        params = dict(self._named())
        given = {name: x.array if isinstance(x, Tensor) else x for name, x in state_dict["means"].items()}
        for name, mean in given.items():
            if name not in params or not is_array(mean) or mean.shape != params[name].shape:
                raise ValueError(f"{rule}: {name} is no parameter of shape {getattr(mean, 'shape', None)}")
        check("GradientAccumulation.load_state_dict", count_from_zero, batches=state_dict["batches"])
        check("GradientAccumulation.load_state_dict", at_least_zero, samples=state_dict["samples"])
        self.inner.load_state_dict(state_dict["optimizer"], **options)
        self.batches, self.samples = state_dict["batches"], state_dict["samples"]
        self._means = {name: _as_of(params[name], mean).copy() for name, mean in given.items()}


def _as_of(p: Tensor, x: Array) -> Array:
    """Return an array in the dtype and on the device that a parameter has now."""
    with on_device(p.device)[1]:
        array: Array = to_device(x, p.device).astype(p.dtype, copy=False)
        return array


class _NotFinite(Exception):
    """A hook of the inner optimizer has made a gradient that is not finite."""


class SkipNonFinite(Wrapper):
    """Leave out steps whose gradients are not all finite, and count them.

    skipped    how many were left out so far; `in_a_row` how many since the last good one
    limit      FloatingPointError after more than so many in a row: then it is no accident (optax's apply_if_finite,
               which would step with NaN instead); None for never

    A skipped step changes nothing: no weights, no state, and schedules wait. Gradients that hooks of the inner
    optimizer have changed are looked at again. On a GPU each step waits for one number. TypeError for an inner
    optimizer whose step needs a loss or a closure.

    >>> import minidl as md
    >>> w = md.Parameter([1.0])
    >>> optimizer = SkipNonFinite(md.optim.SGD([w], lr=0.5))
    >>> for gradient in (float("nan"), 1.0):
    ...     w.grad = md.tensor([gradient])
    ...     optimizer.step()
    >>> w.item(), optimizer.skipped, optimizer.in_a_row
    (0.5, 1, 0)
    """

    gives: ClassVar[tuple[str, ...]] = ("gradients", "gradients with a graph")

    def __init__(self, inner: Any, limit: int | None = 10):
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise ValueError(f"SkipNonFinite: limit must be an int >= 0 or None, got limit={limit!r}")
        super().__init__(inner)
        self.limit = limit
        self.skipped = 0
        self.in_a_row = 0

    @replayed
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move if all gradients are finite. Returns what `closure` returned, or None; it is called once."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        if self._all_finite() and self._step_inner():
            self.in_a_row = 0
            return loss
        self.skipped += 1
        self.in_a_row += 1
        if self.limit is not None and self.in_a_row > self.limit:
            bad = [name for name, p in self._named() if p.grad is not None and not all_finite([p.grad])]
            raise FloatingPointError(
                f"SkipNonFinite: gradients were not finite {self.in_a_row} times in a row, at last those of "
                f"{', '.join(bad[:5])}{', ...' * (len(bad) > 5)}; lower lr, clip, or look with detect_anomaly()"
            )
        return loss

    def _all_finite(self) -> bool:
        return all_finite([p.grad for _, p in self._named() if p.grad is not None])

    def _step_inner(self) -> bool:
        """Step, unless the hooks before it make gradients that are not finite; tell whether it did."""

        def look(*_: Any) -> None:
            if not self._all_finite():
                raise _NotFinite

        innermost = self.inner
        while hasattr(innermost, "inner"):
            innermost = innermost.inner
        if not getattr(innermost, "_pre_hooks", None):
            self.inner.step()
            return True
        last = self.register_step_pre_hook(look)
        try:
            self.inner.step()
        except _NotFinite:
            return False
        finally:
            last.remove()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the inner state and the counters."""
        return {"optimizer": self.inner.state_dict(), "skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: Mapping[str, Any], **options: Any) -> None:
        """Continue from a state."""
        if not {"optimizer", "skipped", "in_a_row"} <= state_dict.keys():
            raise ValueError("SkipNonFinite.load_state_dict: the state must be what state_dict() returned")
        for name in ("skipped", "in_a_row"):
            check("SkipNonFinite.load_state_dict", count_from_zero, **{name: state_dict[name]})
        self.inner.load_state_dict(state_dict["optimizer"], **options)
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def all_finite(gradients: list[Tensor]) -> bool:
    """Tell whether every element of every gradient is finite, asking each device once.

    >>> import minidl as md
    >>> all_finite([md.tensor([1.0, 2.0])]), all_finite([md.tensor([1.0]), md.tensor([float("inf")])])
    (True, False)
    """
    found: dict[str, Any] = {}
    for g in gradients:
        xp, device = on_device(g.device)
        with device:
            good = xp.isfinite(g.array).all()
            found[g.device] = good if g.device not in found else found[g.device] & good
    return all(bool(scalar(good)) for good in found.values())


def decay_groups(
    params: Any, weight_decay: float, decays: Callable[[str, Tensor], bool] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Split parameters into those that decay and those that do not: what an optimizer takes as its groups.

    Biases and the weights of normalization have one axis or none, and do not decay; `decays(name, p)` may say otherwise
    for each parameter. A parameter with two names (tied weights) counts once. `options` hold for both groups.

    >>> import minidl as md
    >>> model = md.nn.Sequential(md.nn.Linear(2, 3), md.nn.BatchNorm1d(3))
    >>> [(g["name"], g["weight_decay"], g["names"]) for g in decay_groups(model, 0.1)]
    [('decay', 0.1, ['0.weight']), ('no decay', 0.0, ['0.bias', '1.weight', '1.bias'])]
    """
    if not callable(weight_decay):  # a schedule, whose values the optimizer checks
        check("decay_groups", at_least_zero, weight_decay=weight_decay)
    named, _ = read_params("decay_groups", {"params": params}, 0)
    chosen = decays if decays is not None else _has_two_axes
    verdicts = [bool(chosen(name, p)) for name, p in named]
    groups = []
    for label, wanted, decay in (("decay", True, weight_decay), ("no decay", False, 0.0)):
        part = [pair for pair, verdict in zip(named, verdicts, strict=True) if verdict is wanted]
        if part:
            names, tensors = [name for name, _ in part], [p for _, p in part]
            groups.append({"params": tensors, "names": names, "name": label, "weight_decay": decay, **options})
    return groups


def _has_two_axes(name: str, p: Tensor) -> bool:
    return p.ndim >= 2
