"""Where arrays live: NumPy on the CPU, CuPy on a GPU, and every copy between them.

Everything above this file is written once, against the array module `xp` that an array brings along
(`array_module(x)`), so the same text runs on both. This is the one place that imports CuPy, and it does so only when a
GPU is asked for or a CuPy array arrives: `import minidl` stays light, and a machine without CuPy gets a clear reason
instead of an ImportError.

Nothing moves between host and device unless it passes through `to_device` or `to_numpy`, where `transfers()` counts it.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray or a cupy.ndarray: two classes with one behaviour and no common type
Module = Any  # numpy or cupy

# The exact type of an array decides its module: one dictionary look-up on the hot path of every operation.
MODULES: dict[type, Module] = {np.ndarray: np}
cpu: Module = np  # what computes on the CPU: NumPy, or what stands for it while a step is recorded
HOST = {np}  # all such
recorder: Any = None  # of the step that is being recorded, in any thread (minidl.compiler.record)
SCALARS = (bool, int, float, np.generic)
PIP_NAME = "cupy-cuda13x (or cupy-cuda12x for CUDA 12)"

_local = threading.local()
_cuda: Module | None = None
_default_dtype = np.dtype(np.float32)


# ---- CuPy, on demand ---------------------------------------------------------------------------------------------


def cuda_module() -> Module:
    """Return CuPy, importing it on first use; RuntimeError with the reason when no GPU can be used."""
    if _cuda is not None:
        return _cuda
    try:
        # Not `except ImportError`: a CuPy whose driver or libraries do not fit raises many other things.
        module = importlib.import_module("cupy")
        usable = module.cuda.is_available()
    except Exception as error:
        raise RuntimeError(f"device cuda: CuPy cannot be used ({error}); pip install {PIP_NAME}") from error
    if not usable:
        raise RuntimeError("device cuda: CuPy is installed and finds no usable GPU or driver; use device='cpu'")
    use_cuda_module(module)
    return module


def use_cuda_module(module: Module | None) -> None:
    """Make `module` (CuPy, or a stand-in with its interface) the array module of device `cuda`; None removes it."""
    global _cuda
    if _cuda is not None:
        MODULES.pop(_cuda.ndarray, None)
    _cuda = module
    if module is not None:
        MODULES[module.ndarray] = module


def cuda_state() -> tuple[bool, str]:
    """Return whether a GPU can be used, and its name or the reason why not."""
    try:
        module = cuda_module()
        properties = module.cuda.runtime.getDeviceProperties(0)
    except Exception as error:
        return False, str(error)
    name = properties["name"]
    return True, name.decode() if isinstance(name, bytes) else str(name)


# ---- which module, which device ----------------------------------------------------------------------------------


def is_array(x: object) -> bool:
    """Tell whether x is an array of a supported module, loading CuPy's entry if a CuPy array arrives first."""
    kind = type(x)
    if kind in MODULES:
        return True
    if kind.__module__.partition(".")[0] == "cupy" and kind.__name__ == "ndarray":
        cuda_module()
        return kind in MODULES
    return isinstance(x, np.ndarray)


def array_module(x: Array) -> Module:
    """Return the array module of an array: numpy or cupy.

    >>> array_module(np.zeros(3)).__name__
    'numpy'
    """
    module = MODULES.get(type(x))
    if module is not None:
        return module
    if is_array(x):
        return MODULES.get(type(x), np)  # a subclass of numpy.ndarray
    raise TypeError(f"array_module: needs a numpy.ndarray or a cupy.ndarray, got {type(x).__name__}")


def device_of(x: Array) -> str:
    """Return the device of an array: "cpu", or "cuda:i"."""
    return "cpu" if array_module(x) in HOST else f"cuda:{x.device.id}"


