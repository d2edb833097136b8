"""Resampling: each result is a product with fixed matrices; and channels turned into cells."""

from __future__ import annotations

from typing import Any

from ..engine.op import Op
from .composed import composed
from .linalg import matmul, swap
from .shape import reshape, transpose
from .sliding import Size, images, like, pair


def _matrix(xp: Any, x: Any, *, n: int, m: int, mode: str, step: float = 1.0, corners: bool = False) -> Any:
    """Return the (m, n) matrix that resamples n cells to m: averages, nearest cells, or linear interpolation."""
    i, j = xp.arange(m)[:, None], xp.arange(n)
    if mode == "area":
        start, stop = i * n // m, -(-(i + 1) * n // m)
        weights = ((j >= start) & (j < stop)) / (stop - start)
    elif mode == "nearest":
        weights = j == xp.minimum(xp.floor(i * step), n - 1)
    else:
        at = i * step if corners else xp.clip((i + 0.5) * step - 0.5, 0, n - 1)
        weights = xp.maximum(1 - xp.abs(at - j), 0)
    return weights.astype(x.dtype)


resampling = Op(_matrix, name="resampling")


def interpolate(
    x: Any,
    size: Size | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Any:
    """Resample a signal (n, c, l) or an image (n, c, h, w) to a size, or by a factor: each result is linear in x.

    Modes: "nearest" cell; "linear" or "bilinear" interpolation between the centres of cells, or, with `align_corners`,
    so that the outermost centres coincide; "area", the averages of `adaptive_avg_pool2d`. The size by a factor is
    rounded down. ValueError unless exactly one of size and scale_factor is given.

    >>> interpolate(tensor([[[0.0, 4.0]]]), scale_factor=2, mode="linear")
    tensor([[[0., 1., 3., 4.]]])
    """
    axes = getattr(x, "ndim", 3) - 2
    x4 = images("interpolate", x, 2 if axes > 1 else 1)
    if axes not in (1, 2) or (size is None) == (scale_factor is None):
        raise ValueError("interpolate: x must be (n, c, l) or (n, c, h, w), with either size or scale_factor")
    if mode not in ("nearest", "area", "linear" if axes == 1 else "bilinear"):
        raise ValueError(f"interpolate: mode must be 'nearest', 'area' or '{'bi' * (axes - 1)}linear', got {mode!r}")
    lengths = x4.shape[4 - axes :]
    if scale_factor is None:
        target = pair("interpolate", "size", size, axes, least=1)[2 - axes :]
        steps = [n / m for n, m in zip(lengths, target, strict=True)]
    else:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * axes
        if len(factors) != axes or min(factors) <= 0:
            raise ValueError(f"interpolate: scale_factor must be {axes} numbers > 0, or one, got {scale_factor}")
        target = tuple(int(n * f) for n, f in zip(lengths, factors, strict=True))
        pair("interpolate", "size", target, axes, least=1)
        steps = [1 / f for f in factors]
    if align_corners:
        steps = [(n - 1) / max(m - 1, 1) for n, m in zip(lengths, target, strict=True)]
    matrices = [
        resampling(x4, n=n, m=m, mode=mode, step=step, corners=align_corners)
        for n, m, step in zip(lengths, target, steps, strict=True)
    ]
    out = matmul(x4, swap(matrices[-1]))
    return like(out if axes == 1 else matmul(matrices[0], out), x, axes)


@composed
def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    """Turn channels into finer cells: (..., c r^2, h, w) -> (..., c, h r, w r) for the factor r.

    Shi et al. 2016, arXiv:1609.05158, Sec. 2.2.

    >>> pixel_shuffle(tensor([[[1.0]], [[2.0]], [[3.0]], [[4.0]]]), 2)
    tensor([[[1., 2.],
             [3., 4.]]])
    """
    r = upscale_factor
    if len(x.shape) < 3 or r < 1 or x.shape[-3] % (r * r):
        raise ValueError(f"pixel_shuffle: x must be (..., c r^2, h, w) with r={r}, got {x.shape}")
    *lead, c, h, w = x.shape
    k = len(lead)
    parts = reshape(x, (*lead, c // (r * r), r, r, h, w))
    ordered = transpose(parts, axes=(*range(k + 1), k + 3, k + 1, k + 4, k + 2))
    return reshape(ordered, (*lead, c // (r * r), h * r, w * r))


__all__ = ["interpolate", "pixel_shuffle"]
