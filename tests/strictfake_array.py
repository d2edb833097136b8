"""The array of the strict stand-in for CuPy (`strictfake`), and how NumPy computes for it."""

from __future__ import annotations

import contextlib
import threading
import types
import warnings

import numpy as np

from cupy_signatures import METHODS, signatures

IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
OPERATORS = (
    "add:add sub:subtract mul:multiply truediv:true_divide floordiv:floor_divide mod:remainder pow:power "
    "and:bitwise_and or:bitwise_or xor:bitwise_xor lshift:left_shift rshift:right_shift matmul:matmul"
)
COMPARISONS = "lt:less le:less_equal gt:greater ge:greater_equal eq:equal ne:not_equal"
UNARY = "neg:negative pos:positive abs:absolute invert:invert"


class Module(types.ModuleType):
    """`cupy`, or one of its submodules."""

    def __getattr__(self, name):
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} (nor has cupy_signatures)")


cupy = Module("cupy")  # filled by strictfake


class Stats:
    """What a GPU would have done: kernels launched, copies, and times the host waited for the device."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Count from zero."""
        self.launches = self.to_device = self.to_host = self.between_devices = self.waits = 0

    def wait(self):
        """Count one time that the host waits for the device."""
        self.waits += 1


class Machine(threading.local):
    """The GPUs of the pretended machine; the current one belongs to the thread."""

    count = 1
    current = 0

    def check(self, device):
        """Raise CuPy's error unless there is such a GPU."""
        if not 0 <= device < Machine.count:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")


stats = Stats()
machine = Machine()


@contextlib.contextmanager
def devices(count: int):
    """Pretend, in a block, that the machine has `count` GPUs."""
    previous, Machine.count = Machine.count, count
    try:
        yield
    finally:
        Machine.count = previous


class Device:
    """A GPU by number; as a context, the current one."""

    def __init__(self, device=None):
        self.id = machine.current if device is None else int(device)
        self._previous = []

    def __enter__(self):
        machine.check(self.id)
        self._previous.append(machine.current)
        machine.current = self.id
        return self

    def __exit__(self, *exc):
        machine.current = self._previous.pop()

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def synchronize(self):
        """Wait until the device has done what it was given."""
        stats.wait()


# ---- from device arrays to NumPy and back ------------------------------------------------------------------------


def is_number(x):
    """Tell whether a kernel takes x as a number, by value."""
    return isinstance(x, (bool, int, float, np.generic))


def unwrap(x):
    """Return what NumPy computes with, and refuse what a CuPy kernel refuses."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, (list, tuple)):
        return type(x)(map(unwrap, x))
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return x


def arrays_in(x):
    """Yield the device arrays in nested lists and tuples."""
    if isinstance(x, ndarray):
        yield x
    elif isinstance(x, (list, tuple)):
        for item in x:
            yield from arrays_in(item)


def new(a, device=None, base=None):
    """Return a device array that holds `a` itself."""
    x = object.__new__(ndarray)
    x._a, x.base, x._device = a, base, machine.current if device is None else device
    return x


def wrap(result, inputs, ordered=False):
    """Return NumPy's result as device arrays: an input that was returned, a view of one, or a new array in C order."""
    if isinstance(result, (tuple, list)):
        return (list if type(result) is list else tuple)(wrap(item, inputs, ordered) for item in result)
    if not is_number(result) and not isinstance(result, np.ndarray):
        return result
    result = np.asarray(result)  # a number becomes a 0-d array: it stays on the device
    for x in inputs:
        if result is x._a:
            return x
        if result.base is not None and result.base is (x._a if x._a.base is None else x._a.base):
            return new(result, x._device, x if x.base is None else x.base)
    return new(result if ordered or result.ndim < 2 else np.ascontiguousarray(result))


