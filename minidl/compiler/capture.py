"""Capture: record a training step twice, then replay it as a flat list of kernels without the engine.

Everything that decides what the step does, other than the values in arrays, must be the same at a replay: the shapes
and dtypes of the arguments, the arrays of the parameters, which of them have gradients, which layers train. A call for
which something differs is recorded anew, and has a program of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np

from ..engine.backend import get_default_dtype
from ..engine.node import Leaf, mode, stamp_all
from ..engine.tensor import TENSORS, Tensor, wrap
from .record import Recorder, Ref, rebuild
from .replay import Program
from .traced import SLOT, CaptureError, Traced, active, layout, lowered

P = ParamSpec("P")
R = TypeVar("R")
MOST = 16  # programs of one step


class _Place(NamedTuple):
    """Stands for an array among the results of a step."""

    number: int
    raw: bool  # an array, not a tensor


class _Taken(NamedTuple):
    """One recording: under which conditions, and what came of it."""

    recorder: Recorder
    conditions: Conditions
    result: Any
    outputs: list[Ref]
    grads: list[tuple[Tensor, Ref | None]]


class capture(Generic[P, R]):
    """Make a step a program: `fast = capture(step)`, then call `fast` as you would call `step`.

    The step may do all that a training step does: zero_grad, forward, backward, clipping, optimizer.step. Its first two
    calls run as always and are recorded; they must have done the same, or CaptureError says where they differ. Later
    calls replay the array calls into memory set aside once. New arguments, parameters, running averages, random masks,
    learning rates from a schedule and gradients that accumulate take effect; results are the same bits. Other Python
    (printing, counting) runs only while the step is recorded.

    Arguments and results are tensors, arrays, numbers and nested lists, tuples and dictionaries of them; results are
    copies, without a graph. CaptureError for what cannot be replayed: reading a value (`item`, `if loss > 1`), an array
    whose shape depends on values (`x[x > 0]`), an array made anew outside the arguments.

    `print(fast)` lists the programs, a line a kernel; `print(fast.profile(...))` adds the time of each.

    >>> w = tensor([1.0, 2.0], requires_grad=True)
    >>> def step(x):
    ...     w.grad = None
    ...     loss = ((w - x) ** 2).sum()
    ...     loss.backward()
    ...     return loss
    >>> fast = capture(step)
    >>> [fast(tensor([k, 0.0])).item() for k in (0.0, 1.0, 2.0, 3.0)], w.grad
    ([5.0, 4.0, 5.0, 8.0], tensor([-4.,  4.]))
    """

    def __init__(self, step: Callable[P, R]):
        if not callable(step):
            raise TypeError(f"capture: needs a function, got {type(step).__name__}")
        self.step = step
        self.programs: list[Replay] = []
        self._taken: list[_Taken] = []  # not yet confirmed by another call
        self._leaves: list[Tensor] | None = None  # that a step moves; known after the first recording

    @property
    def _who(self) -> str:
        return f"capture({getattr(self.step, '__name__', type(self.step).__name__)})"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step: a replay if there is a program for these arguments, else recorded."""
        if active() is not None or mode.watch is not None:  # inside another capture, or in anomaly mode
            return self.step(*args, **kwargs)
        arrays: list[np.ndarray] = []
        key = self._key((args, kwargs), arrays)
        for program in self.programs:
            if program.fits(key):
                return program.run(arrays)
        return self._record(key, args, kwargs, arrays)

    def _key(self, tree: Any, arrays: list[np.ndarray]) -> Any:
        """Collect the arrays among the arguments; return what must be equal for a program to fit."""

        def look(x: Any) -> Any:
            array = x.array if type(x) in TENSORS else x
            if not isinstance(array, np.ndarray):
                if type(array).__module__.startswith("cupy"):
                    raise CaptureError(f"{self._who}: captures steps on the CPU only; call the step itself on a GPU")
                return (type(x), x)
            if type(x) in TENSORS and x.node is not None:
                raise CaptureError(
                    f"{self._who}: an argument requires a gradient (shape {x.shape}); only tensors from outside, such "
                    "as parameters, may; pass x.detach()"
                )
            arrays.append(array)
            return (type(x), array.shape, array.strides, array.dtype)

        return (rebuild(tree, look), mode.record, get_default_dtype())

    def profile(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Run the step for these arguments a hundred times; return the listing with the median time of each line.

        The runs count: an optimizer moves its parameters. RuntimeError if there is no program for them yet.
        """
        arrays: list[np.ndarray] = []
        key = self._key((args, kwargs), arrays)
        replay = next((replay for replay in self.programs if replay.fits(key)), None)
        if replay is None:
            raise RuntimeError(
                f"{self._who}: there is no program for these arguments; two calls with their like make it"
            )
        return replay.program.timed(replay.inputs(arrays), rounds=100)

    def _record(self, key: Any, args: Any, kwargs: Any, given: list[np.ndarray]) -> Any:
        """Run the step as it is written, and note what it does."""
        if len(self.programs) >= MOST:
            raise CaptureError(
                f"{self._who}: {MOST} programs are made, and these arguments fit none; pass numbers that change as "
                "tensors, keep batches to a few shapes, or call the step itself"
            )
        old = next((taken for taken in self._taken if taken.conditions.hold(key)), None)
        before = None if self._leaves is None else tuple([t._grad is not None for t in self._leaves])
        own = [x if x.base is None else x.copy("K") for x in given]
        recorder = Recorder(self._who, own)
        rest = iter([x.view(Traced) for x in own])
        outputs: list[Ref] = []

        def traced(x: Any) -> Any:
            return wrap(next(rest)) if type(x) in TENSORS else next(rest) if isinstance(x, np.ndarray) else x

        def noted(x: Any) -> Any:
            if id(x) in recorder.tensors or not (type(x) in TENSORS or isinstance(x, np.ndarray)):
                return x
            outputs.append(recorder.ref(SLOT.__get__(x) if type(x) in TENSORS else x))
            return _Place(len(outputs) - 1, type(x) not in TENSORS)

        new_args, new_kwargs = rebuild((args, kwargs), traced)
        with recorder:
            try:
                result = rebuild(self.step(*new_args, **new_kwargs), noted)
            finally:
                leaves = [t for t, _, node in recorder.tensors.values() if type(node) is Leaf]
                grads = [(t, None if t._grad is None else recorder.ref(SLOT.__get__(t._grad))) for t in leaves]
                for t in leaves:  # what outlives the recording has plain arrays, and no graph of traced ones
                    if t._grad is not None and type(SLOT.__get__(t._grad)) is Traced:
                        t._grad = wrap(lowered(SLOT.__get__(t._grad)))
        self._leaves = leaves
        values = [ref.array.copy() for ref in outputs]
        conditions = Conditions(key, recorder, leaves, before)
        self._compare(old, _Taken(recorder, conditions, result, outputs, grads))
        return _filled(result, values.__getitem__)

    def _compare(self, old: _Taken | None, new: _Taken) -> None:
        """Make a program if an earlier recording did the same; CaptureError if it should have and did not."""
        difference = _difference(old.recorder, new.recorder) if old is not None else ""
        self._taken = [taken for taken in self._taken[-3:] if taken is not old]
        if difference is None:
            self.programs.append(Replay(new))
            return
        self._taken.append(new)
        if old is not None and old.conditions.before is not None:
            raise CaptureError(
                f"{self._who}: two calls with like arguments did different things: {difference}; what changes from "
                "call to call must be an argument, or happen outside the step"
            )

    def __str__(self) -> str:
        programs = [f"program {i}: {replay.program.listing()}" for i, replay in enumerate(self.programs)]
        return "\n\n".join([f"{self._who}: {len(programs)} program(s)", *programs])


class Conditions:
    """What decides what a step does, besides the values in arrays, as it was when a recording was made."""

    def __init__(self, key: Any, recorder: Recorder, leaves: list[Tensor], before: tuple[bool, ...] | None):
        self.key, self.leaves, self.before = key, leaves, before
        self.tensors = list(recorder.tensors.values())
        self.modules = list(recorder.modules.values())

    def hold(self, key: Any) -> bool:
        """Tell whether all is as it was: the arguments, parameters, which have gradients, which layers train."""
        if key != self.key:
            return False
        for t, array, node in self.tensors:
            if t.array is not array or t.node is not node:
                return False
        for module, training in self.modules:
            if module.training is not training:
                return False
        return self.before is None or self.before == tuple([t._grad is not None for t in self.leaves])


class Replay:
    """A program, and the conditions under which it is the step."""

    def __init__(self, taken: _Taken):
        self.fits, self.result = taken.conditions.hold, taken.result
        self.continued = [value.leaf for value in taken.recorder.inputs if value.leaf is not None]
        self.program = Program(taken.recorder, taken.outputs, taken.grads)
        self.written = [r.array for e in taken.recorder.entries for r in e.writes if r.value.kind == "outside"]

    def inputs(self, given: list[np.ndarray]) -> list[np.ndarray]:
        """Return the inputs of the program for these arguments, copied to where it reads them if it must be."""
        inputs = given + [t._grad.array for t in self.continued if t._grad is not None]
        for x, place in zip(inputs, self.program.copied, strict=True):
            if place is not None and place is not x:
                np.copyto(place, x)
        return inputs

    def run(self, given: list[np.ndarray]) -> Any:
        """Replay the step for these arguments."""
        program, inputs = self.program, self.inputs(given)
        program.run(*inputs)
        for t, g in program.grads:
            t._grad = g
        if self.written:
            stamp_all(self.written)
        return _filled(self.result, lambda i: program.output(i, inputs))


def _filled(result: Any, value: Callable[[int], np.ndarray]) -> Any:
    """Return what a step returned, with arrays in their places."""

    def fill(x: Any) -> Any:
        if type(x) is not _Place:
            return x
        return value(x.number) if x.raw else wrap(value(x.number))

    return rebuild(result, fill)


def _difference(old: Recorder, new: Recorder) -> str | None:
    """Say in words where two recordings differ, or return None."""
    pairs: dict[Any, Any] = {}

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Ref) and isinstance(b, Ref):
            mine, other = a.value, b.value
            if mine.kind != other.kind or mine.leaf is not other.leaf or (a.offset, layout(a)) != (b.offset, layout(b)):
                return False
            return mine.owner is other.owner if mine.kind == "outside" else pairs.setdefault(mine, other) is other
        if type(a) is not type(b):
            return False
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        return a is b or (isinstance(a, (int, float, str, slice, np.dtype)) and repr(a) == repr(b))

    for i, (a, b) in enumerate(zip(old.entries, new.entries, strict=False)):
        if a.name != b.name:
            return f"call {i} was {a.name}, then {b.name}"
        parts = {"operand": (a.args, b.args), "setting": (a.keywords, b.keywords), "result": (a.results, b.results)}
        for what, (x, y) in parts.items():
            if not same(x, y):
                return f"call {i}, {a.name}, had another {what}: {_shown(x)}, then {_shown(y)}"
    if len(old.entries) != len(new.entries):
        return f"{len(old.entries)} calls, then {len(new.entries)}"
    return None


def _shown(tree: Any) -> str:
    def text(x: Any) -> Any:
        return f"<array {x.shape}, {x.value.kind}>" if isinstance(x, Ref) else x

    return str(rebuild(tree, text))
