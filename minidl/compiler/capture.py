"""Capture: record a training step twice, then replay it as a flat list of kernels without the engine.

Everything that decides what the step does, other than the values in arrays, must be the same at a replay: the shapes
and dtypes of the arguments, the arrays of the parameters, which of them have gradients, which layers train. A call for
which something differs is recorded anew, and has a program of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np

from .._frozen import is_frozen
from ..engine.backend import get_default_dtype
from ..engine.node import mode, stamp_all
from ..engine.tensor import TENSORS, Tensor, wrap
from .record import GRAD, Recorder, Ref, rebuild
from .replay import Program
from .traced import SLOT, CaptureError, Traced, active, layout, lowered, owner_of

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
    copies, without a graph. A gradient that it leaves in `.grad` lies in the program's memory, which the next replay
    writes over: copy() one to be kept. NumPy calls on arrays taken out of tensors (`t.data`) take part as far as an
    array of the step is among their operands.

    CaptureError for what cannot be replayed: reading a value (`item`, `if loss > 1`), an array whose shape depends on
    values (`x[x > 0]`), an array made anew outside the arguments.

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
        self._modules: list[Any] = []  # that took part in the last recording
        self._differed = False  # whether the last two recordings did

    @property
    def _who(self) -> str:
        return f"capture({getattr(self.step, '__name__', type(self.step).__name__)})"

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        raise CaptureError(f"{self._who}: decorates a function, not a method; write self.step = md.capture(self.step)")

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
        return (self._token(tree, arrays), mode.record, get_default_dtype(), is_frozen())

    def _token(self, x: Any, arrays: list[np.ndarray]) -> Any:
        if type(x) is dict:
            return (dict, tuple(x), tuple([self._token(y, arrays) for y in x.values()]))
        if type(x) in (list, tuple):
            return (type(x), tuple([self._token(y, arrays) for y in x]))
        array = x.array if type(x) in TENSORS else x
        if not isinstance(array, np.ndarray):
            if type(array).__module__.startswith("cupy"):
                raise CaptureError(f"{self._who}: captures steps on the CPU only; call the step itself on a GPU")
            if not isinstance(x, (bool, int, float, str, np.generic, np.dtype, type(None))):
                raise CaptureError(
                    f"{self._who}: an argument is a {type(x).__name__}, which may change unseen; pass tensors, arrays, "
                    "numbers, texts and lists, tuples and dictionaries of them"
                )
            return (type(x), repr(x))  # -0.0 is not 0.0, and NaN is NaN
        if type(x) in TENSORS and x.node is not None:
            raise CaptureError(
                f"{self._who}: an argument requires a gradient (shape {x.shape}); only tensors from outside, such as "
                "parameters, may; pass x.detach()"
            )
        arrays.append(array)
        return (type(x), array.shape, array.strides, array.dtype)

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
        attributes = {id(m): (m, dict(vars(m))) for m in self._modules}
        own = [x.copy("K") for x in given]  # two arguments, or an argument and a parameter, may be one array
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

        passed = rebuild((args, kwargs), traced)
        with recorder:
            try:
                result = rebuild(self.step(*passed[0], **passed[1]), noted)
            finally:
                grads = recorder.gradients([t for t, _, _ in recorder.first.values()])
                for t, _, _ in recorder.first.values():  # what outlives the recording has plain arrays, and no graph
                    g = GRAD.__get__(t)
                    if g is not None and type(SLOT.__get__(g)) is Traced:
                        GRAD.__set__(t, wrap(lowered(SLOT.__get__(g))))
        if any(x.node is not None for x in _tensors(passed)):
            raise CaptureError(f"{self._who}: an argument was made to require a gradient in the step; do it outside")
        for x, value in zip([*given, *recorder.outside], recorder.inputs, strict=True):
            if value.written:
                np.copyto(x, value.owner)
        values = [ref.array.copy() for ref in outputs]
        self._modules = [module for module, _ in recorder.modules.values()]
        conditions = Conditions(key, recorder, attributes)
        self._compare(old, _Taken(recorder, conditions, result, outputs, grads))
        return _filled(result, values.__getitem__)

    def _compare(self, old: _Taken | None, new: _Taken) -> None:
        """Make a program if an earlier recording did the same; CaptureError if it should have and did not."""
        difference = _difference(old, new) if old is not None else ""
        self._taken = [taken for taken in self._taken[-3:] if taken is not old]
        if difference is None:
            self.programs.append(Replay(new))
            return
        self._taken.append(new)
        again, self._differed = self._differed, bool(difference)
        if difference and again:  # once may be what is made at the first call and kept
            raise CaptureError(
                f"{self._who}: two calls with like arguments did different things: {difference}; what changes from "
                "call to call must be an argument, or happen outside the step"
            )

    def __str__(self) -> str:
        programs = [f"program {i}: {replay.program.listing()}" for i, replay in enumerate(self.programs)]
        return "\n\n".join([f"{self._who}: {len(programs)} program(s)", *programs])


class Conditions:
    """What decides what a step does, besides the values in arrays, as it was when a recording was made."""

    def __init__(self, key: Any, recorder: Recorder, attributes: dict[int, tuple[Any, dict[str, Any]]]):
        self.key = key
        self.before = [(t, had) for t, had, read in recorder.first.values() if read]
        self.tensors = [(*found, _hooks(found[2])) for found in recorder.tensors.values()]
        self.modules = [attributes.get(i, found) for i, found in recorder.modules.items()]

    def hold(self, key: Any) -> bool:
        """Tell whether all is as it was: the arguments, parameters, which have gradients, which layers train."""
        if key != self.key:
            return False
        for t, array, node, hooks in self.tensors:
            if t.array is not array or t.node is not node or (node is not None and _hooks(node) != hooks):
                return False
        try:
            for module, attributes in self.modules:
                if vars(module) != attributes:
                    return False
        except (TypeError, ValueError):  # of another tensor or array, which has no single truth value
            return False
        return all([(t._grad is not None) is had for t, had in self.before])


def _hooks(node: Any) -> int:
    return len(node.hooks or ()) if node is not None else 0


def _tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and dictionaries."""
    found: list[Tensor] = []
    rebuild(tree, lambda x: found.append(x) if type(x) in TENSORS else None)
    return found


