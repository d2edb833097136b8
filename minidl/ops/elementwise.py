"""Elementwise operations: arithmetic, powers, exponentials, comparison, selection.

Each entry is the function and, for each input, its derivative times the arriving gradient g. Shapes broadcast as in
NumPy; the engine sums a gradient back over broadcast axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.backend import checked_dtype, to_device
from ..engine.op import Op

# ---- arithmetic --------------------------------------------------------------------------------------------------

add = Op(
    "add",
    lambda g, out, x, y: g,
    lambda g, out, x, y: g,
    samplewise=True,
    doc="""Add elementwise: x + y.

    >>> add(tensor([1.0, 2.0]), 0.5)
    tensor([1.5, 2.5])
    """,
)

subtract = Op(
    "subtract",
    lambda g, out, x, y: g,
    lambda g, out, x, y: -g,
    samplewise=True,
    doc="""Subtract elementwise: x - y.

    >>> subtract(tensor([1.0, 2.0]), 0.5)
    tensor([0.5, 1.5])
    """,
)

multiply = Op(
    "multiply",
    lambda g, out, x, y: g * y,
    lambda g, out, x, y: g * x,
    saves="x y",
    samplewise=True,
    doc="""Multiply elementwise: x y.

    >>> multiply(tensor([1.0, 2.0]), tensor([3.0, 4.0]))
    tensor([3., 8.])
    """,
)

divide = Op(
    "divide",
    lambda g, out, x, y: g / y,
    lambda g, out, x, y: -(g * out) / y,
    saves="y out",
    samplewise=True,
    doc="""Divide elementwise: x / y. Integers divide to floats, as in NumPy.

    >>> divide(tensor([1.0, 2.0]), 4.0)
    tensor([0.25, 0.5 ])
    """,
)

negative = Op(
    "negative",
    lambda g, out, x: -g,
    samplewise=True,
    doc="""Negate elementwise: -x.

    >>> negative(tensor([1.0, -2.0]))
    tensor([-1.,  2.])
    """,
)

absolute = Op(
    "absolute",
    lambda g, out, x: g * sign(x),
    saves="x",
    samplewise=True,
    doc="""Take the absolute value elementwise: |x|. The derivative at 0 is taken as 0.

    >>> absolute(tensor([-1.5, 2.0]))
    tensor([1.5, 2. ])
    """,
)

sign = Op(
    "sign",
    lambda g, out, x: g * 0.0,
    samplewise=True,
    doc="""Take the sign elementwise: -1, 0 or 1. The derivative is 0.

    >>> sign(tensor([-1.5, 0.0, 2.0]))
    tensor([-1.,  0.,  1.])
    """,
)


def _power_base(g: Any, out: Any, x: Any, y: Any) -> Any:
    """y x^(y-1). At x = 0, y = 0 it is 0, where the text would read 0 * inf."""
    if type(y) in (float, int):
        return g * 0.0 if y == 0 else g * (y * x ** (y - 1))
    exponent = where((x == 0) & (y == 0), 1.0, y)
    return g * (y * x ** (exponent - 1))


def _power_exponent(g: Any, out: Any, x: Any, y: Any) -> Any:
    """x^y log x. At x = 0 it is 0, the limit for y > 0, where the text would read 0 * -inf."""
    return g * out * log(where(x == 0, 1.0, x) if type(x) not in (float, int) else x or 1.0)


power = Op(
    lambda xp, x, y: x**y,
    _power_base,
    _power_exponent,
    saves="x y out",
    samplewise=True,
    doc="""Raise elementwise to a power: x^y. Derivatives y x^(y-1) and x^y log x; both 0 at x = y = 0.

    A negative base has a finite derivative in x for integer y, and NaN in y.

    >>> power(tensor([2.0, 3.0]), 2)
    tensor([4., 9.])
    """,
)

# ---- exponentials ------------------------------------------------------------------------------------------------

exp = Op(
    "exp",
    lambda g, out, x: g * out,
    saves="out",
    samplewise=True,
    doc="""Compute e^x elementwise.

    >>> round(exp(tensor(1.0)).item(), 5)
    2.71828
    """,
)

log = Op(
    "log",
    lambda g, out, x: g / x,
    saves="x",
    samplewise=True,
    doc="""Compute the natural logarithm elementwise; -inf at 0 and NaN below, with NumPy's warning.

    `where(x > 0, log(x), 0)` has a NaN gradient at x = 0 (0 * inf); write `log(where(x > 0, x, 1))` instead.

    >>> round(log(tensor(10.0)).item(), 5)
    2.30259
    """,
)

sqrt = Op(
    "sqrt",
    lambda g, out, x: g * 0.5 / out,
    saves="out",
    samplewise=True,
    doc="""Compute the square root elementwise. The derivative at 0 is inf.

    >>> sqrt(tensor([4.0, 9.0]))
    tensor([2., 3.])
    """,
)

tanh = Op(
    "tanh",
    lambda g, out, x: g * (1 - out * out),
    saves="out",
    samplewise=True,
    doc="""Compute the hyperbolic tangent elementwise.

    >>> round(tanh(tensor(1.0)).item(), 5)
    0.76159
    """,
)


# NumPy makes a Python number an array at every call, which costs as much as the arithmetic on a small array.
_UNITS: dict[str, tuple[Any, Any, Any]] = {
    code: (np.array(-1, code), np.array(0, code), np.array(1, code)) for code in "efd"
}


def units(x: Any) -> tuple[Any, Any, Any]:
    """Return -1, 0 and 1 as they compute fastest with x."""
    return _UNITS.get(x.dtype.char, (-1, 0, 1)) if type(x) is np.ndarray else (-1, 0, 1)


def _sigmoid(xp: Any, x: Any) -> Any:
    minus, zero, one = units(x)
    e = xp.exp(xp.copysign(x, minus))  # e^-|x|, never above 1: e^-x would overflow below -88 in float32
    return xp.maximum(e, x >= zero) / (e + one)  # 1 / (1 + e), and where x < 0 e / (1 + e)


sigmoid = Op(
    _sigmoid,
    lambda g, out, x: g * (out * (1 - out)),
    saves="out",
    samplewise=True,
    doc="""Compute the logistic function elementwise: 1 / (1 + e^-x), without overflow at either end.

    >>> sigmoid(tensor([-1000.0, 0.0])), round(sigmoid(tensor(1.0)).item(), 5)
    (tensor([0. , 0.5]), 0.73106)
    """,
)

# ---- selection ---------------------------------------------------------------------------------------------------


def _larger_share(g: Any, x: Any, y: Any) -> Any:
    """Return 0 where x < y, half of g at a tie, and g elsewhere: where one is NaN, so is the result, through both."""
    return where(x == y, g * 0.5, where(x < y, 0.0, g))


maximum = Op(
    "maximum",
    lambda g, out, x, y: _larger_share(g, x, y),
    lambda g, out, x, y: _larger_share(g, y, x),
    saves="x y",
    samplewise=True,
    doc="""Take the larger of two elementwise. At a tie each gets half the gradient, beside a NaN all of it.

    >>> maximum(tensor([1.0, 5.0]), tensor([2.0, 3.0]))
    tensor([2., 5.])
    """,
)

minimum = Op(
    "minimum",
    lambda g, out, x, y: _larger_share(g, y, x),
    lambda g, out, x, y: _larger_share(g, x, y),
    saves="x y",
    samplewise=True,
    doc="""Take the smaller of two elementwise. At a tie each gets half the gradient, beside a NaN all of it.

    >>> minimum(tensor([1.0, 5.0]), tensor([2.0, 3.0]))
    tensor([1., 3.])
    """,
)

where = Op(
    lambda xp, condition, x, y: xp.where(condition, x, y),
    None,
    lambda g, out, condition, x, y: where(condition, g, 0.0),
    lambda g, out, condition, x, y: where(condition, 0.0, g),
    saves="condition",
    samplewise=True,
    doc="""Choose elementwise: x where condition is true, y elsewhere. The unused one gets the gradient 0.

    >>> where(tensor([True, False]), tensor([1.0, 2.0]), 0.0)
    tensor([1., 0.])
    """,
)

# ---- comparison: results are bool, and constants to derivatives --------------------------------------------------


def _comparison(name: str, symbol: str, result: str) -> Op:
    return Op(
        name,
        samplewise=True,
        doc=f"""Compare elementwise: x {symbol} y, of dtype bool.

    >>> {name}(tensor([1.0, 2.0]), 2.0)
    tensor({result})
    """,
    )


equal = _comparison("equal", "==", "[False,  True]")
not_equal = _comparison("not_equal", "!=", "[ True, False]")
less = _comparison("less", "<", "[ True, False]")
less_equal = _comparison("less_equal", "<=", "[ True,  True]")
greater = _comparison("greater", ">", "[False, False]")
greater_equal = _comparison("greater_equal", ">=", "[False,  True]")


def _logic(name: str, rule: str, call: str, result: str) -> Op:
    return Op(
        name,
        samplewise=True,
        doc=f"""Combine elementwise: {rule}. Also written as an operator on bool tensors.

    >>> {name}({call})
    tensor({result})
    """,
    )


bitwise_and = _logic(
    "bitwise_and", "x & y, of bools or integers", "tensor([True, True]), tensor([True, False])", "[ True, False]"
)
bitwise_or = _logic(
    "bitwise_or", "x | y, of bools or integers", "tensor([True, False]), tensor([False, False])", "[ True, False]"
)
invert = _logic("invert", "~x, of bools or integers", "tensor([True, False])", "[False,  True]")

# ---- the same values elsewhere -----------------------------------------------------------------------------------

copy = Op(
    lambda xp, x: x.copy(),
    lambda g, out, x: g,
    samplewise=True,
    doc="""Copy into new memory; the gradient passes through.

    >>> copy(tensor([1.0]))
    tensor([1.])
    """,
)

astype = Op(
    lambda xp, x, *, dtype: x.astype(checked_dtype(np.dtype(dtype), "astype")),
    lambda g, out, x, *, dtype: g,  # the engine casts it back to x's dtype
    samplewise=True,
    doc="""Cast to another dtype. The gradient is cast back; a cast to integers or bool cuts it off.

    >>> astype(tensor([1.7]), "int64")
    tensor([1])
    """,
)


def _move(xp: Any, x: Any, *, device: str) -> Any:
    return to_device(x, device)


move = Op(
    _move,
    lambda g, out, x, *, device: move(g, device=x.device),
    samplewise=True,
    doc="""Move to a device, "cpu" or "cuda:i"; the gradient moves back. See `Tensor.to`.

    >>> move(tensor([1.0]), "cpu").device
    'cpu'
    """,
)

abs = absolute
# fmt: off
__all__ = [
    "abs", "absolute", "add", "astype", "bitwise_and", "bitwise_or", "copy", "divide", "equal", "exp", "greater",
    "greater_equal", "invert", "less", "less_equal", "log", "maximum", "minimum", "move", "multiply", "negative",
    "not_equal", "power", "sigmoid", "sign", "sqrt", "subtract", "tanh",
]
# fmt: on
