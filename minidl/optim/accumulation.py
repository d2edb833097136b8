"""Around an optimizer: gradients of several batches as one, steps that are skipped, parameters that do not decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..compiler.record import replayed
from ..engine.backend import Array, is_array, on_device, scalar, to_device
from ..engine.modes import enable_grad
from ..engine.tensor import Tensor, wrap
from .groups import read_params


class Wrapper:
    """An optimizer around another one, `inner`; schedulers bind to that."""

    def __init__(self, inner: Any):
        if not hasattr(inner, "param_groups") or not hasattr(inner, "step"):
            raise TypeError(f"{type(self).__name__}: needs an optimizer, got {type(inner).__name__}")
        self.inner = inner

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
    batch counts as 0 there. Call `flush()` at the end of an epoch, so that no batch is left for the next.

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
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"GradientAccumulation: every must be an int >= 1, got every={every!r}")
        super().__init__(inner)
        self.every = every
        self._forget()

    def _forget(self) -> None:
        self.batches = 0
        self.samples = 0
        self._means: dict[str, Array] = {}

    @replayed
    def step(self, samples: int = 1) -> bool:
        """Take the gradients of a batch with that many samples; tell whether the parameters moved."""
        if isinstance(samples, bool) or not samples > 0:
            raise ValueError(f"GradientAccumulation: samples must be > 0, got samples={samples!r}")
        total = self.samples + samples
        for name, p in self._named():
            mean = self._means.get(name)
            with on_device(p.device)[1]:
                if mean is not None and self.samples:
                    mean *= self.samples / total
                if p.grad is not None and mean is not None:
                    mean += p.grad.array * (samples / total)
                elif p.grad is not None:
                    self._means[name] = p.grad.array.copy() if not self.samples else p.grad.array * (samples / total)
            p.grad = None
        self.batches, self.samples = self.batches + 1, total
        return self.flush() if self.batches == self.every else False

    def flush(self) -> bool:
        """Step with what there is; tell whether there was anything."""
        if not self.batches:
            return False
        for name, p in self._named():
            if name in self._means:
                p.grad = wrap(self._means[name])
        self._forget()
        self.inner.step()
        self.inner.zero_grad()
        return True

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
        self.inner.load_state_dict(state_dict["optimizer"], **options)
        self.batches, self.samples = state_dict["batches"], state_dict["samples"]
        self._means = {}
        for name, mean in given.items():
            p = params[name]
            with on_device(p.device)[1]:
                self._means[name] = to_device(mean, p.device).astype(p.dtype)


class SkipNonFinite(Wrapper):
    """Leave out steps whose gradients are not all finite, and count them.

    skipped    how many were left out so far; `in_a_row` how many since the last good one
    limit      FloatingPointError after more than so many in a row: then it is no accident (optax's apply_if_finite,
               which would step with NaN instead); None for never

    A skipped step changes nothing: no weights, no state, and schedules wait. On a GPU each step waits for one number.

    >>> import minidl as md
    >>> w = md.Parameter([1.0])
    >>> optimizer = SkipNonFinite(md.optim.SGD([w], lr=0.5))
    >>> for gradient in (float("nan"), 1.0):
    ...     w.grad = md.tensor([gradient])
    ...     optimizer.step()
    >>> w.item(), optimizer.skipped, optimizer.in_a_row
    (0.5, 1, 0)
    """

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
        if all_finite([p.grad for _, p in self._named() if p.grad is not None]):
            self.in_a_row = 0
            self.inner.step()
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

    def state_dict(self) -> dict[str, Any]:
        """Return the inner state and the counters."""
        return {"optimizer": self.inner.state_dict(), "skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: Mapping[str, Any], **options: Any) -> None:
        """Continue from a state."""
        if not {"optimizer", "skipped", "in_a_row"} <= state_dict.keys():
            raise ValueError("SkipNonFinite.load_state_dict: the state must be what state_dict() returned")
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
