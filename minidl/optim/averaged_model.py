"""AveragedModel, PyTorch's form of an average of weights, and batch statistics for averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..engine.backend import Array, on_device, to_device
from ..engine.modes import no_grad
from ..engine.node import stamp
from ..engine.tensor import Tensor, wrap
from .groups import check
from .rules import fraction

AverageFunction = Callable[[Any, Any, int], Any]


class AveragedModel:
    """A copy of a model that holds the average of its weights, PyTorch's form: `module`, called like the model.

    avg_fn(averaged, current, n_averaged) gives the new average from raw arrays; without it the mean of all:
    averaged + (current - averaged) / (n_averaged + 1). The first `update_parameters` copies. Buffers are copied each
    time, or with `use_buffers` the floating ones averaged. state_dict has PyTorch's keys.

    >>> import minidl as md
    >>> model = md.nn.Linear(1, 1)
    >>> averaged = AveragedModel(model)
    >>> for value in (1.0, 3.0):
    ...     model.weight.data[...] = value
    ...     averaged.update_parameters(model)
    >>> averaged.module.weight.item(), averaged.n_averaged
    (2.0, 2)
    """

    def __init__(self, model: Any, avg_fn: AverageFunction | None = None, use_buffers: bool = False):
        if not hasattr(model, "named_parameters"):
            raise TypeError(f"AveragedModel: needs a module, got {type(model).__name__}")
        self.module = copy.deepcopy(model)
        self.avg_fn = get_swa_avg_fn() if avg_fn is None else avg_fn
        self.use_buffers = use_buffers
        self.n_averaged = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Any) -> None:
        """Take in the weights of a model with the same parameters; ValueError if names or shapes differ."""
        mine, theirs = _everything(self.module), _everything(model)
        if [(name, t.shape) for name, t, _ in mine] != [(name, t.shape) for name, t, _ in theirs]:
            raise ValueError("AveragedModel: the model has other parameters or buffers than the one it was made of")
        for (_, averaged, is_buffer), (_, current, _) in zip(mine, theirs, strict=True):
            new = to_device(current.array, averaged.device)
            if self.n_averaged and (not is_buffer or (self.use_buffers and new.dtype.kind == "f")):
                with on_device(averaged.device)[1]:
                    new = self.avg_fn(averaged.array, new, self.n_averaged)
            write(averaged, new)
        self.n_averaged += 1

    def state_dict(self) -> dict[str, Any]:
        """Return copies: "n_averaged", and the module's state with "module." before each name."""
        state = {f"module.{name}": t for name, t in self.module.state_dict().items()}
        return {"n_averaged": wrap(np.asarray(self.n_averaged)), **state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state, strictly."""
        if "n_averaged" not in state_dict:
            raise ValueError("AveragedModel.load_state_dict: the state has no 'n_averaged'")
        rest = {name.removeprefix("module."): x for name, x in state_dict.items() if name != "n_averaged"}
        self.module.load_state_dict(rest)
        self.n_averaged = int(state_dict["n_averaged"])


def get_ema_avg_fn(decay: float = 0.999) -> AverageFunction:
    """Return the avg_fn of an exponential moving average; ValueError for decay outside [0, 1].

    >>> get_ema_avg_fn(0.75)(4.0, 8.0, 1)
    5.0
    """
    check("get_ema_avg_fn", fraction, decay=decay)
    return lambda averaged, current, n: decay * averaged + (1 - decay) * current


def get_swa_avg_fn() -> AverageFunction:
    """Return the avg_fn of the mean of all.

    >>> get_swa_avg_fn()(4.0, 8.0, 3)
    5.0
    """
    return lambda averaged, current, n: averaged + (current - averaged) / (n + 1)


def update_bn(loader: Iterable[Any], model: Any) -> None:
    """Make the running statistics of batch norm the means over all batches of a loader, with the present weights.

    A batch that is a tuple or list is (input, ...). Nothing is recorded; modes and momenta are restored, after an error
    too (Izmailov et al. 2018, arXiv:1803.05407, Sec. 3.2). Each batch counts alike, as in PyTorch. ValueError if the
    loader gives no batch.

    >>> import minidl as md
    >>> model = md.nn.BatchNorm1d(1).eval()
    >>> update_bn([md.tensor([[1.0], [3.0]]), md.tensor([[5.0], [7.0]])], model)
    >>> model.running_mean, model.training
    (tensor([4.]), False)
    """
    modules = list(getattr(model, "module", model).modules())
    norms = [m for m in modules if getattr(m, "running_mean", None) is not None]
    if not norms:
        return
    modes, momenta = [m.training for m in modules], [m.momentum for m in norms]
    batches = 0
    try:
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
        getattr(model, "module", model).train()
        with no_grad():
            for batch in loader:
                model(batch[0] if isinstance(batch, (list, tuple)) else batch)
                batches += 1
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode
    if not batches:
        raise ValueError("update_bn: the loader gave no batch, so there are no statistics (was an iterator used up?)")


def _everything(model: Any) -> list[tuple[str, Tensor, bool]]:
    """Return (name, tensor, is a buffer) of all parameters and buffers."""
    params = [(name, p, False) for name, p in model.named_parameters()]
    return params + [(name, t, True) for name, t in model.named_buffers()]


def write(t: Tensor, values: Array) -> None:
    """Overwrite a tensor's values, whether or not operations are recorded."""
    with on_device(t.device)[1]:
        t.array[...] = values
    stamp(t.array)
