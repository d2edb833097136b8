"""From a recording to a program: a flat list of kernels that write into memory set aside once.

What nothing needs is left out, what is computed twice is computed once, what never changes is computed now, and values
that are not needed at the same time share memory. Then the program is written as Python, a line a kernel, and compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..engine.tensor import Tensor, wrap
from .record import Entry, Recorder, Ref, Value, rebuild
from .traced import layout


def needed(entries: Sequence[Entry], wanted: Sequence[Ref]) -> list[Entry]:
    """Leave out calls whose results nobody reads."""
    used = {ref.value for ref in wanted}
    kept = []
    for entry in reversed(entries):
        own = [ref.value for ref in (*entry.results, *entry.writes)]
        effect = not entry.pure and not entry.writes  # a call back into Python, a check, a draw
        if effect or any(value in used or value.kind != "made" for value in own):
            kept.append(entry)
            used.update(ref.value for ref in (*entry.reads(), *entry.writes))
    return kept[::-1]


def once(entries: Sequence[Entry]) -> tuple[list[Entry], dict[Value, Value]]:
    """Leave out calls that repeat an earlier one; return the rest, and which value stands for which."""
    known: dict[Any, Entry] = {}
    same: dict[Value, Value] = {}
    kept = []

    def text(x: Any) -> str:
        if isinstance(x, Ref):
            return f"{id(same.get(x.value, x.value))} {x.offset} {x.shape} {x.strides} {x.dtype}"
        return repr(x) if isinstance(x, (int, float, str, slice, type(None))) else f"{id(x)}"

    for entry in entries:
        if _steady(entry) and not any(ref.value.written for ref in entry.operands()):
            layouts = [layout(ref) for ref in entry.results]
            key = (id(entry.function), repr(rebuild((entry.args, entry.keywords), text)), repr(layouts))
            first = known.setdefault(key, entry)
            if first is not entry:
                same |= {b.value: a.value for a, b in zip(first.results, entry.results, strict=True)}
                continue
        kept.append(entry)
    return kept, same


def _steady(entry: Entry) -> bool:
    """Tell whether a call does nothing but make values, and nothing writes into these later."""
    return entry.pure and not entry.writes and not any(ref.value.written for ref in entry.results)


class Plan:
    """Where the values of a program live. `bytes`: what all of them take; `unshared`: what they would take alone."""

    def __init__(self, entries: Sequence[Entry], same: dict[Value, Value], lasting: set[Value]):
        self.same = same
        self.memory: dict[Value, np.ndarray] = {}
        self.constant: set[Value] = set()
        for entry in entries:
            if _steady(entry) and entry.results and all(self.value(r) in self.constant for r in entry.operands()):
                self.constant.update(ref.value for ref in entry.results)
        self.bytes = self.unshared = 0
        last = {self.value(ref): i for i, e in enumerate(entries) for ref in (*e.reads(), *e.results, *e.writes)}
        free: dict[int, list[np.ndarray]] = {}
        for i, entry in enumerate(entries):
            ending = {self.value(ref): ref for ref in (*entry.reads(), *entry.results) if last[self.value(ref)] == i}
            ending = {v: r for v, r in ending.items() if v.kind == "made" and v not in lasting | self.constant}
            for ref in entry.results:
                over = self.overwritable(entry, ref, ending)
                pool = free.get(ref.value.owner.nbytes)
                self.unshared += ref.value.owner.nbytes
                if ref.value in lasting or ref.value in self.constant:
                    self.memory[ref.value] = self.new(ref.value.owner)
                elif over is not None:
                    self.memory[ref.value] = self.memory[over]
                    del ending[over]
                else:
                    self.memory[ref.value] = pool.pop() if pool else self.new(ref.value.owner, shared=True)
            for value in ending:
                free.setdefault(value.owner.nbytes, []).append(self.memory[value])

    def value(self, ref: Ref) -> Value:
        """Return the value that stands for an operand's."""
        return self.same.get(ref.value, ref.value)

    def new(self, like: np.ndarray, shared: bool = False) -> np.ndarray:
        """Set memory aside: an array of its own, or bytes to be shared, from the start of a cache line on."""
        self.bytes += like.nbytes
        if not shared:
            return np.empty_like(like, subok=False)
        room = np.empty(like.nbytes + 64, np.uint8)
        start = -room.__array_interface__["data"][0] % 64
        return room[start : start + like.nbytes]

    def overwritable(self, entry: Entry, result: Ref, ending: dict[Value, Ref]) -> Value | None:
        """Return an operand that an elementwise call may write its result over, being its last reader."""
        if not entry.name.startswith("ufunc.") or entry.name == "ufunc.matmul" or not result.whole:
            return None
        views: dict[Value, set[tuple[Any, ...]]] = {}
        for ref in entry.operands():
            views.setdefault(self.value(ref), set()).add(layout(ref))
        fits = {value for value, found in views.items() if found == {layout(result)}}
        return next((v for v, ref in ending.items() if v in fits and v in self.memory and ref.whole), None)

    def array(self, ref: Ref) -> np.ndarray:
        """Return the array that an operand is at a replay."""
        memory = self.memory.get(self.value(ref))
        if memory is None:
            return ref.array  # from outside the step
        if layout(memory) == layout(ref):
            return memory
        if not memory.size:
            return np.empty(ref.shape, ref.dtype)
        flat = memory.transpose(sorted(range(memory.ndim), key=lambda i: -memory.strides[i]))  # as it lies in memory
        return np.ndarray(ref.shape, ref.dtype, flat.data, ref.offset, ref.strides)


