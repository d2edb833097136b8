"""VectorOptimizer: what optimizers share that move all parameters together, as one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..engine.backend import Array, device_of, is_array, on_device, to_device
from ..engine.node import stamp
from ..engine.tensor import Tensor, wrap
from .base import Optimizer
from .groups import check_array
from .segment import check_apart


class VectorOptimizer(Optimizer):
    """Base: one parameter group, a closure that may be called many times, and a memory of vectors and numbers.

    advance      (xp, closure, group) -> loss: move the parameters, and say what the closure returned first
    memory       name -> number, vector over all parameters, or list of vectors; saved and loaded with the optimizer
    remembered   the names that the memory may hold
    closure_rule what the closure has to do, for the error that asks for one
    """

    remembered: ClassVar[frozenset[str]] = frozenset()
    step_needs = "a closure"
    closure_rule = "computes the loss, calls backward and returns it"

    def __init__(self, params: Any, **options: Any):
        self.memory: dict[str, Any] = {}
        super().__init__(params, **options)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        if self.param_groups:
            raise ValueError(f"{self._who}: takes one parameter group, because all parameters move along one direction")
        super().add_param_group(group)
        self._settle()

    def _settle(self) -> None:
        """Bring the memory to the dtype and device that the parameters have now; ValueError if they have several."""
        params = self.param_groups[0]["params"]
        if len({(p.dtype, p.device) for p in params}) > 1:
            raise ValueError(f"{self._who}: all parameters must have one dtype and lie on one device")
        for name, p in zip(self.param_groups[0]["names"], params, strict=True):
            check_array(self._who, name, p)
        check_apart([p.array for p in params])
        dtype, device = params[0].dtype, params[0].device

        def follow(x: Any) -> Any:
            if isinstance(x, list):
                return [follow(y) for y in x]
            return to_device(x, device).astype(dtype, copy=False) if is_array(x) else x

        self.memory = {name: follow(x) for name, x in self.memory.items()}

    def moved(self) -> bool:
        """Tell, after `advance`, whether it was a step: it is none where no parameter has a gradient."""
        return True

    def advance(self, xp: Any, closure: Callable[[], Any], group: Mapping[str, Any]) -> Any:
        """Move the parameters; return what the closure returned the first time."""
        raise NotImplementedError(f"{self._who}: an optimizer of vectors defines advance(xp, closure, group)")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters; returns the loss before. The closure is called many times."""
        if closure is None:
            raise ValueError(f"{self._who}.step: needs a closure that {self.closure_rule}")
        closure = self._after_hooks(closure)
        if closure is None:
            raise ValueError(f"{self._who}.step: a hook took the closure away")
        group = self.param_groups[0]
        self._ready(group)
        self._settle()
        xp, device = on_device(group["params"][0].device)
        with device:
            loss = self.advance(xp, closure, group)
        if self.moved():
            self.steps += 1
            group.at(self.steps, strict=False)
        for hook in tuple(self._post_hooks.values()):
            hook(self, (closure,), {})
        return loss

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def _read(self, xp: Any) -> Array:
        return xp.concatenate([p.array.reshape(-1) for p in self.param_groups[0]["params"]])

    def _write(self, x: Array) -> None:
        for p, piece in zip(self.param_groups[0]["params"], self._pieces(x), strict=True):
            p.array[...] = piece
            stamp(p.array)

    def _pieces(self, x: Array) -> list[Array]:
        """Return the parts of a vector, in the shapes of the parameters."""
        pieces, start = [], 0
        for p in self.param_groups[0]["params"]:
            pieces.append(x[start : start + p.size].reshape(p.shape))
            start += p.size
        return pieces

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return copies, with the vectors and numbers of the search as "memory"."""

        def copy(x: Any) -> Any:
            if isinstance(x, list):
                return [copy(y) for y in x]
            if not is_array(x):
                return x
            with on_device(device_of(x))[1]:
                return wrap(x.copy())

        return {**super().state_dict(), "memory": {name: copy(x) for name, x in self.memory.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any], hyper: str = "saved") -> None:
        """Continue from a state; ValueError for one that does not fit, and then nothing has changed."""
        if not isinstance(state_dict, Mapping) or not isinstance(state_dict.get("memory"), Mapping):
            raise ValueError(f"{self._who}.load_state_dict: needs what state_dict() returned, with an entry 'memory'")
        params = self.param_groups[0]["params"]
        size, dtype = sum(p.size for p in params), params[0].dtype
        unknown = sorted(map(str, state_dict["memory"].keys() - self.remembered))
        if unknown:
            raise ValueError(
                f"{self._who}.load_state_dict: the memory holds {', '.join(unknown)}, which {self._who} does not keep; "
                "the state is that of another optimizer"
            )

        def take(name: str, x: Any) -> Any:
            if isinstance(x, (list, tuple)):
                return [take(name, y) for y in x]
            x = x.array if isinstance(x, Tensor) else x
            if is_array(x) and (x.shape, x.dtype) != ((size,), dtype):
                got = f"{x.dtype} {x.shape}"
                raise ValueError(f"{self._who}.load_state_dict: {name} must be {dtype} {(size,)}, got {got}")
            return to_device(x, params[0].device).copy() if is_array(x) else x

        memory = {name: take(name, x) for name, x in state_dict["memory"].items()}
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "memory"}, hyper)
        self.memory = memory