class Replay:
    """A program, and the conditions under which it is the step."""

    def __init__(self, taken: _Taken):
        self.fits, self.result = taken.conditions.hold, taken.result
        self.lock = threading.Lock()
        self.continued = [value.leaf for value in taken.recorder.inputs if value.leaf is not None]
        self.changed = [bool(value.written) for value in taken.recorder.inputs]
        self.program = Program(taken.recorder, taken.outputs, taken.grads)
        self.written = [r.array for e in taken.recorder.entries for r in e.writes if r.value.kind == "outside"]

    def inputs(self, given: list[np.ndarray]) -> list[np.ndarray]:
        """Return the inputs of the program for these arguments, copied to where it reads them if it must be."""
        inputs = given + [t._grad.array for t in self.continued if t._grad is not None]
        for i, place in enumerate(self.program.copied):
            if place is not None and place is not inputs[i]:
                np.copyto(place, inputs[i])
            elif id(inputs[i] if inputs[i].base is None else owner_of(inputs[i])) in self.program.owned:
                inputs[i] = inputs[i].copy()  # a gradient of the last replay, whose memory this one writes
        return inputs

    def run(self, given: list[np.ndarray]) -> Any:
        """Replay the step for these arguments."""
        program = self.program
        with self.lock:
            targets = given + [t._grad.array for t in self.continued if t._grad is not None]
            inputs = self.inputs(given)
            program.run(*inputs)
            for x, target, place, changed in zip(inputs, targets, program.copied, self.changed, strict=True):
                if changed and (place is not None or x is not target):
                    np.copyto(target, x if place is None else place)
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


def _difference(old_taken: _Taken, new_taken: _Taken) -> str | None:
    """Say in words where two recordings differ, or return None."""
    old, new = old_taken.recorder, new_taken.recorder
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
        return a is b or (isinstance(a, (int, float, str, slice, np.dtype, np.generic)) and repr(a) == repr(b))

    for i, (a, b) in enumerate(zip(old.entries, new.entries, strict=False)):
        if a.name != b.name:
            return f"call {i} was {a.name}, then {b.name}"
        parts = {"operand": (a.args, b.args), "setting": (a.keywords, b.keywords), "result": (a.results, b.results)}
        for what, (x, y) in parts.items():
            if not same(x, y):
                return f"call {i}, {a.name}, had another {what}: {_shown(x)}, then {_shown(y)}"
    if len(old.entries) != len(new.entries):
        return f"{len(old.entries)} calls, then {len(new.entries)}"
    for what in ("result", "outputs", "grads"):
        if not same(getattr(old_taken, what), getattr(new_taken, what)):
            return "another result" if what != "grads" else "other gradients in the end"
    return None


def _shown(tree: Any) -> str:
    def text(x: Any) -> Any:
        return f"<array {x.shape}, {x.value.kind}>" if isinstance(x, Ref) else x

    return str(rebuild(tree, text))
