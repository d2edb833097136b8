"""Averages of the weights along the way: EMA, SWA, LAWA, Polyak; and batch statistics for them.

An average does not change the training: `update()` takes in the present weights, and `with average.applied():` puts the
average into the model for an evaluation. `AveragedModel` is PyTorch's form, a second model that holds the average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..compiler.record import replayed
from ..engine.backend import Array, is_array, on_device, to_device
from ..engine.tensor import Tensor, wrap
from .averaged_model import AveragedModel, get_ema_avg_fn, get_swa_avg_fn, update_bn, write
from .groups import at_least_zero, check, flag, read_params
from .rules import count, count_from_zero, fraction

__all__ = [
    "EMA",
    "LAWA",
    "SWA",
    "Average",
    "AveragedModel",
    "Polyak",
    "get_ema_avg_fn",
    "get_swa_avg_fn",
    "update_bn",
]


class Average:
    """The base of averages of weights. params: a module, its parameters, (name, tensor) pairs, or tensors.

    start, every   of the calls of `update`, the first `start` are passed over, and then all but every `every`-th
    use_buffers    average the floating buffers of a module too, such as running statistics

    A subclass defines `weight(n)`: the (n + 1)-th weights taken in get that weight, the average so far the rest:
    average <- average + weight (theta - average). The first are copied.
    """

    def __init__(self, params: Any, *, start: int = 0, every: int = 1, use_buffers: bool = False):
        check(self._who, count_from_zero, start=start)
        check(self._who, count, every=every)
        self.start, self.every = start, every
        named, _ = read_params(self._who, {"params": params}, 0)
        if use_buffers:
            if not hasattr(params, "named_buffers"):
                raise TypeError(f"{self._who}: use_buffers needs a module, got {type(params).__name__}")
            named = [*named, *((name, t) for name, t in params.named_buffers() if t.dtype.kind == "f")]
        if not named:
            raise ValueError(f"{self._who}: got no parameters to average")
        self._names = [name for name, _ in named]
        self._tensors = [t for _, t in named]
        self._averages: list[Array] = []
        self._applied = False
        self.calls = 0
        self.n = 0

    @property
    def _who(self) -> str:
        return type(self).__name__

    def weight(self, n: int) -> float:
        """Return the weight of the weights that are taken in after n others."""
        raise NotImplementedError(f"{self._who}: an average defines weight(n)")

    @replayed
    def update(self) -> None:
        """Take in the weights as they are now, if it is their turn. RuntimeError while the average is applied."""
        if self._applied:
            raise RuntimeError(f"{self._who}: the model holds the average at present; update() would average that")
        self.calls += 1
        if self.calls > self.start and (self.calls - self.start) % self.every == 0:
            self._take()
            self.n += 1

    def _take(self) -> None:
        if not self.n:
            self._averages = [_copy(t) for t in self._tensors]
            return
        w = self.weight(self.n)
        for i, t in enumerate(self._tensors):
            average = self._averages[i] = _like(self._averages[i], t)
            with on_device(t.device)[1]:
                average += w * (t.array - average)

    def arrays(self) -> list[Array]:
        """Return the averages, in the order of the parameters; ValueError before the first was taken in."""
        if not self.n:
            raise ValueError(f"{self._who}: nothing has been averaged yet (after {self.calls} calls of update)")
        return self._averages

    def averages(self) -> dict[str, Tensor]:
        """Return copies of the averages by name."""
        pairs = zip(self._names, self.arrays(), self._tensors, strict=True)
        return {name: wrap(_like(array, t, copied=True)) for name, array, t in pairs}

    def assign(self) -> None:
        """Write the averages into the parameters, for good."""
        for t, array in zip(self._tensors, self.arrays(), strict=True):
            write(t, _like(array, t))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Evaluate with the averages: inside `with` the parameters hold them, afterwards what they held, bit by bit."""
        if self._applied:
            raise RuntimeError(f"{self._who}: the model holds the average already")
        kept = [_copy(t) for t in self._tensors]
        self.assign()
        self._applied = True
        try:
            yield
        finally:
            self._applied = False
            for t, array in zip(self._tensors, kept, strict=True):
                write(t, array)

    def state_dict(self) -> dict[str, Any]:
        """Return copies: {"calls": c, "n": n, "averages": {name: Tensor}}."""
        return {"calls": self.calls, "n": self.n, "averages": self.averages() if self.n else {}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state; ValueError if names or shapes differ, and then nothing has changed."""
        self._averages = self._checked(state_dict, "averages")
        self.calls, self.n = state_dict["calls"], state_dict["n"]

    def _checked(self, state: Mapping[str, Any], key: str) -> list[Array]:
        """Return the arrays of a state, copied to where the parameters are."""
        rule = f"{self._who}.load_state_dict: the state does not fit"
        if not isinstance(state, Mapping) or not {"calls", "n", key} <= state.keys():
            raise ValueError(f"{rule}: it must be what state_dict() returned")
        given = {name: x.array if isinstance(x, Tensor) else x for name, x in state[key].items()}
        if not given and not state["n"]:
            return []
        if given.keys() != set(self._names):
            missing, more = sorted({*self._names} - given.keys()), sorted(given.keys() - {*self._names})
            raise ValueError(f"{rule}: missing {missing}, unexpected {more}")
        for name, t in zip(self._names, self._tensors, strict=True):
            if not is_array(given[name]) or given[name].shape != t.shape:
                raise ValueError(f"{rule}: {name} must have shape {t.shape}, got {getattr(given[name], 'shape', None)}")
        return [_like(given[name], t, copied=True) for name, t in zip(self._names, self._tensors, strict=True)]


class EMA(Average):
    """Exponential moving average: average <- decay average + (1 - decay) theta.

    With `ramp` the decay of the (n + 1)-th weights is min(decay, (1 + n) / (10 + n)), so that the first ones are soon
    forgotten (TensorFlow's ExponentialMovingAverage with num_updates). ValueError for decay outside [0, 1].

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> ema = EMA([w], decay=0.5)
    >>> for value in (0.0, 4.0, 4.0):
    ...     w.data[...] = value
    ...     ema.update()
    >>> ema.averages()
    {'0': tensor([3.])}
    """

    def __init__(self, params: Any, decay: float = 0.999, ramp: bool = False, **when: Any):
        check("EMA", fraction, decay=decay)
        check("EMA", flag, ramp=ramp)
        self.decay, self.ramp = decay, ramp
        super().__init__(params, **when)

    def weight(self, n: int) -> float:
        return 1 - (min(self.decay, (1 + n) / (10 + n)) if self.ramp else self.decay)


class SWA(Average):
    """Stochastic weight averaging: the mean of the weights at the ends of cycles (Izmailov et al. 2018, Alg. 1).

    arXiv:1803.05407. Call `update()` after each epoch with start=75, say, or after each step with every=c, the length
    of a cycle. Afterwards `update_bn` makes the running statistics those of the averaged weights.

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> swa = SWA([w], start=1, every=2)
    >>> for value in (9.0, 9.0, 1.0, 9.0, 5.0):
    ...     w.data[...] = value
    ...     swa.update()
    >>> swa.averages()
    {'0': tensor([3.])}
    """

    def weight(self, n: int) -> float:
        return 1 / (n + 1)


class Polyak(Average):
    """The mean of all iterates (Polyak & Juditsky 1992), or one that gives later ones more weight.

        average_n = average_{n-1} + (1 + eta) / (n + eta) (theta_n - average_{n-1})

    eta = 0 is the mean; eta = 3 forgets the start (Shamir & Zhang 2013, arXiv:1212.1824, Sec. 4). start=n leaves out
    the first n, tail averaging.

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> average = Polyak([w], eta=1.0)
    >>> for value in (3.0, 6.0, 9.0):
    ...     w.data[...] = value
    ...     average.update()
    >>> average.averages()  # (1 * 3 + 2 * 6 + 3 * 9) / 6
    {'0': tensor([7.])}
    """

    def __init__(self, params: Any, eta: float = 0.0, **when: Any):
        check("Polyak", at_least_zero, eta=eta)
        self.eta = eta
        super().__init__(params, **when)

    def weight(self, n: int) -> float:
        return (1 + self.eta) / (n + 1 + self.eta)


class LAWA(Average):
    """Latest weight averaging: the mean of the last k weights taken in (Kaddour 2022, arXiv:2209.14981, Sec. 2).

    It keeps k copies of the weights.

    >>> import minidl as md
    >>> w = md.Parameter([0.0])
    >>> lawa = LAWA([w], k=2)
    >>> for value in (9.0, 1.0, 5.0):
    ...     w.data[...] = value
    ...     lawa.update()
    >>> lawa.averages()
    {'0': tensor([3.])}
    """

    def __init__(self, params: Any, k: int = 6, **when: Any):
        check("LAWA", count, k=k)
        self.k = k
        self._latest: list[list[Array]] = []
        super().__init__(params, **when)

    def _take(self) -> None:
        self._latest = [*self._latest, [_copy(t) for t in self._tensors]][-self.k :]

    def arrays(self) -> list[Array]:
        """Return the means of the latest weights."""
        super().arrays()
        means = []
        for i, t in enumerate(self._tensors):
            latest = [_like(arrays[i], t) for arrays in self._latest]
            with on_device(t.device)[1]:
                total = latest[0].copy()
                for array in latest[1:]:
                    total += array
                total /= len(latest)
            means.append(total)
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return copies: {"calls": c, "n": n, "latest": [{name: Tensor}, ...]}."""
        latest = []
        for arrays in self._latest:
            pairs = zip(self._names, arrays, self._tensors, strict=True)
            latest.append({name: wrap(_like(array, t, copied=True)) for name, array, t in pairs})
        return {"calls": self.calls, "n": self.n, "latest": latest}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state; ValueError if names or shapes differ, and then nothing has changed."""
        if not isinstance(state_dict, Mapping) or not {"calls", "n", "latest"} <= state_dict.keys():
            raise ValueError("LAWA.load_state_dict: the state does not fit: it must be what state_dict() returned")
        parts = [{**state_dict, "averages": part} for part in state_dict["latest"]]
        self._latest = [self._checked(part, "averages") for part in parts][-self.k :]
        self.calls, self.n = state_dict["calls"], state_dict["n"]


def _copy(t: Tensor) -> Array:
    with on_device(t.device)[1]:
        return t.array.copy()


def _like(array: Array, t: Tensor, copied: bool = False) -> Array:
    """Return an array on the device and with the dtype of a tensor, which may have moved since."""
    array = to_device(array, t.device)
    with on_device(t.device)[1]:
        return array.astype(t.dtype, copy=copied)
