"""Tools around parameters: clipping of gradients, parameters as one vector, weights made of others. PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..engine.node import stamp
from ..engine.op import Op
from ..engine.tensor import Tensor
from ..ops.shape import concatenate, ravel
from .reparametrize import remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm
from .settings import number
from .state import write

# ---- clipping ----------------------------------------------------------------------------------------------------


def _norm(xp: Any, *arrays: Any, ord: float) -> Any:
    """Compute (sum |x|^ord)^(1/ord) over all arrays, in float64, where no square of a float32 overflows."""
    sizes = [xp.abs(a).astype(np.float64) for a in arrays if a.size] or [xp.zeros(1)]
    if ord == math.inf:
        return xp.stack([a.max() for a in sizes]).max()
    return xp.stack([(a**ord).sum() for a in sizes]).sum() ** (1 / ord)


def _scale_to(xp: Any, norm: Any, *gradients: Any, max_norm: float) -> Any:
    """Multiply by min(1, max_norm / norm) in place, on the device: no number comes to the host."""
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    with np.errstate(invalid="ignore"):  # infinite gradients times 0: NaN, as in PyTorch
        for g in gradients:
            g *= factor.astype(g.dtype)
            stamp(g)
    return norm


def _clamp(xp: Any, *gradients: Any, limit: float) -> Any:
    for g in gradients:
        xp.clip(g, -limit, limit, out=g)
        stamp(g)
    return gradients[0]


_norm_of = Op(_norm, name="clip_grad_norm_")
_clip_norm = Op(_scale_to, effect="buffers", name="clip_grad_norm_")
_clip_value = Op(_clamp, effect="buffers", name="clip_grad_value_")


def clip_grad_norm_(
    parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients in place by min(1, max_norm / (norm + 1e-6)); return the norm before that, as a 0-d tensor.

    The norm is that of all gradients as one vector, (sum |g|^norm_type)^(1/norm_type), math.inf for the largest |g|; a
    parameter without a gradient does not count, one given twice counts once. Nothing waits for a GPU, except with
    `error_if_nonfinite`: then a norm that is NaN or infinite is a RuntimeError and nothing has changed. ValueError for
    max_norm or norm_type <= 0 (Pascanu et al. 2013, arXiv:1211.5063, Alg. 1).

    >>> w = nn.Parameter([3.0, 4.0])
    >>> (w * w).sum().backward()
    >>> nn.utils.clip_grad_norm_([w], max_norm=1.0), w.grad
    (tensor(10.), tensor([0.5999999, 0.7999999]))
    """
    who = "clip_grad_norm_"
    if max_norm != math.inf and number(who, "max_norm", max_norm) <= 0:
        raise ValueError(f"{who}: max_norm must be > 0, got {max_norm}")
    if norm_type != math.inf and number(who, "norm_type", norm_type) <= 0:
        raise ValueError(f"{who}: norm_type must be > 0 or inf, got {norm_type}")
    gradients = _gradients(who, parameters)
    norm: Tensor = _norm_of(*gradients, ord=float(norm_type)) if gradients else Tensor(0.0)
    if error_if_nonfinite and not math.isfinite(norm.item()):
        raise RuntimeError(f"{who}: the norm of the gradients is {norm.item()}; no gradient was changed")
    if gradients:
        _clip_norm(norm, *gradients, max_norm=float(max_norm))
    return norm.astype(np.result_type(*(g.dtype for g in gradients))) if gradients else norm


def clip_grad_value_(parameters: Any, clip_value: float) -> None:
    """Move every element of every gradient into [-clip_value, clip_value], in place; ValueError unless it is >= 0.

    >>> w = nn.Parameter([3.0, 0.1])
    >>> (w * w).sum().backward()
    >>> nn.utils.clip_grad_value_([w], 1.0)
    >>> w.grad
    tensor([1. , 0.2])
    """
    limit = number("clip_grad_value_", "clip_value", clip_value, low=0)
    gradients = _gradients("clip_grad_value_", parameters)
    if gradients:
        _clip_value(*gradients, limit=limit)


def _tensors(who: str, parameters: Any) -> list[Tensor]:
    """Return the tensors given, one or several, each once."""
    given = [parameters] if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable) else list(parameters)
    for t in given:
        if not isinstance(t, Tensor):
            rule = "needs a Tensor or an iterable of them, such as model.parameters()"
            raise TypeError(f"{who}: {rule}, got {type(t).__name__}")
    return list({id(t): t for t in given}.values())


def _gradients(who: str, parameters: Any) -> list[Tensor]:
    """Return the gradients there are, each fit to be written into: one that is part of a graph gives way to a copy."""
    found: list[Tensor] = []
    for p in _tensors(who, parameters):
        if p.grad is not None and p.grad.node is not None:
            p.grad = p.grad.detach().copy()
        if p.grad is not None:
            found.append(p.grad)
    return found


# ---- parameters as one vector --------------------------------------------------------------------------------------


def parameters_to_vector(parameters: Any) -> Any:
    """Join all parameters, row by row, in one vector; derivatives flow back to each.

    >>> nn.utils.parameters_to_vector([nn.Parameter([[1.0, 2.0]]), nn.Parameter([3.0])]).tolist()
    [1.0, 2.0, 3.0]
    """
    return concatenate([ravel(p) for p in _tensors("parameters_to_vector", parameters)])


def vector_to_parameters(vec: Any, parameters: Any) -> None:
    """Write a vector's elements into the parameters, in place: the inverse of `parameters_to_vector`.

    Nothing is recorded. ValueError unless there are as many elements as the parameters have, TypeError for another
    dtype; then nothing has changed.

    >>> w, b = nn.Parameter([[0.0, 0.0]]), nn.Parameter([0.0])
    >>> nn.utils.vector_to_parameters(tensor([1.0, 2.0, 3.0]), [w, b])
    >>> w.tolist(), b.tolist()
    ([[1.0, 2.0]], [3.0])
    """
    targets, values = _tensors("vector_to_parameters", parameters), getattr(vec, "array", vec)
    total = sum(p.size for p in targets)
    if values.shape != (total,):
        raise ValueError(f"vector_to_parameters: the parameters have {total} elements, the vector {values.shape}")
    for p in targets:
        if p.dtype != values.dtype:
            raise TypeError(
                f"vector_to_parameters: the vector is {values.dtype} and a parameter {p.dtype}; use vec.astype"
            )
    start = 0
    for p in targets:
        write(p, values[start : start + p.size].reshape(p.shape))
        start += p.size


__all__ = [
    "clip_grad_norm_", "clip_grad_value_", "parameters_to_vector", "remove_spectral_norm", "remove_weight_norm",
    "spectral_norm", "vector_to_parameters", "weight_norm",
]  # fmt: skip