def run(function, args, kwargs):
    """Run a NumPy function on device arrays: one kernel of the current device, or none if it makes a view."""
    inputs = [*arrays_in(args), *arrays_in(list(kwargs.values()))]
    with np.errstate(all="ignore"), warnings.catch_warnings():  # a GPU does not warn
        warnings.simplefilter("ignore", RuntimeWarning)
        raw = function(*unwrap(args), **{name: unwrap(value) for name, value in kwargs.items()})
    result = wrap(raw, inputs, ordered=kwargs.get("order") == "F" or function is np.asfortranarray)
    made = any(x.base is None and not any(x is y for y in inputs) for x in arrays_in([result]))
    if made or raw is None or kwargs.get("out") is not None:
        launch(inputs)
    return result


def launch(inputs):
    """Count a kernel. It runs on the current device, which must be that of its arrays; a view needs none."""
    stats.launches += 1
    for x in inputs:
        if x._device != machine.current:
            raise ValueError(
                f"The device where the array resides ({x._device}) is different from the current device "
                f"({machine.current}). Peer access is unavailable between these devices."
            )


def wrapped(index, size):
    """Return integer indices as CuPy reads them: one out of range wraps around, silently."""
    if not isinstance(index, (ndarray, int, np.integer)):
        raise TypeError(
            f"strictfake: indices of type {type(index).__name__} would be copied to the device; use asarray"
        )
    index = np.asarray(unwrap(index))
    if index.dtype.kind not in "iu":
        raise IndexError(f"arrays used as indices must be of integer or boolean type. (actual: {index.dtype.type})")
    return index.astype(np.int64) % size if size else index


def numpy_key(x, key):
    """Return (NumPy's key, whether it holds arrays) for x[key]."""
    parts = key if isinstance(key, tuple) else (key,)
    axes = [part.ndim if isinstance(part, ndarray) and part.dtype == bool else 1 for part in parts]
    named = sum(n for part, n in zip(parts, axes, strict=True) if part is not None and part is not Ellipsis)
    axis, result = 0, []
    for part, n in zip(parts, axes, strict=True):
        if isinstance(part, (list, np.ndarray, bool, np.bool_)):
            raise TypeError(
                f"strictfake: an index of type {type(part).__name__} would be copied to the device; use asarray"
            )
        if isinstance(part, ndarray):
            result.append(part._a if part.dtype == bool else wrapped(part, x.shape[axis] if axis < x.ndim else 0))
        else:
            result.append(part)
        if part is Ellipsis:
            axis += x.ndim - named
        elif part is not None:
            axis += n
    if not any(part is Ellipsis for part in parts):
        result.append(Ellipsis)  # an element is a 0-d array of the same memory, never a number
    return tuple(result), any(isinstance(part, ndarray) for part in parts)


# ---- the array ---------------------------------------------------------------------------------------------------


