"""Traced arrays: NumPy arrays that compute as always and hand each call to the recorder of the step they belong to.

While a thread records a step (`minidl.compiler.record`), reading the array of a tensor gives a `Traced`, and operations
compute with `TRACED` in place of NumPy. Nothing may slip by unseen: every method of arrays is covered here, those that
read values are refused by name, and what escapes in another way shows when the step is recorded a second time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ..engine import backend
from ..engine.backend import nowhere
from ..engine.node import storage
from ..engine.tensor import Tensor

SLOT: Any = Tensor.__dict__["array"]  # where a tensor keeps its array

REDUCTIONS: dict[str, np.ufunc] = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}
READERS = {"item", "tolist", "tobytes", "tofile", "dump", "dumps", "__bool__", "__int__", "__float__", "__index__"}
CREATORS = {
    "arange", "array", "asarray", "ascontiguousarray", "asfortranarray", "empty", "empty_like", "eye", "full",
    "full_like", "identity", "linspace", "ones", "ones_like", "tri", "zeros", "zeros_like",
}  # fmt: skip


class CaptureError(RuntimeError):
    """A step does something that cannot be replayed."""


def active() -> Any:
    """Return the recorder of this thread, if it is recording a step."""
    found = backend.recorder
    return found if found is not None and found.thread == threading.get_ident() else None


def required() -> Any:
    """Return the recorder of this thread; CaptureError if there is none."""
    recorder = active()
    if recorder is None:
        raise CaptureError(
            "this array was made while a step was being recorded by md.capture, and is used outside it; return it from "
            "the step"
        )
    return recorder


def lowered(x: Any) -> Any:
    """Return a traced array as NumPy's own class, and anything else as it is."""
    if type(x) is not Traced:
        return x
    plain = x.view(np.ndarray)
    owner = owner_of(plain)
    return owner if layout(owner) == layout(plain) and type(owner) is np.ndarray else plain


def owner_of(x: np.ndarray) -> np.ndarray:
    """Return the array that owns the memory of x, also where as_strided stands between."""
    x = storage(x)
    while isinstance(getattr(x.base, "base", None), np.ndarray):
        x = storage(x.base.base)  # type: ignore[union-attr]
    return x


def layout(x: Any) -> tuple[Any, ...]:
    """Return shape, strides and dtype."""
    return x.shape, x.strides, x.dtype


def arrays(tree: Any) -> Iterator[np.ndarray]:
    """Yield the arrays in nested lists and tuples."""
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from arrays(branch)


@cache
def method_of(ufunc: np.ufunc, method: str) -> Callable[..., Any]:
    """Return a ufunc's method, the same object each time."""
    return getattr(ufunc, method)


class Traced(np.ndarray):
    """An array of a step that is being recorded."""

    fresh = False  # whether it is a result that nothing else refers to
    device = nowhere  # type: ignore[assignment]  # the context to compute in

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        if out is not None:
            keywords["out"] = out
        if method == "__call__":
            return required().call(f"ufunc.{ufunc.__name__}", ufunc, inputs, keywords)
        return required().call(f"{ufunc.__name__}.{method}", method_of(ufunc, method), inputs, keywords)

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        return required().call(function.__name__, function, tuple(args), dict(keywords))

    def __getitem__(self, key: Any) -> Any:
        by_mask = any(x.dtype.kind == "b" for x in arrays(key if isinstance(key, tuple) else (key,)))
        return required().call("nonzero" if by_mask else "getitem", getitem, (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        indexed = any(True for _ in arrays(key if isinstance(key, tuple) else (key,)))
        plain = lowered(self)
        view = None if indexed else plain[key]
        if isinstance(view, np.ndarray) and owner_of(view) is owner_of(plain):
            required().call("copyto", np.copyto, (view.view(Traced), value), {"casting": "unsafe"})
        else:
            required().call("setitem", setitem, (self, key, value), {})


def getitem(x: Any, key: Any) -> Any:
    """Return x[key]."""
    return x[key]


def setitem(x: Any, key: Any, value: Any) -> None:
    """Set x[key] = value."""
    x[key] = value


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def method(self: Traced, *args: Any, **keywords: Any) -> Any:
        if name in READERS:
            raise required().leak(name)
        return required().call(f"ndarray.{name}", function, (self, *args), keywords)

    return method


def _refused(name: str) -> property:
    def refuse(self: Traced, *_: Any) -> Any:
        raise required().leak(name)

    return property(refuse, refuse)


for _name in ("ctypes", "data", "flat", "imag", "real"):  # ways to the memory that nobody could follow
    setattr(Traced, _name, _refused(_name))
# `view` is how an array becomes traced; it makes no other array.
for _name in dir(np.ndarray):
    if _name in READERS or (callable(getattr(np.ndarray, _name)) and not _name.startswith("_") and _name != "view"):
        setattr(Traced, _name, _method(_name))
setattr(Traced, "__deepcopy__", lambda self, memo: self.copy())  # noqa: B010


class _Module(ModuleType):
    """NumPy as a recorded operation sees it: functions that make an array of none are noted too."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if name not in CREATORS:
            return found

        def create(*args: Any, **keywords: Any) -> Any:
            recorder = active()
            return found(*args, **keywords) if recorder is None else recorder.call(name, found, args, keywords)

        return create

    def asnumpy(self, x: Any) -> Any:
        """Refuse to hand out values."""
        raise required().leak("numpy")


TRACED = _Module("numpy")
