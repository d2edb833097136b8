"""Functions of analysis: powers and logarithms to other bases, trigonometry, hyperbolic functions.

Each is the function and its derivative; saved is whichever of x and the result makes the derivative cheaper.
"""

from __future__ import annotations

import math
from typing import Any

from ..engine.op import Op
from .elementwise import log, sigmoid, sqrt, where
from .special import erf, erfc

# ---- powers and roots --------------------------------------------------------------------------------------------

square = Op(
    "square",
    lambda g, out, x: g * (2 * x),
    saves="x",
    samplewise=True,
    doc="""Square elementwise: x^2.

    >>> square(tensor([3.0, -2.0]))
    tensor([9., 4.])
    """,
)

reciprocal = Op(
    "reciprocal",
    lambda g, out, x: -g * out * out,
    saves="out",
    samplewise=True,
    doc="""Invert elementwise: 1/x. Of integers, NumPy's is an integer; divide 1.0 by them instead.

    >>> reciprocal(tensor([4.0, -2.0]))
    tensor([ 0.25, -0.5 ])
    """,
)

cbrt = Op(
    "cbrt",
    lambda g, out, x: g / (3 * out * out),
    saves="out",
    samplewise=True,
    doc="""Take the cube root elementwise, of negative numbers too. The derivative at 0 is inf.

    >>> [round(v, 5) for v in cbrt(tensor([8.0, -27.0])).tolist()]
    [2.0, -3.0]
    """,
)

# ---- exponentials and logarithms ---------------------------------------------------------------------------------

exp2 = Op(
    "exp2",
    lambda g, out, x: g * out * math.log(2),
    saves="out",
    samplewise=True,
    doc="""Compute 2^x elementwise.

    >>> exp2(tensor([3.0, -1.0]))
    tensor([8. , 0.5])
    """,
)

expm1 = Op(
    "expm1",
    lambda g, out, x: g * (out + 1),
    saves="out",
    samplewise=True,
    doc="""Compute e^x - 1 elementwise, exact to rounding near 0, where exp(x) - 1 loses its digits.

    >>> f"{expm1(tensor(1e-10, dtype='float64')).item():.11e}"
    '1.00000000005e-10'
    """,
)

log1p = Op(
    "log1p",
    lambda g, out, x: g / (1 + x),
    saves="x",
    samplewise=True,
    doc="""Compute log(1 + x) elementwise, exact to rounding near 0.

    >>> f"{log1p(tensor(1e-10, dtype='float64')).item():.11e}"
    '9.99999999950e-11'
    """,
)

log2 = Op(
    "log2",
    lambda g, out, x: g * (1 / math.log(2)) / x,
    saves="x",
    samplewise=True,
    doc="""Compute the logarithm to base 2 elementwise.

    >>> log2(tensor([8.0, 0.5]))
    tensor([ 3., -1.])
    """,
)

log10 = Op(
    "log10",
    lambda g, out, x: g * (1 / math.log(10)) / x,
    saves="x",
    samplewise=True,
    doc="""Compute the logarithm to base 10 elementwise.

    >>> round(log10(tensor(1000.0)).item(), 5)
    3.0
    """,
)


def _share(a: Any, b: Any) -> Any:
    """e^a / (e^a + e^b) without overflow: the weight of a in logaddexp(a, b); half each at equal infinities."""
    same = (a == b) & (abs(a) == math.inf)
    return sigmoid(where(same, 0.0, a) - where(same, 0.0, b))


logaddexp = Op(
    "logaddexp",
    lambda g, out, x, y: g * _share(x, y),
    lambda g, out, x, y: g * _share(y, x),
    saves="x y",
    samplewise=True,
    doc="""Compute log(e^x + e^y) elementwise without overflow.

    >>> round(logaddexp(tensor(1000.0), tensor(1000.0)).item(), 3)
    1000.693
    """,
)

