"""An elementwise formula, written for whole arrays, made into one kernel that runs block by block.

`fuse(formula, ...)` reads a formula such as Adam's `update` once (see `minidl.compiler.formula`), finds for every
intermediate value a place to live, and writes a Python function of NumPy calls with `out=`. `print(program)` shows it.
Run over blocks that fit in the cache, it needs a few scratch buffers of one block where the formula as written makes a
temporary as large as the parameters for every operator. The result is bitwise that of the formula as written.

Three rules make the kernel right:

- Arithmetic between numbers (`1 - b1`) is done once a step, on the host in float64, and rounded once to the arrays'
  dtype.
- The new value of a state array is written over the old one only after the old one has been read for the last time.
- A value that measures a whole parameter (`segment_norm`) ends a pass over the arrays; what a later pass still needs is
  kept in an array of full size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .formula import FUNCTIONS, INFIX, MEASURES, Functions, Trace, Value
from .loop import compiled, loop_source

KEYWORD_OUT = ("maximum", "minimum")  # NumPy 2.4 deprecates their third positional argument
ARRAYS = ("array", "mask")


def fuse(
    formula: Callable[..., Any],
    arrays: Sequence[str],
    numbers: Sequence[str] = (),
    writes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Program:
    """Make a kernel of `formula(xp, *arrays, **numbers, **settings)`, which returns the new values of `writes`.

    arrays     names of the array arguments, in order; all have one shape
    numbers    names of keyword arguments that may differ at each step; no Python `if` on them
    writes     the arrays among `arrays` that the returned values replace, in the order returned
    settings   keyword arguments with a fixed value (bool, str, None): the formula may branch on them

    TypeError, ValueError or AttributeError, naming the formula, where it does something that is not elementwise.

    >>> def decay(xp, x, v, *, rate):
    ...     v = rate * v + (1 - rate) * x * x
    ...     return x / xp.sqrt(v), v
    >>> print(fuse(decay, ["x", "v"], ["rate"], writes=["x", "v"]))
    def decay(blocks, typed, rate):
        # numbers: once a step, in float64, then rounded once to the arrays' dtype
        c0 = 1 - rate
        rate, c0 = typed(rate, c0)
        # arrays: block by block; scratch: r0
        for x, v, r0 in blocks():
            multiply(rate, v, v)    # v = rate * v
            multiply(c0, x, r0)     # r0 = c0 * x
            multiply(r0, x, r0)     # r0 = r0 * x
            add(v, r0, v)           # v = v + r0
            sqrt(v, r0)             # r0 = sqrt(v)
            divide(x, r0, x)        # x = x / r0
    """
    who = name or getattr(formula, "__qualname__", "formula").rpartition(">.")[2]
    trace = Trace(who)
    given = [trace.input(x, "array") for x in arrays]
    keywords = {x: trace.input(x, "number") for x in numbers}
    returned = formula(Functions(trace), *given, **keywords, **(settings or {}))
    returned = returned if isinstance(returned, tuple) else (returned,)
    if len(returned) != len(writes):
        raise ValueError(f"{who}: must return {len(writes)} value(s), the new {', '.join(writes)}; got {len(returned)}")
    old = {value.name: value for value in trace.inputs if value.kind == "array"}
    new: dict[str, Value] = {}
    for state, result in zip(writes, returned, strict=True):
        value = trace.value(result)
        if value.kind == "mask":
            raise TypeError(f"{who}: the new {state} is a condition; use xp.where(condition, 1.0, 0.0)")
        if value is old[state]:
            continue
        if value.op in ("input", "literal") or value.kind != "array" or value in new.values():
            value = Value("copy", (value,), "array", value.stage)
            trace.code.append(value)
        new[state] = value
    return Program(re.sub(r"\W", "_", who), arrays, numbers, _live(trace.code, new.values()), old, new)


def _live(code: list[Value], results: Iterable[Value]) -> list[Value]:
    """Return the values that the results need, pass by pass, each pass headed by what is measured before it."""
    needed: set[Value] = set()
    pending = list(results)
    while pending:
        value = pending.pop()
        if value not in needed:
            needed.add(value)
            pending.extend(value.inputs)
    return sorted((x for x in code if x in needed), key=lambda x: (x.stage, x.kind != "measure"))


class Places(NamedTuple):
    """Where the array values of a program live."""

    home: dict[Value, str]  # value -> the array or buffer that holds it
    scratch: list[str]  # buffers of one block, for values that live within a pass
    masks: list[str]  # the same for truth values
    spills: list[str]  # arrays of full size, for values that a later pass reads
    mask_spills: list[str]  # the same for truth values


def place(code: list[Value], old: Mapping[str, Value], new: Mapping[str, Value]) -> Places:
    """Give every array value of `code` a place, reusing places whose value has been read for the last time.

    `old` and `new` are the values of the named arrays before and after. An array in `new` may hold intermediate values
    between the last reading of its old value and the writing of its new one; the others are never written.
    """
    end = len(code)
    last = {value: -1 if name in new else end for name, value in old.items()}  # the index of the last reading
    last |= {x: max(i, last.get(x, i)) for i, value in enumerate(code) for x in value.inputs}
    last |= {value: end for value in new.values()}
    due = {name: code.index(value) for name, value in new.items()}
    target = {value: name for name, value in new.items()}
    crossing = {x for value in code for x in value.inputs if x.stage < value.stage and value.op not in MEASURES}
    crossing |= {value for value in new.values() if value.stage < code[-1].stage}
    places = Places({value: name for name, value in old.items()}, [], [], [], [])
    pools = {("array", False): places.scratch, ("mask", False): places.masks}
    pools |= {("array", True): places.spills, ("mask", True): places.mask_spills}
    letters = {("array", False): "r", ("mask", False): "k", ("array", True): "u", ("mask", True): "h"}
    tenant = dict(old)  # place -> the value in it now

    for i, value in enumerate(code):
        if value.kind not in ARRAYS:
            continue
        need = (value.kind, value in crossing)
        pool = pools[need]
        # An array must be free again when its own new value is due.
        states = [name for name in due if last[value] <= due[name] and value.kind == "array"]
        # where(c, x, y) is written as y first, then x over it where c holds: y must not overwrite x.
        keep = value.inputs[1] if value.op == "where" else None
        dying = [places.home[x] for x in value.inputs if x in places.home and last[x] == i]
        wanted = [target.get(value), *(p for p in dying if p in states or p in pool), *states, *pool]
        free = (p for p in wanted if p and (p not in tenant or (last[tenant[p]] <= i and tenant[p] is not keep)))
        home = next(free, None)
        if home is None:
            home = _fresh(letters[need], old, pool)
            pool.append(home)
        places.home[value] = home
        tenant[home] = value
    return places


def _fresh(letter: str, *taken: Iterable[str]) -> str:
    """Return the first of r0, r1, ... that is not taken."""
    used = {name for names in taken for name in names}
    return next(name for i in range(len(used) + 1) if (name := f"{letter}{i}") not in used)


class Program:
    """A formula as a straight-line kernel. `print(program)` shows its Python source, `f(blocks, typed, *numbers)`.

    `blocks()` yields for each block a tuple of `columns`: views of the arrays and spills, the scratch buffers cut to
    the same length and, in a kernel that measures, `n` (`part`), the number of the parameter that the block belongs to.
    `typed(*x)` returns its arguments rounded to the arrays' dtype. A kernel that measures is also given `zeros()`,
    which makes a vector with an element for each parameter; one that needs totals is a generator, which yields such a
    vector and is sent it summed over all parameters.
    """

    def __init__(
        self,
        name: str,
        arrays: Sequence[str],
        numbers: Sequence[str],
        code: list[Value],
        old: Mapping[str, Value],
        new: Mapping[str, Value],
    ):
        self.name = name
        self.arrays = tuple(arrays)
        self.numbers = tuple(numbers)
        self.places = place(code, old, new)
        self.operations = sum(value.kind in ARRAYS for value in code)
        self.measures = any(value.op in MEASURES for value in code)
        _, scratch, masks, spills, mask_spills = self.places
        names = {*self.arrays, *self.numbers}
        self.part = _fresh("n", names) if "n" in names else "n"
        self.columns = (*self.arrays, *spills, *mask_spills, *scratch, *masks, *[self.part] * self.measures)
        writer = _Writer(self, code, new)
        self.source = writer.source()
        self.loop = None if self.measures else loop_source(code, self.arrays, writer.typed_numbers, dict(new))
        self.loop_numbers = tuple(writer.typed_numbers.values())
        self._functions: dict[Any, Callable[..., Any]] = {}

    def __str__(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"<Program {self.name}({', '.join(self.arrays)}): {self.operations} operations a block>"

    def function(self, xp: Any, looped: bool = False) -> Callable[..., Any]:
        """Return the kernel bound to an array module; `looped`: with the compiled loop in place of the NumPy calls."""
        if looped and "loop" not in self._functions:
            head = self.source[: self.source.index("    # arrays: block by block")]
            call = f"        loop({', '.join([*self.arrays, *self.loop_numbers])})"
            text = f"{head}    for {', '.join(self.columns)} in blocks():\n{call}\n"
            names: dict[str, Any] = {"loop": compiled(self.loop or ""), "np": np, "inf": np.inf, "nan": np.nan}
            exec(compile(text, f"<looped {self.name}>", "exec"), names)
            self._functions["loop"] = names[self.name]
        if looped:
            return self._functions["loop"]
        if xp not in self._functions:
            names = {op: getattr(xp, op) for op in (*FUNCTIONS, "copyto")}
            names |= {"xp": xp, "np": np, "inf": np.inf, "nan": np.nan}
            exec(compile(self.source, f"<fused {self.name}>", "exec"), names)
            self._functions[xp] = names[self.name]
        return self._functions[xp]


class _Writer:
    """Writes the source of a program."""

    def __init__(self, program: Program, code: list[Value], new: Mapping[str, Value]):
        self.program = program
        self.code = code
        self.new = new
        self.home = program.places.home
        self.variables: dict[Value, str] = {}  # numbers and measures -> their names in the source
        self.typed_numbers: dict[Value, str] = {}  # those that meet arrays
        self.lines: list[str] = []

    def source(self) -> str:
        p = self.program
        self.lines = [f"def {p.name}({', '.join(['blocks', 'typed', *p.numbers, *['zeros'] * p.measures])}):"]
        self._numbers()
        passes = max((value.stage + 1 for value in self.code if value.kind in ARRAYS), default=0)
        for stage in range(passes):
            self._measures(stage)
            self._pass(stage, last=stage == passes - 1)
        return "\n".join(self.lines + ["    pass"] * (not passes))

    def _numbers(self) -> None:
        """Write the arithmetic between numbers, and the rounding of those that meet arrays."""
        meetings = ((x, value.kind) for value in self.code if value.kind != "number" for x in value.inputs)
        met = {x: None for x, kind in meetings if x.kind == "number" and (kind != "measure" or x.op != "literal")}
        lines = []
        for value in [*(value for value in self.code if value.kind == "number"), *met]:
            if value.op == "input":
                self.variables[value] = value.name
            elif value not in self.variables:
                lines.append(f"    {self._variable(value, 'c')} = {self._expression(value, 'np.')}")
        if met:
            self.lines.append("    # numbers: once a step, in float64, then rounded once to the arrays' dtype")
            self.lines += [*lines, self._typed(met)]
            self.typed_numbers = {value: self.variables[value] for value in met}

    def _measures(self, stage: int) -> None:
        """Write what is computed between two passes: arithmetic on the numbers measured for each parameter."""
        values = [value for value in self.code if value.kind == "measure" and value.stage == stage]
        for value in values:
            if value.op == "total_dot":
                self.lines.append(f"    {self.variables[value]} = yield {self.variables[value]}")
            elif value.op not in MEASURES:
                self.lines.append(f"    {self._variable(value, 'q')} = {self._expression(value, 'xp.')}")
        met = {x for value in self.code if value.kind in ARRAYS for x in value.inputs}
        if met.intersection(values):
            self.lines.append(self._typed(value for value in values if value in met))

    def _pass(self, stage: int, last: bool) -> None:
        """Write one loop over the blocks."""
        body = [self._statement(value) for value in self.code if value.kind in ARRAYS and value.stage == stage]
        for value in self.code:
            if value.op in MEASURES and value.stage == stage + 1:
                a, b = (self.home[x] for x in value.inputs)
                name = self._variable(value, "q")
                self.lines.append(f"    {name} = zeros()")
                body.append((f"{name}[{self.program.part}] += xp.dot({a}, {b})", f"sum of {a} * {b}"))
        if last:
            late = [(state, self.home[value]) for state, value in self.new.items() if self.home[value] != state]
            body += [(f"copyto({state}, {home})", f"{state} = {home}") for state, home in late]
        p = self.program
        scratch = ", ".join([*p.places.scratch, *p.places.masks])
        self.lines.append(f"    # arrays: block by block{'; scratch: ' * bool(scratch)}{scratch}")
        self.lines.append(f"    for {', '.join(p.columns)} in blocks():")
        width = max(len(call) for call, _ in body) + 4
        self.lines += [f"        {call:{width}}# {comment}" for call, comment in body]

    def _statement(self, value: Value) -> tuple[str, str]:
        """Return the call that computes an array value into its place, and the same as an equation."""
        out = self.home[value]
        names = [self._name(x) + f"[{self.program.part}]" * (x.kind == "measure") for x in value.inputs]
        if value.op == "copy":
            return f"copyto({out}, {names[0]})", f"{out} = {names[0]}"
        if value.op == "where":
            mask, x, y = names
            first = "" if y == out else f"copyto({out}, {y}); "
            return f"{first}copyto({out}, {x}, where={mask})", f"{out} = {x} where {mask} else {y}"
        call = f"{value.op}({', '.join(names)}, {'out=' * (value.op in KEYWORD_OUT)}{out})"
        return call, f"{out} = {self._expression(value, '', names)}"

    def _expression(self, value: Value, module: str, names: list[str] | None = None) -> str:
        """Return an operation as text: infix where Python has an operator."""
        if value.op == "literal":
            return value.name
        names = names or [self._name(x) for x in value.inputs]
        names = [f"({name})" if name.startswith("-") else name for name in names]
        if value.op in INFIX:
            return f"{names[0]} {INFIX[value.op]} {names[1]}"
        return f"{module}{value.op}({', '.join(names)})"

    def _name(self, value: Value) -> str:
        return self.home.get(value) or self.variables.get(value) or value.name

    def _variable(self, value: Value, letter: str) -> str:
        """Give a number or measure a name."""
        name = _fresh(letter, self.variables.values(), self.program.numbers, self.home.values())
        self.variables[value] = name
        return name

    def _typed(self, values: Iterable[Value]) -> str:
        names = [self.variables[value] for value in values]
        return f"    {', '.join(names)}{',' * (len(names) == 1)} = typed({', '.join(names)})"