class Program:
    """A recorded step as straight-line code. `listing()` shows it; `run(*inputs)` replays it.

    `copied` has for each input the array it must be copied to first, or None where its use is direct.
    """

    def __init__(self, record: Recorder, outputs: Sequence[Ref], grads: Sequence[tuple[Tensor, Ref | None]]):
        kept = [g for _, g in grads if g is not None]
        entries, same = once(needed(record.entries, [*outputs, *kept]))
        kept += [g for entry in entries for _, g in entry.grads if g is not None]
        self.plan = Plan(entries, same, {same.get(ref.value, ref.value) for ref in (*outputs, *kept)})
        self.names: dict[str, Any] = {"copyto": np.copyto}
        self.lines: list[tuple[str, str]] = []  # Python, and what it makes
        self._known: dict[Any, str] = {}
        self.inputs = [f"x{i}" for i in range(len(record.inputs))]
        shown = [*((False, ref) for ref in outputs), *((True, ref) for ref in kept)]
        self._direct = {
            v: x for v, x in zip(record.inputs, self.inputs, strict=True) if self._is_direct(v, entries, shown)
        }
        self.plan.memory |= {v: self.plan.new(v.owner) for v in record.inputs if v not in self._direct}
        self.owned = {id(memory) for memory in self.plan.memory.values()}
        self.copied = [self.plan.memory.get(v) for v in record.inputs]
        for entry in entries:
            if entry.results and entry.results[0].value in self.plan.constant:
                self._run_now(entry)
            else:
                self._write(entry)
        self.grads = [(t, self.gradient(g)) for t, g in grads if self.moves(g)]
        body = [line for line, _ in self.lines] or ["pass"]
        self.source = "\n    ".join([f"def replay({', '.join(self.inputs)}):", *body])
        exec(compile(self.source, f"<{record.who}>", "exec"), self.names)
        self.run: Callable[..., None] = self.names["replay"]
        direct = [self._direct.get(self.plan.value(ref)) for ref in outputs]
        self._outputs = [
            self.inputs.index(x) if x else self.plan.array(r) for x, r in zip(direct, outputs, strict=True)
        ]
        for known in (self.plan.memory, self.plan.same, self.plan.constant, self._known, self._direct):
            known.clear()  # the arrays of the recording are no longer needed

    def _is_direct(self, value: Value, entries: Sequence[Entry], shown: Sequence[tuple[bool, Ref]]) -> bool:
        """Tell whether an input is used only as it is passed, or transposed, and is no gradient."""
        if any(ref.value is value and (g or not ref.whole) for g, ref in shown):
            return False
        used = [ref for e in entries for ref in (*e.reads(), *e.writes) if ref.value is value]
        return all(ref.whole and layout(ref) in (layout(value.owner), layout(value.owner.T)) for ref in used)

    def output(self, i: int, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return a copy of result i of a replay."""
        where = self._outputs[i]
        return (inputs[where] if isinstance(where, int) else where).copy()

    def moves(self, ref: Ref | None) -> bool:
        """Tell whether a replay gives a leaf this gradient, rather than leave it the one it has."""
        return ref is None or self.plan.value(ref) in self.plan.memory

    def gradient(self, ref: Ref | None) -> Tensor | None:
        """Return the tensor that a leaf's gradient is after a replay."""
        if ref is None:
            return None
        name = self._known.get(("gradient", self.plan.value(ref)))
        return self.names[name or self._name(wrap(self.plan.array(ref)), "g", ("gradient", self.plan.value(ref)))]

    # ---- one entry ---------------------------------------------------------------------------------------------------

    def _run_now(self, entry: Entry) -> None:
        given = rebuild((entry.args, entry.keywords), lambda x: self.plan.array(x) if isinstance(x, Ref) else x)
        found = entry.function(*given[0], **given[1])
        for ref, x in zip(entry.results, found if isinstance(found, (tuple, list)) else (found,), strict=True):
            self.plan.array(ref)[...] = x

    def _write(self, entry: Entry) -> None:
        """Write the line of a call, with `out` where it takes one, else with a copy to where the result lives."""
        number = self._number(entry)
        args = [self._text(x, number) for x in entry.args]
        keywords = [f"{k}={self._text(x, number)}" for k, x in entry.keywords.items()]
        results = [self._text(ref) for ref in entry.results]
        for t, g in entry.grads:
            if self.moves(g):
                name = "None" if g is None else self._name(self.gradient(g), "g", ("gradient", self.plan.value(g)))
                self.lines.append((f"{self._name(t, 't')}._grad = {name}", ""))
        targets = results or [self._text(ref) for ref in entry.writes]
        function = self._name(entry.function, entry.name.removeprefix("ufunc.").removeprefix("ndarray."))
        whole = entry.out and (len(targets) == 1 or bool(entry.writes))
        if whole and len(targets) > 1:
            keywords.append(f"out=({', '.join(targets)})")
        elif whole:
            keyword = function in ("maximum", "minimum") or not entry.name.startswith("ufunc.")  # NumPy deprecates it
            (keywords if keyword else args).append(f"out={targets[0]}" if keyword else targets[0])
        line = f"{function}({', '.join([*args, *keywords])})"
        if entry.name in ("empty", "zeros"):
            line = f"{results[0]}.fill(0)"
        elif results and not whole:
            line = f"copyto({results[0]}, {line})" if len(results) == 1 else f"{'[...], '.join(results)}[...] = {line}"
        note = ", ".join(f"{ref.shape} {ref.dtype}, {_size(ref.array.nbytes)}" for ref in entry.results)
        self.lines.append((line, note or ("in place" if entry.writes else "Python")))

    def _number(self, entry: Entry) -> np.dtype | None:
        """Return the dtype that Python numbers take beside the arrays of an elementwise call."""
        found = {ref.dtype for ref in entry.operands()}
        plain = entry.name.startswith("ufunc.") and entry.name not in ("ufunc.ldexp", "ufunc.float_power")
        single = next(iter(found)) if plain and len(found) == 1 else None
        return single if single is not None and single.kind == "f" else None

    def _text(self, x: Any, number: np.dtype | None = None) -> str:
        """Return an argument as Python."""
        if isinstance(x, Ref):
            value = self.plan.value(x)
            if value in self._direct:
                return self._direct[value] + ("" if layout(x) == layout(value.owner) else ".T")
            letter = {"made": "v", "input": "u", "outside": "p"}[value.kind]
            key = (id(self.plan.memory.get(value, value.owner)), x.offset, *layout(x))
            return self._name(self.plan.array(x), letter, key)
        if isinstance(x, (list, tuple)):
            inner = ", ".join(self._text(y, number) for y in x)
            return f"[{inner}]" if isinstance(x, list) else f"({inner}{',' * (len(x) == 1)})"
        if number is not None and type(x) in (int, float):  # NumPy would make it an array at each call
            return self._name(np.asarray(x, number), "c", (repr(x), number))
        plain = all(type(i) in (int, type(None)) for i in (x.start, x.stop, x.step)) if type(x) is slice else False
        if x is None or plain or type(x) in (bool, int, str) or (type(x) is float and np.isfinite(x)):
            return repr(x)
        return self._name(x, "k" if isinstance(x, np.ndarray) else type(x).__name__.lower())

    def _name(self, thing: Any, name: str, key: Any = None) -> str:
        """Return the name of an object in the program: a letter is numbered."""
        key = id(thing) if key is None else key
        if key not in self._known:
            name = re.sub(r"\W", "_", name.rpartition("<locals>.")[2]).lstrip("_") or "call"
            taken = sum(x.rstrip("0123456789") == name for x in self.names)
            self._known[key] = name = f"{name}{taken}" if len(name) == 1 or taken else name
            self.names[name] = thing
        return self._known[key]

    def timed(self, inputs: Sequence[np.ndarray], rounds: int) -> str:
        """Return the listing with the median time of each line over some replays."""
        codes = [compile(line, "<line>", "exec") for line, _ in self.lines]
        names = self.names | dict(zip(self.inputs, inputs, strict=True))
        times: list[list[float]] = [[] for _ in codes]
        for _ in range(rounds):
            for code, found in zip(codes, times, strict=True):
                start = perf_counter()
                exec(code, names)
                found.append(perf_counter() - start)
        each = [median(found) * 1e6 for found in times]
        return f"{self.listing([f'{x:8.1f} us' for x in each])}\n{sum(each):8.1f} us in all"

    def listing(self, before: Sequence[str] = ()) -> str:
        """Return a line for each kernel: what it runs, and the shape, dtype and size of what it makes."""
        width = min(60, max((len(line) for line, _ in self.lines), default=0)) + 2
        head = f"{len(self.lines)} lines, {_size(self.plan.bytes)} of memory ({_size(self.plan.unshared)} unshared)"
        text = [f"    {line:{width}}# {note}" if note else f"    {line}" for line, note in self.lines]
        return "\n".join([head, *map("".join, zip(before or [""] * len(text), text, strict=True))])


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} GiB"
