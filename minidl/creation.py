"""Making tensors: NumPy's names for filled ones, PyTorch's for random ones. Python floats take the default dtype."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import random
from .engine import backend
from .engine.backend import as_array, checked_dtype, default_device, get_default_dtype, on_device, to_device
from .engine.tensor import NUMPY_FUNCTIONS, Tensor, wrap

Shape = int | Sequence[int]


def _shape(shape: tuple, who: str) -> tuple[int, ...]:
    """Read zeros(2, 3) and zeros((2, 3)) alike; ValueError for a negative length."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    lengths = tuple(map(operator.index, sizes))
    if any(n < 0 for n in lengths):
        raise ValueError(f"{who}: lengths must not be negative, got {lengths}")
    return lengths


def _made(make: Any, dtype: Any, device: str | None, requires_grad: bool, who: str) -> Tensor:
    """Call make(xp, dtype) on the device and wrap the result."""
    kind = get_default_dtype() if dtype is None else checked_dtype(np.dtype(dtype), who)
    xp, place = on_device(device or default_device())
    with place:
        t = wrap(make(xp, kind))
    return t.requires_grad_() if requires_grad else t


def tensor(data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Make a Tensor of numbers, nested lists or an array, copying it. See `Tensor` for the rules.

    >>> tensor([[1, 2], [3, 4]]).dtype, tensor([0.5]).dtype, tensor(np.zeros(2)).dtype
    (dtype('int64'), dtype('float32'), dtype('float64'))
    """
    return Tensor(data, dtype, device, requires_grad)


def from_dlpack(x: Any) -> Tensor:
    """Make a Tensor that shares the memory of another library's array, through the DLPack protocol.

    Writes on either side show on the other. The other library's are not seen by the check that `backward` makes of
    overwritten values, and of an array that came back from there the two are taken for different memory.

    >>> a = np.arange(3.0)
    >>> t = from_dlpack(a)
    >>> a[0] = 5.0
    >>> t.tolist()
    [5.0, 1.0, 2.0]
    """
    kind = x.__dlpack_device__()[0]
    module = np if kind in (1, 3) else backend.cuda_module()
    return wrap(as_array(module.from_dlpack(x), who="from_dlpack"))


def zeros(*shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of zeros.

    >>> zeros(2, 3).shape, zeros((2,), dtype="float64").dtype
    ((2, 3), dtype('float64'))
    """
    lengths = _shape(shape, "zeros")
    return _made(lambda xp, kind: xp.zeros(lengths, kind), dtype, device, requires_grad, "zeros")


def ones(*shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of ones.

    >>> ones(2)
    tensor([1., 1.])
    """
    lengths = _shape(shape, "ones")
    return _made(lambda xp, kind: xp.ones(lengths, kind), dtype, device, requires_grad, "ones")


def full(
    shape: Shape, value: float, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor filled with a number, whose kind decides the dtype (int: int64, float: the default dtype).

    >>> full((2,), 7)
    tensor([7, 7])
    """
    lengths = _shape((shape,) if isinstance(shape, int) else (tuple(shape),), "full")
    kind = as_array(value, who="full").dtype if dtype is None else dtype
    return _made(lambda xp, kind: xp.full(lengths, value, kind), kind, device, requires_grad, "full")


def arange(
    start: float, stop: float | None = None, step: float = 1, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Return the numbers start, start + step, ... below stop; arange(n) starts at 0. Integers give int64.

    >>> arange(3), arange(1, 4, 2)
    (tensor([0, 1, 2]), tensor([1, 3]))
    """
    first, last = (0, start) if stop is None else (start, stop)
    whole = all(isinstance(v, (int, np.integer)) for v in (first, last, step))
    kind = dtype if dtype is not None else np.int64 if whole else None
    return _made(lambda xp, kind: xp.arange(first, last, step, dtype=kind), kind, device, False, "arange")


def linspace(start: float, stop: float, num: int = 50, dtype: Any = None, device: str | None = None) -> Tensor:
    """Return num numbers from start to stop, evenly spaced, both ends included.

    >>> linspace(0, 1, 3)
    tensor([0. , 0.5, 1. ])
    """
    return _made(lambda xp, kind: xp.linspace(start, stop, num, dtype=kind), dtype, device, False, "linspace")


def eye(n: int, m: int | None = None, dtype: Any = None, device: str | None = None) -> Tensor:
    """Return the (n, m) matrix with ones on the diagonal; m = n unless given.

    >>> eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    return _made(lambda xp, kind: xp.eye(n, m, dtype=kind), dtype, device, False, "eye")


def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Return zeros of the shape, dtype and device of a tensor.

    >>> zeros_like(ones(2))
    tensor([0., 0.])
    """
    return zeros(x.shape, dtype=dtype or x.dtype, device=x.device)


def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Return ones of the shape, dtype and device of a tensor.

    >>> ones_like(zeros(2))
    tensor([1., 1.])
    """
    return ones(x.shape, dtype=dtype or x.dtype, device=x.device)


def full_like(x: Tensor, value: float, dtype: Any = None) -> Tensor:
    """Return a tensor like x filled with a number.

    >>> full_like(zeros(2), 3.0)
    tensor([3., 3.])
    """
    return full(x.shape, value, dtype=dtype or x.dtype, device=x.device)


def from_numpy(array: np.ndarray) -> Tensor:
    """Return a tensor that shares a NumPy array's memory: writing into one shows in the other.

    >>> a = np.zeros(2)
    >>> t = from_numpy(a)
    >>> a[0] = 5
    >>> t.tolist()
    [5.0, 0.0]
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: needs a numpy.ndarray, got {type(array).__name__}; use tensor() for other data")
    return wrap(as_array(array, device="cpu", who="from_numpy"))


# ---- random: drawn on the host from the library's stream, so the same bits on every device ---------------------------


def _drawn(values: np.ndarray, dtype: Any, device: str | None, requires_grad: bool) -> Tensor:
    t = wrap(to_device(values.astype(dtype or get_default_dtype(), copy=False), device or default_device()))
    return t.requires_grad_() if requires_grad else t


def rand(*shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Return numbers drawn uniformly from [0, 1).

    >>> manual_seed(0)
    >>> x = rand(1000)
    >>> bool((x >= 0).numpy().all() and (x < 1).numpy().all()), round(x.mean().item(), 1)
    (True, 0.5)
    """
    kind = np.dtype(dtype or get_default_dtype())
    drawn = random.generator().random(_shape(shape, "rand"), dtype=np.float64 if kind.itemsize == 8 else np.float32)
    return _drawn(drawn, kind, device, requires_grad)


def randn(*shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Return numbers drawn from the normal distribution with mean 0 and variance 1.

    >>> manual_seed(0)
    >>> abs(randn(10000).mean().item()) < 0.05
    True
    """
    return _drawn(random.generator().standard_normal(_shape(shape, "randn")), dtype, device, requires_grad)


def randint(low: int, high: int, size: Shape, dtype: Any = np.int64, device: str | None = None) -> Tensor:
    """Return integers drawn uniformly from [low, high).

    >>> manual_seed(0)
    >>> sorted(set(randint(0, 3, 100).tolist()))
    [0, 1, 2]
    """
    return _drawn(random.generator().integers(low, high, size), dtype, device, False)


def manual_seed(seed: int) -> None:
    """Start the library's stream of random numbers again: initialisation, dropout, shuffling, rand. See `md.random`.

    >>> manual_seed(1)
    >>> a = rand(3)
    >>> manual_seed(1)
    >>> a.tolist() == rand(3).tolist()
    True
    """
    random.seed(seed)


NUMPY_FUNCTIONS.update({np.zeros_like: zeros_like, np.ones_like: ones_like, np.full_like: full_like})

__all__ = [
    "arange", "eye", "from_dlpack", "from_numpy", "full", "full_like", "linspace", "manual_seed", "ones", "ones_like",
    "rand", "randint", "randn", "tensor", "zeros", "zeros_like",
]  # fmt: skip
