"""A strict stand-in for CuPy, on NumPy: the GPU path of minidl tested on a machine without a GPU.

Its arrays are opaque: whatever CuPy refuses (NumPy's functions, lists, mixing with `numpy.ndarray`, arguments and
functions that CuPy does not have) is refused here, and what CuPy does silently and slowly (an index copied to the
device, iteration, `numpy.exp(x)`) is refused too. `stats` counts what costs time on a GPU: launches, copies and waits.

What CuPy 14.2 offers is written down in `cupy_signatures`, and a test compares that with the real package. A green run
says that the code asks only for what exists and copies nothing unseen; it does not say that the code works on a GPU.

    backend.use_cuda_module(strictfake.cupy)    makes it device "cuda"
    with strictfake.devices(2): ...             two GPUs, cuda:0 and cuda:1
    strictfake.stats.reset()                    counts from zero
"""

from __future__ import annotations

import numpy as np

from cupy_signatures import FUNCTIONS, GENERATOR, LINALG, UFUNCS, signatures
from strictfake_array import (
    Device,
    Machine,
    Module,
    arrays_in,
    cupy,
    devices,
    is_number,
    machine,
    ndarray,
    new,
    numpy_key,
    run,
    stats,
    unwrap,
    wrapped,
)
from strictfake_kernel import ElementwiseKernel

__all__ = ["cupy", "devices", "stats"]

HOST = [
    "broadcast_shapes",
    "can_cast",
    "finfo",
    "iinfo",
    "isscalar",
    "issubdtype",
    "ndim",
    "promote_types",
    "result_type",
    "shape",
    "size",
]
NAMES = (
    "dtype e euler_gamma float16 float32 float64 inf int8 int16 int32 int64 nan newaxis pi uint8 uint16 uint32 uint64"
)
ATOMIC = {"add": "i4 u4 u8 f2 f4 f8", "subtract": "i4 u4", "maximum": "i4 u4 u8 f4 f8", "minimum": "i4 u4 u8 f4 f8"}
WAITING = {"argwhere", "extract", "flatnonzero", "nonzero", "unique"}  # the size of the result depends on the values
ARRAY_ARGUMENTS = {
    "a",
    "a1",
    "a2",
    "ar",
    "arr",
    "array",
    "ary",
    "b",
    "condition",
    "element",
    "indices",
    "m",
    "prototype",
}
ARRAY_ARGUMENTS |= {"test_elements", "v", "values", "x", "y"}


class ufunc:
    """An elementwise function, with the few arguments that CuPy's have: out, dtype and casting."""

    def __init__(self, name):
        self._numpy = getattr(np, name)
        self.nin, self.nout = getattr(self._numpy, "nin", 1), 1  # three of them are no ufuncs in NumPy
        self.__name__ = self.name = f"cupy_{self._numpy.__name__}"

    def __call__(self, *args, out=None, dtype=None, casting="same_kind", **wrong):
        if wrong:
            raise TypeError(f"Wrong arguments {wrong}")
        outs = args[self.nin :] or (out if isinstance(out, tuple) else (out,))
        for x in (*args[: self.nin], *outs):
            if not isinstance(x, ndarray) and not is_number(x) and x is not None:
                raise TypeError(f"Unsupported type {type(x)}")
        options = {"casting": None if casting == "same_kind" else casting, "dtype": dtype, "out": outs[0]}
        return run(self._numpy, args[: self.nin], {key: value for key, value in options.items() if value is not None})

    def at(self, a, indices, b=None):
        """Write into a[indices], repeated indices adding up; only for dtypes that the hardware has an atomic for."""
        name = self._numpy.__name__
        if name not in ATOMIC:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if a.dtype not in map(np.dtype, ATOMIC[name].split()):
            raise TypeError(f"cupy.{name}.at does not support {a.dtype} as data type")
        key, _ = numpy_key(a, indices)
        run(lambda a, b: self._numpy.at(a, key, np.asarray(b).astype(a.dtype)), (a, b), {})


def _function(name, signature, numpy_function):
    """Return CuPy's function of that name: its signature, its refusals, NumPy's result."""
    first = next(iter(signature.parameters), None)

    def function(*args, **kwargs):
        arguments = signature.bind(*args, **kwargs).arguments
        for key, value in arguments.items():
            refused = (list, tuple, int, float, np.generic) if key == first else (list, tuple)
            if key in ARRAY_ARGUMENTS and isinstance(value, refused):
                raise TypeError(f"Unsupported type {type(value)}")
        stats.waits += name in WAITING or (name == "where" and len(arguments) == 1)
        return run(numpy_function, args, kwargs)

    function.__name__, function.__signature__ = name, signature
    return function


def _blind(numpy_function):
    """Return a function of linear algebra that answers a singular matrix with nan: CuPy does not look at the status."""

    def function(a, *rest, **options):
        try:
            return numpy_function(a, *rest, **options)
        except np.linalg.LinAlgError:
            if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
                raise
            regular = np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape)
            return np.full_like(numpy_function(regular, *rest, **options), np.nan)

    return function