logaddexp2 = Op(
    "logaddexp2",
    lambda g, out, x, y: g * _share(x * math.log(2), y * math.log(2)),
    lambda g, out, x, y: g * _share(y * math.log(2), x * math.log(2)),
    saves="x y",
    samplewise=True,
    doc="""Compute log2(2^x + 2^y) elementwise without overflow.

    >>> logaddexp2(tensor(1000.0), tensor(1000.0)).item()
    1001.0
    """,
)


def _positive(x: Any, y: Any) -> Any:
    """Return y, with 1 where x log y is 0 because x is, and log y and x / y do not exist."""
    return where((x == 0) & (y <= 0), 1.0, y)


def _xlogy(xp: Any, x: Any, y: Any) -> Any:
    if isinstance(y, (int, float)):
        y = xp.asarray(y, dtype=(x * 1.0).dtype)  # beside `where`'s other number it would become float64
    nothing = (x == 0) & (y == y)
    return x * xp.log(xp.where(nothing, 1.0, y))


xlogy = Op(
    _xlogy,
    lambda g, out, x, y: g * log(_positive(x, y)),
    lambda g, out, x, y: g * (x / _positive(x, y)),
    saves="x y",
    samplewise=True,
    doc="""Compute x log y elementwise, 0 where x = 0 unless y is NaN: the terms of an entropy.

    The derivatives log y and x / y are taken as 0 where x = 0 and y <= 0.

    >>> xlogy(tensor([0.0, 2.0]), tensor([0.0, 1.0]))
    tensor([0., 0.])
    """,
)

# ---- trigonometry ------------------------------------------------------------------------------------------------

sin = Op(
    "sin",
    lambda g, out, x: g * cos(x),
    saves="x",
    samplewise=True,
    doc="""Compute the sine elementwise; x in radians.

    >>> round(sin(tensor(1.0)).item(), 4)
    0.8415
    """,
)

cos = Op(
    "cos",
    lambda g, out, x: -g * sin(x),
    saves="x",
    samplewise=True,
    doc="""Compute the cosine elementwise; x in radians.

    >>> round(cos(tensor(1.0)).item(), 4)
    0.5403
    """,
)

tan = Op(
    "tan",
    lambda g, out, x: g * (1 + out * out),
    saves="out",
    samplewise=True,
    doc="""Compute the tangent elementwise; x in radians.

    >>> round(tan(tensor(1.0)).item(), 4)
    1.5574
    """,
)

arcsin = Op(
    "arcsin",
    lambda g, out, x: g / sqrt((1 - x) * (1 + x)),
    saves="x",
    samplewise=True,
    doc="""Compute the inverse sine elementwise, in [-pi/2, pi/2]; NaN outside [-1, 1]. The derivative at +-1 is inf.

    >>> round(arcsin(tensor(0.5)).item(), 4)
    0.5236
    """,
)

arccos = Op(
    "arccos",
    lambda g, out, x: -g / sqrt((1 - x) * (1 + x)),
    saves="x",
    samplewise=True,
    doc="""Compute the inverse cosine elementwise, in [0, pi]; NaN outside [-1, 1]. The derivative at +-1 is -inf.

    >>> round(arccos(tensor(0.5)).item(), 4)
    1.0472
    """,
)


def _arctan_rule(g: Any, out: Any, x: Any) -> Any:
    """g / (1 + x^2), by the root of the denominator: the square would overflow early."""
    r = hypot(x, 1.0)
    return g / r / r


arctan = Op(
    "arctan",
    _arctan_rule,
    saves="x",
    samplewise=True,
    doc="""Compute the inverse tangent elementwise, in (-pi/2, pi/2).

    >>> round(arctan(tensor(1.0)).item(), 4)
    0.7854
    """,
)


def _over_radius(g: Any, a: Any, x: Any, y: Any) -> Any:
    """g a / (x^2 + y^2), taken as 0 at the origin; the squares themselves would overflow and vanish early."""
    r = hypot(x, y)
    r = where(r == 0, 1.0, r)
    return g * (a / r / r)


