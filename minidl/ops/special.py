"""The error function by rational approximation, for NumPy and CuPy alike (neither array module has it).

W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969) 631-637: three intervals,
each the quotient of two polynomials, relative error below 1.2e-16 in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..engine.op import Op
from .elementwise import exp
from .rounding import clip

# |x| <= 0.46875: erf x = x P(x^2) / Q(x^2), coefficients from the highest power down.
_NEAR_P = (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2,
           3.20937758913846947e3)  # fmt: skip
_NEAR_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
# 0.46875 <= x <= 4: erfc x = e^-x^2 P(x) / Q(x).
_MIDDLE_P = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
             2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
             1.23033935479799725e3)  # fmt: skip
_MIDDLE_Q = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
             3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
# x >= 4: erfc x = e^-x^2 / x (1/sqrt(pi) - P(1/x^2) / (x^2 Q(1/x^2))).
_FAR_P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
          1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_FAR_Q = (1.0, 2.56852019228982242, 1.87295284992346047, 5.27905102951428412e-1, 6.05183413124413191e-2,
          2.33520497626869185e-3)  # fmt: skip
_LARGEST = 30.0  # erfc underflows to 0 from about 26.5 on: beyond that nothing changes, and squares would overflow


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = coefficients[0] + 0.0 * x
    for c in coefficients[1:]:
        value = value * x + c
    return value


def _gaussian(xp: Any, x: Any) -> Any:
    """Compute e^-x^2 with x split at 1/16, so that rounding x^2 does not show in the result."""
    coarse = xp.trunc(x * 16) / 16
    return xp.exp(-coarse * coarse) * xp.exp(-(x - coarse) * (x + coarse))


def _upper(xp: Any, x: Any) -> Any:
    """Compute erfc for x >= 0.46875."""
    middle = xp.clip(x, 0.46875, 4.0)
    far = xp.clip(x, 4.0, _LARGEST)
    t = 1 / (far * far)
    tail = (1 / math.sqrt(math.pi) - t * _polynomial(_FAR_P, t) / _polynomial(_FAR_Q, t)) / far
    ratio = xp.where(x <= 4.0, _polynomial(_MIDDLE_P, middle) / _polynomial(_MIDDLE_Q, middle), tail)
    return _gaussian(xp, xp.clip(x, 0.46875, _LARGEST)) * ratio


def _near(xp: Any, x: Any) -> Any:
    """Compute erf for |x| <= 0.46875."""
    small = xp.clip(x, -0.46875, 0.46875)
    z = small * small
    return small * _polynomial(_NEAR_P, z) / _polynomial(_NEAR_Q, z)


def _erf(xp: Any, x: Any) -> Any:
    a = xp.abs(x)
    return xp.where(a <= 0.46875, _near(xp, x), xp.sign(x) * (1 - _upper(xp, a)))


def _erfc(xp: Any, x: Any) -> Any:
    upper = _upper(xp, xp.abs(x))
    return xp.where(xp.abs(x) <= 0.46875, 1 - _near(xp, x), xp.where(x > 0, upper, 2 - upper))


def _computed(f: Callable[[Any, Any], Any], xp: Any, x: Any) -> Any:
    """Return f(xp, x), of integers in float64, of float16 in float32: the polynomials leave its range."""
    x = xp.asarray(x)
    wide = x.astype("float64") if x.dtype.kind != "f" else x.astype("float32") if x.dtype.itemsize < 4 else x
    out = xp.where(wide == wide, f(xp, wide), wide)
    return out.astype(x.dtype) if x.dtype.kind == "f" else out


def _bell(x: Any) -> Any:
    """e^-x^2, 0 from |x| = 27 on, where the square might overflow."""
    near = clip(x, -_LARGEST, _LARGEST)
    return exp(-near * near)


erf = Op(
    lambda xp, x: _computed(_erf, xp, x),
    lambda g, out, x: g * (2 / math.sqrt(math.pi)) * _bell(x),
    saves="x",
    samplewise=True,
    doc="""Compute the error function elementwise: 2/sqrt(pi) times the integral of e^-t^2 from 0 to x.

    To rounding, by the rational approximations of Cody (1969, Math. Comp. 23).

    >>> f"{erf(tensor(1.0, dtype='float64')).item():.12f}"
    '0.842700792950'
    """,
)

erfc = Op(
    lambda xp, x: _computed(_erfc, xp, x),
    lambda g, out, x: g * (-2 / math.sqrt(math.pi)) * _bell(x),
    saves="x",
    samplewise=True,
    doc="""Compute 1 - erf(x) elementwise with full relative accuracy, where the difference would have none left.

    >>> f"{erfc(tensor(5.0, dtype='float64')).item():.10e}"
    '1.5374597944e-12'
    """,
)
