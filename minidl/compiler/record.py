"""Recording a step: every array call it makes, with what each reads and writes, while it computes as usual.

What is noted is a list of `Entry`s over `Value`s, each the content of one memory between two overwritings (static
single assignment); `minidl.compiler.replay` turns it into a program. Views are not calls: they are other ways to look
at a memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np

from ..engine import backend
from ..engine.backend import HOST, MODULES
from ..engine.node import Leaf
from ..engine.tensor import Tensor
from .traced import REDUCTIONS, SLOT, TRACED, CaptureError, Traced, active, arrays, lowered, method_of, owner_of

GRAD: Any = Tensor.__dict__["_grad"]
_lock = threading.RLock()  # one step is recorded at a time

# What decides a shape by values could not be replayed for another batch.
BY_VALUE = {"argwhere", "bincount", "compress", "extract", "flatnonzero", "histogram", "nonzero", "unique"}
POWERS: dict[float, np.ufunc] = {-1: np.reciprocal, 0.5: np.sqrt, 1: np.positive, 2: np.square}
WRITERS = {
    "at", "copyto", "fill", "fill_diagonal", "partition", "place", "put", "put_along_axis", "putmask", "resize",
    "setfield", "setitem", "sort",
}  # fmt: skip
TAKES_OUT = {
    "accumulate", "all", "any", "argmax", "argmin", "clip", "concatenate", "cumprod", "cumsum", "dot", "einsum", "mean",
    "reduce", "std", "take", "trace", "var",
}  # fmt: skip


@dataclass(eq=False, slots=True)
class Value:
    """The content of one memory from when it is written as a whole until it is written over as a whole.

    kind      "made" by an entry, "input" (an argument of the step), or "outside" (a parameter, a running average)
    owner     the array that owned the memory while the step was recorded
    leaf      of an input that is not an argument: the leaf whose gradient from before the step it is
    written   how many entries write into a part of it
    """

    kind: str
    owner: np.ndarray
    leaf: Tensor | None = None
    written: int = 0


@dataclass(frozen=True, slots=True)
class Ref:
    """An array as an operand: a view of a value."""

    value: Value
    array: np.ndarray = field(compare=False)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def whole(self) -> bool:
        """Whether it covers the memory of its value."""
        return self.array.nbytes == self.value.owner.nbytes


@dataclass(eq=False, slots=True)
class Entry:
    """One call.

    name       of the function, for messages and the listing
    function   called with args and keywords, in which each array is a Ref
    results    what it makes, each a value of its own
    writes     what it changes
    pure       the same operands give the same results, and nothing else happens
    out        whether the call itself can write where it is told to
    grads      of a call back into Python: each leaf and its gradient, or None, at that time
    """

    name: str
    function: Callable[..., Any]
    args: Any
    keywords: dict[str, Any]
    results: tuple[Ref, ...] = ()
    writes: tuple[Ref, ...] = ()
    pure: bool = True
    out: bool = False
    grads: Sequence[tuple[Tensor, Ref | None]] = ()

    def operands(self) -> list[Ref]:
        """Return the arrays among its arguments."""
        return list(refs((self.args, self.keywords)))

    def reads(self) -> list[Ref]:
        """Return all arrays it may read."""
        return self.operands() + [g for _, g in self.grads if g is not None]


def refs(tree: Any) -> Iterator[Ref]:
    """Yield the Refs in nested lists, tuples and dictionaries."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, (list, tuple, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from refs(branch)


