"""Formulas of matrix methods, written a second time: NumPy's or SciPy's linear algebra, and loops over elements.

`x` and `g` are arrays, `s` holds the state by slot name, `t` is the step from 1. They return the new x.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg


def inner_products(g, axis):
    """Return the matrix of <slice i, slice j> along an axis."""
    slices = [np.take(g, i, axis).ravel().tolist() for i in range(g.shape[axis])]
    return np.array([[math.fsum(a * b for a, b in zip(u, v, strict=True)) for v in slices] for u in slices])


def multiplied(x, matrices):
    """Multiply axis after axis: new[..., i, ...] = sum_j matrix[i, j] x[..., j, ...]; None leaves an axis alone."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            rows = [sum(a * np.take(x, j, axis) for j, a in enumerate(row)) for row in matrix.tolist()]
            x = np.stack(rows, axis)
    return x


def laid_flat(matrices):
    """Return matrices as the slots hold them: one after the other; None takes no room."""
    return np.concatenate([np.zeros(0), *(np.ravel(a) for a in matrices if a is not None)])


def taken_apart(values, shapes):
    """Return the matrices that lie one after the other; None for an axis without one."""
    found, start = [], 0
    for shape in shapes:
        found.append(None if shape is None else values[start : start + math.prod(shape)].reshape(shape))
        start += 0 if shape is None else math.prod(shape)
    return found


# ---- Shampoo ---------------------------------------------------------------------------------------------------------


def root(h, degree, eps):
    """Return (h + eps)^(-1 / degree) of a matrix or of a diagonal; with eps = 0 that of its range alone."""
    if h.ndim == 1:
        return np.diag([(v + eps) ** (-1 / degree) if v + eps > 0 else 0.0 for v in h.tolist()])
    values, vectors = linalg.eigh(h, driver="ev")
    least = len(h) * 2.0**-52 * values.max() if eps == 0 else -1.0
    terms = [(max(v, 0.0) + eps, vectors[:, i]) for i, v in enumerate(values.tolist()) if v > least]
    return sum((v ** (-1 / degree) * np.outer(q, q) for v, q in terms), np.zeros(h.shape))


def shampoo(x, g, s, t, lr=0.1, momentum=0.0, weight_decay=0.0, eps=1e-4, beta2=1.0, precondition_frequency=1,
            graft="none", max_precond_dim=1024, maximize=False):  # fmt: skip
    if x.size == 0:
        return []
    g = (-g if maximize else g).reshape(g.shape or (1,))
    shapes = [(n, n) if n <= max_precond_dim else (n,) for n in g.shape]
    new, correction = (1.0, 1.0) if beta2 == 1 else (1 - beta2, 1 - beta2**t)
    old = taken_apart(s["h"], shapes) if s else [np.zeros(shape) for shape in shapes]
    grams = [inner_products(g, axis) for axis in range(g.ndim)]
    h = [beta2 * a + new * (b if a.ndim == 2 else np.diag(b)) for a, b in zip(old, grams, strict=True)]
    s["h"] = laid_flat(h)
    if (t - 1) % precondition_frequency == 0:
        roots = [root(a / correction, 2 * g.ndim, eps) for a in h]
        s["roots"] = laid_flat([b if a.ndim == 2 else np.diag(b) for a, b in zip(h, roots, strict=True)])
    roots = [a if a.ndim == 2 else np.diag(a) for a in taken_apart(s["roots"], shapes)]
    u = multiplied(g, roots)
    if graft != "none":
        model = g
        if graft == "adagrad":
            v = beta2 * s.get("v", np.zeros(x.shape)) + new * g.reshape(x.shape) ** 2
            s["v"] = v
            model = np.array([a / math.sqrt(b / correction + eps) for a, b in zip(g.flat, v.flat, strict=True)])
        u = u * linalg.norm(model) / linalg.norm(u) if u.any() else u
    s["m"] = momentum * s.get("m", 0.0) + u.reshape(x.shape)
    return x - lr * weight_decay * x - lr * s["m"]


# ---- SOAP ------------------------------------------------------------------------------------------------------------


