"""Reading a formula: run it once with symbols in place of arrays, and note what it does.

The result is a list of `Value`s in the order of the text, each an operation on earlier ones (a straight line, every
value made once). Sub-expressions that occur twice are noted once. `minidl.compiler.fuse` turns the list into a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

# The functions that a formula may use: ufuncs of NumPy and of CuPy.
COMPARE = {"equal": "==", "not_equal": "!=", "greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<="}
LOGICAL = {"logical_and": "&", "logical_or": "|"}
INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "**", **COMPARE, **LOGICAL}
UNARY = {
    "absolute", "cbrt", "exp", "expm1", "log", "log1p", "negative", "reciprocal", "sign", "sqrt", "square", "tanh",
}  # fmt: skip
TESTS = {"isfinite", "isnan"}
FUNCTIONS = {"copysign", "maximum", "minimum", "logical_not"} | INFIX.keys() | UNARY | TESTS
ALIASES = {"abs": "absolute", "pow": "power", "true_divide": "divide"}
OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power", "and": "logical_and",
    "or": "logical_or", "eq": "equal", "ne": "not_equal", "gt": "greater", "ge": "greater_equal", "lt": "less",
    "le": "less_equal", "neg": "negative", "abs": "absolute", "invert": "logical_not",
}  # fmt: skip
# x**2 is what NumPy itself runs as square(x): the same bits, many times faster than a general power.
POWERS = {2: "square", 0.5: "sqrt", -1: "reciprocal"}
MEASURES = {"segment_dot", "total_dot"}


@dataclass(eq=False, slots=True)
class Value:
    """One value of a formula.

    op       the function that makes it: a name in FUNCTIONS, "where", "copy", a name in MEASURES, "input" or "literal"
    inputs   the values it is made of
    kind     "array"; "mask" (an array of truth values); "number" (known on the host before the kernel starts);
             "measure" (a number for each parameter, known after a pass over the arrays)
    stage    the pass over the arrays in which it is made, from 0; for a measure, the pass before which it is known
    name     of an input, or the text of a literal
    """

    op: str
    inputs: tuple[Value, ...]
    kind: str
    stage: int = 0
    name: str = ""


@dataclass
class Trace:
    """The values noted so far, in order, and the name of the formula for messages."""

    who: str
    code: list[Value] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    known: dict[tuple[Any, ...], Value] = field(default_factory=dict)

    def input(self, name: str, kind: str) -> Symbol:
        """Return the symbol of an array or number that the formula is given."""
        if name in FUNCTIONS:
            raise ValueError(f"{self.who}: {name!r} is the name of a function; call this argument something else")
        self.inputs.append(Value("input", (), kind, name=name))
        return Symbol(self, self.inputs[-1])

    def value(self, x: Any) -> Value:
        """Return the value of an operand: a symbol of this formula, or a number written in its text."""
        if isinstance(x, Symbol):
            return x.value
        if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, float, np.integer, np.floating)):
            raise TypeError(
                f"{self.who}: a formula computes with its own arguments and with numbers, got {type(x).__name__}; pass "
                "further arrays as slots and settings through scalars()"
            )
        text = repr(x if isinstance(x, (int, float)) else x.item())
        return self.known.setdefault(("literal", text), Value("literal", (), "number", name=text))

    def call(self, op: str, *operands: Any) -> Symbol:
        """Note one operation and return its symbol; the same operation on the same operands is noted once."""
        inputs = tuple(self.value(x) for x in operands)
        if op == "power" and inputs[1].op == "literal" and inputs[0].kind != "number":
            exponent = float(inputs[1].name)
            if exponent == 1:
                return Symbol(self, inputs[0])
            op, inputs = (POWERS[exponent], inputs[:1]) if exponent in POWERS else (op, inputs)
        key = (op, *map(id, inputs))
        if key not in self.known:
            stage = max(x.stage for x in inputs) + (op in MEASURES)
            self.known[key] = Value(op, inputs, self._kind(op, [x.kind for x in inputs]), stage)
            self.code.append(self.known[key])
        return Symbol(self, self.known[key])

    def _kind(self, op: str, kinds: list[str]) -> str:
        """Return the kind of a result; TypeError where conditions and numbers are used for one another."""
        logical = op in LOGICAL or op == "logical_not"
        compares = op in COMPARE or op in TESTS
        if op in MEASURES and kinds == ["array", "array"]:
            return "measure"
        if op not in MEASURES and "measure" in kinds and not {"array", "mask"} & {*kinds}:
            return "measure"  # conditions on them too: between two passes NumPy's own functions compute
        conditions = [logical or (op == "where" and i == 0) for i in range(len(kinds))]
        if op in MEASURES or [kind == "mask" for kind in kinds] != conditions:
            raise TypeError(
                f"{self.who}: {op} of {' and '.join(kinds)} has no meaning here; conditions on arrays (x > 0) combine "
                "with &, | and ~, choose in xp.where, and become numbers by xp.where(condition, 1.0, 0.0)"
            )
        if compares and "array" not in kinds:
            raise TypeError(f"{self.who}: {op} compares only numbers; compare them in scalars() and pass the bool")
        return "mask" if logical or compares else "array" if "array" in kinds or op == "where" else "number"


class Symbol:
    """Stands for an array or a number while a formula is read; every operator notes what it would compute."""

    __slots__ = ("trace", "value")
    __hash__ = None  # type: ignore[assignment]  # == is an operation here

    def __init__(self, trace: Trace, value: Value):
        self.trace = trace
        self.value = value

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            raise TypeError(f"{self.trace.who}: np.{ufunc.__name__}.{method} {[*kwargs]} is not elementwise")
        return getattr(Functions(self.trace), ufunc.__name__)(*inputs)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"{self.trace.who}: a Python `if`, `and`, `not`, `min` or the like asked whether {self._text()} is true, "
            "which differs from element to element or step to step; use xp.where(condition, a, b), or pass a bool "
            "through scalars()"
        )

    def _no_value(self, *args: Any) -> NoReturn:
        raise TypeError(f"{self.trace.who}: {self._text()} has no value while the formula is read; use functions of xp")

    __float__ = __int__ = __index__ = __len__ = __iter__ = __getitem__ = _no_value

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{self.trace.who}: {self._text()}.{name} is not elementwise; use operators, functions of xp and "
            "segment_norm, or write update_tensor instead of update"
        )

    def _text(self) -> str:
        return f"`{self.value.name}`" if self.value.name else f"a result of {self.value.op}"

    def __pos__(self) -> Symbol:
        return self


def _define(python: str, op: str) -> None:
    """Give Symbol an operator, and its reflection: `2 - x` too."""
    setattr(Symbol, f"__{python}__", lambda self, *other: self.trace.call(op, self, *other))
    setattr(Symbol, f"__r{python}__", lambda self, other: self.trace.call(op, other, self))


for _python, _op in OPERATORS.items():
    _define(_python, _op)


class Functions:
    """What a formula is given as `xp`: the elementwise functions of NumPy and CuPy, noting instead of computing."""

    def __init__(self, trace: Trace):
        self._trace = trace

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        op = ALIASES.get(name, name)
        who, count = f"{self._trace.who}: xp.{name}", 1 if op in UNARY | TESTS | {"logical_not"} else 2
        if op not in FUNCTIONS:
            known = ", ".join(sorted({*FUNCTIONS, *ALIASES, "clip", "where"}))
            raise AttributeError(f"{who} is not among the elementwise functions that can be fused: {known}")

        def function(*operands: Any) -> Symbol:
            if len(operands) != count:
                raise TypeError(f"{who} takes {count} argument(s), got {len(operands)}")
            return self._trace.call(op, *operands)

        return function

    def where(self, condition: Any, x: Any, y: Any) -> Symbol:
        """Choose x where the condition holds and y elsewhere."""
        return self._trace.call("where", condition, x, y)

    def clip(self, x: Any, low: Any, high: Any) -> Symbol:
        """Limit x to low <= x <= high: minimum(maximum(x, low), high), which is what NumPy computes."""
        return self.minimum(self.maximum(x, low), high)


def segment_dot(a: Any, b: Any) -> Any:
    """Return the inner product <a, b> of two arrays of one parameter: in a formula, a number for each parameter.

    It splits the kernel into passes: one that measures, one that uses what was measured. On arrays it computes, so that
    the formula can be read with NumPy too.

    >>> float(segment_dot(np.array([1.0, 2.0]), np.array([3.0, 4.0])))
    11.0
    """
    return a.trace.call("segment_dot", a, b) if isinstance(a, Symbol) else (a * b).sum()


def segment_norm(a: Any) -> Any:
    """Return the Euclidean norm of an array of one parameter, sqrt(<a, a>), as a number for that parameter.

    >>> float(segment_norm(np.array([3.0, 4.0])))
    5.0
    """
    return segment_dot(a, a) ** 0.5


def total_dot(a: Any, b: Any) -> Any:
    """Return the inner product <a, b> summed over all parameters that the optimizer moves in this step.

    On arrays, where there is nothing else to sum over, it equals `segment_dot`.
    """
    return a.trace.call("total_dot", a, b) if isinstance(a, Symbol) else (a * b).sum()
