"""ParameterVector: the parameters of a network as one point theta of R^P, with the names of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..engine.backend import MODULES, Array, as_array, device_of, is_array, on_device
from ..engine.node import stamp_all
from ..engine.tensor import Parameter, Tensor

Params = Any  # a Module, what parameters() returns, (name, tensor) pairs, a dictionary, tensors, or one tensor


class ParameterVector:
    """Parameters as one vector: theta is their elements in C order, one parameter after the other.

    `params` is a module, the list that `parameters()` returns, (name, tensor) pairs, a dictionary, plain tensors (named
    "0", "1", ...), one tensor, or another ParameterVector. A tensor given twice (tied weights) counts once, under its
    first name; a Parameter that is frozen is a constant and left out. They are leaves that want a gradient, of one
    dtype, on one device: TypeError or ValueError otherwise.

    names, tensors : the parameters in order.
    size           : P, the number of elements.
    slices         : name -> where its elements are in the vector.
    dtype, device  : those of every parameter.

    >>> layer = nn.Linear(2, 1)
    >>> vector = ParameterVector(layer)
    >>> vector.set(np.array([1.0, 2.0, 3.0], "float32"))
    >>> vector.names, vector.size, layer.bias.item(), vector.slices["bias"]
    (['weight', 'bias'], 3, 3.0, slice(2, 3, None))
    """

    def __init__(self, params: Params):
        self.names, self.tensors = _named(params)
        _check_alike(self.names, self.tensors)
        self.dtype: np.dtype = self.tensors[0].dtype
        self.shapes = [t.shape for t in self.tensors]
        self.slices: dict[str, slice] = {}
        self.size = 0
        for name, t in zip(self.names, self.tensors, strict=True):
            self.slices[name] = slice(self.size, self.size + t.size)
            self.size += t.size

    @property
    def device(self) -> str:
        """Where the parameters live: "cpu" or "cuda:i"."""
        return self.tensors[0].device

    @property
    def xp(self) -> Any:
        """The array module of the parameters."""
        return MODULES[type(self.tensors[0].array)]

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {shape}" for name, shape in zip(self.names, self.shapes, strict=True))
        return f"ParameterVector(P = {self.size}: {parts})"

    def get(self) -> Array:
        """Return theta, a copy."""
        return self.join([t.array for t in self.tensors])

    def set(self, flat: Any) -> None:
        """Write theta into the parameters, in place; ValueError unless it is a real array of the shape (P,)."""
        flat = self.vector(flat, "set")
        for t, piece in zip(self.tensors, self.pieces(flat), strict=True):
            t.array[...] = piece
        stamp_all(t.array for t in self.tensors)

    def split(self, flat: Any) -> dict[str, Array]:
        """Return name -> that part of a vector, in the parameter's shape; views where possible.

        >>> ParameterVector({"a": ones(2, requires_grad=True)}).split([3.0, 4.0])
        {'a': array([3., 4.], dtype=float32)}
        """
        return dict(zip(self.names, self.pieces(self.vector(flat, "split")), strict=True))

    def pieces(self, flat: Array) -> list[Array]:
        """Return the parts of a vector that is known to be one, in the parameters' order and shapes."""
        return [flat[s].reshape(shape) for s, shape in zip(self.slices.values(), self.shapes, strict=True)]

    def join(self, parts: Mapping[str, Any] | Sequence[Any]) -> Array:
        """Return one vector of parts, by name or in order, each of its parameter's shape: the inverse of `split`.

        None stands for zeros. ValueError if a part is missing, unknown or of another shape.

        >>> ParameterVector({"a": ones(2, requires_grad=True)}).join({"a": np.array([3.0, 4.0])})
        array([3., 4.], dtype=float32)
        """
        if isinstance(parts, Mapping):
            if parts.keys() != set(self.names):
                raise ValueError(f"join: needs a part for each of {self.names}, got {list(parts)}")
            parts = [parts[name] for name in self.names]
        if len(parts) != len(self.names):
            raise ValueError(f"join: needs {len(self.names)} parts, one a parameter, got {len(parts)}")
        xp, place = on_device(self.device)
        with place:
            flat = xp.zeros(self.size, self.dtype)
            for (name, s), shape, part in zip(self.slices.items(), self.shapes, parts, strict=True):
                if part is None:
                    continue
                part = as_array(getattr(part, "array", part), self.dtype, self.device, who="join")
                if part.shape != shape:
                    raise ValueError(f"join: {name} must have its parameter's shape {shape}, got {part.shape}")
                flat[s] = part.reshape(-1)
        return flat

    def vector(self, flat: Any, who: str) -> Array:
        """Return a vector (P,) as an array of the parameters' dtype on their device; ValueError if it is none."""
        flat = getattr(flat, "array", flat)
        elsewhere = is_array(flat) and device_of(flat) != self.device
        dtype, device = (None, device_of(flat)) if is_array(flat) else (self.dtype, self.device)
        flat = as_array(flat, dtype, device, who)
        if flat.shape != (self.size,):
            raise ValueError(f"{who}: needs a vector of the {self.size} parameters, got shape {flat.shape}")
        if elsewhere:
            raise ValueError(f"{who}: the parameters are on {self.device} and the vector on {device_of(flat)}")
        return flat.astype(self.dtype, copy=False)

    @contextmanager
    def restored(self) -> Iterator[ParameterVector]:
        """Put every parameter back after the block, bit by bit, whatever was written or raised inside.

        >>> w = tensor([1.0], requires_grad=True)
        >>> with ParameterVector(w).restored() as vector:
        ...     vector.set([5.0])
        >>> w
        tensor([1.], requires_grad=True)
        """
        before = [(t.array, t.array.copy()) for t in self.tensors]
        try:
            yield self
        finally:
            for t, (array, values) in zip(self.tensors, before, strict=True):
                array[...] = values
                if t.array is not array:
                    t.data = array
            stamp_all(array for array, _ in before)


