"""The state of a module: saved as copies, loaded all or nothing, converted and moved all or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..engine.backend import Array, Device, array_module, device_of, is_array, on_device, to_device
from ..engine.node import stamp
from ..engine.tensor import Parameter, Tensor, wrap
from .tree import join, own, own_buffers

if TYPE_CHECKING:
    from .module import Module


# What `torch.nn.utils.parametrizations` calls the parts of `weight_norm` and `spectral_norm` of module.weight, after
# "parametrizations.weight.", and how the end of their names is here, as it was in `torch.nn.utils`.
_PARTS = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` returns: names that the state lacked, and names that the module does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def entries(module: Module, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of the state under every name: a module's own parameters, its buffers, then its children's.

    ValueError if two tensors have one name, as {1: a, "1": b} would give them.
    """
    found: dict[str, Tensor] = {}
    for path, inner in module.named_modules(prefix, remove_duplicate=False):
        for name, tensor in (*own(inner, Parameter), *own_buffers(inner, persistent=True)):
            key = join(path, name)
            if found.setdefault(key, tensor) is not tensor:
                raise ValueError(f"{type(module).__name__}: two tensors of the state are called {key!r}; rename one")
    return found


def save(module: Module, prefix: str) -> dict[str, Tensor]:
    """Return detached copies of the state, one for each tensor."""
    copies: dict[int, Tensor] = {}
    saved = {}
    for name, t in entries(module, prefix).items():
        if id(t) not in copies:
            copies[id(t)] = wrap(t.array.copy())
        saved[name] = copies[id(t)]
    return saved


def load(module: Module, given: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Check everything, then bring every value to its device, then write: nothing fails once writing has begun."""
    who = f"{type(module).__name__}.load_state_dict"
    if not isinstance(given, Mapping):
        raise TypeError(f"{who}: needs a mapping of names to tensors, got {type(given).__name__}")
    targets = entries(module)
    arrays = {name: x.array if isinstance(x, Tensor) else x for name, x in given.items()}
    found = {name: targets.get(name, targets.get(_part(name))) for name in arrays}
    places = {name: t for name, t in found.items() if t is not None}
    present = set(map(id, places.values()))
    missing = [name for name, t in targets.items() if id(t) not in present]
    unexpected = [name for name in arrays if name not in places]
    problems = [f"missing {', '.join(missing)}"] * bool(strict and missing)
    problems += [f"unexpected {', '.join(map(str, unexpected))}"] * bool(strict and unexpected)
    sources: dict[int, tuple[str, Tensor, Array]] = {}
    for name, target in places.items():
        x = arrays[name]
        problem = _mismatch(name, target, x) or _contradiction(name, x, sources.get(id(target)))
        problems += [problem] if problem else []
        sources.setdefault(id(target), (name, target, x))
    if problems:
        raise ValueError(f"{who}: nothing was loaded, the state does not fit: {'; '.join(problems)}")
    _write([(t, x) for _, t, x in sources.values()])
    return IncompatibleKeys(missing, unexpected)


def _part(name: Any) -> str:
    """Return our name of a part of a computed weight that has PyTorch's newer one: weight_g, weight_orig, ..."""
    before, found, after = str(name).rpartition("parametrizations.")
    weight, _, part = after.partition(".")
    return f"{before}{weight}_{_PARTS.get(part)}" if found else ""


def _mismatch(name: str, target: Tensor, x: Any) -> str | None:
    """Return what keeps an array from being written into a tensor."""
    if not is_array(x):
        return f"{name} must be a Tensor or an array, got {type(x).__name__}"
    if x.shape != target.shape:
        return f"{name} has shape {x.shape} and must have {target.shape}"
    if x.dtype != target.dtype:
        return f"{name} is {x.dtype} and must be {target.dtype} (convert it with .astype, or the module with .to)"
    if not getattr(target.array.flags, "writeable", True):
        return f"{name} lies in read-only memory; rebind it with .data = a copy"
    return None


def _contradiction(name: str, x: Any, other: tuple[str, Tensor, Array] | None) -> str | None:
    """Return a complaint if a tied tensor is given different values under two names."""
    if other is None or x is other[2] or not is_array(other[2]):
        return None
    before = to_device(other[2], device_of(x))
    with on_device(device_of(x))[1]:
        equal = before.shape == x.shape and bool(((before == x) | ((before != before) & (x != x))).all())
    return None if equal else f"{name} and {other[0]} are one parameter of the module (tied) and differ in the state"


def _write(pairs: Sequence[tuple[Tensor, Array]]) -> None:
    # A state may hold the module's own arrays in other places, to exchange two layers: what could be one is copied.
    own_memory = {id(array) for t, _ in pairs for array in (t.array, t.array.base)} - {id(None)}
    shared = [x.base is not None or id(x) in own_memory for _, x in pairs]
    ready = [(t, to_device(x.copy() if both else x, t.device)) for (t, x), both in zip(pairs, shared, strict=True)]
    for t, x in ready:
        write(t, x)


def write(t: Tensor, values: Any) -> None:
    """Overwrite a tensor with a number or an array on its device, whether or not operations are recorded."""
    with on_device(t.device)[1]:
        t.array[...] = values
    stamp(t.array)


def convert(who: str, tensors: Sequence[Tensor], device: str | None, dtype: Any) -> None:
    """Convert floating tensors to a dtype and all of them to a device, with their gradients; all or nothing."""
    kind = None if dtype is None else np.dtype(dtype)
    if kind is not None and (kind.kind != "f" or kind.itemsize > 8):
        raise TypeError(f"{who}.to: parameters need a floating dtype of at most 64 bits, got {kind}")
    place = None if device is None else str(Device(device))
    new = [_converted(t.array, place, kind) for t in tensors]
    grads = [None if t.grad is None else wrap(_converted(t.grad.array, place, kind)) for t in tensors]
    for t, array, grad in zip(tensors, new, grads, strict=True):
        if array is not t.array:
            with Device(device_of(array)):  # not the default device: the array is where it belongs
                t.data = array
            t.grad = grad


def _converted(x: Array, device: str | None, dtype: np.dtype | None) -> Array:
    y = x
    if dtype is not None and x.dtype.kind == "f" and x.dtype != dtype:
        with on_device(device_of(x))[1]:
            y = x.astype(dtype)
    if device is not None:
        y = to_device(y, device)
    return y if y is x else in_order_of(x, y)


def in_order_of(x: Array, y: Array) -> Array:
    """Return y in Fortran order if x is: a copy from a GPU, for one, arrives in C order."""
    if not x.flags.f_contiguous or y.flags.f_contiguous:
        return y
    with on_device(device_of(y))[1]:
        return array_module(y).asfortranarray(y)
