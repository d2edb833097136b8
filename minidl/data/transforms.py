"""What is done to a batch before it is handed out: scaling, standardising, flattening, and chains of these.

A transform is any callable `transform(*arrays)`: it receives the arrays of one batch (images first, as the data set
has them) and returns either one array, which replaces the first, or a tuple, which replaces all. The classes here act
on the first array and pass the others on, so they also work on images alone: `ToFloat()(images)`. They take NumPy or
CuPy arrays and return such; a Tensor gives a Tensor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.backend import Array, array_module, device_of, get_default_dtype, is_array, to_device, to_numpy
from ..engine.tensor import Tensor, wrap

ROWS = 4096  # samples that Standardize.fit looks at in one go: bounds its memory, whatever the size of the data


def apply(transform: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the arrays of a batch after a transform; TypeError if it returns anything but arrays.

    >>> apply(lambda x, y: x + 1, (np.zeros(2), np.ones(2)))
    (array([1., 1.]), array([1., 1.]))
    """
    out = transform(*arrays)
    result = tuple(out) if isinstance(out, (tuple, list)) else (out, *arrays[1:])
    result = tuple(x.array if isinstance(x, Tensor) else x for x in result)
    for x in result:
        if not is_array(x):
            raise TypeError(f"transform: must return an array or a tuple of arrays, got {type(x).__name__}")
    return result


class Transform(ABC):
    """Base of the transforms that change the first array of a batch. A subclass writes `change(x)` on a raw array."""

    @abstractmethod
    def change(self, x: Array) -> Array:
        """Return the changed array."""

    def __call__(self, x: Any, *others: Any) -> Any:
        """Return the changed first array, together with the others if there are any."""
        if isinstance(x, Tensor):
            if x.requires_grad:
                raise TypeError(f"{type(self).__name__}: no gradient flows through a transform; pass t.detach()")
            out = wrap(self.change(x.array))
        else:
            out = self.change(x)
        return (out, *others) if others else out