arctan2 = Op(
    "arctan2",
    lambda g, out, x, y: _over_radius(g, y, x, y),
    lambda g, out, x, y: _over_radius(-g, x, x, y),
    saves="x y",
    samplewise=True,
    doc="""Compute the angle of the point with ordinate x and abscissa y elementwise, in (-pi, pi].

    The derivative at the origin is taken as 0.

    >>> round(arctan2(tensor(1.0), tensor(-1.0)).item(), 4)
    2.3562
    """,
)

hypot = Op(
    "hypot",
    lambda g, out, x, y: g * (x / where(out == 0, 1.0, out)),
    lambda g, out, x, y: g * (y / where(out == 0, 1.0, out)),
    saves="x y out",
    samplewise=True,
    doc="""Compute sqrt(x^2 + y^2) elementwise without overflow. The derivative at the origin is taken as 0.

    >>> hypot(tensor(3e30), tensor(4e30)).item() == tensor(5e30).item()
    True
    """,
)


def _sinc(xp: Any, x: Any) -> Any:
    z = math.pi * xp.where(x == 0, 1.0, x)  # NumPy's own puts 1e-20 for 0, which is 0 again in float16
    return xp.where(x == 0, 1.0, xp.sin(z) / z)


def _sinc_rule(g: Any, out: Any, x: Any) -> Any:
    """d/dx = (cos(pi x) - sinc(x)) / x, and its series where |x| is small, where the difference loses its digits."""
    near = abs(x) < 0.03
    safe, z = where(near, 1.0, x), math.pi * where(near, x, 0.0)
    z2 = z * z
    series = math.pi * z * (-1 / 3 + z2 * (1 / 30 + z2 * (-1 / 840 + z2 * (1 / 45360 - z2 * (1 / 3991680)))))
    return g * where(near, series, (cos(math.pi * safe) - sinc(safe)) / safe)


sinc = Op(
    _sinc,
    _sinc_rule,
    saves="x",
    samplewise=True,
    doc="""Compute sin(pi x) / (pi x) elementwise, 1 at x = 0.

    >>> round(sinc(tensor(0.5)).item(), 4)
    0.6366
    """,
)

# ---- hyperbolic functions ----------------------------------------------------------------------------------------

sinh = Op(
    "sinh",
    lambda g, out, x: g * cosh(x),
    saves="x",
    samplewise=True,
    doc="""Compute the hyperbolic sine elementwise.

    >>> round(sinh(tensor(1.0)).item(), 4)
    1.1752
    """,
)

cosh = Op(
    "cosh",
    lambda g, out, x: g * sinh(x),
    saves="x",
    samplewise=True,
    doc="""Compute the hyperbolic cosine elementwise.

    >>> round(cosh(tensor(1.0)).item(), 4)
    1.5431
    """,
)

arcsinh = Op(
    "arcsinh",
    lambda g, out, x: g / hypot(x, 1.0),
    saves="x",
    samplewise=True,
    doc="""Compute the inverse hyperbolic sine elementwise.

    >>> round(arcsinh(tensor(1.0)).item(), 4)
    0.8814
    """,
)

arccosh = Op(
    "arccosh",
    lambda g, out, x: g / (sqrt(x - 1) * sqrt(x + 1)),  # the product of x - 1 and x + 1 would overflow early
    saves="x",
    samplewise=True,
    doc="""Compute the inverse hyperbolic cosine elementwise; NaN below 1. The derivative at 1 is inf.

    >>> round(arccosh(tensor(2.0)).item(), 4)
    1.317
    """,
)

arctanh = Op(
    "arctanh",
    lambda g, out, x: g / ((1 - x) * (1 + x)),
    saves="x",
    samplewise=True,
    doc="""Compute the inverse hyperbolic tangent elementwise; NaN outside [-1, 1].

    >>> round(arctanh(tensor(0.5)).item(), 4)
    0.5493
    """,
)

# fmt: off
__all__ = [
    "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "cbrt", "cos", "cosh", "erf", "erfc",
    "exp2", "expm1", "hypot", "log1p", "log2", "log10", "logaddexp", "logaddexp2", "reciprocal", "sin", "sinc", "sinh",
    "square", "tan", "xlogy",
]
# fmt: on
