"""Cohort and Segment: parameters that are updated together, and their slots.

Parameters and gradients stay in arrays of their own; only the slots are flat, one array for each slot. A large
parameter is updated in blocks, which are views of it. Small parameters are packed: gathered into one block, updated,
copied back, because calling a kernel for each would cost more than its arithmetic. Slots lie in the order of the
parameter's memory, so a transposed parameter (a Linear weight) is as quick as any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from ..compiler.fuse import Program
from ..compiler.loop import available
from ..engine.backend import Array, device_of, is_array, on_device
from ..engine.tensor import Tensor

# Measured for Adam in float32 (AMD EPYC, 1 MiB of L2 a core), 109,386 | 1,000,000 parameters, in us: blocks of 32 KiB
# 194 | 2,336, of 64 168 | 1,997, of 128 152 | 1,812, of 256 145 | 1,819, of 512 151 | 1,754.
BLOCK_BYTES = 256 * 1024
# A parameter of at most so many bytes for each operation of the program is packed: packing costs three copies, a block
# of its own a call an operation. Measured break-even: 32 KiB for the 12 operations of Adam, 8 KiB for the 2 of SGD.
PACK_BYTES = 2816


class Cohort:
    """Parameters of one group, of one dtype and device, that have always moved together: t steps so far.

    `numbers` are what they carry from step to step beside their slots; few optimizers have any.
    """

    def __init__(
        self, names: Sequence[str], tensors: Sequence[Tensor], t: int = 0, numbers: Mapping[str, float] | None = None
    ):
        self.names = list(names)
        self.tensors = list(tensors)
        self.t = t
        self.numbers = dict(numbers or {})
        self.arrays = [p.array for p in tensors]
        self._own = {id(x) for x in self.arrays}
        self.store: Segment | Separate | None = None  # made at the first step: before it there is no state

    def gradients(self) -> list[Array] | None:
        """Return the gradients; [] if there are none; None if only some move now, or if an array was rebound."""
        found = []
        for p, array in zip(self.tensors, self.arrays, strict=True):
            grad = p.grad
            if grad is None or p.array is not array:
                break
            raw = grad.array
            # A gradient that is a parameter (p.grad = q.detach()), or a view of one, would change while it is read.
            found.append(raw.copy() if raw.base is not None or id(raw) in self._own else raw)
        else:
            return found
        return [] if all(p.grad is None for p in self.tensors) else None

    def state(self) -> list[dict[str, Array]]:
        """Return the slots of each parameter by name, shared, with its shape; empty before its first step."""
        if self.store is None or not self.t:
            return [{} for _ in self.names]
        columns = {slot: self.store.slot(slot) for slot in self.store.slots}
        return [{slot: column[i] for slot, column in columns.items()} for i in range(len(self.names))]


class Pack(NamedTuple):
    """Small parameters that share a block."""

    members: list[int]  # which parameters
    views: list[Array]  # their arrays, in memory order
    theta: Array  # where they are gathered
    gradient: Array  # where their gradients are gathered
    pieces: list[Array]  # views of theta shaped like the arrays, to copy back
    block: tuple[Any, ...]


class Plan(NamedTuple):
    """How a segment runs one program."""

    packs: list[Pack]
    large: list[tuple[int, list[slice]]]  # which parameter, cut where
    columns: list[Sequence[Any]]  # of the blocks of the large parameters; the gradients go in at position 1
    looped: bool = False  # by a compiled loop, not by NumPy calls


class Segment:
    """Parameters `arrays`, and for each name in `slots` a state array for each of them, given by its first value."""

    def __init__(self, arrays: Sequence[Array], slots: Mapping[str, Sequence[Any]]):
        self.arrays = list(arrays)
        check_apart(self.arrays)
        self.xp, self.device = on_device(device_of(arrays[0]))
        self.dtype = arrays[0].dtype
        self.orders = [memory_order(x) for x in arrays]
        host = self.xp is np
        self.block = BLOCK_BYTES // self.dtype.itemsize if host else max(1, *(x.size for x in arrays))
        # Small ones first, so that the slots of a pack lie side by side; before them those with gaps, which are packed
        # too, whatever their size, because they have no flat view.
        self.sequence = sorted(range(len(arrays)), key=lambda i: (self.orders[i] is not None, arrays[i].size))
        self.offsets = [0] * len(arrays)
        self.total = 0
        for i in self.sequence:
            self.offsets[i] = self.total
            self.total += arrays[i].size
        self.slots = tuple(slots)
        self.flats = {name: self._new() for name in slots}
        with self.device:
            for name, values in slots.items():
                for view, value in zip(self.slot(name), values, strict=True):
                    view[...] = value
        self._plan: tuple[Program, Plan] | None = None

    def _new(self, length: int | None = None, dtype: Any = None) -> Array:
        """Make a flat array of zeros on this segment's device."""
        with self.device:
            return self.xp.zeros(self.total if length is None else length, dtype or self.dtype)

    def slot(self, name: str) -> list[Array]:
        """Return for each parameter a view of its part of a slot, with the parameter's shape."""
        views = []
        for array, order, offset in zip(self.arrays, self.orders, self.offsets, strict=True):
            part = self.flats[name][offset : offset + array.size]
            axes = order or tuple(range(array.ndim))
            back = tuple(axes.index(i) for i in range(array.ndim))
            views.append(part.reshape([array.shape[i] for i in axes]).transpose(back))
        return views

    def start(self, program: Program, gradients: Sequence[Array], scalars: Mapping[str, Any]) -> Any:
        """Run a program over all parameters; of one that needs totals, return the generator, not yet begun."""
        if self._plan is None or self._plan[0] is not program:
            self._plan = (program, self._make_plan(program))
        blocks = partial(self._blocks, self._plan[1], gradients)
        extra = {"zeros": partial(self._new, len(self.arrays), np.float64)} if program.measures else {}
        numbers = [scalars[name] for name in program.numbers]
        with self.device:
            if self._plan[1].looped:
                return program.function(self.xp, looped=True)(blocks, self._rounded, *numbers)
            return program.function(self.xp)(blocks, self._typed, *numbers, **extra)

    def _rounded(self, *numbers: Any) -> list[Any]:
        """Round numbers to scalars of the arrays' dtype, which is what a compiled loop takes."""
        return [self.dtype.type(x) for x in numbers]

    def _typed(self, *numbers: Any) -> list[Any]:
        """Round numbers to the dtype of the arrays. 0-d arrays are what NumPy's ufuncs take fastest."""
        if self.xp is np:
            return [np.asarray(x, self.dtype) for x in numbers]
        return [x.astype(self.dtype) if isinstance(x, self.xp.ndarray) else self.dtype.type(x) for x in numbers]

    def _blocks(self, plan: Plan, gradients: Sequence[Array]) -> Iterator[tuple[Any, ...]]:
        """Yield each block as a program takes it. A pack is copied back when the next block is asked for."""
        join = self.xp.concatenate
        orders = self.orders
        for members, views, theta, gradient, pieces, block in plan.packs:
            join(views, None, theta)
            join([gradients[i].transpose(orders[i]) if orders[i] else gradients[i] for i in members], None, gradient)
            yield block
            for view, piece in zip(views, pieces, strict=True):
                view[...] = piece
        flat = []
        for i, cuts in plan.large:
            whole = (gradients[i].transpose(orders[i]) if orders[i] else gradients[i]).reshape(-1)
            flat += [whole[cut] for cut in cuts]
        first, *rest = plan.columns
        yield from zip(first, flat, *rest, strict=True)

    # ---- plans ---------------------------------------------------------------------------------------------------

    def _make_plan(self, program: Program) -> Plan:
        """Cut the large parameters into blocks and join the small ones into packs."""
        runs, large = self._runs(0 if program.measures else PACK_BYTES * program.operations // self.dtype.itemsize)
        packed = max((sum(self.arrays[i].size for i in run) for run in runs), default=0)
        longest = max((cut.stop - cut.start for _, cuts in large for cut in cuts), default=0)
        longest = max(longest, packed)
        places = program.places
        flats = [self.flats[name] for name in program.arrays[2:]]
        flats += [self._new() for _ in places.spills] + [self._new(dtype=np.bool_) for _ in places.mask_spills]
        scratch = [self._new(longest) for _ in places.scratch] + [self._new(longest, np.bool_) for _ in places.masks]
        theta, gradient = self._new(packed), self._new(packed)

        def row(member: int, array: Array, start: int, length: int) -> tuple[Any, ...]:
            """Return a block without its gradient; start is where it lies in the flat arrays."""
            parts = [x[start : start + length] for x in flats] + [x[:length] for x in scratch]
            return (array, *parts, *([member] if program.measures else []))

        packs = []
        for run in runs:
            views = [self._ordered(i) for i in run]
            ends = np.cumsum([view.size for view in views]).tolist()
            pieces = [theta[end - view.size : end].reshape(view.shape) for view, end in zip(views, ends, strict=True)]
            first, *rest = row(run[0], theta[: ends[-1]], self.offsets[run[0]], ends[-1])
            packs.append(Pack(run, views, first, gradient[: ends[-1]], pieces, (first, gradient[: ends[-1]], *rest)))
        rows = []
        for i, cuts in large:
            whole = self._ordered(i).reshape(-1)
            rows += [row(i, whole[cut], self.offsets[i] + cut.start, cut.stop - cut.start) for cut in cuts]
        width = len(program.columns) - 1
        looped = self.xp is np and program.loop is not None and available(self.total)
        return Plan(packs, large, [*zip(*rows, strict=True)] if rows else [()] * width, looped)

    def _runs(self, limit: int) -> tuple[list[list[int]], list[tuple[int, list[slice]]]]:
        """Return the parameters to pack together, those of at most `limit` elements, and the others with their cuts.

        With a limit of 0 each parameter has blocks of its own, which a program that measures parameters needs.
        """
        runs: list[list[int]] = []
        large, room = [], 0
        for i in self.sequence:
            size = self.arrays[i].size
            if not size:
                continue
            if size <= limit or self.orders[i] is None:
                if size > room or not limit:
                    runs.append([])
                    room = self.block
                runs[-1].append(i)
                room -= size
            else:
                count = -(-size // self.block)
                length = -(-size // count // 16) * 16  # starts on a cache line, as SIMD likes it
                large.append((i, [slice(a, min(a + length, size)) for a in range(0, size, length)]))
        return runs, large

    def _ordered(self, i: int) -> Array:
        """Return a parameter with its axes in memory order, flattened where that is a view."""
        order = self.orders[i]
        if order is None:
            return self.arrays[i]
        view = self.arrays[i].transpose(order) if order else self.arrays[i]
        return view.reshape(-1)


class Separate:
    """Parameters that are updated one at a time by a method that is not elementwise; slots may have any shape."""

    def __init__(self, arrays: Sequence[Array], slots: Mapping[str, Sequence[Any]]):
        self.arrays = list(arrays)
        check_apart(self.arrays)
        self.xp, self.device = on_device(device_of(arrays[0]))
        self.slots = tuple(slots)
        self._values = {}
        for name, values in slots.items():
            self._values[name] = [self._array(x, theta) for x, theta in zip(values, arrays, strict=True)]

    def _array(self, value: Any, theta: Array) -> Array:
        with self.device:
            if is_array(value):
                return self.xp.array(value, theta.dtype)
            return self.xp.full(theta.shape, value, theta.dtype)

    def slot(self, name: str) -> list[Array]:
        """Return a slot of each parameter."""
        return self._values[name]

    def start(self, update: Callable[..., Any], gradients: Sequence[Array], scalars: Mapping[str, Any]) -> None:
        """Run `update(xp, theta, g, *slots, **scalars)` for each parameter; what it returns replaces the old values."""
        with self.device:
            for i, (theta, g) in enumerate(zip(self.arrays, gradients, strict=True)):
                old = [theta, *(self._values[name][i] for name in self.slots)]
                new = update(self.xp, theta, g, *old[1:], **scalars)
                # All results are there before the first is written: they may be views of the old values.
                new = [x.copy() for x in (new if isinstance(new, tuple) else (new,))]
                expected, got = [x.shape for x in old], [x.shape for x in new]
                if got != expected:
                    raise ValueError(f"update_tensor: must return arrays of the shapes {expected}, got {got}")
                for target, value in zip(old, new, strict=True):
                    target[...] = value


def run_together(runs: Sequence[tuple[Segment | Separate, Any]]) -> None:
    """Finish what `start` of each store has returned: kernels that need totals go on pass by pass, with the totals."""
    waiting = [(store, run) for store, run in runs if run is not None]
    answers: list[Any] = [None] * len(waiting)
    while waiting:
        vectors = []
        for (store, run), answer in zip(waiting, answers, strict=True):
            with store.device, suppress(StopIteration):
                vectors.append(run.send(answer))
        if not vectors:
            return
        if len(vectors) < len(waiting):
            raise RuntimeError("total_dot: the formula must take as many totals for each group, whatever its settings")
        total = sum(vector.sum() for vector in vectors)
        for vector in vectors:
            vector[...] = total
        answers = vectors


def memory_order(x: Array) -> tuple[int, ...] | None:
    """Return the axes that make x C-contiguous: () if it is, a permutation if one does it, None if there are gaps.

    >>> memory_order(np.zeros((2, 3))), memory_order(np.zeros((2, 3)).T), memory_order(np.zeros((2, 6))[:, ::2])
    ((), (1, 0), None)
    """
    if x.flags.c_contiguous:
        return ()
    axes = tuple(sorted(range(x.ndim), key=lambda i: -x.strides[i]))
    return axes if x.transpose(axes).flags.c_contiguous else None


def check_apart(arrays: Sequence[Array]) -> None:
    """Raise ValueError if two parameters share memory: one of two updates would be lost."""
    hosts = [x for x in arrays if type(x) is np.ndarray and x.size]
    spans = sorted((*byte_bounds(x), i) for i, x in enumerate(hosts))
    for (_, end, i), (start, _, k) in pairwise(spans):
        if start < end and np.shares_memory(hosts[i], hosts[k]):
            raise ValueError(
                f"optimizer: two parameters of shapes {hosts[i].shape} and {hosts[k].shape} share memory; copy one"
            )