def _named(params: Params) -> tuple[list[str], list[Tensor]]:
    """Return names and tensors, each tensor once, without frozen parameters."""
    if isinstance(params, ParameterVector):
        return list(params.names), list(params.tensors)
    if hasattr(params, "named_parameters"):
        pairs = list(params.named_parameters())
    elif isinstance(params, Tensor):
        pairs = [("0", params)]
    elif isinstance(params, Mapping):
        pairs = list(params.items())
    elif isinstance(params, str) or not hasattr(params, "__iter__"):
        raise TypeError(f"parameters: needs a module, tensors or named tensors, got {type(params).__name__}")
    else:
        items = list(params)
        names = getattr(params, "names", None) or [str(i) for i in range(len(items))]
        pairs = [x if isinstance(x, tuple) and len(x) == 2 else (n, x) for n, x in zip(names, items, strict=True)]
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, t in pairs:
        if not isinstance(t, Tensor):
            raise TypeError(f"parameters: {name!r} must be a Tensor, got {type(t).__name__}")
        if id(t) in seen or (isinstance(t, Parameter) and not t.requires_grad):
            continue
        if not t.is_leaf or not t.requires_grad:
            state = "does not require a gradient; set requires_grad=True" if t.is_leaf else "is a result; pass its leaf"
            raise ValueError(f"parameters: {name!r} {state}")
        if str(name) in found:
            raise ValueError(f"parameters: the name {name!r} stands for two different tensors")
        seen.add(id(t))
        found[str(name)] = t
    if not found:
        raise ValueError("parameters: needs at least one parameter that requires a gradient, got none")
    return list(found), list(found.values())


def _check_alike(names: list[str], tensors: list[Tensor]) -> None:
    first = (tensors[0].dtype, tensors[0].device)
    for name, t in zip(names, tensors, strict=True):
        if (t.dtype, t.device) != first:
            raise TypeError(
                f"parameters: one vector has one dtype and device, but {names[0]!r} is {first[0]} on {first[1]} and "
                f"{name!r} is {t.dtype} on {t.device}; convert with module.to(...) or t.astype(...)"
            )
