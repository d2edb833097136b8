"""Functions of networks: affine maps, softmax and its loss.

Some are fused: one entry where a composition would do, because it is faster or because only the whole is stable. Their
rules are written with elementary operations, so that every further derivative is that of the composition.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ..engine import backend
from ..engine.node import mode
from ..engine.op import Op
from .composed import composed
from .elementwise import exp, units, where
from .linalg import check_dtypes, matmul, operands
from .reduce import floating, kept, shift, total

# ---- affine and activations --------------------------------------------------------------------------------------


def _linear(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    if x.dtype is not weight.dtype or (bias is not None and bias.dtype is not x.dtype):
        check_dtypes("linear", ("x", x), ("weight", weight), *(() if bias is None else (("bias", bias),)))
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: x {x.shape} must end in the {weight.shape[-1:]} input features of weight {weight.shape}"
        )
    if x.ndim < 3:
        out = xp.dot(x, weight.T)
    else:  # as one matrix: NumPy's dot of more axes does not use BLAS (measured: 53 against 5.6 ms)
        out = xp.dot(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight.T)
        out = out.reshape(*x.shape[:-1], weight.shape[0])
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise ValueError(
                f"linear: bias {bias.shape} must have the {weight.shape[:1]} outputs of weight {weight.shape}"
            )
        out += bias
    return out


def _weight_gradient(xp: Any, g: Any, x: Any, weight: Any) -> Any:
    if not weight.flags.f_contiguous:
        return xp.dot(g.T, x)
    out = xp.empty(weight.shape, x.dtype, order="F")  # in the weight's own memory order: an optimizer runs along both
    xp.dot(x.T, g, out=out.T)
    return out


weight_gradient = Op(
    _weight_gradient,
    lambda h, out, g, x, weight: matmul(x, h.T),
    lambda h, out, g, x, weight: matmul(g, h),
    None,
    saves="g x weight",
)


def _linear_weight(g: Any, x: Any, weight: Any) -> Any:
    """dL/dweight = g' x, with all leading axes taken as samples."""
    if x.ndim != 2:
        g, x = g.reshape((-1, g.shape[-1])), x.reshape((-1, x.shape[-1]))
    return weight_gradient(g, x, weight)


def _linear_rows(shapes: tuple) -> bool:
    return len(shapes[0]) > 1


_linear_with_bias = Op(
    _linear,
    lambda g, out, x, weight, bias: matmul(g, weight),
    lambda g, out, x, weight, bias: _linear_weight(g, x, weight),
    lambda g, out, x, weight, bias: g,  # the engine sums over the samples
    saves="x weight",
    name="linear",
    samplewise=_linear_rows,
)