class Device(str):
    """A device by name: "cpu", "cuda" (the first GPU) or "cuda:i". As a context, the default of new tensors.

    Equal to its plain string; `Device("cuda") == "cuda:0"`.

    >>> with Device("cpu") as device:
    ...     print(device, default_device())
    cpu cpu
    """

    def __new__(cls, name: str = "cpu") -> Device:  # noqa: D102 (the class says it)
        kind, colon, index = str(name).partition(":")
        if kind not in ("cpu", "cuda") or (colon and not index.isdecimal()) or (kind == "cpu" and colon):
            raise ValueError(f"device: must be 'cpu', 'cuda' or 'cuda:i', got {name!r}")
        return super().__new__(cls, "cpu" if kind == "cpu" else f"cuda:{int(index or 0)}")

    def __enter__(self) -> Device:
        _local.__dict__.setdefault("devices", []).append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _local.devices.pop()


def default_device() -> Device:
    """Return the device of new tensors: the innermost `with device(...)`, else MINIDL_DEVICE, else the CPU."""
    stack = getattr(_local, "devices", None)
    return stack[-1] if stack else Device(os.environ.get("MINIDL_DEVICE", "cpu"))


def get_default_dtype() -> np.dtype:
    """Return the dtype that Python floats become in a new tensor (float32 unless set)."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python floats become in a new tensor: float16, float32 or float64."""
    global _default_dtype
    new = np.dtype(dtype)
    if new.kind != "f" or new.itemsize > 8:
        raise TypeError(f"set_default_dtype: must be float16, float32 or float64, got {new.name}")
    _default_dtype = new


# ---- making and moving arrays ------------------------------------------------------------------------------------


def on_device(device: str) -> tuple[Module, Any]:
    """Return (array module, context to create arrays in) for a device name."""
    name = Device(device)
    if name == "cpu":
        return cpu, nowhere
    module, index = cuda_module(), int(name.partition(":")[2])
    count = module.cuda.runtime.getDeviceCount()
    if index >= count:
        raise ValueError(f"device: {name} asked for, but {count} GPU(s) are present (cuda:0 to cuda:{count - 1})")
    return module, module.cuda.Device(index)


class _Nothing:
    """A context that does nothing, without the cost of contextlib.nullcontext's new object each time."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


nowhere = _Nothing()


def checked_dtype(dtype: np.dtype, who: str) -> np.dtype:
    """Return dtype if tensors may have it (bool, integers, floats); TypeError naming `who` and the dtype if not."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise TypeError(f"{who}: tensors hold bool, integers or floats of at most 64 bits, got dtype {dtype}")
    return dtype


def as_array(data: Any, dtype: Any = None, device: str | None = None, who: str = "tensor") -> Array:
    """Turn data into an array, without copying where none is needed.

    Arrays keep their dtype and device; Python floats take the default dtype, ints int64, bools bool. Complex, object
    and string data, and lists of unequal lengths, raise TypeError or ValueError naming `who` and the dtype.
    """
    if not is_array(data) or isinstance(data, np.ma.MaskedArray):
        scalars = isinstance(data, np.generic)
        try:
            host = _unwrapped(data, dtype, who)
        except ValueError as error:
            raise ValueError(f"{who}: nested lists must have equal lengths at each level ({error})") from None
        checked_dtype(host.dtype, who)
        plain = isinstance(data, (float, list, tuple)) and not scalars and not _holds_arrays(data)
        if dtype is None and plain and host.dtype == np.float64:
            host = host.astype(_default_dtype)
        data = host
    elif type(data) is not np.ndarray and isinstance(data, np.ndarray):
        data = np.asarray(data)  # numpy.matrix, memmap and other subclasses behave differently under operators
    checked_dtype(data.dtype, who)
    if dtype is not None:
        data = data.astype(checked_dtype(np.dtype(dtype), who), copy=False)
    if device is None:
        device = None if is_array(data) and device_of(data) != "cpu" else default_device()
    return data if device is None else to_device(data, device)