def soap(x, g, s, t, lr=3e-3, betas=(0.95, 0.95), eps=1e-8, weight_decay=1e-2, precondition_frequency=10,
         max_precond_dim=10000, precondition_1d=False, maximize=False):  # fmt: skip
    if x.size == 0:
        return []
    b1, b2 = betas
    g = (-g if maximize else g).reshape(g.shape or (1,))
    longest = max_precond_dim if x.ndim > 1 or precondition_1d else 0
    shapes = [(n, n) if n <= longest else None for n in g.shape]
    if t == 1:
        h = [None if shape is None else (1 - b2) * inner_products(g, axis) for axis, shape in enumerate(shapes)]
        q = [None if a is None else np.linalg.eigh(a)[1][:, ::-1] for a in h]
        s.update(m=np.zeros(x.shape), v=np.zeros(x.shape), h=laid_flat(h), q=laid_flat(q))
        return x
    h, q = taken_apart(s["h"], shapes), taken_apart(s["q"], shapes)
    back = [None if a is None else a.T for a in q]
    m = b1 * s["m"].reshape(g.shape) + (1 - b1) * g
    v = b2 * s["v"].reshape(g.shape) + (1 - b2) * multiplied(g, back) ** 2
    step = lr * math.sqrt(1 - b2 ** (t - 1)) / (1 - b1 ** (t - 1))
    x = x - step * multiplied(multiplied(m, back) / (np.sqrt(v) + eps), q).reshape(x.shape)
    x = x - lr * weight_decay * x
    h = [None if a is None else b2 * a + (1 - b2) * inner_products(g, axis) for axis, a in enumerate(h)]
    if (t - 1) % precondition_frequency == 0:
        for axis, a in enumerate(h):
            if a is not None:
                sizes = [float(column @ a @ column) for column in q[axis].T]
                order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
                v = np.stack([np.take(v, i, axis) for i in order], axis)
                q[axis] = np.linalg.qr(a @ q[axis][:, order])[0]
    s.update(m=m.reshape(x.shape), v=v.reshape(x.shape), h=laid_flat(h), q=laid_flat(q))
    return x


# ---- CAME ------------------------------------------------------------------------------------------------------------


def factored(values, s, rows, columns, beta):
    """Move the means over rows and columns of the last two axes; return the square roots of their products."""
    *front, n, k = values.shape
    r, c = s.setdefault(rows, np.zeros((*front, n, 1))), s.setdefault(columns, np.zeros((*front, 1, k)))
    roots = np.zeros(values.shape)
    for at in np.ndindex(*front):
        for i in range(n):
            r[(*at, i, 0)] = beta * r[(*at, i, 0)] + (1 - beta) * math.fsum(values[at][i].tolist()) / k
        for j in range(k):
            c[(*at, 0, j)] = beta * c[(*at, 0, j)] + (1 - beta) * math.fsum(values[at][:, j].tolist()) / n
        mean = math.fsum(r[at].ravel().tolist()) / n
        for i, j in np.ndindex(n, k):
            roots[(*at, i, j)] = math.sqrt(r[(*at, i, 0)]) * math.sqrt(c[(*at, 0, j)]) / math.sqrt(mean)
    return roots


def came(x, g, s, t, lr=2e-4, betas=(0.9, 0.999, 0.9999), eps=(1e-30, 1e-16), clip_threshold=1.0, weight_decay=0.0,
         maximize=False):  # fmt: skip
    if x.size == 0:
        return []
    g = -g if maximize else g
    if x.ndim < 2:
        s["r"] = betas[1] * s.get("r", 0.0) + (1 - betas[1]) * (g * g + eps[0])
        s.update({name: np.zeros(()) for name in ("c", "ru", "cu")})
        u = g / np.sqrt(s["r"])
    else:
        u = g / factored(g * g + eps[0], s, "r", "c", betas[1])
    u = u / max(1.0, math.sqrt(math.fsum(a * a for a in u.ravel().tolist()) / x.size) / clip_threshold)
    m = s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * u
    trust = 1.0 if x.ndim < 2 else factored((u - m) ** 2 + eps[1], s, "ru", "cu", betas[2])
    return x - lr * weight_decay * x - lr * m / trust
