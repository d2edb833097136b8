"""Operations on numbers that are flat almost everywhere, or whose derivative is 0 or 1: rounding, remainders, tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.op import Op
from .elementwise import sign, where
from .shape import numpy_signature


def _flat(name: str, text: str, call: str, result: str) -> Op:
    """Declare a step function: the derivative is 0 wherever it exists, and taken as 0 at the steps."""
    return Op(
        name,
        lambda g, out, x: g * 0.0,
        samplewise=True,
        doc=f"""{text} The derivative is taken as 0.

    >>> {name}({call})
    {result}
    """,
    )


floor = _flat("floor", "Round down elementwise.", "tensor([1.5, -1.5])", "tensor([ 1., -2.])")
ceil = _flat("ceil", "Round up elementwise.", "tensor([1.5, -1.5])", "tensor([ 2., -1.])")
trunc = _flat("trunc", "Round towards 0 elementwise.", "tensor([1.5, -1.5])", "tensor([ 1., -1.])")

round = Op(
    lambda xp, x, *, decimals=0: xp.round(x, decimals),
    lambda g, out, x, *, decimals=0: g * 0.0,
    samplewise=True,
    doc="""Round to the nearest number of so many decimals, halves to the even one. The derivative is taken as 0.

    >>> round(tensor([0.5, 1.5, 1.26]), 1)
    tensor([0.5, 1.5, 1.3])
    """,
)

floor_divide = Op(
    "floor_divide",
    lambda g, out, x, y: g * 0.0,
    lambda g, out, x, y: g * 0.0,
    samplewise=True,
    doc="""Divide elementwise and round down: x // y. The derivative is taken as 0.

    >>> floor_divide(tensor([7.0, -7.0]), 2.0)
    tensor([ 3., -4.])
    """,
)

mod = Op(
    "remainder",
    lambda g, out, x, y: g,
    lambda g, out, x, y: -g * floor_divide(x, y),
    saves="x y",
    samplewise=True,
    name="mod",
    doc="""Compute the remainder of x / y elementwise, with y's sign: x - y floor(x / y). Also written x % y.

    >>> mod(tensor([7.0, -7.0]), 4.0)
    tensor([3., 1.])
    """,
)

fmod = Op(
    "fmod",
    lambda g, out, x, y: g,
    lambda g, out, x, y: -g * round((x - out) / y),  # trunc(x / y) is off by 1 where x / y rounds up to an integer
    saves="x y out",
    samplewise=True,
    doc="""Compute the remainder of x / y elementwise, with x's sign: x - y trunc(x / y), as in C.

    >>> fmod(tensor([7.0, -7.0]), 4.0)
    tensor([ 3., -3.])
    """,
)

copysign = Op(
    "copysign",
    lambda g, out, x, y: g * sign(x) * copysign(1.0, y),
    lambda g, out, x, y: g * 0.0,
    saves="x y",
    samplewise=True,
    doc="""Give x the sign of y elementwise: |x| sign(y), where a zero has a sign too. The derivative in y is 0.

    >>> copysign(tensor([2.0, 2.0]), tensor([-1.0, 0.0]))
    tensor([-2.,  2.])
    """,
)


def _bound(value: Any, name: str) -> Any:
    """Return a bound as a number, weak beside any dtype."""
    if value is None or isinstance(value, (int, float, np.generic)):
        return value.item() if isinstance(value, np.generic) else value
    raise TypeError(
        f"clip: {name} must be a number or None, got {type(value).__name__}; "
        "for bounds that vary or want gradients write minimum(maximum(x, min), max)"
    )


def _limit(xp: Any, x: Any, *, min: Any, max: Any) -> Any:
    return xp.clip(x, min, max)


def _clip_rule(g: Any, out: Any, x: Any, *, min: Any, max: Any) -> Any:
    """Pass the gradient where x lies within the bounds, the bounds included."""
    inside = (x >= min) if max is None else (x <= max) if min is None else (x >= min) & (x <= max)
    return where(inside, g, 0.0)


_clip = Op(_limit, _clip_rule, saves="x", samplewise=True, name="clip")


@numpy_signature
def clip(x: Any, min: float | None = None, max: float | None = None) -> Any:
    """Limit the elements to [min, max], two numbers of which one may be None. At a bound the derivative is 1.

    Bounds that vary or want gradients: `minimum(maximum(x, min), max)`, with the derivative 1/2 at a bound.

    >>> clip(tensor([-2.0, 0.5, 2.0]), -1.0, 1.0)
    tensor([-1. ,  0.5,  1. ])
    """
    if min is None and max is None:
        raise ValueError("clip: needs min, max or both, got neither")
    return _clip(x, min=_bound(min, "min"), max=_bound(max, "max"))


_nan_to_num = Op(
    lambda xp, x, *, nan, posinf, neginf: xp.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf),
    lambda g, out, x, *, nan, posinf, neginf: where(isfinite(x), g, 0.0),
    saves="x",
    samplewise=True,
    name="nan_to_num",
)


def nan_to_num(x: Any, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
    """Replace NaN by nan, and infinities by the largest finite numbers or what is given; gradient 0 there.

    The settings go by name: NumPy's second argument is `copy`, PyTorch's is `nan`.

    >>> nan_to_num(tensor([1.0, float("nan"), float("inf")]), posinf=9.0)
    tensor([1., 0., 9.])
    """
    return _nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)


# ---- tests: results are bool, and constants to derivatives -------------------------------------------------------


def _test(name: str, text: str, call: str, result: str) -> Op:
    return Op(
        name,
        samplewise=True,
        doc=f"""{text}

    >>> {name}({call})
    tensor({result})
    """,
    )


isfinite = _test(
    "isfinite", "Tell elementwise what is neither NaN nor infinite.", "tensor([1.0, float('inf')])", "[ True, False]"
)
isnan = _test("isnan", "Tell elementwise what is NaN.", "tensor([1.0, float('nan')])", "[False,  True]")
isinf = _test("isinf", "Tell elementwise what is infinite.", "tensor([1.0, float('-inf')])", "[False,  True]")
signbit = _test("signbit", "Tell elementwise what has a minus sign.", "tensor([1.0, -0.0])", "[False,  True]")
logical_and = _test(
    "logical_and", "Tell elementwise where both are nonzero.", "tensor([2, 2]), tensor([1, 0])", "[ True, False]"
)
logical_or = _test(
    "logical_or", "Tell elementwise where either is nonzero.", "tensor([2, 0]), tensor([0, 0])", "[ True, False]"
)
logical_xor = _test(
    "logical_xor", "Tell elementwise where one of two is nonzero.", "tensor([2, 2]), tensor([1, 0])", "[False,  True]"
)
logical_not = _test("logical_not", "Tell elementwise where x is 0.", "tensor([2, 0])", "[False,  True]")
bitwise_xor = Op(
    "bitwise_xor",
    samplewise=True,
    doc="""Combine elementwise: x ^ y, of bools or integers.

    >>> bitwise_xor(tensor([True, True]), tensor([True, False]))
    tensor([False,  True])
    """,
)


def isclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Tell elementwise where |x - y| <= atol + rtol |y|; infinities are close to themselves, NaN only if equal_nan.

    >>> isclose(tensor([1.0, 2.0]), tensor([1.000001, 2.1]))
    tensor([ True, False])
    """
    return _isclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan)


_isclose = Op(
    lambda xp, x, y, *, rtol, atol, equal_nan: xp.isclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan),
    name="isclose",
    samplewise=True,
)


def allclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Tell whether all elements are close, see `isclose`. On a GPU this waits for the device.

    >>> allclose(tensor([1.0]), tensor([1.000001]))
    True
    """
    close = isclose(x, y, rtol, atol, equal_nan)
    return close if isinstance(close, bool) else bool(close.all())


# fmt: off
__all__ = [
    "allclose", "bitwise_xor", "ceil", "clip", "copysign", "floor", "floor_divide", "fmod", "isclose", "isfinite",
    "isinf", "isnan", "logical_and", "logical_not", "logical_or", "logical_xor", "mod", "nan_to_num", "round",
    "signbit", "trunc",
]
# fmt: on
