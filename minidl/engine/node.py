"""What a result remembers: the node that made it, when, and what its derivative needs.

The nodes are the graph. A Tensor holds its node, a node holds its parents, nothing points back: dropping the loss frees
the whole graph at once, without the garbage collector.

One clock orders everything. Making a node takes the next tick, so decreasing time is an order in which every node comes
before its parents. Writing into an array takes a tick too and stamps the array's storage, so a saved array whose stamp
is later than its node has been overwritten since.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from .backend import Array, device_of, is_array

tick = itertools.count(1).__next__
last_write = 0  # the time of the latest write into any array: as long as it is older than a node, the node is safe
_stamps: dict[int, list] = {}  # id of a storage -> [weak reference, time of its latest write]


class Mode(threading.local):
    """What this thread does with the operations it runs."""

    record = 1  # 1: record nodes (the fast path); 0: do not; 2: record, and describe each node to `watch`
    watch: Any = None  # called with each new node (anomaly mode)

    def __init__(self) -> None:
        self.outer: list[int] = []  # `record` outside the grad-mode blocks this thread is in


mode = Mode()


class UnsavedError(TypeError):
    """A rule read an input that its operation does not save."""


class Ghost:
    """All there is to know about an array except its values: shape, dtype, device, ndim, size.

    A rule receives a ghost for an input that its operation does not save. Computing with one is a TypeError, so a
    forgotten `saves` shows at the first gradient and never as a wrong number.
    """

    __slots__ = ("_device", "dtype", "shape")

    shape: tuple[int, ...]
    dtype: np.dtype
    _device: str
    __array_ufunc__ = None  # ndarray * ghost is a TypeError, not an array of objects

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name in ("_device", "trace"):  # left unset where they do not apply
            raise AttributeError(name)
        raise UnsavedError(
            f"a rule reads .{name} of an input that its operation does not save; name the input in saves="
        )

    def _no_values(self, *_: Any) -> Any:
        raise UnsavedError(
            "a rule reads the values of an input that its operation does not save; name the input in saves="
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = __iter__ = _no_values
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = _no_values
    __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __getitem__ = __abs__ = __array__ = _no_values

    @property
    def device(self) -> str:
        """The device of the array: "cpu" or "cuda:i"."""
        return getattr(self, "_device", "cpu")  # left unset on the CPU: one store less for every node

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


class Node(Ghost):
    """One recorded operation, and the ghost of its result.

    op          the Op that ran
    args        what its rules receive: saved arrays, ghosts, numbers; None once backward has freed them
    out         its result if the rules want it (an array, or a tuple of arrays)
    parents     for each input the node that made it, or None for a constant
    static      its keyword arguments
    time        the tick at which it was made
    hooks       functions called with its gradient
    trace       where the user's code called it (anomaly mode only; otherwise unset)
    """

    __slots__ = ("__weakref__", "args", "hooks", "op", "out", "parents", "static", "time", "trace")

    op: Any
    args: Any
    out: Any
    parents: tuple[Node | None, ...]
    static: dict[str, Any]
    time: int
    hooks: Any
    trace: tuple


class Leaf(Node):
    """The node of a tensor that the user made and wants a gradient for.

    It holds its Tensor weakly: a gradient kept with its graph leads back to the leaf, and would close a cycle.
    """

    __slots__ = ("tensor",)

    tensor: Any

    def rebind(self, array: Array) -> None:
        """Follow the tensor to a new array: gradients are cast to its dtype from now on."""
        self.dtype = array.dtype
        self._device = device_of(array)


class Pick(Node):
    """The node of one output of an operation that has several: `static["index"]` says which."""

    __slots__ = ()


class MultiNode(Node):
    """An operation with several outputs; `outputs` are their ghosts. Its gradient is a tuple, one entry an output.

    `picks` are weak references to the nodes of the outputs, which hold this one.
    """

    __slots__ = ("outputs", "picks")

    outputs: tuple[Ghost, ...]
    picks: dict[int, weakref.ref]


# None of these classes has an __init__: making a node is on the hot path of every operation, and calling one costs as
# much as all the rest of it together.


def ghost(array: Array, kind: type = Ghost) -> Any:
    """Return a Ghost of an array, or the start of a Node."""
    new = kind()
    new.shape = array.shape
    new.dtype = array.dtype
    if type(array) is not np.ndarray:
        new._device = device_of(array)
    return new


def leaf(tensor: Any) -> Leaf:
    """Return the node of a tensor that wants a gradient."""
    new = ghost(tensor.array, Leaf)
    new.op = new.out = new.hooks = None
    new.args = new.parents = ()
    new.static = {}
    new.time = tick()
    new.tensor = weakref.ref(tensor)
    return new


_resting: dict[int, Leaf] = {}  # id of a tensor whose requires_grad is off for now -> its leaf


def rest(tensor: Any) -> None:
    """Put the node of a leaf aside, with its hooks, until the tensor wants gradients again (freezing a network)."""
    for key in [key for key, node in _resting.items() if node.tensor() is None]:
        del _resting[key]
    if tensor.node is not None:
        _resting[id(tensor)] = tensor.node
        tensor.node = None


def wake(tensor: Any) -> Leaf:
    """Return the node of a tensor that wants gradients, the one put aside if there is one."""
    old = _resting.pop(id(tensor), None)
    if old is None or old.tensor() is not tensor:
        return leaf(tensor)
    old.rebind(tensor.array)
    return old


def _nobody() -> None: ...


def pick(main: MultiNode, index: int) -> Pick:
    """Return the node of one output of an operation with several: one and the same while anything refers to it."""
    known = main.picks.get(index, _nobody)()
    if known is not None:
        return known
    node, of = Pick(), main.outputs[index]
    main.picks[index] = weakref.ref(node)
    node.op = node.out = node.hooks = None
    node.args, node.parents, node.static = (), (main,), {"index": index}
    node.time = tick()
    node.shape, node.dtype = of.shape, of.dtype
    if of.device != "cpu":
        node._device = of.device
    return node


# ---- the mutation clock ------------------------------------------------------------------------------------------


def storage(array: Array) -> Array:
    """Return the array that owns the memory of this one: itself, or what it is a view of."""
    base = array.base
    while base is not None and is_array(base):  # memory may also belong to bytes, a file or another library
        array, base = base, base.base
    return array


def stamp(array: Array) -> None:
    """Note that an array has just been written into. Every in-place write to a tensor's array is followed by this."""
    global last_write
    owner = storage(array)
    key = id(owner)
    last_write = now = tick()
    entry = _stamps.get(key)
    if entry is None:
        _stamps[key] = [weakref.ref(owner, lambda _: _stamps.pop(key, None)), now]
    else:
        entry[1] = now


def overwrite(array: Array, index: Any, values: Any) -> None:
    """Set array[index] = values and stamp it; errors say which tensor it was."""
    try:
        array[index] = values
    except (ValueError, IndexError) as error:
        hint = "; copy() a tensor that shares read-only memory" if "read-only" in str(error) else ""
        raise type(error)(f"in-place write: {error} (tensor {array.shape}){hint}") from None
    stamp(array)


def stamp_all(arrays: Iterable[Array]) -> None:
    """Note that arrays have just been written into: `stamp` for each, at one time."""
    global last_write
    last_write = now = tick()
    for array in arrays:
        owner = array if array.base is None else storage(array)
        entry = _stamps.get(id(owner))
        if entry is None:
            stamp(owner)
        else:
            entry[1] = now


def written(array: Array) -> int:
    """Return the time of the latest write into the memory of an array; 0 if there was none."""
    entry = _stamps.get(id(storage(array)))
    return entry[1] if entry else 0