class Compose:
    """Apply transforms one after the other.

    >>> images = np.array([[[0, 4], [8, 16]]], dtype=np.uint8)
    >>> Compose([ToFloat(16), Normalize(0.5, 0.5), Flatten()])(images)
    array([[-1. , -0.5,  0. ,  1. ]], dtype=float32)
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]]):
        self.transforms = list(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"Compose: needs callables, got {type(transform).__name__}")

    def __call__(self, x: Any, *others: Any) -> Any:
        """Return what the last transform makes of the batch."""
        for transform in self.transforms:
            out = transform(x, *others)
            x, *others = out if isinstance(out, (tuple, list)) else (out, *others)  # type: ignore[assignment]
        return (x, *others) if others else x


class ToFloat(Transform):
    """Divide integers by `maximum` and make them floats of the default dtype (or `dtype`); floats are only cast.

    The quotient is correctly rounded: 255 becomes exactly 1.0.

    >>> ToFloat()(np.array([0, 51, 255], dtype=np.uint8))
    array([0. , 0.2, 1. ], dtype=float32)
    """

    def __init__(self, maximum: float = 255.0, dtype: Any = None):
        if not maximum > 0:
            raise ValueError(f"ToFloat: maximum must be positive, got {maximum}")
        self.maximum = float(maximum)
        self.dtype = None if dtype is None else np.dtype(dtype)
        if self.dtype is not None and self.dtype.kind != "f":
            raise TypeError(f"ToFloat: dtype must be floating, got {self.dtype}")

    def change(self, x: Array) -> Array:
        """Return x / maximum, or x itself as floats."""
        dtype = self.dtype or get_default_dtype()
        if x.dtype.kind not in "iu":
            return x.astype(dtype, copy=False)
        if np.result_type(x.dtype, dtype) != dtype:
            x = x.astype(dtype)  # int64 / float32 would be float64
        return array_module(x).divide(x, dtype.type(self.maximum))


class Normalize(Transform):
    """Compute (x - mean) / std, with mean and std numbers or arrays that broadcast against a batch.

    For a mean and standard deviation per channel of (n, c, h, w) images give arrays of shape (c, 1, 1). Takes floats
    only, so that 0 to 255 is not mistaken for 0 to 1: put `ToFloat()` before it. MNIST: `Normalize(0.1307, 0.3081)`.

    >>> Normalize(1.0, 2.0)(np.array([1.0, 5.0]))
    array([0., 2.])
    """

    def __init__(self, mean: Any, std: Any):
        self.mean = np.asarray(to_numpy(mean) if is_array(mean) else mean, np.float64)
        self.std = np.asarray(to_numpy(std) if is_array(std) else std, np.float64)
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise ValueError("Normalize: mean must be finite and std finite and positive everywhere")
        self._placed: dict[tuple[str, np.dtype], tuple[Array, Array]] = {}

    def change(self, x: Array) -> Array:
        """Return (x - mean) / std."""
        if x.dtype.kind != "f":
            raise TypeError(f"Normalize: needs floats, got {x.dtype}; put ToFloat() before it")
        mean, std = _placed(self._placed, x, self.mean, self.std)
        return _shift_and_scale(x, mean, std, "Normalize")


class Standardize(Transform):
    """Give every feature mean 0 and variance 1, as measured by `Standardize.fit(x)` on training data.

        out = (x - mean) / std,    mean and std over axis 0 (of the population: divided by n)

    A constant feature becomes 0 where it has the value seen, and is shifted but not scaled elsewhere. Fitted on
    integers (raw images) it takes integers, fitted on floats it takes floats; the other raises TypeError.

    >>> x = np.array([[1.0, 7.0], [3.0, 7.0]])
    >>> Standardize.fit(x)(x)
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    def __init__(self, mean: np.ndarray, std: np.ndarray, integers: bool = False):
        self.mean = mean
        self.std = std
        self.integers = integers
        self._placed: dict[tuple[str, np.dtype], tuple[Array, Array]] = {}

    @classmethod
    def fit(cls, x: Any) -> Standardize:
        """Measure mean and standard deviation of each feature of x (n, ...) in float64; ValueError if n is 0."""
        x = to_numpy(x.array if isinstance(x, Tensor) else x)
        if x.ndim < 1 or not len(x):
            raise ValueError(f"Standardize.fit: needs at least one sample along axis 0, got shape {x.shape}")
        blocks = range(0, len(x), ROWS)
        mean = sum(x[i : i + ROWS].sum(axis=0, dtype=np.float64) for i in blocks) / len(x)
        # From the centred values: E[x^2] - mean^2 loses every digit where the mean is large.
        squares = sum(np.square(x[i : i + ROWS] - mean).sum(axis=0) for i in blocks)
        std = np.sqrt(np.asarray(squares) / len(x))
        # Rounding leaves a constant feature a tiny std; compare values, not the std with a tolerance.
        constant = np.all(x == x[0], axis=0)
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise ValueError("Standardize.fit: x must be finite")
        return cls(np.where(constant, x[0], mean), np.where(constant | (std == 0), 1.0, std), x.dtype.kind in "biu")

    def change(self, x: Array) -> Array:
        """Return (x - mean) / std."""
        if (x.dtype.kind != "f") != self.integers:
            seen = "integers" if self.integers else "floats"
            raise TypeError(f"Standardize: was fitted on {seen} and got {x.dtype}; fit and apply at the same place")
        if self.integers:
            x = x.astype(get_default_dtype())
        mean, std = _placed(self._placed, x, self.mean, self.std)
        return _shift_and_scale(x, mean, std, "Standardize")


class Flatten(Transform):
    """Make each sample a vector: (n, ...) -> (n, product of the rest).

    >>> Flatten()(np.zeros((5, 8, 8))).shape
    (5, 64)
    """

    def change(self, x: Array) -> Array:
        """Return x with all axes but the first merged."""
        return x.reshape(len(x), math.prod(x.shape[1:]))  # -1 would be ambiguous for an empty batch


# ---- helpers -----------------------------------------------------------------------------------------------------


def _placed(cache: dict[Any, Any], x: Array, *values: np.ndarray) -> Any:
    """Return host arrays as arrays of x's dtype on x's device; each device is copied to once."""
    key = (device_of(x), x.dtype)
    if key not in cache:
        cache[key] = tuple(to_device(v.astype(x.dtype), key[0]) for v in values)
    return cache[key]


def _shift_and_scale(x: Array, mean: Array, std: Array, who: str) -> Array:
    """Return (x - mean) / std; ValueError if that is not of x's shape."""
    try:
        out = x - mean
        out /= std
    except ValueError:
        out = None
    if out is None or out.shape != x.shape:
        raise ValueError(f"{who}: mean {mean.shape} and std {std.shape} do not broadcast against a batch {x.shape}")
    return out
