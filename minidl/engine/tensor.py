"""Tensor: an array and, where a gradient may be wanted, the node that made it. No mathematics.

Operators and methods such as `t.sum()` are attached by `minidl.ops`; what is here is what a tensor *is*: its array, its
gradient, how it converts, copies and prints, and which in-place writes are allowed.
"""

from __future__ import annotations

import gc
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import backend
from .backend import Array, as_array, device_of, to_device, to_numpy
from .explain import ELSEWHERE
from .node import Leaf, Node, leaf, mode, overwrite, rest, wake

# What numpy.f(tensor) runs: NumPy's function or ufunc -> ours. Filled by minidl.ops.
NUMPY_FUNCTIONS: dict[Any, Callable[..., Any]] = {}
TENSORS: set[type] = set()  # Tensor and its subclasses: `type(x) in TENSORS` is isinstance at a third of the price


class Tensor:
    """An n-dimensional array that derivatives can be taken of.

    Parameters: `data` (number, nested lists, array or Tensor; always copied), `dtype`, `device` ("cpu", "cuda:i"),
    `requires_grad`. Python floats become the default dtype (float32), Python ints int64; an array keeps its dtype.
    TypeError for complex, object and string data, and for `requires_grad=True` with a dtype that is not floating.

    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    __slots__ = ("__weakref__", "_grad", "array", "node")

    array: Array  # the raw array; `data` is the same with checks on assignment
    node: Node | None  # None: a constant. A Leaf: the user wants its gradient. Any other Node: an operation made it
    _grad: Tensor | None

    if TYPE_CHECKING:  # attached by minidl.engine.autograd and minidl.ops

        def __neg__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def _operator(self, other: Any) -> Tensor: ...

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _operator
        __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = _operator
        __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __xor__ = _operator

    def __init__(self, data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False):
        if isinstance(data, (list, tuple)) and any(isinstance(x, Tensor) for x in data):
            raise TypeError("tensor: got a list of tensors; use stack(list), which is differentiable")
        source = data.array if isinstance(data, Tensor) else data
        array = as_array(source, dtype, device)
        fresh = isinstance(source, (list, tuple, *backend.SCALARS))  # all else may share memory with its owner
        moved = backend.is_array(source) and device_of(source) != device_of(array)
        with backend.on_device(device_of(array))[1]:
            self.array = array if fresh or moved else array.copy(order="K")
        self.node = None
        self._grad = None
        if requires_grad:
            self.requires_grad = True

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        TENSORS.add(cls)

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of the elements."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.array.size

    @property
    def device(self) -> str:
        """Where the array lives: "cpu" or "cuda:i"."""
        return device_of(self.array)

    @property
    def data(self) -> Array:
        """The raw array, shared. Assigning rebinds it, adopting dtype and device; the shape must stay."""
        return self.array

    @data.setter
    def data(self, value: Any) -> None:
        new = self._beside(value, "data")
        if new.shape != self.shape:
            raise ValueError(f"data: the new array must have the shape {self.shape} of the tensor, got {new.shape}")
        if not self.is_leaf:
            raise RuntimeError("data: only a leaf can be rebound, and an operation made this tensor; detach() it first")
        if self.node is not None:
            _check_floating(new.dtype)
            self.node.rebind(new)
        self.array = new
        if self._grad is not None and (self._grad.dtype, self._grad.device) != (self.dtype, self.device):
            self._grad = None

    @property
    def is_leaf(self) -> bool:
        """True unless a recorded operation made this tensor."""
        return self.node is None or type(self.node) is Leaf

    @property
    def requires_grad(self) -> bool:
        """True if operations on this tensor are recorded. Settable on leaves with a floating dtype."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise RuntimeError(
                "requires_grad: can only be changed on a leaf; use detach() to cut a result from its graph"
            )
        if not value:
            rest(self)
        elif self.node is None:
            _check_floating(self.dtype)
            self.node = wake(self)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` left here (same shape, dtype and device), or None."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            value = value if isinstance(value, Tensor) else wrap(self._beside(value, "grad"))
            mine, other = (self.shape, self.dtype, self.device), (value.shape, value.dtype, value.device)
            if mine != other:
                raise ValueError(f"grad: must have the tensor's shape, dtype and device {mine}, got {other}")
        self._grad = value

    def detach(self) -> Tensor:
        """Return a constant that shares this tensor's array: no gradient flows through it."""
        return wrap(self.array)

    # ---- out of the library --------------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array, sharing memory on the CPU. RuntimeError if a gradient is recorded."""
        if self.node is not None:
            raise RuntimeError(
                "numpy: this tensor requires a gradient, which an array cannot carry; use t.detach().numpy()"
            )
        return to_numpy(self.array)

    def item(self) -> bool | int | float:
        """Return the single element as a Python number; ValueError if there is not exactly one."""
        return self._single("item")

    def _single(self, who: str) -> bool | int | float:
        if self.array.size != 1:
            hint = "; its truth value is ambiguous, use any() or all()" if who == "bool" else ""
            raise ValueError(
                f"{who}: needs a tensor of exactly one element, got {self.size} (shape {self.shape}){hint}"
            )
        return backend.scalar(self.array)

    def tolist(self) -> Any:
        """Return the values as nested Python lists."""
        return to_numpy(self.array).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is not None:
            raise TypeError(
                f"{ufunc.__name__}: cannot write a Tensor into an ndarray (out=, or `array += tensor`); "
                "write array = array + tensor, or use tensor.detach().numpy()"
            )
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return _numpy_function(NUMPY_FUNCTIONS.get(ufunc) if method == "__call__" else None, name)(*inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _numpy_function(NUMPY_FUNCTIONS.get(function), function.__name__)(*args, **kwargs)

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.node is not None:
            raise BufferError("__dlpack__: this tensor requires a gradient; export t.detach()")
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __float__(self) -> float:
        return float(self._single("float"))

    def __int__(self) -> int:
        return int(self._single("int"))

    def __bool__(self) -> bool:
        return bool(self._single("bool"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.ndim:
            raise TypeError(f"index: needs a 0-d integer tensor, got shape {self.shape} of {self.dtype}")
        return int(self._single("index"))

    def __format__(self, spec: str) -> str:
        return format(self._single("format"), spec) if spec else str(self)

    def __getattr__(self, name: str) -> Any:
        hint = f"; here it is {ELSEWHERE[name]}" if name in ELSEWHERE else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len: a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(len(self)):
            yield self[i]

    __hash__ = object.__hash__  # by identity: == compares elements

    def __repr__(self) -> str:
        flag = ", requires_grad=True" if self.requires_grad else ""
        if self.node is not None and not self.is_leaf:
            flag = f", op={getattr(self.node.op, 'name', 'pick')}"
        place = "" if type(self.array) is np.ndarray else f", device='{self.device}'"
        kind = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        text = np.array2string(to_numpy(self.array), separator=", ", prefix="tensor(")
        kind += "" if self.array.size or self.array.ndim == 1 else f", shape={self.shape}"
        return f"tensor({text}{kind}{place}{flag})"

    # ---- copies --------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("deepcopy: an operation made this tensor; copy t.detach(), or the tensors it came from")
        new = wrap(self.array.copy(order="K"), cls=type(self))
        memo[id(self)] = new
        if self.requires_grad:
            new.node = leaf(new)
        if self._grad is not None:
            new._grad = wrap(self._grad.array.copy())
        return new

    def __copy__(self) -> Tensor:
        return self.__deepcopy__({})

    def __reduce__(self) -> tuple:
        if not self.is_leaf:
            raise RuntimeError("pickle: an operation made this tensor; pickle t.detach()")
        return _rebuild, (type(self), to_numpy(self.array), self.device, self.requires_grad)

    # ---- writing in place ----------------------------------------------------------------------------------------

    def _written(self, who: str, value: Any, remedy: str) -> None:
        """Refuse a write that a recorded derivative would miss: into a tensor that has one, or of a value that has."""
        if mode.record and (self.node is not None or getattr(value, "node", None) is not None):
            raise RuntimeError(
                f"{who}: a recorded tensor is written in place under no_grad() only, for derivatives would not "
                f"see it; {remedy}"
            )

    def __setitem__(self, index: Any, value: Any) -> None:
        self._written("t[...] = v", value, "use md.where(mask, v, t), or md.index_set(t, index, v)")
        overwrite(self.array, _raw(index), self._own(value))

    def copy_(self, source: Any) -> Tensor:
        """Overwrite the elements with those of source (broadcast, cast); a recorded tensor only under `no_grad()`."""
        self._written("copy_, fill_, zero_", source, "make a new tensor")
        overwrite(self.array, ..., self._own(source))
        return self

    def fill_(self, value: float) -> Tensor:
        """Overwrite every element with a number; a recorded tensor only under `no_grad()`."""
        return self.copy_(value)

    def zero_(self) -> Tensor:
        """Overwrite every element with 0; a recorded tensor only under `no_grad()`."""
        return self.copy_(0)

    def _own(self, value: Any) -> Any:
        """Return a value to be written as an array on this tensor's device."""
        if type(value) in backend.SCALARS:
            return value
        value = self._beside(value, "in-place write")
        if device_of(value) != self.device:
            raise ValueError(
                f"in-place write: the tensor is on {self.device} and the value on {device_of(value)}; use .to()"
            )
        return value

    def _beside(self, value: Any, who: str) -> Array:
        """Return a value as an array: arrays and tensors where they are, lists and numbers on this tensor's device."""
        value = value.array if isinstance(value, Tensor) else value
        return as_array(value, device=device_of(value) if backend.is_array(value) else self.device, who=who)

    def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]
        return self._assign(operator.add, other)

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        return self._assign(operator.sub, other)

    def __imul__(self, other: Any) -> Any:  # type: ignore[misc]
        return self._assign(operator.mul, other)

    def __itruediv__(self, other: Any) -> Any:  # type: ignore[misc]
        return self._assign(operator.truediv, other)

    def _assign(self, compute: Callable[[Any, Any], Any], other: Any) -> Any:
        """Make `p -= lr * p.grad` under no_grad() update the parameter itself; elsewhere `t += 1` rebinds the name."""
        if mode.record or type(self.node) is not Leaf:
            return NotImplemented
        return self.copy_(compute(self.array, self._own(other)))


TENSORS.add(Tensor)
_new = object.__new__


def wrap(array: Array, node: Node | None = None, cls: type = Tensor) -> Any:
    """Make a Tensor of an array without copying or checking: how the engine makes its own."""
    t: Any = _new(cls)
    t.array = array
    t.node = node
    t._grad = None
    return t


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that wants its gradient, found by `Module.parameters()`.

    >>> Parameter([1.0, 2.0])
    tensor([1., 2.], requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(data, requires_grad=requires_grad)


def _check_floating(dtype: np.dtype) -> None:
    if dtype.kind != "f":
        raise TypeError(
            f"requires_grad: only tensors of floating dtype can have gradients, got {dtype}; use .astype(float)"
        )


def _rebuild(cls: type, array: np.ndarray, device: str, requires_grad: bool) -> Tensor:
    new = wrap(to_device(array, device), cls=cls)
    if requires_grad:
        new.node = leaf(new)
    return new


def _raw(index: Any) -> Any:
    """Replace the tensors in an index by their arrays."""
    if isinstance(index, tuple):
        return tuple(_raw(i) for i in index)
    return index.array if isinstance(index, Tensor) else index


def _numpy_function(ours: Callable[..., Any] | None, name: str) -> Callable[..., Any]:
    if ours is None:
        raise TypeError(
            f"numpy.{name}: minidl has no derivative for it; use an operation of minidl, or t.detach().numpy()"
        )
    return ours


def live_tensors() -> int:
    """Return how many Tensors exist now. Back at its old value after a step: no graph was left behind.

    It asks the garbage collector, so that making tensors costs nothing for it.
    """
    return sum(type(o) in TENSORS for o in gc.get_objects())
