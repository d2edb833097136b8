"""Sums over samples of products of vectors, as matrix products: from the curvature of sites to that of parameters.

For sites z = W a and y = V b the blocks of the Hessian are, summed over the samples n,

    H[W_ud, V_ve] = sum_n  a_d b_e d2L/dz_u dy_v  +  dL/dz_u da_d/dy_v b_e

the second term where a depends on y. Each is the product of a matrix with a column for each sample and the transpose of
another. On the diagonal (V = W) both factors are symmetric, so that the product runs over unordered pairs (u, v) and
(d, e) only: a quarter of the work. All is done in blocks whose temporary arrays stay near `BLOCK_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.backend import Array
from .sites import Site

if TYPE_CHECKING:
    from .canvas import Canvas

BLOCK_BYTES = 1 << 25


def own_block(canvas: Canvas, site: Site, curvature: Array, us: slice) -> None:
    """Write sum_n a_d a_e G_uv for u in a range, symmetric in (u, v) and (d, e).

    curvature (u, v, n) is G for u in the range and v from its start on; the transposed part is written too.
    """
    xp, a, depth = canvas.xp, site.a, site.depth
    count, rest = curvature.shape[:2]
    first, second = np.triu_indices(count, 0, rest)
    pairs = curvature[xp.asarray(first), xp.asarray(second)]
    at = np.zeros((count, rest), int)
    at[first, second] = np.arange(len(first))
    at[:, :count] = np.maximum(at[:, :count], at[:, :count].T)
    which = xp.asarray(at)
    onward, beyond = slice(us.start, us.start + rest), slice(us.stop, us.start + rest)
    for d0, d1 in _triangle_blocks(a, max(count * rest, 1)):
        packed, place = _triangle_product(xp, a, pairs, d0, d1)
        full = packed.take(place, axis=1)[which]  # (u, v, d, e)
        ds, es, later = slice(d0, d1), slice(d0, depth), slice(d1, depth)
        canvas.put(site, us, ds, site, onward, es, full.transpose(0, 2, 1, 3))
        if d1 < depth:
            canvas.put(site, us, later, site, onward, ds, full[..., d1 - d0 :].transpose(0, 3, 1, 2))
        if count < rest:
            full = full[:, count:]
            canvas.put(site, beyond, ds, site, us, es, full.transpose(1, 2, 0, 3))
            if d1 < depth:
                canvas.put(site, beyond, later, site, us, ds, full[..., d1 - d0 :].transpose(1, 3, 0, 2))


def _triangle_blocks(a: Array, others: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of d such that arrays over (d, e >= d), and samples or `others`, stay small."""
    (depth, samples), room = a.shape, max(1, BLOCK_BYTES // a.itemsize)
    start = 0
    while start < depth:
        row = depth - start
        stop = min(depth, start + max(1, room // (row * max(others, min(samples, room // row)))))
        yield start, stop
        start = stop


def _triangle_product(xp: Any, a: Array, pairs: Array, d0: int, d1: int) -> tuple[Array, Array]:
    """Return sum_n G a_d a_e over unordered pairs (d, e), d in a range and e >= its start, and where each is in it."""
    depth, samples = a.shape
    starts: Any = np.cumsum([0, *(depth - d for d in range(d0, d1))])
    total = int(starts[-1])
    step = min(samples, max(1, BLOCK_BYTES // (a.itemsize * total)))
    products = xp.empty((total, step), a.dtype)
    out: Any = None
    for n in range(0, samples, step):
        some = a[:, n : n + step]
        block = products[:, : some.shape[1]]
        for d, start in zip(range(d0, d1), starts.tolist(), strict=False):
            xp.multiply(some[d], some[d:], out=block[start : start + depth - d])
        part = xp.dot(pairs[:, n : n + step], block.T)
        out = part if out is None else xp.add(out, part, out=out)
    first, second = np.arange(d0, d1)[:, None], np.arange(d0, depth)
    low, high = np.minimum(first, second), np.maximum(first, second)
    return out, xp.asarray(starts[low - d0] + high - low)


def cross_block(canvas: Canvas, row: Site, column: Site, curvature: Array, us: slice) -> None:
    """Write sum_n a_d b_e G_uv for two sites, u in a range, and its transpose; curvature (u, v, n) is G."""
    xp, a, b = canvas.xp, row.a, column.a
    count, width, samples = curvature.shape
    flat = curvature.reshape(count * width, samples)
    vs, es = slice(0, width), slice(0, len(b))
    for d0, d1 in _blocks(len(a), len(b) * max(count * width, min(samples, _room(a) // len(b) or 1)), a):
        some = a[d0:d1]
        step = min(samples, max(1, BLOCK_BYTES // (a.itemsize * len(some) * len(b))))
        out: Any = None
        for n in range(0, samples, step):
            products = (some[:, None, n : n + step] * b[:, n : n + step]).reshape(len(some) * len(b), -1)
            part = xp.dot(flat[:, n : n + step], products.T)
            out = part if out is None else xp.add(out, part, out=out)
        block = out.reshape(count, width, len(some), len(b)).transpose(0, 2, 1, 3)
        canvas.put(row, us, slice(d0, d1), column, vs, es, block)
        canvas.put(column, vs, es, row, us, slice(d0, d1), block.transpose(2, 3, 0, 1))


def inner_block(canvas: Canvas, row: Site, column: Site, slope: Array, inner: Array, ds: slice) -> None:
    """Add sum_n dL/dz_u da_d/dy_v b_e for two sites, d in a range, and its transpose.

    slope (u, n) is dL/dz and inner (d, v, n) is da/dy, most of which is 0 after an elementwise function.
    """
    xp, b = canvas.xp, column.a
    (count, samples), width = slope.shape, inner.shape[1]
    us, vs, es = slice(0, count), slice(0, width), slice(0, len(b))
    for d0, d1 in _blocks(len(inner), count * width * len(b), b):
        block = xp.zeros((count, d1 - d0, width, len(b)), b.dtype)
        d, v = xp.nonzero(inner[d0:d1].any(axis=2))
        for k0, k1 in _blocks(len(d), count * samples, b):
            products = (slope[:, None] * inner[d0:d1][d[k0:k1], v[k0:k1]]).reshape(-1, samples)
            block[:, d[k0:k1], v[k0:k1]] = xp.dot(products, b.T).reshape(count, k1 - k0, len(b))
        here = slice(ds.start + d0, ds.start + d1)
        canvas.put(row, us, here, column, vs, es, block, add=True)
        canvas.put(column, vs, es, row, us, here, block.transpose(2, 3, 0, 1), add=True)


def _room(a: Array) -> int:
    return max(1, BLOCK_BYTES // a.itemsize)


def _blocks(length: int, each: int, like: Array) -> Iterator[tuple[int, int]]:
    """Yield ranges of an axis of which each step takes so many elements."""
    step = max(1, _room(like) // max(each, 1))
    for start in range(0, length, step):
        yield start, min(length, start + step)
