"""The error function and the normal distribution by rational approximation, for NumPy and CuPy alike.

Neither array module has them. W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23
(1969) 631-637: three intervals, each the quotient of two polynomials, relative error below 1.2e-16 in double precision.
For the normal distribution, which activations need often, one quotient without cancellation serves all arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

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
# x >= 0: P(Z <= -x) = e^(-x^2 / 2) P(x) / Q(x) for a standard normal Z, all coefficients positive. Fitted for the least
# relative error: 1e-16 up to 38.8 in double precision,
_NORMAL_P = (2.5362572091409576e-06, 6.820515070439897e-05, 0.0008980623741177145, 0.0074899111813812504,
             0.043274052049473516, 0.17900506415268413, 0.530197116570393, 1.0887402681202856,
             1.4203643306085016, 0.9166666666666666)  # fmt: skip
_NORMAL_Q = (6.357454032188691e-06, 0.0001709649592271384, 0.0022574659937482336, 0.018945388080209378,
             0.11071035684386021, 0.4671316266761976, 1.4330408538736812, 3.141919790223502,
             4.69452365913028, 4.303517022688905, 1.8333333333333333)  # fmt: skip
# 6e-9 up to 14.5 in single precision; beyond them it underflows.
_SINGLE_P = (0.0041162499972209, 0.04063291267778244, 0.18323433569838507, 0.43829407212452015,
             0.5000000029418402)  # fmt: skip
_SINGLE_Q = (0.01031778889717301, 0.10185805449105931, 0.469468475289011, 1.2025001385729104,
             1.6744731249457792, 1.0)  # fmt: skip
_BLOCK = 16384
_LARGEST = 30.0  # erfc underflows to 0 from about 26.5 on: beyond that nothing changes, and squares would overflow


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = x * coefficients[0]
    for c in coefficients[1:-1]:
        value += c
        value *= x
    return value + coefficients[-1]


def _gaussian(xp: Any, x: Any, rate: float = 1.0) -> Any:
    """Compute e^(-rate x^2) with x split at 1/16, so that rounding x^2 does not show in the result."""
    coarse = xp.trunc(x * 16) / 16
    return xp.exp(-rate * coarse * coarse) * xp.exp(-rate * (x - coarse) * (x + coarse))


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
    a = xp.abs(x)
    return xp.where(a <= 0.46875, 1 - _near(xp, x), xp.abs((x < 0) * 2.0 - _upper(xp, a)))


def _cdf(xp: Any, x: Any) -> Any:
    single = x.dtype.itemsize < 8
    a = xp.minimum(xp.abs(x), 14.5 if single else 38.8)
    p, q = (_SINGLE_P, _SINGLE_Q) if single else (_NORMAL_P, _NORMAL_Q)
    # In single precision rounding a^2 shows, by 3e-8 a^2: splitting a would cost a third of the time.
    tail = xp.exp(a * a * -0.5) if single else _gaussian(xp, a, 0.5)
    tail *= _polynomial(p, a)
    tail /= _polynomial(q, a)
    return xp.abs((x > 0) - tail)


def _density(xp: Any, x: Any) -> Any:
    a = xp.minimum(xp.abs(x), 39.0)
    return xp.exp(a * a * -0.5) * (1 / math.sqrt(2 * math.pi))


def _computed(f: Callable[[Any, Any], Any], xp: Any, x: Any) -> Any:
    """Return f(xp, x), of integers in float64, of float16 in float32: the polynomials leave its range.

    NumPy computes it in blocks, so that what is computed on the way stays in the cache.
    """
    x = xp.asarray(x)
    wide = x.astype("float64") if x.dtype.kind != "f" else x.astype("float32") if x.dtype.itemsize < 4 else x
    if xp is np and wide.size > 2 * _BLOCK and wide.flags.forc:
        out = np.empty_like(wide)
        flat, into = wide.ravel("K"), out.ravel("K")  # views
        for i in range(0, wide.size, _BLOCK):
            into[i : i + _BLOCK] = f(np, flat[i : i + _BLOCK])
    else:
        out = f(xp, wide)
    return out.astype(x.dtype, copy=False) if x.dtype.kind == "f" else out


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

# P(Z <= x) for a standard normal Z, and its density e^(-x^2 / 2) / sqrt(2 pi).
normal_cdf = Op(
    lambda xp, x: _computed(_cdf, xp, x),
    lambda g, out, x: g * _normal_density(x),
    saves="x",
    samplewise=True,
)

_normal_density = Op(
    lambda xp, x: _computed(_density, xp, x),
    lambda g, out, x: -g * (clip(x, -39.0, 39.0) * out),  # 0 beyond, where infinity would make it NaN
    saves="x out",
    samplewise=True,
)