def rebuild(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested lists, tuples and dictionaries with `change` applied to what is in them."""
    if type(tree) is dict:
        return {key: rebuild(branch, change) for key, branch in tree.items()}
    return type(tree)([rebuild(x, change) for x in tree]) if type(tree) in (list, tuple) else change(tree)


class Recorder:
    """What a step did. As a context it records: reading the array of any tensor then gives a Traced."""

    def __init__(self, who: str, inputs: Sequence[np.ndarray]):
        self.who = who
        self.thread = threading.get_ident()
        self.entries: list[Entry] = []
        self.tensors: dict[int, tuple[Tensor, np.ndarray, Any]] = {}  # met from outside, with their array and node
        self.modules: dict[int, tuple[Any, dict[str, Any]]] = {}  # called, and their attributes then
        self.first: dict[
            int, tuple[Tensor, bool, bool]
        ] = {}  # leaf, had it a gradient, was that read before it was set
        self.moved: set[int] = set()  # leaves that were given a gradient
        self._current: dict[int, Value] = {}  # id of a memory's owner -> its value now
        self._lifted: dict[int, Traced] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self.inputs = [self._new("input", x) for x in inputs]
        self.outside: list[np.ndarray] = []  # for each input that is no argument, what it is a copy of

    # ---- on and off --------------------------------------------------------------------------------------------------

    def _switch(self, on: bool) -> None:
        backend.recorder, backend.cpu = (self, TRACED) if on else (None, np)

    def __enter__(self) -> Recorder:
        _lock.acquire()
        self._switch(True)
        MODULES[Traced] = TRACED
        HOST.add(TRACED)
        setattr(Tensor, "array", property(_read, SLOT.__set__))  # noqa: B010
        setattr(Tensor, "_grad", property(_read_grad, _write_grad))  # noqa: B010
        return self

    def __exit__(self, *exc: object) -> None:
        setattr(Tensor, "array", SLOT)  # noqa: B010
        setattr(Tensor, "_grad", GRAD)  # noqa: B010
        HOST.discard(TRACED)
        MODULES.pop(Traced)
        self._switch(False)
        _lock.release()

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def _new(self, kind: str, owner: np.ndarray, leaf: Tensor | None = None) -> Value:
        self._kept.append(owner)
        value = self._current[id(owner)] = Value(kind, owner, leaf)
        return value

    def ref(self, x: np.ndarray) -> Ref:
        """Return the operand for an array, with its memory as it is now."""
        plain = lowered(x)
        owner = owner_of(plain)
        value = self._current.get(id(owner)) or self._new("outside", owner)
        offset = plain.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return Ref(value, plain, offset, plain.shape, plain.strides, plain.dtype)

    def _operand(self, x: Any) -> Any:
        return self.ref(x) if isinstance(x, np.ndarray) else x

    def written(self, x: np.ndarray) -> Ref:
        """Return the operand for an array that a call changes."""
        target = self.ref(x)
        target.value.written += 1
        return target

    def lift(self, tensor: Tensor, array: np.ndarray) -> Traced:
        """Return the traced form of the array of a tensor from outside the step."""
        leaf = next((t for t, _, _ in self.tensors.values() if GRAD.__get__(t) is tensor), None)
        if leaf is None and id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = (tensor, array, tensor.node)
        if id(array) not in self._lifted:
            self._kept.append(array)
            own = array if leaf is None else array.copy("K")
            self._lifted[id(array)] = own.view(Traced)
            if leaf is not None:  # a gradient from before: the next step has another
                self.inputs.append(self._new("input", own, leaf))
                self.outside.append(array)
        return self._lifted[id(array)]

    # ---- calls -------------------------------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        args: Any,
        keywords: dict[str, Any],
        pure: bool = True,
        writes: Sequence[Any] = (),
    ) -> Any:
        """Run a function on arrays and note it; what it returns becomes traced."""
        base = name.rpartition(".")[2]
        changes = keywords.get("inplace") or keywords.get("copy") is False or (base == "byteswap" and len(args) > 1)
        if base in ("byteswap", "nan_to_num") and changes:
            raise CaptureError(f"{self.who}: {base} in place cannot be replayed; use the new array that it returns")
        if base in BY_VALUE or (base == "where" and len(args) == 1):
            raise CaptureError(
                f"{self.who}: {base} makes an array whose shape depends on values, which differ from step to step; use "
                "where(condition, a, b), or do it outside the step and pass the result as an argument"
            )
        if base in REDUCTIONS and keywords.keys() <= {"axis", "keepdims"} and len(args) < 3:
            name, base, function = (
                f"{REDUCTIONS[base].__name__}.reduce",
                "reduce",
                method_of(REDUCTIONS[base], "reduce"),
            )
            keywords = {"axis": args[1] if len(args) > 1 else None, **keywords}
            args = args[:1]
        if name == "ufunc.power" and type(args[1]) in (int, float) and args[1] in POWERS and args[0].dtype.kind == "f":
            function, args = POWERS[args[1]], args[:1]  # what NumPy itself makes of x**2
            name = f"ufunc.{function.__name__}"
        if base == "dot" and len(args) > 2:
            keywords, args = {"out": args[2]}, args[:2]
        out = keywords.get("out")
        given = out if isinstance(out, tuple) else () if out is None else (out,)
        settings = {k: v for k, v in keywords.items() if k != "out"}
        operands, settings = rebuild(args, self._operand), rebuild(settings, self._operand)
        result = function(*rebuild(args, lowered), **rebuild(keywords, lowered))
        entry = Entry(name, function, operands, settings, pure=pure and base not in WRITERS)
        entry.out = bool(given) or name.startswith("ufunc.") or base in TAKES_OUT
        changed = [*given, *writes, *(args[:1] if base in WRITERS else ())]
        fresh = [x for x in given if self._covers(x)] if "where" not in keywords else []
        entry.writes = tuple(self.written(x) for x in changed if not any(x is y for y in fresh))
        made, returned = ([], result) if given else self._returned(name, args, result)
        for x in (*fresh, *made):
            self._new("made", owner_of(lowered(x)))
        entry.results = tuple(self.ref(x) for x in (*fresh, *made))
        if entry.results or entry.writes or not pure:
            self.entries.append(entry)
        if isinstance(out, tuple):
            return out if len(out) > 1 else out[0]
        return returned if out is None else out

    def _covers(self, x: np.ndarray) -> bool:
        """Tell whether writing x writes the whole of a memory that the step made: it then has a new value."""
        ref = self.ref(x)
        return ref.whole and ref.value.kind == "made"

    def _returned(self, name: str, args: Any, result: Any) -> tuple[list[np.ndarray], Any]:
        """Return the new arrays among what a call returned, and all of it traced. Views are not new."""
        several = isinstance(result, (tuple, list))
        outs = [np.asarray(x) if isinstance(x, np.generic) else x for x in (result if several else (result,))]
        if result is None or name in ("ndim", "shape", "size"):
            return [], result
        if not all(isinstance(x, np.ndarray) for x in outs):
            raise self.leak(name)
        known = {id(owner_of(lowered(x))) for x in arrays(args)}
        made = [x for x in outs if id(owner_of(x)) not in known]
        wrapped = [lowered(x).view(Traced) for x in outs]
        for x in wrapped if made else ():
            x.fresh = True
        if made and len(made) < len(outs):
            raise CaptureError(f"{self.who}: {name} returns new arrays and views together, and cannot be replayed")
        kind = getattr(type(result), "_make", type(result))  # of a named tuple
        return made, kind(wrapped) if several else wrapped[0]

    def opaque(self, name: str, function: Callable[..., Any], inputs: list, static: dict[str, Any], into: bool) -> Any:
        """Run an operation that draws at random, or writes `into` its arguments, as one call."""
        return self.call(name, function, (np, *inputs), static, pure=False, writes=inputs if into else ())

    def look(self, check: Callable[[np.ndarray], None], x: Any) -> None:
        """Run a check of values, now and at each replay."""
        self.call("check", check, (x,), {}, pure=False)

    def again(self, name: str, function: Callable[..., Any], value: Any) -> None:
        """Note a call that has an effect beside arrays and is being made now; replays make it too."""
        if active() is self:
            self.entries.append(Entry(name, function, (value,), {}, pure=False))

    def refuse(self, what: str) -> None:
        """Raise CaptureError for what cannot be replayed."""
        if active() is self:
            raise CaptureError(f"{self.who}: {what} cannot be replayed; do it outside the step")

    def effect(self, name: str, function: Callable[..., Any], args: Any, keywords: dict[str, Any]) -> Any:
        """Call back into Python, now and at each replay."""
        if any(isinstance(x, (Tensor, np.ndarray)) for x in (*args, *keywords.values())):
            raise CaptureError(f"{self.who}: {name} is called with a value, which it reads; call it outside the step")
        leaves = [t for t, _, node in self.tensors.values() if type(node) is Leaf]
        grads = self.gradients(leaves)
        for _, g in grads:
            if g is not None:
                g.value.written += 1  # perhaps
        for value in self._current.values():
            value.written += value.kind == "outside"  # whatever it changes
        self.entries.append(Entry(name, function, args, keywords, pure=False, grads=grads))
        self._switch(False)
        try:
            return function(*args, **keywords)
        finally:
            self._switch(True)

    def gradients(self, leaves: Sequence[Tensor]) -> list[tuple[Tensor, Ref | None]]:
        """Return the leaves that the step has given a gradient, or taken it from, with what they have now."""
        moved = [(t, GRAD.__get__(t)) for t in leaves if id(t) in self.moved]
        return [(t, None if g is None else self.ref(SLOT.__get__(g))) for t, g in moved]

    def watch(self, module: Any) -> None:
        """Remember a module that took part, and its attributes: whether it trains, its rate, its parameters."""
        if active() is self:
            self.modules.setdefault(id(module), (module, dict(vars(module))))

    def leak(self, name: str) -> CaptureError:
        """Return the error for a value that would become a Python number."""
        what = "Python (`item`, `float`, `if`)" if name == "item" or name.startswith("__") else f"`{name}`"
        return CaptureError(
            f"{self.who}: {what} asked for the value of an array, which is another one in each step; use "
            "where(condition, a, b), return the tensor and read it outside the step, or pass numbers as arguments"
        )


def replayed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate what does more than arrays show (counts, schedules): a captured step calls it again at each replay."""

    @wraps(method)
    def call(*args: Any, **keywords: Any) -> Any:
        recorder = backend.recorder and active()
        if recorder is None:
            return method(*args, **keywords)
        return recorder.effect(method.__qualname__, method, args, keywords)

    return call


def _read_grad(tensor: Tensor) -> Any:
    """Read the gradient of a tensor while a step is recorded, noting whether a leaf's from before matters."""
    value, recorder = GRAD.__get__(tensor), active()
    if recorder is not None and type(tensor.node) is Leaf and type(SLOT.__get__(tensor)) is np.ndarray:
        recorder.first.setdefault(id(tensor), (tensor, value is not None, True))
    return value


def _write_grad(tensor: Tensor, value: Any) -> None:
    recorder = active()
    outside = type(getattr(tensor, "node", None)) is Leaf and type(SLOT.__get__(tensor)) is np.ndarray
    if recorder is not None and outside:
        recorder.first.setdefault(id(tensor), (tensor, False, False))
        recorder.moved.add(id(tensor))
    GRAD.__set__(tensor, value)


def _read(tensor: Tensor) -> Any:
    """Read the array of a tensor while a step is recorded: traced in that thread, plain in all others."""
    array = SLOT.__get__(tensor)
    recorder = active()
    if recorder is None:
        return lowered(array)
    return recorder.lift(tensor, array) if type(array) is np.ndarray else array