_linear_alone = Op(
    lambda xp, x, weight: _linear(xp, x, weight),
    lambda g, out, x, weight: matmul(g, weight),
    lambda g, out, x, weight: _linear_weight(g, x, weight),
    saves="x weight",
    name="linear",
    samplewise=_linear_rows,
)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Map affinely: x weight' + bias.

    Shapes: x (..., k), weight (m, k), bias (m,) or None -> (..., m). ValueError for other shapes, TypeError for dtypes
    that differ.

    >>> linear(tensor([[1.0, 2.0]]), tensor([[3.0, 4.0]]), tensor([0.5]))
    tensor([[11.5]])
    """
    return _linear_alone(x, weight) if bias is None else _linear_with_bias(x, weight, bias)


relu = Op(
    lambda xp, x: xp.maximum(x, units(x)[1]),
    lambda g, out, x: g * (out > 0),
    saves="out",
    samplewise=True,
    doc="""Rectify elementwise: max(x, 0). The derivative at 0 is 0.

    >>> relu(tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """,
)

# ---- softmax -----------------------------------------------------------------------------------------------------


def _softmax(xp: Any, x: Any, *, axis: int = -1) -> Any:
    x = floating(x)
    e = xp.exp(x - shift(xp, x, axis))  # the shift is the row's own maximum: a common one would underflow small rows
    s = e.sum(axis=axis, keepdims=True)  # at least 1, the maximum's own term, unless all are -inf
    e /= xp.maximum(s, 0.5)
    return e


def _softmax_rule(g: Any, out: Any, x: Any, *, axis: int = -1) -> Any:
    """dL/dx = p (g - sum_j p_j g_j)."""
    return out * (g - (out * g).sum(axis=axis, keepdims=True))


def _other_axis(shapes: tuple, *, axis: int = -1) -> bool:
    return axis not in (0, -len(shapes[0]))


softmax = Op(
    _softmax,
    _softmax_rule,
    saves="out",
    samplewise=_other_axis,
    doc="""Turn scores into probabilities along axis: e^x_i / sum_j e^x_j, stable for any finite x.

    A row of -inf alone gives zeros (no class is possible), with zero gradients.

    >>> softmax(tensor([0.0, 1.0, 1e4]))
    tensor([0., 0., 1.])
    """,
)


def _log_softmax(xp: Any, x: Any, *, axis: int = -1) -> Any:
    x = floating(x)
    z = x - shift(xp, x, axis)
    s = xp.exp(z).sum(axis=axis, keepdims=True)
    z -= xp.log(xp.maximum(s, 0.5))
    return z


def _log_softmax_rule(g: Any, out: Any, x: Any, *, axis: int = -1) -> Any:
    """dL/dx = g - p sum_j g_j."""
    return g - exp(out) * g.sum(axis=axis, keepdims=True)


log_softmax = Op(
    _log_softmax,
    _log_softmax_rule,
    saves="out",
    samplewise=_other_axis,
    doc="""Compute log softmax along axis: x_i - log sum_j e^x_j. Finite where log(softmax(x)) is -inf.

    >>> log_softmax(tensor([0.0, 1e4]))
    tensor([-10000.,      0.])
    """,
)

# ---- cross-entropy -----------------------------------------------------------------------------------------------


def _check_shapes(x: Any, target: Any, axis: int) -> None:
    if not x.ndim:
        raise ValueError("cross_entropy: logits must be (n, c, ...) or (c,), got shape ()")
    if x.dtype.kind != "f":
        raise TypeError(f"cross_entropy: logits must be floating, got {x.dtype}; use .astype('float32')")
    if target.dtype.kind not in "iu":
        raise TypeError(
            f"cross_entropy: targets must be integer class numbers, got {target.dtype}; use .astype('int64')"
        )
    expected = x.shape[:axis] + x.shape[axis + 1 :]
    if target.shape != expected:
        wanted = f"logits {x.shape} with classes on axis {axis} need targets {expected}"
        raise ValueError(f"cross_entropy: {wanted}, got {target.shape}")


def check_classes(who: str, xp: Any, target: Any, classes: int, ignored: int | None = None) -> None:
    """Raise IndexError for a class out of range; on a GPU in anomaly mode alone, since looking waits for it."""
    if xp is not np and xp in backend.HOST:
        backend.recorder.look(partial(check_classes, who, np, classes=classes, ignored=ignored), target)
    elif (xp is np or mode.watch is not None) and target.size:
        unsigned = target.view(f"u{target.dtype.itemsize}")  # a negative class becomes a huge one: one pass, not two
        if int(np.maximum.reduce(unsigned, None) if xp is np else unsigned.max()) >= classes:
            flat = (target if xp is np else target.get()).ravel()
            wrong = ((flat < 0) | (flat >= classes)) & (ignored is None or flat != ignored)
            if wrong.any():
                at, ignores = int(wrong.argmax()), who in ("cross_entropy", "nll_loss")
                hint = "; ignore_index= names a class to leave out" * bool(ignores and flat[at] < 0)
                raise IndexError(f"{who}: targets must lie in [0, {classes}), got {flat[at]} at index {at}{hint}")


def _rows(xp: Any, x: Any, axis: int) -> Any:
    """Bring the class axis last and flatten the others: (..., c, ...) -> (n, c)."""
    return x if x.ndim == 2 and axis == 1 else xp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


def _losses(xp: Any, x: Any, target: Any, *, axis: int, reduction: str) -> Any:
    _check_shapes(x, target, axis)
    check_classes("cross_entropy", xp, target, x.shape[axis])
    rows, flat = _rows(xp, x, axis), target.reshape(-1)
    z = rows - shift(xp, rows, 1)
    picked = z[xp.arange(len(flat)), flat]
    losses = xp.log(xp.maximum(total(xp.exp(z), 1), 0.5))
    losses -= picked
    if xp not in backend.HOST:  # a class out of range shows as NaN
        losses = xp.where((flat >= 0) & (flat < x.shape[axis]), losses, xp.nan).astype(x.dtype)
    if reduction == "none":
        return losses.reshape(target.shape)
    if reduction == "mean" and not len(flat):
        raise ValueError(
            f"cross_entropy: the mean of an empty batch is undefined (logits {x.shape}); use reduction='sum'"
        )
    if reduction == "mean" and x.dtype.itemsize < 4:
        return losses.mean()  # which adds float16 in float32
    loss = total(losses, 0)
    return loss * (1.0 / len(flat)) if reduction == "mean" else loss


def _losses_rule(g: Any, out: Any, x: Any, target: Any, *, axis: int, reduction: str) -> Any:
    """dL/dx = g (softmax(x) - e_target), with g spread over the samples."""
    if reduction == "none":
        scale = kept(g, x, axis, False)
    else:
        scale = g.reshape((1,) * x.ndim) * (1.0 / target.size if reduction == "mean" else 1.0)  # n may exceed float16
    return _residual(x, target, scale, axis=axis)


def _scaled_residual(xp: Any, x: Any, target: Any, scale: Any, *, axis: int) -> Any:
    rows, flat = _rows(xp, x, axis), target.reshape(-1)
    factor = scale.reshape(-1, 1)
    e = xp.exp(rows - shift(xp, rows, 1))
    e *= factor / xp.maximum(total(e, 1, keepdims=True), 0.5)
    e[xp.arange(len(flat)), flat] -= factor[:, 0]
    if e.shape == x.shape:
        return e
    return xp.moveaxis(e.reshape(x.shape[:axis] + x.shape[axis + 1 :] + (x.shape[axis],)), -1, axis)


# The gradient of cross-entropy in one pass, s (softmax(x) - e_target); its own rules are elementary.
_residual = Op(
    _scaled_residual,
    lambda g, out, x, target, scale, *, axis: scale * _softmax_rule(g, softmax(x, axis=axis), x, axis=axis),
    None,
    lambda g, out, x, target, scale, *, axis: (g * _residual(x, target, ones_for(x), axis=axis)).sum(
        axis=axis, keepdims=True
    ),
    saves="x target scale",
    name="cross_entropy_gradient",
    samplewise=lambda shapes, *, axis: axis != 0,
)


def ones_for(x: Any) -> Any:
    """Return the number 1 as an array that broadcasts against x, on its device and of its dtype."""
    array = getattr(x, "array", x)
    return backend.array_module(array).ones((1,) * array.ndim, array.dtype)


_cross_entropy = Op(
    _losses,
    _losses_rule,
    None,
    saves="x target",
    name="cross_entropy",
    samplewise=lambda shapes, *, axis, reduction: axis != 0 and reduction == "none",
)


# ---- the general form: weights, ignored samples, smoothed and probable targets -----------------------------------


def _indicator(xp: Any, target: Any, *, classes: int, axis: int, dtype: str, ignored: int | None, who: str) -> Any:
    check_classes(who, xp, target, classes, ignored)
    target = xp.expand_dims(target, axis)
    out = (target == xp.arange(classes).reshape((-1,) + (1,) * (target.ndim - axis - 1))).astype(dtype)
    if ignored is not None:
        out *= target != ignored
    if xp not in backend.HOST and np.dtype(dtype).kind == "f":  # a class out of range shows as NaN
        wrong = (target < 0) | (target >= classes)
        out = xp.where(wrong if ignored is None else wrong & (target != ignored), xp.nan, out).astype(dtype)
    return out


# 1 where a class is the target, else 0; 0 for all classes where the target is ignored.
indicator = Op(_indicator, name="one_hot", samplewise=lambda shapes, *, axis, **_: axis != 0)


def reduced(who: str, losses: Any, reduction: str, weights: Any = None) -> Any:
    """Return the losses, their sum, or their mean: weighted, if there are weights, and 0 if all of these are 0."""
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    if not losses.size:
        raise ValueError(f"{who}: the mean of an empty batch is undefined; use reduction='sum'")
    if weights is None:
        return total / losses.size
    count = weights.sum()
    return total / where(count == 0, 1.0, count)


def check_reduction(who: str, reduction: str, *more: str) -> None:
    """Raise ValueError unless a reduction is "mean", "sum", "none" or one of `more`."""
    if reduction not in ("mean", "sum", "none", *more):
        raise ValueError(f"{who}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def expected_loss(
    who: str, log_p: Any, target: Any, reduction: str, weight: Any, ignored: int | None, smoothing: float, axis: int
) -> Any:
    """Return -sum_c w_c q_c log p_c for q the target's indicator, or the target itself, mixed with the uniform one."""
    classes, probable = log_p.shape[axis], target.dtype.kind == "f"
    if probable:
        check_dtypes(who, ("logits", log_p), ("target", target))
        q: Any = target
    else:
        settings = {"classes": classes, "axis": axis, "ignored": ignored, "who": who}
        q = indicator(target, dtype=log_p.dtype.name, **settings)
    check_dtypes(who, ("logits", log_p), *([] if weight is None else [("weight", weight)]))
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{who}: weight must be ({classes},), one for each class, got {weight.shape}")
    w: Any = 1.0 if weight is None else weight.reshape((-1,) + (1,) * (log_p.ndim - axis - 1))
    counted = None if probable else q * w
    if smoothing:
        share = 1.0 if probable else q.sum(axis=axis, keepdims=True)  # 0 for what is ignored
        q = q * (1.0 - smoothing) + share * (smoothing / classes)
    impossible = (q == 0) & (log_p == -math.inf)  # 0 log 0 = 0
    return reduced(who, -(q * w * where(impossible, 0.0, log_p)).sum(axis=axis), reduction, counted)


@composed
def cross_entropy(
    logits: Any,
    target: Any,
    reduction: str = "mean",
    weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Any:
    """Compute the cross-entropy of classes under softmax(logits): -log softmax(x)_target, in nats.

    Shapes: logits (n, c, ...) or (c,), target (n, ...) or () of integers in [0, c) -> a number for "mean" and "sum",
    target's shape for "none". A target out of range is an IndexError on the CPU and a NaN loss on a GPU, where looking
    would wait for the device (`detect_anomaly()` looks). A floating target of the logits' shape is probabilities q of
    the classes: -sum_c q_c log softmax(x)_c.

    weight (c,) multiplies each class's loss, and the mean is then weighted (not that of probabilities, as in PyTorch).
    Samples whose target is ignore_index count for nothing; if that is all of them, their mean is 0. (PyTorch ignores
    -100 unasked, and its mean of nothing is NaN.) label_smoothing s in [0, 1] takes (1 - s) q + s / c for q
    (Szegedy et al. 2016, arXiv:1512.00567, Sec. 7).

    >>> cross_entropy(tensor([[0.0, 0.0], [1e4, 0.0]]), tensor([1, 1]), reduction="none")
    tensor([6.931472e-01, 1.000000e+04])
    >>> x, target = tensor([[0.0, 0.0], [1e4, 0.0]]), tensor([1, -1])
    >>> round(cross_entropy(x, target, ignore_index=-1, label_smoothing=0.5).item(), 4)
    0.6931
    """
    check_reduction("cross_entropy", reduction)
    axis = 0 if getattr(logits, "ndim", 2) == 1 else 1
    kind = target.dtype.kind if hasattr(target, "dtype") else "i"
    if weight is None and ignore_index is None and not label_smoothing and kind != "f":
        return _cross_entropy(logits, target, axis=axis, reduction=reduction)
    (target,) = operands("cross_entropy", target)
    if kind != "f" or logits.shape != target.shape:
        _check_shapes(logits, target, axis)
    elif ignore_index is not None:
        raise ValueError("cross_entropy: ignore_index needs targets that are classes, got probabilities")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    log_p = log_softmax(logits, axis=axis)
    return expected_loss("cross_entropy", log_p, target, reduction, weight, ignore_index, label_smoothing, axis)


# fmt: off
__all__ = [
    "cross_entropy", "linear", "log_softmax", "relu",
    "softmax",
]
# fmt: on