def _unwrapped(data: Any, dtype: Any, who: str) -> np.ndarray:
    """Make data an array; integers must fit the dtype they are asked for."""
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"{who}: a masked array would lose its mask; use x.filled(value)")
    host = np.asarray(data)
    if dtype is not None and host.dtype.kind in "iu" and np.dtype(dtype).kind in "iu" and host.size:
        limits = np.iinfo(np.dtype(dtype))
        low, high = int(host.min()), int(host.max())
        if low < limits.min or high > limits.max:
            raise ValueError(
                f"{who}: {np.dtype(dtype)} holds {limits.min} to {limits.max}, got numbers from {low} to {high}"
            )
    return host


def _holds_arrays(data: Any) -> bool:
    """Tell whether data is, or lists hold, arrays of any library, which keep their own float64, or Python numbers."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return hasattr(data, "__array__")


def to_device(x: Array, device: str) -> Array:
    """Return x on a device: x itself if it is there, else a copy, counted by `transfers()`."""
    name = Device(device)
    if device_of(x) == name:
        return x
    if name == "cpu":
        return to_numpy(x)
    module, context = on_device(name)
    _count("host to device" if type(x) is np.ndarray else "device to device", x)
    with context:
        return module.asarray(x)


def to_numpy(x: Array) -> np.ndarray:
    """Return x as a NumPy array: x itself on the CPU, else a copy, counted by `transfers()`. Waits for the GPU."""
    if type(x) is np.ndarray or (isinstance(x, (np.ndarray, np.generic)) and type(x) not in MODULES):
        return np.asarray(x)
    _count("device to host", x)
    return array_module(x).asnumpy(x)


def scalar(x: Array) -> bool | int | float:
    """Return the Python number in an array of one element. On a GPU it waits for it and is a transfer."""
    if type(x) is not np.ndarray:
        _count("device to host", x)
    return x.item()


def scatter_add(xp: Module, target: Array, index: Any, values: Array) -> None:
    """Add values to target[index] in place, repeated indices adding up (target[index] += values would not).

    The target is contiguous. NumPy adds element by element five times as fast as row by row.
    """
    if xp in HOST and len(index) == 1 < target.ndim and values.shape == (*index[0].shape, *target.shape[1:]):
        columns = xp.arange(target.size // max(len(target), 1))
        target, index, values = (
            target.reshape(-1),
            (index[0].reshape(-1, 1).astype(np.intp) * columns.size + columns).reshape(-1),
            values.reshape(-1),
        )
    xp.add.at(target, index, values)


# ---- watching transfers ------------------------------------------------------------------------------------------


class TransferCount:
    """What `transfers()` yields: `count` copies of `bytes` bytes in all, and `log`, one (direction, shape) each."""

    def __init__(self, limit: int | None):
        self.limit = limit
        self.count = 0
        self.bytes = 0
        self.log: list[tuple[str, tuple[int, ...]]] = []


@contextmanager
def transfers(max: int | None = None) -> Iterator[TransferCount]:
    """Count copies between host and device in a block; RuntimeError at the first one beyond `max`.

    Reading a number (`item`, `float`, `bool`) of a GPU tensor is such a copy: it makes the host wait for the device.
    On the CPU nothing is ever counted.

    >>> with transfers(max=0) as seen:
    ...     _ = to_numpy(np.zeros(3))
    >>> seen.count
    0
    """
    watch = TransferCount(max)
    stack = _local.__dict__.setdefault("watches", [])
    stack.append(watch)
    try:
        yield watch
    finally:
        stack.remove(watch)


def _count(direction: str, x: Array) -> None:
    for watch in getattr(_local, "watches", ()):
        if watch.limit is not None and watch.count >= watch.limit:
            raise RuntimeError(
                f"transfers: a copy {direction} of shape {x.shape} exceeds max={watch.limit} in this block; "
                "keep the data on one device, or read results after the block"
            )
        watch.count += 1
        watch.bytes += x.nbytes
        watch.log.append((direction, x.shape))