class ndarray:
    """An array on a pretended GPU. Nothing of NumPy's protocols is forwarded: its values come out by `get` alone."""

    __slots__ = ("__weakref__", "_a", "_device", "base")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float):
        self._a, self.base, self._device = np.empty(shape, dtype), None, machine.current

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    device = property(lambda self: Device(self._device))
    T = property(lambda self: self.transpose())
    mT = property(lambda self: self.swapaxes(-1, -2))

    @property
    def flags(self):
        flags = self._a.flags
        return types.SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    @property
    def data(self):
        owner = self if self.base is None else self.base
        memory = types.SimpleNamespace(ptr=owner._a.ctypes.data, size=owner.nbytes)
        return types.SimpleNamespace(ptr=self._a.ctypes.data, mem=memory, device_id=self._device)

    def get(self, stream=None, order="C", out=None, blocking=True):
        stats.wait()
        stats.to_host += 1
        if out is None:
            return np.array(self._a, order=order)
        out[...] = self._a
        return out

    def set(self, arr, stream=None):
        if type(arr) is not np.ndarray:
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (arr.dtype, arr.shape) != (self.dtype, self.shape):
            raise ValueError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        stats.to_device += 1
        self._a[...] = arr

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def take(self, indices, axis=None, out=None):
        return cupy.take(self, indices, axis, out)

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __repr__(self):
        return repr(self.get())

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        with self.device:
            return self.copy()

    def __reduce__(self):
        return cupy.array, (self.get(),)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        raise TypeError("strictfake: iterating over a device array costs a kernel a row; write it as one operation")

    def __array__(self, dtype=None, copy=None):
        raise TypeError(IMPLICIT)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        operands = (*inputs, *kwargs.get("out", ()))
        if not all(isinstance(x, (ndarray, np.ndarray)) or is_number(x) for x in operands):
            return NotImplemented
        if method == "__call__" and any(isinstance(x, (np.generic, np.ndarray)) for x in operands):
            return getattr(cupy, ufunc.__name__)(*inputs, **kwargs)  # numpy.float32(2) * x: CuPy's answer or its error
        raise TypeError(f"strictfake: numpy.{ufunc.__name__} of a device array; write xp.{ufunc.__name__}")

    def __array_function__(self, function, classes, args, kwargs):
        if function.__name__ in ("can_cast", "ndim", "result_type", "shape", "size"):  # they do not read the values
            return getattr(cupy, function.__name__)(*args, **kwargs)
        raise TypeError(f"strictfake: numpy.{function.__name__} of a device array; write xp.{function.__name__}")

    def __getitem__(self, key):
        parts, (key, fancy) = key, numpy_key(self, key)
        if fancy:
            launch([self, *arrays_in([parts])])
        stats.waits += any(isinstance(part, np.ndarray) and part.dtype.kind == "b" for part in key)  # how many True?
        return wrap(self._a[key], [self])

    def __setitem__(self, key, value):
        if not isinstance(value, ndarray) and not is_number(value):
            raise TypeError(f"Unsupported type {type(value)}")
        launch([self, *arrays_in([key, value])])
        key, fancy = numpy_key(self, key)
        stats.to_device += fancy and not isinstance(value, ndarray)  # CuPy sends the number as an array
        self._a[key] = unwrap(value)


def _method(name, signature):
    def method(self, *args, **kwargs):
        signature.bind(*args, **kwargs)
        stats.waits += name == "nonzero"
        return run(getattr(np.ndarray, name), (self, *args), kwargs)

    return method


def _unary(name):
    return lambda x: getattr(cupy, name)(x)


def _binary(name, reflected=False):
    def operator(x, y):
        module = cupy
        if not isinstance(y, (ndarray, np.ndarray)) and not is_number(y):
            priority = getattr(y, "__array_priority__", 0)
            if getattr(y, "__array_ufunc__", 0) is None or (not hasattr(y, "__array_ufunc__") and priority > 100):
                return NotImplemented
            module = np  # as CuPy does: NumPy then asks the other operand's __array_ufunc__
        return getattr(module, name)(y, x) if reflected else getattr(module, name)(x, y)

    return operator


def _in_place(name):
    return lambda x, y: getattr(cupy, name)(x, y, x)


def _define_methods():
    for name, signature in signatures(METHODS).items():
        setattr(ndarray, name, _method(name, signature))
    for short, name in (pair.split(":") for pair in UNARY.split()):
        setattr(ndarray, f"__{short}__", _unary(name))
    for short, name in (pair.split(":") for pair in COMPARISONS.split()):
        setattr(ndarray, f"__{short}__", _binary(name))
    for short, name in (pair.split(":") for pair in OPERATORS.split()):
        setattr(ndarray, f"__{short}__", _binary(name))
        setattr(ndarray, f"__r{short}__", _binary(name, reflected=True))
        if short != "matmul":  # CuPy has no __imatmul__: `a @= b` makes a new array
            setattr(ndarray, f"__i{short}__", _in_place(name))


_define_methods()