def _host(numpy_function):
    return lambda *args, **kwargs: numpy_function(*unwrap(args), **kwargs)


def _allocate(function):
    """Return `empty` or `empty_like` filled with what must not be read: a GPU's memory holds whatever lay there."""

    def allocate(*args, **kwargs):
        x = function(*args, **kwargs)
        x._a.fill(np.nan if x.dtype.kind == "f" else 99)
        return x

    allocate.__signature__ = function.__signature__
    return allocate


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """Return a new device array of host or device data (cupy.array)."""
    if isinstance(obj, ndarray):
        stats.between_devices += obj._device != machine.current
        data = obj._a
    else:
        data = [x._a for x in arrays_in(obj)] or obj
    stats.launches += data is not obj
    stats.to_device += data is obj
    a = np.array(data, dtype, ndmin=ndmin, order="C")
    if a.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {a.dtype}")
    return new(a)


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """Return data on the current device, itself if it is there already (cupy.asarray)."""
    same = isinstance(a, ndarray) and a._device == machine.current and (dtype is None or a.dtype == dtype) and not copy
    return a if same else array(a, dtype)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    """Return a copy on the host (cupy.asnumpy)."""
    return a.get(out=out) if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args):
    """Return this module if one of the arguments is a device array, else numpy (cupy.get_array_module)."""
    return cupy if any(isinstance(x, ndarray) for x in args) else np


def take(a, indices, axis=None, out=None):
    """Return elements along an axis; an index out of range wraps around (cupy.take, which has no `mode`)."""
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    index = new(wrapped(indices, a.size if axis is None else a.shape[axis]), getattr(indices, "_device", None))
    return run(np.take, (a, index), {"axis": axis, "out": out})


def take_along_axis(a, indices, axis):
    """Return elements at `indices` along an axis; an index out of range wraps around (cupy.take_along_axis)."""
    index = new(wrapped(indices, a.size if axis is None else a.shape[axis]), indices._device)
    return run(np.take_along_axis, (a, index, axis), {})


def as_strided(x, shape=None, strides=None):
    """Return a view of contiguous memory with a shape and strides of its own (cupy.lib.stride_tricks.as_strided)."""
    return new(np.ndarray(shape, x.dtype, x._a, 0, strides), x._device, x if x.base is None else x.base)


class Generator:
    """The part of numpy.random.Generator that CuPy has, with another stream of numbers."""

    def __init__(self, seed=None):
        self._numpy = np.random.Generator(np.random.Philox(seed))


def _draw(name, signature):
    def draw(self, *args, **kwargs):
        signature.bind(*args, **kwargs)
        return run(getattr(self._numpy, name), args, kwargs)

    return draw


def _properties(device):
    machine.check(device)
    return {"name": b"strict stand-in", "totalGlobalMem": 2**34, "multiProcessorCount": 1, "major": 9, "minor": 0}


def _define_module():
    cupy.__version__, cupy.bool_ = "14.2.0", np.bool_
    for name in UFUNCS.split():
        setattr(cupy, name, ufunc(name))
    for name, signature in signatures(FUNCTIONS).items():
        if hasattr(np, name):  # an old NumPy lacks some of what CuPy has; the library runs on it without them
            setattr(cupy, name, _function(name, signature, getattr(np, name)))
    for made in (ElementwiseKernel, array, asarray, asnumpy, get_array_module, ndarray, take, take_along_axis):
        setattr(cupy, made.__name__, made)
    cupy.empty, cupy.empty_like = _allocate(cupy.empty), _allocate(cupy.empty_like)
    for name in NAMES.split():
        setattr(cupy, name, getattr(np, name))
    for name in HOST:
        setattr(cupy, name, _host(getattr(np, name)))

    cupy.lib, cupy.lib.stride_tricks = Module("cupy.lib"), Module("cupy.lib.stride_tricks")
    cupy.lib.stride_tricks.as_strided = as_strided
    cupy.linalg, cupy.random, cupy.cuda = Module("cupy.linalg"), Module("cupy.random"), Module("cupy.cuda")
    for name, signature in signatures(LINALG).items():
        setattr(cupy.linalg, name, _function(name, signature, _blind(getattr(np.linalg, name))))
    for name, signature in signatures(GENERATOR).items():
        setattr(Generator, name, _draw(name, signature))
    cupy.random.Generator = cupy.random.default_rng = Generator

    cupy.cuda.Device, cupy.cuda.is_available = Device, lambda: Machine.count > 0
    cupy.cuda.runtime = runtime = Module("cupy.cuda.runtime")
    runtime.getDeviceCount, runtime.getDevice = lambda: Machine.count, lambda: machine.current
    runtime.getDeviceProperties, runtime.deviceSynchronize = _properties, stats.wait


_define_module()
